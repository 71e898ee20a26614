//! Over TLS a client that offers HTTP/2 is served HTTP/2, streams and requests on one connection.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message of a test"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bellwire_hub::app::{Bound, Running};
use bellwire_hub::config::{Config, TlsFiles};
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::pem::PemObject;

/// How long a test waits before it fails.
const PATIENCE: Duration = Duration::from_secs(30);

type Client = SendRequest<Full<Bytes>>;

async fn hub(folder: &Path) -> Running {
    let fixture = |name: &str| Path::new("tests/fixtures/tls").join(name);
    let mut config = Config::default();
    config.listen = vec!["127.0.0.1:0".parse().unwrap()];
    config.data_dir = folder.join("hub");
    config.drain = Duration::ZERO;
    config.tls = Some(TlsFiles { cert: fixture("cert.pem"), key: fixture("key.pem") });
    Bound::bind(config).await.unwrap().serve()
}

/// A client that offers `protocol` in the handshake.
async fn connect(hub: &Running, protocol: &[u8]) -> (Client, Option<Vec<u8>>) {
    let ca = rustls_pki_types::CertificateDer::from_pem_file("tests/fixtures/tls/ca.pem").unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let address = hub.listeners().first().unwrap().address;
    let socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect("localhost".try_into().unwrap(), socket).await.unwrap();
    let chosen = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    let (client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    (client, chosen)
}

async fn ask(
    client: &mut Client,
    method: Method,
    path: &str,
    body: &'static str,
) -> Response<Incoming> {
    let request = Request::builder()
        .method(method)
        .uri(format!("https://localhost{path}"))
        .header("Content-Type", "application/json")
        .body(Full::new(Bytes::from_static(body.as_bytes())))
        .unwrap();
    tokio::time::timeout(PATIENCE, client.send_request(request)).await.expect("an answer").unwrap()
}

async fn json(response: Response<Incoming>) -> serde_json::Value {
    serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
}

/// Reads on until `text` has come.
async fn read_until(body: &mut Incoming, read: &mut String, text: &str) {
    let reading = async {
        while !read.contains(text) {
            let frame = body.frame().await.expect("the stream goes on").unwrap();
            read.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
        }
    };
    let read_in_time = tokio::time::timeout(PATIENCE, reading).await;
    assert!(read_in_time.is_ok(), "waited for {text:?}, read {read:?}");
}

#[tokio::test]
async fn a_device_listens_and_answers_on_one_connection() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let (mut client, chosen) = connect(&hub, b"h2").await;
    assert_eq!(chosen.as_deref(), Some(&b"h2"[..]), "HTTP/2 is chosen where it is offered");

    let stream = ask(&mut client, Method::GET, "/v1/devices/k/stream?nonce=n", "").await;
    assert_eq!(stream.status(), 200);
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    assert_eq!(stream.headers()["cache-control"], "no-store, no-transform");
    let (mut body, mut read) = (stream.into_body(), String::new());
    read_until(&mut body, &mut read, "\n\n").await;
    assert!(read.starts_with("event: hello\nretry: 2000\ndata: {"), "{read}");

    let sent = ask(&mut client, Method::POST, "/v1/send/k/ping", "{\"n\":1}").await;
    assert_eq!(sent.status(), 202);
    let id = json(sent).await["command"].as_str().unwrap().to_owned();
    read_until(&mut body, &mut read, &format!("\"id\":\"{id}\"")).await;
    let path = format!("/v1/devices/k/commands/{id}/status");
    let reported = ask(&mut client, Method::POST, &path, "{\"state\":\"succeeded\"}").await;
    assert_eq!(json(reported).await["state"], "succeeded");

    // A stream that the client resets ends, although the connection continues.
    drop(body);
    let gone = async {
        while json(ask(&mut client, Method::GET, "/v1/devices/k", "").await).await["online"] == true
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("the device goes offline with its stream");
    hub.shutdown().await;
}

#[tokio::test]
async fn a_head_beyond_32_kib_is_answered_431_and_the_connection_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let (mut client, _) = connect(&hub, b"h2").await;
    for (bytes, status) in [(40_000, 431), (33_000, 431), (30_000, 200)] {
        let request = Request::builder()
            .uri("https://localhost/v1/ping")
            .header("a", "b".repeat(bytes))
            .body(Full::new(Bytes::new()))
            .unwrap();
        let answer = tokio::time::timeout(PATIENCE, client.send_request(request)).await;
        assert_eq!(answer.expect("an answer").unwrap().status(), status, "{bytes}");
    }
    hub.shutdown().await;
}

#[tokio::test]
async fn a_page_of_another_origin_may_not_send_and_another_name_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let (mut client, _) = connect(&hub, b"h2").await;
    for (uri, origin, status) in [
        ("https://localhost/v1/send/d/a", "https://evil.example", 403),
        ("https://localhost/v1/send/d/a", "http://localhost", 403),
        ("https://evil.example/v1/send/d/a", "https://evil.example", 403),
        ("https://localhost/v1/send/d/a", "https://localhost", 202),
    ] {
        let request = Request::builder()
            .method(Method::POST)
            .uri(uri)
            .header("Origin", origin)
            .body(Full::new(Bytes::new()))
            .unwrap();
        let answer = tokio::time::timeout(PATIENCE, client.send_request(request)).await;
        assert_eq!(answer.expect("an answer").unwrap().status(), status, "{uri} of {origin}");
    }
    hub.shutdown().await;
}

#[tokio::test]
async fn every_stream_gets_bye_when_the_hub_drains() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path()).await;
    let (mut client, _) = connect(&hub, b"h2").await;
    let stream = ask(&mut client, Method::GET, "/v1/devices/k/stream", "").await;
    let (mut body, mut read) = (stream.into_body(), String::new());
    read_until(&mut body, &mut read, "event: hello").await;
    let (_, ()) = tokio::join!(hub.shutdown(), async {
        read_until(&mut body, &mut read, "\"reason\":\"draining\"").await;
        let end =
            tokio::time::timeout(PATIENCE, body.frame()).await.expect("the end of the stream");
        assert!(
            end.is_none_or(|frame| frame.is_ok_and(|f| f.data_ref().is_some_and(Bytes::is_empty)))
        );
    });
}
