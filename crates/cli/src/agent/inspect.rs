//! `bellwire agent status` and `agent journal`: the state of a running agent, and its journal.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use bellwire_client::agent::inspect::{self, JournalItem, Repaired};
use bellwire_client::agent::status;
use bellwire_client::path::Carrier;
use bellwire_proto::DeliveryState;
use serde::Serialize;

use super::read_config;
use crate::args::{AgentConfigArg, JournalCommand};
use crate::exit::{self, Usage};
use crate::out::{self, BAD, BOLD, DIM, Form, GOOD, StdoutError};

pub(crate) async fn status(args: &AgentConfigArg, form: Form) -> anyhow::Result<u8> {
    let folder = read_config(&args.config)?.state_dir;
    let status = match status::read(&folder).await {
        Ok(status) => status,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            anyhow::bail!("no agent runs with the state folder {}", folder.display());
        }
        Err(e) if e.kind() == ErrorKind::PermissionDenied => {
            let message =
                format!("{}: only the agent's own user and root may ask for it", folder.display());
            return Err(Usage(message).into());
        }
        Err(e) => anyhow::bail!("the agent in {} does not answer: {e}", folder.display()),
    };
    match form {
        Form::Json => out::json(&status)?,
        Form::Text => print(&status)?,
    }
    Ok(exit::OK)
}

fn print(status: &status::Status) -> Result<(), StdoutError> {
    let span = |seconds| out::span(Duration::from_secs(seconds));
    let status::Status { connection, journal, .. } = status;
    let (style, label) =
        if connection.connected { (GOOD, "connected") } else { (BAD, "not connected") };
    out::line(format_args!(
        "{style}{label}{style:#}  {BOLD}{}{BOLD:#} at {} {DIM}for {}{DIM:#}",
        status.device,
        out::printable(&connection.hub),
        span(connection.since_s)
    ))?;
    if let Some(proxy) = &connection.proxy {
        let why = connection.hub_why.as_deref();
        let why = why.map(|why| format!("; not the preferred way: {why}")).unwrap_or_default();
        out::line(format_args!("  proxy: {}{}", out::printable(proxy), out::printable(&why)))?;
    }
    if let (Some(carrier), Some(since_s)) = (connection.carrier, connection.carrier_since_s) {
        let by = match carrier {
            Carrier::Stream => "stream",
            Carrier::CompatStream => "stream with a comment after each event",
            Carrier::Poll => "long poll",
        };
        let why = connection.carrier_why.as_deref().map(|why| format!(": {}", out::printable(why)));
        let why = why.unwrap_or_default();
        match connection.silent_s {
            Some(silent_s) => out::line(format_args!(
                "  {BAD}nothing received for {}{BAD:#}; commands are asked for by {by}{why}",
                span(silent_s)
            )),
            None => out::line(format_args!("  commands arrive by {by} for {}{why}", span(since_s))),
        }?;
        if let Some(rests_s) = connection.stream_rests_s {
            out::line(format_args!("  the stream is tried again in {}", span(rests_s)))?;
        }
    }
    if let (false, Some(loss)) = (connection.connected, &connection.last_loss) {
        out::line(format_args!("  {}", out::printable(loss)))?;
    }
    if let Some(retry_in_s) = connection.retry_in_s {
        out::line(format_args!("  next try in {}", span(retry_in_s)))?;
    }
    if !connection.connected {
        let hub = out::printable(&connection.hub);
        out::line(format_args!("  what the network lets pass: bellwire doctor --hub {hub}"))?;
    }
    // Text from the hub, or from a proxy, may contain control characters.
    let hub = out::printable(connection.hub_version.as_deref().unwrap_or("not known yet"));
    out::line(format_args!(
        "  {DIM}agent {} (process {}) up for {}, hub {hub}{DIM:#}",
        status.version,
        status.pid,
        span(status.up_s)
    ))?;
    out::line(format_args!(
        "  {DIM}journal in {}: {} KiB of {} KiB, {} commands, {} under way{DIM:#}",
        journal.dir.display(),
        journal.bytes.div_ceil(1024),
        journal.bytes_max / 1024,
        journal.commands,
        journal.under_way
    ))?;
    for command in &status.commands {
        let state = command.state.parse::<DeliveryState>().ok();
        let style = state.map_or(DIM, out::style_of);
        let action = command.action.as_ref().map_or("?", |action| action.as_str());
        let code = command
            .code
            .as_deref()
            .map(|code| format!(" {}", out::printable(code)))
            .unwrap_or_default();
        let has_ended = state.is_some_and(DeliveryState::is_terminal);
        let reported = if has_ended && !command.reported { ", not reported yet" } else { "" };
        out::line(format_args!(
            "  {style}{:<10}{style:#}{code} {BOLD}{action}{BOLD:#} {DIM}{}{reported}{DIM:#}",
            command.state, command.id
        ))?;
        if let Some(waits) = &command.waits {
            out::line(format_args!("    {}", out::printable(waits)))?;
        }
    }
    Ok(())
}

pub(crate) fn journal(command: &JournalCommand, form: Form) -> anyhow::Result<u8> {
    match command {
        JournalCommand::Show { config } => {
            let config = read_config(&config.config)?;
            // Each record is JSON as it is stored; what is no record is shown at its position.
            let mut printed = Ok(());
            inspect::show(&config.state_dir, &config.device, |seen| {
                if printed.is_ok() {
                    printed = print_item(seen);
                }
            })?;
            printed?;
        }
        JournalCommand::Repair { config } => {
            let config = read_config(&config.config)?;
            let repaired = inspect::repair(&config.state_dir, &config.device)?;
            match form {
                Form::Json => out::json(&RepairReport::from(&repaired))?,
                Form::Text => print_repair(&repaired)?,
            }
        }
    }
    Ok(exit::OK)
}

fn print_item(item: JournalItem) -> Result<(), StdoutError> {
    match item {
        JournalItem::Record(json) => out::line(out::escaped(&json)),
        JournalItem::Unknown { at, json } => {
            let line = out::escaped(&json);
            out::line(format_args!(r#"{{"unknown":{{"at":{at},"line":{line}}}}}"#))
        }
        JournalItem::Damaged { at, bytes } => {
            out::line(format_args!(r#"{{"damaged":{{"at":{at},"bytes":{bytes}}}}}"#))
        }
        JournalItem::Torn { at, bytes } => {
            out::line(format_args!(r#"{{"torn":{{"at":{at},"bytes":{bytes}}}}}"#))
        }
        _ => Ok(()),
    }
}

/// What `agent journal repair --json` prints.
#[derive(Serialize)]
struct RepairReport<'a> {
    records_retained: usize,
    lines_dropped: usize,
    copy: Option<&'a Path>,
}

impl<'a> From<&'a Repaired> for RepairReport<'a> {
    fn from(repaired: &'a Repaired) -> Self {
        let Repaired { records_retained, lines_dropped, copy, .. } = repaired;
        Self {
            records_retained: *records_retained,
            lines_dropped: *lines_dropped,
            copy: copy.as_deref(),
        }
    }
}

fn print_repair(repaired: &Repaired) -> Result<(), StdoutError> {
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let records = count(repaired.records_retained, "record");
    let Some(copy) = &repaired.copy else {
        return out::line(format_args!("nothing to repair: {records}"));
    };
    out::line(format_args!(
        "{records} retained, {} dropped",
        count(repaired.lines_dropped, "line")
    ))?;
    out::note(&format!(
        "the original is in {}; a command whose start was lost may run again",
        copy.display()
    ));
    Ok(())
}
