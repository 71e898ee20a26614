//! `bellwire label` and `bellwire labels`: changing labels of one appliance or of many, and which there are.

use std::pin::pin;
use std::time::Duration;

use bellwire_client::Controller;
use bellwire_client::api::{DeviceQuery, Error};
use bellwire_proto::labels::{LabelsPatch, is_label_key, is_label_value, merge};
use bellwire_proto::limits::{LABEL_DEVICES_MAX, PAGE_ITEMS_MAX};
use bellwire_proto::{Code, Device, DeviceId, Selector};
use futures_util::{StreamExt as _, TryStreamExt as _};

use super::ask;
use crate::args::fleet::{Label, LabelsArgs};
use crate::connect;
use crate::exit::{self, Usage};
use crate::explain::explain;
use crate::out::{self, BOLD, DIM, Form};

/// Requests that are under way at once.
const AT_ONCE: usize = 16;
/// How often a request is repeated of which the hub had too many, and how long it waits for that at most.
const ASKED_AGAIN_MAX: usize = 5;
const PAUSE_MAX: Duration = Duration::from_secs(60);

pub(crate) async fn change(args: Label, form: Form) -> anyhow::Result<u8> {
    let (device, changes) = match &args.select {
        Some(_) => (None, args.words.as_slice()),
        None => match args.words.split_first() {
            Some((name, changes)) => (Some(device_of(name)?), changes),
            None => (None, [].as_slice()),
        },
    };
    if changes.is_empty() {
        return Err(
            Usage("name the changes: KEY=VALUE sets a label, KEY- removes it".into()).into()
        );
    }
    let patch = patch_of(changes)?;
    let hub = connect::controller(&args.hub)?;
    match (device, args.select.clone()) {
        (Some(device), _) if args.dry_run => {
            shown(&would_be(hub.device(&device).await?, &patch), form)?;
            Ok(exit::OK)
        }
        (Some(device), _) => {
            shown(&hub.merge_labels(&device, &patch).await?, form)?;
            Ok(exit::OK)
        }
        (None, select) => change_many(&hub, select.unwrap_or_default(), &patch, &args, form).await,
    }
}

async fn change_many(
    hub: &Controller,
    select: Selector,
    patch: &LabelsPatch,
    args: &Label,
    form: Form,
) -> anyhow::Result<u8> {
    let mut matching = pin!(hub.all_devices(DeviceQuery {
        select: Some(select.clone()),
        limit: Some(PAGE_ITEMS_MAX),
        ..DeviceQuery::default()
    }));
    let mut names: Vec<DeviceId> = Vec::new();
    let mut differ = 0;
    while let Some(device) = matching.try_next().await? {
        let id = device.id.clone();
        let after = would_be(device.clone(), patch);
        if after.labels != device.labels {
            differ += 1;
            if args.dry_run {
                shown(&after, form)?;
            } else {
                names.push(id);
            }
        }
        if differ > LABEL_DEVICES_MAX {
            let why =
                format!("more than {LABEL_DEVICES_MAX} appliances match; narrow the selector");
            return Err(Usage(why).into());
        }
    }
    let what =
        format!("the labels of {differ} {}", if differ == 1 { "appliance" } else { "appliances" });
    if args.dry_run {
        out::note(&format!("{what} would change; nothing was changed"));
        return Ok(exit::OK);
    }
    if differ == 0 {
        out::note(&format!("no appliance that matches {:?} would change", select.to_string()));
        return Ok(exit::OK);
    }
    out::note(&format!("{what} will change"));
    if !args.yes && !ask::go_on("nothing was changed")? {
        return Ok(exit::FAILED);
    }
    let changes = names.into_iter().map(|device| async move {
        let changed = patiently(|| hub.merge_labels(&device, patch)).await;
        (device, changed)
    });
    each(changes, "changed before; the same command can be repeated", form).await
}

/// Makes changes of appliances, some at a time, and shows each. What the hub refuses for one is reported, and the others are changed;
/// the exit code is then that of a failure.
///
/// # Errors
/// When the hub is away or allows none of it, with how many were made before, and what that `leads_to`.
pub(crate) async fn each(
    changes: impl Iterator<Item = impl Future<Output = (DeviceId, Result<Device, Error>)>>,
    leads_to: &str,
    form: Form,
) -> anyhow::Result<u8> {
    let mut changes = pin!(futures_util::stream::iter(changes).buffered(AT_ONCE));
    let (mut done, mut refused) = (0_u64, 0_u64);
    while let Some((device, outcome)) = changes.next().await {
        match outcome {
            Ok(device) => {
                done += 1;
                shown(&device, form)?;
            }
            Err(error) if concerns_all(&error) => {
                let before = format!("{device}; {done} were {leads_to}");
                return Err(anyhow::Error::from(error).context(before));
            }
            Err(error) => {
                refused += 1;
                let error = anyhow::Error::from(error).context(device.to_string());
                explain(&error, form);
            }
        }
    }
    Ok(if refused == 0 { exit::OK } else { exit::FAILED })
}

