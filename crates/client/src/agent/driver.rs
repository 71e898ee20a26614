//! The event loop of the agent: it connects the listener, the reports, the handlers and the journal with the engine.
//!
//! It decides nothing about a command. It passes each event to a `handle_*`, carries out `poll_output`, and sleeps
//! until `poll_timeout`. The loop awaits nothing but the next event: reports, handlers, kills and disk writes are
//! tasks of their own, whose number the engine bounds.

use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bellwire_proto::limits::{AGENT_FACTS_EVERY, AGENT_FACTS_TIMEOUT, AGENT_REPORT_TIMEOUT_MAX};
use bellwire_proto::{Action, CommandId, Json, Progress, ReportState, codes};
use futures_util::stream::once;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::credential::CredentialFile;
use super::engine::{Engine, Output};
use super::fault::{self, Point};
use super::journal::{Journal, Record};
use super::network_finding::{FindingWriter, StoredFinding};
use super::run::{self, Completion, DataDir, ProgressReceiver, RunContext, RunEnd, StopSender};
use super::status::{self, ConnectionStatus};
use super::{Agent, AgentError, Credential, clock, facts, handler, link};
use crate::api::{Controller, Error, Listener, Signal};
use crate::path::wake::{Wake, WakeReason};

mod batch;
mod disk;
mod report;
mod shown;
mod stream;
#[cfg(test)]
mod tests;

use disk::{Disk, DiskOutcome};
use report::{Post, Posted};

/// The longest sleep. `CLOCK_BOOTTIME` includes suspend and the runtime's clock does not, so what became due during
/// suspend is noticed within this time.
const SLEEP_MAX: Duration = Duration::from_secs(60);
/// When killing orphan processes is tried again after an error.
const KILL_RETRY: Duration = Duration::from_secs(5);

/// Runs an agent: see [`Agent::run_until`].
pub(super) async fn run(
    agent: Agent,
    shutdown: impl Future<Output = ()>,
    at_once: impl Future<Output = ()>,
) -> Result<(), AgentError> {
    let mut driver = Driver::start(agent)?;
    let mut shutdown_requests = std::pin::pin!(once(shutdown).chain(once(at_once)));
    loop {
        driver.act();
        if driver.engine.is_finished(clock::boot_ms()) && driver.disk.is_idle() {
            status::close(&driver.agent.state_dir);
            tracing::info!("stopped");
            return Ok(());
        }
        let event = tokio::select! {
            biased;
            Some(()) = shutdown_requests.next() => DriverEvent::Shutdown,
            event = driver.next() => event,
        };
        driver.handle(event)?;
    }
}

/// An event of the loop.
enum DriverEvent {
    /// A shutdown request, the first or the second one.
    Shutdown,
    Signal(Signal),
    Disk(DiskOutcome),
    Answered(Posted),
    Ended(CommandId, RunEnd),
    OrphansKilled(CommandId),
    /// A handler has reported progress.
    Progress,
    FactsReported(Result<Json, Option<Error>>),
    FactsDue,
    StatusReader(UnixStream),
    NetworkChanged(WakeReason),
    Timeout,
}

struct Driver {
    agent: Agent,
    engine: Engine,
    disk: Disk,
    data_dir: Arc<DataDir>,
    hub: Controller,
    credential: Option<Arc<CredentialFile>>,
    /// `None` while the agent stops.
    listener: Option<Listener>,
    wake: Wake,
    /// For the next run.
    findings: FindingWriter,
    running: HashMap<CommandId, Running>,
    runs: JoinSet<(CommandId, RunEnd)>,
    posts: JoinSet<Posted>,
    /// Something on the way to the hub refuses batches of reports.
    batches_refused: bool,
    /// Reports fail, and that was logged.
    posts_fail: bool,
    orphan_kills: JoinSet<CommandId>,
    progressed: Arc<Notify>,
    /// The facts that the hub has.
    facts: Option<Json>,
    /// The hub refuses the facts, and that was logged.
    facts_refused: bool,
    facts_task: JoinSet<Result<Json, Option<Error>>>,
    facts_at: Instant,
    readers: Option<mpsc::Receiver<UnixStream>>,
    started_at: Instant,
    connection: ConnectionStatus,
    connection_since: Instant,
    retry_at: Option<Instant>,
}

