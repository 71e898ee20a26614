//! What a network does to the hub's answers: a ping, a stream of no device, an answer that is held back (docs/protocol.md,
//! section 4, `GET /v1/ping`). Each wait has a bound, that of the agent's own where there is one.

use std::time::Duration;

use bellwire_client::api::nonce;
use bellwire_client::event_source::is_event_stream;
use bellwire_client::path::deadlines::{
    HEAD_MS, HELLO_MS, LAG_MS, LATE_MAX, PING_MS, POLL_GRACE_MS, PROBES_MIN,
};
use bellwire_client::path::lag_limit_ms;
use bellwire_client::transport::{
    ByteStream, Response, Transport as _, TransportError, TransportStage,
};
use bellwire_proto::limits::{PROBE_INTERVAL_MS, PROBES};
use bellwire_proto::{Code, Problem};
use bellwire_sse::{Decoder, OwnedItem};
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::header::{ACCEPT, AUTHORIZATION, CACHE_CONTROL, LOCATION};
use http::{HeaderValue, StatusCode};
use serde::Deserialize;
use tokio::time::{Instant, timeout, timeout_at};

use super::routes::HubRoute;

/// Bytes that are read of an answer: a page of a portal is no longer of interest beyond that.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Bytes of an event or a comment in a stream: the longest is the prelude.
const ITEM_BYTES_MAX: usize = 64 * 1024;

/// Of what a hub says when it refuses: its own sentences are shorter.
const DETAIL_CHARS_MAX: usize = 500;

/// Why there is no result.
#[derive(Debug)]
pub(super) enum TrialFailure {
    /// The request failed.
    Transport(TransportError),
    /// Nothing came within this time; whether the head of the response did.
    Silent { after: Duration, head: bool },
    /// The stream ended before its first event.
    Ended,
    /// What answered is not the hub.
    Foreign { status: StatusCode, location: Option<String> },
    /// The answer belongs to another request: a cache repeats it.
    Replayed,
    /// The hub does not know this form of a ping.
    TooOld,
    /// The hub cannot serve it now.
    Busy(StatusCode),
    /// The hub has no such resource: the path of the URL is wrong.
    WrongPath { status: StatusCode },
    /// The hub itself refuses it, with these words: its configuration is at fault and not the network.
    Refused { status: StatusCode, detail: String },
}

/// Of a response with status 200: what it contains is none of the hub's.
const NOT_THE_HUBS: TrialFailure = TrialFailure::Foreign { status: StatusCode::OK, location: None };

/// The hub, as a ping found it.
#[derive(Debug, Deserialize)]
pub(super) struct Pong {
    pub(super) hub: String,
    nonce: Option<String>,
}

/// A stream whose hello has arrived.
pub(super) struct Opened {
    body: ByteStream,
    rest: Bytes,
    decoder: Decoder,
    started: Instant,
    hello_at: Instant,
    /// The hub's clock when the request arrived there.
    zero_ms: u64,
}

/// How late what the hub wrote has arrived.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Lags {
    /// Of the hello and of each heartbeat.
    pub(super) ms: Vec<u64>,
    pub(super) limit_ms: u64,
    /// The stream ended before all probes had come.
    pub(super) ended: bool,
}

/// What became of a stream on which nothing passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Idle {
    /// It stayed open.
    Open,
    /// It ended after so long.
    Cut(Duration),
    /// The heartbeat at its end did not arrive.
    Lost,
}

impl Lags {
    /// By the rules of the agent: enough heartbeats on time, and no two late ones.
    pub(super) fn are_good(&self) -> bool {
        let on_time = |lag: &&u64| **lag <= self.limit_ms;
        let heartbeats = self.ms.iter().skip(1).filter(on_time).count();
        let late = self.ms.len() - self.ms.iter().filter(on_time).count();
        heartbeats >= PROBES_MIN as usize && late < LATE_MAX
    }

    pub(super) fn worst_ms(&self) -> u64 {
        self.ms.iter().copied().max().unwrap_or_default()
    }
}

/// A ping; with `wait`, one whose answer is held back.
pub(super) async fn ping(route: &HubRoute, wait: Option<Duration>) -> Result<Pong, TrialFailure> {
    let nonce = nonce();
    let query = match wait {
        Some(wait) => format!("nonce={nonce}&wait={}s", wait.as_secs()),
        None => format!("nonce={nonce}"),
    };
    let within = match wait {
        Some(wait) => wait + Duration::from_millis(POLL_GRACE_MS),
        None => Duration::from_millis(PING_MS),
    };
    let exchange = async {
        let response = request(route, &query, "application/json").await?;
        let (status, location) = (response.status(), location(&response));
        let body = body(response).await?;
        if status == StatusCode::OK
            && let Ok(pong) = serde_json::from_slice::<Pong>(&body)
        {
            return match pong.nonce.as_deref() == Some(nonce.as_str()) {
                true => Ok(pong),
                false => Err(TrialFailure::Replayed),
            };
        }
        Err(not_served(status, location, &body))
    };
    timeout(within, exchange)
        .await
        .unwrap_or(Err(TrialFailure::Silent { after: within, head: false }))
}

