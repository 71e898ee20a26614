//! A rollout: how a command to many reaches its devices batch by batch. Contract, section 3.

use serde::{Deserialize, Serialize};

use crate::delivery::DeliveryState;
use crate::json::Json;
use crate::limits::{PERCENT, ROLLOUT_BATCH, ROLLOUT_SPAN_S};
use crate::members::Members;
use crate::problem::Problem;
use crate::selector::Selector;

/// What counts as a failure unless a rollout says otherwise.
const FAILURES: [DeliveryState; 4] =
    [DeliveryState::Failed, DeliveryState::Rejected, DeliveryState::TimedOut, DeliveryState::Dead];

/// How a command is to be rolled out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutPlan {
    /// How many devices a batch has.
    pub batch: BatchSize,
    /// Which of the targets are the first batch.
    pub canary: Option<String>,
    /// The next batch begins once so many percent of a batch have ended.
    pub done_percent: u64,
    /// Or so long after it began, if that is earlier.
    pub interval_s: Option<u64>,
    /// How long after the end of a batch the next begins.
    pub pause_s: u64,
    /// When no batch begins any more.
    pub abort: Option<AbortRule>,
}

/// The size of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchSize {
    /// So many devices.
    Devices(u64),
    /// So many percent of all targets, rounded up.
    Percent(u64),
}

/// When a rollout is aborted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AbortRule {
    /// What counts as a failure.
    pub states: Vec<DeliveryState>,
    /// Of those that have ended, so many percent.
    pub percent: u64,
    /// Once at least so many have ended.
    pub min: u64,
    /// Whether those under way are cancelled too.
    pub cancel: bool,
}

/// How far a rollout has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutState {
    /// Batches begin as planned.
    Running,
    /// None begins until it is resumed.
    Paused,
    /// None begins any more.
    Aborted,
    /// Every delivery has ended.
    Done,
}

/// The rollout of a command, as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// How far it has come.
    pub state: RolloutState,
    /// The batch that began last; 0 before the first, and with `batches` for a reader who sees a part of the devices.
    pub batch: u64,
    /// How many there are.
    pub batches: u64,
    /// Why it was aborted.
    pub reason: Option<String>,
}

impl RolloutState {
    /// Whether nothing can change it any more.
    pub fn is_ended(self) -> bool {
        matches!(self, Self::Aborted | Self::Done)
    }

    /// As the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Aborted => "aborted",
            Self::Done => "done",
        }
    }
}

impl RolloutPlan {
    /// Reads the member `rollout`, as it was written.
    ///
    /// # Errors
    /// `bad_request`, `unknown_field`.
    pub fn parse(text: &Json) -> Result<Self, Problem> {
        let mut members = Members::of_object(text.as_str(), "member \"rollout\"")?;
        let plan = Self::take(&mut members)?;
        members.finish()?;
        Ok(plan)
    }

    /// Takes the members of `rollout`.
    ///
    /// # Errors
    /// `bad_request`, `unknown_field`.
    pub fn take(members: &mut Members<'_>) -> Result<Self, Problem> {
        let batch = members.take_raw("batch").ok_or_else(|| {
            Problem::bad_request(
                "member \"rollout\" needs \"batch\": a number of devices, or \"10%\"",
            )
        })?;
        let canary: Option<String> = members.take("canary")?;
        if let Some(text) = &canary {
            let canary = text.parse::<Selector>();
            let canary = canary.map_err(|e| Problem::bad_request(format!("member canary: {e}")))?;
            if canary.requirements().is_empty() {
                let detail = "member \"canary\" requires nothing, so that every target would be a canary; leave it out, or name labels";
                return Err(Problem::bad_request(detail));
            }
        }
        let abort = members.take_members("abort")?;
        let plan = Self {
            batch: BatchSize::parse(batch)?,
            canary,
            done_percent: number(members, "done_percent", PERCENT)?.unwrap_or(PERCENT.default),
            interval_s: number(members, "interval_s", ROLLOUT_SPAN_S)?,
            pause_s: number(members, "pause_s", ROLLOUT_SPAN_S)?.unwrap_or(0),
            abort: match abort {
                None => None,
                Some(mut members) => {
                    let rule = AbortRule::take(&mut members)?;
                    members.finish()?;
                    Some(rule)
                }
            },
        };
        Ok(plan)
    }

    /// How many devices a batch has, of so many in all; the canaries not counted.
    pub fn batch_size(&self, total: u64) -> u64 {
        let size = match self.batch {
            BatchSize::Devices(devices) => devices,
            BatchSize::Percent(percent) => total.saturating_mul(percent).div_ceil(100),
        };
        size.max(1)
    }

    /// How many batches there are.
    pub fn batches(&self, total: u64, canaries: u64) -> u64 {
        let rest = total.saturating_sub(canaries).div_ceil(self.batch_size(total));
        rest + u64::from(canaries > 0)
    }
}

