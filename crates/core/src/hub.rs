//! The hub: what may happen to it, and what is to be done. The page of [`Hub`] lists the classes of its
//! methods.
//!
//! Here is the interface alone, but for what the store reports (`hub/stored.rs`), tokens (`hub/grants.rs`) and schedules
//! (`hub/schedules.rs`). How a device comes into memory and leaves it is in `hub/memory.rs`, a send in `hub/sends.rs`, what is
//! done for commands to many in `hub/jobs.rs`; the decisions themselves are in `device.rs` and its submodules.
//!
//! **Bounds.** Every entry of `devices`, `cancels`, `unchecked` and `keys` belongs to an open request, a stream, a step or the
//! run of a schedule, so their number is bounded by the connections that the driver admits and by
//! [`SCHEDULES_MAX`](bellwire_proto::limits::SCHEDULES_MAX),
//! [`COMMANDS_TO_MANY_MAX`](bellwire_proto::limits::COMMANDS_TO_MANY_MAX) and
//! [`ROLLOUTS_MAX`](bellwire_proto::limits::ROLLOUTS_MAX); a device has its window and what is under way in memory;
//! a pending transaction belongs to one of those.

mod grants;
mod jobs;
mod memory;
mod online;
mod rollouts;
mod schedules;
mod selections;
mod sends;
mod stored;

use std::collections::{BTreeSet, HashMap, VecDeque};

use bellwire_proto::stream::ByeReason;
use bellwire_proto::{CommandId, DeviceId, Json, Labels, Report, Seq};

use crate::audit::Audits;
use crate::command::Commands;
use crate::config::{Config, Recovered};
use crate::context::{Context, DueTimes, SplitMix, store_unavailable};
use crate::device::{CancelOrigin, DeliveryOp, Device, Op, session_gone};
use crate::grant::Grants;
use crate::idempotency::IdempotencyKeys;
use crate::ids::{RequestId, SessionId};
use crate::io::{
    Answer, Footprint, Listen, NewSend, Output, Poll, Presence, RolloutOp, Send, Target,
};
use crate::record::{AuditRecord, Change, Load};
use crate::schedule::Schedules;
use crate::time::{Instant, Now, earliest};
use crate::txn::{TxnBuilder, TxnQueue};

/// Deliveries that are looked up at once because they are due.
const DUE_ROWS_MAX: usize = 512;
/// Devices whose deadlines one call acts upon.
const TIMERS_AT_ONCE: usize = 256;
/// Schedules whose times one call decides.
const RUNS_AT_ONCE: usize = 32;

