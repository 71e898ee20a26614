//! Promise: `bellwire agent run` survives bad networks. A captive portal that answers for the hub costs no result, a
//! proxy that requires a password is named as such, the log shows what became of each command and never a password,
//! and a second shutdown request does not wait.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message of a test"
)]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};

use bellwire_testkit::{AgentScene, Http, Program, begin, runs, until, wait_until};

const BELLWIRE: &str = env!("CARGO_BIN_EXE_bellwire");

/// A guest network: it forwards everything to the hub, or a captive portal answers.
struct Network {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    hub: Option<SocketAddr>,
    /// Open connections, to be cut when the portal closes.
    open: Vec<TcpStream>,
}

impl Network {
    fn start(hub: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Mutex::new(Shared { hub: Some(hub), open: Vec::new() }));
        let network = Self { address, shared: shared.clone() };
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let mut shared = shared.lock().unwrap();
                let Some(hub) = shared.hub else {
                    std::thread::spawn(move || answer_as_portal(client));
                    continue;
                };
                let Ok(hub) = TcpStream::connect(hub) else { continue };
                shared.open.push(client.try_clone().unwrap());
                join(client, hub);
            }
        });
        network
    }

    /// From now on a sign-in page answers every request, or none any more.
    fn set_portal(&self, hub: Option<SocketAddr>) {
        let mut shared = self.shared.lock().unwrap();
        shared.hub = hub;
        for stream in shared.open.drain(..) {
            stream.shutdown(Shutdown::Both).ok();
        }
    }
}

/// Copies bytes in both directions until one side closes.
fn join(client: TcpStream, hub: TcpStream) {
    for (mut from, mut to) in
        [(client.try_clone().unwrap(), hub.try_clone().unwrap()), (hub, client)]
    {
        std::thread::spawn(move || {
            std::io::copy(&mut from, &mut to).ok();
            from.shutdown(Shutdown::Both).ok();
            to.shutdown(Shutdown::Both).ok();
        });
    }
}

/// A GET is redirected to the sign-in page; every other request gets a page at once.
fn answer_as_portal(mut client: TcpStream) {
    let request = read_head(&mut client);
    let answer = match request.starts_with("GET ") {
        true => "HTTP/1.1 302 Found\r\nlocation: http://portal.test/login\r\n",
        false => "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n",
    };
    let page = "content-length: 20\r\nconnection: close\r\n\r\n<html>Welcome</html>";
    client.write_all(format!("{answer}{page}").as_bytes()).ok();
}

fn read_head(client: &mut TcpStream) -> String {
    let (mut head, mut chunk) = (String::new(), [0; 4096]);
    while !head.contains("\r\n\r\n") {
        let Ok(length @ 1..) = client.read(&mut chunk) else { break };
        head.push_str(&String::from_utf8_lossy(&chunk[..length]));
    }
    head
}

#[test]
fn a_portal_that_answers_for_the_hub_costs_no_result() {
    let data = tempfile::tempdir().unwrap();
    let (_hub, address) = Program::serve_anywhere(BELLWIRE, data.path());
    let http = Http(address);
    let network = Network::start(address);
    let marks = tempfile::tempdir().unwrap();
    let go = marks.path().join("go");
    let script = format!("until [ -e {} ]; do sleep 0.02; done; echo done", go.display());
    let scene = AgentScene::new(
        BELLWIRE,
        &format!(
            "hub = \"http://kiosk:s3cret@{}\"\n[actions.wait]\nrun = [\"/bin/sh\", \"-c\", {script:?}]\n",
            network.address
        ),
    );
    let agent = scene.agent();
    agent.wait_for("connected");
    until(http, &begin(http, "format"), "rejected");
    let line = agent.wait_for("unknown_action");
    assert!(line.contains("WARN") && line.contains("format"), "{line}");
    let id = begin(http, "wait");
    until(http, &id, "running");

    network.set_portal(None);
    agent.wait_for("http://portal.test/login");
    std::fs::write(&go, "").unwrap();
    agent.wait_for("reports fail");
    network.set_portal(Some(address));
    let ended = until(http, &id, "succeeded");
    assert_eq!(ended["stdout"], "done\n");

    agent.wait_for("reports succeed again");
    for step in ["received", "running", "ended", "reported"] {
        let line = agent.wait_for(step);
        assert!(line.contains("INFO"), "{line}");
    }
    let line = agent.wait_for("ended action=wait");
    assert!(line.contains(&id) && line.contains("seconds="), "{line}");
    assert!(!agent.output().contains("s3cret"), "{}", agent.output());
}

