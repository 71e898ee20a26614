//! One deadline per slot of a shard, in constant time: a hashed timer wheel whose lists run through
//! a table beside the streams.
//!
//! A deadline beyond one revolution of the wheel stays in its bucket and is checked once per
//! revolution. The wheel knows slots and milliseconds, but no streams and no clock.

/// How late a deadline may fire. Two of them are the pause of `compat=1` (contract, section 4).
pub(crate) const TICK_MS: u64 = 50;
/// One revolution is 204.8 s: longer than most heartbeats.
const BUCKETS: usize = 4096;
const NONE: u32 = u32::MAX;

pub(crate) struct Wheel {
    /// The first slot of each bucket.
    buckets: Box<[u32]>,
    /// One bit for each bucket that is not empty.
    occupied: Box<[u64]>,
    links: Vec<Link>,
    /// Every bucket up to and including this tick has been emptied of what was due.
    done: u64,
}

#[derive(Clone, Copy)]
struct Link {
    prev: u32,
    next: u32,
    /// The tick at which the slot is due; 0 means that it has no deadline.
    due: u64,
}

const UNLINKED: Link = Link { prev: NONE, next: NONE, due: 0 };

impl Wheel {
    pub(crate) fn new(now_ms: u64) -> Self {
        Self {
            buckets: vec![NONE; BUCKETS].into(),
            occupied: vec![0; BUCKETS / 64].into(),
            links: Vec::new(),
            done: now_ms / TICK_MS,
        }
    }

    /// Sets the slot's deadline, replacing the one it had. It fires at `due_ms` or up to a tick
    /// later; a moment that has passed fires with the next tick.
    pub(crate) fn set(&mut self, slot: u32, due_ms: u64) {
        let due = due_ms.div_ceil(TICK_MS).max(self.done + 1);
        if self.links.len() <= slot as usize {
            self.links.resize(slot as usize + 1, UNLINKED);
        }
        if self.link(slot).due == due {
            return;
        }
        self.clear(slot);
        let bucket = bucket_of(due);
        let next = std::mem::replace(self.bucket(bucket), slot);
        *self.link(slot) = Link { prev: NONE, next, due };
        if next == NONE {
            self.mark(bucket, true);
        } else {
            self.link(next).prev = slot;
        }
    }

    /// Takes the slot's deadline away, if it has one.
    pub(crate) fn clear(&mut self, slot: u32) {
        let Some(link) = self.links.get_mut(slot as usize) else {
            return;
        };
        let Link { prev, next, due } = std::mem::replace(link, UNLINKED);
        if due == 0 {
            return;
        }
        if next != NONE {
            self.link(next).prev = prev;
        }
        if prev != NONE {
            self.link(prev).next = next;
            return;
        }
        let bucket = bucket_of(due);
        *self.bucket(bucket) = next;
        if next == NONE {
            self.mark(bucket, false);
        }
    }

    /// Moves to `now_ms`; every slot that is due is pushed to `fired` and has no deadline any more.
    pub(crate) fn advance(&mut self, now_ms: u64, fired: &mut Vec<u32>) {
        let now = now_ms / TICK_MS;
        // After a pause longer than a revolution, one check of each bucket is enough.
        let first = (self.done + 1).max(now.saturating_sub(BUCKETS as u64 - 1));
        for tick in first..=now {
            let mut slot = *self.bucket(bucket_of(tick));
            while slot != NONE {
                let Link { next, due, .. } = *self.link(slot);
                if due <= now {
                    self.clear(slot);
                    fired.push(slot);
                }
                slot = next;
            }
        }
        self.done = self.done.max(now);
    }

    /// When to advance again, in milliseconds from `now_ms`: never later than the nearest deadline,
    /// and `None` when there is none.
    pub(crate) fn wait_ms(&self, now_ms: u64) -> Option<u64> {
        let start = bucket_of(self.done + 1);
        let words = self.occupied.len();
        for step in 0..=words {
            let at = (start / 64 + step) % words;
            let mut word = self.occupied.get(at).copied().unwrap_or(0);
            if step == 0 {
                word &= u64::MAX << (start % 64);
            }
            if word != 0 {
                let bucket = at * 64 + word.trailing_zeros() as usize;
                let ticks = (bucket + BUCKETS - start) % BUCKETS;
                let tick = self.done + 1 + ticks as u64;
                return Some((tick * TICK_MS).saturating_sub(now_ms));
            }
        }
        None
    }

