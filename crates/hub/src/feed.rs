//! Observers and watchers: `GET /v1/events` and `GET /v1/commands/{id}/events`.
//!
//! The driver reports each change that is on disk to a bounded queue; one task takes the changes
//! from there in their order, encodes each once and sends it to everyone who is to get it.
//! **Observers** get every delivery and device. **Watchers** of one command get a snapshot first,
//! then each change that is newer than it, then `done`, then the end.
//!
//! The core never waits for the feed. When the queue is full, the observers of that moment have missed
//! a change: each gets `bye` `overloaded`, and the end. Watchers of the command that changed read its
//! deliveries again, all others have missed nothing. No client silently lacks a change.
//!
//! The streams themselves are the plane's: heartbeats, slow readers, and their end.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bellwire_core::{HubEvent, Presence};
use bellwire_proto::limits::{FEED_BYTES_MAX, FEED_EVENTS_MAX};
use bellwire_proto::stream::{Bye, ByeReason};
use bellwire_proto::{Code, CommandId, Delivery, DeviceChange, DeviceEvent, DeviceId, Problem};
use tokio::sync::{Notify as Wake, mpsc};

use crate::clock::Clock;
use crate::frames;
use crate::internal;
use crate::plane::{CloseReason, Frame, Plane, Receipt, StreamEvent, StreamId};
use crate::store::{Store, StoredDevice, Visible};
use progress::{Memory, Progress};

mod follow;
mod progress;
mod readers;
mod subscribers;

pub(crate) use readers::Reader;
use readers::WatchedScope;
pub(crate) use subscribers::Mailbox;
use subscribers::{EventOwner, MailboxSignals, Role, State, Watcher};

/// Events that are sent on together: what they need of the store is read at once, so that a fleet that
/// comes into being, or comes back, costs a read for so many devices and not one for each. A device may have
/// 16 KiB of facts: these are 4 MiB.
const BATCH_EVENTS_MAX: usize = 256;
/// Changes of one command that wait for a snapshot to be read, by the store or by the client.
const MAILBOX_CHANGES_MAX: usize = 512;
/// How late a stream may end after its token has expired.
const EXPIRED_WITHIN: Duration = Duration::from_secs(1);

/// All observers and watchers, and the queue to them.
pub(crate) struct Feed {
    store: Arc<dyn Store>,
    plane: Plane,
    queue: mpsc::Sender<FeedEvent>,
    queued_bytes: AtomicUsize,
    /// The task has panicked: nothing is sent on any more.
    failed: AtomicBool,
    /// What watchers may hold.
    memory: Arc<Memory>,
    /// Wakes the task when a stream is opened with a token that expires.
    expiring: Arc<Wake>,
    state: Mutex<State>,
    /// Has the task panic at the next event.
    #[cfg(test)]
    panics: AtomicBool,
}

/// What happened, with what the store no longer has when it is sent on.
pub(crate) struct FeedEvent {
    pub(crate) event: HubEvent,
    /// Of a device that was removed: its row as it was.
    pub(crate) removed: Option<Box<StoredDevice>>,
}

/// A delivery that changed, encoded.
#[derive(Debug, Clone)]
struct DeliveryChange {
    device: DeviceId,
    version: u64,
    ended: bool,
    frame: Frame,
}

impl Feed {
    /// A feed without observers and watchers, and its task, which ends with it.
    pub(crate) fn start(store: Arc<dyn Store>, plane: Plane, clock: Clock) -> Arc<Self> {
        let (queue, events) = mpsc::channel(FEED_EVENTS_MAX);
        let feed = Arc::new(Self {
            store,
            plane,
            queue,
            queued_bytes: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
            memory: Arc::default(),
            expiring: Arc::default(),
            state: Mutex::new(State::default()),
            #[cfg(test)]
            panics: AtomicBool::new(false),
        });
        let running = Arc::downgrade(&feed);
        let task = run(running.clone(), events, clock);
        let panicked = move || running.upgrade().into_iter().for_each(|feed| feed.fail());
        tokio::spawn(internal::guard(task, panicked));
        feed
    }

