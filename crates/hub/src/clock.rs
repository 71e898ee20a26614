//! The hub's two clocks, and how the monotonic one goes on over a restart.
//!
//! **Durations** are measured by `CLOCK_BOOTTIME`, which counts the time that the machine was
//! suspended, and which cannot be set. **Stamps** are of the wall clock as it is at the moment: once
//! it is set right, stamps are right from then on, and no deadline moves.
//!
//! **Whether a credential has expired** is judged by the wall clock too, but one that is set back revives none
//! ([`Clock::expiry`]).
//!
//! A store writes an [`Anchor`] now and then: what both clocks showed at one moment. A later start
//! counts the time since: on the same boot of the machine by `CLOCK_BOOTTIME`, else by the wall
//! clock, and never less than nothing.

use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bellwire_core::{ExpiryClock, Instant, Now};
use bellwire_proto::Timestamp;
use bellwire_proto::limits::DELIVERY_LIFE_MAX;

/// What both clocks show. Cheap to clone.
///
/// ```
/// use bellwire_hub::Clock;
/// let clock = Clock::start();
/// let (earlier, later) = (clock.now(), clock.now());
/// assert!(earlier.instant <= later.instant);
/// ```
#[derive(Clone)]
pub struct Clock {
    source: Source,
    expiry: Arc<Mutex<ExpiryClock>>,
}

#[derive(Clone)]
enum Source {
    System(System),
    Given(Arc<dyn Fn() -> Now + Send + Sync>),
}

/// Both clocks of the machine.
#[derive(Clone, Copy)]
struct System {
    /// What the hub's monotonic clock showed at `started`.
    origin_ms: u64,
    /// `CLOCK_BOOTTIME` then.
    booted: Duration,
    /// Tokio's clock then. A test that pauses Tokio's clock and advances it advances this clock too.
    started: tokio::time::Instant,
}

/// What the clocks showed at one moment, as a store retains it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    /// The hub's monotonic clock.
    pub instant: Instant,
    /// The wall clock.
    pub wall: Timestamp,
    /// `CLOCK_BOOTTIME`, in milliseconds.
    pub boottime_ms: u64,
    /// Identifies a boot of the machine; 0 where that is not known.
    pub boot: i64,
}

/// By how much the wall clock may drift from the anchor before that is taken for a step: more than
/// any slewing does in the time between two anchors.
pub(crate) const STEP_MIN: Duration = Duration::from_secs(1);

impl Clock {
    /// The machine's clocks, from now on: the monotonic one begins at the time of the wall clock.
    pub fn start() -> Self {
        Self::starting_at(Instant::from_ms(wall().unix_ms()))
    }

    /// The machine's clocks, with a monotonic one that goes on from an anchor.
    pub fn resume(anchor: Anchor) -> Self {
        let origin = resumed(anchor, wall(), boottime_ms(), boot());
        let shown = Now { instant: anchor.instant, wall: anchor.wall };
        // A machine that comes up in 1970, or a day back, has been later.
        Self {
            expiry: Arc::new(Mutex::new(ExpiryClock::after(shown))),
            ..Self::starting_at(origin)
        }
    }

    /// Clocks that show what `now` returns, for tests.
    pub fn given(now: impl Fn() -> Now + Send + Sync + 'static) -> Self {
        Self::of(Source::Given(Arc::new(now)))
    }

    fn starting_at(origin: Instant) -> Self {
        Self::of(Source::System(System {
            origin_ms: origin.ms(),
            booted: boottime(),
            started: tokio::time::Instant::now(),
        }))
    }

    fn of(source: Source) -> Self {
        Self { source, expiry: Arc::default() }
    }

    /// The time by which it is judged whether a credential has expired: that of the wall clock, unless that was set back.
    pub fn expiry(&self) -> Timestamp {
        // Under the lock, so that readings come in their order. Nothing panics while it is held.
        self.expiry.lock().unwrap_or_else(PoisonError::into_inner).at(self.now())
    }

    /// What both clocks show.
    pub fn now(&self) -> Now {
        match &self.source {
            Source::System(system) => Now { instant: system.instant(), wall: wall() },
            Source::Given(now) => now(),
        }
    }

    /// What is to be retained of this moment.
    pub fn anchor(&self) -> Anchor {
        let Now { instant, wall } = self.now();
        Anchor { instant, wall, boottime_ms: boottime_ms(), boot: boot() }
    }

    /// When on tokio's clock it will be `at`, if the machine is not suspended before; now, when it
    /// has passed. A clock of whole milliseconds would wake a sleeper up to one too early, hence
    /// one is added.
    pub(crate) fn tokio_instant(&self, at: Instant) -> tokio::time::Instant {
        let wait = at.since(self.now().instant);
        let wait = if wait.is_zero() { wait } else { wait + Duration::from_millis(1) };
        tokio::time::Instant::now() + wait
    }
}

impl System {
    fn instant(&self) -> Instant {
        let passed = boottime().saturating_sub(self.booted).max(self.started.elapsed());
        Instant::from_ms(self.origin_ms.saturating_add(millis(passed)))
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}

impl crate::plane::Clock for Clock {
    fn unix_ms(&self) -> u64 {
        self.now().wall.unix_ms()
    }

