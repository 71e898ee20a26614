//! Listening: a device's stream, the long poll, and confirmation. Contract, section 4.

use std::pin::pin;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::response::Response;
use bellwire_core::{Listen, Poll};
use bellwire_proto::limits::{
    HEARTBEAT_S, NONCE_CHARS_MAX, POLL_WAIT_S, PRELUDE_BYTES_MAX, PRELUDE_BYTES_PROXIED, Range,
    SMALL_BODY_BYTES_MAX,
};
use bellwire_proto::stream::{Hello, PollAnswer};
use bellwire_proto::{DeviceId, Problem, Seconds};
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{HeaderName, StatusCode};
use http_body_util::{BodyExt, Empty};
use serde::Serialize;

use super::params::{Query, last_event_id};
use super::request::Request;
use super::{bodies, browsers, device, problem};
use crate::driver::{Driver, Readiness, Reserved};
use crate::frames;
use crate::internal;
use crate::plane::{Frame, Heartbeat, HeartbeatForm, StreamHead, StreamOptions};

/// `GET /v1/devices/{device}/stream`.
pub(super) async fn stream(request: Request) -> Result<Response, Problem> {
    let device: DeviceId = request.name("device")?;
    let requested = StreamRequest::take(request.query()?, &request.head.headers)?;

    if request.is_head() {
        not_draining(&request.driver)?;
        return Ok(head_only());
    }
    let shape = requested.shape;
    let heartbeat = shape.heartbeat(&request.driver);
    let (peer, token) = (request.peer(), request.caller.token_use());
    let listen = Listen { peer, token, ..requested.listen };
    let reserved = request.driver.listen(device.clone(), listen, shape.options(heartbeat)).await?;
    // Its token may have ended while the stream was opened; from here on its end closes the stream.
    request.caller.stays(&request.driver).await?;

    let session = reserved.session();
    let head = shape.head(&hello(&request, device, session, shape.nonce.clone(), heartbeat));
    Ok(respond(&request.driver, &request.head, reserved, head).await)
}

/// `GET /v1/devices/{device}/commands`: the long-poll form.
pub(super) async fn poll(request: Request) -> Result<Response, Problem> {
    let device: DeviceId = request.name("device")?;
    let mut query = request.query()?;
    let wait = query.seconds("wait", POLL_WAIT_S)?;
    let nonce = take_nonce(&mut query)?;
    let last_event_id = last_event_id(&request.head.headers, &mut query)?;
    query.finish()?;

    if request.is_head() {
        // A poll takes queued commands; HEAD must not.
        not_draining(&request.driver)?;
        return Ok(head_of("application/json", "no-store"));
    }
    let wait = wait.unwrap_or(Seconds::new(POLL_WAIT_S.default));
    let wait = request.caller.within(wait, request.driver.expiry_time());
    let token = request.caller.token_use().map(|used| used.id);
    let poll = Poll { wait, last_event_id, peer: request.peer(), token };
    let mut polled = pin!(request.driver.poll(device.clone(), poll));
    let polled = tokio::select! {
        // First, so that the poll waits in the core before its token is looked at again.
        biased;
        polled = &mut polled => polled?,
        still = request.caller.stays(&request.driver) => {
            still?;
            polled.await?
        }
    };

    let session = request.driver.no_session();
    let heartbeat = request.driver.config().heartbeat;
    let answer = PollAnswer {
        hello: hello(&request, device, session, nonce, heartbeat),
        commands: polled.commands,
        cancels: polled.cancels,
    };
    Ok(problem::json(StatusCode::OK, &answer))
}

/// `POST /v1/devices/{device}/confirm`: the device receives the bytes of this session's stream.
pub(super) async fn confirm(mut request: Request) -> Result<Response, Problem> {
    let device: DeviceId = request.name("device")?;
    request.no_query()?;
    let body = request.body(SMALL_BODY_BYTES_MAX).await?;
    let session = bodies::confirmation(&body)?;

    request.driver.device(device.clone()).await?.ok_or_else(device::unknown)?;
    request.driver.confirm(device, &session).await?;
    Ok(problem::empty())
}

/// Answers with a stream that begins with its frames.
pub(super) async fn answer(driver: &Driver, head: &Parts, reserved: Reserved) -> Response {
    respond(driver, head, reserved, StreamHead::event_stream()).await
}

