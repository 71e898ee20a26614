//! The interface of everything that runs a command: its input is a [`RunContext`], its output an [`RunEnd`].
//!
//! Three things are a [`Run`]: a program ([`handler`](super::handler)), a request to a local server
//! ([`forward`](super::forward)) and a Rust closure. Whether a command may run, when, and what is reported to
//! the hub is decided elsewhere; nothing here knows of the journal or the network.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bellwire_proto::limits::{
    ERROR_CODE_BYTES_MAX, ERROR_MESSAGE_BYTES_MAX, OUTPUT_BYTES_MAX, RESULT_BYTES_MAX,
};
use bellwire_proto::stream::CommandEvent;
use bellwire_proto::{DeviceId, ErrorInfo, Outcome, Progress, Report, ReportState, codes};
use futures_core::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::Instant;

mod data;

pub use data::{DataDir, input_of};
pub(super) use data::{DataFile, runtime_dir, systemd_dir};

/// Bytes of an error's message in a report that the hub, or a proxy before it, has refused as too large: our choice.
const REDUCED_MESSAGE_BYTES_MAX: usize = 1024;
/// The end of each output that remains first: small enough for any limit that is meant for forms.
const REDUCED_OUTPUT_BYTES_MAX: usize = 2048;

/// Runs the commands of one action.
///
/// [`Program`](super::handler::Program) and [`Forward`](super::forward::Forward) are two; a third is a closure, which
/// [`AgentBuilder::on`](super::AgentBuilder::on) takes.
pub trait Run: Send + Sync {
    /// Runs the command; the future resolves to how it ended. Nothing happens before it is polled, and dropping
    /// it kills the run.
    ///
    /// The future itself must observe [`RunContext::limit`] and [`RunContext::stop`].
    fn start(&self, context: RunContext) -> BoxFuture<'static, RunEnd>;
}

/// What one run of a command gets: the command, its limit, and the channels to the agent.
#[derive(Debug)]
pub struct RunContext {
    /// The command as the hub sent it.
    pub command: CommandEvent,
    /// The device that it was sent to.
    pub device: DeviceId,
    /// Holds the file with its data while it runs.
    pub data_dir: Arc<DataDir>,
    /// How long it may run. A run that takes longer is ended, and has failed with code `timeout`.
    pub limit: Duration,
    /// Takes its progress.
    pub progress: ProgressSender,
    /// Receives the request to stop.
    pub stop: StopReceiver,
}

impl RunContext {
    /// When its limit has elapsed. A limit too large for the clock counts as none.
    pub(super) fn until(&self) -> Instant {
        const NEVER: Duration = Duration::from_secs(100 * 365 * 86_400);
        Instant::now() + self.limit.min(NEVER)
    }
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum RunEnd {
    /// By itself, or at its limit. The completion is the result.
    Finished(Completion),
    /// Because it was stopped. After [`Stop::Cancel`] the completion is `cancelled`, and it is the result.
    /// After [`Stop::Shutdown`] or [`Stop::Kill`] it is `failed` with code `interrupted`, and `on_restart`
    /// decides what follows.
    Stopped(Completion),
}

impl RunEnd {
    /// The completion, however the run ended.
    pub fn into_completion(self) -> Completion {
        match self {
            Self::Finished(completion) | Self::Stopped(completion) => completion,
        }
    }
}

/// The terminal states of a run. A run that was started is never `rejected`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompletionState {
    /// It did what it was for.
    Succeeded,
    /// It did not; [`Outcome::error`] is the reason.
    Failed,
    /// It was stopped by a cancel.
    Cancelled,
}

impl From<CompletionState> for ReportState {
    fn from(end: CompletionState) -> Self {
        match end {
            CompletionState::Succeeded => Self::Succeeded,
            CompletionState::Failed => Self::Failed,
            CompletionState::Cancelled => Self::Cancelled,
        }
    }
}

/// What is reported about a run that has ended: its state and its outcome. What exceeds a limit of the contract
/// (docs/protocol.md, section 2) is cut by [`Completion::into_report`].
///
/// ```
/// use bellwire_client::agent::run::{Completion, CompletionState};
/// use bellwire_proto::Outcome;
/// let printed = Outcome { stdout: Some("3 pages\n".into()), ..Outcome::default() };
/// let printed = Completion { state: CompletionState::Succeeded, outcome: printed };
/// assert_eq!(printed.into_report().outcome.stdout.as_deref(), Some("3 pages\n"));
/// let failed = Completion::failed("no_paper", "the tray is empty");
/// assert_eq!(failed.outcome.error.unwrap().code, "no_paper");
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// How it ended.
    pub state: CompletionState,
    /// Its results. `progress` may be absent: the last value of [`RunContext::progress`] is reported then.
    pub outcome: Outcome,
}

impl Completion {
    /// A completion with this state and nothing else.
    pub fn of(state: CompletionState) -> Self {
        Self { state, outcome: Outcome::default() }
    }

