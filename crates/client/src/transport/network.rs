//! Requests over the network: hyper's client with its pool, over connections of our own ([`connector`](super::connector)).
//!
//! This file sends a request, once more where that is safe, and answers a proxy's challenges to it. What a connection is made
//! of, and how it is trusted, belongs to the files beside it.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use http::header::{ACCEPT, PROXY_AUTHORIZATION, USER_AGENT};
use http::{HeaderValue, Method, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_client::body::Incoming;
use hyper_util_client::client::legacy::connect::{CaptureConnection, capture_connection};
use hyper_util_client::client::legacy::{Client, Error};
use hyper_util_client::rt::{TokioExecutor, TokioTimer};
use tokio::time::Instant;

use super::coding;
use super::connector::{Connector, Used};
use super::examine::Examination;
use super::proxy::{Route, error_of_way, is_tls};
use super::proxy_auth::Step;
use super::refusal::ProxyRefusal;
use super::settings::{HttpTransportBuilder, InvalidSetting};
use super::{
    ByteStream, Request, RequestSent, ResponseFuture, Transport, TransportError, TransportStage,
};

/// How long an idle connection stays in the pool: shorter than in servers and middleboxes, so that a request seldom uses one
/// that is about to close.
const POOL_IDLE: Duration = Duration::from_secs(15);
/// How much of the body of a challenge is read, so that its connection can be used again: our choice.
const CHALLENGE_BYTES_MAX: usize = 64 * 1024;
/// Interval and timeout of pings on a connection that many requests share: one that is silently dropped blocks all of them,
/// and those that follow.
#[cfg(feature = "http2")]
const SHARED_PING_EVERY: Duration = Duration::from_secs(10);
#[cfg(feature = "http2")]
const SHARED_PING_TIMEOUT: Duration = Duration::from_secs(10);

type Pool = Client<Connector, Full<Bytes>>;

/// The network, by HTTP/1.1 or HTTP/2, with or without TLS, through a proxy where one is set.
///
/// `HTTP_PROXY` (under CGI in lower case alone), `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` are honoured in either case; a
/// proxy's user and password stand in its URL, and are sent by Digest, NTLM or Basic when it requires them. A request that a server
/// did not answer because it closed a connection from the pool is sent once more, if that can do no harm: its method is
/// idempotent, or it has an `Idempotency-Key`. There is no limit on the time that a response takes, since a stream has no end:
/// the caller sets that.
///
/// ```
/// use bellwire_client::{EventSource, transport::HttpTransport};
///
/// let transport = HttpTransport::builder().ca_file("/etc/ssl/our-ca.pem").build();
/// // There is no such file here, and the error names it.
/// assert!(transport.unwrap_err().to_string().contains("/etc/ssl/our-ca.pem"));
///
/// let transport = HttpTransport::builder().proxy("http://proxy.lan:3128").build()?;
/// let source = EventSource::builder("https://example.com/events").transport(transport).build()?;
/// # drop(source);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct HttpTransport(Arc<Inner>);

struct Inner {
    /// Replaced when the network is another one.
    pool: Mutex<Pool>,
    connector: Connector,
    http1: bool,
}

impl HttpTransport {
    /// The settings, to be changed and built.
    pub fn builder() -> HttpTransportBuilder {
        HttpTransportBuilder::default()
    }

    /// A transport with the default settings.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new() -> Result<Self, InvalidSetting> {
        Self::builder().build()
    }

    /// Which way requests to this URL take, and why.
    ///
    /// ```
    /// use bellwire_client::transport::HttpTransport;
    ///
    /// let transport = HttpTransport::builder().proxy_except("http://u:s3cret@proxy.lan:3128", ".lan").build()?;
    /// let route = transport.route(&"https://hub.example.com/".parse()?);
    /// assert_eq!(route.proxy.as_deref(), Some("http://proxy.lan:3128/"));
    /// let route = transport.route(&"https://hub.lan/".parse()?);
    /// assert_eq!((route.proxy, route.reason.as_str()), (None, ".lan is among the exceptions of the setting proxy"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn route(&self, url: &Uri) -> Route {
        self.0.connector.route(url)
    }

    /// The way to this URL step by step: to be shown to a person. The connection is used for nothing else.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use bellwire_client::transport::{HttpTransport};
    ///
    /// let server = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let transport = HttpTransport::builder().no_proxy().build()?;
    /// let mut examination = transport.examine(&format!("http://{}/", server.local_addr()?).parse()?);
    /// while let Some(step) = examination.upcoming() {
    ///     println!("{step:?}: {}", examination.advance().await?);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn examine(&self, url: &Uri) -> Examination {
        Examination::new(self.0.connector.clone(), url.clone())
    }

    /// The scheme by which the proxy of requests to this URL has authenticated this machine, if it required that.
    pub fn proxy_scheme(&self, url: &Uri) -> Option<&'static str> {
        self.0.connector.proxy(url)?.auth.scheme()
    }

    pub(super) fn of(connector: Connector, http1: bool) -> Self {
        let pool = Mutex::new(client(connector.clone(), http1));
        Self(Arc::new(Inner { pool, connector, http1 }))
    }
}

