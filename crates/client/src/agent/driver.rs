//! The one loop that acts: the stream, the reports, the handlers and the journal, around the engine.
//!
//! It decides nothing about a command. What it does: turns what happens into `handle_*`, does what
//! `poll_output` says, and sleeps until `poll_timeout`. Nothing is awaited in the loop but the next
//! event: reports, handlers, sweeps and disk are tasks of their own, each of which the engine bounds.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bellwire_proto::{CommandId, DeviceId, Json, Progress, Report, ReportState, codes};
use futures_util::FutureExt as _;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::engine::{Answer, Engine, JOURNAL_BYTES_MAX, Output};
use super::fault::{self, Point};
use super::handler::DataFolder;
use super::journal::Journal;
use super::run::{self, Ended, Job, Outcome, StopSender};
use super::status::{self, Connection, JournalStatus, Status};
use super::{Agent, AgentError, clock, facts, handler, link};
use crate::api::{Controller, Error, Listener, Signal};

mod disk;
mod stream;

use disk::{Disk, Written};

/// The longest sleep: `CLOCK_BOOTTIME` goes on while the machine sleeps, and the runtime's clock does
/// not, so what fell due meanwhile is seen within this.
const SLEEP_MAX: Duration = Duration::from_secs(60);
/// How often the facts are looked at.
const FACTS_EVERY: Duration = Duration::from_secs(300);
/// Words of progress that may wait for the loop; more are dropped, since newer ones follow.
const PROGRESS_QUEUE: usize = 64;
/// When to try again to kill what is left of a handler.
const SWEEP_RETRY: Duration = Duration::from_secs(5);

/// Runs an agent: see [`Agent::run`].
pub(super) async fn run(
    agent: Agent,
    shutdown: impl Future<Output = ()>,
) -> Result<(), AgentError> {
    let mut driver = Driver::start(agent)?;
    let mut shutdown = std::pin::pin!(shutdown.fuse());
    let mut asked = false;
    loop {
        driver.act();
        if asked && driver.engine.is_over(clock::boot_ms()) && driver.disk.is_idle() {
            status::close(&driver.agent.state_dir);
            return Ok(());
        }
        let happened = tokio::select! {
            biased;
            () = &mut shutdown, if !asked => Happened::Shutdown,
            happened = driver.next() => happened,
        };
        asked |= matches!(happened, Happened::Shutdown);
        driver.handle(happened)?;
    }
}

/// What happened, as far as the loop is concerned.
enum Happened {
    Shutdown,
    Signal(Signal),
    /// The stream is over for good; another is made.
    StreamOver,
    Disk(Written),
    Answered {
        ticket: u64,
        state: ReportState,
        answer: Answer,
    },
    /// With the last word of its progress, which may not have come through the queue yet.
    Ended(CommandId, Ended, Option<Progress>),
    Swept(CommandId),
    Progress(CommandId, Progress),
    FactsTold(Option<Json>),
    FactsDue,
    Reader(Option<tokio::net::UnixStream>),
    Time,
}

struct Driver {
    agent: Agent,
    engine: Engine,
    disk: Disk,
    data_folder: Arc<DataFolder>,
    hub: Controller,
    token: Option<String>,
    listener: Option<Listener>,
    /// When to make the next stream, if there is none.
    relisten_at: Option<Instant>,
    stops: HashMap<CommandId, StopSender>,
    jobs: JoinSet<(CommandId, Ended, Option<Progress>)>,
    posts: JoinSet<(u64, ReportState, Answer)>,
    sweeps: JoinSet<CommandId>,
    progress_sender: mpsc::Sender<(CommandId, Progress)>,
    progress: mpsc::Receiver<(CommandId, Progress)>,
    /// The facts as the hub has them.
    facts: Option<Json>,
    facts_task: JoinSet<Option<Json>>,
    facts_at: Instant,
    socket: Option<UnixListener>,
    started_at: Instant,
    connection: Connection,
    connection_since: Instant,
    retry_at: Option<Instant>,
}

