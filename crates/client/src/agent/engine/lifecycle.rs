//! How a command is received, cancelled and ended. Each step is on disk before it takes effect.

use bellwire_proto::stream::CommandEvent;
use bellwire_proto::{CommandId, Json, Report, ReportState, Seq, codes};

use super::entry::{Entry, PostState, Stage};
use super::outcome::rejected;
use super::retention::{Capacity, NOTES_BYTES_MAX};
use super::{DISK_RETRY_MS, Engine, Output, WritePurpose};
use crate::agent::journal::{ReceivedCommand, Record, fit};
use crate::agent::run::{Stop, error};

impl Engine {
    /// Receives a command for the first time: stores it, rejects it, or defers it until a compaction has made
    /// space. Deferred commands are received in the order of the hub, so that none overtakes another.
    pub(super) fn receive(&mut self, now_ms: u64, received_ms: u64, mut event: CommandEvent) {
        let (id, seq) = (event.id, event.seq);
        let verdict = self.admission.admit(&event.action, &event.data).err();
        let needed_bytes = match &verdict {
            None => event.data.as_str().len() as u64 + NOTES_BYTES_MAX + self.bounds.result_bytes,
            // A rejected command needs no data and produces no result.
            Some(_) => {
                event.data = Json::null();
                NOTES_BYTES_MAX
            }
        };
        let capacity = match self.capacity_for(now_ms, needed_bytes) {
            Capacity::Available if !self.deferred.is_empty() => Capacity::AfterCompaction,
            capacity => capacity,
        };
        if capacity == Capacity::AfterCompaction {
            // Commands beyond that are dropped here: the hub sends them again.
            if self.deferred.len() < self.max_in_flight {
                self.deferred.insert((seq, id), (received_ms, event));
            }
            return;
        }
        let received = Box::new(ReceivedCommand {
            due_boot_ms: received_ms.saturating_add(event.ttl_s.saturating_mul(1000)),
            // A stream begins with a hello, so the time is known before a command arrives.
            first_seen_ms: self.time.settle(received_ms).unwrap_or_default(),
            boot: self.boot.clone(),
            event,
        });
        let refusal = verdict.or_else(|| {
            let full = || error(codes::JOURNAL_FULL, "the agent's journal is full");
            (capacity == Capacity::Full).then(full)
        });
        let mut records = vec![Record::Received(received.clone())];
        let mut entry = Entry::of(received);
        if let Some(error) = refusal {
            let action = entry.action.as_ref().map(tracing::field::display);
            tracing::warn!(action, %id, code = error.code, reason = error.message, "command rejected");
            let mut report = rejected(error);
            fit(&mut report);
            entry.report = Some(Box::new(report));
            entry.ended = true;
            records.push(Record::Ended { command: id, report: entry.report.clone() });
        }
        self.live.insert((seq, id));
        self.entries.insert(id, entry);
        match capacity {
            Capacity::Full => self.report_unstored(now_ms, id),
            _ => self.write(WritePurpose::Command(id), records),
        }
    }

    /// The command is on disk.
    pub(super) fn on_command_stored(&mut self, now_ms: u64, id: CommandId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if entry.ended {
            self.on_result_stored(now_ms, id);
        } else if entry.cancelled {
            self.end(id, Some(Report::of(ReportState::Cancelled)));
        } else {
            entry.stage = Stage::Offering;
            entry.post.due_ms = Some(now_ms);
        }
    }

    /// The disk has no space for the command.
    pub(super) fn reject_unstored(&mut self, now_ms: u64, id: CommandId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if !entry.ended {
            tracing::warn!(%id, code = codes::JOURNAL_FULL, "command rejected: the disk is full");
            let error = error(codes::JOURNAL_FULL, "the disk of the device is full");
            entry.report = Some(Box::new(rejected(error)));
        }
        self.report_unstored(now_ms, id);
    }

    /// A journal without space for a command has none for its rejection either: this is reported, and forgotten
    /// after the hub has confirmed it. The command never ran, so it may arrive again.
    fn report_unstored(&mut self, now_ms: u64, id: CommandId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        (entry.ended, entry.unstored) = (true, true);
        entry.begin_reporting(now_ms);
    }