    // --- Called by the runtime: these only queue ---

    /// Something happened.
    pub(crate) fn report(&self, event: FeedEvent) {
        let bytes = event.weight();
        let queued = self.queued_bytes.fetch_add(bytes, Ordering::AcqRel);
        let refused = if queued + bytes <= FEED_BYTES_MAX {
            self.queue.try_send(event).err().map(mpsc::error::TrySendError::into_inner)
        } else {
            Some(event)
        };
        let Some(refused) = refused else { return };
        self.queued_bytes.fetch_sub(bytes, Ordering::AcqRel);
        self.missed(&refused.event);
    }

    /// An event is not sent: those who would have got it are notified, and no one else.
    fn missed(&self, event: &HubEvent) {
        let mut state = self.state();
        if state.is_observed() {
            tracing::warn!("observers are cut off: changes come faster than they can be sent");
            self.cut_off_observers(&mut state);
        }
        let Some(command) = event.command() else { return };
        for watcher in state.watchers.get(&command).into_iter().flatten() {
            watcher.signals.miss();
        }
    }

    /// Whether its task has panicked. Only a restart of the process repairs that.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Whether there are observers.
    pub(crate) fn is_observed(&self) -> bool {
        self.state().is_observed()
    }

    /// Has the task panic.
    #[cfg(test)]
    pub(crate) fn panic_at_the_next_event(&self) {
        self.panics.store(true, Ordering::Release);
    }

    // --- New streams ---

    /// Makes a stream an observer's. It gets the state of the hub at once, and then all that the
    /// core reports.
    pub(crate) fn observe(&self, stream: StreamId, reader: Reader) -> Result<(), Problem> {
        let mut state = self.state();
        let visible = reader.visible.clone();
        self.admit(&mut state, stream, Role::Observer, reader)?;
        if visible.is_all() {
            state.observers.push(stream);
        } else {
            state.scoped.push((stream, visible));
        }
        // Under the lock, so that no event is sent before it.
        self.plane.send(stream, frames::hub(false), Receipt::None);
        Ok(())
    }

    /// Makes a stream a watcher's of a command. The mailbox is for [`Feed::follow`].
    pub(crate) fn watch(
        &self,
        stream: StreamId,
        command: CommandId,
        reader: Reader,
    ) -> Result<Mailbox, Problem> {
        let mut state = self.state();
        let scope = Arc::new(WatchedScope::of(reader.visible.clone()));
        self.admit(&mut state, stream, Role::Watcher(command), reader)?;
        let (sender, changes) = mpsc::channel(MAILBOX_CHANGES_MAX);
        let signals = Arc::new(MailboxSignals::default());
        state.watchers.entry(command).or_default().push(Watcher {
            stream,
            changes: sender,
            signals: signals.clone(),
            scope: scope.clone(),
        });
        Ok(Mailbox { plane: self.plane.clone(), stream, changes, signals, scope })
    }

    /// What a watcher of a command with so many deliveries needs to know which of them it was sent.
    pub(crate) fn progress(
        &self,
        command: CommandId,
        total: u64,
        visible: &Visible,
    ) -> Result<Progress, Problem> {
        if !visible.is_all() {
            // It has slots for its part of the deliveries alone, so it numbers those itself.
            return self.memory.progress(Arc::new(self.memory.names(total)?), total);
        }
        let mut state = self.state();
        let shared = state.names.get(&command).and_then(Weak::upgrade);
        let names = match shared {
            Some(names) => names,
            None => Arc::new(self.memory.names(total)?),
        };
        // Without a watcher nothing would remove it again.
        if state.watchers.contains_key(&command) {
            state.names.insert(command, Arc::downgrade(&names));
        }
        self.memory.progress(names, total)
    }

    fn admit(
        &self,
        state: &mut State,
        stream: StreamId,
        role: Role,
        reader: Reader,
    ) -> Result<(), Problem> {
        if reader.token.is_some_and(|used| used.expires_at.is_some()) {
            self.expiring.notify_one();
        }
        if self.has_failed() {
            return Err(Problem::new(Code::Internal, "the hub has failed; see its log"));
        }
        state.admit(stream, role, reader)
    }

