//! What is known of a path, for an operator and for the next run.

use serde::{Deserialize, Serialize};

use super::Rung;

/// Why polls carry at the beginning.
pub const BEING_PROVEN: &str = "the stream is being proven";

/// The way on which commands arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Carrier {
    /// The stream.
    Stream,
    /// The stream with a comment after each write, for a middlebox that holds the last write back.
    CompatStream,
    /// Long polls.
    Poll,
}

impl Carrier {
    /// As in JSON.
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
    /// Until when the stream rests, in the milliseconds of the path's clock.
    pub rests_until_ms: Option<u64>,
    /// Since when nothing has arrived, in the milliseconds of the path's clock: the stream was silent for too long or broke, and
    /// no other way has brought anything since. Whether the carrier works is not known then.
    pub silent_since_ms: Option<u64>,
}

/// What the next run does by a [`Verdict`]: where the stream begins, and how long polls are held and the heartbeat is, in seconds.
pub(super) type Hints = (Rung, u64, Option<u64>);

impl PathStatus {
    pub(super) fn new(now: u64) -> Self {
        Self {
            carrier: None,
            since_ms: now,
            why: None,
            rests_until_ms: None,
            silent_since_ms: None,
        }
    }

    /// Whether the carrier or the reason is another one than before, or the stream begins to rest.
    pub(super) fn update(
        &mut self,
        now: u64,
        carrier: Option<Carrier>,
        why: Option<String>,
        rests_until_ms: Option<u64>,
    ) -> bool {
        let begins_to_rest = rests_until_ms.is_some() && self.rests_until_ms != rests_until_ms;
        let changed = begins_to_rest || (self.carrier, &self.why) != (carrier, &why);
        if self.carrier != carrier {
            self.since_ms = now;
        }
        (self.carrier, self.why, self.rests_until_ms) = (carrier, why, rests_until_ms);
        changed
    }
}

/// What a run has found out about its network: a hint for the next one, and never a reason to receive nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Where the stream begins; [`Rung::Rest`] is by poll alone at first.
    pub rung: Rung,
    /// How long polls are held, in seconds.
    pub hold_s: u64,
    /// The heartbeat that this network needs, in seconds.
    pub heartbeat_s: Option<u64>,
    /// Why not the better way.
    pub why: Option<String>,
}
