//! Certificates of clients with the real program: whom they make, by which listener, and what revoking one ends.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message of a test"
)]

#[path = "hub_tls/support.rs"]
mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bellwire_testkit::{Http, Program, admin_token, command, wait_until};
use support::{Authority, Client, uri};

const BELLWIRE: &str = env!("CARGO_BIN_EXE_bellwire");
/// Made by `openssl ca -gencrl` without crl_extensions, of an authority named servers.
const CRL_OF_VERSION_1: &str = "\
-----BEGIN X509 CRL-----\n\
MIGYMEAwCgYIKoZIzj0EAwIwEjEQMA4GA1UEAwwHc2VydmVycxcNMjYxMTI5MTYy\n\
MjQ3WhgPMjEyNjExMDUxNjIyNDdaMAoGCCqGSM49BAMCA0gAMEUCIQCWFy5kA57O\n\
ULXiK1/jUpuUDh5P768rGJkw8wIt2+jauQIgK9Nwvj+wjYTFijcOyTg0/cR0Akbj\n\
yEbpMTp0wZL15ew=\n\
-----END X509 CRL-----\n";
/// Much longer than a listed certificate may stay in use.
const PATIENCE: Duration = Duration::from_secs(60);

fn bellwire(args: &[&str]) -> Command {
    command(BELLWIRE, args)
}

/// A closed hub with a listener that requires certificates, one that takes them, one for this machine, which is open.
struct Scene {
    hub: Program,
    requires: SocketAddr,
    takes: SocketAddr,
    open: Http,
    devices: Authority,
    client: Client,
    crl: PathBuf,
    servers: Authority,
    folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        Self::with(|folder| drop(admin_token(BELLWIRE, &folder.join("hub"))))
    }

    /// After this was done to its folder, without which the hub is open.
    fn with(close: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (servers, devices) = (Authority::new("servers"), Authority::new("devices"));
        let (cert, key) = servers.server(&["localhost"]).write(folder.path(), "hub");
        let (cert2, key2) = servers.server(&["second.example"]).write(folder.path(), "second");
        let ca = devices.write(folder.path(), "devices.pem");
        let crl = folder.path().join("devices.crl");
        fs::write(&crl, devices.revocations(&[])).unwrap();
        let rules = "[[listener.client]]\nname = 'uri:urn:example:device:*'\nis = 'device:*'\n\
            [[listener.client]]\nname = 'dns:*.devices.example'\nis = 'device:site-*'\n\
            [[listener.client]]\nname = 'cn:ops'\nis = 'operator'\nselect = 'site=lyon'\nactions = ['ping']\n";
        let settings = format!(
            "tls_cert = {cert:?}\ntls_key = {key:?}\n\
             [[certificate]]\ncert = {cert2:?}\nkey = {key2:?}\n\
             [[listener]]\naddress = 'https://127.0.0.1:0'\nclient_ca = {ca:?}\nclient_ca_required = true\n\
             client_crl = [{crl:?}]\n{rules}\
             [[listener]]\naddress = 'https://127.0.0.1:0'\nclient_ca = {ca:?}\nclient_crl = [{crl:?}]\n{rules}\
             [[listener]]\naddress = 'http://127.0.0.1:0'\nopen = true\n"
        );
        close(folder.path());
        let (hub, addresses) = Program::serve_with(BELLWIRE, folder.path(), &settings, 3);
        let open = Http(addresses[2]);
        for (device, labels) in [("a", "{}"), ("b", "{}"), ("site-c", "{\"site\":\"lyon\"}")] {
            let body = format!("{{\"labels\":{labels}}}");
            let made = open.request("PUT", &format!("/v1/devices/{device}"), &[], body.as_bytes());
            assert_eq!(made.unwrap().status, 201);
        }
        let (requires, takes) = (addresses[0], addresses[1]);
        let client = servers.client();
        Self { hub, requires, takes, open, devices, client, crl, servers, folder }
    }

    /// A client with a certificate of this device.
    fn device(&self, name: &str) -> Client {
        let name_in_it = vec![uri(&format!("urn:example:device:{name}"))];
        self.client.with(&self.devices.of_client(name, name_in_it))
    }

    /// The device's stream, after its hello.
    fn listen(&self, client: &Client, device: &str) -> BufReader<support::Connection> {
        let mut stream = self.begin(client, "GET", &format!("/v1/devices/{device}/stream"));
        until(&mut stream, "event: hello");
        stream
    }

    /// A request whose answer is yet to be read.
    fn begin(&self, client: &Client, method: &str, path: &str) -> BufReader<support::Connection> {
        let mut stream = BufReader::new(client.connect(self.takes, "localhost").unwrap());
        let head = "Host: localhost\r\nContent-Length: 0";
        write!(stream.get_mut(), "{method} {path} HTTP/1.1\r\n{head}\r\n\r\n").unwrap();
        stream
    }

    /// Revokes the certificates with these common names.
    fn revoke(&self, names: &[&str]) {
        let new = self.folder.path().join("new.crl");
        fs::write(&new, self.devices.revocations(names)).unwrap();
        fs::rename(&new, &self.crl).unwrap();
    }
}

