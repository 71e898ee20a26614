//! A device in memory, composed of parts that each have private state: its contacts
//! (`presence.rs`), its listeners (`listeners.rs`), its deliveries (`deliveries.rs`), and
//! which of them is sent next (`scheduler.rs`). Commands come in by `intake.rs`, it leaves the
//! hub by `removal.rs`, `enrolment.rs` gives it tokens, and `identity_conflict.rs` notices two agents with one identity.
//!
//! A device is in memory while it listens or a call for it is under way, and in the store alone
//! otherwise. All parts change rows only through the [`TxnBuilder`] of the call. Order within a
//! call ([`Device::call`]): time, what happened, cancellations, whatever may be sent now, the poll,
//! presence, rows.

mod deliveries;
mod enrolment;
mod identity_conflict;
mod intake;
mod listeners;
mod op;
mod presence;
mod removal;
mod scheduler;

use std::time::Duration;

use bellwire_proto::limits::SENDS_MAX;
use bellwire_proto::{
    Code, CommandId, DeliveryState, DeviceChange, DeviceId, Json, Labels, Problem, Seconds, Seq,
};
use thin_vec::ThinVec;

use crate::command::StepId;
use crate::context::{Context, unknown_device};
use crate::ids::RequestId;
use crate::io::{AccessChange, Answer, HubEvent, Output, Presence};
use crate::record::{Change, DeliveryRecord, DeviceRecord, Load, LoadedDevice, TxnId};
use crate::time::{Instant, Now, earliest};
use crate::txn::TxnBuilder;

pub(crate) use deliveries::PAGE_MAX;
use deliveries::{Deliveries, Head};
use identity_conflict::IdentityConflict;
pub(crate) use intake::{DeliveryRule, is_online_only, store_command};
pub(crate) use listeners::session_gone;
use listeners::{LeaseRule, Listeners};
pub(crate) use op::{CancelOrigin, DeliveryOp, Op};
use presence::Contacts;
use removal::Removal;
use scheduler::Scheduler;

/// Lists that are empty while it only listens are of type [`ThinVec`], which takes one machine word when
/// empty: a hub holds very many idle devices.
#[derive(Debug)]
pub(crate) struct Device {
    id: DeviceId,
    /// Whether there is a row for it, on disk or on its way there.
    known: bool,
    phase: Phase,
    /// What waits for it to be loaded, or removed. One entry for each open request at most.
    waiting: ThinVec<Op>,
    /// Steps of commands to many that need it: it stays in memory for them.
    steps: ThinVec<StepId>,
    contacts: Contacts,
    listeners: Listeners,
    pub(crate) deliveries: Deliveries,
    scheduler: Scheduler,
    identity_conflict: IdentityConflict,
    /// What waits for a delivery to be looked up.
    lookups: ThinVec<(CommandId, Vec<DeliveryOp>)>,
    /// The latest transaction with a row of this device.
    txn: TxnId,
    /// The time at which the hub will look at it again.
    pub(crate) wake_at: Option<Instant>,
}

#[derive(Debug)]
enum Phase {
    Loading,
    Ready,
    Removing(Box<Removal>),
}

impl Device {
    /// A device that is being looked up.
    pub(crate) fn loading(id: DeviceId) -> Self {
        Self {
            id,
            known: false,
            phase: Phase::Loading,
            waiting: ThinVec::new(),
            steps: ThinVec::new(),
            contacts: Contacts::default(),
            listeners: Listeners::default(),
            deliveries: Deliveries::default(),
            scheduler: Scheduler::default(),
            identity_conflict: IdentityConflict::default(),
            lookups: ThinVec::new(),
            txn: TxnId::default(),
            wake_at: None,
        }
    }

    pub(crate) fn is_loading(&self) -> bool {
        matches!(self.phase, Phase::Loading)
    }

