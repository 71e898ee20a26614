//! `bellwire status`, `watch` and `cancel`: the state of a command.

use std::collections::HashMap;
use std::pin::pin;

use bellwire_client::Controller;
use bellwire_client::api::{CommandChange, DeliveryQuery};
use bellwire_proto::{Counts, DeliveryState};
use futures_util::TryStreamExt;

use crate::args::{Cancel, HubArg, Status, Watch};
use crate::exit::{self, Usage};
use crate::out::{self, Form};

pub(crate) async fn status(args: Status, form: Form) -> anyhow::Result<u8> {
    let hub = hub(&args.hub)?;
    let command = hub.command(args.id).await?;
    match form {
        Form::Json => out::json(&command)?,
        Form::Text => out::command(&command)?,
    }
    let mut deliveries = pin!(hub.all_deliveries(args.id, DeliveryQuery::default()));
    while let Some(delivery) = deliveries.try_next().await? {
        match form {
            Form::Json => out::json(&delivery)?,
            Form::Text => out::delivery(&delivery)?,
        }
    }
    Ok(exit::OK)
}

pub(crate) async fn watch(args: Watch, form: Form) -> anyhow::Result<u8> {
    let mut changes = hub(&args.hub)?.watch(args.id)?;
    let mut shown = HashMap::new();
    while let Some(change) = changes.next().await {
        match (change?, form) {
            (CommandChange::Delivery(delivery), Form::Json) => out::json(&delivery)?,
            (CommandChange::Delivery(delivery), Form::Text) => {
                // A keepalive report changes nothing that is shown.
                let now = (delivery.state, delivery.attempt, delivery.outcome.progress);
                if shown.insert(delivery.device.clone(), now) != Some(now) {
                    out::delivery(&delivery)?;
                }
            }
            (CommandChange::Done(command), _) => return Ok(worst(&command.counts)),
            _ => {}
        }
    }
    Ok(exit::UNREACHABLE)
}

pub(crate) async fn cancel(args: Cancel, form: Form) -> anyhow::Result<u8> {
    let hub = hub(&args.hub)?;
    let command = hub.cancel(args.id, args.force).await?;
    match form {
        Form::Json => out::json(&command)?,
        Form::Text => out::command(&command)?,
    }
    if !command.done && form == Form::Text {
        out::note(&format!(
            "cancel requested; follow it with: bellwire watch {id}, or end it with: bellwire cancel {id} --force",
            id = args.id
        ));
    }
    Ok(exit::OK)
}

/// The code for a command whose deliveries ended differently: that of the worst, failure before
/// rejection before timeout.
fn worst(counts: &Counts) -> u8 {
    let codes = counts.keys().map(|state: &DeliveryState| exit::of_state(*state));
    codes.filter(|code| *code != exit::OK).min().unwrap_or(exit::OK)
}

fn hub(arg: &HubArg) -> Result<Controller, Usage> {
    Controller::new(&arg.hub).map_err(|e| Usage(e.to_string()))
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
