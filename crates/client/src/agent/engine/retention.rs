//! What the journal is to hold, how much of it, and for how long.
//!
//! The bound holds because room is asked for before something is taken: for the command, for its
//! result, and for whatever else is still to be written of what is live. What is over shrinks to a
//! short line by a compaction, and is forgotten with age, by the hub's clock.

use bellwire_proto::Report;

use super::entry::{Entry, Stage};
use super::history::Snapshot;
use super::{Engine, JOURNAL_BYTES_MAX, Output, WritePurpose};
use crate::agent::journal::{Record, Reserve, STORED_REPORT_BYTES_MAX};

/// What the records of a command take beside its data and its result.
pub(super) const NOTES_BYTES_MAX: u64 = 4 << 10;
/// When a compaction that had no room is tried again.
const COMPACT_RETRY_MS: u64 = 5 * 60_000;

/// How much is kept, and for how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) journal_bytes: u64,
    /// What the longest result takes, with what else is still to be written of its command.
    pub(super) result_bytes: u64,
    /// What the longest result takes by itself.
    pub(super) report_bytes: u64,
    /// From which length on a journal is worth a compaction.
    pub(super) compact_bytes: u64,
    /// How long what is over is kept.
    pub(super) retain_ms: u64,
    /// How often old commands are looked for.
    pub(super) forget_every_ms: u64,
    /// How long a result that the hub rejects permanently is reported again.
    pub(super) rejected_ms: u64,
}

impl Bounds {
    pub(super) const AGENT: Self = Self {
        journal_bytes: JOURNAL_BYTES_MAX,
        result_bytes: 256 << 10,
        report_bytes: STORED_REPORT_BYTES_MAX as u64,
        compact_bytes: 1 << 20,
        // The longest time to live (7 days) and a day.
        retain_ms: 8 * 86_400_000,
        forget_every_ms: 86_400_000,
        rejected_ms: 86_400_000,
    };
}

const _: () =
    assert!(STORED_REPORT_BYTES_MAX as u64 + NOTES_BYTES_MAX <= Bounds::AGENT.result_bytes);

/// How the journal stands.
#[derive(Debug, Default)]
pub(super) struct JournalState {
    /// How long it is.
    pub(super) bytes: u64,
    compaction: Compaction,
    compact_not_before_ms: u64,
    /// When to look for what is old.
    pub(super) forget_ms: u64,
}

/// How far a compaction is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Compaction {
    #[default]
    None,
    /// It waits for what the disk may still refuse: the picture must not say that it was taken or
    /// started.
    Requested,
    Running,
}

impl Engine {
    /// Writes what must get to the disk for something to go on. Room for the results of all that is
    /// live is asked for where one is about to be added, and never by what would end one.
    pub(super) fn write(&mut self, purpose: WritePurpose, records: Vec<Record>) {
        let ticket = self.ticket();
        self.writes.insert(ticket, purpose);
        let reserved_bytes = self.reserve_bytes();
        let needed_bytes = match purpose {
            WritePurpose::Command(_) => reserved_bytes,
            // What waits was taken with its room, and does not keep what has its turn from it. Of its own room
            // the start itself takes some, and each start of the agent a little.
            WritePurpose::Start(_) => self.running() * self.bounds.report_bytes,
            _ => 0,
        };
        let reserve = Reserve { needed_bytes, reserved_bytes };
        self.out.push_back(Output::Write { ticket, records, reserve });
    }

    fn running(&self) -> u64 {
        self.live().filter(|entry| entry.is_running()).count() as u64
    }

    /// The room that the results of what is under way may take.
    fn reserve_bytes(&self) -> u64 {
        self.live().filter(|entry| entry.needs_reservation()).count() as u64
            * self.bounds.result_bytes
    }

    /// Whether so much more would be too much, with what is on its way to the disk and what may
    /// still have to be written.
    fn is_full(&self, bytes: u64) -> bool {
        let taking = self.live().filter(|entry| entry.stage == Stage::StoringCommand);
        let taking_bytes: u64 = taking.map(bytes_max).sum();
        self.journal.bytes + taking_bytes + self.reserve_bytes() + bytes > self.bounds.journal_bytes
    }

