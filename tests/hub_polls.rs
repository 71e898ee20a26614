//! Long polls, as docs/protocol.md has them in section 4, from outside: the real program, and requests by raw bytes.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message of a test"
)]

use std::thread::JoinHandle;

use bellwire_testkit::{Http, Program, Response, wait_until};
use serde_json::{Value, json};

const BELLWIRE: &str = env!("CARGO_BIN_EXE_bellwire");

/// A hub on a folder of its own.
struct Hub {
    http: Http,
    _program: Program,
    _folder: tempfile::TempDir,
}

impl Hub {
    fn start() -> Self {
        Self::with_lease("1h")
    }

    /// What was sent and not accepted is sent again after this time.
    fn with_lease(lease: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = std::process::Command::new(BELLWIRE);
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(folder.path().join("hub"));
        let program = Program::start(command.env("BELLWIRE_LEASE", lease));
        Self { http: Http(program.address()), _program: program, _folder: folder }
    }

    fn poll_with(&self, query: &str, headers: &[(&str, &str)]) -> Response {
        let target = format!("/v1/devices/k/commands?{query}");
        self.http.request("GET", &target, headers, b"").unwrap()
    }

    fn poll(&self, query: &str) -> Value {
        let answer = self.poll_with(query, &[]);
        assert_eq!(answer.status, 200, "{query}: {answer:?}");
        answer.json()
    }

    /// A poll that waits, in a thread of its own.
    fn begin_poll(&self, query: &'static str) -> JoinHandle<Value> {
        let http = self.http;
        std::thread::spawn(move || {
            http.get(&format!("/v1/devices/k/commands?{query}")).unwrap().json()
        })
    }

    fn send(&self) -> String {
        let sent = self.http.post_json("/v1/send/k/ping", "").unwrap();
        assert_eq!(sent.status, 202, "{sent:?}");
        sent.json()["command"].as_str().unwrap().to_owned()
    }

    fn report(&self, command: &str, state: &str) {
        let body = json!({ "state": state }).to_string();
        let target = format!("/v1/devices/k/commands/{command}/status");
        assert_eq!(self.http.post_json(&target, &body).unwrap().status, 200);
    }

    /// Waits until the device is shown so.
    fn until_shown(&self, online: bool, transport: Value) {
        wait_until(&format!("k to be online {online} by {transport}"), || {
            let shown = self.http.get("/v1/devices/k").map_err(|e| e.to_string())?.json();
            let fits = shown["online"] == online && shown["transport"] == transport;
            if fits { Ok(()) } else { Err(shown.to_string()) }
        });
    }
}

/// Each command of an answer: its id and its attempt.
fn commands(answer: &Value) -> Vec<(String, u64)> {
    let commands = answer["commands"].as_array().unwrap().iter();
    commands
        .map(|c| (c["id"].as_str().unwrap().to_owned(), c["attempt"].as_u64().unwrap()))
        .collect()
}

