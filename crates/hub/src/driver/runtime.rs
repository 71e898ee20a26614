//! The runtime of the core: its lock, its panic policy, and how its decisions are carried out.
//!
//! [`Runtime::with_core`] is the only way to the core. It locks, lets the caller make its calls,
//! moves the outputs to the queue of effects, unlocks, and carries out in the order of that queue
//! (`effects.rs`). Nothing under the lock waits, encodes, or wakes a thread. The store's threads and
//! the plane's shards call from their own threads (`events.rs`). Locks are taken in the order core,
//! then effects or feed; effects are carried out with none of them held.
//!
//! A panic in a decision leaves the core in an unknown state, so it is the last one: requests that
//! wait are answered `internal`, so is every later one, and `/healthz` fails.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bellwire_core::record::{Load, Txn};
use bellwire_core::{
    AccessChange, Answer, Frame, Hub, HubEvent, Instant, NotifyOn, Now, Output, RequestId,
    SessionId,
};
use bellwire_proto::stream::{Bye, ByeReason};
use bellwire_proto::{CommandId, DeviceChange, Problem};
use tokio::sync::{Notify as Wake, oneshot};

use super::Readiness;
use super::effects::Effects;
use super::events::Events;
use super::labels::LabelLocks;
use super::tasks;
use super::trials::Trials;
use crate::audit::Audit;
use crate::auth::Auth;
use crate::clock::Clock;
use crate::config::Config;
use crate::feed::{Feed, FeedEvent};
use crate::frames::{self, DeviceFrames};
use crate::internal;
use crate::metrics::Metrics;
use crate::plane::{Batch, CloseReason, Plane, PlaneConfig, Receipt, StreamId};
use crate::quota::Quota;
use crate::store::{Store, StoreEvents, StoredDevice};

/// Reports that the core is called with under one lock. A commit reports hundreds at once, and each
/// is a decision of some microseconds, for which all other threads would wait.
const REPORTS_PER_LOCK: usize = 16;

/// What every handle of a hub shares.
pub(super) struct Runtime {
    core: Mutex<Core>,
    effects: Effects<CoreEffect>,
    /// A call of the core or an effect has panicked, see [`Runtime::with_core`].
    panicked: AtomicBool,
    pub(super) labels: LabelLocks,
    pub(super) config: Arc<Config>,
    pub(super) store: Arc<dyn Store>,
    pub(super) plane: Plane,
    pub(super) feed: Arc<Feed>,
    /// What is remembered of tokens.
    pub(super) auth: Auth,
    pub(super) quota: Arc<Quota>,
    /// The refusals that are being counted, and who follows the audit log.
    pub(super) audit: Audit,
    pub(super) metrics: Metrics,
    pub(super) trials: Trials,
    pub(super) clock: Clock,
    events: Arc<Events>,
    /// Wakes the timer when the core's next deadline is earlier than the one it waits for.
    pub(super) rearm: Arc<Wake>,
    draining: AtomicBool,
    /// Distinguishes the streams of this start of the hub from those of another.
    epoch: u32,
    /// Has the timer panic when it is woken.
    #[cfg(test)]
    timer_panics: AtomicBool,
    /// How often the lock of the core was taken.
    #[cfg(test)]
    locked: std::sync::atomic::AtomicU64,
}

/// The core, and what belongs to its requests. All of it is behind the lock.
pub(super) struct Core {
    pub(super) hub: Hub,
    /// The clients that wait for a reply.
    waiting: HashMap<RequestId, oneshot::Sender<Answer>>,
    /// The rows of devices that requests are removing, for the event of the removal: afterwards
    /// the store has nothing to read of them. Each is dropped with the reply to its request.
    pub(super) removing: HashMap<RequestId, Box<StoredDevice>>,
    last_request: u64,
    /// To be passed once everything that was decided before is carried out.
    pub(super) barriers: VecDeque<SyncSender<()>>,
    /// The deadline that the timer waits for.
    armed: Option<Instant>,
}

/// An output of the core that is yet to be carried out.
enum CoreEffect {
    Persist(Txn),
    Load(Load),
    Send {
        stream: StreamId,
        frame: Frame,
        receipt: Receipt,
    },
    Close {
        stream: StreamId,
        bye: Bye,
    },
    Access(AccessChange),
    Reply(oneshot::Sender<Answer>, Answer),
    Report(FeedEvent),
    /// Everything before it was carried out.
    Barrier(SyncSender<()>),
}