/// A handler that runs.
struct Running {
    action: Action,
    since: Instant,
    stop: StopSender,
    progress: ProgressReceiver,
    /// The last progress that the engine was given.
    reported: Option<Progress>,
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
            .inspect_err(|error| tracing::warn!(%error, "the status socket cannot be opened"))
            .map(status::readers)
            .ok();
        // Each call has a timeout of its own, and none is longer than this.
        let mut builder = Controller::builder(agent.hub.with_credentials())
            .transport(agent.transport.clone())
            .answer_timeout(AGENT_REPORT_TIMEOUT_MAX);
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
        // A hint counts for the base that it was found out with.
        let finding = StoredFinding::read(&agent.state_dir)
            .filter(|finding| finding.matches_base(hub.url(), &*agent.transport));
        let options = link::options(agent.heartbeat, finding);
        let now = Instant::now();
        let connection = ConnectionStatus {
            hub: hub.url().to_owned(),
            proxy: None,
            hub_why: None,
            connected: false,
            since_s: 0,
            carrier: None,
            carrier_since_s: None,
            carrier_why: None,
            stream_rests_s: None,
            silent_s: None,
            hub_version: None,
            last_loss: None,
            retry_in_s: None,
        };
        Ok(Self {
            listener: Some(hub.listen(&agent.device, &options)?),
            wake: Wake::new(agent.proxy_files.clone()),
            findings: FindingWriter::new(agent.state_dir.clone()),
            agent,
            engine,
            disk: Disk::new(journal),
            data_dir,
            hub,
            credential,
            running: HashMap::new(),
            runs: JoinSet::new(),
            posts: JoinSet::new(),
            batches_refused: false,
            posts_fail: false,
            orphan_kills: JoinSet::new(),
            progressed: Arc::default(),
            facts: None,
            facts_refused: false,
            facts_task: JoinSet::new(),
            facts_at: now + AGENT_FACTS_EVERY,
            readers,
            started_at: now,
            connection,
            connection_since: now,
            retry_at: None,
        })
    }

    /// Waits for the next event. Cancel-safe.
    async fn next(&mut self) -> DriverEvent {
        let timeout = self.engine.poll_timeout().map(|due_ms| {
            let remaining = Duration::from_millis(due_ms.saturating_sub(clock::boot_ms()));
            Instant::now() + remaining.min(SLEEP_MAX)
        });
        let due = async {
            match timeout {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            written = self.disk.next() => DriverEvent::Disk(written),
            Some(Ok((id, ended))) = self.runs.join_next() => DriverEvent::Ended(id, ended),
            Some(Ok(posted)) = self.posts.join_next() => DriverEvent::Answered(posted),
            Some(Ok(id)) = self.orphan_kills.join_next() => DriverEvent::OrphansKilled(id),
            () = self.progressed.notified() => DriverEvent::Progress,
            signal = next_signal(&mut self.listener) => DriverEvent::Signal(signal),
            reason = self.wake.changed() => DriverEvent::NetworkChanged(reason),
            Some(Ok(result)) = self.facts_task.join_next() => DriverEvent::FactsReported(result),
            () = sleep_until(self.facts_at) => DriverEvent::FactsDue,
            Some(reader) = next_reader(&mut self.readers) => DriverEvent::StatusReader(reader),
            () = due => DriverEvent::Timeout,
        }
    }

    fn handle(&mut self, event: DriverEvent) -> Result<(), AgentError> {
        let now_ms = clock::boot_ms();
        self.engine.handle_device_clock(now_ms, clock::device_ms());
        match event {
            DriverEvent::Shutdown => {
                match self.engine.is_stopping() {
                    false => tracing::info!("stopping: no new command is accepted"),
                    true => tracing::warn!("second shutdown request: handlers are killed"),
                }
                // Commands that were not accepted stay queued at the hub.
                self.listener = None;
                self.engine.handle_shutdown(now_ms);
            }
            DriverEvent::Signal(signal) => self.on_signal(now_ms, signal),
            DriverEvent::Disk(written) => self.on_disk_outcome(now_ms, written)?,
            DriverEvent::Answered(posted) => self.on_reports_answered(now_ms, posted),
            DriverEvent::Ended(id, ended) => {
                fault::at(Point::Exited);
                self.report_progress(now_ms);
                self.log_end(id, &ended);
                self.engine.handle_ended(now_ms, id, ended);
            }
            DriverEvent::OrphansKilled(id) => self.engine.handle_orphans_killed(now_ms, id),
            DriverEvent::Progress => self.report_progress(now_ms),
            DriverEvent::FactsReported(result) => self.on_facts_reported(result),
            DriverEvent::FactsDue => {
                self.facts_at = Instant::now() + AGENT_FACTS_EVERY;
                if self.connection.connected {
                    self.report_facts(false);
                }
            }
            DriverEvent::StatusReader(reader) => {
                drop(tokio::spawn(status::send(reader, self.status())))
            }
            DriverEvent::NetworkChanged(reason) => self.on_network_changed(reason),
            DriverEvent::Timeout => self.engine.handle_timeout(now_ms),
        }
        Ok(())
    }

    // --- Outputs of the engine ---

    fn act(&mut self) {
        let mut posts = Vec::new();
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Write { ticket, records, reserve } => {
                    log_steps(&records);
                    self.disk.write(ticket, records, reserve);
                }
                Output::Compact { snapshot, reserve_bytes } => {
                    self.disk.compact(snapshot, reserve_bytes);
                }
                Output::Post { ticket, command, report } => {
                    let limit = self.engine.post_limit(command);
                    posts.push(Post { ticket, command, report, limit });
                }
                Output::Start { event, limit } => self.start_job(event, limit),
                Output::Stop { command, stop } => {
                    if let Some(running) = self.running.get(&command) {
                        running.stop.send(stop);
                    }
                }
                Output::KillOrphans { command } => {
                    drop(self.orphan_kills.spawn(kill_orphans(command)))
                }
            }
        }
        self.send_reports(posts);
        self.disk.start();
    }

    fn start_job(&mut self, event: bellwire_proto::stream::CommandEvent, limit: Duration) {
        let id = event.id;
        tracing::info!(action = %event.action, %id, "running");
        let (stop, stopped) = run::stop_channel();
        let rules = self.agent.list.policy.rules(&event.action).cloned();
        let (progress, mut progress_receiver) = run::progress_channel();
        let running = Running {
            action: event.action.clone(),
            since: Instant::now(),
            stop,
            progress: progress_receiver.clone(),
            reported: None,
        };
        self.running.insert(id, running);
        let context = RunContext {
            command: event,
            device: self.agent.device.clone(),
            data_dir: Arc::clone(&self.data_dir),
            limit,
            progress,
            stop: stopped,
        };
        let progressed = Arc::clone(&self.progressed);
        self.runs.spawn(async move {
            let Some(rules) = rules else {
                let gone =
                    Completion::failed(codes::INTERNAL, "the action is no longer on the list");
                return (id, RunEnd::Finished(gone));
            };
            let panicked =
                RunEnd::Finished(Completion::failed(codes::INTERNAL, "the handler panicked"));
            let handler = catch_panic(async { rules.run.start(context).await }, panicked);
            let mut handler = std::pin::pin!(handler);
            loop {
                tokio::select! {
                    ended = &mut handler => return (id, ended),
                    Ok(()) = progress_receiver.changed() => progressed.notify_one(),
                }
            }
        });
    }

    /// Passes on progress that is new. Each handler has one slot with its latest progress: older values may be lost.
    fn report_progress(&mut self, now_ms: u64) {
        for (id, running) in &mut self.running {
            let now = *running.progress.borrow_and_update();
            if let Some(progress) = now.filter(|_| now != running.reported) {
                running.reported = now;
                self.engine.handle_progress(now_ms, *id, progress);
            }
        }
    }

    fn log_end(&mut self, id: CommandId, ended: &RunEnd) {
        let Some(Running { action, since, .. }) = self.running.remove(&id) else { return };
        let (RunEnd::Finished(completion) | RunEnd::Stopped(completion)) = ended;
        let code = completion.outcome.error.as_ref().map(|error| error.code.as_str());
        let state = ReportState::from(completion.state).as_str();
        let seconds = (since.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
        if matches!(ended, RunEnd::Stopped(_)) && self.engine.is_stopping() {
            let on_restart =
                self.agent.list.policy.rules(&action).map(|rules| rules.on_restart.as_str());
            return tracing::info!(%action, %id, seconds, on_restart, "interrupted");
        }
        tracing::info!(%action, %id, state, code, seconds, "ended");
    }

    fn on_disk_outcome(&mut self, now_ms: u64, written: DiskOutcome) -> Result<(), AgentError> {
        match written {
            DiskOutcome::Appended { tickets, points, bytes } => {
                points.into_iter().for_each(fault::at);
                for ticket in tickets {
                    self.engine.handle_written(now_ms, ticket, bytes);
                }
            }
            DiskOutcome::Full { ticket } => self.engine.handle_disk_full(now_ms, ticket),
            DiskOutcome::Compacted { bytes } => self.engine.handle_compacted(now_ms, bytes),
            DiskOutcome::Failed { error: source } => {
                let dir = self.agent.state_dir.clone();
                return Err(AgentError::Disk { dir, source });
            }
        }
        Ok(())
    }

    // --- Facts ---

    fn report_facts(&mut self, always: bool) {
        let now = facts::now(&self.agent.facts);
        if always {
            // A report over the previous connection may hang.
            self.facts_task.abort_all();
        } else if self.facts.as_ref() == Some(&now) || !self.facts_task.is_empty() {
            return;
        }
        let (hub, device) = (self.hub.clone(), self.agent.device.clone());
        self.facts_task.spawn(async move {
            let report = async {
                let answer = timeout(AGENT_FACTS_TIMEOUT, hub.put_facts(&device, &now)).await;
                answer.map_or(Err(None), |answer| answer.map(drop).map_err(Some))
            };
            catch_panic(report, Err(None)).await.map(|()| now)
        });
    }

    fn on_facts_reported(&mut self, result: Result<Json, Option<Error>>) {
        match result {
            Ok(facts) => (self.facts, self.facts_refused) = (Some(facts), false),
            Err(Some(error @ Error::Refused { .. }))
                if !std::mem::replace(&mut self.facts_refused, true) =>
            {
                tracing::warn!("the hub refuses this device's facts: {error}");
            }
            // If the hub is unreachable, the loss of the stream is logged already.
            Err(error) => tracing::debug!(?error, "the facts were not reported"),
        }
    }
}