#[test]
fn a_poll_is_answered_200_with_json_of_known_length_and_never_stored() {
    let hub = Hub::start();
    let conditional = [("If-None-Match", "*"), ("Accept-Encoding", "gzip, br")];
    let answer = hub.poll_with("wait=0&nonce=n-1", &conditional);
    assert_eq!(answer.status, 200, "never 204 or 304: {answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("content-length"), Some(answer.body.len().to_string().as_str()));
    assert_eq!((answer.header("content-encoding"), answer.header("etag")), (None, None));
    let json = answer.json();
    assert_eq!((&json["commands"], &json["cancels"]), (&json!([]), &json!([])));
    let hello = &json["hello"];
    assert_eq!((&hello["device"], &hello["nonce"]), (&json!("k"), &json!("n-1")));
    assert!(hello["up_ms"].is_u64() && hello["time_ms"].is_u64(), "{hello}");
    let confirmation = json!({ "session": hello["session"] }).to_string();
    let refused = hub.http.post_json("/v1/devices/k/confirm", &confirmation).unwrap();
    assert_eq!((refused.status, &refused.json()["code"]), (410, &json!("gone")));
}

#[test]
fn wait_is_at_most_60_seconds_and_what_is_unknown_is_refused() {
    let hub = Hub::start();
    for (query, code) in [
        ("wait=61s", "bad_request"),
        ("wait=-1", "bad_request"),
        ("wait=1s&wait=1s", "bad_request"),
        ("last_event_id=x", "bad_request"),
        ("hold=1s", "unknown_field"),
    ] {
        let refused = hub.poll_with(query, &[]);
        assert_eq!((refused.status, &refused.json()["code"]), (400, &json!(code)), "{query}");
    }
    assert_eq!(commands(&hub.poll("wait=0&_=42")), []);
}

#[test]
fn a_waiting_poll_is_answered_as_soon_as_there_is_a_command_or_a_cancel() {
    let hub = Hub::start();
    let waiting = hub.begin_poll("wait=60s");
    hub.until_shown(true, json!("poll"));
    let command = hub.send();
    let answer = waiting.join().unwrap();
    assert_eq!(commands(&answer), [(command.clone(), 1)]);
    // Hello is as of the answer.
    let hello = &answer["hello"];
    let sent_ms = hello["time_ms"].as_u64().unwrap();
    assert!(sent_ms >= hello["up_ms"].as_u64().unwrap(), "{hello}");
    hub.report(&command, "running");
    let waiting = hub.begin_poll("wait=60s");
    let cancelled =
        hub.http.request("DELETE", &format!("/v1/commands/{command}"), &[], b"").unwrap();
    assert_eq!(cancelled.status, 202);
    assert_eq!(waiting.join().unwrap()["cancels"][0]["id"], command);
    assert_eq!(hub.poll("wait=0")["cancels"], json!([]), "it comes again after one lease");
}

#[test]
fn what_was_sent_comes_again_at_once_when_its_bearer_was_lost() {
    let hub = Hub::start();
    let command = hub.send();
    assert_eq!(commands(&hub.poll("wait=60s")), [(command.clone(), 1)]);
    // A poll that knows of no loss waits for the lease.
    assert_eq!(commands(&hub.poll("wait=0")), []);
    assert_eq!(commands(&hub.poll("wait=0&last_event_id=1000")), []);
    // The header wins over the query.
    let lost = hub.poll_with("wait=0&last_event_id=1000", &[("Last-Event-ID", "0")]).json();
    assert_eq!(commands(&lost), [(command.clone(), 2)]);
    hub.report(&command, "succeeded");
    assert_eq!(commands(&hub.poll("wait=0&last_event_id=0")), []);
}

#[test]
fn a_command_and_a_cancel_come_again_after_one_lease() {
    let hub = Hub::with_lease("1s");
    let command = hub.send();
    assert_eq!(commands(&hub.poll("wait=60s")), [(command.clone(), 1)]);
    assert_eq!(commands(&hub.poll("wait=60s")), [(command.clone(), 2)]);
    hub.report(&command, "running");
    let target = format!("/v1/commands/{command}");
    assert_eq!(hub.http.request("DELETE", &target, &[], b"").unwrap().status, 202);
    for time in ["first", "again"] {
        wait_until(&format!("the cancel to come: {time}"), || {
            let answer = hub.poll("wait=0");
            if answer["cancels"][0]["id"] == command { Ok(()) } else { Err(answer.to_string()) }
        });
    }
}

#[test]
fn what_only_an_unconfirmed_stream_carried_comes_at_once_by_a_poll() {
    let hub = Hub::start();
    let mut stream = hub.http.stream("/v1/devices/k/stream?confirm=1").unwrap();
    stream.expect("hello");
    let command = hub.send();
    assert_eq!(stream.expect("command")["attempt"], 1);
    hub.until_shown(false, Value::Null);
    assert_eq!(commands(&hub.poll("wait=60s")), [(command, 2)]);
    hub.until_shown(true, json!("poll"));
}

#[test]
fn a_poll_and_a_stream_run_side_by_side_with_the_same_attempt_and_neither_ends_the_other() {
    let hub = Hub::start();
    let mut stream = hub.http.stream("/v1/devices/k/stream").unwrap();
    stream.expect("hello");
    hub.until_shown(true, json!("stream"));
    let waiting = hub.begin_poll("wait=60s");
    // What the device uses in doubt: it would not poll if it trusted its stream.
    hub.until_shown(true, json!("poll"));
    let command = hub.send();
    assert_eq!(commands(&waiting.join().unwrap()), [(command.clone(), 1)]);
    let event = stream.expect("command");
    assert_eq!((&event["id"], &event["attempt"]), (&json!(command), &json!(1)));
    hub.report(&command, "succeeded");
    hub.send();
    stream.expect("command");
}

#[test]
fn a_newer_poll_ends_a_waiting_older_one_with_empty_lists() {
    let hub = Hub::start();
    let older = hub.begin_poll("wait=60s");
    hub.until_shown(true, json!("poll"));
    let newer = hub.begin_poll("wait=60s");
    let ended = older.join().unwrap();
    assert_eq!((commands(&ended), &ended["cancels"]), (vec![], &json!([])));
    let command = hub.send();
    assert_eq!(commands(&newer.join().unwrap()), [(command, 1)]);
}
