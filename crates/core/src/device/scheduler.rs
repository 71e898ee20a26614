//! Which delivery of a device is sent next: first in, first out, within a window.
//!
//! At most `max_in_flight` deliveries are in flight. One that waits after a
//! nack or a lease holds back the younger; one that waits for `not_before` or its window does not. Contract,
//! section 2, "Order". A command to many that has not been expanded to this device yet holds back
//! the younger too: its delivery is about to come into being.

use bellwire_proto::DeliveryState;
use bellwire_proto::{Json, Seq};

use crate::device::Device;
use crate::device::deliveries::{Head, PAGE_MAX};
use crate::device::listeners::command_event;
use crate::record::{Load, QueuePage};
use crate::time::LOAD_RETRY;
use crate::time::{Instant, Now};
use crate::txn::TxnBuilder;

/// Lookups of the queue that are under way.
#[derive(Debug, Default)]
pub(crate) struct Scheduler {
    loading: bool,
    /// No lookup before this: the store could not answer the last.
    retry_at: Option<Instant>,
}

impl Scheduler {
    /// Whether what is sent next is being looked up.
    pub(super) fn is_loading(&self) -> bool {
        self.loading
    }
}

impl Device {
    /// Sends whatever may be sent.
    pub(super) fn pump(&mut self, txn: &mut TxnBuilder<'_>) {
        while self.listeners.take_commands()
            && self.deliveries.slots() < txn.ctx.config.max_in_flight
        {
            let seq = match self.deliveries.head() {
                Head::Empty => return self.listeners.caught_up(),
                Head::InStore(after) => {
                    let load = Load::Queue(self.id.clone(), after, PAGE_MAX);
                    return self.look_up(load, txn);
                }
                Head::Here(seq) => seq,
            };
            if self.awaits_window(seq, txn) {
                continue;
            }
            if self.is_held_back(seq, txn) {
                return;
            }
            if self.deliveries.get(seq).is_some_and(|live| live.data.is_none()) {
                return self.look_up(Load::Data(self.id.clone(), seq), txn);
            }
            self.send_out(seq, txn);
        }
    }

    /// Whether the window of the oldest of the queue is closed: it leaves the queue until that opens, and holds back nothing.
    fn awaits_window(&mut self, seq: Seq, txn: &TxnBuilder<'_>) -> bool {
        let has_window =
            self.deliveries.get(seq).is_some_and(|live| live.record.head.window.is_some());
        let (calendar, now) = (txn.ctx.config.calendar, txn.now);
        has_window
            && self.deliveries.with(seq, |live| live.await_window(calendar, now)) == Some(true)
    }

    /// Whether the oldest of the queue has to wait.
    fn is_held_back(&self, seq: Seq, txn: &mut TxnBuilder<'_>) -> bool {
        let retry_at = self.deliveries.get(seq).and_then(|live| live.record.retry_at);
        retry_at.is_some_and(|at| at > txn.now.instant) || txn.ctx.commands.hold_back(&self.id, seq)
    }

    /// When the oldest of the queue may be sent, or looked up again.
    pub(super) fn next_attempt(&self, now: Now) -> Option<Instant> {
        if !self.listeners.take_commands() {
            return None;
        }
        let head = match self.deliveries.head() {
            Head::Here(seq) => self.deliveries.get(seq).and_then(|live| live.record.retry_at),
            Head::InStore(_) | Head::Empty => None,
        };
        let later = |at: &Instant| *at > now.instant;
        let (head, again) = (head.filter(later), self.scheduler.retry_at.filter(later));
        crate::time::earliest(head, again)
    }

    /// One lookup at a time.
    fn look_up(&mut self, load: Load, txn: &mut TxnBuilder<'_>) {
        let waits = self.scheduler.retry_at.is_some_and(|at| at > txn.now.instant);
        if !self.scheduler.loading && !waits {
            self.scheduler.loading = true;
            self.deliveries.hold();
            txn.load(load);
        }
    }

    /// The next page of the queue has come; `None` when the store could not answer.
    pub(crate) fn queue_loaded(&mut self, page: Option<QueuePage>, now: Now) {
        self.end_look_up(page.is_none(), now);
        if let Some(page) = page {
            self.deliveries.add_page(page);
        }
    }

    /// The data of a command has come; `None` when the store could not answer, or has none.
    pub(crate) fn data_loaded(&mut self, seq: Seq, data: Option<Json>, now: Now) {
        self.end_look_up(data.is_none(), now);
        self.deliveries.with(seq, |live| {
            if live.state() == DeliveryState::Queued {
                live.data = data;
            }
        });
    }

    fn end_look_up(&mut self, failed: bool, now: Now) {
        self.scheduler.loading = false;
        self.scheduler.retry_at = failed.then(|| now.instant.after(LOAD_RETRY));
        self.deliveries.release();
    }

    /// One sending: to all listeners, with the same attempt number.
    fn send_out(&mut self, seq: Seq, txn: &mut TxnBuilder<'_>) {
        let now = txn.now;
        let lease_until = now.instant.after(txn.ctx.config.lease);
        let event = self.deliveries.with(seq, |live| {
            let data = live.data.clone().unwrap_or_default();
            live.record.attempt = live.record.attempt.saturating_add(1);
            live.record.sends = live.record.sends.saturating_add(1);
            live.transition(DeliveryState::Sent, now);
            live.lease_until = lease_until;
            command_event(&live.record, data, now.instant)
        });
        if let Some(event) = event {
            let carriers = self.listeners.carry(event, txn);
            self.deliveries.with(seq, |live| live.carriers = carriers);
        }
    }
}
