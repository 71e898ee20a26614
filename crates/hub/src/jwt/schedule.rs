//! When the keys of a URL are fetched, and until when they are used. Decides and does nothing else: the time is an argument.

use std::time::Duration;

use bellwire_proto::limits::{
    JWT_FETCH_RETRY, JWT_KEYS_FRESH, JWT_KEYS_STALE_MAX, JWT_UNKNOWN_KID_EVERY,
};
use tokio::time::Instant;

/// One URL's fetches, of which one at a time is under way.
#[derive(Debug)]
pub(super) struct Schedule {
    due_at: Instant,
    begun_at: Option<Instant>,
    /// The end of the keys, if they cannot be fetched until then; `None` without keys.
    stale_at: Option<Instant>,
    failures: u32,
    under_way: bool,
}

/// How the keys are, for `/readyz`, the log and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeysState {
    /// As they should be.
    Ready,
    /// The last fetch failed; those of before are used.
    Stale,
    /// There are none, and no token works.
    Missing,
}

impl Schedule {
    /// The first fetch is due at once: who comes with a token until then waits for it.
    pub(super) fn new(now: Instant) -> Self {
        Self { due_at: now, begun_at: None, stale_at: None, failures: 0, under_way: true }
    }

    /// When something is to be done.
    pub(super) fn due_at(&self) -> Instant {
        self.stale_at.map_or(self.due_at, |stale_at| stale_at.min(self.due_at))
    }

    /// Whether a fetch is to begin now; then it has.
    pub(super) fn begins(&mut self, now: Instant) -> bool {
        if self.due_at > now {
            return false;
        }
        self.under_way = true;
        self.begun_at = Some(now);
        true
    }

    /// A token came whose key is not known: whether it is worth waiting for a fetch, which may begin because of it.
    pub(super) fn wanted(&mut self, now: Instant) -> bool {
        let rested = self.begun_at.is_none_or(|begun_at| {
            now.saturating_duration_since(begun_at) >= JWT_UNKNOWN_KID_EVERY
        });
        if !self.under_way && rested {
            self.under_way = true;
            self.due_at = now;
        }
        self.under_way
    }

    /// Keys came, which the answer says to be good for so long.
    pub(super) fn succeeded(&mut self, max_age: Option<Duration>, now: Instant) {
        let (least, most, usual) = JWT_KEYS_FRESH;
        self.under_way = false;
        self.failures = 0;
        self.due_at = now + max_age.map_or(usual, |age| age.clamp(least, most));
        self.stale_at = Some(self.due_at + JWT_KEYS_STALE_MAX);
    }

    /// None came: how long it is until the next attempt.
    pub(super) fn failed(&mut self, now: Instant) -> Duration {
        let (first, longest) = JWT_FETCH_RETRY;
        let pause = first.saturating_mul(2_u32.saturating_pow(self.failures)).min(longest);
        self.under_way = false;
        self.failures = self.failures.saturating_add(1);
        self.due_at = now + pause;
        pause
    }

    /// Whether the keys were used without a fetch for as long as they may be; then there are none any more.
    pub(super) fn ends(&mut self, now: Instant) -> bool {
        self.stale_at.take_if(|stale_at| *stale_at <= now).is_some()
    }

    pub(super) fn state(&self) -> KeysState {
        match (self.stale_at, self.failures) {
            (None, _) => KeysState::Missing,
            (Some(_), 0) => KeysState::Ready,
            (Some(_), _) => KeysState::Stale,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn fetched(max_age_s: Option<u64>) -> (Schedule, Instant) {
        let now = Instant::now();
        let mut schedule = Schedule::new(now);
        assert!(schedule.begins(now));
        schedule.succeeded(max_age_s.map(Duration::from_secs), now);
        (schedule, now)
    }

    #[test]
    fn keys_are_fetched_again_when_their_answer_says_within_five_minutes_and_a_day() {
        for (max_age_s, due_in_s) in
            [(Some(0), 300), (Some(600), 600), (Some(u64::MAX), 86_400), (None, 3600)]
        {
            let (mut schedule, now) = fetched(max_age_s);
            let due_at = now + Duration::from_secs(due_in_s);
            assert_eq!(schedule.due_at(), due_at, "{max_age_s:?}");
            assert!(!schedule.begins(due_at - SECOND) && schedule.begins(due_at), "{max_age_s:?}");
        }
    }

    #[test]
    fn an_unknown_key_causes_one_fetch_a_minute_and_waits_for_one_that_is_under_way() {
        let (mut schedule, now) = fetched(None);
        assert!(!schedule.wanted(now + 59 * SECOND), "it was fetched a moment ago");
        assert!(schedule.wanted(now + 60 * SECOND));
        assert!(schedule.begins(now + 60 * SECOND));
        assert!(schedule.wanted(now + 61 * SECOND), "it is under way");
        schedule.succeeded(None, now + 62 * SECOND);
        assert!(!schedule.wanted(now + 63 * SECOND) && !schedule.wanted(now + 119 * SECOND));
        assert!(schedule.wanted(now + 120 * SECOND));
        let mut first = Schedule::new(now);
        assert!(first.wanted(now), "the first one is about to begin");
    }

    #[test]
    fn while_fetches_fail_the_pauses_grow_and_the_keys_end_a_day_after_they_were_due() {
        let (mut schedule, now) = fetched(Some(300));
        let mut at = now + 300 * SECOND;
        let mut pauses = Vec::new();
        while !schedule.ends(at) {
            assert_ne!(schedule.state(), KeysState::Missing);
            assert!(schedule.begins(at) || pauses.is_empty());
            pauses.push(schedule.failed(at).as_secs());
            assert_eq!(schedule.state(), KeysState::Stale);
            at = schedule.due_at();
        }
        assert_eq!(pauses[..7], [10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(at.duration_since(now), Duration::from_secs(300 + 86_400));
        assert_eq!(schedule.state(), KeysState::Missing);
        assert!(!schedule.ends(at), "once");
        schedule.failed(at);
        schedule.succeeded(None, at);
        assert_eq!(schedule.state(), KeysState::Ready);
    }
}
