//! The polls: when the next is due, how long it is held, and what its loss means.
//!
//! A poll that comes back late is not yet the network's end: a middlebox may limit the time to the first byte. So after one that
//! failed while it was held, a poll that is not held follows at once; if that works, the hold is halved, and if not, neither way
//! works.

use super::deadlines::{
    COVER_MAX_MS, EARLY_ANSWER_MS, FLOOR_FAILURES_MAX, HELD_MIN_MS, HOLD_GROWS_AFTER_MS,
    HOLD_S_MAX, HOLD_S_MIN, POLL_GRACE_MAX_MS, POLL_GRACE_MS, POLL_GRACE_STEP_MS,
    POLL_RETRY_MAX_MS, POLL_RETRY_MS, SHORT_POLL_MS,
};
use super::{Contact, Output, Path, PathHint};

#[derive(Debug)]
pub(super) struct Poller {
    in_flight: Option<InFlight>,
    /// When the next is due, if one is needed.
    pub(super) next_at: u64,
    hold_s: u64,
    /// Polls are not held, for none that was held came back.
    is_short: bool,
    /// Since when none was held too long.
    steady_since: u64,
    /// The last one was held too long, or the network is gone: the next one shows.
    doubt: Option<Doubt>,
    floor_failures: u32,
    timeouts: u32,
    early_answers: u32,
    /// Failures in a row.
    failures: u32,
    /// Losses of both ways in a row.
    pub(super) losses: u32,
    /// Why the last one failed.
    pub(super) why: Option<String>,
}

#[derive(Debug)]
struct InFlight {
    sent: u64,
    wait_s: u64,
}

/// What holds again if it was not the hold.
#[derive(Debug)]
struct Doubt {
    hold_s: u64,
    is_short: bool,
}

/// Why there is no answer of the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PollFailure {
    /// Whose fault it may be.
    pub kind: PollFailureKind,
    /// The pause before the next try that the hub requests, in milliseconds.
    pub pause_ms: Option<u64>,
    /// What failed, as a sentence for an operator.
    pub why: String,
}

/// Whose fault a failed poll may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PollFailureKind {
    /// No connection, or the hub itself refuses: a stream would fare the same.
    Unreachable,
    /// No answer in time, an empty one, or a 502, 503 or 504 that is not the hub's.
    TimedOut,
    /// An answer that is not the hub's.
    NotOurs,
}

impl Poller {
    pub(super) fn new(now: u64, hint: Option<&PathHint>) -> Self {
        let hold_s = hint.map_or(HOLD_S_MAX, |hint| hint.hold_s);
        Self {
            in_flight: None,
            next_at: now,
            hold_s: hold_s.clamp(HOLD_S_MIN, HOLD_S_MAX),
            is_short: false,
            steady_since: now,
            doubt: None,
            floor_failures: 0,
            timeouts: 0,
            early_answers: 0,
            failures: 0,
            losses: 0,
            why: None,
        }
    }

    /// Forgets what was known of the network. Returns whether a poll is to be dropped.
    pub(super) fn reset(&mut self, now: u64) -> bool {
        let is_in_flight = self.in_flight.is_some();
        let doubt = Some(Doubt { hold_s: HOLD_S_MAX, is_short: false });
        *self = Self { doubt, ..Self::new(now, None) };
        is_in_flight
    }

    pub(super) fn hold_s(&self) -> u64 {
        self.hold_s
    }

    pub(super) fn is_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Returns whether a poll is to be dropped.
    pub(super) fn drop_in_flight(&mut self) -> bool {
        self.in_flight.take().is_some()
    }

    /// Whether the last one failed.
    pub(super) fn fails(&self) -> bool {
        self.failures > 0
    }
}

impl Path {
    /// When the next poll is due; `None` while none is needed.
    pub(super) fn next_poll_at(&self) -> Option<u64> {
        if self.poller.in_flight.is_some() {
            return None;
        }
        match self.contact {
            Contact::Lost { retry_at, .. } => Some(retry_at),
            Contact::Since(_) if self.streamer.carries() || self.streamer.is_being_confirmed() => {
                None
            }
            Contact::Since(_) => Some(self.poller.next_at),
        }
    }

