//! `bellwire send`: a command to one appliance. `fleet/send.rs` sends one to many, and uses what is here.

use std::fmt::Display;
use std::fs::File;
use std::io::Read;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use bellwire_client::api::{CommandChange, DeliveryQuery, Error};
use bellwire_client::{Controller, SendOptions};
use bellwire_proto::json::InvalidJson;
use bellwire_proto::{
    Action, Code, Delivery, Device, DeviceId, Json, Seconds, Timestamp, Window, limits,
};

use crate::args::{DataType, HubArg, SendArgs};
use crate::exit::{self, Usage};
use crate::explain::note_losses;
use crate::out::{self, Form};
use crate::when::Moment;

/// How long the hub may take to answer whether it has ever seen the device. Only a hint depends on it.
const HINT_TIMEOUT: Duration = Duration::from_secs(1);
/// A byte order mark, as some editors write it at the start of a file.
const BOM: char = '\u{feff}';

/// Sends it to the appliance, and only in the `window` if there is one.
pub(crate) async fn run(
    args: SendArgs,
    hub: &HubArg,
    window: Option<Window>,
    form: Form,
) -> anyhow::Result<u8> {
    if window.is_some() && args.wait.is_some() {
        return Err(Usage(
            "--window and --wait exclude each other: send it without --wait, and follow it with: bellwire watch ID"
                .to_owned(),
        )
        .into());
    }
    let device: DeviceId = word(&args.device, "DEVICE")?;
    let (hub, action) = checked(&args, hub, &args.device, false).await?;
    let options = options(&args)?;
    if args.known && !lookup(&hub, &device).await?.is_some_and(|device| is_seen(&device)) {
        anyhow::bail!(
            "{device} has never connected to this hub, and with --known nothing is sent to it; the names of those that have: \
             bellwire devices"
        );
    }
    let (at, not_before) = not_before(&hub, &args).await?.unzip();
    let options = at.into_iter().fold(options, SendOptions::not_before);
    let is_in_window = window.is_some();
    let options = window.into_iter().fold(options, SendOptions::window);
    // Beside the command, so that it takes no time of its own.
    let presence = tokio::spawn({
        let (hub, device) = (hub.clone(), device.clone());
        async move { lookup(&hub, &device).await }
    });
    let before = before_key(&hub, &args).await?;
    let sent = hub.send(&device, &action, &options).await?;
    let repeats = note_repeated(before, sent.created_at, form);
    let hint = async {
        match tokio::time::timeout(HINT_TIMEOUT, presence).await {
            Ok(Ok(Ok(device))) => hint(device.as_ref(), &sent),
            _ => None,
        }
    };
    let wait = args.wait.map(|wait| wait.unwrap_or(Seconds::new(limits::WAIT_S.max)));
    let Some(wait) = wait.filter(|wait| wait.get() > 0) else {
        print(&sent, form)?;
        if form == Form::Text {
            not_before.inspect(|note| out::note(note));
            if is_in_window && let Some(why) = crate::command::why_queued(&hub, &sent).await {
                out::note(&format!("waits: {why}"));
            }
            out::note(&format!("follow it with: bellwire watch {}", sent.command));
        }
        hint.await.filter(|hint| hint.is_urgent && !repeats).inspect(|hint| out::note(&hint.text));
        return Ok(exit::OK);
    };
    if form == Form::Text {
        // A user who stops waiting needs the id.
        out::note(&format!(
            "waiting for {device} (Ctrl-C ends the waiting, not the command: bellwire watch {})",
            sent.command
        ));
    }
    hint.await
        .filter(|_| !repeats)
        .filter(|hint| hint.is_urgent || form == Form::Text)
        .inspect(|hint| out::note(&hint.text));
    let delivery = follow(&hub, sent, wait).await?;
    print(&delivery, form)?;
    if !delivery.state.is_terminal() && form == Form::Text {
        if let Some(why) = crate::command::why_queued(&hub, &delivery).await {
            out::note(&format!("  waits: {why}"));
        }
        out::note(&format!("not ended yet; follow it with: bellwire watch {}", delivery.command));
    }
    Ok(exit::for_state(delivery.state))
}