/// How a stream of the API behaves by itself.
pub(super) fn options(heartbeat: Duration) -> StreamOptions {
    let every_ms = u32::try_from(heartbeat.as_millis()).unwrap_or(u32::MAX);
    StreamOptions {
        heartbeat: Some(Heartbeat { every_ms, form: HeartbeatForm::V1 }),
        ..StreamOptions::default()
    }
}

/// The head of a stream without the stream.
pub(super) fn head_only() -> Response {
    let mut response = head_of("text/event-stream", "no-store, no-transform");
    let no = HeaderValue::from_static("no");
    response.headers_mut().insert(HeaderName::from_static("x-accel-buffering"), no);
    response
}

/// Takes `nonce`: text to be echoed.
///
/// # Errors
/// `bad_request` beyond 64 characters.
pub(super) fn take_nonce(query: &mut Query) -> Result<Option<String>, Problem> {
    match query.text("nonce") {
        Some(nonce) if nonce.chars().count() > NONCE_CHARS_MAX => Err(Problem::bad_request(
            format!("parameter nonce is at most {NONCE_CHARS_MAX} characters"),
        )),
        nonce => Ok(nonce),
    }
}

/// The parameters of a request for a stream.
struct StreamRequest {
    listen: Listen,
    shape: Shape,
}

impl StreamRequest {
    fn take(mut query: Query, headers: &HeaderMap) -> Result<Self, Problem> {
        let ack_none = match query.text("ack").as_deref() {
            None => false,
            Some("none") => true,
            Some(_) => return Err(Problem::bad_request("parameter ack is none or absent")),
        };
        let requested = Self {
            listen: Listen {
                ack_none,
                confirm: query.switch("confirm")?.unwrap_or(false),
                last_event_id: last_event_id(headers, &mut query)?,
                ..Listen::default()
            },
            shape: Shape::take(&mut query, headers)?,
        };
        query.finish()?;
        Ok(requested)
    }
}

/// What a request says about the bytes of its stream, whatever the stream carries.
pub(super) struct Shape {
    heartbeat: Option<Seconds>,
    probes: bool,
    compat: bool,
    pub(super) nonce: Option<String>,
    prelude_bytes: usize,
}

impl Shape {
    pub(super) fn take(query: &mut Query, headers: &HeaderMap) -> Result<Self, Problem> {
        Ok(Self {
            heartbeat: query.seconds("heartbeat", HEARTBEAT_S)?,
            probes: query.switch("probes")?.unwrap_or(false),
            compat: query.switch("compat")?.unwrap_or(false),
            nonce: take_nonce(query)?,
            prelude_bytes: prelude_bytes(query, headers)?,
        })
    }

    /// The interval of its heartbeats.
    pub(super) fn heartbeat(&self, driver: &Driver) -> Duration {
        self.heartbeat.map_or(driver.config().heartbeat, Seconds::duration)
    }

    pub(super) fn options(&self, heartbeat: Duration) -> StreamOptions {
        StreamOptions { probes: self.probes, compat: self.compat, ..options(heartbeat) }
    }

    /// Its head, the prelude and the hello.
    pub(super) fn head(&self, hello: &impl Serialize) -> StreamHead {
        let mut first = prelude(self.prelude_bytes);
        first.extend_from_slice(&frames::hello(hello));
        StreamHead::event_stream().first(Frame::new(&first))
    }
}

/// The length of the comment before hello: as requested, else enough to fill the preview of a content
/// scanner when the request came through a proxy.
fn prelude_bytes(query: &mut Query, headers: &HeaderMap) -> Result<usize, Problem> {
    let range = Range { default: 0, min: 0, max: PRELUDE_BYTES_MAX as u64 };
    match query.number("prelude", range)? {
        Some(1) => Err(Problem::bad_request(
            "parameter prelude is 0, or from 2 to 8192: a comment has a colon and a line end",
        )),
        Some(bytes) => Ok(bytes as usize),
        None if headers.contains_key(header::VIA) => Ok(PRELUDE_BYTES_PROXIED),
        None if headers.contains_key("x-forwarded-for") => Ok(PRELUDE_BYTES_PROXIED),
        None => Ok(0),
    }
}

/// A comment line of so many bytes, including colon and line feed; nothing for 0 bytes.
fn prelude(bytes: usize) -> Vec<u8> {
    let mut comment = vec![b' '; bytes];
    if let [first, .., last] = comment.as_mut_slice() {
        (*first, *last) = (b':', b'\n');
    }
    comment
}

