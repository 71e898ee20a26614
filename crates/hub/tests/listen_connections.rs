//! The properties of the listener, by raw bytes over real sockets.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is the message")]

mod plane_support;

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::{get, post};
use bellwire_hub::listen::{
    Endpoint, ListenConfig, ListenCounts, Listener, ListenerRules, RequestOrigin, Server,
};
use bellwire_hub::plane::{
    CloseReason, Frame, Plane, Receipt, StreamEvent, StreamHead, StreamId, StreamOptions,
};
use plane_support::*;

const GET: &str = "GET /stream HTTP/1.1\r\nHost: hub\r\n\r\n";

/// A hub of two routes: `/stream` opens a stream, `/echo` answers with its body.
struct Hub {
    runtime: tokio::runtime::Runtime,
    server: Option<Server>,
    addr: SocketAddr,
    world: World,
    opened: Receiver<StreamId>,
}

#[derive(Clone)]
struct Handles {
    plane: Plane,
    opened: SyncSender<StreamId>,
}

async fn stream(State(handles): State<Handles>, request: Request) -> Response {
    let id = handles.plane.reserve(StreamOptions::default());
    handles.plane.send(id, Frame::new(b"event: hello\n\n"), Receipt::None);
    handles.opened.send(id).unwrap();
    handles.plane.respond(&request.into_parts().0, id, StreamHead::event_stream()).await
}

fn router(plane: Plane) -> (Router, Receiver<StreamId>) {
    let (sender, opened) = sync_channel(100);
    let handles = Handles { plane, opened: sender };
    let router = Router::new()
        .route("/stream", get(stream))
        .route("/echo", post(async |body: String| body))
        .route(
            "/who",
            get(async |request: Request| {
                request.extensions().get::<RequestOrigin>().unwrap().peer.to_string()
            }),
        )
        .route(
            "/late",
            get(async || {
                for _ in 0..10 {
                    tokio::task::yield_now().await;
                }
                "late"
            }),
        )
        .route("/wait", get(async || std::future::pending::<()>().await))
        .with_state(handles);
    (router, opened)
}

impl Hub {
    fn new() -> Self {
        Self::with(ListenConfig::default(), None)
    }

    fn with(config: ListenConfig, tls: Option<rustls::ServerConfig>) -> Self {
        let world = World::new();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (router, opened) = router(world.plane.clone());
        let server = runtime.block_on(async {
            let tls = tls.map(|tls| tokio::sync::watch::channel(Arc::new(tls)).1);
            let rules = ListenerRules::default();
            let endpoint = Endpoint { address: "127.0.0.1:0".parse().unwrap(), tls, rules };
            let listener = Listener::bind_endpoints([endpoint], config).unwrap();
            listener.serve(router)
        });
        let addr = server.listeners()[0].address;
        Self { runtime, server: Some(server), addr, world, opened }
    }

    fn connect(&self) -> TcpStream {
        connect(self.addr)
    }

    fn opened(&self) -> StreamId {
        self.opened.recv_timeout(PATIENCE).expect("a stream should have been opened")
    }

    fn counts(&self) -> ListenCounts {
        self.server.as_ref().unwrap().counts()
    }

    fn shut_down(&mut self, grace: Duration) {
        self.runtime.block_on(self.server.take().unwrap().shutdown(grace));
    }
}

/// Polls the counters until the condition holds.
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        std::thread::yield_now();
    }
}

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
    Cache-Control: no-store, no-transform\r\nX-Accel-Buffering: no\r\n\
    Date: Tue, 14 Nov 2023 22:13:20 GMT\r\n";

#[test]
fn a_stream_taken_over_is_exactly_the_head_and_the_frames() {
    let hub = Hub::new();
    let mut client = hub.connect();
    write(&mut client, GET);
    let expected = format!(
        "{HEAD}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\ne\r\nevent: hello\n\n\r\n"
    );
    assert_eq!(read_until(&mut client, "hello\n\n\r\n"), expected);
    let id = hub.opened();
    hub.world.settle();
    assert_eq!(hub.world.plane.counts().writes, 1);
    hub.world.plane.close(id, None, CloseReason::Ended);
    assert_eq!(read_to_end(&mut client), "0\r\n\r\n");
    assert_eq!(hub.counts().taken_over, 1);
}

