//! `bellwire listen`: an appliance in one line. Prints each command or runs a program for it, and
//! answers; comes back for ever.
//!
//! There is no journal here: a command that was answered is remembered while this runs, so that one
//! that comes twice is answered twice and run once. Surviving power cuts is the agent's business.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use bellwire_client::Controller;
use bellwire_client::api::{Error, ListenOptions, Signal};
use bellwire_proto::stream::{ByeReason, CommandEvent};
use bellwire_proto::{CommandId, DeviceId, ErrorInfo, Report, ReportState, limits};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::args::Listen;
use crate::exec::{self, Run};
use crate::exit::{self, Usage};
use crate::out::{self, BAD, BOLD, DIM, Form, GOOD};

/// Answers that are remembered: the hub keeps at most this many unanswered, and some to spare.
const REMEMBERED_MAX: usize = 10 * limits::QUEUE_MAX;
/// How long an answer is tried before it is given up. The hub will by then have sent the command
/// again, or ended it.
const ANSWER_FOR: Duration = Duration::from_secs(3600);
/// The longest pause between two tries of an answer, and between two signs that a program runs.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// What running programs and open answers get when this is told to stop.
const STOP_WITHIN: Duration = Duration::from_secs(8);

pub(crate) async fn run(args: Listen, form: Form) -> anyhow::Result<u8> {
    let hub = Controller::new(&args.hub.hub).map_err(|e| Usage(e.to_string()))?;
    let mut signals = hub.listen(&args.device, &ListenOptions::default())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut appliance = Appliance {
        link: Arc::new(Link { hub, device: args.device, argv: args.exec }),
        form,
        running: HashMap::new(),
        answered: VecDeque::new(),
        jobs: JoinSet::new(),
    };
    loop {
        tokio::select! {
            told = signals.next() => match told {
                Some(told) => appliance.told(told?)?,
                None => return Ok(exit::OK),
            },
            Some(done) = appliance.jobs.join_next() => appliance.done(done),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    appliance.stop().await;
    Ok(exit::OK)
}

/// The way to the hub, and what to run.
struct Link {
    hub: Controller,
    device: DeviceId,
    argv: Vec<OsString>,
}

struct Appliance {
    link: Arc<Link>,
    form: Form,
    /// What runs, and how to stop it.
    running: HashMap<CommandId, oneshot::Sender<()>>,
    /// What was answered, oldest first.
    answered: VecDeque<(CommandId, Report)>,
    /// Programs and answers under way; each job ends with what it answered.
    jobs: JoinSet<(CommandId, Report)>,
}

impl Appliance {
    fn told(&mut self, signal: Signal) -> anyhow::Result<()> {
        match signal {
            Signal::Hello(hello) => {
                out::note(&format!(
                    "listening as {} at {} ({})",
                    hello.device,
                    self.link.hub.url(),
                    hello.hub
                ));
            }
            Signal::Command(command) => self.command(command)?,
            Signal::Cancel(cancel) => self.cancel(cancel.id),
            Signal::Bye(bye) if bye.reason == ByeReason::Replaced => {
                out::note("another listener has this name and took the stream; taking it back …");
            }
            Signal::Bye(bye) => out::note(&format!("the hub ends the stream ({:?})", bye.reason)),
            Signal::Lost { loss, retry_in } => {
                out::note(&format!("{loss}; again in {}", out::span(retry_in)));
            }
            // Heartbeats, and what later versions tell.
            _ => {}
        }
        Ok(())
    }

    fn command(&mut self, command: CommandEvent) -> anyhow::Result<()> {
        if self.running.contains_key(&command.id) {
            return Ok(()); // It runs, and says so from time to time.
        }
        if let Some((id, report)) = self.answered.iter().find(|(id, _)| *id == command.id) {
            self.answer(*id, report.clone());
            return Ok(());
        }
        match self.form {
            Form::Json => out::json(&command)?,
            Form::Text => show(&command),
        }
        if self.link.argv.is_empty() {
            self.answer(command.id, Report::of(ReportState::Succeeded));
            return Ok(());
        }
        let (cancel, cancelled) = oneshot::channel();
        self.running.insert(command.id, cancel);
        let link = Arc::clone(&self.link);
        self.jobs.spawn(async move {
            let report = link.run(&command, cancelled).await;
            link.answer(command.id, &report).await;
            (command.id, report)
        });
        Ok(())
    }

    fn cancel(&mut self, id: CommandId) {
        if let Some(cancel) = self.running.remove(&id) {
            out::note(&format!("cancelling {id}"));
            cancel.send(()).ok();
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
        if self.running.remove(&id).is_some() && self.form == Form::Text {
            show_end(&report);
        }
        self.remember(id, report);
    }

    fn remember(&mut self, id: CommandId, report: Report) {
        self.answered.retain(|(known, _)| *known != id);
        if self.answered.len() >= REMEMBERED_MAX {
            self.answered.pop_front();
        }
        self.answered.push_back((id, report));
    }

    /// Ends what runs, and lets the answers out.
    async fn stop(mut self) {
        for (_, cancel) in self.running.drain() {
            cancel.send(()).ok();
        }
        let all = async { while self.jobs.join_next().await.is_some() {} };
        if timeout(STOP_WITHIN, all).await.is_err() {
            out::note("some answers did not reach the hub");
        }
    }
}

impl Link {
    /// Runs the program, and tells meanwhile that it runs.
    async fn run(&self, command: &CommandEvent, cancelled: oneshot::Receiver<()>) -> Report {
        let alive = self.tell_running(command);
        let program = exec::run(&self.argv, &self.device, command, cancelled);
        tokio::select! {
            never = alive => never,
            run = program => match run {
                Ok(run) => report_of(run),
                Err(e) => Report {
                    error: Some(ErrorInfo { code: "spawn_failed".into(), message: Some(e.to_string()) }),
                    ..Report::of(ReportState::Failed)
                },
            },
        }
    }

    /// Says `running` at once, and again before the hub could lose its patience. Never ends.
    async fn tell_running(&self, command: &CommandEvent) -> Report {
        let every =
            Duration::from_millis(command.run_timeout_s.saturating_mul(1000) / 3).min(PAUSE_MAX);
        loop {
            let report =
                Report { attempt: Some(command.attempt), ..Report::of(ReportState::Running) };
            // One that is lost is made good by the next.
            if let Err(e) = self.hub.report(&self.device, command.id, &report).await {
                tracing::debug!("running was not told: {e}");
            }
            sleep(every).await;
        }
    }

    /// Tells the hub until it has heard.
    async fn answer(&self, id: CommandId, report: &Report) {
        let until = Instant::now() + ANSWER_FOR;
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
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

fn report_of(run: Run) -> Report {
    let (state, error) = match (run.cancelled, run.exit_code, run.signal) {
        (true, ..) => (ReportState::Cancelled, None),
        (false, 0, _) => (ReportState::Succeeded, None),
        (false, _, Some(_)) => (ReportState::Failed, Some(ErrorInfo::of("signal"))),
        (false, ..) => (ReportState::Failed, Some(ErrorInfo::of("exit_status"))),
    };
    Report {
        exit_code: Some(run.exit_code),
        stdout: Some(run.stdout),
        stderr: Some(run.stderr),
        truncated: Some(run.truncated),
        error,
        ..Report::of(state)
    }
}

fn show(command: &CommandEvent) {
    let again =
        if command.attempt > 1 { format!(" (attempt {})", command.attempt) } else { String::new() };
    anstream::println!(
        "{BOLD}{}{BOLD:#} {} {DIM}{}{again}{DIM:#}",
        command.action,
        out::printable(command.data.as_str()),
        command.id
    );
}

fn show_end(report: &Report) {
    let style = if report.state == ReportState::Succeeded { GOOD } else { BAD };
    let code = report.exit_code.map(|code| format!(", exit code {code}")).unwrap_or_default();
    anstream::println!("  {style}{}{style:#}{code}", report.state.as_str());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(exit_code: i64, signal: Option<i32>, cancelled: bool) -> Run {
        Run {
            exit_code,
            signal,
            stdout: String::new(),
            stderr: String::new(),
            truncated: false,
            cancelled,
        }
    }

    #[test]
    fn how_a_program_ended_is_what_is_answered() {
        let answer = |r| {
            let report = report_of(r);
            (report.state, report.error.map(|e| e.code))
        };
        assert_eq!(answer(run(0, None, false)), (ReportState::Succeeded, None));
        assert_eq!(answer(run(3, None, false)), (ReportState::Failed, Some("exit_status".into())));
        assert_eq!(answer(run(137, Some(9), false)), (ReportState::Failed, Some("signal".into())));
        assert_eq!(answer(run(143, Some(15), true)), (ReportState::Cancelled, None));
    }
}