impl BatchSize {
    fn parse(raw: &str) -> Result<Self, Problem> {
        let refused = || {
            Problem::bad_request(
                "member \"batch\" is a number of devices from 1, or percent of them as \"1%\" to \"100%\"",
            )
        };
        if let Ok(devices) = raw.parse::<u64>() {
            return if ROLLOUT_BATCH.contains(devices) {
                Ok(Self::Devices(devices))
            } else {
                Err(refused())
            };
        }
        let text: String = serde_json::from_str(raw).map_err(|_| refused())?;
        // `parse` would take a sign and zeros before the number too.
        let digits = text.strip_suffix('%').filter(|n| n.starts_with(|c| matches!(c, '1'..='9')));
        let percent = digits.and_then(|n| n.parse::<u64>().ok());
        match percent.filter(|percent| PERCENT.contains(*percent)) {
            Some(percent) => Ok(Self::Percent(percent)),
            None => Err(refused()),
        }
    }
}

impl AbortRule {
    fn take(members: &mut Members<'_>) -> Result<Self, Problem> {
        let states: Option<Vec<DeliveryState>> = members.take("states")?;
        let states = states.unwrap_or_else(|| FAILURES.to_vec());
        if states.is_empty() || states.iter().any(|state| !state.is_terminal()) {
            let detail = "member \"states\" of abort has states in which a delivery has ended";
            return Err(Problem::bad_request(detail));
        }
        let percent = number(members, "percent", PERCENT)?;
        let percent = percent.ok_or_else(|| {
            Problem::bad_request("member \"abort\" needs \"percent\": of those that have ended")
        })?;
        let min = number(members, "min", ROLLOUT_BATCH)?.unwrap_or(ROLLOUT_BATCH.default);
        let cancel = members.take("cancel")?.unwrap_or(false);
        Ok(Self { states, percent, min, cancel })
    }

    /// Whether so many failures among so many that have ended are too many.
    pub fn is_met(&self, failures: u64, ended: u64) -> bool {
        ended > 0
            && ended >= self.min
            && failures.saturating_mul(100) >= self.percent.saturating_mul(ended)
    }
}

fn number(
    members: &mut Members<'_>,
    name: &str,
    range: crate::limits::Range,
) -> Result<Option<u64>, Problem> {
    match members.take::<u64>(name)? {
        Some(n) if !range.contains(n) => Err(Problem::bad_request(format!(
            "member {name:?} is a whole number from {} to {}",
            range.min, range.max
        ))),
        number => Ok(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Code;

    fn plan(body: &str) -> Result<RolloutPlan, Problem> {
        let mut members = Members::parse(body.as_bytes())?;
        let plan = RolloutPlan::take(&mut members)?;
        members.finish()?;
        Ok(plan)
    }

    #[test]
    fn sizes_are_rounded_up_and_canaries_are_a_batch_of_their_own() {
        let of = |batch: &str| plan(&format!(r#"{{"batch":{batch}}}"#)).unwrap();
        for (batch, total, canaries, size, batches) in [
            ("50", 120, 0, 50, 3),
            ("50", 120, 20, 50, 3),
            ("\"10%\"", 101, 0, 11, 10),
            ("\"10%\"", 101, 1, 11, 11),
            ("\"1%\"", 3, 0, 1, 3),
            ("\"100%\"", 7, 0, 7, 1),
            ("5", 5, 5, 5, 1),
            ("5", 0, 0, 5, 0),
        ] {
            let plan = of(batch);
            let found = (plan.batch_size(total), plan.batches(total, canaries));
            assert_eq!(found, (size, batches), "{batch} of {total} with {canaries}");
        }
    }

    #[test]
    fn a_plan_that_is_not_of_the_contract_is_refused() {
        for (body, code) in [
            ("{}", Code::BadRequest),
            (r#"{"batch":0}"#, Code::BadRequest),
            (r#"{"batch":"0%"}"#, Code::BadRequest),
            (r#"{"batch":"101%"}"#, Code::BadRequest),
            (r#"{"batch":"+5%"}"#, Code::BadRequest),
            (r#"{"batch":"010%"}"#, Code::BadRequest),
            (r#"{"batch":1,"canary":""}"#, Code::BadRequest),
            (r#"{"batch":"10"}"#, Code::BadRequest),
            (r#"{"batch":1.5}"#, Code::BadRequest),
            (r#"{"batch":1,"done_percent":0}"#, Code::BadRequest),
            (r#"{"batch":1,"interval_s":-1}"#, Code::BadRequest),
            (r#"{"batch":1,"canary":"a=b=c"}"#, Code::BadRequest),
            (r#"{"batch":1,"abort":{}}"#, Code::BadRequest),
            (r#"{"batch":1,"abort":{"percent":20,"states":["running"]}}"#, Code::BadRequest),
            (r#"{"batch":1,"abort":{"percent":20,"what":1}}"#, Code::UnknownField),
            (r#"{"batch":1,"max":2}"#, Code::UnknownField),
        ] {
            assert_eq!(plan(body).unwrap_err().code, code, "{body}");
        }
    }

    #[test]
    fn a_rule_is_met_from_its_least_number_and_its_percentage_on() {
        let body = r#"{"batch":1,"abort":{"percent":20,"min":10}}"#;
        let rule = plan(body).unwrap().abort.unwrap();
        for (failures, ended, met) in
            [(9, 9, false), (1, 10, false), (2, 10, true), (2, 11, false), (0, 100, false)]
        {
            assert_eq!(rule.is_met(failures, ended), met, "{failures} of {ended}");
        }
    }
}
