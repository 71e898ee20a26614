//! `bellwire devices`: the appliances that the hub knows; one of them in full; removing some.

use std::ffi::OsString;
use std::pin::pin;

use anyhow::Context as _;
use bellwire_client::Controller;
use bellwire_client::api::{CommandQuery, DeviceQuery};
use bellwire_proto::device::DeviceOrder;
use bellwire_proto::{Device, DeviceId, DeviceStatus, Timestamp, Transport};
use futures_util::TryStreamExt;

use crate::args::{DeviceList, Devices, DevicesCommand};
use crate::commands;
use crate::connect;
use crate::exit::{self, Usage};
use crate::out::{self, BOLD, DIM, Form, GOOD};

/// Commands that are shown of a device.
const COMMANDS_SHOWN: u32 = 5;

pub(crate) async fn run(args: Devices, form: Form) -> anyhow::Result<u8> {
    match args.command {
        None => list(args.list, form).await,
        Some(DevicesCommand::List(args)) => list(args, form).await,
        Some(DevicesCommand::Other(words)) => Err(unknown(&words).into()),
        Some(DevicesCommand::Show { device, hub }) => {
            show(&connect::controller(&hub)?, &device, form).await
        }
        Some(DevicesCommand::Approve { devices, hub }) => {
            approve(&connect::controller(&hub)?, &devices, form).await
        }
        Some(DevicesCommand::Deny { devices, hub }) => {
            let hub = connect::controller(&hub)?;
            for device in &devices {
                if hub.device(device).await?.status != DeviceStatus::Pending {
                    let hint = "it does not wait for approval; bellwire devices remove removes it";
                    return Err(Usage(format!("{device}: {hint}")).into());
                }
            }
            remove(&hub, &devices, form).await
        }
        #[cfg(feature = "hub")]
        Some(DevicesCommand::Transfer(command)) => crate::fleet::transfer::run(command, form).await,
        Some(DevicesCommand::Remove { devices, hub }) => {
            remove(&connect::controller(&hub)?, &devices, form).await
        }
    }
}

/// What is no subcommand: the name of an appliance, or a slip.
fn unknown(words: &[OsString]) -> Usage {
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    match words.as_slice() {
        [name] if name.parse::<DeviceId>().is_ok() => Usage(format!(
            "`bellwire devices {name}` is no command; did you mean `bellwire devices show {name}`?"
        )),
        _ => Usage(format!(
            "`bellwire devices {}` is no command; bellwire devices --help lists what there is",
            out::printable(&words.join(" "))
        )),
    }
}

async fn list(args: DeviceList, form: Form) -> anyhow::Result<u8> {
    let hub = connect::controller(&args.hub)?;
    let online = match (args.online, args.offline) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    };
    // The hub's clock, so that "ago" is right on a machine whose own is not.
    let now = Timestamp::from_unix_ms(hub.ping().await?.time_ms);
    let filtered =
        online.is_some() || args.select.is_some() || args.unseen.is_some() || args.prefix.is_some();
    let query = DeviceQuery {
        select: args.select,
        online,
        unseen: args.unseen,
        prefix: args.prefix,
        order: Some(args.sort).filter(|order| *order != DeviceOrder::default()),
        ..DeviceQuery::default()
    };
    let mut devices = pin!(hub.all_devices(query));
    let mut any = false;
    while let Some(device) = devices.try_next().await? {
        match form {
            Form::Json => out::json(&device)?,
            Form::Text => {
                if !any {
                    out::device_heading()?;
                }
                out::device(&device, now)?;
                if args.wide {
                    wide(&device)?;
                }
            }
        }
        any = true;
    }
    if !any && form == Form::Text {
        out::note(if filtered {
            "no device fits"
        } else {
            "no devices; one appears when it first listens (bellwire listen NAME) or enrols (bellwire agent enroll HUB), or by \
             bellwire devices import FILE"
        });
    }
    Ok(exit::OK)
}

/// What is known of a device beside, on a line of its own.
fn wide(device: &Device) -> anyhow::Result<()> {
    let transport = device.transport.map(|transport| match transport {
        Transport::Stream => "stream",
        Transport::Poll => "poll",
    });
    let facts = Some(device.facts.as_str()).filter(|facts| *facts != "{}");
    let known = [device.address.as_deref(), device.agent.as_deref(), transport, facts];
    let known: Vec<_> = known.into_iter().flatten().map(out::printable).collect();
    let created = device.created_at;
    out::line(format_args!("  {DIM}{}  since {created}{DIM:#}", known.join("  ")))?;
    Ok(())
}

