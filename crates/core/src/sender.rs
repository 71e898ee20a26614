//! A command comes in for a device: checked against the device's state, numbered, queued.

use std::time::Duration;

use bellwire_proto::limits::{IDEMPOTENCY_RETENTION, RUN_TIMEOUT_S, TTL_IF_ONLINE_S, TTL_S};
use bellwire_proto::{Code, CommandId, DeliveryState, ErrorInfo, Problem};

use crate::delivery::Live;
use crate::device::Device;
use crate::io::{Answer, RequestId, Send};
use crate::record::{Change, CommandHead, CommandRecord, DeliveryRecord, IdempotencyRecord};
use crate::session::draining;
use crate::work::Work;

impl Device {
    /// Stores a command, or says why not. Whoever used the same key waits for the verdict.
    pub(crate) fn send(
        &mut self,
        request: RequestId,
        send: Send,
        random: [u8; 10],
        work: &mut Work<'_>,
    ) {
        let key = send.idempotency.clone();
        let verdict = self.may_send(&send, work);
        if let Err(problem) = verdict {
            if let Some((key, _)) = key {
                work.decide_key(key, &self.id, None);
            }
            work.answered(request);
            return work.refuse(request, problem);
        }
        let full = self.queue_is_full(work);
        let mut live = self.store(&send, random, work);
        if full {
            live.record.outcome.error = Some(ErrorInfo::of(Code::QueueFull.as_str()));
            live.go(DeliveryState::Rejected, work.now);
        }
        let id = live.record.head.id;
        if let Some((key, fingerprint)) = key {
            let expires_at = work.now.after(IDEMPOTENCY_RETENTION);
            let device = self.id.clone();
            work.change(Change::PutIdempotency(Box::new(IdempotencyRecord {
                key: key.clone(),
                fingerprint,
                command: id,
                device,
                expires_at,
            })));
            work.decide_key(key, &self.id, Some((fingerprint, id)));
        }
        if send.wait.get() == 0 || live.state().is_terminal() {
            work.answered(request);
            work.reply(request, Answer::Delivery(Box::new(live.record.to_delivery())));
        } else if work.is_waiting(request) {
            live.waits.push((request, work.now.after(send.wait.duration())));
        }
        self.live.push(live);
    }

    /// The checks of the contract, section 1, in its order.
    fn may_send(&mut self, send: &Send, work: &mut Work<'_>) -> Result<(), Problem> {
        if !self.known && !work.config().create_on_sight {
            let detail = format!("no device is named {}; register it first", self.id);
            return Err(Problem::new(Code::UnknownDevice, detail));
        }
        if work.draining() {
            return Err(draining());
        }
        let only_if_online = send.ttl.is_some_and(|ttl| ttl.get() == 0);
        if only_if_online && !self.presence(work.now).online() {
            let detail =
                format!("{} is not online; a ttl of 1s or more would wait for it", self.id);
            return Err(Problem::new(Code::DeviceOffline, detail));
        }
        if !send.reject_when_full && self.queue_is_full(work) {
            let queue_max = work.config().queue_max;
            let detail = format!("{} has {queue_max} commands queued; try again later", self.id);
            return Err(Problem::new(Code::QueueFull, detail));
        }
        self.ensure_known(work)
    }

    fn queue_is_full(&self, work: &Work<'_>) -> bool {
        let queued = self.live.iter().filter(|l| l.state() == DeliveryState::Queued).count();
        queued >= work.config().queue_max
    }

    /// Numbers the command and makes its rows.
    fn store(&mut self, send: &Send, random: [u8; 10], work: &mut Work<'_>) -> Live {
        let now = work.now;
        let ttl_s = match send.ttl.map(|ttl| ttl.get()) {
            None => TTL_S.default,
            Some(0) => TTL_IF_ONLINE_S,
            Some(ttl_s) => ttl_s,
        };
        let not_before = send.not_before.filter(|at| *at > now);
        let run_timeout_s = send.run_timeout.map_or(RUN_TIMEOUT_S.default, |s| s.get());
        let head = CommandHead {
            id: CommandId::from_parts(now.unix_ms(), random),
            seq: work.next_seq(),
            action: send.action.clone(),
            created_at: now,
            expires_at: not_before.unwrap_or(now).after(Duration::from_secs(ttl_s)),
            run_timeout: Duration::from_secs(run_timeout_s),
            not_before,
        };
        work.change(Change::PutCommand(Box::new(CommandRecord {
            head: head.clone(),
            data: send.data.clone(),
            created_by: send.created_by.clone(),
            total: 1,
        })));
        let mut live = Live::new(DeliveryRecord::new(head, self.id.clone()), None);
        live.touch(now);
        // Stays in memory only if it may be sent soon: what waits behind others is in the store,
        // as soon as it is committed.
        let alone = self.live.iter().all(|l| l.state() != DeliveryState::Queued);
        live.data = Some(send.data.clone());
        live.data_in_passing = !(alone && self.takes_commands());
        live
    }
}
