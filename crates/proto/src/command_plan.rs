//! What the bodies of a command and of a schedule have in common: what is to be done, by which devices, and when.
//! Contract, section 3.
//!
//! What is of one of the two alone is read where that is: `not_before` in the hub, the times of a schedule in `schedule.rs`.

use crate::id::{Action, DeviceId};
use crate::json::Json;
use crate::limits::{RUN_TIMEOUT_S, Range, TTL_OR_ZERO_S};
use crate::members::Members;
use crate::problem::{Code, Problem};
use crate::rollout::RolloutPlan;
use crate::selector::Selector;
use crate::time::Seconds;
use crate::window::Window;

/// A command, as its sender describes it.
///
/// ```
/// use bellwire_proto::{CommandPlan, CommandTarget, Members};
/// let mut body = Members::parse(br#"{"action":"ping","target":{"device":"kiosk-7"},"ttl_s":60}"#)?;
/// let plan = CommandPlan::take(&mut body, 64)?;
/// assert_eq!(plan.target, CommandTarget::Device("kiosk-7".parse().unwrap()));
/// assert_eq!(plan.ttl.map(|ttl| ttl.get()), Some(60));
/// # Ok::<(), bellwire_proto::Problem>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandPlan {
    /// What the devices are to do.
    pub action: Action,
    /// The action's data; `null` when absent.
    pub data: Json,
    /// Which devices.
    pub target: CommandTarget,
    /// The time to live; zero is "only devices that are online".
    pub ttl: Option<Seconds>,
    /// The run clock.
    pub run_timeout: Option<Seconds>,
    /// It is sent only while this is open.
    pub window: Option<Window>,
    /// How it is rolled out, as it was written, and what that means.
    pub rollout: Option<(Json, RolloutPlan)>,
}

/// The member `target`: the devices that a command is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandTarget {
    /// One device.
    Device(DeviceId),
    /// The devices of a list, rising by name, without duplicates; never empty, and maybe only one.
    Devices(Vec<DeviceId>),
    /// Those that a selector matches, which requires something.
    Select {
        /// As it was written.
        text: String,
        /// What it requires.
        selector: Selector,
    },
    /// All.
    All,
}

impl CommandPlan {
    /// Takes the members that describe a command.
    ///
    /// # Errors
    /// `bad_request`, `unknown_field`; `payload_too_large` when `data` exceeds `data_bytes_max`.
    pub fn take(members: &mut Members<'_>, data_bytes_max: usize) -> Result<Self, Problem> {
        let data = members.take_json("data")?.unwrap_or_default();
        // Size is checked before anything else in a body (contract, section 1).
        if data.as_str().len() > data_bytes_max {
            return Err(data_too_large(data_bytes_max));
        }
        Ok(Self {
            action: members.require("action")?,
            data,
            target: CommandTarget::take(members)?,
            ttl: seconds(members, "ttl_s", TTL_OR_ZERO_S)?,
            run_timeout: seconds(members, "run_timeout_s", RUN_TIMEOUT_S)?,
            window: Window::take(members)?,
            rollout: rollout(members)?,
        })
    }
}

impl CommandTarget {
    /// Takes the member: exactly one of the contract's kinds.
    fn take(members: &mut Members<'_>) -> Result<Self, Problem> {
        let mut target = members
            .take_members("target")?
            .ok_or_else(|| Problem::bad_request("member \"target\" is missing"))?;
        let device: Option<DeviceId> = target.take("device")?;
        let devices: Option<Vec<DeviceId>> = target.take("devices")?;
        let select: Option<String> = target.take("select")?;
        let all: Option<bool> = target.take("all")?;
        target.finish()?;
        match (device, devices, select, all) {
            (Some(device), None, None, None) => Ok(Self::Device(device)),
            (None, Some(devices), None, None) => Self::of_list(devices),
            (None, None, Some(text), None) => Self::of_selector(text),
            (None, None, None, Some(true)) => Ok(Self::All),
            _ => Err(Problem::bad_request(
                "target is exactly one of {\"device\":\"x\"}, {\"devices\":[\"x\",\"y\"]}, {\"select\":\"site=lyon\"} and \
                 {\"all\":true}",
            )),
        }
    }

    fn of_list(mut devices: Vec<DeviceId>) -> Result<Self, Problem> {
        devices.sort_unstable();
        devices.dedup();
        match devices.is_empty() {
            true => Err(Problem::bad_request("target has an empty list of devices")),
            false => Ok(Self::Devices(devices)),
        }
    }

    /// A selector that requires nothing would be every device: who means that says so.
    fn of_selector(text: String) -> Result<Self, Problem> {
        let selector = text.parse::<Selector>();
        let selector = selector.map_err(|e| Problem::bad_request(format!("member select: {e}")))?;
        match selector.requirements().is_empty() {
            true => Err(Problem::bad_request(
                "the selector is empty; for every device the target is {\"all\":true}",
            )),
            false => Ok(Self::Select { text, selector }),
        }
    }
}

/// The refusal of a command's data.
pub fn data_too_large(data_bytes_max: usize) -> Problem {
    let detail = format!(
        "the data is longer than {data_bytes_max} bytes, which is data_bytes_max of the hub"
    );
    Problem::new(Code::PayloadTooLarge, detail)
}

fn rollout(members: &mut Members<'_>) -> Result<Option<(Json, RolloutPlan)>, Problem> {
    let text = members.take_json("rollout")?.filter(|text| !text.is_null());
    text.map(|text| RolloutPlan::parse(&text).map(|plan| (text, plan))).transpose()
}

fn seconds(
    members: &mut Members<'_>,
    name: &str,
    range: Range,
) -> Result<Option<Seconds>, Problem> {
    match members.take::<u64>(name)? {
        Some(n) if !range.contains(n) => Err(Problem::bad_request(format!(
            "member {name:?} is whole seconds from {} to {}",
            range.min, range.max
        ))),
        seconds => Ok(seconds.map(Seconds::new)),
    }
}
