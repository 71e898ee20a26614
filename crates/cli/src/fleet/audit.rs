//! `bellwire audit`: who did what, to whom, from where, and how it ended.

use std::pin::pin;

use bellwire_client::api::AuditQuery;
use bellwire_proto::{AuditEntry, Timestamp};
use futures_util::TryStreamExt;

use crate::args::fleet::Audit;
use crate::connect;
use crate::exit::{self, Usage};
use crate::explain::note_losses;
use crate::out::{self, BAD, BOLD, DIM, Form};

/// Items on a page of the hub, at most.
const PAGE_MAX: usize = 1000;

pub(crate) async fn run(args: Audit, form: Form) -> anyhow::Result<u8> {
    let hub = connect::controller(&args.hub)?;
    // The hub's clock, so that "ago" is right on a machine whose own is not.
    let now = Timestamp::from_unix_ms(hub.ping().await?.time_ms);
    let since = args.since.map(|since| since.last(now)).transpose().map_err(Usage)?;
    let limit = args.limit.get();
    let query = AuditQuery {
        actor: args.actor,
        device: args.device,
        verb: args.verb,
        since,
        limit: u32::try_from(limit.min(PAGE_MAX)).ok(),
    };

    let mut found = Vec::new();
    let mut entries = pin!(hub.all_audit(query.clone()));
    while found.len() < limit {
        match entries.try_next().await? {
            Some(entry) => found.push(entry),
            None => break,
        }
    }
    // As a log is read: the newest last.
    found.reverse();
    found.iter().try_for_each(|entry| print(entry, form))?;
    if !args.follow {
        if found.is_empty() && form == Form::Text {
            out::note("no entry fits");
        }
        return Ok(exit::OK);
    }
    let after = found.last().map_or(0, |entry| entry.id);
    // Those that were shown are not shown again; without one, what begins now.
    let after = (after > 0).then_some(after);
    let mut entries = hub.follow_audit(query, after)?.on_lost(note_losses(&hub));
    while let Some(entry) = entries.next().await {
        print(&entry?, form)?;
    }
    Ok(exit::UNREACHABLE)
}

fn print(entry: &AuditEntry, form: Form) -> anyhow::Result<()> {
    if form == Form::Json {
        return out::json(entry);
    }
    let AuditEntry { at, actor, address, verb, object, status, code, count, .. } = entry;
    let who = match (&actor.token, actor.role) {
        (Some(token), Some(role)) => format!("{} {token}", role.as_str()),
        (None, Some(role)) => format!("{} without a token", role.as_str()),
        (None, None) if address.is_none() => "on the hub's machine".to_owned(),
        (_, None) => "unauthenticated".to_owned(),
    };
    let object = [
        object.device.as_ref().map(ToString::to_string),
        object.action.as_ref().map(ToString::to_string),
        object.command.map(|id| id.to_string()),
        object.token.map(|id| id.to_string()),
        object.schedule.map(|id| format!("schedule {id}")),
    ];
    let whom = object.into_iter().flatten().collect::<Vec<_>>().join(" ");
    let outcome = match code {
        Some(code) => format!("{BAD}{status} {code}{BAD:#}"),
        None => status.to_string(),
    };
    let times = if *count > 1 { format!(" {count} times") } else { String::new() };
    let from = address.as_deref().map(|ip| format!(" from {ip}")).unwrap_or_default();
    out::line(format_args!(
        "{DIM}{at}{DIM:#}  {BOLD}{verb}{BOLD:#} {whom}  {outcome}{times}  {DIM}{}{from}{DIM:#}",
        out::printable(&who)
    ))?;
    Ok(())
}
