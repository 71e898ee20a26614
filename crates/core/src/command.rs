//! What remains to be done of commands to many.
//!
//! A command to one device, or to few, is stored together with its deliveries. One to many is
//! stored with its targets, in chunks; that is what the sender is answered for. A **job** then
//! expands it: chunk by chunk its deliveries come into being, each chunk in one transaction that
//! also removes the chunk, so that whatever crashes, a target has its delivery or is still in a
//! chunk. A cancellation of a command to many is a job too: it is stored first, and reaches the
//! deliveries page by page.
//!
//! **Order.** A delivery that is about to come into being holds back the younger at its device
//! ([`Commands::hold_back`]); the chunk that covers the device is then expanded next.
//!
//! Here is the state of the jobs, with that of cancellations in `command/cancellation.rs`; which of them have something to be
//! done is in `command/agenda.rs`. What they do to devices is in `hub/jobs.rs`.

mod agenda;
mod cancellation;
mod rollouts;
mod selection;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bellwire_proto::limits::COMMANDS_TO_MANY_MAX;
use bellwire_proto::{DeviceId, Json, Seq};

use crate::ids::RequestId;
use crate::io::Send;
use crate::record::{
    BatchMark, ChunkRange, CommandHead, JobRecord, RolloutRecord, TargetChunk, TargetQuery, TxnId,
};
use crate::rollout::Rollout;
use crate::time::{Instant, LOAD_RETRY, earliest};

use agenda::Agenda;
use cancellation::Cancel;
pub(crate) use rollouts::RolloutStep;
pub(crate) use selection::Selection;

/// Targets in a chunk: what a step takes is about what a send takes, so that a sender whose transaction comes in meanwhile
/// waits for little more than its own.
pub(crate) const CHUNK_DEVICES: usize = 16;
/// Steps under way at once: some are prepared while others are written. While requests change something too it is one, and
/// what came in until it was on disk is written before the next: each of them waits for one step at most.
const STEPS_MAX: usize = 8;
/// While a request has changed something less long ago than this, expansion runs one step at a time: more requests are likely.
const REQUESTS_LIKELY_FOR: Duration = Duration::from_millis(50);
/// Steps that wait for a device which the store cannot read, beside those: they hold up nothing.
const STALLED_STEPS_MAX: usize = 64;

/// A step of a command to many, while it is prepared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct StepId(u64);

/// Commands to many that have something to be done.
#[derive(Debug, Default)]
pub(crate) struct Commands {
    jobs: BTreeMap<Seq, Job>,
    /// Up to date with the jobs by [`Commands::settle`].
    agenda: Agenda,
    /// Commands whose targets are being looked for, by their request.
    selections: BTreeMap<RequestId, Selection>,
    /// Rollouts of which a delivery has changed in the call under way.
    moved: BTreeSet<Seq>,
    steps: BTreeMap<StepId, Step>,
    last_step: u64,
    /// Chunks that a step is under way for.
    busy: usize,
    /// Devices that wait for a chunk to be expanded.
    held_back: BTreeSet<DeviceId>,
    /// Transactions of expanded chunks that may not be on disk yet, oldest first.
    writing: VecDeque<TxnId>,
    /// Pages of cancellations that are being looked up or decided.
    pages: usize,
    /// Pages that have been decided since [`Commands::next_lookup`] was last called.
    pages_decided: usize,
    /// The latest transaction of each decided page that may not be on disk yet, oldest first.
    pages_writing: VecDeque<TxnId>,
    /// Steps that wait for a device which could not be loaded.
    stalled: usize,
    /// Devices of steps that could not be loaded, and not to be looked up again before this.
    reloads: Vec<DeviceId>,
    reload_at: Option<Instant>,
    /// No lookup before this: the store could not answer the last.
    retry_at: Option<Instant>,
    /// When a request last changed something.
    requested_at: Option<Instant>,
    /// The latest transaction when the last step was seen on disk: while there are requests, the next step begins only when
    /// this is on disk too.
    step_barrier: TxnId,
    /// A delivery could not be looked up since [`Commands::next_lookup`] was last called.
    lookup_failed: bool,
}

