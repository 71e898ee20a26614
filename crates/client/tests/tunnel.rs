//! The exchange with a proxy before a request: answers that proxies give, over real sockets, and a proxy that is spoken to over
//! TLS. The name `hub.test` exists at the proxy alone.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is the failure message")]

mod support;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bellwire_client::transport::{
    CertificateFault, HttpTransport, HttpTransportBuilder, Request, Response, Transport as _,
    TransportError, TransportStage,
};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use support::{Exchange, Server, within};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn acceptor() -> TlsAcceptor {
    let certificates = CertificateDer::pem_file_iter(fixture("hub.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(fixture("hub.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificates.map(Result::unwrap).collect(), key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// Answers each request over TLS, and closes.
async fn start_tls_origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            // A client that does not trust it ends the handshake.
            let Ok(socket) = acceptor().accept(socket).await else { continue };
            Exchange::read(socket).await.answer("200 OK", "over TLS").await;
        }
    });
    address
}

async fn get(transport: HttpTransportBuilder, url: &str) -> Result<Response, TransportError> {
    let mut request = Request::new(Bytes::new());
    *request.uri_mut() = url.parse().unwrap();
    within("a response", transport.build().unwrap().send(request)).await
}

async fn body(response: Response) -> String {
    let parts: Vec<Bytes> = within("a body", response.into_body().try_collect()).await.unwrap();
    String::from_utf8(parts.concat()).unwrap()
}

fn through(url: impl Into<String>) -> HttpTransportBuilder {
    HttpTransport::builder().proxy(url).ca_file(fixture("ca.pem"))
}

/// Reads what comes to the proxy, and passes bytes to the origin from then on.
async fn pass<S: AsyncRead + AsyncWrite + Unpin>(mut socket: S, answer: &str, to: SocketAddr) {
    socket.write_all(answer.as_bytes()).await.unwrap();
    let mut upstream = TcpStream::connect(to).await.unwrap();
    // Either side ends it.
    let _ = copy_bidirectional(&mut socket, &mut upstream).await;
}

#[tokio::test]
async fn a_tunnel_opens_with_any_success_in_either_version() {
    let origin = start_tls_origin().await;
    for answer in [
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.0 200 Connection established\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nProxy-Agent: x\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = format!("http://{}", listener.local_addr().unwrap());
        let serve = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            let request = Exchange::read(&mut socket).await;
            assert_eq!(request.header("host"), Some("hub.test:443"));
            assert!(request.header("user-agent").is_some());
            drop(request);
            pass(socket, answer, origin).await;
        };
        let tunnelled =
            async { body(get(through(proxy), "https://hub.test/").await.unwrap()).await };
        let (text, ()) = tokio::join!(tunnelled, serve);
        assert_eq!(text, "over TLS", "{answer:?}");
    }
}

/// Older proxies close after each refusal.
#[tokio::test]
async fn a_proxy_that_closes_after_its_challenge_is_answered_on_a_new_connection() {
    let origin = start_tls_origin().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = format!("http://user:secret@{}", listener.local_addr().unwrap());
    let serve = async {
        let (socket, _) = listener.accept().await.unwrap();
        let request = Exchange::read(socket).await;
        assert_eq!(request.header("proxy-authorization"), None);
        let challenge = "407 Proxy Authentication Required\nproxy-authenticate: Basic realm=x";
        request.answer(challenge, "<p>no</p>").await;
        let (mut socket, _) = listener.accept().await.unwrap();
        let request = Exchange::read(&mut socket).await;
        assert_eq!(request.header("proxy-authorization"), Some("Basic dXNlcjpzZWNyZXQ="));
        drop(request);
        pass(socket, "HTTP/1.1 200 OK\r\n\r\n", origin).await;
    };
    let tunnelled = async { body(get(through(proxy), "https://hub.test/").await.unwrap()).await };
    let (text, ()) = tokio::join!(tunnelled, serve);
    assert_eq!(text, "over TLS");
}

#[tokio::test]
async fn a_block_page_is_named_with_its_status_and_title() {
    let proxy = Server::start().await;
    let page = "<html><head><title>Access to this category is denied</title></head></html>";
    let answer = async {
        proxy.request().await.answer("403 Forbidden\ncontent-type: text/html", page).await;
    };
    let (outcome, ()) = tokio::join!(get(through(proxy.url("")), "https://hub.test/"), answer);
    let error = outcome.err().unwrap();
    assert_eq!(error.stage(), TransportStage::ProxyRefused);
    let text = error.to_string();
    for part in ["403 Forbidden", "Access to this category is denied", &proxy.url("/")] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!error.proxy_refusal().unwrap().is_unavailable());
    assert!(error.advice().unwrap().contains("allow this server"), "{:?}", error.advice());
}

