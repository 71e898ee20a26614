//! The agent as process 1 of a container that has no init.
//!
//! Process 1 becomes the parent of every orphan and must collect its exit status. A process that also waits for children of
//! its own, as the agent does for handlers, could take their exit status away. So process 1 starts the agent as a child,
//! forwards signals to it, collects every process that ends, and exits with the agent's exit code.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, wait};
use tokio::signal::unix::{SignalKind, signal};

/// The signals that are forwarded: those that supervisors, terminals and people send.
const FORWARDED: [Signal; 6] =
    [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM, Signal::USR1, Signal::USR2];

/// Whether this process is process 1.
pub(super) fn is_process_1() -> bool {
    getpid().is_init()
}

/// Runs the same command line as a child until it has ended; returns its exit code.
pub(super) async fn run() -> anyhow::Result<u8> {
    // Before the child is started, so that no signal is missed.
    let mut ended = signal(SignalKind::child())?;
    let mut arrivals = Vec::new();
    for number in FORWARDED {
        arrivals.push((number, signal(SignalKind::from_raw(number.as_raw()))?));
    }
    let agent = start().context("the agent cannot be started as a child of process 1")?;
    for (number, mut arrivals) in arrivals {
        tokio::spawn(async move {
            while arrivals.recv().await.is_some() {
                kill_process(agent, number).ok();
            }
        });
    }
    loop {
        ended.recv().await;
        if let Some(status) = collect(agent) {
            return Ok(code(status));
        }
    }
}

/// Starts this program again, in a process group of its own: the agent must not receive a terminal's Ctrl-C both from the
/// terminal and from here.
fn start() -> anyhow::Result<Pid> {
    let mut args = std::env::args_os();
    let mut command = Command::new(std::env::current_exe()?);
    command.arg0(args.next().unwrap_or_default()).args(args).process_group(0);
    let child = command.spawn()?;
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("it has no process id")
}

/// Collects every process that has ended; returns the status of the agent if it is among them.
fn collect(agent: Pid) -> Option<WaitStatus> {
    let mut found = None;
    // Fails when there is no child.
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if pid == agent {
            found = Some(status);
        }
    }
    found
}

/// The exit code that a shell reports: 128 + n for signal n.
fn code(status: WaitStatus) -> u8 {
    let code = status.exit_status().or(status.terminating_signal().map(|n| 128 + n));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}
