//! The accept loop: HTTP/1.1 and, over TLS, HTTP/2 by hyper, on connections that can be taken over.
//!
//! `axum::serve` has no header timeout and no limit on connections, and does not release a socket; so
//! the loop is our own. It serves an axum [`Router`] and puts [`RequestOrigin`] and
//! [`Takeover`](crate::plane::Takeover) into each request's extensions. It knows no route. One
//! connection is served in `listen/connection.rs`.
//!
//! Bounds: a connection has [`ListenConfig::header_read_ms`] for each request's head and may stay
//! idle for [`ListenConfig::idle_ms`]; beyond [`ListenConfig::connections_max`] a new connection is
//! accepted and closed at once, so that the client does not wait in the kernel's queue. The handler
//! decides how long a request's body may take.

mod client;
mod connection;
mod head;
mod http1;
mod http2;
mod paced;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use axum::Router;
use bellwire_proto::limits;
use futures_util::future::BoxFuture;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;

use crate::config::Scheme;
use crate::plane::ConnectionGuard;
use crate::quota::Quota;
use crate::tls::ClientIdentity;
pub use crate::tls::TlsConfigs;
pub use client::{ListenerRules, parse_proxy_header};
use paced::Paced;

/// Bounds of a listener. `Default` is right for a hub on an open network.
#[derive(Debug, Clone)]
pub struct ListenConfig {
    /// For the head of a request, from its first byte on; for the first one, from the accept on.
    /// After it: 408 and the end. Default 10,000.
    pub header_read_ms: u64,
    /// Between two requests on one connection. After it: the end. Default 75,000.
    pub idle_ms: u64,
    /// For a TLS handshake. After it: the end. Default 10,000.
    pub handshake_ms: u64,
    /// Fields in a request's head; more are answered 431. Default 100.
    pub headers_max: usize,
    /// A request's head in bytes, at least 8192; more are answered 431. Default 32 KiB.
    pub head_bytes_max: usize,
    /// Open connections, including those taken over. Default 200,000; the program has to raise its
    /// limit of open files (RLIMIT_NOFILE) accordingly.
    pub connections_max: usize,
    /// Connections that wait in the kernel to be accepted. Default 4096.
    pub backlog: u32,
}

impl Default for ListenConfig {
    fn default() -> Self {
        Self {
            header_read_ms: limits::HEADER_TIMEOUT_S.default * 1000,
            idle_ms: limits::CONNECTION_IDLE.as_millis() as u64,
            handshake_ms: limits::TLS_HANDSHAKE_TIMEOUT.as_millis() as u64,
            headers_max: limits::HEAD_FIELDS_MAX,
            head_bytes_max: limits::HEAD_BYTES_MAX,
            connections_max: limits::CONNECTIONS.default as usize,
            backlog: limits::ACCEPT_BACKLOG,
        }
    }
}

/// Where a request comes from, in the extensions of each. All that the connection says of it is in this one, because each more
/// costs an allocation and a place in the table of them.
#[derive(Debug, Clone)]
pub struct RequestOrigin {
    /// The other end of the connection.
    pub peer: SocketAddr,
    /// The client: the other end of the connection, or what the trusted proxies of the listener say of it.
    pub client: IpAddr,
    /// The listener that the connection came by.
    pub listener: ListenerAddr,
    /// Callers without a credential may do everything there.
    pub open: bool,
    /// Whom the client's certificate makes.
    pub(crate) identity: Option<Arc<ClientIdentity>>,
}

/// The listener that a connection came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenerAddr {
    /// What is spoken there.
    pub scheme: Scheme,
    /// What is bound.
    pub address: SocketAddr,
}

/// As a URL without a path.
impl fmt::Display for ListenerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.address)
    }
}

/// An address to be bound, and the TLS that is spoken there.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The address; port 0 lets the kernel choose.
    pub address: SocketAddr,
    /// `None` for plain HTTP. A connection that negotiates `h2` (ALPN) is served HTTP/2, every other one HTTP/1.
    pub tls: Option<TlsConfigs>,
    /// Whom it believes and lets in.
    pub rules: ListenerRules,
}

