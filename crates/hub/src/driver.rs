//! Where core meets tokio: requests, streams, the store and the clock on one side, decisions on
//! the other.
//!
//! A [`Driver`] is what the HTTP handlers hold. Each request, and each report of the store, the
//! plane or the clock, is a call of the core under its lock (`runtime.rs`, `events.rs`); the core's
//! outputs are carried out in their order, outside of the lock (`effects.rs`). Events for observers
//! and watchers go to the feed (`feed.rs`).
//!
//! Nothing is decided here, and no HTTP is known here.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bellwire_core::record::TokenRecord;
use bellwire_core::{
    Answer, Enrolment, Hub, Listen, Now, Poll, Presence, Recovered, RequestId, RolloutOp, Send,
    SessionId, TokenUse,
};
use bellwire_proto::stream::{CancelEvent, CommandEvent};
use bellwire_proto::{
    Code, Command, CommandId, CreatedToken, Credential, Delivery, Device, DeviceId, Json, Labels,
    NewToken, Problem, Report, SecretText, Timestamp, TokenId,
};
use tokio::sync::oneshot;

use crate::auth::{Auth, secret_digest};
use crate::clock::Clock;
use crate::config::Config;
use crate::feed::Reader;
use crate::frames;
use crate::plane::{Plane, PlaneConfig, StreamOptions};
use crate::store::{Store, StoreError, StoreEvents, StoredDevice, Visible};

mod effects;
mod events;
mod preview;
mod reserved;
mod runtime;
mod schedules;
mod trials;

pub use reserved::Reserved;
use runtime::Runtime;