/// Pending without a listener: while the agent stops.
async fn next_signal(listener: &mut Option<Listener>) -> Signal {
    if let Some(signals) = listener {
        match signals.next().await {
            Some(Ok(signal)) => return signal,
            // It retries after every loss, so it does not end by itself.
            ended => {
                tracing::error!(?ended, "no command is received any more: restart the agent");
                *listener = None;
            }
        }
    }
    std::future::pending().await
}

async fn next_reader(readers: &mut Option<mpsc::Receiver<UnixStream>>) -> Option<UnixStream> {
    match readers {
        Some(readers) => readers.recv().await,
        None => std::future::pending().await,
    }
}

/// Runs a task and returns `panicked` if it panics. Otherwise the task would vanish with all that depends on it: a
/// slot for a report, or a command that would run for ever.
async fn catch_panic<T>(work: impl Future<Output = T>, panicked: T) -> T {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or(panicked)
}

/// What an operator reads about a command, besides its run.
fn log_steps(records: &[Record]) {
    let is_end = |record: &Record| matches!(record, Record::Ended { .. });
    for record in records {
        match record {
            // A command that is rejected at once has a line for that.
            Record::Received(received) if !records.iter().any(is_end) => {
                let event = &received.event;
                tracing::info!(action = %event.action, id = %event.id, "received");
            }
            Record::Acked { command } => tracing::info!(id = %command, "reported"),
            _ => {}
        }
    }
}

/// Kills the orphan processes of a command, and does not give up: a command that is wrongly taken for dead would run
/// twice at the same time.
async fn kill_orphans(command: CommandId) -> CommandId {
    loop {
        let result = tokio::task::spawn_blocking(move || handler::orphans::kill_orphans(command));
        match result.await {
            Ok(Ok(killed)) => {
                if killed > 0 {
                    tracing::warn!(%command, killed, "orphan processes of a handler were killed");
                }
                return command;
            }
            Ok(Err(error)) => {
                tracing::error!(%command, %error, "orphan processes of a handler cannot be killed")
            }
            Err(error) => {
                tracing::error!(%command, %error, "orphan processes of a handler cannot be killed")
            }
        }
        sleep(KILL_RETRY).await;
    }
}
