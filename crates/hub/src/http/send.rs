//! Sending: `POST /v1/send/{device}/{action}` and `POST /v1/commands`. Contract, section 3.

use std::borrow::Cow;
use std::sync::Arc;

use axum::response::Response;
use bellwire_core::record::IdempotencyKey;
use bellwire_core::{Send, Target, TargetQuery};
use bellwire_proto::command_plan::data_too_large;
use bellwire_proto::limits::{
    ENVELOPE_BYTES_MAX, RUN_TIMEOUT_S, SMALL_BODY_BYTES_MAX, TTL_OR_ZERO_S, WAIT_S,
};
use bellwire_proto::{
    Action, Code, Command, CommandId, Counts, Delivery, DeviceId, Json, Problem, Seconds,
    Timestamp, Window,
};
use http::{StatusCode, header};
use ring::digest;

use super::bodies::{self, Envelope};
use super::params::{self, Query};
use super::problem;
use super::request::Request;
use super::window;

/// `POST /v1/send/{device}/{action}`: the body is the data.
pub(super) async fn send(mut request: Request) -> Result<Response, Problem> {
    let device: DeviceId = request.name("device")?;
    let action: Action = request.name("action")?;
    request.caller.may_send(&action)?;

    let mut query = request.query()?;
    let whole_query = query.clone();
    let ttl = query.seconds("ttl", TTL_OR_ZERO_S)?;
    let run_timeout = query.seconds("run_timeout", RUN_TIMEOUT_S)?;
    let wait = query.seconds("wait", WAIT_S)?;
    query.finish()?;
    let key = params::idempotency_key(&request.head.headers)?;

    let data_bytes_max = request.driver.config().data_bytes_max;
    let body = request.body(data_bytes_max).await.map_err(|problem| match problem.code {
        Code::PayloadTooLarge => data_too_large(data_bytes_max),
        _ => problem,
    })?;
    let media_type = params::media_type(&request.head.headers);
    let data = bodies::data(&media_type, &body)?;
    request.caller.sees(&request.driver, std::slice::from_ref(&device)).await?;

    let mut send = Send::new(device.clone(), action, data);
    send.ttl = ttl;
    send.run_timeout = run_timeout;
    let wait = wait.or_else(|| preferred_wait(&request)).unwrap_or(send.wait);
    send.wait = request.caller.within(wait, request.driver.expiry_time());
    identify(&mut send, &request, key, whole_query, &media_type, &body);
    let (driver, caller) = (&request.driver, &request.caller);
    let delivery = match send.wait.get() {
        0 => driver.send(send).await?,
        // Boxed, or every send would take the memory of one that waits.
        _ => Box::pin(caller.waits(driver, &device, driver.send(send))).await?,
    };
    Ok(located(&request, status_of(&delivery), delivery.command, &delivery))
}

