//! The command line: every subcommand and flag, with its help. Nothing is done here.
//!
//! `docs/cli.md`, the completions and the man page are made from these definitions.

use std::ffi::OsString;
use std::path::PathBuf;

use bellwire_proto::{DeviceId, Seconds};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::short_id::CommandRef;
use crate::when::Moment;

#[cfg(feature = "hub")]
mod access;
mod agent;
#[cfg(feature = "hub")]
mod audit;
#[cfg(feature = "hub")]
mod batches;
mod connect;
mod doctor;
mod enroll;
#[cfg(feature = "hub")]
mod many;
mod operator;
#[cfg(feature = "hub")]
mod registry;
#[cfg(feature = "hub")]
mod results;
#[cfg(feature = "hub")]
mod rollout;
#[cfg(feature = "hub")]
mod schedule;
#[cfg(feature = "hub")]
mod window;

#[cfg(feature = "hub")]
pub use access::{Access, TokenCommand, TokenCreate, TokenPlace};
pub use agent::{AgentCommand, AgentConfigArg, AgentInit, AgentOn, JournalCommand};
#[cfg(feature = "hub")]
pub use audit::Audit;
pub use connect::{ContextAdd, ContextCommand, HubArg};
pub use doctor::Doctor;
pub use enroll::AgentEnroll;
#[cfg(feature = "hub")]
pub use many::Many;
pub use operator::{Commands, DeviceList, Devices, DevicesCommand, Events, Health};
#[cfg(feature = "hub")]
pub use registry::{Export, Import, Label, LabelsArgs};
#[cfg(feature = "hub")]
pub use results::Results;
#[cfg(feature = "hub")]
pub use rollout::{Retry, Rollout};
#[cfg(feature = "hub")]
pub use schedule::{
    MissedArg, OverlapArg, ScheduleCommand, ScheduleCreate, ScheduleNamed, SchedulesNamed,
};
#[cfg(feature = "hub")]
pub use window::WindowArgs;

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

Contexts are kept in $XDG_CONFIG_HOME/bellwire/contexts.toml (~/.config/bellwire), for your eyes alone (mode 0600).";

/// Ring any appliance, anywhere, over plain HTTP.
#[derive(Debug, Parser)]
#[command(name = "bellwire", version, propagate_version = true)]
#[command(after_help = EXIT_CODES, arg_required_else_help = true)]
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
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show everything in a few seconds: a hub, an appliance, commands, a crash, nothing lost.
    #[cfg(feature = "hub")]
    Demo(Demo),
    /// Run the hub.
    #[cfg(feature = "hub")]
    Serve(Serve),
    /// Look at the hub's configuration.
    #[cfg(feature = "hub")]
    Config {
        /// What to do with it.
        #[command(subcommand)]
        command: ConfigCommand,
    },
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
    Send(Send),
    /// Show the state of a command.
    Status(Status),
    /// Follow a command until it has ended.
    Watch(Watch),
    /// Show what became of a command at each appliance: a table, JSON lines or CSV.
    #[cfg(feature = "hub")]
    Results(Results),
    /// Cancel a command.
    Cancel(Cancel),
    /// Pause a rollout: no batch begins until it is resumed.
    #[cfg(feature = "hub")]
    #[command(after_help = "Example:\n  bellwire pause 0190f3c4")]
    Pause(Rollout),
    /// Resume a rollout that is paused.
    #[cfg(feature = "hub")]
    #[command(after_help = "Example:\n  bellwire resume 0190f3c4")]
    Resume(Rollout),
    /// Abort a rollout: no batch begins any more, and the batches to come are cancelled. What has begun goes on, unless it was sent with --abort-cancels.
    #[cfg(feature = "hub")]
    #[command(after_help = "Example:\n  bellwire abort 0190f3c4")]
    Abort(Rollout),
    /// Send a command again to the appliances where it has failed.
    #[cfg(feature = "hub")]
    Retry(Retry),
    /// List the commands.
    Commands(Commands),
    /// Send commands again and again, at the times of a cron expression.
    #[cfg(feature = "hub")]
    Schedule {
        /// What to do with them.
        #[command(subcommand)]
        command: ScheduleCommand,
    },
    /// List the appliances, show one, or remove some.
    Devices(Devices),
    /// Change labels of an appliance, or of all that a selector matches.
    #[cfg(feature = "hub")]
    Label(Label),
    /// Show which labels there are, and how many appliances have them.
    #[cfg(feature = "hub")]
    Labels(LabelsArgs),
    /// Make, list and revoke tokens: what a hub asks of whoever calls it.
    #[cfg(feature = "hub")]
    Token {
        /// What to do with them.
        #[command(subcommand)]
        command: TokenCommand,
    },
    /// Tell in plain words who may do what to whom.
    #[cfg(feature = "hub")]
    Access(Access),
    /// Show who did what, and what was refused.
    #[cfg(feature = "hub")]
    Audit(Audit),
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
    /// Print the completions for a shell.
    #[cfg(feature = "hub")]
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
    #[cfg(feature = "hub")]
    #[command(after_help = "Example:\n  bellwire man > /usr/share/man/man1/bellwire.1")]
    Man {
        /// As Markdown, as in docs/cli.md.
        #[arg(long)]
        markdown: bool,
    },
}

