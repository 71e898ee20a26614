//! What an operator sets of the core's rules, and what a store tells at the start.

use std::time::Duration;

use bellwire_proto::limits;
use bellwire_proto::{Seq, Timestamp};

/// The rules that can be set. The defaults are the contract's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How long a command waits for `accepted` after it was sent.
    pub lease: Duration,
    /// Deliveries of one device in `queued`; one more is refused.
    pub queue_max: usize,
    /// Deliveries of one device past `queued` and not ended.
    pub max_in_flight: usize,
    /// Whether an unknown device is created when it first listens or a command for it is stored.
    pub create_on_sight: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            lease: limits::LEASE,
            queue_max: limits::QUEUE_MAX,
            max_in_flight: limits::MAX_IN_FLIGHT,
            create_on_sight: true,
        }
    }
}

/// What the store knows when the hub starts. The store has by then put every `sent` back to `queued`,
/// and given every run clock the time that a restart leaves it at least (contract, section 2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The greatest sequence number given out.
    pub last_seq: Seq,
    /// When the earliest live delivery is due.
    pub next_due: Option<Timestamp>,
}
