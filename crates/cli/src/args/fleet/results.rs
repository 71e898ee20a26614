//! `bellwire results`.

use clap::Args;

use crate::args::HubArg;
use crate::short_id::CommandRef;

/// `bellwire results`.
#[derive(Debug, Args)]
#[command(after_help = "\
With --json each line is a delivery. The columns of --csv are device, state, attempt, exit_code, error, message, late, created_at, \
updated_at, progress, result, stdout and stderr (RFC 4180).

Examples:
  bellwire results 0190f3c4
  bellwire results 0190f3c4 --failed
  bellwire results 0190f3c4 --csv > results.csv
  bellwire results 0190f3c4 --json | jq -r 'select(.exit_code == 3) | .device'")]
pub struct Results {
    /// The command: its id, or the beginning of it.
    pub id: CommandRef,
    /// Only the appliances that `bellwire retry` would take: where it has failed, was rejected, timed out, expired or is dead.
    /// What was cancelled has not failed.
    #[arg(long)]
    pub failed: bool,
    /// As CSV, for spreadsheets.
    #[arg(long)]
    pub csv: bool,
    /// The hub.
    #[command(flatten)]
    pub hub: HubArg,
}
