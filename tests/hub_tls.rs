//! The certificates of a hub with the real program: renewed while it serves, several by name, and what is refused.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message of a test"
)]

#[path = "hub_tls/support.rs"]
mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use bellwire_testkit::{Http, Program, command};
use support::Authority;

const BELLWIRE: &str = env!("CARGO_BIN_EXE_bellwire");

fn bellwire(args: &[&str]) -> Command {
    command(BELLWIRE, args)
}

/// Starts a hub with these settings in a folder; the address of its TLS listener, and of its plain one.
fn serve(folder: &Path, settings: &str) -> (Program, SocketAddr, SocketAddr) {
    let listen = "listen = ['https://127.0.0.1:0', 'http://127.0.0.1:0']\n";
    let (hub, addresses) = Program::serve_with(BELLWIRE, folder, &format!("{listen}{settings}"), 2);
    (hub, addresses[0], addresses[1])
}

#[test]
fn a_certificate_that_is_replaced_is_shown_without_a_signal_and_no_stream_ends() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("authority");
    let (first, second) = (authority.server(&["localhost"]), authority.server(&["localhost"]));
    let (cert, key) = first.write(folder.path(), "hub");
    let (hub, tls, plain) =
        serve(folder.path(), &format!("tls_cert = {cert:?}\ntls_key = {key:?}\n"));
    let client = authority.client();
    assert_eq!(client.shown(tls, "localhost"), first.der);
    let mut stream = BufReader::new(client.connect(tls, "localhost").unwrap());
    let request = "GET /v1/devices/door/stream HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.get_mut().write_all(request.as_bytes()).unwrap();
    let until = |stream: &mut BufReader<support::Connection>, text: &str| {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            assert_ne!(stream.read_line(&mut line).unwrap(), 0, "the stream ended before {text}");
        }
    };
    until(&mut stream, "event: hello");

    second.write(folder.path(), "hub");
    hub.wait_for("files of TLS have changed, and were read again");
    assert_eq!(client.shown(tls, "localhost"), second.der);
    // The stream of the old one goes on.
    assert_eq!(Http(plain).post_json("/v1/send/door/ring", "{}").unwrap().status, 202);
    until(&mut stream, "\"ring\"");

    // What is of no use replaces nothing.
    fs::write(&key, &first.key_pem).unwrap();
    hub.wait_for("the key belongs to another certificate");
    assert_eq!(client.shown(tls, "localhost"), second.der);
    authority.expired(&["localhost"]).write(folder.path(), "hub");
    hub.wait_for("expired at 2020-02-01");
    assert_eq!(client.shown(tls, "localhost"), second.der);
}

#[test]
fn each_name_is_shown_its_own_certificate_and_others_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("authority");
    let (a, b) =
        (authority.server(&["a.example"]), authority.server(&["b.example", "*.c.example"]));
    let first = authority.server(&["hub.example", "other.example", "y.x.c.example"]);
    let mut settings = String::new();
    for (n, issued) in [&first, &a, &b].into_iter().enumerate() {
        let (cert, key) = issued.write(folder.path(), &n.to_string());
        settings += &format!("[[certificate]]\ncert = {cert:?}\nkey = {key:?}\n");
    }
    let (_hub, tls, _) = serve(folder.path(), &settings);
    let client = authority.client();
    for (name, expected) in [
        ("a.example", &a),
        ("A.Example", &a),
        ("b.example", &b),
        ("x.c.example", &b),
        ("hub.example", &first),
        ("y.x.c.example", &first),
    ] {
        assert_eq!(client.shown(tls, name), expected.der, "{name}");
    }
    assert!(client.connect(tls, "unknown.example").is_err(), "the first has not this name");
}

#[test]
fn tls_1_2_and_1_3_are_spoken() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("authority");
    let (cert, key) = authority.server(&["localhost"]).write(folder.path(), "hub");
    let (_hub, tls, _) = serve(folder.path(), &format!("tls_cert = {cert:?}\ntls_key = {key:?}\n"));
    let mut client = authority.client();
    const VERSIONS: [&[&rustls::SupportedProtocolVersion]; 2] =
        [&[&rustls::version::TLS12], &[&rustls::version::TLS13]];
    for versions in VERSIONS {
        client.versions = versions;
        assert_eq!(client.get(tls, "/readyz").unwrap(), 200, "{versions:?}");
    }
}

#[test]
fn what_no_client_would_accept_is_refused_by_check_and_serve_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("authority");
    let good = authority.server(&["localhost"]);
    let (cert, key) = good.write(folder.path(), "good");
    let (expired, expired_key) = authority.expired(&["localhost"]).write(folder.path(), "expired");
    let table =
        |cert: &Path, key: &Path| format!("[[certificate]]\ncert = {cert:?}\nkey = {key:?}\n");
    let top = format!("listen = '127.0.0.1:0'\ntls_cert = {cert:?}\ntls_key = {key:?}\n");
    for (settings, reasons) in [
        (
            top.clone() + &table(&expired, &expired_key),
            &["expired.pem expired at 2020-02-01T00:00:00.000Z", "certbot renew"][..],
        ),
        (top.clone() + &table(&cert, &expired_key), &["the key belongs to another certificate"]),
        (top + "[[certificate]]\ncert = 'a.pem'\n", &["certificate 1: it has no key"]),
    ] {
        let file = folder.path().join("hub.toml");
        fs::write(&file, &settings).unwrap();
        for command in [&["config", "check"][..], &["serve"]] {
            let mut run = bellwire(command);
            let run = run.arg("--config").arg(&file).current_dir(&folder).output().unwrap();
            let message = String::from_utf8(run.stderr).unwrap();
            assert_eq!(run.status.code(), Some(2), "{command:?}: {message}");
            for reason in reasons {
                assert!(message.contains(reason), "{command:?} without {reason:?}: {message}");
            }
        }
    }
}
