//! The real network: TLS, and proxies by the environment and by setting. Names such as `hub.test` exist at the proxy alone, so
//! that a client which resolves one, or bypasses the proxy, fails.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is the failure message")]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use bellwire_client::event_source::{Builder, Error, Retry};
use bellwire_client::transport::{HttpTransport, HttpTransportBuilder, TransportStage};
use bellwire_client::{Controller, EventSource};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use support::{Exchange, Server, Tail, within};
use tokio::io::{AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// An authority, and a certificate of its for `hub.test`, made for these tests and good until 2126:
/// `openssl req -x509 …` and `openssl x509 -req …`.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A proxy in front of one origin, to which it connects for every host.
struct Proxy {
    address: std::net::SocketAddr,
    requests: Requests,
}

/// What a proxy that requires a user and password answers without them.
const CHALLENGE: &str = "HTTP/1.1 407 Proxy Authentication Required\r\n\
                         proxy-authenticate: Basic realm=\"a proxy\"\r\ncontent-length: 0\r\n\r\n";

/// The first line of each request, and its `Proxy-Authorization`.
type Requests = Arc<Mutex<Vec<(String, Option<String>)>>>;

impl Proxy {
    async fn start(origin: std::net::SocketAddr) -> Self {
        Self::start_requiring(origin, false).await
    }

    /// As [`Proxy::start`]; with a password it answers 407 to a request without one.
    async fn start_requiring(origin: std::net::SocketAddr, password: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self { address: listener.local_addr().unwrap(), requests: Arc::default() };
        let requests = proxy.requests.clone();
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                tokio::spawn(Self::serve(socket, origin, requests.clone(), password));
            }
        });
        proxy
    }

    async fn serve(
        mut socket: TcpStream,
        origin: std::net::SocketAddr,
        requests: Requests,
        password: bool,
    ) {
        let request = loop {
            let mut request = Exchange::read(&mut socket).await;
            let authorization = request.header("proxy-authorization").map(str::to_owned);
            let line = format!("{} {}", request.method, request.target);
            let is_refused = password && authorization.is_none();
            requests.lock().unwrap().push((line, authorization));
            if !is_refused {
                break request;
            }
            request.send(CHALLENGE).await;
        };
        let mut upstream = TcpStream::connect(origin).await.unwrap();
        if request.method == "CONNECT" {
            drop(request);
            socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        } else {
            let (_, path) = request.target.split_once("//").unwrap().1.split_once('/').unwrap();
            let mut head = format!("{} /{path} HTTP/1.1\r\n", request.method);
            for (name, value) in &request.headers {
                head += &format!("{name}: {value}\r\n");
            }
            drop(request);
            upstream.write_all((head + "\r\n").as_bytes()).await.unwrap();
        }
        // Either side ends it.
        let _ = copy_bidirectional(&mut socket, &mut upstream).await;
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().iter().map(|(line, _)| line.clone()).collect()
    }
}

/// An origin with TLS that answers each request with one event and stays open.
async fn start_tls_origin() -> std::net::SocketAddr {
    start_tls_origin_of(&[]).await
}

/// As [`start_tls_origin`], with these protocols to choose from. It uses HTTP/1.1 whatever was chosen.
async fn start_tls_origin_of(protocols: &[&str]) -> std::net::SocketAddr {
    let certificates = CertificateDer::pem_file_iter(fixture("hub.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(fixture("hub.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificates.map(Result::unwrap).collect(), key)
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that does not trust the certificate ends the handshake.
                let Ok(socket) = acceptor.accept(socket).await else {
                    return;
                };
                let mut request = Exchange::read(socket).await;
                request.open_stream().await;
                request.send("data: over TLS\n\n").await;
                request.dropped().await;
            });
        }
    });
    address
}

fn source(url: impl AsRef<str>, transport: HttpTransportBuilder) -> Builder {
    EventSource::builder(url).transport(transport.build().unwrap()).retry(Retry::never())
}

