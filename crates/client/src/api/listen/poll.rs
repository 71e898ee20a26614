//! The requests beside a stream: polls, pings and confirmations, each with a deadline, and what their failure means.

use std::time::{Duration, SystemTime};

use bellwire_proto::stream::PollAnswer;
use bellwire_proto::{DeviceId, Seconds, Seq};
use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, LOCATION};
use http::{HeaderValue, Method, StatusCode};
use tokio::time::{Instant, timeout};

use super::events::check_hello;
use super::{Controller, Error, nonce};
use crate::api::{Call, request_sent};
use crate::event_source::{self, Loss, Refusal, Retry, SERVER_WAIT_MAX};
use crate::path::{PollFailure, PollFailureKind, StreamEnd};
use crate::retry_after::retry_after;
use crate::transport::{TransportError, TransportStage};

/// Requests commands; returns the answer, which is the hub's and for this request and device, and when the request was sent.
/// `clock_ms` is the hub's clock, if it is known.
pub(super) async fn poll(
    hub: Controller,
    device: DeviceId,
    wait: Seconds,
    cursor: Option<Seq>,
    clock_ms: Option<u64>,
    within: Duration,
) -> Result<(PollAnswer, Instant), Loss> {
    let (nonce, begun) = (nonce(), Instant::now());
    let mut call = hub
        .call(Method::GET, ["v1", "devices", device.as_str(), "commands"])
        .query("wait", Some(wait))
        .query("nonce", Some(&nonce))
        // Without one the hub would wait for the lease of what it sent before.
        .query("last_event_id", Some(cursor.unwrap_or(Seq::new(0))))
        .wait(within);
    uncached(&mut call);
    let (head, body) = match timeout(within, call.exchange()).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(Error::Unreachable { source, .. })) => {
            return Err(Loss::Failed(event_source::Error::Transport(source)));
        }
        Ok(Err(_)) | Err(_) => {
            let late = format!("a poll was not answered within {} s", within.as_secs());
            let error = TransportError::new(TransportStage::Response, late);
            return Err(Loss::Failed(event_source::Error::Transport(error)));
        }
    };
    let sent = request_sent(&head).unwrap_or(begun);
    if head.status != StatusCode::OK {
        let clock =
            clock_ms.and_then(|ms| SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(ms)));
        if let (true, Some(to)) = (head.status.is_redirection(), head.headers.get(LOCATION)) {
            let to = String::from_utf8_lossy(to.as_bytes()).into_owned();
            let reason = "a poll follows no redirect".to_owned();
            return Err(Loss::Failed(event_source::Error::Elsewhere { to, reason }));
        }
        let refusal =
            Refusal { status: head.status, retry_after: retry_after(&head.headers, clock), body };
        return Err(Loss::Failed(event_source::Error::Refused(Box::new(refusal))));
    }
    let answer = serde_json::from_slice::<PollAnswer>(&body)
        .map_err(|error| format!("the answer to a poll cannot be parsed: {error}"));
    answer
        .and_then(|answer| check_hello(&answer.hello, &nonce, &device).map(|()| (answer, sent)))
        .map_err(|reason| Loss::Failed(event_source::Error::Rejected { reason }))
}

/// Asks for a ping; returns how long it took from the sending of the request.
pub(super) async fn ping(hub: Controller, within: Duration) -> Option<Duration> {
    let begun = Instant::now();
    match timeout(within, hub.ping_and_sent()).await {
        Ok(Ok((_, sent))) => Some(sent.unwrap_or(begun).elapsed()),
        Ok(Err(_)) | Err(_) => None,
    }
}

/// Confirms a stream; returns whether the hub has accepted that.
pub(super) async fn confirm(
    hub: Controller,
    device: DeviceId,
    session: String,
    within: Duration,
) -> bool {
    matches!(timeout(within, hub.confirm(&device, &session)).await, Ok(Ok(())))
}

/// No cache may answer, and none may compress.
fn uncached(call: &mut Call<'_>) {
    call.headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    call.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
}