#[test]
fn an_http_1_0_client_gets_bare_bytes_until_the_connection_closes() {
    let hub = Hub::new();
    let mut client = hub.connect();
    write(&mut client, "GET /stream HTTP/1.0\r\n\r\n");
    let expected = format!("{HEAD}Connection: close\r\n\r\nevent: hello\n\n");
    assert_eq!(read_until(&mut client, "hello\n\n"), expected);
    hub.world.plane.close(hub.opened(), Some(Frame::new(b"bye\n\n")), CloseReason::Ended);
    assert_eq!(read_to_end(&mut client), "bye\n\n");
}

#[test]
fn a_connection_kept_alive_serves_requests_and_then_becomes_a_stream() {
    let hub = Hub::new();
    let mut client = hub.connect();
    for _ in 0..3 {
        write(&mut client, "GET /who HTTP/1.1\r\nHost: hub\r\n\r\n");
        let addr = client.local_addr().unwrap().to_string();
        assert!(read_until(&mut client, &addr).starts_with("HTTP/1.1 200 OK\r\n"));
    }
    write(&mut client, GET);
    read_until(&mut client, "event: hello\n\n\r\n");
    assert_eq!(hub.counts().accepted, 1);
}

#[test]
fn answers_before_the_stream_arrive_whole_when_all_is_pipelined() {
    let hub = Hub::new();
    let mut client = hub.connect();
    let body = "b".repeat(1 << 20);
    let post =
        format!("POST /echo HTTP/1.1\r\nHost: hub\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let mut writer = client.try_clone().unwrap();
    let writing = std::thread::spawn(move || write(&mut writer, &format!("{post}{GET}{GET}")));
    let read = read_until(&mut client, "event: hello\n\n\r\n");
    assert!(read.contains(&format!("\r\n\r\n{body}HTTP/1.1 200 OK\r\n")), "the echo was cut");
    writing.join().unwrap();
    hub.opened();
    // The second stream was requested by a client that could not have read its answer.
    assert_eq!(hub.world.plane.counts().open, 1);
}

#[test]
fn bytes_pipelined_behind_a_stream_are_dropped_and_counted() {
    let hub = Hub::new();
    let mut client = hub.connect();
    write(&mut client, &format!("{GET}GET /who HTTP/1.1\r\n\r\n"));
    read_until(&mut client, "event: hello\n\n\r\n");
    assert_eq!(hub.counts().pipelined_bytes_dropped, 21);
    hub.world.plane.close(hub.opened(), None, CloseReason::Ended);
    assert_eq!(read_to_end(&mut client), "0\r\n\r\n");
}

#[test]
fn head_gets_the_head_and_no_stream() {
    let hub = Hub::new();
    let mut client = hub.connect();
    write(&mut client, "HEAD /stream HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n");
    let head = read_to_end(&mut client);
    assert!(head.starts_with("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"), "{head}");
    assert!(head.ends_with("\r\n\r\n"), "{head}");
    assert_eq!(hub.world.event(), closed(hub.opened(), CloseReason::Ended));
}

#[test]
fn a_client_that_disconnects_ends_its_stream_and_its_count() {
    let hub = Hub::new();
    let mut client = hub.connect();
    write(&mut client, GET);
    read_until(&mut client, "event: hello\n\n\r\n");
    assert_eq!(hub.counts().open, 1);
    drop(client);
    let id = hub.opened();
    match hub.world.event() {
        StreamEvent::Closed { stream, .. } if stream == id => (),
        other => panic!("{other:?} instead of the end of {id:?}"),
    }
    eventually("a closed stream is counted as an open connection", || hub.counts().open == 0);
}

#[test]
fn a_head_that_takes_too_long_is_answered_408() {
    let config = ListenConfig { header_read_ms: 50, ..ListenConfig::default() };
    let hub = Hub::with(config, None);
    let mut client = hub.connect();
    write(&mut client, "GET /who HTTP/1.1\r\nHost");
    let expected = "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(read_to_end(&mut client), expected);
    assert_eq!(hub.counts().header_timeouts, 1);
    // A connection that sends nothing at all is closed too.
    assert_eq!(read_to_end(&mut hub.connect()), "");
}

#[test]
fn an_idle_connection_is_closed_and_a_busy_one_is_not() {
    let config = ListenConfig { header_read_ms: 10, idle_ms: 20, ..ListenConfig::default() };
    let mut hub = Hub::with(config, None);
    let mut busy = hub.connect();
    write(&mut busy, "GET /wait HTTP/1.1\r\nHost: hub\r\n\r\n");
    let mut idle = hub.connect();
    write(&mut idle, "GET /who HTTP/1.1\r\nHost: hub\r\n\r\n");
    let answer = read_to_end(&mut idle);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    eventually("the idle connection is still counted", || hub.counts().open == 1);
    hub.shut_down(Duration::ZERO);
}

#[test]
fn beyond_the_limit_a_connection_is_closed_and_a_free_slot_is_reused() {
    let config = ListenConfig { connections_max: 1, ..ListenConfig::default() };
    let hub = Hub::with(config, None);
    let mut first = hub.connect();
    write(&mut first, GET);
    read_until(&mut first, "event: hello\n\n\r\n");
    assert_eq!(read_to_end(&mut hub.connect()), "");
    assert_eq!(hub.counts().refused, 1);
    drop(first);
    eventually("the slot is not released", || hub.counts().open == 0);
    let mut second = hub.connect();
    write(&mut second, GET);
    read_until(&mut second, "event: hello\n\n\r\n");
}

#[test]
fn a_half_closed_client_is_still_answered() {
    // `nc -N` once got no answer to a command that was stored: its FIN dropped the handler.
    let hub = Hub::new();
    let mut client = hub.connect();
    write(&mut client, "GET /late HTTP/1.1\r\nHost: hub\r\n\r\n");
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let answer = read_to_end(&mut client);
    assert!(answer.ends_with("\r\n\r\nlate"), "{answer:?}");
    // A client that has disconnected is not waited for.
    let mut client = hub.connect();
    write(&mut client, "GET /wait HTTP/1.1\r\nHost: hub\r\n\r\n");
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut client), "");
}

