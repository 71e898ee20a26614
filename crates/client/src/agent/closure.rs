//! Rust closures as handlers: their argument, their result, how they are stopped.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bellwire_proto::limits::AGENT_CLOSURE_STOP;
use bellwire_proto::stream::CommandEvent;
use bellwire_proto::{CommandId, Json, Progress, codes};
use futures_core::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::run::{
    Completion, CompletionState, ProgressSender, Run, RunContext, RunEnd, Stop, StopReceiver,
    bad_result,
};

/// A command: the argument of a closure.
#[derive(Debug, Clone)]
pub struct Command {
    event: CommandEvent,
    progress: ProgressSender,
    stop: StopReceiver,
    /// The closure has observed the cancel: what it returns is the outcome of the cancelled command, and otherwise its
    /// result.
    saw_cancel: Arc<AtomicBool>,
}

impl Command {
    /// Its id.
    pub fn id(&self) -> CommandId {
        self.event.id
    }

    /// The whole command, as the hub sent it.
    pub fn event(&self) -> &CommandEvent {
        &self.event
    }

    /// Its data, as they were sent.
    pub fn data(&self) -> &Json {
        &self.event.data
    }

    /// Its data, as a type. To have a command rejected before it runs, take the parameters with
    /// [`AgentBuilder::on_params`](super::AgentBuilder::on_params) instead.
    ///
    /// # Errors
    /// When the data do not have this type.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        self.event.data.read()
    }

    /// Reports progress in percent; a value outside of 0 to 100 is not reported.
    pub fn progress(&self, percent: f64) {
        if let Ok(progress) = Progress::try_from(percent) {
            self.progress.send(progress);
        }
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        let cancelled = self.stop.requested() >= Some(Stop::Cancel);
        self.saw_cancel.fetch_or(cancelled, Ordering::Relaxed);
        cancelled
    }

    /// Waits until it is cancelled. A closure that still runs 5 s after a cancel is dropped at its next await.
    pub async fn cancelled(&self) {
        self.stop.clone().wait_for(Stop::Cancel).await;
        self.saw_cancel.store(true, Ordering::Relaxed);
    }
}

/// What a closure may return: nothing, text, a [`Completion`], or a [`Result`].
///
/// `Ok` is `succeeded` with the value as JSON in `result`, `Err` is `failed` with its text as the message.
pub trait IntoCompletion {
    /// What is reported to the hub.
    fn into_completion(self) -> Completion;
}

impl IntoCompletion for () {
    fn into_completion(self) -> Completion {
        Completion::of(CompletionState::Succeeded)
    }
}

impl IntoCompletion for &str {
    fn into_completion(self) -> Completion {
        succeeded(&self)
    }
}

impl IntoCompletion for String {
    fn into_completion(self) -> Completion {
        succeeded(&self)
    }
}

impl IntoCompletion for Completion {
    fn into_completion(self) -> Completion {
        self
    }
}

impl<T: Serialize, E: std::fmt::Display> IntoCompletion for Result<T, E> {
    fn into_completion(self) -> Completion {
        match self {
            Ok(value) => succeeded(&value),
            // The alternate form of errors with sources, as anyhow's, contains all of them.
            Err(error) => Completion::failed(codes::INTERNAL, format!("{error:#}")),
        }
    }
}

fn succeeded(value: &impl Serialize) -> Completion {
    let json = serde_json::to_string(value).map_err(|error| error.to_string());
    let mut completion = Completion::of(CompletionState::Succeeded);
    match json.and_then(|text| Json::parse(&text).map_err(|error| error.to_string())) {
        Ok(result) => {
            completion.outcome.result = Some(result).filter(|result| !result.is_null());
        }
        Err(problem) => {
            let problem = format!("the result is not JSON: {problem}");
            completion.outcome.error = Some(bad_result(&problem, None));
        }
    }
    completion
}

/// A closure as a [`Run`].
pub(super) struct Closure<F>(pub(super) F);

impl<F, Fut> Run for Closure<F>
where
    F: Fn(Command) -> Fut + Send + Sync,
    Fut: Future<Output: IntoCompletion> + Send + 'static,
{
    fn start(&self, context: RunContext) -> BoxFuture<'static, RunEnd> {
        let RunContext { command, limit, progress, stop, .. } = context;
        let saw_cancel = Arc::default();
        let command = Command {
            event: command,
            progress,
            stop: stop.clone(),
            saw_cancel: Arc::clone(&saw_cancel),
        };
        let closure = (self.0)(command);
        Box::pin(async move {
            let ended = run(closure, limit, stop).await;
            match ended {
                RunEnd::Finished(mut completion) if saw_cancel.load(Ordering::Relaxed) => {
                    completion.state = CompletionState::Cancelled;
                    completion.outcome.error = None;
                    RunEnd::Stopped(completion)
                }
                // The hub refuses `cancelled` for a command that was not cancelled.
                RunEnd::Finished(Completion { state: CompletionState::Cancelled, outcome }) => {
                    RunEnd::Finished(Completion { state: CompletionState::Failed, outcome })
                }
                ended => ended,
            }
        })
    }
}

