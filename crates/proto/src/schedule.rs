//! A schedule: a command that is stored again and again, at the times of a cron expression. Contract, section 3.
//!
//! What an expression and a zone mean is not known here: the hub reads them.

use serde::{Deserialize, Serialize};

use crate::command_plan::{CommandPlan, CommandTarget};
use crate::id::{Action, CommandId, DeviceId, ScheduleId};
use crate::json::Json;
use crate::limits::SCHEDULE_NAME_CHARS_MAX;
use crate::members::Members;
use crate::problem::Problem;
use crate::rollout::RolloutPlan;
use crate::time::{Seconds, Timestamp};
use crate::window::Window;

/// What a schedule does at a time when the command of its last run has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// The time is left out.
    #[default]
    Skip,
    /// The command is stored all the same, and waits in the queue of each device.
    Queue,
}

/// What a schedule does about times that have passed while the hub was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missed {
    /// They are left out.
    #[default]
    None,
    /// The last of them is run.
    Once,
}

/// The devices that a schedule is for; who they are is looked up at each run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleTarget {
    /// One device.
    Device(DeviceId),
    /// Several.
    Devices(Vec<DeviceId>),
    /// Those that a selector matches, as it was written.
    Select(String),
    /// All; always `true`.
    All(bool),
}

/// What is requested of a schedule: everything that its creator chooses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SchedulePlan {
    /// Its name, unique in a hub.
    pub name: String,
    /// The expression.
    pub cron: String,
    /// The zone in whose local time it is due.
    pub timezone: String,
    /// What the devices are to do.
    pub action: Action,
    /// The action's data.
    pub data: Json,
    /// Which devices.
    pub target: ScheduleTarget,
    /// The time to live of each command; zero is "only devices that are online".
    pub ttl_s: Option<u64>,
    /// Its run clock.
    pub run_timeout_s: Option<u64>,
    /// How each is rolled out, as it was written.
    pub rollout: Option<Json>,
    /// When each may be sent.
    pub window: Option<Window>,
    /// What is done while the last has not ended.
    pub overlap: Overlap,
    /// What is done about times that have passed.
    pub missed: Missed,
}

/// A time that a schedule has left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// The time.
    pub at: Timestamp,
    /// Why: `overlap`, `missed`, or the code of a problem.
    pub reason: String,
}

/// A schedule, as the API shows it. All members are always written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// Its identity.
    pub id: ScheduleId,
    /// Its name, unique in a hub.
    pub name: String,
    /// The expression.
    pub cron: String,
    /// The zone in whose local time it is due.
    pub timezone: String,
    /// What the devices are to do.
    pub action: Action,
    /// The action's data.
    pub data: Json,
    /// Which devices.
    pub target: ScheduleTarget,
    /// The time to live of each command; `None` is the default.
    pub ttl_s: Option<u64>,
    /// Its run clock; `None` is the default.
    pub run_timeout_s: Option<u64>,
    /// How each is rolled out, as it was written.
    pub rollout: Option<Json>,
    /// When each may be sent.
    pub window: Option<Window>,
    /// What is done while the last has not ended.
    pub overlap: Overlap,
    /// What is done about times that have passed.
    pub missed: Missed,
    /// Whether it is paused.
    pub paused: bool,
    /// Why it was paused, unless an operator did.
    pub reason: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// The id of the token that made it, on whose behalf it acts.
    pub created_by: Option<String>,
    /// The next time; `None` while it is paused.
    pub next_at: Option<Timestamp>,
    /// The next times, as many as are shown.
    pub upcoming: Vec<Timestamp>,
    /// The time of the last run.
    pub last_at: Option<Timestamp>,
    /// The command of the last run.
    pub last_command: Option<CommandId>,
    /// The last time that was left out.
    pub skipped: Option<Skipped>,
}

impl SchedulePlan {
    /// Reads the body of `POST /v1/schedules`, and whether it is to begin paused. What the expression and the zone mean
    /// is the hub's to check.
    ///
    /// # Errors
    /// `bad_request`, `unknown_field`; `payload_too_large` when `data` exceeds `data_bytes_max`.
    pub fn parse(body: &[u8], data_bytes_max: usize) -> Result<(Self, bool), Problem> {
        let mut members = Members::parse(body)?;
        let command = CommandPlan::take(&mut members, data_bytes_max)?;
        let plan = Self {
            name: name(members.require("name")?)?,
            cron: members.require("cron")?,
            timezone: members.take("timezone")?.unwrap_or_else(|| "UTC".to_owned()),
            action: command.action,
            data: command.data,
            target: command.target.into(),
            ttl_s: command.ttl.map(Seconds::get),
            run_timeout_s: command.run_timeout.map(Seconds::get),
            rollout: command.rollout.map(|(text, _)| text),
            window: command.window,
            overlap: members.take("overlap")?.unwrap_or_default(),
            missed: members.take("missed")?.unwrap_or_default(),
        };
        let paused = members.take("paused")?.unwrap_or_default();
        members.finish()?;
        Ok((plan, paused))
    }