/// Every decision of a hub.
///
/// **Order of calls.** Call a `handle_*` method for whatever happened, with both clocks. Then take
/// outputs from [`poll_output`](Self::poll_output) until there are none, and carry them out in their
/// order. Then call [`handle_timeout`](Self::handle_timeout) at [`poll_timeout`](Self::poll_timeout), if
/// nothing happens before, and within a second after the wall clock was set. The classes of methods:
///
/// 1. **Senders**: [`handle_send`](Self::handle_send), [`handle_cancel`](Self::handle_cancel),
///    [`handle_cancel_at`](Self::handle_cancel_at), [`handle_rollout`](Self::handle_rollout),
///    [`handle_schedule`](Self::handle_schedule), [`handle_abandoned`](Self::handle_abandoned).
/// 2. **Devices**: [`handle_listen`](Self::handle_listen), [`handle_confirm`](Self::handle_confirm),
///    [`handle_poll`](Self::handle_poll), [`handle_report`](Self::handle_report).
/// 3. **Streams**: [`handle_taken`](Self::handle_taken), [`handle_stalled`](Self::handle_stalled),
///    [`handle_resumed`](Self::handle_resumed), [`handle_closed`](Self::handle_closed).
/// 4. **Operators**: [`handle_put_device`](Self::handle_put_device),
///    [`handle_put_facts`](Self::handle_put_facts), [`handle_delete_device`](Self::handle_delete_device).
/// 5. **Tokens**: [`handle_create_token`](Self::handle_create_token), [`handle_revoke_token`](Self::handle_revoke_token),
///    [`handle_enroll`](Self::handle_enroll), [`handle_approve`](Self::handle_approve),
///    [`handle_tokens_used`](Self::handle_tokens_used), [`handle_credential_ended`](Self::handle_credential_ended),
///    [`is_open`](Self::is_open).
/// 6. **The audit log**: [`audit`](Self::audit) before the call that it is about, [`handle_audit`](Self::handle_audit).
/// 7. **The store**: [`handle_store_full`](Self::handle_store_full) before every other call,
///    [`handle_committed`](Self::handle_committed), [`handle_loaded`](Self::handle_loaded),
///    [`handle_store_failed`](Self::handle_store_failed).
/// 8. **Observers and watchers**: [`observe_all`](Self::observe_all), [`watch`](Self::watch),
///    [`handle_settle`](Self::handle_settle) before a snapshot is read, [`unwatch`](Self::unwatch).
/// 9. **Time and the end**: [`handle_timeout`](Self::handle_timeout),
///    [`handle_drain`](Self::handle_drain).
/// 10. **Outputs**: [`poll_output`](Self::poll_output), [`poll_timeout`](Self::poll_timeout).
/// 11. **State**: [`presence`](Self::presence), [`online_part`](Self::online_part),
///     [`online_count`](Self::online_count), [`footprint`](Self::footprint).
///
/// A request has one [`Output::Reply`]. A driver with a store and devices is
/// `tests/contract/harness.rs`; here a device is registered over a store that is empty:
///
/// ```
/// use bellwire_core::record::{Load, Loaded, LoadedDevice, QueuePage};
/// use bellwire_core::{Answer, Config, Hub, Instant, Now, Output, Recovered, RequestId};
/// use bellwire_proto::{Labels, Timestamp};
///
/// let now = Now { instant: Instant::from_ms(0), wall: Timestamp::from_unix_ms(1_700_000_000_000) };
/// let mut hub = Hub::new(Config::default(), Recovered::default(), 1);
/// hub.handle_put_device(RequestId(1), "kiosk-7".parse()?, Labels::new(), now);
/// let mut created = false;
/// while let Some(output) = hub.poll_output() {
///     match output {
///         Output::Load(Load::Device(device, _)) => {
///             let (queue, active) = (QueuePage::default(), Vec::new());
///             let unknown = LoadedDevice { device, known: false, queued: 0, active, queue };
///             hub.handle_loaded(Loaded::Device(Box::new(unknown)), now);
///         }
///         // A real store calls `committed` once the changes are on disk.
///         Output::Persist(txn) => hub.handle_committed(txn.committed(), now),
///         Output::Reply(RequestId(1), Answer::Device { created: new }) => created = new,
///         _ => {}
///     }
/// }
/// assert!(created);
/// # Ok::<(), bellwire_proto::InvalidName>(())
/// ```
#[derive(Debug)]
pub struct Hub {
    ctx: Context,
    txns: TxnQueue,
    devices: HashMap<DeviceId, Box<Device>>,
    /// When which device is to be looked at.
    timers: BTreeSet<(Instant, DeviceId)>,
    /// Whether due deliveries are being looked up.
    due_loading: bool,
    keys: IdempotencyKeys,
    /// Cancellations, changes of rollouts and runs of schedules that wait for a command to be looked up.
    cancels: HashMap<CommandId, Vec<(RequestId, CommandOp)>>,
    /// Commands to several devices that wait for a look whether all are known.
    unchecked: HashMap<RequestId, (NewSend, Vec<DeviceId>)>,
    /// The latest reading of the clocks, if there was one.
    now: Option<Now>,
    failed: bool,
}

