//! Promise: the credential of one appliance is of no use for another.

use bellwire_hub::http::routes;
use serde_json::json;

use crate::support::{Closed, text};

const NOBODYS: &str = "01900000-0000-7000-8000-000000000000";

/// Bodies that are good for one route or another, so that no refusal is for the body.
const BODIES: [&str; 4] = ["", "{}", r#"{"state":"succeeded"}"#, "[]"];

/// Two appliances on a closed hub, and a command for the second.
struct Two {
    closed: Closed,
    a: String,
    b: String,
    command_of_b: String,
}

impl Two {
    fn start() -> Self {
        let closed = Closed::start();
        let [a, b] = ["a", "b"].map(|d| closed.token(&json!({"role": "device", "device": d})));
        let command_of_b = text(&closed.admin("POST /v1/send/b/open", "")["command"]);
        Self { closed, a, b, command_of_b }
    }
}

/// Every route of a device in the table, so that a new one is in this by itself.
#[test]
fn a_devices_credential_opens_nothing_of_another_device() {
    let two = Two::start();
    let before = two.closed.admin("GET /v1/devices/b", "");
    let mut tried = 0;
    for (method, path) in routes() {
        if !path.contains("{device}") {
            continue;
        }
        tried += 1;
        for body in BODIES {
            // Whether it exists or not, however it is written, and a name that is none.
            let answers = ["b", "%62", "B", "A", "nobody", "a%2F..%2Fb", "b%00", ""].map(|name| {
                let path = path.replace("{device}", name).replace("{action}", "open");
                let line = format!("{method} {}", path.replace("{command}", &two.command_of_b));
                let answer = two.closed.ask(&two.a, &line, body);
                (line, answer.status, String::from_utf8(answer.body).unwrap())
            });
            for (line, status, said) in &answers {
                assert_eq!(*status, 403, "{line} with {body:?}: {said}");
                assert_eq!(
                    said, &answers[0].2,
                    "{line} is answered otherwise than {}",
                    answers[0].0
                );
            }
        }
    }
    assert!(tried >= 10, "the table of routes has {tried} of devices");
    let after = two.closed.admin("GET /v1/devices/b", "");
    assert_eq!(before, after, "something was done to b");
    let delivery = &two.closed.admin(&deliveries(&two.command_of_b), "")["items"][0];
    assert_eq!((&delivery["state"], &delivery["attempt"]), (&json!("queued"), &json!(0)));
}

fn deliveries(command: &str) -> String {
    format!("GET /v1/commands/{command}/deliveries")
}

#[test]
fn a_devices_credential_takes_no_stream_of_another_device() {
    let two = Two::start();
    let mut stream = two.closed.stream(&two.b, "/v1/devices/b/stream");
    stream.expect("hello");
    assert_eq!(stream.expect("command")["id"], two.command_of_b);
    for line in ["GET /v1/devices/b/stream", "GET /v1/devices/b/commands?wait=0"] {
        assert_eq!(two.closed.ask(&two.a, line, "").status, 403, "{line}");
    }
    // Its own stream is its own whatever it claims to be: no header or parameter names a device.
    let mut own = two.closed.stream(&two.a, "/v1/devices/a/stream?_device=b");
    assert_eq!(own.expect("hello")["device"], "a");
    let path = format!("POST /v1/devices/b/commands/{}/status", two.command_of_b);
    let done = two.closed.ask(&two.b, &path, r#"{"state":"succeeded"}"#);
    assert_eq!(done.status, 200, "b is not disturbed: {done:?}");
    let next = two.closed.admin("POST /v1/send/b/close", "");
    assert_eq!(stream.expect("command")["id"], next["command"], "the stream is b's still");
}

#[test]
fn a_device_reports_of_no_command_of_another_device() {
    let two = Two::start();
    let foreign = &two.command_of_b;
    let report = r#"{"state":"succeeded","result":"forged"}"#;
    // By its own path: as one that does not exist.
    let [of_b, of_nobody] = [foreign.as_str(), NOBODYS].map(|command| {
        two.closed.ask(&two.a, &format!("POST /v1/devices/a/commands/{command}/status"), report)
    });
    assert_eq!((of_b.status, of_b.json()["code"].clone()), (404, json!("unknown_command")));
    let same = |text: String| text.replace(foreign.as_str(), "X").replace(NOBODYS, "X");
    let [said_of_b, said_of_nobody] =
        [of_b, of_nobody].map(|answer| same(String::from_utf8(answer.body).unwrap()));
    assert_eq!(said_of_b, said_of_nobody);
    let items = [foreign.as_str(), NOBODYS]
        .map(|command| json!({"command": command, "state": "succeeded", "result": "forged"}));
    let batch = two.closed.ask(&two.a, "POST /v1/devices/a/status", &json!(items).to_string());
    let answers = batch.json();
    assert_eq!((&answers[0]["status"], &answers[1]["status"]), (&json!(404), &json!(404)));
    let [of_b, of_nobody] = [0, 1].map(|n| same(answers[n]["problem"].to_string()));
    assert_eq!(of_b, of_nobody);
    let delivery = &two.closed.admin(&deliveries(foreign), "")["items"][0];
    assert_eq!((&delivery["state"], &delivery["result"]), (&json!("queued"), &json!(null)));
}

#[test]
fn a_device_reports_no_facts_of_another_device() {
    let two = Two::start();
    let facts = r#"{"door":"open"}"#;
    assert_eq!(two.closed.ask(&two.b, "PUT /v1/devices/b/facts", r#"{"door":"shut"}"#).status, 200);
    assert_eq!(two.closed.ask(&two.a, "PUT /v1/devices/b/facts", facts).status, 403);
    assert_eq!(two.closed.admin("GET /v1/devices/b", "")["facts"], json!({"door": "shut"}));
    // Nor do the facts that it reports of itself name another.
    let own = two.closed.ask(&two.a, "PUT /v1/devices/a/facts", r#"{"id":"b","labels":{"x":"y"}}"#);
    assert_eq!((own.json()["id"].clone(), own.json()["labels"].clone()), (json!("a"), json!({})));
}

#[test]
fn a_device_confirms_no_stream_of_another_device() {
    let two = Two::start();
    let mut stream = two.closed.stream(&two.b, "/v1/devices/b/stream?confirm=1");
    let session = stream.expect("hello")["session"].clone();
    let body = json!({ "session": session }).to_string();
    assert_eq!(two.closed.ask(&two.a, "POST /v1/devices/b/confirm", &body).status, 403);
    // By its own path it is no session that lives.
    assert_eq!(two.closed.ask(&two.a, "POST /v1/devices/a/confirm", &body).status, 410);
    assert_eq!(two.closed.admin("GET /v1/devices/b", "")["online"], false, "it is unconfirmed");
    assert_eq!(two.closed.ask(&two.b, "POST /v1/devices/b/confirm", &body).status, 204);
    assert_eq!(two.closed.admin("GET /v1/devices/b", "")["online"], true);
}

/// A join token enrols, and an appliance that was enrolled is one appliance.
#[test]
fn an_enrolled_device_cannot_enrol_another_nor_take_its_name() {
    let two = Two::start();
    let join = two.closed.token(&json!({"role": "join", "uses": 5}));
    for token in [&two.a, &two.b] {
        let answer = two.closed.ask(token, "POST /v1/enroll", r#"{"device":"c"}"#);
        assert_eq!(answer.status, 403, "{answer:?}");
    }
    let taken = two.closed.ask(&join, "POST /v1/enroll", r#"{"device":"b"}"#);
    assert_eq!((taken.status, taken.json()["code"].clone()), (409, json!("conflict")));
    for line in ["GET /v1/devices", "GET /v1/devices/b/stream", "POST /v1/send/b/open"] {
        assert_eq!(two.closed.ask(&join, line, "").status, 403, "{line}");
    }
}
