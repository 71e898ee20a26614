//! `bellwire commands`: the list of commands, and what changes in it.

use std::collections::{BTreeSet, HashMap};
use std::pin::pin;

use bellwire_client::Controller;
use bellwire_client::api::{CommandQuery, DeliveryQuery, HubChange, HubState};
use bellwire_proto::{Command, CommandId, Delivery, DeliveryState, RolloutState, Timestamp};
use futures_util::{StreamExt, TryStreamExt};
use serde::Serialize;

use crate::args::Commands;
use crate::connect;
use crate::events;
use crate::exit::{self, Usage};
use crate::explain::note_losses;
use crate::out::{self, BOLD, DIM, Form, StdoutError};
use crate::short_id;

/// Items on a page of the hub, at most.
const PAGE_MAX: usize = 1000;
/// Devices that are looked up at once.
const LOOKUPS_MAX: usize = 8;

pub(crate) async fn run(args: Commands, form: Form) -> anyhow::Result<u8> {
    let hub = connect::controller(&args.hub)?;
    // The hub's clock, so that "ago" is right on a machine whose own is not.
    let now = Timestamp::from_unix_ms(hub.ping().await?.time_ms);
    let since = args.since.map(|since| since.last(now)).transpose().map_err(Usage)?;
    // Before the list, so that nothing between the two is missed.
    let mut changes = match args.follow {
        true => Some(hub.events()?.on_lost(note_losses(&hub))),
        false => None,
    };
    if let Some(changes) = &mut changes {
        changes.next().await.transpose()?;
    }

    let mut commands = newest(&hub, &args, since).await?;
    let any = !commands.is_empty();
    if args.follow {
        commands.reverse();
    }
    match form {
        Form::Json => print_json(&hub, &args, &commands).await?,
        Form::Text => print_table(&hub, &args, &commands, now).await?,
    }
    let Some(mut changes) = changes else {
        if !any && form == Form::Text {
            let filtered = args.device.is_some()
                || args.state.is_some()
                || args.action.is_some()
                || since.is_some();
            out::note(if filtered {
                "no command fits"
            } else {
                "no commands yet; send one with: bellwire send DEVICE ACTION"
            });
        }
        return Ok(exit::OK);
    };
    while let Some(change) = changes.next().await {
        match (change?, form) {
            (HubChange::Delivery(delivery), form) if fits(&args, &delivery) => match form {
                Form::Json => out::json(&delivery)?,
                Form::Text => events::print_delivery(&delivery)?,
            },
            (HubChange::Hub { state: HubState::Ready, .. }, _) => {
                out::note("connected again; what happened meanwhile is not shown");
            }
            _ => {}
        }
    }
    Ok(exit::UNREACHABLE)
}

/// The commands that fit, newest first.
async fn newest(
    hub: &Controller,
    args: &Commands,
    since: Option<Timestamp>,
) -> anyhow::Result<Vec<Command>> {
    let mut found = Vec::new();
    let mut commands = pin!(hub.all_commands(query(args)));
    while found.len() < args.limit.get() {
        match commands.try_next().await? {
            Some(command) if since.is_none_or(|since| command.created_at >= since) => {
                found.push(command);
            }
            // They come newest first: those that follow are older still.
            _ => break,
        }
    }
    Ok(found)
}

fn query(args: &Commands) -> CommandQuery {
    CommandQuery {
        device: args.device.clone(),
        state: args.state,
        action: args.action.clone(),
        limit: u32::try_from(args.limit.get().min(PAGE_MAX)).ok(),
        after: None,
    }
}

fn fits(args: &Commands, delivery: &Delivery) -> bool {
    args.device.as_ref().is_none_or(|device| *device == delivery.device)
        && args.state.is_none_or(|state| state == delivery.state)
        && args.action.as_ref().is_none_or(|action| *action == delivery.action)
}

/// How commands to many stand at one device: their counts say nothing of it. Of each that could stand otherwise at it, the hub
/// is asked with the same query for each state, so that there are no more requests than states.
pub(crate) async fn states_at(
    hub: &Controller,
    query: CommandQuery,
    commands: &[Command],
) -> anyhow::Result<HashMap<CommandId, DeliveryState>> {
    let many: Vec<_> = commands.iter().filter(|command| command.total != 1).collect();
    let (same, differ): (Vec<_>, Vec<_>) =
        many.into_iter().partition(|command| command.counts.len() == 1);
    let only = |command: &Command| Some((command.id, *command.counts.keys().next()?));
    let mut found: HashMap<_, _> = same.into_iter().filter_map(only).collect();
    let states: BTreeSet<_> = match query.state {
        Some(state) if !differ.is_empty() => BTreeSet::from([state]),
        _ => differ.iter().flat_map(|command| command.counts.keys().copied()).collect(),
    };
    for state in states {
        // What is among the newest of all is among the newest of this state.
        let page = hub.commands(&CommandQuery { state: Some(state), ..query.clone() }).await?;
        let ids = page.items.iter().map(|command| command.id);
        found.extend(ids.filter(|id| differ.iter().any(|c| c.id == *id)).map(|id| (id, state)));
    }
    Ok(found)
}

