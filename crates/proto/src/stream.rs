//! What a listening device is told: the events of its stream, and the answer to a poll. Contract,
//! section 4. The framing as Server-Sent Events is `bellwire-sse`'s.

use serde::{Deserialize, Serialize};

use crate::id::{Action, CommandId, DeviceId, Seq};
use crate::json::Json;
use crate::time::Timestamp;

/// `hello`: the first event of every stream, and part of every poll's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Program and version: `bellwire/0.1.0`.
    pub hub: String,
    /// Who the hub thinks is listening.
    pub device: DeviceId,
    /// The name of this stream, for `confirm`.
    pub session: String,
    /// What the request gave as `nonce`.
    pub nonce: Option<String>,
    /// Seconds after which something is written at the latest.
    pub heartbeat_s: u64,
    /// How many deliveries may be under way at once.
    pub max_in_flight: usize,
    /// The hub's clock in Unix milliseconds.
    pub time_ms: u64,
    /// Milliseconds since the request arrived.
    pub up_ms: u64,
}

/// `command`: one sending of one delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandEvent {
    /// The command.
    pub id: CommandId,
    /// Its place in the hub-wide order; also the event's id.
    pub seq: Seq,
    /// What to do.
    pub action: Action,
    /// With what.
    pub data: Json,
    /// The how-manieth sending this is.
    pub attempt: u32,
    /// When the command was stored.
    pub created_at: Timestamp,
    /// Until when it must be accepted.
    pub expires_at: Timestamp,
    /// Seconds left until then, as the hub counts, rounded up.
    pub ttl_s: u64,
    /// Seconds that may pass between two reports once it is accepted.
    pub run_timeout_s: u64,
}

/// `cancel`: stop this command, or never run it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelEvent {
    /// The command.
    pub id: CommandId,
    /// Its place in the hub-wide order.
    pub seq: Seq,
}

/// Why the hub ends a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ByeReason {
    /// A newer stream of the same device took its place.
    Replaced,
    /// The hub is about to stop.
    Draining,
    /// The device was deleted, or its credentials were.
    Revoked,
    /// The reader is too slow.
    Overloaded,
    /// It was opened with `confirm=1` and not confirmed in time.
    Unconfirmed,
    /// A planned end.
    Rotate,
}

/// `bye`: the last event of a stream that the hub ends.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bye {
    /// Why.
    pub reason: ByeReason,
    /// Seconds to wait before the next connection.
    pub reconnect_s: f64,
}

/// The answer to a long poll.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PollAnswer {
    /// As at the beginning of a stream; its session cannot be confirmed.
    pub hello: Hello,
    /// Commands to run, oldest first.
    pub commands: Vec<CommandEvent>,
    /// Commands to stop.
    pub cancels: Vec<CancelEvent>,
}
