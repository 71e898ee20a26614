//! The hub's clock: the wall clock as it was at the start, and the time elapsed since.
//!
//! Everything that the hub reports or decides uses this one clock, so that no time that it gave is
//! ever taken back: setting the machine's clock moves no deadline. What it does not follow is the
//! correction of a clock that was wrong at the start; a restart does.

use std::time::{SystemTime, UNIX_EPOCH};

use bellwire_proto::Timestamp;
use tokio::time::{Duration, Instant};

/// Unix time that never goes back. Inside a tokio runtime whose time is paused it stands still.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
    start_unix_ms: u64,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        // Before 1970 counts as 1970: a machine without a battery-backed clock has to work too.
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        Self { start: Instant::now(), start_unix_ms: since_1970.map_or(0, millis) }
    }

    /// What time it is.
    pub fn now(&self) -> Timestamp {
        Timestamp::from_unix_ms(self.start_unix_ms.saturating_add(millis(self.elapsed())))
    }

    /// When on tokio's clock it will be `time`; a time before the start is the start.
    ///
    /// A clock of whole milliseconds would wake a sleeper up to one too early, hence one is added.
    pub(crate) fn instant(&self, time: Timestamp) -> Instant {
        let ms = time.unix_ms().saturating_sub(self.start_unix_ms);
        self.start + Duration::from_millis(ms.saturating_add(1))
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}

impl crate::plane::Clock for Clock {
    fn unix_ms(&self) -> u64 {
        self.now().unix_ms()
    }

    fn up_ms(&self) -> u64 {
        millis(self.elapsed())
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_sleep_until_a_time_ends_at_that_time_or_after() {
        let clock = Clock::start();
        let soon = clock.now().after(Duration::from_millis(1500));
        tokio::time::sleep_until(clock.instant(soon)).await;
        assert!(clock.now() >= soon, "{} is before {soon}", clock.now());
        assert!(clock.now().since(soon) <= Duration::from_millis(2));
    }
}
