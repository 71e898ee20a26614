//! Where core meets tokio: requests, streams, the store and the clock on one side, decisions on
//! the other.
//!
//! A [`Driver`] is what the HTTP handlers hold. Each request, and each report of the store, the
//! plane or the clock, is a call of the core under its lock (`runtime.rs`, `events.rs`); the core's
//! outputs are carried out in their order, outside of the lock (`effects.rs`). Events for observers
//! and watchers go to the feed (`feed.rs`).
//!
//! What becomes of commands and devices is decided by the core, but for two requests that rest on what the store has: which
//! labels a merge leaves (`labels.rs`), and which deliveries a cancel of a part is of (`scoped_cancel.rs`). No HTTP is known here.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bellwire_core::record::AuditRecord;
use bellwire_core::{Answer, Hub, Listen, Now, Poll, Presence, Recovered, RequestId, SessionId};
use bellwire_proto::stream::{CancelEvent, CommandEvent};
use bellwire_proto::{
    AuditObject, Code, CommandId, Delivery, Device, DeviceId, Json, Labels, Problem, Report,
    Timestamp,
};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use crate::audit::verb;
use crate::auth::Auth;
use crate::clock::Clock;
use crate::config::Config;
use crate::frames;
use crate::internal;
use crate::jwt::Jwt;
use crate::plane::{Plane, PlaneConfig, StreamOptions};
use crate::store::{Store, StoreError, StoreEvents, StoredDevice};

mod audited;
mod commands;
mod effects;
mod events;
mod labels;
mod preview;
mod reply;
mod reserved;
mod runtime;
mod schedules;
mod scoped_cancel;
mod tasks;
mod tokens;
mod trials;
mod watching;

pub(crate) use audited::{AuditContext, AuditFollower, Principal};
pub use labels::{LabelsChange, LabelsChanged};
use reply::Reply;
pub use reserved::Reserved;
use runtime::Runtime;

/// The hub as its HTTP handlers see it. Cheap to clone.
///
/// - **Requests.** Each has exactly one reply, after what it promises is on disk; dropping its future gives the reply up
///   and takes nothing back.
///   - Senders: [`send`](Self::send), [`send_to_many`](Self::send_to_many), [`preview`](Self::preview),
///     [`cancel`](Self::cancel), [`cancel_visible`](Self::cancel_visible), [`change_rollout`](Self::change_rollout),
///     [`make_schedule`](Self::make_schedule), [`change_schedule`](Self::change_schedule).
///   - Devices: [`report`](Self::report), [`poll`](Self::poll), [`confirm`](Self::confirm), [`put_facts`](Self::put_facts),
///     [`enroll`](Self::enroll).
///   - Operators: [`put_device`](Self::put_device), [`change_labels`](Self::change_labels),
///     [`delete_device`](Self::delete_device), [`approve`](Self::approve), [`make_token`](Self::make_token),
///     [`revoke_token`](Self::revoke_token).
/// - **Streams**: [`listen`](Self::listen), [`watch`](Self::watch), [`observe`](Self::observe) and
///   [`open_trial`](Self::open_trial), with which a client measures its way through the network
///   ([`hold_trial`](Self::hold_trial) is the same for polls), give a [`Reserved`], into which the hub sends at once. Then
///   call [`Reserved::attached`], and have [`Driver::plane`] attach the connection or make a response body.
/// - **Reads**: [`command`](Self::command) and [`store`](Self::store) for what is on disk: reads need no decision of the
///   core, and where a hub has a copy of the log of every partition, its store answers them for all. Who is online is known
///   to the core alone: [`presences`](Self::presences), [`online_part`](Self::online_part) and
///   [`online_count`](Self::online_count), which [`device`](Self::device) and [`show`](Self::show) join with rows.
/// - **Life**: [`start`](Self::start), then the store is started with
///   [`store_events`](Self::store_events), and only then is anything answered;
///   [`readiness`](Self::readiness) at any time; [`drain`](Self::drain) before the plane and the
///   store are closed.
///
/// `tests/driver/requests.rs` and `tests/driver/watching.rs` show the calls, [`app`](crate::app) the
/// life around them.
///
/// ```
/// use bellwire_core::Send;
/// use bellwire_hub::{app::Hub, config::Config};
/// use bellwire_proto::{Json, Report, ReportState};
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// # let folder = tempfile::tempdir()?;
/// let mut config = Config::default();
/// config.data_dir = folder.path().join("hub");
/// let hub = Hub::open(config).await?;
/// let driver = hub.driver();
///
/// let send = Send::new("kiosk-7".parse()?, "ping".parse()?, Json::null());
/// let queued = driver.send(send).await?;
/// let report = Report::of(ReportState::Succeeded);
/// let ended = driver.report(queued.device, queued.command, report).await?;
/// assert!(ended.state.is_terminal());
/// hub.close().await;
/// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Driver {
    runtime: Arc<Runtime>,
    /// For whom it acts; `None` for the program that it is part of.
    audit_context: Option<Arc<AuditContext>>,
    /// How tokens of another issuer are read.
    jwt: Option<Arc<Jwt>>,
}

