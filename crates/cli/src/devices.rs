//! `bellwire devices`: the appliances that the hub knows.

use std::pin::pin;

use bellwire_client::Controller;
use bellwire_client::api::DeviceQuery;
use bellwire_proto::Timestamp;
use futures_util::TryStreamExt;

use crate::args::Devices;
use crate::exit::{self, Usage};
use crate::out::{self, Form};

pub(crate) async fn run(args: Devices, form: Form) -> anyhow::Result<u8> {
    let hub = Controller::new(&args.hub.hub).map_err(|e| Usage(e.to_string()))?;
    let online = match (args.online, args.offline) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    };
    // The hub's clock, so that "ago" is right on a machine whose own is not.
    let now = Timestamp::from_unix_ms(hub.ping().await?.time_ms);
    let filtered = online.is_some() || args.select.is_some();
    let query = DeviceQuery { select: args.select, online, ..DeviceQuery::default() };
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
            }
        }
        any = true;
    }
    if !any && form == Form::Text {
        out::note(if filtered {
            "no device fits"
        } else {
            "no devices; a device appears when it first listens or is sent to: bellwire listen NAME"
        });
    }
    Ok(exit::OK)
}