fn hello(
    request: &Request,
    device: DeviceId,
    session: String,
    nonce: Option<String>,
    heartbeat: Duration,
) -> Hello {
    Hello {
        hub: frames::HUB.to_owned(),
        device,
        session,
        nonce,
        heartbeat_s: heartbeat.as_secs(),
        max_in_flight: request.driver.config().max_in_flight,
        time_ms: request.driver.now().unix_ms(),
        up_ms: elapsed_ms(request.arrived),
    }
}

pub(super) fn elapsed_ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Hands the stream over, as the last step of a handler. When the connection is taken over, this
/// future never completes: it is dropped while it waits.
pub(super) async fn respond(
    driver: &Driver,
    request: &Parts,
    reserved: Reserved,
    head: StreamHead,
) -> Response {
    let stream = reserved.stream();
    reserved.attached();
    let head = browsers::shared_stream(request, head);
    driver.plane().respond(request, stream, head).await
}

/// Refuses streams and polls while the hub drains.
pub(super) fn not_draining(driver: &Driver) -> Result<(), Problem> {
    match driver.readiness() {
        Readiness::Draining => Err(Problem::draining()),
        Readiness::Failed => Err(internal::panicked()),
        Readiness::Ready | Readiness::StoreFailed => Ok(()),
    }
}

/// The head of an answer of unknown length.
fn head_of(media_type: &'static str, cache_control: &'static str) -> Response {
    // A mapped body has no known length, so that hyper sends no `Content-Length: 0`.
    let mut response = Response::new(Body::new(Empty::new().map_frame(|frame| frame)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache_control));
    response
}

#[cfg(test)]
mod tests {
    use bellwire_proto::Code;

    use super::*;

    fn requested(
        raw: &str,
        headers: &[(&'static str, &'static str)],
    ) -> Result<StreamRequest, Problem> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, HeaderValue::from_static(value));
        }
        StreamRequest::take(Query::parse(raw)?, &map)
    }

    #[test]
    fn a_prelude_is_a_comment_of_exactly_the_bytes_requested() {
        assert!(prelude(0).is_empty());
        assert_eq!(prelude(2), b":\n");
        let comment = prelude(PRELUDE_BYTES_PROXIED);
        assert_eq!(comment.len(), PRELUDE_BYTES_PROXIED);
        assert!(comment.starts_with(b": ") && comment.ends_with(b" \n"));
        assert_eq!(comment.iter().filter(|b| **b == b'\n').count(), 1);
    }

    #[test]
    fn a_request_through_a_proxy_gets_a_prelude_unless_it_requests_none() {
        let bytes =
            |raw, headers| requested(raw, headers).map(|request| request.shape.prelude_bytes).ok();
        assert_eq!(bytes("", &[]), Some(0));
        assert_eq!(bytes("", &[("via", "1.1 squid")]), Some(PRELUDE_BYTES_PROXIED));
        assert_eq!(bytes("", &[("x-forwarded-for", "::1")]), Some(PRELUDE_BYTES_PROXIED));
        assert_eq!(bytes("prelude=0", &[("via", "1.1 squid")]), Some(0));
        assert_eq!(bytes("prelude=8192", &[]), Some(8192));
        for bad in ["prelude=1", "prelude=8193", "prelude=-2", "prelude="] {
            assert_eq!(bytes(bad, &[]), None, "{bad}");
        }
    }

    #[test]
    fn invalid_and_unknown_parameters_of_a_stream_are_refused() {
        for (raw, code) in [
            ("heartbeat=4s", Code::BadRequest),
            ("heartbeat=11m", Code::BadRequest),
            ("ack=all", Code::BadRequest),
            ("confirm=2", Code::BadRequest),
            ("last_event_id=x", Code::BadRequest),
            ("wait=1s", Code::UnknownField),
        ] {
            assert_eq!(requested(raw, &[]).err().map(|p| p.code), Some(code), "{raw}");
        }
        let long = format!("nonce={}", "%C3%A9".repeat(65));
        assert_eq!(requested(&long, &[]).err().map(|p| p.code), Some(Code::BadRequest));
        assert!(requested(&long.replacen("%C3%A9", "", 1), &[]).is_ok());
    }
}