#[test]
fn a_head_past_its_bounds_is_answered_431() {
    let hub = Hub::new();
    for head in [
        format!("GET /who HTTP/1.1\r\nHost: hub\r\n{}\r\n", "a: b\r\n".repeat(101)),
        format!("GET /who HTTP/1.1\r\nHost: hub\r\na: {}\r\n\r\n", "b".repeat(64 * 1024)),
        // A head that arrived by one read was served up to twice the bound.
        format!("GET /who HTTP/1.1\r\nHost: hub\r\na: {}\r\n\r\n", "b".repeat(40_000)),
        head_of(32 * 1024 + 1),
    ] {
        let mut client = hub.connect();
        write(&mut client, &head);
        let answer = read_until(&mut client, "\r\n");
        assert_eq!(answer, "HTTP/1.1 431 Request Header Fields Too Large\r\n");
    }
    let mut client = hub.connect();
    write(&mut client, &head_of(32 * 1024));
    assert_eq!(read_until(&mut client, "\r\n"), "HTTP/1.1 200 OK\r\n");
}

/// A head of exactly so many bytes.
fn head_of(bytes: usize) -> String {
    let rest = "GET /who HTTP/1.1\r\nHost: hub\r\na: \r\n\r\n".len();
    format!("GET /who HTTP/1.1\r\nHost: hub\r\na: {}\r\n\r\n", "b".repeat(bytes - rest))
}