/// The hub and the action, if the arguments can be used together, and are as the sender will have meant them. `to` is what
/// stands before the action: the name of an appliance, or the options that say which, where it is for `many`.
pub(crate) async fn checked(
    args: &SendArgs,
    hub: &HubArg,
    to: &str,
    many: bool,
) -> anyhow::Result<(Controller, Action)> {
    // Before a token is read from standard input.
    check_inputs(args, hub)?;
    let asked = async {
        let action = word(args.action.as_deref().unwrap_or_default(), "ACTION")?;
        let controller = crate::connect::controller(hub)?;
        refuse_appliance_as_action(&controller, args, &action, to, many).await?;
        Ok((controller, action))
    };
    match (refuse_slips(args, to), asked.await) {
        (Ok(()), asked) => asked,
        // What the hub knows of a word may explain the slip; a hub that cannot be asked does not.
        (Err(_), Err(explained)) if explained.is::<Usage>() => Err(explained),
        (Err(slip), _) => Err(slip.into()),
    }
}

/// Refuses the name of an appliance where the action belongs: `send -l site=lyon k-03 update` would send the action `k-03`.
/// The hub is asked only where that may be so: with options for many, or where what follows may be an action.
async fn refuse_appliance_as_action(
    hub: &Controller,
    args: &SendArgs,
    action: &Action,
    to: &str,
    many: bool,
) -> anyhow::Result<()> {
    let follows = args.data.as_deref().unwrap_or_default().split_whitespace().next();
    let may_follow = follows.is_some_and(|word| word.parse::<Action>().is_ok());
    let Ok(device) = action.as_str().parse() else { return Ok(()) };
    if !many && !may_follow {
        return Ok(());
    }
    // One that only a slip has created is no appliance.
    let known = |device: Device| is_seen(&device) || !device.labels.is_empty();
    if !lookup(hub, &device).await?.is_some_and(known) {
        return Ok(());
    }
    let hint = match (many, cfg!(feature = "hub")) {
        (true, _) => format!(
            "give either {} or one name; several names are --device {device} --device NAME",
            out::printable(to)
        ),
        (false, true) => {
            format!(
                "several are named by --device {} --device {device}, before the action",
                out::printable(to)
            )
        }
        (false, false) => "each is sent to by itself".to_owned(),
    };
    let beside = "(an action that has the name of an appliance is sent by the API alone)";
    Err(Usage(format!("{device} is an appliance: {hint} {beside}")).into())
}

/// A word of the command line.
fn word<T: FromStr<Err: Display>>(text: &str, name: &str) -> Result<T, Usage> {
    text.parse()
        .map_err(|e| Usage(format!("invalid value '{}' for '<{name}>': {e}", out::printable(text))))
}

/// When it is to be sent, if not now, and a note about it.
pub(crate) async fn not_before(
    hub: &Controller,
    args: &SendArgs,
) -> anyhow::Result<Option<(Timestamp, String)>> {
    let Some(at) = args.at else { return Ok(None) };
    // The hub's clock decides when that is.
    let now = Timestamp::from_unix_ms(hub.ping().await?.time_ms);
    let at = at.next(now).map_err(|e| Usage(format!("--at: {e}")))?;
    Ok(Some((at, format!("to be sent at {at}, in {}", out::span(at.since(now))))))
}

/// The hub's time before a command is sent with a key, which tells one that was sent before from a new one.
pub(crate) async fn before_key(
    hub: &Controller,
    args: &SendArgs,
) -> anyhow::Result<Option<Timestamp>> {
    match args.idempotency_key {
        Some(_) => Ok(Some(Timestamp::from_unix_ms(hub.ping().await?.time_ms))),
        None => Ok(None),
    }
}

/// Whether the command was sent before, with the same key; if so, a note says it.
pub(crate) fn note_repeated(before: Option<Timestamp>, created_at: Timestamp, form: Form) -> bool {
    let repeats = before.is_some_and(|before| created_at < before);
    if repeats && form == Form::Text {
        out::note(&format!("already sent at {created_at} with this key; nothing new was sent"));
    }
    repeats
}

