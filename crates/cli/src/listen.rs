//! `bellwire listen`: an appliance in one line. Prints each command or runs a program for it, and
//! reports the result; reconnects for ever.
//!
//! There is no journal here: an answered command is remembered while the program runs, so that one
//! that is delivered twice is answered twice and run once. Only the agent survives power cuts.

use std::collections::{HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bellwire::output::consumed_line;
use bellwire_client::Controller;
use bellwire_client::agent::handler::{Program, ProgramError};
use bellwire_client::agent::run::{
    DataDir, ProgressReceiver, Run as _, RunContext, Stop, StopReceiver, StopSender,
    progress_channel, stop_channel,
};
use bellwire_client::api::{Error, ListenOptions, Signal};
use bellwire_client::event_source::Retry;
use bellwire_client::path::{Carrier, status::BEING_PROVEN, wake::Wake};
use bellwire_proto::stream::{ByeReason, CommandEvent};
use bellwire_proto::{CommandId, DeviceId, ErrorInfo, Outcome, Report, ReportState, codes, limits};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::args::Listen;
use crate::exit::{self, Usage};
use crate::explain::Losses;
use crate::out::{self, BAD, BOLD, DIM, Form, GOOD, StdoutError};
use crate::saved;

/// Answers that are remembered: ten times the commands that wait at the hub by default.
const REMEMBERED_MAX: usize = 10 * limits::QUEUE_MAX;
/// Of these, how many with their output, which is up to 128 KiB each.
const REMEMBERED_WITH_OUTPUT: usize = 16;
/// The least time between two progress reports.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

pub(crate) async fn run(args: Listen, form: Form) -> anyhow::Result<u8> {
    let hub = crate::connect::controller(&args.hub)?;
    if !args.without_exec.is_empty() {
        let words: Vec<_> = args.without_exec.iter().map(|word| word.to_string_lossy()).collect();
        let words = out::printable(&words.join(" "));
        return Err(Usage(format!(
            "a program goes behind --exec: bellwire listen {} --exec {words}",
            args.device
        ))
        .into());
    }
    let program = program(&args.exec)?;
    if program.is_none() && form == Form::Text {
        out::note("no --exec: each command is printed, and answered succeeded");
    }
    if let Some(folder) = &args.save_dir {
        saved::prepare(folder).map_err(|e| Usage(format!("--save-dir cannot be used: {e:#}")))?;
    }
    let mut signals = hub.listen(&args.device, &ListenOptions::default().retry(Retry::always()))?;
    let mut wake = Wake::new([]);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut appliance = Appliance {
        link: Arc::new(Link {
            hub,
            device: args.device,
            program,
            data_dir: Arc::new(DataDir::temporary()?),
            stopping: AtomicBool::new(false),
        }),
        form,
        save_dir: args.save_dir,
        losses: Losses::default(),
        way: (None, None),
        running: HashMap::new(),
        answered: VecDeque::new(),
        jobs: JoinSet::new(),
    };
    loop {
        tokio::select! {
            signal = signals.next() => match signal {
                Some(signal) => appliance.on_signal(signal?),
                None => return Ok(exit::OK),
            },
            Some(done) = appliance.jobs.join_next() => appliance.done(done),
            reason = wake.changed() => {
                tracing::info!("trying everything again: {}", reason.as_str());
                signals.network_changed();
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    appliance.stop().await;
    Ok(exit::OK)
}

/// The connection to the hub, and the program to run.
struct Link {
    hub: Controller,
    device: DeviceId,
    program: Option<Program>,
    data_dir: Arc<DataDir>,
    /// Whether this program is ending: what ends now was interrupted, not cancelled.
    stopping: AtomicBool,
}

/// The program to run, with what `listen` itself has around it: environment, folder, umask.
///
/// # Errors
/// When there is no such program: reported now and not at the first command.
pub(crate) fn program(argv: &[OsString]) -> Result<Option<Program>, Usage> {
    let Some((program, args)) = argv.split_first() else { return Ok(None) };
    if program.as_encoded_bytes().starts_with(b"-") {
        return Err(Usage(format!(
            "--exec is followed by a program, and {} looks like an option: what belongs to bellwire goes before --exec",
            program.display()
        )));
    }
    let run = Program::new(program, args);
    let shown = program.display();
    match run.file() {
        Ok(_) => Ok(Some(run)),
        Err(ProgramError::NotFound(_)) if args.is_empty() && has_blank(program) => {
            Err(Usage(format!(
                "cannot run {shown}: no such program; the program and its arguments are separate words: --exec {shown}, \
                 without the quotes"
            )))
        }
        Err(ProgramError::NotFound(_)) => {
            Err(Usage(format!("cannot run {shown}: no such program")))
        }
        Err(ProgramError::NotExecutable(path)) if path.is_file() => Err(Usage(format!(
            "cannot run {shown}: it is not executable: chmod +x {}",
            path.display()
        ))),
        Err(error) => Err(Usage(format!("cannot run {shown}: {error}"))),
    }
}

fn has_blank(text: &OsStr) -> bool {
    text.as_encoded_bytes().contains(&b' ')
}

fn print_way(way: (Option<Carrier>, Option<String>)) {
    let (Some(carrier), Some(why)) = way else { return };
    if why == BEING_PROVEN {
        return;
    }
    let by = match carrier {
        Carrier::Poll => "long poll",
        Carrier::Stream | Carrier::CompatStream => "a stream with comments",
    };
    out::note(&format!("commands arrive by {by}: {}", out::printable(&why)));
}

struct Appliance {
    link: Arc<Link>,
    form: Form,
    /// Where commands are written to.
    save_dir: Option<PathBuf>,
    /// What was printed about lost connections.
    losses: Losses,
    /// By which way commands arrive, and why, as it was printed.
    way: (Option<Carrier>, Option<String>),
    /// Running commands, and how to stop them.
    running: HashMap<CommandId, StopSender>,
    /// Answered commands, oldest first.
    answered: VecDeque<(CommandId, Report)>,
    /// Running programs and open reports; each job ends with its report.
    jobs: JoinSet<(CommandId, Report)>,
}

impl Appliance {
    fn on_signal(&mut self, signal: Signal) {
        match signal {
            Signal::Hello(hello) => {
                self.losses.connected();
                out::note(&format!(
                    "listening as {} at {} ({})",
                    hello.device,
                    self.link.hub.url(),
                    hello.hub
                ));
            }
            Signal::Command(command) => self.command(command),
            Signal::Cancel(cancel) => self.cancel(cancel.id),
            Signal::Bye(bye) => out::note(match bye.reason {
                ByeReason::Replaced => {
                    "another listener has this name and took the stream; only one may have it: \
                     stop one of them (taking it back …)"
                }
                ByeReason::Draining => "the hub is shutting down; coming back …",
                ByeReason::Revoked => {
                    "the hub has removed this device, or requires a token that is valid; coming back …"
                }
                ByeReason::Overloaded => "this side reads too slowly; coming back …",
                ByeReason::Unconfirmed | ByeReason::Rotate => {
                    "the hub ends the stream; coming back …"
                }
            }),
            Signal::Lost { loss, retry_in } => {
                let loss = self.losses.text(&loss);
                out::note(&format!(
                    "{}: {loss}; again in {}",
                    self.link.hub.url(),
                    out::span(retry_in)
                ));
            }
            Signal::Carrier { carrier, why } => {
                let way = (carrier, why);
                if self.way != way {
                    self.way = way.clone();
                    print_way(way);
                }
            }
            Signal::Heartbeat { .. } => {}
        }
    }

    fn command(&mut self, command: CommandEvent) {
        if self.running.contains_key(&command.id) {
            return; // It runs, and its keepalive reports continue.
        }
        if let Some((id, report)) = self.answered.iter().find(|(id, _)| *id == command.id) {
            self.answer(*id, report.clone());
            return;
        }
        let shown = show(&command, self.form);
        if let Err(e) = &shown {
            tracing::warn!("{} is not shown: {e}", command.id);
        }
        if let Some(folder) = &self.save_dir
            && let Err(e) = saved::save(folder, &self.link.device, &command)
        {
            // It must not be lost: a nack makes the hub send it again, with backoff.
            out::error(&format!("{} is not saved and not taken: {e:#}", command.id));
            self.answer(command.id, Report::of(ReportState::Nack));
            return;
        }
        let Some(program) = self.link.program.clone() else {
            // To print it is all that is done with it, so it must not be answered as done.
            if shown.is_err() && self.save_dir.is_none() {
                self.answer(command.id, Report::of(ReportState::Nack));
                return;
            }
            self.answer(command.id, Report::of(ReportState::Succeeded));
            return;
        };
        let (stop_sender, stop) = stop_channel();
        self.running.insert(command.id, stop_sender);
        let link = Arc::clone(&self.link);
        self.jobs.spawn(async move {
            let mut report = link.run(&program, &command, stop).await;
            // The hub did not cancel it and would not accept `cancelled`.
            if report.state == ReportState::Cancelled && link.stopping.load(Ordering::Relaxed) {
                report.state = ReportState::Failed;
                report.outcome.error = Some(ErrorInfo::of(codes::INTERRUPTED));
            }
            link.answer(command.id, &report).await;
            (command.id, report)
        });
    }

    fn cancel(&mut self, id: CommandId) {
        if let Some(stop) = self.running.get(&id) {
            out::note(&format!("cancelling {id}"));
            stop.send(Stop::Cancel);
        } else if let Some((_, report)) = self.answered.iter().find(|(known, _)| *known == id) {
            self.answer(id, report.clone());
        } else {
            self.answer(id, Report::of(ReportState::Cancelled));
        }
    }

    fn answer(&mut self, id: CommandId, report: Report) {
        let link = Arc::clone(&self.link);
        self.remember(id, report.clone());
        self.jobs.spawn(async move {
            link.answer(id, &report).await;
            (id, report)
        });
    }

    fn done(&mut self, job: Result<(CommandId, Report), tokio::task::JoinError>) {
        let Ok((id, report)) = job else { return };
        if self.running.remove(&id).is_some()
            && self.form == Form::Text
            && let Err(e) = show_end(&report)
        {
            tracing::warn!("the end of {id} is not shown: {e}");
        }
        self.remember(id, report);
    }

    fn remember(&mut self, id: CommandId, report: Report) {
        if report.state == ReportState::Nack {
            return;
        }
        self.answered.retain(|(known, _)| *known != id);
        if self.answered.len() >= REMEMBERED_MAX {
            self.answered.pop_front();
        }
        self.answered.push_back((id, report));
        // The hub has most of them by now; without output the others need little memory.
        let with_output = self.answered.len().saturating_sub(REMEMBERED_WITH_OUTPUT);
        if let Some((_, older)) =
            with_output.checked_sub(1).and_then(|at| self.answered.get_mut(at))
        {
            older.outcome.drop_output();
        }
    }

    /// Stops running programs, and waits for the reports.
    async fn stop(mut self) {
        if !self.running.is_empty() {
            out::note(&format!(
                "stopping: {} running program(s) are ended, and answered failed (interrupted)",
                self.running.len()
            ));
        }
        self.link.stopping.store(true, Ordering::Relaxed);
        self.running.values().for_each(|stop| stop.send(Stop::Cancel));
        let all = async { while self.jobs.join_next().await.is_some() {} };
        if timeout(limits::LISTEN_STOP_TIMEOUT, all).await.is_err() {
            out::note("some answers did not reach the hub");
        }
    }
}

impl Link {
    /// Runs the program as long as its sender allows, and reports meanwhile that it runs: the run clock of the hub alone
    /// would never end it.
    async fn run(&self, program: &Program, command: &CommandEvent, stop: StopReceiver) -> Report {
        let (progress_sender, progress) = progress_channel();
        let context = RunContext {
            command: command.clone(),
            device: self.device.clone(),
            data_dir: Arc::clone(&self.data_dir),
            limit: Duration::from_secs(command.run_timeout_s),
            progress: progress_sender,
            stop,
        };
        tokio::select! {
            never = self.report_running(command, progress) => never,
            ended = program.start(context) => ended.into_completion().into_report(),
        }
    }

    /// Reports `running` at once, with each progress, and again before the run clock of the hub
    /// expires. Never ends.
    async fn report_running(
        &self,
        command: &CommandEvent,
        mut progress: ProgressReceiver,
    ) -> Report {
        let every = Duration::from_millis(command.run_timeout_s.saturating_mul(1000) / 3)
            .min(limits::LISTEN_PAUSE_MAX);
        loop {
            let progress_now = *progress.borrow_and_update();
            let outcome = Outcome { progress: progress_now, ..Outcome::default() };
            let attempt = Some(command.attempt);
            let report = Report { attempt, ..Report::new(ReportState::Running, outcome) };
            // A lost report is made up for by the next.
            if let Err(e) = self.hub.report(&self.device, command.id, &report).await {
                tracing::debug!("the running report was not delivered: {e}");
            }
            let pause = PROGRESS_EVERY.min(every);
            sleep(pause).await;
            timeout(every - pause, progress.changed()).await.ok();
        }
    }

    /// Reports to the hub until it has answered.
    async fn answer(&self, id: CommandId, report: &Report) {
        let until = Instant::now() + limits::LISTEN_REPORT_RETRY;
        let mut pause = Duration::from_millis(200);
        loop {
            match self.hub.report(&self.device, id, report).await {
                Ok(_) => return,
                Err(Error::Refused { problem, .. }) if problem.code.status() < 500 => {
                    return tracing::debug!("{id} was answered otherwise before: {problem}");
                }
                Err(e) if Instant::now() + pause > until => {
                    return tracing::warn!("the answer to {id} is given up: {e}");
                }
                Err(e) => tracing::debug!("the answer to {id} is tried again: {e}"),
            }
            sleep_until(Instant::now() + pause).await;
            pause = (pause * 2).min(limits::LISTEN_PAUSE_MAX);
        }
    }
}

fn show(command: &CommandEvent, form: Form) -> anyhow::Result<()> {
    let CommandEvent { id, action, data, attempt, .. } = command;
    let line = match form {
        Form::Json => serde_json::to_string(command)?,
        Form::Text => {
            let again = if *attempt > 1 { format!(" (attempt {attempt})") } else { String::new() };
            let data = out::printable(data.as_str());
            format!("{BOLD}{action}{BOLD:#} {data} {DIM}{id}{again}{DIM:#}")
        }
    };
    Ok(consumed_line(line)?)
}

fn show_end(report: &Report) -> Result<(), StdoutError> {
    let style = if report.state == ReportState::Succeeded { GOOD } else { BAD };
    let code =
        report.outcome.exit_code.map(|code| format!(", exit code {code}")).unwrap_or_default();
    let error = report.outcome.error.as_ref().and_then(|error| error.message.as_deref());
    let error = error.map(|text| format!(": {}", out::printable(text))).unwrap_or_default();
    out::line(format_args!("  {style}{}{style:#}{code}{error}", report.state.as_str()))
}
