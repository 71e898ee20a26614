//! Promise: an agent notices that its network is another one, and finds its proxy by a PAC file.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message of a test"
)]

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bellwire_testkit::{Http, Program, has_own_network, wait_until};
use serde_json::Value;

const BELLWIRE: &str = env!("CARGO_BIN_EXE_bellwire");

/// Answers each request with this text; returns its address and how many there were.
fn server(answer: String) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, count) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            let mut lines = BufReader::new(client.try_clone().unwrap()).lines();
            if lines.by_ref().map_while(Result::ok).any(|line| line.is_empty()) {
                counted.fetch_add(1, Ordering::SeqCst);
                client.write_all(answer.as_bytes()).ok();
            }
            client.shutdown(Shutdown::Both).ok();
        }
    });
    (address, count)
}

fn page(status: &str, content_type: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

/// A forward proxy for plain HTTP: what it gets names the whole URL, and goes to that server; it counts connections.
fn proxy() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, count) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            counted.fetch_add(1, Ordering::SeqCst);
            std::thread::spawn(move || forward(client));
        }
    });
    (address, count)
}

fn forward(mut client: TcpStream) -> Option<()> {
    let mut start = vec![0; 16 * 1024];
    let length = client.read(&mut start).ok()?;
    let text = String::from_utf8_lossy(&start[..length]).into_owned();
    let host = text.split_once("http://")?.1.split_once('/')?.0;
    let mut hub = TcpStream::connect(host).ok()?;
    hub.write_all(&start[..length]).ok()?;
    let (mut from_hub, mut to_client) = (hub.try_clone().ok()?, client.try_clone().ok()?);
    std::thread::spawn(move || {
        std::io::copy(&mut from_hub, &mut to_client).ok();
        to_client.shutdown(Shutdown::Both).ok();
    });
    std::io::copy(&mut client, &mut hub).ok();
    hub.shutdown(Shutdown::Both).ok();
    Some(())
}

fn configure(folder: &Path, settings: &str) {
    let state = folder.join("state");
    let text = format!(
        "device = \"kiosk\"\nstate_dir = {state:?}\n{settings}\n[actions.ping]\nrun = [\"/bin/echo\", \"pong\"]\n"
    );
    std::fs::write(folder.join("agent.toml"), text).unwrap();
}

fn agent_command(folder: &Path, line: &[&str]) -> Command {
    let mut command = Command::new(BELLWIRE);
    command.arg("agent").args(line).arg("--config").arg(folder.join("agent.toml"));
    command.env_remove("NOTIFY_SOCKET");
    command
}

fn output(folder: &Path, line: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = agent_command(folder, line).output().unwrap();
    let text = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
    (status.code(), text)
}

fn ip(line: &str) {
    let output = Command::new("ip").args(line.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
}

fn succeeds(http: Http) {
    let answer = http.request("POST", "/v1/send/kiosk/ping?wait=60s", &[], b"").unwrap().json();
    assert_eq!(answer["state"], "succeeded", "{answer}");
}

#[test]
fn an_agent_that_pauses_tries_again_at_once_when_an_address_appears() {
    if !has_own_network("an_agent_that_pauses_tries_again_at_once_when_an_address_appears") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // After this answer an agent pauses for 15 minutes.
    let removed = r#"{"code":"gone","status":410,"title":"Gone","detail":"it was removed"}"#;
    let (hub, count) = server(page("410 Gone", "application/problem+json", removed));
    configure(folder.path(), &format!("hub = \"http://{hub}\"\nproxy = \"none\""));
    let agent = Program::start(&mut agent_command(folder.path(), &["run"]));
    agent.wait_for("this device was removed");
    let before = count.load(Ordering::SeqCst);
    ip("link add up0 type veth peer name up1");
    ip("link set up1 up");
    ip("link set up0 up");
    ip("addr add 192.0.2.7/24 dev up0");
    agent.wait_for("trying everything again: there is a new address");
    wait_until("another request to the hub", || match count.load(Ordering::SeqCst) {
        after if after > before => Ok(()),
        after => Err(format!("{after} requests")),
    });
}

#[test]
fn the_proxies_of_a_pac_file_that_a_server_offers_are_tried_in_its_order() {
    let (folder, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_hub, address) = Program::serve(BELLWIRE, data.path(), "127.0.0.1:0".parse().unwrap());
    let refused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (proxy, connections) = proxy();
    let script = format!(
        "function FindProxyForURL(url, host) {{\n  if (host != \"127.0.0.1\") return \"DIRECT\";\n  \
         return \"SOCKS {refused}; PROXY {refused}; PROXY {proxy}\";\n}}\n"
    );
    let (pac, fetched) = server(page("200 OK", "application/x-ns-proxy-autoconfig", &script));
    configure(
        folder.path(),
        &format!("hub = \"http://{address}\"\nproxy = \"pac+http://{pac}/proxy.pac\""),
    );
    let (code, text) = output(folder.path(), &["check"]);
    assert_eq!(code, Some(0), "{text}");
    let agent = Program::start(&mut agent_command(folder.path(), &["run"]));
    agent.wait_for("SOCKS");
    agent.wait_for("connected");
    succeeds(Http(address));
    assert!(connections.load(Ordering::SeqCst) > 0, "through the proxy");
    assert!(fetched.load(Ordering::SeqCst) >= 2, "by check and by run");
    let (code, text) = output(folder.path(), &["status", "--json"]);
    let status: Value =
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{code:?} {e} {text}"));
    assert_eq!(status["connection"]["proxy"], format!("http://{proxy}"), "{status}");
}

#[test]
fn a_pac_file_that_cannot_be_read_is_an_error_of_check_and_the_other_proxies_go_on() {
    let (folder, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_hub, address) = Program::serve(BELLWIRE, data.path(), "127.0.0.1:0".parse().unwrap());
    let missing = folder.path().join("missing.pac");
    let hub = format!("hub = \"http://{address}\"");
    configure(
        folder.path(),
        &format!("{hub}\nproxy = [\"pac+file://{}\", \"none\"]", missing.display()),
    );
    let (code, text) = output(folder.path(), &["check"]);
    assert_ne!(code, Some(0), "{text}");
    assert!(text.contains("missing.pac") && text.contains("proxy"), "{text}");
    let agent = Program::start(&mut agent_command(folder.path(), &["run"]));
    agent.wait_for("missing.pac");
    agent.wait_for("connected");
    succeeds(Http(address));
    configure(folder.path(), &format!("{hub}\nproxy = \"pac+ftp://x\""));
    let (code, text) = output(folder.path(), &["check"]);
    assert_ne!(code, Some(0), "{text}");
    assert!(text.contains("pac+http://HOST/PATH"), "{text}");
}
