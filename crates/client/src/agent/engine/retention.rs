//! What the journal holds, how much of it, and for how long.
//!
//! The size limit holds because space is reserved before a command is accepted: for the command, for its result,
//! and for all further records of active commands. A compaction shortens a completed command to one short line,
//! and it is forgotten at a certain age, by the agent's own time (`time.rs`).

use bellwire_proto::Report;
use bellwire_proto::limits::{
    AGENT_JOURNAL_BYTES_MAX, AGENT_REJECTED_FOR, AGENT_REPORT_BYTES_MAX, AGENT_RESULT_BYTES_MAX,
    AGENT_RETENTION,
};

use super::entry::{Entry, Stage};
use super::history::JournalSnapshot;
use super::{Engine, Output, WritePurpose, ms};
use crate::agent::journal::{ClockStamp, Record, Reserve};

/// Bytes of a command's records besides its data and its result.
pub(super) const NOTES_BYTES_MAX: u64 = 4 << 10;
/// When a compaction that had no space is tried again.
const COMPACT_RETRY_MS: u64 = 5 * 60_000;

/// How much is stored, and for how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) journal_bytes: u64,
    /// Bytes of the longest result, with all further records of its command.
    pub(super) result_bytes: u64,
    /// Bytes of the longest result alone.
    pub(super) report_bytes: u64,
    /// The journal length from which a compaction is worthwhile.
    pub(super) compact_bytes: u64,
    /// How long completed commands are retained.
    pub(super) retain_ms: u64,
    /// How often old commands are looked for.
    pub(super) forget_every_ms: u64,
    /// How long a result that the hub rejects permanently is reported again.
    pub(super) rejected_ms: u64,
}

impl Bounds {
    pub(super) const AGENT: Self = Self {
        journal_bytes: AGENT_JOURNAL_BYTES_MAX,
        result_bytes: AGENT_RESULT_BYTES_MAX,
        report_bytes: AGENT_REPORT_BYTES_MAX as u64,
        compact_bytes: 1 << 20,
        retain_ms: ms(AGENT_RETENTION),
        forget_every_ms: 86_400_000,
        rejected_ms: ms(AGENT_REJECTED_FOR),
    };
}

const _: () =
    assert!(AGENT_REPORT_BYTES_MAX as u64 + NOTES_BYTES_MAX <= Bounds::AGENT.result_bytes);

/// The state of the journal.
#[derive(Debug, Default)]
pub(super) struct JournalState {
    /// Its length.
    pub(super) bytes: u64,
    compaction: Compaction,
    compact_not_before_ms: u64,
    /// The compaction that runs writes the first stamp of this boot.
    stamps_boot: bool,
    /// When to look for old commands.
    pub(super) forget_ms: u64,
}

/// How far a compaction has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Compaction {
    #[default]
    None,
    /// It waits for writes that may still fail: the snapshot must not contain a command or a start that is then
    /// refused.
    Requested,
    Running,
}

impl Engine {
    /// Writes records that some step waits for. The space for the results of all active commands is required where
    /// a write adds one, and never by a write that ends one.
    pub(super) fn write(&mut self, purpose: WritePurpose, mut records: Vec<Record>) {
        let ticket = self.ticket();
        if records.iter().any(|record| record.agent_ms().is_some())
            && let Some(stamp) = self.time.unconfirmed_stamp()
        {
            records.insert(0, self.stamp_record(stamp));
            self.stamp_tickets.insert(ticket);
        }
        self.writes.insert(ticket, purpose);
        let reserved_bytes = self.reserve_bytes();
        let needed_bytes = match purpose {
            WritePurpose::Command(_) => reserved_bytes,
            // A waiting command has its own reservation, and must not block the start of another. The start itself takes
            // a little of its own reservation, and so does each start of the agent.
            WritePurpose::Start(_) => self.running() * self.bounds.report_bytes,
            _ => 0,
        };
        let reserve = Reserve { needed_bytes, reserved_bytes };
        self.out.push_back(Output::Write { ticket, records, reserve });
    }

    fn running(&self) -> u64 {
        self.live().filter(|entry| entry.is_running()).count() as u64
    }