async fn show(hub: &Controller, device: &DeviceId, form: Form) -> anyhow::Result<u8> {
    let shown = hub.device(device).await?;
    if form == Form::Json {
        out::json(&shown)?;
        return Ok(exit::OK);
    }
    let now = Timestamp::from_unix_ms(hub.ping().await?.time_ms);
    print(&shown, now)?;
    let query = CommandQuery {
        device: Some(device.clone()),
        limit: Some(COMMANDS_SHOWN),
        ..CommandQuery::default()
    };
    let page = hub.commands(&query).await?;
    if !page.items.is_empty() {
        out::line(format_args!("{DIM}last commands{DIM:#}"))?;
        let states = commands::states_at(hub, query, &page.items).await?;
        commands::print_of_device(&page.items, device.as_str(), &states, now)?;
    }
    Ok(exit::OK)
}

fn print(device: &Device, now: Timestamp) -> anyhow::Result<()> {
    let (style, state) = if device.online { (GOOD, "online") } else { (DIM, "offline") };
    let since = match (device.connected_at, device.last_seen_at) {
        (Some(at), _) => format!("since {at} ({})", out::span(now.since(at))),
        (None, Some(at)) => format!("last seen {at} ({} ago)", out::span(now.since(at))),
        (None, None) => "never connected".to_owned(),
    };
    out::line(format_args!("{BOLD}{}{BOLD:#}  {style}{state}{style:#} {since}", device.id))?;
    let transport = device.transport.map(|transport| match transport {
        Transport::Stream => "stream",
        Transport::Poll => "poll",
    });
    let labels = out::labels(&device.labels);
    let facts = device.facts.as_str();
    for (name, value) in [
        ("status", Some(device.status.as_str()).filter(|status| *status != "active")),
        ("transport", transport),
        ("address", device.address.as_deref()),
        ("agent", device.agent.as_deref()),
        ("labels", Some(labels.as_str()).filter(|labels| !labels.is_empty())),
        ("facts", Some(facts).filter(|facts| *facts != "{}")),
        ("queued", Some(device.queued.to_string().as_str())),
        ("created", Some(device.created_at.to_string().as_str())),
    ] {
        if let Some(value) = value {
            out::line(format_args!("  {DIM}{name:<10}{DIM:#} {}", out::printable(value)))?;
        }
    }
    Ok(())
}

async fn approve(hub: &Controller, devices: &[DeviceId], form: Form) -> anyhow::Result<u8> {
    for device in devices {
        let approved = hub.approve(device).await;
        let approved = approved.map_err(|e| anyhow::Error::from(e).context(format!("{device}")))?;
        match form {
            Form::Json => out::json(&approved)?,
            Form::Text => out::line(format_args!("approved {BOLD}{device}{BOLD:#}"))?,
        }
    }
    Ok(exit::OK)
}

/// All of them or, where one is not known, none.
async fn remove(hub: &Controller, devices: &[DeviceId], form: Form) -> anyhow::Result<u8> {
    let mut known = Vec::new();
    for device in devices {
        if !known.iter().any(|seen: &Device| seen.id == *device) {
            let found = hub.device(device).await;
            known.push(found.map_err(|e| anyhow::Error::from(e).context(format!("{device}")))?);
        }
    }
    // What cannot be printed is removed all the same.
    let mut printed = Ok(());
    for device in &known {
        hub.delete_device(&device.id).await?;
        let line = match form {
            Form::Json => out::json(device),
            Form::Text => {
                let cancelled = match device.queued {
                    0 => String::new(),
                    n => format!(
                        "; {n} queued for it {}",
                        if n == 1 { "is cancelled" } else { "are cancelled" }
                    ),
                };
                out::line(format_args!("removed {BOLD}{}{BOLD:#}{cancelled}", device.id))
                    .map_err(Into::into)
            }
        };
        printed = printed.and(line);
    }
    let names = || known.iter().map(|device| device.id.as_str()).collect::<Vec<_>>().join(", ");
    printed.with_context(|| format!("removed: {}", names()))?;
    Ok(exit::OK)
}
