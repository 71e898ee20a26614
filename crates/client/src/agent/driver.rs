//! The one loop that acts: the stream, the reports, the handlers and the journal, around the engine.
//!
//! It decides nothing about a command. What it does: turns what happens into `handle_*`, does what
//! `poll_output` says, and sleeps until `poll_timeout`. Nothing is awaited in the loop but the next
//! event: reports, handlers, sweeps and disk are tasks of their own, each of which the engine bounds.

use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bellwire_proto::{Action, CommandId, Json, Progress, ReportState, codes};
use futures_util::stream::once;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::credential::CredentialFile;
use super::engine::{Engine, JOURNAL_BYTES_MAX, Output, POST_MS_MAX};
use super::fault::{self, Point};
use super::journal::{Journal, Record};
use super::run::{self, DataDir, Ended, Job, Outcome, ProgressReceiver, StopSender};
use super::status::{self, Connection, JournalStatus, Status};
use super::{Agent, AgentError, Credential, clock, facts, handler, link};
use crate::api::{Controller, Error, Listener, Signal};

mod disk;
mod report;
mod stream;
#[cfg(test)]
mod tests;

use disk::{Disk, Written};
use report::Posted;

/// The longest sleep: `CLOCK_BOOTTIME` goes on while the machine sleeps, and the runtime's clock does
/// not, so what fell due meanwhile is seen within this.
const SLEEP_MAX: Duration = Duration::from_secs(60);
/// How long it may take to tell the facts.
const FACTS_LIMIT: Duration = Duration::from_secs(10);
/// How often the facts are looked at.
const FACTS_EVERY: Duration = Duration::from_secs(300);
/// When to try again to kill what is left of a handler.
const SWEEP_RETRY: Duration = Duration::from_secs(5);

/// Runs an agent: see [`Agent::run_until`].
pub(super) async fn run(
    agent: Agent,
    shutdown: impl Future<Output = ()>,
    at_once: impl Future<Output = ()>,
) -> Result<(), AgentError> {
    let mut driver = Driver::start(agent)?;
    let mut words = std::pin::pin!(once(shutdown).chain(once(at_once)));
    loop {
        driver.act();
        if driver.engine.is_over(clock::boot_ms()) && driver.disk.is_idle() {
            status::close(&driver.agent.state_dir);
            tracing::info!("stopped");
            return Ok(());
        }
        let happened = tokio::select! {
            biased;
            Some(()) = words.next() => Happened::Shutdown,
            happened = driver.next() => happened,
        };
        driver.handle(happened)?;
    }
}

/// What happened, as far as the loop is concerned.
enum Happened {
    /// The agent is told to stop, for the first or the second time.
    Shutdown,
    Signal(Signal),
    /// The stream is over for good; another is made.
    StreamOver,
    Disk(Written),
    Answered(Posted),
    Ended(CommandId, Ended),
    Swept(CommandId),
    /// Some of what runs has told how far it is.
    Progress,
    FactsTold(Result<Json, Option<Error>>),
    FactsDue,
    Reader(UnixStream),
    Time,
}

struct Driver {
    agent: Agent,
    engine: Engine,
    disk: Disk,
    data_dir: Arc<DataDir>,
    hub: Controller,
    credential: Option<Arc<CredentialFile>>,
    listener: Option<Listener>,
    /// When to make the next stream, if there is none.
    relisten_at: Option<Instant>,
    running: HashMap<CommandId, Running>,
    jobs: JoinSet<(CommandId, Ended)>,
    posts: JoinSet<Posted>,
    /// Reports come to nothing, and that is said.
    posts_fail: bool,
    sweeps: JoinSet<CommandId>,
    progressed: Arc<Notify>,
    /// The facts as the hub has them.
    facts: Option<Json>,
    /// The hub refuses them, and that is said.
    facts_refused: bool,
    facts_task: JoinSet<Result<Json, Option<Error>>>,
    facts_at: Instant,
    readers: Option<mpsc::Receiver<UnixStream>>,
    started_at: Instant,
    connection: Connection,
    connection_since: Instant,
    retry_at: Option<Instant>,
}

/// What the loop knows of a handler that runs.
struct Running {
    action: Action,
    since: Instant,
    stop: StopSender,
    progress: ProgressReceiver,
    /// How far it was when the engine was told last.
    told: Option<Progress>,
}

