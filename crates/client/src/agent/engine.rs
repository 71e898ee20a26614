//! The life of each command at the device, as a core without I/O: it decides, others act.
//!
//! Events come in by `handle_*`, with the time; what is to be done goes out by
//! [`Engine::poll_output`], and [`Engine::poll_timeout`] tells when it wants to be woken. Time is
//! milliseconds of a clock that counts from the boot, sleep included; the hub's clock is what its
//! hello told, carried on by that one. The wall clock is never asked.
//!
//! The order that everything here serves: a command is on disk before `accepted` is told, the hub
//! has answered to that before the start is on disk, the start is before the handler runs, the
//! result is before it is told. Whatever dies where, a handler is then started at most once, unless
//! its action says `rerun`.
//!
//! Neighbours: `driver.rs` acts, `journal.rs` keeps. Below this file: `entry.rs` is one command,
//! `life.rs` takes and ends it, `turn.rs` says who runs next, `telling.rs` what the hub is told,
//! `keeping.rs` what the journal is, `restart.rs` what follows a death.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bellwire_proto::stream::{CancelEvent, CommandEvent};
use bellwire_proto::{
    Action, CommandId, ErrorInfo, Json, Progress, Report, ReportState, Seq, State,
};

use super::journal::{BootId, Record};
use super::policy::OnRestart;
use super::run::{Ended, Outcome, Stop};
use super::status::CommandStatus;

mod entry;
mod keeping;
mod life;
mod restart;
mod telling;
mod turn;

use entry::{Entry, Stage};
use telling::Revs;

/// How long the journal is allowed to get. Issue 4, section 3: "bounded (64 MiB)".
pub(crate) const JOURNAL_BYTES_MAX: u64 = 64 << 20;
/// When to try again what the disk had no room for.
const DISK_RETRY_MS: u64 = 5000;
/// What handlers get to end when the agent is told to stop.
pub(crate) const SHUTDOWN_MS: u64 = 30_000;
/// What the last words to the hub get after that.
const LAST_WORDS_MS: u64 = 5000;

/// How the commands of an action are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) on_restart: OnRestart,
    /// How many run at once.
    pub(crate) concurrency: usize,
    /// How long one may run; without it, as long as the command says.
    pub(crate) timeout: Option<Duration>,
}

/// What may run here at all.
pub(crate) trait Judge: Send + Sync {
    /// The terms of an action, or why it may not run with these data.
    fn judge(&self, action: &Action, data: &Json) -> Result<Terms, ErrorInfo>;
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Output {
    /// Append to the journal, in this order, and say when it is on disk.
    Write { ticket: u64, records: Vec<Record>, reserve_bytes: u64 },
    /// Replace the journal by this, after all that was to be written before.
    Compact { records: Vec<Record>, reserve_bytes: u64 },
    /// Tell the hub, and say what it answered.
    Post { ticket: u64, command: CommandId, report: Report },
    /// Run the handler, and say how it ended.
    Start { event: CommandEvent, limit: Duration },
    /// Tell a handler to stop.
    Stop { command: CommandId, stop: Stop },
    /// Kill what a life before this one left of a handler, and say when that is done.
    Sweep { command: CommandId },
}

/// What the hub answered to a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// 2xx, with the delivery of this command as it stands.
    Delivery { state: State, rev: u64 },
    /// 409: it has ended otherwise.
    Conflict,
    /// 410: it is forgotten.
    Gone,
    /// 413.
    TooLarge,
    /// 400 or 404, in the hub's own words.
    Unfit,
    /// No answer, one that is not the hub's, or one that asks for patience.
    Failed { retry_after: Option<Duration> },
}

/// What an append was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Begin,
    Take(CommandId),
    Start(CommandId),
    End(CommandId),
    /// Nothing waits for it.
    Note,
}

/// The agent is about to end.
#[derive(Debug, Clone, Copy)]
struct Stopping {
    kill_ms: u64,
    killed: bool,
}

/// The core. See the head of this file.
pub(crate) struct Engine {
    judge: Arc<dyn Judge>,
    boot: BootId,
    entries: BTreeMap<CommandId, Entry>,
    /// What is not done yet, in the order of the hub.
    live: BTreeSet<(Seq, CommandId)>,
    out: VecDeque<Output>,
    writes: HashMap<u64, Purpose>,
    /// Reports under way: of what, and with which `rev`.
    posts: HashMap<u64, (CommandId, u64)>,
    tickets: u64,
    revs: Revs,
    random: u64,
    /// The hub's clock and ours, at one moment.
    hub_clock: Option<(u64, u64)>,
    max_in_flight: usize,
    stopping: Option<Stopping>,
    /// How long the journal is, and was after the last compaction.
    bytes: u64,
    compact_bytes: u64,
    compacting: bool,
    /// For the proof that the tests would notice.
    pub(crate) no_start_record: bool,
}