    // --- What happens to their streams ---

    /// Takes what is about the feed's own streams out of `batch`. True when there are fewer
    /// observers than before.
    pub(crate) fn take_own(&self, batch: &mut Vec<StreamEvent>) -> bool {
        let mut state = self.state();
        if state.streams.is_empty() {
            return false;
        }
        let mut fewer = false;
        batch.retain(|event| match state.stream_event(*event) {
            EventOwner::Not => true,
            EventOwner::Yes => false,
            EventOwner::ObserverClosed => {
                fewer = true;
                false
            }
        });
        fewer
    }

    /// The hub is about to stop: observers are notified, and all streams end.
    pub(crate) fn drain(&self) {
        let mut state = self.state();
        state.draining = true;
        let last = frames::hub(true);
        for observer in state.take_observers() {
            self.plane.close(observer, Some(last.clone()), CloseReason::Draining);
        }
        for watcher in state.watchers.drain().flat_map(|(_, watchers)| watchers) {
            let bye = Bye { reason: ByeReason::Draining, reconnect_s: spread_s(watcher.stream) };
            self.plane.close(watcher.stream, Some(frames::bye(&bye)), CloseReason::Draining);
        }
    }

    // --- The feed's task ---

    /// Sends events on, in their order.
    async fn send_on(&self, events: &mut Vec<FeedEvent>) {
        #[cfg(test)]
        assert!(!self.panics.load(Ordering::Acquire), "on purpose");
        // One who connects from here on has missed nothing that it could have seen.
        let scoped = !self.state().scoped.is_empty();
        let mut rows = self.rows(events, scoped).await.into_iter();
        for event in events.drain(..) {
            let weight = event.weight();
            let is_read = event.device_to_read(scoped).is_some();
            let row = if is_read { rows.next().flatten() } else { event.removed.map(|row| *row) };
            match event.event {
                HubEvent::Delivery { delivery, version } => {
                    self.changed(&delivery, version, row.as_ref());
                }
                HubEvent::Device { change, presence, .. } => self.device(row, change, presence),
            }
            self.queued_bytes.fetch_sub(weight, Ordering::AcqRel);
        }
    }