/// The hub as its HTTP handlers see it. Cheap to clone.
///
/// - **Requests** of senders ([`send`](Self::send), [`send_to_many`](Self::send_to_many),
///   [`cancel`](Self::cancel)), devices
///   ([`report`](Self::report), [`poll`](Self::poll), [`confirm`](Self::confirm)) and operators
///   ([`put_device`](Self::put_device), [`put_facts`](Self::put_facts),
///   [`delete_device`](Self::delete_device)). Each has exactly one reply, after what it promises is
///   on disk; dropping its future gives the reply up and takes nothing back.
/// - **Streams**: [`listen`](Self::listen), [`watch`](Self::watch) and [`observe`](Self::observe)
///   give a [`Reserved`], into which the hub sends at once. Then call [`Reserved::attached`], and
///   have [`Driver::plane`] attach the connection or make a response body.
/// - **Reads**: [`command`](Self::command) and [`store`](Self::store) for what is on disk;
///   [`presences`](Self::presences) for who is online, which [`device`](Self::device) and
///   [`show`](Self::show) join with it.
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
    /// It can.
    Ready,
    /// It is about to stop.
    Draining,
    /// The store has failed, and nothing more can be promised. What is stored can still be read.
    StoreFailed,
    /// The core, its timer, a shard of the plane or the feed has panicked: the process can no longer work, and
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
            overloaded_last: Some(frames::overloaded()),
            clock: Arc::new(clock.clone()),
            ..PlaneConfig::default()
        };
        let seed = u64::from_ne_bytes(entropy()?);
        let auth = Auth::new(recovered.admin_tokens > 0);
        let hub = Hub::new(config.core(), recovered, seed);
        let runtime = Runtime::start(hub, auth, config, store, plane, clock, seed)?;
        Ok(Self { runtime })
    }

    /// The receiver of what the store reports.
    pub fn store_events(&self) -> Arc<dyn StoreEvents> {
        self.runtime.events()
    }

    // --- Requests of senders ---

    /// Stores a command to one device; answers once it is on disk and, if the send waits, once it has
    /// ended or the wait has elapsed.
    ///
    /// # Errors
    /// `queue_full`, `device_offline`, `idempotency_mismatch`, `unknown_device`, `draining`,
    /// `store_unavailable`.
    pub async fn send(&self, send: Send) -> Result<Delivery, Problem> {
        match self.request_send(send).await? {
            Answer::Delivery(delivery) => Ok(*delivery),
            answer => Err(unexpected(&answer)),
        }
    }

    /// Stores a command to several devices; answers once it is on disk, with all that it promises.
    ///
    /// # Errors
    /// `idempotency_mismatch`, `unknown_device`, `rate_limited`, `draining`, `store_unavailable`.
    pub async fn send_to_many(&self, send: Send, visible: Visible) -> Result<Command, Problem> {
        match self.request_send(send).await? {
            Answer::Command(command) => self.command_of_sender(command, visible).await,
            answer => Err(unexpected(&answer)),
        }
    }

    /// A command to no device is there for nobody in particular; its sender is shown it all the same.
    async fn command_of_sender(&self, id: CommandId, visible: Visible) -> Result<Command, Problem> {
        let shown = self.command(id, visible).await;
        if shown.as_ref().is_err_and(|problem| problem.code == Code::UnknownCommand) {
            let whole = self.command(id, Visible::all()).await?;
            return if whole.total == 0 { Ok(whole) } else { shown };
        }
        shown
    }

    async fn request_send(&self, send: Send) -> Result<Answer, Problem> {
        let random = entropy().map_err(|_| internal())?;
        self.request(|hub, request, now| hub.handle_send(request, send, random, now)).await
    }

    /// Cancels a command, and shows it as it then is: some of its devices may still have to answer.
    ///
    /// # Errors
    /// `unknown_command`, `illegal_transition` when all had ended before, `store_unavailable`.
    pub async fn cancel(
        &self,
        command: CommandId,
        force: bool,
        visible: Visible,
    ) -> Result<Command, Problem> {
        let reply =
            self.request(|hub, request, now| hub.handle_cancel(request, command, force, now));
        match reply.await? {
            Answer::Cancelled => self.command(command, visible).await,
            answer => Err(unexpected(&answer)),
        }
    }

    /// Pauses, resumes or aborts the rollout of a command, and shows it as it then is.
    ///
    /// # Errors
    /// `unknown_command`, `conflict` when it has no rollout or that has ended, `store_unavailable`.
    pub async fn change_rollout(
        &self,
        command: CommandId,
        op: RolloutOp,
        visible: Visible,
    ) -> Result<Command, Problem> {
        let reply = self.request(|hub, request, now| hub.handle_rollout(request, command, op, now));
        match reply.await? {
            Answer::Cancelled => self.command(command, visible).await,
            answer => Err(unexpected(&answer)),
        }
    }

    /// A command as it is on disk, for one who sees these devices.
    ///
    /// # Errors
    /// `unknown_command`, `store_unavailable`.
    pub async fn command(&self, command: CommandId, visible: Visible) -> Result<Command, Problem> {
        let found = self.store().command(command, visible).await?;
        let detail = "no command has this id, or it is no longer retained";
        found.ok_or_else(|| Problem::new(Code::UnknownCommand, detail))
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
        let reply =
            self.request(|hub, request, now| hub.handle_put_device(request, device, labels, now));
        match reply.await? {
            Answer::Device { created } => Ok(created),
            answer => Err(unexpected(&answer)),
        }
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
        // Read always, since observers may connect while it is being removed.
        let row = self.store().device(device.clone()).await?;
        let answer = self.request_removing(row, |hub, request, now| {
            hub.handle_delete_device(request, device, now);
        });
        self.done(answer.await?)
    }

    // --- Tokens and enrolment ---

    /// Makes a token; its text is in what this gives, and nowhere else.
    ///
    /// # Errors
    /// `store_unavailable`, `internal` when the system gives no entropy.
    pub async fn make_token(
        &self,
        new: NewToken,
        created_by: Option<String>,
    ) -> Result<CreatedToken, Problem> {
        let credential = self.new_credential()?;
        let now = self.now();
        let record = TokenRecord {
            id: credential.id(),
            digest: secret_digest(&credential),
            role: new.role,
            expires_at: new.expires_in_s.map(|s| now.after(Duration::from_secs(s))),
            note: new.note,
            created_at: now,
            created_by,
            last_used_at: None,
        };
        let info = record.to_token();
        self.create_token(record).await?;
        Ok(CreatedToken { info, token: SecretText(credential) })
    }

    /// Stores a new token.
    ///
    /// # Errors
    /// `store_unavailable`.
    async fn create_token(&self, record: TokenRecord) -> Result<(), Problem> {
        let reply = self.request(|hub, request, now| hub.handle_create_token(request, record, now));
        self.done(reply.await?)
    }

    /// Revokes a token: its streams end.
    ///
    /// # Errors
    /// `not_found`, `conflict` for the last `admin` token, `store_unavailable`.
    pub async fn revoke_token(&self, token: TokenId) -> Result<(), Problem> {
        let reply = self.request(|hub, request, now| hub.handle_revoke_token(request, token, now));
        self.done(reply.await?)
    }

    /// A device enrols; whether an operator must approve it first.
    ///
    /// # Errors
    /// `unauthenticated` when the join token does not work, `conflict` when the name is taken, `store_unavailable`.
    pub async fn enroll(&self, enrolment: Enrolment) -> Result<bool, Problem> {
        let reply = self.request(|hub, request, now| hub.handle_enroll(request, enrolment, now));
        match reply.await? {
            Answer::Enrolled { pending } => Ok(pending),
            answer => Err(unexpected(&answer)),
        }
    }

    /// A device that waits for it may work from now on.
    ///
    /// # Errors
    /// `unknown_device`, `store_unavailable`.
    pub async fn approve(&self, device: DeviceId) -> Result<(), Problem> {
        let reply = self.request(|hub, request, now| hub.handle_approve(request, device, now));
        match reply.await? {
            Answer::Device { .. } => Ok(()),
            answer => Err(unexpected(&answer)),
        }
    }

    /// Whether a caller needs no token.
    pub fn is_open(&self) -> bool {
        self.runtime.auth.is_open()
    }

    /// A new token, in nobody's hands yet.
    ///
    /// # Errors
    /// `internal` when the system gives no entropy.
    pub(crate) fn new_credential(&self) -> Result<Credential, Problem> {
        let id = entropy().map_err(|_| internal())?;
        let secret = entropy().map_err(|_| internal())?;
        Ok(Credential::from_random(id, secret))
    }

    pub(crate) fn auth(&self) -> &Auth {
        &self.runtime.auth
    }

    /// A token was used at this time. Nothing is promised.
    pub(crate) fn token_used(&self, token: TokenId, at: Timestamp) {
        self.runtime.with_core(|core, now| core.hub.handle_token_used(token, at, now));
    }

    // --- Observers and watchers ---

    /// Opens a stream of what happens to a command: every delivery as it is, each change, `done`,
    /// the end.
    ///
    /// # Errors
    /// `unknown_command`, `draining`, `store_unavailable`, `rate_limited` when there are too many watchers.
    pub async fn watch(
        &self,
        command: CommandId,
        options: StreamOptions,
        visible: Visible,
        token: Option<TokenUse>,
    ) -> Result<Reserved, Problem> {
        let reserved = self.reserve(options)?;
        let reader = Reader { visible: visible.clone(), token };
        let mailbox = self.runtime.feed.watch(reserved.stream, command, reader)?;
        // From here on every change is notified; those that the snapshot contains already are recognised by
        // their version. Changes decided before are not notified, so the snapshot must contain them: it is
        // read when they are on disk.
        let watching = self.runtime.watch(command);
        self.done(self.request(|hub, request, _| hub.handle_settle(request)).await?)?;
        let Some(snapshot) = self.store().snapshot(command, None, visible.clone()).await? else {
            return Err(Problem::new(Code::UnknownCommand, "no command has this id"));
        };
        let feed = self.runtime.feed.clone();
        let progress = feed.progress(command, snapshot.command.total, &visible)?;
        tokio::spawn(async move {
            feed.follow(mailbox, progress, snapshot).await;
            drop(watching);
        });
        Ok(reserved)
    }

    /// Opens a stream of what happens to all devices and deliveries.
    ///
    /// # Errors
    /// `draining`, `rate_limited` when there are too many watchers.
    pub fn observe(
        &self,
        options: StreamOptions,
        visible: Visible,
        token: Option<TokenUse>,
    ) -> Result<Reserved, Problem> {
        let reserved = self.reserve(options)?;
        self.runtime.feed.observe(reserved.stream, Reader { visible, token })?;
        self.runtime.observers_changed();
        Ok(reserved)
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
        presences.ok_or_else(internal)
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

    /// Passes a request to the core and waits for its one reply.
    async fn request(
        &self,
        call: impl FnOnce(&mut Hub, RequestId, Now),
    ) -> Result<Answer, Problem> {
        self.request_removing(None, call).await
    }

    /// The same for a request that removes the device of this row, if there is one.
    async fn request_removing(
        &self,
        removes: Option<StoredDevice>,
        call: impl FnOnce(&mut Hub, RequestId, Now),
    ) -> Result<Answer, Problem> {
        let (reply, answer) = oneshot::channel();
        let mut waiting = self.runtime.request(reply, removes, call)?;
        let answer = answer.await;
        waiting.is_answered();
        match answer {
            Ok(Answer::Problem(problem)) => Err(*problem),
            Ok(answer) => Ok(answer),
            Err(_) => Err(internal()),
        }
    }

    fn done(&self, answer: Answer) -> Result<(), Problem> {
        match answer {
            Answer::Done => Ok(()),
            answer => Err(unexpected(&answer)),
        }
    }

    /// # Errors
    /// `internal` when the plane has failed: the stream could be one that no shard serves.
    fn reserve(&self, options: StreamOptions) -> Result<Reserved, Problem> {
        let runtime = self.runtime.clone();
        if !runtime.plane.is_alive() {
            return Err(internal());
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

fn internal() -> Problem {
    Problem::new(Code::Internal, "the hub could not answer; see its log")
}

/// An answer of another kind than the request's: a fault of the core, which its tests would show.
fn unexpected(answer: &Answer) -> Problem {
    tracing::error!(?answer, "the core gave an answer of another kind");
    internal()
}

#[cfg(test)]
mod tests;
