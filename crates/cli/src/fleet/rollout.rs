//! `bellwire pause`, `resume`, `abort` and `retry`: what an operator does to a command that is rolled out.

use anyhow::Context as _;
use bellwire_client::api::RolloutChange;
use bellwire_proto::Command;

use crate::args::fleet::{Retry, Rollout};
use crate::connect;
use crate::exit;
use crate::out::{self, Form};

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
            RolloutChange::Abort if command.done => "all of it has ended".to_owned(),
            RolloutChange::Abort => format!(
                "the batches to come are cancelled. What had begun goes on, also where an appliance is offline and connects later, \
                 unless it was sent with --abort-cancels; stop it too with: bellwire cancel {id}"
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
    Ok(out::command(command)?)
}