#[test]
fn a_proxy_that_requires_a_password_is_named_in_the_log_and_retried_after_a_minute() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = format!("proxy = \"http://{}\"\n", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            assert!(read_head(&mut client).starts_with("CONNECT hub.test:443"));
            let answer = b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\
                           proxy-authenticate: NTLM, Basic realm=\"x\"\r\n\r\n";
            client.write_all(answer).ok();
        }
    });
    let scene = AgentScene::new(BELLWIRE, &format!("hub = \"https://hub.test\"\n{proxy}"));
    let agent = scene.agent();
    let line = agent.wait_for("no connection to the hub");
    for part in ["the proxy requires a user and password", "offers NTLM, Basic", "user:password@"] {
        assert!(line.contains(part), "{part} in {line}");
    }
    let pause = line.split("retry_in=").nth(1).and_then(|rest| rest.split(['.', 's']).next());
    let pause_s: u64 = pause.unwrap().parse().unwrap_or_else(|e| panic!("{e} in {line}"));
    assert!((60..=75).contains(&pause_s), "{line}");
}

/// Over HTTP/2 all requests of an agent shared one connection: the network dropped it silently, and no report
/// arrived any more until the operating system closed it.
#[test]
fn over_tls_too_reports_do_not_share_the_streams_connection() {
    let data = tempfile::tempdir().unwrap();
    let fixture = |name: &str| {
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../client/tests/fixtures").join(name)
    };
    let config = data.path().join("hub.toml");
    let (cert, key) = (fixture("hub.pem"), fixture("hub.key"));
    std::fs::write(&config, format!("tls_cert = {cert:?}\ntls_key = {key:?}\n")).unwrap();
    let mut serve = Command::new(BELLWIRE);
    serve.args(["serve", "--listen", "127.0.0.1:0", "--config"]).arg(&config);
    serve.env("BELLWIRE_ALLOWED_HOSTS", "hub.test");
    let hub = Program::start(serve.arg("--data-dir").arg(data.path().join("hub")));
    let line = hub.wait_for("listening on https://");
    let address = line.split("https://").nth(1).unwrap().split_whitespace().next().unwrap();
    let address: SocketAddr = address.trim_end_matches(',').parse().unwrap();

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let rest = format!(
        "proxy = \"http://{}\"\nca_file = {:?}\n",
        listener.local_addr().unwrap(),
        fixture("ca.pem")
    );
    let ways = Arc::new(Mutex::new(Vec::new()));
    let opened = ways.clone();
    std::thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            opened.lock().unwrap().push(read_head(&mut client));
            client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").ok();
            let Ok(hub) = TcpStream::connect(address) else { continue };
            join(client, hub);
        }
    });
    let scene = AgentScene::new(BELLWIRE, &format!("hub = \"https://hub.test\"\n{rest}"));
    let agent = scene.agent();
    agent.wait_for("connected");
    // The stream is one connection, and the facts need another.
    wait_until("a second way through the proxy", || {
        let ways = ways.lock().unwrap();
        if ways.len() >= 2 { Ok(()) } else { Err(format!("{ways:?}\n{}", agent.output())) }
    });
}

#[test]
fn a_second_term_does_not_wait_for_what_runs() {
    let data = tempfile::tempdir().unwrap();
    let (_hub, address) = Program::serve_anywhere(BELLWIRE, data.path());
    let http = Http(address);
    let marks = tempfile::tempdir().unwrap();
    let pid = marks.path().join("pid");
    // It ignores TERM, so only KILL ends it.
    let script = format!("trap '' TERM; echo $$ > {}; while :; do sleep 1; done", pid.display());
    let actions = format!("[actions.long]\nrun = [\"/bin/sh\", \"-c\", {script:?}]\n");
    let scene = AgentScene::new(BELLWIRE, &format!("hub = \"http://{address}\"\n{actions}"));
    let agent = scene.agent();
    agent.wait_for("connected");
    let id = begin(http, "long");
    until(http, &id, "running");
    let pid = wait_until("the handler to begin", || {
        let pid = std::fs::read_to_string(&pid).map_err(|e| e.to_string())?;
        if pid.ends_with('\n') { Ok(pid.trim().to_owned()) } else { Err(pid) }
    });
    let term = Command::new("kill").args(["-TERM", &agent.id().to_string()]).status().unwrap();
    assert!(term.success());
    agent.wait_for("no new command is accepted");
    // Within the limit of this wait, which is less than the 30 s that the handler would have had.
    assert_eq!(agent.terminate().code(), Some(0));
    assert!(!runs(&pid), "the handler is gone with the agent");
    let ended = until(http, &id, "failed");
    assert_eq!(ended["error"]["code"], "interrupted", "the hub is informed: {ended}");
}
