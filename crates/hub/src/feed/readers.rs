//! Who reads a stream of the feed, and what it sees. Contract, section 6.
//!
//! An observer with a scope gets what concerns the devices that its selector matches when the event is sent on. A watcher
//! with a scope is shown the deliveries of devices that it saw when its snapshot was read; when anything changes of one of
//! these, its labels or its status, its stream ends, and it comes again to what it then sees.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use bellwire_core::{AccessChange, TokenUse};
use bellwire_proto::stream::{Bye, ByeReason};
use bellwire_proto::{DeviceId, Timestamp};

use super::{Feed, Role, State};
use crate::frames;
use crate::plane::{CloseReason, StreamId};
use crate::store::Visible;

/// Who reads a stream.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reader {
    /// The devices that exist for it.
    pub(crate) visible: Visible,
    /// What it came with; `None` on an open hub.
    pub(crate) token: Option<TokenUse>,
}

/// The part of a command that a watcher sees.
#[derive(Debug, Default)]
pub(crate) struct Part {
    pub(super) visible: Visible,
    /// The devices that it was shown; not filled for one who sees everything.
    devices: Mutex<HashSet<DeviceId>>,
}

impl Part {
    pub(super) fn of(visible: Visible) -> Self {
        Self { visible, devices: Mutex::default() }
    }

    /// A delivery of this device is in the snapshot.
    pub(super) fn show(&self, device: &DeviceId) {
        if !self.visible.is_all() {
            self.devices().insert(device.clone());
        }
    }

    /// Whether changes of this device are shown.
    pub(super) fn shows(&self, device: &DeviceId) -> bool {
        self.visible.is_all() || self.devices().contains(device)
    }

    fn devices(&self) -> std::sync::MutexGuard<'_, HashSet<DeviceId>> {
        // Nothing panics while it is held.
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Feed {
    /// Who may do what has changed, on disk: streams that rest on it end.
    pub(crate) fn access_changed(&self, change: &AccessChange) {
        let mut state = self.state();
        let ended = match change {
            AccessChange::Closed => state.read_by(|reader| reader.token.is_none()),
            AccessChange::Token(token) => {
                state.read_by(|reader| reader.token.is_some_and(|used| used.id == *token))
            }
            AccessChange::Device(device) => state.watchers_shown(device),
        };
        self.revoke(&mut state, ended);
    }

    /// Ends the streams whose token has expired. The number of those that will.
    pub(super) fn end_expired(&self, now: Timestamp) -> usize {
        let mut state = self.state();
        let expires = |reader: &Reader| reader.token.and_then(|used| used.expires_at);
        let ended = state.read_by(|reader| expires(reader).is_some_and(|at| at <= now));
        self.revoke(&mut state, ended);
        state.streams.values().filter(|(_, reader)| expires(reader).is_some()).count()
    }

    fn revoke(&self, state: &mut State, ended: Vec<(StreamId, Role)>) {
        for (stream, role) in ended {
            let bye =
                Bye { reason: ByeReason::Revoked, reconnect_s: super::spread_s(stream) / 2.0 };
            self.plane.close(stream, Some(frames::bye(&bye)), CloseReason::Revoked);
            // After it: the task of a watcher that finds its mailbox gone closes the stream too, with another reason.
            state.remove(stream, role);
        }
    }
}

impl State {
    /// The streams that are read so. At most [`WATCHERS_MAX`](bellwire_proto::limits::WATCHERS_MAX) are looked at.
    fn read_by(&self, so: impl Fn(&Reader) -> bool) -> Vec<(StreamId, Role)> {
        let read = self.streams.iter().filter(|(_, (_, reader))| so(reader));
        read.map(|(stream, (role, _))| (*stream, *role)).collect()
    }

    fn watchers_shown(&self, device: &DeviceId) -> Vec<(StreamId, Role)> {
        let mut shown = Vec::new();
        for (command, watchers) in &self.watchers {
            let scoped = watchers.iter().filter(|watcher| !watcher.part.visible.is_all());
            let of = scoped.filter(|watcher| watcher.part.shows(device));
            shown.extend(of.map(|watcher| (watcher.stream, Role::Watcher(*command))));
        }
        shown
    }
}
