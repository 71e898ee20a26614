//! One accepted connection: whom it counts for, the header of a proxy, the handshake of TLS, and which
//! HTTP is spoken on it (`http1.rs`, `http2.rs`).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::{
    ListenConfig, ListenerAddr, ListenerRules, RequestOrigin, ServerStage, Tally, TlsConfigs,
    client, http1, http2,
};
use crate::plane::ConnectionGuard;
use crate::quota::{Quota, Share};
use crate::tls::{self, ACME_TLS_ALPN, ClientIdentity};

/// What every connection of a listener is given.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) config: Arc<ListenConfig>,
    pub(super) tally: Arc<Tally>,
    pub(super) stage: watch::Receiver<ServerStage>,
    pub(super) listener: ListenerAddr,
    pub(super) rules: Arc<ListenerRules>,
    pub(super) tls: Option<TlsConfigs>,
    pub(super) quota: Option<Arc<Quota>>,
}

impl Shared {
    /// The share of one more connection of this client; `None` when it has as many as it may. One of a trusted proxy may carry
    /// requests of many clients, so that it is not counted, unless the PROXY protocol names the one that it is of: what each asks
    /// for is limited by its requests.
    pub(super) fn connection_share(&self, client: IpAddr) -> Option<Share> {
        match &self.quota {
            Some(quota) if !self.rules.trusted_proxies.contains(client) => quota.connection(client),
            _ => Some(Share::default()),
        }
    }

    /// The same for a connection that is closed without it.
    pub(super) fn take_connection(&self, client: IpAddr) -> Option<Share> {
        let share = self.connection_share(client);
        if share.is_none() {
            self.tally.refused.fetch_add(1, Relaxed);
            if let Some(refused) = self.tally.greedy.occurred(std::time::Instant::now()) {
                tracing::warn!(
                    address = %client, refused,
                    "an address has as many connections as it may (connections_per_address): one more is closed at once"
                );
            }
        }
        share
    }
}

/// Serves one accepted socket to its end.
pub(super) async fn serve(
    stream: TcpStream,
    addr: SocketAddr,
    guard: ConnectionGuard,
    shared: Shared,
    router: Router,
) {
    let (mut stream, mut guard) = (stream, guard);
    let from = match shared.rules.begins_with_header(addr.ip()) {
        // Boxed, for few connections have one.
        true => match Box::pin(proxied(&mut stream, addr, &shared)).await {
            Some(client) => {
                let Some(share) = shared.take_connection(client) else { return };
                guard = guard.with(share);
                ConnectionOrigin { addr, client, identity: None }
            }
            None => return,
        },
        false => ConnectionOrigin { addr, client: addr.ip(), identity: None },
    };
    let Some(tls) = &shared.tls else {
        return http1::serve(stream, from, guard, shared, router).await;
    };
    let acceptor = tokio_rustls::TlsAcceptor::from(tls.borrow().clone());
    let limit = Duration::from_millis(shared.config.handshake_ms);
    let mut stage = shared.stage.clone();
    let handshake = tokio::select! {
        handshake = tokio::time::timeout(limit, Box::pin(acceptor.accept(stream))) => handshake,
        _ = stage.wait_for(|stage| *stage == ServerStage::Aborting) => return,
    };
    let mut from = from;
    if let Ok(Ok(stream)) = &handshake
        && let Some([leaf, ..]) = stream.get_ref().1.peer_certificates()
    {
        from.identity = tls::identity(leaf, &shared.rules.clients).map(Arc::new);
    }
    match handshake {
        // An authority that checked a name by the certificate: it has seen what it wanted (RFC 8737, section 3).
        Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(ACME_TLS_ALPN) => {}
        // Boxed, or the task of every plain connection would be as large as a TLS session.
        Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(HTTP_2) => {
            Box::pin(http2::serve(stream, from, guard, shared, router)).await
        }
        Ok(Ok(stream)) => Box::pin(http1::serve(stream, from, guard, shared, router)).await,
        Ok(Err(_)) | Err(_) => {
            shared.tally.handshakes_failed.fetch_add(1, Relaxed);
        }
    }
}

/// Where a connection comes from.
#[derive(Debug, Clone)]
pub(super) struct ConnectionOrigin {
    /// Its other end.
    pub(super) addr: SocketAddr,
    /// The client, as the PROXY protocol named it; without that the same address.
    pub(super) client: IpAddr,
    /// The identity of its client certificate, if a rule accepts it.
    pub(super) identity: Option<Arc<ClientIdentity>>,
}

impl ConnectionOrigin {
    /// Puts into a request what is known of where it comes from.
    pub(super) fn note<B>(&self, request: &mut Request<B>, shared: &Shared) {
        let origin = RequestOrigin {
            peer: self.addr,
            client: shared.rules.client(self.client, request.headers()),
            listener: shared.listener,
            open: shared.rules.open,
            identity: self.identity.clone(),
        };
        request.extensions_mut().insert(origin);
    }
}

/// The client that a trusted proxy names before everything else; `None` when the connection is of no use.
async fn proxied(stream: &mut TcpStream, addr: SocketAddr, shared: &Shared) -> Option<IpAddr> {
    let limit = Duration::from_millis(shared.config.header_read_ms);
    let mut stage = shared.stage.clone();
    let header = tokio::select! {
        header = tokio::time::timeout(limit, client::read_proxy_header(stream)) => header,
        _ = stage.wait_for(|stage| *stage == ServerStage::Aborting) => return None,
    };
    let reason = match header {
        Ok(Ok(named)) => return Some(named.unwrap_or(addr.ip())),
        // A check of the proxy's that only connects.
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return None,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it took too long".to_owned(),
    };
    shared.tally.proxy_headers_refused.fetch_add(1, Relaxed);
    if let Some(refused) = shared.tally.headerless.occurred(std::time::Instant::now()) {
        tracing::warn!(
            proxy = %addr.ip(),
            refused,
            "closed a connection of a trusted proxy, because {reason}: set it up to send one (HAProxy: send-proxy-v2, \
             nginx: proxy_protocol on), or leave proxy_protocol out of the listener {}",
            shared.listener
        );
    }
    None
}

/// HTTP/2 in ALPN (RFC 9113, section 3.1).
const HTTP_2: &[u8] = b"h2";

/// The body of an answer, which marks its connection as busy.
pub(super) struct BusyBody<B> {
    body: axum::body::Body,
    _busy: B,
}

impl<B> BusyBody<B> {
    pub(super) fn new(body: axum::body::Body, busy: B) -> Self {
        Self { body, _busy: busy }
    }
}

impl<B: Unpin> Body for BusyBody<B> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
