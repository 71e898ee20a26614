//! The options of `bellwire agent`, which runs, checks, extends and shows an agent. Nothing is done here.

use std::path::PathBuf;

use bellwire_client::agent::config::CONFIG_FILE;
use bellwire_proto::{Action, DeviceId, Seconds};
use clap::{Args, Subcommand};

use super::AgentEnroll;

/// Where the agent's configuration stands.
#[derive(Debug, Clone, Args)]
pub struct AgentConfigArg {
    /// The agent's configuration (TOML).
    #[arg(long, value_name = "FILE", default_value = CONFIG_FILE)]
    pub config: PathBuf,
}

/// `bellwire agent`.
#[derive(Debug, Subcommand)]
pub enum AgentCommand {
    /// Run the agent until TERM or INT; a second signal kills handlers that still run.
    #[command(after_help = "Example:\n  bellwire agent run --config /etc/bellwire/agent.toml")]
    Run {
        /// The agent's configuration.
        #[command(flatten)]
        config: AgentConfigArg,
    },
    /// Check the configuration and the files that it names, and show what each action would do.
    #[command(after_help = "\
Example:
  bellwire agent check --config agent.toml

Run the check as the user that the agent runs as, and with its environment. With --json what it found is one value, faults \
included, on standard output.

Exit codes:
  0  an agent can run with this configuration on this machine; there may be warnings
  1  it cannot run, or a part of it cannot work, such as an action whose program is missing
  2  the configuration cannot be read, or has a setting that is wrong")]
    Check {
        /// The agent's configuration.
        #[command(flatten)]
        config: AgentConfigArg,
    },
    /// Write a first configuration for the agent, with an action `ping` to try.
    #[command(after_help = "\
Examples:
  sudo bellwire agent init https://hub.example.com kiosk-7
  bellwire agent init http://127.0.0.1:8888 kiosk-7 --config agent.toml

An existing file is never replaced: the exit code is then 2.")]
    Init(AgentInit),
    /// Enrol this machine at a hub with a join token: it gets its name and a token of its own.
    Enroll(AgentEnroll),
    /// Add an action that runs a program to the configuration.
    #[command(after_help = "\
Examples:
  bellwire agent on ping -- /bin/echo pong
  bellwire agent on report --user kiosk --timeout 2m -- /usr/local/lib/kiosk/report.sh")]
    On(AgentOn),
    /// Show the state of a running agent: connection, journal, last commands.
    #[command(after_help = "Example:\n  sudo bellwire agent status")]
    Status {
        /// The agent's configuration.
        #[command(flatten)]
        config: AgentConfigArg,
    },
    /// Show the journal, or repair it.
    Journal {
        /// What to do with it.
        #[command(subcommand)]
        command: JournalCommand,
    },
}

/// `bellwire agent init`.
#[derive(Debug, Args)]
pub struct AgentInit {
    /// The URL of the hub.
    #[arg(value_name = "HUB")]
    pub hub: String,
    /// The name of this device.
    pub device: DeviceId,
    /// A file with the token for the hub, if the hub requires one.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// A file with certificate authorities (PEM) to trust in addition to the platform's.
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// The folder for the agent's journal, if it is not that of the account (for root /var/lib/bellwire).
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Where to write it.
    #[command(flatten)]
    pub config: AgentConfigArg,
}

/// `bellwire agent on`.
#[derive(Debug, Args)]
pub struct AgentOn {
    /// The action.
    pub action: Action,
    /// The program (an absolute path, or a name in PATH) and its arguments, which are the same for every command.
    #[arg(last = true, required = true, value_name = "ARGV")]
    pub argv: Vec<String>,
    /// How long it may run; otherwise the command's own run timeout.
    #[arg(long, value_name = "DURATION")]
    pub timeout: Option<Seconds>,
    /// What happens to a command that a restart interrupts: fail, rerun or succeed.
    #[arg(long, value_name = "WHAT", value_parser = ["fail", "rerun", "succeed"])]
    pub on_restart: Option<String>,
    /// The account that it runs as.
    #[arg(long, value_name = "ACCOUNT")]
    pub user: Option<String>,
    /// Where to add it.
    #[command(flatten)]
    pub config: AgentConfigArg,
}

/// `bellwire agent journal`.
#[derive(Debug, Subcommand)]
pub enum JournalCommand {
    /// Print the records of the journal, one JSON value per line; exit 1 if it is damaged. Changes nothing.
    #[command(after_help = "Example:\n  sudo bellwire agent journal show | tail -20")]
    Show {
        /// The agent's configuration.
        #[command(flatten)]
        config: AgentConfigArg,
    },
    /// Rewrite the journal without its damaged lines and keep a copy of the old one. Only while no agent runs.
    #[command(
        after_help = "Example:\n  systemctl stop bellwire-agent && bellwire agent journal repair && systemctl start bellwire-agent"
    )]
    Repair {
        /// The agent's configuration.
        #[command(flatten)]
        config: AgentConfigArg,
    },
}
