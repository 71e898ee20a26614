//! A model of the hub for one device: the table in section 2 of the contract.

use std::collections::BTreeMap;

use bellwire_proto::stream::{CancelEvent, CommandEvent};
use bellwire_proto::{CommandId, DeliveryState, Json, Report, ReportState, Seq, Timestamp};

use super::ReportAnswer;

/// How far the hub's clock is ahead of the world's, so that the two cannot be confused.
pub(super) const EPOCH_MS: u64 = 1_800_000_000_000;
const LEASE_MS: u64 = 30_000;
const CANCEL_MS: u64 = 60_000;

#[derive(Debug, Clone)]
pub(super) struct Delivery {
    pub(super) event: CommandEvent,
    pub(super) state: DeliveryState,
    pub(super) error: Option<String>,
    /// At times greater than the first one of a device with a new journal.
    pub(super) rev: u64,
    pub(super) expires_ms: u64,
    /// The end of the lease or of the run clock.
    due_ms: u64,
    ever_sent: bool,
}

#[derive(Default)]
pub(super) struct Hub {
    /// How far its clock is from the right time, in milliseconds.
    pub(super) clock_error_ms: i64,
    /// Until when it rejects the result of a command permanently.
    pub(super) rejects_until_ms: BTreeMap<CommandId, u64>,
    pub(super) deliveries: BTreeMap<CommandId, Delivery>,
    pub(super) max_in_flight: usize,
    /// Commands that have timed out, and when the last report of each arrived.
    pub(super) timed_out: Vec<(CommandId, u64)>,
}

pub(super) enum Frame {
    Command(CommandEvent),
    Cancel(CancelEvent),
}

impl Hub {
    /// What its clock shows at this time, unless it is set before.
    pub(super) fn clock_ms(&self, at_ms: u64) -> u64 {
        (EPOCH_MS + at_ms).saturating_add_signed(self.clock_error_ms)
    }

    pub(super) fn submit(
        &mut self,
        now_ms: u64,
        action: &str,
        (ttl_s, run_timeout_s): (u64, u64),
        rev: u64,
    ) -> CommandId {
        let n = self.deliveries.len() as u64 + 1;
        let id = CommandId::from_parts(n, [n as u8; 10]);
        let expires_ms = now_ms + ttl_s * 1000;
        let event = CommandEvent {
            id,
            seq: n.to_string().parse::<Seq>().unwrap(),
            action: action.parse().unwrap(),
            data: Json::null(),
            attempt: 0,
            created_at: Timestamp::from_unix_ms(self.clock_ms(now_ms)),
            expires_at: Timestamp::from_unix_ms(self.clock_ms(expires_ms)),
            ttl_s,
            run_timeout_s,
        };
        let delivery = Delivery {
            event,
            state: DeliveryState::Queued,
            error: None,
            rev,
            expires_ms,
            due_ms: 0,
            ever_sent: false,
        };
        self.deliveries.insert(id, delivery);
        id
    }

    pub(super) fn cancel(&mut self, id: CommandId, force: bool) -> Option<Frame> {
        let delivery = self.deliveries.get_mut(&id).unwrap();
        if delivery.state.is_terminal() {
            return None;
        }
        let silent = delivery.state == DeliveryState::Queued && !delivery.ever_sent;
        delivery.state =
            if silent || force { DeliveryState::Cancelled } else { DeliveryState::Cancelling };
        (!silent).then_some(Frame::Cancel(CancelEvent { id, seq: delivery.event.seq }))
    }

    /// A new connection or a restart of the hub: what was sent and not answered is queued again.
    pub(super) fn reconnect(&mut self) -> Vec<Frame> {
        let mut cancels = Vec::new();
        for delivery in self.deliveries.values_mut() {
            match delivery.state {
                DeliveryState::Sent => delivery.state = DeliveryState::Queued,
                DeliveryState::Cancelling => {
                    let CommandEvent { id, seq, .. } = delivery.event;
                    cancels.push(Frame::Cancel(CancelEvent { id, seq }));
                }
                _ => {}
            }
        }
        cancels
    }

    /// Applies the timeouts.
    pub(super) fn tick(&mut self, now_ms: u64) {
        for delivery in self.deliveries.values_mut() {
            match delivery.state {
                DeliveryState::Queued | DeliveryState::Sent if delivery.expires_ms <= now_ms => {
                    delivery.state = DeliveryState::Expired;
                }
                DeliveryState::Sent if delivery.due_ms <= now_ms => {
                    delivery.state = DeliveryState::Queued
                }
                DeliveryState::Accepted | DeliveryState::Running if delivery.due_ms <= now_ms => {
                    delivery.state = DeliveryState::TimedOut;
                    let CommandEvent { id, run_timeout_s, .. } = delivery.event;
                    self.timed_out.push((id, delivery.due_ms - run_timeout_s * 1000));
                }
                DeliveryState::Cancelling if delivery.due_ms + CANCEL_MS <= now_ms => {
                    delivery.state = DeliveryState::TimedOut;
                }
                _ => {}
            }
        }
    }