    pub(super) fn cancel(&mut self, now_ms: u64, id: CommandId, seq: Seq) {
        if self.history.contains(id) {
            return self.report_again(now_ms, id, None);
        }
        let Some(entry) = self.entries.get_mut(&id) else {
            return self.cancel_unknown(now_ms, id, seq);
        };
        if entry.ended {
            return self.report_again(now_ms, id, None);
        }
        if std::mem::replace(&mut entry.cancelled, true) {
            return;
        }
        let first_seen_ms = entry.first_seen_ms;
        let note = Record::Cancelled { command: id, seq, first_seen_ms };
        match entry.stage {
            Stage::Offering | Stage::Ready | Stage::ConfirmingRerun | Stage::ReadyToRerun => {
                self.end(id, Some(Report::of(ReportState::Cancelled)));
            }
            Stage::Running => {
                self.out.push_back(Output::Stop { command: id, stop: Stop::Cancel });
                self.write(WritePurpose::Note, vec![note]);
            }
            // A pending write or kill checks the flag when it completes.
            _ => self.write(WritePurpose::Note, vec![note]),
        }
    }

    fn cancel_unknown(&mut self, now_ms: u64, id: CommandId, seq: Seq) {
        let first_seen_ms = self.time.settle(now_ms).unwrap_or_default();
        let mut entry = Entry::new(id, seq, first_seen_ms, Stage::StoringResult);
        entry.cancelled = true;
        self.deferred.remove(&(seq, id));
        let capacity = self.capacity_for(now_ms, NOTES_BYTES_MAX);
        self.live.insert((seq, id));
        if capacity == Capacity::Available {
            self.entries.insert(id, entry);
            return self.end(id, Some(Report::of(ReportState::Cancelled)));
        }
        entry.report = Some(Box::new(Report::of(ReportState::Cancelled)));
        self.entries.insert(id, entry);
        self.report_unstored(now_ms, id);
    }

    /// Ends a command with this report; with `None`, nothing is reported.
    pub(super) fn end(&mut self, id: CommandId, mut report: Option<Report>) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let error = report.as_ref().and_then(|report| report.outcome.error.as_ref());
        if let (Some(Report { state: ReportState::Rejected, .. }), Some(error)) = (&report, error) {
            tracing::warn!(%id, code = error.code, reason = error.message, "command rejected");
        } else if let (Some(report), true) = (&report, entry.stage != Stage::Running) {
            // The driver logs the end of a run; here nothing ran.
            let code = error.map(|error| error.code.as_str());
            tracing::info!(%id, state = report.state.as_str(), code, runs = entry.runs, "ended");
        }
        report.iter_mut().for_each(fit);
        entry.stage = Stage::StoringResult;
        entry.ended = true;
        entry.report = report.map(Box::new);
        entry.post = PostState::default();
        self.store_result(id);
    }

    /// Writes the result to the journal.
    pub(super) fn store_result(&mut self, id: CommandId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.disk_retry_ms = None;
        let mut records = Vec::new();
        if entry.cancelled {
            let (seq, first_seen_ms) = (entry.seq, entry.first_seen_ms);
            records.push(Record::Cancelled { command: id, seq, first_seen_ms });
        }
        records.push(Record::Ended { command: id, report: entry.report.clone() });
        self.write(WritePurpose::Result(id), records);
    }

    /// The result is on disk.
    pub(super) fn on_result_stored(&mut self, now_ms: u64, id: CommandId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if entry.report.is_some() {
            entry.begin_reporting(now_ms);
        } else {
            self.close(id);
        }
    }

    pub(super) fn postpone_result(&mut self, now_ms: u64, id: CommandId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if entry.runs == 0 {
            // Nothing ran, so a restart would find the same result again.
            return self.on_result_stored(now_ms, id);
        }
        tracing::error!(%id, "the disk is full: a result cannot be stored, and is held in memory");
        entry.disk_retry_ms = Some(now_ms + DISK_RETRY_MS);
        self.schedule_keepalive(now_ms, id);
    }

    /// Repeats the writes that the disk had no space for.
    pub(super) fn write_due(&mut self, now_ms: u64) {
        let due = |e: &&Entry| e.disk_retry_ms.is_some_and(|at| at <= now_ms);
        let due: Vec<CommandId> = self.live().filter(due).map(|entry| entry.id).collect();
        for id in due {
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            // A start is no longer delayed from here on: it only waits to be scheduled.
            entry.disk_retry_ms = None;
            if entry.stage == Stage::StoringResult {
                self.store_result(id);
            }
        }
        if self.revs.retry_ms.is_some_and(|at| at <= now_ms) {
            self.write_start_number();
        }
    }

    /// Nothing remains to be done for it.
    pub(super) fn close(&mut self, id: CommandId) {
        let Some(entry) = self.entries.remove(&id) else { return };
        self.live.remove(&(entry.seq, id));
        if !entry.acked && !entry.unstored {
            self.history.add(entry);
            self.write(WritePurpose::Note, vec![Record::Acked { command: id }]);
        }
    }
}
