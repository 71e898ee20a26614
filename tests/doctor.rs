//! `bellwire doctor` from outside: the real program, a real hub, and servers that are none.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message of a test"
)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
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

/// What a middlebox does with a request.
enum Altered {
    /// It answers with the hub's answer to this target.
    Target(String),
    /// It passes the request on, and the hub's answer back as it comes.
    Passed,
    /// It does so under this name, as a reverse proxy that does not pass the client's on.
    Renamed(&'static str),
    /// It answers with these bytes itself.
    Answered(&'static str),
}

/// A middlebox before the hub that closes each connection after one answer.
fn altering(hub: SocketAddr, alter: fn(&str) -> Altered) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || alter_one(hub, socket, alter).ok());
        }
    });
    address
}

fn alter_one(
    hub: SocketAddr,
    mut socket: TcpStream,
    alter: fn(&str) -> Altered,
) -> std::io::Result<()> {
    let mut head = [0; 4096];
    let length = socket.read(&mut head)?;
    let text = String::from_utf8_lossy(&head[..length]);
    let altered = alter(text.split(' ').nth(1).unwrap_or("/"));
    match altered {
        Altered::Target(target) => {
            let answer = Http(hub).get(&target)?;
            let line = answer.head.lines().next().unwrap_or_default();
            let length = answer.body.len();
            let head = format!("{line}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
            socket.write_all(&[head.as_bytes(), &answer.body].concat())
        }
        Altered::Passed | Altered::Renamed(_) => {
            let mut outer = TcpStream::connect(hub)?;
            let named = match altered {
                Altered::Renamed(name) => renamed(&text, name),
                _ => text.into_owned(),
            };
            outer
                .write_all(named.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").as_bytes())?;
            std::io::copy(&mut outer, &mut socket).map(drop)
        }
        Altered::Answered(answer) => socket.write_all(answer.as_bytes()),
    }
}

/// A request's head with another name of the hub.
fn renamed(head: &str, name: &str) -> String {
    let lines = head.split("\r\n").map(|line| match line.split_once(':') {
        Some((field, _)) if field.eq_ignore_ascii_case("host") => format!("Host: {name}"),
        _ => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\r\n")
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
    // On this machine it is the hub that is down, and no network has an owner to be asked.
    assert!(refused["meaning"].as_str().unwrap().contains("`bellwire health`"), "{refused:#}");
    assert!(refused["remedy"].is_null(), "{refused:#}");
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
    // The real hub's answers, but for those that an old hub does not have.
    let old = altering(hub.address, |target| {
        Altered::Target(target.replace("stream=1", "stream_=1").replace("wait=", "wait_="))
    });
    let (found, code) = json(&["--hub", &format!("http://{old}")]);
    assert_eq!((code, &found["verdict"]), (1, &Value::from("ping")), "{found:#}");
    let stream = step(&found["ways"][0], "stream");
    assert!(stream["detail"].as_str().unwrap().contains("too old"), "{stream:#}");
    assert!(stream["remedy"].is_null(), "it says nothing about the network: {stream:#}");
}

#[test]
fn a_limit_on_idle_connections_is_found_with_the_setting_that_helps() {
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
    assert!(idle["remedy"].as_str().unwrap().contains("allow 60 s or more"), "{idle:#}");
}

/// A hub that serves as many trials as it may was shown as a network with an idle limit of 0 s.
/// An open hub on a loopback address refuses a name that a browser may have been led to.
#[test]
fn what_the_hub_itself_refuses_is_not_blamed_on_the_network() {
    let hub = hub();
    let renamed = altering(hub.address, |_| Altered::Renamed("hub.example"));
    let (found, code) = json(&["--hub", &format!("http://{renamed}")]);
    assert_eq!((code, &found["verdict"]), (6, &Value::from("none")), "{found:#}");
    let ping = step(&found["ways"][0], "ping");
    let detail = ping["detail"].as_str().unwrap();
    assert!(
        detail.contains("the hub itself refuses it") && detail.contains("allowed_hosts"),
        "{ping:#}"
    );
    assert!(ping["remedy"].is_null(), "nothing to ask the network's owner for: {ping:#}");
}

#[test]
fn a_refused_trial_of_a_silence_says_nothing_about_the_network() {
    let hub = hub();
    let busy = altering(hub.address, |target| match target.contains("heartbeat=") {
        true => Altered::Answered(
            "HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/problem+json\r\nConnection: close\r\n\r\n\
             {\"status\":429,\"code\":\"rate_limited\",\"detail\":\"\"}",
        ),
        false => Altered::Passed,
    });
    let (found, code) = json(&["--hub", &format!("http://{busy}"), "--idle", "5s"]);
    assert_eq!((code, &found["verdict"]), (0, &Value::from("stream")), "{found:#}");
    let idle = step(&found["ways"][0], "idle");
    assert_eq!(idle["ok"], false, "{idle:#}");
    assert!(idle["detail"].as_str().unwrap().contains("cannot serve this test now"), "{idle:#}");
    assert!(idle["remedy"].is_null(), "the network's owner can do nothing: {idle:#}");
}

#[test]
fn a_stream_that_is_cut_before_its_hello_is_distinguished_from_a_page() {
    let hub = hub();
    let cutting = altering(hub.address, |target| match target.contains("stream=1") {
        true => Altered::Answered(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n:\n\n",
        ),
        false => Altered::Passed,
    });
    // The last chunk, which states that the response is complete, does not come.
    let breaking = altering(hub.address, |target| match target.contains("stream=1") {
        true => Altered::Answered(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n\
             3\r\n:\n\n\r\n",
        ),
        false => Altered::Passed,
    });
    let page = altering(hub.address, |target| match target.contains("stream=1") {
        true => Altered::Answered(
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n<html></html>",
        ),
        false => Altered::Passed,
    });
    for (address, detail, remedy) in [
        (cutting, "ended before its first event", "cut off"),
        (breaking, "ended before its first event", "cut off"),
        (page, "not from the hub", "sign-in or block page"),
    ] {
        let (found, code) = json(&["--hub", &format!("http://{address}")]);
        assert_eq!((code, &found["verdict"]), (1, &Value::from("poll")), "{found:#}");
        let stream = step(&found["ways"][0], "stream");
        assert!(stream["detail"].as_str().unwrap().contains(detail), "{detail}: {stream:#}");
        assert!(stream["remedy"].as_str().unwrap().contains(remedy), "{remedy}: {stream:#}");
    }
}

/// It was shown as a way without a proxy.
#[cfg(feature = "pac")]
#[test]
fn a_pac_file_that_cannot_be_used_is_no_direct_way() {
    let nowhere = format!("http://{}/wpad.dat", closed());
    let hub = format!("http://{}", closed());
    let args = ["--hub", &hub, "--proxy", &format!("pac+{nowhere}"), "--proxy", "pac+file:///nil"];
    let (found, code) = json(&args);
    assert_eq!((code, found["ways"].as_array().unwrap().len()), (6, 2), "{found:#}");
    let (remote, local) = (&found["ways"][0], &found["ways"][1]);
    assert_eq!(remote["reason"], format!("the PAC file {nowhere} cannot be used"), "{remote:#}");
    let remedy = step(remote, "pac")["remedy"].as_str().unwrap();
    assert!(remedy.contains(&nowhere) && remedy.contains("tell us the HTTP proxy"), "{remedy}");
    assert!(step(local, "pac")["remedy"].is_null(), "the file is the reader's own: {local:#}");
    assert!(step(local, "pac")["meaning"].as_str().unwrap().contains("--proxy"), "{local:#}");
    let text = String::from_utf8(doctor(&args).stdout).unwrap();
    assert!(text.contains("through an unknown proxy (the PAC file") && !text.contains("directly"));
}

#[test]
fn a_list_of_hubs_without_a_url_is_a_usage_error() {
    for hub in ["", ",", " , "] {
        let output = doctor(&["--hub", hub]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{hub:?}: {said}");
        assert!(said.contains("as in --hub http://"), "{hub:?}: {said}");
    }
}

#[test]
fn a_silence_that_no_hub_offers_is_refused_before_anything_is_sent() {
    let output = doctor(&["--idle", "3s"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--idle is from 5s to 10m"));
}