/// `bellwire demo`.
#[cfg(feature = "hub")]
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  bellwire demo\n  bellwire demo --keep   # hub and appliance stay up until Ctrl-C"
)]
pub struct Demo {
    /// Leave the hub and the appliance running until Ctrl-C.
    #[arg(long)]
    pub keep: bool,
}

/// `bellwire serve`.
#[cfg(feature = "hub")]
#[derive(Debug, Args)]
#[command(after_help = "\
Settings come from the file, then BELLWIRE_* variables (BELLWIRE_DATA_DIR, …), then flags.

Examples:
  bellwire serve
  bellwire serve --listen 127.0.0.1:9000 --data-dir /var/lib/bellwire-hub
  bellwire serve --listen 0.0.0.0:8888 --open     # every client that reaches it may send
  bellwire serve --open --listen http://0.0.0.0 --listen https://0.0.0.0   # ports 80 and 443
  bellwire serve --classic                        # also the Python library's /poll and /ping
  bellwire serve --classic --classic-action reboot   # and its /reboot")]
pub struct Serve {
    /// The settings.
    #[command(flatten)]
    pub settings: HubSettings,
}

/// The settings of the hub that are flags, for everything that reads them.
#[cfg(feature = "hub")]
#[derive(Debug, Args)]
pub struct HubSettings {
    /// Where to listen: ADDRESS:PORT, http://ADDRESS[:PORT] or https://ADDRESS[:PORT]; may be given several times.
    /// Port 0 lets the kernel choose. Without a scheme it is TLS when there is a certificate (`tls_cert`)
    /// [default: 127.0.0.1:8888].
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Vec<String>,
    /// The folder in which the hub stores all data; it is made if it does not exist [default: ./bellwire-data].
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Serve the Python Event Source Library's URLs too.
    #[arg(long)]
    pub classic: bool,
    /// With --classic: an action beside ping and close; may be given several times.
    #[arg(long = "classic-action", value_name = "NAME")]
    pub classic_actions: Vec<String>,
    /// Allow --listen beyond loopback. Every client that reaches the hub may then send.
    #[arg(long)]
    pub open: bool,
}

/// `bellwire config`.
#[cfg(feature = "hub")]
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Report everything that would keep `serve` from starting; without faults, print the settings as a file.
    #[command(after_help = "\
It reads the file, the variables, the flags and the TLS files as `serve` does, looks at the data folder, and changes nothing. \
What it prints is TOML that `serve --config` accepts; with --json it is one value, faults included, on standard output.

Examples:
  bellwire config check --config /etc/bellwire/hub.toml
  bellwire config check --strict        # an unknown BELLWIRE_ variable is a fault
  bellwire config check --open --listen 0.0.0.0:8888 > hub.toml

It is only a warning if a hub is already running with the data folder. Run the check as the account that runs the hub.