/// `POST /v1/commands`: the body is an envelope.
pub(super) async fn command(mut request: Request) -> Result<Response, Problem> {
    let mut query = request.query()?;
    let dry_run = query.switch("dry_run")?.unwrap_or(false);
    query.finish()?;
    let key = params::idempotency_key(&request.head.headers)?;

    let body = request.body(ENVELOPE_BYTES_MAX).await?;
    let mut envelope = Envelope::parse(&body, request.driver.config().data_bytes_max)?;
    request.caller.may_send(&envelope.action)?;
    let targets = match &mut envelope.target {
        Target::Device(device) => std::slice::from_ref(device),
        Target::Devices(devices) => devices,
        Target::Found(query) => {
            query.scope = request.caller.visible().select().cloned();
            &[]
        }
    };
    request.caller.sees(&request.driver, targets).await?;
    let now = request.driver.now();
    let reached = envelope.window.as_ref().map_or(Ok(()), |window| {
        window::check(window, envelope.rollout.is_some(), envelope.not_before, envelope.ttl, now)
    });
    if dry_run {
        reached?;
        request.driver.changes_nothing();
        let preview = request.driver.preview(&envelope.target).await?;
        return Ok(problem::json(StatusCode::OK, &preview));
    }

    let one = matches!(envelope.target, Target::Device(_)) && envelope.rollout.is_none();
    let data = envelope.data.clone();
    let mut send = Send::to(envelope.target, envelope.action, envelope.data);
    send.ttl = envelope.ttl;
    send.run_timeout = envelope.run_timeout;
    send.not_before = envelope.not_before;
    send.window = envelope.window.map(Arc::new);
    refuse(&mut send, reached);
    send.select = envelope.select;
    send.rollout = envelope.rollout.map(Box::new);
    send.reject_when_full = true;
    let media_type = params::media_type(&request.head.headers);
    identify(&mut send, &request, key, Query::default(), &media_type, &body);
    let keyed = send.idempotency.is_some();
    let command = if one {
        let (not_before, window) = (send.not_before, send.window.clone());
        let delivery = request.driver.send(send).await?;
        let created_by = request.caller.name().map(Cow::into_owned);
        only_one(&delivery, data, created_by, (not_before, window.as_deref().cloned()))
    } else {
        request.driver.send_to_many(send, request.caller.visible()).await?
    };
    // What has ended already was rejected by a full queue, unless its key was used before.
    let status = if keyed && command.done { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok(located(&request, status, command.id, &command))
}

/// `POST /v1/commands/{command}/retry`: a new command for the devices where this one has failed.
pub(super) async fn retry(mut request: Request) -> Result<Response, Problem> {
    let parent: CommandId = request.name("command")?;
    request.no_query()?;
    let key = params::idempotency_key(&request.head.headers)?;
    let body = request.body(SMALL_BODY_BYTES_MAX).await?;
    let states = bodies::retry(&body)?;
    let visible = request.caller.visible();
    let found = request.driver.store().command(parent, visible.clone()).await?;
    let parent = found.ok_or_else(super::command::unknown)?;
    request.caller.may_send(&parent.action)?;

    let query = TargetQuery {
        scope: visible.select().cloned(),
        ended: Some((parent.id, states)),
        ..TargetQuery::default()
    };
    let mut send = Send::to(Target::Found(Box::new(query)), parent.action.clone(), parent.data);
    let begin = parent.not_before.unwrap_or(parent.created_at);
    send.ttl = Some(Seconds::new(parent.expires_at.since(begin).as_secs()));
    let run_timeout = request.driver.store().run_timeout(parent.id).await?;
    send.run_timeout = run_timeout.map(|run_timeout| Seconds::new(run_timeout.as_secs()));
    send.parent = Some(parent.id);
    if let Some(window) = &parent.window {
        let reached = window::check(window, false, None, send.ttl, request.driver.now());
        refuse(&mut send, reached.map_err(window::of_retry));
    }
    send.window = parent.window.map(Arc::new);
    let media_type = params::media_type(&request.head.headers);
    identify(&mut send, &request, key, Query::default(), &media_type, &body);
    let command = request.driver.send_to_many(send, visible).await?;
    Ok(located(&request, StatusCode::ACCEPTED, command.id, &command))
}

/// 200 when the delivery has ended, 202 when it has not.
fn status_of(delivery: &Delivery) -> StatusCode {
    if delivery.state.is_terminal() { StatusCode::OK } else { StatusCode::ACCEPTED }
}

/// An answer with the `Location` of the command.
fn located(
    request: &Request,
    status: StatusCode,
    command: CommandId,
    shown: &impl serde::Serialize,
) -> Response {
    let location = request.location(&format!("/v1/commands/{command}"));
    problem::with(problem::json(status, shown), header::LOCATION, &location)
}

/// The command of a single delivery.
fn only_one(
    delivery: &Delivery,
    data: Json,
    created_by: Option<String>,
    (not_before, window): (Option<Timestamp>, Option<Window>),
) -> Command {
    Command {
        id: delivery.command,
        seq: delivery.seq,
        action: delivery.action.clone(),
        data,
        created_at: delivery.created_at,
        created_by,
        expires_at: delivery.expires_at,
        total: 1,
        counts: Counts::from([(delivery.state, 1)]),
        done: delivery.state.is_terminal(),
        // A time that was past when the command was stored has no effect, and is not stored.
        not_before: not_before.filter(|at| *at > delivery.created_at),
        window,
        select: None,
        rollout: None,
        parent: None,
    }
}

/// The value of `Prefer: wait=N`.
fn preferred_wait(request: &Request) -> Option<Seconds> {
    let preferences = request.head.headers.get_all("prefer").iter();
    params::prefer_wait(preferences.filter_map(|value| value.to_str().ok()), WAIT_S.max)
}

/// Has the command refused, unless its key was used before. The first reason stays: a request that can never be met is not to be
/// tried again later.
fn refuse(send: &mut Send, allowed: Result<(), Problem>) {
    if let Err(problem) = allowed {
        send.refused.get_or_insert_with(|| Box::new(problem));
    }
}

/// Sets the sender, who may have stored too much, and the key by which a repeated request is recognized.
fn identify(
    send: &mut Send,
    request: &Request,
    key: Option<String>,
    query: Query,
    media_type: &str,
    body: &[u8],
) {
    send.created_by = request.caller.name().map(Cow::into_owned);
    if let Some(sender) = &send.created_by {
        let allowed = request.driver.quota().stored(request.driver.store().bytes_of_sender(sender));
        refuse(send, allowed);
    }
    if let Some(key) = key {
        let caller = request.caller.key_owner().unwrap_or_default();
        let fingerprint = fingerprint(request, query, media_type, body);
        send.idempotency = Some((IdempotencyKey { caller, key }, fingerprint));
    }
}

/// SHA-256 over what makes two requests the same: method, path, query without `wait`, media type,
/// body. Each part is preceded by its length, so that the parts of two requests cannot be confused.
fn fingerprint(request: &Request, query: Query, media_type: &str, body: &[u8]) -> [u8; 32] {
    let mut sha256 = digest::Context::new(&digest::SHA256);
    let mut part = |part: &[u8]| {
        sha256.update(&(part.len() as u64).to_be_bytes());
        sha256.update(part);
    };
    part(request.head.method.as_str().as_bytes());
    part(request.head.uri.path().as_bytes());
    for (name, value) in query.into_sorted() {
        if name != "wait" {
            part(name.as_bytes());
            part(value.as_bytes());
        }
    }
    part(media_type.as_bytes());
    part(body);
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(sha256.finish().as_ref());
    fingerprint
}