    pub(super) fn start_poll(&mut self, now: u64) {
        if self.next_poll_at().is_none_or(|at| at > now) {
            return;
        }
        let poller = &mut self.poller;
        if now.saturating_sub(poller.steady_since) >= HOLD_GROWS_AFTER_MS {
            if !std::mem::take(&mut poller.is_short) {
                poller.hold_s = (poller.hold_s * 3 / 2).min(HOLD_S_MAX);
            }
            (poller.steady_since, poller.floor_failures) = (now, 0);
        }
        let at_once = poller.is_short
            || poller.doubt.is_some()
            || matches!(self.contact, Contact::Lost { .. });
        let wait_s = if at_once { 0 } else { poller.hold_s };
        let grace_ms = u64::from(poller.timeouts)
            .saturating_mul(POLL_GRACE_STEP_MS)
            .saturating_add(POLL_GRACE_MS)
            .min(POLL_GRACE_MAX_MS);
        poller.in_flight = Some(InFlight { sent: now, wait_s });
        self.note_poll();
        self.outputs.push_back(Output::Poll { wait_s, timeout_ms: wait_s * 1000 + grace_ms });
    }

    /// The hub has answered a poll. `exchange_ms` is the time from sending the request, besides
    /// what the hub held it; `is_news` is whether it bore anything that was not known.
    pub fn handle_poll_answer(&mut self, now: u64, exchange_ms: u64, is_news: bool) {
        let Some(InFlight { sent, wait_s }) = self.poller.in_flight.take() else { return };
        let took_ms = now.saturating_sub(sent);
        self.exchanges.note(exchange_ms);
        let poller = &mut self.poller;
        if poller.doubt.take().is_none() {
            poller.timeouts = 0;
        }
        (poller.failures, self.silent_since) = (0, None);
        let is_early = wait_s > 0 && !is_news && took_ms < wait_s * 1000 / 2;
        poller.early_answers = if is_early { poller.early_answers.saturating_add(1) } else { 0 };
        poller.next_at = now
            + match (poller.early_answers, poller.is_short) {
                // One is in order: the stream may have carried the same command a moment before.
                (0 | 1, false) => 0,
                (0 | 1, true) => self.random.spread(SHORT_POLL_MS),
                (n, _) => {
                    let pause = EARLY_ANSWER_MS << (n - 2).min(5);
                    self.random.spread(pause.min(SHORT_POLL_MS))
                }
            };
        self.gain(now);
        self.advance(now);
    }

    /// A poll has failed.
    pub fn handle_poll_failure(&mut self, now: u64, failure: PollFailure) {
        let Some(InFlight { sent, wait_s }) = self.poller.in_flight.take() else { return };
        let PollFailure { kind, pause_ms, why } = failure;
        if let Some(since) = self.silent_since {
            self.streamer.note_silence(now.saturating_sub(since));
        }
        let poller = &mut self.poller;
        poller.why = Some(why);
        poller.failures = poller.failures.saturating_add(1);
        let was_held = wait_s > 0 && now.saturating_sub(sent) >= HELD_MIN_MS;
        if kind == PollFailureKind::TimedOut {
            poller.timeouts = poller.timeouts.saturating_add(1);
        }
        if kind == PollFailureKind::TimedOut && was_held && pause_ms.is_none() {
            poller.held_too_long(now);
            poller.next_at = now;
            return self.advance(now);
        }
        if let Some(Doubt { hold_s, is_short }) = poller.doubt.take() {
            // It was not the hold: the network is gone.
            (poller.hold_s, poller.is_short) = (hold_s, is_short);
        }
        if self.streamer.is_live() {
            let ceiling = POLL_RETRY_MS << poller.failures.min(10);
            poller.next_at =
                now + pause_ms.unwrap_or(0).max(self.random.spread(ceiling.min(POLL_RETRY_MAX_MS)));
        } else {
            self.lose(now, pause_ms, kind != PollFailureKind::Unreachable);
        }
        self.advance(now);
    }

    /// A good stream has ended: the poll that covers the gap is due.
    pub(super) fn cover_gap(&mut self, now: u64, in_order: bool) {
        let pause = if in_order { 0 } else { self.random.below(COVER_MAX_MS) };
        (self.poller.next_at, self.poller.failures) = (now + pause, 0);
    }
}

impl Poller {
    fn held_too_long(&mut self, now: u64) {
        self.doubt = Some(Doubt { hold_s: self.hold_s, is_short: self.is_short });
        self.steady_since = now;
        if self.hold_s > HOLD_S_MIN {
            self.hold_s = (self.hold_s / 2).max(HOLD_S_MIN);
        } else {
            self.floor_failures += 1;
            self.is_short = self.floor_failures >= FLOOR_FAILURES_MAX;
        }
    }
}