/// Opens a stream with probes and reads its hello.
pub(super) async fn open(route: &HubRoute, compat: bool) -> Result<Opened, TrialFailure> {
    let query = if compat { "probes=1&compat=1" } else { "probes=1" };
    open_with(route, query).await
}

async fn open_with(route: &HubRoute, query: &str) -> Result<Opened, TrialFailure> {
    let (nonce, started) = (nonce(), Instant::now());
    let query = format!("stream=1&nonce={nonce}&{query}");
    let silent = |head| TrialFailure::Silent { after: started.elapsed(), head };
    let within = Duration::from_millis(HEAD_MS);
    let response = timeout(within, request(route, &query, "text/event-stream")).await;
    let response = response.map_err(|_| silent(false)).flatten()?;
    let until = Instant::now() + Duration::from_millis(HELLO_MS);
    let (status, location) = (response.status(), location(&response));
    if status != StatusCode::OK {
        let body = timeout_at(until, body(response)).await.map_err(|_| silent(true)).flatten()?;
        return Err(not_served(status, location, &body));
    }
    let is_stream = is_event_stream(response.headers());
    let mut opened = Opened {
        body: response.into_body(),
        rest: Bytes::new(),
        decoder: Decoder::builder().comments(true).limit_bytes(ITEM_BYTES_MAX).build(),
        started,
        hello_at: started,
        zero_ms: 0,
    };
    let hello = timeout_at(until, opened.hello(&nonce)).await;
    match hello.map_err(|_| silent(true)).flatten() {
        // A page, and not a stream.
        Err(TrialFailure::Ended) if !is_stream => Err(TrialFailure::Foreign { status, location }),
        Err(failure) => Err(failure),
        Ok(zero_ms) => {
            (opened.zero_ms, opened.hello_at) = (zero_ms, Instant::now());
            Ok(opened)
        }
    }
}

/// Whether a stream survives so long a silence.
pub(super) async fn idle(
    route: &HubRoute,
    silence: Duration,
    compat: bool,
) -> Result<Idle, TrialFailure> {
    let compat = if compat { "&compat=1" } else { "" };
    let mut opened = open_with(route, &format!("heartbeat={}s{compat}", silence.as_secs())).await?;
    let (begun, limit) = (opened.hello_at, Duration::from_millis(LAG_MS + POLL_GRACE_MS));
    Ok(match timeout_at(begun + silence + limit, opened.heartbeat()).await {
        Ok(Some(_)) => Idle::Open,
        Ok(None) => Idle::Cut(begun.elapsed()),
        Err(_) => Idle::Lost,
    })
}

impl Opened {
    /// From the request to the hello.
    pub(super) fn hello_after(&self) -> Duration {
        self.hello_at.duration_since(self.started)
    }

    /// The lags of the hello and of the probes. `exchange` is how long a request and its answer take.
    pub(super) async fn lags(mut self, exchange: Duration) -> Lags {
        let limit_ms = lag_limit_ms(ms(exchange));
        let mut lags = Lags { ms: vec![ms(self.hello_after())], limit_ms, ended: false };
        let last = u64::from(PROBES) * PROBE_INTERVAL_MS;
        let until = self.started + Duration::from_millis(last + PROBE_INTERVAL_MS + limit_ms);
        while lags.ms.len() <= usize::from(PROBES) {
            match timeout_at(until, self.heartbeat()).await {
                Ok(Some(time_ms)) => {
                    // Both since the request: the two clocks need not agree.
                    let written_ms = time_ms.saturating_sub(self.zero_ms);
                    lags.ms.push(ms(self.started.elapsed()).saturating_sub(written_ms));
                }
                Ok(None) => {
                    lags.ended = true;
                    return lags;
                }
                Err(_) => return lags,
            }
        }
        lags
    }

    /// The hub's clock in the next heartbeat; `None` at the end of the stream.
    async fn heartbeat(&mut self) -> Option<u64> {
        loop {
            match self.next().await {
                Ok(Some(OwnedItem::Comment(text))) => {
                    if let Ok(time_ms) = text.trim().parse() {
                        return Some(time_ms);
                    }
                }
                Ok(Some(OwnedItem::Event(_))) => {}
                Ok(None) | Err(_) => return None,
            }
        }
    }