/// A request that waits for its reply. Dropped before that, it notifies the core that no client waits.
pub(super) struct PendingRequest<'a> {
    runtime: &'a Runtime,
    request: Option<RequestId>,
}

/// A command whose changes the core reports; until this is dropped.
pub(super) struct Watching {
    runtime: Arc<Runtime>,
    command: CommandId,
}

impl Runtime {
    pub(super) fn start(
        hub: Hub,
        auth: Auth,
        config: Arc<Config>,
        store: Arc<dyn Store>,
        plane: PlaneConfig,
        clock: Clock,
        seed: u64,
    ) -> io::Result<Arc<Self>> {
        let events = Arc::new(Events::default());
        let plane = Plane::start(plane, events.clone())?;
        let feed = Feed::start(store.clone(), plane.clone(), clock.clone());
        let runtime = Arc::new(Self {
            labels: LabelLocks::default(),
            core: Mutex::new(Core {
                hub,
                waiting: HashMap::new(),
                removing: HashMap::new(),
                last_request: 0,
                barriers: VecDeque::new(),
                armed: None,
            }),
            effects: Effects::new(),
            panicked: AtomicBool::new(false),
            quota: Arc::new(Quota::new(config.quotas)),
            config,
            store,
            trials: Trials::new(plane.clone()),
            plane,
            feed,
            auth,
            audit: Audit::new(seed),
            metrics: Metrics::default(),
            clock,
            events,
            rearm: Arc::new(Wake::new()),
            draining: AtomicBool::new(false),
            // It must only differ from the last start's.
            epoch: (seed >> 32) as u32,
            #[cfg(test)]
            timer_panics: AtomicBool::new(false),
            #[cfg(test)]
            locked: Default::default(),
        });
        runtime.events.connect(&runtime);
        tasks::start(&runtime);
        Ok(runtime)
    }

    pub(super) fn events(&self) -> Arc<dyn StoreEvents> {
        self.events.clone()
    }

    /// Lets `act` call the core, and has its outputs carried out. `None` if this or an earlier call
    /// panicked.
    ///
    /// When it returns, the outputs are carried out, or another thread is about to.
    pub(super) fn with_core<T>(&self, act: impl FnOnce(&mut Core, Now) -> T) -> Option<T> {
        self.guarded(|| {
            let (result, carries_out) = self.call(act)?;
            if carries_out {
                self.carry_out();
            }
            Some(result)
        })
    }

    /// Calls the core with each report, in their order, and has the outputs carried out.
    pub(super) fn with_each<T>(
        &self,
        mut reports: impl ExactSizeIterator<Item = T>,
        act: impl Fn(&mut Hub, T, Now),
    ) {
        self.guarded(|| {
            let mut carries_out = false;
            while reports.len() > 0 {
                let ((), first) = self.call(|core, now| {
                    for report in reports.by_ref().take(REPORTS_PER_LOCK) {
                        act(&mut core.hub, report, now);
                    }
                })?;
                carries_out |= first;
            }
            // Once for all of them, so that a shard finds together what it writes.
            if carries_out {
                self.carry_out();
            }
            Some(())
        });
    }

