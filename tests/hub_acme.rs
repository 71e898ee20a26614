//! A certificate by ACME with the real program and a real authority: Pebble, which Debian has (`apt install pebble`). It is
//! obtained over plain HTTP and over TLS, renewed before it expires, kept over a restart, and a failure is loud.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message of a test"
)]

#[path = "hub_acme/pebble.rs"]
mod pebble;
#[path = "hub_tls/support.rs"]
mod support;

use std::fs;
use std::io::{BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bellwire_testkit::{Http, Program, wait_until};
use pebble::{NAME, Pebble, Ports};

const BELLWIRE: &str = env!("CARGO_BIN_EXE_bellwire");

/// A hub with this listen setting, whose certificate is Pebble's.
fn serve(folder: &Path, ports: &Ports, ca: &Path, listen: &str) -> Program {
    let settings = format!(
        "listen = [{listen}]\n[acme]\ndomains = ['{NAME}']\nemail = 'ops@example.com'\n\
         directory = 'https://localhost:{}/dir'\ndirectory_ca = {ca:?}\n",
        ports.directory
    );
    let file = folder.join("hub.toml");
    fs::write(&file, settings).unwrap();
    let mut command = Command::new(BELLWIRE);
    command.args(["serve", "--config"]).arg(&file).env_remove("BELLWIRE_HUB");
    let hub = Program::start(command.arg("--data-dir").arg(folder.join("hub")));
    hub.wait_for("ready;");
    hub
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

#[test]
fn a_certificate_is_obtained_over_http_renewed_before_it_expires_and_kept_over_a_restart() {
    let Some(pebble) = Pebble::start(Duration::from_secs(15)) else { return };
    let folder = tempfile::tempdir().unwrap();
    let ports = &pebble.ports;
    let listen = format!("'http://127.0.0.1:{}', 'https://127.0.0.1:{}'", ports.http, ports.tls);
    let hub = serve(folder.path(), ports, &pebble.ca, &listen);
    hub.wait_for("obtained a certificate by ACME");
    let (tls, client) = (local(ports.tls), pebble.client());
    // Verified by the authority's root, for the name.
    let first = client.shown(tls, NAME);
    for file in ["account.json", "certificate.pem"] {
        let mode = fs::metadata(folder.path().join("hub/acme").join(file)).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600, "{file}");
    }

    let mut stream = BufReader::new(client.connect(tls, NAME).unwrap());
    let request = "GET /v1/devices/door/stream HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.get_mut().write_all(request.as_bytes()).unwrap();
    let second = wait_until("another certificate", || {
        // A client that connects at any time is shown one that is valid.
        let shown = client.shown(tls, NAME);
        if shown == first { Err("still the first") } else { Ok(shown) }
    });
    let sent = Http(local(ports.http)).post_json("/v1/send/door/ring", "{}").unwrap();
    assert_eq!(sent.status, 202);
    let mut all = Vec::new();
    while !String::from_utf8_lossy(&all).contains("\"ring\"") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        all.push(byte[0]);
    }

    // A restart needs no authority.
    drop(hub);
    let client = pebble.client();
    let (ca, ports) = pebble.stop();
    let _hub = serve(folder.path(), &ports, &ca.path().join("ca.pem"), &listen);
    let shown = wait_until("the stored certificate", || {
        client.connect(tls, NAME).map(|stream| stream.conn.peer_certificates().unwrap()[0].clone())
    });
    assert_eq!(shown, second);
}

#[test]
fn a_certificate_is_obtained_over_tls_where_that_is_all_there_is() {
    let Some(pebble) = Pebble::start(Duration::from_secs(3600)) else { return };
    let folder = tempfile::tempdir().unwrap();
    let listen = format!("'https://127.0.0.1:{}'", pebble.ports.tls);
    let hub = serve(folder.path(), &pebble.ports, &pebble.ca, &listen);
    hub.wait_for("obtained a certificate by ACME");
    let client = pebble.client();
    let _ = client.shown(local(pebble.ports.tls), NAME);
}

#[test]
fn a_failure_is_loud_leaves_the_hub_ready_and_is_tried_again() {
    let Some(prepared) = Pebble::prepare() else { return };
    let folder = tempfile::tempdir().unwrap();
    let ports = prepared.ports.clone();
    let listen = format!("'http://127.0.0.1:{}', 'https://127.0.0.1:{}'", ports.http, ports.tls);
    let hub = serve(folder.path(), &ports, &prepared.ca, &listen);
    let said = hub.wait_for("no certificate by ACME");
    for part in [NAME, "localhost cannot be asked", "tried again in", "port 80"] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    assert_eq!(Http(local(ports.http)).get("/readyz").unwrap().status, 200);
    let unknown = "/.well-known/acme-challenge/unknown";
    assert_eq!(Http(local(ports.http)).get(unknown).unwrap().status, 404);
    let pebble = prepared.run(Duration::from_secs(3600));
    hub.wait_for("obtained a certificate by ACME");
    let _ = pebble.client().shown(local(ports.tls), NAME);
}

#[test]
fn faults_of_acme_are_reported_by_config_check() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hub.toml");
    let check = |settings: &str| {
        fs::write(&file, format!("listen = 'https://127.0.0.1:0'\n{settings}")).unwrap();
        let mut command = Command::new(BELLWIRE);
        command
            .args(["config", "check", "--config"])
            .arg(&file)
            .current_dir(&folder)
            .output()
            .unwrap()
    };
    for (settings, reason) in [
        ("[acme]\nemail = 'ops@example.com'\n", "it has no domains"),
        ("[acme]\ndomains = ['*.example.com']\n", "no wildcards"),
        ("[acme]\ndomains = ['192.0.2.1']\n", "DNS names"),
        ("[acme]\ndomains = ['a.example']\ndirectory = 'http://x/'\n", "https:// URL"),
        ("[acme]\ndomains = ['a.example']\ndirectory_ca = 'missing.pem'\n", "missing.pem"),
        ("acme = true\n", "acme 1: it is not a table"),
    ] {
        let checked = check(settings);
        let said = String::from_utf8(checked.stderr).unwrap();
        assert_eq!(checked.status.code(), Some(2), "{settings}: {said}");
        assert!(said.contains(reason), "{reason}\nnot in {said}");
    }
    let inline = "acme = { domains = ['a.example', 'B.example'], email = 'ops@example.com' }\n";
    let first = String::from_utf8(check(inline).stdout).unwrap();
    assert!(first.contains("[acme]\ndomains = [\"a.example\", \"b.example\"]\n"), "{first}");
    assert!(first.contains("https://acme-v02.api.letsencrypt.org/directory"), "{first}");
    fs::write(&file, &first).unwrap();
    let again = Command::new(BELLWIRE).args(["config", "check", "--config"]).arg(&file).output();
    assert_eq!(String::from_utf8(again.unwrap().stdout).unwrap(), first);
}
