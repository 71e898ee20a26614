//! `serve --classic`: the classic wire format beside the API, by raw bytes. What it is in itself is
//! tested with `eventsource-server`.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message"
)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bellwire_hub::app::Bound;
use bellwire_hub::config::Config;

/// Sends a request and reads until `end`, or to the end of the connection.
fn exchange(addr: SocketAddr, request: &str, end: &str) -> (TcpStream, String) {
    let mut socket = TcpStream::connect(addr).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    socket.write_all(request.as_bytes()).unwrap();
    let answer = read_until(&mut socket, end);
    (socket, answer)
}

fn read_until(socket: &mut TcpStream, end: &str) -> String {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while (end.is_empty() || !bytes.ends_with(end.as_bytes()))
        && socket.read(&mut byte).unwrap() > 0
    {
        bytes.push(byte[0]);
    }
    String::from_utf8(bytes).unwrap()
}

/// Status line and body.
fn request(addr: SocketAddr, method: &str, path: &str, body: &str) -> (String, String) {
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let (_, answer) = exchange(addr, &request, "");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
}

fn talk(addr: SocketAddr) {
    let not_connected =
        "<html><title>404: Not Found</title><body>404: Target is not connected</body></html>\n";
    let (status, body) = request(addr, "POST", "/ping/tok", "x");
    assert_eq!((&*status, &*body), ("HTTP/1.1 404 Not Found", not_connected));

    let listen = "GET /poll/tok HTTP/1.0\r\nHost: localhost\r\n\r\n";
    let (mut listener, head) = exchange(addr, listen, "\r\n\r\n");
    assert!(head.contains("\r\nCache-Control: no-cache\r\n"), "{head}");
    assert_eq!(request(addr, "POST", "/ping/tok", "x").0, "HTTP/1.1 200 OK");
    assert_eq!(read_until(&mut listener, "\r\n\r\n"), "event: ping\r\ndata: x\r\n\r\n");
    assert_eq!(request(addr, "POST", "/retry/tok", "1").0, "HTTP/1.1 404 Not Found", "no ids");

    // A web page of another origin neither sends nor takes the token; nor does one by another name of the machine.
    let post = |path: &str, headers: &str| {
        format!("POST {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: 0\r\n{headers}\r\n")
    };
    let foreign = "Host: localhost\r\nOrigin: https://evil.example\r\n";
    let listed = "Host: localhost\r\nOrigin: https://ops.example.com\r\n";
    for (request, status) in [
        (post("/ping/tok", foreign), 403),
        (post("/ping/tok", "Host: evil.example\r\n"), 403),
        (
            "GET /poll/t HTTP/1.0\r\nHost: localhost\r\nSec-Fetch-Site: cross-site\r\n\r\n".into(),
            403,
        ),
        (format!("GET /poll/t HTTP/1.0\r\n{foreign}\r\n"), 403),
        (format!("GET /ping/t HTTP/1.0\r\n{foreign}\r\n"), 301),
        (post("/ping/nobody", listed), 404),
    ] {
        let (_, answer) = exchange(addr, &request, "");
        assert!(answer.split(' ').nth(1) == Some(&status.to_string()), "{request}: {answer}");
        let shared = answer.contains("access-control-allow-origin: https://ops.example.com\r\n");
        assert_eq!(shared, status == 404, "{answer}");
        assert!(status != 403 || answer.contains("<body>403: "), "{answer}");
    }

    // A token is no device, and what the API does not know is the API's to refuse.
    let (_, devices) = request(addr, "GET", "/v1/devices", "");
    assert_eq!(devices, r#"{"items":[],"next":null}"#);
    for (method, path) in [("GET", "/v1/"), ("POST", "/v1/tok"), ("GET", "/v1"), ("GET", "/poll")] {
        let (status, body) = request(addr, method, path, "");
        assert_eq!(status, "HTTP/1.1 404 Not Found", "of {method} {path}");
        assert!(body.contains(r#""code":"not_found""#), "of {method} {path}: {body}");
    }
    assert_eq!(request(addr, "POST", "/close/tok", "").0, "HTTP/1.1 200 OK");
    assert_eq!(read_until(&mut listener, ""), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_classic_format_and_the_api_do_not_meet() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.listen = vec!["127.0.0.1:0".parse().unwrap()];
    config.data_dir = folder.path().join("hub");
    config.drain = Duration::ZERO;
    config.classic = true;
    config.cors_origins = vec!["https://ops.example.com".parse().unwrap()];
    let server = Bound::bind(config).await.unwrap().serve();
    let addr = server.listeners()[0].address;
    tokio::task::spawn_blocking(move || talk(addr)).await.unwrap();

    let listening = tokio::task::spawn_blocking(move || {
        exchange(addr, "GET /poll/tok HTTP/1.0\r\nHost: localhost\r\n\r\n", "\r\n\r\n").0
    });
    let mut listener = listening.await.unwrap();
    server.shutdown().await;
    let rest = tokio::task::spawn_blocking(move || read_until(&mut listener, ""));
    assert_eq!(rest.await.unwrap(), "", "the hub's end is the stream's");
}