    /// The next timeout.
    pub(super) fn due_ms(&self) -> Option<u64> {
        let due = |delivery: &Delivery| match delivery.state {
            DeliveryState::Queued => Some(delivery.expires_ms),
            DeliveryState::Sent => Some(delivery.expires_ms.min(delivery.due_ms)),
            DeliveryState::Accepted | DeliveryState::Running => Some(delivery.due_ms),
            DeliveryState::Cancelling => Some(delivery.due_ms + CANCEL_MS),
            _ => None,
        };
        self.deliveries.values().filter_map(due).min()
    }

    /// Sends what may be sent now.
    pub(super) fn send(&mut self, now_ms: u64) -> Vec<Frame> {
        let mut frames = Vec::new();
        let in_flight = |d: &&Delivery| d.state != DeliveryState::Queued && !d.state.is_terminal();
        let mut slots =
            self.max_in_flight.saturating_sub(self.deliveries.values().filter(in_flight).count());
        // Here the ids have the order of the commands.
        for delivery in self.deliveries.values_mut() {
            if delivery.state != DeliveryState::Queued || slots == 0 {
                continue;
            }
            slots -= 1;
            delivery.state = DeliveryState::Sent;
            delivery.ever_sent = true;
            delivery.due_ms = now_ms + LEASE_MS;
            delivery.event.attempt += 1;
            delivery.event.ttl_s = (delivery.expires_ms - now_ms).div_ceil(1000);
            frames.push(Frame::Command(delivery.event.clone()));
        }
        frames
    }

    pub(super) fn report(&mut self, now_ms: u64, id: CommandId, report: &Report) -> ReportAnswer {
        use ReportState as R;
        let delivery = self.deliveries.get_mut(&id).unwrap();
        let rev = report.rev.unwrap();
        let rejects = self.rejects_until_ms.get(&id).is_some_and(|until_ms| now_ms < *until_ms);
        // It would send such a command again for ever, since here nothing is dead after 100 attempts.
        let is_sent_again = matches!(delivery.state, DeliveryState::Queued | DeliveryState::Sent);
        if rejects && report.state.is_terminal() && !is_sent_again {
            return ReportAnswer::PermanentRejection;
        }
        if rev <= delivery.rev {
            return ReportAnswer::Delivery { state: delivery.state, rev: delivery.rev };
        }
        let reported = match report.state {
            R::Accepted => DeliveryState::Accepted,
            R::Running => DeliveryState::Running,
            R::Succeeded => DeliveryState::Succeeded,
            R::Failed => DeliveryState::Failed,
            R::Rejected => DeliveryState::Rejected,
            R::Cancelled => DeliveryState::Cancelled,
            R::Nack => DeliveryState::Queued,
        };
        let clock_ms = now_ms + delivery.event.run_timeout_s * 1000;
        match (delivery.state, report.state) {
            (from, _) if from.is_terminal() && from == reported => {}
            (
                DeliveryState::Queued | DeliveryState::Sent | DeliveryState::Accepted,
                R::Accepted | R::Running,
            )
            | (DeliveryState::Running, R::Running) => {
                (delivery.state, delivery.due_ms) = (reported, clock_ms);
            }
            (DeliveryState::Running, R::Accepted)
            | (DeliveryState::Cancelling, R::Accepted | R::Running) => {}
            (
                DeliveryState::Queued
                | DeliveryState::Sent
                | DeliveryState::Accepted
                | DeliveryState::Cancelling,
                R::Rejected,
            )
            | (DeliveryState::Cancelling, R::Cancelled) => delivery.state = reported,
            (
                DeliveryState::Queued
                | DeliveryState::Sent
                | DeliveryState::Accepted
                | DeliveryState::Running
                | DeliveryState::Cancelling
                | DeliveryState::TimedOut
                | DeliveryState::Expired
                | DeliveryState::Dead
                | DeliveryState::Cancelled,
                R::Succeeded | R::Failed,
            ) => delivery.state = reported,
            (from, _) => return ReportAnswer::Conflict { state: Some(from) },
        }
        delivery.rev = rev;
        delivery.error =
            report.outcome.error.as_ref().map(|e| e.code.clone()).or(delivery.error.take());
        ReportAnswer::Delivery { state: delivery.state, rev }
    }
}
