//! A command comes in for a device: checked against the device's state, numbered, queued.

use std::time::Duration;

use bellwire_proto::limits::{IDEMPOTENCY_RETENTION, RUN_TIMEOUT_S, TTL_IF_ONLINE_S, TTL_S};
use bellwire_proto::{Code, CommandId, DeliveryState, ErrorInfo, Json, Problem, Timestamp};

use crate::command::EndAtOnce;
use crate::context::unknown_device;
use crate::delivery::Live;
use crate::device::Device;
use crate::ids::RequestId;
use crate::io::{Answer, Send};
use crate::record::{
    BatchMark, Change, CommandHead, CommandRecord, DeliveryRecord, IdempotencyRecord,
};
use crate::time::Instant;
use crate::txn::TxnBuilder;

/// What a command to many decides for each of its deliveries.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeliveryRule {
    /// Where the device is offline, the delivery expires at once.
    pub(crate) online_only: bool,
    /// They end as they come into being.
    pub(crate) end: Option<EndAtOnce>,
    /// Of a rollout: the batch, and until when it must be accepted.
    pub(crate) batch: Option<(BatchMark, Instant)>,
    /// They were registered when the command was stored: one that is not was removed.
    pub(crate) registered: bool,
    /// With a window: from when on that is open. It is the same for all.
    pub(crate) opening: Option<Timestamp>,
}

impl Device {
    /// Stores a command to this device, or refuses it. Requests with the same key wait for the
    /// outcome.
    pub(crate) fn send(
        &mut self,
        request: RequestId,
        send: &Send,
        random: [u8; 10],
        txn: &mut TxnBuilder<'_>,
    ) {
        if let Err(problem) = self.may_send(send, txn) {
            if let Some((key, _)) = &send.idempotency {
                txn.decide_key(key.clone(), None, None);
            }
            txn.ctx.waiting.remove(&request);
            return txn.refuse(request, problem);
        }
        let head = store_command(send, 1, random, txn);
        txn.audit_command(request, head.id);
        let (id, seq) = (head.id, head.seq);
        let record = DeliveryRecord::new(head, self.id.clone(), txn.now);
        let mut live = Live::new(record, Some(send.data.clone()));
        live.touch(txn.now);
        if self.queue_is_full(txn) {
            self.reject(&mut live, Code::QueueFull, txn);
        }
        live.await_window(txn.ctx.config.calendar, txn.now);
        if let Some((key, fingerprint)) = &send.idempotency {
            txn.change(Change::PutIdempotency(Box::new(IdempotencyRecord {
                key: key.clone(),
                fingerprint: *fingerprint,
                command: id,
                device: Some(self.id.clone()),
                expires: txn.now.instant.after(IDEMPOTENCY_RETENTION),
            })));
            txn.decide_key(key.clone(), Some(&self.id), Some((*fingerprint, id)));
        }
        let answered = send.wait.get() == 0 || live.state().is_terminal();
        if answered {
            txn.ctx.waiting.remove(&request);
            txn.reply(request, Answer::Delivery(Box::new(live.record.to_delivery())));
        }
        self.deliveries.add(live);
        if !answered && txn.ctx.waiting.contains_key(&request) {
            let until = txn.now.instant.after(send.wait.duration());
            self.deliveries.wait(seq, request, until);
        }
    }

    /// The checks of the contract, section 1, in its order.
    fn may_send(&mut self, send: &Send, txn: &mut TxnBuilder<'_>) -> Result<(), Problem> {
        if !self.known && !txn.ctx.creates_on_sight() {
            return Err(unknown_device(&self.id));
        }
        txn.ctx.may_store()?;
        let only_if_online = send.ttl.is_some_and(|ttl| ttl.get() == 0);
        if only_if_online && !self.presence(txn.now).online() {
            let detail =
                format!("{} is not online; a ttl of 1s or more would wait for it", self.id);
            return Err(Problem::new(Code::DeviceOffline, detail));
        }
        if !send.reject_when_full && self.queue_is_full(txn) {
            let queue_max = txn.ctx.config.queue_max;
            let detail = format!(
                "{} has {queue_max} commands queued, which is queue_max of the hub; try again later",
                self.id
            );
            return Err(Problem::new(Code::QueueFull, detail));
        }
        self.ensure_known(txn)
    }

