//! The threads of a store: started with a name, waited for with a bound. One that panics fails the
//! store.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use super::{OpenError, Shared};
use crate::store::StoreEvents;

/// The running threads.
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
    /// Disconnected when the thread ends: the standard library's join has no timeout.
    ended: mpsc::Receiver<()>,
}

impl Running {
    /// Waits for the thread to end, until `until` at most, and never for itself.
    pub(super) fn join(self, until: Instant) {
        if self.thread.thread().id() == thread::current().id() {
            return;
        }
        let remaining = until.saturating_duration_since(Instant::now());
        if self.ended.recv_timeout(remaining) == Err(mpsc::RecvTimeoutError::Disconnected) {
            // A panic was printed by its own thread already.
            let _panicked = self.thread.join();
        }
    }
}

/// What a thread does until the store is closed.
pub(super) type Run = Box<dyn FnOnce(&Shared, &dyn StoreEvents) + Send>;

/// Starts a thread. If it panics, the store has failed: see [`Shared::panicked`].
pub(super) fn spawn(
    name: &'static str,
    shared: &Arc<Shared>,
    events: &Arc<dyn StoreEvents>,
    run: Run,
) -> Result<Running, OpenError> {
    let (theirs, events) = (Arc::clone(shared), Arc::clone(events));
    // Nothing is ever sent: the end of the thread drops the sender, which is what is waited for.
    let (running, ended) = mpsc::sync_channel::<()>(0);
    let thread = thread::Builder::new()
        .name(name.into())
        .spawn(move || {
            let _running = running;
            // What the closure owns is dropped by the unwinding, and `Shared` has no state that a
            // panic could leave half-changed: its queues run no code of others under their locks.
            let run = AssertUnwindSafe(|| run(&theirs, &*events));
            if catch_unwind(run).is_err() {
                theirs.panicked(name, &*events);
            }
        })
        .map_err(|e| OpenError::folder(&shared.file.path, e))?;
    Ok(Running { thread, ended })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use bellwire_core::record::{Committed, Loaded};

    use crate::store::{Options, ReadFuture, SqliteStore, Store, StoreError, StoreEvents};

    struct Failures(Mutex<SyncSender<StoreError>>);

    impl StoreEvents for Failures {
        fn committed(&self, _: Vec<Committed>) {}
        fn loaded(&self, _: Vec<Loaded>) {}
        fn failed(&self, error: StoreError) {
            self.0.lock().unwrap().send(error).unwrap();
        }
    }

    fn started(dir: &std::path::Path) -> (SqliteStore, Receiver<StoreError>) {
        let (failures, failed) = sync_channel(1);
        let (store, _) = SqliteStore::open(dir, Options::default()).unwrap();
        store.start(std::sync::Arc::new(Failures(Mutex::new(failures)))).unwrap();
        (store, failed)
    }

    fn wait<T>(reading: ReadFuture<T>) -> Result<T, StoreError> {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(reading)
    }

    #[test]
    fn a_read_that_panics_fails_the_store_and_no_read_waits_for_the_thread_that_ended() {
        let dir = tempfile::tempdir().unwrap();
        let (store, failed) = started(dir.path());
        let panics = store.read::<()>(|_| panic!("on purpose"));
        let behind: Vec<_> = (0..10).map(|_| store.read(|_| Ok(()))).collect();
        assert!(matches!(wait(panics), Err(StoreError::Closed)));
        // Those behind it are answered by the other reader or refused; none waits for ever.
        for read in behind {
            assert!(matches!(wait(read), Ok(()) | Err(StoreError::Closed)));
        }
        let error = failed.recv().unwrap();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("store-read"), "{source}");
        assert!(store.health().is_err());
    }
}
