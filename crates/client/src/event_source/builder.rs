//! The settings of an [`EventSource`], checked when it is built.

use std::sync::Arc;
use std::time::Duration;

use bellwire_sse::{DEFAULT_LIMIT_BYTES, Decoder, Jitter, Policy, Reconnect};
use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CACHE_CONTROL};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use tokio::time::Instant;

use super::connect::Plan;
use super::{ConnectionState, EventSource, Retry, SERVER_WAIT_MAX};
use crate::address::{self, Address, Authorize, InvalidUrl};
use crate::transport::{HttpTransport, InvalidSetting, Transport};

/// The settings of an [`EventSource`].
///
/// ```
/// use std::time::Duration;
/// use bellwire_client::{EventSource, event_source::Retry};
///
/// let source = EventSource::builder("https://llm.example/v1/chat")
///     .method(http::Method::POST)
///     .header("content-type", "application/json")
///     .bearer_auth("secret")
///     .body(r#"{"stream":true}"#)
///     .read_timeout(Duration::from_secs(60))
///     .retry(Retry::never())
///     .build()?;
/// assert!(!format!("{source:?}").contains("secret"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub struct Builder {
    url: String,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
    last_event_id: String,
    comments: bool,
    event_bytes_max: usize,
    policy: Policy,
    delay_min: Duration,
    server_delay_min: Duration,
    retry_max: Duration,
    begin_within: Option<Duration>,
    authorize: Option<Authorize>,
    same_origin: bool,
    retry: Retry,
    transport: Option<Arc<dyn Transport>>,
    /// The first invalid setting, which `build` reports.
    fault: Option<InvalidRequest>,
}

/// A setting of a request is invalid: the caller's fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRequest {
    /// It is not an absolute http or https URL.
    #[error(transparent)]
    Url(#[from] InvalidUrl),
    /// The URL of a hub has a query: the paths of its API would come after it.
    #[error("{url:?} has a query, and the URL of a hub has none: remove what begins with ?")]
    Query {
        /// The URL, without credentials.
        url: String,
    },
    /// A header has an invalid name or value.
    #[error(
        "header {name:?} cannot be sent: its name or value has characters that a header may not have"
    )]
    Header {
        /// Its name.
        name: String,
    },
    /// The transport cannot be set up.
    #[error(transparent)]
    Transport(#[from] InvalidSetting),
}