    /// Runs what calls the core. A panic in it is the end of the core.
    fn guarded<T>(&self, run: impl FnOnce() -> Option<T>) -> Option<T> {
        // What a panic leaves half-changed is not used again: from now on every call is refused.
        catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| {
            self.fail();
            None
        })
    }

    /// One call under the lock. True when the caller has to carry out.
    fn call<T>(&self, act: impl FnOnce(&mut Core, Now) -> T) -> Option<(T, bool)> {
        let mut core = self.lock()?;
        core.hub.handle_store_full(self.store.full());
        let result = act(&mut core, self.clock.now());
        let carries_out = self.effects.append(std::iter::from_fn(|| core.next_effect()));
        let due = core.hub.poll_timeout();
        let rearm = due.is_some_and(|due| core.armed.is_none_or(|armed| due < armed));
        if rearm {
            core.armed = due;
        }
        drop(core);
        if rearm {
            self.rearm.notify_one();
        }
        Some((result, carries_out))
    }

    /// Passes a request to the core; the reply is sent to `reply`. `removes` is the row of the device
    /// that the request removes, if it does.
    pub(super) fn request(
        &self,
        reply: oneshot::Sender<Answer>,
        removes: Option<StoredDevice>,
        call: impl FnOnce(&mut Hub, RequestId, Now),
    ) -> Result<PendingRequest<'_>, Problem> {
        let request = self.with_core(|core, now| {
            core.last_request += 1;
            let request = RequestId(core.last_request);
            core.waiting.insert(request, reply);
            core.removing.extend(removes.map(|row| (request, Box::new(row))));
            call(&mut core.hub, request, now);
            request
        });
        match request {
            Some(request) => Ok(PendingRequest { runtime: self, request: Some(request) }),
            None => Err(internal::panicked()),
        }
    }

    pub(super) fn watch(self: &Arc<Self>, command: CommandId) -> Watching {
        self.with_core(|core, _| core.hub.watch(command));
        Watching { runtime: self.clone(), command }
    }

    /// The core reports every change while there are observers. They are counted under its lock, so
    /// that one who connects as the last one disconnects is not left out.
    pub(super) fn observers_changed(&self) {
        self.with_core(|core, _| core.hub.observe_all(self.feed.is_observed()));
    }

    /// Begins the end. When it returns, every stream has its last event or is about to get it from
    /// the plane.
    pub(super) fn drain(&self) {
        if self.draining.swap(true, Ordering::AcqRel) {
            return;
        }
        let (passed, passes) = sync_channel(1);
        self.with_core(|core, now| {
            core.hub.handle_drain(now);
            core.barriers.push_back(passed);
        });
        // The thread that carries out waits for nothing, so this is short. An error: it panicked.
        let _ = passes.recv();
        self.write_refusals(true);
        self.write_uses();
        self.feed.drain();
        self.trials.drain();
        self.audit.wake();
    }

    pub(super) fn readiness(&self) -> Readiness {
        let panicked = self.panicked.load(Ordering::Acquire);
        if panicked || !self.plane.is_alive() || self.feed.has_failed() {
            Readiness::Failed
        } else if self.draining.load(Ordering::Acquire) {
            Readiness::Draining
        } else if self.store.health().is_err() {
            Readiness::StoreFailed
        } else {
            Readiness::Ready
        }
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

    /// `None` once something has panicked. The lock is poisoned by the panic itself, so that no
    /// call gets in between it and [`Runtime::fail`].
    fn lock(&self) -> Option<MutexGuard<'_, Core>> {
        #[cfg(test)]
        self.locked.fetch_add(1, Ordering::AcqRel);
        let core = self.core.lock().ok()?;
        (!self.panicked.load(Ordering::Acquire)).then_some(core)
    }

    /// A call, its effects or a task of the hub panicked. (The panic hook has printed where.)
    pub(super) fn fail(&self) {
        if self.panicked.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::error!("the hub has panicked (see above) and takes nothing more: restart it");
        let waiting = {
            // Waits for a call that got in before; later ones see `panicked`.
            let mut core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
            (std::mem::take(&mut core.waiting), std::mem::take(&mut core.barriers))
        };
        // Wakes the clients and a drain that wait: not under the lock.
        drop(waiting);
        self.effects.discard();
    }

    fn carry_out(&self) {
        // What is for the plane gathers, so that shards are not woken for each frame. Its own order
        // is what counts: nothing else depends on when a frame is written.
        let mut batch = self.plane.batch();
        let mut frames = DeviceFrames::default();
        self.effects.carry_out(|effect| match effect {
            Some(effect) => self.carry_out_one(effect, &mut batch, &mut frames),
            None => self.plane.submit(&mut batch),
        });
    }

    fn carry_out_one(&self, effect: CoreEffect, batch: &mut Batch, frames: &mut DeviceFrames) {
        match effect {
            CoreEffect::Persist(txn) => {
                self.metrics.submits(&txn);
                self.store.submit(txn);
            }
            CoreEffect::Load(load) => self.store.load(load),
            CoreEffect::Send { stream, frame, receipt } => {
                self.plane.send_in(batch, stream, frames.frame(frame), receipt);
            }
            CoreEffect::Close { stream, bye } => {
                let (last, reason) = (frames::bye(&bye), reason_of(bye.reason));
                self.plane.close_in(batch, stream, Some(last), reason);
            }
            CoreEffect::Access(change) => {
                self.auth.changed(&change);
                self.feed.access_changed(&change);
                self.audit.wake();
            }
            // The client may have disconnected: then the answer is dropped.
            CoreEffect::Reply(waiting, answer) => drop(waiting.send(answer)),
            CoreEffect::Report(event) => self.feed.report(event),
            CoreEffect::Barrier(passed) => {
                self.plane.submit(batch);
                let _ = passed.send(());
            }
        }
    }

    /// How often the lock of the core was taken.
    #[cfg(test)]
    pub(super) fn locked(&self) -> u64 {
        self.locked.load(Ordering::Acquire)
    }

    /// Has the timer panic.
    #[cfg(test)]
    pub(super) fn panic_in_the_timer(&self) {
        self.timer_panics.store(true, Ordering::Release);
        self.rearm.notify_one();
    }

    /// The next deadline, which the timer waits for from now on.
    pub(super) fn arm(&self) -> Option<Instant> {
        #[cfg(test)]
        assert!(!self.timer_panics.load(Ordering::Acquire), "on purpose");
        let mut core = self.lock()?;
        core.armed = core.hub.poll_timeout();
        core.armed
    }
}

