//! The command line of what only the whole program has: the hub, what concerns many appliances, who may do what, and the
//! pages that are made of these definitions. The rest of it is `args.rs`; nothing is done here either.

use bellwire_proto::Selector;
use clap::Subcommand;

use super::operator::selector;

mod access;
mod audit;
mod batches;
mod registry;
mod results;
mod rollout;
mod schedule;
mod send;
mod serve;
mod window;

pub use access::{Access, TokenCommand, TokenCreate, TokenTarget};
pub use audit::Audit;
pub use registry::{Export, Import, Label, LabelsArgs, TransferCommand};
pub use results::Results;
pub use rollout::{Retry, Rollout};
pub use schedule::{
    MissedArg, OverlapArg, ScheduleCommand, ScheduleCreate, ScheduleNamed, SchedulesNamed,
};
pub use send::{FleetSend, Many};
pub use serve::{ConfigCommand, Demo, HubSettings, Serve};

/// What to do, of what only the whole program can.
#[derive(Debug, Subcommand)]
pub enum FleetCommand {
    /// Show everything in a few seconds: a hub, an appliance, commands, a crash, nothing lost.
    Demo(Demo),
    /// Run the hub.
    Serve(Serve),
    /// Look at the hub's configuration.
    Config {
        /// What to do with it.
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Send a command to an appliance.
    Send(Box<FleetSend>),
    /// Show what became of a command at each appliance: a table, JSON lines or CSV.
    Results(Results),
    /// Pause a rollout: no batch begins until it is resumed.
    #[command(after_help = "Example:\n  bellwire pause 0190f3c4")]
    Pause(Rollout),
    /// Resume a rollout that is paused.
    #[command(after_help = "Example:\n  bellwire resume 0190f3c4")]
    Resume(Rollout),
    /// Abort a rollout: no batch begins any more, and the batches to come are cancelled. What has begun goes on, unless it was sent with --abort-cancels.
    #[command(after_help = "Example:\n  bellwire abort 0190f3c4")]
    Abort(Rollout),
    /// Send a command again to the appliances where it has failed.
    Retry(Retry),
    /// Send commands again and again, at the times of a cron expression.
    Schedule {
        /// What to do with them.
        #[command(subcommand)]
        command: ScheduleCommand,
    },
    /// Change labels of an appliance, or of all that a selector matches.
    Label(Label),
    /// Show which labels there are, and how many appliances have them.
    Labels(LabelsArgs),
    /// Make, list and revoke access tokens.
    Token {
        /// What to do with them.
        #[command(subcommand)]
        command: TokenCommand,
    },
    /// Show which tokens may do what, to which appliances.
    Access(Access),
    /// Show who did what, and what was refused.
    Audit(Audit),
    /// Print the completions for a shell.
    #[command(after_help = "\
Names of appliances, actions and contexts and ids of commands are completed too. For that the \
program asks the hub; if it gets no answer within a second, it offers nothing. The script fits \
this version of the program.

Examples:
  source <(bellwire completions bash)             # in ~/.bashrc; zsh likewise
  bellwire completions fish | source              # in ~/.config/fish/completions/bellwire.fish
  bellwire completions bash > /etc/bash_completion.d/bellwire")]
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
    /// Print the man page, or this manual as Markdown.
    #[command(after_help = "Example:\n  bellwire man > /usr/share/man/man1/bellwire.1")]
    Man {
        /// As Markdown, as in docs/cli.md.
        #[arg(long)]
        markdown: bool,
    },
}

/// A selector of those that are changed or sent to: an empty one, as of a variable that is not set, would be all.
fn selector_of_some(text: &str) -> Result<Selector, String> {
    let select = selector(text)?;
    if select.requirements().is_empty() {
        let why = "it is empty, which would be every appliance: name a requirement, such as site=lyon, or with send --all";
        return Err(why.to_owned());
    }
    Ok(select)
}
