//! `bellwire agent enroll`.

use std::path::PathBuf;

use bellwire_proto::DeviceId;
use clap::Args;

use super::AgentConfigArg;

/// `bellwire agent enroll`.
#[derive(Debug, Args)]
#[command(after_help = "\
The credential file is made with mode 0600 and never replaced. Where there is no configuration, a first one is written.

Examples:
  sudo bellwire agent enroll https://hub.example.com --token-file join-token --device kiosk-7
  pass show join | sudo bellwire agent enroll https://hub.example.com --token-file -")]
pub struct AgentEnroll {
    /// The URL of the hub.
    #[arg(value_name = "HUB")]
    pub hub: String,
    /// The file with the join token; - is standard input.
    #[arg(long, value_name = "FILE")]
    pub token_file: PathBuf,
    /// The name of this device; without this, the hub makes one.
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<DeviceId>,
    /// Where the device's own token is stored [default: credential, beside the configuration].
    #[arg(long, value_name = "FILE")]
    pub credential_file: Option<PathBuf>,
    /// A file with certificate authorities (PEM) to trust in addition to the platform's.
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// The folder for the agent's journal, if it is not that of the account (for root /var/lib/bellwire). Only where a
    /// configuration is written: see --config.
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// The configuration, which is written if there is none.
    #[command(flatten)]
    pub config: AgentConfigArg,
}
