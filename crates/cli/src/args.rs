//! The command line: every subcommand and flag, with its help. Nothing is done here.
//!
//! `docs/cli.md`, the completions and the man page are made from these definitions.

use std::ffi::OsString;
use std::path::PathBuf;

use bellwire_proto::{DeviceId, Seconds};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::short_id::CommandRef;
use crate::when::Moment;

mod agent;
mod connect;
mod doctor;
mod enroll;
#[cfg(feature = "hub")]
pub mod fleet;
mod operator;

pub use agent::{AgentCommand, AgentConfigArg, AgentInit, AgentOn, JournalCommand};
pub use connect::{ContextAdd, ContextCommand, HubArg};
pub use doctor::Doctor;
pub use enroll::AgentEnroll;
pub use operator::{Commands, DeviceList, Devices, DevicesCommand, Events, Health};

const EXIT_CODES: &str = "\
Exit codes:
  0  succeeded (or stored, without --wait)
  1  failed, cancelled, or refused for another reason (an unknown appliance with --known)
  2  usage: the command line, the configuration or the request is wrong
  3  rejected by the appliance
  4  expired, timed out or dead; or --wait elapsed first
  5  the appliance is offline (--ttl 0)
  6  the hub cannot be reached, or cannot serve now

With --json an error is a line of JSON on standard error:
  {\"error\":{\"code\",\"message\",\"status\",\"exit_code\"}}
The code is the one that the hub answered (docs/protocol.md, section 1), or else usage, \
unreachable, not_a_hub, ambiguous_id or failed. The status is null if the hub did not answer.";

const CONTEXTS: &str = "\
Hub, token and authorities are each taken from the first of these that sets them:
  1. a flag: --hub, --token-file, --ca-file, or the context that --context names
  2. a variable: BELLWIRE_HUB, BELLWIRE_TOKEN or else BELLWIRE_TOKEN_FILE, BELLWIRE_CA_FILE
  3. the context that BELLWIRE_CONTEXT names, or without that the context in use
  4. the default: http://127.0.0.1:8888, without a token
The token and the authorities of a context are used for its own hub only: with --hub, or with \
BELLWIRE_HUB and without --context, no context is used.

Contexts are stored in $XDG_CONFIG_HOME/bellwire/contexts.toml (~/.config/bellwire), for your eyes alone (mode 0600).";

/// The commands in the order of the help; the small program has not all of them.
const ORDER: &str = "\
demo serve config listen agent replay send status watch results cancel pause resume abort retry commands schedule devices \
label labels token access audit events health doctor context completions man";

/// Ring any appliance, anywhere, over plain HTTP.
#[derive(Debug, Parser)]
#[command(name = "bellwire", version, propagate_version = true)]
#[command(after_help = EXIT_CODES, arg_required_else_help = true, mut_subcommands = in_order)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,

    /// Print JSON for machines, one value per line.
    #[arg(long, global = true)]
    pub json: bool,

    /// Colours: on a terminal only, always, or never (NO_COLOR is honoured).
    #[arg(long, global = true, value_enum, default_value_t = ColorChoice::Auto, value_name = "WHEN")]
    pub color: ColorChoice,

    /// Log more; given twice, log everything.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always, into a file or a pipe too.
    Always,
    /// Never, not even on a terminal.
    Never,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Be an appliance: run a program for each command, or just print it, and answer.
    Listen(Listen),
    /// Be an appliance that survives crashes: the agent, with a list of allowed actions and a journal.
    Agent {
        /// What to do with it.
        #[command(subcommand)]
        command: AgentCommand,
    },
    /// Run a handler again for a command that `listen --save-dir` saved. The hub is not involved.
    Replay(Replay),
    /// Send a command to an appliance.
    #[cfg(not(feature = "hub"))]
    Send {
        /// The command to send.
        #[command(flatten)]
        send: SendArgs,
        /// The hub.
        #[command(flatten)]
        hub: HubArg,
    },
    /// Show the state of a command.
    Status(Status),
    /// Follow a command until it has ended.
    Watch(Watch),
    /// Cancel a command.
    Cancel(Cancel),
    /// List the commands.
    Commands(Commands),
    /// List the appliances, show one, or remove some.
    Devices(Devices),
    /// Follow what happens at the hub.
    Events(Events),
    /// Ask whether the hub is well.
    Health(Health),
    /// Find out what the network between this machine and the hub lets pass, and what to ask its owner for.
    Doctor(Doctor),
    /// Give names to hubs and their credentials, and choose between them.
    #[command(after_help = CONTEXTS)]
    Context {
        /// What to do with them.
        #[command(subcommand)]
        command: ContextCommand,
    },
    /// What only the whole program has, its own `send` among it.
    #[cfg(feature = "hub")]
    #[command(flatten)]
    Fleet(fleet::FleetCommand),
}

