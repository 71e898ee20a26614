//! How a command is taken, cancelled and ended, and that each of it is on disk before it counts.

use bellwire_proto::stream::CommandEvent;
use bellwire_proto::{CommandId, ErrorInfo, Report, ReportState, Seq};

use super::entry::{Entry, Posting, Stage};
use super::keeping::RESULT_BYTES_MAX;
use super::{DISK_RETRY_MS, Engine, JOURNAL_BYTES_MAX, Output, Purpose};
use crate::agent::journal::{Received, Record};
use crate::agent::run::Stop;

impl Engine {
    pub(super) fn take(&mut self, now_ms: u64, event: CommandEvent) {
        let (id, seq) = (event.id, event.seq);
        let verdict = self.judge.judge(&event.action, &event.data).err();
        let event_bytes = event.data.as_str().len() as u64 + RESULT_BYTES_MAX;
        let is_full = self.bytes + self.reserve_bytes() + event_bytes > JOURNAL_BYTES_MAX;
        let refusal = verdict
            .or_else(|| is_full.then(|| error("journal_full", "the agent's journal has no room")));
        let received = Box::new(Received {
            due_boot_ms: now_ms.saturating_add(event.ttl_s.saturating_mul(1000)),
            // A command comes over a connection that began with a hello.
            hub_ms: self.hub_ms(now_ms).unwrap_or_default(),
            boot: self.boot.clone(),
            event,
        });
        self.live.insert((seq, id));
        let mut entry = Entry::of(received.clone());
        if let Some(error) = refusal {
            tracing::warn!(action = %received.event.action, %id, code = error.code, reason = error.message, "command rejected");
            entry.report = Some(Box::new(rejected(error)));
            entry.ended = true;
        }
        let report = entry.report.clone();
        let refused = entry.ended;
        self.entries.insert(id, entry);
        let mut records = vec![Record::Received(received)];
        if refused {
            records.push(Record::Ended { command: id, report });
        }
        self.write(Purpose::Take(id), records);
    }

    /// The command is on disk.
    pub(super) fn taken(&mut self, now_ms: u64, id: CommandId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if entry.ended {
            self.recorded(now_ms, id);
        } else if entry.cancelled {
            self.end(now_ms, id, Some(Report::of(ReportState::Cancelled)));
        } else {
            entry.stage = Stage::Offering;
            entry.post.due_ms = Some(now_ms);
        }
    }

    /// Without room for the command there is none for its refusal either: that is told, and
    /// forgotten with this process. The command never ran, so to hear of it again does no harm.
    pub(super) fn refuse_unwritten(&mut self, now_ms: u64, id: CommandId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if !entry.ended {
            tracing::warn!(%id, code = "journal_full", "command rejected: the disk is full");
            let error = error("journal_full", "the disk of the device is full");
            entry.report = Some(Box::new(rejected(error)));
            entry.ended = true;
        }
        self.recorded(now_ms, id);
    }

    pub(super) fn cancel(&mut self, now_ms: u64, id: CommandId, seq: Seq) {
        let hub_ms = self.hub_ms(now_ms).unwrap_or_default();
        let note = Record::Cancelled { command: id, seq, hub_ms };
        let Some(entry) = self.entries.get_mut(&id) else {
            let mut entry = Entry::new(id, seq, hub_ms, Stage::Recording);
            entry.cancelled = true;
            self.entries.insert(id, entry);
            self.live.insert((seq, id));
            return self.end(now_ms, id, Some(Report::of(ReportState::Cancelled)));
        };
        if entry.ended {
            return self.tell_again(now_ms, id);
        }
        if std::mem::replace(&mut entry.cancelled, true) {
            return;
        }
        match entry.stage {
            Stage::Offering | Stage::Ready | Stage::Again => {
                self.end(now_ms, id, Some(Report::of(ReportState::Cancelled)));
            }
            Stage::Running => {
                self.out.push_back(Output::Stop { command: id, stop: Stop::Cancel });
                self.write(Purpose::Note, vec![note]);
            }
            // What is on the way to the disk, or to its death, sees it when it arrives.
            _ => self.write(Purpose::Note, vec![note]),
        }
    }

    /// It is over, and this is to be told of it; with `None`, nothing is.
    pub(super) fn end(&mut self, now_ms: u64, id: CommandId, report: Option<Report>) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if let Some(Report { state: ReportState::Rejected, error: Some(error), .. }) = &report {
            tracing::warn!(%id, code = error.code, reason = error.message, "command rejected");
        }
        entry.stage = Stage::Recording;
        entry.ended = true;
        entry.report = report.map(Box::new);
        entry.post = Posting::default();
        self.record(now_ms, id);
    }

    /// Writes down that it is over.
    pub(super) fn record(&mut self, _now_ms: u64, id: CommandId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.not_before_ms = u64::MAX;
        let mut records = Vec::new();
        if entry.cancelled {
            records.push(Record::Cancelled { command: id, seq: entry.seq, hub_ms: entry.hub_ms });
        }
        records.push(Record::Ended { command: id, report: entry.report.clone() });
        self.write(Purpose::End(id), records);
    }

    /// That it is over is on disk.
    pub(super) fn recorded(&mut self, now_ms: u64, id: CommandId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if entry.report.is_some() {
            entry.stage = Stage::Telling;
            entry.post.due_ms = Some(now_ms);
        } else {
            self.close(id);
        }
    }

    pub(super) fn record_later(&mut self, now_ms: u64, id: CommandId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if entry.runs == 0 {
            // It never ran, and would be found out again.
            return self.recorded(now_ms, id);
        }
        tracing::error!(%id, "the disk is full: a result cannot be recorded, and is kept in memory");
        entry.not_before_ms = now_ms + DISK_RETRY_MS;
    }

    /// Writes what the disk had no room for.
    pub(super) fn write_due(&mut self, now_ms: u64) {
        let due = |e: &&Entry| (1..=now_ms).contains(&e.not_before_ms);
        let due: Vec<CommandId> = self.live().filter(due).map(|entry| entry.id).collect();
        for id in due {
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            // What was to be started waits for its turn from here on, and for no time any more.
            entry.not_before_ms = 0;
            if entry.stage == Stage::Recording {
                self.record(now_ms, id);
            }
        }
        if self.revs.retry_ms.is_some_and(|at| at <= now_ms) {
            self.write_start_number();
        }
    }

    /// Nothing is left to do for it.
    pub(super) fn close(&mut self, id: CommandId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let was_acked = std::mem::replace(&mut entry.acked, true);
        entry.stage = Stage::Done;
        entry.shrink();
        self.live.remove(&(entry.seq, id));
        if !was_acked {
            self.write(Purpose::Note, vec![Record::Acked { command: id }]);
        }
    }
}

pub(super) fn error(code: &str, message: &str) -> ErrorInfo {
    ErrorInfo { code: code.to_owned(), message: Some(message.to_owned()) }
}

pub(super) fn rejected(error: ErrorInfo) -> Report {
    Report { error: Some(error), ..Report::of(ReportState::Rejected) }
}
