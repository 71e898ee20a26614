//! `bellwire schedule`: makes, lists, shows, pauses, resumes and deletes schedules.

use std::pin::pin;

use anyhow::Context as _;
use bellwire_proto::{
    Json, Missed, Overlap, Schedule, SchedulePlan, ScheduleTarget, Seconds, Timestamp,
};
use futures_util::TryStreamExt;

use crate::args::DataType;
use crate::args::fleet::{
    MissedArg, OverlapArg, ScheduleCommand, ScheduleCreate, ScheduleNamed, SchedulesNamed,
};
use crate::connect;
use crate::exit::{self, Usage};
use crate::out::{self, BAD, BOLD, DIM, Form};
use crate::send::{Data, parse_data};

pub(crate) async fn run(command: ScheduleCommand, form: Form) -> anyhow::Result<u8> {
    match command {
        ScheduleCommand::Create(args) => create(*args, form).await,
        ScheduleCommand::List { hub } => {
            let hub = connect::controller(&hub)?;
            let mut schedules = pin!(hub.all_schedules());
            let mut any = false;
            while let Some(schedule) = schedules.try_next().await? {
                if form == Form::Text && !any {
                    heading()?;
                }
                any = true;
                match form {
                    Form::Json => out::json(&schedule)?,
                    Form::Text => row(&schedule)?,
                }
            }
            if !any && form == Form::Text {
                out::note("no schedules; make one with: bellwire schedule create");
            }
            Ok(exit::OK)
        }
        ScheduleCommand::Show(ScheduleNamed { schedule, hub }) => {
            let hub = connect::controller(&hub)?;
            print(&hub.schedule(&schedule).await?, form)?;
            Ok(exit::OK)
        }
        ScheduleCommand::Pause(args) => set_paused(args, true, form).await,
        ScheduleCommand::Resume(args) => set_paused(args, false, form).await,
        ScheduleCommand::Delete(SchedulesNamed { schedules, hub }) => {
            let hub = connect::controller(&hub)?;
            for schedule in &schedules {
                let deleted = hub.delete_schedule(schedule).await;
                deleted.with_context(|| out::printable(schedule))?;
                match form {
                    Form::Json => out::json(&serde_json::json!({ "deleted": schedule }))?,
                    Form::Text => out::line(format_args!("deleted {BOLD}{schedule}{BOLD:#}"))?,
                }
            }
            Ok(exit::OK)
        }
    }
}

async fn create(args: ScheduleCreate, form: Form) -> anyhow::Result<u8> {
    let plan = plan(&args)?;
    let hub = connect::controller(&args.hub)?;
    let made = hub.create_schedule(&plan, args.paused).await?;
    print(&made, form).with_context(|| format!("the schedule {} was made", made.id))?;
    if form == Form::Text && made.paused {
        out::note(&format!("it begins with: bellwire schedule resume {}", made.name));
    }
    Ok(exit::OK)
}

async fn set_paused(args: SchedulesNamed, paused: bool, form: Form) -> anyhow::Result<u8> {
    let hub = connect::controller(&args.hub)?;
    for schedule in &args.schedules {
        let changed = hub.pause_schedule(schedule, paused).await;
        print(&changed.with_context(|| out::printable(schedule))?, form)?;
    }
    Ok(exit::OK)
}

/// What is requested. The hub has the last word on it; here is what it would not understand.
fn plan(args: &ScheduleCreate) -> Result<SchedulePlan, Usage> {
    let target = match (&args.select, args.devices.as_slice()) {
        (Some(select), _) => ScheduleTarget::Select(select.to_string()),
        (None, []) => ScheduleTarget::All(true),
        (None, [device]) => ScheduleTarget::Device(device.clone()),
        (None, devices) => ScheduleTarget::Devices(devices.to_vec()),
    };
    if args.data.as_deref() == Some("-") {
        let why = "a schedule has its data on the command line: \"$(cat FILE)\" is that of a file; - is not read";
        return Err(Usage(why.to_owned()));
    }
    let data = data_as_json(args.data.as_deref(), args.data_type)?;
    let rollout = args.batches.rollout();
    let plan = SchedulePlan {
        name: args.name.clone(),
        cron: args.cron.clone(),
        timezone: args.timezone.clone(),
        action: args.action.clone(),
        data,
        target,
        ttl_s: args.ttl.map(Seconds::get),
        run_timeout_s: args.run_timeout.map(Seconds::get),
        rollout,
        window: args.window.in_zone(&args.timezone),
        overlap: match args.overlap {
            OverlapArg::Skip => Overlap::Skip,
            OverlapArg::Queue => Overlap::Queue,
        },
        missed: match args.missed {
            MissedArg::None => Missed::None,
            MissedArg::Once => Missed::Once,
        },
    };
    // In the hub's words, before anything is sent.
    let body = serde_json::to_vec(&plan).map_err(|e| Usage(e.to_string()))?;
    let (plan, _) =
        SchedulePlan::parse(&body, usize::MAX).map_err(|problem| Usage(problem.detail))?;
    Ok(plan)
}

