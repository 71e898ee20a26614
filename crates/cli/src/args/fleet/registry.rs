//! The labels of appliances: `label`, `labels`, `devices export` and `devices import`.

use std::path::PathBuf;

use bellwire_proto::Selector;
use clap::{Args, Subcommand};

use super::{selector, selector_of_some};
use crate::args::HubArg;

/// `bellwire label`.
#[derive(Debug, Args)]
#[command(after_help = "\
A label that is not named stays. With -l, the program says first how many appliances it concerns, and asks on a terminal. If some cannot be changed, the others are, and the exit code is 1.

Examples:
  bellwire label kiosk-7 site=lyon spare-
  bellwire label -l 'site=lyon,!spare' canary=yes
  bellwire label -l 'facts.os=linux' os- --dry-run
  bellwire label -l site=lyon site=paris --yes")]
pub struct Label {
    /// The appliance (without -l), then the changes: KEY=VALUE sets a label, KEY- removes it.
    #[arg(required = true, value_name = "DEVICE|CHANGE")]
    pub words: Vec<String>,
    /// All appliances that match, in place of one.
    #[arg(short = 'l', long, value_name = "SELECTOR", value_parser = selector_of_some)]
    pub select: Option<Selector>,
    /// Do not ask.
    #[arg(short, long)]
    pub yes: bool,
    /// Only show whose labels would change, and to what.
    #[arg(long)]
    pub dry_run: bool,
    /// The hub.
    #[command(flatten)]
    pub hub: HubArg,
}

/// `bellwire labels`.
#[derive(Debug, Args)]
#[command(after_help = "\
With --json each line is a key: {\"key\",\"devices\",\"values\":[{\"value\",\"devices\"}]}. Of a key, the 100 values are shown that most appliances have.

Examples:
  bellwire labels
  bellwire labels --json | jq -r 'select(.key == \"site\") | .values[].value'")]
pub struct LabelsArgs {
    /// The hub.
    #[command(flatten)]
    pub hub: HubArg,
}

/// Of `bellwire devices …`, what reads and writes files.
#[derive(Debug, Subcommand)]
pub enum TransferCommand {
    /// Write names and labels as CSV.
    Export(Export),
    /// Register and label appliances from CSV.
    Import(Import),
}

/// `bellwire devices export`.
#[derive(Debug, Args)]
#[command(after_help = "\
The columns are device and labels: kiosk-7,\"os=deb12,site=lyon\". What is exported can be imported.

Examples:
  bellwire devices export > fleet.csv
  bellwire devices export -l site=lyon > lyon.csv")]
pub struct Export {
    /// Only those with these labels or facts.
    #[arg(short = 'l', long, value_name = "SELECTOR", value_parser = selector)]
    pub select: Option<Selector>,
    /// The hub.
    #[command(flatten)]
    pub hub: HubArg,
}

/// `bellwire devices import`.
#[derive(Debug, Args)]
#[command(after_help = "\
The first line names the columns. One is device; labels has labels as KEY=VALUE,KEY=VALUE; each other column is named by the key of a label, and has its values (an empty cell changes nothing). Appliances that are not known are registered. Labels that the file does not name stay, unless --replace is given.

Nothing is changed if a line of the file is wrong. If the hub refuses some appliances, the others are changed, and the exit code is 1; the same file can be imported again.

Examples:
  bellwire devices import fleet.csv --dry-run
  bellwire devices import fleet.csv
  bellwire devices export | sed 's/site=lyon/site=paris/' | bellwire devices import -")]
pub struct Import {
    /// The file; - is standard input.
    pub file: PathBuf,
    /// The labels of each appliance in the file become those of the file alone.
    #[arg(long)]
    pub replace: bool,
    /// Only check the file, and show what it says.
    #[arg(long)]
    pub dry_run: bool,
    /// The hub.
    #[command(flatten)]
    pub hub: HubArg,
}