    /// Reads the hello, and returns the hub's clock when the request arrived there.
    async fn hello(&mut self, nonce: &str) -> Result<u64, TrialFailure> {
        #[derive(Deserialize)]
        struct Hello {
            nonce: Option<String>,
            time_ms: u64,
            up_ms: u64,
        }
        loop {
            let event = match self.next().await {
                Ok(Some(OwnedItem::Event(event))) if event.name() == "hello" => event,
                Ok(Some(_)) => continue,
                Ok(None) => return Err(TrialFailure::Ended),
                Err(TrialFailure::Transport(error)) if error.stage() == TransportStage::Body => {
                    return Err(TrialFailure::Ended);
                }
                Err(failure) => return Err(failure),
            };
            let hello: Hello = serde_json::from_str(event.data()).map_err(|_| NOT_THE_HUBS)?;
            if hello.nonce.as_deref() != Some(nonce) {
                return Err(TrialFailure::Replayed);
            }
            return Ok(hello.time_ms.saturating_sub(hello.up_ms));
        }
    }

    /// The next item; `None` at the end.
    async fn next(&mut self) -> Result<Option<OwnedItem>, TrialFailure> {
        loop {
            let mut rest = &*self.rest;
            let item = self.decoder.decode_owned(&mut rest);
            let remaining = rest.len();
            self.rest = self.rest.split_off(self.rest.len() - remaining);
            match item {
                Ok(Some(item)) => return Ok(Some(item)),
                Ok(None) => {}
                Err(_) => return Err(NOT_THE_HUBS),
            }
            match self.body.next().await {
                Some(chunk) => self.rest = chunk.map_err(TrialFailure::Transport)?,
                None => return Ok(None),
            }
        }
    }
}

async fn request(
    route: &HubRoute,
    query: &str,
    accept: &'static str,
) -> Result<Response, TrialFailure> {
    let mut request = http::Request::builder()
        .uri(route.resource(&format!("/v1/ping?{query}")))
        .header(ACCEPT, HeaderValue::from_static(accept))
        .header(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Of the URL: for a server before the hub. The hub itself needs none.
    if let Some(authorization) = route.hub.authorization() {
        request = request.header(AUTHORIZATION, authorization.clone());
    }
    let request = request.body(Bytes::new()).map_err(|error| {
        TrialFailure::Transport(TransportError::new(TransportStage::Connect, error))
    })?;
    route.transport.send(request).await.map_err(TrialFailure::Transport)
}

/// The beginning of a body, to its end if it is short.
async fn body(response: Response) -> Result<Vec<u8>, TrialFailure> {
    let (mut stream, mut whole) = (response.into_body(), Vec::new());
    while let Some(chunk) = stream.next().await {
        whole.extend_from_slice(&chunk.map_err(TrialFailure::Transport)?);
        if whole.len() > ANSWER_BYTES_MAX {
            break;
        }
    }
    Ok(whole)
}

/// What an answer that is not the expected one says.
fn not_served(status: StatusCode, location: Option<String>, body: &[u8]) -> TrialFailure {
    let foreign = TrialFailure::Foreign { status, location };
    let Ok(Problem { code, detail, .. }) = serde_json::from_slice(body) else { return foreign };
    match code {
        Code::UnknownField => TrialFailure::TooOld,
        Code::RateLimited | Code::Draining | Code::StoreUnavailable | Code::Internal => {
            TrialFailure::Busy(status)
        }
        Code::BadRequest | Code::Unauthenticated | Code::Forbidden => TrialFailure::Refused {
            status,
            detail: detail.chars().take(DETAIL_CHARS_MAX).collect(),
        },
        Code::NotFound => TrialFailure::WrongPath { status },
        _ => foreign,
    }
}

fn location(response: &Response) -> Option<String> {
    let location = response.headers().get(LOCATION)?.to_str().ok()?;
    Some(location.chars().take(200).collect())
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_good_with_two_heartbeats_on_time_and_less_than_two_late() {
        let good = |ms: &[u64]| Lags { ms: ms.to_vec(), limit_ms: 740, ended: false }.are_good();
        assert!(good(&[40, 10, 10, 10]));
        assert!(good(&[40, 10, 10]));
        assert!(good(&[40, 900, 10, 10]), "one retransmission");
        assert!(!good(&[1040, 1040, 1040]), "one write behind");
        assert!(!good(&[40, 10]), "no more arrived");
        assert!(!good(&[40]));
    }

    #[test]
    fn what_refuses_a_trial_is_distinguished() {
        let of = |status: u16, body: &str| {
            not_served(StatusCode::from_u16(status).unwrap(), None, body.as_bytes())
        };
        assert!(matches!(of(400, r#"{"code":"unknown_field"}"#), TrialFailure::TooOld));
        assert!(matches!(of(429, r#"{"code":"rate_limited"}"#), TrialFailure::Busy(_)));
        assert!(matches!(of(503, r#"{"code":"draining"}"#), TrialFailure::Busy(_)));
        assert!(matches!(of(404, r#"{"code":"not_found"}"#), TrialFailure::WrongPath { .. }));
        assert!(matches!(of(503, "<html>"), TrialFailure::Foreign { .. }));
        assert!(matches!(of(302, ""), TrialFailure::Foreign { .. }));
    }
}