/// What is done to a command as a whole.
#[derive(Debug)]
enum CommandOp {
    Cancel {
        force: bool,
    },
    Rollout(RolloutOp),
    /// A run of a schedule must know whether it has ended; with what the run may do.
    LookForEnd(schedules::OnBehalf),
}

impl Hub {
    /// A hub over a store that has recovered. `seed` feeds the spread of reconnections.
    pub fn new(config: Config, recovered: Recovered, seed: u64) -> Self {
        let due = DueTimes { deadline: recovered.next_due, scheduled: recovered.next_scheduled };
        let schedules = Schedules::recovered(recovered.schedules, config.calendar);
        Self {
            ctx: Context {
                config,
                outputs: VecDeque::new(),
                sessions: HashMap::new(),
                waiting: HashMap::new(),
                seqs: recovered.seqs,
                random: SplitMix(seed),
                draining: false,
                observed: false,
                online: BTreeSet::new(),
                watched: HashMap::new(),
                due,
                key_decisions: VecDeque::new(),
                commands: Commands::recovered(recovered.jobs),
                grants: Grants::recovered(recovered.admin_tokens),
                audits: Audits::default(),
                store_full: None,
                grant_decisions: VecDeque::new(),
                schedules,
            },
            txns: TxnQueue::default(),
            devices: HashMap::new(),
            timers: BTreeSet::new(),
            due_loading: false,
            keys: IdempotencyKeys::default(),
            cancels: HashMap::new(),
            unchecked: HashMap::new(),
            now: None,
            failed: false,
        }
    }

    // --- What senders request ---

    /// Stores a command and sends it as soon as it may be. `random` makes the command's id.
    ///
    /// To one device, it replies [`Answer::Delivery`] once it is on disk and, if the sender waits,
    /// has ended or the wait has elapsed; to several, [`Answer::Command`] once it is on disk.
    pub fn handle_send(&mut self, request: RequestId, send: Send, random: [u8; 10], now: Now) {
        if self.refused(request) {
            return;
        }
        if let Target::Device(device) = &send.target
            && send.wait.get() > 0
            && send.rollout.is_none()
        {
            self.ctx.waiting.insert(request, device.clone());
        }
        self.send_by_key((request, Box::new(send), random), now);
        self.finish_call(now);
    }

    /// Whether the store has no space for another command, and why: sends are refused then, runs of schedules are tried
    /// again, and all else goes on. To be called before every other call: any of them may come to a run.
    pub fn handle_store_full(&mut self, why: Option<&'static str>) {
        self.ctx.store_full = why;
    }

    /// Cancels a command. Replies [`Answer::Cancelled`].
    pub fn handle_cancel(
        &mut self,
        request: RequestId,
        command: CommandId,
        force: bool,
        _now: Now,
    ) {
        self.at_command(request, command, CommandOp::Cancel { force });
    }

    /// Pauses, resumes or aborts the rollout of a command. Replies [`Answer::Cancelled`].
    pub fn handle_rollout(
        &mut self,
        request: RequestId,
        command: CommandId,
        op: RolloutOp,
        _now: Now,
    ) {
        self.at_command(request, command, CommandOp::Rollout(op));
    }

    fn at_command(&mut self, request: RequestId, command: CommandId, op: CommandOp) {
        if self.refused(request) {
            return;
        }
        let waiting = self.cancels.entry(command).or_default();
        waiting.push((request, op));
        if waiting.len() == 1 {
            self.ctx.outputs.push_back(Output::Load(Load::Command(command)));
        }
    }

    /// Cancels the delivery of a command at one device. Replies [`Answer::Cancelled`].
    pub fn handle_cancel_at(
        &mut self,
        request: RequestId,
        device: DeviceId,
        command: CommandId,
        force: bool,
        now: Now,
    ) {
        if self.refused(request) {
            return;
        }
        let op = DeliveryOp::Cancel { origin: CancelOrigin::Request(request), force };
        self.call_device(device, Op::Delivery { command, op }, now);
    }

