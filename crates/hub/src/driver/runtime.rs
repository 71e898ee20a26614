//! Turns: who speaks to the core, one at a time, and what the core then wants done.
//!
//! A turn locks the core, tells it one thing, carries out every output, and lets go. Nothing under
//! the lock waits: the store and the plane only queue, a reply is a oneshot, the feed is a bounded
//! queue. The store's thread and the plane's shards take their turns on their own threads; neither
//! may call back from within a call that is made to it. Locks are taken in the order core, feed,
//! plane.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};

use bellwire_core::record::{Committed, Loaded};
use bellwire_core::{Answer, Hub, Output, RequestId, SessionId, Wanted};
use bellwire_proto::stream::ByeReason;
use bellwire_proto::{CommandId, Problem, Seq, Timestamp};
use tokio::sync::{Notify as Wake, oneshot};

use super::Clock;
use crate::config::Config;
use crate::feed::Feed;
use crate::frames;
use crate::plane::{CloseReason, Notify, Plane, PlaneConfig, StreamEvent, StreamEvents, StreamId};
use crate::store::{Store, StoreError, StoreEvents};

/// What every handle of a hub shares.
pub(super) struct Runtime {
    core: Mutex<Core>,
    pub(super) config: Arc<Config>,
    pub(super) store: Arc<dyn Store>,
    pub(super) plane: Plane,
    pub(super) feed: Arc<Feed>,
    pub(super) clock: Clock,
    events: Arc<Events>,
    /// Wakes the timer when the core wants to be called earlier than it had said.
    rearm: Arc<Wake>,
    draining: AtomicBool,
    /// Tells the streams of this start of the hub from those of another.
    epoch: u32,
}

/// The core, and what is known about it here. What is behind the lock.
pub(super) struct Core {
    pub(super) hub: Hub,
    /// Who waits for a reply.
    waiting: HashMap<RequestId, oneshot::Sender<Answer>>,
    last_request: u64,
    /// For when the timer is set.
    armed: Option<Timestamp>,
}

/// A request that waits for its reply. Dropped before that, it tells the core that nobody waits.
pub(super) struct Waiting<'a> {
    shared: &'a Runtime,
    request: Option<RequestId>,
}

/// The wish to hear of a command's changes; it ends when this is dropped.
pub(super) struct Watching {
    shared: Arc<Runtime>,
    command: CommandId,
}

/// The ear of the hub for its store and its plane, which must not keep it alive.
struct Events(OnceLock<Weak<Runtime>>);

impl Runtime {
    pub(super) fn start(
        hub: Hub,
        config: Arc<Config>,
        store: Arc<dyn Store>,
        plane: PlaneConfig,
        clock: Clock,
        seed: u64,
    ) -> io::Result<Arc<Self>> {
        let events = Arc::new(Events(OnceLock::new()));
        let plane = Plane::start(plane, events.clone())?;
        let feed = Feed::start(store.clone(), plane.clone());
        let shared = Arc::new(Self {
            core: Mutex::new(Core { hub, waiting: HashMap::new(), last_request: 0, armed: None }),
            config,
            store,
            plane,
            feed,
            clock,
            events,
            rearm: Arc::new(Wake::new()),
            draining: AtomicBool::new(false),
            // Another number than the last start's is all that is asked of it.
            epoch: (seed >> 32) as u32,
        });
        // It is set here once, and nothing has happened before.
        let _ = shared.events.0.set(Arc::downgrade(&shared));
        tokio::spawn(keep_time(Arc::downgrade(&shared), shared.rearm.clone(), clock));
        Ok(shared)
    }

    pub(super) fn events(&self) -> Arc<dyn StoreEvents> {
        self.events.clone()
    }

    /// One turn. `None` if an earlier one panicked: then the core is in an unknown state, takes no
    /// more decisions, and whoever waits is told so.
    pub(super) fn with_core<T>(&self, act: impl FnOnce(&mut Core, Timestamp) -> T) -> Option<T> {
        let mut core = self.lock()?;
        let result = act(&mut core, self.clock.now());
        self.carry_out(&mut core);
        let due = core.hub.poll_timeout();
        if due.is_some_and(|due| core.armed.is_none_or(|armed| due < armed)) {
            core.armed = due;
            self.rearm.notify_one();
        }
        Some(result)
    }

