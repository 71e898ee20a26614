//! What runs a command, as the rest of the agent sees it: a [`Job`] goes in, an [`Ended`] comes out.
//!
//! Three things are a [`Run`]: a program ([`handler`](super::handler)), a request to a local server
//! ([`forward`](super::forward)) and a Rust closure. Whether a command may run, when, and what is
//! told to the hub is decided elsewhere; nothing here knows of the journal or the network.

use std::time::Duration;

use bellwire_proto::stream::CommandEvent;
use bellwire_proto::{DeviceId, ErrorInfo, Json, Progress, Report, ReportState};
use futures_core::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::Instant;

/// What runs the commands of one action.
pub trait Run: Send + Sync {
    /// Begins to run, and tells how it ended. Nothing happens before the future is polled; to drop
    /// it is to kill what runs.
    ///
    /// The future keeps to [`Job::limit`] and heeds [`Job::stop`] by itself.
    fn start(&self, job: Job) -> BoxFuture<'static, Ended>;
}

/// One command, to be run once.
#[derive(Debug)]
pub struct Job {
    /// The command as it came.
    pub command: CommandEvent,
    /// Whose command it is.
    pub device: DeviceId,
    /// How long it may run. Past it, it is ended and has failed with code `timeout`.
    pub limit: Duration,
    /// Where progress is told.
    pub progress: ProgressSender,
    /// By which it is told to stop.
    pub stop: StopReceiver,
}

impl Job {
    /// When its limit is over. One that no clock can count to is as good as none.
    pub(super) fn until(&self) -> Instant {
        const NEVER: Duration = Duration::from_secs(100 * 365 * 86_400);
        Instant::now() + self.limit.min(NEVER)
    }
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Ended {
    /// By itself, or at its limit. This is the result.
    Finished(Outcome),
    /// By a signal while it was being stopped. After [`Stop::Cancel`] the outcome is `cancelled`,
    /// and it is the result. After [`Stop::Shutdown`] or [`Stop::Kill`] it is `failed` with code
    /// `interrupted`, and what follows is for `on_restart` to say.
    Stopped(Outcome),
}

impl Ended {
    /// What to tell of it, however it ended.
    pub fn into_outcome(self) -> Outcome {
        match self {
            Self::Finished(outcome) | Self::Stopped(outcome) => outcome,
        }
    }
}

/// What is to be told of a run. Within the limits of the contract, section 2, as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// `succeeded`, `failed` or `cancelled`; `rejected` for a closure whose parameters did not fit.
    pub state: ReportState,
    /// The exit code; 128+n when signal n ended it. `None` for what is no program.
    pub exit_code: Option<i64>,
    /// What it gave back.
    pub result: Option<Json>,
    /// The end of standard output.
    pub stdout: Option<String>,
    /// The end of standard error.
    pub stderr: Option<String>,
    /// Whether output, or the body of an answer, was cut.
    pub truncated: bool,
    /// What went wrong.
    pub error: Option<ErrorInfo>,
}

impl Outcome {
    /// An outcome of which nothing but the state is known.
    pub const fn of(state: ReportState) -> Self {
        Self {
            state,
            exit_code: None,
            result: None,
            stdout: None,
            stderr: None,
            truncated: false,
            error: None,
        }
    }

    /// `failed`, and why.
    pub fn failed(code: &str, message: impl Into<String>) -> Self {
        let error = ErrorInfo { code: code.to_owned(), message: Some(message.into()) };
        Self { error: Some(error), ..Self::of(ReportState::Failed) }
    }

    /// As a report, without `rev` and `attempt`.
    pub fn into_report(self) -> Report {
        Report {
            result: self.result,
            exit_code: self.exit_code,
            stdout: self.stdout,
            stderr: self.stderr,
            truncated: Some(self.truncated),
            error: self.error,
            ..Report::of(self.state)
        }
    }
}

/// In which way a run is to stop. A later word outranks an earlier one in this order; one that is
/// told after it has ended changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// The agent is about to stop: it may go on, but if a signal ends it from now on, that was
    /// the shutdown and no failure of its own.
    Shutdown,
    /// Nobody wants it any more: it is asked to end (TERM), and made to a little later (KILL).
    Cancel,
    /// It has had its time: it is ended at once (KILL).
    Kill,
}

/// Tells a run to stop. To drop it tells nothing.
#[derive(Debug)]
pub struct StopSender(watch::Sender<Option<Stop>>);

/// Hears when to stop.
#[derive(Debug, Clone)]
pub struct StopReceiver(watch::Receiver<Option<Stop>>);

/// Makes the two ends.
pub fn stop() -> (StopSender, StopReceiver) {
    let (sender, receiver) = watch::channel(None);
    (StopSender(sender), StopReceiver(receiver))
}

impl StopSender {
    /// Tells it. What was told before and outranks this stays.
    pub fn tell(&self, stop: Stop) {
        self.0.send_if_modified(|told| {
            let outranks = Some(stop) > *told;
            if outranks {
                *told = Some(stop);
            }
            outranks
        });
    }
}

impl StopReceiver {
    /// What was told so far.
    pub fn told(&self) -> Option<Stop> {
        *self.0.borrow()
    }

    /// Waits until `at_least` was told, or what outranks it. For ever, if nobody can tell any more.
    pub async fn wait_for(&mut self, at_least: Stop) -> Stop {
        let told = self.0.wait_for(|told| *told >= Some(at_least)).await.map(|told| *told);
        match told {
            Ok(told) => told.unwrap_or(at_least),
            Err(_) => std::future::pending().await,
        }
    }
}

/// Tells how far a run is. Only the newest word is kept.
#[derive(Debug, Clone)]
pub struct ProgressSender(watch::Sender<Option<Progress>>);

/// Hears how far a run is.
pub type ProgressReceiver = watch::Receiver<Option<Progress>>;

/// Makes the two ends. Nothing is told yet.
pub fn progress() -> (ProgressSender, ProgressReceiver) {
    let (sender, receiver) = watch::channel(None);
    (ProgressSender(sender), receiver)
}

impl ProgressSender {
    /// Tells it.
    pub fn tell(&self, progress: Progress) {
        self.0.send_replace(Some(progress));
    }
}
