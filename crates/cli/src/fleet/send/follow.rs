//! A command to many while it goes on: how far it is, what Ctrl-C is to do, and what failed in the end.
//!
//! How far it is comes from the command's counters: at any size one small request a second. The changes of each appliance
//! would be a stream of all of them.

use std::pin::pin;
use std::time::Duration;

use bellwire_client::Controller;
use bellwire_client::api::{DeliveryQuery, Error, RolloutChange};
use bellwire_proto::{Code, Command, CommandId, DeliveryState, RolloutState, Seconds};
use futures_util::TryStreamExt as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::bars::Bars;
use crate::command;
use crate::exit;
use crate::fleet::rollout::print;
use crate::fleet::{ask, results};
use crate::out::{self, Form};

/// The time between two looks at first, and at most.
const LOOK_MIN: Duration = Duration::from_millis(100);
const LOOK_MAX: Duration = Duration::from_secs(1);
/// Appliances in the table of what failed.
const FAILED_SHOWN_MAX: usize = 100;

/// Why it is not followed any further.
enum End {
    /// It has ended, or the wait has elapsed.
    Seen(Command),
    /// The waiting was ended, by a person or a signal.
    Left(Command),
}

/// What Ctrl-C is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    GoOn,
    Leave,
    Pause,
    Abort,
}

/// Waits for the end of the command, or so long; shows it and what failed, and gives the exit code.
pub(super) async fn to_its_end(
    hub: &Controller,
    sent: Command,
    wait: Option<Seconds>,
    form: Form,
) -> anyhow::Result<u8> {
    let id = sent.id;
    let asks = ask::is_possible();
    if form == Form::Text {
        let what = if asks { "asks what to do" } else { "ends the waiting, not the command" };
        out::note(&format!("waiting for {} (Ctrl-C {what}: bellwire watch {id})", sent.action));
    }
    // Without a terminal to ask on, Ctrl-C ends the program.
    let interrupts = if asks { Some(signal(SignalKind::interrupt())?) } else { None };
    let (command, left) = match watch(hub, sent, wait, form, interrupts).await? {
        End::Seen(command) => (command, false),
        End::Left(command) => (command, true),
    };
    if form == Form::Text && !left {
        failures(hub, &command).await?;
    }
    print(&command, form)?;
    if command.done {
        return Ok(command::worst(&command.counts));
    }
    if form == Form::Text {
        let paused = command.rollout.as_ref().is_some_and(|r| r.state == RolloutState::Paused);
        out::note(&if paused {
            format!("paused; go on with: bellwire resume {id}")
        } else {
            format!("not ended yet; follow it with: bellwire watch {id}")
        });
    }
    Ok(exit::TOO_LATE)
}

async fn watch(
    hub: &Controller,
    sent: Command,
    wait: Option<Seconds>,
    form: Form,
    mut interrupts: Option<Signal>,
) -> anyhow::Result<End> {
    let until = wait.map(|wait| Instant::now() + wait.duration());
    let mut bars = Bars::new(form);
    let (mut command, mut pause) = (sent, LOOK_MIN);
    let mut away = false;
    loop {
        bars.show(&command);
        if command.done {
            bars.end();
            return Ok(End::Seen(command));
        }
        let next = Instant::now() + pause;
        pause = (pause * 3 / 2).min(LOOK_MAX);
        tokio::select! {
            () = tokio::time::sleep_until(until.map_or(next, |until| until.min(next))) => {}
            () = interrupted(&mut interrupts) => {
                bars.end();
                match wish(&command, &mut interrupts, until).await {
                    Wish::GoOn => {}
                    Wish::Leave => return Ok(End::Left(command)),
                    Wish::Pause => {
                        let paused = hub.change_rollout(command.id, RolloutChange::Pause).await;
                        if let Some(paused) = unless_ended(paused)? {
                            return Ok(End::Left(paused));
                        }
                    }
                    Wish::Abort => stop(hub, &command).await?,
                }
            }
        }
        match hub.command(command.id).await {
            Ok(now) => (command, away) = (now, false),
            Err(error) if is_passing(&error) => {
                if !away {
                    bars.end();
                    out::note(&format!("{error}; it is tried again"));
                }
                away = true;
            }
            Err(error) => return Err(error.into()),
        }
        if until.is_some_and(|until| Instant::now() >= until) {
            bars.show(&command);
            bars.end();
            return Ok(End::Seen(command));
        }
    }
}

