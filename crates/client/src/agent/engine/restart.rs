//! What happens after a restart: the journal is read, and each command continues from what is on disk.

use bellwire_proto::limits::AGENT_RERUNS_MAX;
use bellwire_proto::{CommandId, Report, ReportState};

use super::entry::{Entry, Stage};
use super::outcome::interrupted_report;
use super::{Engine, Output};
use crate::agent::journal::{BootId, Record};
use crate::agent::policy::OnRestart;

impl Engine {
    /// Applies a record of the journal. They come in the order of writing.
    pub(crate) fn restore(&mut self, record: Record) {
        if let Some(agent_ms) = record.agent_ms() {
            self.time.restore_record(agent_ms);
        }
        match record {
            Record::Begun { start, clock } => {
                self.revs.restore(start);
                if let Some(stamp) = clock {
                    self.time.restore(*stamp);
                }
            }
            Record::Received(received) if !self.history.contains(received.event.id) => {
                let mut entry = Entry::of(received);
                entry.attempt = None;
                self.entries.entry(entry.id).or_insert(entry);
            }
            Record::Cancelled { command, seq, first_seen_ms }
                if !self.history.contains(command) =>
            {
                let entry = self.entries.entry(command);
                let fresh = || Entry::new(command, seq, first_seen_ms, Stage::StoringCommand);
                entry.or_insert_with(fresh).cancelled = true;
            }
            Record::Received(_) | Record::Cancelled { .. } => {}
            Record::Started { command, run, boot } => {
                if let Some(entry) = self.entries.get_mut(&command) {
                    entry.runs = run;
                    entry.run_boot = Some(boot);
                }
            }
            Record::Ended { command, report } => {
                if let Some(entry) = self.entries.get_mut(&command) {
                    entry.report = report;
                    entry.ended = true;
                }
            }
            Record::PermanentRejection { command, since_ms } => {
                if let Some(entry) = self.entries.get_mut(&command) {
                    entry.rejected_since_ms = Some(since_ms);
                }
            }
            Record::Acked { command } => {
                if let Some(entry) = self.entries.remove(&command) {
                    self.history.add(entry);
                }
            }
            Record::Done { command, done } => self.history.restore(command, done),
        }
    }

    /// The whole journal was restored, and has this length: continues all commands.
    pub(crate) fn begin(&mut self, now_ms: u64, bytes: u64) {
        self.journal.bytes = bytes;
        self.live = self.entries.values().map(|entry| (entry.seq, entry.id)).collect();
        self.time.begin(now_ms);
        self.renew_revs(0);
        let ids: Vec<CommandId> = self.live.iter().map(|(_, id)| *id).collect();
        ids.into_iter().for_each(|id| self.resume(now_ms, id));
        self.pump(now_ms);
    }

    fn resume(&mut self, now_ms: u64, id: CommandId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if entry.ended {
            self.on_result_stored(now_ms, id);
        } else if entry.run_boot.is_none() {
            self.on_command_stored(now_ms, id);
        } else {
            let known = |boot: &BootId| boot.is_known() && self.boot.is_known();
            let rebooted = entry.run_boot.as_ref().is_some_and(|b| known(b) && *b != self.boot);
            entry.stage = Stage::KillingOrphans;
            // The hub has received no keepalive while no agent ran.
            entry.post.due_ms = Some(now_ms);
            match self.on_restart(id) {
                OnRestart::Succeed if rebooted => {
                    self.end(id, Some(Report::of(ReportState::Succeeded)));
                }
                OnRestart::Succeed => self.on_orphans_killed(now_ms, id),
                OnRestart::Fail | OnRestart::Rerun => {
                    self.out.push_back(Output::KillOrphans { command: id });
                }
            }
        }
    }

    /// The orphan processes are dead.
    pub(super) fn on_orphans_killed(&mut self, now_ms: u64, id: CommandId) {
        let Some(entry) = self.entries.get(&id).filter(|e| e.stage == Stage::KillingOrphans) else {
            return;
        };
        let (cancelled, runs) = (entry.cancelled, entry.runs);
        if cancelled {
            self.end(id, Some(Report::of(ReportState::Cancelled)));
        } else if self.on_restart(id) == OnRestart::Rerun && runs <= AGENT_RERUNS_MAX {
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.stage = Stage::ConfirmingRerun;
                // The answer to a keepalive in flight confirms the rerun just as well.
                entry.post.due_ms = entry.post.ticket.is_none().then_some(now_ms);
            }
        } else {
            self.end(id, Some(interrupted_report(None)));
        }
    }

    /// A handler ended because the agent is stopping.
    pub(super) fn interrupted(&mut self, id: CommandId, report: Report) {
        if self.on_restart(id) == OnRestart::Fail {
            return self.end(id, Some(interrupted_report(Some(report))));
        }
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.stage = Stage::Interrupted;
            self.live.remove(&(entry.seq, id));
        }
    }

    /// The rule of the current list. A command whose action is no longer on it has failed.
    fn on_restart(&self, id: CommandId) -> OnRestart {
        let action = self.entries.get(&id).and_then(|entry| entry.action.as_ref());
        action
            .and_then(|action| self.admission.run_settings(action))
            .map_or(OnRestart::Fail, |t| t.on_restart)
    }
}
