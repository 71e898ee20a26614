//! `bellwire events`: what happens at the hub, as it happens.

use bellwire_client::api::{HubChange, HubState};
use bellwire_proto::{Delivery, DeviceChange, DeviceEvent, DeviceId, DeviceStatus};
use serde::Serialize;

use crate::args::Events;
use crate::connect;
use crate::exit;
use crate::explain::note_losses;
use crate::out::{self, BAD, BOLD, DIM, Form, GOOD};

/// An event for machines.
#[derive(Serialize)]
struct EventLine<T> {
    event: &'static str,
    data: T,
}

#[derive(Serialize)]
struct Hub<'a> {
    hub: &'a str,
    state: &'static str,
}

pub(crate) async fn run(args: Events, form: Form) -> anyhow::Result<u8> {
    let hub = connect::controller(&args.hub)?;
    let mut changes = hub.events()?.on_lost(note_losses(&hub));
    let other = |device: &DeviceId| args.device.as_ref().is_some_and(|only| only != device);
    let mut connected = false;
    while let Some(change) = changes.next().await {
        match change? {
            HubChange::Hub { hub, state } => {
                if std::mem::replace(&mut connected, true) && state == HubState::Ready {
                    out::note("connected again; what happened meanwhile is not shown");
                }
                print_hub(&hub, state, form)?;
            }
            HubChange::Device(event) if !other(&event.device.id) => print_device(&event, form)?,
            HubChange::Delivery(delivery) if !other(&delivery.device) => match form {
                Form::Json => out::json(&EventLine { event: "delivery", data: &delivery })?,
                Form::Text => print_delivery(&delivery)?,
            },
            _ => {}
        }
    }
    Ok(exit::UNREACHABLE)
}

fn print_hub(hub: &str, state: HubState, form: Form) -> anyhow::Result<()> {
    let (style, state) = match state {
        HubState::Draining => (BAD, "draining"),
        _ => (GOOD, "ready"),
    };
    if form == Form::Json {
        return out::json(&EventLine { event: "hub", data: Hub { hub, state } });
    }
    out::line(format_args!("{style}{state:<10}{style:#} {DIM}{}{DIM:#}", out::printable(hub)))?;
    Ok(())
}

fn print_device(event: &DeviceEvent, form: Form) -> anyhow::Result<()> {
    if form == Form::Json {
        return out::json(&EventLine { event: "device", data: event });
    }
    let status = event.device.status;
    let (style, change) = match (event.change, status) {
        (DeviceChange::Online, _) => (GOOD, "online"),
        (DeviceChange::Offline, _) => (DIM, "offline"),
        (DeviceChange::Removed, _) => (BAD, "removed"),
        (DeviceChange::Changed, DeviceStatus::Conflict) => (BAD, status.as_str()),
        (DeviceChange::Created | DeviceChange::Changed, DeviceStatus::Pending) => {
            (DIM, status.as_str())
        }
        (DeviceChange::Created, _) => (DIM, "created"),
        (DeviceChange::Changed, DeviceStatus::Active) => (DIM, "changed"),
    };
    let address = event.device.address.as_deref().unwrap_or_default();
    out::line(format_args!(
        "{style}{change:<10}{style:#} {BOLD}{}{BOLD:#}  {DIM}{}{DIM:#}",
        event.device.id,
        out::printable(address)
    ))?;
    Ok(())
}

/// A change of a delivery, on a line.
pub(crate) fn print_delivery(delivery: &Delivery) -> anyhow::Result<()> {
    let Delivery { state, device, action, command, updated_at, .. } = delivery;
    let style = out::style_of(*state);
    out::line(format_args!(
        "{style}{state:<10}{style:#} {BOLD}{device} {action}{BOLD:#}  {DIM}{command} at {updated_at}{DIM:#}"
    ))?;
    Ok(())
}
