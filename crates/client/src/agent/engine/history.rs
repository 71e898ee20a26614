//! Completed commands: little is stored of each, so that there can be many.
//!
//! Their ids prevent a second run when the hub sends a command again. The whole reports of the latest ones are
//! held in memory: a hub that requests it soon gets all of the report.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bellwire_proto::{Action, CommandId, ErrorInfo, Outcome, Report, codes};

use super::entry::{Entry, Stage};
use super::outcome::rejected;
use crate::agent::journal::{Done, Record};
use crate::agent::run::error;
use crate::agent::status::CommandStatus;

/// Bytes of the whole reports together.
const RECENT_REPORTS_BYTES_MAX: usize = 256 << 10;
/// Commands whose action is known, beyond those with whole reports.
const RECENT_COMMANDS_MAX: usize = 256;
/// Bytes of a completed command's line in the journal, with an error code of ordinary length.
const LINE_BYTES_MAX: u64 = 200;

#[derive(Default)]
pub(super) struct History {
    /// Shared with a compaction, which reads it while the engine continues.
    done: Arc<BTreeMap<CommandId, Done>>,
    recent: VecDeque<RecentCommand>,
    recent_bytes: usize,
}

/// One of the latest.
struct RecentCommand {
    id: CommandId,
    action: Option<Action>,
    runs: u32,
    report: Option<Box<Report>>,
}

/// The whole state at one moment, for a compaction.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct JournalSnapshot {
    pub(crate) start_number: Record,
    pub(crate) done: Arc<BTreeMap<CommandId, Done>>,
    /// The commands that are not completed, each as one line.
    pub(crate) live: Vec<Vec<Record>>,
}

impl JournalSnapshot {
    /// The lines of the new journal. All records of a command are in one line.
    pub(crate) fn lines(&self) -> impl Iterator<Item = Vec<Record>> {
        let done = self.done.iter();
        let done = done.map(|(id, done)| vec![Record::Done { command: *id, done: done.clone() }]);
        std::iter::once(vec![self.start_number.clone()])
            .chain(done)
            .chain(self.live.iter().cloned())
    }
}

impl History {
    pub(super) fn len(&self) -> usize {
        self.done.len()
    }

    pub(super) fn contains(&self, id: CommandId) -> bool {
        self.done.contains_key(&id)
    }

    #[cfg(test)]
    pub(super) fn ids(&self) -> impl Iterator<Item = CommandId> {
        self.done.keys().copied()
    }

    /// For a compaction.
    pub(super) fn shared(&self) -> Arc<BTreeMap<CommandId, Done>> {
        self.done.clone()
    }

    pub(super) fn restore(&mut self, id: CommandId, done: Done) {
        Arc::make_mut(&mut self.done).insert(id, done);
    }

    /// Adds a command that is completed.
    pub(super) fn add(&mut self, entry: Entry) {
        let report = entry.report.as_deref();
        let outcome = report.map(|report| &report.outcome);
        let error = outcome.and_then(|outcome| outcome.error.as_ref());
        let done = Done {
            seq: entry.seq,
            first_seen_ms: entry.first_seen_ms,
            state: report.map(|report| report.state),
            exit_code: outcome.and_then(|outcome| outcome.exit_code),
            code: error.map(|error| error.code.as_str().into()),
        };
        self.restore(entry.id, done);
        let Entry { id, action, runs, report, .. } = entry;
        self.recent_bytes += report.as_deref().map_or(0, text_bytes);
        self.recent.push_back(RecentCommand { id, action, runs, report });
        let mut oldest = self.recent.iter_mut();
        while self.recent_bytes > RECENT_REPORTS_BYTES_MAX
            && let Some(oldest) = oldest.next()
        {
            self.recent_bytes -= oldest.report.take().as_deref().map_or(0, text_bytes);
        }
        while self.recent.len() > RECENT_COMMANDS_MAX
            && let Some(oldest) = self.recent.pop_front()
        {
            self.recent_bytes -= oldest.report.as_deref().map_or(0, text_bytes);
        }
    }

    /// A command that is to be reported again: its whole report if that is still in memory, else its outcome.
    pub(super) fn reopen(&self, id: CommandId) -> Option<Entry> {
        let done = self.done.get(&id)?;
        let whole = self.recent(id).and_then(|recent| recent.report.clone());
        let report = whole.unwrap_or_else(|| Box::new(report_of(done)));
        let mut entry = Entry::new(id, done.seq, done.first_seen_ms, Stage::ReportingResult);
        (entry.report, entry.ended, entry.acked) = (Some(report), true, true);
        Some(entry)
    }

    /// Forgets commands that arrived before this time of the agent.
    pub(super) fn forget(&mut self, before_ms: u64) {
        if self.done.values().any(|done| done.first_seen_ms < before_ms) {
            Arc::make_mut(&mut self.done).retain(|_, done| done.first_seen_ms >= before_ms);
        }
    }

    /// Bytes of all this in the journal, approximately: a handler's own error codes may be longer.
    pub(super) fn bytes_max(&self) -> u64 {
        self.done.len() as u64 * LINE_BYTES_MAX
    }

    /// The latest, newest first.
    pub(super) fn latest(&self, count: usize) -> impl Iterator<Item = CommandStatus> {
        self.done.iter().rev().take(count).map(|(id, done)| {
            let recent = self.recent(*id);
            CommandStatus {
                id: *id,
                seq: done.seq,
                action: recent.and_then(|recent| recent.action.clone()),
                state: done.state.map_or("dropped", |state| state.as_str()).to_owned(),
                code: done.code.as_deref().map(str::to_owned),
                reported: true,
                runs: recent.map(|recent| recent.runs),
                waits: None,
            }
        })
    }

    fn recent(&self, id: CommandId) -> Option<&RecentCommand> {
        self.recent.iter().rev().find(|recent| recent.id == id)
    }
}

/// What can still be reported; members that are absent are unchanged at the hub.
fn report_of(done: &Done) -> Report {
    let Some(state) = done.state else {
        // The hub had ended it before it was started, and sends it again nevertheless.
        return rejected(error(codes::STALE, "the hub had ended it before it could start"));
    };
    let error = done.code.as_deref().map(ErrorInfo::of);
    let exit_code = done.exit_code;
    Report::new(state, Outcome { exit_code, error, ..Outcome::default() })
}

fn text_bytes(report: &Report) -> usize {
    report.outcome.text_bytes()
}
