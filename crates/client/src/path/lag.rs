//! Whether a stream's bytes are on time, by the hub's own clock.
//!
//! Each hello and heartbeat says when the hub wrote it, counted from the arrival of the request. What it took beyond that since
//! the request was sent is its lag: the time of the exchange, and what a middlebox added. The clocks of hub and device need
//! not agree.

use super::deadlines::{LAG_ALLOWANCE_MAX_MS, LAG_MS, LAGS, LATE_MAX};

#[derive(Debug, Default)]
pub(super) struct Lags {
    /// The latest, newest first: whether it was late.
    late: [bool; LAGS],
    /// The lag of the hello.
    hello_ms: u64,
}

impl Lags {
    /// Notes the lag of the hello.
    pub(super) fn hello(&mut self, lag_ms: u64, rtt_ms: Option<u64>) {
        self.hello_ms = lag_ms;
        self.note(lag_ms, rtt_ms);
    }

    /// Notes a lag, and returns whether it is within the limit.
    pub(super) fn note(&mut self, lag_ms: u64, rtt_ms: Option<u64>) -> bool {
        let is_late = lag_ms > self.limit_ms(rtt_ms);
        self.late.rotate_right(1);
        if let Some(newest) = self.late.first_mut() {
            *newest = is_late;
        }
        !is_late
    }

    pub(super) fn is_lagging(&self) -> bool {
        self.late.iter().filter(|late| **late).count() >= LATE_MAX
    }

    /// The limit. An exchange that ends takes as long as the beginning of a stream, a new connection included; where that was
    /// not measured, the hello's own lag stands for it.
    pub(super) fn limit_ms(&self, rtt_ms: Option<u64>) -> u64 {
        let exchange_ms = rtt_ms.unwrap_or(self.hello_ms.min(LAG_ALLOWANCE_MAX_MS));
        (LAG_MS + exchange_ms.min(LAG_ALLOWANCE_MAX_MS)).max(2 * exchange_ms)
    }
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

    /// One write behind, the hello arrives with the first probe: an allowance of its own delay hid that.
    #[test]
    fn a_middlebox_that_is_one_write_behind_is_late_at_the_hello() {
        let mut lags = Lags::default();
        lags.hello(1040, Some(40));
        lags.note(1040, Some(40));
        assert!(lags.is_lagging());
    }
}
