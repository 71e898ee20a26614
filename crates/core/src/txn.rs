//! Transactions: what one call changes, and what waits until that is on disk.
//!
//! No entity changes a row, answers a request or notifies an observer except through a [`TxnBuilder`]. A call
//! may touch one entity or several; when it ends, its changes are one [`Txn`], whatever they
//! concern, and all that rests on them waits in the [`TxnQueue`] under the transaction's number.
//! Lookups alone go out at once: a read promises nothing (the pages of a replay excepted, see
//! `listeners.rs`).

use std::collections::VecDeque;

use bellwire_proto::limits::{BYE_RECONNECT_DRAINING_S, BYE_RECONNECT_S};
use bellwire_proto::stream::{Bye, ByeReason};
use bellwire_proto::{CommandId, DeviceId, Problem, TokenId};

use crate::command::RolloutStep;
use crate::context::{Context, KeyDecision};
use crate::grant::{GrantDecision, Revoked};
use crate::ids::{RequestId, SessionId};
use crate::io::{Answer, Frame, NotifyOn, Output};
use crate::record::{Change, IdempotencyKey, Load, Txn, TxnId};
use crate::rollout::Decision;
use crate::time::Now;

/// The changes of one call, and what is to happen once they are on disk.
#[derive(Debug)]
pub(crate) struct TxnBuilder<'a> {
    pub(crate) now: Now,
    pub(crate) ctx: &'a mut Context,
    /// The number that the transaction gets, if anything changes.
    id: TxnId,
    changes: Vec<Change>,
    outputs: Vec<Output>,
    /// Devices that this call touched.
    devices: Touched,
    /// The latest transaction that the touched entities are part of: what is reported without a
    /// change of its own waits for that one.
    rests_on: TxnId,
    decisions: Vec<KeyDecision>,
    revoked: Vec<Revoked>,
    token: Option<TokenId>,
}

/// A transaction under way, and what it withholds.
#[derive(Debug)]
pub(crate) struct PendingTxn {
    id: TxnId,
    outputs: Vec<Output>,
    pub(crate) devices: Touched,
    /// The idempotency key that is on disk with it.
    pub(crate) key: Option<IdempotencyKey>,
    /// Whose streams end once it is on disk.
    pub(crate) revoked: Vec<Revoked>,
    /// The token whose row is part of it.
    pub(crate) token: Option<TokenId>,
}

/// Transactions that are not on disk yet, oldest first.
#[derive(Debug, Default)]
pub(crate) struct TxnQueue {
    pending: VecDeque<PendingTxn>,
    last: TxnId,
    committed: TxnId,
}

/// What remains to be done when a call ends.
#[derive(Debug)]
pub(crate) struct CallOutcome {
    pub(crate) devices: Touched,
    pub(crate) decisions: Vec<KeyDecision>,
}

/// The devices of a call: one, mostly, which then needs no list.
#[derive(Debug, Clone, Default)]
pub(crate) struct Touched {
    first: Option<DeviceId>,
    others: Vec<DeviceId>,
}

