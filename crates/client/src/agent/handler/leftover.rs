//! What is left of a handler when the agent that ran it was killed: found by `BELLWIRE_COMMAND` in
//! its environment, and ended before the command is judged or run again.
//!
//! A process that has cleared its environment is not found, nor one that this process may not look
//! at; the former is documented, the latter cannot be a child of ours unless it changed its user.

use std::io;
use std::time::{Duration, Instant};

use bellwire_proto::CommandId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// How long killed processes may take to be gone. Only one that sits in a dead disk's driver does
/// not end at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// Kills (KILL) whatever still runs for this command, and waits until it is gone. Gives how many processes there were. Blocks: not for a runtime's thread.
///
/// # Errors
/// When some did not end in 10 s, or the processes of this machine cannot be listed.
pub fn kill_left(command: CommandId) -> io::Result<usize> {
    let until = Instant::now() + PATIENCE;
    let mut killed = 0;
    loop {
        // Again until a look finds none: one that was killed may just have made another.
        let left = find(command)?;
        if left.is_empty() {
            break;
        }
        killed += left.len();
        for process in &left {
            pidfd_send_signal(process, Signal::KILL).ok();
        }
        for process in &left {
            wait_until_gone(process, until)?;
        }
    }
    Ok(killed)
}

/// The processes with this command in their environment, but this one.
fn find(command: CommandId) -> io::Result<Vec<OwnedFd>> {
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
        // The handle first: what is read afterwards is of the process that it stands for, or the
        // process is gone and the signal reaches nobody.
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|v| v == variable.as_bytes()) {
            found.push(process);
        }
    }
    Ok(found)
}

fn wait_until_gone(process: &OwnedFd, until: Instant) -> io::Result<()> {
    let left = until.saturating_duration_since(Instant::now());
    let limit = Timespec::try_from(left).map_err(io::Error::other)?;
    let mut fds = [PollFd::new(process, PollFlags::IN)];
    match poll(&mut fds, Some(&limit)) {
        Ok(0) => {
            let why = "a process that was left of it does not end, although it was killed";
            Err(io::Error::new(io::ErrorKind::TimedOut, why))
        }
        // Interrupted: the next look finds it again.
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
