//! The agent's state machine for commands, without I/O: it decides, `driver.rs` acts. See [`Engine`].
//!
//! Invariant: a command is on disk before `accepted` is reported, the hub has answered that report before the
//! start is on disk, the start is on disk before the handler runs, and the result is on disk before it is
//! reported. So whatever crashes at whatever point, a handler is started at most once, unless its action is `rerun`.
//!
//! Below this file: `io.rs` has the types at the border; `entry.rs` is one command, `history.rs` the completed
//! ones; `lifecycle.rs` receives, cancels and ends a command, `scheduler.rs` starts the next one, `reporting.rs`
//! and `rev.rs` send reports, `restart.rs` continues after a crash, `retention.rs` and `time.rs` bound what is
//! stored and for how long. The reports that no handler wrote are in `outcome.rs`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bellwire_proto::limits::{
    AGENT_FINAL_REPORT, AGENT_FORCED_SHUTDOWN, AGENT_PROGRESS, AGENT_SHUTDOWN,
};
use bellwire_proto::stream::{CancelEvent, CommandEvent};
use bellwire_proto::{CommandId, Progress, Report, ReportState, Seq};

use super::journal::BootId;
use super::run::{Completion, RunEnd, Stop};
use super::status::CommandStatus;

mod entry;
mod history;
mod io;
mod lifecycle;
mod outcome;
mod reporting;
mod restart;
mod retention;
mod rev;
mod scheduler;
mod time;

use entry::{Entry, Stage};
use history::History;
pub(crate) use history::JournalSnapshot;
pub(crate) use io::{Admission, Output, ReportAnswer, RunSettings};
use reporting::ReportInFlight;
use retention::{Bounds, JournalState};
use rev::Revs;
use time::AgentTime;

/// When a write that the disk had no space for is tried again.
const DISK_RETRY_MS: u64 = 5000;

/// What a write to the journal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WritePurpose {
    /// A start number of reports: this one.
    StartNumber(u64),
    Command(CommandId),
    Start(CommandId),
    Result(CommandId),
    /// Nothing depends on it.
    Note,
}

/// A shutdown was requested.
#[derive(Debug, Clone, Copy)]
struct Stopping {
    killed: bool,
    /// When handlers are killed; after that, when the time for final reports ends; after that, `None`.
    due_ms: Option<u64>,
}

/// The agent's state machine. An embedder calls its methods in this order:
///
/// 1. **Start**: [`Engine::new`], [`Engine::restore`] with each record of the journal in the order of writing,
///    [`Engine::begin`].
/// 2. **Events**, in the order in which they happen. Each takes `now_ms`, milliseconds of `CLOCK_BOOTTIME`. Each
///    [`Output`] that has a ticket is answered by the event that repeats the ticket.
///    - of the clock: [`Engine::handle_device_clock`], before each of the others where the wall clock was read.
///    - of the stream: [`Engine::handle_hello`], [`Engine::handle_command`], [`Engine::handle_cancel`].
///    - of the disk: [`Engine::handle_written`], [`Engine::handle_disk_full`], [`Engine::handle_compacted`].
///    - of a report: [`Engine::handle_answer`].
///    - of a handler: [`Engine::handle_progress`], [`Engine::handle_ended`], [`Engine::handle_orphans_killed`].
/// 3. **Outputs**: after each event, [`Engine::poll_output`] until it is `None`. The writes among them must reach
///    the disk in their order.
/// 4. **Time**: [`Engine::handle_timeout`] at [`Engine::poll_timeout`], which changes with each event.
/// 5. **Shutdown**: [`Engine::handle_shutdown`], then as before until [`Engine::is_finished`].
///
/// The shortest embedder is `Fixture::act` in `tests/fixture.rs`, the real one `driver.rs`. The first test to read is
/// `nothing_runs_before_the_hub_has_answered_to_accepted` in `tests/rules.rs`: a command from its arrival to its start.
pub(crate) struct Engine {
    admission: Arc<dyn Admission>,
    boot: BootId,
    bounds: Bounds,
    /// Commands that are not completed, or are reported once more.
    entries: BTreeMap<CommandId, Entry>,
    /// Those of them with something to do, in the order of the hub.
    live: BTreeSet<(Seq, CommandId)>,
    history: History,
    /// Commands that wait for a compaction before they are stored, with the time at which they arrived.
    deferred: BTreeMap<(Seq, CommandId), (u64, CommandEvent)>,
    out: VecDeque<Output>,
    writes: HashMap<u64, WritePurpose>,
    /// Pending writes with a stamp of the clocks.
    stamp_tickets: HashSet<u64>,
    /// Reports that are not answered yet.
    posts: HashMap<u64, ReportInFlight>,
    tickets: u64,
    revs: Revs,
    random: u64,
    time: AgentTime,
    max_in_flight: usize,
    stopping: Option<Stopping>,
    journal: JournalState,
    /// A bug that the tests must notice: start records are left out.
    pub(crate) no_start_record: bool,
}