#[test]
fn a_certificate_makes_a_device_or_an_operator_and_nothing_more() {
    let scene = Scene::new();
    let device = |name: &str| {
        scene
            .devices
            .of_client(&format!("cn-{name}"), vec![uri(&format!("urn:example:device:{name}"))])
    };
    let status = |client: &Client, method: &str, path: &str| {
        client.ask(scene.requires, method, path).unwrap().0
    };
    let a = scene.client.with(&device("a"));
    for (method, path, expected) in [
        ("GET", "/v1/devices/a", 200),
        ("GET", "/v1/devices/a/commands?wait=0", 200),
        ("GET", "/v1/devices/b", 403),
        ("GET", "/v1/devices/b/commands?wait=0", 403),
        ("GET", "/v1/devices", 403),
        ("POST", "/v1/send/a/ping", 403),
        ("GET", "/v1/tokens", 403),
    ] {
        assert_eq!(status(&a, method, path), expected, "{method} {path}");
    }
    let by_dns = rcgen::SanType::DnsName("C.devices.example".try_into().unwrap());
    let c = scene.client.with(&scene.devices.of_client("c", vec![by_dns]));
    assert_eq!(status(&c, "GET", "/v1/devices/site-c"), 200);

    let ops = scene.client.with(&scene.devices.of_client("ops", Vec::new()));
    for (method, path, expected) in [
        ("GET", "/v1/devices/site-c", 200),
        ("GET", "/v1/devices/a", 404),
        ("POST", "/v1/send/site-c/ping", 202),
        ("POST", "/v1/send/site-c/reboot", 403),
        ("GET", "/v1/tokens", 403),
    ] {
        assert_eq!(status(&ops, method, path), expected, "{method} {path}");
    }
    let (_, own) = ops.ask(scene.requires, "GET", "/v1/tokens/self").unwrap();
    let own: serde_json::Value = serde_json::from_str(&own).unwrap();
    assert_eq!((&own["role"], &own["id"]), (&"operator".into(), &serde_json::Value::Null));
    assert_eq!(own["note"], "certificate of ops");
    assert!(own["expires_at"].is_string(), "{own}");
    let sent = scene.open.get("/v1/commands").unwrap().json();
    assert_eq!(sent["items"][0]["created_by"], "certificate:operator:ops");

    // A name that no rule knows has no role.
    let other = scene.client.with(&scene.devices.of_client("other", Vec::new()));
    assert_eq!(status(&other, "GET", "/v1/devices"), 401);
    assert_eq!(status(&other, "GET", "/readyz"), 200);
}

/// A schedule without an owner would run with all that an open hub allows.
#[test]
fn no_certificate_makes_a_schedule_on_a_closed_hub_or_an_open_one() {
    for (scene, hub) in [(Scene::new(), "closed"), (Scene::with(|_| {}), "open")] {
        let ops = scene.client.with(&scene.devices.of_client("ops", Vec::new()));
        let (status, body) = ops.ask(scene.requires, "POST", "/v1/schedules").unwrap();
        assert_eq!(status, 403, "{hub}: {body}");
        assert!(body.contains("bellwire token create"), "{hub}: {body}");
    }
}

#[test]
fn a_listener_requires_certificates_or_takes_them_and_those_of_other_authorities_are_refused() {
    let scene = Scene::new();
    assert!(scene.client.get(scene.requires, "/readyz").is_err(), "without one");
    assert_eq!(scene.client.get(scene.takes, "/readyz").unwrap(), 200);
    assert_eq!(scene.client.get(scene.takes, "/v1/devices").unwrap(), 401);
    let name = vec![uri("urn:example:device:a")];
    let forged = scene.client.with(&Authority::new("devices").of_client("a", name.clone()));
    for address in [scene.requires, scene.takes] {
        assert!(forged.get(address, "/readyz").is_err(), "of another authority");
        let real = scene.client.with(&scene.devices.of_client("a", name.clone()));
        assert_eq!(real.get(address, "/v1/devices/a").unwrap(), 200);
    }
    // The plain one has no certificates: what a header says of one is not believed.
    assert_eq!(scene.open.get("/v1/devices").unwrap().status, 200);
}