    /// The delivery of a command to many at this device comes into being.
    pub(crate) fn deliver(
        &mut self,
        head: &CommandHead,
        data: &Json,
        rule: DeliveryRule,
        txn: &mut TxnBuilder<'_>,
    ) {
        let offline = !self.presence(txn.now).online();
        let record = DeliveryRecord::new(head.clone(), self.id.clone(), txn.now);
        let mut live = Live::new(record, Some(data.clone()));
        if let Some((mark, expires)) = rule.batch {
            (live.record.batch, live.record.expires) = (Some(mark), expires);
        }
        live.touch(txn.now);
        if let Some(end) = rule.end {
            // It has not ended, so it can be cancelled; it was never sent, so that is the end of it.
            let force = end == EndAtOnce::Cancelled(true);
            let _never_refused = live.cancel(force, txn.now);
            if end == EndAtOnce::Aborted {
                live.record.outcome.error = Some(ErrorInfo::of("aborted"));
            }
        } else if rule.registered && !self.known {
            // As with those that it has when it is removed.
            live.transition(DeliveryState::Cancelled, txn.now);
        } else if self.ensure_known(txn).is_err() {
            self.reject(&mut live, Code::UnknownDevice, txn);
        } else if self.queue_is_full(txn) {
            self.reject(&mut live, Code::QueueFull, txn);
        } else if rule.online_only && offline {
            live.give_up(DeliveryState::Expired, txn.now);
        }
        if let Some(opening) = rule.opening {
            live.await_opening(opening, txn.now);
        }
        self.deliveries.add(live);
    }

    fn reject(&self, live: &mut Live, code: Code, txn: &TxnBuilder<'_>) {
        live.record.outcome.error = Some(ErrorInfo::of(code.as_str()));
        live.transition(DeliveryState::Rejected, txn.now);
    }

    fn queue_is_full(&self, txn: &TxnBuilder<'_>) -> bool {
        self.deliveries.queued() >= txn.ctx.config.queue_max as u64
    }
}

/// Numbers a command and stores its row.
pub(crate) fn store_command(
    send: &Send,
    total: u64,
    random: [u8; 10],
    txn: &mut TxnBuilder<'_>,
) -> CommandHead {
    let now = txn.now;
    let ttl_s = match send.ttl.map(|ttl| ttl.get()) {
        None => TTL_S.default,
        Some(0) => TTL_IF_ONLINE_S,
        Some(ttl_s) => ttl_s,
    };
    let not_before = send.not_before.filter(|at| *at > now.wall);
    let run_timeout_s = send.run_timeout.map_or(RUN_TIMEOUT_S.default, |s| s.get());
    let head = CommandHead {
        id: CommandId::from_parts(now.wall.unix_ms(), random),
        seq: txn.ctx.seqs.next(),
        total,
        action: send.action.clone(),
        created_at: now.wall,
        created: now.instant,
        expires_at: not_before.unwrap_or(now.wall).after(Duration::from_secs(ttl_s)),
        run_timeout: Duration::from_secs(run_timeout_s),
        not_before,
        window: send.window.clone(),
    };
    txn.change(Change::PutCommand(Box::new(CommandRecord {
        head: head.clone(),
        data: send.data.clone(),
        created_by: send.created_by.clone(),
        select: send.select.clone(),
        parent: send.parent,
        online_only: is_online_only(send),
    })));
    if let Some((schedule, at)) = send.run
        && let Some(record) = txn.ctx.schedules.stored(schedule, at, head.id)
    {
        txn.change(Change::PutSchedule(Box::new(record)));
    }
    head
}

/// Whether a command is only for devices that are online.
pub(crate) fn is_online_only(send: &Send) -> bool {
    send.ttl.is_some_and(|ttl| ttl.get() == 0)
}
