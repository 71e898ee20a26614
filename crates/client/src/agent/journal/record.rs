//! The records of the journal: one for each step that must survive a power cut.
//!
//! A report has a form of its own here: what the hub would reject must be readable after a restart, and a handler's
//! output must not take more space than was reserved for it.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use bellwire_proto::limits::AGENT_REPORT_BYTES_MAX;
use bellwire_proto::stream::CommandEvent;
use bellwire_proto::{CommandId, ErrorInfo, Json, Outcome, Progress, Report, ReportState, Seq};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::agent::run::clamp;

/// A boot of the kernel: clocks since boot are comparable only within one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct BootId(String);

impl BootId {
    /// For a boot whose name cannot be read. Its clock may have restarted, so no two of them are equal; but they do
    /// not prove a reboot either.
    pub(crate) fn unknown(random: u64) -> Self {
        Self(format!("{UNKNOWN_BOOT}{random:016x}"))
    }

    /// Whether this is the kernel's own name.
    pub(crate) fn is_known(&self) -> bool {
        !self.0.starts_with(UNKNOWN_BOOT)
    }
}

const UNKNOWN_BOOT: &str = "start-";

impl From<&str> for BootId {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

/// A step in the life cycle of the agent or of a command. The names on disk are part of the format: an older version
/// refuses a record that it does not know, and ignores a member that it does not know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Record {
    /// A start of the agent. The number is the upper part of every `rev`.
    Begun {
        /// One more than the last.
        start: u64,
        /// What the clocks showed. Absent until the hub is connected; records of earlier versions have none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        clock: Option<Box<ClockStamp>>,
    },
    /// A command arrived.
    Received(Box<ReceivedCommand>),
    /// A command must be stopped or must never run. It may not have arrived yet.
    Cancelled {
        /// The command.
        command: CommandId,
        /// Its position in the hub's order.
        seq: Seq,
        /// The agent's time when the command arrived, in Unix milliseconds.
        #[serde(rename = "hub_ms")]
        first_seen_ms: u64,
    },
    /// A handler is about to be started.
    Started {
        /// The command.
        command: CommandId,
        /// The number of this run, from 1.
        run: u32,
        /// The boot in which it starts.
        boot: BootId,
    },
    /// A command has ended with this report. `None` if the hub had ended it before it was started.
    Ended {
        /// The command.
        command: CommandId,
        /// Without `rev` and `attempt`; see [`fit`].
        #[serde(serialize_with = "write_report", deserialize_with = "read_report")]
        report: Option<Box<Report>>,
    },
    /// The hub rejects the result permanently. The name on disk is an old one: an agent of an earlier version would refuse
    /// a journal with another. The new one can be read, so that a later version may write it.
    #[serde(rename = "unfit", alias = "permanent_rejection")]
    PermanentRejection {
        /// The command.
        command: CommandId,
        /// The agent's time when it did so first, in Unix milliseconds.
        #[serde(rename = "hub_ms")]
        since_ms: u64,
    },
    /// The hub has confirmed the result, or it will not be reported any more.
    Acked {
        /// The command.
        command: CommandId,
    },
    /// A completed command: a compaction writes it instead of the other records.
    Done {
        /// The command.
        command: CommandId,
        /// What is stored of it.
        #[serde(flatten)]
        done: Done,
    },
}

impl Record {
    /// The agent's time in this record.
    pub(crate) fn agent_ms(&self) -> Option<u64> {
        match self {
            Self::Received(received) => Some(received.first_seen_ms),
            Self::Cancelled { first_seen_ms, .. } => Some(*first_seen_ms),
            Self::PermanentRejection { since_ms, .. } => Some(*since_ms),
            Self::Done { done, .. } => Some(done.first_seen_ms),
            Self::Begun { .. } | Self::Started { .. } | Self::Ended { .. } | Self::Acked { .. } => {
                None
            }
        }
    }
}

/// What is stored of a completed command. There may be a hundred thousand: each member counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Done {
    /// Its position in the hub's order.
    pub(crate) seq: Seq,
    /// The agent's time when the command arrived, in Unix milliseconds.
    #[serde(rename = "hub_ms")]
    pub(crate) first_seen_ms: u64,
    /// How it ended; `None` if the hub had ended it before it was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) state: Option<ReportState>,
    /// The exit code that was reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) exit_code: Option<i64>,
    /// The error code that was reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) code: Option<Box<str>>,
}

