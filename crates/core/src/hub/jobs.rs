//! What is done for commands to several devices: storing, expanding, cancelling. The state of it is
//! in `command.rs`.

use bellwire_proto::limits::{COMMAND_DEVICES_AT_ONCE, IDEMPOTENCY_RETENTION};
use bellwire_proto::{Code, CommandId, DeviceId, Json, Problem, Seq};

use super::{CommandOp, Hub};
use crate::command::{CHUNK_DEVICES, Expansion, JobLookup, StepId, StepKind};
use crate::context::KeyDecision;
use crate::context::{store_unavailable, unknown_device};
use crate::device::{
    CancelOrigin, DeliveryOp, DeliveryRule, Op, PAGE_MAX, is_online_only, store_command,
};
use crate::ids::RequestId;
use crate::io::{Answer, NewSend, Output, Send};
use crate::record::{
    Change, CommandHead, IdempotencyRecord, Load, LoadedCommand, TargetChunk, TargetQuery,
};
use crate::time::{LOAD_RETRY, Now};
use crate::txn::TxnBuilder;

/// Devices that a search for targets looks at, at once: a lookup of about a millisecond, since others wait for it.
const TARGET_PAGE_ROWS: usize = 1024;
/// Deliveries that a cancellation looks up at once.
const CANCEL_PAGE_MAX: usize = 128;

impl Hub {
    // --- Storing ---

    /// A command to several devices comes in. Where devices must be registered, all of them are
    /// looked up first.
    pub(super) fn send_to_devices(&mut self, send: NewSend, devices: Vec<DeviceId>, now: Now) {
        if self.ctx.creates_on_sight() {
            return self.store_for(send, devices, now);
        }
        let request = send.0;
        self.unchecked.insert(request, (send, devices.clone()));
        self.ctx.outputs.push_back(Output::Load(Load::Unknown(request, devices)));
    }

    /// The store has looked whether all devices of a command are known.
    pub(super) fn unknown_loaded(
        &mut self,
        request: RequestId,
        unknown: Option<DeviceId>,
        now: Now,
    ) {
        let Some((send, devices)) = self.unchecked.remove(&request) else { return };
        match unknown {
            Some(device) => self.refuse_send(request, &send.1, unknown_device(&device)),
            None => self.store_for(send, devices, now),
        }
    }

    pub(super) fn check_failed(&mut self, request: RequestId) {
        if let Some(((_, send, _), _)) = self.unchecked.remove(&request) {
            self.refuse_send(request, &send, store_unavailable());
        }
    }

    pub(super) fn store_for(
        &mut self,
        (request, send, random): NewSend,
        devices: Vec<DeviceId>,
        now: Now,
    ) {
        if let Err(refusal) = self.ctx.may_store() {
            return self.refuse_send(request, &send, refusal);
        }
        if send.rollout.is_some() {
            let query = TargetQuery { named: Some(devices), ..TargetQuery::default() };
            return self.find_targets((request, send, random), Box::new(query));
        }
        if devices.len() <= COMMAND_DEVICES_AT_ONCE {
            return self.begin_step(StepKind::Store { request, send, random }, devices, now);
        }
        if self.ctx.commands.is_full() {
            return self.refuse_send(request, &send, too_many());
        }
        let total = devices.len() as u64;
        let chunks: Vec<TargetChunk> = devices
            .chunks(CHUNK_DEVICES)
            .map(|devices| TargetChunk {
                devices: devices.to_vec(),
                canary: false,
                registered: false,
            })
            .collect();
        let mut txn = TxnBuilder::new(now, &self.txns, &mut self.ctx);
        let head = store_command(&send, total, random, &mut txn);
        txn.audit_command(request, head.id);
        let (id, online_only) = (txn.id(), is_online_only(&send));
        let ranges = chunks.iter().filter_map(TargetChunk::range);
        txn.ctx.commands.expand(head.clone(), online_only, ranges, None, id);
        chunks.into_iter().for_each(|chunk| txn.change(Change::PutTargets(head.seq, chunk)));
        put_key(&send, &head, &mut txn);
        txn.reply(request, Answer::Command(head.id));
        let outcome = txn.finish(&mut self.txns);
        self.end_call(outcome, now);
    }