Exit codes (those with which `serve` would end):
  0  `serve` would start
  1  the data folder cannot be made or written, or its database is foreign or newer than this program
  2  the settings are wrong, or --strict found an unknown variable")]
    Check {
        /// The settings.
        #[command(flatten)]
        settings: HubSettings,
        /// Refuse BELLWIRE_ variables that are not settings, such as misspelt ones; without this they are a warning.
        #[arg(long)]
        strict: bool,
    },
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

/// What is told of sending to one appliance, behind the examples of which others may follow.
macro_rules! send_to_one {
    () => {
        "\
If the appliance has never connected to the hub, a note on standard error says so, and how to cancel the command.

Examples:
  bellwire send kiosk-7 ping
  bellwire send kiosk-7 greet world --wait 30s
  bellwire send kiosk-7 deploy '{\"version\":\"1.4\"}' --wait 5m --ttl 1d
  bellwire send kiosk-7 reboot --at 03:30
  tar c site | base64 | bellwire send kiosk-7 unpack -
  bellwire send kiosk-7 note -- --verbose         # data that looks like an option goes behind --"
    };
}

#[cfg(not(feature = "hub"))]
const SEND_HELP: &str = send_to_one!();
#[cfg(feature = "hub")]
const SEND_HELP: &str = concat!(
    "\
With -l or --all, how many appliances match is said first, and on a terminal it is asked whether to go on. With --wait a bar for each \
state shows how far it is; then comes a table of what failed, with the last line that was printed there. Ctrl-C asks whether to leave it, \
to pause its rollout or to abort it. The exit code is that of the worst outcome: 1 before 3 before 4. A command that matches no \
appliance is not sent, and the exit code is 1.

",
    send_to_one!(),
    "
  bellwire send kiosk-7 update 2.3 --ttl 24h --window '0 2 * * *' --window-for 2h --timezone Europe/Paris
  bellwire send -l 'site=lyon,!spare' reboot --dry-run
  bellwire send -l os=deb12 update 2.3 --canary role=canary --batch 10% --abort 20% --wait
  bellwire send --all ping --yes --wait 5m"
);

/// `bellwire send`.
#[derive(Debug, Args)]
#[command(after_help = SEND_HELP)]
#[cfg_attr(
    feature = "hub",
    command(override_usage = "\
bellwire send [OPTIONS] <DEVICE> <ACTION> [DATA]
       bellwire send [OPTIONS] <-l SELECTOR|--all> <ACTION> [DATA]")
)]
pub struct Send {
    /// The appliance; not with -l or --all, where the action is the first word.
    pub device: String,
    /// The action.
    #[cfg_attr(feature = "hub", arg(required_unless_present = "to_many"))]
    #[cfg_attr(not(feature = "hub"), arg(required = true))]
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
    #[cfg_attr(feature = "hub", arg(conflicts_with = "to_many"))]
    pub known: bool,
    /// For 24 hours, sending with the same key again does not make a second command.
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// Send it at this time: 22:30 (the next, local), +10m, 2026-01-31T12:00 (local), or 2026-01-31T12:00:00Z. The time to
    /// live counts from then. A time from now cannot have an idempotency key, because the next try would be another request.
    /// Not with --wait: follow it with `bellwire watch ID`.
    #[arg(long, value_name = "TIME")]
    pub at: Option<Moment>,
    /// In a maintenance window: not in the small program.
    #[cfg(feature = "hub")]
    #[command(flatten)]
    pub window: WindowArgs,
    /// The zone in whose local time --window is, by its name in the IANA database [default: UTC].
    #[cfg(feature = "hub")]
    #[arg(long, value_name = "ZONE", requires = "window")]
    pub timezone: Option<String>,
    /// To many appliances: not in the small program.
    #[cfg(feature = "hub")]
    #[command(flatten)]
    pub many: Many,
    /// The hub.
    #[command(flatten)]
    pub hub: HubArg,
}

impl Send {
    /// Whether it is for many appliances.
    pub fn is_to_many(&self) -> bool {
        #[cfg(feature = "hub")]
        return self.many.is_meant();
        #[cfg(not(feature = "hub"))]
        false
    }
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