#[tokio::test]
async fn the_platforms_authorities_are_trusted_and_a_file_adds_one() {
    let origin = start_tls_origin().await;
    let url = format!("https://{origin}/");
    let direct = || HttpTransport::builder().no_proxy();

    let mut tail = Tail::start(source(&url, direct()));
    let error = tail.gave_up().await;
    assert!(
        matches!(&error, Error::Transport(e) if e.stage() == TransportStage::Untrusted),
        "{error}"
    );
    assert!(error.to_string().contains("certificate"), "the cause is reported: {error}");

    let mut tail = Tail::start(source(&url, direct().ca_file(fixture("ca.pem"))));
    assert_eq!(tail.data().await, "over TLS");

    let mut tail = Tail::start(source(&url, direct().danger_accept_invalid_certs(true)));
    assert_eq!(tail.data().await, "over TLS");
}

/// As a captive portal on port 443.
#[tokio::test]
async fn a_server_without_tls_on_an_https_port_is_untrusted() {
    let server = Server::start().await;
    let url = server.url("/").replace("http://", "https://");
    let mut tail = Tail::start(source(url, HttpTransport::builder().no_proxy()));
    server.accept_and_send(b"HTTP/1.1 200 OK\r\n\r\n<html>Welcome</html>").await;
    let error = tail.gave_up().await;
    assert!(
        matches!(&error, Error::Transport(e) if e.stage() == TransportStage::Untrusted),
        "{error}"
    );
}

/// On one connection that all requests shared, a dead stream blocked every later report.
#[tokio::test]
async fn with_http_1_alone_each_request_in_flight_has_a_connection_of_its_own() {
    let origin = start_tls_origin_of(&["h2", "http/1.1"]).await;
    let proxy = Proxy::start(origin).await;
    let transport = HttpTransport::builder().proxy(proxy.url()).ca_file(fixture("ca.pem"));
    let transport = transport.http1(true).build().unwrap();
    let tail = |path: &str| {
        let source = EventSource::builder(format!("https://hub.test/{path}"));
        Tail::start(source.transport(transport.clone()).retry(Retry::never()))
    };
    let (mut stream, mut beside) = (tail("stream"), tail("beside"));
    assert_eq!((stream.data().await, beside.data().await), ("over TLS".into(), "over TLS".into()));
    assert_eq!(proxy.requests(), ["CONNECT hub.test:443"; 2]);
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let origin = start_tls_origin().await;
    let url = format!("https://localhost:{}/", origin.port());
    let transport = HttpTransport::builder().no_proxy().ca_file(fixture("ca.pem"));
    let error = Tail::start(source(url, transport)).gave_up().await;
    assert!(error.to_string().contains("certificate"), "{error}");
}

#[tokio::test]
async fn a_file_without_a_certificate_is_named() {
    for file in ["hub.key", "missing.pem"] {
        let error = HttpTransport::builder().ca_file(fixture(file)).build().unwrap_err();
        assert!(error.to_string().contains(file), "{error}");
    }
}

#[tokio::test]
async fn a_proxy_that_is_set_carries_plain_http_with_its_password() {
    let server = Server::start().await;
    let proxy = Proxy::start_requiring(server.address(), true).await;
    let url = proxy.url().replace("http://", "http://user:secret@");
    let transport = HttpTransport::builder().proxy(url);
    assert!(!format!("{transport:?}").contains("secret"));
    let mut tail = Tail::start(source("http://hub.test/events", transport));
    let mut request = server.request().await;
    assert_eq!(request.header("host"), Some("hub.test"));
    request.open_stream().await;
    request.send("data: a\n\n").await;
    assert_eq!(tail.data().await, "a");
    // Only in answer to a challenge: "user:secret" in Base64.
    let get = |authorization| ("GET http://hub.test/events".to_owned(), authorization);
    let expected = [get(None), get(Some("Basic dXNlcjpzZWNyZXQ=".to_owned()))];
    assert_eq!(*proxy.requests.lock().unwrap(), expected);
    // What is sent later is not buffered either.
    request.send("data: b\n\n").await;
    assert_eq!(tail.data().await, "b");
    tail.drop_source();
    request.dropped().await;
}