/// `bellwire listen`.
#[derive(Debug, Args)]
#[command(after_help = "\
Without --exec each command is printed and then reported as succeeded.

With --exec the program runs for each command, without a shell. It gets the data on standard input (text as it is, \
everything else as compact JSON) and in the file that BELLWIRE_DATA_FILE names. Its environment also has BELLWIRE_COMMAND, \
_ACTION, _DEVICE, _ATTEMPT and _EXPIRES_AT. Its exit code and the last 64 KiB of its output are reported to the hub. \
What it writes to descriptor 3, or behind BELLWIRE_RESULT= on a line of its own, is the result. A line \
BELLWIRE_PROGRESS=40 reports its progress in percent. When the command's run timeout has elapsed, or the \
command is cancelled, the program's process group is ended: the program, and what it has started unless that has left the group. \
After a timeout the command has failed.

Examples:
  bellwire listen kiosk-7
  bellwire listen kiosk-7 --exec ./handle.sh
  bellwire listen kiosk-7 --save-dir commands     # for bellwire replay
  bellwire listen kiosk-7 --json | jq .action")]
pub struct Listen {
    /// The appliance's name.
    pub device: DeviceId,
    /// A program that was given without --exec.
    #[arg(hide = true)]
    pub without_exec: Vec<OsString>,
    /// Run this program for each command. Everything that follows is its argument.
    #[arg(long, num_args = 1.., allow_hyphen_values = true, value_name = "PROGRAM ARGS")]
    pub exec: Vec<OsString>,
    /// Also write each command as a file into this folder, as SEQ-ACTION-ID.json.
    #[arg(long, value_name = "DIR")]
    pub save_dir: Option<PathBuf>,
    /// The hub.
    #[command(flatten)]
    pub hub: HubArg,
}

/// `bellwire replay`.
#[derive(Debug, Args)]
#[command(after_help = "\
Without --to and --exec the handler is the one that the agent's configuration has for the action, if the configuration \
allows the command. The exit code is the same as that of `bellwire send --wait`.

Examples:
  bellwire replay commands/1042-deploy-*.json --to http://127.0.0.1:9000/deploy
  bellwire replay commands/1042-deploy-*.json --exec ./handle.sh
  bellwire replay commands/1042-deploy-*.json --config agent.toml")]
pub struct Replay {
    /// A file that `listen --save-dir` wrote; its name is SEQ-ACTION-ID.json.
    pub file: PathBuf,
    /// Post the command to this URL.
    #[arg(long, value_name = "URL", conflicts_with = "exec")]
    pub to: Option<String>,
    /// Run this program with the command. Everything that follows is its argument.
    #[arg(long, num_args = 1.., allow_hyphen_values = true, value_name = "PROGRAM ARGS")]
    pub exec: Vec<OsString>,
    /// Where the handlers are configured.
    #[command(flatten)]
    pub config: AgentConfigArg,
}

/// The help about sending to one appliance.
const SEND_HELP: &str = "\
If the appliance has never connected to the hub, a note on standard error says so, and how to undo it.

Examples:
  bellwire send kiosk-7 ping
  bellwire send kiosk-7 greet world --wait 30s
  bellwire send kiosk-7 deploy '{\"version\":\"1.4\"}' --wait 5m --ttl 1d
  bellwire send kiosk-7 reboot --at 03:30
  tar c site | base64 | bellwire send kiosk-7 unpack -
  bellwire send kiosk-7 note -- --verbose         # data that looks like an option goes behind --";

