//! Observers and watchers: `GET /v1/events` and `GET /v1/commands/{id}/events`.
//!
//! The driver reports each change that is on disk to a bounded queue; one task takes the changes
//! from there in their order, encodes each once and sends it to everyone who is to get it.
//! **Observers** get every delivery and device. **Watchers** of one command get a snapshot first,
//! then each change that is newer than it, then `done`, then the end.
//!
//! The core never waits for the feed. When the queue is full, all of these streams are closed:
//! observers reconnect and continue from there, watchers reconnect and get a new snapshot. No
//! client holds a snapshot that silently lacks a change.
//!
//! The streams themselves are the plane's: heartbeats, slow readers, and their end.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bellwire_core::{HubEvent, Presence};
use bellwire_proto::limits::PACED_BYTES;
use bellwire_proto::{Code, CommandId, Delivery, DeviceChange, DeviceEvent, DeviceId, Problem};
use tokio::sync::{Notify as Wake, mpsc};

use crate::frames;
use crate::plane::{CloseReason, Frame, Framing, Plane, Receipt, StreamEvent, StreamId};
use crate::store::{Snapshot, Store, StoredDevice};

/// Events that wait for the feed's task. A hub does some ten thousand changes a second at most: this is most
/// of a second of them, and the task needs some microseconds for each.
const QUEUE_EVENTS_MAX: usize = 32_768;
/// Bytes of output and results in the events that wait.
const QUEUE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Changes of one command that wait for a snapshot to be read, by the store or by the client.
const MAILBOX_CHANGES_MAX: usize = 512;
/// Streams of observers and watchers. Every change is sent to every observer.
const WATCHERS_MAX: usize = 1000;

/// All observers and watchers, and the queue to them.
pub(crate) struct Feed {
    store: Arc<dyn Store>,
    plane: Plane,
    queue: mpsc::Sender<FeedEvent>,
    queued_bytes: AtomicUsize,
    /// The queue was full: those who are connected now have missed something.
    overflowed: AtomicBool,
    state: Mutex<State>,
}

/// What happened, with what the store no longer has when it is sent on.
pub(crate) struct FeedEvent {
    pub(crate) event: HubEvent,
    /// Of a device that was removed: its row as it was.
    pub(crate) removed: Option<Box<StoredDevice>>,
}

#[derive(Default)]
struct State {
    observers: Vec<StreamId>,
    watchers: HashMap<CommandId, Vec<Watcher>>,
    /// What each stream of the feed is for.
    streams: HashMap<StreamId, Role>,
    draining: bool,
}

#[derive(Debug, Clone, Copy)]
enum Role {
    Observer,
    Watcher(CommandId),
}

/// The feed's end of a [`Mailbox`].
struct Watcher {
    stream: StreamId,
    changes: mpsc::Sender<DeliveryChange>,
    written: Arc<Written>,
}

/// The changes for one watcher, until its stream is closed.
pub(crate) struct Mailbox {
    stream: StreamId,
    changes: mpsc::Receiver<DeliveryChange>,
    written: Arc<Written>,
}

/// Whether the frame that was sent with [`Receipt::Written`] is written, or never will be.
#[derive(Default)]
struct Written {
    settled: Wake,
    closed: AtomicBool,
    /// The mailbox was full: changes are missing in it.
    missed: AtomicBool,
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
    pub(crate) fn start(store: Arc<dyn Store>, plane: Plane) -> Arc<Self> {
        let (queue, events) = mpsc::channel(QUEUE_EVENTS_MAX);
        let feed = Arc::new(Self {
            store,
            plane,
            queue,
            queued_bytes: AtomicUsize::new(0),
            overflowed: AtomicBool::new(false),
            state: Mutex::new(State::default()),
        });
        tokio::spawn(run(Arc::downgrade(&feed), events));
        feed
    }

    // --- Called by the runtime: these only queue ---

    /// Something happened.
    pub(crate) fn report(&self, event: FeedEvent) {
        let bytes = event.weight();
        let queued = self.queued_bytes.fetch_add(bytes, Ordering::AcqRel);
        if queued + bytes <= QUEUE_BYTES_MAX && self.queue.try_send(event).is_ok() {
            return;
        }
        self.queued_bytes.fetch_sub(bytes, Ordering::AcqRel);
        self.overflowed.store(true, Ordering::Release);
    }