impl Core {
    fn next_effect(&mut self) -> Option<CoreEffect> {
        while let Some(output) = self.hub.poll_output() {
            let effect = match output {
                Output::Persist(txn) => Some(CoreEffect::Persist(txn)),
                Output::Load(load) => Some(CoreEffect::Load(load)),
                Output::Send { session, frame, notify_on } => stream_of(session).map(|stream| {
                    CoreEffect::Send { stream, frame, receipt: receipt_of(notify_on) }
                }),
                Output::Close { session, bye } => {
                    stream_of(session).map(|stream| CoreEffect::Close { stream, bye })
                }
                Output::Access(change) => Some(CoreEffect::Access(change)),
                Output::Reply(request, answer) => {
                    self.removing.remove(&request);
                    let waiting = self.waiting.remove(&request);
                    waiting.map(|waiting| CoreEffect::Reply(waiting, answer))
                }
                Output::Notify(event) => {
                    let removed = self.row_removed_by(&event);
                    Some(CoreEffect::Report(FeedEvent { event, removed }))
                }
            };
            if effect.is_some() {
                return effect;
            }
        }
        self.barriers.pop_front().map(CoreEffect::Barrier)
    }

    /// The row of the device whose removal this reports. The core replies to the removal after it.
    fn row_removed_by(&mut self, event: &HubEvent) -> Option<Box<StoredDevice>> {
        let HubEvent::Device { device, change: DeviceChange::Removed, .. } = event else {
            return None;
        };
        let mut removing = self.removing.iter();
        let request = *removing.find(|(_, row)| row.record.id == *device)?.0;
        self.removing.remove(&request)
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // The timers find that the hub was dropped.
        self.rearm.notify_one();
        self.audit.counting().notify_one();
        self.auth.uses().noting().notify_one();
    }
}

impl PendingRequest<'_> {
    /// The reply is here.
    pub(super) fn is_answered(&mut self) {
        self.request = None;
    }
}

impl Drop for PendingRequest<'_> {
    fn drop(&mut self) {
        let Some(request) = self.request else { return };
        self.runtime.with_core(|core, now| {
            if core.waiting.remove(&request).is_some() {
                core.hub.handle_abandoned(request, now);
            }
        });
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.runtime.with_core(|core, _| core.hub.unwatch(self.command));
    }
}

/// A session is the stream that bears it.
fn stream_of(session: SessionId) -> Option<StreamId> {
    StreamId::from_number(session.0)
}

fn receipt_of(notify_on: NotifyOn) -> Receipt {
    match notify_on {
        NotifyOn::Nothing => Receipt::None,
        NotifyOn::Taken(seq) => Receipt::Buffered(seq.get()),
        NotifyOn::Written(seq) => Receipt::Written(seq.get()),
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