/// The data as those of an envelope, in which a text is a JSON string.
fn data_as_json(text: Option<&str>, data_type: DataType) -> Result<Json, Usage> {
    Ok(match text.map(|text| parse_data(text.to_owned(), data_type)).transpose()? {
        None | Some(Data::None) => Json::null(),
        Some(Data::Json(json)) => json,
        Some(Data::Text(text)) => Json::text(&text),
    })
}

fn heading() -> anyhow::Result<()> {
    Ok(out::line(format_args!(
        "{DIM}{:<20} {:<20} {:<16} {:<12} next{DIM:#}",
        "schedule", "cron", "zone", "action"
    ))?)
}

fn row(schedule: &Schedule) -> anyhow::Result<()> {
    let next = match (schedule.paused, schedule.next_at) {
        (true, _) => "paused".to_owned(),
        (false, Some(at)) => local(at, &schedule.timezone),
        (false, None) => "never".to_owned(),
    };
    Ok(out::line(format_args!(
        "{BOLD}{:<20}{BOLD:#} {:<20} {:<16} {:<12} {next}",
        schedule.name,
        out::printable(&schedule.cron),
        out::printable(&schedule.timezone),
        schedule.action.as_str(),
    ))?)
}

/// A time of a schedule in its own zone, as its expression is: to the minute. In a zone that this program does not know, UTC.
fn local(at: Timestamp, timezone: &str) -> String {
    let in_zone = || {
        let zone = jiff::tz::TimeZone::get(timezone).ok()?;
        let at = jiff::Timestamp::from_millisecond(i64::try_from(at.unix_ms()).ok()?).ok()?;
        Some(at.to_zoned(zone).strftime("%Y-%m-%d %H:%M %Z").to_string())
    };
    in_zone().unwrap_or_else(|| at.to_string())
}

fn print(schedule: &Schedule, form: Form) -> anyhow::Result<()> {
    if form == Form::Json {
        return out::json(schedule);
    }
    let Schedule { name, cron, timezone, action, target, .. } = schedule;
    let target = match target {
        ScheduleTarget::Device(device) => device.to_string(),
        ScheduleTarget::Devices(devices) => {
            devices.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        }
        ScheduleTarget::Select(select) => format!("what matches {select}"),
        ScheduleTarget::All(_) => "every appliance".to_owned(),
    };
    out::line(format_args!(
        "{BOLD}{name}{BOLD:#}  {} {}  {action} to {}",
        out::printable(cron),
        out::printable(timezone),
        out::printable(&target)
    ))?;
    out::line(format_args!("  {DIM}{}, created {}{DIM:#}", schedule.id, schedule.created_at))?;
    if schedule.paused {
        let reason = schedule.reason.as_deref().map(|reason| format!(": {reason}"));
        let reason = out::printable(&reason.unwrap_or_default());
        out::line(format_args!("  {BAD}paused{BAD:#}{reason}"))?;
    } else {
        let times: Vec<String> = schedule.upcoming.iter().map(|at| local(*at, timezone)).collect();
        let times = if times.is_empty() { "never".to_owned() } else { times.join(", ") };
        out::line(format_args!("  {DIM}next{DIM:#} {times}"))?;
    }
    if let Some(window) = &schedule.window {
        out::line(format_args!("  {DIM}window{DIM:#} {}", out::window(window)))?;
    }
    if let (Some(at), Some(command)) = (schedule.last_at, schedule.last_command) {
        out::line(format_args!("  {DIM}last{DIM:#} {}, command {command}", local(at, timezone)))?;
    }
    if let Some(skipped) = &schedule.skipped {
        let reason = out::printable(&skipped.reason);
        out::line(format_args!(
            "  {DIM}left out{DIM:#} {}: {reason}",
            local(skipped.at, timezone)
        ))?;
    }
    Ok(())
}