    /// Whether there are observers.
    pub(crate) fn is_observed(&self) -> bool {
        !self.state().observers.is_empty()
    }

    // --- New streams ---

    /// Makes a stream an observer's. It gets the state of the hub at once, and then all that the
    /// core reports.
    pub(crate) fn observe(&self, stream: StreamId) -> Result<(), Problem> {
        let mut state = self.state();
        state.admit(stream, Role::Observer)?;
        state.observers.push(stream);
        // Under the lock, so that no event is sent before it.
        self.plane.send(stream, frames::hub(false), Receipt::None);
        Ok(())
    }

    /// Makes a stream a watcher's of a command. The mailbox is for [`Feed::follow`].
    pub(crate) fn watch(&self, stream: StreamId, command: CommandId) -> Result<Mailbox, Problem> {
        let mut state = self.state();
        state.admit(stream, Role::Watcher(command))?;
        let (sender, changes) = mpsc::channel(MAILBOX_CHANGES_MAX);
        let written = Arc::new(Written::default());
        state.watchers.entry(command).or_default().push(Watcher {
            stream,
            changes: sender,
            written: written.clone(),
        });
        Ok(Mailbox { stream, changes, written })
    }

    // --- What happens to their streams ---

    /// Takes what is about the feed's own streams out of `batch`. True when there are fewer
    /// observers than before.
    pub(crate) fn take_own(&self, batch: &mut Vec<StreamEvent>) -> bool {
        let mut state = self.state();
        if state.streams.is_empty() {
            return false;
        }
        let observers = state.observers.len();
        batch.retain(|event| !state.stream_event(*event));
        state.observers.len() < observers
    }

    /// The hub is about to stop: observers are notified, and all streams end.
    pub(crate) fn drain(&self) {
        self.state().draining = true;
        self.end_all(Some(&frames::hub(true)), CloseReason::Draining);
    }

    // --- The feed's task ---

    async fn send_on(&self, event: FeedEvent) {
        self.queued_bytes.fetch_sub(event.weight(), Ordering::AcqRel);
        let FeedEvent { event, removed } = event;
        match event {
            HubEvent::Delivery { delivery, version } => self.changed(&delivery, version),
            HubEvent::Device { device, change, presence } => {
                self.device(device, change, presence, removed).await
            }
        }
    }

    fn changed(&self, delivery: &Delivery, version: u64) {
        let frame = frames::delivery(delivery);
        let change = DeliveryChange {
            device: delivery.device.clone(),
            version,
            ended: delivery.state.is_terminal(),
            frame: frame.clone(),
        };
        let mut state = self.state();
        self.plane.send_many(&state.observers, &frame);
        let Some(watchers) = state.watchers.get_mut(&delivery.command) else {
            return;
        };
        watchers.retain(|watcher| {
            match watcher.changes.try_send(change.clone()) {
                Ok(()) => true,
                // It reads the deliveries again once it has sent those that wait.
                Err(mpsc::error::TrySendError::Full(_)) => {
                    watcher.written.missed.store(true, Ordering::Release);
                    true
                }
                Err(mpsc::error::TrySendError::Closed(_)) => false,
            }
        });
    }

