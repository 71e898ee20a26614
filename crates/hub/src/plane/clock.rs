//! The clock of the streams. The hub has one clock, given to the plane when it starts; tests give
//! one that they move themselves.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Where the plane reads time, about once per iteration of a shard's loop.
pub trait Clock: Send + Sync + 'static {
    /// The hub's Unix time in milliseconds, for heartbeats and `Date`. May jump.
    fn unix_ms(&self) -> u64;

    /// Milliseconds since a fixed moment of this process, for deadlines. Never decreases.
    fn up_ms(&self) -> u64;
}

/// The machine's own clocks.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn unix_ms(&self) -> u64 {
        // A clock before 1970 reads as 1970: heartbeats continue on a machine without a set clock.
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
    }

    fn up_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }
}

/// A clock that stands still until it is moved, for tests.
///
/// A shard asleep does not notice that the clock moved: call [`Plane::wake`](super::Plane::wake).
#[derive(Debug)]
pub struct ManualClock {
    start_unix_ms: u64,
    up_ms: AtomicU64,
}

impl ManualClock {
    /// Stands at this Unix time.
    pub fn new(unix_ms: u64) -> Self {
        Self { start_unix_ms: unix_ms, up_ms: AtomicU64::new(0) }
    }

    /// Moves both readings on.
    pub fn advance(&self, ms: u64) {
        self.up_ms.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn unix_ms(&self) -> u64 {
        self.start_unix_ms + self.up_ms()
    }

    fn up_ms(&self) -> u64 {
        self.up_ms.load(Ordering::SeqCst)
    }
}
