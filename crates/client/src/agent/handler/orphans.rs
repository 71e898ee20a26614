//! The processes of a handler whose agent was killed: found by `BELLWIRE_COMMAND` in their environment, and killed before
//! the command is completed or run again.
//!
//! A process that has cleared its environment is not found (docs/agent.md says so), nor one whose environment this process
//! may not read; a handler's child is such a one only if it changed its user.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::{Duration, Instant};

use bellwire_proto::CommandId;
use bellwire_proto::limits::AGENT_ORPHANS_KILL_TIMEOUT;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

/// Time between two searches for a process that has no handle.
const POLL_EVERY: Duration = Duration::from_millis(20);

/// How often an empty environment is read again: some processes have none.
const READS_MAX: u32 = 5;
const READ_AGAIN_AFTER: Duration = Duration::from_millis(2);

/// A process that is to be killed.
struct Orphan {
    pid: Pid,
    /// `None` before Linux 5.3, and in some sandboxes.
    handle: Option<OwnedFd>,
}

/// Sends KILL to every process of this command and waits until they have ended. Returns how many there were. It blocks:
/// call it from a thread that may.
///
/// # Errors
/// When some did not end in 10 s, or the processes of this machine cannot be listed.
pub fn kill_orphans(command: CommandId) -> io::Result<usize> {
    kill(command, |pid| pidfd_open(pid, PidfdFlags::empty()))
}

fn kill(command: CommandId, open: impl Fn(Pid) -> Result<OwnedFd, Errno>) -> io::Result<usize> {
    let until = Instant::now() + AGENT_ORPHANS_KILL_TIMEOUT;
    let mut killed = BTreeSet::new();
    loop {
        // Again until none is found: a process that was killed may just have started another.
        let orphans = find(command, &open)?;
        if orphans.is_empty() {
            break;
        }
        for Orphan { pid, handle } in &orphans {
            // One that has ended already needs no signal.
            match handle {
                Some(handle) => pidfd_send_signal(handle, Signal::KILL).ok(),
                None => kill_process(*pid, Signal::KILL).ok(),
            };
            killed.insert(pid.as_raw_nonzero());
        }
        for process in &orphans {
            wait_for_end(process, until)?;
        }
    }
    Ok(killed.len())
}

/// The processes with this command in their environment, but this one.
fn find(
    command: CommandId,
    open: impl Fn(Pid) -> Result<OwnedFd, Errno>,
) -> io::Result<Vec<Orphan>> {
    let variable = format!("BELLWIRE_COMMAND={command}");
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Ok(entry) = entry else { continue };
        let name = entry.file_name();
        let pid: Option<i32> = name.to_str().and_then(|name| name.parse().ok());
        let Some(pid) = pid.and_then(Pid::from_raw) else { continue };
        if pid == rustix::process::getpid() {
            continue;
        }
        // The handle first: what is read afterwards belongs to the same process, or that process has ended and the
        // signal has no effect.
        let handle = match open(pid) {
            Ok(handle) => Some(handle),
            Err(Errno::SRCH) => continue,
            Err(_) => None,
        };
        let environment = match environment(&entry.path()) {
            Ok(environment) => environment,
            // It has ended, or belongs to another user.
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
                continue;
            }
            Err(e) if Errno::from_io_error(&e) == Some(Errno::SRCH) => continue,
            Err(e) => return Err(e),
        };
        if environment.split(|byte| *byte == 0).any(|v| v == variable.as_bytes()) {
            found.push(Orphan { pid, handle });
        }
    }
    Ok(found)
}

/// The environment of a process. During execve it is empty for a moment, and then it is read again.
fn environment(process: &Path) -> io::Result<Vec<u8>> {
    let mut reads = 0;
    loop {
        let environment = std::fs::read(process.join("environ"))?;
        reads += 1;
        // A process that has ended, or a thread of the kernel, runs no file.
        let is_unset = environment.is_empty() && std::fs::read_link(process.join("exe")).is_ok();
        if !is_unset || reads == READS_MAX {
            return Ok(environment);
        }
        std::thread::sleep(READ_AGAIN_AFTER);
    }
}

/// Waits for a process that was killed; without a handle only a moment, since the next search finds it again.
fn wait_for_end(process: &Orphan, until: Instant) -> io::Result<()> {
    let remaining = until.saturating_duration_since(Instant::now());
    if remaining.is_zero() {
        let why = "a process of it does not end, although it was killed";
        return Err(io::Error::new(ErrorKind::TimedOut, why));
    }
    let Some(handle) = &process.handle else {
        std::thread::sleep(POLL_EVERY);
        return Ok(());
    };
    let limit = Timespec::try_from(remaining).map_err(io::Error::other)?;
    match poll(&mut [PollFd::new(handle, PollFlags::IN)], Some(&limit)) {
        // Interrupted, or too late: the next search finds it again.
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Command;

    use super::*;

    /// Where the kernel gave no handle, the orphan was not found, and the command ran twice at the same time.
    #[test]
    fn orphans_are_found_and_killed_where_the_kernel_gives_no_handle() {
        let id =
            CommandId::from_parts(7, [rustix::process::getpid().as_raw_nonzero().get() as u8; 10]);
        let mut orphan = Command::new("sleep");
        let mut orphan =
            orphan.arg("1000").env("BELLWIRE_COMMAND", id.to_string()).spawn().unwrap();
        let ended = std::thread::spawn(move || orphan.wait().unwrap());
        assert_eq!(kill(id, |_| Err(Errno::NOSYS)).unwrap(), 1);
        assert_eq!(ended.join().unwrap().signal(), Some(9));
        assert_eq!(kill(id, |_| Err(Errno::NOSYS)).unwrap(), 0);
    }
}
