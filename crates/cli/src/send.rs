//! `bellwire send`: one command to one appliance.

use std::io::Read;

use anyhow::Context;
use bellwire_client::api::{CommandChange, DeliveryQuery};
use bellwire_client::{Controller, SendOptions};
use bellwire_proto::{Delivery, Device, Json, Seconds, Timestamp, limits};

use crate::args::{DataType, Send};
use crate::exit::{self, Usage};
use crate::out::{self, Form};

pub(crate) async fn run(args: Send, form: Form) -> anyhow::Result<u8> {
    let options = options(&args)?;
    let hub = crate::connect::controller(&args.hub)?;
    let options = match args.at {
        Some(at) => {
            // The hub's clock decides when that is.
            let now = Timestamp::from_unix_ms(hub.ping().await?.time_ms);
            let at = at.next(now).map_err(|e| Usage(format!("--at: {e}")))?;
            if form == Form::Text {
                out::note(&format!("to be sent at {at}, in {}", out::span(at.since(now))));
            }
            options.not_before(at)
        }
        None => options,
    };
    let wait = args.wait.filter(|wait| wait.get() > 0);
    let delivery = match (wait, form) {
        (Some(wait), Form::Text) => send_and_follow(&hub, &args, &options, wait).await?,
        (Some(wait), Form::Json) => {
            hub.send(&args.device, &args.action, &options.wait(wait)).await?
        }
        (None, _) => hub.send(&args.device, &args.action, &options).await?,
    };
    match form {
        Form::Json => out::json(&delivery)?,
        Form::Text => out::delivery(&delivery),
    }
    if wait.is_none() {
        if form == Form::Text {
            out::note(&format!("follow it with: bellwire watch {}", delivery.command));
        }
        return Ok(exit::OK);
    }
    if !delivery.state.is_terminal() && form == Form::Text {
        out::note(&format!("not ended yet; follow it with: bellwire watch {}", delivery.command));
    }
    Ok(exit::of_state(delivery.state))
}

/// Sends, prints the id, and follows the command: a user who stops waiting needs the id.
async fn send_and_follow(
    hub: &Controller,
    args: &Send,
    options: &SendOptions,
    wait: Seconds,
) -> anyhow::Result<Delivery> {
    let sent = hub.send(&args.device, &args.action, options).await?;
    out::note(&format!(
        "waiting for {} (Ctrl-C ends the waiting, not the command: bellwire watch {})",
        args.device, sent.command
    ));
    // Only a hint: without it the command is waited for all the same.
    if let Ok(device) = hub.device(&args.device).await {
        absence(&device).inspect(|absence| out::note(absence));
    }
    let end = async {
        let mut changes = hub.watch(sent.command)?;
        while let Some(change) = changes.next().await {
            match change? {
                CommandChange::Delivery(delivery) if delivery.state.is_terminal() => {
                    return Ok(*delivery);
                }
                _ => {}
            }
        }
        anyhow::bail!("the hub ended its events before the command had ended")
    };
    if let Ok(end) = tokio::time::timeout(wait.duration(), end).await {
        return end;
    }
    let page = hub.deliveries(sent.command, &DeliveryQuery::default()).await?;
    Ok(page.items.into_iter().next().unwrap_or(sent))
}

/// Why it may take long, if the appliance is offline.
fn absence(device: &Device) -> Option<String> {
    let retained = "the command waits for it until its time to live has passed";
    match device.last_seen_at {
        _ if device.online => None,
        Some(seen_at) => Some(format!("{} is offline since {seen_at}; {retained}", device.id)),
        None => Some(format!("{} has never connected, if that is its name; {retained}", device.id)),
    }
}

fn options(args: &Send) -> anyhow::Result<SendOptions> {
    let mut options = SendOptions::default();
    if let Some(text) = data(args)? {
        options = match (args.data_type, Json::parse(&text)) {
            (DataType::Json | DataType::Auto, Ok(json)) => options.json(json),
            (DataType::Json, Err(e)) => return Err(Usage(format!("the data is {e}")).into()),
            (DataType::Auto | DataType::Text, _) => options.text(text),
        };
    }
    if let Some(ttl) = args.ttl {
        options = options.ttl(ttl);
    }
    if let Some(wait) = args.wait {
        // The hub would refuse it; report that before anything is sent.
        if !limits::WAIT_S.contains(wait.get()) {
            return Err(Usage("--wait is at most 5m".to_owned()).into());
        }
    }
    if let Some(run_timeout) = args.run_timeout {
        options = options.run_timeout(run_timeout);
    }
    if let Some(key) = &args.idempotency_key {
        options = options.idempotency_key(key);
    }
    Ok(options)
}

/// The data, from the argument, a file or standard input.
fn data(args: &Send) -> anyhow::Result<Option<String>> {
    let bytes = match (&args.data, &args.data_file) {
        (Some(dash), _) if dash == "-" => {
            let mut bytes = Vec::new();
            // One byte beyond the ceiling is enough to know that it is too long.
            let limit = u64::try_from(limits::DATA_BYTES_CEILING).unwrap_or(u64::MAX) + 1;
            std::io::stdin().take(limit).read_to_end(&mut bytes).context("standard input")?;
            bytes
        }
        (Some(text), _) => return Ok(Some(text.clone())),
        (None, Some(file)) => {
            std::fs::read(file).map_err(|e| Usage(format!("{}: {e}", file.display())))?
        }
        (None, None) => return Ok(None),
    };
    let text = String::from_utf8(bytes);
    let text = text.map_err(|_| {
        Usage("the data is not UTF-8; encode it, for example with base64".to_owned())
    })?;
    Ok(Some(text))
}