/// A command to many that is being expanded or cancelled.
#[derive(Debug)]
struct Job {
    head: CommandHead,
    online_only: bool,
    /// Targets without a delivery, by the first name of their chunk.
    chunks: BTreeMap<DeviceId, Chunk>,
    /// Those of them that a rollout begins with.
    canaries: BTreeSet<DeviceId>,
    /// Chunks that a step is under way for.
    busy: usize,
    /// Chunks that a device waits for.
    urgent: VecDeque<DeviceId>,
    cancel: Option<Cancel>,
    /// How far it is rolled out.
    rollout: Option<Rollout>,
    /// The transaction that stored the command: chunks are read when it is on disk.
    stored: TxnId,
    /// The latest transaction with a row of the command or its deliveries: a cancellation looks for
    /// live deliveries when it is on disk.
    txn: TxnId,
}

#[derive(Debug)]
struct Chunk {
    last: DeviceId,
    /// A step for it is under way.
    busy: bool,
    urgent: bool,
}

/// A step that waits for its devices to be in memory.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) kind: StepKind,
    pub(crate) devices: Vec<DeviceId>,
    /// How many of the devices are not in memory yet.
    awaited: usize,
    /// One of them could not be loaded.
    stalled: bool,
}

#[derive(Debug)]
pub(crate) enum StepKind {
    /// A command to few is stored, with all its deliveries.
    Store { request: RequestId, send: Box<Send>, random: [u8; 10] },
    /// The first targets of a chunk of a command to many get their deliveries; the rest of it does not yet.
    Expand { command: Seq, data: Json, rest: TargetChunk },
}

/// What is to be looked up next for the jobs.
#[derive(Debug)]
pub(crate) enum JobLookup {
    /// Targets of a command that is about to be stored.
    Found { request: RequestId, query: Box<TargetQuery>, after: Option<DeviceId> },
    /// The chunk with this first name.
    Targets(Seq, DeviceId),
    /// Live deliveries after this device.
    Live(Seq, Option<DeviceId>),
    /// A device again.
    Device(DeviceId),
}

/// What an expansion needs to know of its command.
#[derive(Debug)]
pub(crate) struct Expansion {
    pub(crate) head: CommandHead,
    pub(crate) online_only: bool,
    /// The deliveries end as they come into being.
    pub(crate) end: Option<EndAtOnce>,
    /// Of a rollout: what they belong to, and until when they must be accepted.
    pub(crate) batch: Option<(BatchMark, Instant)>,
}

/// Why deliveries end as they come into being.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndAtOnce {
    /// The command is being cancelled, by force or not.
    Cancelled(bool),
    /// Its rollout was aborted.
    Aborted,
}

impl Job {
    /// With nothing to be done yet. The change to it is in the transaction `txn`.
    fn new(head: CommandHead, online_only: bool, txn: TxnId) -> Self {
        Self {
            head,
            online_only,
            chunks: BTreeMap::new(),
            canaries: BTreeSet::new(),
            busy: 0,
            urgent: VecDeque::new(),
            cancel: None,
            rollout: None,
            stored: txn,
            txn,
        }
    }

    fn put_chunk(&mut self, range: ChunkRange) {
        let ChunkRange { first, last, canary, .. } = range;
        if canary {
            self.canaries.insert(first.clone());
        }
        self.chunks.insert(first, Chunk { last, busy: false, urgent: false });
    }

    /// A step for the chunk begins. False if there is no such chunk.
    fn begin_chunk(&mut self, first: &DeviceId) -> bool {
        let Some(chunk) = self.chunks.get_mut(first) else { return false };
        self.busy += usize::from(!std::mem::replace(&mut chunk.busy, true));
        true
    }

    /// The step for the chunk has ended, and the chunk is still there. False if there was none.
    fn release_chunk(&mut self, first: &DeviceId) -> bool {
        let chunk = self.chunks.get_mut(first);
        let was_busy = chunk.is_some_and(|chunk| std::mem::take(&mut chunk.busy));
        self.busy -= usize::from(was_busy);
        was_busy
    }

    /// The step for the chunk has ended, and the chunk with it. False if there was none: then the chunk stays, with its targets.
    fn remove_chunk(&mut self, first: &DeviceId) -> bool {
        let was_busy = self.release_chunk(first);
        if was_busy {
            self.canaries.remove(first);
            self.chunks.remove(first);
        }
        was_busy
    }

    fn is_done(&self) -> bool {
        let rolled_out = self.rollout.as_ref().is_none_or(|rollout| rollout.state().is_ended());
        self.chunks.is_empty() && self.cancel.is_none() && rolled_out
    }

