//! One attempt to connect: the request, its redirects, and whether the response is an event stream.
//!
//! No delay and no second attempt here; `retry.rs` decides what an error means.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use http::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_LOCATION,
    CONTENT_TYPE, COOKIE, LOCATION, PROXY_AUTHORIZATION,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use url::Url;

use super::error::{Error, RedirectFault, Refusal};
use crate::address::Authorize;
use crate::retry_after::retry_after;
use crate::transport::{
    ByteStream, Request, RequestSent, Response, Transport, TransportError, TransportStage,
};

/// Redirects that are followed in a row (Fetch, section 4.4: HTTP-redirect fetch, step 6).
const REDIRECTS_MAX: usize = 20;
/// Bytes of a refusal's body that are read, and how long that may take: our choice.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;
const REFUSAL_WAIT_MAX: Duration = Duration::from_secs(5);

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Headers with credentials, which are not sent to another server.
const CREDENTIALS: [HeaderName; 3] = [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION];
/// Headers that describe a body, and are removed with it (Fetch, "request-body-header name").
const OF_BODY: [HeaderName; 5] =
    [CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LOCATION, CONTENT_TYPE, CONTENT_LENGTH];

/// The first request of every connection.
#[derive(Clone)]
pub(super) struct Plan {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// Returns the credentials of each request, if they may change.
    pub(super) authorize: Option<Authorize>,
    /// Whether a redirect to another server is a loss.
    pub(super) same_origin: bool,
}

/// Headers may hold credentials, and a body may hold anything.
impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.url)
    }
}

/// The result of a successful attempt.
pub(super) enum ConnectOutcome {
    /// An event stream, and when its request was sent, if the transport knows that.
    Stream(ByteStream, Option<RequestSent>),
    /// 204: the server requests that the client does not reconnect.
    NoContent,
}

/// An attempt in progress.
pub(super) type Connecting = Pin<Box<dyn Future<Output = Result<ConnectOutcome, Error>> + Send>>;

/// Starts an attempt. `clock` is the server's, if it is known: for a response without a `Date`.
pub(super) fn start(
    transport: Arc<dyn Transport>,
    plan: Arc<Plan>,
    last_event_id: Option<HeaderValue>,
    clock: Option<SystemTime>,
) -> Connecting {
    Box::pin(async move {
        let mut plan = Plan::clone(&plan);
        if let Some(id) = last_event_id {
            plan.headers.insert(LAST_EVENT_ID, id);
        }
        if let Some(value) = plan.authorize.as_ref().and_then(|authorize| authorize()) {
            plan.headers.insert(AUTHORIZATION, value);
        }
        let requested = plan.url.clone();
        let outcome = match follow(&*transport, &mut plan).await {
            Ok(response) => classify(response, clock).await,
            Err(error) => Err(error),
        };
        outcome.map_err(|error| match error {
            Error::Refused(_) | Error::Elsewhere { .. } => error,
            // The redirect is the cause, whatever was found at its end.
            other if plan.same_origin && plan.url != requested => elsewhere(&plan.url, other),
            other => other,
        })
    })
}

/// Sends the request and follows its redirects.
async fn follow(transport: &dyn Transport, plan: &mut Plan) -> Result<Response, Error> {
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
            .map_err(|error| TransportError::new(TransportStage::Connect, error))?;
        *request.headers_mut() = self.headers.clone();
        Ok(request)
    }

    /// Changes the request as a redirect says: Fetch, section 4.4, "HTTP-redirect fetch".
    fn redirect(&mut self, status: StatusCode, headers: &HeaderMap) -> Result<(), Error> {
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
            if self.same_origin {
                return Err(elsewhere(&url, "that is another server"));
            }
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

/// A loss by a redirect.
fn elsewhere(to: &Url, reason: impl fmt::Display) -> Error {
    let mut to = to.clone();
    // Fails for a URL that cannot have a user, and then there is none to remove.
    let _ = (to.set_username(""), to.set_password(None));
    Error::Elsewhere { to: to.into(), reason: reason.to_string() }
}

/// Whether a response is an event stream: HTML, section 9.2.3.
async fn classify(response: Response, clock: Option<SystemTime>) -> Result<ConnectOutcome, Error> {
    let (head, body) = response.into_parts();
    if head.status == StatusCode::NO_CONTENT {
        return Ok(ConnectOutcome::NoContent);
    }
    if head.status != StatusCode::OK {
        return Err(Error::Refused(Box::new(Refusal {
            status: head.status,
            retry_after: retry_after(&head.headers, clock),
            body: beginning(body).await,
        })));
    }
    if is_event_stream(&head.headers) {
        let sent = head.extensions.get::<RequestSent>().copied();
        return Ok(ConnectOutcome::Stream(body, sent));
    }
    let content_type =
        content_type(&head.headers).map(|t| String::from_utf8_lossy(t.as_bytes()).into_owned());
    Err(Error::NotAStream { content_type })
}

/// Whether a response is an event stream: by its last `Content-Type`, whose parameters and case do not matter (Fetch,
/// "extract a MIME type").
///
/// ```
/// use bellwire_client::event_source::is_event_stream;
/// use http::HeaderMap;
///
/// let mut headers = HeaderMap::new();
/// headers.insert("content-type", "Text/Event-Stream; charset=utf-8".parse()?);
/// assert!(is_event_stream(&headers));
/// # Ok::<(), http::header::InvalidHeaderValue>(())
/// ```
pub fn is_event_stream(headers: &HeaderMap) -> bool {
    let content_type = content_type(headers).map(HeaderValue::as_bytes).unwrap_or_default();
    let essence = content_type.split(|&byte| byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
}

fn content_type(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.get_all(CONTENT_TYPE).iter().next_back()
}

/// The beginning of a refusal's body, as far as it arrives in time.
async fn beginning(mut body: ByteStream) -> Bytes {
    let mut start = BytesMut::new();
    let read = async {
        while let Some(Ok(chunk)) = body.next().await {
            let free_bytes = REFUSAL_BYTES_MAX - start.len();
            start.extend_from_slice(chunk.get(..free_bytes).unwrap_or(&chunk));
            if start.len() == REFUSAL_BYTES_MAX {
                break;
            }
        }
    };
    // After the timeout what has arrived is used.
    let _ = tokio::time::timeout(REFUSAL_WAIT_MAX, read).await;
    start.freeze()
}
