//! `bellwire schedule`.

use bellwire_proto::{Action, DeviceId, Seconds, Selector};
use clap::{ArgGroup, Args, Subcommand, ValueEnum};

use super::batches::Batches;
use super::selector_of_some;
use super::window::WindowArgs;
use crate::args::{DataType, HubArg};

/// `bellwire schedule …`.
#[derive(Debug, Subcommand)]
pub enum ScheduleCommand {
    /// Make a schedule: the hub sends the command at each of its times.
    #[command(after_help = "\
The expression has five fields: minute, hour, day of the month, month (JAN to DEC), day of the week (SUN to SAT). @hourly, @daily, \
@weekly, @monthly and @yearly stand for one. Each local time occurs once: one that is skipped as clocks go forward occurs right \
after the gap, one that comes twice as they go back occurs the first time.

A schedule acts as the token that made it, and is paused when that is revoked or has expired.

Examples:
  bellwire schedule create nightly '0 3 * * *' backup --all --timezone Europe/Paris
  bellwire schedule create kiosks @hourly ping -l site=lyon,!spare --ttl 10m
  bellwire schedule create patch '30 2 * * SUN' update '{\"version\":\"2.3\"}' -l os=deb12 \\
    --missed once --batch 10%
  bellwire schedule create fix '0 12 * * MON' update --all --ttl 18h \\
    --window '0 2 * * *' --window-for 2h --timezone Europe/Paris
  bellwire schedule create report '*/15 8-17 * * MON-FRI' report \\
    --device kiosk-7 --device kiosk-8 --overlap queue")]
    Create(Box<ScheduleCreate>),
    /// List the schedules.
    #[command(
        after_help = "Times are in the zone of each schedule, and with --json in UTC.\n\nExamples:\n  bellwire schedule list\n  bellwire schedule list --json | jq -r 'select(.paused) | .name'"
    )]
    List {
        /// The hub.
        #[command(flatten)]
        hub: HubArg,
    },
    /// Show a schedule: its next times, and what became of the last.
    #[command(
        after_help = "Times are in the zone of the schedule, and with --json in UTC.\n\nExample:\n  bellwire schedule show nightly"
    )]
    Show(ScheduleNamed),
    /// Pause schedules. What passes meanwhile is not made up for.
    #[command(after_help = "Example:\n  bellwire schedule pause nightly")]
    Pause(SchedulesNamed),
    /// Resume schedules that are paused.
    #[command(after_help = "Example:\n  bellwire schedule resume nightly")]
    Resume(SchedulesNamed),
    /// Delete schedules. The commands that they have sent go on.
    #[command(after_help = "Example:\n  bellwire schedule delete nightly")]
    Delete(SchedulesNamed),
}

/// One schedule.
#[derive(Debug, Args)]
pub struct ScheduleNamed {
    /// Its name, or its id.
    #[arg(value_name = "NAME")]
    pub schedule: String,
    /// The hub.
    #[command(flatten)]
    pub hub: HubArg,
}

/// Several schedules.
#[derive(Debug, Args)]
pub struct SchedulesNamed {
    /// Their names, or their ids.
    #[arg(required = true, value_name = "NAME")]
    pub schedules: Vec<String>,
    /// The hub.
    #[command(flatten)]
    pub hub: HubArg,
}

/// `bellwire schedule create`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("to_many").required(true).args(["devices", "select", "all"]))]
pub struct ScheduleCreate {
    /// Its name: letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// When: a cron expression of five fields, in quotes, or @daily and the like.
    pub cron: String,
    /// The action.
    pub action: Action,
    /// The data: JSON, or else text.
    pub data: Option<String>,
    /// What the data are. Data that begin like JSON ({, [ or ") and are not JSON are a mistake, unless the type is text.
    #[arg(long = "type", value_enum, default_value_t = DataType::Auto, value_name = "TYPE")]
    pub data_type: DataType,
    /// An appliance; may be given several times.
    #[arg(long = "device", value_name = "DEVICE")]
    pub devices: Vec<DeviceId>,
    /// The appliances that have these labels at the time of the run (a Kubernetes label selector).
    #[arg(short = 'l', long, value_name = "SELECTOR", value_parser = selector_of_some)]
    pub select: Option<Selector>,
    /// Every appliance.
    #[arg(long)]
    pub all: bool,
    /// The zone in whose local time the expression and that of --window are, by its name in the IANA database.
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    pub timezone: String,
    /// How long an appliance may take to accept the command, 1s to 7d; 0: only appliances that are online [default: 1h].
    #[arg(long, value_name = "DURATION")]
    pub ttl: Option<Seconds>,
    /// How long an appliance may be silent once it has accepted the command, 1s to 24h [default: 5m].
    #[arg(long, value_name = "DURATION")]
    pub run_timeout: Option<Seconds>,
    /// How it is rolled out.
    #[command(flatten)]
    pub batches: Batches,
    /// When each command may be sent; in the local time of --timezone.
    #[command(flatten)]
    pub window: WindowArgs,
    /// When the last command has not ended at the next time.
    #[arg(long, value_enum, default_value_t = OverlapArg::Skip, value_name = "RULE")]
    pub overlap: OverlapArg,
    /// What to do about times that passed while the hub was stopped.
    #[arg(long, value_enum, default_value_t = MissedArg::None, value_name = "RULE")]
    pub missed: MissedArg,
    /// Make it paused.
    #[arg(long)]
    pub paused: bool,
    /// The hub.
    #[command(flatten)]
    pub hub: HubArg,
}

/// What is done while the last command has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OverlapArg {
    /// Leave the time out.
    Skip,
    /// Send it all the same; it waits in the queue of each appliance.
    Queue,
}

/// What is done about times that have passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MissedArg {
    /// Leave them out.
    None,
    /// Run the last of them, once.
    Once,
}