/// `bellwire send`, but for the hub.
#[derive(Debug, Args)]
#[command(after_help = SEND_HELP)]
pub struct SendArgs {
    /// The appliance.
    pub device: String,
    /// The action.
    #[arg(required = true)]
    pub action: Option<String>,
    /// The data; `-` reads standard input. A negative number, or a text with a blank, may begin with a minus sign; put any
    /// other data that begin with one behind `--`.
    pub data: Option<String>,
    /// Words behind the data: a text without quotes around it.
    #[arg(hide = true)]
    pub unquoted: Vec<String>,
    /// The file that contains the data; `-` reads standard input.
    #[arg(long, value_name = "FILE")]
    pub data_file: Option<PathBuf>,
    /// What the data are. Data that begin like JSON ({, [ or ") and are not JSON are a mistake, unless the type is text.
    #[arg(long = "type", value_enum, default_value_t = DataType::Auto, value_name = "TYPE")]
    pub data_type: DataType,
    /// Wait until the command has ended, and show how it ended: up to this long, at most 5m for one appliance, which is also
    /// what it is without a duration; for many without one, to the end. Not with --at.
    #[arg(long, value_name = "DURATION", num_args = 0..=1)]
    pub wait: Option<Option<Seconds>>,
    /// How long the appliance may take to accept the command, 1s to 7d; 0: send it only if the appliance is online
    /// [default: 1h].
    #[arg(long, value_name = "DURATION")]
    pub ttl: Option<Seconds>,
    /// How long the appliance may be silent once it has accepted the command; and how long the command may run there,
    /// unless its action has a timeout of its own; 1s to 24h [default: 5m].
    #[arg(long, value_name = "DURATION")]
    pub run_timeout: Option<Seconds>,
    /// Send it only if the appliance has connected to the hub before; otherwise nothing is sent, and the exit code is 1.
    #[arg(long)]
    pub known: bool,
    /// For 24 hours, sending with the same key again does not make a second command.
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// Send it at this time: 22:30 (the next, local), +10m, 2026-01-31T12:00 (local), or 2026-01-31T12:00:00Z. The time to
    /// live counts from then. A time from now cannot have an idempotency key, because the next try would be another request.
    /// Not with --wait: follow it with `bellwire watch ID`.
    #[arg(long, value_name = "TIME")]
    pub at: Option<Moment>,
}

/// What data is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DataType {
    /// JSON if they are JSON, otherwise text.
    Auto,
    /// JSON; anything else is a mistake.
    Json,
    /// Text.
    Text,
}

/// `bellwire status`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  bellwire status 0190f3c4-8d1e-7c3a-9b2f-5a6d7e8f9012")]
pub struct Status {
    /// The command: its id, or the beginning of it.
    pub id: CommandRef,
    /// The hub.
    #[command(flatten)]
    pub hub: HubArg,
}

/// `bellwire watch`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  bellwire watch 0190f3c4-8d1e-7c3a-9b2f-5a6d7e8f9012")]
pub struct Watch {
    /// The command: its id, or the beginning of it.
    pub id: CommandRef,
    /// The hub.
    #[command(flatten)]
    pub hub: HubArg,
}

/// `bellwire cancel`.
#[derive(Debug, Args)]
#[command(after_help = "\
A command that has already ended stays as it is, which is no error (exit code 0).

Example:
  bellwire cancel 0190f3c4-8d1e-7c3a-9b2f-5a6d7e8f9012 --force")]
pub struct Cancel {
    /// The command: its id, or the beginning of it.
    pub id: CommandRef,
    /// End the command on the hub at once, without waiting for the appliance.
    #[arg(long)]
    pub force: bool,
    /// The hub.
    #[command(flatten)]
    pub hub: HubArg,
}

/// A command of the program, at its position in the help.
fn in_order(command: clap::Command) -> clap::Command {
    let position = ORDER.split(' ').position(|name| name == command.get_name());
    command.display_order(position)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definitions_hold_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_a_position_in_the_help() {
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            assert!(ORDER.split(' ').any(|known| known == name), "{name} is not in ORDER");
        }
    }
}
