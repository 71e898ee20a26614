//! How long commits took, for metrics: a histogram that the writer adds to with relaxed atomics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The upper ends of the buckets, in seconds. An fsync is a tenth of a millisecond on a good disk and a second on a bad one.
const ENDS_S: [f64; 12] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// What commits of a store took since its start.
#[derive(Debug, Default)]
pub struct CommitTimes {
    /// One for each of [`ENDS_S`], and one for what took longer.
    buckets: [AtomicU64; ENDS_S.len() + 1],
    sum_us: AtomicU64,
}

/// A snapshot of [`CommitTimes`].
#[derive(Debug, Clone, PartialEq)]
pub struct CommitCounts {
    /// The upper end of each bucket in seconds, the last infinite, and how many commits are in it and in no earlier one.
    pub buckets: Vec<(f64, u64)>,
    /// What all took together, in seconds.
    pub sum_s: f64,
}

impl CommitTimes {
    /// A commit took so long.
    pub fn took(&self, time: Duration) {
        let at = ENDS_S.iter().position(|end| time.as_secs_f64() <= *end).unwrap_or(ENDS_S.len());
        if let Some(bucket) = self.buckets.get(at) {
            bucket.fetch_add(1, Relaxed);
        }
        self.sum_us.fetch_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    /// What it is now.
    pub fn counts(&self) -> CommitCounts {
        let ends = ENDS_S.into_iter().chain([f64::INFINITY]);
        let counts = self.buckets.iter().map(|count| count.load(Relaxed));
        CommitCounts {
            buckets: ends.zip(counts).collect(),
            sum_s: Duration::from_micros(self.sum_us.load(Relaxed)).as_secs_f64(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_in_the_first_bucket_that_it_fits_into() {
        let times = CommitTimes::default();
        for ms in [0, 1, 2, 3, 60_000] {
            times.took(Duration::from_millis(ms));
        }
        let CommitCounts { buckets, sum_s } = times.counts();
        let filled: Vec<_> = buckets.iter().filter(|(_, count)| *count > 0).copied().collect();
        assert_eq!(filled, [(0.0005, 1), (0.001, 1), (0.002, 1), (0.005, 1), (f64::INFINITY, 1)]);
        assert!((sum_s - 60.006).abs() < 1e-6, "{sum_s}");
    }
}