impl Builder {
    pub(super) fn new(url: &str) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        // Proxies that compress also hold events back until they have enough of them.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        Self {
            url: url.to_owned(),
            method: Method::GET,
            headers,
            body: Bytes::new(),
            last_event_id: String::new(),
            comments: false,
            event_bytes_max: DEFAULT_LIMIT_BYTES,
            policy: Policy::default(),
            delay_min: Duration::ZERO,
            server_delay_min: Duration::ZERO,
            retry_max: SERVER_WAIT_MAX,
            begin_within: None,
            authorize: None,
            same_origin: false,
            retry: Retry::standard(),
            transport: None,
            fault: None,
        }
    }

    /// The method of every request. Default: GET.
    pub fn method(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    /// The body of every request: it is sent again with each connection. Default: none.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// A header of every request, in place of one with the same name.
    pub fn header(mut self, name: impl AsRef<str>, value: impl AsRef<str>) -> Self {
        let name = name.as_ref();
        let parsed = HeaderName::from_bytes(name.as_bytes());
        match (parsed, HeaderValue::from_bytes(value.as_ref().as_bytes())) {
            (Ok(name), Ok(value)) => {
                self.headers.insert(name, value);
            }
            _ => self.refuse_header(name.to_owned()),
        }
        self
    }

    /// As [`Builder::header`], for several that are valid.
    pub(crate) fn headers(mut self, headers: &HeaderMap) -> Self {
        self.headers.extend(headers.clone());
        self
    }

    /// `Authorization: Bearer` with this token. It is not shown by `Debug` and does not follow a
    /// redirect to another server.
    pub fn bearer_auth(mut self, token: &str) -> Self {
        match address::bearer(token) {
            Some(value) => {
                self.headers.insert(AUTHORIZATION, value);
            }
            None => self.refuse_header(AUTHORIZATION.to_string()),
        }
        self
    }

    /// `Authorization: Basic` with this user, which has no colon, and password. A URL may contain both as well. Not shown and
    /// not sent to another server, as a token is not.
    pub fn basic_auth(mut self, user: &str, password: &str) -> Self {
        let value = address::basic(user.as_bytes(), password.as_bytes());
        self.headers.insert(AUTHORIZATION, value);
        self
    }

    /// The last event id of the first request. Default: none.
    pub fn last_event_id(mut self, id: impl Into<String>) -> Self {
        self.last_event_id = id.into();
        self
    }

    /// Whether comments are items. Default: no.
    pub fn comments(mut self, comments: bool) -> Self {
        self.comments = comments;
        self
    }

    /// The most bytes of an event: a longer one is dropped, and is an [`Item::Skipped`](super::Item::Skipped). Default: 32 MiB.
    pub fn event_bytes_max(mut self, bytes_max: usize) -> Self {
        self.event_bytes_max = bytes_max;
        self
    }

    /// The longest first wait before a new connection, until the server's `retry` replaces it.
    /// Default: 1 s. With zero, only the server can request a pause.
    pub fn reconnect_delay(mut self, delay: Duration) -> Self {
        self.policy.base = delay;
        self
    }

    /// The cap of the growing wait while no connection is healthy. Default: 60 s.
    pub fn reconnect_delay_max(mut self, delay_max: Duration) -> Self {
        self.policy.cap = delay_max;
        self
    }

    /// The least duration of every wait, also with a server's `retry: 0`. Default: zero.
    pub fn reconnect_delay_min(mut self, delay_min: Duration) -> Self {
        self.delay_min = delay_min;
        self
    }

    /// The least wait that a server can request. A smaller `retry` counts as this. A shorter pause from `Retry-After` or from
    /// the reader is used once; requested again before a stream was healthy, the growing wait is used where that is longer.
    /// Default: zero, as in the standard.
    pub fn server_delay_min(mut self, delay_min: Duration) -> Self {
        self.server_delay_min = delay_min;
        self
    }

    /// The most that a `retry` counts as: the first wait must not be longer than the cap.
    pub(crate) fn retry_max(mut self, retry_max: Duration) -> Self {
        self.retry_max = retry_max;
        self
    }

    /// The jitter of waits. Default: [`Jitter::Full`], at random from zero up.
    pub fn jitter(mut self, jitter: Jitter) -> Self {
        self.policy.jitter = jitter;
        self
    }

    /// How long a stream must have been open for its end to reset the backoff. Default: 10 s.
    pub fn healthy_after(mut self, healthy_after: Duration) -> Self {
        self.policy.healthy_after = healthy_after;
        self
    }

    /// How long a connection may be silent, without a response or a byte of the stream, before it counts as dead. A comment's
    /// bytes count. Default: for ever, as in the standard; set it wherever the server sends heartbeats, since a connection can
    /// be lost without notice.
    pub fn read_timeout(mut self, timeout: Duration) -> Self {
        self.policy.silence_max = Some(timeout);
        self
    }

    /// A connection is dead unless the reader accepts the beginning of its stream within this time
    /// ([`EventSource::set_begun`]), whatever else arrives.
    pub(crate) fn begin_within(mut self, within: Duration) -> Self {
        self.begin_within = Some(within);
        self
    }

    /// Calls this for the value of `Authorization` before each connection's request.
    pub(crate) fn authorize(mut self, authorize: Option<Authorize>) -> Self {
        self.authorize = authorize;
        self
    }

    /// Whether redirects are followed only on the same server: one to another server, or to anything but an event stream, is
    /// [`Error::Elsewhere`](super::Error::Elsewhere). Default: no, redirects are followed as in the standard.
    pub fn same_origin(mut self, same_origin: bool) -> Self {
        self.same_origin = same_origin;
        self
    }

    /// Which losses are final. Default: [`Retry::standard`].
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// The transport of the requests. Default: an [`HttpTransport`] of its own, with proxies from the environment.
    pub fn transport(mut self, transport: impl Transport) -> Self {
        self.transport = Some(Arc::new(transport));
        self
    }

    /// The source. Nothing is sent yet: the first poll connects.
    ///
    /// # Errors
    /// [`InvalidRequest`] names the invalid setting.
    pub fn build(mut self) -> Result<EventSource, InvalidRequest> {
        let address = Address::parse(&self.url)?;
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if let (Some(value), false) =
            (address.authorization, self.headers.contains_key(AUTHORIZATION))
        {
            self.headers.insert(AUTHORIZATION, value);
        }
        let transport = match self.transport {
            Some(transport) => transport,
            None => Arc::new(HttpTransport::new()?),
        };
        let decoder = Decoder::builder()
            .limit_bytes(self.event_bytes_max)
            .comments(self.comments)
            .last_event_id(self.last_event_id)
            .build();
        let now = Instant::now();
        Ok(EventSource {
            transport,
            plan: Arc::new(Plan {
                method: self.method,
                url: address.url,
                headers: self.headers,
                body: self.body,
                authorize: self.authorize,
                same_origin: self.same_origin,
            }),
            decoder,
            silence_max: self.policy.silence_max,
            reconnect: Reconnect::new(self.policy),
            retry: self.retry,
            delay_min: self.delay_min,
            server_delay_min: self.server_delay_min,
            retry_max: self.retry_max,
            request_sent: None,
            begin_within: self.begin_within,
            begin_by: None,
            connecting_at: now,
            server_clock: None,
            next_delay: None,
            connection: ConnectionState::Due,
            epoch: now,
            timer: None,
        })
    }

    fn refuse_header(&mut self, name: String) {
        self.fault.get_or_insert(InvalidRequest::Header { name });
    }
}