/// What clap takes, and is a slip.
fn refuse_slips(args: &SendArgs, to: &str) -> Result<(), Usage> {
    let action = args.action.as_deref().unwrap_or_default();
    if let (Some(first), [_, ..]) = (&args.data, args.unquoted.as_slice()) {
        let text = format!("{first} {}", args.unquoted.join(" "));
        let quoted = text.replace('\'', r"'\''");
        return Err(Usage(format!(
            "data with a blank go in quotes: bellwire send {} {} '{}'",
            out::printable(to),
            out::printable(action),
            out::printable(&quoted)
        )));
    }
    if args.data.is_some() && args.data_file.is_some() {
        return Err(Usage("the data are an argument or in --data-file, not both".to_owned()));
    }
    if args.at.is_some() && args.wait.is_some() {
        return Err(Usage(
            "--at and --wait exclude each other: send it without --wait, and follow it with: bellwire watch ID"
                .to_owned(),
        ));
    }
    Ok(())
}

/// The answer. Where it cannot be printed, the id must not be lost with it.
fn print(delivery: &Delivery, form: Form) -> anyhow::Result<()> {
    let printed = match form {
        Form::Json => out::json(delivery),
        Form::Text => out::delivery(delivery).map_err(Into::into),
    };
    printed.with_context(|| format!("the command {} was sent", delivery.command))
}

