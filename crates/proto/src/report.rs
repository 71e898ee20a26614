//! What a device reports about a delivery. Contract, section 5.

use serde::{Deserialize, Serialize};

use crate::id::CommandId;
use crate::json::Json;
use crate::limits::{ATTEMPT_MAX, OUTPUT_BYTES_MAX, RESULT_BYTES_MAX, RETRY_AFTER_S_MAX, REV_MAX};
use crate::members::Members;
use crate::outcome::{ErrorInfo, Outcome};
use crate::problem::{Code, Problem};

/// The state that a report announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReportState {
    /// The device has it on disk and will run it.
    Accepted,
    /// It runs; reported again, it is still running.
    Running,
    /// It ended well.
    Succeeded,
    /// It ended badly.
    Failed,
    /// The device will not run it.
    Rejected,
    /// It was stopped by a cancel.
    Cancelled,
    /// Not now: send it again later.
    Nack,
}

impl ReportState {
    /// Every state that can be reported.
    pub const ALL: [Self; 7] = [
        Self::Accepted,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::Rejected,
        Self::Cancelled,
        Self::Nack,
    ];

    /// As it stands in `state`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Cancelled => "cancelled",
            Self::Nack => "nack",
        }
    }

    /// Whether the command has ended at the device, however it ended.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Rejected | Self::Cancelled)
    }
}

/// A report: the state and what is known of the run. A member that is `None` is absent, and the
/// delivery's own member does not change.
///
/// ```
/// use bellwire_proto::{Report, ReportState};
/// let report = Report::parse(br#"{"state":"succeeded","exit_code":0,"stdout":"pong\n"}"#)?;
/// assert_eq!(report.state, ReportState::Succeeded);
/// assert_eq!(report.outcome.stdout.as_deref(), Some("pong\n"));
/// # Ok::<(), bellwire_proto::Problem>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The new state.
    pub state: ReportState,
    /// Grows with each report of one delivery, 0 to 2^53-1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rev: Option<u64>,
    /// The attempt that this report answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// The details of the run. Its members stand among the others.
    #[serde(flatten, serialize_with = "Outcome::serialize_present")]
    pub outcome: Outcome,
    /// For a nack: when to send it again, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u64>,
}

impl Report {
    /// A report of a state without details.
    pub fn of(state: ReportState) -> Self {
        Self::new(state, Outcome::default())
    }

    /// A report of a state and an outcome.
    pub fn new(state: ReportState, outcome: Outcome) -> Self {
        Self { state, rev: None, attempt: None, outcome, retry_after_s: None }
    }

    /// Reads the body of a report.
    ///
    /// # Errors
    /// `bad_request` and `unknown_field` as for every object of the API, `payload_too_large` when a
    /// part exceeds its limit.
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        let mut members = Members::parse(body)?;
        let report = Self::take_from(&mut members)?;
        members.finish()?;
        Ok(report)
    }

    /// Reads an item of a batch: a report that also names its command.
    ///
    /// # Errors
    /// As [`Report::parse`]; also when `command` is missing or not a command id.
    pub fn parse_item(item: &[u8]) -> Result<(CommandId, Self), Problem> {
        let mut members = Members::parse(item)?;
        let command: String = members.require("command")?;
        let command = command.parse().map_err(|e| Problem::bad_request(format!("{e}")))?;
        let report = Self::take_from(&mut members)?;
        members.finish()?;
        Ok((command, report))
    }

    fn take_from(members: &mut Members<'_>) -> Result<Self, Problem> {
        let result = members.take_json("result")?;
        let (stdout, stderr): (Option<String>, Option<String>) =
            (members.take("stdout")?, members.take("stderr")?);
        // Size is checked before anything else in a body (contract, section 1).
        check_size("result", result.as_ref().map(Json::as_str), RESULT_BYTES_MAX)?;
        check_size("stdout", stdout.as_deref(), OUTPUT_BYTES_MAX)?;
        check_size("stderr", stderr.as_deref(), OUTPUT_BYTES_MAX)?;
        let report = Self {
            state: members.require("state")?,
            rev: members.take("rev")?,
            attempt: members.take("attempt")?,
            outcome: Outcome {
                progress: members.take("progress")?,
                exit_code: members.take("exit_code")?,
                result,
                stdout,
                stderr,
                truncated: members.take("truncated")?,
                error: take_error(members)?,
            },
            retry_after_s: members.take("retry_after_s")?,
        };
        report.check()?;
        Ok(report)
    }

    fn check(&self) -> Result<(), Problem> {
        if self.rev.is_some_and(|rev| rev > REV_MAX) {
            return Err(Problem::bad_request("rev is a whole number from 0 to 9007199254740991"));
        }
        if self.attempt.is_some_and(|attempt| attempt > ATTEMPT_MAX) {
            return Err(Problem::bad_request("attempt is a whole number from 0 to 2147483647"));
        }
        if self.retry_after_s.is_some_and(|s| s > RETRY_AFTER_S_MAX) {
            return Err(Problem::bad_request("retry_after_s is at most 604800 (7 days)"));
        }
        Ok(())
    }
}

