//! Rust closures as handlers: what they are given, what they give back, how they are stopped.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bellwire_proto::stream::CommandEvent;
use bellwire_proto::{CommandId, Json, Progress, codes};
use futures_core::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::run::{End, Ended, Job, Outcome, ProgressSender, Run, Stop, StopReceiver, bad_result};

/// How long a closure may go on after it was told to stop, before it is dropped.
const STOP_AFTER: Duration = Duration::from_secs(5);

/// A command, as a closure gets it.
#[derive(Debug, Clone)]
pub struct Command {
    event: CommandEvent,
    progress: ProgressSender,
    stop: StopReceiver,
    /// The closure was told that nobody wants it any more: what it gives back is then what is left of
    /// it, and else its result.
    heeded: Arc<AtomicBool>,
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
            self.progress.send(progress);
        }
    }

    /// Whether nobody wants it any more.
    pub fn is_cancelled(&self) -> bool {
        let cancelled = self.stop.requested() >= Some(Stop::Cancel);
        self.heeded.fetch_or(cancelled, Ordering::Relaxed);
        cancelled
    }

    /// Waits until nobody wants it any more. A closure that does not heed this is dropped 5 s later,
    /// at its next await.
    pub async fn cancelled(&self) {
        self.stop.clone().wait_for(Stop::Cancel).await;
        self.heeded.store(true, Ordering::Relaxed);
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
        Outcome::of(End::Succeeded)
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
            Err(error) => Outcome::failed(codes::INTERNAL, format!("{error:#}")),
        }
    }
}

fn succeeded(value: &impl Serialize) -> Outcome {
    let json = serde_json::to_string(value).map_err(|error| error.to_string());
    match json.and_then(|text| Json::parse(&text).map_err(|error| error.to_string())) {
        Ok(result) => Outcome {
            result: Some(result).filter(|result| !result.is_null()),
            ..Outcome::of(End::Succeeded)
        },
        Err(problem) => Outcome {
            error: Some(bad_result(&format!("the result is no JSON: {problem}"), None)),
            ..Outcome::of(End::Succeeded)
        },
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
        let heeded = Arc::default();
        let command =
            Command { event: command, progress, stop: stop.clone(), heeded: Arc::clone(&heeded) };
        let closure = (self.0)(command);
        Box::pin(async move {
            let ended = run(closure, limit, stop).await;
            match ended {
                Ended::Finished(outcome) if heeded.load(Ordering::Relaxed) => {
                    let state = End::Cancelled;
                    Ended::Stopped(Outcome { state, error: None, ..outcome })
                }
                // No hub takes that word for what nobody had cancelled.
                Ended::Finished(outcome) if outcome.state == End::Cancelled => {
                    Ended::Finished(Outcome { state: End::Failed, ..outcome })
                }
                ended => ended,
            }
        })
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
            return Ended::Finished(Outcome::failed(codes::TIMEOUT, message));
        }
        _ = stop.wait_for(Stop::Cancel) => {}
    }
    tokio::select! {
        biased;
        given = &mut closure => Ended::Finished(given.into_outcome()),
        _ = stop.wait_for(Stop::Kill) => {
            Ended::Stopped(Outcome::failed(codes::INTERRUPTED, "the agent ended"))
        }
        () = tokio::time::sleep(STOP_AFTER) => {
            Ended::Stopped(Outcome::of(End::Cancelled))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::run::{self, DataDir};

    fn job(data: &str, limit: Duration) -> (Job, run::StopSender, run::ProgressReceiver) {
        let event = serde_json::json!({
            "id": "01890000-0000-7000-8000-000000000001", "seq": 1, "action": "work",
            "data": serde_json::from_str::<serde_json::Value>(data).unwrap(), "attempt": 1,
            "created_at": "2026-01-01T00:00:00.000Z", "expires_at": "2026-01-01T01:00:00.000Z",
            "ttl_s": 3600, "run_timeout_s": 300
        });
        let (sender, stop) = run::stop_channel();
        let (progress, told) = run::progress_channel();
        let command = serde_json::from_str(&event.to_string()).unwrap();
        let device = "kiosk-7".parse().unwrap();
        let data_dir = Arc::new(DataDir::temporary().unwrap());
        (Job { command, device, data_dir, limit, progress, stop }, sender, told)
    }

    const LONG: Duration = Duration::from_secs(300);

    #[tokio::test]
    async fn what_a_closure_gives_back_is_the_result() {
        let (work, _stop, told) = job("20", LONG);
        let double = Closure(async |command: Command| {
            command.progress(50.0);
            command.progress(101.0);
            command.parse::<u32>().map(|n| n * 2)
        });
        let Ended::Finished(outcome) = double.start(work).await else {
            panic!("it ended by itself")
        };
        assert_eq!(outcome.state, End::Succeeded);
        assert_eq!(outcome.result.unwrap().as_str(), "40");
        assert_eq!(told.borrow().unwrap().get(), 50.0, "what is no percentage is not told");

        let (work, _stop, _told) = job("\"no number\"", LONG);
        let outcome = double.start(work).await.into_outcome();
        assert_eq!(outcome.error.unwrap().code, "internal");
    }

    #[tokio::test]
    async fn only_what_was_cancelled_ends_as_cancelled() {
        let (work, _stop, _told) = job("null", LONG);
        let ended = Closure(async |_: Command| Outcome::of(End::Cancelled)).start(work).await;
        assert_eq!(ended, Ended::Finished(Outcome::of(End::Failed)), "the hub would refuse it");
    }

    #[tokio::test(start_paused = true)]
    async fn a_closure_past_its_limit_has_failed_with_timeout() {
        let (work, _stop, _told) = job("null", Duration::from_secs(3));
        let ended =
            Closure(async |_: Command| std::future::pending::<()>().await).start(work).await;
        let Ended::Finished(outcome) = ended else { panic!("the limit is an end by itself") };
        assert_eq!((outcome.state, outcome.error.unwrap().code.as_str()), (End::Failed, "timeout"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_closure_may_tidy_up_and_one_that_does_not_heed_it_is_dropped() {
        let (work, stop, _told) = job("null", LONG);
        stop.send(Stop::Cancel);
        let heeds = Closure(async |command: Command| {
            command.cancelled().await;
            "tidied up"
        });
        let Ended::Stopped(outcome) = heeds.start(work).await else { panic!("it was stopped") };
        assert_eq!(outcome.state, End::Cancelled);
        assert_eq!(outcome.result.unwrap().as_str(), "\"tidied up\"");

        let (work, stop, _told) = job("null", LONG);
        stop.send(Stop::Cancel);
        let ended =
            Closure(async |_: Command| std::future::pending::<()>().await).start(work).await;
        assert_eq!(ended, Ended::Stopped(Outcome::of(End::Cancelled)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_shutdown_lets_a_closure_go_on_until_it_is_killed() {
        let (work, stop, _told) = job("null", LONG);
        stop.send(Stop::Shutdown);
        let slow = Closure(async |_: Command| tokio::time::sleep(Duration::from_secs(20)).await);
        assert!(matches!(slow.start(work).await, Ended::Finished(o) if o.state == End::Succeeded));
        let (work, stop, _told) = job("null", LONG);
        stop.send(Stop::Kill);
        let Ended::Stopped(outcome) = slow.start(work).await else { panic!("it was killed") };
        assert_eq!(outcome.error.unwrap().code, "interrupted");
    }
}