impl Engine {
    /// Without anything restored. [`Engine::restore`] and [`Engine::begin`] come next.
    pub(crate) fn new(admission: Arc<dyn Admission>, boot: BootId, random: u64) -> Self {
        Self {
            admission,
            time: AgentTime::new(boot.clone()),
            boot,
            bounds: Bounds::AGENT,
            entries: BTreeMap::new(),
            live: BTreeSet::new(),
            history: History::default(),
            deferred: BTreeMap::new(),
            out: VecDeque::new(),
            writes: HashMap::new(),
            stamp_tickets: HashSet::new(),
            posts: HashMap::new(),
            tickets: 0,
            revs: Revs::default(),
            random: random | 1,
            max_in_flight: 1,
            stopping: None,
            journal: JournalState::default(),
            no_start_record: false,
        }
    }

    // --- Events ---

    /// The stream is connected: what the hub's clock and the device's own show, and how many commands may run
    /// at once.
    pub(crate) fn handle_hello(
        &mut self,
        now_ms: u64,
        (hub_ms, device_ms): (u64, u64),
        max_in_flight: usize,
    ) {
        if self.time.on_hello(now_ms, hub_ms, device_ms) {
            self.journal.forget_ms = now_ms;
        }
        self.max_in_flight = max_in_flight.max(1);
        self.retry_reports(now_ms);
        self.pump(now_ms);
    }

    /// What the device's own clock shows. To be called with every event, since no event reports that it was set.
    pub(crate) fn handle_device_clock(&mut self, now_ms: u64, device_ms: u64) {
        if self.time.on_device_clock(now_ms, device_ms) {
            self.journal.forget_ms = now_ms;
            self.pump(now_ms);
        }
    }

    /// A command arrived, for the first time or again.
    pub(crate) fn handle_command(&mut self, now_ms: u64, event: CommandEvent) {
        // The hub keeps it queued and sends it after the restart.
        if self.stopping.is_some() {
            return;
        }
        if self.entries.contains_key(&event.id) || self.history.contains(event.id) {
            self.report_again(now_ms, event.id, Some(event.attempt));
        } else {
            self.receive(now_ms, now_ms, event);
        }
        self.pump(now_ms);
    }

    /// A command must be stopped, or must never run.
    pub(crate) fn handle_cancel(&mut self, now_ms: u64, cancel: CancelEvent) {
        self.cancel(now_ms, cancel.id, cancel.seq);
        self.pump(now_ms);
    }

    /// A write is on disk, and the journal has this length now.
    pub(crate) fn handle_written(&mut self, now_ms: u64, ticket: u64, bytes: u64) {
        self.journal.bytes = bytes;
        if self.stamp_tickets.remove(&ticket) {
            self.time.on_stamp_stored();
        }
        match self.writes.remove(&ticket) {
            Some(WritePurpose::StartNumber(start)) => self.on_start_number_stored(start),
            Some(WritePurpose::Command(id)) => self.on_command_stored(now_ms, id),
            Some(WritePurpose::Start(id)) => self.on_start_stored(now_ms, id),
            Some(WritePurpose::Result(id)) => self.on_result_stored(now_ms, id),
            Some(WritePurpose::Note) | None => {}
        }
        self.pump(now_ms);
    }

