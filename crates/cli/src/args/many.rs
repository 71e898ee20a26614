//! `bellwire send` to many: which appliances, and how it is rolled out.

use bellwire_proto::limits::PERCENT;
use bellwire_proto::{Seconds, Selector};
use clap::{ArgGroup, Args};

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
    /// Batch by batch, of so many appliances (50) or so many percent of them (10%): the next begins when the one before has
    /// ended everywhere.
    #[arg(long, value_name = "SIZE", requires = "to_many", value_parser = batch)]
    pub batch: Option<Batch>,
    /// The first batch is those of them that match.
    #[arg(long, value_name = "SELECTOR", requires = "batch", value_parser = selector_of_some)]
    pub canary: Option<Selector>,
    /// The next batch begins so long after the one before at the latest, whatever has ended.
    #[arg(long, value_name = "DURATION", requires = "batch")]
    pub interval: Option<Seconds>,
    /// No further batch begins once so many percent of those that have ended have failed; what has not begun is cancelled.
    #[arg(long, value_name = "PERCENT", requires = "batch", value_parser = percent)]
    pub abort: Option<u64>,
}

impl Many {
    /// Whether the command is for many.
    pub fn is_meant(&self) -> bool {
        self.all || self.select.is_some()
    }
}

/// The size of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Batch {
    /// So many appliances.
    Devices(u64),
    /// So many percent of all.
    Percent(u64),
}

fn batch(text: &str) -> Result<Batch, String> {
    if text.ends_with('%') {
        return percent(text).map(Batch::Percent);
    }
    let devices = text.parse().ok().filter(|devices| *devices > 0);
    devices.map(Batch::Devices).ok_or_else(|| {
        "a batch is a number of appliances from 1, or percent of them from 1% to 100%".to_owned()
    })
}

fn percent(text: &str) -> Result<u64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse().ok();
    let percent = number.filter(|percent| PERCENT.contains(*percent));
    percent.ok_or_else(|| "it is from 1% to 100%".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_a_number_or_percent() {
        assert_eq!(batch("50"), Ok(Batch::Devices(50)));
        assert_eq!(batch("10%"), Ok(Batch::Percent(10)));
        for bad in ["0", "0%", "101%", "ten", "-1", "%", "1.5"] {
            assert!(batch(bad).is_err(), "{bad}");
        }
        assert_eq!((percent("20%"), percent("20")), (Ok(20), Ok(20)));
    }
}
