//! Sending. Contract, section 3.

use serde_json::Value;

use crate::support::{Hub, text};

#[test]
fn a_command_is_answered_once_it_is_stored() {
    let hub = Hub::start();
    let answer = hub.post("/v1/send/kiosk-7/ping?ttl=15m", "hello");
    assert_eq!(answer.status, 202);
    let delivery = answer.json();
    let id = text(&delivery["command"]).to_owned();
    assert_eq!(answer.head.header("location"), Some(format!("/v1/commands/{id}").as_str()));
    assert_eq!(delivery["state"], "queued");
    assert_eq!(delivery["attempt"], 0);
    assert_eq!(delivery["device"], "kiosk-7");
    assert_eq!(delivery["action"], "ping");
    assert_eq!(delivery["seq"], 1);
    let members = "command seq device action state attempt rev created_at updated_at expires_at \
                   progress exit_code result stdout stderr truncated error late";
    let found: Vec<&String> = delivery.as_object().unwrap().keys().collect();
    let mut expected: Vec<&str> = members.split_whitespace().collect();
    expected.sort_unstable();
    assert_eq!(found, expected);
    assert_eq!(hub.get(&format!("/v1/commands/{id}")).json()["data"], "hello");
    assert_eq!(hub.get("/v1/devices/kiosk-7").json()["queued"], 1);
}

#[test]
fn data_is_passed_on_as_it_came() {
    let hub = Hub::start();
    let mut stream = hub.stream("/v1/devices/d/stream?ack=none");
    stream.expect("hello");
    let json = "Content-Type: application/json; charset=utf-8\r\n";
    for (headers, body, data) in [
        (json, "{\"z\": 1.50,\n\"a\":1e2,\"a\":-0}", "{\"z\": 1.50,\"a\":1e2,\"a\":-0}"),
        (json, "", "null"),
        ("", "", "null"),
        ("", "two\r\nlines é", "\"two\\r\\nlines é\""),
        ("Content-Type: application/ld+json\r\n", "{}", "\"{}\""),
    ] {
        let answer = hub.request("POST /v1/send/d/show", headers, body.as_bytes());
        assert_eq!(answer.status, 202, "{answer:?}");
        let event = stream.event();
        let line = event.field("data").unwrap();
        assert!(line.contains(&format!("\"data\":{data},")), "{line} has no {data}");
    }
}

#[test]
fn what_cannot_be_data_is_refused() {
    let hub = Hub::start();
    let json = "Content-Type: application/json\r\n";
    let deep = format!("{}{}", "[".repeat(129), "]".repeat(129));
    for (headers, body, status) in [
        (json, &b"{\"a\":}"[..], 400),
        (json, b"\"\\ud800\"", 400),
        (json, deep.as_bytes(), 400),
        (json, b"\xff", 415),
        ("", b"\xff", 415),
        ("Content-Encoding: br\r\n", b"", 415),
    ] {
        let answer = hub.request("POST /v1/send/d/a", headers, body);
        assert_eq!(answer.status, status, "{answer:?}");
        answer.code();
    }
    for query in ["ttl=8d", "ttl=1.5", "wait=301", "wait=-1", "run_timeout=0", "run_timeout=25h"] {
        let answer = hub.post(&format!("/v1/send/d/a?{query}"), "");
        assert_eq!((answer.status, answer.code().as_str()), (400, "bad_request"), "{query}");
    }
    assert_eq!(
        hub.get("/v1/devices/d").code(),
        "unknown_device",
        "only what is stored creates one"
    );
}

#[test]
fn a_command_with_ttl_0_is_refused_when_the_device_is_offline() {
    let hub = Hub::start();
    let answer = hub.post("/v1/send/d/a?ttl=0", "");
    assert_eq!((answer.status, answer.code().as_str()), (409, "device_offline"));
    let _stream = hub.stream("/v1/devices/d/stream");
    assert_eq!(hub.post("/v1/send/d/a?ttl=0", "").status, 202);
}