    /// The chunk that may hold a device.
    fn covering(&mut self, device: &DeviceId) -> Option<(&DeviceId, &mut Chunk)> {
        let (first, chunk) = self.chunks.range_mut(..=device.clone()).next_back()?;
        (*device <= chunk.last).then_some((first, chunk))
    }

    fn prioritize(&mut self, device: &DeviceId) -> bool {
        let Some((first, chunk)) = self.covering(device) else { return false };
        if !std::mem::replace(&mut chunk.urgent, true) {
            let first = first.clone();
            self.urgent.push_back(first);
        }
        true
    }

    /// A chunk that a device waits for.
    fn urgent_chunk(&mut self) -> Option<DeviceId> {
        while let Some(first) = self.urgent.pop_front() {
            if self.chunks.get(&first).is_some_and(|chunk| !chunk.busy) {
                return Some(first);
            }
        }
        None
    }

    /// Any chunk that no step is under way for. Of a rollout one step at a time, canaries first.
    fn any_chunk(&self, committed: TxnId) -> Option<DeviceId> {
        let mut chunks = self.chunks.iter();
        if self.rollout.is_some() {
            // What remains of a chunk is read when it is on disk.
            if self.txn > committed || self.busy > 0 || self.may_expand() == 0 {
                return None;
            }
            let canary = self.canaries.first();
            return canary.or_else(|| chunks.next().map(|(first, _)| first)).cloned();
        }
        chunks.find(|(_, chunk)| !chunk.busy).map(|(first, _)| first.clone())
    }
}

impl Commands {
    /// The jobs that a hub found unfinished when it started.
    pub(crate) fn recovered(records: Vec<JobRecord>) -> Self {
        let job = |record: JobRecord| {
            let waiting = record.chunks.iter().map(|chunk| chunk.targets).sum();
            let total = record.head.total;
            let rollout = record.rollout;
            let mut job = Job::new(record.head, record.online_only, TxnId::default());
            job.rollout = rollout.map(|(r, counts)| Rollout::recovered(r, total, waiting, counts));
            job.cancel = record.cancel.map(Cancel::new);
            record.chunks.into_iter().for_each(|range| job.put_chunk(range));
            job
        };
        let mut commands = Self::default();
        for job in records.into_iter().map(job) {
            let command = job.head.seq;
            commands.jobs.insert(command, job);
            commands.settle(command);
        }
        // Nothing else may happen for long: they go on as soon as the hub is called.
        commands.retry_at = (!commands.jobs.is_empty()).then(Instant::default);
        commands
    }

    /// A job has changed: it is dropped if nothing remains to be done of it.
    fn settle(&mut self, command: Seq) {
        if self.jobs.get(&command).is_some_and(Job::is_done) {
            self.jobs.remove(&command);
        }
        match self.jobs.get(&command) {
            None => self.agenda.remove(command),
            Some(job) => self.agenda.put(command, !job.is_dormant(), job.is_rolling_out()),
        }
    }

    /// How much is held, in entries.
    pub(crate) fn len(&self) -> usize {
        self.jobs.len() + self.selections.len() + self.steps.len() + self.held_back.len()
    }

    /// A request changes something now: its client waits for the disk.
    pub(crate) fn request_changes(&mut self, now: Instant) {
        self.requested_at = Some(now);
    }

    /// Whether no more commands may be expanded, cancelled or have their targets looked for. Those that are rolled out
    /// do not count: one that is paused would refuse others for weeks.
    pub(crate) fn is_full(&self) -> bool {
        let jobs = self.jobs.values().filter(|job| !job.is_rolling_out()).count();
        jobs + self.selections.len() >= COMMANDS_TO_MANY_MAX
    }

    // --- Expansion ---

    /// A command to many has been stored with its targets, which its job expands from now on.
    pub(crate) fn expand(
        &mut self,
        head: CommandHead,
        online_only: bool,
        ranges: impl IntoIterator<Item = ChunkRange>,
        rollout: Option<RolloutRecord>,
        txn: TxnId,
    ) {
        let (command, total) = (head.seq, head.total);
        let mut job = Job::new(head, online_only, txn);
        job.rollout = rollout.map(|record| Rollout::new(record, total));
        ranges.into_iter().for_each(|range| job.put_chunk(range));
        self.jobs.insert(command, job);
        self.settle(command);
    }

