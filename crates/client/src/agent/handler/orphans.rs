//! What is left of a handler when the agent that ran it was killed: found by `BELLWIRE_COMMAND` in
//! its environment, and ended before the command is judged or run again.
//!
//! A process that has cleared its environment is not found, nor one that this process may not look
//! at; the former is documented, the latter cannot be a child of ours unless it changed its user.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::{Duration, Instant};

use bellwire_proto::CommandId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

/// How long killed processes may take to be gone. Only one that sits in a dead disk's driver does
/// not end at once.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked whether one is gone of which there is no handle.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How often it is looked whether a process has an environment after all: some have none.
const LOOKS_MAX: u32 = 5;
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(2);

/// A process that is to end.
struct Left {
    pid: Pid,
    /// None where the kernel gives none: before Linux 5.3, and in some sandboxes.
    handle: Option<OwnedFd>,
}

/// Kills (KILL) whatever still runs for this command, and waits until it is gone. Gives how many processes there were. Blocks: not for a runtime's thread.
///
/// # Errors
/// When some did not end in 10 s, or the processes of this machine cannot be listed.
pub fn kill_orphans(command: CommandId) -> io::Result<usize> {
    kill(command, |pid| pidfd_open(pid, PidfdFlags::empty()))
}

fn kill(command: CommandId, open: impl Fn(Pid) -> Result<OwnedFd, Errno>) -> io::Result<usize> {
    let until = Instant::now() + PATIENCE;
    let mut killed = BTreeSet::new();
    loop {
        // Again until a look finds none: one that was killed may just have made another.
        let left = find(command, &open)?;
        if left.is_empty() {
            break;
        }
        for Left { pid, handle } in &left {
            // That it is gone already is as good.
            match handle {
                Some(handle) => pidfd_send_signal(handle, Signal::KILL).ok(),
                None => kill_process(*pid, Signal::KILL).ok(),
            };
            killed.insert(pid.as_raw_nonzero());
        }
        for process in &left {
            wait_until_gone(process, until)?;
        }
    }
    Ok(killed.len())
}

/// The processes with this command in their environment, but this one.
fn find(command: CommandId, open: impl Fn(Pid) -> Result<OwnedFd, Errno>) -> io::Result<Vec<Left>> {
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
        let handle = match open(pid) {
            Ok(handle) => Some(handle),
            Err(Errno::SRCH) => continue,
            Err(_) => None,
        };
        let environment = match environment(&entry.path()) {
            Ok(environment) => environment,
            // It is gone, or nobody's child of ours.
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
                continue;
            }
            Err(e) if Errno::from_io_error(&e) == Some(Errno::SRCH) => continue,
            Err(e) => return Err(e),
        };
        if environment.split(|byte| *byte == 0).any(|v| v == variable.as_bytes()) {
            found.push(Left { pid, handle });
        }
    }
    Ok(found)
}

/// The environment of a process. One that is about to become another program has none for a moment: then it is
/// looked at again.
fn environment(process: &Path) -> io::Result<Vec<u8>> {
    let mut looks = 0;
    loop {
        let environment = std::fs::read(process.join("environ"))?;
        looks += 1;
        // What is dead, or the kernel's own, runs no file.
        let is_none = environment.is_empty() && std::fs::read_link(process.join("exe")).is_ok();
        if !is_none || looks == LOOKS_MAX {
            return Ok(environment);
        }
        std::thread::sleep(LOOK_AGAIN_AFTER);
    }
}

/// Waits for one that was killed; without a handle only a moment, since the next look tells more.
fn wait_until_gone(process: &Left, until: Instant) -> io::Result<()> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        let why = "a process that was left of it does not end, although it was killed";
        return Err(io::Error::new(ErrorKind::TimedOut, why));
    }
    let Some(handle) = &process.handle else {
        std::thread::sleep(LOOK_EVERY);
        return Ok(());
    };
    let limit = Timespec::try_from(left).map_err(io::Error::other)?;
    match poll(&mut [PollFd::new(handle, PollFlags::IN)], Some(&limit)) {
        // Interrupted, or too late: the next look finds it again.
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Command;

    use super::*;

    /// Where the kernel gave no handle, what was left was not found, and the command ran beside itself.
    #[test]
    fn what_is_left_is_found_and_killed_also_where_the_kernel_gives_no_handle() {
        let id =
            CommandId::from_parts(7, [rustix::process::getpid().as_raw_nonzero().get() as u8; 10]);
        let mut left = Command::new("sleep");
        let mut left = left.arg("1000").env("BELLWIRE_COMMAND", id.to_string()).spawn().unwrap();
        let ended = std::thread::spawn(move || left.wait().unwrap());
        assert_eq!(kill(id, |_| Err(Errno::NOSYS)).unwrap(), 1);
        assert_eq!(ended.join().unwrap().signal(), Some(9));
        assert_eq!(kill(id, |_| Err(Errno::NOSYS)).unwrap(), 0);
    }
}
