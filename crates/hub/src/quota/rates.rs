//! Rates per key in a table of fixed size: how often something may happen on average, and how often at once (the generic
//! cell rate algorithm, ITU-T I.371, Annex A). One number is kept of a key: until when it has used its part up.
//!
//! A key has its place in one set of few slots, by a hash that is seeded anew at each start, so that nobody can choose
//! addresses that meet. In a full set the slot goes that has recovered first: it has the most of its part left, so the
//! least is forgotten. Who has more addresses than there are slots could use each of them once anyway.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, PoisonError};

use bellwire_core::Instant;

/// Parts with a lock each; a part has its memory from its first use on.
const PARTS: usize = 64;
/// Sets of a part, and slots of a set: 65,536 slots in all, some 2 MiB.
const SETS: usize = 128;
const SLOTS: usize = 8;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Table {
    Requests,
    Failures,
}

#[derive(Debug)]
pub(super) struct Rates {
    high: RandomState,
    low: RandomState,
    parts: Vec<Mutex<Vec<[Slot; SLOTS]>>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// Zero is nobody.
    key: u64,
    /// Microseconds of the monotonic clock; what is past has no effect.
    used_until_us: u64,
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            high: RandomState::new(),
            low: RandomState::new(),
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
        }
    }
}

impl Rates {
    /// A number for a key, that nobody outside can foresee.
    pub(super) fn hash(&self, key: impl Hash) -> u128 {
        u128::from(self.high.hash_one(&key)) << 64 | u128::from(self.low.hash_one(&key))
    }

    /// It happens once more, or is refused: then the milliseconds until it may.
    pub(super) fn take(
        &self,
        table: Table,
        key: &impl Hash,
        per_second: u64,
        burst: u64,
        now: Instant,
    ) -> Result<(), u64> {
        let cost_us = (1_000_000 / per_second.max(1)).max(1);
        let most_us = cost_us.saturating_mul(burst);
        self.with(self.hash((table, key)), now, |used_us| {
            let after = *used_us + cost_us;
            if after > most_us {
                return Err((after - most_us).div_ceil(1000));
            }
            *used_us = after;
            Ok(())
        })
        .unwrap_or(Ok(()))
    }

    /// It fails once more, which is forgotten at a rate of one in so many seconds: by how many there are too many, if so.
    /// No more of them count than some, so that it recovers within a bounded time.
    pub(super) fn fail(
        &self,
        key: &impl Hash,
        free: u64,
        one_in_s: u64,
        now: Instant,
    ) -> Option<u64> {
        const EXCESS_MAX: u64 = 16;
        let cost_us = one_in_s * 1_000_000;
        self.with(self.hash((Table::Failures, key)), now, |used_us| {
            *used_us = (*used_us + cost_us).min(cost_us * (free + EXCESS_MAX));
            used_us.div_ceil(cost_us).checked_sub(free).filter(|excess| *excess > 0)
        })?
    }

    /// Changes how far into the future a key has used its part up.
    fn with<T>(&self, hash: u128, now: Instant, change: impl FnOnce(&mut u64) -> T) -> Option<T> {
        let (key, place) = ((hash >> 64) as u64 | 1, hash as usize);
        let mut part =
            self.parts.get(place % PARTS)?.lock().unwrap_or_else(PoisonError::into_inner);
        if part.is_empty() {
            part.resize(SETS, [Slot::default(); SLOTS]);
        }
        let set = part.get_mut(place / PARTS % SETS)?;
        let found = set.iter().position(|slot| slot.key == key);
        let slot = match found {
            Some(at) => set.get_mut(at)?,
            None => {
                let recovered_first = set.iter_mut().min_by_key(|slot| slot.used_until_us)?;
                *recovered_first = Slot { key, used_until_us: 0 };
                recovered_first
            }
        };
        let now_us = now.ms().saturating_mul(1000);
        let mut used_us = slot.used_until_us.saturating_sub(now_us);
        let result = change(&mut used_us);
        slot.used_until_us = now_us.saturating_add(used_us);
        Some(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_does_not_grow_and_what_is_used_most_is_forgotten_last() {
        let rates = Rates::default();
        let now = Instant::from_ms(1_000_000);
        let busy = "192.0.2.1";
        while rates.take(Table::Requests, &busy, 1, 100, now).is_ok() {}
        for n in 0..5 * PARTS * SETS * SLOTS {
            assert!(rates.take(Table::Requests, &n, 1, 100, now).is_ok());
        }
        let slots: usize = rates.parts.iter().map(|part| part.lock().unwrap().len() * SLOTS).sum();
        assert_eq!(slots, PARTS * SETS * SLOTS);
        assert!(
            rates.take(Table::Requests, &busy, 1, 100, now).is_err(),
            "it has not been forgotten"
        );
    }
}