impl Driver {
    fn start(agent: Agent) -> Result<Self, AgentError> {
        let random = getrandom::u64().unwrap_or(1);
        let mut engine = Engine::new(agent.list.clone(), clock::boot_id(), random);
        engine.no_start_record = fault::no_start_record();
        let journal =
            Journal::open(&agent.state_dir, &agent.device, |record| engine.restore(record))?;
        engine.begin(clock::boot_ms(), journal.bytes());
        let data_dir = Arc::new(DataDir::of_agent(&agent.state_dir, &agent.device));
        let readers = status::open(&agent.state_dir)
            .inspect_err(|error| tracing::warn!(%error, "there is no status socket"))
            .map(status::readers)
            .ok();
        // Each call has a limit of its own, none of which is longer.
        let mut builder = Controller::builder(agent.hub.with_credentials())
            .transport(agent.transport.clone())
            .answer_timeout(Duration::from_millis(POST_MS_MAX));
        let mut credential = None;
        match &agent.credential {
            Credential::None => {}
            Credential::Token(token) => builder = builder.token(token),
            Credential::File(path) => {
                let file = credential.insert(Arc::new(CredentialFile::new(path.clone()))).clone();
                builder = builder.token_from(move || file.token());
            }
        }
        let hub = builder.build()?;
        tracing::info!(device = %agent.device, hub = hub.url(), "connecting");
        let now = Instant::now();
        let connection = Connection {
            hub: hub.url().to_owned(),
            connected: false,
            since_s: 0,
            hub_version: None,
            last_loss: None,
            retry_in_s: None,
        };
        Ok(Self {
            listener: Some(hub.listen(&agent.device, &link::options(agent.heartbeat))?),
            agent,
            engine,
            disk: Disk::new(journal),
            data_dir,
            hub,
            credential,
            relisten_at: None,
            running: HashMap::new(),
            jobs: JoinSet::new(),
            posts: JoinSet::new(),
            posts_fail: false,
            sweeps: JoinSet::new(),
            progressed: Arc::default(),
            facts: None,
            facts_refused: false,
            facts_task: JoinSet::new(),
            facts_at: now + FACTS_EVERY,
            readers,
            started_at: now,
            connection,
            connection_since: now,
            retry_at: None,
        })
    }

    /// Waits for what happens next. To drop it loses nothing.
    async fn next(&mut self) -> Happened {
        let timeout = self.engine.poll_timeout().map(|due_ms| {
            let left = Duration::from_millis(due_ms.saturating_sub(clock::boot_ms()));
            Instant::now() + left.min(SLEEP_MAX)
        });
        let due = async |at: Option<Instant>| match at {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        };
        tokio::select! {
            written = self.disk.next() => Happened::Disk(written),
            Some(Ok((id, ended))) = self.jobs.join_next() => Happened::Ended(id, ended),
            Some(Ok(posted)) = self.posts.join_next() => Happened::Answered(posted),
            Some(Ok(id)) = self.sweeps.join_next() => Happened::Swept(id),
            () = self.progressed.notified() => Happened::Progress,
            told = next_signal(&mut self.listener) => match told {
                Some(Ok(signal)) => Happened::Signal(signal),
                Some(Err(error)) => {
                    tracing::warn!(%error, "the stream is over");
                    Happened::StreamOver
                }
                None => Happened::StreamOver,
            },
            () = due(self.relisten_at) => Happened::StreamOver,
            Some(Ok(told)) = self.facts_task.join_next() => Happened::FactsTold(told),
            () = sleep_until(self.facts_at) => Happened::FactsDue,
            Some(reader) = next_reader(&mut self.readers) => Happened::Reader(reader),
            () = due(timeout) => Happened::Time,
        }
    }