impl fmt::Debug for HttpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HttpTransport")
    }
}

/// The pool of connections that `connector` makes.
fn client(connector: Connector, http1: bool) -> Pool {
    let mut builder = Client::builder(TokioExecutor::new());
    builder.timer(TokioTimer::new()).pool_timer(TokioTimer::new()).pool_idle_timeout(POOL_IDLE);
    #[cfg(feature = "http2")]
    builder
        .http2_keep_alive_interval(SHARED_PING_EVERY)
        .http2_keep_alive_timeout(SHARED_PING_TIMEOUT)
        .http2_keep_alive_while_idle(true);
    if http1 {
        builder.pool_max_idle_per_host(1);
    }
    builder.build(connector)
}

impl Transport for HttpTransport {
    fn send(&self, mut request: Request) -> ResponseFuture {
        let inner = Arc::clone(&self.0);
        coding::request_identity(request.headers_mut());
        let headers = request.headers_mut();
        headers.entry(USER_AGENT).or_insert_with(|| inner.connector.user_agent().clone());
        headers.entry(ACCEPT).or_insert(HeaderValue::from_static("*/*"));
        Box::pin(async move {
            if !matches!(request.uri().scheme_str(), Some("http" | "https")) {
                let wrong = "the URL of the request is not an http or https URL";
                return Err(TransportError::new(TransportStage::Connect, wrong));
            }
            let response = inner.answered(request).await?;
            coding::decoded(response.map(|body| -> ByteStream {
                let chunks = http_body_util::BodyDataStream::new(body);
                Box::pin(chunks.map_err(|error| TransportError::new(TransportStage::Body, error)))
            }))
        })
    }

    fn proxy(&self, uri: &Uri) -> Option<String> {
        Some(self.0.connector.proxy(uri)?.url.clone())
    }

    fn network_changed(&self) {
        // Idle connections may be dead, and no request would notice before its timeout. Those in use go on.
        let inner = &self.0;
        *inner.pool.lock().unwrap_or_else(PoisonError::into_inner) =
            client(inner.connector.clone(), inner.http1);
    }
}

