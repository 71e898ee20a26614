//! Runs programs for the tests beside this file.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bellwire_client::agent::handler::{Environment, Program};
use bellwire_client::agent::run::{
    Completion, DataDir, ProgressReceiver, Run as _, RunContext, RunEnd, StopSender,
    progress_channel, stop_channel,
};
use bellwire_proto::stream::CommandEvent;
use bellwire_proto::{CommandId, Json, Progress, Seq, Timestamp};

/// Long enough for a machine that does ten other things.
pub(crate) const HANG: Duration = Duration::from_secs(60);
pub(crate) const LONG: Duration = Duration::from_secs(3600);

pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(HANG, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {} s for {what}", HANG.as_secs()),
    }
}

/// A command with a unique id, so that parallel tests do not interfere.
pub(crate) fn command(data: &str) -> CommandEvent {
    let mut random = [0; 10];
    let unique = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    random[..8].copy_from_slice(&(unique.as_nanos() as u64).to_be_bytes());
    CommandEvent {
        id: CommandId::from_parts(1_700_000_000_000, random),
        seq: Seq::new(1),
        action: "hello".parse().unwrap(),
        data: Json::parse(data).unwrap(),
        attempt: 2,
        created_at: Timestamp::from_unix_ms(0),
        expires_at: Timestamp::from_unix_ms(1_700_000_000_000),
        ttl_s: 60,
        run_timeout_s: 60,
    }
}

pub(crate) struct Begun {
    pub(crate) ended: tokio::task::JoinHandle<RunEnd>,
    pub(crate) progress: ProgressReceiver,
    pub(crate) stop: StopSender,
}

pub(crate) fn begin(program: &Program, command: CommandEvent, limit: Duration) -> Begun {
    let (progress_sender, progress) = progress_channel();
    let (stop_sender, stop_receiver) = stop_channel();
    let context = RunContext {
        command,
        device: "kiosk".parse().unwrap(),
        data_dir: Arc::new(DataDir::temporary().unwrap()),
        limit,
        progress: progress_sender,
        stop: stop_receiver,
    };
    Begun { ended: tokio::spawn(program.start(context)), progress, stop: stop_sender }
}

impl Begun {
    /// Waits until it has reported this progress.
    pub(crate) async fn at(mut self, percent: f64) -> Self {
        let there = |p: &Option<Progress>| p.is_some_and(|p| p.get() >= percent);
        within("the program to run", self.progress.wait_for(there)).await.unwrap();
        self
    }

    pub(crate) async fn end(self) -> RunEnd {
        within("the program to end", self.ended).await.unwrap()
    }
}

pub(crate) fn sh(script: &str) -> Program {
    Program::new("/bin/sh", ["-c", script]).environment(Environment::Cleared(Vec::new()))
}

pub(crate) async fn finish(program: &Program, data: &str) -> Completion {
    match begin(program, command(data), LONG).end().await {
        RunEnd::Finished(completion) => completion,
        RunEnd::Stopped(completion) => panic!("it was stopped: {completion:?}"),
    }
}

pub(crate) async fn completion_of(script: &str) -> Completion {
    finish(&sh(script), "null").await
}

pub(crate) fn stdout(completion: &Completion) -> &str {
    completion.outcome.stdout.as_deref().unwrap()
}

pub(crate) fn code(completion: &Completion) -> Option<&str> {
    completion.outcome.error.as_ref().map(|error| error.code.as_str())
}
/// The rest of the line that begins with `key` in its output.
pub(crate) fn line<'a>(completion: &'a Completion, key: &str) -> &'a str {
    let mut lines = stdout(completion).lines();
    let found = lines.find_map(|line| line.strip_prefix(key));
    found.unwrap_or_else(|| panic!("no {key:?} in {completion:?}"))
}
