//! `bellwire status`, `watch` and `cancel`: the state of a command.

use std::collections::HashMap;
use std::pin::pin;

use anyhow::Context as _;
use bellwire_client::Controller;
use bellwire_client::api::{CommandChange, DeliveryQuery, Error};
use bellwire_proto::{Code, Command, Counts, Delivery, DeliveryState, Timestamp, Wait, WaitReason};
use futures_util::TryStreamExt;
use serde::Serialize;

use crate::args::{Cancel, Status, Watch};
use crate::connect;
use crate::exit;
use crate::explain::note_losses;
use crate::out::{self, DIM, Form, StdoutError};

pub(crate) async fn status(args: Status, form: Form) -> anyhow::Result<u8> {
    let hub = connect::controller(&args.hub)?;
    let id = args.id.find(&hub).await?;
    let command = hub.command(id).await?;
    let is_single = command.total == 1;
    match form {
        Form::Json => out::json(&command)?,
        // The delivery says all of it.
        Form::Text if is_single => {}
        Form::Text => out::command(&command)?,
    }
    // The hub's clock, so that spans are right on a machine whose own is not.
    let now = Timestamp::from_unix_ms(hub.ping().await?.time_ms);
    // Both are by device name, and are read side by side.
    let mut waits = pin!(hub.all_waits(id));
    let (mut wait, mut begun) = (None, 0);
    let mut deliveries = pin!(hub.all_deliveries(id, DeliveryQuery::default()));
    while let Some(delivery) = deliveries.try_next().await? {
        begun += 1;
        let queued = delivery.state == DeliveryState::Queued;
        while queued && wait.as_ref().is_none_or(|wait: &Wait| wait.device < delivery.device) {
            // A hub that does not know the reasons still knows the state.
            match waits.try_next().await {
                Ok(Some(next)) => wait = Some(next),
                Ok(None) | Err(_) => break,
            }
        }
        let wait = wait.as_ref().filter(|wait| queued && wait.device == delivery.device);
        match form {
            Form::Json => out::json(&Waiting { delivery: &delivery, waits: wait })?,
            Form::Text => print(&delivery, is_single.then_some(&command), wait, now)?,
        }
    }
    if form == Form::Text && command.total > begun {
        out::note(&format!("{} more have not begun", command.total - begun));
    }
    Ok(exit::OK)
}

/// A delivery; with its command, if that has no other.
fn print(
    delivery: &Delivery,
    command: Option<&Command>,
    wait: Option<&Wait>,
    now: Timestamp,
) -> Result<(), StdoutError> {
    let Delivery { state, updated_at, expires_at, .. } = delivery;
    out::delivery_head(delivery)?;
    if let Some(command) = command {
        out::line(format_args!("  {DIM}{}, created {}{DIM:#}", command.id, command.created_at))?;
        if !command.data.is_null() {
            out::line(format_args!("  data {}", out::printable(command.data.as_str())))?;
        }
    }
    if let Some(wait) = wait {
        out::line(format_args!("  waits: {}", reason(wait, now)))?;
    }
    match state {
        DeliveryState::Queued | DeliveryState::Sent => out::line(format_args!(
            "  expires: {expires_at} (in {}), unless the appliance has accepted it by then",
            out::span(expires_at.since(now))
        ))?,
        DeliveryState::Accepted | DeliveryState::Running | DeliveryState::Cancelling => {
            out::line(format_args!(
                "  {state} since {updated_at} ({}), when its state or progress last changed",
                out::span(now.since(*updated_at))
            ))?;
        }
        _ => {}
    }
    out::outcome(delivery)
}

/// What a delivery that is queued waits for. `None` if it does not wait, or the hub does not know.
pub(crate) async fn why_queued(hub: &Controller, delivery: &Delivery) -> Option<String> {
    if delivery.state != DeliveryState::Queued {
        return None;
    }
    let now = Timestamp::from_unix_ms(hub.ping().await.ok()?.time_ms);
    let mut waits = pin!(hub.all_waits(delivery.command));
    while let Some(wait) = waits.try_next().await.ok()? {
        if wait.device == delivery.device {
            return Some(reason(&wait, now));
        }
    }
    None
}