/// What a loss of a poll means for the path.
pub(super) fn poll_failure(retry: &Retry, loss: &Loss) -> PollFailure {
    let kind = match loss {
        Loss::Ended => PollFailureKind::TimedOut,
        Loss::Failed(error) => match error {
            event_source::Error::Transport(error) => match error.stage() {
                TransportStage::Response | TransportStage::Body => PollFailureKind::TimedOut,
                TransportStage::Encoding => PollFailureKind::NotOurs,
                _ => PollFailureKind::Unreachable,
            },
            event_source::Error::Silent { .. } | event_source::Error::NotBegun { .. } => {
                PollFailureKind::TimedOut
            }
            event_source::Error::Refused(refusal) if Error::is_hubs(refusal) => {
                PollFailureKind::Unreachable
            }
            event_source::Error::Refused(refusal) => match refusal.status.as_u16() {
                502..=504 => PollFailureKind::TimedOut,
                407 => PollFailureKind::Unreachable,
                _ => PollFailureKind::NotOurs,
            },
            _ => PollFailureKind::NotOurs,
        },
    };
    PollFailure { kind, pause_ms: pause_ms(retry, loss), why: loss.to_string() }
}

/// What the loss of a stream means for the path.
pub(super) fn stream_end(retry: &Retry, loss: &Loss) -> StreamEnd {
    let Loss::Failed(error) = loss else { return StreamEnd::Ended };
    let why = error.to_string();
    match error {
        event_source::Error::Refused(refusal) if Error::is_hubs(refusal) => {
            StreamEnd::RefusedByHub { pause_ms: pause_ms(retry, loss), why }
        }
        event_source::Error::Refused(refusal) => StreamEnd::NotOurs {
            why: format!("a middlebox refuses the stream ({})", refusal.status),
        },
        event_source::Error::Transport(error) if error.stage() != TransportStage::Encoding => {
            StreamEnd::Broken { why }
        }
        event_source::Error::Silent { .. } | event_source::Error::NotBegun { .. } => {
            StreamEnd::Broken { why }
        }
        _ => StreamEnd::NotOurs { why },
    }
}

/// The pause that the hub requests, or the caller's own.
fn pause_ms(retry: &Retry, loss: &Loss) -> Option<u64> {
    let pause = retry.delay_after(loss).or_else(|| loss.retry_after());
    pause.map(|pause| u64::try_from(pause.min(SERVER_WAIT_MAX).as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::transport::{ByteStream, Request, Response, ResponseFuture, Transport};

    /// Answers with this page, or not at all.
    struct Middlebox(Option<&'static str>);

    impl Transport for Middlebox {
        fn send(&self, _request: Request) -> ResponseFuture {
            let Some(page) = self.0 else { return Box::pin(std::future::pending()) };
            let page = Bytes::from_static(page.as_bytes());
            let body: ByteStream = Box::pin(futures_util::stream::iter([Ok(page)]));
            Box::pin(async { Ok(Response::new(body)) })
        }
    }

    async fn loss(middlebox: Middlebox) -> Loss {
        let hub = Controller::builder("http://hub.test").transport(middlebox).build().unwrap();
        let device = "kiosk".parse().unwrap();
        let within = Duration::from_secs(5);
        poll(hub, device, Seconds::new(0), None, None, within).await.unwrap_err()
    }

    /// Of a poll the log said: the stream is dead, and: the stream was rejected.
    #[tokio::test(start_paused = true)]
    async fn what_is_wrong_with_a_poll_is_not_said_of_a_stream() {
        let silent = loss(Middlebox(None)).await;
        assert_eq!(silent.to_string(), "no response: a poll was not answered within 5 s");
        let page = loss(Middlebox(Some("<html>Welcome to the hotel"))).await;
        let text = page.to_string();
        assert!(text.contains("the answer to a poll cannot be parsed"), "{text}");
        assert!(!text.contains("stream"), "{text}");
    }

    /// `bellwire listen` never said that it was in one.
    #[tokio::test]
    async fn the_page_of_a_captive_portal_has_the_advice_to_sign_in() {
        let advice = loss(Middlebox(Some("<html>Welcome to the hotel"))).await.advice();
        assert!(advice.as_ref().is_some_and(|text| text.contains("sign-in page")), "{advice:?}");
    }
}