    /// How each command is rolled out.
    ///
    /// # Errors
    /// `bad_request`: an earlier version accepted it, and this one does not.
    pub fn rollout(&self) -> Result<Option<RolloutPlan>, Problem> {
        self.rollout.as_ref().map(RolloutPlan::parse).transpose()
    }
}

impl ScheduleTarget {
    /// The devices that it names.
    pub fn devices(&self) -> &[DeviceId] {
        match self {
            Self::Device(device) => std::slice::from_ref(device),
            Self::Devices(devices) => devices,
            Self::Select(_) | Self::All(_) => &[],
        }
    }
}

impl From<CommandTarget> for ScheduleTarget {
    fn from(target: CommandTarget) -> Self {
        match target {
            CommandTarget::Device(device) => Self::Device(device),
            CommandTarget::Devices(devices) => Self::Devices(devices),
            CommandTarget::Select { text, .. } => Self::Select(text),
            CommandTarget::All => Self::All(true),
        }
    }
}

/// A name that cannot be taken for an id.
fn name(name: String) -> Result<String, Problem> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let fits = (1..=SCHEDULE_NAME_CHARS_MAX).contains(&name.len()) && name.bytes().all(legal);
    // Clients that normalize paths could not reach the last two.
    if fits && name.parse::<ScheduleId>().is_err() && name != "." && name != ".." {
        return Ok(name);
    }
    Err(Problem::bad_request(format!(
        "a schedule is named by 1 to {SCHEDULE_NAME_CHARS_MAX} of A-Z a-z 0-9 . _ - and not by a UUIDv7, \".\" or \"..\""
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Code;

    fn parse(body: &str) -> Result<(SchedulePlan, bool), Problem> {
        SchedulePlan::parse(body.as_bytes(), 64)
    }

    #[test]
    fn a_plan_has_its_defaults_and_is_stored_as_it_is_read() {
        let body = r#"{"name":"n","cron":"@daily","action":"a","target":{"devices":["y","x","x"]},
            "data":{"n":1.50},"rollout":{"batch":"10%"},"ttl_s":0,"missed":"once",
            "window":{"cron":"@daily","minutes":60}}"#;
        let (plan, paused) = parse(body).unwrap();
        assert_eq!((plan.timezone.as_str(), paused), ("UTC", false));
        assert_eq!((plan.overlap, plan.missed), (Overlap::Skip, Missed::Once));
        assert_eq!(plan.target.devices().len(), 2, "what is named twice counts once");
        assert!(plan.rollout().unwrap().is_some());
        let stored = serde_json::to_string(&plan).unwrap();
        assert!(stored.contains(r#""data":{"n":1.50}"#), "{stored}");
        assert_eq!(serde_json::from_str::<SchedulePlan>(&stored).unwrap(), plan);
        assert_eq!(parse(&stored).unwrap().0, plan, "what is stored can be posted");
    }

    #[test]
    fn a_plan_that_is_not_of_the_contract_is_refused_with_its_code() {
        let with = |rest: &str| {
            format!(r#"{{"name":"n","cron":"@daily","action":"a","target":{{"all":true}},{rest}}}"#)
        };
        let target = |target: &str| {
            format!(r#"{{"name":"n","cron":"@daily","action":"a","target":{target}}}"#)
        };
        let named = |name: &str| {
            format!(r#"{{"name":"{name}","cron":"@daily","action":"a","target":{{"all":true}}}}"#)
        };
        for (body, code) in [
            (r#"{"name":"n","cron":"@daily","action":"a"}"#.to_owned(), Code::BadRequest),
            (r#"{"name":"n","action":"a","target":{"all":true}}"#.to_owned(), Code::BadRequest),
            (named(""), Code::BadRequest),
            (named("a b"), Code::BadRequest),
            (named(".."), Code::BadRequest),
            (named("01900000-0000-7000-8000-000000000000"), Code::BadRequest),
            (target(r#"{"all":false}"#), Code::BadRequest),
            (target(r#"{"devices":[]}"#), Code::BadRequest),
            (target(r#"{"select":" "}"#), Code::BadRequest),
            (target(r#"{"select":"a","all":true}"#), Code::BadRequest),
            (target(r#"{"device":"x","who":1}"#), Code::UnknownField),
            (with(r#""ttl_s":604801"#), Code::BadRequest),
            (with(r#""overlap":"replace""#), Code::BadRequest),
            (with(r#""missed":"all""#), Code::BadRequest),
            (with(r#""rollout":{}"#), Code::BadRequest),
            (with(r#""rollout":{"batch":1,"what":2}"#), Code::UnknownField),
            (with(r#""not_before":null,"zone":"UTC""#), Code::UnknownField),
            (with(&format!(r#""data":"{}""#, "x".repeat(64))), Code::PayloadTooLarge),
        ] {
            assert_eq!(parse(&body).unwrap_err().code, code, "{body}");
        }
    }
}