/// The answer to a poll.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PollAnswer {
    /// Commands to run, oldest first.
    pub commands: Vec<CommandEvent>,
    /// Commands to stop.
    pub cancels: Vec<CancelEvent>,
}

/// Whether the hub can take work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// Everything is accepted.
    Ready,
    /// It is about to stop.
    Draining,
    /// The store has failed, and nothing more can be promised. What is stored can still be read.
    StoreFailed,
    /// The core, a task of the hub, a shard of the plane or the feed has panicked: the process can no longer work, and
    /// only a restart helps. `/healthz` fails too.
    Failed,
}

impl Driver {
    /// Starts a hub over a store that has recovered, with its plane and its timer. Start the store
    /// with [`Driver::store_events`] then; until that is done nothing is answered.
    ///
    /// To be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the system refuses the plane a thread, or the hub entropy.
    pub fn start(
        config: Arc<Config>,
        clock: Clock,
        store: Arc<dyn Store>,
        recovered: Recovered,
    ) -> io::Result<Self> {
        let plane = PlaneConfig {
            shards: config.shards,
            unsent_bytes_in_all_max: usize::try_from(config.quotas.unsent_bytes_max)
                .unwrap_or(usize::MAX),
            overloaded_last: Some(frames::overloaded()),
            clock: Arc::new(clock.clone()),
            ..PlaneConfig::default()
        };
        let seed = u64::from_ne_bytes(entropy()?);
        let auth = Auth::new(recovered.admin_tokens > 0);
        let hub = Hub::new(config.core(), recovered, seed);
        let runtime = Runtime::start(hub, auth, config, store, plane, clock, seed)?;
        Ok(Self { runtime, audit_context: None, jwt: None })
    }

    /// The receiver of what the store reports.
    pub fn store_events(&self) -> Arc<dyn StoreEvents> {
        self.runtime.events()
    }

    // --- Requests of devices ---

    /// Takes a report about a delivery; answers once it is on disk.
    ///
    /// # Errors
    /// `unknown_command`, `illegal_transition`, `store_unavailable`.
    pub async fn report(
        &self,
        device: DeviceId,
        command: CommandId,
        report: Report,
    ) -> Result<Delivery, Problem> {
        let reply = self
            .request(|hub, request, now| hub.handle_report(request, device, command, report, now));
        match reply.await? {
            Answer::Delivery(delivery) => Ok(*delivery),
            answer => Err(unexpected(&answer)),
        }
    }

    /// Opens a device's stream: reserves it in the plane and lets the core send into it. What the
    /// core sends before the stream is attached waits there.
    ///
    /// # Errors
    /// `unknown_device`, `draining`, `store_unavailable`.
    pub async fn listen(
        &self,
        device: DeviceId,
        listen: Listen,
        options: StreamOptions,
    ) -> Result<Reserved, Problem> {
        let reserved = self.reserve(options)?;
        let session = SessionId(reserved.stream.get());
        let reply = self
            .request(|hub, request, now| hub.handle_listen(request, session, device, listen, now));
        match reply.await? {
            Answer::Listening => Ok(reserved),
            answer => Err(unexpected(&answer)),
        }
    }

    /// Confirms a stream; `session` is as in its `hello`, see [`Reserved::session`].
    ///
    /// # Errors
    /// `gone` when no such session of this device is live.
    pub async fn confirm(&self, device: DeviceId, session: &str) -> Result<(), Problem> {
        let Some(session) = self.runtime.session_of(session) else {
            return Err(Problem::new(Code::Gone, "no stream of this name is live; open a new one"));
        };
        let reply =
            self.request(|hub, request, now| hub.handle_confirm(request, device, session, now));
        self.done(reply.await?)
    }

    /// Answers as soon as there is something for the device, or when the wait has elapsed.
    ///
    /// # Errors
    /// `unknown_device`, `draining`, `store_unavailable`.
    pub async fn poll(&self, device: DeviceId, poll: Poll) -> Result<PollAnswer, Problem> {
        let reply = self.request(|hub, request, now| hub.handle_poll(request, device, poll, now));
        match reply.await? {
            Answer::Poll { commands, cancels } => Ok(PollAnswer { commands, cancels }),
            answer => Err(unexpected(&answer)),
        }
    }

