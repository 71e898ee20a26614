//! One try to connect: the request, its redirects, and whether the answer is an event stream.
//!
//! No waiting and no second try here; what an error means is `retry.rs`'s to say.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use http::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_LOCATION,
    CONTENT_TYPE, COOKIE, LOCATION, PROXY_AUTHORIZATION, RETRY_AFTER,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use reqwest::Url;

use super::error::{Error, RedirectFault, Refusal};
use crate::transport::{ByteStream, Request, Response, Stage, Transport, TransportError};

/// Redirects that are followed in a row (Fetch, section 4.4: HTTP-redirect fetch, step 6).
const REDIRECTS_MAX: usize = 20;
/// How much of a refusal's body is kept, and for how long it is waited for.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;
const REFUSAL_WAIT_MAX: Duration = Duration::from_secs(5);

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// What tells who asks, and is not for the eyes of another server.
const CREDENTIALS: [HeaderName; 3] = [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION];
/// What describes a body, and goes with it (Fetch, "request-body-header name").
const OF_BODY: [HeaderName; 5] =
    [CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LOCATION, CONTENT_TYPE, CONTENT_LENGTH];

/// The request that every connection begins with.
#[derive(Clone)]
pub(super) struct Plan {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Headers may hold credentials, and a body may hold anything.
impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.url)
    }
}

/// A good answer.
pub(super) enum Answer {
    /// An event stream.
    Stream(ByteStream),
    /// 204: the server asks not to come back.
    NoMore,
}

/// A try under way.
pub(super) type Connecting = Pin<Box<dyn Future<Output = Result<Answer, Error>> + Send>>;

/// Starts a try.
pub(super) fn start(
    transport: Arc<dyn Transport>,
    plan: Arc<Plan>,
    last_event_id: Option<HeaderValue>,
) -> Connecting {
    Box::pin(async move {
        let mut plan = Plan::clone(&plan);
        if let Some(id) = last_event_id {
            plan.headers.insert(LAST_EVENT_ID, id);
        }
        judge(follow(&*transport, plan).await?).await
    })
}

/// Sends the request, and again to wherever it is redirected.
async fn follow(transport: &dyn Transport, mut plan: Plan) -> Result<Response, Error> {
    for _ in 0..=REDIRECTS_MAX {
        let response = transport.send(plan.request()?).await?;
        if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
            return Ok(response);
        }
        plan.redirect(response.status(), response.headers())?;
    }
    Err(RedirectFault::TooMany.into())
}

impl Plan {
    fn request(&self) -> Result<Request, Error> {
        let mut request = http::Request::builder()
            .method(self.method.clone())
            .uri(self.url.as_str())
            .body(self.body.clone())
            .map_err(|error| TransportError::new(Stage::Connect, error))?;
        *request.headers_mut() = self.headers.clone();
        Ok(request)
    }

    /// Turns to where a redirect points: Fetch, section 4.4, "HTTP-redirect fetch".
    fn redirect(&mut self, status: StatusCode, headers: &HeaderMap) -> Result<(), RedirectFault> {
        let location = headers
            .get(LOCATION)
            .filter(|location| !location.is_empty())
            .ok_or(RedirectFault::NoLocation)?;
        let url = std::str::from_utf8(location.as_bytes())
            .ok()
            .and_then(|location| self.url.join(location).ok())
            .filter(|url| matches!(url.scheme(), "http" | "https"))
            .ok_or(RedirectFault::InvalidLocation)?;
        let becomes_get = match status.as_u16() {
            301 | 302 => self.method == Method::POST,
            303 => self.method != Method::GET && self.method != Method::HEAD,
            _ => false,
        };
        if becomes_get {
            self.method = Method::GET;
            self.body = Bytes::new();
            self.remove(&OF_BODY);
        }
        if url.origin() != self.url.origin() {
            self.remove(&CREDENTIALS);
        }
        self.url = url;
        Ok(())
    }

    fn remove(&mut self, names: &[HeaderName]) {
        for name in names {
            self.headers.remove(name);
        }
    }
}

/// Tells an event stream from everything else: HTML, section 9.2.3.
async fn judge(response: Response) -> Result<Answer, Error> {
    let (head, body) = response.into_parts();
    if head.status == StatusCode::NO_CONTENT {
        return Ok(Answer::NoMore);
    }
    if head.status != StatusCode::OK {
        return Err(Error::Refused(Box::new(Refusal {
            status: head.status,
            retry_after: retry_after(&head.headers),
            body: beginning(body).await,
        })));
    }
    let content_type = head.headers.get_all(CONTENT_TYPE).iter().next_back();
    if content_type.is_some_and(is_event_stream) {
        return Ok(Answer::Stream(body));
    }
    let content_type = content_type.map(|t| String::from_utf8_lossy(t.as_bytes()).into_owned());
    Err(Error::NotAStream { content_type })
}

/// Parameters and case do not matter.
fn is_event_stream(content_type: &HeaderValue) -> bool {
    let essence = content_type.as_bytes().split(|&byte| byte == b';').next();
    essence.is_some_and(|e| e.trim_ascii().eq_ignore_ascii_case(b"text/event-stream"))
}

/// Only the form in seconds: a date would need a clock that an appliance may not have.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    seconds.parse().ok().map(Duration::from_secs)
}

/// What a refusal says, as far as it comes soon.
async fn beginning(mut body: ByteStream) -> Bytes {
    let mut kept = BytesMut::new();
    let read = async {
        while let Some(Ok(chunk)) = body.next().await {
            let room_bytes = REFUSAL_BYTES_MAX - kept.len();
            kept.extend_from_slice(chunk.get(..room_bytes).unwrap_or(&chunk));
            if kept.len() == REFUSAL_BYTES_MAX {
                break;
            }
        }
    };
    // What came until then is kept.
    let _ = tokio::time::timeout(REFUSAL_WAIT_MAX, read).await;
    kept.freeze()
}