    /// The space that the results of active commands may need.
    fn reserve_bytes(&self) -> u64 {
        self.live().filter(|entry| entry.needs_reservation()).count() as u64
            * self.bounds.result_bytes
    }

    /// Whether this many bytes would exceed the limit, together with pending writes and reservations.
    fn is_full(&self, bytes: u64) -> bool {
        let taking = self.live().filter(|entry| entry.stage == Stage::StoringCommand);
        let taking_bytes: u64 = taking.map(bytes_max).sum();
        self.journal.bytes + taking_bytes + self.reserve_bytes() + bytes > self.bounds.journal_bytes
    }

    /// Whether there is space for this many bytes, now or after a compaction.
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

    /// Forgets old commands, and compacts if that halves the journal.
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

    /// Writes a stamp of the clocks if one is due.
    pub(super) fn stamp_if_due(&mut self, now_ms: u64) {
        if let Some(stamp) = self.time.next_stamp(now_ms) {
            let record = self.stamp_record(stamp);
            self.write(WritePurpose::Note, vec![record]);
            self.stamp_tickets.insert(self.tickets);
        }
    }

    fn stamp_record(&self, stamp: ClockStamp) -> Record {
        Record::Begun { start: self.revs.start(), clock: Some(Box::new(stamp)) }
    }

    fn can_compact(&self, now_ms: u64) -> bool {
        self.journal.compaction == Compaction::None && self.journal.compact_not_before_ms <= now_ms
    }

    fn forget_old(&mut self, now_ms: u64) {
        if let Some(agent_ms) = self.time.at(now_ms) {
            self.history.forget(agent_ms.saturating_sub(self.bounds.retain_ms));
        }
    }

    /// Compacts as soon as no pending write can fail any more.
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
        self.journal.stamps_boot = self.time.unconfirmed_stamp().is_some();
        let reserve_bytes = self.reserve_bytes();
        self.out.push_back(Output::Compact { snapshot, reserve_bytes });
    }

    /// A compaction has ended. It succeeded if the new length is given.
    pub(super) fn on_compacted(&mut self, now_ms: u64, bytes: Option<u64>) {
        self.journal.compaction = Compaction::None;
        match bytes {
            Some(bytes) => {
                self.journal.bytes = bytes;
                if std::mem::take(&mut self.journal.stamps_boot) {
                    self.time.on_stamp_stored();
                }
            }
            None => self.journal.compact_not_before_ms = now_ms + COMPACT_RETRY_MS,
        }
        for (received_ms, event) in std::mem::take(&mut self.deferred).into_values() {
            self.receive(now_ms, received_ms, event);
        }
    }

    /// The greatest length of the journal after a compaction.
    fn compacted_bytes_max(&self) -> u64 {
        self.history.bytes_max() + self.stored().map(bytes_max).sum::<u64>() + NOTES_BYTES_MAX
    }

    /// The whole state.
    fn snapshot(&self) -> JournalSnapshot {
        JournalSnapshot {
            start_number: Record::Begun {
                start: self.revs.start(),
                clock: self.time.stamp().map(Box::new),
            },
            done: self.history.shared(),
            live: self.stored().map(Entry::records).collect(),
        }
    }

    /// Commands that have records of their own, or are about to.
    fn stored(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values().filter(|entry| !entry.acked && !entry.unstored)
    }
}

/// Whether there is space for a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Capacity {
    Available,
    /// There will be after a compaction, which has been requested.
    AfterCompaction,
    Full,
}

/// Bytes of a command's records, at most.
fn bytes_max(entry: &Entry) -> u64 {
    let data = entry.event().map_or(0, |event| event.data.as_str().len() as u64);
    let report = entry.report.as_deref().map_or(0, |report: &Report| {
        let outcome = &report.outcome;
        let message = outcome.error.as_ref().and_then(|error| error.message.as_deref());
        let texts = [outcome.stdout.as_deref(), outcome.stderr.as_deref(), message];
        let texts: usize = texts.into_iter().flatten().map(|text| text.len() * 4 / 3).sum();
        (texts + outcome.result.as_ref().map_or(0, |result| result.as_str().len())) as u64
    });
    data + report + NOTES_BYTES_MAX / 2
}