/// Follows the command to its end, or until the wait has elapsed.
async fn follow(hub: &Controller, sent: Delivery, wait: Seconds) -> anyhow::Result<Delivery> {
    if sent.state.is_terminal() {
        return Ok(sent);
    }
    let end = async {
        let mut changes = hub.watch(sent.command)?.on_lost(note_losses(hub));
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

/// The device as the hub knows it; `None` if it does not. Asking does not create it.
pub(crate) async fn lookup(hub: &Controller, device: &DeviceId) -> Result<Option<Device>, Error> {
    match hub.device(device).await {
        Err(e) if e.code() == Some(Code::UnknownDevice) => Ok(None),
        answer => answer.map(Some),
    }
}

/// Whether it has ever connected. A device that exists may have been created by a command alone.
pub(crate) fn is_seen(device: &Device) -> bool {
    device.online || device.last_seen_at.is_some()
}

/// What the sender should know about the device.
struct Hint {
    text: String,
    /// Whether the command itself may be a mistake.
    is_urgent: bool,
}

/// Why it may take long, if the appliance is offline. `device` is `None` for one that the command has created.
fn hint(device: Option<&Device>, sent: &Delivery) -> Option<Hint> {
    let Delivery { device: name, command, created_at, expires_at, .. } = sent;
    let retained = format!(
        "the command waits for it until {expires_at} ({}; --ttl sets another time)",
        out::span(expires_at.since(*created_at))
    );
    match device {
        _ if sent.state.is_terminal() => None,
        Some(device) if is_seen(device) => {
            let seen_at = device.last_seen_at.filter(|_| !device.online)?;
            let text = format!("{name} is offline since {seen_at}; {retained}");
            Some(Hint { text, is_urgent: false })
        }
        _ => {
            // One that was registered before, or has labels, is more than what this command has made of a slip.
            let is_made = device
                .is_none_or(|device| device.labels.is_empty() && device.created_at >= *created_at);
            let undo = match is_made {
                true => format!("devices remove {name}"),
                false => format!("cancel {command}"),
            };
            let text = format!(
                "{name} has never connected to this hub; {retained}. If the name is a slip, undo it with: bellwire {undo}"
            );
            Some(Hint { text, is_urgent: true })
        }
    }
}

/// Whether the options can be used together.
fn check_inputs(args: &SendArgs, hub: &HubArg) -> Result<(), Usage> {
    let is_dash = |file: &Option<std::path::PathBuf>| file.as_deref() == Some("-".as_ref());
    let reads_data = args.data.as_deref() == Some("-") || is_dash(&args.data_file);
    crate::connect::reads_once(hub, reads_data)?;
    if args.ttl.is_some_and(|ttl| ttl.get() > limits::TTL_S.max) {
        return Err(Usage("--ttl is from 0s to 7d".to_owned()));
    }
    // The same key with another request would be refused, at the one moment when the key is needed.
    if args.idempotency_key.is_some() && matches!(args.at, Some(Moment::Span(_))) {
        return Err(Usage(
            "--at counted from now is another time at each try, and with --idempotency-key another request: give \
             the time itself, as in 2026-01-31T12:00:00Z"
                .to_owned(),
        ));
    }
    Ok(())
}

/// The data as it is sent.
pub(crate) enum Data {
    None,
    Json(Json),
    Text(String),
}

/// What a text is, as data of this type.
///
/// # Errors
/// When it is not of that type, or begins like JSON without being it.
pub(crate) fn parse_data(text: String, data_type: DataType) -> Result<Data, Usage> {
    if data_type == DataType::Text {
        return Ok(Data::Text(text));
    }
    match json(&text) {
        Ok(json) => Ok(Data::Json(json)),
        Err(e) if data_type == DataType::Json => Err(Usage(format!("the data is {e}"))),
        Err(e) if begins_like_json(&text) => Err(Usage(format!(
            "the data begins like JSON and is {e}; if it is meant as text, add --type text"
        ))),
        Err(_) => Ok(Data::Text(text)),
    }
}

/// The data of the argument, of the file or of standard input.
pub(crate) fn typed_data(args: &SendArgs) -> anyhow::Result<Data> {
    let Some(text) = data(args)? else { return Ok(Data::None) };
    Ok(parse_data(text, args.data_type)?)
}

fn options(args: &SendArgs) -> anyhow::Result<SendOptions> {
    let mut options = match typed_data(args)? {
        Data::None => SendOptions::default(),
        Data::Json(json) => SendOptions::default().json(json),
        Data::Text(text) => SendOptions::default().text(text),
    };
    if let Some(ttl) = args.ttl {
        options = options.ttl(ttl);
    }
    if let Some(Some(wait)) = args.wait {
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

/// The text as JSON, without a byte order mark before it, which JSON has not (RFC 8259, section 8.1).
fn json(text: &str) -> Result<Json, InvalidJson> {
    let Some(without) = text.strip_prefix(BOM) else { return Json::parse(text) };
    Json::parse(without).inspect(|_| {
        out::note("the byte order mark before the JSON is not part of it, and not sent")
    })
}

/// Whether the sender of this will have meant JSON: no usual text begins so.
fn begins_like_json(text: &str) -> bool {
    text.trim_start_matches(BOM).trim_start().starts_with(['{', '[', '"'])
}

/// The data, from the argument, a file or standard input.
fn data(args: &SendArgs) -> anyhow::Result<Option<String>> {
    let bytes = match (&args.data, &args.data_file) {
        (Some(dash), _) if dash == "-" => {
            read_bounded(std::io::stdin()).context("standard input")?
        }
        (Some(text), _) => return Ok(Some(text.clone())),
        (None, Some(dash)) if dash.as_os_str() == "-" => {
            read_bounded(std::io::stdin()).context("standard input")?
        }
        (None, Some(file)) => File::open(file)
            .and_then(read_bounded)
            .map_err(|e| Usage(format!("{}: {e}", file.display())))?,
        (None, None) => return Ok(None),
    };
    let text = String::from_utf8(bytes);
    let text = text.map_err(|e| Usage(not_utf8(e.as_bytes()).to_owned()))?;
    Ok(Some(text))
}

/// What to do about data that are not UTF-8.
fn not_utf8(bytes: &[u8]) -> &'static str {
    // A byte order mark, as editors and shells of Windows write it.
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        "the data is UTF-16, as Windows writes it; convert it: iconv -f UTF-16 -t UTF-8"
    } else {
        "the data is not UTF-8; encode it, for example with base64"
    }
}

/// All of it, or what is too long for every hub by a byte.
fn read_bounded(from: impl Read) -> std::io::Result<Vec<u8>> {
    let limit = u64::try_from(limits::DATA_BYTES_CEILING).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    from.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}