/// As a captive portal does to everything.
#[tokio::test]
async fn a_page_inside_of_the_tunnel_is_no_tls() {
    let proxy = Server::start().await;
    let answer =
        proxy.accept_and_send(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>Welcome");
    let (outcome, ()) = tokio::join!(get(through(proxy.url("")), "https://hub.test/"), answer);
    let error = outcome.err().unwrap();
    assert_eq!(error.stage(), TransportStage::Untrusted, "{error}");
    assert!(error.advice().unwrap().contains("sign-in page"), "{error}");
}

#[tokio::test]
async fn a_proxy_that_answers_connect_with_silence_or_garbage_refuses() {
    for bytes in [&b""[..], b"garbage\r\n\r\n", b"HTTP/1.1 200 O"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answer = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            Exchange::read(&mut socket).await;
            socket.write_all(bytes).await.unwrap();
        };
        let (outcome, ()) = tokio::join!(get(through(url.clone()), "https://hub.test/"), answer);
        let error = outcome.err().unwrap();
        assert_eq!(error.stage(), TransportStage::ProxyRefused, "{bytes:?}: {error}");
        assert!(error.to_string().contains(&url), "{error}");
    }
}

/// It would be answered on another connection, which the proxy does not know.
#[tokio::test]
async fn a_proxy_that_closes_amid_ntlm_is_named() {
    // A CHALLENGE_MESSAGE without names.
    const CHALLENGE: &str = "NTLM TlRMTVNTUAACAAAAAAAAAAAAAAABAgAAASNFZ4mrze8AAAAAAAAAAA==";
    let proxy = Server::start().await;
    let url = proxy.url("").replace("http://", "http://LAN%5Cuser:secret@");
    let answer = async {
        for challenge in ["NTLM", CHALLENGE] {
            let head = format!("407 Required\nproxy-authenticate: {challenge}");
            proxy.request().await.answer(&head, "").await;
        }
    };
    let (outcome, ()) = tokio::join!(get(through(url), "https://hub.test/"), answer);
    let text = outcome.err().unwrap().to_string();
    assert!(text.contains("amid the exchange of NTLM") && !text.contains("secret"), "{text}");
}

#[tokio::test]
async fn a_proxy_that_is_spoken_to_over_tls_carries_both_and_its_own_certificate_counts() {
    let origin = start_tls_origin().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = format!("https://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let Ok(mut socket) = acceptor().accept(socket).await else { continue };
            let request = Exchange::read(&mut socket).await;
            if request.method == "CONNECT" {
                drop(request);
                pass(socket, "HTTP/1.1 200 OK\r\n\r\n", origin).await;
            } else {
                let target = request.target.clone();
                drop(request);
                let length = target.len();
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{target}");
                socket.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    });
    let tunnelled = get(through(proxy.clone()), "https://hub.test/").await.unwrap();
    assert_eq!(body(tunnelled).await, "over TLS");
    let forwarded = get(through(proxy.clone()), "http://hub.test/a?b").await.unwrap();
    assert_eq!(body(forwarded).await, "http://hub.test/a?b");
    let distrusting = HttpTransport::builder().proxy(proxy);
    let error = get(distrusting, "https://hub.test/").await.err().unwrap();
    assert_eq!(error.stage(), TransportStage::Untrusted, "{error}");
    assert!(error.certificate_fault().is_some(), "{error}");
}

#[tokio::test]
async fn a_pinned_key_must_be_that_of_the_server_beside_being_trusted() {
    let url = format!("https://{}/", start_tls_origin().await);
    let trusting = || HttpTransport::builder().no_proxy().ca_file(fixture("ca.pem"));
    let other = format!("sha256//{}=", "A".repeat(43));
    let error = get(trusting().pin_sha256(&other), &url).await.err().unwrap();
    assert_eq!(error.stage(), TransportStage::Untrusted, "{error}");
    let Some(CertificateFault::OtherKey { found }) = error.certificate_fault() else {
        panic!("{error}");
    };
    assert!(error.to_string().contains(found.as_str()), "{error}");
    assert!(error.advice().unwrap().contains("pin_sha256"), "{:?}", error.advice());
    // openssl x509 -in hub.pem -noout -pubkey | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64
    assert_eq!(found, "sha256//rVZzeeanp+rkrlNm4wx+81ps3Jbpkwn3q3gW1U198Ow=");
    let both = trusting().pin_sha256(&other).pin_sha256(found);
    assert_eq!(body(get(both, &url).await.unwrap()).await, "over TLS");
    // The key alone is no trust, and without trust it still counts.
    let untrusted = HttpTransport::builder().no_proxy().pin_sha256(found);
    assert!(get(untrusted.clone(), &url).await.is_err());
    assert!(get(untrusted.danger_accept_invalid_certs(true), &url).await.is_ok());
    let any = HttpTransport::builder().no_proxy().danger_accept_invalid_certs(true);
    assert!(get(any.pin_sha256(&other), &url).await.is_err());
    let error = trusting().pin_sha256("sha256//short").build().unwrap_err().to_string();
    assert!(error.contains("sha256//short"), "{error}");
}
