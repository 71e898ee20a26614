//! The hub's API as typed calls, for the senders of commands and for devices.
//!
//! [`Controller`] builds requests and reads responses; the meaning of every member is in `bellwire_proto`, the streams are
//! typed [`EventSource`](crate::EventSource)s. Every call is one request: only the connection of a stream is retried.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bellwire_proto::limits::{RESPONSE_BYTES_MAX, RESPONSE_TIMEOUT};
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, ETAG, LOCATION};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use url::Url;

use crate::address::{self, Address, Authorize};
use crate::event_source::InvalidRequest;
use crate::retry_after::retry_after;
use crate::transport::{
    HttpTransport, RequestSent, Transport, TransportError, TransportStage, read_body,
};

mod audit;
mod command;
mod device;
mod error;
mod events;
mod listen;
mod page;
mod registry;
mod rollout;
mod schedule;
mod token;

pub use audit::AuditQuery;
pub use command::{CommandQuery, DeliveryQuery, NewCommand, SendOptions, Target};
pub use device::{BatchAnswer, DeviceQuery, PollOptions, Pong};
pub use error::Error;
pub use events::{CommandChange, Events, HubChange, HubState};
pub use listen::{ListenOptions, Listener, Signal, Way};
pub use registry::LabelsTag;
pub use rollout::RolloutChange;

/// A client of a hub's API.
///
/// Senders call `send` or `send_command`, then `watch`, `command`, `deliveries` and `cancel`; devices call `listen` or `poll`,
/// then `report` and `put_facts`; operators call `devices`, `put_labels`, `delete_device` and `events`. Cloning shares the
/// connections.
///
/// ```no_run
/// use bellwire_client::{Controller, SendOptions};
/// use bellwire_proto::Seconds;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let hub = Controller::builder("https://hub.example").token("bw_…").build()?;
/// let options = SendOptions::default().text("now").wait(Seconds::new(30));
/// let delivery = hub.send(&"kiosk-7".parse()?, &"reboot".parse()?, &options).await?;
/// println!("{} at {}", delivery.state, delivery.device);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Controller {
    shared: Arc<Shared>,
}

struct Shared {
    transport: Arc<dyn Transport>,
    url: Url,
    headers: HeaderMap,
    /// Returns the credentials of each request, if they may change.
    authorize: Option<Authorize>,
    answer_timeout: Duration,
}

/// The settings of a [`Controller`].
#[must_use]
pub struct ControllerBuilder {
    url: String,
    token: Option<String>,
    authorize: Option<Authorize>,
    transport: Option<Arc<dyn Transport>>,
    answer_timeout: Duration,
}

impl Controller {
    /// The hub at `url`, without credentials.
    ///
    /// # Errors
    /// When the URL is invalid, or TLS cannot be set up. Nothing is sent yet.
    pub fn new(url: impl AsRef<str>) -> Result<Self, InvalidRequest> {
        Self::builder(url).build()
    }

    /// The settings, to be changed and built. The URL may have a path, below which the hub is mounted, and a user and
    /// password.
    pub fn builder(url: impl AsRef<str>) -> ControllerBuilder {
        ControllerBuilder {
            url: url.as_ref().to_owned(),
            token: None,
            authorize: None,
            transport: None,
            answer_timeout: RESPONSE_TIMEOUT,
        }
    }

    /// The URL of the hub, without credentials.
    pub fn url(&self) -> &str {
        self.shared.url.as_str()
    }

    /// The URL of a resource: each segment is one name.
    fn resource<'a>(&self, segments: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.shared.url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    fn foreign(&self, reason: impl Into<String>) -> Error {
        Error::foreign(self.url(), reason.into())
    }
}

impl fmt::Debug for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Controller").field(&self.url()).finish()
    }
}