async fn run(
    closure: impl Future<Output: IntoCompletion> + Send,
    limit: Duration,
    mut stop: StopReceiver,
) -> RunEnd {
    let mut closure = std::pin::pin!(closure);
    tokio::select! {
        biased;
        returned = &mut closure => return RunEnd::Finished(returned.into_completion()),
        () = tokio::time::sleep(limit) => {
            let message = format!("it did not end within {} s", limit.as_secs());
            return RunEnd::Finished(Completion::failed(codes::TIMEOUT, message));
        }
        _ = stop.wait_for(Stop::Cancel) => {}
    }
    tokio::select! {
        biased;
        returned = &mut closure => RunEnd::Finished(returned.into_completion()),
        _ = stop.wait_for(Stop::Kill) => {
            RunEnd::Stopped(Completion::failed(codes::INTERRUPTED, "the agent ended"))
        }
        () = tokio::time::sleep(AGENT_CLOSURE_STOP) => {
            RunEnd::Stopped(Completion::of(CompletionState::Cancelled))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::run::{self, DataDir};

    fn context_of(
        data: &str,
        limit: Duration,
    ) -> (RunContext, run::StopSender, run::ProgressReceiver) {
        let event = serde_json::json!({
            "id": "01890000-0000-7000-8000-000000000001", "seq": 1, "action": "work",
            "data": serde_json::from_str::<serde_json::Value>(data).unwrap(), "attempt": 1,
            "created_at": "2026-01-01T00:00:00.000Z", "expires_at": "2026-01-01T01:00:00.000Z",
            "ttl_s": 3600, "run_timeout_s": 300
        });
        let (sender, stop) = run::stop_channel();
        let (progress, progress_receiver) = run::progress_channel();
        let command = serde_json::from_str(&event.to_string()).unwrap();
        let device = "kiosk-7".parse().unwrap();
        let data_dir = Arc::new(DataDir::temporary().unwrap());
        (RunContext { command, device, data_dir, limit, progress, stop }, sender, progress_receiver)
    }

    const LONG: Duration = Duration::from_secs(300);

    #[tokio::test]
    async fn the_value_that_a_closure_returns_is_the_result() {
        let (context, _stop, progress_receiver) = context_of("20", LONG);
        let double = Closure(async |command: Command| {
            command.progress(50.0);
            command.progress(101.0);
            command.parse::<u32>().map(|n| n * 2)
        });
        let RunEnd::Finished(completion) = double.start(context).await else {
            panic!("it ended by itself")
        };
        assert_eq!(completion.state, CompletionState::Succeeded);
        assert_eq!(completion.outcome.result.unwrap().as_str(), "40");
        assert_eq!(progress_receiver.borrow().unwrap().get(), 50.0, "101 % is not reported");

        let (context, _stop, _progress) = context_of("\"no number\"", LONG);
        let completion = double.start(context).await.into_completion();
        assert_eq!(completion.outcome.error.unwrap().code, "internal");
    }

    #[tokio::test]
    async fn only_a_cancelled_command_ends_as_cancelled() {
        let (context, _stop, _progress) = context_of("null", LONG);
        let ended = Closure(async |_: Command| Completion::of(CompletionState::Cancelled))
            .start(context)
            .await;
        assert_eq!(
            ended,
            RunEnd::Finished(Completion::of(CompletionState::Failed)),
            "the hub would refuse it"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_closure_over_its_limit_has_failed_with_timeout() {
        let (context, _stop, _progress) = context_of("null", Duration::from_secs(3));
        let ended =
            Closure(async |_: Command| std::future::pending::<()>().await).start(context).await;
        let RunEnd::Finished(completion) = ended else { panic!("the limit is an end by itself") };
        assert_eq!(
            (completion.state, completion.outcome.error.unwrap().code.as_str()),
            (CompletionState::Failed, "timeout")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_closure_may_clean_up_and_one_that_ignores_it_is_dropped() {
        let (context, stop, _progress) = context_of("null", LONG);
        stop.send(Stop::Cancel);
        let cleans_up = Closure(async |command: Command| {
            command.cancelled().await;
            "cleaned up"
        });
        let RunEnd::Stopped(completion) = cleans_up.start(context).await else {
            panic!("it was stopped")
        };
        assert_eq!(completion.state, CompletionState::Cancelled);
        assert_eq!(completion.outcome.result.unwrap().as_str(), "\"cleaned up\"");

        let (context, stop, _progress) = context_of("null", LONG);
        stop.send(Stop::Cancel);
        let ended =
            Closure(async |_: Command| std::future::pending::<()>().await).start(context).await;
        assert_eq!(ended, RunEnd::Stopped(Completion::of(CompletionState::Cancelled)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_shutdown_lets_a_closure_continue_until_it_is_killed() {
        let (context, stop, _progress) = context_of("null", LONG);
        stop.send(Stop::Shutdown);
        let slow = Closure(async |_: Command| tokio::time::sleep(Duration::from_secs(20)).await);
        assert!(
            matches!(slow.start(context).await, RunEnd::Finished(o) if o.state == CompletionState::Succeeded)
        );
        let (context, stop, _progress) = context_of("null", LONG);
        stop.send(Stop::Kill);
        let RunEnd::Stopped(completion) = slow.start(context).await else {
            panic!("it was killed")
        };
        assert_eq!(completion.outcome.error.unwrap().code, "interrupted");
    }
}