impl Touched {
    fn push(&mut self, device: DeviceId) {
        match self.first {
            None => self.first = Some(device),
            Some(_) => self.others.push(device),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &DeviceId> {
        self.first.iter().chain(&self.others)
    }
}

impl<'a> TxnBuilder<'a> {
    pub(crate) fn new(now: Now, queue: &TxnQueue, ctx: &'a mut Context) -> Self {
        Self {
            now,
            ctx,
            id: TxnId(queue.last.0 + 1),
            changes: Vec::new(),
            outputs: Vec::new(),
            devices: Touched::default(),
            rests_on: TxnId::default(),
            decisions: Vec::new(),
            revoked: Vec::new(),
            token: None,
        }
    }

    /// The number of the transaction that the changes of this call will be.
    pub(crate) fn id(&self) -> TxnId {
        self.id
    }

    pub(crate) fn changes_len(&self) -> usize {
        self.changes.len()
    }

    pub(crate) fn change(&mut self, change: Change) {
        self.changes.push(change);
    }

    /// A device is part of this call; its latest row is part of `txn`.
    pub(crate) fn touch(&mut self, device: &DeviceId, txn: TxnId) {
        self.devices.push(device.clone());
        self.rests_on = self.rests_on.max(txn);
    }

    /// Something to do once the changes are on disk.
    pub(crate) fn output(&mut self, output: Output) {
        self.outputs.push(output);
    }

    pub(crate) fn reply(&mut self, request: RequestId, answer: Answer) {
        self.output(Output::Reply(request, answer));
    }

    pub(crate) fn refuse(&mut self, request: RequestId, problem: Problem) {
        self.reply(request, Answer::Problem(Box::new(problem)));
    }

    pub(crate) fn send(&mut self, session: SessionId, frame: Frame) {
        self.output(Output::Send { session, frame, notify_on: NotifyOn::Nothing });
    }

    /// Ends a stream; nothing that it reports from now on counts.
    pub(crate) fn close(&mut self, session: SessionId, reason: ByeReason) {
        self.ctx.end_session(session);
        let bye = bye(reason, self.ctx.random.next_unit());
        self.output(Output::Close { session, bye });
    }

    /// Looks something up, at once.
    pub(crate) fn load(&mut self, load: Load) {
        self.ctx.outputs.push_back(Output::Load(load));
    }

    /// What became of the first send with a key: the command that it made, or `None` when it was
    /// refused.
    pub(crate) fn decide_key(
        &mut self,
        key: IdempotencyKey,
        device: Option<&DeviceId>,
        stored: Option<([u8; 32], CommandId)>,
    ) {
        self.decisions.push(KeyDecision { key, device: device.cloned(), stored });
    }

    /// Whose streams end once the changes are on disk. Not before: one that opens meanwhile must end too.
    pub(crate) fn revoke(&mut self, revoked: Revoked) {
        self.revoked.push(revoked);
    }

    /// The row of this token is part of the transaction.
    pub(crate) fn touch_token(&mut self, token: TokenId) {
        self.token = Some(token);
    }

    /// What was decided on an enrolment.
    pub(crate) fn decide_enrolment(&mut self, decision: GrantDecision) {
        self.ctx.grant_decisions.push_back(decision);
    }

    /// Something that was requested is among the changes: its entry of the audit log is too.
    pub(crate) fn audit(&mut self, request: RequestId) {
        let record = self.ctx.audits.take(request);
        self.changes.extend(record.map(Change::PutAudit));
    }

    /// The same of the request that made a command.
    pub(crate) fn audit_command(&mut self, request: RequestId, command: CommandId) {
        let record = self.ctx.audits.take_for(request, command);
        self.changes.extend(record.map(Change::PutAudit));
    }

    /// What these changes are the answer to, if it is to be in the audit log and is not yet.
    fn audit_replies(&mut self) {
        if self.changes.is_empty() || self.ctx.audits.len() == 0 {
            return;
        }
        for output in &self.outputs {
            if let Output::Reply(request, answer) = output {
                let record = self.ctx.audits.take_answered(*request, answer);
                self.changes.extend(record.map(Change::PutAudit));
            }
        }
    }

    /// What a rollout has decided, and all that this changes.
    pub(crate) fn decide_rollout(&mut self, step: RolloutStep) {
        let RolloutStep { command, decision, record } = step;
        self.change(Change::PutRollout(command, Box::new(record)));
        if decision == (Decision::Abort { cancel: true }) {
            let force = self.ctx.commands.cancel_aborted(command, self.id);
            self.change(Change::PutCancel(command, force));
        }
        self.ctx.commands.rollout_written(command, self.id);
    }

    /// What the changes of deliveries lead to at their rollouts is part of the transaction, so that a command whose
    /// deliveries have all ended is nowhere seen with a rollout that goes on.
    fn decide_rollouts(&mut self) {
        let calendar = self.ctx.config.calendar;
        while let Some(step) = self.ctx.commands.next_decision_of_moved(calendar, self.now) {
            self.decide_rollout(step);
        }
    }

    /// Ends the call: what changed becomes one transaction, what rests on it waits.
    pub(crate) fn finish(mut self, queue: &mut TxnQueue) -> CallOutcome {
        self.decide_rollouts();
        self.audit_replies();
        let Self { now, ctx, id, changes, outputs, devices, rests_on, decisions, revoked, token } =
            self;
        let key = decisions.iter().find(|d| d.stored.is_some()).map(|d| d.key.clone());
        if !changes.is_empty() {
            if outputs.iter().any(|output| matches!(output, Output::Reply(..))) {
                ctx.commands.request_changes(now.instant);
            }
            queue.last = id;
            ctx.outputs.push_back(Output::Persist(Txn::new(id, changes)));
            let devices = devices.clone();
            queue.pending.push_back(PendingTxn { id, outputs, devices, key, revoked, token });
        } else if let Some(pending) = queue.get_mut(rests_on) {
            pending.outputs.extend(outputs);
        } else {
            ctx.outputs.extend(outputs);
        }
        CallOutcome { devices, decisions }
    }
}

impl TxnQueue {
    pub(crate) fn len(&self) -> usize {
        self.pending.len()
    }

    /// The latest transaction.
    pub(crate) fn last(&self) -> TxnId {
        self.last
    }

    /// The latest transaction that is on disk.
    pub(crate) fn committed(&self) -> TxnId {
        self.committed
    }

    pub(crate) fn commit(&mut self, id: TxnId) {
        self.committed = self.committed.max(id);
    }

    /// The oldest transaction that is on disk and withholds something still; its outputs are
    /// released.
    pub(crate) fn release(&mut self, ctx: &mut Context) -> Option<PendingTxn> {
        let committed = self.committed;
        let mut pending = self.pending.pop_front_if(|pending| pending.id <= committed)?;
        ctx.outputs.extend(pending.outputs.drain(..));
        Some(pending)
    }

    /// Withholds an output until all that was decided so far is on disk.
    pub(crate) fn output_after_all(&mut self, output: Output, ctx: &mut Context) {
        match self.pending.back_mut() {
            Some(last) => last.outputs.push(output),
            None => ctx.outputs.push_back(output),
        }
    }

    /// Everything that is withheld, when nothing more will be committed.
    pub(crate) fn abandon(&mut self) -> impl Iterator<Item = Output> {
        std::mem::take(&mut self.pending).into_iter().flat_map(|pending| pending.outputs)
    }

    /// The transaction `id` while it is under way. Numbers rise by one, so its index is known.
    fn get_mut(&mut self, id: TxnId) -> Option<&mut PendingTxn> {
        let first = self.pending.front()?.id;
        let at = usize::try_from(id.0.checked_sub(first.0)?).ok()?;
        self.pending.get_mut(at)
    }
}

/// The last event of a stream. `spread`, from 0 to 1, spreads the reconnections of a fleet.
pub(crate) fn bye(reason: ByeReason, spread: f64) -> Bye {
    let (least, most) = match reason {
        ByeReason::Draining => BYE_RECONNECT_DRAINING_S,
        _ => BYE_RECONNECT_S,
    };
    let tenths = ((least + (most - least) * spread) * 10.0).round();
    Bye { reason, reconnect_s: tenths / 10.0 }
}
