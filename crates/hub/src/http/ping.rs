//! `GET /v1/ping`: whether this is the hub, and how long a round trip to it takes; and, without a device, what a network does to
//! a stream (`stream=1`) and to an answer that is held back (`wait=`). Contract, section 4.

use std::time::Duration;

use axum::response::Response;
use bellwire_proto::limits::POLL_WAIT_S;
use bellwire_proto::{Problem, Seconds};
use http::StatusCode;
use serde::Serialize;

use super::params::Query;
use super::request::Request;
use super::{problem, stream};
use crate::frames;

pub(super) async fn ping(request: Request) -> Result<Response, Problem> {
    #[derive(Serialize)]
    struct Pong {
        hub: &'static str,
        nonce: Option<String>,
        time_ms: u64,
    }
    let mut query = request.query()?;
    if query.switch("stream")?.unwrap_or(false) {
        return trial_stream(request, query).await;
    }
    let nonce = stream::take_nonce(&mut query)?;
    let wait = query.seconds("wait", POLL_WAIT_S)?.map_or(Duration::ZERO, Seconds::duration);
    query.finish()?;
    if !wait.is_zero() && !request.is_head() {
        request.driver.hold_trial(wait).await?;
    }
    let time_ms = request.driver.now().unix_ms();
    Ok(problem::json(StatusCode::OK, &Pong { hub: frames::HUB, nonce, time_ms }))
}

/// A stream with the head, the hello, the heartbeats and the end of a device's stream, and of no device.
async fn trial_stream(request: Request, mut query: Query) -> Result<Response, Problem> {
    #[derive(Serialize)]
    struct Hello {
        hub: &'static str,
        nonce: Option<String>,
        heartbeat_s: u64,
        time_ms: u64,
        up_ms: u64,
    }
    let shape = stream::Shape::take(&mut query, &request.head.headers)?;
    query.finish()?;
    if request.is_head() {
        stream::not_draining(&request.driver)?;
        return Ok(stream::head_only());
    }
    let heartbeat = shape.heartbeat(&request.driver);
    let reserved = request.driver.open_trial(shape.options(heartbeat), heartbeat)?;
    let head = shape.head(&Hello {
        hub: frames::HUB,
        nonce: shape.nonce.clone(),
        heartbeat_s: heartbeat.as_secs(),
        time_ms: request.driver.now().unix_ms(),
        up_ms: stream::elapsed_ms(request.arrived),
    });
    Ok(stream::respond(&request.driver, &request.head, reserved, head).await)
}
