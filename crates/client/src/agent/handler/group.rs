//! The process group of a program: signals to all of it, and when all of it has ended.
//!
//! A process that has ended stays in its group until its parent, or process 1 for an orphan, collects its exit status.
//! Process 1 of a container may never do that, so what counts as alive is read from `/proc`.

use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::process::Child;
use tokio::time::sleep;

use crate::agent::run::{Stop, StopReceiver};

/// Time between two looks at a group whose leader has ended. No event reports the end of its other members.
const POLL_EVERY: Duration = Duration::from_millis(20);

/// A process group. Killed when dropped, unless disarmed.
pub(super) struct Group(Option<Pid>);

impl Group {
    /// The group that this child leads.
    pub(super) fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.0 {
            // A group without members needs no signal.
            rustix::process::kill_process_group(group, signal).ok();
        }
    }

    /// From now on the group gets no signal.
    pub(super) fn disarm(&mut self) {
        self.0 = None;
    }

    /// Sends TERM; if some member is alive after `kill_after`, or at [`Stop::Kill`], KILL.
    pub(super) async fn end(
        &self,
        child: &mut Child,
        kill_after: Duration,
        stop: &mut StopReceiver,
    ) -> Option<std::process::ExitStatus> {
        if stop.requested() < Some(Stop::Kill) {
            self.signal(Signal::TERM);
            tokio::select! {
                // Another group may have its number from here on.
                () = self.ended(child) => return child.wait().await.ok(),
                () = sleep(kill_after) => {}
                _ = stop.wait_for(Stop::Kill) => {}
            }
        }
        self.signal(Signal::KILL);
        child.wait().await.ok()
    }

    /// Waits until leader and members have ended.
    async fn ended(&self, child: &mut Child) {
        child.wait().await.ok();
        let Some(group) = self.0 else { return };
        let mut seen = None;
        while rustix::process::test_kill_process_group(group).is_ok() {
            // The member seen last, so that not every look reads all of /proc.
            let still = seen.is_some_and(|pid| is_alive(group, pid));
            if !still {
                match living_member(group) {
                    Ok(None) => return,
                    Ok(member) => seen = member,
                    // Without /proc it cannot be known: `kill_after` is the bound.
                    Err(error) => tracing::debug!(%error, "the members of a group are not known"),
                }
            }
            sleep(POLL_EVERY).await;
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// A member of the group that has not ended.
fn living_member(group: Pid) -> io::Result<Option<Pid>> {
    let pids = std::fs::read_dir("/proc")?.flatten().filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        Pid::from_raw(pid)
    });
    Ok(pids.into_iter().find(|pid| is_alive(group, *pid)))
}

/// Whether a process is a member of the group and has not ended.
fn is_alive(group: Pid, pid: Pid) -> bool {
    let path = Path::new("/proc").join(pid.as_raw_nonzero().to_string()).join("stat");
    // It is not text: a program may give itself any name.
    let stat = std::fs::read(path).unwrap_or_default();
    parse(&String::from_utf8_lossy(&stat)) == Some((group.as_raw_nonzero().get(), true))
}

/// The process group in a `/proc/PID/stat` (proc(5)), and whether the process has not ended. Of one whose first thread has
/// ended before the others the state is that of a dead one.
fn parse(stat: &str) -> Option<(i32, bool)> {
    // Behind the name, which may hold brackets and spaces.
    let (_, fields) = stat.rsplit_once(") ")?;
    let field = |n: usize| fields.split_whitespace().nth(n - 3);
    let ended = matches!(field(3)?, "Z" | "X");
    let threads: u32 = field(20)?.parse().ok()?;
    Some((field(5)?.parse().ok()?, !ended || threads > 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zombie_has_ended_unless_other_threads_of_it_run() {
        let stat = |state: &str, threads: u32| {
            format!("71 (a) Z (b) {state} 1 70 70 0 -1 0 0 0 0 0 0 0 0 0 20 0 {threads} 0 9 0 0")
        };
        for (state, threads, alive) in
            [("S", 1, true), ("R", 4, true), ("Z", 1, false), ("Z", 2, true), ("X", 0, false)]
        {
            assert_eq!(parse(&stat(state, threads)), Some((70, alive)), "{state} {threads}");
        }
        assert_eq!(parse(""), None);
    }
}
