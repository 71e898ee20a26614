//! What only the whole program has, on the machine of an operator or of the hub: the hub itself, what concerns many
//! appliances, who may do what, and the pages that are made of the definitions of the command line.
//!
//! It uses the modules of the small program. Of those only `devices.rs` uses it, for `export` and `import`; `main.rs` calls the rest.

use bellwire_client::api::RolloutChange;

use crate::args::fleet::FleetCommand;
use crate::out::Form;

mod access;
mod ask;
mod audit;
mod complete;
mod demo;
mod label;
mod manual;
mod results;
mod rollout;
mod schedule;
mod send;
mod serve;
mod settings;
mod token;
pub(crate) mod transfer;

/// Answers the shell and ends the program, if it is a shell that asks for completions.
pub(crate) use complete::answer as answer_shell;

/// Whether the command runs a hub, which has more than one thing to do at a time.
pub(crate) fn has_hub(command: &FleetCommand) -> bool {
    matches!(command, FleetCommand::Demo(_) | FleetCommand::Serve(_))
}

pub(crate) async fn run(command: FleetCommand, form: Form) -> anyhow::Result<u8> {
    match command {
        FleetCommand::Demo(demo) => demo::run(demo).await,
        FleetCommand::Serve(serve) => serve::run(serve, form).await,
        FleetCommand::Config { command } => settings::config(command, form),
        FleetCommand::Send(send) => send::run(*send, form).await,
        FleetCommand::Results(results) => results::run(results, form).await,
        FleetCommand::Pause(args) => rollout::change(args, RolloutChange::Pause, form).await,
        FleetCommand::Resume(args) => rollout::change(args, RolloutChange::Resume, form).await,
        FleetCommand::Abort(args) => rollout::change(args, RolloutChange::Abort, form).await,
        FleetCommand::Retry(args) => rollout::retry(args, form).await,
        FleetCommand::Schedule { command } => schedule::run(command, form).await,
        FleetCommand::Label(args) => label::change(args, form).await,
        FleetCommand::Labels(args) => label::list(args, form).await,
        FleetCommand::Token { command } => token::run(command, form).await,
        FleetCommand::Access(access) => access::run(access, form).await,
        FleetCommand::Audit(audit) => audit::run(audit, form).await,
        FleetCommand::Completions { shell } => manual::completions(shell),
        FleetCommand::Man { markdown } => manual::print(markdown),
    }
}