/// What the clocks showed at one moment. After a restart the agent's time is calculated from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClockStamp {
    /// The boot.
    pub(crate) boot: BootId,
    /// `CLOCK_BOOTTIME`.
    pub(crate) boot_ms: u64,
    /// The agent's own time.
    pub(crate) agent_ms: u64,
    /// The hub's clock, in Unix milliseconds.
    pub(crate) hub_ms: u64,
    /// The device's clock, in Unix milliseconds; `None` if it was not set yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) device_ms: Option<u64>,
}

/// A command as it arrived.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ReceivedCommand {
    /// The hub's event; without its data if the command was rejected at once.
    pub(crate) event: CommandEvent,
    /// The boot in which it arrived.
    pub(crate) boot: BootId,
    /// `CLOCK_BOOTTIME` when its time to live ends.
    pub(crate) due_boot_ms: u64,
    /// The agent's time when it arrived, in Unix milliseconds. (Earlier versions wrote the hub's clock.)
    #[serde(rename = "hub_ms")]
    pub(crate) first_seen_ms: u64,
}

/// Cuts a report to the contract's limits and to the space reserved for it: output and result are dropped before
/// the state is.
pub(crate) fn fit(report: &mut Report) {
    clamp(&mut report.outcome);
    let text_bytes = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let is_long = text_bytes(&report.outcome.stdout) + text_bytes(&report.outcome.stderr)
        > AGENT_REPORT_BYTES_MAX / 2
        && serde_json::to_vec(&StoredReport::of(report)).map_or(0, |json| json.len())
            > AGENT_REPORT_BYTES_MAX;
    if is_long {
        report.outcome.drop_output();
    }
}

/// A report in the journal's form: the names are those of the wire, but text is a [`StoredText`], and what is on a
/// disk stays readable if the wire changes. The two conversions name every member of an [`Outcome`], so that a new one
/// is not forgotten here.
#[derive(Serialize, Deserialize)]
struct StoredReport<'a> {
    state: ReportState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    progress: Option<Progress>,
    /// `null` is a value here.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "some")]
    result: Option<Json>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exit_code: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stdout: Option<StoredText<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stderr: Option<StoredText<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    truncated: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<StoredError<'a>>,
}

#[derive(Serialize, Deserialize)]
struct StoredError<'a> {
    code: StoredText<'a>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message: Option<StoredText<'a>>,
}

/// Text as JSON, or in base64 if that is shorter: a control character takes six bytes in JSON, and output may
/// consist of them.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum StoredText<'a> {
    Plain(Cow<'a, str>),
    Base64 { base64: String },
}

impl<'a> StoredReport<'a> {
    fn of(report: &'a Report) -> Self {
        let text = |text: &'a Option<String>| text.as_deref().map(StoredText::of);
        let Outcome { progress, exit_code, result, stdout, stderr, truncated, error } =
            &report.outcome;
        Self {
            state: report.state,
            progress: *progress,
            result: result.clone(),
            exit_code: *exit_code,
            stdout: text(stdout),
            stderr: text(stderr),
            truncated: *truncated,
            error: error.as_ref().map(|error| StoredError {
                code: StoredText::of(&error.code),
                message: text(&error.message),
            }),
        }
    }

    fn into_report(self) -> Result<Report, String> {
        let text = |text: Option<StoredText<'_>>| text.map(StoredText::into_string).transpose();
        let error = self.error.map(|error| {
            Ok::<_, String>(ErrorInfo {
                code: error.code.into_string()?,
                message: text(error.message)?,
            })
        });
        let outcome = Outcome {
            progress: self.progress,
            exit_code: self.exit_code,
            result: self.result,
            stdout: text(self.stdout)?,
            stderr: text(self.stderr)?,
            truncated: self.truncated,
            error: error.transpose()?,
        };
        Ok(Report::new(self.state, outcome))
    }
}

impl<'a> StoredText<'a> {
    fn of(text: &'a str) -> Self {
        let escaped = |byte: u8| match byte {
            b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0C => 2,
            0..0x20 => 6,
            _ => 1,
        };
        let plain_bytes: usize = text.bytes().map(escaped).sum();
        if plain_bytes > text.len() + text.len() / 3 {
            Self::Base64 { base64: BASE64.encode(text) }
        } else {
            Self::Plain(text.into())
        }
    }