    /// The disk had no space for a write.
    pub(crate) fn handle_disk_full(&mut self, now_ms: u64, ticket: u64) {
        if self.stamp_tickets.remove(&ticket) {
            self.time.on_stamp_refused(now_ms);
        }
        match self.writes.remove(&ticket) {
            Some(WritePurpose::StartNumber(start)) => self.retry_start_number(now_ms, start),
            Some(WritePurpose::Command(id)) => self.reject_unstored(now_ms, id),
            Some(WritePurpose::Start(id)) => self.postpone_start(now_ms, id),
            Some(WritePurpose::Result(id)) => self.postpone_result(now_ms, id),
            Some(WritePurpose::Note) | None => {}
        }
        self.pump(now_ms);
    }

    /// A compaction has ended. It succeeded if the new length is given.
    pub(crate) fn handle_compacted(&mut self, now_ms: u64, bytes: Option<u64>) {
        self.on_compacted(now_ms, bytes);
        self.pump(now_ms);
    }

    /// A report was answered, or failed.
    pub(crate) fn handle_answer(&mut self, now_ms: u64, ticket: u64, answer: ReportAnswer) {
        self.on_answer(now_ms, ticket, answer);
        self.pump(now_ms);
    }

    /// A handler reports its progress.
    pub(crate) fn handle_progress(&mut self, now_ms: u64, id: CommandId, progress: Progress) {
        if let Some(entry) = self.entries.get_mut(&id).filter(|e| e.stage == Stage::Running) {
            entry.progress = Some(progress);
            let soon_ms = now_ms + ms(AGENT_PROGRESS);
            entry.post.due_ms = Some(entry.post.due_ms.map_or(soon_ms, |due| due.min(soon_ms)));
        }
    }

    /// A handler has ended.
    pub(crate) fn handle_ended(&mut self, now_ms: u64, id: CommandId, ended: RunEnd) {
        let Some(entry) = self.entries.get(&id).filter(|e| e.stage == Stage::Running) else {
            return;
        };
        // The last progress may not have been posted yet.
        let progress = entry.progress;
        let whole = |completion: Completion| -> Report {
            let mut report = completion.into_report();
            report.outcome.progress = report.outcome.progress.or(progress);
            report
        };
        match ended {
            RunEnd::Finished(completion) => self.end(id, Some(whole(completion))),
            RunEnd::Stopped(completion) if entry.cancelled => {
                let mut report = completion.into_report();
                report.state = ReportState::Cancelled;
                report.outcome.error = None;
                self.end(id, Some(report));
            }
            // Without a request to stop: a handler in an embedder's own code may return this all the same.
            RunEnd::Stopped(completion) if self.stopping.is_none() => {
                self.end(id, Some(whole(completion)));
            }
            RunEnd::Stopped(completion) => self.interrupted(id, completion.into_report()),
        }
        self.pump(now_ms);
    }

    /// The orphan processes of an earlier run are dead.
    pub(crate) fn handle_orphans_killed(&mut self, now_ms: u64, id: CommandId) {
        self.on_orphans_killed(now_ms, id);
        self.pump(now_ms);
    }

    /// A shutdown is requested: no new command is accepted, and handlers get [`AGENT_SHUTDOWN`]. A second request
    /// kills them.
    pub(crate) fn handle_shutdown(&mut self, now_ms: u64) {
        let is_forced = self.stopping.is_some();
        let (pause_ms, stop) = if is_forced {
            (ms(AGENT_FORCED_SHUTDOWN), Stop::Kill)
        } else {
            (ms(AGENT_SHUTDOWN), Stop::Shutdown)
        };
        self.stopping = Some(Stopping { killed: is_forced, due_ms: Some(now_ms + pause_ms) });
        self.deferred.clear();
        self.stop_all(stop);
        self.pump(now_ms);
    }

