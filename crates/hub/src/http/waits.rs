//! `GET /v1/commands/{command}/waits`: why deliveries are still queued. Contract, section 3.
//!
//! The store knows times and order, the core who is online; the reason is made of both here, for people. Nothing decides
//! by it.

use axum::response::Response;
use bellwire_proto::{CommandId, Device, Page, Problem, Timestamp, Wait, WaitReason};

use super::page;
use super::request::Request;
use crate::store::{Cursor, StoredWait};

pub(super) async fn list(request: Request) -> Result<Response, Problem> {
    let command: CommandId = request.name("command")?;
    let mut query = request.query()?;
    let page = super::page_request(&mut query)?;
    query.finish()?;

    let driver = &request.driver;
    let stored = driver.store().waits(command, page, request.caller.visible()).await?;
    let stored = stored.ok_or_else(super::command::unknown)?;
    let devices = driver.show(stored.items.iter().map(|wait| wait.device.clone()).collect())?;
    let waits = stored.items.iter().zip(devices).map(|(wait, device)| {
        let now = driver.clocks();
        let retry_at = wait.retry_at.filter(|at| *at > now.instant);
        let retry_at = retry_at.map(|at| now.wall.after(at.since(now.instant)));
        explain(wait, device, retry_at, driver.config().max_in_flight)
    });
    let waits = Page { items: waits.collect(), next: stored.next };
    page::page(waits, |last| Cursor::after_device(last.device.clone()))
}

/// The first reason that holds. `retry_at` is the end of a backoff that is not over.
fn explain(
    stored: &StoredWait,
    device: Device,
    retry_at: Option<Timestamp>,
    max_in_flight: usize,
) -> Wait {
    let behind = match stored.first_in_flight {
        Some(first) if stored.in_flight >= max_in_flight => Some(first),
        _ => stored.older,
    };
    let mut wait = Wait {
        device: device.id,
        reason: WaitReason::Ready,
        since: None,
        until: None,
        behind: None,
    };
    if let Some(at) = stored.scheduled_at {
        let reason = if stored.awaits_window { WaitReason::Window } else { WaitReason::Scheduled };
        (wait.reason, wait.until) = (reason, Some(at));
    } else if !device.online {
        (wait.reason, wait.since) = (WaitReason::Offline, device.last_seen_at);
    } else if let Some(at) = retry_at {
        (wait.reason, wait.until) = (WaitReason::Backoff, Some(at));
    } else if let Some(first) = behind {
        (wait.reason, wait.behind) = (WaitReason::Behind, Some(first));
    }
    wait
}
