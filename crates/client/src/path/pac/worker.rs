//! A thread for one task that blocks, which is given up at its limit.
//!
//! Not the runtime's pool of blocking threads: a runtime waits for those when it ends, and a script or a disk may never do.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use super::PacFault;
use super::engine::STACK_BYTES_MAX;

/// Threads at a time in this process, with those that were given up at their limit and have not ended.
const THREADS_MAX: usize = 8;

static THREADS: Semaphore = Semaphore::const_new(THREADS_MAX);

/// Why a task has no result.
#[derive(Debug, thiserror::Error)]
pub(super) enum EvaluationError {
    /// The task has not ended within the limit: the script or the disk is at fault.
    #[error("it has not ended within its limit")]
    Late,
    /// Earlier tasks occupied all threads for as long as the limit.
    #[error("no thread was free within its limit")]
    Busy,
    /// The operating system starts no further thread: memory or a limit of processes is short.
    #[error("no thread can be started: {0}")]
    Spawn(#[source] io::Error),
    /// The task panicked, which is a bug; with the panic's message.
    #[error("it panicked: {0}")]
    Panicked(String),
}

impl EvaluationError {
    /// What is wrong with the PAC file; `late` if the task took too long.
    pub(super) fn into_fault(self, late: PacFault) -> PacFault {
        match self {
            Self::Late => late,
            Self::Busy => PacFault::Busy,
            Self::Spawn(_) | Self::Panicked(_) => PacFault::Evaluator(Arc::new(self)),
        }
    }
}

/// Runs the task on a thread of its own. After the limit its thread is not waited for.
pub(super) async fn run<T: Send + 'static>(
    limit: Duration,
    task: impl FnOnce() -> T + Send + 'static,
) -> Result<T, EvaluationError> {
    // The semaphore is never closed.
    let Ok(Ok(permit)) = timeout(limit, THREADS.acquire()).await else {
        return Err(EvaluationError::Busy);
    };
    let (sender, result) = oneshot::channel();
    let task = move || {
        let _permit = permit;
        // The receiver may have been dropped.
        sender.send(catch_unwind(AssertUnwindSafe(task))).ok();
    };
    let thread = std::thread::Builder::new().name("pac".to_owned()).stack_size(4 * STACK_BYTES_MAX);
    thread.spawn(task).map_err(EvaluationError::Spawn)?;
    match timeout(limit, result).await {
        Ok(Ok(Ok(value))) => Ok(value),
        Ok(Ok(Err(panic))) => Err(EvaluationError::Panicked(message_of(&*panic))),
        // The thread sends in any case, unless the process ends.
        Ok(Err(_)) => Err(EvaluationError::Panicked("it sent no result".to_owned())),
        Err(_) => Err(EvaluationError::Late),
    }
}

/// What `panic!` was given: nearly always text.
fn message_of(panic: &(dyn Any + Send)) -> String {
    let fixed = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    fixed.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A panic and a thread that could not be started were the same line, "the evaluator has failed".
    #[tokio::test]
    async fn a_panic_is_an_error_with_its_message() {
        let failed = run(Duration::from_secs(60), || -> u8 { panic!("no {}", "engine") }).await;
        assert_eq!(failed.unwrap_err().to_string(), "it panicked: no engine");
    }
}