#[test]
fn a_certificate_that_is_revoked_opens_nothing_and_what_it_had_open_ends() {
    let scene = Scene::new();
    let (a, b) = (scene.device("a"), scene.device("b"));
    let (mut stream_a, mut stream_b) = (scene.listen(&a, "a"), scene.listen(&b, "b"));
    // A connection that is open, and idle.
    let mut idle = BufReader::new(a.connect(scene.takes, "localhost").unwrap());
    let mut ask = |expected: &str| {
        let request = "GET /v1/devices/a HTTP/1.1\r\nHost: localhost\r\n\r\n";
        idle.get_mut().write_all(request.as_bytes()).unwrap();
        until(&mut idle, expected);
    };
    ask("200 OK");
    scene.revoke(&["a"]);
    scene.hub.wait_for("files of TLS have changed, and were read again");
    until(&mut stream_a, "revoked");
    ask("401 Unauthorized");
    assert!(a.get(scene.takes, "/readyz").is_err(), "the handshake");
    assert_eq!(b.get(scene.takes, "/v1/devices/b").unwrap(), 200);
    scene.open.post_json("/v1/send/b/ring", "{}").unwrap();
    until(&mut stream_b, "\"ring\"");
}

/// A certificate of the hub that had expired, of a name that no client asked for, kept the lists of revoked certificates from
/// being read, and an appliance that had been stolen stayed connected.
#[test]
fn a_certificate_is_revoked_though_one_of_the_hubs_own_is_of_no_use() {
    let scene = Scene::new();
    let (a, b) = (scene.device("a"), scene.device("b"));
    let (mut stream_a, mut stream_b) = (scene.listen(&a, "a"), scene.listen(&b, "b"));
    scene.servers.expired(&["second.example"]).write(scene.folder.path(), "second");
    scene.revoke(&["a"]);
    scene.hub.wait_for("second.pem expired at");
    until(&mut stream_a, "revoked");
    assert!(a.get(scene.takes, "/readyz").is_err(), "the handshake");
    assert_eq!(b.get(scene.takes, "/v1/devices/b").unwrap(), 200);

    // A list that cannot be read revokes what it did, and is read again when it can be, with nothing else changed.
    fs::write(&scene.crl, "no list\n").unwrap();
    scene.hub.wait_for("devices.crl");
    assert!(a.get(scene.takes, "/readyz").is_err(), "the handshake");
    scene.open.post_json("/v1/send/b/ring", "{}").unwrap();
    until(&mut stream_b, "\"ring\"");
    scene.revoke(&["a", "b"]);
    until(&mut stream_b, "revoked");

    scene.servers.server(&["second.example"]).write(scene.folder.path(), "second");
    scene.hub.wait_for("files of TLS have changed, and were read again");
}