    fn handle(&mut self, happened: Happened) -> Result<(), AgentError> {
        let now_ms = clock::boot_ms();
        match happened {
            Happened::Shutdown => {
                match self.engine.is_stopping() {
                    false => tracing::info!("stopping: no new command is taken"),
                    true => tracing::warn!("told to stop twice: not waiting for what runs"),
                }
                // What the hub has not been answered for it keeps.
                (self.listener, self.relisten_at) = (None, None);
                self.engine.handle_shutdown(now_ms);
            }
            Happened::Signal(signal) => self.told(now_ms, signal),
            Happened::StreamOver => self.listen_again(),
            Happened::Disk(written) => self.written(now_ms, written)?,
            Happened::Answered(posted) => self.answered(now_ms, posted),
            Happened::Ended(id, ended) => {
                fault::at(Point::Exited);
                self.tell_progress(now_ms);
                self.log_end(id, &ended);
                self.engine.handle_ended(now_ms, id, ended);
            }
            Happened::Swept(id) => self.engine.handle_swept(now_ms, id),
            Happened::Progress => self.tell_progress(now_ms),
            Happened::FactsTold(told) => self.facts_told(told),
            Happened::FactsDue => {
                self.facts_at = Instant::now() + FACTS_EVERY;
                if self.connection.connected {
                    self.tell_facts(false);
                }
            }
            Happened::Reader(reader) => drop(tokio::spawn(status::tell(reader, self.status()))),
            Happened::Time => self.engine.handle_timeout(now_ms),
        }
        Ok(())
    }

    // --- What the engine wants done ---

    fn act(&mut self) {
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Write { ticket, records, reserve } => {
                    log_steps(&records);
                    self.disk.write(ticket, records, reserve);
                }
                Output::Compact { snapshot, reserve_bytes } => {
                    self.disk.compact(snapshot, reserve_bytes);
                }
                Output::Post { ticket, command, report } => self.post(ticket, command, report),
                Output::Start { event, limit } => self.start_job(event, limit),
                Output::Stop { command, stop } => {
                    if let Some(running) = self.running.get(&command) {
                        running.stop.send(stop);
                    }
                }
                Output::Sweep { command } => drop(self.sweeps.spawn(sweep(command))),
            }
        }
        self.disk.start();
    }

    fn start_job(&mut self, event: bellwire_proto::stream::CommandEvent, limit: Duration) {
        let id = event.id;
        tracing::info!(action = %event.action, %id, "running");
        let (stop, stopped) = run::stop_channel();
        let rules = self.agent.list.policy.rules(&event.action).cloned();
        let (progress, mut told) = run::progress_channel();
        let running = Running {
            action: event.action.clone(),
            since: Instant::now(),
            stop,
            progress: told.clone(),
            told: None,
        };
        self.running.insert(id, running);
        let job = Job {
            command: event,
            device: self.agent.device.clone(),
            data_dir: Arc::clone(&self.data_dir),
            limit,
            progress,
            stop: stopped,
        };
        let progressed = Arc::clone(&self.progressed);
        self.jobs.spawn(async move {
            let Some(rules) = rules else {
                let gone =
                    Outcome::failed(codes::INTERNAL, "the action is not on the list any more");
                return (id, Ended::Finished(gone));
            };
            let panicked =
                Ended::Finished(Outcome::failed(codes::INTERNAL, "the handler panicked"));
            let handler = unless_it_panics(async { rules.run.start(job).await }, panicked);
            let mut handler = std::pin::pin!(handler);
            loop {
                tokio::select! {
                    ended = &mut handler => return (id, ended),
                    Ok(()) = told.changed() => progressed.notify_one(),
                }
            }
        });
    }

    /// Tells the engine how far what runs is, where that is news. Each handler has one place for it,
    /// where the newest word stands: none is lost but by a newer one.
    fn tell_progress(&mut self, now_ms: u64) {
        for (id, running) in &mut self.running {
            let now = *running.progress.borrow_and_update();
            if let Some(progress) = now.filter(|_| now != running.told) {
                running.told = now;
                self.engine.handle_progress(now_ms, *id, progress);
            }
        }
    }

    fn log_end(&mut self, id: CommandId, ended: &Ended) {
        let Some(Running { action, since, .. }) = self.running.remove(&id) else { return };
        let (Ended::Finished(outcome) | Ended::Stopped(outcome)) = ended;
        let code = outcome.error.as_ref().map(|error| error.code.as_str());
        let state = ReportState::from(outcome.state).as_str();
        let seconds = (since.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
        if matches!(ended, Ended::Stopped(_)) && self.engine.is_stopping() {
            let on_restart =
                self.agent.list.policy.rules(&action).map(|rules| rules.on_restart.as_str());
            return tracing::info!(%action, %id, seconds, on_restart, "cut off");
        }
        tracing::info!(%action, %id, state, code, seconds, "ended");
    }

    fn written(&mut self, now_ms: u64, written: Written) -> Result<(), AgentError> {
        match written {
            Written::Appended { tickets, points, bytes } => {
                points.into_iter().for_each(fault::at);
                for ticket in tickets {
                    self.engine.handle_written(now_ms, ticket, bytes);
                }
            }
            Written::Full { ticket } => self.engine.handle_disk_full(now_ms, ticket),
            Written::Compacted { bytes } => self.engine.handle_compacted(now_ms, bytes),
            Written::Failed { reason } => {
                let folder = self.agent.state_dir.clone();
                return Err(AgentError::Disk { folder, reason });
            }
        }
        Ok(())
    }

    // --- Facts and status ---

    fn tell_facts(&mut self, always: bool) {
        let now = facts::now(&self.agent.facts);
        if always {
            // What is told over the connection before may hang with it.
            self.facts_task.abort_all();
        } else if self.facts.as_ref() == Some(&now) || !self.facts_task.is_empty() {
            return;
        }
        let (hub, device) = (self.hub.clone(), self.agent.device.clone());
        self.facts_task.spawn(async move {
            let told = async {
                let told = timeout(FACTS_LIMIT, hub.put_facts(&device, &now)).await;
                told.map_or(Err(None), |told| told.map(drop).map_err(Some))
            };
            unless_it_panics(told, Err(None)).await.map(|()| now)
        });
    }

    fn facts_told(&mut self, told: Result<Json, Option<Error>>) {
        match told {
            Ok(facts) => (self.facts, self.facts_refused) = (Some(facts), false),
            Err(Some(error @ Error::Refused { .. }))
                if !std::mem::replace(&mut self.facts_refused, true) =>
            {
                tracing::warn!("the hub does not take this device's facts: {error}");
            }
            // The stream's loss says it, if it is the hub that is not there.
            Err(error) => tracing::debug!(?error, "the facts were not told"),
        }
    }

    fn status(&self) -> Status {
        let (under_way, commands) = self.engine.counts();
        let retry_in_s =
            self.retry_at.map(|at| at.saturating_duration_since(Instant::now()).as_secs());
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            device: self.agent.device.clone(),
            up_s: self.started_at.elapsed().as_secs(),
            connection: Connection {
                since_s: self.connection_since.elapsed().as_secs(),
                retry_in_s,
                ..self.connection.clone()
            },
            journal: JournalStatus {
                folder: self.agent.state_dir.clone(),
                bytes: self.disk.bytes(),
                bytes_max: JOURNAL_BYTES_MAX,
                commands,
                under_way,
            },
            commands: self.engine.latest(status::COMMANDS_MAX),
        }
    }
}

