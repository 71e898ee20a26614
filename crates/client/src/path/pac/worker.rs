//! A thread for one job that blocks, which is given up at its limit.
//!
//! Not the runtime's pool of blocking threads: a runtime waits for those when it ends, and a script or a disk may never do.

use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use super::engine::STACK_BYTES_MAX;

/// Threads at a time in this process, those among them that nobody waits for any more.
const THREADS_MAX: usize = 8;

static THREADS: Semaphore = Semaphore::const_new(THREADS_MAX);

/// Why there is no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoResult {
    /// There was none within the limit.
    Late,
    /// No thread was free within the limit.
    Busy,
    /// The job panicked, or there is no thread.
    Failed,
}

/// Runs the job on a thread of its own. After the limit its thread is not waited for.
pub(super) async fn run<T: Send + 'static>(
    limit: Duration,
    job: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NoResult> {
    let permit = timeout(limit, THREADS.acquire()).await.map_err(|_| NoResult::Busy)?;
    let permit = permit.map_err(|_| NoResult::Failed)?;
    let (sender, result) = oneshot::channel();
    let job = move || {
        let _permit = permit;
        // The receiver may have been dropped.
        sender.send(job()).ok();
    };
    let thread = std::thread::Builder::new().name("pac".to_owned()).stack_size(4 * STACK_BYTES_MAX);
    thread.spawn(job).map_err(|_| NoResult::Failed)?;
    match timeout(limit, result).await {
        Ok(result) => result.map_err(|_| NoResult::Failed),
        Err(_) => Err(NoResult::Late),
    }
}
