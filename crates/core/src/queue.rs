//! Whose turn it is at a device: first in, first out, within a window.
//!
//! At most `max_in_flight` deliveries are past `queued` and have not ended. One that waits after
//! a nack or a lease holds back the younger; one that waits for `not_before` does not. Contract,
//! section 2, "Order".

use bellwire_proto::limits::CANCEL_SLOT;
use bellwire_proto::{DeliveryState, Timestamp};

use crate::delivery::{Carriers, Live};
use crate::device::Device;
use crate::io::{Frame, Output};
use crate::record::Load;
use crate::session::{CatchingUp, command_event};
use crate::work::Work;

impl Device {
    /// Whether anybody listens who may be told of a command now.
    pub(crate) fn takes_commands(&self) -> bool {
        let streams = [&self.stream, &self.unconfirmed];
        self.poll.is_some() || streams.into_iter().flatten().any(|l| l.takes_commands())
    }

    /// Sends whatever may be sent.
    pub(crate) fn pump(&mut self, work: &mut Work<'_>) {
        while self.takes_commands() && self.in_flight(work.now) < work.config().max_in_flight {
            let Some(turn) = self.next_turn(work.now) else {
                self.caught_up(work.now);
                return;
            };
            if self.live.get(turn).is_some_and(|l| l.data.is_none()) {
                return self.load_data(turn, work);
            }
            self.send_out(turn, work);
        }
    }

    /// How many slots of the window are taken.
    fn in_flight(&self, now: Timestamp) -> usize {
        let takes_slot = |live: &&Live| {
            let cancelling_since = live.record.cancelling_since;
            live.in_flight() && cancelling_since.is_none_or(|since| now < since.after(CANCEL_SLOT))
        };
        self.live.iter().filter(takes_slot).count()
    }

    /// The oldest delivery that may be sent.
    fn next_turn(&self, now: Timestamp) -> Option<usize> {
        for (i, live) in self.live.iter().enumerate() {
            if live.state() != DeliveryState::Queued {
                continue;
            }
            if live.record.retry_at.is_some_and(|at| at > now) {
                return None;
            }
            if live.record.head.not_before.is_none_or(|at| at <= now) {
                return Some(i);
            }
        }
        None
    }

    /// Asks for the data of the commands that come next, as far as the window could take them.
    fn load_data(&mut self, turn: usize, work: &mut Work<'_>) {
        if self.loading_data || self.data_again_at.is_some_and(|at| at > work.now) {
            return;
        }
        self.loading_data = true;
        let wanted = self
            .live
            .iter()
            .skip(turn)
            .filter(|l| l.state() == DeliveryState::Queued && l.data.is_none());
        let seqs = wanted.take(work.config().max_in_flight).map(|l| l.record.head.seq).collect();
        work.load(Load::Data(self.id.clone(), seqs));
    }

    /// One sending: to everyone who listens, with the same attempt.
    fn send_out(&mut self, turn: usize, work: &mut Work<'_>) {
        let now = work.now;
        let Some(live) = self.live.get_mut(turn) else {
            return;
        };
        let record = &mut live.record;
        record.attempt = record.attempt.saturating_add(1);
        record.sends = record.sends.saturating_add(1);
        live.go(DeliveryState::Sent, now);
        live.lease_until = now.after(work.config().lease);
        let event = command_event(&live.record, live.data.clone().unwrap_or_default(), now);
        let streams =
            [(&mut self.stream, Carriers::STREAM), (&mut self.unconfirmed, Carriers::UNCONFIRMED)];
        for (listener, carrier) in streams {
            let Some(listener) = listener.as_mut().filter(|l| l.takes_commands()) else {
                continue;
            };
            live.carriers.add(carrier);
            let wanted = listener.sends(event.seq, event.data.as_str().len());
            let frame = Frame::Command(event.clone());
            work.output(Output::Send { session: listener.session, frame, wanted });
        }
        if let Some(poll) = &mut self.poll {
            live.carriers.add(Carriers::POLL);
            poll.commands.push(event);
        }
    }

    /// Nothing can be sent now. If nothing is held back either, streams are live from here on.
    fn caught_up(&mut self, now: Timestamp) {
        let held_back = |live: &Live| {
            live.state() == DeliveryState::Queued
                && live.record.head.not_before.is_none_or(|at| at <= now)
        };
        if self.live.iter().any(held_back) {
            return;
        }
        for listener in [&mut self.stream, &mut self.unconfirmed].into_iter().flatten() {
            if listener.catching_up == CatchingUp::Backlog && listener.takes_commands() {
                listener.catching_up = CatchingUp::Live;
            }
        }
    }
}
