//! Named points at which a test kills the agent: only in builds with the feature `fault`.
//!
//! `BELLWIRE_FAULT=point:nth` ends the process with SIGKILL when it reaches that point for the nth time.
//! `BELLWIRE_FAULT_NO_START_RECORD=1` omits the start record from the journal: an injected bug that
//! `tests/agent_once.rs` must find. `BELLWIRE_FAULT_BOOT_ID` replaces the kernel's boot id: a test changes it in place of a
//! reboot.

/// A point in the life of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// The command was received, and nothing is on disk yet.
    Received,
    /// It is on disk.
    Journaled,
    /// The hub has answered `accepted`, and the agent has not read the answer.
    AcceptSent,
    /// The agent has read that answer.
    Accepted,
    /// The start is on disk.
    Started,
    /// The handler runs.
    Spawned,
    /// The handler has ended, and nothing of that is on disk.
    Exited,
    /// How it ended is on disk.
    Recorded,
    /// The hub has answered the result, and the agent has not read the answer.
    ResultSent,
    /// The answer to the result is on disk.
    Acked,
}

/// Ends the process here, if the test requests it.
#[cfg(not(feature = "fault"))]
#[inline]
pub(crate) fn at(_point: Point) {}

/// Whether start records are omitted.
#[cfg(not(feature = "fault"))]
#[inline]
pub(crate) fn no_start_record() -> bool {
    false
}

/// Replaces the kernel's boot id.
#[cfg(not(feature = "fault"))]
#[inline]
pub(crate) fn boot_id() -> Option<String> {
    None
}

#[cfg(feature = "fault")]
pub(crate) use armed::{at, boot_id, no_start_record};

#[cfg(feature = "fault")]
mod armed {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::Point;

    /// The point, and how often it must be reached.
    static FAULT: LazyLock<Option<(String, AtomicU64)>> = LazyLock::new(|| {
        let text = std::env::var("BELLWIRE_FAULT").ok()?;
        let (point, nth) = text.split_once(':')?;
        Some((point.to_owned(), AtomicU64::new(nth.parse().ok()?)))
    });

    pub(crate) fn at(point: Point) {
        let Some((name, remaining)) = &*FAULT else { return };
        if *name == point.name() && remaining.fetch_sub(1, Ordering::SeqCst) == 1 {
            let me = rustix::process::getpid();
            rustix::process::kill_process(me, rustix::process::Signal::KILL).ok();
            // Until the signal arrives nothing more must happen.
            loop {
                std::thread::park();
            }
        }
    }

    pub(crate) fn no_start_record() -> bool {
        std::env::var_os("BELLWIRE_FAULT_NO_START_RECORD").is_some()
    }

    pub(crate) fn boot_id() -> Option<String> {
        std::env::var("BELLWIRE_FAULT_BOOT_ID").ok()
    }

    impl Point {
        fn name(self) -> &'static str {
            match self {
                Self::Received => "received",
                Self::Journaled => "journaled",
                Self::AcceptSent => "accept_sent",
                Self::Accepted => "accepted",
                Self::Started => "started",
                Self::Spawned => "spawned",
                Self::Exited => "exited",
                Self::Recorded => "recorded",
                Self::ResultSent => "result_sent",
                Self::Acked => "acked",
            }
        }
    }
}