/// Bound sockets that are not served yet.
///
/// ```
/// use axum::{Router, routing::get};
/// use bellwire_hub::listen::{ListenConfig, Listener};
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let listener = Listener::bind(&["127.0.0.1:0".parse().unwrap()], ListenConfig::default())?;
/// println!("listening on {}", listener.listeners()[0]);
/// let server = listener.serve(Router::new().route("/", get(async || "hello")));
/// server.shutdown(std::time::Duration::from_secs(5)).await;
/// # Ok::<(), std::io::Error>(())
/// # }).unwrap();
/// ```
pub struct Listener {
    sockets: Vec<(TcpListener, Option<TlsConfigs>, ListenerRules)>,
    listeners: Vec<ListenerAddr>,
    config: ListenConfig,
    quota: Option<Arc<Quota>>,
    /// Spawns the tasks that accept connections.
    spawn: Box<dyn Fn(BoxFuture<'static, ()>) + Send + Sync>,
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("listeners", &self.listeners).finish_non_exhaustive()
    }
}

impl Listener {
    /// Binds every address, for plain HTTP; port 0 lets the kernel choose. To be called within a tokio runtime.
    ///
    /// # Errors
    /// When an address cannot be bound; the message names it.
    pub fn bind(addrs: &[SocketAddr], config: ListenConfig) -> io::Result<Self> {
        let plain = |&address: &SocketAddr| Endpoint {
            address,
            tls: None,
            rules: ListenerRules::default(),
        };
        Self::bind_endpoints(addrs.iter().map(plain), config)
    }

    /// Binds every endpoint. To be called within a tokio runtime.
    ///
    /// # Errors
    /// When an address cannot be bound; the message names it.
    pub fn bind_endpoints(
        endpoints: impl IntoIterator<Item = Endpoint>,
        config: ListenConfig,
    ) -> io::Result<Self> {
        let endpoints: Vec<Endpoint> = endpoints.into_iter().collect();
        let addresses: Vec<SocketAddr> =
            endpoints.iter().map(|endpoint| endpoint.address).collect();
        let (mut sockets, mut listeners) = (Vec::new(), Vec::new());
        for Endpoint { address, tls, rules } in endpoints {
            // `[::]` takes the port of every IPv4 address too (RFC 3493, section 5.3), unless one is listed by itself.
            let with_v4 = |other: &SocketAddr| other.is_ipv4() && other.port() == address.port();
            let only_v6 = address.is_ipv6() && addresses.iter().any(with_v4);
            let scheme = if tls.is_some() { Scheme::Https } else { Scheme::Http };
            let socket = bind(address, only_v6, config.backlog).map_err(|error| {
                let listener = ListenerAddr { scheme, address };
                let text = format!("{listener}: {error}{}", what_to_do(error.kind()));
                io::Error::new(error.kind(), text)
            })?;
            listeners.push(ListenerAddr { scheme, address: socket.local_addr()? });
            sockets.push((socket, tls, rules));
        }
        let spawn = Box::new(|task| drop(tokio::spawn(task)));
        Ok(Self { sockets, listeners, config, quota: None, spawn })
    }

    /// Counts the connections of each address.
    pub(crate) fn limited_by(self, quota: Arc<Quota>) -> Self {
        Self { quota: Some(quota), ..self }
    }