    pub(super) fn refuse_send(&mut self, request: RequestId, send: &Send, problem: Problem) {
        self.ctx.refuse(request, problem);
        if let Some((key, _)) = send.idempotency.clone() {
            self.ctx.key_decisions.push_back(KeyDecision { key, device: None, stored: None });
        }
    }

    // --- Steps ---

    /// Begins a step: its devices come into memory, and stay there until it is done.
    fn begin_step(&mut self, kind: StepKind, devices: Vec<DeviceId>, now: Now) {
        let id = self.ctx.commands.next_step_id();
        let mut awaited = 0;
        for device in &devices {
            let device = self.in_memory(device);
            device.pin(id);
            awaited += usize::from(!device.is_ready());
        }
        self.ctx.commands.begin_step(id, kind, devices, awaited);
        if awaited == 0 {
            self.run_step(id, now);
        }
    }

    pub(super) fn step_device_ready(&mut self, step: StepId, now: Now) {
        if self.ctx.commands.device_ready(step) {
            self.run_step(step, now);
        }
    }

    /// All devices of a step are in memory: their deliveries come into being, in one transaction.
    fn run_step(&mut self, id: StepId, now: Now) {
        let Some(step) = self.ctx.commands.take_step(id) else { return };
        // They are pinned. If one were missing, its delivery would be lost with the chunk.
        if step.devices.iter().any(|device| !self.devices.contains_key(device)) {
            return self.begin_step(step.kind, step.devices, now);
        }
        let ranges = step.devices.first().cloned().zip(step.devices.last().cloned());
        let Some((first, last)) = ranges else { return };
        let mut txn = TxnBuilder::new(now, &self.txns, &mut self.ctx);
        let (head, data, online_only, end, batch, registered) = match step.kind {
            StepKind::Store { request, send, random } => {
                let head = store_command(&send, step.devices.len() as u64, random, &mut txn);
                txn.audit_command(request, head.id);
                put_key(&send, &head, &mut txn);
                txn.reply(request, Answer::Command(head.id));
                let online_only = is_online_only(&send);
                (head, send.data, online_only, None, None, false)
            }
            StepKind::Expand { command, data, rest } => {
                let (number, count) = (txn.id(), step.devices.len() as u64);
                let commands = &mut txn.ctx.commands;
                // A rollout may have been paused meanwhile.
                if commands.may_expand(command) < count {
                    commands.chunk_deferred(command, &first);
                    return self.unpin(id, &step.devices, now);
                }
                let found = commands.chunk_expanded(command, &first, count, rest.range(), number);
                let Some(Expansion { head, online_only, end, batch }) = found else {
                    return self.unpin(id, &step.devices, now);
                };
                let registered = rest.registered;
                txn.change(Change::DeleteTargets(command, first.clone()));
                if !rest.devices.is_empty() {
                    txn.change(Change::PutTargets(command, rest));
                }
                (head, data, online_only, end, batch, registered)
            }
        };
        let window = head.window.as_deref().filter(|_| end.is_none());
        let opening = window.map(|w| txn.ctx.config.calendar.awaited(w, now.wall));
        let rule = DeliveryRule { online_only, end, batch, registered, opening };
        let committed = self.txns.committed();
        for device in &step.devices {
            if let Some(device) = self.devices.get_mut(device) {
                device.unpin(id);
                device.call(&mut txn, committed, |device, txn| {
                    device.deliver(&head, &data, rule, txn);
                });
            }
        }
        let outcome = txn.finish(&mut self.txns);
        self.end_call(outcome, now);
        step.devices.iter().for_each(|device| self.do_waiting(device, now));
        for device in self.ctx.commands.take_held_back(&first, &last) {
            self.with_device(&device, now, |_, _| {});
            self.do_waiting(&device, now);
        }
    }

