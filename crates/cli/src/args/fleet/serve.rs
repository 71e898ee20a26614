//! `bellwire demo`, `serve` and `config`: what runs a hub, and its settings as flags.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `bellwire demo`.
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
#[derive(Debug, Args)]
#[command(after_help = "\
Settings come from the file, then BELLWIRE_* variables (BELLWIRE_DATA_DIR, …), then flags.

With --json the line on standard output, once it listens, is {\"listening\":[\"http://127.0.0.1:8888\"],\"version\":\"…\"}; the log \
stays text, on standard error.

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
