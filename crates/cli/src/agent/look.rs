//! `bellwire agent status` and `agent journal`: how an agent stands, and what it remembers.

use std::io::ErrorKind;
use std::time::Duration;

use bellwire_client::agent::{inspect, status};
use bellwire_proto::State;

use super::read_config;
use crate::args::{AgentConfigArg, JournalCommand};
use crate::exit::{self, Usage};
use crate::out::{self, BAD, BOLD, DIM, Form, GOOD};

pub(crate) async fn status(args: &AgentConfigArg, form: Form) -> anyhow::Result<u8> {
    let folder = read_config(&args.config)?.state_dir;
    let status = match status::read(&folder).await {
        Ok(status) => status,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            out::error(&format!("no agent runs with the state folder {}", folder.display()));
            return Ok(exit::FAILED);
        }
        Err(e) if e.kind() == ErrorKind::PermissionDenied => {
            let message =
                format!("{}: only the agent's own user and root may ask it", folder.display());
            return Err(Usage(message).into());
        }
        Err(e) => anyhow::bail!("the agent in {} does not answer: {e}", folder.display()),
    };
    match form {
        Form::Json => out::json(&status)?,
        Form::Text => print(&status),
    }
    Ok(exit::OK)
}

fn print(status: &status::Status) {
    let span = |seconds| out::span(Duration::from_secs(seconds));
    let status::Status { connection, journal, .. } = status;
    let (style, word) =
        if connection.connected { (GOOD, "connected") } else { (BAD, "not connected") };
    anstream::println!(
        "{style}{word}{style:#}  {BOLD}{}{BOLD:#} at {} {DIM}for {}{DIM:#}",
        status.device,
        out::printable(&connection.hub),
        span(connection.since_s)
    );
    if let (false, Some(loss)) = (connection.connected, &connection.last_loss) {
        anstream::println!("  {}", out::printable(loss));
    }
    if let Some(retry_in_s) = connection.retry_in_s {
        anstream::println!("  next try in {}", span(retry_in_s));
    }
    // What came from the hub, or from a box on the way, is foreign text.
    let hub = out::printable(connection.hub_version.as_deref().unwrap_or("not heard of yet"));
    anstream::println!(
        "  {DIM}agent {} (process {}) up for {}, hub {hub}{DIM:#}",
        status.version,
        status.pid,
        span(status.up_s)
    );
    anstream::println!(
        "  {DIM}journal in {}: {} KiB of {} KiB, {} commands, {} under way{DIM:#}",
        journal.folder.display(),
        journal.bytes.div_ceil(1024),
        journal.bytes_max / 1024,
        journal.commands,
        journal.under_way
    );
    for command in &status.commands {
        let state = command.state.parse::<State>().ok();
        let style = state.map_or(DIM, out::style_of);
        let action = command.action.as_ref().map_or("?", |action| action.as_str());
        let code = command
            .code
            .as_deref()
            .map(|code| format!(" {}", out::printable(code)))
            .unwrap_or_default();
        let has_ended = state.is_some_and(State::is_terminal);
        let told = if has_ended && !command.told { ", not told yet" } else { "" };
        anstream::println!(
            "  {style}{:<10}{style:#}{code} {BOLD}{action}{BOLD:#} {DIM}{}{told}{DIM:#}",
            command.state,
            command.id
        );
    }
}

pub(crate) fn journal(command: &JournalCommand) -> anyhow::Result<u8> {
    match command {
        JournalCommand::Show { config } => {
            let config = read_config(&config.config)?;
            let damaged_at = inspect::show(&config.state_dir, &config.device, |_, record| {
                anstream::println!("{record}");
            })?;
            let Some(at) = damaged_at else { return Ok(exit::OK) };
            out::error(&format!("the journal is damaged at byte {at}"));
            Ok(exit::FAILED)
        }
        JournalCommand::Repair { config } => {
            let config = read_config(&config.config)?;
            let kept = inspect::repair(&config.state_dir, &config.device)?;
            anstream::println!("{kept} records kept");
            out::note(&format!(
                "what it was is in {}/journal.damaged; a command whose start was lost may run again",
                config.state_dir.display()
            ));
            Ok(exit::OK)
        }
    }
}
