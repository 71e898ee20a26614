//! A connection for the pool: directly or through a proxy, with TLS or without.
//!
//! The steps are those of the other files: a socket ([`dial`](super::dial)), the exchange with a proxy
//! ([`tunnel`](super::tunnel)), TLS with the server. The name of a server behind a proxy is not looked up: often only the proxy can.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderValue, Uri};
use hyper_client::rt::{Read, ReadBufCursor, Write};
use hyper_util_client::client::legacy::connect::{Connected, Connection};
use hyper_util_client::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::proxy::{Proxies, Proxy, Route, error_of_way, is_tls, port};
use super::resolve::Resolver;
use super::settings::Cause;
use super::{TransportError, TransportStage, dial, tunnel};

/// Bytes to and from a peer, whatever is in between.
pub(super) type Stream = Box<dyn Bytestream>;

/// What [`Stream`] hides.
pub(super) trait Bytestream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytestream for T {}

/// Makes the connections of one transport.
#[derive(Clone)]
pub(super) struct Connector(Arc<Shared>);

struct Shared {
    resolver: Resolver,
    proxies: Proxies,
    /// TLS with servers.
    tls: TlsConnector,
    /// TLS with proxies.
    proxy_tls: TlsConnector,
    connect_timeout: Duration,
    user_agent: HeaderValue,
}

/// Makes the sockets of one connection, and knows what it is at, for the error when that takes too long.
pub(super) struct Dialer<'a> {
    shared: &'a Shared,
    phase: AtomicU8,
}

#[derive(Clone, Copy)]
pub(super) enum Phase {
    Reaching,
    Proxy,
    Tls,
}

/// Connecting took longer than its limit.
#[derive(Debug, thiserror::Error)]
#[error("{phase} was not complete after {} s", .within.as_secs_f32())]
pub(super) struct TooSlow {
    phase: &'static str,
    within: Duration,
}

impl Connector {
    pub(super) fn new(
        proxies: Proxies,
        tls: ClientConfig,
        proxy_tls: ClientConfig,
        connect_timeout: Duration,
        user_agent: HeaderValue,
    ) -> Self {
        let connector = |config| TlsConnector::from(Arc::new(config));
        Self(Arc::new(Shared {
            resolver: Resolver::of_system(),
            proxies,
            tls: connector(tls),
            proxy_tls: connector(proxy_tls),
            connect_timeout,
            user_agent,
        }))
    }
}

/// What requests and an examination need of it.
impl Connector {
    /// The proxy of requests to `uri`; `None` for the direct way.
    pub(super) fn proxy(&self, uri: &Uri) -> Option<&Proxy> {
        self.0.proxies.of(uri)
    }

    /// The way of requests to `uri`, and why.
    pub(super) fn route(&self, uri: &Uri) -> Route {
        self.0.proxies.route(uri)
    }

    pub(super) fn user_agent(&self) -> &HeaderValue {
        &self.0.user_agent
    }

    pub(super) fn resolver(&self) -> &Resolver {
        &self.0.resolver
    }

    pub(super) fn connect_timeout(&self) -> Duration {
        self.0.connect_timeout
    }

    pub(super) fn dialer(&self) -> Dialer<'_> {
        Dialer { shared: &self.0, phase: AtomicU8::new(Phase::Reaching as u8) }
    }

    /// The certificate of the server at the end of `stream`.
    pub(super) async fn examined_tls(
        &self,
        stream: Stream,
        host: &str,
        proxy: Option<&Proxy>,
    ) -> Result<Option<CertificateDer<'static>>, TransportError> {
        let handshake = handshake(&self.0.tls, stream, host).await;
        let stream = handshake.map_err(|fault| fault.into_error(proxy))?;
        let certificates = stream.get_ref().1.peer_certificates();
        Ok(certificates.and_then(|chain| chain.first()).map(|first| first.clone().into_owned()))
    }
}

impl tower::Service<Uri> for Connector {
    type Response = Conn;
    type Error = TransportError;
    type Future = Pin<Box<dyn Future<Output = Result<Conn, TransportError>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let shared = Arc::clone(&self.0);
        Box::pin(async move { shared.connect(&uri).await })
    }
}

impl Shared {
    async fn connect(&self, uri: &Uri) -> Result<Conn, TransportError> {
        let proxy = self.proxies.of(uri);
        let dialer = Dialer { shared: self, phase: AtomicU8::new(Phase::Reaching as u8) };
        let within = self.connect_timeout;
        match tokio::time::timeout(within, self.connection(uri, proxy, &dialer)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(dialer.too_slow(proxy, within)),
        }
    }

