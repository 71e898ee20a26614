//! `bellwire doctor` from outside: the real program, a real hub, and servers that are none.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message of a test"
)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output};

use bellwire_testkit::{Http, Program};
use serde_json::Value;

const BELLWIRE: &str = env!("CARGO_BIN_EXE_bellwire");

struct Hub {
    address: SocketAddr,
    _program: Program,
    _folder: tempfile::TempDir,
}

fn hub() -> Hub {
    let folder = tempfile::tempdir().unwrap();
    let (program, address) = Program::serve_anywhere(BELLWIRE, &folder.path().join("hub"));
    Hub { address, _program: program, _folder: folder }
}

/// A server that answers every request with these bytes, and closes.
fn server(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            let mut head = [0; 4096];
            if socket.read(&mut head).is_ok() {
                socket.write_all(answer.as_bytes()).ok();
            }
        }
    });
    address
}

/// An address on which nothing listens.
fn closed() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn doctor(args: &[&str]) -> Output {
    let mut command = Command::new(BELLWIRE);
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]
    {
        command.env_remove(name);
    }
    command.arg("doctor").args(args).output().unwrap()
}

fn json(args: &[&str]) -> (Value, i32) {
    let output = doctor(&[args, &["--json"]].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    let found = serde_json::from_str(&text);
    (found.unwrap_or_else(|e| panic!("{e}: {text:?}")), output.status.code().unwrap())
}

fn step<'a>(way: &'a Value, name: &str) -> &'a Value {
    let steps = way["steps"].as_array().unwrap();
    steps.iter().find(|step| step["name"] == name).unwrap_or_else(|| panic!("no {name} in {way:#}"))
}

#[test]
fn before_a_hub_it_finds_a_stream_and_leaves_no_device_behind() {
    let hub = hub();
    let (found, code) = json(&["--hub", &format!("http://{}", hub.address)]);
    assert_eq!((code, &found["verdict"]), (0, &Value::from("stream")), "{found:#}");
    assert_eq!(found["exit_code"], 0);
    for name in ["name", "tcp", "ping", "stream", "lag", "poll"] {
        assert_eq!(step(&found["ways"][0], name)["ok"], true, "{name} of {found:#}");
    }
    assert_eq!(found["use"]["hub"], format!("http://{}", hub.address));
    assert_eq!(found["use"]["proxy"], "environment");
    let devices = Http(hub.address).get("/v1/devices").unwrap().json();
    assert_eq!(devices["items"], Value::Array(vec![]));
}