    fn into_string(self) -> Result<String, String> {
        match self {
            Self::Plain(text) => Ok(text.into_owned()),
            Self::Base64 { base64 } => {
                let bytes = BASE64.decode(base64).map_err(|error| error.to_string())?;
                String::from_utf8(bytes).map_err(|error| error.to_string())
            }
        }
    }
}

fn some<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Json>, D::Error> {
    Json::deserialize(from).map(Some)
}

#[expect(clippy::ref_option, reason = "serde gives it so")]
fn write_report<S: Serializer>(report: &Option<Box<Report>>, to: S) -> Result<S::Ok, S::Error> {
    report.as_deref().map(StoredReport::of).serialize(to)
}

fn read_report<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Box<Report>>, D::Error> {
    let stored: Option<StoredReport<'static>> = Deserialize::deserialize(from)?;
    let report = stored.map(StoredReport::into_report).transpose().map_err(D::Error::custom)?;
    Ok(report.map(Box::new))
}

#[cfg(test)]
mod tests {
    use bellwire_proto::limits::{ERROR_CODE_BYTES_MAX, ERROR_MESSAGE_BYTES_MAX, OUTPUT_BYTES_MAX};

    use super::*;

    fn ended(report: Report) -> Record {
        Record::Ended { command: CommandId::from_parts(7, [7; 10]), report: Some(Box::new(report)) }
    }

    fn written(report: Report) -> String {
        let line = serde_json::to_string(&[ended(report.clone())]).unwrap();
        let read: Vec<Record> = serde_json::from_str(&line).unwrap();
        assert_eq!(read, [ended(report)]);
        line
    }

    #[test]
    fn the_longest_report_of_the_contract_fits_whole_whatever_bytes_it_has() {
        for filling in ['\u{1}', '"', '\u{7f}', 'a', '\n'] {
            let text: String = std::iter::repeat_n(filling, 64 << 10).collect();
            let outcome = Outcome {
                result: Some(Json::parse(&format!("\"{}\"", "x".repeat((64 << 10) - 2))).unwrap()),
                stdout: Some(text.clone()),
                stderr: Some(text.clone()),
                exit_code: Some(i64::MIN),
                truncated: Some(false),
                error: Some(ErrorInfo {
                    code: "c".repeat(ERROR_CODE_BYTES_MAX),
                    message: Some(text[..ERROR_MESSAGE_BYTES_MAX].to_owned()),
                }),
                ..Outcome::default()
            };
            let mut report = Report::new(ReportState::Succeeded, outcome);
            let whole = report.clone();
            fit(&mut report);
            assert_eq!(report, whole, "{filling:?}");
            assert!(written(report).len() < AGENT_REPORT_BYTES_MAX, "{filling:?}");
        }
    }

    /// A result beyond the API's limits was written, could not be read again, and was cut off as a torn end: the
    /// command then had never ended.
    #[test]
    fn a_report_beyond_the_limits_retains_its_state_and_the_end_of_its_output() {
        let long = "é".repeat(200 << 10);
        let outcome = Outcome {
            result: Some(Json::text(&long)),
            stdout: Some(long.clone()),
            stderr: Some(long.clone()),
            ..Outcome::default()
        };
        let mut report = Report::new(ReportState::Succeeded, outcome);
        fit(&mut report);
        let tail = Some(&long[long.len() - OUTPUT_BYTES_MAX..]);
        let outcome = &report.outcome;
        assert_eq!((outcome.stdout.as_deref(), outcome.stderr.as_deref()), (tail, tail));
        assert_eq!((outcome.truncated, &outcome.result), (Some(true), &None));
        assert_eq!(outcome.error.as_ref().map(|error| error.code.as_str()), Some("bad_result"));
        written(report);
        let error = Some(ErrorInfo { code: long.clone(), message: Some(long) });
        let mut report = Report::new(ReportState::Failed, Outcome { error, ..Outcome::default() });
        fit(&mut report);
        assert!(written(report).len() < 8192);
        // A text slightly beyond the hub's limit is stored unchanged.
        let stdout = Some("x".repeat((64 << 10) + 1));
        written(Report::new(ReportState::Succeeded, Outcome { stdout, ..Outcome::default() }));
    }

