//! One command at one device: its state, and the object that the API shows of it.
//!
//! Which state may follow which is decided in `bellwire-core`; here are their names (contract,
//! section 2).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize, Serializer};

use crate::id::{Action, CommandId, DeviceId, Seq};
use crate::json::Json;
use crate::time::Timestamp;

/// The state of a delivery. Contract, section 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// Waits for the device, or for earlier deliveries.
    Queued,
    /// Sent to the device, which has not answered yet.
    Sent,
    /// The device has it and will run it.
    Accepted,
    /// The device runs it.
    Running,
    /// A cancel was sent; the device has not answered yet.
    Cancelling,
    /// The device ran it with success.
    Succeeded,
    /// The device ran it, or tried to, without success.
    Failed,
    /// The device refused it.
    Rejected,
    /// The device accepted it and did not report in time.
    TimedOut,
    /// Its time to live passed before the device accepted it.
    Expired,
    /// It was sent too often without an answer.
    Dead,
    /// It was cancelled before it ended.
    Cancelled,
    /// It was written to a stream that sends no reports (`ack=none`).
    Delivered,
}

impl DeliveryState {
    /// Every state, in the order of a delivery's life.
    pub const ALL: [Self; 13] = [
        Self::Queued,
        Self::Sent,
        Self::Accepted,
        Self::Running,
        Self::Cancelling,
        Self::Succeeded,
        Self::Failed,
        Self::Rejected,
        Self::TimedOut,
        Self::Expired,
        Self::Dead,
        Self::Cancelled,
        Self::Delivered,
    ];

    /// Whether no state can follow, save by a late report.
    pub const fn is_terminal(self) -> bool {
        !matches!(
            self,
            Self::Queued | Self::Sent | Self::Accepted | Self::Running | Self::Cancelling
        )
    }

    /// As it stands in `state`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sent => "sent",
            Self::Accepted => "accepted",
            Self::Running => "running",
            Self::Cancelling => "cancelling",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::TimedOut => "timed_out",
            Self::Expired => "expired",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
            Self::Delivered => "delivered",
        }
    }
}

impl fmt::Display for DeliveryState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Text that is not the name of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a state is one of queued, sent, accepted, running, cancelling, succeeded, failed, rejected, \
     timed_out, expired, dead, cancelled, delivered"
)]
pub struct InvalidState;

impl FromStr for DeliveryState {
    type Err = InvalidState;

    fn from_str(text: &str) -> Result<Self, InvalidState> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or(InvalidState)
    }
}

/// The progress of a run in percent, from 0 to 100. A whole number is written without a fraction.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Deserialize)]
#[serde(try_from = "f64")]
pub struct Progress(f64);

/// A progress outside 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("progress is a number from 0 to 100")]
pub struct InvalidProgress;

impl Progress {
    /// In percent.
    pub const fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Progress {
    type Error = InvalidProgress;

    fn try_from(percent: f64) -> Result<Self, InvalidProgress> {
        if (0.0..=100.0).contains(&percent) { Ok(Self(percent)) } else { Err(InvalidProgress) }
    }
}

impl Serialize for Progress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // From 0 to 100, so the cast is exact for whole numbers.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 100")]
        if self.0.fract() == 0.0 {
            serializer.serialize_u8(self.0 as u8)
        } else {
            serializer.serialize_f64(self.0)
        }
    }
}

/// Why a delivery did not succeed, or a fault beside its state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorInfo {
    /// A stable code: the device's own, or the name of the state when the hub set it.
    pub code: String,
    /// For a person.
    #[serde(default)]
    pub message: Option<String>,
}

impl ErrorInfo {
    /// An error with a code and no message.
    pub fn of(code: impl Into<String>) -> Self {
        Self { code: code.into(), message: None }
    }
}

/// The delivery object of the API. Contract, section 2. All members are always written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Delivery {
    /// The command.
    pub command: CommandId,
    /// Its position in the hub-wide order.
    pub seq: Seq,
    /// The device.
    pub device: DeviceId,
    /// What the device is to do.
    pub action: Action,
    /// Its state.
    pub state: DeliveryState,
    /// How often it was sent.
    pub attempt: u32,
    /// The `rev` of the last report that took effect; 0 when none had one.
    pub rev: u64,
    /// When the command was stored.
    pub created_at: Timestamp,
    /// When this object last changed.
    pub updated_at: Timestamp,
    /// The time by which it must be accepted.
    pub expires_at: Timestamp,
    /// The progress of the run.
    pub progress: Option<Progress>,
    /// The handler's exit code; 128+n when signal n ended it.
    pub exit_code: Option<i64>,
    /// The result that the device reported.
    pub result: Option<Json>,
    /// The end of what the handler wrote to standard output.
    pub stdout: Option<String>,
    /// The end of what the handler wrote to standard error.
    pub stderr: Option<String>,
    /// Whether the device cut the output.
    pub truncated: bool,
    /// Why it did not succeed.
    pub error: Option<ErrorInfo>,
    /// Whether the end was reported after the hub had given up.
    pub late: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_is_written_and_read_alike() {
        for state in DeliveryState::ALL {
            assert_eq!(serde_json::to_string(&state).unwrap(), format!("\"{state}\""));
            assert_eq!(state.as_str().parse(), Ok(state));
        }
        assert_eq!("Queued".parse::<DeliveryState>(), Err(InvalidState));
    }

    #[test]
    fn a_whole_progress_is_written_without_a_point() {
        let shown = |p: f64| serde_json::to_string(&Progress::try_from(p).unwrap()).unwrap();
        assert_eq!(
            (shown(40.0), shown(33.5), shown(100.0)),
            ("40".into(), "33.5".into(), "100".into())
        );
        for bad in [-0.1, 100.1, f64::NAN, f64::INFINITY] {
            assert_eq!(Progress::try_from(bad), Err(InvalidProgress));
        }
    }
}
