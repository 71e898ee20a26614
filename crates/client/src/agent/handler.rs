//! Runs a program for a command: no shell, a constant argument list, the data on standard input and in a file, the tail
//! of its output in the outcome.
//!
//! The program leads a process group of its own. A limit, a cancel or a kill ends the whole group. When the leader
//! exits by itself, the run has ended, and its children run on as orphans. What an exit means is decided here; what
//! follows from it is not.
//!
//! A process that runs handlers as process 1 must collect orphans, as every process 1: `bellwire agent run` does, and
//! a program of your own needs an init there (`docker run --init`).
//!
//! - `spawn.rs`: starts the process; the only file with unsafe code.
//! - `find.rs`: which file a program is; `interpreter.rs`: whether what a script needs is there.
//! - `output.rs`: what it writes: tails, result, progress.
//! - `group.rs`: how its process group is ended.
//! - [`orphans`]: the processes of an agent that was killed.
//! - [`account`]: the user that it runs as.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use bellwire_proto::limits::{AGENT_OUTPUT_AFTER_EXIT, KILL_AFTER_S};
use bellwire_proto::{Outcome, codes};
use futures_core::future::BoxFuture;
use tokio::process::Child;
use tokio::time::{Instant, sleep_until, timeout};

use super::run::{self, Completion, Run, RunContext, RunEnd, Stop, StopReceiver};

pub mod account;
mod elf;
mod find;
mod group;
mod interpreter;
pub mod orphans;
mod output;
mod spawn;

use account::Account;
pub use find::ProgramError;
pub(super) use find::is_nameless_script;
use group::Group;
use output::Streams;

/// Time between TERM and KILL by default.
pub const KILL_AFTER: Duration = Duration::from_secs(KILL_AFTER_S.default);

/// A program with its constant arguments, environment, folder and user.
///
/// Built with [`Program::new`] and the setters; run as a [`Run`]. `agent.toml` describes the same by `run` and the keys
/// beside it (docs/agent.md).
///
/// ```
/// use bellwire_client::agent::handler::Program;
///
/// let ping = Program::new("/bin/echo", ["pong"]).cwd("/").umask(0o077);
/// # drop(ping);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Program {
    program: OsString,
    args: Vec<OsString>,
    environment: Environment,
    cwd: Option<PathBuf>,
    user: Option<Account>,
    umask: Option<u32>,
    kill_after: Duration,
}

/// The environment of a program, beside the `BELLWIRE_` variables.
#[derive(Clone, PartialEq, Eq)]
pub enum Environment {
    /// That of this process.
    Inherited,
    /// `PATH`, `HOME` and these variables.
    Cleared(Vec<(OsString, OsString)>),
}

/// Names alone: values may be secret.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Cleared(variables) = self else { return f.write_str("Inherited") };
        let names = variables.iter().map(|(name, _)| (name, format_args!("***")));
        f.write_str("Cleared")?;
        f.debug_map().entries(names).finish()
    }
}

impl Program {
    /// A program that inherits environment, folder and umask. [`Program::file`] says which file that is.
    pub fn new<A: Into<OsString>>(
        program: impl Into<OsString>,
        args: impl IntoIterator<Item = A>,
    ) -> Self {
        Self {
            program: program.into(),
            args: args.into_iter().map(Into::into).collect(),
            environment: Environment::Inherited,
            cwd: None,
            user: None,
            umask: None,
            kill_after: KILL_AFTER,
        }
    }

    /// Its environment. Default: [`Environment::Inherited`].
    pub fn environment(mut self, environment: Environment) -> Self {
        self.environment = environment;
        self
    }

    /// The folder that it starts in, and in which a relative program is looked for.
    pub fn cwd(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cwd = Some(folder.into());
        self
    }

    /// The user that it runs as; the account's group is its only group.
    pub fn user(mut self, account: Account) -> Self {
        self.user = Some(account);
        self
    }

    /// Its umask: the permissions that its files do not get.
    pub fn umask(mut self, mask: u32) -> Self {
        self.umask = Some(mask);
        self
    }

    /// Time between TERM and KILL. Default: [`KILL_AFTER`].
    pub fn kill_after(mut self, kill_after: Duration) -> Self {
        self.kill_after = kill_after;
        self
    }

    /// The program as it was given, and its arguments.
    pub fn argv(&self) -> impl Iterator<Item = &OsStr> {
        std::iter::once(self.program.as_os_str()).chain(self.args.iter().map(OsString::as_os_str))
    }

    /// The folder that it starts in; `None` for that of this process.
    pub fn working_dir(&self) -> Option<&Path> {
        self.cwd.as_deref()
    }

    /// The value of a variable in [`Environment::Cleared`].
    pub fn variable(&self, name: &OsStr) -> Option<&OsStr> {
        let Environment::Cleared(more) = &self.environment else { return None };
        more.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_os_str())
    }

    /// The user that it runs as; `None` for that of this process.
    pub fn account(&self) -> Option<&Account> {
        self.user.as_ref()
    }

    async fn run(self, context: RunContext) -> RunEnd {
        let until = context.until();
        let RunContext { command, device, data_dir, limit, progress, mut stop } = context;
        let spawned = match self.spawn(&command, &device, &data_dir) {
            Ok(spawned) => spawned,
            Err(message) => {
                return RunEnd::Finished(Completion::failed(codes::SPAWN_FAILED, message));
            }
        };
        let spawn::Spawned { mut child, streams, data_file } = spawned;
        let mut group = Group::of(&child);
        let mut streams = Streams::new(streams, progress);
        let end = streams.beside(end_of(&mut child, until, &mut stop)).await;
        // Before its output is read to the end: a request that arrives meanwhile has not ended it.
        let stopping = stop.requested() == Some(Stop::Shutdown);
        let status = match &end {
            ProcessEnd::Itself(status) => status.as_ref().ok().copied(),
            ProcessEnd::Limit | ProcessEnd::Stopped(_) => {
                streams.beside(group.end(&mut child, self.kill_after, &mut stop)).await
            }
        };
        group.disarm();
        // Output of its children in that time is part of the outcome; they themselves may run on.
        timeout(AGENT_OUTPUT_AFTER_EXIT, streams.drain()).await.ok();
        drop(data_file);
        ended(end, status, limit, stopping, streams)
    }
}

