//! Rates per key in a table of bounded size: how often something may happen on average, and how often at once (the generic
//! cell rate algorithm, ITU-T I.371, Annex A). One number is kept of a key: until when it has used its rate up.
//!
//! A key belongs to one set of few slots, by a hash that is seeded anew at each start, so that no client can choose addresses
//! that collide. A slot that has recovered is free; the table grows when a set has no free slot, so a fleet whose devices send
//! few requests takes next to no memory. When a set of the largest table is full, a new key evicts the slot that recovers first:
//! it has used the least, so the least is forgotten. A client with more addresses than there are slots could use each of them
//! once anyway.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, PoisonError};

use bellwire_core::Instant;

/// Tables with a lock each.
const STRIPES: usize = 64;
/// Sets of a stripe at most, and slots of a set: 65,536 slots in all, 1 MiB.
const SETS_MAX: usize = 128;
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
    stripes: Vec<Mutex<Stripe>>,
}

/// Sets of slots: none, or a power of two.
#[derive(Debug, Default)]
struct Stripe(Vec<[Slot; SLOTS]>);

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// Zero: the slot is free.
    key: u64,
    /// Microseconds of the monotonic clock; what is past has no effect.
    used_until_us: u64,
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            high: RandomState::new(),
            low: RandomState::new(),
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
        }
    }
}

impl Rates {
    /// A number for a key, that no client can foresee.
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

    /// Changes how far into the future a key has used its rate up.
    fn with<T>(&self, hash: u128, now: Instant, change: impl FnOnce(&mut u64) -> T) -> Option<T> {
        let (key, position) = ((hash >> 64) as u64 | 1, hash as usize);
        let now_us = now.ms().saturating_mul(1000);
        let stripe = self.stripes.get(position % STRIPES)?;
        // Nothing panics while it is held.
        let mut stripe = stripe.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = stripe.slot(key, now_us)?;
        let mut used_us = slot.used_until_us.saturating_sub(now_us);
        let result = change(&mut used_us);
        slot.used_until_us = now_us.saturating_add(used_us);
        Some(result)
    }
}

impl Stripe {
    /// The slot of a key, or another that becomes its own.
    fn slot(&mut self, key: u64, now_us: u64) -> Option<&mut Slot> {
        let at = loop {
            let set = self.set(key);
            let full = set.is_none_or(|set| {
                set.iter().all(|slot| slot.key != key && slot.used_until_us > now_us)
            });
            if !full || self.0.len() >= SETS_MAX {
                break self.set_index(key);
            }
            self.grow(now_us);
        };
        let set = self.0.get_mut(at)?;
        match set.iter().position(|slot| slot.key == key) {
            Some(at) => set.get_mut(at),
            None => {
                let recovers_first = set.iter_mut().min_by_key(|slot| slot.used_until_us)?;
                *recovers_first = Slot { key, used_until_us: 0 };
                Some(recovers_first)
            }
        }
    }

    fn set(&self, key: u64) -> Option<&[Slot; SLOTS]> {
        self.0.get(self.set_index(key))
    }

    /// By other bits of the key than the stripe.
    fn set_index(&self, key: u64) -> usize {
        (key >> 1) as usize & self.0.len().saturating_sub(1)
    }

    /// Twice as many sets; what was in one set is in two.
    fn grow(&mut self, now_us: u64) {
        let larger = vec![[Slot::default(); SLOTS]; (self.0.len() * 2).max(1)];
        for slot in std::mem::replace(&mut self.0, larger).into_iter().flatten() {
            let at = self.set_index(slot.key);
            let set = self.0.get_mut(at).into_iter().flatten();
            if slot.used_until_us > now_us
                && let Some(free) = set.into_iter().find(|free| free.used_until_us == 0)
            {
                *free = slot;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(rates: &Rates) -> usize {
        rates.stripes.iter().map(|stripe| stripe.lock().unwrap().0.len() * SLOTS).sum()
    }

    #[test]
    fn what_has_recovered_takes_no_memory_and_what_has_not_is_remembered_while_the_table_grows() {
        let rates = Rates::default();
        let at = |ms: u64| Instant::from_ms(1_000_000 + ms);
        // A fleet that connects: 20 in a millisecond, each once, and each may 100 times a second.
        for n in 0..100_000_u64 {
            assert!(rates.take(Table::Requests, &n, 100, 1000, at(n / 20)).is_ok());
        }
        assert!(slots(&rates) <= STRIPES * SLOTS * 4, "{} slots", slots(&rates));
        let busy: Vec<u64> = (0..2_000).collect();
        for n in &busy {
            while rates.take(Table::Requests, n, 1, 10, at(10_000)).is_ok() {}
        }
        for n in 1_000_000..1_010_000_u64 {
            assert!(rates.take(Table::Requests, &n, 1, 10, at(10_001)).is_ok());
        }
        for n in &busy {
            assert!(rates.take(Table::Requests, n, 1, 10, at(10_002)).is_err(), "{n} is forgotten");
        }
    }

    #[test]
    fn the_table_does_not_grow_and_what_is_used_most_is_forgotten_last() {
        let rates = Rates::default();
        let now = Instant::from_ms(1_000_000);
        let busy = "192.0.2.1";
        while rates.take(Table::Requests, &busy, 1, 100, now).is_ok() {}
        for n in 0..5 * STRIPES * SETS_MAX * SLOTS {
            assert!(rates.take(Table::Requests, &n, 1, 100, now).is_ok());
        }
        assert_eq!(slots(&rates), STRIPES * SETS_MAX * SLOTS);
        assert!(
            rates.take(Table::Requests, &busy, 1, 100, now).is_err(),
            "it has not been forgotten"
        );
    }
}