    /// The rows of the devices that these events are about, in their order, as far as the events do not
    /// bring them. Nothing is read while there are no observers.
    async fn rows(&self, events: &[FeedEvent], scoped: bool) -> Vec<Option<StoredDevice>> {
        let to_read = events.iter().filter_map(|event| event.device_to_read(scoped));
        let devices: Vec<_> = to_read.cloned().collect();
        if devices.is_empty() || !self.is_observed() {
            return Vec::new();
        }
        match self.store.devices_named(devices).await {
            Ok(rows) => rows,
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "observers are cut off: devices could not be read"
                );
                self.cut_off_observers(&mut self.state());
                Vec::new()
            }
        }
    }

    /// Sends a delivery on; `device` is the row of its device, for those who see a part of the fleet.
    fn changed(&self, delivery: &Delivery, version: u64, device: Option<&StoredDevice>) {
        let frame = frames::delivery(delivery);
        let change = DeliveryChange {
            device: delivery.device.clone(),
            version,
            ended: delivery.state.is_terminal(),
            frame: frame.clone(),
        };
        let mut state = self.state();
        if !state.observers.is_empty() {
            self.plane.send_many(&state.observers, &frame);
        }
        let scoped = device.map(|row| state.scoped_who_see(&row.record.labels));
        self.plane.send_many(&scoped.unwrap_or_default(), &frame);
        let Some(watchers) = state.watchers.get_mut(&delivery.command) else {
            return;
        };
        watchers.retain(|watcher| {
            match watcher.changes.try_send(change.clone()) {
                Ok(()) => true,
                // It reads the deliveries again once it has sent those that wait.
                Err(mpsc::error::TrySendError::Full(_)) => {
                    watcher.signals.miss();
                    true
                }
                Err(mpsc::error::TrySendError::Closed(_)) => false,
            }
        });
    }

    /// Reports a device to observers.
    fn device(&self, row: Option<StoredDevice>, change: DeviceChange, presence: Presence) {
        let mut state = self.state();
        if !state.is_observed() {
            return;
        }
        let Some(row) = row else {
            // One that has been removed meanwhile is not reported: its removal comes next. But that
            // must be: its row is missing when it was created while the request that removed it looked for it.
            if change == DeviceChange::Removed {
                tracing::warn!("observers are cut off: a device was removed before it was read");
                self.cut_off_observers(&mut state);
            }
            return;
        };
        let scoped = state.scoped_who_see(&row.record.labels);
        let device = row.into_device(presence);
        let frame = frames::device(&DeviceEvent { device, change });
        self.plane.send_many(&state.observers, &frame);
        self.plane.send_many(&scoped, &frame);
    }

    /// Ends the streams of all observers: they have missed something. The core goes on reporting until the
    /// plane reports the streams closed.
    fn cut_off_observers(&self, state: &mut State) {
        let last = frames::overloaded();
        for observer in state.take_observers() {
            self.plane.close(observer, Some(last.clone()), CloseReason::Overloaded);
        }
    }

    /// The task panicked. (The panic hook has printed where.)
    fn fail(&self) {
        tracing::error!("the feed of observers and watchers failed: restart the hub");
        let mut state = self.state();
        // Under the lock, so that no stream is admitted after it.
        self.failed.store(true, Ordering::Release);
        self.cut_off_observers(&mut state);
        for watcher in state.watchers.drain().flat_map(|(_, watchers)| watchers) {
            let last = Some(frames::overloaded());
            self.plane.close(watcher.stream, last, CloseReason::Overloaded);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held, and its lists are whole at any moment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FeedEvent {
    /// The device whose row is to be read for this event; `scoped`: for those who see a part of the fleet too.
    fn device_to_read(&self, scoped: bool) -> Option<&DeviceId> {
        match &self.event {
            HubEvent::Device { device, change, .. }
                if self.removed.is_none() && *change != DeviceChange::Removed =>
            {
                Some(device)
            }
            HubEvent::Delivery { delivery, .. } if scoped => Some(&delivery.device),
            HubEvent::Device { .. } | HubEvent::Delivery { .. } => None,
        }
    }

    /// About what it holds in memory, in bytes.
    fn weight(&self) -> usize {
        let row = self.removed.as_ref().map_or(0, |row| row.weight());
        let HubEvent::Delivery { delivery, .. } = &self.event else {
            return size_of::<Self>() + row;
        };
        size_of::<Delivery>() + delivery.outcome.text_bytes()
    }
}

/// When the reader of a stream reconnects to a hub that restarts, in seconds: from 1 to 10 (contract,
/// section 4), so that not all of them come at once.
fn spread_s(stream: StreamId) -> f64 {
    let random = RandomState::new().hash_one(stream) % 9001;
    1.0 + random as f64 / 1000.0
}

/// The feed's task: one event after the other, in their order.
async fn run(feed: Weak<Feed>, mut events: mpsc::Receiver<FeedEvent>, clock: Clock) {
    let mut batch = Vec::with_capacity(BATCH_EVENTS_MAX);
    loop {
        let Some(expiring) = feed.upgrade().map(|feed| feed.end_expired(clock.expiry())) else {
            return;
        };
        tokio::select! {
            biased;
            received = events.recv_many(&mut batch, BATCH_EVENTS_MAX) => {
                let Some(feed) = feed.upgrade().filter(|_| received > 0) else { return };
                feed.send_on(&mut batch).await;
            }
            () = woken(&feed, expiring) => {}
        }
    }
}

/// Waits until streams may have expired, or one is opened that will. The feed is not held meanwhile: it ends with its last
/// handle, and the queue with it.
async fn woken(feed: &Weak<Feed>, expiring: usize) {
    if expiring > 0 {
        return tokio::time::sleep(EXPIRED_WITHIN).await;
    }
    let Some(opened) = feed.upgrade().map(|feed| feed.expiring.clone()) else { return };
    opened.notified().await;
}

#[cfg(test)]
mod tests;