impl ControllerBuilder {
    /// The token, which is sent as `Authorization: Bearer` to the hub alone.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Calls this for the token before each request, also that of each connection of a stream: for a token that may be replaced
    /// while the program runs. For `None`, and for a token that a header may not have, [`ControllerBuilder::token`] is used.
    pub fn token_from(
        mut self,
        token: impl Fn() -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.authorize = Some(Arc::new(move || address::bearer(&token()?)));
        self
    }

    /// The transport of the requests. Default: an [`HttpTransport`] of its own, with proxies from the environment.
    pub fn transport(mut self, transport: impl Transport) -> Self {
        self.transport = Some(Arc::new(transport));
        self
    }

    /// How long a call may take beyond the time that the hub is requested to wait. Default: 10 s.
    pub fn answer_timeout(mut self, timeout: Duration) -> Self {
        self.answer_timeout = timeout;
        self
    }

    /// The client.
    ///
    /// # Errors
    /// [`InvalidRequest`] names the invalid setting.
    pub fn build(self) -> Result<Controller, InvalidRequest> {
        let Address { url, authorization, .. } = Address::parse(&self.url)?;
        if url.query().is_some() {
            return Err(InvalidRequest::Query { url: url.into() });
        }
        let authorization = match &self.token {
            None => authorization,
            Some(token) => Some(bearer(token)?),
        };
        let mut headers = HeaderMap::new();
        headers.extend(authorization.map(|value| (AUTHORIZATION, value)));
        let transport = match self.transport {
            Some(transport) => transport,
            None => Arc::new(HttpTransport::new()?),
        };
        Ok(Controller {
            shared: Arc::new(Shared {
                transport,
                url,
                headers,
                authorize: self.authorize,
                answer_timeout: self.answer_timeout,
            }),
        })
    }
}

impl fmt::Debug for ControllerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ControllerBuilder")
    }
}

/// One request to the hub, built and then sent.
struct Call<'a> {
    hub: &'a Controller,
    method: Method,
    url: Url,
    headers: HeaderMap,
    body: Bytes,
    wait: Duration,
}

/// A response with a status of success.
struct Success<'a> {
    hub: &'a Controller,
    body: Bytes,
    /// If the transport knows it.
    sent: Option<Instant>,
    /// The tag of what was answered, if it has one.
    tag: Option<HeaderValue>,
}

impl Controller {
    fn call<'a>(&self, method: Method, segments: impl IntoIterator<Item = &'a str>) -> Call<'_> {
        let Shared { headers, authorize, .. } = &*self.shared;
        let mut headers = headers.clone();
        let authorization = authorize.as_ref().and_then(|authorize| authorize());
        if let Some(value) = authorization {
            headers.insert(AUTHORIZATION, value);
        }
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        Call {
            hub: self,
            method,
            url: self.resource(segments),
            headers,
            body: Bytes::new(),
            wait: Duration::ZERO,
        }
    }
}

impl<'a> Call<'a> {
    /// Adds a parameter, if it has a value.
    fn query(mut self, name: &str, value: Option<impl fmt::Display>) -> Self {
        add_query(&mut self.url, name, value);
        self
    }

    fn body(mut self, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        self.headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        self.body = body.into();
        self
    }

    fn json(self, body: &impl serde::Serialize) -> Self {
        // Only plain structures of the contract are sent, and writing them cannot fail.
        let body = serde_json::to_vec(body).unwrap_or_default();
        self.body("application/json", body)
    }