/// What the hub answers; asked again, a few times, after the time that it names when it was asked too often.
pub(crate) async fn patiently<T, F>(mut ask: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    for _ in 0..ASKED_AGAIN_MAX {
        match ask().await {
            Err(Error::Refused { problem, retry_after }) if problem.code == Code::RateLimited => {
                let pause = retry_after.unwrap_or(Duration::from_secs(1)).min(PAUSE_MAX);
                out::note(&format!(
                    "the hub takes no more for {} s; it is tried again then",
                    pause.as_secs()
                ));
                tokio::time::sleep(pause).await;
            }
            answer => return answer,
        }
    }
    ask().await
}

/// Whether an error is not about one device: the hub is away, stops, or allows none of it.
fn concerns_all(error: &Error) -> bool {
    let Error::Refused { problem, .. } = error else { return true };
    matches!(
        problem.code,
        Code::Draining
            | Code::StoreUnavailable
            | Code::Unauthenticated
            | Code::Forbidden
            | Code::RateLimited
            | Code::Internal
    )
}

fn device_of(name: &str) -> Result<DeviceId, Usage> {
    name.parse().map_err(|e| {
        let hint =
            if name.contains('=') { "; name the appliance first, or give -l SELECTOR" } else { "" };
        Usage(format!("{}: {e}{hint}", out::printable(name)))
    })
}

/// Changes as they are written: `KEY=VALUE`, `KEY-`.
fn patch_of(words: &[String]) -> Result<LabelsPatch, Usage> {
    let mut patch = LabelsPatch::new();
    for word in words {
        let (key, value) = match word.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => match word.strip_suffix('-') {
                Some(key) => (key, None),
                None => {
                    let word = out::printable(word);
                    return Err(Usage(format!(
                        "{word}: write {word}=VALUE to set it, or {word}- to remove it"
                    )));
                }
            },
        };
        check(key, value.as_deref().unwrap_or_default())
            .map_err(|why| Usage(format!("{}: {why}", out::printable(word))))?;
        if patch.insert(key.to_owned(), value).is_some() {
            return Err(Usage(format!("the label {key} is named twice")));
        }
    }
    Ok(patch)
}

/// Whether this can be a label.
pub(crate) fn check(key: &str, value: &str) -> Result<(), &'static str> {
    if is_label_key(key) && is_label_value(value) {
        return Ok(());
    }
    Err(
        "keys and values of labels are at most 63 of A-Z a-z 0-9 - _ . with a letter or digit at both ends",
    )
}

fn would_be(mut device: Device, patch: &LabelsPatch) -> Device {
    device.labels = merge(device.labels, patch.clone());
    device
}

pub(crate) fn shown(device: &Device, form: Form) -> anyhow::Result<()> {
    match form {
        Form::Json => out::json(device),
        Form::Text => {
            let id = &device.id;
            Ok(out::line(format_args!("{BOLD}{id}{BOLD:#}  {}", out::labels(&device.labels)))?)
        }
    }
}

pub(crate) async fn list(args: LabelsArgs, form: Form) -> anyhow::Result<u8> {
    let hub = connect::controller(&args.hub)?;
    let mut keys = pin!(hub.all_labels());
    let mut any = false;
    while let Some(key) = keys.try_next().await? {
        any = true;
        if form == Form::Json {
            out::json(&key)?;
            continue;
        }
        out::line(format_args!("{BOLD}{:<40}{BOLD:#} {:>8}", key.key, key.devices))?;
        for value in &key.values {
            out::line(format_args!("  {:<38} {:>8}", value.value, value.devices))?;
        }
        let shown: u64 = key.values.iter().map(|value| value.devices).sum();
        if let Some(others @ 1..) = key.devices.checked_sub(shown) {
            out::line(format_args!("  {DIM}{:<38} {others:>8}{DIM:#}", "(other values)"))?;
        }
    }
    if !any && form == Form::Text {
        out::note("no appliance has a label; bellwire label DEVICE KEY=VALUE gives it one");
    }
    Ok(exit::OK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_read_as_kubectl_writes_them() {
        let patch = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            patch_of(&words).map_err(|e| e.0)
        };
        let set = |key: &str, value: &str| (key.to_owned(), Some(value.to_owned()));
        assert_eq!(
            patch(&["site=lyon", "spare-", "empty=", "example.com/tier=a"]),
            Ok([
                set("site", "lyon"),
                ("spare".into(), None),
                set("empty", ""),
                set("example.com/tier", "a")
            ]
            .into())
        );
        assert!(patch(&["site"]).unwrap_err().contains("site=VALUE"));
        assert!(patch(&["site=lyon", "site-"]).unwrap_err().contains("twice"));
        for bad in ["=a", "-", "a=b c", "a b=c", "a=-"] {
            assert!(patch(&[bad]).is_err(), "{bad}");
        }
    }
}
