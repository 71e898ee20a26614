//! Every decision of the Bellwire hub, sans-IO: no clock, socket, disk or entropy.
//!
//! A [`Hub`] is notified of what happened by `handle_*`, with the time handed in, and says what is
//! to be done by [`Hub::poll_output`]; [`Hub::poll_timeout`] says when it is to be called again.
//! The driver (in the hub crate, `driver.rs`; in the tests, a simulated world) must carry the
//! outputs out in their order.
//!
//! **Entities over one queue of transactions.** A call changes one entity or several: devices,
//! commands, idempotency keys. Its changes are one transaction, and an answer that promises
//! something is withheld until that is committed. In memory are the devices that listen or that a
//! call is under way for; all others are in the store alone and are loaded when something concerns
//! them.
//!
//! ```
//! use bellwire_core::{Config, Hub, Instant, Now, Output, Recovered, RequestId, Send};
//! use bellwire_proto::{Json, Timestamp};
//!
//! let now = Now {
//!     instant: Instant::from_ms(0),
//!     wall: Timestamp::from_unix_ms(1_700_000_000_000),
//! };
//! let mut hub = Hub::new(Config::default(), Recovered::default(), 1);
//! let send = Send::new("kiosk-7".parse()?, "ping".parse()?, Json::null());
//! hub.handle_send(RequestId(1), send, [7; 10], now);
//! // The hub first looks the device up; the answer comes once the command is on disk.
//! assert!(matches!(hub.poll_output(), Some(Output::Load(_))));
//! # Ok::<(), bellwire_proto::InvalidName>(())
//! ```
#![forbid(unsafe_code)]

mod audit;
#[cfg(test)]
#[path = "../tests/contract/calendar.rs"]
mod calendar;
mod command;
mod config;
mod context;
mod delivery;
mod device;
mod grant;
mod hub;
mod idempotency;
mod ids;
mod io;
pub mod record;
mod rollout;
mod schedule;
mod time;
mod txn;

pub use config::{Calendar, Config, Recovered, SeqSource};
pub use context::unknown_device;
pub use hub::Hub;
pub use ids::{RequestId, SessionId};
pub use io::{
    AccessChange, Answer, Enrolment, Footprint, Frame, HubEvent, Listen, NotifyOn, Output, Peer,
    Poll, Presence, RolloutOp, ScheduleOp, Send, Target, TokenUse,
};
pub use record::TargetQuery;
pub use time::{ExpiryClock, Instant, Now};