    /// A failed completion, with code and message.
    pub fn failed(code: &str, message: impl Into<String>) -> Self {
        let error = Some(error(code, message));
        Self { state: CompletionState::Failed, outcome: Outcome { error, ..Outcome::default() } }
    }

    /// As a report without `rev` and `attempt`, within the limits of every hub and journal: the last 64 KiB of each
    /// output, the first 4 KiB of a message. A result longer than 64 KiB becomes the error `bad_result`.
    pub fn into_report(self) -> Report {
        let mut report = Report::new(self.state.into(), self.outcome);
        // A final report always has it, so that no report of an earlier attempt remains.
        report.outcome.truncated.get_or_insert(false);
        clamp(&mut report.outcome);
        report
    }
}

/// Cuts what exceeds a limit: see [`Completion::into_report`].
pub(super) fn clamp(outcome: &mut Outcome) {
    for output in [&mut outcome.stdout, &mut outcome.stderr] {
        if output.as_mut().is_some_and(truncate_to_tail) {
            outcome.truncated = Some(true);
        }
    }
    if outcome.result.as_ref().is_some_and(|result| result.as_str().len() > RESULT_BYTES_MAX) {
        outcome.result = None;
        let problem = format!("the result is longer than {RESULT_BYTES_MAX} bytes");
        outcome.error = Some(bad_result(&problem, outcome.error.take()));
    }
    if let Some(error) = &mut outcome.error {
        error.code.truncate(error.code.floor_char_boundary(ERROR_CODE_BYTES_MAX));
        shorten(error, ERROR_MESSAGE_BYTES_MAX);
    }
}

/// What of a report is left out, because the hub, or a proxy before it, has refused a longer body. Each step leaves out what the
/// one before does, too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ReportReduction {
    /// Nothing is left out.
    #[default]
    None,
    /// All of each output but its end, and most of a long message.
    TailOnly,
    /// Both outputs, whole.
    NoOutput,
    /// The result too. The error `bad_result` takes its place.
    NoResult,
}

impl ReportReduction {
    /// The next step; `None` after the last one.
    pub(super) fn next(self) -> Option<Self> {
        match self {
            Self::None => Some(Self::TailOnly),
            Self::TailOnly => Some(Self::NoOutput),
            Self::NoOutput => Some(Self::NoResult),
            Self::NoResult => None,
        }
    }

    /// Leaves it out of this report.
    pub(super) fn apply(self, report: &mut Report) {
        if self == Self::None {
            return;
        }
        let outcome = &mut report.outcome;
        if let Some(error) = &mut outcome.error {
            shorten(error, REDUCED_MESSAGE_BYTES_MAX);
        }
        for output in [&mut outcome.stdout, &mut outcome.stderr].into_iter().flatten() {
            if cut_to_tail(output, REDUCED_OUTPUT_BYTES_MAX) {
                outcome.truncated = Some(true);
            }
        }
        if self >= Self::NoOutput {
            outcome.drop_output();
        }
        if self == Self::NoResult && outcome.result.take().is_some() {
            let problem = "the result was left out: the hub, or a proxy before it, takes no body of its length";
            outcome.error = Some(bad_result(problem, outcome.error.take()));
        }
    }
}

pub(super) fn error(code: &str, message: impl Into<String>) -> ErrorInfo {
    ErrorInfo { code: code.to_owned(), message: Some(message.into()) }
}

/// The error `bad_result`; its message ends with that of the error it replaces.
pub(super) fn bad_result(problem: &str, beside: Option<ErrorInfo>) -> ErrorInfo {
    let beside = beside.and_then(|e| e.message).map(|m| format!("; {m}")).unwrap_or_default();
    error(codes::BAD_RESULT, format!("{problem}{beside}"))
}

/// Cuts a text to its last [`OUTPUT_BYTES_MAX`] bytes, between characters; returns whether it was longer.
pub(super) fn truncate_to_tail(text: &mut String) -> bool {
    cut_to_tail(text, OUTPUT_BYTES_MAX)
}

fn cut_to_tail(text: &mut String, bytes_max: usize) -> bool {
    let from = text.ceil_char_boundary(text.len().saturating_sub(bytes_max));
    text.drain(..from);
    from > 0
}

fn shorten(error: &mut ErrorInfo, bytes_max: usize) {
    if let Some(message) = &mut error.message {
        message.truncate(message.floor_char_boundary(bytes_max));
    }
}

/// How a run is to stop. A greater request, in this order, replaces a smaller one. A request after the end of the run
/// has no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// The agent is stopping: the run may continue, but if a signal ends it from now on, the cause is the shutdown and
    /// not a failure of the run.
    Shutdown,
    /// The command was cancelled: TERM now, KILL after a grace period.
    Cancel,
    /// The grace period has elapsed: KILL at once.
    Kill,
}

/// Requests a run to stop. Dropping it requests nothing.
#[derive(Debug)]
pub struct StopSender(watch::Sender<Option<Stop>>);

/// Receives requests to stop.
#[derive(Debug, Clone)]
pub struct StopReceiver(watch::Receiver<Option<Stop>>);

