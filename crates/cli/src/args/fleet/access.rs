//! Who may do what: `token` and `access`.

use std::path::PathBuf;

use bellwire_proto::token::InvalidToken;
use bellwire_proto::{Action, Credential, DeviceId, RoleName, Seconds, TokenId};
use clap::{Args, Subcommand};

use crate::args::HubArg;

/// `bellwire token`.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token. It is printed once, on standard output, and is not stored.
    #[command(after_help = "\
The first admin token closes an open hub at once: from then on every request needs a token.

Examples:
  bellwire token create --role admin --data-dir /var/lib/bellwire    # before the hub's first start
  bellwire token create --role operator --select site=lyon --action ping --action reboot
  (umask 077 && bellwire token create --role device --device kiosk-7 --quiet > credential)
  bellwire token create --role join --uses 10 --expires 1h --label site=lyon")]
    Create(Box<TokenCreate>),
    /// List the tokens, without their secrets.
    #[command(
        after_help = "Examples:\n  bellwire token list\n  bellwire token list --json | jq -r 'select(.role == \"join\") | .id'"
    )]
    List {
        /// Whose tokens: those of a hub, or of a data folder.
        #[command(flatten)]
        target: TokenTarget,
    },
    /// Revoke tokens by their ids: their streams end at once.
    #[command(after_help = "Example:\n  bellwire token revoke aaaaaaaaaaaaaaaa")]
    Revoke {
        /// The ids, as `token list` shows them.
        #[arg(required = true, value_name = "ID", value_parser = token_id)]
        tokens: Vec<TokenId>,
        /// Whose tokens: those of a hub, or of a data folder.
        #[command(flatten)]
        target: TokenTarget,
    },
}

/// Whose tokens: those of a hub, or of the data folder of one that is stopped.
#[derive(Debug, Clone, Args)]
pub struct TokenTarget {
    /// The data folder of a hub that is stopped. If a hub runs with it, that hub is asked, by --hub or --context.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The hub.
    #[command(flatten)]
    pub hub: HubArg,
}

/// `bellwire token create`.
#[derive(Debug, Args)]
pub struct TokenCreate {
    /// What it may do: admin, operator, device, join or metrics.
    #[arg(long, value_name = "ROLE", value_parser = role)]
    pub role: RoleName,
    /// device: the appliance whose token it is.
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<DeviceId>,
    /// operator: the appliances that it sees (a Kubernetes label selector). Without this all, and it may also register, label,
    /// approve and remove them.
    #[arg(long, value_name = "SELECTOR")]
    pub select: Option<String>,
    /// operator: an action that it may send; may be given several times. Without this, every action.
    #[arg(long = "action", value_name = "ACTION")]
    pub actions: Vec<Action>,
    /// join: a label of the appliances that enrol with it; may be given several times.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// join: how many appliances may enrol; without this, any number.
    #[arg(long, value_name = "N")]
    pub uses: Option<u64>,
    /// join: a name that is taken may be taken over.
    #[arg(long)]
    pub replace: bool,
    /// join: an operator must approve each appliance.
    #[arg(long)]
    pub approve: bool,
    /// It works for so long: 90s, 15m, 24h or 7d. Without this, until it is revoked.
    #[arg(long, value_name = "DURATION")]
    pub expires: Option<Seconds>,
    /// What it is for, in your words.
    #[arg(long, value_name = "TEXT")]
    pub note: Option<String>,
    /// Print the token alone.
    #[arg(short, long)]
    pub quiet: bool,
    /// For which hub, or data folder.
    #[command(flatten)]
    pub target: TokenTarget,
}

/// `bellwire access`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bellwire access                       # every token, in a sentence
  bellwire access aaaaaaaaaaaaaaaa
  bellwire access --device kiosk-7      # who may do what to it")]
pub struct Access {
    /// The id of a token.
    #[arg(value_name = "TOKEN", conflicts_with = "device", value_parser = token_id)]
    pub token: Option<TokenId>,
    /// Only what concerns this appliance.
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<DeviceId>,
    /// The hub.
    #[command(flatten)]
    pub hub: HubArg,
}

fn role(text: &str) -> Result<RoleName, &'static str> {
    let found = RoleName::ALL.into_iter().find(|role| role.as_str() == text);
    found.ok_or("write admin, operator, device, join or metrics")
}

/// The id of a token, or all of the token: what is to be revoked is often at hand as a whole, and is in no error then.
fn token_id(text: &str) -> Result<TokenId, InvalidToken> {
    text.parse::<Credential>().map(|token| token.id()).or_else(|_| text.parse())
}

fn label(text: &str) -> Result<(String, String), &'static str> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}
