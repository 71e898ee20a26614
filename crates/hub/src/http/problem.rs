//! Answers: JSON values and problems. The one place that turns either into an HTTP response.
//!
//! The meaning and the wire name of a problem's code are in `bellwire-proto`. Internal text never
//! gets into one.

use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Body;
use axum::response::Response;
use bellwire_proto::limits::{RETRY_AFTER_DRAINING_S, RETRY_AFTER_QUEUE_S, RETRY_AFTER_STORE_S};
use bellwire_proto::{Code, Problem};
use http::header::{self, HeaderValue};
use http::{HeaderName, StatusCode};
use serde::Serialize;

use crate::internal;

/// JSON with its length, not to be stored by caches, because it changes.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    written(status, "application/json", value)
        .unwrap_or_else(|error| problem(&internal::failed(error)))
}

/// The same of a body that is written piece by piece, of `length` bytes in all: 200.
pub(super) fn json_body(length: u64, body: Body) -> Response {
    with_length(StatusCode::OK, "application/json", length, body)
}

/// 204.
pub(super) fn empty() -> Response {
    with_status(StatusCode::NO_CONTENT, Body::empty())
}

/// `application/problem+json`, with `Retry-After` where trying again may help.
pub(super) fn problem(problem: &Problem) -> Response {
    let status = StatusCode::from_u16(problem.code.status());
    refusal(problem.code, status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), problem)
}

/// The same of one whose status, and the title with it, is not that of its code.
pub(super) fn problem_as(status: StatusCode, title: &'static str, problem: &Problem) -> Response {
    #[derive(Serialize)]
    struct Body<'a> {
        r#type: &'static str,
        title: &'static str,
        status: u16,
        detail: &'a str,
        code: Code,
    }
    let Problem { code, detail, .. } = problem;
    let (status_number, code) = (status.as_u16(), *code);
    let body = Body { r#type: "about:blank", title, status: status_number, detail, code };
    refusal(code, status, &body)
}

fn refusal(code: Code, status: StatusCode, body: &impl Serialize) -> Response {
    let mut response = written(status, "application/problem+json", body)
        .unwrap_or_else(|_| with_status(StatusCode::INTERNAL_SERVER_ERROR, Body::empty()));
    if code == Code::Unauthenticated {
        let bearer = HeaderValue::from_static("Bearer");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
    }
    // For the metrics and the audit log alone.
    response.extensions_mut().insert(code);
    if let Some(seconds) = retry_after_s(code) {
        let headers = response.headers_mut();
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Lets a browser ask its user for the token of a 401, as the password of any user.
pub(super) fn offer_basic(response: &mut Response) {
    let basic = HeaderValue::from_static("Basic realm=\"bellwire\", charset=\"UTF-8\"");
    response.headers_mut().append(header::WWW_AUTHENTICATE, basic);
}

/// The response with one more header.
pub(super) fn with(mut response: Response, name: HeaderName, value: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
    response
}

fn written(
    status: StatusCode,
    media_type: &'static str,
    value: &impl Serialize,
) -> serde_json::Result<Response> {
    let body = serde_json::to_vec(value)?;
    Ok(with_length(status, media_type, body.len() as u64, Body::from(body)))
}

fn with_length(status: StatusCode, media_type: &'static str, length: u64, body: Body) -> Response {
    let mut response = with_status(status, body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    response
}

fn with_status(status: StatusCode, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(header::CACHE_CONTROL, no_store);
    response
}

fn retry_after_s(code: Code) -> Option<u64> {
    match code {
        Code::QueueFull | Code::RateLimited => Some(RETRY_AFTER_QUEUE_S),
        Code::Draining => Some(draining_s()),
        Code::StoreUnavailable => Some(RETRY_AFTER_STORE_S),
        _ => None,
    }
}

/// Spreads those that come while the hub drains evenly over the time allowed.
fn draining_s() -> u64 {
    static REFUSED: AtomicU64 = AtomicU64::new(0);
    let (least, most) = RETRY_AFTER_DRAINING_S;
    least + REFUSED.fetch_add(1, Ordering::Relaxed) % (most - least + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each one that came while a hub drained got `Retry-After: 10`, though the hub was back after 2 s.
    #[test]
    fn who_comes_while_the_hub_drains_may_come_back_soon_and_not_all_at_once() {
        let seconds: Vec<u64> = (0..8).map(|_| retry_after_s(Code::Draining).unwrap()).collect();
        let (least, most) = RETRY_AFTER_DRAINING_S;
        assert!(seconds.iter().all(|s| (least..=most).contains(s)), "{seconds:?}");
        for s in least..=most {
            assert!(seconds.contains(&s), "{s} in {seconds:?}");
        }
        assert!(most <= 5, "{most}");
    }

    #[test]
    fn a_problem_has_retry_after_exactly_when_its_status_requires_it() {
        for code in Code::ALL {
            let response = problem(&Problem::new(*code, "why"));
            assert_eq!(response.status().as_u16(), code.status(), "{code}");
            let requested = matches!(code.status(), 429 | 503);
            let given = response.headers().contains_key(header::RETRY_AFTER);
            assert_eq!(given, requested, "{code}");
        }
    }
}
