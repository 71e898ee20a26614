//! `bellwire audit`.

use std::num::NonZeroUsize;

use bellwire_proto::DeviceId;
use clap::Args;

use crate::args::HubArg;
use crate::when::Moment;

/// `bellwire audit`.
#[derive(Debug, Args)]
#[command(after_help = "\
Sends, cancellations, and every change of devices and tokens; and what was refused: equal refusals of one address within a \
minute are one line with their number. Needs an admin token. What appliances reported is in the commands themselves.

Examples:
  bellwire audit
  bellwire audit --since 1d --device kiosk-7
  bellwire audit --follow --json | jq 'select(.code == \"unauthenticated\") | .address'")]
pub struct Audit {
    /// Only what was done with the token of this id.
    #[arg(long, value_name = "ID")]
    pub actor: Option<String>,
    /// Only what concerns this appliance.
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<DeviceId>,
    /// Only this: send, cancel, device.put, token.create, read and so on.
    #[arg(long, value_name = "VERB")]
    pub verb: Option<String>,
    /// Only since then: 10m (ago), 12:00 or 2026-01-31T12:00 (local), or 2026-01-31T12:00:00Z.
    #[arg(long, value_name = "TIME")]
    pub since: Option<Moment>,
    /// Show at most this many, the newest.
    #[arg(short = 'n', long, value_name = "N", default_value = "20", value_parser = crate::args::operator::count)]
    pub limit: NonZeroUsize,
    /// Then print each entry as it is written, until Ctrl-C.
    #[arg(short, long)]
    pub follow: bool,
    /// The hub.
    #[command(flatten)]
    pub hub: HubArg,
}