    /// Lets the response take this much longer.
    fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Sends it. A response without a status of success is an error.
    async fn send(self) -> Result<Success<'a>, Error> {
        let hub = self.hub;
        let (head, body) = self.exchange().await?;
        Success::of(hub, &head, body)
    }

    /// Sends it, and returns any response that arrives in time.
    async fn exchange(self) -> Result<(http::response::Parts, Bytes), Error> {
        let Self { hub, wait, .. } = self;
        let shared = &hub.shared;
        let time_max = shared.answer_timeout + wait;
        let exchange = async move {
            let mut request = http::Request::builder()
                .method(self.method)
                .uri(self.url.as_str())
                .body(self.body)
                .map_err(|error| TransportError::new(TransportStage::Connect, error))?;
            *request.headers_mut() = self.headers;
            let (head, body) = shared.transport.send(request).await?.into_parts();
            Ok((head, read_body(body, RESPONSE_BYTES_MAX).await?))
        };
        tokio::time::timeout(time_max, exchange)
            .await
            .unwrap_or_else(|_| {
                let within = format!("no response within {} ms", time_max.as_millis());
                Err(TransportError::new(TransportStage::Response, within))
            })
            .map_err(|source| Error::Unreachable { hub: hub.url().to_owned(), source })
    }

    /// Sends it, and parses the response.
    async fn fetch<T: DeserializeOwned>(self) -> Result<T, Error> {
        self.send().await?.read()
    }
}

impl<'a> Success<'a> {
    /// A response; one without a status of success is an error.
    fn of(hub: &'a Controller, head: &http::response::Parts, body: Bytes) -> Result<Self, Error> {
        if head.status.is_success() {
            let tag = head.headers.get(ETAG).cloned();
            return Ok(Self { hub, body, sent: request_sent(head), tag });
        }
        if let (true, Some(location)) = (head.status.is_redirection(), head.headers.get(LOCATION)) {
            let location = String::from_utf8_lossy(location.as_bytes()).into_owned();
            return Err(Error::redirect(hub.url(), location));
        }
        let retry_after = retry_after(&head.headers, None);
        Err(Error::of_answer(hub.url(), head.status, retry_after, &body))
    }

    fn read<T: DeserializeOwned>(self) -> Result<T, Error> {
        serde_json::from_slice(&self.body)
            .map_err(|error| self.hub.foreign(format!("its response cannot be parsed: {error}")))
    }
}

/// When the request of a response was sent, if the transport knows that.
fn request_sent(head: &http::response::Parts) -> Option<Instant> {
    head.extensions.get().map(|RequestSent(at)| Instant::from_std(*at))
}

/// The header with a token.
fn bearer(token: &str) -> Result<HeaderValue, InvalidRequest> {
    let invalid = || InvalidRequest::Header { name: AUTHORIZATION.to_string() };
    address::bearer(token).ok_or_else(invalid)
}

/// Adds a parameter to a URL, if it has a value.
fn add_query(url: &mut Url, name: &str, value: Option<impl fmt::Display>) {
    if let Some(value) = value {
        url.query_pairs_mut().append_pair(name, &value.to_string());
    }
}

/// A new nonce, which the response must repeat: one from a cache, or from another server, does not.
pub fn nonce() -> String {
    // Without randomness it is always the same, which finds less and prevents nothing.
    let random = getrandom::u64().unwrap_or_default();
    format!("{random:016x}")
}

/// Whether the process is alive, by `GET /healthz` and `/readyz`.
impl Controller {
    /// Succeeds when the hub is alive, even while it is draining.
    ///
    /// # Errors
    /// When the hub cannot be reached, or something else answers.
    pub async fn health(&self) -> Result<(), Error> {
        self.call(Method::GET, ["healthz"]).send().await.map(drop)
    }

    /// Whether the hub accepts commands: its store can be written, and it is not draining.
    ///
    /// # Errors
    /// When it does not respond, or with another status.
    pub async fn ready(&self) -> Result<bool, Error> {
        let (head, body) = self.call(Method::GET, ["readyz"]).exchange().await?;
        match head.status {
            StatusCode::OK => Ok(true),
            StatusCode::SERVICE_UNAVAILABLE => Ok(false),
            status => Err(Error::of_answer(self.url(), status, None, &body)),
        }
    }

    /// Succeeds when the hub accepts commands.
    ///
    /// # Errors
    /// Refused as `draining` or `store_unavailable`, with the reason, when it does not.
    pub async fn readiness(&self) -> Result<(), Error> {
        self.call(Method::GET, ["readyz"]).send().await.map(drop)
    }
}