    /// Has the tasks that accept connections spawned by another, which notices when one panics.
    pub(crate) fn spawned_by(
        self,
        spawn: impl Fn(BoxFuture<'static, ()>) + Send + Sync + 'static,
    ) -> Self {
        Self { spawn: Box::new(spawn), ..self }
    }

    /// What is bound, in the order of [`Self::bind`].
    pub fn listeners(&self) -> &[ListenerAddr] {
        &self.listeners
    }

    /// Serves until [`Server::shutdown`], or until the [`Server`] is dropped.
    pub fn serve(self, router: Router) -> Server {
        let tally = Arc::new(Tally::default());
        let (stage, stage_receiver) = watch::channel(ServerStage::Serving);
        let config = Arc::new(self.config);
        for ((socket, tls, rules), &listener) in self.sockets.into_iter().zip(&self.listeners) {
            let shared = connection::Shared {
                config: config.clone(),
                tally: tally.clone(),
                stage: stage_receiver.clone(),
                listener,
                rules: Arc::new(rules),
                tls,
                quota: self.quota.clone(),
            };
            (self.spawn)(Box::pin(accept_all(socket, shared, router.clone())));
        }
        Server { listeners: self.listeners, stage, tally }
    }
}

fn bind(addr: SocketAddr, only_v6: bool, backlog: u32) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restarted hub must not wait for the old connections of its address to time out.
    socket.set_reuseaddr(true)?;
    if only_v6 {
        SockRef::from(&socket).set_only_v6(true)?;
    }
    // Accepted sockets inherit it: one system call less for each.
    socket.set_nodelay(true)?;
    // Inherited as well. It detects a dead peer to which nothing is written: a classic listener
    // without keepalive comments would hold its token for ever (contract, section 10). The kernel
    // gives up after `TCP_USER_TIMEOUT`, or nine probes.
    let probes = TcpKeepalive::new()
        .with_time(limits::TCP_KEEPALIVE_IDLE)
        .with_interval(limits::TCP_KEEPALIVE_INTERVAL);
    SockRef::from(&socket).set_tcp_keepalive(&probes)?;
    socket.bind(addr)?;
    socket.listen(backlog)
}

/// What an operator can do about an address that cannot be bound.
fn what_to_do(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::AddrInUse => {
            ". Another program listens there (ss -ltnp shows which): end it, or choose another port"
        }
        io::ErrorKind::AddrNotAvailable => {
            ". No interface of this machine has this address (ip address)"
        }
        io::ErrorKind::PermissionDenied => {
            ". Ports below 1024 need the capability CAP_NET_BIND_SERVICE, which packaging/bellwire-hub.service gives: or \
             choose a higher port"
        }
        _ => "",
    }
}

/// The stage of a server's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ServerStage {
    Serving,
    /// Accepts no connections and finishes the requests in flight.
    Draining,
    /// Drops what is in flight.
    Aborting,
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    listeners: Vec<ListenerAddr>,
    stage: watch::Sender<ServerStage>,
    tally: Arc<Tally>,
}

impl Server {
    /// What is served, in the order of [`Listener::bind`].
    pub fn listeners(&self) -> &[ListenerAddr] {
        &self.listeners
    }

    /// Counters since the start, for metrics.
    pub fn counts(&self) -> ListenCounts {
        self.tally.snapshot()
    }

    /// Stops accepting, lets the requests in flight end within `grace`, then drops the others.
    /// Connections that were taken over belong to the plane and are not touched.
    pub async fn shutdown(self, grace: Duration) {
        self.stage.send_replace(ServerStage::Draining);
        if tokio::time::timeout(grace, self.stage.closed()).await.is_err() {
            self.stage.send_replace(ServerStage::Aborting);
            self.stage.closed().await;
        }
    }
}

/// The pause after an accept that failed for lack of a resource, usually open files, until some are
/// free again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

