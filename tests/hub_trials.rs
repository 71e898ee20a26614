//! `GET /v1/ping` as a test of a network, as docs/protocol.md has it in section 4: the real program, requests by raw bytes.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message of a test"
)]

use bellwire_proto::limits::PING_TRIALS_MAX;
use bellwire_testkit::{Http, Program, wait_until};
use serde_json::Value;

const BELLWIRE: &str = env!("CARGO_BIN_EXE_bellwire");

struct Hub {
    http: Http,
    _program: Program,
    _folder: tempfile::TempDir,
}

fn hub() -> Hub {
    let folder = tempfile::tempdir().unwrap();
    let (program, address) = Program::serve_anywhere(BELLWIRE, &folder.path().join("hub"));
    Hub { http: Http(address), _program: program, _folder: folder }
}

const STREAM: &str = "/v1/ping?stream=1&heartbeat=5m";

#[test]
fn a_stream_of_no_device_has_the_head_hello_and_probes_of_a_devices_and_stores_nothing() {
    let hub = hub();
    let head = hub.http.request("HEAD", STREAM, &[], b"").unwrap();
    assert_eq!(head.header("content-type"), Some("text/event-stream"));
    assert_eq!(head.header("cache-control"), Some("no-store, no-transform"));
    assert_eq!(head.header("x-accel-buffering"), Some("no"));
    let mut stream =
        hub.http.stream(&format!("{STREAM}&nonce=n&probes=1&compat=1&prelude=9")).unwrap();
    let hello = stream.expect("hello");
    let mut members: Vec<_> = hello.as_object().unwrap().keys().map(String::as_str).collect();
    members.sort_unstable();
    assert_eq!(members, ["heartbeat_s", "hub", "nonce", "time_ms", "up_ms"]);
    assert_eq!((&hello["nonce"], &hello["heartbeat_s"]), (&Value::from("n"), &Value::from(300)));
    let devices = hub.http.get("/v1/devices").unwrap().json();
    assert_eq!(devices["items"], Value::Array(vec![]));
}

#[test]
fn one_more_than_the_bound_is_429_until_a_client_has_gone() {
    let hub = hub();
    let mut streams: Vec<_> =
        (0..PING_TRIALS_MAX).map(|_| hub.http.stream(STREAM).unwrap()).collect();
    for target in [STREAM, "/v1/ping?wait=60s"] {
        let refused = hub.http.get(target).unwrap();
        assert_eq!((refused.status, &refused.json()["code"]), (429, &Value::from("rate_limited")));
        assert!(refused.header("retry-after").is_some(), "{}", refused.head);
    }
    let pong = hub.http.get("/v1/ping").unwrap();
    assert_eq!(pong.status, 200, "a ping is served all the same");
    streams.pop();
    wait_until("a slot to be free", || match hub.http.stream(STREAM) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    });
}

#[test]
fn an_answer_is_held_back_and_echoes_its_nonce() {
    let hub = hub();
    let begun = std::time::Instant::now();
    let pong = hub.http.get("/v1/ping?wait=1s&nonce=n").unwrap();
    assert_eq!((pong.status, &pong.json()["nonce"]), (200, &Value::from("n")));
    assert!(begun.elapsed() >= std::time::Duration::from_secs(1), "it was not held back");
    assert_eq!(pong.header("cache-control"), Some("no-store"));
}

#[test]
fn parameters_of_a_stream_are_refused_as_those_of_a_devices_are() {
    let hub = hub();
    for (query, code) in [
        ("stream=2", "bad_request"),
        ("stream=1&heartbeat=4s", "bad_request"),
        ("stream=1&wait=5s", "unknown_field"),
        ("stream=1&confirm=1", "unknown_field"),
        ("stream=0&probes=1", "unknown_field"),
        ("wait=61s", "bad_request"),
    ] {
        let refused = hub.http.get(&format!("/v1/ping?{query}")).unwrap();
        assert_eq!((refused.status, &refused.json()["code"]), (400, &Value::from(code)), "{query}");
    }
}
