//! Rust closures as handlers: what they are given, what they give back, how they are stopped.

use std::future::Future;
use std::time::Duration;

use bellwire_proto::limits::RESULT_BYTES_MAX;
use bellwire_proto::stream::CommandEvent;
use bellwire_proto::{CommandId, ErrorInfo, Json, Progress, ReportState};
use futures_core::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::run::{Ended, Job, Outcome, ProgressSender, Run, Stop, StopReceiver};

/// How long a closure may go on after it was told to stop, before it is dropped.
const STOP_AFTER: Duration = Duration::from_secs(5);

/// A command, as a closure gets it.
#[derive(Debug, Clone)]
pub struct Command {
    event: CommandEvent,
    progress: ProgressSender,
    stop: StopReceiver,
}

impl Command {
    /// Its identity.
    pub fn id(&self) -> CommandId {
        self.event.id
    }

    /// Everything that the hub said of it.
    pub fn event(&self) -> &CommandEvent {
        &self.event
    }

    /// Its data, as they came.
    pub fn data(&self) -> &Json {
        &self.event.data
    }

    /// Its data, as a type. To have a command rejected before it runs, take the parameters with
    /// [`AgentBuilder::on_params`](super::AgentBuilder::on_params) instead.
    ///
    /// # Errors
    /// When they are of another shape.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        self.event.data.read()
    }

    /// Tells the sender how far it is, in percent; what is not from 0 to 100 is not told.
    pub fn progress(&self, percent: f64) {
        if let Ok(progress) = Progress::try_from(percent) {
            self.progress.tell(progress);
        }
    }

    /// Whether nobody wants it any more.
    pub fn is_cancelled(&self) -> bool {
        self.stop.told() >= Some(Stop::Cancel)
    }

    /// Waits until nobody wants it any more. A closure that does not heed this is dropped 5 s later,
    /// at its next await.
    pub async fn cancelled(&self) {
        self.stop.clone().wait_for(Stop::Cancel).await;
    }
}

/// What a closure gives back.
///
/// Nothing, text, or a [`Result`]: an `Ok` is `succeeded` with the value as JSON in `result`, an
/// `Err` is `failed` with its text as the message.
pub trait IntoOutcome {
    /// What is told to the hub.
    fn into_outcome(self) -> Outcome;
}

impl IntoOutcome for () {
    fn into_outcome(self) -> Outcome {
        Outcome::of(ReportState::Succeeded)
    }
}

impl IntoOutcome for &str {
    fn into_outcome(self) -> Outcome {
        succeeded(&self)
    }
}

impl IntoOutcome for String {
    fn into_outcome(self) -> Outcome {
        succeeded(&self)
    }
}

impl IntoOutcome for Outcome {
    fn into_outcome(self) -> Outcome {
        self
    }
}

impl<T: Serialize, E: std::fmt::Display> IntoOutcome for Result<T, E> {
    fn into_outcome(self) -> Outcome {
        match self {
            Ok(value) => succeeded(&value),
            // In alternate form, errors with a chain of causes tell all of it.
            Err(error) => Outcome::failed("internal", format!("{error:#}")),
        }
    }
}

fn succeeded(value: &impl Serialize) -> Outcome {
    let json = serde_json::to_string(value).ok().filter(|text| text.len() <= RESULT_BYTES_MAX);
    let result = json.and_then(|text| Json::parse(&text).ok());
    let error = result.is_none().then(|| ErrorInfo {
        code: "bad_result".to_owned(),
        message: Some("the result is no JSON of at most 64 KiB".to_owned()),
    });
    Outcome {
        result: result.filter(|r| !r.is_null()),
        error,
        ..Outcome::of(ReportState::Succeeded)
    }
}

/// A closure as a [`Run`].
pub(super) struct Closure<F>(pub(super) F);

impl<F, Fut> Run for Closure<F>
where
    F: Fn(Command) -> Fut + Send + Sync,
    Fut: Future<Output: IntoOutcome> + Send + 'static,
{
    fn start(&self, job: Job) -> BoxFuture<'static, Ended> {
        let Job { command, limit, progress, stop, .. } = job;
        let command = Command { event: command, progress, stop: stop.clone() };
        Box::pin(run((self.0)(command), limit, stop))
    }
}

async fn run(
    closure: impl Future<Output: IntoOutcome> + Send,
    limit: Duration,
    mut stop: StopReceiver,
) -> Ended {
    let mut closure = std::pin::pin!(closure);
    tokio::select! {
        biased;
        given = &mut closure => return Ended::Finished(given.into_outcome()),
        () = tokio::time::sleep(limit) => {
            let message = format!("it did not end within {} s", limit.as_secs());
            return Ended::Finished(Outcome::failed("timeout", message));
        }
        _ = stop.wait_for(Stop::Cancel) => {}
    }
    let given = tokio::select! {
        biased;
        given = &mut closure => Some(given.into_outcome()),
        () = tokio::time::sleep(STOP_AFTER) => None,
        _ = stop.wait_for(Stop::Kill) => None,
    };
    if given.is_none() && stop.told() == Some(Stop::Kill) {
        return Ended::Stopped(Outcome::failed("interrupted", "the agent ended"));
    }
    let outcome = given.unwrap_or_else(|| Outcome::of(ReportState::Cancelled));
    Ended::Stopped(Outcome { state: ReportState::Cancelled, error: None, ..outcome })
}