    /// The client of a waiting request has disconnected: it needs no reply.
    pub fn handle_abandoned(&mut self, request: RequestId, now: Now) {
        if let Some(id) = self.ctx.waiting.remove(&request) {
            self.with_device(&id, now, |device, _| device.abandoned(request));
            self.finish_call(now);
        }
    }

    // --- What devices do ---

    /// A device opens a stream. Replies [`Answer::Listening`]; from then on frames are sent to
    /// `session`, some maybe before the driver could attach it.
    pub fn handle_listen(
        &mut self,
        request: RequestId,
        session: SessionId,
        device: DeviceId,
        listen: Listen,
        now: Now,
    ) {
        if self.refused(request) {
            return;
        }
        self.ctx.begin_session(session, device.clone(), listen.token);
        let op = Op::Listen { request, session, listen: Box::new(listen) };
        self.call_device(device, op, now);
    }

    /// A device confirms a stream. Replies [`Answer::Done`].
    pub fn handle_confirm(
        &mut self,
        request: RequestId,
        device: DeviceId,
        session: SessionId,
        now: Now,
    ) {
        if self.refused(request) {
            return;
        }
        let mut outcome = Err(session_gone());
        self.with_device(&device, now, |device, txn| outcome = device.confirm(session, txn));
        match outcome {
            Ok(()) => self.ctx.outputs.push_back(Output::Reply(request, Answer::Done)),
            Err(problem) => self.ctx.refuse(request, problem),
        }
        self.finish_call(now);
    }

    /// A device polls. Replies [`Answer::Poll`].
    pub fn handle_poll(&mut self, request: RequestId, device: DeviceId, poll: Poll, now: Now) {
        if self.refused(request) {
            return;
        }
        self.ctx.waiting.insert(request, device.clone());
        self.call_device(device, Op::Poll { request, poll: Box::new(poll) }, now);
    }

    /// A report about a delivery. Replies [`Answer::Delivery`].
    pub fn handle_report(
        &mut self,
        request: RequestId,
        device: DeviceId,
        command: CommandId,
        report: Report,
        now: Now,
    ) {
        if self.refused(request) {
            return;
        }
        let op = DeliveryOp::Report { request, report: Box::new(report) };
        self.call_device(device, Op::Delivery { command, op }, now);
    }

    // --- What happens to streams ---

    /// A frame that was sent with a [`NotifyOn`](crate::NotifyOn) was taken or written.
    pub fn handle_taken(&mut self, session: SessionId, seq: Seq, now: Now) {
        self.with_session(session, now, |device, txn| device.taken(session, seq, txn));
    }

    /// No byte from or to the device for too long: it no longer counts as online.
    pub fn handle_stalled(&mut self, session: SessionId, now: Now) {
        self.with_session(session, now, |device, _| device.set_stalled(session, true, now));
    }

    /// Bytes pass again on a stream that had stalled.
    pub fn handle_resumed(&mut self, session: SessionId, now: Now) {
        self.with_session(session, now, |device, _| {
            device.seen(now);
            device.set_stalled(session, false, now);
        });
    }

    /// A stream has ended, on either side.
    pub fn handle_closed(&mut self, session: SessionId, now: Now) {
        let Some(id) = self.ctx.end_session(session) else {
            return;
        };
        self.with_device(&id, now, |device, txn| device.closed(session, txn));
        self.finish_call(now);
    }

    // --- What operators do to devices ---

    /// Registers a device, or replaces its labels. Replies [`Answer::Device`].
    pub fn handle_put_device(
        &mut self,
        request: RequestId,
        device: DeviceId,
        labels: Labels,
        now: Now,
    ) {
        if !self.refused(request) {
            self.call_device(device, Op::PutLabels { request, labels }, now);
        }
    }