    #[expect(clippy::indexing_slicing, reason = "a linked slot is in the table")]
    fn link(&mut self, slot: u32) -> &mut Link {
        &mut self.links[slot as usize]
    }

    #[expect(clippy::indexing_slicing, reason = "bucket_of is below BUCKETS")]
    fn bucket(&mut self, bucket: usize) -> &mut u32 {
        &mut self.buckets[bucket]
    }

    #[expect(clippy::indexing_slicing, reason = "bucket_of is below BUCKETS")]
    fn mark(&mut self, bucket: usize, occupied: bool) {
        let bit = 1 << (bucket % 64);
        if occupied {
            self.occupied[bucket / 64] |= bit;
        } else {
            self.occupied[bucket / 64] &= !bit;
        }
    }
}

fn bucket_of(tick: u64) -> usize {
    (tick % BUCKETS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn fired(wheel: &mut Wheel, now_ms: u64) -> Vec<u32> {
        let mut fired = Vec::new();
        wheel.advance(now_ms, &mut fired);
        fired.sort_unstable();
        fired
    }

    #[test]
    fn a_deadline_fires_once_and_not_before_its_time() {
        let mut wheel = Wheel::new(1000);
        wheel.set(7, 16_010);
        assert!(fired(&mut wheel, 16_009).is_empty());
        assert_eq!(fired(&mut wheel, 16_050), [7]);
        assert!(fired(&mut wheel, 1_000_000).is_empty());
        assert_eq!(wheel.wait_ms(1_000_000), None);
    }

    #[test]
    fn a_deadline_beyond_one_revolution_fires_in_its_own() {
        let mut wheel = Wheel::new(0);
        wheel.set(1, 600_000);
        wheel.set(2, 600_000 % (BUCKETS as u64 * TICK_MS));
        assert_eq!(fired(&mut wheel, 599_999), [2]);
        assert_eq!(fired(&mut wheel, 600_000), [1]);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Set(u32, u64),
        Clear(u32),
        Advance(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..20u32, 0..700_000u64).prop_map(|(slot, ms)| Step::Set(slot, ms)),
            (0..20u32).prop_map(Step::Clear),
            (0..30_000u64).prop_map(Step::Advance),
            Just(Step::Advance(900_000)),
        ];
        prop::collection::vec(step, 1..200)
    }

    proptest! {
        #[test]
        fn it_fires_what_a_plain_map_of_deadlines_would(steps in steps()) {
            let (mut wheel, mut map, mut now) = (Wheel::new(0), HashMap::new(), 0u64);
            for step in steps {
                match step {
                    Step::Set(slot, ms) => {
                        wheel.set(slot, now + ms);
                        let soonest = (now / TICK_MS + 1) * TICK_MS;
                        map.insert(slot, (now + ms).div_ceil(TICK_MS).mul_by_tick().max(soonest));
                    }
                    Step::Clear(slot) => {
                        wheel.clear(slot);
                        map.remove(&slot);
                    }
                    Step::Advance(ms) => {
                        now += ms;
                        let mut expected: Vec<u32> =
                            map.extract_if(|_, due| *due <= now).map(|(slot, _)| slot).collect();
                        expected.sort_unstable();
                        prop_assert_eq!(fired(&mut wheel, now), expected);
                    }
                }
                match map.values().min() {
                    None => prop_assert_eq!(wheel.wait_ms(now), None),
                    Some(due) => prop_assert!(wheel.wait_ms(now).unwrap() <= due - now),
                }
            }
        }
    }

    trait ByTick {
        fn mul_by_tick(self) -> u64;
    }
    impl ByTick for u64 {
        fn mul_by_tick(self) -> u64 {
            self * TICK_MS
        }
    }
}
