//! Who reads a stream of the feed, and what it sees. Contract, section 6, "Tokens".
//!
//! An observer with a scope gets what concerns the devices that its selector matches when the event is sent on. A watcher
//! with a scope is shown the deliveries of devices that it saw when its snapshot was read; when anything changes of one of
//! these, its labels or its status, its stream ends, and it comes again to what it then sees.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bellwire_core::{AccessChange, TokenUse};
use bellwire_proto::stream::{Bye, ByeReason};
use bellwire_proto::{CommandId, DeviceId, Timestamp, TokenId};

use super::{Feed, Role, State};
use crate::frames;
use crate::plane::{CloseReason, StreamId};
use crate::store::Visible;

/// Devices that are counted as changed while one page is read, which takes milliseconds.
const CHANGED_MAX: usize = 1000;

/// Who reads a stream.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reader {
    /// The devices that exist for it.
    pub(crate) visible: Visible,
    /// What it came with; `None` on an open hub.
    pub(crate) token: Option<TokenUse>,
}

/// The devices of a command that a watcher may see.
#[derive(Debug, Default)]
pub(crate) struct WatchedScope {
    pub(super) visible: Visible,
    shown: Mutex<SentDevices>,
}

/// What a watcher with a scope was shown; not filled for one who sees everything.
#[derive(Debug, Default)]
struct SentDevices {
    devices: HashSet<DeviceId>,
    /// Whether a page of a snapshot is being read, and the devices that changed since that began: the page may show them
    /// as they were before.
    reading: bool,
    changed: HashSet<DeviceId>,
    /// More changed than are counted: whatever the page shows may be out of date.
    all_changed: bool,
}

/// A device on a page changed while the page was read: whether it is still visible is not known.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct OutOfDate;

impl WatchedScope {
    /// The first page of its snapshot is read from here on.
    pub(super) fn of(visible: Visible) -> Self {
        Self { visible, shown: Mutex::new(SentDevices { reading: true, ..SentDevices::default() }) }
    }

    /// A page of its snapshot is about to be read.
    pub(super) fn begin_page(&self) {
        if !self.visible.is_all() {
            let mut shown = self.shown();
            (shown.reading, shown.all_changed) = (true, false);
            shown.changed.clear();
        }
    }

    /// Deliveries of these devices are on the page that was read.
    pub(super) fn show<'a>(
        &self,
        mut devices: impl Iterator<Item = &'a DeviceId> + Clone,
    ) -> Result<(), OutOfDate> {
        if self.visible.is_all() {
            return Ok(());
        }
        let mut shown = self.shown();
        shown.reading = false;
        let changed = std::mem::take(&mut shown.changed);
        let page = devices.clone();
        if devices.any(|device| shown.all_changed || changed.contains(device)) {
            return Err(OutOfDate);
        }
        shown.devices.extend(page.cloned());
        Ok(())
    }

    /// Whether changes of this device are shown.
    pub(super) fn shows(&self, device: &DeviceId) -> bool {
        self.visible.is_all() || self.shown().devices.contains(device)
    }

    /// Whether fewer than so many devices were shown.
    pub(super) fn lacks_some_of(&self, total: u64) -> bool {
        let enough = |shown: usize| u64::try_from(shown).is_ok_and(|shown| shown >= total);
        !self.visible.is_all() && !enough(self.shown().devices.len())
    }

    /// The labels or the status of this device changed; whether that ends the stream.
    fn device_changed(&self, device: &DeviceId) -> bool {
        if self.visible.is_all() {
            return false;
        }
        let mut shown = self.shown();
        if shown.reading {
            shown.all_changed |= shown.changed.len() >= CHANGED_MAX;
            if !shown.all_changed {
                shown.changed.insert(device.clone());
            }
        }
        shown.devices.contains(device)
    }

    fn shown(&self) -> MutexGuard<'_, SentDevices> {
        // Nothing panics while it is held.
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// What a watcher was shown is out of date: its stream ends, and its reader comes again to what it then sees.
    pub(super) fn end_watcher(&self, stream: StreamId, command: CommandId) {
        self.revoke(&mut self.state(), vec![(stream, Role::Watcher(command))]);
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

impl Feed {
    /// How many streams are read with a token.
    pub(crate) fn read_with(&self, token: TokenId) -> usize {
        let with =
            |(_, reader): &&(Role, Reader)| reader.token.is_some_and(|used| used.id == token);
        self.state().streams.values().filter(with).count()
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
            let of = watchers.iter().filter(|watcher| watcher.scope.device_changed(device));
            shown.extend(of.map(|watcher| (watcher.stream, Role::Watcher(*command))));
        }
        shown
    }
}