impl Driver {
    fn start(agent: Agent) -> Result<Self, AgentError> {
        let random = getrandom::u64().unwrap_or(1);
        let mut engine = Engine::new(agent.list.clone(), clock::boot_id(), random);
        engine.no_start_record = fault::no_start_record();
        let journal =
            Journal::open(&agent.state_dir, &agent.device, |record| engine.restore(record))?;
        engine.begin(clock::boot_ms(), journal.bytes());
        let data_folder = Arc::new(DataFolder::of_agent(&agent.state_dir, &agent.device));
        let socket = status::open(&agent.state_dir)
            .inspect_err(|error| tracing::warn!(%error, "there is no status socket"))
            .ok();
        let mut builder =
            Controller::builder(agent.hub.with_credentials()).transport(agent.transport.clone());
        let token = stream::read_token(&agent.credential);
        if let Some(token) = &token {
            builder = builder.token(token);
        }
        let hub = builder.build()?;
        let (progress_sender, progress) = mpsc::channel(PROGRESS_QUEUE);
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
            data_folder,
            hub,
            token,
            relisten_at: None,
            stops: HashMap::new(),
            jobs: JoinSet::new(),
            posts: JoinSet::new(),
            sweeps: JoinSet::new(),
            progress_sender,
            progress,
            facts: None,
            facts_task: JoinSet::new(),
            facts_at: now + FACTS_EVERY,
            socket,
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
            Some(Ok((id, ended, last))) = self.jobs.join_next() => Happened::Ended(id, ended, last),
            Some(Ok((ticket, state, answer))) = self.posts.join_next() => {
                Happened::Answered { ticket, state, answer }
            }
            Some(Ok(id)) = self.sweeps.join_next() => Happened::Swept(id),
            Some((id, progress)) = self.progress.recv() => Happened::Progress(id, progress),
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
            reader = next_reader(&self.socket) => Happened::Reader(reader),
            () = due(timeout) => Happened::Time,
        }
    }

    fn handle(&mut self, happened: Happened) -> Result<(), AgentError> {
        let now_ms = clock::boot_ms();
        match happened {
            Happened::Shutdown => {
                tracing::info!("stopping: no new command is taken");
                // What the hub has not been answered for it keeps.
                (self.listener, self.relisten_at) = (None, None);
                self.engine.handle_shutdown(now_ms);
            }
            Happened::Signal(signal) => self.told(now_ms, signal),
            Happened::StreamOver => self.listen_again(),
            Happened::Disk(written) => self.written(now_ms, written)?,
            Happened::Answered { ticket, state, answer } => {
                let offered = state == ReportState::Accepted;
                let ended = !matches!(state, ReportState::Accepted | ReportState::Running);
                if offered {
                    fault::at(Point::AcceptSent);
                } else if ended {
                    fault::at(Point::ResultSent);
                }
                self.engine.handle_answer(now_ms, ticket, answer);
                if offered {
                    fault::at(Point::Accepted);
                }
            }
            Happened::Ended(id, ended, last) => {
                fault::at(Point::Exited);
                self.stops.remove(&id);
                if let Some(progress) = last {
                    self.engine.handle_progress(now_ms, id, progress);
                }
                self.engine.handle_ended(now_ms, id, ended);
            }
            Happened::Swept(id) => self.engine.handle_swept(now_ms, id),
            Happened::Progress(id, progress) => self.engine.handle_progress(now_ms, id, progress),
            Happened::FactsTold(told) => self.facts = told.or(self.facts.take()),
            Happened::FactsDue => {
                self.facts_at = Instant::now() + FACTS_EVERY;
                if self.connection.connected {
                    self.tell_facts(false);
                }
            }
            Happened::Reader(Some(reader)) => {
                tokio::spawn(status::tell(reader, self.status()));
            }
            Happened::Reader(None) => self.socket = None,
            Happened::Time => self.engine.handle_timeout(now_ms),
        }
        Ok(())
    }

    // --- What the engine wants done ---

    fn act(&mut self) {
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Write { ticket, records, reserve } => {
                    self.disk.write(ticket, records, reserve);
                }
                Output::Compact { snapshot, reserve_bytes } => {
                    self.disk.compact(snapshot, reserve_bytes);
                }
                Output::Post { ticket, command, report } => self.post(ticket, command, report),
                Output::Start { event, limit } => self.start_job(event, limit),
                Output::Stop { command, stop } => {
                    if let Some(sender) = self.stops.get(&command) {
                        sender.tell(stop);
                    }
                }
                Output::Sweep { command } => drop(self.sweeps.spawn(sweep(command))),
            }
        }
        self.disk.start();
    }

    fn post(&mut self, ticket: u64, command: CommandId, report: Report) {
        let (hub, device) = (self.hub.clone(), self.agent.device.clone());
        self.posts.spawn(async move {
            let answer = hub.report(&device, command, &report).await;
            (ticket, report.state, judge(&device, command, answer))
        });
    }

    fn start_job(&mut self, event: bellwire_proto::stream::CommandEvent, limit: Duration) {
        let id = event.id;
        tracing::info!(action = %event.action, %id, "running");
        let (stop, stopped) = run::stop();
        self.stops.insert(id, stop);
        let rules = self.agent.list.policy.rules(&event.action).cloned();
        let (progress, mut told) = run::progress();
        let job = Job {
            command: event,
            device: self.agent.device.clone(),
            data_folder: Arc::clone(&self.data_folder),
            limit,
            progress,
            stop: stopped,
        };
        let queue = self.progress_sender.clone();
        self.jobs.spawn(async move {
            let Some(rules) = rules else {
                let gone =
                    Outcome::failed(codes::INTERNAL, "the action is not on the list any more");
                return (id, Ended::Finished(gone), None);
            };
            // A panic in a handler is that handler's end, and not the agent's.
            let handler = std::panic::AssertUnwindSafe(async { rules.run.start(job).await });
            let mut handler = std::pin::pin!(handler.catch_unwind());
            let ended = loop {
                tokio::select! {
                    ended = &mut handler => break ended,
                    Ok(()) = told.changed() => {
                        let progress = *told.borrow_and_update();
                        progress.map(|progress| queue.try_send((id, progress)));
                    }
                }
            };
            let panicked =
                |_| Ended::Finished(Outcome::failed(codes::INTERNAL, "the handler panicked"));
            let last = *told.borrow();
            (id, ended.unwrap_or_else(panicked), last)
        });
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
        if !always && self.facts.as_ref() == Some(&now) || !self.facts_task.is_empty() {
            return;
        }
        let (hub, device) = (self.hub.clone(), self.agent.device.clone());
        self.facts_task.spawn(async move {
            match hub.put_facts(&device, &now).await {
                Ok(_) => Some(now),
                Err(error) => {
                    tracing::debug!(%error, "the facts were not told");
                    None
                }
            }
        });
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

async fn next_reader(socket: &Option<UnixListener>) -> Option<tokio::net::UnixStream> {
    match socket {
        Some(socket) => socket.accept().await.ok().map(|(reader, _)| reader),
        None => std::future::pending().await,
    }
}

/// Kills what is left of a handler, and does not give up: to say that it is dead when it is not would
/// run a command beside itself.
async fn sweep(command: CommandId) -> CommandId {
    loop {
        let swept = tokio::task::spawn_blocking(move || handler::leftover::kill_left(command));
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

/// What an answer to a report means. One that is not the hub's is none, whatever its status.
fn judge(
    device: &DeviceId,
    command: CommandId,
    answer: Result<bellwire_proto::Delivery, Error>,
) -> Answer {
    match answer {
        Ok(delivery) if delivery.command == command && delivery.device == *device => {
            Answer::Delivery { state: delivery.state, rev: delivery.rev }
        }
        Ok(_) => Answer::Failed { retry_after: None },
        Err(Error::Refused { problem, retry_after }) => match problem.code.status() {
            409 => Answer::Conflict { state: problem.delivery.map(|delivery| delivery.state) },
            410 => Answer::Gone,
            413 => Answer::TooLarge,
            400 | 404 => Answer::Unfit,
            _ => Answer::Failed { retry_after },
        },
        Err(error) => {
            tracing::debug!(%command, %error, "a report came to nothing");
            Answer::Failed { retry_after: None }
        }
    }
}
