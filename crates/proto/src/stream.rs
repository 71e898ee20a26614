//! What the hub sends to a listening device: the events of its stream, and the answer to a poll.
//! Contract, section 4. Framing them as Server-Sent Events is the task of `bellwire-sse`.

use serde::{Deserialize, Serialize};

use crate::id::{Action, CommandId, DeviceId, Seq};
use crate::json::Json;
use crate::time::Timestamp;

/// `hello`: the first event of every stream, and part of every poll's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Program and version: `bellwire/0.1.0`.
    pub hub: String,
    /// The device that the hub takes the listener for.
    pub device: DeviceId,
    /// The name of this stream, for `confirm`.
    pub session: String,
    /// What the request gave as `nonce`.
    pub nonce: Option<String>,
    /// The longest time in seconds between two writes.
    pub heartbeat_s: u64,
    /// How many deliveries may be in flight at once.
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
    /// Its position in the hub-wide order; also the event's id.
    pub seq: Seq,
    /// What to do.
    pub action: Action,
    /// The data of the action.
    pub data: Json,
    /// Which attempt this is, 1 for the first.
    pub attempt: u32,
    /// When the command was stored.
    pub created_at: Timestamp,
    /// The time by which it must be accepted.
    pub expires_at: Timestamp,
    /// Seconds that remain until then by the hub's clock, rounded up.
    pub ttl_s: u64,
    /// Seconds that may pass between two reports once it is accepted.
    pub run_timeout_s: u64,
}

/// `cancel`: stop this command, or never run it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelEvent {
    /// The command.
    pub id: CommandId,
    /// Its position in the hub-wide order.
    pub seq: Seq,
}

/// Why the hub ends a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ByeReason {
    /// A newer stream of the same device replaced it.
    Replaced,
    /// The hub is stopping.
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
    /// Why the stream ends.
    pub reason: ByeReason,
    /// Seconds to wait before the next connection.
    pub reconnect_s: f64,
}

/// The answer to a long poll.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PollAnswer {
    /// As at the start of a stream; its session cannot be confirmed.
    pub hello: Hello,
    /// Commands to run, oldest first.
    pub commands: Vec<CommandEvent>,
    /// Commands to stop.
    pub cancels: Vec<CancelEvent>,
}
