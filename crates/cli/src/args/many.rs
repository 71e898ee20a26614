//! `bellwire send` to many: which appliances, and how it is rolled out.

use bellwire_proto::Selector;
use clap::{ArgGroup, Args};

use super::batches::Batches;
use super::operator::selector_of_some;

/// Of `bellwire send`, what concerns many appliances.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("to_many").args(["select", "all"]))]
pub struct Many {
    /// To all appliances that match when the command is stored, in place of one.
    #[arg(short = 'l', long, value_name = "SELECTOR", value_parser = selector_of_some)]
    pub select: Option<Selector>,
    /// To every appliance that is registered.
    #[arg(long)]
    pub all: bool,
    /// Do not ask. Without a terminal to ask on, nothing is sent to many without it.
    #[arg(short, long, requires = "to_many")]
    pub yes: bool,
    /// Send nothing: only list the appliances.
    #[arg(long, requires = "to_many")]
    pub dry_run: bool,
    /// How it is rolled out.
    #[command(flatten)]
    pub batches: Batches,
}

impl Many {
    /// Whether the command is for many.
    pub fn is_meant(&self) -> bool {
        self.all || self.select.is_some()
    }
}
