//! The hub: what may happen to it, and what it wants done.

use std::collections::VecDeque;

use bellwire_proto::{CommandId, DeviceId, Json, Labels, Report, Timestamp};

use crate::config::{Config, Recovered};
use crate::io::{Listen, Output, Poll, Presence, RequestId, Send, SessionId};
use crate::record::{Committed, Loaded};

/// Every decision of a hub. See the crate's page for how it is driven.
#[derive(Debug)]
pub struct Hub {
    config: Config,
    outputs: VecDeque<Output>,
}

#[expect(
    unused_variables,
    reason = "the outline of the interface; the bodies follow"
)]
impl Hub {
    /// A hub over a store that has recovered. `seed` feeds the spread of reconnections.
    pub fn new(config: Config, recovered: Recovered, seed: u64) -> Self {
        Self {
            config,
            outputs: VecDeque::new(),
        }
    }

    // --- What senders ask ---

    /// Stores a command and sends it when its turn comes. `random` makes the command's id.
    ///
    /// Replies [`Answer::Delivery`](crate::Answer::Delivery) once it is on disk and, if asked to wait, has ended
    /// or the wait is over.
    pub fn handle_send(
        &mut self,
        request: RequestId,
        send: Send,
        random: [u8; 10],
        now: Timestamp,
    ) {
    }

    /// Cancels a command. Replies [`Answer::Cancelled`](crate::Answer::Cancelled).
    pub fn handle_cancel(
        &mut self,
        request: RequestId,
        command: CommandId,
        force: bool,
        now: Timestamp,
    ) {
    }

    /// The client of a waiting request has gone: nothing needs to be replied to it.
    pub fn handle_abandoned(&mut self, request: RequestId, now: Timestamp) {}

    // --- What devices tell ---

    /// A report about a delivery. Replies [`Answer::Delivery`](crate::Answer::Delivery).
    pub fn handle_report(
        &mut self,
        request: RequestId,
        device: DeviceId,
        command: CommandId,
        report: Report,
        now: Timestamp,
    ) {
    }

    /// A device opens a stream. Replies [`Answer::Listening`](crate::Answer::Listening); from then on frames are
    /// sent to `session`, some maybe before the driver could attach it.
    pub fn handle_listen(
        &mut self,
        request: RequestId,
        session: SessionId,
        device: DeviceId,
        listen: Listen,
        now: Timestamp,
    ) {
    }

    /// A device confirms a stream. Replies [`Answer::Done`](crate::Answer::Done).
    pub fn handle_confirm(
        &mut self,
        request: RequestId,
        device: DeviceId,
        session: SessionId,
        now: Timestamp,
    ) {
    }

    /// A device polls. Replies [`Answer::Poll`](crate::Answer::Poll).
    pub fn handle_poll(
        &mut self,
        request: RequestId,
        device: DeviceId,
        poll: Poll,
        now: Timestamp,
    ) {
    }

    // --- What happens to streams ---

    /// A frame that was sent with the wish to hear of it was taken or written.
    pub fn handle_taken(&mut self, session: SessionId, seq: bellwire_proto::Seq, now: Timestamp) {}

    /// No byte from or to the device for too long: it no longer counts as online.
    pub fn handle_stalled(&mut self, session: SessionId, now: Timestamp) {}

    /// There is life again on a stream that had stalled.
    pub fn handle_resumed(&mut self, session: SessionId, now: Timestamp) {}

    /// A stream has ended, whoever ended it.
    pub fn handle_closed(&mut self, session: SessionId, now: Timestamp) {}

    // --- What operators do to devices ---

    /// Registers a device, or replaces its labels. Replies [`Answer::Device`](crate::Answer::Device).
    pub fn handle_put_device(
        &mut self,
        request: RequestId,
        device: DeviceId,
        labels: Labels,
        now: Timestamp,
    ) {
    }

    /// Keeps what a device tells of itself. Replies [`Answer::Device`](crate::Answer::Device).
    pub fn handle_put_facts(
        &mut self,
        request: RequestId,
        device: DeviceId,
        facts: Json,
        now: Timestamp,
    ) {
    }

    /// Removes a device: its streams end, its live deliveries are cancelled. Replies
    /// [`Answer::Done`](crate::Answer::Done).
    pub fn handle_delete_device(&mut self, request: RequestId, device: DeviceId, now: Timestamp) {}

    // --- What the store says ---

    /// A transaction is on disk.
    pub fn handle_committed(&mut self, committed: Committed, now: Timestamp) {}

    /// The answer to a [`Output::Load`].
    pub fn handle_loaded(&mut self, loaded: Loaded, now: Timestamp) {}

    /// The store will commit nothing more: what waits for it, and whatever else would, is refused with
    /// `store_unavailable`.
    pub fn handle_store_failed(&mut self, now: Timestamp) {}

    // --- Time and the end ---

    /// The time that [`Hub::poll_timeout`] asked for has come.
    pub fn handle_timeout(&mut self, now: Timestamp) {}

    /// The hub is about to stop: waits and polls are answered, streams get their `bye`, and new
    /// sends, streams and polls are refused. Reports are still taken.
    pub fn handle_drain(&mut self, now: Timestamp) {}

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Hub::handle_timeout`] wants to be called, if nothing happens before.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        None
    }

    // --- What can be seen ---

    /// Whether a device is there, and how.
    pub fn presence(&self, device: &DeviceId) -> Presence {
        Presence::default()
    }

    /// The devices that are online, in no order.
    pub fn online(&self) -> impl Iterator<Item = &DeviceId> {
        std::iter::empty()
    }

    /// From now on every change is notified (`true`), or only those of watched commands.
    pub fn observe_all(&mut self, all: bool) {}

    /// From now on the changes of this command are notified; counted, one [`Hub::unwatch`] for each.
    pub fn watch(&mut self, command: CommandId) {}

    /// The end of one [`Hub::watch`].
    pub fn unwatch(&mut self, command: CommandId) {}
}