    /// A device of a step cannot be loaded. A command that is being stored is refused; an expansion
    /// is promised, and goes on when the device has been loaded.
    pub(super) fn step_failed(&mut self, id: StepId, now: Now) {
        if !self.ctx.commands.is_store(id) {
            return;
        }
        let Some(step) = self.ctx.commands.take_step(id) else { return };
        self.unpin(id, &step.devices, now);
        if let StepKind::Store { request, send, .. } = step.kind {
            self.refuse_send(request, &send, store_unavailable());
        }
    }

    /// The devices of a step are no longer needed.
    fn unpin(&mut self, id: StepId, devices: &[DeviceId], now: Now) {
        for device in devices {
            if let Some(device) = self.devices.get_mut(device) {
                device.unpin(id);
            }
            self.do_waiting(device, now);
            self.forget_if_idle(device, now);
        }
    }

    // --- Expanding ---

    /// Looks up what is to be done next for the jobs; false when that is nothing.
    pub(super) fn go_on_with_jobs(&mut self, now: Now) -> bool {
        let (last, committed) = (self.txns.last(), self.txns.committed());
        let lookup = self.ctx.commands.next_lookup(last, committed, now.instant);
        let load = match lookup {
            None => return false,
            Some(JobLookup::Found { request, query, after }) => {
                Load::Found { request, query, after, rows_max: TARGET_PAGE_ROWS }
            }
            Some(JobLookup::Targets(command, first)) => Load::Targets(command, first),
            Some(JobLookup::Live(command, after)) => Load::LiveOf(command, after, CANCEL_PAGE_MAX),
            Some(JobLookup::Device(device)) => Load::Device(device, PAGE_MAX),
        };
        self.ctx.outputs.push_back(Output::Load(load));
        true
    }

    pub(super) fn targets_loaded(
        &mut self,
        command: Seq,
        first: DeviceId,
        found: Option<(TargetChunk, Json)>,
        now: Now,
    ) {
        match found.filter(|(chunk, _)| chunk.devices.first() == Some(&first)) {
            Some((mut rest, data)) => {
                let may = usize::try_from(self.ctx.commands.may_expand(command));
                let may = may.unwrap_or(usize::MAX).min(rest.devices.len());
                let behind = rest.devices.split_off(may);
                let devices = std::mem::replace(&mut rest.devices, behind);
                if devices.is_empty() {
                    return self.ctx.commands.chunk_deferred(command, &first);
                }
                let kind = StepKind::Expand { command, data, rest };
                self.begin_step(kind, devices, now);
            }
            // The store contradicts itself: it is read again, later.
            None => {
                let retry_at = now.instant.after(LOAD_RETRY);
                self.ctx.commands.chunk_failed(command, &first, retry_at);
            }
        }
    }

    // --- Cancelling ---

    /// The command of a cancellation has been looked up.
    pub(super) fn command_loaded(
        &mut self,
        command: CommandId,
        found: Option<Box<LoadedCommand>>,
        now: Now,
    ) {
        let waiting = self.cancels.remove(&command).unwrap_or_default();
        for (request, op) in waiting {
            match (op, &found) {
                (CommandOp::LookForEnd(within), found) => {
                    // What is not retained any more has ended.
                    let ended = found.as_deref().is_none_or(|found| self.has_ended(found));
                    self.run_after_last(request, within, ended, now);
                }
                (_, None) => {
                    let detail = format!("no command has the id {command}");
                    self.ctx.refuse(request, Problem::new(Code::UnknownCommand, detail));
                }
                (CommandOp::Rollout(op), Some(found)) => {
                    self.change_rollout(request, found, op, now);
                }
                (CommandOp::Cancel { force }, Some(found)) => {
                    self.cancel(request, found, force, now);
                }
            }
        }
    }