/// `certificate:ops` was either of them, and a key that one had sent answered the other for it.
#[test]
fn certificates_of_one_name_are_distinguished_by_role_and_authority() {
    let scene = Scene::new();
    let others = Authority::new("others");
    let both = |mine: String, theirs: String| format!("{mine}\n{theirs}");
    let authorities = scene.folder.path().join("devices.pem");
    fs::write(&scene.crl, both(scene.devices.revocations(&[]), others.revocations(&[]))).unwrap();
    fs::write(authorities, both(scene.devices.pem(), others.pem())).unwrap();
    scene.hub.wait_for("files of TLS have changed, and were read again");

    let ops = |of: &Authority| scene.client.with(&of.of_client("ops", Vec::new()));
    let send = |client: &Client| {
        let mut stream = client.connect(scene.takes, "localhost").unwrap();
        let head =
            "Host: localhost\r\nIdempotency-Key: k\r\nContent-Length: 0\r\nConnection: close";
        write!(stream, "POST /v1/send/site-c/ping HTTP/1.1\r\n{head}\r\n\r\n").unwrap();
        let mut answer = String::new();
        // An end without close_notify, after a whole answer.
        let _ = stream.read_to_string(&mut answer);
        assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
        let delivery = answer.split("\r\n\r\n").nth(1).unwrap();
        let delivery: serde_json::Value = serde_json::from_str(delivery).unwrap();
        delivery["command"].as_str().unwrap().to_owned()
    };
    let (mine, theirs) = (ops(&scene.devices), ops(&others));
    assert_eq!(send(&mine), send(&mine), "one caller");
    assert_ne!(send(&mine), send(&theirs), "of another authority");

    // A device of the same name, which may not send.
    let device = scene.device("ops");
    assert_eq!(device.ask(scene.takes, "POST", "/v1/send/site-c/ping").unwrap().0, 403);
    let actors = wait_until("the refusal in the audit log", || {
        let log = scene.open.get("/v1/audit?verb=send").unwrap().json();
        let actors: Vec<_> = log["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["actor"]["token"].as_str().unwrap_or_default().to_owned())
            .collect();
        if actors.len() < 3 { Err(log) } else { Ok(actors) }
    });
    let count = |actor: &str| actors.iter().filter(|name| *name == actor).count();
    assert_eq!((count("certificate:operator:ops"), count("certificate:device:ops")), (2, 1));
}

/// Both waited on until their time was over, 25 s or minutes later.
#[test]
fn what_waits_with_a_certificate_ends_when_that_is_revoked() {
    let scene = Scene::new();
    let ops = scene.client.with(&scene.devices.of_client("ops", Vec::new()));
    let mut poll = scene.begin(&scene.device("a"), "GET", "/v1/devices/a/commands?wait=60s");
    let mut send = scene.begin(&ops, "POST", "/v1/send/site-c/ping?wait=300s");
    // Both wait: the command is stored, and the poll counts as presence.
    wait_until("the sender and the poll wait", || {
        let sent = scene.open.get("/v1/commands").unwrap().json();
        let a = scene.open.get("/v1/devices/a").unwrap().json();
        let both = sent["items"][0].is_object() && a["online"] == true;
        both.then_some(()).ok_or_else(|| format!("{sent}\n{a}"))
    });
    scene.revoke(&["a", "ops"]);
    for (waiting, which) in [(&mut poll, "the poll"), (&mut send, "the sender")] {
        let mut status = String::new();
        waiting.read_line(&mut status).unwrap();
        assert!(status.contains("401 Unauthorized"), "{which}: {status}");
    }
}

fn until(stream: &mut BufReader<support::Connection>, text: &str) {
    let (mut line, mut all) = (String::new(), String::new());
    let start = Instant::now();
    while !line.contains(text) {
        // A stream has a heartbeat in this time.
        assert!(start.elapsed() < PATIENCE, "no {text} in {PATIENCE:?}: {all}");
        line.clear();
        let read = stream.read_line(&mut line);
        all += &line;
        assert!(read.is_ok_and(|bytes| bytes > 0), "it ended before {text}: {all}");
    }
}

/// Settings of a hub that is not started, with a pair for its listener and an authority for clients.
struct Settings {
    folder: tempfile::TempDir,
    authority: Authority,
    ca: PathBuf,
    cert: PathBuf,
    pair: String,
}

/// The exit code, standard output and standard error of a program.
type Ended = (Option<i32>, String, String);

const RULE: &str = "[[listener.client]]\n";

impl Settings {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new("servers");
        let (cert, key) = authority.server(&["localhost"]).write(folder.path(), "hub");
        let ca = authority.write(folder.path(), "ca.pem");
        let pair = format!("tls_cert = {cert:?}\ntls_key = {key:?}\n");
        Self { folder, authority, ca, cert, pair }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let file = self.folder.path().join(name);
        fs::write(&file, text).unwrap();
        file
    }

    /// A list of revoked certificates of an authority of the same name, with another key.
    fn foreign_list(&self) -> PathBuf {
        self.write("foreign.crl", &Authority::new("servers").revocations(&[]))
    }

    /// The file of a hub with one listener.
    fn listener(&self, settings: &str) -> String {
        format!("{}[[listener]]\naddress = '127.0.0.1:0'\n{settings}", self.pair)
    }

    fn run(&self, args: &[&str], text: &str) -> Ended {
        let file = self.write("hub.toml", text);
        let mut program = bellwire(args);
        let ended = program.arg("--config").arg(file).current_dir(&self.folder).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (ended.status.code(), text(ended.stdout), text(ended.stderr))
    }

    fn check(&self, text: &str) -> Ended {
        self.run(&["config", "check"], text)
    }
}