    /// Stores what a device says of itself. Replies [`Answer::Device`].
    pub fn handle_put_facts(
        &mut self,
        request: RequestId,
        device: DeviceId,
        facts: Json,
        now: Now,
    ) {
        if !self.refused(request) {
            self.call_device(device, Op::PutFacts { request, facts }, now);
        }
    }

    /// Removes a device: its streams end, its live deliveries are cancelled. Replies
    /// [`Answer::Done`].
    pub fn handle_delete_device(&mut self, request: RequestId, device: DeviceId, now: Now) {
        if !self.refused(request) {
            self.call_device(device, Op::Delete { request }, now);
        }
    }

    // --- The audit log ---

    /// What is to be written if a request changes something: to be called before that request's own call.
    pub fn audit(&mut self, request: RequestId, record: AuditRecord) {
        if !self.failed {
            self.ctx.audits.put(request, Box::new(record));
        }
    }

    /// Writes an entry that belongs to no change: of refusals. Nothing is promised.
    pub fn handle_audit(&mut self, record: AuditRecord, now: Now) {
        if self.failed {
            return;
        }
        let mut txn = TxnBuilder::new(now, &self.txns, &mut self.ctx);
        txn.change(Change::PutAudit(Box::new(record)));
        let outcome = txn.finish(&mut self.txns);
        self.end_call(outcome, now);
        self.finish_call(now);
    }

    // --- Time and the end ---

    /// The time that [`Hub::poll_timeout`] named has come, or the wall clock was set.
    pub fn handle_timeout(&mut self, now: Now) {
        if self.failed {
            return;
        }
        self.now = Some(now);
        self.ctx.grants.passes(now);
        self.end_expired(now);
        // The others follow when the driver calls again, at once: other callers come in between.
        for _ in 0..TIMERS_AT_ONCE {
            let Some((_, id)) = self.timers.first().filter(|(at, _)| *at <= now.instant).cloned()
            else {
                break;
            };
            self.timers.pop_first();
            if let Some(device) = self.devices.get_mut(&id) {
                device.wake_at = None;
            }
            self.with_device(&id, now, |_, _| {});
        }
        let due = &mut self.ctx.due;
        let passed = due.deadline.is_some_and(|at| at <= now.instant)
            || due.scheduled.is_some_and(|at| at <= now.wall);
        if passed && !self.due_loading {
            self.due_loading = true;
            *due = DueTimes::default();
            self.ctx.outputs.push_back(Output::Load(Load::Due(now, DUE_ROWS_MAX)));
        }
        self.finish_call(now);
    }

    /// The hub is about to stop: waits and polls are answered, streams get their `bye`, and new
    /// sends, streams and polls are refused. Reports are still taken.
    pub fn handle_drain(&mut self, now: Now) {
        self.ctx.draining = true;
        // In the order of names, so that a seed decides the whole run.
        let devices: BTreeSet<DeviceId> = self.devices.keys().cloned().collect();
        for id in devices {
            self.with_device(&id, now, |device, txn| {
                device.end_streams(ByeReason::Draining, txn);
                device.answer_all_waits(txn);
            });
        }
        self.finish_call(now);
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        loop {
            match self.ctx.outputs.pop_front() {
                Some(Output::Reply(request, answer)) if Schedules::owns(request) => {
                    self.run_answered(request, answer);
                }
                output => {
                    if let Some(Output::Reply(request, _)) = &output {
                        self.ctx.audits.take(*request);
                    }
                    return output;
                }
            }
        }
    }

