//! Promise: a certificate that has expired, or is of another name, convinces no client and is served by no hub; nothing older
//! than TLS 1.2 is spoken, and no connection is negotiated a second time.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use bellwire_testkit::{Program, command};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;

use crate::authority::{Authority, Issued};
use crate::support::{BELLWIRE, PATIENCE, rest_of};

/// A hub that speaks TLS at this address.
fn serve(folder: &Path, issued: &Issued) -> (Program, SocketAddr) {
    let (cert, key) = issued.write(folder, "hub");
    let settings =
        format!("listen = 'https://127.0.0.1:0'\ntls_cert = {cert:?}\ntls_key = {key:?}\n");
    let (hub, addresses) = Program::serve_with(BELLWIRE, folder, &settings, 1);
    (hub, addresses[0])
}

/// A server of TLS with any certificate, as an attacker has who can redirect a connection. It notes what it is sent.
fn impostor(issued: &Issued) -> (SocketAddr, std::sync::mpsc::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![issued.der.clone()], key)
        .unwrap();
    let config = Arc::new(config);
    let (sender, received) = std::sync::mpsc::sync_channel(16);
    std::thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            let mut session = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut sent = Vec::new();
            let mut stream = rustls::Stream::new(&mut session, &mut socket);
            let mut bytes = [0; 4096];
            if let Ok(n) = stream.read(&mut bytes) {
                sent.extend_from_slice(&bytes[..n]);
            }
            if sender.send(sent).is_err() {
                return;
            }
        }
    });
    (address, received)
}

#[test]
fn a_client_sends_its_token_to_no_server_with_an_expired_or_foreign_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, other) = (Authority::new("authority"), Authority::new("other"));
    let ca = authority.write(folder.path(), "ca.pem");
    let ca = ca.to_str().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, format!("bw_{}_{}", "a".repeat(16), "b".repeat(64))).unwrap();
    let token = token.to_str().unwrap();
    for (issued, reason) in [
        (authority.expired(&["localhost"]), "expired"),
        (authority.server(&["other.example"]), "other.example"),
        (other.server(&["localhost"]), "certificate"),
    ] {
        let (address, received) = impostor(&issued);
        let url = format!("https://localhost:{}", address.port());
        let args = ["devices", "--hub", &url, "--token-file", token, "--ca-file", ca];
        let output = command(BELLWIRE, &args).env("NO_PROXY", "localhost").output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{reason}: {message}");
        assert!(message.contains(reason), "the reason is not stated: {message}");
        let sent = received.recv_timeout(PATIENCE).expect("a connection");
        assert!(sent.is_empty(), "{reason}: {}", String::from_utf8_lossy(&sent));
    }
    // The same client and server with nothing wrong, or all of this proved nothing.
    let (address, received) = impostor(&authority.server(&["localhost"]));
    let url = format!("https://localhost:{}", address.port());
    let args = ["devices", "--hub", &url, "--token-file", token, "--ca-file", ca];
    let _ = command(BELLWIRE, &args).env("NO_PROXY", "localhost").output().unwrap();
    let sent = received.recv_timeout(PATIENCE).unwrap();
    assert!(String::from_utf8_lossy(&sent).contains("Bearer bw_"), "{sent:?}");
}

/// An agent retries for ever, and must not weaken while it does.
#[test]
fn an_agent_gives_its_credential_to_no_impostor_however_often_it_tries() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("authority");
    let ca = authority.write(folder.path(), "ca.pem");
    let (address, received) = impostor(&authority.server(&["other.example"]));
    let credential = folder.path().join("credential");
    std::fs::write(&credential, format!("bw_{}_{}", "a".repeat(16), "b".repeat(64))).unwrap();
    let (config, state) = (folder.path().join("agent.toml"), folder.path().join("state"));
    let text = format!(
        "device = \"door\"\nhub = \"https://localhost:{}\"\nstate_dir = {state:?}\ncredential_file = {credential:?}\n\
         ca_file = {ca:?}\n[actions.ring]\nrun = [\"/bin/echo\"]\n",
        address.port()
    );
    std::fs::write(&config, text).unwrap();
    let mut agent = command(BELLWIRE, &["agent", "run", "--config"]);
    let agent = Program::start(agent.arg(&config).env("NO_PROXY", "localhost"));
    for n in 0..2 {
        let sent = received.recv_timeout(PATIENCE);
        let sent = sent.unwrap_or_else(|_| panic!("no connection {n}: {}", agent.output()));
        assert!(sent.is_empty(), "connection {n}: {}", String::from_utf8_lossy(&sent));
    }
    agent.wait_for("other.example");
}

