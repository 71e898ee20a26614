//! What is known of a path, for an operator and for the next run.

use serde::{Deserialize, Serialize};

use super::StreamMode;

/// Why polls carry at the beginning.
pub const BEING_PROVEN: &str = "the stream is being proven";

/// The way on which commands arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Carrier {
    /// The stream, without padding.
    Stream,
    /// The stream with a comment after each write, for a middlebox that holds the last write back.
    CompatStream,
    /// Long polls, while no stream is proven or none passes.
    Poll,
}

impl Carrier {
    /// Its name in JSON and in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::CompatStream => "compat_stream",
            Self::Poll => "poll",
        }
    }
}

/// Which way carries, since when, and why not the better one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PathStatus {
    /// `None` while neither works.
    pub carrier: Option<Carrier>,
    /// Since when, in the milliseconds of the path's clock.
    pub since_ms: u64,
    /// Why not the better way; `None` for a plain stream.
    pub why: Option<String>,
    /// Until when no stream is tried, in the milliseconds of the path's clock; `None` unless streams are suspended.
    pub suspended_until_ms: Option<u64>,
    /// Since when nothing has arrived, in the milliseconds of the path's clock: the stream was silent for too long or broke, and
    /// no other way has brought anything since. Whether the carrier works is not known then.
    pub silent_since_ms: Option<u64>,
}

/// What the next run does by a [`PathHint`]: the mode of its first stream, and how long polls are held and the heartbeat is, in
/// seconds.
pub(super) type HintValues = (StreamMode, u64, Option<u64>);

impl PathStatus {
    pub(super) fn new(now: u64) -> Self {
        Self {
            carrier: None,
            since_ms: now,
            why: None,
            suspended_until_ms: None,
            silent_since_ms: None,
        }
    }

    /// Whether the carrier or the reason is another one than before, or a suspension begins.
    pub(super) fn update(
        &mut self,
        now: u64,
        carrier: Option<Carrier>,
        why: Option<String>,
        suspended_until_ms: Option<u64>,
    ) -> bool {
        let begins_suspension =
            suspended_until_ms.is_some() && self.suspended_until_ms != suspended_until_ms;
        let changed = begins_suspension || (self.carrier, &self.why) != (carrier, &why);
        if self.carrier != carrier {
            self.since_ms = now;
        }
        (self.carrier, self.why, self.suspended_until_ms) = (carrier, why, suspended_until_ms);
        changed
    }
}

/// What a run has found out about its network: a hint for the next one, and never a reason to receive nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathHint {
    /// The mode of the first stream. `rung` in a file, as earlier versions named it.
    #[serde(rename = "rung")]
    pub mode: StreamMode,
    /// How long polls are held, in seconds.
    pub hold_s: u64,
    /// The heartbeat that this network needs, in seconds.
    pub heartbeat_s: Option<u64>,
    /// Why not the better way, as a sentence for an operator; it decides nothing.
    pub why: Option<String>,
}