    /// Whether there is room for so much more, at once or after a compaction.
    pub(super) fn capacity_for(&mut self, now_ms: u64, bytes: u64) -> Capacity {
        if !self.is_full(bytes) {
            return Capacity::Available;
        }
        if self.can_compact(now_ms) {
            self.forget_old(now_ms);
            let then_bytes = self.compacted_bytes_max() + self.reserve_bytes() + bytes;
            if then_bytes <= self.bounds.journal_bytes {
                self.compact();
            }
        }
        if self.journal.compaction == Compaction::None {
            Capacity::Full
        } else {
            Capacity::AfterCompaction
        }
    }

    /// Forgets what is old, and compacts where that halves the journal.
    pub(super) fn compact_if_worth(&mut self, now_ms: u64) {
        if self.time.at(now_ms).is_some() && self.journal.forget_ms <= now_ms {
            self.forget_old(now_ms);
            self.journal.forget_ms = now_ms + self.bounds.forget_every_ms;
        }
        let bytes = self.journal.bytes;
        if bytes > self.bounds.compact_bytes
            && self.can_compact(now_ms)
            && self.compacted_bytes_max() < bytes / 2
        {
            self.compact();
        }
        if self.journal.compaction == Compaction::Requested {
            self.compact();
        }
    }

    /// Stamps the journal with the clocks where that is due, and there is something to age.
    pub(super) fn stamp_if_due(&mut self, now_ms: u64) {
        if let Some(stamp) = self.time.next_stamp(now_ms) {
            let record = Record::Begun { start: self.revs.start(), clock: Some(Box::new(stamp)) };
            self.write(WritePurpose::Stamp, vec![record]);
        }
    }

    fn can_compact(&self, now_ms: u64) -> bool {
        self.journal.compaction == Compaction::None && self.journal.compact_not_before_ms <= now_ms
    }

    fn forget_old(&mut self, now_ms: u64) {
        if let Some(agent_ms) = self.time.at(now_ms) {
            self.history.forget(agent_ms.saturating_sub(self.bounds.retain_ms));
        }
    }

    /// Compacts, as soon as the disk has answered for what it may refuse.
    fn compact(&mut self) {
        let may_be_refused = |purpose: &WritePurpose| {
            matches!(purpose, WritePurpose::Command(_) | WritePurpose::Start(_))
        };
        if self.writes.values().any(may_be_refused) {
            self.journal.compaction = Compaction::Requested;
            return;
        }
        self.journal.compaction = Compaction::Running;
        let snapshot = self.snapshot();
        let reserve_bytes = self.reserve_bytes();
        self.out.push_back(Output::Compact { snapshot, reserve_bytes });
    }

    /// A compaction is over; it was done if the new length is given.
    pub(super) fn on_compacted(&mut self, now_ms: u64, bytes: Option<u64>) {
        self.journal.compaction = Compaction::None;
        match bytes {
            Some(bytes) => self.journal.bytes = bytes,
            None => self.journal.compact_not_before_ms = now_ms + COMPACT_RETRY_MS,
        }
        for (received_ms, event) in std::mem::take(&mut self.deferred).into_values() {
            self.receive(now_ms, received_ms, event);
        }
    }

    /// How long the journal would be after a compaction, at most.
    fn compacted_bytes_max(&self) -> u64 {
        self.history.bytes_max() + self.stored().map(bytes_max).sum::<u64>() + NOTES_BYTES_MAX
    }

    /// All that is known.
    fn snapshot(&self) -> Snapshot {
        Snapshot {
            start_number: Record::Begun {
                start: self.revs.start(),
                clock: self.time.stamp().map(Box::new),
            },
            done: self.history.shared(),
            live: self.stored().map(Entry::records).collect(),
        }
    }

    /// What has records of its own, or is about to.
    fn stored(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values().filter(|entry| !entry.acked && !entry.unstored)
    }
}

/// Where the room for a command is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Capacity {
    Available,
    /// A compaction makes it.
    AfterCompaction,
    Full,
}

/// What the records of a command take at most.
fn bytes_max(entry: &Entry) -> u64 {
    let data = entry.event().map_or(0, |event| event.data.as_str().len() as u64);
    let report = entry.report.as_deref().map_or(0, |report: &Report| {
        let message = report.error.as_ref().and_then(|error| error.message.as_deref());
        let texts = [report.stdout.as_deref(), report.stderr.as_deref(), message];
        let texts: usize = texts.into_iter().flatten().map(|text| text.len() * 4 / 3).sum();
        (texts + report.result.as_ref().map_or(0, |result| result.as_str().len())) as u64
    });
    data + report + NOTES_BYTES_MAX / 2
}