async fn next_signal(listener: &mut Option<Listener>) -> Option<Result<Signal, Error>> {
    match listener {
        Some(listener) => listener.next().await,
        None => std::future::pending().await,
    }
}

async fn next_reader(readers: &mut Option<mpsc::Receiver<UnixStream>>) -> Option<UnixStream> {
    match readers {
        Some(readers) => readers.recv().await,
        None => std::future::pending().await,
    }
}

/// Does a task's work so that a panic in it is `panicked`, and not a task of which nothing is heard
/// again, with all that it held: a place among the reports, or a command that runs for ever.
async fn unless_it_panics<T>(work: impl Future<Output = T>, panicked: T) -> T {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or(panicked)
}

/// What an operator reads of a command's way, beside its run.
fn log_steps(records: &[Record]) {
    let is_end = |record: &Record| matches!(record, Record::Ended { .. });
    for record in records {
        match record {
            // One that is refused at once is told as that.
            Record::Received(received) if !records.iter().any(is_end) => {
                let event = &received.event;
                tracing::info!(action = %event.action, id = %event.id, "taken");
            }
            Record::Acked { command } => tracing::info!(id = %command, "told"),
            _ => {}
        }
    }
}

/// Kills what is left of a handler, and does not give up: to say that it is dead when it is not would
/// run a command beside itself.
async fn sweep(command: CommandId) -> CommandId {
    loop {
        let swept = tokio::task::spawn_blocking(move || handler::orphans::kill_orphans(command));
        match swept.await {
            Ok(Ok(killed)) => {
                if killed > 0 {
                    tracing::warn!(%command, killed, "what was left of a handler is killed");
                }
                return command;
            }
            Ok(Err(error)) => {
                tracing::error!(%command, %error, "what is left of a handler lives on")
            }
            Err(error) => {
                tracing::error!(%command, %error, "what is left of a handler is not known")
            }
        }
        sleep(SWEEP_RETRY).await;
    }
}