#[tokio::test]
async fn a_proxy_that_is_set_tunnels_https() {
    let origin = start_tls_origin().await;
    let proxy = Proxy::start(origin).await;
    let transport = HttpTransport::builder().proxy(proxy.url()).ca_file(fixture("ca.pem"));
    let mut tail = Tail::start(source("https://hub.test/events", transport));
    assert_eq!(tail.data().await, "over TLS");
    assert_eq!(proxy.requests(), ["CONNECT hub.test:443"]);
}

#[tokio::test]
async fn hosts_can_be_excepted_from_a_proxy_that_is_set() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let transport = HttpTransport::builder().proxy_except(proxy.url(), "other.test,127.0.0.0/8");
    let mut tail = Tail::start(source(server.url("/"), transport));
    let mut request = server.request().await;
    request.open_stream().await;
    request.send("data: a\n\n").await;
    assert_eq!(tail.data().await, "a");
    assert!(proxy.requests().is_empty(), "{:?}", proxy.requests());
}

/// A proxy that required a password was reported as a hub that cannot be reached.
#[tokio::test]
async fn answers_of_a_proxy_to_connect_are_distinguished() {
    for (answer, stage) in [
        (
            "407 Proxy Authentication Required\nproxy-authenticate: Basic",
            TransportStage::ProxyAuthentication,
        ),
        ("403 Forbidden", TransportStage::ProxyRefused),
        ("302 Found\nlocation: http://portal.test/", TransportStage::ProxyRefused),
        ("502 Bad Gateway", TransportStage::ProxyRefused),
        ("503 Service Unavailable", TransportStage::ProxyRefused),
    ] {
        let proxy = Server::start().await;
        let transport = HttpTransport::builder().proxy(proxy.url(""));
        let mut tail = Tail::start(source("https://hub.test/", transport));
        let request = proxy.request().await;
        assert_eq!((request.method.as_str(), request.target.as_str()), ("CONNECT", "hub.test:443"));
        request.answer(answer, "").await;
        let error = tail.gave_up().await;
        assert!(matches!(&error, Error::Transport(e) if e.stage() == stage), "{answer}: {error}");
    }
    let gone = Server::start().await.url("");
    let transport = HttpTransport::builder().proxy(gone);
    let error = Tail::start(source("https://hub.test/", transport)).gave_up().await;
    assert!(
        matches!(&error, Error::Transport(e) if e.stage() == TransportStage::Connect),
        "{error}"
    );
}

/// Not a test by itself: the tests below run it in a process of its own with another environment. Prints the first event of a
/// stream and the hub that answers a ping, both with default settings.
#[tokio::test]
async fn child() {
    let Ok(url) = std::env::var("BELLWIRE_TEST_URL") else {
        return;
    };
    let mut builder = EventSource::builder(format!("{url}/events")).retry(Retry::never());
    if let Ok(ca_file) = std::env::var("BELLWIRE_TEST_CA") {
        builder = builder.transport(HttpTransport::builder().ca_file(ca_file).build().unwrap());
    }
    let event = builder.build().unwrap().next_event().await.unwrap().unwrap();
    println!("first event: {}", event.data());
    if url.starts_with("http:") {
        let pong = Controller::new(url).unwrap().ping().await.unwrap();
        println!("answered by: {}", pong.hub);
    }
}