#[test]
fn a_drain_finishes_what_is_in_flight_and_leaves_streams_to_the_plane() {
    let mut hub = Hub::new();
    let mut streaming = hub.connect();
    write(&mut streaming, GET);
    read_until(&mut streaming, "event: hello\n\n\r\n");
    let mut idle = hub.connect();
    write(&mut idle, "GET /who HTTP/1.1\r\nHost: hub\r\n\r\n");
    let addr = idle.local_addr().unwrap().to_string();
    read_until(&mut idle, &addr);
    let mut posting = hub.connect();
    write(
        &mut posting,
        "POST /echo HTTP/1.1\r\nHost: hub\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n",
    );
    // The handler has begun when it reads the body.
    assert_eq!(read_until(&mut posting, "\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
    let addr = hub.addr;
    let finishing = std::thread::spawn(move || {
        // The end of the idle connection shows that the drain has begun.
        assert_eq!(read_to_end(&mut idle), "");
        write(&mut posting, "last");
        let answer = read_to_end(&mut posting);
        assert!(answer.ends_with("\r\n\r\nlast"), "{answer}");
    });
    hub.shut_down(PATIENCE);
    finishing.join().unwrap();
    assert!(TcpStream::connect(addr).is_err(), "the address is still bound");
    hub.world.plane.send(hub.opened(), Frame::new(b"data: on\n\n"), Receipt::None);
    assert_eq!(read_until(&mut streaming, "on\n\n"), "a\r\ndata: on\n\n");
}

#[test]
fn a_request_that_never_ends_is_dropped_after_the_grace() {
    let mut hub = Hub::new();
    let mut client = hub.connect();
    write(&mut client, "GET /wait HTTP/1.1\r\nHost: hub\r\n\r\n");
    eventually("the connection is not accepted", || hub.counts().open == 1);
    hub.shut_down(Duration::from_millis(10));
    let mut rest = Vec::new();
    // An end or a reset: the connection is closed.
    let _ = client.read_to_end(&mut rest);
    assert_eq!(rest, b"");
}

/// Runs itself again in a process that may open few files: the limit is the process's own.
/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl tracing_subscriber::fmt::MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[test]
fn running_out_of_files_refuses_newcomers_and_never_ends_the_loop() {
    const NAME: &str = "running_out_of_files_refuses_newcomers_and_never_ends_the_loop";
    if std::env::var_os("FEW_FILES").is_none() {
        // Its output is hidden from the report of the tests, which would count it as a run.
        let run = std::process::Command::new("sh")
            .args(["-c", "ulimit -n 64 && exec \"$0\" --exact \"$1\""])
            .arg(std::env::current_exe().unwrap())
            .arg(NAME)
            .env("FEW_FILES", "1")
            .output()
            .unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stdout));
        return;
    }
    let log = Log::default();
    tracing_subscriber::fmt().with_ansi(false).with_writer(log.clone()).init();
    let hub = Hub::new();
    // Clients and server share the limit, so the last of these wait in the kernel unaccepted.
    let clients: Vec<_> = std::iter::from_fn(|| TcpStream::connect(hub.addr).ok()).collect();
    eventually("no accept failed", || hub.counts().accept_errors > 10);
    // Each of them was a line of the log, ten in a second.
    let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert_eq!(logged.matches("cannot accept connections").count(), 1, "{logged}");
    drop(clients);
    let mut client = hub.connect();
    write(&mut client, GET);
    read_until(&mut client, "event: hello\n\n\r\n");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the very server that is not ours")]
fn a_router_mounted_in_another_server_streams_through_its_response_body() {
    let world = World::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (router, opened) = router(world.plane.clone());
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let addr = listener.local_addr().unwrap();
    runtime.spawn(async { axum::serve(listener, router).await });
    let mut client = connect(addr);
    write(&mut client, GET);
    let answer = read_until(&mut client, "event: hello\n\n\r\n");
    assert!(answer.contains("\r\ncontent-type: text/event-stream\r\n"), "{answer}");
    let id = opened.recv_timeout(PATIENCE).unwrap();
    world.plane.send(id, Frame::new(b"data: 1\n\n"), Receipt::Written(9));
    assert_eq!(read_until(&mut client, "1\n\n\r\n"), "9\r\ndata: 1\n\n\r\n");
    assert_eq!(world.event(), StreamEvent::Written { stream: id, tag: 9 });
    drop(client);
    assert_eq!(world.event(), closed(id, CloseReason::PeerClosed));
}

#[test]
fn a_body_without_a_reader_is_bounded_like_a_socket() {
    let world = World::new();
    let id = world.plane.reserve(StreamOptions::default());
    let body = world.plane.respond_with_body(id);
    let frame = Frame::new(&[b'x'; 64 * 1024]);
    let mut taken = 0;
    while world.plane.counts().closed_as(CloseReason::Overloaded) == 0 {
        world.plane.send(id, frame.clone(), Receipt::Buffered(taken));
        match world.event() {
            StreamEvent::Buffered { .. } => taken += 1,
            event => assert_eq!(event, closed(id, CloseReason::Overloaded)),
        }
    }
    assert_eq!(taken, 17, "1 MiB and a frame, of which the body holds one");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let collected = runtime.block_on(http_body_util::BodyExt::collect(body)).unwrap();
    assert_eq!(collected.to_bytes().len(), 17 * 64 * 1024);
}

fn fixture(name: &str) -> String {
    format!("{}/tests/fixtures/tls/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn tls_server() -> rustls::ServerConfig {
    use rustls_pki_types::pem::PemObject;
    let certificate = rustls_pki_types::CertificateDer::from_pem_file(fixture("cert.pem")).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::from_pem_file(fixture("key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap()
}

type TlsClient = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

fn tls_client(socket: TcpStream) -> TlsClient {
    use rustls_pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls_pki_types::CertificateDer::from_pem_file(fixture("ca.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "localhost".try_into().unwrap();
    let session = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    rustls::StreamOwned::new(session, socket)
}

#[test]
fn a_tls_connection_is_taken_over_with_its_session() {
    let hub = Hub::with(ListenConfig::default(), Some(tls_server()));
    let mut client = tls_client(hub.connect());
    write(&mut client, GET);
    read_until(&mut client, "event: hello\n\n\r\n");
    let id = hub.opened();
    // More than a record, more than a socket's buffer: the order and the bound hold here too.
    let body = vec![b'x'; 32 << 20];
    hub.world.plane.send(id, Frame::new(&body), Receipt::Written(1));
    hub.world.settle();
    assert_eq!(read_until(&mut client, "\r\n"), "2000000\r\n");
    assert!(read_exactly(&mut client, 32 << 20) == body, "the bytes were changed");
    assert_eq!(hub.world.event(), StreamEvent::Written { stream: id, tag: 1 });
    hub.world.plane.send(id, Frame::new(b"data: after\n\n"), Receipt::Written(2));
    assert_eq!(hub.world.event(), StreamEvent::Written { stream: id, tag: 2 });
    hub.world.plane.close(id, Some(Frame::new(b"bye\n\n")), CloseReason::Ended);
    let rest = "\r\nd\r\ndata: after\n\n\r\n5\r\nbye\n\n\r\n0\r\n\r\n";
    assert_eq!(read_to_end(&mut client), rest);
}

#[test]
fn a_tls_client_that_sends_close_notify_ends_its_stream() {
    let hub = Hub::with(ListenConfig::default(), Some(tls_server()));
    let mut client = tls_client(hub.connect());
    write(&mut client, GET);
    read_until(&mut client, "event: hello\n\n\r\n");
    client.conn.send_close_notify();
    client.conn.complete_io(&mut client.sock).unwrap();
    assert_eq!(hub.world.event(), closed(hub.opened(), CloseReason::PeerClosed));
}

#[test]
fn a_client_that_speaks_no_tls_or_nothing_is_closed() {
    let config = ListenConfig { handshake_ms: 50, ..ListenConfig::default() };
    let hub = Hub::with(config, Some(tls_server()));
    let mut plain = hub.connect();
    write(&mut plain, GET);
    let mut alert = Vec::new();
    // The alert, if it came before the reset, is not text.
    let _ = plain.read_to_end(&mut alert);
    let mut silent = hub.connect();
    assert_eq!(read_to_end(&mut silent), "");
    eventually("the failures are not counted", || hub.counts().handshakes_failed == 2);
}