#[test]
fn for_people_each_step_is_a_line_and_the_end_is_for_the_agents_configuration() {
    let hub = hub();
    let output = doctor(&["--hub", &format!("http://{}", hub.address), "--idle", "5s"]);
    let text = String::from_utf8(output.stdout).unwrap();
    for part in ["✓ name", "✓ tcp", "✓ ping", "✓ stream", "✓ lag", "✓ idle", "✓ poll"]
    {
        assert!(text.contains(part), "no {part} in\n{text}");
    }
    let hub = format!("  hub = \"http://{}\"\n  proxy = \"environment\"\n", hub.address);
    assert!(text.ends_with(&hub), "{text}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("5.0 s more"), "it says how long it takes: {said}");
    assert!(!said.contains('\r'), "a progress line where there is no terminal: {said:?}");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn where_nothing_answers_or_something_else_does_it_says_what_to_ask_for() {
    let portal = server(
        "HTTP/1.1 302 Found\r\nLocation: http://portal.test/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    );
    let urls = [format!("http://{}", closed()), format!("http://{portal}")];
    let (found, code) = json(&["--hub", &urls[0], "--hub", &urls[1]]);
    assert_eq!((code, &found["verdict"]), (6, &Value::from("none")), "{found:#}");
    assert!(found["use"].is_null());
    let refused = step(&found["ways"][0], "tcp");
    assert_eq!(refused["ok"], false);
    let remedy = refused["remedy"].as_str().unwrap();
    assert!(
        remedy.contains("127.0.0.1, TCP port") && remedy.contains("docs/networks.md"),
        "{remedy}"
    );
    let foreign = step(&found["ways"][1], "ping");
    assert!(foreign["remedy"].as_str().unwrap().contains("portal.test"), "{foreign:#}");
}

#[test]
fn the_best_of_several_ways_is_named_without_a_password() {
    let hub = hub();
    let url = format!("http://{}", hub.address);
    let proxy = format!("http://kiosk:s3cret@{}", closed());
    let args = ["--hub", &url, "--proxy", &proxy, "--proxy", "none"];
    let (found, code) = json(&args);
    assert_eq!((code, found["ways"].as_array().unwrap().len()), (0, 2), "{found:#}");
    assert_eq!(found["use"]["proxy"], "none");
    assert_eq!(found["ways"][0]["verdict"], "none");
    let output = doctor(&args);
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(!text.contains("s3cret") && !found.to_string().contains("s3cret"), "{text}");
}

/// Hubs before this test existed refuse the parameter.
#[test]
fn a_hub_that_is_too_old_for_the_test_of_a_stream_is_judged_by_its_ping() {
    let hub = hub();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let old = listener.local_addr().unwrap();
    // The real hub's answers, but for those that an old hub does not have.
    std::thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            let mut head = [0; 4096];
            let n = socket.read(&mut head).unwrap_or(0);
            let head = String::from_utf8_lossy(&head[..n]).into_owned();
            let target = head.split(' ').nth(1).unwrap_or("/").to_owned();
            let target = target.replace("stream=1", "stream_=1").replace("wait=", "wait_=");
            if let Ok(answer) = Http(hub.address).get(&target) {
                let length = answer.body.len();
                let line = answer.head.lines().next().unwrap_or_default().to_owned();
                let head =
                    format!("{line}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
                socket.write_all(&[head.as_bytes(), &answer.body].concat()).ok();
            }
        }
    });
    let (found, code) = json(&["--hub", &format!("http://{old}")]);
    assert_eq!((code, &found["verdict"]), (1, &Value::from("ping")), "{found:#}");
    let stream = step(&found["ways"][0], "stream");
    assert!(stream["detail"].as_str().unwrap().contains("too old"), "{stream:#}");
    assert!(stream["remedy"].is_null(), "it says nothing about the network: {stream:#}");
}

#[test]
fn a_limit_on_idle_connections_is_found_and_its_owner_told() {
    let hub = hub();
    // Passes everything on, and closes a connection after 7 s of silence: beyond the 5 s, below the 10 s of a silence.
    let cutter = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = cutter.local_addr().unwrap();
    std::thread::spawn(move || {
        for inner in cutter.incoming().map_while(Result::ok) {
            let Ok(outer) = std::net::TcpStream::connect(hub.address) else { continue };
            let silence = Some(std::time::Duration::from_secs(7));
            outer.set_read_timeout(silence).ok();
            let (mut from, mut to) = (inner.try_clone().unwrap(), outer.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut from, &mut to).ok());
            std::thread::spawn(move || {
                let (mut from, mut to) = (outer, inner);
                std::io::copy(&mut from, &mut to).ok();
                to.shutdown(std::net::Shutdown::Both).ok();
            });
        }
    });
    let (found, code) = json(&["--hub", &format!("http://{address}"), "--idle", "10s"]);
    assert_eq!(code, 0, "the stream itself works: {found:#}");
    let idle = step(&found["ways"][0], "idle");
    assert_eq!(idle["ok"], false, "{idle:#}");
    assert!(idle["detail"].as_str().unwrap().contains("cut after"), "{idle:#}");
    assert!(idle["meaning"].as_str().unwrap().contains("heartbeat = \"5s\""), "{idle:#}");
}

#[test]
fn a_silence_that_no_hub_offers_is_refused_before_anything_is_sent() {
    let output = doctor(&["--idle", "3s"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--idle is from 5s to 10m"));
}
