//! What runs a command, as the rest of the agent sees it: a [`Job`] goes in, an [`Ended`] comes out.
//!
//! Three things are a [`Run`]: a program ([`handler`](super::handler)), a request to a local server
//! ([`forward`](super::forward)) and a Rust closure. Whether a command may run, when, and what is
//! told to the hub is decided elsewhere; nothing here knows of the journal or the network.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bellwire_proto::limits::{
    ERROR_CODE_BYTES_MAX, ERROR_MESSAGE_BYTES_MAX, OUTPUT_BYTES_MAX, RESULT_BYTES_MAX,
};
use bellwire_proto::stream::CommandEvent;
use bellwire_proto::{DeviceId, ErrorInfo, Json, Progress, Report, ReportState, codes};
use futures_core::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::Instant;

mod data;

pub use data::{DataDir, input_of};
pub(super) use data::{DataFile, runtime_dir, systemd_dir};

/// The longest message towards a hub, or a box before it, that found the report too large.
const THIN_MESSAGE_BYTES_MAX: usize = 1024;

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
    /// Where its data lie while it runs.
    pub data_dir: Arc<DataDir>,
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

/// How what has run can have ended. A run that was begun is never `rejected`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Well.
    Succeeded,
    /// Badly.
    Failed,
    /// Stopped, since nobody wanted it any more.
    Cancelled,
}

impl From<End> for ReportState {
    fn from(end: End) -> Self {
        match end {
            End::Succeeded => Self::Succeeded,
            End::Failed => Self::Failed,
            End::Cancelled => Self::Cancelled,
        }
    }
}

/// What is to be told of a run. What is past a limit of the contract, section 2, is cut when it
/// becomes a report: [`Outcome::into_report`].
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// How it ended.
    pub state: End,
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
    /// An outcome of which nothing but the end is known.
    pub const fn of(state: End) -> Self {
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
        Self { error: Some(error(code, message)), ..Self::of(End::Failed) }
    }

    /// As a report, without `rev` and `attempt`, that every hub takes and every journal reads again:
    /// of output the last 64 KiB, of a message the first 4; a result past 64 KiB is `bad_result`.
    pub fn into_report(self) -> Report {
        let mut report = Report {
            result: self.result,
            exit_code: self.exit_code,
            stdout: self.stdout,
            stderr: self.stderr,
            truncated: Some(self.truncated),
            error: self.error,
            ..Report::of(self.state.into())
        };
        clamp(&mut report);
        report
    }
}

/// Cuts what is past a limit: see [`Outcome::into_report`].
pub(super) fn clamp(report: &mut Report) {
    for output in [&mut report.stdout, &mut report.stderr] {
        if output.as_mut().is_some_and(keep_tail) {
            report.truncated = Some(true);
        }
    }
    if report.result.as_ref().is_some_and(|result| result.as_str().len() > RESULT_BYTES_MAX) {
        report.result = None;
        let problem = format!("the result is longer than {RESULT_BYTES_MAX} bytes");
        report.error = Some(bad_result(&problem, report.error.take()));
    }
    if let Some(error) = &mut report.error {
        error.code.truncate(error.code.floor_char_boundary(ERROR_CODE_BYTES_MAX));
        shorten(error, ERROR_MESSAGE_BYTES_MAX);
    }
}

/// Leaves out of a report what can be done without: output, and most of a long message.
pub(super) fn thin(report: &mut Report) {
    if report.stdout.take().is_some() | report.stderr.take().is_some() {
        report.truncated = Some(true);
    }
    if let Some(error) = &mut report.error {
        shorten(error, THIN_MESSAGE_BYTES_MAX);
    }
}

pub(super) fn error(code: &str, message: impl Into<String>) -> ErrorInfo {
    ErrorInfo { code: code.to_owned(), message: Some(message.into()) }
}