async fn accept_all(socket: TcpListener, shared: connection::Shared, router: Router) {
    let mut stage = shared.stage.clone();
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            _ = stage.wait_for(|stage| *stage != ServerStage::Serving) => return,
        };
        match accepted {
            Ok((stream, addr)) => admit(stream, addr, &shared, &router),
            Err(error) => {
                shared.tally.accept_errors.fetch_add(1, Relaxed);
                if !concerns_one_connection(&error) {
                    if let Some(failed) = shared.tally.unaccepted.occurred(Instant::now()) {
                        tracing::warn!(
                            %error, failed,
                            "cannot accept connections; each is tried again. If files are short: raise their limit \
                             (ulimit -n, LimitNOFILE=)"
                        );
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

fn admit(stream: TcpStream, addr: SocketAddr, shared: &connection::Shared, router: &Router) {
    let guard = ConnectionGuard::new(&shared.tally.open);
    let (open, connections_max) = (shared.tally.open.load(Relaxed), shared.config.connections_max);
    if open > connections_max {
        shared.tally.refused.fetch_add(1, Relaxed);
    }
    if is_near(open, connections_max) && shared.tally.crowded.occurred(Instant::now()).is_some() {
        let refused = shared.tally.refused.load(Relaxed);
        tracing::warn!(
            open,
            connections_max,
            refused,
            "few connections more can be accepted: raise connections_max, or the limit of open files if that is lower \
             (ulimit -Hn, LimitNOFILE=)"
        );
    }
    if open > connections_max {
        return;
    }
    // Closed without a word: an answer would take what is to be saved.
    let Some(share) = shared.take_connection(addr.ip()) else { return };
    let guard = guard.with(share);
    shared.tally.accepted.fetch_add(1, Relaxed);
    tokio::spawn(connection::serve(stream, addr, guard, shared.clone(), router.clone()));
}

/// Nine of ten connections that are allowed are open.
fn is_near(open: usize, connections_max: usize) -> bool {
    open >= connections_max - connections_max / 10
}

/// Whether the failure concerns only the connection that would have been accepted.
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// A snapshot of the counters of a [`Server`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenCounts {
    /// Connections open now, including those taken over.
    pub open: usize,
    /// Connections accepted and served.
    pub accepted: u64,
    /// Connections closed at once because of [`ListenConfig::connections_max`].
    pub refused: u64,
    /// Accepts that failed.
    pub accept_errors: u64,
    /// TLS handshakes that failed or took too long.
    pub handshakes_failed: u64,
    /// Connections of trusted proxies that did not begin with a valid header of the PROXY protocol.
    pub proxy_headers_refused: u64,
    /// Requests whose head took too long.
    pub header_timeouts: u64,
    /// Connections given to the plane.
    pub taken_over: u64,
    /// Bytes that clients had sent behind a request whose connection was taken over; they are
    /// dropped.
    pub pipelined_bytes_dropped: u64,
}

#[derive(Debug, Default)]
struct Tally {
    open: Arc<AtomicUsize>,
    accepted: AtomicU64,
    refused: AtomicU64,
    accept_errors: AtomicU64,
    handshakes_failed: AtomicU64,
    proxy_headers_refused: AtomicU64,
    header_timeouts: AtomicU64,
    taken_over: AtomicU64,
    pipelined_bytes_dropped: AtomicU64,
    /// Lines of the log.
    unaccepted: Paced,
    crowded: Paced,
    greedy: Paced,
    headerless: Paced,
}

impl Tally {
    fn snapshot(&self) -> ListenCounts {
        ListenCounts {
            open: self.open.load(Relaxed),
            accepted: self.accepted.load(Relaxed),
            refused: self.refused.load(Relaxed),
            accept_errors: self.accept_errors.load(Relaxed),
            handshakes_failed: self.handshakes_failed.load(Relaxed),
            proxy_headers_refused: self.proxy_headers_refused.load(Relaxed),
            header_timeouts: self.header_timeouts.load(Relaxed),
            taken_over: self.taken_over.load(Relaxed),
            pipelined_bytes_dropped: self.pipelined_bytes_dropped.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// A task of tokio's own that accepts connections ends with a panic unnoticed.
    #[tokio::test]
    async fn each_address_is_accepted_on_by_a_task_of_the_spawner() {
        let spawned = Arc::new(AtomicUsize::new(0));
        let count = spawned.clone();
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = Listener::bind(&[loopback; 2], ListenConfig::default()).unwrap();
        let listener = listener.spawned_by(move |task| {
            count.fetch_add(1, Relaxed);
            drop(tokio::spawn(task));
        });
        let server = listener.serve(Router::new());
        assert_eq!(spawned.load(Relaxed), 2);
        server.shutdown(Duration::from_secs(5)).await;
    }
}