    // --- Requests of operators ---

    /// Registers a device, or replaces its labels. True when it was not known before; the device
    /// itself is read by [`Driver::device`].
    ///
    /// # Errors
    /// `store_unavailable`.
    pub async fn put_device(&self, device: DeviceId, labels: Labels) -> Result<bool, Problem> {
        let put = device.clone();
        self.hold_labels_for(device, |driver| async move { driver.put_labels(put, labels).await })
            .await
    }

    /// Stores the facts that a device reports of itself.
    ///
    /// # Errors
    /// `unknown_device`, `store_unavailable`.
    pub async fn put_facts(&self, device: DeviceId, facts: Json) -> Result<(), Problem> {
        let reply =
            self.request(|hub, request, now| hub.handle_put_facts(request, device, facts, now));
        match reply.await? {
            Answer::Device { .. } => Ok(()),
            answer => Err(unexpected(&answer)),
        }
    }

    /// Removes a device: its streams end and its live deliveries are cancelled.
    ///
    /// # Errors
    /// `unknown_device`, `store_unavailable`.
    pub async fn delete_device(&self, device: DeviceId) -> Result<(), Problem> {
        let removed = device.clone();
        self.hold_labels_for(device, |driver| async move {
            // Read always, since observers may connect while it is being removed.
            let row = driver.store().device(removed.clone()).await?;
            let record = driver.record(verb::DEVICE_DELETE, AuditObject::device(&removed), 204);
            let answer = driver.request_removing(row, |hub, request, now| {
                hub.audit(request, record);
                hub.handle_delete_device(request, removed, now);
            });
            driver.done(answer.await?)
        })
        .await
    }

    // --- Trials of networks ---

    /// Opens a stream of no device, which ends by itself a minute and one heartbeat later.
    ///
    /// # Errors
    /// `draining`, `rate_limited` when there are too many.
    pub fn open_trial(
        &self,
        options: StreamOptions,
        heartbeat: Duration,
    ) -> Result<Reserved, Problem> {
        let reserved = self.reserve(options)?;
        self.runtime.trials.open(reserved.stream, heartbeat)?;
        Ok(reserved)
    }

    /// Holds an answer back for `wait`, or until the hub drains.
    ///
    /// # Errors
    /// `draining`, `rate_limited` when there are too many.
    pub async fn hold_trial(&self, wait: Duration) -> Result<(), Problem> {
        self.runtime.trials.hold(wait).await
    }

    // --- Reads ---