/// A channel for requests to stop.
pub fn stop_channel() -> (StopSender, StopReceiver) {
    let (sender, receiver) = watch::channel(None);
    (StopSender(sender), StopReceiver(receiver))
}

impl StopSender {
    /// Sends a request, unless a greater one was sent before.
    pub fn send(&self, stop: Stop) {
        self.0.send_if_modified(|requested| {
            let outranks = Some(stop) > *requested;
            if outranks {
                *requested = Some(stop);
            }
            outranks
        });
    }
}

impl StopReceiver {
    /// The greatest request so far.
    pub fn requested(&self) -> Option<Stop> {
        *self.0.borrow()
    }

    /// Waits for this request or a greater one. Never resolves once the sender is dropped without it.
    pub async fn wait_for(&mut self, at_least: Stop) -> Stop {
        let requested = self.0.wait_for(|request| *request >= Some(at_least)).await;
        match requested.map(|request| *request) {
            Ok(requested) => requested.unwrap_or(at_least),
            Err(_) => std::future::pending().await,
        }
    }
}

/// Runs a future to its end, or drops it at [`Stop::Cancel`] or a greater request.
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

/// Sends the progress of a run. Only the newest value is stored.
#[derive(Debug, Clone)]
pub struct ProgressSender(watch::Sender<Option<Progress>>);

/// Receives the progress of a run.
pub type ProgressReceiver = watch::Receiver<Option<Progress>>;

/// A channel for progress, empty at first.
pub fn progress_channel() -> (ProgressSender, ProgressReceiver) {
    let (sender, receiver) = watch::channel(None);
    (ProgressSender(sender), receiver)
}

impl ProgressSender {
    /// Sends it, in place of what was sent before.
    pub fn send(&self, progress: Progress) {
        self.0.send_replace(Some(progress));
    }
}

#[cfg(test)]
mod tests {
    use bellwire_proto::Json;

    use super::*;

    /// A result alone beyond a proxy's limit was refused for a day, and the hub never received how the run ended.
    #[test]
    fn each_step_leaves_more_out_and_the_last_one_says_so() {
        let outcome = Outcome {
            result: Json::parse(&format!("\"{}\"", "r".repeat(10_000))).ok(),
            stdout: Some("o".repeat(10_000)),
            ..Outcome::default()
        };
        let report = Report::new(ReportState::Succeeded, outcome);
        let (mut reduction, mut bytes) = (ReportReduction::None, report.outcome.text_bytes());
        let mut last = report.clone();
        while let Some(next) = reduction.next() {
            reduction = next;
            last = report.clone();
            reduction.apply(&mut last);
            assert!(last.outcome.text_bytes() < bytes, "{reduction:?}");
            assert_eq!(last.outcome.truncated, Some(true), "{reduction:?}");
            bytes = last.outcome.text_bytes();
        }
        assert!(bytes < 200, "{last:?}");
        assert_eq!(last.outcome.error.unwrap().code, codes::BAD_RESULT);
    }

    #[test]
    fn any_outcome_becomes_a_report_that_can_be_read_again() {
        // The outcome of a closure with 64 KiB and a byte of output was journaled and reported, refused by the hub, and at
        // the next start taken for a torn line: the result was lost.
        let outcome = Outcome {
            result: Json::parse(&format!("\"{}\"", "x".repeat(RESULT_BYTES_MAX))).ok(),
            stdout: Some(format!("é{}", "x".repeat(OUTPUT_BYTES_MAX - 1))),
            stderr: Some("x".repeat(OUTPUT_BYTES_MAX)),
            error: Some(error(&"c".repeat(1000), "é".repeat(1 << 20))),
            ..Outcome::default()
        };
        let report = Completion { state: CompletionState::Failed, outcome }.into_report();
        let text = serde_json::to_vec(&report).unwrap();
        assert_eq!(Report::parse(&text).unwrap(), report);
        let outcome = report.outcome;
        assert_eq!((outcome.result, outcome.truncated), (None, Some(true)));
        assert_eq!(outcome.stdout.unwrap(), "x".repeat(OUTPUT_BYTES_MAX - 1), "on a character");
        assert_eq!(outcome.stderr.unwrap().len(), OUTPUT_BYTES_MAX);
        let error = outcome.error.unwrap();
        let message_bytes = error.message.unwrap().len();
        assert_eq!((error.code.as_str(), message_bytes.div_ceil(2)), ("bad_result", 2048));
    }

    #[test]
    fn a_reduced_report_has_no_output_and_a_short_message() {
        let mut long = Completion::failed(codes::INTERNAL, "€".repeat(4096));
        long.outcome.stderr = Some(String::new());
        let mut report = long.into_report();
        ReportReduction::NoOutput.apply(&mut report);
        let outcome = report.outcome;
        assert_eq!((outcome.stdout, outcome.stderr, outcome.truncated), (None, None, Some(true)));
        let message = outcome.error.unwrap().message.unwrap();
        assert_eq!(message, "€".repeat(341), "1 KiB, on a character");
    }
}