    /// Whether a delivery with the number `seq` has to wait at a device for an older one that is
    /// about to come into being. If so, that comes next, and the device is looked at again then.
    pub(crate) fn hold_back(&mut self, device: &DeviceId, seq: Seq) -> bool {
        let mut held = false;
        for command in self.agenda.active_before(seq) {
            let job = self.jobs.get_mut(&command).filter(|job| job.holds_back());
            held |= job.is_some_and(|job| job.prioritize(device));
        }
        if held {
            self.held_back.insert(device.clone());
        }
        held
    }

    /// Whether any delivery is about to come into being at a device. If so, that comes next, and
    /// the device is looked at again then.
    pub(crate) fn delay_until_expanded(&mut self, device: &DeviceId) -> bool {
        self.hold_back(device, Seq::new(u64::MAX))
    }

    /// The next lookup, if there may be one now. `last` is the latest transaction, `committed` the
    /// latest one that is on disk.
    pub(crate) fn next_lookup(
        &mut self,
        last: TxnId,
        committed: TxnId,
        now: Instant,
    ) -> Option<JobLookup> {
        // What a page has decided is in transactions up to `last`.
        self.pages_writing.extend(std::iter::repeat_n(last, self.pages_decided));
        self.pages_decided = 0;
        if std::mem::take(&mut self.lookup_failed) {
            self.retry_at = Some(now.after(LOAD_RETRY));
        }
        if self.reload_at.is_none_or(|at| at <= now)
            && let Some(device) = self.reloads.pop()
        {
            return Some(JobLookup::Device(device));
        }
        self.reload_at = self.reload_at.filter(|_| !self.reloads.is_empty());
        if let Some(lookup) = self.next_search(committed) {
            return Some(lookup);
        }
        if self.jobs.is_empty() || self.retry_at.is_some_and(|at| at > now) {
            return None;
        }
        self.retry_at = None;
        self.next_chunk(last, committed, now).or_else(|| self.next_page(committed))
    }

    /// A chunk with an urgent target comes first, of whichever command.
    fn next_chunk(&mut self, last: TxnId, committed: TxnId, now: Instant) -> Option<JobLookup> {
        while self.writing.pop_front_if(|txn| *txn <= committed).is_some() {
            self.step_barrier = last;
        }
        let preparing = self.busy - self.stalled.min(STALLED_STEPS_MAX);
        let steps = preparing + self.writing.len();
        let alone = self.requested_at.is_none_or(|at| now.since(at) >= REQUESTS_LIKELY_FOR);
        let may_begin =
            if alone { steps < STEPS_MAX } else { steps == 0 && self.step_barrier <= committed };
        if !may_begin {
            return None;
        }
        let is_known =
            |(command, job): (&Seq, &Job)| self.agenda.is_active(*command) != job.is_dormant();
        debug_assert!(self.jobs.iter().all(is_known), "the agenda lags behind the jobs");
        let is_stored = |job: &Job| job.stored <= committed;
        let urgent = self.agenda.active().find_map(|command| {
            let job = self.jobs.get_mut(&command).filter(|job| is_stored(job))?;
            Some((command, job.urgent_chunk()?))
        });
        let any = || {
            self.agenda.active().find_map(|command| {
                let job = self.jobs.get(&command).filter(|job| is_stored(job))?;
                Some((command, job.any_chunk(committed)?))
            })
        };
        let (command, first) = urgent.or_else(any)?;
        if !self.jobs.get_mut(&command)?.begin_chunk(&first) {
            return None;
        }
        self.busy += 1;
        Some(JobLookup::Targets(command, first))
    }