    /// Whether it can be acted upon now.
    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Ready)
    }

    /// Takes what the store knew of it.
    pub(crate) fn loaded(&mut self, loaded: LoadedDevice, lease: Duration) {
        self.known = loaded.known;
        self.deliveries.load(loaded.queued, loaded.active, loaded.queue, lease);
        self.phase = Phase::Ready;
    }

    /// Something to do once it is ready.
    pub(crate) fn wait(&mut self, op: Op) {
        self.waiting.push(op);
    }

    /// What has waited for it to be ready.
    pub(crate) fn take_waiting(&mut self) -> ThinVec<Op> {
        std::mem::take(&mut self.waiting)
    }

    /// It stays in memory until the step is done.
    pub(crate) fn pin(&mut self, step: StepId) {
        self.steps.push(step);
    }

    pub(crate) fn unpin(&mut self, step: StepId) {
        self.steps.retain(|other| *other != step);
    }

    pub(crate) fn steps(&self) -> &[StepId] {
        &self.steps
    }

    /// One call: acts on the time, then by `act`, then on everything that follows from it.
    pub(crate) fn call(
        &mut self,
        txn: &mut TxnBuilder<'_>,
        committed: TxnId,
        act: impl FnOnce(&mut Self, &mut TxnBuilder<'_>),
    ) {
        let changes = txn.changes_len();
        self.tick(txn);
        act(self, txn);
        // What it brought into memory may be due already: nothing that has expired is sent.
        self.tick(txn);
        self.continue_removal(txn, committed);
        self.send_cancels(txn);
        self.pump(txn);
        self.settle_poll(txn);
        self.update_presence(txn);
        self.update_rivalry(txn);
        self.flush_rows(txn);
        if txn.changes_len() > changes {
            self.txn = txn.id();
        }
        self.deliveries.settle(committed, &mut txn.ctx.due);
        txn.touch(&self.id, self.txn);
    }

    // --- One delivery ---

    /// Does something to one delivery, which is looked up first if need be.
    pub(crate) fn on_delivery(
        &mut self,
        command: CommandId,
        op: DeliveryOp,
        txn: &mut TxnBuilder<'_>,
    ) {
        if let DeliveryOp::Report { .. } = &op {
            self.contacts.seen(txn.now.wall);
            // After a removal a device's deliveries can be read by senders, and no longer be reported on.
            if !self.known {
                let detail = format!("{} is not registered", self.id);
                return op.refuse(Problem::new(Code::UnknownCommand, detail), txn.ctx);
            }
        }
        if let Some(seq) = self.deliveries.seq_of(command) {
            return op.apply(self, seq, txn);
        }
        match self.lookups.iter_mut().find(|(id, _)| *id == command) {
            Some((_, waiting)) => waiting.push(op),
            None => {
                self.lookups.push((command, vec![op]));
                self.deliveries.hold();
                txn.load(Load::Delivery(self.id.clone(), command));
            }
        }
    }

    /// The store has looked for a delivery that was not in memory.
    pub(crate) fn looked_up(
        &mut self,
        command: CommandId,
        found: Option<DeliveryRecord>,
        txn: &mut TxnBuilder<'_>,
    ) {
        let waiting = self.end_lookup(command);
        let Some(record) = found else {
            let detail = format!("{} has no command {command}", self.id);
            let unknown = Problem::new(Code::UnknownCommand, detail);
            return waiting.into_iter().for_each(|op| op.refuse(unknown.clone(), txn.ctx));
        };
        let seq = self.deliveries.adopt(record);
        self.tick(txn);
        waiting.into_iter().for_each(|op| op.apply(self, seq, txn));
    }

    /// A lookup has been answered, or has failed: what waited for it.
    pub(crate) fn end_lookup(&mut self, command: CommandId) -> Vec<DeliveryOp> {
        let Some(at) = self.lookups.iter().position(|(id, _)| *id == command) else {
            return Vec::new();
        };
        self.deliveries.release();
        self.lookups.swap_remove(at).1
    }

    /// Everything that waits, when nothing will be answered any more.
    pub(crate) fn abandon(self) -> (ThinVec<Op>, Vec<DeliveryOp>, Option<RequestId>) {
        let removal = match self.phase {
            Phase::Removing(removal) => Some(removal.request()),
            Phase::Loading | Phase::Ready => None,
        };
        (self.waiting, self.lookups.into_iter().flat_map(|(_, ops)| ops).collect(), removal)
    }

    /// Answers with the delivery: at once, or when it has ended or the wait has elapsed.
    pub(crate) fn rejoin(
        &mut self,
        request: RequestId,
        seq: Seq,
        wait: Seconds,
        txn: &mut TxnBuilder<'_>,
    ) {
        let terminal = self.deliveries.get(seq).is_none_or(|live| live.state().is_terminal());
        if terminal || wait.get() == 0 || txn.ctx.draining {
            txn.ctx.waiting.remove(&request);
            self.reply_delivery(request, seq, txn);
        } else if txn.ctx.waiting.contains_key(&request) {
            self.deliveries.wait(seq, request, txn.now.instant.after(wait.duration()));
        }
    }

    /// Answers with a delivery as it now is.
    pub(crate) fn reply_delivery(&self, request: RequestId, seq: Seq, txn: &mut TxnBuilder<'_>) {
        if let Some(live) = self.deliveries.get(seq) {
            txn.reply(request, Answer::Delivery(Box::new(live.record.to_delivery())));
        }
    }

    // --- The device itself ---

    /// Makes the device known, if it may be.
    ///
    /// # Errors
    /// `unknown_device` where devices are not created on sight.
    fn ensure_known(&mut self, txn: &mut TxnBuilder<'_>) -> Result<(), Problem> {
        if self.known {
            return Ok(());
        }
        if !txn.ctx.creates_on_sight() {
            return Err(unknown_device(&self.id));
        }
        self.create(Labels::new(), txn);
        Ok(())
    }

    fn create(&mut self, labels: Labels, txn: &mut TxnBuilder<'_>) {
        self.create_as(labels, None, false, txn);
    }

    fn create_as(
        &mut self,
        labels: Labels,
        facts: Option<Json>,
        pending: bool,
        txn: &mut TxnBuilder<'_>,
    ) {
        let none = || Json::from_checked("{}".to_owned()).unwrap_or_default();
        self.known = true;
        txn.change(Change::PutDevice(Box::new(DeviceRecord {
            id: self.id.clone(),
            labels,
            facts: facts.unwrap_or_else(none),
            created_at: txn.now.wall,
            seen: self.contacts.last(),
            pending,
        })));
        self.notify(DeviceChange::Created, txn);
    }

    pub(crate) fn put_labels(
        &mut self,
        request: RequestId,
        labels: Labels,
        txn: &mut TxnBuilder<'_>,
    ) {
        let created = !self.known;
        if created {
            self.create(labels, txn);
        } else {
            txn.change(Change::PutLabels(self.id.clone(), labels));
            self.notify(DeviceChange::Changed, txn);
        }
        // What a scope sees depends on labels.
        txn.output(Output::Access(AccessChange::Device(self.id.clone())));
        txn.reply(request, Answer::Device { created });
    }

    pub(crate) fn put_facts(&mut self, request: RequestId, facts: Json, txn: &mut TxnBuilder<'_>) {
        if !self.known {
            return txn.refuse(request, unknown_device(&self.id));
        }
        txn.change(Change::PutFacts(self.id.clone(), facts));
        txn.reply(request, Answer::Device { created: false });
    }

    /// There was a contact with it.
    pub(crate) fn seen(&mut self, now: Now) {
        self.contacts.seen(now.wall);
    }

    pub(crate) fn presence(&self, now: Now) -> Presence {
        let presence = self.contacts.presence(self.listeners.transport(now.instant), now.wall);
        Presence { conflict: self.identity_conflict.is_conflict(), ..presence }
    }

    // --- Time ---

    /// Acts on every deadline of those in memory that has passed.
    fn tick(&mut self, txn: &mut TxnBuilder<'_>) {
        while let Some(seq) = self.deliveries.first_due(txn.now.instant, txn.now.wall) {
            self.act_on_due(seq, txn);
        }
        // A restart queues again what was `sent`, even if that was the last sending allowed.
        while let Head::Here(seq) = self.deliveries.head()
            && self.deliveries.get(seq).is_some_and(|live| live.record.sends >= SENDS_MAX)
        {
            self.deliveries.with(seq, |live| live.give_up(DeliveryState::Dead, txn.now));
        }
        self.end_due_streams(txn);
    }

    fn act_on_due(&mut self, seq: Seq, txn: &mut TxnBuilder<'_>) {
        let now = txn.now;
        let (lease, calendar) = (txn.ctx.config.lease, txn.ctx.config.calendar);
        let rule = self.deliveries.get(seq).map_or(LeaseRule::None, |live| {
            self.listeners.could_answer(live.carriers, now.instant)
        });
        self.deliveries.with(seq, |live| {
            let due = live.record.due_at().is_some_and(|at| at <= now.instant);
            match live.state() {
                DeliveryState::Queued
                    if live.record.scheduled_at.is_some_and(|at| at <= now.wall) =>
                {
                    live.become_ready(now);
                    live.await_window(calendar, now);
                }
                DeliveryState::Queued | DeliveryState::Sent if due => {
                    live.give_up(DeliveryState::Expired, now)
                }
                DeliveryState::Accepted | DeliveryState::Running | DeliveryState::Cancelling
                    if due =>
                {
                    live.give_up(DeliveryState::TimedOut, now);
                }
                DeliveryState::Sent if live.lease_until <= now.instant => match rule {
                    LeaseRule::Counted => live.fail_attempt(None, now),
                    LeaseRule::Uncounted => live.requeue(now),
                    LeaseRule::None => live.lease_until = now.instant.after(lease),
                },
                DeliveryState::Cancelling => {
                    live.slot_released |= live.slot_has_elapsed(now.instant)
                }
                _ => {}
            }
        });
        let terminal = self.deliveries.get(seq).is_none_or(|live| live.state().is_terminal());
        if !terminal {
            let ended = self.deliveries.end_waits(seq, |_, until| until <= now.instant);
            self.answer_waits(ended, seq, txn);
        }
    }

    /// These deliveries are due. Those in memory are acted upon by their own deadlines.
    pub(crate) fn look_up_due(&mut self, seqs: Vec<Seq>, txn: &mut TxnBuilder<'_>) {
        let in_store = |seq: &Seq| self.deliveries.get(*seq).is_none();
        let seqs: Vec<Seq> = seqs.into_iter().filter(in_store).collect();
        if !seqs.is_empty() {
            self.deliveries.hold();
            txn.load(Load::Deliveries(self.id.clone(), seqs));
        }
    }

    /// The due deliveries were loaded, and are acted upon; `None` when the store could not answer. If the
    /// wall clock was set back meanwhile, a scheduled one waits for its time again.
    pub(crate) fn due_loaded(
        &mut self,
        rows: Option<Vec<DeliveryRecord>>,
        txn: &mut TxnBuilder<'_>,
    ) {
        self.deliveries.release();
        let Some(rows) = rows else {
            let again = txn.now.instant.after(crate::time::LOAD_RETRY);
            return txn.ctx.due.add_deadline(Some(again));
        };
        for record in rows {
            self.deliveries.adopt(record);
        }
    }

    /// When it must be looked at again while it is in memory.
    pub(crate) fn next_deadline(&self, now: Now) -> Option<Instant> {
        let later = |at: &Instant| *at > now.instant;
        let scheduled = self.deliveries.next_scheduled().map(|at| now.instant_of(at));
        let deadlines = [self.deliveries.next_deadline(), scheduled, self.next_attempt(now)];
        let deadlines = deadlines.into_iter().chain(self.listeners.deadlines());
        let deadlines = deadlines.chain([self.identity_conflict.deadline()]);
        // Each by itself: one that has elapsed must not hide a later one.
        deadlines.map(|at| at.filter(later)).fold(None, earliest)
    }

    /// Senders that wait get an answer now: the hub is about to stop.
    pub(crate) fn answer_all_waits(&mut self, txn: &mut TxnBuilder<'_>) {
        for seq in self.deliveries.waited_for() {
            let ended = self.deliveries.end_waits(seq, |_, _| true);
            self.answer_waits(ended, seq, txn);
        }
    }

    /// The client of a waiting request has disconnected.
    pub(crate) fn abandoned(&mut self, request: RequestId) {
        self.listeners.abandon_poll(request);
        self.deliveries.abandon_wait(request);
    }

    fn answer_waits(&self, requests: Vec<RequestId>, seq: Seq, txn: &mut TxnBuilder<'_>) {
        for request in requests {
            txn.ctx.waiting.remove(&request);
            self.reply_delivery(request, seq, txn);
        }
    }

    // --- Rows ---

    /// Puts every row that has changed into the transaction, answers the senders that wait, and notifies
    /// observers and watchers.
    fn flush_rows(&mut self, txn: &mut TxnBuilder<'_>) {
        let id = txn.id();
        for seq in self.deliveries.take_dirty() {
            let row = self.deliveries.with(seq, |live| {
                live.dirty = false;
                live.txn = id;
                live.record.version += 1;
                let before = std::mem::replace(&mut live.written, live.record.state);
                (before, Box::new(live.record.clone()))
            });
            let Some((before, row)) = row else { continue };
            if let Some(batch) = row.batch.filter(|_| before != row.state) {
                txn.ctx.commands.rollout_moved(seq, batch.number, before, row.state);
            }
            if txn.ctx.watches(row.head.id) {
                txn.output(Output::Notify(HubEvent::Delivery {
                    delivery: Box::new(row.to_delivery()),
                    version: row.version,
                }));
            }
            let terminal = row.state.is_terminal();
            txn.change(Change::PutDelivery(row));
            self.deliveries.put_in(seq, id);
            if terminal {
                let ended = self.deliveries.end_waits(seq, |_, _| true);
                self.answer_waits(ended, seq, txn);
            }
        }
        if let Some(queued) = self.deliveries.take_queued_change() {
            txn.change(Change::PutQueued(self.id.clone(), queued));
        }
    }

    /// Forgets what is on disk and not needed in memory.
    pub(crate) fn settle(&mut self, committed: TxnId, ctx: &mut Context) {
        self.deliveries.settle(committed, &mut ctx.due);
    }

    /// Whether it waits for a transaction before its removal can continue.
    pub(crate) fn is_removing(&self) -> bool {
        matches!(self.phase, Phase::Removing(_))
    }

    /// Whether nothing would be lost by forgetting it.
    pub(crate) fn is_idle(&self, committed: TxnId, now: Now) -> bool {
        self.is_ready()
            && self.waiting.is_empty()
            && self.steps.is_empty()
            && self.listeners.is_empty(now.instant)
            && !self.listeners.is_loading()
            && !self.contacts.is_online()
            && self.lookups.is_empty()
            && !self.deliveries.is_held()
            && self.txn <= committed
            && !self.deliveries.has_waits()
            // The store does not know of a conflict, which ends at its deadline.
            && !self.identity_conflict.is_conflict()
    }
}
