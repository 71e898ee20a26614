//! Whether a device is online, since when, and its last contact.

use bellwire_proto::{DeviceChange, DeviceId, Timestamp, Transport};

use crate::device::Device;
use crate::io::{HubEvent, Output, Peer, Presence};
use crate::record::{Change, Seen};
use crate::txn::TxnBuilder;

/// What is known of a device's contacts since it was loaded. Stamps are of the wall clock.
#[derive(Debug, Default)]
pub(crate) struct Contacts {
    online_since: Option<Timestamp>,
    seen_at: Option<Timestamp>,
    peer: Peer,
}

impl Contacts {
    /// There was a contact with the device.
    pub(crate) fn seen(&mut self, at: Timestamp) {
        self.seen_at = Some(at);
    }

    /// The address and the agent with which it listens now.
    pub(crate) fn set_peer(&mut self, peer: Peer) {
        self.peer = peer;
    }

    pub(crate) fn is_online(&self) -> bool {
        self.online_since.is_some()
    }

    /// The last contact as it is stored.
    pub(crate) fn last(&self) -> Option<Seen> {
        self.seen_at.map(|at| self.at(at))
    }

    fn at(&self, at: Timestamp) -> Seen {
        Seen { at, address: self.peer.address.clone(), agent: self.peer.agent.clone() }
    }

    /// What is visible of it, given how the device listens at this moment.
    pub(crate) fn presence(&self, transport: Option<Transport>, wall: Timestamp) -> Presence {
        let streams = transport == Some(Transport::Stream);
        Presence {
            connected_at: transport.and(self.online_since),
            transport: self.online_since.and(transport),
            seen_at: if streams { Some(wall) } else { self.seen_at },
            peer: self.peer.clone(),
            conflict: false,
        }
    }
}

impl Device {
    /// Notifies observers if the device has connected or disconnected since the last call.
    pub(super) fn update_presence(&mut self, txn: &mut TxnBuilder<'_>) {
        let online = self.listeners.transport(txn.now.instant).is_some();
        if online == self.contacts.is_online() {
            return;
        }
        self.contacts.online_since = online.then_some(txn.now.wall);
        if online {
            txn.ctx.online.insert(self.id.clone());
        } else {
            txn.ctx.online.remove(&self.id);
        }
        if !self.known {
            return;
        }
        if !online {
            let seen = self.contacts.at(self.contacts.seen_at.unwrap_or(txn.now.wall));
            txn.change(Change::PutSeen(self.id.clone(), seen));
        }
        self.notify(if online { DeviceChange::Online } else { DeviceChange::Offline }, txn);
    }

    /// Notifies observers of a change of this device.
    pub(super) fn notify(&self, change: DeviceChange, txn: &mut TxnBuilder<'_>) {
        if txn.ctx.observed {
            let device: DeviceId = self.id.clone();
            let presence = self.presence(txn.now);
            txn.output(Output::Notify(HubEvent::Device { device, change, presence }));
        }
    }
}