    /// Without suspension: a stream that slept with the machine is not taken for dead.
    fn up_ms(&self) -> u64 {
        match &self.source {
            Source::System(system) => millis(system.started.elapsed()),
            Source::Given(now) => now().instant.ms(),
        }
    }
}

/// Whether the wall clock was set since the anchor was taken.
pub(crate) fn was_set(anchor: Anchor, now: Now) -> bool {
    let passed = now.instant.since(anchor.instant);
    let expected = anchor.wall.after(passed);
    expected.since(now.wall).max(now.wall.since(expected)) > STEP_MIN
}

/// What the monotonic clock shows at a start, given the last anchor of the one before.
fn resumed(anchor: Anchor, wall: Timestamp, boottime_ms: u64, boot: i64) -> Instant {
    let same_boot = boot != 0 && anchor.boot == boot && boottime_ms >= anchor.boottime_ms;
    let passed = if same_boot {
        Duration::from_millis(boottime_ms - anchor.boottime_ms)
    } else {
        // No more than the longest life of a delivery counts. A wall clock that was wrong before the boot
        // and is right after it looks like a machine that was off; it must not expire the history too.
        wall.since(anchor.wall).min(DELIVERY_LIFE_MAX)
    };
    anchor.instant.after(passed)
}

fn wall() -> Timestamp {
    // Before 1970 counts as 1970: a machine without a battery has to work too.
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    Timestamp::from_unix_ms(since_1970.map_or(0, millis))
}

fn boottime_ms() -> u64 {
    millis(boottime())
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn boottime() -> Duration {
    read(rustix::time::ClockId::Boottime)
}

/// Elsewhere the monotonic clock is the best there is; on macOS it counts suspension too.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn boottime() -> Duration {
    read(rustix::time::ClockId::Monotonic)
}

fn read(clock: rustix::time::ClockId) -> Duration {
    let time = rustix::time::clock_gettime(clock);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), nanos)
}

/// A number of this boot of the machine, from the kernel's random id of it.
fn boot() -> i64 {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = id.chars().filter(char::is_ascii_hexdigit).take(15).collect();
    i64::from_str_radix(&digits, 16).unwrap_or(0)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3_600_000;

    fn anchor() -> Anchor {
        let wall = Timestamp::from_unix_ms(1_700_000_000_000);
        Anchor { instant: Instant::from_ms(5 * HOUR_MS), wall, boottime_ms: HOUR_MS, boot: 7 }
    }

    fn hours_after(anchor: Anchor, wall_ms: u64, boottime_ms: u64, boot: i64) -> u64 {
        let passed = resumed(anchor, Timestamp::from_unix_ms(wall_ms), boottime_ms, boot);
        passed.since(anchor.instant).as_secs() / 3600
    }

    #[test]
    fn a_restart_on_the_same_boot_counts_by_boottime_whatever_the_wall_clock_shows() {
        let unix_ms = anchor().wall.unix_ms();
        assert_eq!(hours_after(anchor(), unix_ms + 72 * HOUR_MS, 3 * HOUR_MS, 7), 2);
        assert_eq!(hours_after(anchor(), unix_ms - 72 * HOUR_MS, 3 * HOUR_MS, 7), 2);
    }

    #[test]
    fn a_restart_after_a_boot_counts_by_the_wall_clock_and_never_less_than_nothing() {
        let unix_ms = anchor().wall.unix_ms();
        assert_eq!(hours_after(anchor(), unix_ms + 8 * HOUR_MS, 60_000, 8), 8);
        assert_eq!(hours_after(anchor(), 0, 60_000, 8), 0, "a clock without a battery");
        let years = unix_ms + 9000 * HOUR_MS;
        assert_eq!(hours_after(anchor(), years, 60_000, 8), 8 * 24, "no history is lost by it");
        assert_eq!(hours_after(anchor(), unix_ms + 8 * HOUR_MS, 60_000, 0), 8, "boot unknown");
    }

    #[test]
    fn a_wall_clock_that_was_set_is_distinguished_from_one_that_drifts() {
        let later = |step_ms: i64| Now {
            instant: anchor().instant.after(Duration::from_secs(60)),
            wall: Timestamp::from_unix_ms(
                (anchor().wall.unix_ms() + 60_000).saturating_add_signed(step_ms),
            ),
        };
        assert!(!was_set(anchor(), later(0)) && !was_set(anchor(), later(-900)));
        assert!(was_set(anchor(), later(1100)) && was_set(anchor(), later(-3_600_000)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_sleep_until_an_instant_ends_when_it_has_come() {
        let clock = Clock::start();
        let soon = clock.now().instant.after(Duration::from_millis(1500));
        tokio::time::sleep_until(clock.tokio_instant(soon)).await;
        let now = clock.now().instant;
        assert!(now >= soon, "{now:?} is before {soon:?}");
        assert!(now.since(soon) <= Duration::from_millis(2));
    }
}
