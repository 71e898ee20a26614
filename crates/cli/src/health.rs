//! `bellwire health`: whether the hub lives, takes commands, and has the right time.

use std::time::Instant;

use bellwire_client::api::Error;
use bellwire_proto::Timestamp;
use serde::Serialize;

use crate::args::Health;
use crate::connect;
use crate::exit;
use crate::out::{self, BAD, BOLD, DIM, Form, GOOD};

/// What the checks found.
#[derive(Serialize)]
struct Found<'a> {
    url: &'a str,
    hub: String,
    healthy: bool,
    ready: bool,
    reason: Option<String>,
    time: Timestamp,
    round_trip_ms: u64,
}

pub(crate) async fn run(args: Health, form: Form) -> anyhow::Result<u8> {
    let hub = connect::controller(&args.hub)?;
    let begun = Instant::now();
    let pong = match hub.ping().await {
        // Every GET that does not listen is redirected there by the original and by `eventsource-server`.
        Err(Error::Foreign { hub, status, location, retry_after, .. })
            if location.as_deref() == Some("/") =>
        {
            let reason = "it answers as a classic server does (eventsource-server); a hub that serves both is started with: \
                          bellwire serve --classic"
                .to_owned();
            return Err(Error::Foreign { hub, reason, status, location, retry_after }.into());
        }
        pong => pong?,
    };
    let round_trip_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let health = refusal(hub.health().await)?;
    let readiness = refusal(hub.readiness().await)?;
    let found = Found {
        url: hub.url(),
        hub: pong.hub,
        healthy: health.is_none(),
        ready: readiness.is_none(),
        reason: health.or(readiness),
        time: Timestamp::from_unix_ms(pong.time_ms),
        round_trip_ms,
    };
    match form {
        Form::Json => out::json(&found)?,
        Form::Text => print(&found)?,
    }
    Ok(if found.healthy && found.ready { exit::OK } else { exit::UNREACHABLE })
}

/// The hub's reason; anything else that fails is an error.
fn refusal(answer: Result<(), Error>) -> Result<Option<String>, Error> {
    match answer {
        Ok(()) => Ok(None),
        Err(Error::Refused { problem, .. }) => Ok(Some(problem.to_string())),
        Err(other) => Err(other),
    }
}

fn print(found: &Found<'_>) -> anyhow::Result<()> {
    let (style, state) = match (found.healthy, found.ready) {
        (true, true) => (GOOD, "ready"),
        (true, false) => (BAD, "not ready"),
        (false, _) => (BAD, "failed"),
    };
    out::line(format_args!(
        "{style}{state}{style:#}  {BOLD}{}{BOLD:#}  {DIM}{}, answered in {} ms, its clock shows {}{DIM:#}",
        out::printable(found.url),
        out::printable(&found.hub),
        found.round_trip_ms,
        found.time
    ))?;
    if let Some(reason) = &found.reason {
        out::line(format_args!("  {}", out::printable(reason)))?;
    }
    Ok(())
}