pub(crate) async fn watch(args: Watch, form: Form) -> anyhow::Result<u8> {
    let hub = connect::controller(&args.hub)?;
    let id = args.id.find(&hub).await?;
    let is_single = form == Form::Text && hub.command(id).await?.total == 1;
    let mut changes = hub.watch(id)?.on_lost(note_losses(&hub));
    let mut shown = HashMap::new();
    while let Some(change) = changes.next().await {
        match (change?, form) {
            (CommandChange::Delivery(delivery), Form::Json) => out::json(&delivery)?,
            (CommandChange::Delivery(delivery), Form::Text) => {
                // A keepalive report changes nothing that is shown.
                let now = (delivery.state, delivery.attempt, delivery.outcome.progress);
                if shown.insert(delivery.device.clone(), now) != Some(now) {
                    out::delivery(&delivery)?;
                    if is_single && let Some(why) = why_queued(&hub, &delivery).await {
                        out::note(&format!("  waits: {why}"));
                    }
                }
            }
            (CommandChange::Done(command), _) => return Ok(worst(&command.counts)),
            _ => {}
        }
    }
    Ok(exit::UNREACHABLE)
}

pub(crate) async fn cancel(args: Cancel, form: Form) -> anyhow::Result<u8> {
    let hub = connect::controller(&args.hub)?;
    args.id.check_length()?;
    let id = args.id.find(&hub).await?;
    let command = match hub.cancel(id, args.force).await {
        // The command is as its sender wants it: nothing of it is delivered or run any more.
        Err(Error::Refused { problem, .. }) if problem.code == Code::IllegalTransition => {
            let ended = hub.command(id).await?;
            match form {
                Form::Json => out::json(&ended)?,
                Form::Text => {
                    out::note(&format!("it has already ended: {}", ends(&ended)));
                }
            }
            return Ok(exit::OK);
        }
        answer => answer?,
    };
    let printed = match form {
        Form::Json => out::json(&command),
        Form::Text => out::command(&command).map_err(Into::into),
    };
    printed.with_context(|| match command.done {
        true => format!("the command {id} was cancelled"),
        false => format!("the cancellation of the command {id} was requested"),
    })?;
    if !command.done && form == Form::Text {
        out::note(&format!(
            "cancel requested; follow it with: bellwire watch {id}, or end it with: bellwire cancel {id} --force"
        ));
    }
    Ok(exit::OK)
}

/// In which states its deliveries ended.
fn ends(command: &Command) -> String {
    let end = |(state, n): (&DeliveryState, &u64)| match command.total {
        1 => state.to_string(),
        _ => format!("{n} {state}"),
    };
    command.counts.iter().map(end).collect::<Vec<_>>().join(", ")
}

/// The code for a command whose deliveries ended differently: that of the worst, failure before
/// rejection before timeout.
pub(crate) fn worst(counts: &Counts) -> u8 {
    let codes = counts.keys().map(|state: &DeliveryState| exit::for_state(*state));
    codes.filter(|code| *code != exit::OK).min().unwrap_or(exit::OK)
}

/// A delivery as the hub shows it, and what it waits for while it is queued.
#[derive(Serialize)]
struct Waiting<'a> {
    #[serde(flatten)]
    delivery: &'a Delivery,
    #[serde(skip_serializing_if = "Option::is_none")]
    waits: Option<&'a Wait>,
}

/// What a queued delivery waits for, for people.
fn reason(wait: &Wait, now: Timestamp) -> String {
    let Wait { reason, since, until, behind, .. } = wait;
    match (reason, since, until, behind) {
        (WaitReason::Scheduled, _, Some(at), _) => {
            format!("for its time, {at} (in {})", out::span(at.since(now)))
        }
        (WaitReason::Window, _, Some(at), _) => {
            format!(
                "for its maintenance window, which opens at {at} (in {})",
                out::span(at.since(now))
            )
        }
        (WaitReason::Offline, Some(at), ..) => {
            format!("the appliance is offline since {at} ({})", out::span(now.since(*at)))
        }
        (WaitReason::Offline, ..) => "the appliance has never connected".to_owned(),
        (WaitReason::Backoff, _, Some(at), _) => {
            format!(
                "it is sent again at {at} (in {}), after a failed attempt",
                out::span(at.since(now))
            )
        }
        (WaitReason::Behind, .., Some(first)) => format!("behind another command, {first}"),
        _ => "it is about to be sent".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_end_of_several_gives_the_code() {
        let code = |states: &[DeliveryState]| worst(&states.iter().map(|s| (*s, 1)).collect());
        assert_eq!(code(&[DeliveryState::Succeeded]), exit::OK);
        assert_eq!(code(&[DeliveryState::Succeeded, DeliveryState::Expired]), exit::TOO_LATE);
        assert_eq!(code(&[DeliveryState::Expired, DeliveryState::Rejected]), exit::REJECTED);
        assert_eq!(
            code(&[DeliveryState::Failed, DeliveryState::Expired, DeliveryState::Rejected]),
            exit::FAILED
        );
    }
}