impl Engine {
    /// A core with nothing in its memory yet: [`Engine::restore`] and [`Engine::begin`] come next.
    pub(crate) fn new(judge: Arc<dyn Judge>, boot: BootId, random: u64) -> Self {
        Self {
            judge,
            boot,
            entries: BTreeMap::new(),
            live: BTreeSet::new(),
            out: VecDeque::new(),
            writes: HashMap::new(),
            posts: HashMap::new(),
            tickets: 0,
            revs: Revs::default(),
            random: random | 1,
            hub_clock: None,
            max_in_flight: 1,
            stopping: None,
            bytes: 0,
            compact_bytes: 0,
            compacting: false,
            no_start_record: false,
        }
    }

    // --- What comes in ---

    /// A connection is there: what the hub's clock says, and how many commands may run at once.
    pub(crate) fn handle_hello(&mut self, now_ms: u64, hub_ms: u64, max_in_flight: usize) {
        self.hub_clock = Some((hub_ms, now_ms));
        self.max_in_flight = max_in_flight.max(1);
        self.tell_at_once(now_ms);
        self.pump(now_ms);
    }

    /// A command came, for the first time or again.
    pub(crate) fn handle_command(&mut self, now_ms: u64, event: CommandEvent) {
        // The hub keeps what is not answered, and sends it to the next life of this agent.
        if self.stopping.is_some() {
            return;
        }
        match self.entries.get_mut(&event.id) {
            Some(entry) => {
                entry.attempt = entry.attempt.max(Some(event.attempt));
                self.tell_again(now_ms, event.id);
            }
            None => self.take(now_ms, event),
        }
        self.pump(now_ms);
    }

    /// A command is to be stopped, or never to run.
    pub(crate) fn handle_cancel(&mut self, now_ms: u64, cancel: CancelEvent) {
        self.cancel(now_ms, cancel.id, cancel.seq);
        self.pump(now_ms);
    }

    /// An append is on disk, and the journal is this long now.
    pub(crate) fn handle_written(&mut self, now_ms: u64, ticket: u64, bytes: u64) {
        self.bytes = bytes;
        match self.writes.remove(&ticket) {
            Some(Purpose::Begin) => self.revs.is_on_disk = true,
            Some(Purpose::Take(id)) => self.taken(now_ms, id),
            Some(Purpose::Start(id)) => self.started(now_ms, id),
            Some(Purpose::End(id)) => self.recorded(now_ms, id),
            Some(Purpose::Note) | None => {}
        }
        self.pump(now_ms);
    }

    /// There was no room on the disk for an append.
    pub(crate) fn handle_disk_full(&mut self, now_ms: u64, ticket: u64) {
        match self.writes.remove(&ticket) {
            Some(Purpose::Begin) => self.revs.retry_ms = Some(now_ms + DISK_RETRY_MS),
            Some(Purpose::Take(id)) => self.refuse_unwritten(now_ms, id),
            Some(Purpose::Start(id)) => self.unstart(now_ms, id),
            Some(Purpose::End(id)) => self.record_later(now_ms, id),
            Some(Purpose::Note) | None => {}
        }
        self.pump(now_ms);
    }

    /// A compaction is over; it was done if the new length is given.
    pub(crate) fn handle_compacted(&mut self, bytes: Option<u64>) {
        self.compacting = false;
        self.bytes = bytes.unwrap_or(self.bytes);
        // One that failed is tried again when the journal has grown as much as if it had not.
        self.compact_bytes = self.bytes;
    }

    /// The hub answered to a report, or nobody did.
    pub(crate) fn handle_answer(&mut self, now_ms: u64, ticket: u64, answer: Answer) {
        self.answered(now_ms, ticket, answer);
        self.pump(now_ms);
    }

    /// A handler tells how far it is.
    pub(crate) fn handle_progress(&mut self, now_ms: u64, id: CommandId, progress: Progress) {
        if let Some(entry) = self.entries.get_mut(&id).filter(|e| e.stage == Stage::Running) {
            entry.progress = Some(progress);
            let soon_ms = now_ms + telling::PROGRESS_MS;
            entry.post.due_ms = Some(entry.post.due_ms.map_or(soon_ms, |due| due.min(soon_ms)));
        }
    }

