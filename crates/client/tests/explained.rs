//! An error says what is wrong: which fault a certificate has, that the proxy is dead and not the server, that a response is
//! compressed. Over real TLS and real sockets.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is the failure message")]

mod support;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bellwire_client::event_source::{Builder, Error, Retry};
use bellwire_client::transport::{
    CertificateFault, HttpTransport, HttpTransportBuilder, TransportError, TransportStage,
};
use bellwire_client::{Controller, EventSource};
use flate2::Compression;
use flate2::write::GzEncoder;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use support::{Server, Tail};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A server with this certificate, which accepts handshakes and nothing else.
async fn start_tls(certificate: &str) -> SocketAddr {
    let certificate = CertificateDer::from_pem_file(fixture(certificate)).unwrap();
    let key = PrivateKeyDer::from_pem_file(fixture("hub.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            // The client refuses the certificate.
            acceptor.accept(socket).await.ok();
        }
    });
    address
}

fn source(url: impl AsRef<str>, transport: HttpTransportBuilder) -> Builder {
    EventSource::builder(url).transport(transport.build().unwrap()).retry(Retry::never())
}

async fn transport_error(url: impl AsRef<str>, transport: HttpTransportBuilder) -> TransportError {
    match Tail::start(source(url, transport)).gave_up().await {
        Error::Transport(error) => error,
        other => panic!("{other}"),
    }
}

/// Each of them was said to be the sign-in page of a guest network.
#[tokio::test]
async fn a_certificate_that_is_refused_is_described_with_what_to_do() {
    for (certificate, ca, host, found, advice) in [
        ("expired.pem", "dated-ca.pem", "127.0.0.1", "expired at 2020-01-01T00:00:00", "renew"),
        ("future.pem", "dated-ca.pem", "127.0.0.1", "valid from 2125-01-01T00:00:00", "clock"),
        ("hub.pem", "ca.pem", "localhost", "hub.test", "subjectAltName localhost"),
        ("hub.pem", "dated-ca.pem", "127.0.0.1", "\"Bellwire test authority\"", "set ca_file"),
        ("self-signed.pem", "ca.pem", "127.0.0.1", "self-signed, by \"hub.test\"", "set ca_file"),
        ("as-authority.pem", "ca.pem", "127.0.0.1", "authority \"hub.test\" (CA:TRUE)", "CA:FALSE"),
        ("for-clients.pem", "purposes-ca.pem", "127.0.0.1", "is for clients only", "serverAuth"),
        ("nameless.pem", "purposes-ca.pem", "127.0.0.1", "has no names", "common name"),
        // Trusted as an authority it is still no server's.
        ("as-authority.pem", "as-authority.pem", "127.0.0.1", "(CA:TRUE)", "CA:FALSE"),
    ] {
        let port = start_tls(certificate).await.port();
        let url = format!("https://{host}:{port}/");
        let transport = || HttpTransport::builder().no_proxy().ca_file(fixture(ca));
        let error = transport_error(&url, transport()).await;
        assert_eq!(error.stage(), TransportStage::Untrusted);
        assert!(error.to_string().contains(found), "{certificate}: {error}");
        assert!(error.advice().unwrap().contains(advice), "{certificate}: {:?}", error.advice());
        if let Some(
            CertificateFault::Expired { now, .. } | CertificateFault::NotYetValid { now, .. },
        ) = error.certificate_fault()
        {
            assert!(
                error.to_string().contains(&format!("this machine's clock says {now}")),
                "{error}"
            );
        }
        // A call of the API says the same.
        let hub =
            Controller::builder(&url).transport(transport().build().unwrap()).build().unwrap();
        let error = hub.ping().await.unwrap_err().to_string();
        assert!(error.contains(found) && error.contains(advice), "{certificate}: {error}");
    }
}

/// "invalid HTTP version parsed" did not say that the other end speaks TLS.
#[tokio::test]
async fn plain_http_to_a_port_of_tls_is_advised_to_use_https() {
    let port = start_tls("hub.pem").await.port();
    let url = format!("http://127.0.0.1:{port}/");
    let transport = || HttpTransport::builder().no_proxy();
    let error = transport_error(&url, transport()).await;
    assert!(error.advice().is_some_and(|advice| advice.contains("https://")), "{error}");
    let hub = Controller::builder(&url).transport(transport().build().unwrap()).build().unwrap();
    let error = hub.ping().await.unwrap_err().to_string();
    assert!(error.contains("not HTTP") && error.contains("https://"), "{error}");
    assert!(!error.contains("parsed"), "{error}");
}

