//! Random waits from one seed: SplitMix64 (Steele, Lea, Flood 2014).

use super::deadlines::JITTER_PERCENT;

#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to `most`.
    pub(super) fn below(&mut self, most: u64) -> u64 {
        match most.checked_add(1) {
            Some(values) => self.next() % values,
            None => self.next(),
        }
    }

    /// `ms`, spread by [`JITTER_PERCENT`] to both sides.
    pub(super) fn spread(&mut self, ms: u64) -> u64 {
        let part = ms / 100 * JITTER_PERCENT;
        ms - part + self.below(2 * part)
    }
}
