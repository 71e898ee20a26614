//! How a command is taken, cancelled and ended, and that each of it is on disk before it counts.

use bellwire_proto::stream::CommandEvent;
use bellwire_proto::{CommandId, ErrorInfo, Json, Report, ReportState, Seq, codes};

use super::entry::{Entry, Posting, Stage};
use super::keeping::{NOTES_BYTES_MAX, Room};
use super::{DISK_RETRY_MS, Engine, Output, Purpose};
use crate::agent::journal::{Received, Record, fit};
use crate::agent::run::{Stop, error};

impl Engine {
    /// Takes a command that came at this time for the first time, rejects it, or holds it back until
    /// a compaction has made room: then in the order of the hub, since none may overtake.
    pub(super) fn take(&mut self, now_ms: u64, came_ms: u64, mut event: CommandEvent) {
        let (id, seq) = (event.id, event.seq);
        let verdict = self.judge.judge(&event.action, &event.data).err();
        let room_bytes = match &verdict {
            None => event.data.as_str().len() as u64 + NOTES_BYTES_MAX + self.bounds.result_bytes,
            // What never runs needs no data, and has no result.
            Some(_) => {
                event.data = Json::null();
                NOTES_BYTES_MAX
            }
        };
        let room = match self.room(now_ms, room_bytes) {
            Room::Here if !self.held.is_empty() => Room::Soon,
            room => room,
        };
        if room == Room::Soon {
            // The hub sends again what is too much to hold.
            if self.held.len() < self.max_in_flight {
                self.held.insert((seq, id), (came_ms, event));
            }
            return;
        }
        let received = Box::new(Received {
            due_boot_ms: came_ms.saturating_add(event.ttl_s.saturating_mul(1000)),
            // A command comes over a connection that began with a hello.
            hub_ms: self.hub_ms(came_ms).unwrap_or_default(),
            boot: self.boot.clone(),
            event,
        });
        let refusal = verdict.or_else(|| {
            let full = || error(codes::JOURNAL_FULL, "the agent's journal has no room");
            (room == Room::Not).then(full)
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
        match room {
            Room::Not => self.tell_unwritten(now_ms, id),
            _ => self.write(Purpose::Take(id), records),
        }
    }

    /// The command is on disk.
    pub(super) fn taken(&mut self, now_ms: u64, id: CommandId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if entry.ended {
            self.recorded(now_ms, id);
        } else if entry.cancelled {
            self.end(id, Some(Report::of(ReportState::Cancelled)));
        } else {
            entry.stage = Stage::Offering;
            entry.post.due_ms = Some(now_ms);
        }
    }

    /// The disk has no room for a command.
    pub(super) fn refuse_unwritten(&mut self, now_ms: u64, id: CommandId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if !entry.ended {
            tracing::warn!(%id, code = codes::JOURNAL_FULL, "command rejected: the disk is full");
            let error = error(codes::JOURNAL_FULL, "the disk of the device is full");
            entry.report = Some(Box::new(rejected(error)));
        }
        self.tell_unwritten(now_ms, id);
    }

    /// Without room for a command there is none for its refusal either: that is told, and forgotten
    /// once the hub knows. It never ran, so to hear of it again does no harm.
    fn tell_unwritten(&mut self, now_ms: u64, id: CommandId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        (entry.ended, entry.unwritten) = (true, true);
        entry.begin_telling(now_ms);
    }

    pub(super) fn cancel(&mut self, now_ms: u64, id: CommandId, seq: Seq) {
        if self.past.knows(id) {
            return self.tell_again(now_ms, id, None);
        }
        let Some(entry) = self.entries.get_mut(&id) else {
            return self.cancel_unknown(now_ms, id, seq);
        };
        if entry.ended {
            return self.tell_again(now_ms, id, None);
        }
        if std::mem::replace(&mut entry.cancelled, true) {
            return;
        }
        let note = Record::Cancelled { command: id, seq, hub_ms: entry.hub_ms };
        match entry.stage {
            Stage::Offering | Stage::Ready | Stage::Asking | Stage::Again => {
                self.end(id, Some(Report::of(ReportState::Cancelled)));
            }
            Stage::Running => {
                self.out.push_back(Output::Stop { command: id, stop: Stop::Cancel });
                self.write(Purpose::Note, vec![note]);
            }
            // What is on the way to the disk, or to its death, sees it when it arrives.
            _ => self.write(Purpose::Note, vec![note]),
        }
    }

    fn cancel_unknown(&mut self, now_ms: u64, id: CommandId, seq: Seq) {
        let hub_ms = self.hub_ms(now_ms).unwrap_or_default();
        let mut entry = Entry::new(id, seq, hub_ms, Stage::Recording);
        entry.cancelled = true;
        self.held.remove(&(seq, id));
        let room = self.room(now_ms, NOTES_BYTES_MAX);
        self.live.insert((seq, id));
        if room == Room::Here {
            self.entries.insert(id, entry);
            return self.end(id, Some(Report::of(ReportState::Cancelled)));
        }
        entry.report = Some(Box::new(Report::of(ReportState::Cancelled)));
        self.entries.insert(id, entry);
        self.tell_unwritten(now_ms, id);
    }

    /// It is over, and this is to be told of it; with `None`, nothing is.
    pub(super) fn end(&mut self, id: CommandId, mut report: Option<Report>) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if let Some(Report { state: ReportState::Rejected, error: Some(error), .. }) = &report {
            tracing::warn!(%id, code = error.code, reason = error.message, "command rejected");
        } else if let (Some(report), true) = (&report, entry.stage != Stage::Running) {
            // The end of a run is told by who ran it; this one has none now.
            let code = report.error.as_ref().map(|error| error.code.as_str());
            tracing::info!(%id, state = report.state.as_str(), code, runs = entry.runs, "over");
        }
        report.iter_mut().for_each(fit);
        entry.stage = Stage::Recording;
        entry.ended = true;
        entry.report = report.map(Box::new);
        entry.post = Posting::default();
        self.record(id);
    }

    /// Writes down that it is over.
    pub(super) fn record(&mut self, id: CommandId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.disk_retry_ms = None;
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
            entry.begin_telling(now_ms);
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
        entry.disk_retry_ms = Some(now_ms + DISK_RETRY_MS);
        self.sign_later(now_ms, id);
    }

    /// Writes what the disk had no room for.
    pub(super) fn write_due(&mut self, now_ms: u64) {
        let due = |e: &&Entry| e.disk_retry_ms.is_some_and(|at| at <= now_ms);
        let due: Vec<CommandId> = self.live().filter(due).map(|entry| entry.id).collect();
        for id in due {
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            // What was to be started waits for its turn from here on, and for no time any more.
            entry.disk_retry_ms = None;
            if entry.stage == Stage::Recording {
                self.record(id);
            }
        }
        if self.revs.retry_ms.is_some_and(|at| at <= now_ms) {
            self.write_start_number();
        }
    }

    /// Nothing is left to do for it.
    pub(super) fn close(&mut self, id: CommandId) {
        let Some(entry) = self.entries.remove(&id) else { return };
        self.live.remove(&(entry.seq, id));
        if !entry.acked && !entry.unwritten {
            self.past.add(entry);
            self.write(Purpose::Note, vec![Record::Acked { command: id }]);
        }
    }
}

pub(super) fn rejected(error: ErrorInfo) -> Report {
    Report { error: Some(error), ..Report::of(ReportState::Rejected) }
}