    fn has_ended(&self, found: &LoadedCommand) -> bool {
        found.terminal >= found.head.total && !self.ctx.commands.has_job(found.head.seq)
    }

    fn cancel(&mut self, request: RequestId, found: &LoadedCommand, force: bool, now: Now) {
        match &found.first {
            Some(delivery)
                if !self.ctx.commands.has_job(found.head.seq) && !found.head.is_to_many() =>
            {
                let op = DeliveryOp::Cancel { origin: CancelOrigin::Request(request), force };
                let op = Op::Delivery { command: found.head.id, op };
                self.at_device(delivery.device.clone(), op, now);
            }
            _ => self.cancel_many(request, found, force, now),
        }
    }

    fn cancel_many(&mut self, request: RequestId, found: &LoadedCommand, force: bool, now: Now) {
        let head = &found.head;
        if self.has_ended(found) {
            return self.ctx.refuse(request, all_ended(found));
        }
        if self.ctx.commands.is_full() && !self.ctx.commands.has_job(head.seq) {
            return self.ctx.refuse(request, too_many());
        }
        // Of few the answer can say what became of them; of many, that it will be done.
        let answered_at_end = head.total <= COMMAND_DEVICES_AT_ONCE as u64;
        let mut txn = TxnBuilder::new(now, &self.txns, &mut self.ctx);
        let (id, at_end) = (txn.id(), answered_at_end.then_some(request));
        let force = txn.ctx.commands.cancel(head, found.online_only, force, at_end, id);
        txn.change(Change::PutCancel(head.seq, force));
        if let Some(record) = txn.ctx.commands.end_rollout_by_cancel(head.seq, now.instant) {
            txn.change(Change::PutRollout(head.seq, Box::new(record)));
        }
        txn.audit(request);
        if !answered_at_end {
            txn.reply(request, Answer::Cancelled);
        }
        let outcome = txn.finish(&mut self.txns);
        self.end_call(outcome, now);
    }

    /// A page of the live deliveries of a command that is being cancelled.
    pub(super) fn live_of_loaded(&mut self, seq: Seq, devices: Vec<DeviceId>, now: Now) {
        if let Some((command, force)) = self.ctx.commands.cancel_page(seq, &devices) {
            for device in devices {
                let op = DeliveryOp::Cancel { origin: CancelOrigin::Job(seq), force };
                self.at_device(device, Op::Delivery { command, op }, now);
            }
        } else if let Some(requests) = self.ctx.commands.cancel_completed(seq) {
            let mut txn = TxnBuilder::new(now, &self.txns, &mut self.ctx);
            txn.change(Change::DeleteCancel(seq));
            requests.into_iter().for_each(|request| txn.reply(request, Answer::Cancelled));
            let outcome = txn.finish(&mut self.txns);
            self.end_call(outcome, now);
        }
    }
}

/// The refusal to cancel what has ended: with its first delivery, unless it was for no device.
fn all_ended(found: &LoadedCommand) -> Problem {
    let detail = "every delivery of the command has ended; none can become cancelled";
    let problem = Problem::new(Code::IllegalTransition, detail);
    match &found.first {
        Some(first) => problem.with_delivery(first.to_delivery()),
        None => problem,
    }
}

pub(super) fn too_many() -> Problem {
    let detail = "too many commands to many devices are under way; try again later";
    Problem::new(Code::RateLimited, detail)
}

/// Stores the key of a command to several devices.
pub(super) fn put_key(send: &Send, head: &CommandHead, txn: &mut TxnBuilder<'_>) {
    let Some((key, fingerprint)) = send.idempotency.clone() else { return };
    txn.decide_key(key.clone(), None, Some((fingerprint, head.id)));
    txn.change(Change::PutIdempotency(Box::new(IdempotencyRecord {
        key,
        fingerprint,
        command: head.id,
        device: None,
        expires: txn.now.instant.after(IDEMPOTENCY_RETENTION),
    })));
}