/// Runs `child` with this environment alone; returns its output.
async fn run_child(variables: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["child", "--exact", "--nocapture"]);
    command.env_clear().envs(variables.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = within("the child to end", child).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// Answers as a hub: a stream's request with an event, a ping with its nonce.
async fn serve_as_hub(server: &Server) {
    let mut stream = server.request().await;
    assert_eq!(stream.target, "/events");
    stream.open_stream().await;
    stream.send("data: here I am\n\n").await;
    stream.dropped().await;
    let ping = server.request().await;
    let nonce = ping.path_and_query().1.strip_prefix("nonce=").unwrap().to_owned();
    let body = format!(r#"{{"hub":"bellwire/test","nonce":"{nonce}","time_ms":0,"new":1}}"#);
    ping.answer("200 OK\ncontent-type: application/json", &body).await;
}

#[tokio::test]
async fn http_proxy_of_the_environment_is_used_in_either_case() {
    for variable in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
        let server = Server::start().await;
        let proxy = Proxy::start(server.address()).await;
        let url = proxy.url();
        let variables = [("BELLWIRE_TEST_URL", "http://hub.test"), (variable, url.as_str())];
        let (output, ()) = tokio::join!(run_child(&variables), serve_as_hub(&server));
        assert!(output.contains("first event: here I am"), "{variable}: {output}");
        assert!(output.contains("answered by: bellwire/test"), "{variable}: {output}");
        let requests = proxy.requests();
        assert_eq!(requests.len(), 2, "{variable}: {requests:?}");
        assert_eq!(requests[0], "GET http://hub.test/events", "{variable}");
        assert!(requests[1].starts_with("GET http://hub.test/v1/ping?nonce="), "{requests:?}");
    }
}

#[tokio::test]
async fn https_proxy_of_the_environment_is_used_in_either_case() {
    let origin = start_tls_origin().await;
    let ca_file = fixture("ca.pem");
    for variable in ["HTTPS_PROXY", "https_proxy"] {
        let proxy = Proxy::start(origin).await;
        let url = proxy.url();
        let output = run_child(&[
            ("BELLWIRE_TEST_URL", "https://hub.test"),
            ("BELLWIRE_TEST_CA", ca_file.to_str().unwrap()),
            (variable, &url),
        ])
        .await;
        assert!(output.contains("first event: over TLS"), "{variable}: {output}");
        assert_eq!(proxy.requests(), ["CONNECT hub.test:443"], "{variable}");
    }
}

#[tokio::test]
async fn no_proxy_of_the_environment_goes_straight() {
    for variable in ["NO_PROXY", "no_proxy"] {
        let server = Server::start().await;
        let proxy = Proxy::start(server.address()).await;
        let (target, proxy_url) = (server.url(""), proxy.url());
        let variables = [
            ("BELLWIRE_TEST_URL", target.as_str()),
            ("HTTP_PROXY", proxy_url.as_str()),
            (variable, "hub.example,127.0.0.1"),
        ];
        let (output, ()) = tokio::join!(run_child(&variables), serve_as_hub(&server));
        assert!(output.contains("first event: here I am"), "{variable}: {output}");
        assert!(proxy.requests().is_empty(), "{variable}: {:?}", proxy.requests());
    }
}

/// A small appliance without a single authority must still reach a hub over plain HTTP, and one whose authority is configured:
/// the platform verifier alone cannot be set up there.
#[tokio::test]
async fn a_machine_without_authorities_can_build_a_client() {
    let empty = tempfile::NamedTempFile::new().unwrap();
    let none = empty.path().to_str().unwrap();
    let server = Server::start().await;
    let target = server.url("");
    let variables =
        [("BELLWIRE_TEST_URL", target.as_str()), ("SSL_CERT_FILE", none), ("SSL_CERT_DIR", none)];
    let (output, ()) = tokio::join!(run_child(&variables), serve_as_hub(&server));
    assert!(output.contains("first event: here I am"), "{output}");

    let origin = start_tls_origin().await;
    let target = format!("https://{origin}");
    let ca_file = fixture("ca.pem");
    let output = run_child(&[
        ("BELLWIRE_TEST_URL", &target),
        ("BELLWIRE_TEST_CA", ca_file.to_str().unwrap()),
        ("SSL_CERT_FILE", none),
        ("SSL_CERT_DIR", none),
    ])
    .await;
    assert!(output.contains("first event: over TLS"), "{output}");
}