impl Run for Program {
    fn start(&self, context: RunContext) -> BoxFuture<'static, RunEnd> {
        Box::pin(self.clone().run(context))
    }
}

impl Run for Arc<Program> {
    fn start(&self, context: RunContext) -> BoxFuture<'static, RunEnd> {
        (**self).start(context)
    }
}

/// For people: arguments with spaces in quotes, user and folder, and the names of its variables.
impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, arg) in self.argv().map(OsStr::to_string_lossy).enumerate() {
            let space = if n > 0 { " " } else { "" };
            let plain = !arg.is_empty() && !arg.contains(|c: char| c.is_whitespace() || c == '"');
            if plain { write!(f, "{space}{arg}")? } else { write!(f, "{space}{arg:?}")? }
        }
        if let Some(account) = &self.user {
            write!(f, " as {}", account.name)?;
        }
        if let Some(folder) = &self.cwd {
            write!(f, " in {}", folder.display())?;
        }
        if let Environment::Cleared(more) = &self.environment {
            // Values may be secret.
            for (n, (name, _)) in more.iter().enumerate() {
                write!(f, "{}{}", if n > 0 { ", " } else { " with " }, name.display())?;
            }
        }
        Ok(())
    }
}

/// What ended the run.
enum ProcessEnd {
    /// The program has exited by itself.
    Itself(std::io::Result<ExitStatus>),
    /// The limit has elapsed.
    Limit,
    /// The agent requested the stop.
    Stopped(Stop),
}

/// Waits for the first of them. A program that had exited when the request arrived has its own result.
async fn end_of(child: &mut Child, until: Instant, stop: &mut StopReceiver) -> ProcessEnd {
    tokio::select! {
        biased;
        status = child.wait() => ProcessEnd::Itself(status),
        () = sleep_until(until) => ProcessEnd::Limit,
        stop = stop.wait_for(Stop::Cancel) => ProcessEnd::Stopped(stop),
    }
}

/// How the run ended, from all that is known of it.
fn ended(
    end: ProcessEnd,
    status: Option<ExitStatus>,
    limit: Duration,
    stopping: bool,
    streams: Streams,
) -> RunEnd {
    let signal = status.and_then(|status| status.signal());
    let captured = streams.finish();
    let mut outcome = Outcome {
        exit_code: status.and_then(|s| s.code()).or(signal.map(|n| 128 + n)).map(i64::from),
        stdout: Some(captured.stdout),
        stderr: Some(captured.stderr),
        truncated: Some(captured.truncated),
        ..Outcome::default()
    };
    let by_shutdown = signal.is_some() && stopping;
    let (cut_off, error) = match &end {
        ProcessEnd::Limit => {
            (true, Some((codes::TIMEOUT, format!("it ran longer than {limit:?}"))))
        }
        ProcessEnd::Stopped(Stop::Cancel) => (true, None),
        ProcessEnd::Stopped(_) => {
            (true, Some((codes::INTERRUPTED, "the agent stopped and killed it".to_owned())))
        }
        ProcessEnd::Itself(status) => (by_shutdown, error_of(status, by_shutdown)),
    };
    let state = match &end {
        ProcessEnd::Stopped(Stop::Cancel) => run::CompletionState::Cancelled,
        _ if error.is_none() && !cut_off => run::CompletionState::Succeeded,
        _ => run::CompletionState::Failed,
    };
    outcome.error = error.map(|(code, message)| run::error(code, message));
    match captured.result {
        Ok(result) => outcome.result = result,
        // A program that was cut off may have written a part of its result.
        Err(_) if cut_off => {}
        Err(bad) => outcome.error = Some(run::bad_result(&bad.to_string(), outcome.error)),
    }
    let completion = Completion { state, outcome };
    match end {
        ProcessEnd::Stopped(_) => RunEnd::Stopped(completion),
        ProcessEnd::Itself(_) if by_shutdown => RunEnd::Stopped(completion),
        ProcessEnd::Itself(_) | ProcessEnd::Limit => RunEnd::Finished(completion),
    }
}

/// Code and message for an exit of its own; `None` for exit code 0.
fn error_of(
    status: &std::io::Result<ExitStatus>,
    by_shutdown: bool,
) -> Option<(&'static str, String)> {
    let status = match status {
        Ok(status) => status,
        Err(e) => return Some((codes::INTERNAL, format!("its exit status is not known: {e}"))),
    };
    match (status.code(), status.signal()) {
        (Some(0), _) => None,
        (_, Some(n)) if by_shutdown => {
            Some((codes::INTERRUPTED, format!("signal {n} ended it while the agent stopped")))
        }
        (_, Some(n)) => Some((codes::SIGNAL, format!("signal {n} ended it"))),
        (code, None) => Some((codes::EXIT_STATUS, format!("exit status {}", code.unwrap_or(-1)))),
    }
}
