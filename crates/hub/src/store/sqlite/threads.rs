//! The threads of a store: started with a name, waited for with a bound, missed when they panic.

use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use super::{OpenError, Shared};
use crate::store::StoreError;

/// The threads at work.
#[derive(Debug, Default)]
pub(super) struct Threads {
    /// All but the writer.
    pub(super) readers: Vec<Running>,
    pub(super) writer: Option<Running>,
}

/// A thread that can be waited for.
#[derive(Debug)]
pub(super) struct Running {
    thread: JoinHandle<()>,
    /// Hangs up when the thread ends: the standard library's join has no bound.
    ended: mpsc::Receiver<()>,
}

impl Running {
    /// Waits for the thread to end, but not past `until`, and never for itself.
    pub(super) fn join(self, until: Instant) {
        if self.thread.thread().id() == thread::current().id() {
            return;
        }
        let left = until.saturating_duration_since(Instant::now());
        if self.ended.recv_timeout(left) == Err(mpsc::RecvTimeoutError::Disconnected) {
            // A panic was printed by its own thread already.
            let _panicked = self.thread.join();
        }
    }
}

/// Starts a thread.
pub(super) fn spawn(
    name: &str,
    shared: &Arc<Shared>,
    run: impl FnOnce(&Shared) + Send + 'static,
) -> Result<Running, OpenError> {
    let theirs = Arc::clone(shared);
    // Nothing is ever sent: what is waited for is the hanging up.
    let (running, ended) = mpsc::sync_channel::<()>(0);
    let thread = thread::Builder::new()
        .name(name.into())
        .spawn(move || {
            let _running = running;
            let _alarm = Alarm(&theirs);
            run(&theirs);
        })
        .map_err(|e| OpenError::folder(&shared.place.path, e))?;
    Ok(Running { thread, ended })
}

/// Ends the writing when a thread panics: a store that nobody serves must not look sound.
struct Alarm<'a>(&'a Shared);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let error = StoreError::Failed("a thread of the store panicked".into());
            let _first = self.0.failed.set(error);
            drop(self.0.txns.close_and_clear());
            self.0.loads.close();
            self.0.jobs.close();
            self.0.checkpoints.close();
        }
    }
}