    /// When [`Commands::next_lookup`] is to be called again after a failed lookup.
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        earliest(self.retry_at.filter(|_| !self.jobs.is_empty()), self.reload_at)
    }

    /// The chunk could not be looked up.
    pub(crate) fn chunk_failed(&mut self, command: Seq, first: &DeviceId, retry_at: Instant) {
        self.retry_at = Some(retry_at);
        self.chunk_deferred(command, first);
        let job = self.jobs.get_mut(&command);
        if let Some(chunk) = job.and_then(|job| job.chunks.get_mut(first)) {
            chunk.urgent = false;
        }
    }

    /// How many targets of a chunk may get their delivery now, at most.
    pub(crate) fn may_expand(&self, command: Seq) -> u64 {
        self.jobs.get(&command).map_or(0, Job::may_expand)
    }

    /// A chunk is not expanded now after all.
    pub(crate) fn chunk_deferred(&mut self, command: Seq, first: &DeviceId) {
        let job = self.jobs.get_mut(&command);
        self.busy -= usize::from(job.is_some_and(|job| job.release_chunk(first)));
    }

    /// The first `count` targets of the chunk are being expanded in the transaction `txn`; `rest` is what remains of it.
    pub(crate) fn chunk_expanded(
        &mut self,
        command: Seq,
        first: &DeviceId,
        count: u64,
        rest: Option<ChunkRange>,
        txn: TxnId,
    ) -> Option<Expansion> {
        let job = self.jobs.get_mut(&command)?;
        if !job.remove_chunk(first) {
            return None;
        }
        self.busy -= 1;
        self.writing.push_back(txn);
        job.txn = txn;
        rest.into_iter().for_each(|range| job.put_chunk(range));
        let batch = job.rollout.as_mut().map(|rollout| {
            rollout.expanded(count);
            (rollout.mark(), rollout.began().after(job.head.ttl()))
        });
        let aborted = job.rollout.as_ref().is_some_and(|r| r.state().is_ended());
        let end = match &job.cancel {
            _ if aborted => Some(EndAtOnce::Aborted),
            Some(cancel) => Some(EndAtOnce::Cancelled(cancel.force)),
            None => None,
        };
        let expansion =
            Expansion { head: job.head.clone(), online_only: job.online_only, end, batch };
        self.settle(command);
        Some(expansion)
    }

    /// Devices from `first` to `last` that waited for their chunk.
    pub(crate) fn take_held_back(&mut self, first: &DeviceId, last: &DeviceId) -> Vec<DeviceId> {
        let held: Vec<DeviceId> =
            self.held_back.range(first.clone()..=last.clone()).cloned().collect();
        for device in &held {
            self.held_back.remove(device);
        }
        held
    }

    // --- Steps ---

    pub(crate) fn next_step_id(&mut self) -> StepId {
        self.last_step += 1;
        StepId(self.last_step)
    }

    /// A step that needs these devices, of which `awaited` are not in memory yet.
    pub(crate) fn begin_step(
        &mut self,
        id: StepId,
        kind: StepKind,
        devices: Vec<DeviceId>,
        awaited: usize,
    ) {
        self.steps.insert(id, Step { kind, devices, awaited, stalled: false });
    }

    /// One more device of a step is in memory; true when all are.
    pub(crate) fn device_ready(&mut self, id: StepId) -> bool {
        let Some(step) = self.steps.get_mut(&id) else { return false };
        step.awaited = step.awaited.saturating_sub(1);
        step.awaited == 0
    }

    /// A device of an expansion could not be loaded: it is looked up again.
    pub(crate) fn reload(&mut self, device: DeviceId, steps: &[StepId], reload_at: Instant) {
        for id in steps {
            if let Some(step) = self.steps.get_mut(id).filter(|step| !step.stalled) {
                step.stalled = true;
                self.stalled += 1;
            }
        }
        self.reload_at = Some(reload_at);
        self.reloads.push(device);
    }

    /// Whether the step stores a command, whose sender waits for it.
    pub(crate) fn is_store(&self, id: StepId) -> bool {
        let kind = self.steps.get(&id).map(|step| &step.kind);
        matches!(kind, Some(StepKind::Store { .. }))
    }

    pub(crate) fn take_step(&mut self, id: StepId) -> Option<Step> {
        let step = self.steps.remove(&id)?;
        self.stalled -= usize::from(step.stalled);
        Some(step)
    }

    /// Requests that wait for steps and cancellations, when nothing will be done any more.
    pub(crate) fn abandon(&mut self) -> Vec<RequestId> {
        let Self { jobs, selections, steps, .. } = std::mem::take(self);
        let stored = steps.into_values().filter_map(|step| match step.kind {
            StepKind::Store { request, .. } => Some(request),
            StepKind::Expand { .. } => None,
        });
        let cancels = jobs.into_values().filter_map(|job| job.cancel);
        let requests = stored.chain(cancels.flat_map(|cancel| cancel.requests));
        requests.chain(selections.into_keys()).collect()
    }
}
