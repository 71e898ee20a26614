//! A line of the log for something that may occur thousands of times a minute: the first at once, then summaries, with a
//! pause between them that grows.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The pause after the first line; it doubles with each one.
const PAUSE_MIN: Duration = Duration::from_secs(10);
/// The longest pause. After twice as long without an occurrence the next one is a first again.
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// Decides which occurrences are logged.
#[derive(Debug, Default)]
pub(super) struct Paced(Mutex<Option<State>>);

#[derive(Debug)]
struct State {
    last: Instant,
    next: Instant,
    pause: Duration,
    unreported: u64,
}

impl Paced {
    /// Counts an occurrence. If it is to be logged: how many there were since the line before, with this one.
    pub(super) fn occurred(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *state {
            Some(state) if now.saturating_duration_since(state.last) < 2 * PAUSE_MAX => {
                state.last = now;
                state.unreported += 1;
                if now < state.next {
                    return None;
                }
                state.pause = (2 * state.pause).min(PAUSE_MAX);
                state.next = now + state.pause;
                Some(std::mem::take(&mut state.unreported))
            }
            state => {
                *state = Some(State {
                    last: now,
                    next: now + PAUSE_MIN,
                    pause: PAUSE_MIN,
                    unreported: 0,
                });
                Some(1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At the limit of open files the log grew by ten lines a second.
    #[test]
    fn what_occurs_all_the_time_is_logged_ever_less_often_and_counted() {
        let (paced, start) = (Paced::default(), Instant::now());
        let logged: Vec<(u32, u64)> = (0..36_000)
            .filter_map(|n| Some((n, paced.occurred(start + n * Duration::from_millis(100))?)))
            .collect();
        let expected = [(0, 1), (100, 100), (300, 200), (700, 400), (1500, 800), (3100, 1600)];
        assert_eq!(logged[..6], expected);
        assert!(logged.windows(2).skip(6).all(|pair| pair[1].0 - pair[0].0 <= 6000), "{logged:?}");
        assert!(logged.len() < 15, "an hour of it: {logged:?}");
        let after = start + Duration::from_secs(3600) + 2 * PAUSE_MAX;
        assert_eq!(paced.occurred(after), Some(1), "a first one again");
        assert_eq!(paced.occurred(after + PAUSE_MIN), Some(1));
    }
}