/// `bad_result`, with what else went wrong in its message.
pub(super) fn bad_result(problem: &str, beside: Option<ErrorInfo>) -> ErrorInfo {
    let beside = beside.and_then(|e| e.message).map(|m| format!("; {m}")).unwrap_or_default();
    error(codes::BAD_RESULT, format!("{problem}{beside}"))
}

/// Keeps the last [`OUTPUT_BYTES_MAX`] of a text, cut between characters; says whether it was longer.
pub(super) fn keep_tail(text: &mut String) -> bool {
    let from = text.ceil_char_boundary(text.len().saturating_sub(OUTPUT_BYTES_MAX));
    text.drain(..from);
    from > 0
}

fn shorten(error: &mut ErrorInfo, bytes_max: usize) {
    if let Some(message) = &mut error.message {
        message.truncate(message.floor_char_boundary(bytes_max));
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
pub fn stop_channel() -> (StopSender, StopReceiver) {
    let (sender, receiver) = watch::channel(None);
    (StopSender(sender), StopReceiver(receiver))
}

impl StopSender {
    /// Tells it. What was told before and outranks this stays.
    pub fn send(&self, stop: Stop) {
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
    pub fn requested(&self) -> Option<Stop> {
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

/// Runs `future` to its end unless told to stop. For what is no process and can be dropped.
pub(super) async fn until_stopped<T>(
    stop: &mut StopReceiver,
    future: impl Future<Output = T>,
) -> Result<T, Stop> {
    tokio::select! {
        biased;
        value = future => Ok(value),
        stop = stop.wait_for(Stop::Cancel) => Err(stop),
    }
}

/// Tells how far a run is. Only the newest word is kept.
#[derive(Debug, Clone)]
pub struct ProgressSender(watch::Sender<Option<Progress>>);

/// Hears how far a run is.
pub type ProgressReceiver = watch::Receiver<Option<Progress>>;

/// Makes the two ends. Nothing is told yet.
pub fn progress_channel() -> (ProgressSender, ProgressReceiver) {
    let (sender, receiver) = watch::channel(None);
    (ProgressSender(sender), receiver)
}

impl ProgressSender {
    /// Tells it.
    pub fn send(&self, progress: Progress) {
        self.0.send_replace(Some(progress));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_handler_gives_back_is_a_report_that_can_be_read_again() {
        // The outcome of a closure with 64 KiB and a byte of output was journaled and told, refused
        // by the hub, and at the next start taken for a torn line: the result was gone.
        let outcome = Outcome {
            result: Json::parse(&format!("\"{}\"", "x".repeat(RESULT_BYTES_MAX))).ok(),
            stdout: Some(format!("é{}", "x".repeat(OUTPUT_BYTES_MAX - 1))),
            stderr: Some("x".repeat(OUTPUT_BYTES_MAX)),
            error: Some(error(&"c".repeat(1000), "é".repeat(1 << 20))),
            ..Outcome::of(End::Failed)
        };
        let report = outcome.into_report();
        let text = serde_json::to_vec(&report).unwrap();
        assert_eq!(Report::parse(&text).unwrap(), report);
        assert_eq!((report.result, report.truncated), (None, Some(true)));
        assert_eq!(report.stdout.unwrap(), "x".repeat(OUTPUT_BYTES_MAX - 1), "on a character");
        assert_eq!(report.stderr.unwrap().len(), OUTPUT_BYTES_MAX);
        let error = report.error.unwrap();
        let message_bytes = error.message.unwrap().len();
        assert_eq!((error.code.as_str(), message_bytes.div_ceil(2)), ("bad_result", 2048));
    }

    #[test]
    fn a_thin_report_has_no_output_and_a_short_message() {
        let long = Outcome {
            stderr: Some(String::new()),
            ..Outcome::failed(codes::INTERNAL, "€".repeat(4096))
        };
        let mut report = long.into_report();
        thin(&mut report);
        assert_eq!((report.stdout, report.stderr, report.truncated), (None, None, Some(true)));
        let message = report.error.unwrap().message.unwrap();
        assert_eq!(message, "€".repeat(341), "1 KiB, on a character");
    }
}
