//! `bellwire pause`, `resume`, `abort` and `retry`: what an operator does to a command that is rolled out.

use anyhow::Context as _;
use bellwire_client::api::RolloutChange;
use bellwire_proto::Command;

use crate::args::{Retry, Rollout};
use crate::connect;
use crate::exit;
use crate::out::{self, DIM, Form};

pub(crate) async fn change(args: Rollout, change: RolloutChange, form: Form) -> anyhow::Result<u8> {
    let hub = connect::controller(&args.hub)?;
    args.id.check_length()?;
    let id = args.id.find(&hub).await?;
    let command = hub.change_rollout(id, change).await?;
    print(&command, form)?;
    if form == Form::Text {
        out::note(&match change {
            RolloutChange::Pause => format!("go on with: bellwire resume {id}"),
            RolloutChange::Resume => format!("follow it with: bellwire watch {id}"),
            RolloutChange::Abort => format!(
                "what was under way goes on, unless the rollout cancels it; stop that too with: bellwire cancel {id}"
            ),
        });
    }
    Ok(exit::OK)
}

pub(crate) async fn retry(args: Retry, form: Form) -> anyhow::Result<u8> {
    let hub = connect::controller(&args.hub)?;
    args.id.check_length()?;
    let id = args.id.find(&hub).await?;
    let command = hub.retry(id, &args.states).await?;
    print(&command, form).with_context(|| format!("the command {} was sent", command.id))?;
    if form == Form::Text {
        out::note(&format!("follow it with: bellwire watch {}", command.id));
    }
    Ok(exit::OK)
}

pub(crate) fn print(command: &Command, form: Form) -> anyhow::Result<()> {
    if form == Form::Json {
        return out::json(command);
    }
    out::command(command)?;
    if let Some(rollout) = &command.rollout {
        let reason = rollout.reason.as_deref().map(|reason| format!(": {reason}"));
        let reason = reason.unwrap_or_default();
        let reason = out::printable(&reason);
        out::line(format_args!("  {DIM}rollout{DIM:#} {}{reason}", out::rollout(rollout)))?;
    }
    Ok(())
}
