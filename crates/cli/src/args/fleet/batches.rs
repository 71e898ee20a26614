//! How a command to many is rolled out: options of `bellwire send` and of `bellwire schedule create`.

use bellwire_proto::limits::PERCENT;
use bellwire_proto::{Json, Seconds, Selector};
use clap::Args;
use serde_json::json;

use super::selector_of_some;

/// What is rolled out batch by batch, and how. That it is for many, its user has to check.
#[derive(Debug, Args)]
pub struct Batches {
    /// Batch by batch, of so many appliances (50) or so many percent of them (10%): the next begins when the one before has
    /// ended everywhere.
    #[arg(long, value_name = "SIZE", value_parser = batch)]
    pub batch: Option<Batch>,
    /// The first batch is those of them that match.
    #[arg(long, value_name = "SELECTOR", requires = "batch", value_parser = selector_of_some)]
    pub canary: Option<Selector>,
    /// A batch is over once so many percent of it have ended, and not all.
    #[arg(long, value_name = "PERCENT", requires = "batch", value_parser = percent)]
    pub batch_done: Option<u64>,
    /// Wait so long between the end of a batch and the next.
    #[arg(long, value_name = "DURATION", requires = "batch")]
    pub batch_pause: Option<Seconds>,
    /// The next batch begins so long after the one before began at the latest, whatever has ended.
    #[arg(long, value_name = "DURATION", requires = "batch")]
    pub interval: Option<Seconds>,
    /// No further batch begins once so many percent of those that have ended have failed; the batches to come are cancelled, and
    /// what has begun goes on.
    #[arg(long, value_name = "PERCENT", requires = "batch", value_parser = percent)]
    pub abort: Option<u64>,
    /// The same only once so many have ended, so that the first failure alone does not abort it.
    #[arg(long, value_name = "APPLIANCES", requires = "abort", value_parser = clap::value_parser!(u64).range(1..))]
    pub abort_min: Option<u64>,
    /// An abort cancels what has begun, too.
    #[arg(long, requires = "abort")]
    pub abort_cancels: bool,
}

/// The size of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Batch {
    /// So many appliances.
    Devices(u64),
    /// So many percent of all.
    Percent(u64),
}

impl Batches {
    /// The member `rollout` of the envelope.
    pub fn rollout(&self) -> Option<Json> {
        let batch = match self.batch? {
            Batch::Devices(devices) => json!(devices),
            Batch::Percent(percent) => json!(format!("{percent}%")),
        };
        let min = self.abort_min.unwrap_or(1);
        let abort = self
            .abort
            .map(|percent| json!({ "percent": percent, "min": min, "cancel": self.abort_cancels }));
        let members = [
            ("batch", Some(batch)),
            ("canary", self.canary.as_ref().map(|canary| json!(canary.to_string()))),
            ("done_percent", self.batch_done.map(|percent| json!(percent))),
            ("pause_s", self.batch_pause.map(|pause| json!(pause.get()))),
            ("interval_s", self.interval.map(|interval| json!(interval.get()))),
            ("abort", abort),
        ];
        let given = members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        let rollout = serde_json::Value::Object(given.collect());
        // What serde_json writes is JSON.
        Json::parse(&rollout.to_string()).ok()
    }
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
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        batches: Batches,
    }

    fn parse(words: &str) -> Result<Batches, clap::Error> {
        let program = Program::try_parse_from(["bellwire"].into_iter().chain(words.split(' ')))?;
        assert!(program.all);
        Ok(program.batches)
    }

    #[test]
    fn a_batch_is_a_number_or_percent() {
        assert_eq!(batch("50"), Ok(Batch::Devices(50)));
        assert_eq!(batch("10%"), Ok(Batch::Percent(10)));
        for bad in ["0", "0%", "101%", "ten", "-1", "%", "1.5"] {
            assert!(batch(bad).is_err(), "{bad}");
        }
        assert_eq!((percent("20%"), percent("20")), (Ok(20), Ok(20)));
    }

    #[test]
    fn every_option_is_a_member_of_the_rollout() {
        let given = parse(
            "--all --batch 10% --canary role=canary --batch-done 90% --batch-pause 5m --interval 1h \
             --abort 20 --abort-min 10 --abort-cancels",
        );
        let rollout = given.unwrap().rollout().unwrap();
        let rollout: serde_json::Value = serde_json::from_str(rollout.as_str()).unwrap();
        assert_eq!(
            rollout,
            json!({
                "batch": "10%", "canary": "role=canary", "done_percent": 90, "pause_s": 300,
                "interval_s": 3600, "abort": {"percent": 20, "min": 10, "cancel": true}
            })
        );
        assert_eq!(parse("--all").unwrap().rollout(), None);
    }

    #[test]
    fn what_belongs_to_a_batch_needs_one() {
        for alone in [
            "--all --interval 1h",
            "--all --batch 5 --abort-min 3",
            "--all --batch 5 --abort-cancels",
        ] {
            assert!(parse(alone).is_err(), "{alone}");
        }
    }
}
