//! What an operator looks at: `commands`, `devices`, `events`, `health`.

use std::ffi::OsString;
use std::num::NonZeroUsize;

use bellwire_proto::device::DeviceOrder;
use bellwire_proto::{Action, DeliveryState, DeviceId, Seconds, Selector};
use clap::{Args, Subcommand};

use super::HubArg;
use crate::when::Moment;

/// `bellwire commands`.
#[derive(Debug, Args)]
#[command(after_help = "\
With --json each line is a command; one to a single appliance has its device and state too. With --device each line has the state at that appliance, also of a command to many. With --follow, each line after that list is a delivery that has changed.

Examples:
  bellwire commands
  bellwire commands --device kiosk-7 --state failed --since 1d
  bellwire commands --follow
  bellwire commands --state queued --limit 1000 --json | jq -r .id")]
pub struct Commands {
    /// Only those to this appliance.
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<DeviceId>,
    /// Only those with a delivery in this state.
    #[arg(long, value_name = "STATE")]
    pub state: Option<DeliveryState>,
    /// Only those of this action.
    #[arg(long, value_name = "ACTION")]
    pub action: Option<Action>,
    /// Only those sent since then: 10m (ago), 12:00 or 2026-01-31T12:00 (local), or 2026-01-31T12:00:00Z.
    #[arg(long, value_name = "TIME")]
    pub since: Option<Moment>,
    /// Show at most this many, the newest.
    #[arg(short = 'n', long, value_name = "N", default_value = "20", value_parser = count)]
    pub limit: NonZeroUsize,
    /// After the list, print each change of a delivery, until Ctrl-C.
    #[arg(short, long)]
    pub follow: bool,
    /// The hub.
    #[command(flatten)]
    pub hub: HubArg,
}

/// `bellwire devices`.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  bellwire devices
  bellwire devices --unseen 7d --sort=-last_seen_at
  bellwire devices -l 'site=lyon,!spare' --json | jq -r .id
  bellwire devices show kiosk-7"
)]
pub struct Devices {
    /// What to do, instead of listing them.
    #[command(subcommand)]
    pub command: Option<DevicesCommand>,
    /// Which of them are listed.
    #[command(flatten)]
    pub list: DeviceList,
}

/// `bellwire devices`, without more or with `list`.
#[derive(Debug, Args)]
pub struct DeviceList {
    /// Only those with these labels, or facts: site=lyon,os in (deb11,deb12),!spare,facts.cpus=4.
    #[arg(short = 'l', long, value_name = "SELECTOR", value_parser = selector)]
    pub select: Option<Selector>,
    /// Only those that are online.
    #[arg(long, conflicts_with_all = ["offline", "unseen"])]
    pub online: bool,
    /// Only those that are offline.
    #[arg(long)]
    pub offline: bool,
    /// Only those that are offline and were not seen for this long: 90s, 15m, 24h, 7d.
    #[arg(long, value_name = "TIME")]
    pub unseen: Option<Seconds>,
    /// Only those whose names begin so.
    #[arg(long, value_name = "TEXT")]
    pub prefix: Option<String>,
    /// By id, last_seen_at or queued; from the greatest with a minus: --sort=-queued.
    #[arg(long, value_name = "KEY", default_value_t, allow_hyphen_values = true)]
    pub sort: DeviceOrder,
    /// Show address, agent, transport and facts too.
    #[arg(long)]
    pub wide: bool,
    /// The hub.
    #[command(flatten)]
    pub hub: HubArg,
}

/// `bellwire devices …`.
#[derive(Debug, Subcommand)]
pub enum DevicesCommand {
    /// List them, as without `list`.
    #[command(hide = true)]
    List(DeviceList),
    /// Show an appliance, and its last commands.
    #[command(after_help = "Example:\n  bellwire devices show kiosk-7")]
    Show {
        /// The appliance.
        device: DeviceId,
        /// The hub.
        #[command(flatten)]
        hub: HubArg,
    },
    /// Approve appliances that have enrolled and wait for it.
    #[command(after_help = "Example:\n  bellwire devices approve kiosk-7")]
    Approve {
        /// The appliances.
        #[arg(required = true, value_name = "DEVICE")]
        devices: Vec<DeviceId>,
        /// The hub.
        #[command(flatten)]
        hub: HubArg,
    },
    /// Deny appliances that have enrolled and wait: they are removed, and their tokens with them.
    #[command(after_help = "Example:\n  bellwire devices deny kiosk-7")]
    Deny {
        /// The appliances. If one of them does not wait, none is removed.
        #[arg(required = true, value_name = "DEVICE")]
        devices: Vec<DeviceId>,
        /// The hub.
        #[command(flatten)]
        hub: HubArg,
    },
    /// Remove appliances: their streams end, and what waits for them is cancelled. Their history stays.
    #[command(after_help = "Example:\n  bellwire devices remove kiosk-7 kiosk-8")]
    Remove {
        /// The appliances. If one of them is unknown, none is removed.
        #[arg(required = true, value_name = "DEVICE")]
        devices: Vec<DeviceId>,
        /// The hub.
        #[command(flatten)]
        hub: HubArg,
    },
    /// Write and read files; not in the small program.
    #[cfg(feature = "hub")]
    #[command(flatten)]
    Transfer(super::fleet::TransferCommand),
    /// Anything else: perhaps the name of an appliance.
    #[command(external_subcommand)]
    Other(Vec<OsString>),
}

/// `bellwire events`.
#[derive(Debug, Args)]
#[command(after_help = "\
With --json each line is {\"event\":\"hub\"|\"device\"|\"delivery\",\"data\":{…}}, the data as in docs/protocol.md, section 6.

Examples:
  bellwire events
  bellwire events --device kiosk-7
  bellwire events --json | jq 'select(.event == \"device\") | .data.id'")]
pub struct Events {
    /// Only what happens to this appliance.
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<DeviceId>,
    /// The hub.
    #[command(flatten)]
    pub hub: HubArg,
}

/// `bellwire health`.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 the hub accepts commands; 6 it cannot be reached, is stopping, or cannot write to its disk.

Examples:
  bellwire health
  bellwire health --hub https://hub.example.com --json")]
pub struct Health {
    /// The hub.
    #[command(flatten)]
    pub hub: HubArg,
}

/// How many, at least one.
pub(super) fn count(text: &str) -> Result<NonZeroUsize, &'static str> {
    text.parse().map_err(|_| "write a whole number, 1 or more")
}

/// A selector; an error points at its place.
pub(super) fn selector(text: &str) -> Result<Selector, String> {
    text.parse().map_err(|e: bellwire_proto::selector::InvalidSelector| {
        // A control character in it would take more or less than one column.
        let shown: String =
            text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        format!("{e}\n  {shown}\n  {:>width$}", '^', width = e.at + 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_a_selector_points_at_its_place() {
        let error = selector("site=lyon,os is x").unwrap_err();
        let mut lines = error.lines().skip(1);
        let (text, caret) = (lines.next().unwrap(), lines.next().unwrap());
        assert_eq!(text.get(caret.len() - 1..), Some("is x"), "{error}");
        assert!(caret.ends_with('^'));
    }
}