/// A ClientHello of a version (RFC 5246, section 7.4.1.2), with cipher suites of every age.
fn client_hello(record: [u8; 2], version: [u8; 2]) -> Vec<u8> {
    let suites: [u8; 16] = [
        0x00, 0x2f, 0x00, 0x35, 0xc0, 0x09, 0xc0, 0x0a, 0xc0, 0x2b, 0xc0, 0x2c, 0x00, 0x0a, 0x00,
        0xff,
    ];
    let mut body = [&version[..], &[7; 32], &[0], &[0, 16], &suites, &[1, 0]].concat();
    // Curves and formats of points, without which no suite of elliptic curves is chosen.
    let extensions = [
        &[0x00, 0x0a, 0x00, 0x04, 0x00, 0x02, 0x00, 0x17][..],
        &[0x00, 0x0b, 0x00, 0x02, 0x01, 0x00],
        &[0x00, 0x0d, 0x00, 0x06, 0x00, 0x04, 0x04, 0x03, 0x02, 0x03],
    ]
    .concat();
    body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    body.extend(extensions);
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let handshake = [&[1][..], &length[1..], &body].concat();
    let length = u16::try_from(handshake.len()).unwrap().to_be_bytes();
    [&[22][..], &record, &length, &handshake].concat()
}

#[test]
fn nothing_older_than_tls_1_2_is_spoken() {
    let folder = tempfile::tempdir().unwrap();
    let (_hub, address) = serve(folder.path(), &Authority::new("authority").server(&["localhost"]));
    let answer = |bytes: &[u8]| {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.write_all(bytes).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut head = [0; 7];
        let read = socket.read_exact(&mut head);
        read.map(|()| head)
    };
    for (name, version) in [("SSL 3.0", [3, 0]), ("TLS 1.0", [3, 1]), ("TLS 1.1", [3, 2])] {
        let head = answer(&client_hello(version, version)).unwrap();
        // A fatal alert, protocol_version (RFC 5246, section 7.2).
        assert_eq!((head[0], head[5], head[6]), (21, 2, 70), "{name}: {head:?}");
    }
    // The same hello of TLS 1.2 is answered by a hello, or the above proved nothing.
    let head = answer(&client_hello([3, 1], [3, 3])).unwrap();
    assert_eq!((head[0], head[5]), (22, 2), "{head:?}");
    // SSL 2.0 (its hello has no record), and plain HTTP.
    for bytes in [
        &b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10\x01\x00\x80\x02\x00\x80"[..],
        b"GET / HTTP/1.1\r\n\r\n",
    ] {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.write_all(bytes).unwrap();
        let answer = rest_of(&mut socket);
        assert!(!answer.contains("HTTP"), "{answer:?}");
    }
}

/// By the openssl program, for no library of Rust can ask for it.
#[test]
fn a_connection_is_not_negotiated_a_second_time() {
    let folder = tempfile::tempdir().unwrap();
    let (_hub, address) = serve(folder.path(), &Authority::new("authority").server(&["localhost"]));
    let mut client = Command::new("openssl");
    client.args(["s_client", "-tls1_2", "-connect", &address.to_string()]);
    client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut client) = client.spawn() else {
        assert!(std::env::var_os("CI").is_none(), "the program openssl is needed");
        eprintln!("no program openssl: nothing was tested");
        return;
    };
    // A line that is R alone has it begin again.
    client.stdin.take().unwrap().write_all(b"R\n").unwrap();
    let output = client.wait_with_output().unwrap();
    let output = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.contains("Protocol  : TLSv1.2") || output.contains("TLSv1.2"), "{output}");
    assert!(output.contains("RENEGOTIATING"), "openssl did not try: {output}");
    let refused = output.contains("no renegotiation")
        || output.contains("unexpected message")
        || output.contains("alert");
    assert!(refused, "the hub negotiated again: {output}");
    assert!(!output.contains("HTTP/1.1"), "{output}");
}
