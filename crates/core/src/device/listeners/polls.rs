//! Long polls, and cancellations, which a poll carries as a stream does. Contract, section 4.

use bellwire_proto::limits::QUEUE_MAX;
use thin_vec::ThinVec;

use super::{Listeners, WaitingPoll, cancel_event};
use crate::delivery::Carriers;
use crate::device::Device;
use crate::ids::RequestId;
use crate::io::{Answer, Frame, Poll};
use crate::txn::TxnBuilder;

impl Device {
    /// A poll begins. A waiting older one ends with nothing.
    pub(crate) fn poll(&mut self, request: RequestId, poll: Poll, txn: &mut TxnBuilder<'_>) {
        if !txn.ctx.waiting.contains_key(&request) {
            return; // Its client disconnected while the device was being loaded.
        }
        let may = self.may_listen(txn).and_then(|()| {
            self.contacts.seen(txn.now.wall);
            if self.listeners.stream.is_none() {
                self.contacts.set_peer(poll.peer.clone());
            }
            self.ensure_known(txn)
        });
        if let Err(problem) = may {
            txn.ctx.waiting.remove(&request);
            return txn.refuse(request, problem);
        }
        self.answer_poll(txn);
        for seq in self.deliveries.sent() {
            let bearer_lost = poll.last_event_id.is_some_and(|id| seq > id);
            self.deliveries.with(seq, |live| {
                if bearer_lost || live.carriers == Carriers::UNCONFIRMED {
                    live.requeue(txn.now);
                }
            });
        }
        let now = txn.now.instant;
        let lease = txn.ctx.config.lease;
        let mut cancels = Vec::from_iter(std::mem::take(&mut self.listeners.cancels_for_poll));
        for seq in self.deliveries.cancelling() {
            let event = self.deliveries.with(seq, |live| {
                let again = live.cancel_polled_at.is_none_or(|at| at.after(lease) <= now);
                again.then(|| {
                    live.cancel_polled_at = Some(now);
                    cancel_event(&live.record)
                })
            });
            cancels.extend(event.flatten());
        }
        self.listeners.polled_at = Some(now);
        if let Some(stream) = &mut self.listeners.stream {
            stream.doubted = true;
        }
        let until = now.after(poll.wait.duration());
        let commands = Vec::new();
        let token = poll.token;
        let poll = WaitingPoll { request, until, token, commands, cancels, has_copies: false };
        self.listeners.poll = Some(Box::new(poll));
    }

    /// Answers the poll if it has something to carry or has waited long enough.
    pub(in crate::device) fn settle_poll(&mut self, txn: &mut TxnBuilder<'_>) {
        let Some(poll) = &self.listeners.poll else { return };
        let something = !poll.commands.is_empty() || !poll.cancels.is_empty();
        // What is being loaded for it is part of the answer.
        let complete = !self.scheduler.is_loading();
        if poll.has_copies || (complete && (something || poll.until <= txn.now.instant)) {
            self.answer_poll(txn);
        }
    }

    /// Answers the poll with what there is.
    pub(super) fn answer_poll(&mut self, txn: &mut TxnBuilder<'_>) {
        if let Some(poll) = self.listeners.poll.take() {
            self.listeners.polled_at = Some(txn.now.instant);
            txn.ctx.waiting.remove(&poll.request);
            let WaitingPoll { request, commands, cancels, .. } = *poll;
            txn.reply(request, Answer::Poll { commands, cancels });
        }
    }

    /// Sends the cancellations that are not sent yet to all listeners.
    pub(in crate::device) fn send_cancels(&mut self, txn: &mut TxnBuilder<'_>) {
        // A device that polled within the last 40 s is expected to poll again: that poll carries them.
        let polls = self.listeners.polls(txn.now.instant);
        if !polls {
            self.listeners.cancels_for_poll = ThinVec::new();
        }
        for seq in self.deliveries.take_cancels_unsent() {
            let Some(live) = self.deliveries.get(seq) else { continue };
            let (event, terminal) = (cancel_event(&live.record), live.state().is_terminal());
            let Listeners { stream, unconfirmed, poll, cancels_for_poll, .. } = &mut self.listeners;
            for listener in [stream, unconfirmed].into_iter().flatten() {
                txn.send(listener.session, Frame::Cancel(event));
            }
            if let Some(poll) = poll {
                poll.cancels.push(event);
                let now = txn.now.instant;
                self.deliveries.with(seq, |live| live.cancel_polled_at = Some(now));
            } else if polls && terminal && cancels_for_poll.len() < QUEUE_MAX {
                cancels_for_poll.push(event);
            }
        }
    }
}
