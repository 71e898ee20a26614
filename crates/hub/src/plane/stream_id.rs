//! The identity of a stream: its shard, its slot there, and the generation that distinguishes it from earlier
//! streams in that slot.

use std::num::NonZeroU64;

/// Identifies one stream of a plane. Calls with the id of a closed stream have no effect: it is not reused
/// before its slot has had 16 million other streams.
///
/// From the top: 8 bits shard, 24 bits generation (from 1), 32 bits slot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(NonZeroU64);

const GENERATION_MAX: u32 = (1 << 24) - 1;

impl StreamId {
    pub(crate) fn new(shard: u8, key: Key) -> Self {
        let generation = u64::from(key.generation.clamp(1, GENERATION_MAX));
        let id = u64::from(shard) << 56 | generation << 32 | u64::from(key.slot);
        Self(NonZeroU64::new(id).unwrap_or(NonZeroU64::MIN))
    }

    /// The id as a number, for logs and maps.
    pub fn get(self) -> u64 {
        self.0.get()
    }

    /// The id that [`Self::get`] returned; `None` for 0, which is no stream's id.
    pub fn from_number(id: u64) -> Option<Self> {
        NonZeroU64::new(id).map(Self)
    }

    pub(crate) fn shard(self) -> usize {
        (self.get() >> 56) as usize
    }

    pub(crate) fn key(self) -> Key {
        let id = self.get();
        Key { slot: id as u32, generation: (id >> 32) as u32 & GENERATION_MAX }
    }
}

impl std::fmt::Debug for StreamId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Key { slot, generation } = self.key();
        write!(f, "StreamId({}/{slot}#{generation})", self.shard())
    }
}

/// A stream on its shard: the slot, and the generation of its use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

impl Key {
    /// The same slot with the next generation.
    pub(crate) fn next(self) -> Self {
        let generation = if self.generation >= GENERATION_MAX { 1 } else { self.generation + 1 };
        Self { generation, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_contains_its_parts() {
        let key = Key { slot: u32::MAX, generation: GENERATION_MAX };
        let id = StreamId::new(255, key);
        assert_eq!((id.shard(), id.key()), (255, key));
        assert_eq!(key.next(), Key { slot: u32::MAX, generation: 1 });
        assert_eq!(size_of::<Option<StreamId>>(), 8);
    }
}