    #[test]
    fn records_of_earlier_versions_are_still_read() {
        let command = CommandId::from_parts(7, [7; 10]);
        let line = format!(
            r#"[{{"ended":{{"command":"{command}","report":{{"state":"failed","result":null,"exit_code":3,"stdout":"a\u0001","truncated":false,"error":{{"code":"exit_status","message":"exit status 3"}}}}}}}},{{"ended":{{"command":"{command}","report":null}}}}]"#
        );
        let read: Vec<Record> = serde_json::from_str(&line).unwrap();
        let message = Some("exit status 3".to_owned());
        let outcome = Outcome {
            result: Some(Json::null()),
            exit_code: Some(3),
            stdout: Some("a\u{1}".to_owned()),
            truncated: Some(false),
            error: Some(ErrorInfo { code: "exit_status".to_owned(), message }),
            ..Outcome::default()
        };
        let report = Report::new(ReportState::Failed, outcome);
        assert_eq!(read, [ended(report), Record::Ended { command, report: None }]);
    }

    /// The bytes of every version so far: a journal is read by later versions, and after a downgrade by earlier ones.
    #[test]
    fn a_report_in_the_journal_has_the_same_bytes_as_ever() {
        let id = "01890000-0000-7000-8000-000000000001";
        for report in [
            r#"{"state":"failed","progress":33.5,"result":{"b": 1.50,"a":null},"exit_code":143,"stdout":"a\nb","stderr":{"base64":"AQEBAQEBAQE"},"truncated":true,"error":{"code":"signal","message":"signal 15 ended it"}}"#,
            r#"{"state":"rejected","error":{"code":"stale"}}"#,
            r#"{"state":"succeeded","result":null,"truncated":false}"#,
            r#"{"state":"cancelled"}"#,
            "null",
        ] {
            let line = format!(r#"{{"ended":{{"command":"{id}","report":{report}}}}}"#);
            let record: Record = serde_json::from_str(&line).unwrap();
            assert_eq!(serde_json::to_string(&record).unwrap(), line);
        }
    }

    /// `unfit` is refused by no earlier version; the name of the glossary is read as well.
    #[test]
    fn a_permanent_rejection_is_written_by_its_old_name_and_read_by_both() {
        let id = "01890000-0000-7000-8000-000000000001";
        let line = |name: &str| format!(r#"{{"{name}":{{"command":"{id}","hub_ms":7}}}}"#);
        for name in ["unfit", "permanent_rejection"] {
            let record: Record = serde_json::from_str(&line(name)).unwrap();
            assert!(matches!(record, Record::PermanentRejection { since_ms: 7, .. }), "{name}");
            assert_eq!(serde_json::to_string(&record).unwrap(), line("unfit"));
        }
    }

    /// After a downgrade the earlier version must be able to read the journal.
    #[test]
    fn a_stamp_of_the_clocks_is_ignored_by_versions_that_do_not_know_it() {
        #[derive(Debug, PartialEq, Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Earlier {
            Begun { start: u64 },
        }
        let clock = ClockStamp {
            boot: BootId::from("boot-1"),
            boot_ms: 5,
            agent_ms: 1_800_000_000_000,
            hub_ms: 1_800_000_000_000,
            device_ms: None,
        };
        let record = Record::Begun { start: 7, clock: Some(Box::new(clock)) };
        let json = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&json).unwrap(), record);
        assert_eq!(serde_json::from_str::<Earlier>(&json).unwrap(), Earlier::Begun { start: 7 });
        let earlier: Record = serde_json::from_str(r#"{"begun":{"start":7}}"#).unwrap();
        assert_eq!(earlier, Record::Begun { start: 7, clock: None });
    }

    #[test]
    fn a_completed_command_takes_one_short_line_and_little_memory() {
        let done = Done {
            seq: "18446744073709551615".parse().unwrap(),
            first_seen_ms: 1_800_000_000_000,
            state: Some(ReportState::Succeeded),
            exit_code: Some(-1),
            code: None,
        };
        let record = Record::Done { command: CommandId::from_parts(7, [7; 10]), done };
        let json = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&json).unwrap(), record);
        assert!(json.len() < 160 && size_of::<Done>() <= 64, "{} {json}", size_of::<Done>());
    }
}