    async fn connection(
        &self,
        uri: &Uri,
        proxy: Option<&Proxy>,
        dialer: &Dialer<'_>,
    ) -> Result<Conn, TransportError> {
        let host = uri.host().unwrap_or_default();
        let Some(proxy) = proxy else {
            let socket = dial::tcp(&self.resolver, host, port(uri)).await;
            let socket =
                socket.map_err(|error| TransportError::new(TransportStage::Connect, error))?;
            return match is_tls(uri) {
                false => Ok(Conn::new(Box::new(socket))),
                true => self.secured(Box::new(socket), host, None, dialer).await,
            };
        };
        if is_tls(uri) {
            let authority = format!("{host}:{}", port(uri));
            let tunnel = tunnel::open(dialer, proxy, &authority).await?;
            return self.secured(tunnel, host, Some(proxy), dialer).await;
        }
        let stream = match proxy.auth.authenticates_connections() {
            false => dialer.to_proxy(proxy).await?,
            true => {
                let authority = uri.authority().map(|authority| authority.as_str());
                let authority = authority.unwrap_or_default();
                tunnel::authenticated(dialer, proxy, authority).await?
            }
        };
        Ok(Conn { is_forwarded: true, ..Conn::new(stream) })
    }

    /// TLS with the server at the end of `stream`.
    async fn secured(
        &self,
        stream: Stream,
        host: &str,
        proxy: Option<&Proxy>,
        dialer: &Dialer<'_>,
    ) -> Result<Conn, TransportError> {
        dialer.set(Phase::Tls);
        let handshake = handshake(&self.tls, stream, host).await;
        let stream = handshake.map_err(|fault| fault.into_error(proxy))?;
        let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(Conn { is_h2, ..Conn::new(Box::new(stream)) })
    }
}

impl Dialer<'_> {
    /// A connection to the proxy, with TLS if its URL says so.
    pub(super) async fn to_proxy(&self, proxy: &Proxy) -> Result<Stream, TransportError> {
        self.set(Phase::Reaching);
        let socket = dial::tcp(&self.shared.resolver, &proxy.host, proxy.port).await;
        let socket = socket.map_err(|error| proxy.error(TransportStage::Connect, true, error))?;
        self.set(Phase::Proxy);
        if !proxy.is_tls {
            return Ok(Box::new(socket));
        }
        match handshake(&self.shared.proxy_tls, Box::new(socket), &proxy.host).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(fault) => Err(fault.into_error(Some(proxy))),
        }
    }

    pub(super) fn user_agent(&self) -> &HeaderValue {
        &self.shared.user_agent
    }

    pub(super) fn set(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    pub(super) fn too_slow(&self, proxy: Option<&Proxy>, within: Duration) -> TransportError {
        let phase = self.phase.load(Ordering::Relaxed);
        let is_reaching = phase == Phase::Reaching as u8;
        let name = match phase {
            _ if is_reaching => "connecting",
            _ if phase == Phase::Proxy as u8 => "the exchange with the proxy",
            _ => "TLS",
        };
        let cause = TooSlow { phase: name, within };
        error_of_way(proxy, TransportStage::Connect, is_reaching, cause)
    }
}

struct TlsFault {
    stage: TransportStage,
    source: Cause,
}

impl TlsFault {
    fn into_error(self, proxy: Option<&Proxy>) -> TransportError {
        error_of_way(proxy, self.stage, false, self.source)
    }
}

/// TLS over `stream`.
async fn handshake(
    tls: &TlsConnector,
    stream: Stream,
    host: &str,
) -> Result<TlsStream<Stream>, TlsFault> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(bare.to_owned())
        .map_err(|source| TlsFault { stage: TransportStage::Connect, source: source.into() })?;
    match tls.connect(name, stream).await {
        Ok(stream) => Ok(stream),
        Err(error) => {
            let untrusted = is_untrusted(&error);
            let stage = if untrusted { TransportStage::Untrusted } else { TransportStage::Connect };
            Err(TlsFault { stage, source: error.into() })
        }
    }
}

/// Whether TLS refused the peer. Its error is inside an I/O error, which returns it by `get_ref` and not by `source`.
fn is_untrusted(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(inner, Some(rustls::Error::InvalidCertificate(_) | rustls::Error::InvalidMessage(_)))
}

/// A connection as the pool holds it.
pub(super) struct Conn {
    io: TokioIo<Stream>,
    /// Whether a proxy receives its requests as they are, without a tunnel.
    is_forwarded: bool,
    is_h2: bool,
    used: Used,
}

/// Whether a connection has brought a response before.
#[derive(Clone, Default)]
pub(super) struct Used(Arc<AtomicBool>);

impl Used {
    pub(super) fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Conn {
    fn new(stream: Stream) -> Self {
        Self { io: TokioIo::new(stream), is_forwarded: false, is_h2: false, used: Used::default() }
    }
}

impl fmt::Debug for Conn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conn").finish_non_exhaustive()
    }
}

impl Connection for Conn {
    fn connected(&self) -> Connected {
        let connected = Connected::new().proxy(self.is_forwarded).extra(self.used.clone());
        if self.is_h2 { connected.negotiated_h2() } else { connected }
    }
}

impl Read for Conn {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl Write for Conn {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
}
