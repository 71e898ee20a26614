//! Faults of the hub itself: what the log and the answer say of them, and the guard of tasks that must not end unnoticed.

use std::fmt::Display;
use std::panic::AssertUnwindSafe;

use bellwire_proto::{Code, Problem};
use futures_util::FutureExt;

/// The answer to a request that failed for a reason that is not the client's and not the store's. Logs the cause, which is
/// never in the answer.
pub(crate) fn failed(cause: impl Display) -> Problem {
    tracing::error!(%cause, "the hub failed at a request");
    panicked()
}

/// The same after a panic, which the panic hook has logged already: of this request, or of an earlier decision.
pub(crate) fn panicked() -> Problem {
    Problem::new(Code::Internal, "the hub failed at this; see its log")
}

/// Runs a task to its end, and calls `panicked` if that is a panic: tokio would end the task and nothing else.
pub(crate) async fn guard(task: impl Future<Output = ()>, panicked: impl FnOnce()) {
    if AssertUnwindSafe(task).catch_unwind().await.is_err() {
        panicked();
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Answers said "see its log", and the log had nothing.
    #[test]
    fn the_cause_is_in_the_log_and_not_in_the_answer() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let problem = tracing::subscriber::with_default(subscriber, || failed("no entropy"));
        let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert!(logged.contains("cause=no entropy"), "{logged}");
        assert!(!problem.detail.contains("entropy"), "{problem:?}");
    }
}