/// Whether the hub may answer the next time.
fn is_passing(error: &Error) -> bool {
    match error {
        Error::Refused { problem, .. } => {
            matches!(problem.code, Code::Draining | Code::StoreUnavailable | Code::RateLimited)
        }
        Error::Unreachable { .. } => true,
        _ => false,
    }
}

async fn elapsed(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

/// Ctrl-C, if it does not end the program.
async fn interrupted(interrupts: &mut Option<Signal>) {
    match interrupts {
        Some(interrupts) => {
            interrupts.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// Stops what has not begun: of a rollout the batches to come, of any other command all that has not ended.
async fn stop(hub: &Controller, command: &Command) -> anyhow::Result<()> {
    let changed = match command.rollout {
        Some(_) => hub.change_rollout(command.id, RolloutChange::Abort).await,
        None => hub.cancel(command.id, false).await,
    };
    unless_ended(changed).map(drop)
}

/// What a change led to; `None` when the command had ended meanwhile.
fn unless_ended(changed: Result<Command, Error>) -> anyhow::Result<Option<Command>> {
    match changed {
        Err(Error::Refused { problem, .. })
            if matches!(problem.code, Code::IllegalTransition | Code::Conflict) =>
        {
            Ok(None)
        }
        changed => Ok(Some(changed?)),
    }
}

/// Asks what to do, until the wait has elapsed.
async fn wish(command: &Command, interrupts: &mut Option<Signal>, until: Option<Instant>) -> Wish {
    let rolls = command.rollout.as_ref().map(|rollout| rollout.state);
    let pausable = matches!(rolls, Some(RolloutState::Running));
    let question = match pausable {
        true => "\nLeave it running, pause it, abort it, or go on waiting? [l/p/a/G] ",
        false => "\nLeave it running, abort it, or go on waiting? [l/a/G] ",
    };
    // A thread that the end of the program does not wait for: an answer may never come.
    let (answered, answer) = oneshot::channel();
    std::thread::spawn(move || answered.send(ask::answer(question)));
    tokio::select! {
        answer = answer => match answer {
            Ok(Ok(answer)) => read(&answer, pausable),
            _ => Wish::Leave,
        },
        // A second Ctrl-C is no answer, but meant.
        () = interrupted(interrupts) => Wish::Leave,
        () = elapsed(until) => Wish::GoOn,
    }
}

fn read(answer: &str, pausable: bool) -> Wish {
    match answer.to_ascii_lowercase().as_str() {
        "l" | "leave" => Wish::Leave,
        "p" | "pause" if pausable => Wish::Pause,
        "a" | "abort" => Wish::Abort,
        _ => Wish::GoOn,
    }
}

/// The table of what failed, as far as it fits.
async fn failures(hub: &Controller, command: &Command) -> anyhow::Result<()> {
    let failed = command.counts.iter().filter(|(state, _)| results::has_failed(**state));
    let (states, numbers): (Vec<DeliveryState>, Vec<u64>) = failed.unzip();
    let total: u64 = numbers.iter().sum();
    let mut shown = 0;
    for state in states {
        shown += print_in_state(hub, command.id, state, shown).await?;
    }
    if let Some(others @ 1..) = total.checked_sub(shown as u64) {
        out::note(&format!("{others} more: bellwire results {} --failed", command.id));
    }
    Ok(())
}

/// Prints those in one state, after so many of others, and returns how many.
async fn print_in_state(
    hub: &Controller,
    id: CommandId,
    state: DeliveryState,
    before: usize,
) -> anyhow::Result<usize> {
    let missing = FAILED_SHOWN_MAX.saturating_sub(before).max(1) as u32;
    let query =
        DeliveryQuery { state: Some(state), limit: Some(missing), ..DeliveryQuery::default() };
    let mut deliveries = pin!(hub.all_deliveries(id, query));
    let mut shown = 0;
    while before + shown < FAILED_SHOWN_MAX {
        let Some(delivery) = deliveries.try_next().await? else { break };
        if before + shown == 0 {
            results::heading()?;
        }
        results::row(&delivery)?;
        shown += 1;
    }
    Ok(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_not_understood_changes_nothing() {
        assert_eq!(read("l", true), Wish::Leave);
        assert_eq!(read("Pause", true), Wish::Pause);
        assert_eq!(read("p", false), Wish::GoOn);
        assert_eq!(read("a", false), Wish::Abort);
        for other in ["", "x", "yes"] {
            assert_eq!(read(other, true), Wish::GoOn, "{other:?}");
        }
    }
}
