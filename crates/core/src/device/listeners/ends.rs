//! How streams end: replaced, closed, unconfirmed, at their planned end, or all at once. What a listener alone had carried
//! is queued again at once. Contract, section 4.

use std::time::Duration;

use bellwire_proto::limits::{STREAM_MAX_S, STREAM_MAX_SPREAD};
use bellwire_proto::stream::ByeReason;

use super::Listener;
use crate::delivery::Carriers;
use crate::device::Device;
use crate::ids::SessionId;
use crate::time::{Instant, Now};
use crate::txn::TxnBuilder;

impl Device {
    /// Ends a stream that another replaces.
    pub(super) fn replace(
        &mut self,
        older: Option<Box<Listener>>,
        carried: Carriers,
        txn: &mut TxnBuilder<'_>,
    ) {
        if let Some(older) = older {
            if carried != Carriers::UNCONFIRMED {
                self.identity_conflict.replaced(txn.now.instant);
            }
            txn.close(older.session, ByeReason::Replaced);
        }
        self.lost(carried, txn.now);
    }

    /// Queues again, uncounted, what was sent and has no carrier any more.
    pub(super) fn lost(&mut self, carrier: Carriers, now: Now) {
        for seq in self.deliveries.sent() {
            self.deliveries.with(seq, |live| {
                live.carriers.remove(carrier);
                if live.carriers == Carriers::NONE {
                    live.requeue(now);
                }
            });
        }
    }

    /// A stream has ended. Compares and removes in one step: a late event of an older stream ends
    /// nothing.
    pub(crate) fn closed(&mut self, session: SessionId, txn: &mut TxnBuilder<'_>) {
        if let Some(stream) = self.listeners.stream.take_if(|s| s.session == session) {
            self.stream_ended(&stream, txn);
        }
        if self.listeners.unconfirmed.take_if(|s| s.session == session).is_some() {
            self.lost(Carriers::UNCONFIRMED, txn.now);
        }
    }

    /// Ends a stream that was not confirmed in time, and one whose planned end has come.
    pub(in crate::device) fn end_due_streams(&mut self, txn: &mut TxnBuilder<'_>) {
        let now = txn.now.instant;
        let due = |listener: &mut Box<Listener>| listener.ends_at.is_some_and(|at| at <= now);
        if let Some(listener) = self.listeners.unconfirmed.take_if(due) {
            txn.close(listener.session, ByeReason::Unconfirmed);
            self.lost(Carriers::UNCONFIRMED, txn.now);
        }
        if let Some(stream) = self.listeners.stream.take_if(due) {
            txn.close(stream.session, ByeReason::Rotate);
            self.stream_ended(&stream, txn);
        }
    }

    /// What the end of the stream that counted means for its device.
    fn stream_ended(&mut self, ended: &Listener, txn: &mut TxnBuilder<'_>) {
        if !ended.stalled {
            self.contacts.seen(txn.now.wall);
        }
        // Polls before the stream say nothing about the device after it; a poll beside it does.
        if !ended.doubted && self.listeners.poll.is_none() {
            self.listeners.polled_at = None;
        }
        self.lost(Carriers::STREAM, txn.now);
    }

    /// Ends everything that listens.
    pub(crate) fn end_streams(&mut self, reason: ByeReason, txn: &mut TxnBuilder<'_>) {
        self.seen_until_now(txn.now);
        let streams = [self.listeners.stream.take(), self.listeners.unconfirmed.take()];
        for listener in streams.into_iter().flatten() {
            txn.close(listener.session, reason);
        }
        self.answer_poll(txn);
        self.listeners.polled_at = None;
        for seq in self.deliveries.sent() {
            self.deliveries.with(seq, |live| live.requeue(txn.now));
        }
    }
}

/// When a stream that began then is to end, if that is set: spread, so that streams that began at once do not end at once.
pub(super) fn planned_end(begun: Instant, txn: &mut TxnBuilder<'_>) -> Option<Instant> {
    let stream_max = txn.ctx.config.stream_max?;
    let factor = 1.0 + STREAM_MAX_SPREAD * (2.0 * txn.ctx.random.next_unit() - 1.0);
    // A configuration in code may have any, and a product past the range of a duration would panic.
    let stream_max = stream_max.min(Duration::from_secs(STREAM_MAX_S.1));
    Some(begun.after(stream_max.mul_f64(factor)))
}