    /// Whether and how these devices are online, in their order, as of one moment. One call of the
    /// core, however many they are: a page of a list makes one call.
    ///
    /// # Errors
    /// `internal` when the hub has failed.
    pub fn presences<'a>(
        &self,
        devices: impl IntoIterator<Item = &'a DeviceId>,
    ) -> Result<Vec<Presence>, Problem> {
        let presences = self.runtime.with_core(|core, now| {
            devices.into_iter().map(|device| core.hub.presence(device, now)).collect()
        });
        presences.ok_or_else(internal::panicked)
    }

    /// Devices that are online and whose names begin so, by name after this one, or before it; as many at most.
    ///
    /// # Errors
    /// `internal` when the hub has failed.
    pub fn online_part(
        &self,
        after: Option<&DeviceId>,
        prefix: &str,
        descending: bool,
        limit: usize,
    ) -> Result<Vec<DeviceId>, Problem> {
        let part = self.runtime.with_core(|core, _| {
            core.hub.online_part(after, prefix, descending).take(limit).cloned().collect()
        });
        part.ok_or_else(internal::panicked)
    }

    /// How many devices are online.
    ///
    /// # Errors
    /// `internal` when the hub has failed.
    pub fn online_count(&self) -> Result<usize, Problem> {
        self.runtime.with_core(|core, _| core.hub.online_count()).ok_or_else(internal::panicked)
    }

    /// A device as the API shows it; `None` when it is not known.
    ///
    /// # Errors
    /// `store_unavailable`, `internal` when the hub has failed.
    pub async fn device(&self, device: DeviceId) -> Result<Option<Device>, Problem> {
        let stored = self.store().device(device).await?;
        Ok(self.show(stored.into_iter().collect())?.pop())
    }

    /// Joins what the store knows of devices with whether they are online now.
    ///
    /// # Errors
    /// `internal` when the hub has failed.
    pub fn show(&self, stored: Vec<StoredDevice>) -> Result<Vec<Device>, Problem> {
        let presences = self.presences(stored.iter().map(|device| &device.record.id))?;
        Ok(stored.into_iter().zip(presences).map(|(device, now)| device.into_device(now)).collect())
    }

    /// What an operator has set.
    pub fn config(&self) -> &Config {
        &self.runtime.config
    }

    /// A name for a session that is none: the `session` in the `hello` of a poll, which cannot be
    /// confirmed.
    pub fn no_session(&self) -> String {
        self.runtime.session_name(0)
    }

    /// The wall clock.
    pub fn now(&self) -> Timestamp {
        self.runtime.clock.now().wall
    }

    /// How often the lock of the core was taken.
    #[cfg(test)]
    pub(crate) fn locked(&self) -> u64 {
        self.runtime.locked()
    }

    /// What the time is for credentials that expire.
    pub(crate) fn expiry_time(&self) -> Timestamp {
        self.runtime.clock.expiry()
    }

    /// Both clocks at one moment.
    pub(crate) fn clocks(&self) -> bellwire_core::Now {
        self.runtime.clock.now()
    }

    /// Whether the hub can take work: `/readyz`, and `/healthz` when it has [failed](Readiness::Failed).
    pub fn readiness(&self) -> Readiness {
        self.runtime.readiness()
    }

    /// Where commands, deliveries and devices are read.
    pub fn store(&self) -> &dyn Store {
        &*self.runtime.store
    }

    /// Where streams are attached.
    pub fn plane(&self) -> &Plane {
        &self.runtime.plane
    }

    // --- Drain ---

    /// Begins the end: waits and polls are answered, every stream gets its last event, and new
    /// sends, streams and polls are refused from now on. Reports and reads are still served.
    pub fn drain(&self) {
        self.runtime.drain();
    }

    // --- How it is done ---

    /// Passes a request to the core, at once, for its one reply.
    ///
    /// It is no `async fn`, nor are the two below: their futures would hold the call, with all that it is about, once for each of
    /// them. Those of a send took six kilobytes.
    fn request(&self, call: impl FnOnce(&mut Hub, RequestId, Now)) -> Reply<'_> {
        self.request_removing(None, call)
    }

    /// The same for one that the audit log has an entry of, which is on disk with the change or not at all.
    fn request_recorded(
        &self,
        entry: AuditRecord,
        call: impl FnOnce(&mut Hub, RequestId, Now),
    ) -> Reply<'_> {
        self.request(|hub, request, now| {
            hub.audit(request, entry);
            call(hub, request, now);
        })
    }

    /// The same for a request that removes the device of this row, if there is one.
    fn request_removing(
        &self,
        removes: Option<StoredDevice>,
        call: impl FnOnce(&mut Hub, RequestId, Now),
    ) -> Reply<'_> {
        let (reply, answer) = oneshot::channel();
        match self.runtime.request(reply, removes, call) {
            Ok(waiting) => Reply::Waits(waiting, answer),
            Err(problem) => Reply::Refused(Some(problem)),
        }
    }

    fn done(&self, answer: Answer) -> Result<(), Problem> {
        match answer {
            Answer::Done => Ok(()),
            answer => Err(unexpected(&answer)),
        }
    }

    /// Spawns a task of the hub's own. A panic in it is the end of the hub, as one in the core is: see
    /// [`Readiness::Failed`].
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        tasks::spawn(&self.runtime, task)
    }

    /// # Errors
    /// `internal` when the plane has failed: the stream could be one that no shard serves.
    fn reserve(&self, options: StreamOptions) -> Result<Reserved, Problem> {
        let runtime = self.runtime.clone();
        if !runtime.plane.is_alive() {
            return Err(internal::panicked());
        }
        let stream = runtime.plane.reserve(options);
        Ok(Reserved { runtime, stream, attached: false })
    }
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").finish_non_exhaustive()
    }
}

/// What a client is answered when the store does not answer a read.
impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::BadCursor(error) => Self::bad_request(error.to_string()),
            error => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "a read of the store failed");
                Self::new(Code::StoreUnavailable, "the store cannot answer; try again later")
            }
        }
    }
}

fn entropy<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}

/// An answer of another kind than the request's: a fault of the core, which its tests would show.
fn unexpected(answer: &Answer) -> Problem {
    internal::failed(format_args!("the core gave an answer of another kind: {answer:?}"))
}

#[cfg(test)]
pub(crate) mod tests;
