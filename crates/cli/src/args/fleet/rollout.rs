//! `bellwire pause`, `resume`, `abort` and `retry`.

use bellwire_proto::DeliveryState;
use clap::Args;

use crate::args::HubArg;
use crate::short_id::CommandRef;

/// `bellwire pause`, `bellwire resume` and `bellwire abort`.
#[derive(Debug, Args)]
pub struct Rollout {
    /// The command: its id, or the beginning of it.
    pub id: CommandRef,
    /// The hub.
    #[command(flatten)]
    pub hub: HubArg,
}

/// `bellwire retry`.
#[derive(Debug, Args)]
#[command(after_help = "\
The new command has the action, the data and the times of the old one, which it names as its parent. It goes to all of them at once, \
also where the old one was rolled out.

Examples:
  bellwire retry 0190f3c4
  bellwire retry 0190f3c4 --state expired --state dead")]
pub struct Retry {
    /// The command: its id, or the beginning of it.
    pub id: CommandRef,
    /// Only where it has ended so; may be given several times [default: failed, rejected, timed_out, expired, dead].
    #[arg(long = "state", value_name = "STATE")]
    pub states: Vec<DeliveryState>,
    /// The hub.
    #[command(flatten)]
    pub hub: HubArg,
}