    /// When [`Hub::handle_timeout`] is to be called, if nothing happens before.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.failed {
            return None;
        }
        let due = &self.ctx.due;
        // Without a reading of the clocks: as soon as there is one.
        let instant_of = |at| self.now.map_or(Instant::default(), |now| now.instant_of(at));
        let scheduled = due.scheduled.map(instant_of);
        let expiry = self.ctx.grants.next_expiry();
        let due = earliest(due.deadline, scheduled).filter(|_| !self.due_loading);
        let timer = self.timers.first().map(|(at, _)| *at);
        let rollout = self.now.and_then(|now| self.ctx.commands.rollout_deadline(now));
        let commands = earliest(self.ctx.commands.retry_at(), rollout);
        let (at, retry) = self.ctx.schedules.deadlines();
        let schedules = earliest(at.map(instant_of), retry).filter(|_| !self.ctx.draining);
        [due, expiry, commands, schedules].into_iter().fold(timer, earliest)
    }

    // --- What can be seen ---

    /// Whether a device is online, and how.
    pub fn presence(&self, device: &DeviceId, now: Now) -> Presence {
        self.devices.get(device).map(|device| device.presence(now)).unwrap_or_default()
    }

    /// The devices that are online and whose names begin so, by name after this one; descending, before it.
    pub fn online_part<'a>(
        &'a self,
        after: Option<&DeviceId>,
        prefix: &'a str,
        descending: bool,
    ) -> Box<dyn Iterator<Item = &'a DeviceId> + 'a> {
        online::part(&self.ctx.online, after, prefix, descending)
    }

    /// How many devices are online.
    pub fn online_count(&self) -> usize {
        self.ctx.online.len()
    }

    /// How much is held in memory.
    pub fn footprint(&self) -> Footprint {
        Footprint {
            devices: self.devices.len(),
            sessions: self.ctx.sessions.len(),
            waiting: self.ctx.waiting.len(),
            timers: self.timers.len(),
            transactions: self.txns.len(),
            lookups: self.keys.len() + self.cancels.len() + self.unchecked.len(),
            jobs: self.ctx.commands.len(),
            tokens: self.ctx.grants.len(),
            runs: self.ctx.schedules.len(),
            audits: self.ctx.audits.len(),
        }
    }

    /// From now on every change is notified (`true`), or only those of watched commands.
    pub fn observe_all(&mut self, all: bool) {
        self.ctx.observed = all;
    }

    /// From now on the changes of this command are notified; counted, one [`Hub::unwatch`] for each.
    pub fn watch(&mut self, command: CommandId) {
        *self.ctx.watched.entry(command).or_default() += 1;
    }

    /// The end of one [`Hub::watch`].
    pub fn unwatch(&mut self, command: CommandId) {
        if let Some(count) = self.ctx.watched.get_mut(&command) {
            *count -= 1;
            if *count == 0 {
                self.ctx.watched.remove(&command);
            }
        }
    }

    /// Replies [`Answer::Done`] once all that was decided until now is on disk. What is read of a
    /// watched command then lacks nothing that was decided before it was watched.
    pub fn handle_settle(&mut self, request: RequestId) {
        if self.refused(request) {
            return;
        }
        self.txns.output_after_all(Output::Reply(request, Answer::Done), &mut self.ctx);
    }

    /// Whether the request was refused because nothing can be promised any more.
    fn refused(&mut self, request: RequestId) -> bool {
        if self.failed {
            self.ctx.refuse(request, store_unavailable());
        }
        self.failed
    }

    /// What follows from a call beyond the devices that it touched.
    fn finish_call(&mut self, now: Now) {
        self.now = Some(now);
        self.ctx.grants.passes(now);
        // The others follow when the driver calls again, at once.
        let mut runs = RUNS_AT_ONCE;
        loop {
            if let Some(decision) = self.ctx.key_decisions.pop_front() {
                self.key_decided(decision, now);
            } else if let Some(decision) = self.ctx.grant_decisions.pop_front() {
                self.enrolment_decided(decision, now);
            } else if runs > 0 && self.go_on_with_schedules(now) {
                runs -= 1;
            } else if !self.go_on_with_rollouts(now) && !self.go_on_with_jobs(now) {
                return;
            }
        }
    }
}
