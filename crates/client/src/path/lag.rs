//! Whether a stream's bytes are on time, by the hub's own clock.
//!
//! Each hello and heartbeat says when the hub wrote it, counted from the arrival of the request. What it took beyond that since
//! the request was sent is its lag: the time of the exchange, and what a middlebox added. The clocks of hub and device need
//! not agree.
//!
//! A middlebox that is one write behind does not delay a heartbeat that something is written right after. So commands count
//! too: what a poll has brought, the hub wrote into the stream at the same moment.

use std::collections::VecDeque;

use bellwire_proto::CommandId;

use super::deadlines::{COPY_LAG_MS, EXCHANGES, LAG_ALLOWANCE_MAX_MS, LAG_MS, LAGS, LATE_MAX};

/// How long exchanges took besides what the hub held them, from the sending of the request.
#[derive(Debug, Default)]
pub(super) struct Exchanges {
    /// The latest, newest last.
    latest_ms: VecDeque<u64>,
}

impl Exchanges {
    pub(super) fn note(&mut self, exchange_ms: u64) {
        if self.latest_ms.len() == EXCHANGES {
            self.latest_ms.pop_front();
        }
        self.latest_ms.push_back(exchange_ms);
    }

    /// One delay must not count: it would excuse the lag of a middlebox that is one write behind. So of two the shorter one.
    pub(super) fn median_ms(&self) -> Option<u64> {
        let mut sorted: Vec<u64> = self.latest_ms.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len().saturating_sub(1) / 2).copied()
    }
}

#[derive(Debug, Default)]
pub(super) struct Lags {
    /// The latest, newest first: whether it was late.
    late: [bool; LAGS],
    /// The lag of the hello.
    hello_ms: u64,
    /// The oldest command that a poll has brought and the stream has not.
    awaited: Option<Awaited>,
}

/// The copy of a command that must arrive.
#[derive(Debug)]
struct Awaited {
    /// The command, and which attempt.
    copy: (CommandId, u32),
    /// When the poll brought it.
    since: u64,
}

impl Lags {
    /// Notes the lag of the hello.
    pub(super) fn hello(&mut self, lag_ms: u64, exchange_ms: Option<u64>) {
        self.hello_ms = lag_ms;
        self.note(lag_ms, exchange_ms);
    }

    /// Notes a lag, and returns whether it is within the limit.
    pub(super) fn note(&mut self, lag_ms: u64, exchange_ms: Option<u64>) -> bool {
        let is_late = lag_ms > self.limit_ms(exchange_ms);
        self.push(is_late);
        !is_late
    }

    /// Remembers the newest of [`LAGS`].
    fn push(&mut self, is_late: bool) {
        self.late.rotate_right(1);
        if let Some(newest) = self.late.first_mut() {
            *newest = is_late;
        }
    }

    /// A poll has brought a command that the stream has not. While a copy is awaited, later ones are not: one delay is one lag.
    pub(super) fn await_copy(&mut self, now: u64, copy: (CommandId, u32)) {
        self.awaited.get_or_insert(Awaited { copy, since: now });
    }

    /// The stream has brought a command.
    pub(super) fn note_copy(&mut self, copy: (CommandId, u32)) {
        self.awaited.take_if(|awaited| awaited.copy == copy);
    }

    pub(super) fn awaits_copy(&self) -> bool {
        self.awaited.is_some()
    }

    /// What is read now may have waited for its reader.
    pub(super) fn excuse_copy(&mut self) {
        self.awaited = None;
    }

    /// When a copy is late that has not arrived until then.
    pub(super) fn copy_due_at(&self, exchange_ms: Option<u64>) -> Option<u64> {
        Some(self.awaited.as_ref()?.since + copy_limit_ms(exchange_ms))
    }

    /// Notes a copy that is late by now.
    pub(super) fn check_copy(&mut self, now: u64, exchange_ms: Option<u64>) {
        if self.copy_due_at(exchange_ms).is_some_and(|due_at| due_at <= now) {
            self.awaited = None;
            self.push(true);
        }
    }

    pub(super) fn is_lagging(&self) -> bool {
        self.late.iter().filter(|late| **late).count() >= LATE_MAX
    }

    /// The limit. An exchange that ends takes as long as the beginning of a stream; where none was measured, the hello's own lag
    /// stands for it.
    pub(super) fn limit_ms(&self, exchange_ms: Option<u64>) -> u64 {
        limit_ms(exchange_ms.unwrap_or(self.hello_ms.min(LAG_ALLOWANCE_MAX_MS)))
    }
}

/// How much later than a poll's copy of a command a stream's may be.
pub(super) fn copy_limit_ms(exchange_ms: Option<u64>) -> u64 {
    COPY_LAG_MS + exchange_ms.unwrap_or_default().min(LAG_ALLOWANCE_MAX_MS)
}

/// The greatest lag that is not late, where an exchange of request and answer takes this long. A stream fails when
/// [`LATE_MAX`](super::deadlines::LATE_MAX) of its last lags are late.
pub fn limit_ms(exchange_ms: u64) -> u64 {
    let allowance_ms = exchange_ms.min(LAG_ALLOWANCE_MAX_MS);
    (LAG_MS + allowance_ms).max(exchange_ms.saturating_mul(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_of_four_late_ones_fail_a_stream_and_a_slow_link_has_time() {
        let mut lags = Lags::default();
        lags.hello(40, Some(30));
        for (lag_ms, on_time) in [(500, true), (900, false), (10, true), (10, true), (10, true)] {
            assert_eq!(lags.note(lag_ms, Some(30)), on_time, "{lag_ms}");
            assert!(!lags.is_lagging(), "one retransmission");
        }
        lags.note(900, Some(30));
        lags.note(10, Some(30));
        lags.note(900, Some(30));
        assert!(lags.is_lagging());
        assert_eq!(Lags::default().limit_ms(Some(2400)), 4800, "a satellite");
    }

    #[test]
    fn one_delay_does_not_count_and_a_link_that_became_slow_does() {
        let mut exchanges = Exchanges::default();
        assert_eq!(exchanges.median_ms(), None);
        for (exchange_ms, median_ms) in
            [(3000, 3000), (40, 40), (50, 50), (900, 50), (900, 900), (900, 900), (900, 900)]
        {
            exchanges.note(exchange_ms);
            assert_eq!(exchanges.median_ms(), Some(median_ms), "{exchanges:?}");
        }
    }

    /// One write behind, the hello arrives with the first probe: an allowance of its own delay hid that.
    #[test]
    fn a_middlebox_that_is_one_write_behind_is_late_at_the_hello() {
        let mut lags = Lags::default();
        lags.hello(1040, Some(40));
        lags.note(1040, Some(40));
        assert!(lags.is_lagging());
    }
}