#[test]
fn faults_of_client_certificates_are_reported_with_what_to_do() {
    let hub = Settings::new();
    let (ca, cert) = (&hub.ca, &hub.cert);
    let (foreign, old) = (hub.foreign_list(), hub.write("old.crl", CRL_OF_VERSION_1));
    for (settings, reason) in [
        ("client_ca = 'missing.pem'\n".to_owned(), "missing.pem"),
        (format!("client_ca = {ca:?}\nclient_crl = {cert:?}\n"), "no list of revoked certificates"),
        (format!("client_ca = {ca:?}\nclient_crl = {foreign:?}\n"), "foreign.crl for the"),
        (format!("client_ca = {ca:?}\nclient_crl = {foreign:?}\n"), "signed by another key"),
        (format!("client_ca = {ca:?}\nclient_crl = {old:?}\n"), "old.crl for the"),
        (
            format!("client_ca = {ca:?}\nclient_crl = {old:?}\n"),
            "set crlnumber, and crl_extensions",
        ),
        ("client_ca_required = true\n".to_owned(), "client_ca_required is set without client_ca"),
        (format!("client_ca = {ca:?}\ntls = false\n"), "client_ca is set on a plain listener"),
        (
            format!("client_ca = {ca:?}\n{RULE}name = 'ops'\nis = 'operator'\n"),
            "name is \"ops\", but it is uri:, dns: or cn:",
        ),
        (
            format!("client_ca = {ca:?}\n{RULE}name = 'cn:ops'\nis = 'admin'\n"),
            "is is \"admin\", but it is device:NAME",
        ),
        (format!("client_ca = {ca:?}\n{RULE}name = 'cn:ops'\n"), "it has no is"),
    ] {
        let (code, _, message) = hub.check(&hub.listener(&settings));
        assert_eq!(code, Some(2), "{settings}: {message}");
        assert!(message.contains(reason), "{reason}\nnot in {message}");
    }

    // Without a certificate of its own it would be a plain one.
    let plain = format!("[[listener]]\naddress = '127.0.0.1:0'\nclient_ca = {ca:?}\n");
    let (code, _, message) = hub.check(&plain);
    assert!(code == Some(2) && message.contains("there is no certificate"), "{message}");

    // The hub refuses what `config check` does.
    let settings = format!("client_ca = {ca:?}\nclient_crl = {foreign:?}\n");
    let (code, _, message) = hub.run(&["serve"], &hub.listener(&settings));
    assert!(code == Some(2) && message.contains("signed by another key"), "{message}");
}

#[test]
fn rules_of_client_certificates_are_printed_as_they_can_be_read_again() {
    let hub = Settings::new();
    let settings = format!(
        "client_ca = {:?}\nclient_ca_required = true\n{RULE}name = 'cn:ops'\nis = 'operator'\n\
         select = 'site=lyon'\nactions = ['ping', 'reboot']\n{RULE}name = 'uri:urn:*'\nis = 'device:x-*'\n",
        hub.ca
    );
    let (_, printed, _) = hub.check(&hub.listener(&settings));
    assert!(printed.contains("[[listener.client]]"), "{printed}");
    let (_, again, _) = hub.check(&printed);
    assert_eq!(again, printed);
}

#[test]
fn a_list_of_revoked_certificates_that_was_not_renewed_is_a_warning_of_the_check() {
    let hub = Settings::new();
    let late = hub.write("late.crl", &hub.authority.revocations_until(2025, &["a"]));
    let settings = format!("client_ca = {:?}\nclient_crl = {late:?}\n", hub.ca);
    let (code, _, message) = hub.check(&hub.listener(&settings));
    assert_eq!(code, Some(0), "{message}");
    let expected = "late.crl should have been renewed by 2025-01-01T00:00:00.000Z";
    assert!(message.contains("warning: ") && message.contains(expected), "{message}");
}

#[test]
fn a_list_of_revoked_certificates_that_was_not_renewed_is_warned_of_and_counts() {
    let scene = Scene::new();
    let (a, b) = (scene.device("a"), scene.device("b"));
    fs::write(&scene.crl, scene.devices.revocations_until(2025, &["a"])).unwrap();
    scene.hub.wait_for("devices.crl should have been renewed by 2025-01-01T00:00:00.000Z");
    assert!(a.get(scene.takes, "/readyz").is_err(), "the handshake");
    assert_eq!(b.get(scene.takes, "/v1/devices/b").unwrap(), 200);
    // A list that another key signed replaces none.
    fs::write(&scene.crl, Authority::new("devices").revocations(&["b"])).unwrap();
    scene.hub.wait_for("signed by another key");
    assert!(a.get(scene.takes, "/readyz").is_err(), "the handshake");
    assert_eq!(b.get(scene.takes, "/v1/devices/b").unwrap(), 200);
}
