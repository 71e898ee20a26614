//! The two clocks that the core is handed with every call.
//!
//! **Durations** (times to live, leases, run clocks, waits, retention) are measured on a monotonic
//! clock, [`Instant`]: it counts the time that the machine was suspended, it never goes back, and
//! it goes on over a restart of the hub by the time that has passed in between. **Stamps** that
//! people read (`created_at`, `updated_at`, `expires_at`), and times that people give
//! (`not_before`), are of the wall clock, [`Timestamp`], which may be set forwards and back at any
//! time. The two types cannot be mixed up, so a step of the wall clock moves no deadline.
//! `docs/store.md`, "Time", says how a store carries the monotonic clock over a restart.

use std::fmt;
use std::time::Duration;

use bellwire_proto::Timestamp;

/// A point on the hub's monotonic clock, in milliseconds since an arbitrary origin.
///
/// ```
/// use bellwire_core::Instant;
/// use std::time::Duration;
/// let start = Instant::from_ms(1_000);
/// let end = start.after(Duration::from_secs(2));
/// assert_eq!(end.since(start), Duration::from_secs(2));
/// assert_eq!(start.since(end), Duration::ZERO);
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Instant(u64);

/// What both clocks show at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// The monotonic clock: decides every deadline.
    pub instant: Instant,
    /// The wall clock: for stamps, and for times that a sender named.
    pub wall: Timestamp,
}

impl Instant {
    /// The point `ms` milliseconds after the origin.
    pub const fn from_ms(ms: u64) -> Self {
        Self(ms)
    }

    /// Milliseconds since the origin.
    pub const fn ms(self) -> u64 {
        self.0
    }

    /// This much later; saturates.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }

    /// This much earlier; saturates.
    #[must_use]
    pub fn before(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }

    /// From `earlier` to this, or zero when it is not earlier.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}

impl Now {
    /// The monotonic time at which the wall clock will reach `wall`, if it is not set before; now, when
    /// `wall` has passed.
    pub fn instant_of(&self, wall: Timestamp) -> Instant {
        self.instant.after(wall.since(self.wall))
    }
}

/// The time by which it is judged whether a credential has expired: that of the wall clock, which does not go back here when it is
/// set back, and goes on meanwhile by the monotonic one. What has expired has expired for good, and what has not is
/// not prolonged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExpiryClock(Option<Now>);

impl ExpiryClock {
    /// One that has shown this before.
    pub const fn after(shown: Now) -> Self {
        Self(Some(shown))
    }

    /// What it shows.
    pub fn at(&mut self, now: Now) -> Timestamp {
        let Some(last) = self.0 else {
            self.0 = Some(now);
            return now.wall;
        };
        let wall = last.wall.after(now.instant.since(last.instant)).max(now.wall);
        self.0 = Some(Now { instant: now.instant.max(last.instant), wall });
        wall
    }

    /// The monotonic time at which it will show `wall`, as far as is known; now, when `wall` has passed.
    pub fn instant_of(&self, wall: Timestamp) -> Instant {
        self.0.map_or(Instant::default(), |now| now.instant_of(wall))
    }
}

/// How long to leave a store alone that could not answer.
pub(crate) const LOAD_RETRY: Duration = Duration::from_secs(1);

/// The earlier of two deadlines, either of which may be missing.
pub(crate) fn earliest<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(instant_s: u64, wall_s: u64) -> Now {
        Now {
            instant: Instant::from_ms(instant_s * 1000),
            wall: Timestamp::from_unix_ms(wall_s * 1000),
        }
    }

    #[test]
    fn the_clock_of_expiry_goes_forward_with_the_wall_clock_and_never_back() {
        let mut clock = ExpiryClock::default();
        let mut shown = |now| clock.at(now).unix_ms() / 1000;
        assert_eq!(shown(at(100, 5_000)), 5_000);
        assert_eq!(shown(at(101, 5_001)), 5_001);
        assert_eq!(shown(at(101, 1_000)), 5_001, "set back");
        assert_eq!(shown(at(111, 1_010)), 5_011, "ten seconds later");
        assert_eq!(shown(at(105, 1_004)), 5_011, "a reading that is late changes nothing");
        assert_eq!(shown(at(112, 1_011)), 5_012);
        assert_eq!(shown(at(113, 9_000)), 9_000, "set forwards");
    }
}