/// The same for the list, if it is of one device.
async fn states_of(
    hub: &Controller,
    args: &Commands,
    commands: &[Command],
) -> anyhow::Result<HashMap<CommandId, DeliveryState>> {
    match args.device {
        Some(_) => states_at(hub, query(args), commands).await,
        None => Ok(HashMap::new()),
    }
}

/// A command on a line of its own. One to a single device has that device and its state, too; in the list of one device each
/// has them.
#[derive(Serialize)]
struct Listed<'a> {
    #[serde(flatten)]
    command: &'a Command,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<DeliveryState>,
}

async fn print_json(hub: &Controller, args: &Commands, commands: &[Command]) -> anyhow::Result<()> {
    let states = states_of(hub, args, commands).await?;
    let devices = futures_util::stream::iter(commands)
        .map(|command| only_device(hub, args, command))
        .buffered(LOOKUPS_MAX);
    let mut lines = pin!(devices.zip(futures_util::stream::iter(commands)));
    while let Some((device, command)) = lines.next().await {
        let only = command.counts.keys().next().copied();
        let state = only.filter(|_| command.total == 1).or(states.get(&command.id).copied());
        out::json(&Listed { command, device, state })?;
    }
    Ok(())
}

async fn print_table(
    hub: &Controller,
    args: &Commands,
    commands: &[Command],
    now: Timestamp,
) -> anyhow::Result<()> {
    if commands.is_empty() {
        return Ok(());
    }
    let states = states_of(hub, args, commands).await?;
    let chars = short_id::short_chars(commands.iter().map(|command| &command.id));
    out::line(format_args!(
        "{DIM}{:<chars$}  {:<20} {:<16} {:<10} state{DIM:#}",
        "id", "device", "action", "age"
    ))?;
    // A command does not have the name of its only device: that is in its delivery.
    let devices = futures_util::stream::iter(commands)
        .map(|command| device_of(hub, args, command))
        .buffered(LOOKUPS_MAX);
    let mut rows = pin!(devices.zip(futures_util::stream::iter(commands)));
    while let Some((device, command)) = rows.next().await {
        print_command(command, &device, states.get(&command.id).copied(), chars, now)?;
    }
    Ok(())
}

/// A line of a table: id, device or how many, action, age, states, or its state `at` the one device that the table is of.
fn print_command(
    command: &Command,
    device: &str,
    at: Option<DeliveryState>,
    chars: usize,
    now: Timestamp,
) -> Result<(), StdoutError> {
    let states: Vec<String> = match (at, command.counts.iter().next()) {
        (Some(state), _) => vec![format!("{state} (one of {} devices)", command.total)],
        (None, Some((state, 1))) if command.total == 1 => vec![state.to_string()],
        _ => command.counts.iter().map(|(state, n)| format!("{n} {state}")).collect(),
    };
    // Until then it is queued for no other reason.
    let scheduled = command.not_before.filter(|at| *at > now && !command.done);
    let scheduled = scheduled.map(|at| format!(", to be sent at {at}")).unwrap_or_default();
    let rollout = command
        .rollout
        .as_ref()
        .filter(|rollout| !command.done || rollout.state == RolloutState::Aborted)
        .map(|rollout| format!("; {}", out::rollout(rollout)));
    let style = match (command.counts.iter().next(), command.counts.len()) {
        _ if let Some(state) = at => out::style_of(state),
        (Some((state, _)), 1) => out::style_of(*state),
        _ => DIM,
    };
    out::line(format_args!(
        "{}  {BOLD}{device:<20} {:<16}{BOLD:#} {:<10} {style}{}{style:#}{scheduled}{}",
        short_id::short(command.id, chars),
        command.action.as_str(),
        out::span(now.since(command.created_at)),
        states.join(", "),
        rollout.unwrap_or_default()
    ))
}

/// The last commands of a device, as lines of a table.
pub(crate) fn print_of_device(
    commands: &[Command],
    device: &str,
    states: &HashMap<CommandId, DeliveryState>,
    now: Timestamp,
) -> Result<(), StdoutError> {
    let chars = short_id::short_chars(commands.iter().map(|command| &command.id));
    for command in commands {
        print_command(command, device, states.get(&command.id).copied(), chars, now)?;
    }
    Ok(())
}

async fn device_of(hub: &Controller, args: &Commands, command: &Command) -> String {
    if command.total != 1 && args.device.is_none() {
        return format!("({} devices)", command.total);
    }
    only_device(hub, args, command).await.unwrap_or_else(|| "?".to_owned())
}

/// The device of a command that has one, or that the list is of; `None` for many, or if the hub does not say.
async fn only_device(hub: &Controller, args: &Commands, command: &Command) -> Option<String> {
    if let Some(device) = &args.device {
        return Some(device.to_string());
    }
    if command.total != 1 {
        return None;
    }
    let query = DeliveryQuery { limit: Some(1), ..DeliveryQuery::default() };
    // One whose retention has elapsed meanwhile is no reason to show nothing.
    let page = hub.deliveries(command.id, &query).await.ok()?;
    page.items.into_iter().next().map(|delivery| delivery.device.to_string())
}