    /// The time of [`Engine::poll_timeout`] has come.
    pub(crate) fn handle_timeout(&mut self, now_ms: u64) {
        if let Some(stopping) = &mut self.stopping
            && let Some(due_ms) = stopping.due_ms.filter(|due_ms| *due_ms <= now_ms)
        {
            let first = !std::mem::replace(&mut stopping.killed, true);
            stopping.due_ms = first.then_some(due_ms + ms(AGENT_FINAL_REPORT));
            if first {
                self.stop_all(Stop::Kill);
            }
        }
        self.pump(now_ms);
    }

    // --- Outputs ---

    /// What to do next.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// When to call [`Engine::handle_timeout`].
    pub(crate) fn poll_timeout(&self) -> Option<u64> {
        let entries = self.live().flat_map(|entry| self.wake_times(entry)).flatten();
        let stopping = self.stopping.and_then(|stopping| stopping.due_ms);
        let forget_ms = self.time.boot_ms_at(0).map(|_| self.journal.forget_ms);
        let stamp_ms = self.time.stamp_due_ms().filter(|_| self.is_aging());
        entries.chain(stopping).chain(self.revs.retry_ms).chain(forget_ms).chain(stamp_ms).min()
    }

    /// Whether the agent can exit: everything in progress has ended, and is reported if the hub is reachable.
    pub(crate) fn is_finished(&self, now_ms: u64) -> bool {
        let Some(stopping) = self.stopping else { return false };
        let busy = |e: &Entry| {
            matches!(e.stage, Stage::Starting | Stage::Running | Stage::StoringResult)
                || e.stage == Stage::ReportingResult && e.post.failures == 0
        };
        let late = stopping.killed && stopping.due_ms.is_none_or(|due_ms| due_ms <= now_ms);
        (late || !self.live().any(busy)) && !self.writes.values().any(|p| *p != WritePurpose::Note)
    }

    /// Whether a shutdown was requested.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    /// How many commands are in progress, and how many are stored in all.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let known = self.entries.values().filter(|entry| !entry.acked).count();
        (self.live.len(), known + self.history.len())
    }

    /// The latest commands, newest first.
    pub(crate) fn latest(&self, count: usize) -> Vec<CommandStatus> {
        let known = self.entries.values().filter(|entry| !entry.acked).map(Entry::status);
        let mut latest: Vec<_> = known.chain(self.history.latest(count)).collect();
        latest.sort_by_key(|command| std::cmp::Reverse(command.id));
        latest.truncate(count);
        latest
    }

    // --- Helpers ---

    /// Does everything that may follow from an event.
    fn pump(&mut self, now_ms: u64) {
        self.expire_due(now_ms);
        self.write_due(now_ms);
        self.start_due(now_ms);
        self.post_due(now_ms);
        self.stamp_if_due(now_ms);
        self.compact_if_worth(now_ms);
    }

    fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    /// Commands with something to do, in the order of the hub.
    fn live(&self) -> impl Iterator<Item = &Entry> {
        self.live.iter().filter_map(|(_, id)| self.entries.get(id))
    }

    /// Whether anything is stored that has an age.
    fn is_aging(&self) -> bool {
        !self.entries.is_empty() || self.history.len() > 0
    }

    fn stop_all(&mut self, stop: Stop) {
        let running = |e: &&Entry| e.stage == Stage::Running;
        let ids: Vec<_> = self.live().filter(running).map(|entry| entry.id).collect();
        self.out.extend(ids.into_iter().map(|command| Output::Stop { command, stop }));
    }
}

/// A limit in milliseconds; all are whole seconds.
const fn ms(limit: Duration) -> u64 {
    limit.as_secs() * 1000
}

#[cfg(test)]
mod tests;