impl Inner {
    fn pool(&self) -> Pool {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The response, after the challenges of a proxy that receives plain requests as they are.
    async fn answered(
        &self,
        mut request: Request,
    ) -> Result<http::Response<Incoming>, TransportError> {
        let proxy = self.connector.proxy(request.uri()).filter(|_| !is_tls(request.uri()));
        let Some(proxy) = proxy else {
            return Ok(self.sent(&request).await?.0);
        };
        // What the caller has set counts until there is an answer to a challenge.
        let own = request.headers().get(PROXY_AUTHORIZATION).cloned();
        let (method, target) = (request.method().to_string(), request.uri().to_string());
        let mut exchange = proxy.auth.exchange(&method, &target, false);
        let mut authorization = exchange.first();
        loop {
            // Bounded by the exchange, which takes each scheme once.
            match authorization.take().or_else(|| own.clone()) {
                Some(header) => request.headers_mut().insert(PROXY_AUTHORIZATION, header),
                None => request.headers_mut().remove(PROXY_AUTHORIZATION),
            };
            let (response, connection) = self.sent(&request).await?;
            if response.status() != StatusCode::PROXY_AUTHENTICATION_REQUIRED {
                exchange.accepted();
                return Ok(response);
            }
            match exchange.next(response.headers()) {
                Ok(Step::Answer(header)) => authorization = Some(header),
                Ok(Step::NewConnection) => {
                    if let Some(connected) = &*connection.connection_metadata() {
                        connected.poison();
                    }
                }
                Err(denial) => return Err(ProxyRefusal::of_denial(proxy, denial).into_error()),
            }
            // Else the connection closes, and the next one is as good.
            Limited::new(response.into_body(), CHALLENGE_BYTES_MAX).collect().await.ok();
        }
    }

    /// The response to the request as it is. It is sent once more where the server closed a connection from the pool instead of
    /// answering, and a second execution does no harm.
    async fn sent(
        &self,
        request: &Request,
    ) -> Result<(http::Response<Incoming>, CaptureConnection), TransportError> {
        let mut may_repeat = is_repeatable(request);
        loop {
            let mut copy = request.clone().map(Full::new);
            let connection = capture_connection(&mut copy);
            let error = match timed(self.pool().request(copy), connection.clone()).await {
                Ok(response) => {
                    if let Some(used) = response.extensions().get::<Used>() {
                        used.set();
                    }
                    return Ok((response, connection));
                }
                Err(error) => error,
            };
            let was_used = was_used(&connection);
            if !(may_repeat && was_used && is_closed(&error)) {
                return Err(self.failed(request.uri(), error));
            }
            may_repeat = false;
        }
    }

    fn failed(&self, uri: &Uri, error: Error) -> TransportError {
        // The connector's own error has everything.
        if let Some(known) = error.source().and_then(|source| source.downcast_ref()) {
            return TransportError::clone(known);
        }
        let stage = match error.is_connect() {
            true => TransportStage::Connect,
            false => TransportStage::Response,
        };
        let proxy = self.connector.proxy(uri);
        if !is_tls(uri) && proxy.is_none() && is_not_http(&error) {
            return TransportError::new(stage, NotHttp);
        }
        error_of_way(proxy, stage, false, Unanswered(error))
    }
}

/// The response with [`RequestSent`]: when its request got `connection`.
async fn timed(
    response: impl Future<Output = Result<http::Response<Incoming>, Error>>,
    mut connection: CaptureConnection,
) -> Result<http::Response<Incoming>, Error> {
    let mut response = pin!(response);
    tokio::select! {
        biased;
        _ = connection.wait_for_connection_metadata() => {}
        // Without a connection there is only an error.
        early = &mut response => return early,
    }
    let sent = RequestSent(Instant::now().into_std());
    let mut response = response.await?;
    response.extensions_mut().insert(sent);
    Ok(response)
}

/// Whether a second execution has the effect of one (RFC 9110, section 9.2.2, and the header field Idempotency-Key).
fn is_repeatable(request: &Request) -> bool {
    let method = request.method();
    [Method::GET, Method::HEAD, Method::PUT, Method::DELETE].contains(method)
        || request.headers().contains_key("idempotency-key")
}

/// Whether the connection had brought a response before.
fn was_used(connection: &CaptureConnection) -> bool {
    let mut extras = http::Extensions::new();
    if let Some(connected) = &*connection.connection_metadata() {
        connected.get_extras(&mut extras);
    }
    extras.get::<Used>().is_some_and(Used::get)
}

/// Whether the peer closed the connection before it answered.
fn is_closed(error: &Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<hyper_client::Error>()
            && (error.is_incomplete_message() || error.is_closed() || error.is_canceled())
        {
            return true;
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
            let kind = error.kind();
            return matches!(
                kind,
                BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof
            );
        }
        cause = error.source();
    }
    false
}

/// Whether the first bytes of the answer begin no response of HTTP: those of TLS do not.
fn is_not_http(error: &Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<hyper_client::Error>() {
            return error.is_parse() && error.to_string().contains("version");
        }
        cause = error.source();
    }
    false
}

/// What answered a request of plain HTTP does not speak it.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the answer is not HTTP")]
pub(super) struct NotHttp;

impl NotHttp {
    /// What to do about it: the rest of a sentence.
    pub(super) const ADVICE: &str =
        "the server may speak TLS on this port: use https:// in the URL";
}

/// The error of hyper's client without its outermost text, which says nothing.
#[derive(Debug)]
struct Unanswered(Error);

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.source() {
            Some(source) => fmt::Display::fmt(source, f),
            None => fmt::Display::fmt(&self.0, f),
        }
    }
}

impl StdError for Unanswered {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()?.source()
    }
}