    /// Tells the core of a request; the reply comes by `reply`.
    pub(super) fn request(
        &self,
        reply: oneshot::Sender<Answer>,
        tell: impl FnOnce(&mut Hub, RequestId, Timestamp),
    ) -> Result<Waiting<'_>, Problem> {
        let request = self.with_core(|core, now| {
            core.last_request += 1;
            let request = RequestId(core.last_request);
            core.waiting.insert(request, reply);
            tell(&mut core.hub, request, now);
            request
        });
        match request {
            Some(request) => Ok(Waiting { shared: self, request: Some(request) }),
            None => Err(super::internal()),
        }
    }

    pub(super) fn watch(self: &Arc<Self>, command: CommandId) -> Watching {
        self.with_core(|core, _| core.hub.watch(command));
        Watching { shared: self.clone(), command }
    }

    /// The core tells of everything while there are observers. They are counted under its lock, so
    /// that one who comes as the last one goes is not left out.
    pub(super) fn observers_changed(&self) {
        self.with_core(|core, _| core.hub.observe_all(self.feed.is_observed()));
    }

    pub(super) fn drain(&self) {
        if self.draining.swap(true, Ordering::AcqRel) {
            return;
        }
        self.with_core(|core, now| core.hub.handle_drain(now));
        self.feed.drain();
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    pub(super) fn session_name(&self, session: u64) -> String {
        format!("{:08x}-{session:x}", self.epoch)
    }

    pub(super) fn session_of(&self, name: &str) -> Option<SessionId> {
        let (epoch, session) = name.split_once('-')?;
        let ours = u32::from_str_radix(epoch, 16).ok()? == self.epoch;
        let session = u64::from_str_radix(session, 16).ok()?;
        ours.then_some(SessionId(session))
    }

    fn lock(&self) -> Option<MutexGuard<'_, Core>> {
        match self.core.lock() {
            Ok(core) => Some(core),
            Err(poisoned) => {
                poisoned.into_inner().waiting.clear();
                None
            }
        }
    }

    fn carry_out(&self, core: &mut Core) {
        while let Some(output) = core.hub.poll_output() {
            match output {
                Output::Persist(txn) => self.store.submit(txn),
                Output::Load(load) => self.store.load(load),
                Output::Send { session, frame, wanted } => {
                    if let Some(stream) = stream_of(session) {
                        let frame = frames::frame(&frame);
                        self.plane.send(stream, frame, notify_of(wanted));
                    }
                }
                Output::Close { session, bye } => {
                    if let Some(stream) = stream_of(session) {
                        let reason = reason_of(bye.reason);
                        self.plane.close(stream, Some(frames::bye(&bye)), reason);
                    }
                }
                Output::Reply(request, answer) => {
                    // Whoever waited may be gone: then nobody needs the answer.
                    if let Some(waiting) = core.waiting.remove(&request) {
                        let _ = waiting.send(answer);
                    }
                }
                Output::Notify(event) => self.feed.tell(event),
            }
        }
    }

    fn time_has_come(&self) {
        self.with_core(|core, now| core.hub.handle_timeout(now));
    }

    /// For when the timer is to be set now.
    fn arm(&self) -> Option<Timestamp> {
        let mut core = self.lock()?;
        core.armed = core.hub.poll_timeout();
        core.armed
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // The timer sees that the hub is gone.
        self.rearm.notify_one();
    }
}

/// Calls the core when it wants to be called, as long as the hub lives.
async fn keep_time(shared: Weak<Runtime>, rearm: Arc<Wake>, clock: Clock) {
    loop {
        let Some(armed) = shared.upgrade().map(|shared| shared.arm()) else {
            return;
        };
        let Some(due) = armed else {
            rearm.notified().await;
            continue;
        };
        tokio::select! {
            () = tokio::time::sleep_until(clock.instant(due)) => {
                if let Some(shared) = shared.upgrade() {
                    shared.time_has_come();
                }
            }
            () = rearm.notified() => {}
        }
    }
}

impl Waiting<'_> {
    /// The reply has come.
    pub(super) fn is_answered(&mut self) {
        self.request = None;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(request) = self.request else { return };
        self.shared.with_core(|core, now| {
            if core.waiting.remove(&request).is_some() {
                core.hub.handle_abandoned(request, now);
            }
        });
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.shared.with_core(|core, _| core.hub.unwatch(self.command));
    }
}

impl Events {
    fn hub(&self) -> Option<Arc<Runtime>> {
        self.0.get().and_then(Weak::upgrade)
    }
}

impl StoreEvents for Events {
    fn committed(&self, committed: Vec<Committed>) {
        let Some(hub) = self.hub() else { return };
        hub.with_core(|core, now| {
            for committed in committed {
                core.hub.handle_committed(committed, now);
            }
        });
    }

    fn loaded(&self, loaded: Vec<Loaded>) {
        let Some(hub) = self.hub() else { return };
        hub.with_core(|core, now| {
            for loaded in loaded {
                core.hub.handle_loaded(loaded, now);
            }
        });
    }

    fn failed(&self, error: StoreError) {
        tracing::error!(%error, "the store failed: nothing more is promised until a restart");
        let Some(hub) = self.hub() else { return };
        hub.with_core(|core, now| core.hub.handle_store_failed(now));
    }
}

impl StreamEvents for Events {
    fn happened(&self, batch: &mut Vec<StreamEvent>) {
        let Some(hub) = self.hub() else { return };
        if hub.feed.take_its_own(batch) {
            hub.observers_changed();
        }
        if batch.is_empty() {
            return;
        }
        hub.with_core(|core, now| {
            for event in batch.drain(..) {
                hear(&mut core.hub, event, now);
            }
        });
    }
}

fn hear(hub: &mut Hub, event: StreamEvent, now: Timestamp) {
    match event {
        StreamEvent::Taken { stream, tag } | StreamEvent::Written { stream, tag } => {
            hub.handle_taken(SessionId(stream.get()), Seq::new(tag), now);
        }
        StreamEvent::Closed { stream, .. } => hub.handle_closed(SessionId(stream.get()), now),
        StreamEvent::Stalled { stream } => hub.handle_stalled(SessionId(stream.get()), now),
        StreamEvent::Resumed { stream } => hub.handle_resumed(SessionId(stream.get()), now),
    }
}

/// A session is the stream that bears it.
fn stream_of(session: SessionId) -> Option<StreamId> {
    StreamId::from_number(session.0)
}

fn notify_of(wanted: Wanted) -> Notify {
    match wanted {
        Wanted::Nothing => Notify::None,
        Wanted::Taken(seq) => Notify::Taken(seq.get()),
        Wanted::Written(seq) => Notify::Written(seq.get()),
    }
}

fn reason_of(reason: ByeReason) -> CloseReason {
    match reason {
        ByeReason::Replaced => CloseReason::Replaced,
        ByeReason::Draining => CloseReason::Draining,
        ByeReason::Revoked => CloseReason::Revoked,
        ByeReason::Overloaded => CloseReason::Overloaded,
        ByeReason::Unconfirmed => CloseReason::Unconfirmed,
        ByeReason::Rotate => CloseReason::Rotate,
    }
}
