//! The agent as process 1 of a container that has no init.
//!
//! Process 1 becomes the parent of every orphan, and must collect its exit status. Only a process that waits for no child
//! of its own may collect all of them: so process 1 starts the agent as its child, passes signals on to it, collects
//! whatever ends, and exits as the agent does.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, wait};
use tokio::signal::unix::{SignalKind, signal};

/// What is passed on. Nothing else that can be caught would end the agent, or comes from outside.
const PASSED_ON: [Signal; 6] =
    [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM, Signal::USR1, Signal::USR2];

/// Whether this process is process 1.
pub(super) fn is_process_1() -> bool {
    getpid().is_init()
}

/// Runs the same command line as a child until it has ended; gives its exit code.
pub(super) async fn run() -> anyhow::Result<u8> {
    // Before there is a child: none of its signals, and no signal for it, is missed.
    let mut ended = signal(SignalKind::child())?;
    let mut arrivals = Vec::new();
    for number in PASSED_ON {
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

/// Starts this program again. In a process group of its own, so that a terminal's Ctrl-C comes to process 1 alone and is
/// not counted twice.
fn start() -> anyhow::Result<Pid> {
    let mut args = std::env::args_os();
    let mut command = Command::new(std::env::current_exe()?);
    command.arg0(args.next().unwrap_or_default()).args(args).process_group(0);
    // The watchdog of process 1 is served by the agent.
    command.env_remove("WATCHDOG_PID");
    let child = command.spawn()?;
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("it has no process id")
}

/// Collects all that has ended; gives the status of the agent if it is among them.
fn collect(agent: Pid) -> Option<WaitStatus> {
    let mut found = None;
    // An error is that there is no child.
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if pid == agent {
            found = Some(status);
        }
    }
    found
}

/// An exit code as a shell gives it: 128 + n for signal n.
fn code(status: WaitStatus) -> u8 {
    let code = status.exit_status().or(status.terminating_signal().map(|n| 128 + n));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}