    /// Reports a device to observers. Devices are read one by one, so that they are reported in the
    /// order in which things happened.
    async fn device(
        &self,
        device: DeviceId,
        change: DeviceChange,
        presence: Presence,
        removed: Option<Box<StoredDevice>>,
    ) {
        if !self.is_observed() {
            return;
        }
        let row = match removed {
            Some(row) => *row,
            None if change == DeviceChange::Removed => {
                // It was created while the request that removed it looked for its row.
                tracing::warn!("observers are cut off: a device was removed before it was read");
                return self.end_all(None, CloseReason::Overloaded);
            }
            None => match self.store.device(device).await {
                Ok(Some(row)) => row,
                // It has been removed meanwhile, and that is reported next.
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(%error, "observers are cut off: a device could not be read");
                    return self.end_all(None, CloseReason::Overloaded);
                }
            },
        };
        let device = row.into_device(presence);
        let frame = frames::device(&DeviceEvent { device, change });
        self.plane.send_many(&self.state().observers, &frame);
    }

    /// Ends every stream of the feed; `last` is for observers.
    fn end_all(&self, last: Option<&Frame>, reason: CloseReason) {
        let mut state = self.state();
        // The observers stay in the list until the plane reports them closed, so that the core is
        // notified then.
        for observer in &state.observers {
            self.plane.close(*observer, last.cloned(), reason);
        }
        for watcher in state.watchers.drain().flat_map(|(_, watchers)| watchers) {
            self.plane.close(watcher.stream, None, reason);
        }
    }

    // --- The task of one watcher ---

    /// Sends a watcher the deliveries of its command, every change that is newer, `done`, the end;
    /// all at the pace of its reader. Returns when the stream has ended.
    pub(crate) async fn follow(&self, mut mailbox: Mailbox, first: Snapshot) {
        let command = first.command.clone();
        let mut progress = Progress::default();
        let mut first = Some(first);
        // Again when so much changed meanwhile that the mailbox overflowed.
        loop {
            mailbox.written.missed.store(false, Ordering::Release);
            if !self.send_snapshot(&mailbox, &mut progress, command.id, first.take()).await {
                return;
            }
            match self.send_changes(&mut mailbox, &mut progress, command.total).await {
                Some(true) => break,
                Some(false) => {}
                None => return,
            }
        }
        // Its present state, and never before its last change.
        match self.store.command(command.id).await {
            Ok(now) => {
                let last = frames::done(&now.unwrap_or(command));
                // Waited for, since a slow reader may take longer than a closed stream lingers.
                self.send_and_wait(&mailbox, last).await;
            }
            Err(error) => tracing::warn!(%error, "a command's events end without its last one"),
        }
        self.plane.close(mailbox.stream, None, CloseReason::Ended);
    }

    /// Sends what is newer than what was sent, page by page. False when the stream has ended.
    async fn send_snapshot(
        &self,
        mailbox: &Mailbox,
        progress: &mut Progress,
        command: CommandId,
        mut page: Option<Snapshot>,
    ) -> bool {
        let mut after = None;
        loop {
            let snapshot = match page.take() {
                Some(snapshot) => Ok(Some(snapshot)),
                None => self.store.snapshot(command, after.take()).await,
            };
            let Ok(Some(snapshot)) = snapshot else {
                tracing::warn!(%command, "a command's events end: its deliveries cannot be read");
                self.plane.close(mailbox.stream, None, CloseReason::Overloaded);
                return false;
            };
            for (delivery, version) in snapshot.deliveries {
                let ended = delivery.state.is_terminal();
                after = Some(delivery.device.clone());
                if progress.take(&delivery.device, version, ended) {
                    let frame = frames::delivery(&delivery);
                    if !self.send_paced(mailbox, progress, frame).await {
                        return false;
                    }
                }
            }
            if !snapshot.more {
                return true;
            }
        }
    }

    /// Sends changes as they come: true when all deliveries have ended, false when some are missing,
    /// `None` when the stream has ended.
    async fn send_changes(
        &self,
        mailbox: &mut Mailbox,
        progress: &mut Progress,
        total: u64,
    ) -> Option<bool> {
        while progress.ended < total {
            let change = match mailbox.changes.try_recv() {
                Ok(change) => change,
                Err(mpsc::error::TryRecvError::Empty) => {
                    if mailbox.written.missed.load(Ordering::Acquire) {
                        return Some(false);
                    }
                    mailbox.changes.recv().await?
                }
                Err(mpsc::error::TryRecvError::Disconnected) => return None,
            };
            if progress.take(&change.device, change.version, change.ended)
                && !self.send_paced(mailbox, progress, change.frame).await
            {
                return None;
            }
        }
        Some(true)
    }

    /// Sends a frame, and waits for the reader once so much is under way. False when the stream has
    /// ended.
    async fn send_paced(&self, mailbox: &Mailbox, progress: &mut Progress, frame: Frame) -> bool {
        progress.unpaced_bytes += frame.len(Framing::Chunked);
        if progress.unpaced_bytes < PACED_BYTES {
            self.plane.send(mailbox.stream, frame, Receipt::None);
            return true;
        }
        progress.unpaced_bytes = 0;
        self.send_and_wait(mailbox, frame).await
    }

    /// False when the stream is closed.
    async fn send_and_wait(&self, mailbox: &Mailbox, frame: Frame) -> bool {
        self.plane.send(mailbox.stream, frame, Receipt::Written(0));
        mailbox.written.settled.notified().await;
        !mailbox.written.closed.load(Ordering::Acquire)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held, and its lists are whole at any moment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FeedEvent {
    /// About what it holds in memory, in bytes.
    fn weight(&self) -> usize {
        let row = self.removed.as_ref().map_or(0, |row| row.weight());
        let HubEvent::Delivery { delivery, .. } = &self.event else {
            return size_of::<Self>() + row;
        };
        size_of::<Delivery>() + delivery.outcome.text_bytes()
    }
}

/// What a watcher has been sent.
#[derive(Default)]
struct Progress {
    /// By device: the version, and whether the delivery had ended.
    known: HashMap<DeviceId, (u64, bool)>,
    ended: u64,
    /// Bytes sent since its reader was last waited for.
    unpaced_bytes: usize,
}

impl Progress {
    /// Notes a delivery; false when it is not newer than what was sent.
    fn take(&mut self, device: &DeviceId, version: u64, ended: bool) -> bool {
        let newer = match self.known.get(device) {
            Some((known, _)) if version <= *known => false,
            Some((_, before)) => {
                self.ended = self.ended + u64::from(ended) - u64::from(*before);
                true
            }
            None => {
                self.ended += u64::from(ended);
                true
            }
        };
        if newer {
            self.known.insert(device.clone(), (version, ended));
        }
        newer
    }
}

impl State {
    fn admit(&mut self, stream: StreamId, role: Role) -> Result<(), Problem> {
        if self.draining {
            return Err(Problem::new(
                Code::Draining,
                "the hub is about to stop; connect again in a few seconds",
            ));
        }
        if self.streams.len() >= WATCHERS_MAX {
            return Err(Problem::new(
                Code::RateLimited,
                "the hub has as many watchers as it allows; try again later",
            ));
        }
        self.streams.insert(stream, role);
        Ok(())
    }

    /// Whether this is about a stream of the feed.
    fn stream_event(&mut self, event: StreamEvent) -> bool {
        let (StreamEvent::Buffered { stream, .. }
        | StreamEvent::Written { stream, .. }
        | StreamEvent::Closed { stream, .. }
        | StreamEvent::Stalled { stream }
        | StreamEvent::Resumed { stream }) = event;
        let Some(role) = self.streams.get(&stream).copied() else {
            return false;
        };
        match event {
            StreamEvent::Closed { .. } => {
                self.streams.remove(&stream);
                self.remove(stream, role);
            }
            StreamEvent::Written { .. } => {
                if let Role::Watcher(command) = role {
                    let mut watchers = self.watchers.get(&command).into_iter().flatten();
                    if let Some(watcher) = watchers.find(|watcher| watcher.stream == stream) {
                        watcher.written.settled.notify_one();
                    }
                }
            }
            _ => {}
        }
        true
    }

    fn remove(&mut self, stream: StreamId, role: Role) {
        match role {
            Role::Observer => self.observers.retain(|observer| *observer != stream),
            Role::Watcher(command) => {
                let Some(watchers) = self.watchers.get_mut(&command) else {
                    return;
                };
                watchers.retain(|watcher| watcher.stream != stream);
                if watchers.is_empty() {
                    self.watchers.remove(&command);
                }
            }
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.written.closed.store(true, Ordering::Release);
        self.written.settled.notify_one();
    }
}

/// The feed's task: one event after the other, in their order.
async fn run(feed: Weak<Feed>, mut events: mpsc::Receiver<FeedEvent>) {
    while let Some(event) = events.recv().await {
        let Some(feed) = feed.upgrade() else { return };
        feed.send_on(event).await;
        if feed.overflowed.swap(false, Ordering::AcqRel) {
            tracing::warn!(
                "observers and watchers are cut off: changes come faster than they can be sent"
            );
            feed.end_all(None, CloseReason::Overloaded);
        }
    }
}

#[cfg(test)]
mod tests;