#[test]
fn a_waiting_sender_receives_the_end() {
    let hub = Hub::start();
    let mut device = hub.stream("/v1/devices/d/stream");
    device.expect("hello");
    for wait in ["POST /v1/send/d/a?wait=20s", "POST /v1/send/d/a"] {
        let mut sender = hub.connect();
        let prefer = if wait.contains('?') { "" } else { "Prefer: respond-async, wait=20\r\n" };
        sender.request(wait, prefer, b"");
        let command = device.expect("command");
        let path = format!("/v1/devices/d/commands/{}/status", text(&command["id"]));
        assert_eq!(hub.post(&path, r#"{"state":"succeeded","stdout":"pong\n"}"#).status, 200);
        let answer = sender.answer_to(wait);
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.json()["state"], "succeeded");
        assert_eq!(answer.json()["stdout"], "pong\n");
    }
    let answer = hub.post("/v1/send/nobody/a?wait=1s", "");
    assert_eq!((answer.status, answer.json()["state"].clone()), (202, Value::from("queued")));
}

#[test]
fn a_full_queue_is_429() {
    let hub = Hub::with(|config| config.queue_max = 2);
    hub.command("d", "a");
    hub.command("d", "a");
    let answer = hub.post("/v1/send/d/a", "");
    assert_eq!((answer.status, answer.code().as_str()), (429, "queue_full"));
    hub.command("e", "a");
}

#[test]
fn the_same_key_and_request_is_the_same_command() {
    let hub = Hub::start();
    let key = "Idempotency-Key: k-1\r\n";
    let json = "Idempotency-Key: k-1\r\nContent-Type: application/json\r\n";
    let ask = |line: &str, headers: &str, body: &str| hub.request(line, headers, body.as_bytes());
    let first = ask("POST /v1/send/d/a?ttl=1h", key, "x").json();
    for same in [
        "POST /v1/send/d/a?ttl=1h",
        "POST /v1/send/d/a?wait=1s&ttl=1h",
        "POST /v1/send/d/a?ttl=1%68&_=7",
    ] {
        let again = ask(same, key, "x");
        assert_eq!((again.status, &again.json()["command"]), (202, &first["command"]), "{same}");
    }
    for (line, headers, body) in [
        ("POST /v1/send/d/a?ttl=1h", key, "y"),
        ("POST /v1/send/d/a?ttl=2h", key, "x"),
        ("POST /v1/send/d/a?ttl=1h&run_timeout=9", key, "x"),
        ("POST /v1/send/d/b?ttl=1h", key, "x"),
        ("POST /v1/send/d/a?ttl=1h", json, "1"),
    ] {
        let other = ask(line, headers, body);
        assert_eq!((other.status, other.code().as_str()), (409, "idempotency_mismatch"), "{line}");
    }
    assert_eq!(hub.report(&first, r#"{"state":"succeeded"}"#).status, 200);
    let ended = ask("POST /v1/send/d/a?ttl=1h", key, "x");
    assert_eq!((ended.status, ended.json()["state"].clone()), (200, Value::from("succeeded")));
    assert_eq!(ended.head.header("location").map(|l| l.contains("/v1/commands/")), Some(true));
    for bad in [
        "Idempotency-Key: \r\n",
        "Idempotency-Key: a b\r\n",
        "Idempotency-Key: a\r\nIdempotency-Key: a\r\n",
    ] {
        assert_eq!(ask("POST /v1/send/d/a", bad, "").code(), "bad_request", "{bad}");
    }
    assert_eq!(hub.get("/v1/commands").json()["items"].as_array().unwrap().len(), 1);
}

#[test]
fn an_envelope_makes_a_command() {
    let hub = Hub::start();
    let body = r#"{"action":"ping","data":{"n":1.50},"target":{"devices":["d","d"]},"ttl_s":60}"#;
    let answer = hub.post("/v1/commands", body);
    assert_eq!(answer.status, 202, "{answer:?}");
    let command = answer.json();
    assert!(answer.text().contains(r#""data":{"n":1.50},"#), "{}", answer.text());
    assert_eq!(command["total"], 1);
    assert_eq!(command["counts"], serde_json::json!({"queued": 1}));
    assert_eq!(command["done"], false);
    assert_eq!(command["created_by"], Value::Null);
    let location = answer.head.header("location").unwrap();
    assert_eq!(hub.get(location).text(), answer.text());

    let key = "Idempotency-Key: k\r\n";
    let first = hub.request("POST /v1/commands", key, body.as_bytes()).json();
    let again = hub.request("POST /v1/commands", key, body.as_bytes());
    assert_eq!((again.status, &again.json()["id"]), (202, &first["id"]));
}

/// Names of so many devices, as a JSON list.
fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("d{n:03}")).collect()
}

fn envelope(devices: &[String], rest: &str) -> String {
    let devices = serde_json::to_string(devices).unwrap();
    format!(r#"{{"action":"ping","target":{{"devices":{devices}}}{rest}}}"#)
}

/// Reads the events of a command until `done`: how many deliveries there were, and the command.
fn watch(hub: &Hub, id: &str) -> (usize, Value) {
    let mut events = hub.stream(&format!("/v1/commands/{id}/events"));
    let mut deliveries = std::collections::BTreeSet::new();
    loop {
        let event = events.event();
        let data: Value = serde_json::from_str(event.field("data").unwrap()).unwrap();
        if event.field("event") == Some("done") {
            return (deliveries.len(), data);
        }
        deliveries.insert(text(&data["device"]).to_owned());
    }
}

#[test]
fn a_command_goes_to_several_devices_and_counts_what_becomes_of_each() {
    let hub = Hub::start();
    let mut stream = hub.stream("/v1/devices/d001/stream");
    stream.expect("hello");
    let answer = hub.post("/v1/commands", &envelope(&names(3), r#","data":{"n":1}"#));
    assert_eq!(answer.status, 202, "{answer:?}");
    let command = answer.json();
    assert_eq!(command["total"], 3);
    assert_eq!(command["counts"], serde_json::json!({"queued": 2, "sent": 1}));
    let id = text(&command["id"]).to_owned();
    assert_eq!(answer.head.header("location"), Some(format!("/v1/commands/{id}").as_str()));
    let event = stream.expect("command");
    assert_eq!((&event["id"], &event["data"]["n"]), (&command["id"], &serde_json::json!(1)));

    for name in ["d001", "d000"] {
        let path = format!("/v1/devices/{name}/commands/{id}/status");
        assert_eq!(hub.post(&path, r#"{"state":"succeeded"}"#).status, 200);
    }
    let shown = hub.get(&format!("/v1/commands/{id}")).json();
    assert_eq!(shown["counts"], serde_json::json!({"queued": 1, "succeeded": 2}));
    assert_eq!(shown["done"], false);

    let cancelled = hub.request(&format!("DELETE /v1/commands/{id}"), "", b"");
    assert_eq!(cancelled.status, 200, "all have ended: {cancelled:?}");
    let counts = serde_json::json!({"cancelled": 1, "succeeded": 2});
    assert_eq!(cancelled.json()["counts"], counts);
    let again = hub.request(&format!("DELETE /v1/commands/{id}"), "", b"");
    assert_eq!((again.status, again.code().as_str()), (409, "illegal_transition"));
    assert_eq!(again.json()["delivery"]["device"], "d000", "of several the first");
    assert_eq!(watch(&hub, &id), (3, hub.get(&format!("/v1/commands/{id}")).json()));
}

#[test]
fn a_command_to_many_devices_reaches_every_one_and_a_key_covers_it_as_a_whole() {
    let hub = Hub::start();
    let body = envelope(&names(3000), r#","ttl_s":0"#);
    let key = "Idempotency-Key: k\r\n";
    let answer = hub.request("POST /v1/commands", key, body.as_bytes());
    assert_eq!(answer.status, 202, "{answer:?}");
    let command = answer.json();
    let id = text(&command["id"]).to_owned();
    let (deliveries, done) = watch(&hub, &id);
    assert_eq!((deliveries, &done["total"]), (3000, &serde_json::json!(3000)));
    assert_eq!(done["counts"], serde_json::json!({"expired": 3000}), "none is online");
    let again = hub.request("POST /v1/commands", key, body.as_bytes());
    assert_eq!((again.status, &again.json()), (200, &done), "it has ended");
    let page = hub.get(&format!("/v1/commands/{id}/deliveries?limit=1000")).json();
    assert_eq!(page["items"].as_array().unwrap().len(), 1000);
    assert!(page["next"].is_string());
}

#[test]
fn an_envelope_with_too_much_data_is_refused() {
    let hub = Hub::start();
    let big =
        format!(r#"{{"action":"a","target":{{"device":"d"}},"data":"{}"}}"#, "x".repeat(65536));
    assert_eq!(hub.post("/v1/commands", &big).code(), "payload_too_large");
}
