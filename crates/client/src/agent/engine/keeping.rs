//! What the journal is to hold, how much of it, and for how long.

use super::entry::{Entry, Stage};
use super::{Engine, JOURNAL_BYTES_MAX, Output, Purpose};
use crate::agent::journal::Record;

/// What the longest result takes in the journal: two outputs of 64 KiB, each byte of which JSON may
/// write as six, and a result of 64 KiB, with some to spare.
pub(super) const RESULT_BYTES_MAX: u64 = 1 << 20;
/// From which length on a journal is worth a compaction.
pub(super) const COMPACT_BYTES_MIN: u64 = 1 << 20;
/// How long what is over is kept: the longest time to live (7 days) and a day.
pub(super) const KEPT_MS: u64 = 8 * 86_400_000;

impl Engine {
    pub(super) fn write(&mut self, purpose: Purpose, records: Vec<Record>) {
        let ticket = self.ticket();
        self.writes.insert(ticket, purpose);
        let reserve_bytes = self.reserve_bytes();
        self.out.push_back(Output::Write { ticket, records, reserve_bytes });
    }

    /// The room that the results of what is under way may take.
    pub(super) fn reserve_bytes(&self) -> u64 {
        self.live().filter(|entry| entry.needs_room()).count() as u64 * RESULT_BYTES_MAX
    }

    pub(super) fn compact_if_long(&mut self, now_ms: u64) {
        let worth = self.bytes > COMPACT_BYTES_MIN
            && (self.bytes > 2 * self.compact_bytes
                || self.bytes > JOURNAL_BYTES_MAX / 2
                    && self.bytes > self.compact_bytes + COMPACT_BYTES_MIN);
        if worth && !self.compacting {
            self.compacting = true;
            if let Some(hub_ms) = self.hub_ms(now_ms) {
                let is_old = |e: &Entry| e.stage == Stage::Done && e.hub_ms + KEPT_MS < hub_ms;
                self.entries.retain(|_, entry| !is_old(entry));
            }
            let records = self.snapshot();
            let reserve_bytes = self.reserve_bytes();
            self.out.push_back(Output::Compact { records, reserve_bytes });
        }
    }

    /// The records that say all that is known.
    pub(super) fn snapshot(&self) -> Vec<Record> {
        let begun = Record::Begun { start: self.revs.start() };
        std::iter::once(begun).chain(self.entries.values().flat_map(Entry::records)).collect()
    }
}