    /// A handler has ended.
    pub(crate) fn handle_ended(&mut self, now_ms: u64, id: CommandId, ended: Ended) {
        let stopping = self.stopping.is_some();
        let Some(entry) = self.entries.get(&id).filter(|e| e.stage == Stage::Running) else {
            return;
        };
        let by_signal = |o: &Outcome| o.error.as_ref().is_some_and(|e| e.code == "signal");
        match ended {
            Ended::Finished(outcome) if !(stopping && by_signal(&outcome)) => {
                self.end(now_ms, id, Some(outcome.into_report()));
            }
            Ended::Finished(outcome) | Ended::Stopped(outcome) if entry.cancelled => {
                let mut report = Report { error: None, ..outcome.into_report() };
                report.state = ReportState::Cancelled;
                self.end(now_ms, id, Some(report));
            }
            Ended::Finished(outcome) | Ended::Stopped(outcome) => {
                self.interrupted(now_ms, id, outcome.into_report());
            }
        }
        self.pump(now_ms);
    }

    /// What was left of a handler is dead.
    pub(crate) fn handle_swept(&mut self, now_ms: u64, id: CommandId) {
        self.swept(now_ms, id);
        self.pump(now_ms);
    }

    /// The agent is to end: no new command is taken, and handlers get [`SHUTDOWN_MS`].
    pub(crate) fn handle_shutdown(&mut self, now_ms: u64) {
        if self.stopping.is_none() {
            self.stopping = Some(Stopping { kill_ms: now_ms + SHUTDOWN_MS, killed: false });
            self.stop_all(Stop::Shutdown);
        }
        self.pump(now_ms);
    }

    /// The time that [`Engine::poll_timeout`] told is there.
    pub(crate) fn handle_timeout(&mut self, now_ms: u64) {
        if let Some(stopping) = &mut self.stopping
            && !stopping.killed
            && stopping.kill_ms <= now_ms
        {
            stopping.killed = true;
            self.stop_all(Stop::Kill);
        }
        self.pump(now_ms);
    }

    // --- What goes out ---

    /// The next thing to do.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// When to call [`Engine::handle_timeout`].
    pub(crate) fn poll_timeout(&self) -> Option<u64> {
        let entries = self.live().flat_map(|entry| self.wakes(entry)).flatten();
        let stopping =
            self.stopping.map(|s| if s.killed { s.kill_ms + LAST_WORDS_MS } else { s.kill_ms });
        entries.chain(stopping).chain(self.revs.retry_ms).min()
    }

    /// Whether the agent can end: what was under way is over, and told where the hub listens.
    pub(crate) fn is_over(&self, now_ms: u64) -> bool {
        let Some(stopping) = self.stopping else { return false };
        let busy = |e: &Entry| {
            matches!(e.stage, Stage::Starting | Stage::Running | Stage::Recording)
                || e.stage == Stage::Telling && e.post.failures == 0
        };
        let late = stopping.kill_ms + LAST_WORDS_MS <= now_ms;
        (late || !self.live().any(busy)) && !self.writes.values().any(|p| *p != Purpose::Note)
    }

    /// How many commands are under way, and how many are remembered in all.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.live.len(), self.entries.len())
    }

    /// The latest commands, newest first.
    pub(crate) fn latest(&self, count: usize) -> Vec<CommandStatus> {
        self.entries.values().rev().take(count).map(Entry::status).collect()
    }

    // --- Small ---

    /// Everything that may follow from what has just happened.
    fn pump(&mut self, now_ms: u64) {
        self.drop_stale(now_ms);
        self.start_due(now_ms);
        self.write_due(now_ms);
        self.post_due(now_ms);
        self.compact_if_long(now_ms);
    }

    fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    /// What is not done, in the order of the hub.
    fn live(&self) -> impl Iterator<Item = &Entry> {
        self.live.iter().filter_map(|(_, id)| self.entries.get(id))
    }

    fn stop_all(&mut self, stop: Stop) {
        let running = |e: &&Entry| e.stage == Stage::Running;
        let ids: Vec<_> = self.live().filter(running).map(|entry| entry.id).collect();
        self.out.extend(ids.into_iter().map(|command| Output::Stop { command, stop }));
    }

    fn hub_ms(&self, now_ms: u64) -> Option<u64> {
        self.hub_clock.map(|(hub_ms, at_ms)| hub_ms.saturating_add(now_ms.saturating_sub(at_ms)))
    }
}

#[cfg(test)]
mod tests;
