//! `bellwire send` of the whole program: to one appliance as `send.rs` does it, in a maintenance window too, and to many: how
//! many match is shown first, then comes the question, and what is sent is followed to its end.

use std::collections::BTreeSet;
use std::pin::pin;

use anyhow::Context as _;
use bellwire_client::Controller;
use bellwire_client::api::{DeviceQuery, NewCommand, Target};
use bellwire_proto::limits::PAGE_ITEMS_MAX;
use bellwire_proto::{Action, Device, DeviceId, Json, Preview};
use futures_util::TryStreamExt as _;

use super::{ask, label, rollout};
use crate::args::fleet::{FleetSend, Many};
use crate::exit::{self, Usage};
use crate::out::{self, Form};
use crate::send::{self, Data, checked, typed_data};

mod bars;
mod follow;

/// Characters of the data in the line about what is sent.
const DATA_CHARS_MAX: usize = 60;

pub(super) async fn run(args: FleetSend, form: Form) -> anyhow::Result<u8> {
    if args.many.is_meant() {
        return to_many(args, form).await;
    }
    refuse_slips(&args)?;
    let window = args.window();
    send::run(args.send, &args.hub, window, form).await
}

/// What is for many and has one word for them.
fn refuse_slips(args: &FleetSend) -> Result<(), Usage> {
    let many = &args.many;
    let batches = many.batches.rollout().map(|_| "--batch");
    if let Some(option) = many.dry_run.then_some("--dry-run").or(batches) {
        return Err(Usage(format!("{option} goes with -l, --device or --all")));
    }
    let device = &args.send.device;
    let names: Option<Vec<DeviceId>> = device.split(',').map(|name| name.parse().ok()).collect();
    match names {
        Some(names) if names.len() > 1 => {
            let given: Vec<_> = names.iter().map(|name| format!("--device {name}")).collect();
            Err(Usage(format!("several appliances are named one by one: {}", given.join(" "))))
        }
        _ => Ok(()),
    }
}

async fn to_many(mut args: FleetSend, form: Form) -> anyhow::Result<u8> {
    let words = &mut args.send;
    // Without the word for the appliance, all words are one further to the front.
    words.unquoted.splice(0..0, words.data.take());
    words.data = words.action.take();
    words.action = Some(std::mem::take(&mut words.device));
    let (hub, action) = checked(&args.send, &args.hub, &args.many.given(), true).await?;
    let data = typed_data(&args.send)?;
    let what = what(&action, &data);
    let (command, not_before) = command(&hub, action, data, &args).await?;
    let preview = hub.preview(&command).await?;
    if args.many.dry_run {
        list(&hub, &args.many, form).await?;
        out::note(&format!("{what} would be sent to {}; nothing was sent", counted(&preview)));
        return Ok(exit::OK);
    }
    // With a key it may have been sent before, to those that matched then.
    let first = args.send.idempotency_key.is_none();
    if first && preview.total == 0 {
        anyhow::bail!("no appliance matches; nothing was sent");
    }
    if form == Form::Text || !args.many.yes {
        look_up_named(&hub, &args.many.devices, |_| Ok(())).await?;
        out::note(&format!("{what} will be sent to {}", counted(&preview)));
    }
    if !args.many.yes && !ask::go_on("nothing was sent")? {
        return Ok(exit::FAILED);
    }
    let before = send::before_key(&hub, &args.send).await?;
    let sent = hub.send_command(&command).await?;
    send::note_repeated(before, sent.created_at, form);
    if first && sent.total != preview.total && form == Form::Text {
        out::note(&format!(
            "meanwhile they have changed: it was sent to {}",
            appliances(sent.total)
        ));
    }
    let id = sent.id;
    let wait = args.send.wait.filter(|wait| wait.is_none_or(|wait| wait.get() > 0));
    let Some(wait) = wait else {
        rollout::print(&sent, form).with_context(|| format!("the command {id} was sent"))?;
        if form == Form::Text {
            not_before.inspect(|note| out::note(note));
            out::note(&format!("follow it with: bellwire watch {id}"));
        }
        return Ok(exit::OK);
    };
    follow::to_its_end(&hub, sent, wait, form)
        .await
        .with_context(|| format!("the command {id} was sent"))
}

/// The command as it is sent, and when that will be, if not now.
async fn command(
    hub: &Controller,
    action: Action,
    data: Data,
    args: &FleetSend,
) -> anyhow::Result<(NewCommand, Option<String>)> {
    let target = match (&args.many.select, args.many.devices.as_slice()) {
        (Some(select), _) => Target::Select(select.clone()),
        (None, []) => Target::All,
        (None, devices) => Target::Devices(devices.to_vec()),
    };
    let mut command = NewCommand::new(action, target);
    let sent = &args.send;
    command = match data {
        Data::None => command,
        Data::Json(data) => command.data(data),
        Data::Text(text) => command.data(Json::text(&text)),
    };
    if let Some(ttl) = sent.ttl {
        command = command.ttl(ttl);
    }
    if let Some(run_timeout) = sent.run_timeout {
        command = command.run_timeout(run_timeout);
    }
    if let Some(key) = &sent.idempotency_key {
        command = command.idempotency_key(key);
    }
    if let Some(rollout) = args.many.batches.rollout() {
        command = command.rollout(rollout);
    }
    if let Some(window) = args.window() {
        command = command.window(window);
    }
    let at = send::not_before(hub, sent).await?;
    let (at, note) = at.unzip();
    Ok((at.into_iter().fold(command, NewCommand::not_before), note))
}

/// `--dry-run`: the appliances, as `bellwire devices` names them.
async fn list(hub: &Controller, many: &Many, form: Form) -> anyhow::Result<()> {
    if !many.devices.is_empty() {
        return look_up_named(hub, &many.devices, |device| label::shown(device, form)).await;
    }
    let query = DeviceQuery {
        select: many.select.clone(),
        limit: Some(PAGE_ITEMS_MAX),
        ..DeviceQuery::default()
    };
    let mut devices = pin!(hub.all_devices(query));
    while let Some(device) = devices.try_next().await? {
        label::shown(&device, form)?;
    }
    Ok(())
}

/// Looks up the appliances that are named, for `each` of those that the hub knows. One that has never connected may be a slip,
/// and is noted.
async fn look_up_named(
    hub: &Controller,
    devices: &[DeviceId],
    each: impl Fn(&Device) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for name in devices.iter().collect::<BTreeSet<_>>() {
        let device = send::lookup(hub, name).await?;
        device.as_ref().map_or(Ok(()), &each)?;
        if !device.is_some_and(|device| send::is_seen(&device)) {
            out::note(&format!("{name} has never connected to this hub"));
        }
    }
    Ok(())
}

/// The action with its data, for a line.
fn what(action: &Action, data: &Data) -> String {
    let data = match data {
        Data::None => return action.to_string(),
        Data::Json(json) => json.as_str().to_owned(),
        Data::Text(text) => format!("'{text}'"),
    };
    let mut shown: String = data.chars().take(DATA_CHARS_MAX).collect();
    if shown.len() < data.len() {
        shown.push('…');
    }
    format!("{action} {}", out::printable(&shown))
}

fn counted(preview: &Preview) -> String {
    let mut text = format!("{}, {} of them online", appliances(preview.total), preview.online);
    if preview.queue_full > 0 {
        text.push_str(&format!(
            "; {} cannot take it, as their queues are full",
            preview.queue_full
        ));
    }
    text
}

fn appliances(number: u64) -> String {
    if number == 1 { "1 appliance".to_owned() } else { format!("{number} appliances") }
}
