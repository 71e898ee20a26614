//! What the two ends of Bellwire share: names, states, objects, limits and problems.
//!
//! This crate is the wire contract (`docs/protocol.md`) as types. Every value is valid: names are checked
//! when they are made, JSON from outside is checked when it is parsed, and an object is written with all
//! its members. There is no HTTP, clock or disk here; the hub's decisions are in `bellwire-core`, the
//! event-stream framing in `bellwire-sse`.
//!
//! ```
//! use bellwire_proto::{Action, DeviceId, Seconds};
//!
//! let device: DeviceId = "kiosk-042".parse()?;
//! let action: Action = "reboot".parse()?;
//! assert_eq!(format!("/v1/send/{device}/{action}"), "/v1/send/kiosk-042/reboot");
//! assert_eq!("15m".parse::<Seconds>()?.get(), 900);
//! assert!("%2F".parse::<DeviceId>().is_err());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

pub mod audit;
pub mod codes;
pub mod command;
pub mod command_plan;
pub mod csv;
pub mod delivery;
pub mod device;
pub mod enroll;
pub mod facts;
pub mod id;
pub mod id_prefix;
pub mod json;
pub mod labels;
pub mod limits;
pub mod members;
pub mod merge_patch;
pub mod outcome;
pub mod problem;
pub mod python_json;
pub mod report;
pub mod role;
pub mod rollout;
pub mod schedule;
pub mod selector;
pub mod similar;
pub mod stream;
pub mod time;
pub mod token;
pub mod wait;
pub mod window;

pub use audit::{Actor, AuditEntry, AuditObject};
pub use command::{Command, Counts, Page, Preview};
pub use command_plan::{CommandPlan, CommandTarget};
pub use delivery::{Delivery, DeliveryState};
pub use device::{Device, DeviceChange, DeviceEvent, DeviceStatus, Transport};
pub use enroll::{Enroll, Enrolled};
pub use id::{Action, CommandId, DeviceId, InvalidName, ScheduleId, Seq};
pub use id_prefix::CommandIdPrefix;
pub use json::Json;
pub use labels::Labels;
pub use members::Members;
pub use outcome::{ErrorInfo, Outcome, Progress};
pub use problem::{Code, Problem};
pub use report::{Report, ReportState};
pub use role::{CreatedToken, Join, NewToken, Role, RoleName, Scope, SecretText, Token};
pub use rollout::{AbortRule, BatchSize, Rollout, RolloutPlan, RolloutState};
pub use schedule::{Missed, Overlap, Schedule, SchedulePlan, ScheduleTarget, Skipped};
pub use selector::Selector;
pub use similar::similar;
pub use time::{Seconds, Timestamp};
pub use token::{Credential, TokenId};
pub use wait::{Wait, WaitReason};
pub use window::Window;
