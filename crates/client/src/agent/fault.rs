//! Named points at which a test kills the agent: only in builds with the feature `fault`.
//!
//! `BELLWIRE_FAULT=point:nth` ends the process with SIGKILL when it comes to that point for the nth
//! time. `BELLWIRE_FAULT_NO_START_RECORD=1` leaves the start record out of the journal: what shows
//! that the test of `tests/agent_once.rs` would notice. `BELLWIRE_FAULT_BOOT_ID` is the name of this
//! boot: another one is a reboot that no test machine has to go through.

/// A point in the life of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// The command came, and nothing is on disk yet.
    Received,
    /// It is on disk.
    Journaled,
    /// The hub has answered to `accepted`, and the agent has not read it.
    AcceptSent,
    /// The agent knows the answer.
    Accepted,
    /// The start is on disk.
    Started,
    /// The handler runs.
    Spawned,
    /// The handler has ended, and nothing of that is on disk.
    Exited,
    /// How it ended is on disk.
    Recorded,
    /// The hub has answered to the result, and the agent has not read it.
    ResultSent,
    /// That it was answered is on disk.
    Acked,
}

/// The agent is at this point.
#[cfg(not(feature = "fault"))]
#[inline]
pub(crate) fn at(_point: Point) {}

/// Whether start records are left out.
#[cfg(not(feature = "fault"))]
#[inline]
pub(crate) fn no_start_record() -> bool {
    false
}

/// What stands for the kernel's name of this boot.
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

    /// Where to end, and how often it is to be passed before.
    static FAULT: LazyLock<Option<(String, AtomicU64)>> = LazyLock::new(|| {
        let text = std::env::var("BELLWIRE_FAULT").ok()?;
        let (point, nth) = text.split_once(':')?;
        Some((point.to_owned(), AtomicU64::new(nth.parse().ok()?)))
    });

    pub(crate) fn at(point: Point) {
        let Some((name, left)) = &*FAULT else { return };
        if *name == point.name() && left.fetch_sub(1, Ordering::SeqCst) == 1 {
            let me = rustix::process::getpid();
            rustix::process::kill_process(me, rustix::process::Signal::KILL).ok();
            // The signal may take a moment, in which nothing more must happen.
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