/// What is wrong with a file of authorities was said of the server's certificate.
#[test]
fn a_broken_certificate_in_ca_file_is_said_to_be_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    std::fs::write(&file, pem).unwrap();
    let error = HttpTransport::builder().ca_file(&file).build().unwrap_err().to_string();
    assert!(error.contains("certificate 1 in it is broken"), "{error}");
    assert!(error.contains("ca.pem") && !error.contains("peer"), "{error}");
}

/// The error named the hub, which was well.
#[tokio::test]
async fn a_dead_proxy_is_named_and_the_hub_is_not() {
    let gone = Server::start().await.url("");
    let authority = gone.trim_start_matches("http://");
    for url in ["http://hub.test/", "https://hub.test/"] {
        let secret = gone.replace("http://", "http://user:s3cret@");
        let transport = HttpTransport::builder().proxy(secret);
        let hub = Controller::builder(url).transport(transport.build().unwrap()).build().unwrap();
        let error = hub.ping().await.unwrap_err().to_string();
        let named =
            format!("the proxy http://{authority}/ (from the setting proxy) cannot be reached");
        assert!(error.contains(&named), "{error}");
        assert!(!error.contains("hub") && !error.contains("s3cret"), "{error}");
    }
    // Behind a proxy that lives the hub is what failed.
    let proxy = Server::start().await;
    let transport = HttpTransport::builder().proxy(proxy.url(""));
    let hub = Controller::builder("https://hub.test/").transport(transport.build().unwrap());
    let hub = hub.build().unwrap();
    let refuse = async { proxy.request().await.answer("503 Service Unavailable", "").await };
    let (error, ()) = tokio::join!(hub.ping(), refuse);
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("does not reach the server") && error.contains(&proxy.url("")),
        "{error}"
    );
}

#[test]
fn a_proxy_that_is_set_and_cannot_be_used_is_refused() {
    for bad in ["ftp://u:s3cret@proxy.test", "socks5://proxy.test:1080", "http://"] {
        let error = HttpTransport::builder().proxy(bad).build().unwrap_err().to_string();
        assert!(error.contains("the proxy cannot be used") && !error.contains("s3cret"), "{error}");
    }
}

/// The source showed nothing, and said nothing.
#[tokio::test]
async fn a_stream_that_is_compressed_without_a_request_is_decoded_event_by_event() {
    let server = Server::start().await;
    let mut tail = Tail::start(source(server.url("/"), HttpTransport::builder().no_proxy()));
    let mut request = server.request().await;
    assert_eq!(request.header("accept-encoding"), Some("identity"));
    request
        .send(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip\r\n\r\n",
        )
        .await;
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    for data in ["a", "b"] {
        write!(gzip, "data: {data}\n\n").unwrap();
        gzip.flush().unwrap();
        request.send(std::mem::take(gzip.get_mut())).await;
        // The second one is not sent before the first has arrived.
        assert_eq!(tail.data().await, data);
    }
    tail.drop_source();
    request.dropped().await;
}

#[tokio::test]
async fn a_stream_in_a_coding_without_a_decoder_is_an_error_that_names_it() {
    let server = Server::start().await;
    let transport = HttpTransport::builder().no_proxy();
    let answer = async {
        let head = "200 OK\ncontent-type: text/event-stream\ncontent-encoding: br";
        server.request().await.answer(head, "").await;
    };
    let (error, ()) = tokio::join!(transport_error(server.url("/"), transport), answer);
    assert_eq!(error.stage(), TransportStage::Encoding);
    assert!(error.to_string().contains("Content-Encoding: br"), "{error}");
    assert!(error.advice().unwrap().contains("middlebox"), "{:?}", error.advice());
}

#[tokio::test]
async fn an_answer_of_the_api_that_is_compressed_is_read() {
    let server = Server::start().await;
    let hub = Controller::new(server.url("")).unwrap();
    let answer = async {
        let ping = server.request().await;
        assert_eq!(ping.header("accept-encoding"), Some("identity"));
        let nonce = ping.path_and_query().1.strip_prefix("nonce=").unwrap().to_owned();
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        write!(gzip, r#"{{"hub":"bellwire/test","nonce":"{nonce}","time_ms":0}}"#).unwrap();
        let body = gzip.finish().unwrap();
        let mut ping = ping;
        let head =
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\n";
        ping.send(format!("{head}content-length: {}\r\n\r\n", body.len())).await;
        ping.send(body).await;
        ping.end().await;
    };
    let (pong, ()) = tokio::join!(hub.ping(), answer);
    assert_eq!(pong.unwrap().hub, "bellwire/test");
}

/// Its query came behind every path of the API.
#[test]
fn the_url_of_a_hub_with_a_query_is_refused() {
    let error = Controller::new("http://u:s3cret@hub.test/?a=b").unwrap_err().to_string();
    assert!(error.contains("has a query") && !error.contains("s3cret"), "{error}");
}
