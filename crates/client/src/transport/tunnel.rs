//! The exchange with a proxy before a connection is of use: CONNECT for a tunnel (RFC 9110, section 9.3.6), or NTLM for a connection
//! that carries plain requests afterwards.
//!
//! Both are requests of our own, so that the challenges of a proxy are seen, and answered on the same connection.

use bytes::Bytes;
use http::header::{HOST, PROXY_AUTHORIZATION, USER_AGENT};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_client::body::Incoming;
use hyper_client::client::conn::http1::{self, Parts, SendRequest};
use hyper_util_client::rt::TokioIo;
use tokio::task::JoinHandle;

use super::connector::{Dialer, Stream};
use super::proxy::Proxy;
use super::proxy_auth::{Exchange, Step};
use super::refusal::ProxyRefusal;
use super::{TransportError, TransportStage};

/// How much of a refusal's body is read, to show its title and to use the connection again: our choice.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// The longest head of an answer: our choice, above the 16 KiB that servers commonly send at most.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Requests of one exchange: our choice. Three schemes, of which NTLM takes two, stale nonces, and connections that the proxy closed.
const REQUESTS_MAX: usize = 12;

/// A tunnel through the proxy to `authority` (`host:port`).
pub(super) async fn open(
    dialer: &Dialer<'_>,
    proxy: &Proxy,
    authority: &str,
) -> Result<Stream, TransportError> {
    let exchange = proxy.auth.exchange("CONNECT", authority, true);
    let request = |authorization| {
        let uri = authority.parse().ok()?;
        head(Method::CONNECT, uri, authority, dialer.user_agent(), authorization)
    };
    let (response, connection) = run(dialer, proxy, exchange, request).await?;
    if !response.status().is_success() {
        return Err(refused(proxy, response).await);
    }
    drop(response);
    let parts = connection.into_parts().await;
    let parts = parts.ok_or_else(|| {
        proxy.error(TransportStage::ProxyRefused, false, "it closed the tunnel at once")
    })?;
    // In TLS it is the client that speaks first.
    if !parts.read_buf.is_empty() {
        let early = "what answers in the tunnel does not speak TLS";
        return Err(proxy.error(TransportStage::Untrusted, false, early));
    }
    Ok(parts.io.into_inner())
}

/// A connection to the proxy on which requests to `authority` need no header any more, for its first request has been
/// authenticated. That is a HEAD of the server's root, which changes nothing there.
pub(super) async fn authenticated(
    dialer: &Dialer<'_>,
    proxy: &Proxy,
    authority: &str,
) -> Result<Stream, TransportError> {
    let target = format!("http://{authority}/");
    let exchange = proxy.auth.exchange("HEAD", &target, true);
    let request = |authorization| {
        head(Method::HEAD, target.parse().ok()?, authority, dialer.user_agent(), authorization)
    };
    let (response, mut connection) = run(dialer, proxy, exchange, request).await?;
    let (head, _) = response.into_parts();
    let is_open = connection.sender.ready().await.is_ok();
    // For a server that it does not reach it may close; else there is no use in authenticating.
    if !is_open && !head.status.is_success() {
        let refusal = ProxyRefusal::of_answer(proxy, head.status, &head.headers, &Bytes::new());
        return Err(refusal.into_error());
    }
    let parts = if is_open { connection.into_parts().await } else { None };
    let parts = parts.filter(|parts| parts.read_buf.is_empty()).ok_or_else(|| {
        let closed = "it closed the connection that it had authenticated";
        proxy.error(TransportStage::ProxyRefused, false, closed)
    })?;
    Ok(parts.io.into_inner())
}

fn head(
    method: Method,
    uri: http::Uri,
    authority: &str,
    user_agent: &HeaderValue,
    authorization: Option<HeaderValue>,
) -> Option<Request<Empty<Bytes>>> {
    let mut request = Request::new(Empty::new());
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::from_str(authority).ok()?);
    headers.insert(USER_AGENT, user_agent.clone());
    if let Some(authorization) = authorization {
        headers.insert(PROXY_AUTHORIZATION, authorization);
    }
    Some(request)
}

/// Sends the request until the proxy answers otherwise than with a challenge.
async fn run(
    dialer: &Dialer<'_>,
    proxy: &Proxy,
    mut exchange: Exchange<'_>,
    request: impl Fn(Option<HeaderValue>) -> Option<Request<Empty<Bytes>>>,
) -> Result<(Response<Incoming>, Connection), TransportError> {
    let failed =
        |cause: super::settings::Cause| proxy.error(TransportStage::ProxyRefused, false, cause);
    let mut authorization = exchange.first();
    let mut open: Option<Connection> = None;
    for _ in 0..REQUESTS_MAX {
        let request = request(authorization.clone())
            .ok_or_else(|| failed("the name of the server cannot be sent to it".into()))?;
        let was_open = open.is_some();
        let mut connection = match open.take() {
            Some(connection) => connection,
            None => Connection::start(proxy, dialer.to_proxy(proxy).await?).await?,
        };
        let response = match connection.sender.send_request(request).await {
            Ok(response) => response,
            // It had closed the connection meanwhile.
            Err(_) if was_open && !exchange.stays() => continue,
            Err(error) => return Err(failed(Box::new(error))),
        };
        if response.status() != StatusCode::PROXY_AUTHENTICATION_REQUIRED {
            exchange.accepted();
            return Ok((response, connection));
        }
        let denied = |denial| ProxyRefusal::of_denial(proxy, denial).into_error();
        let step = exchange.next(response.headers()).map_err(denied)?;
        let Step::Answer(header) = step else {
            return Err(failed("it requires another connection for each answer".into()));
        };
        authorization = Some(header);
        // To its end, so that the connection can be used again.
        let is_read = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await.is_ok();
        if is_read && connection.sender.ready().await.is_ok() {
            open = Some(connection);
        } else if exchange.stays() {
            return Err(failed("it closed the connection amid the exchange of NTLM".into()));
        }
    }
    Err(failed("it demands authentication without end".into()))
}

/// The error of an answer to CONNECT that is none of success.
async fn refused(proxy: &Proxy, response: Response<Incoming>) -> TransportError {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, BODY_BYTES_MAX).collect().await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    ProxyRefusal::of_answer(proxy, head.status, &head.headers, &body).into_error()
}

/// A connection to a proxy, with the task that drives it.
struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    /// Ends with the last request or with a tunnel, and returns the socket if that is still open.
    driver: JoinHandle<Option<Parts<TokioIo<Stream>>>>,
}

impl Connection {
    async fn start(proxy: &Proxy, stream: Stream) -> Result<Self, TransportError> {
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEAD_BYTES_MAX);
        let (sender, connection) = builder
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| proxy.error(TransportStage::ProxyRefused, false, error))?;
        let driver = tokio::spawn(async move { connection.without_shutdown().await.ok() });
        Ok(Self { sender, driver })
    }

    /// The socket, after the last request.
    async fn into_parts(self) -> Option<Parts<TokioIo<Stream>>> {
        drop(self.sender);
        self.driver.await.ok().flatten()
    }
}