fn check_size(name: &str, text: Option<&str>, bytes_max: usize) -> Result<(), Problem> {
    if text.is_some_and(|text| text.len() > bytes_max) {
        return Err(Problem::new(
            Code::PayloadTooLarge,
            format!("{name} is past {bytes_max} bytes; keep its tail and set truncated"),
        ));
    }
    Ok(())
}

fn take_error(members: &mut Members<'_>) -> Result<Option<ErrorInfo>, Problem> {
    let Some(mut error) = members.take_members("error")? else {
        return Ok(None);
    };
    let info = ErrorInfo { code: error.require("code")?, message: error.take("message")? };
    error.finish()?;
    Ok(Some(info))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_state_is_required() {
        assert_eq!(Report::parse(br#"{"state":"nack"}"#).unwrap(), Report::of(ReportState::Nack));
    }

    #[test]
    fn a_report_that_is_not_of_the_contract_is_refused_with_its_code() {
        let big = "x".repeat(OUTPUT_BYTES_MAX + 1);
        for (body, code) in [
            ("{}".to_owned(), Code::BadRequest),
            (r#"{"state":"queued"}"#.to_owned(), Code::BadRequest),
            (r#"{"state":"running","progress":101}"#.to_owned(), Code::BadRequest),
            (r#"{"state":"running","progress":"40"}"#.to_owned(), Code::BadRequest),
            (r#"{"state":"running","rev":9007199254740992}"#.to_owned(), Code::BadRequest),
            (r#"{"state":"running","rev":-1}"#.to_owned(), Code::BadRequest),
            (r#"{"state":"running","attempt":2147483648}"#.to_owned(), Code::BadRequest),
            (r#"{"state":"running","rev":1.0}"#.to_owned(), Code::BadRequest),
            (r#"{"state":"nack","retry_after_s":604801}"#.to_owned(), Code::BadRequest),
            (r#"{"state":"failed","error":{}}"#.to_owned(), Code::BadRequest),
            (r#"{"state":"failed","error":{"code":"x","why":1}}"#.to_owned(), Code::UnknownField),
            (r#"{"state":"failed","error":{"code":"x","code":"y"}}"#.to_owned(), Code::BadRequest),
            (r#"{"state":"running","pogress":1}"#.to_owned(), Code::UnknownField),
            (format!(r#"{{"state":"failed","stdout":"{big}"}}"#), Code::PayloadTooLarge),
            (format!(r#"{{"state":"failed","result":"{big}"}}"#), Code::PayloadTooLarge),
        ] {
            let short: String = body.chars().take(60).collect();
            assert_eq!(Report::parse(body.as_bytes()).unwrap_err().code, code, "{short}");
        }
    }

    #[test]
    fn a_part_over_its_limit_is_reported_before_any_other_fault() {
        // An unknown state once hid that the output was too long: 400 where the order of checks
        // requires 413.
        let big = "x".repeat(OUTPUT_BYTES_MAX + 1);
        for body in [
            format!(r#"{{"state":"gone","stdout":"{big}"}}"#),
            format!(r#"{{"state":"failed","stderr":"{big}","why":1}}"#),
            format!(r#"{{"result":"{big}"}}"#),
        ] {
            assert_eq!(Report::parse(body.as_bytes()).unwrap_err().code, Code::PayloadTooLarge);
        }
    }

    #[test]
    fn output_is_counted_before_escaping() {
        let body = format!(r#"{{"state":"failed","stdout":"{}"}}"#, "\\n".repeat(OUTPUT_BYTES_MAX));
        assert!(Report::parse(body.as_bytes()).is_ok());
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut report = Report::of(ReportState::Failed);
        report.rev = Some(3);
        report.outcome.result = Some(Json::null());
        report.outcome.error = Some(ErrorInfo::of("exit_status"));
        let body = serde_json::to_vec(&report).unwrap();
        assert_eq!(Report::parse(&body).unwrap(), report, "a null result is not an absent one");
    }
}
