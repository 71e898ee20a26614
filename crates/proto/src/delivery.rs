//! One command at one device: its state, and the object that the API shows of it.
//!
//! Which state may follow which is decided in `bellwire-core`; here are their names (contract,
//! section 2).

use std::fmt;
use std::str::FromStr;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::id::{Action, CommandId, DeviceId, Seq};
use crate::outcome::{Outcome, OutcomeReader};
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

/// The delivery object of the API. Contract, section 2. All members are always written.
///
/// ```
/// use bellwire_proto::Delivery;
/// # let text = r#"{"command":"01890000-0000-7000-8000-000000000001","seq":1,"device":"kiosk-7","action":"ping",
/// #     "state":"succeeded","attempt":1,"rev":3,"created_at":"2026-01-01T00:00:00.000Z",
/// #     "updated_at":"2026-01-01T00:00:01.000Z","expires_at":"2026-01-01T00:01:00.000Z","progress":null,
/// #     "exit_code":0,"result":null,"stdout":"pong\n","stderr":"","truncated":false,"error":null,"late":false}"#;
/// let delivery: Delivery = serde_json::from_str(text)?; // an answer of the hub
/// assert!(delivery.state.is_terminal());
/// assert_eq!(delivery.outcome.stdout.as_deref(), Some("pong\n"));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
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
    /// What the device reported of the run; its error may be the hub's. Its members stand among the others.
    #[serde(flatten, serialize_with = "Outcome::serialize_all")]
    pub outcome: Outcome,
    /// Whether the end was reported after the hub had given up.
    pub late: bool,
}

impl<'de> Deserialize<'de> for Delivery {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(DeliveryVisitor)
    }
}

struct DeliveryVisitor;

impl<'de> Visitor<'de> for DeliveryVisitor {
    type Value = Delivery;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a delivery")
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Delivery, A::Error> {
        let mut reader = OutcomeReader::new(object);
        let delivery = OwnMembers::deserialize(MapAccessDeserializer::new(&mut reader))?;
        Ok(Delivery { outcome: reader.finish()?, ..delivery })
    }
}

/// Reads the members of a [`Delivery`] that are not of its outcome; the compiler compares the fields.
#[derive(Deserialize)]
#[serde(remote = "Delivery")]
struct OwnMembers {
    command: CommandId,
    seq: Seq,
    device: DeviceId,
    action: Action,
    state: DeliveryState,
    attempt: u32,
    rev: u64,
    created_at: Timestamp,
    updated_at: Timestamp,
    expires_at: Timestamp,
    #[serde(skip)]
    outcome: Outcome,
    late: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Json;

    #[test]
    fn every_state_is_written_and_read_alike() {
        for state in DeliveryState::ALL {
            assert_eq!(serde_json::to_string(&state).unwrap(), format!("\"{state}\""));
            assert_eq!(state.as_str().parse(), Ok(state));
        }
        assert_eq!("Queued".parse::<DeliveryState>(), Err(InvalidState));
    }

    #[test]
    fn a_null_result_is_written_like_an_absent_one() {
        let text = r#"{"command":"01890000-0000-7000-8000-000000000001","seq":1,"device":"d",
            "action":"ping","state":"succeeded","attempt":1,"rev":0,"truncated":false,"late":false,
            "created_at":"2026-01-01T00:00:00.000Z","updated_at":"2026-01-01T00:00:00.000Z",
            "expires_at":"2026-01-01T00:01:00.000Z"}"#;
        let without: Delivery = serde_json::from_str(text).unwrap();
        let mut with = without.clone();
        with.outcome.result = Some(Json::null());
        let written = serde_json::to_string(&with).unwrap();
        assert_eq!(written, serde_json::to_string(&without).unwrap());
        assert_eq!(serde_json::from_str::<Delivery>(&written).unwrap(), without);
    }
}
