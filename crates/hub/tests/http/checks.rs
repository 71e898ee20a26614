//! What is true of every request: the order of checks, refusals, methods, limits. Contract, section 1.

use std::time::Duration;

use crate::support::{Connection, Hub};

const ID: &str = "01900000-0000-7000-8000-000000000000";

#[test]
fn the_checks_come_in_the_order_of_the_contract() {
    let hub = Hub::start();
    let big = "x".repeat(64 * 1024 + 1);
    let gzip = "Content-Encoding: gzip\r\nContent-Type: application/json\r\n";
    // Each request has every fault but those of the lines before it.
    for (line, headers, body, status, code) in [
        ("PATCH /v1/nothing/%2F?x=1", gzip, big.as_str(), 404, "not_found"),
        ("PATCH /v1/send/%2F/a?x=1", gzip, &big, 405, "method_not_allowed"),
        ("POST /v1/send/%2F/a?x=1", gzip, &big, 400, "bad_request"),
        ("POST /v1/send/d/a?x=1", gzip, &big, 400, "unknown_field"),
        ("POST /v1/send/d/a", gzip, &big, 413, "payload_too_large"),
        ("POST /v1/send/d/a", gzip, "{", 415, "unsupported_media_type"),
        ("POST /v1/send/d/a", "Content-Type: application/json\r\n", "{", 400, "bad_request"),
    ] {
        let answer = hub.request(line, headers, body.as_bytes());
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{line}");
    }
    let unknown = format!("/v1/devices/d/commands/{ID}/status");
    assert_eq!(hub.post(&unknown, "{").code(), "bad_request");
    assert_eq!(hub.post(&unknown, r#"{"state":"running"}"#).code(), "unknown_command");
    assert_eq!(hub.put("/v1/devices/d/facts", "[]").code(), "bad_request");
    assert_eq!(hub.put("/v1/devices/d/facts", "{}").code(), "unknown_device");
}

#[test]
fn a_name_that_breaks_its_rule_is_refused_and_never_looked_up() {
    let hub = Hub::start();
    for line in [
        "POST /v1/send//a",
        "POST /v1/send/d/",
        "POST /v1/send/d/a%2Fb",
        "POST /v1/send/a%20b/a",
        "POST /v1/send/%zz/a",
        "POST /v1/send/%ff/a",
        "POST /v1/send/../a",
        "GET /v1/devices/",
        "GET /v1/devices//stream",
        "GET /v1/devices/a%2Fb/stream",
        "GET /v1/devices/%2e%2e",
        "GET /v1/commands/",
        "GET /v1/commands/x",
        "GET /v1/commands/01900000-0000-7000-8000-00000000000A",
        "GET /v1/commands/01900000-0000-4000-8000-000000000000",
    ] {
        let answer = hub.request(line, "", b"");
        assert_eq!((answer.status, answer.code().as_str()), (400, "bad_request"), "{line}");
    }
    let long = "d".repeat(129);
    assert_eq!(hub.get(&format!("/v1/devices/{long}")).status, 400);
    assert_eq!(hub.get(&format!("/v1/devices/{}", &long[1..])).code(), "unknown_device");
    assert_eq!(hub.get("/v1/devices/kiosk%2D7").code(), "unknown_device");
}

#[test]
fn what_is_not_served_is_not_found() {
    let hub = Hub::start();
    for path in
        ["/", "/v1", "/v1/", "/v2/ping", "/v1/ping/", "/v1/devices/d/", "/healthz/", "//v1/ping"]
    {
        let answer = hub.get(path);
        assert_eq!((answer.status, answer.code().as_str()), (404, "not_found"), "{path}");
    }
}

#[test]
fn options_and_405_name_the_methods_of_a_path() {
    let hub = Hub::start();
    let allow = "GET, HEAD, PUT, PATCH, DELETE, OPTIONS";
    let refused = hub.post("/v1/devices/d", "");
    assert_eq!((refused.status, refused.code().as_str()), (405, "method_not_allowed"));
    assert_eq!(refused.head.header("allow"), Some(allow));
    let asked = hub.request("OPTIONS /v1/devices/d", "", b"");
    assert_eq!((asked.status, asked.head.header("allow")), (204, Some(allow)));
    assert_eq!(
        hub.request("HEAD /v1/send/d/a", "", b"").head.header("allow"),
        Some("POST, OPTIONS")
    );
}

#[test]
fn head_is_get_without_the_body() {
    let hub = Hub::start();
    hub.put("/v1/devices/d", "{}");
    for path in ["/v1/devices/d", "/v1/devices", "/v1/commands", "/healthz", "/v1/devices/nobody"] {
        let (get, head) = (hub.get(path), hub.request(&format!("HEAD {path}"), "", b""));
        assert_eq!(head.status, get.status, "{path}");
        for name in ["content-type", "content-length", "cache-control"] {
            assert_eq!(head.head.header(name), get.head.header(name), "{path} {name}");
        }
    }
    // Two on one connection: the first had no body that would be taken for the second's head.
    let mut connection = hub.connect();
    for _ in 0..2 {
        connection.send("HEAD /v1/devices/nobody HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(connection.answer_to("HEAD ").status, 404);
    }
}

#[test]
fn a_head_request_for_a_stream_or_a_poll_takes_nothing() {
    let hub = Hub::start();
    let mut live = hub.stream("/v1/devices/d/stream");
    live.expect("hello");
    let head = hub.request("HEAD /v1/devices/d/stream", "", b"").head;
    assert_eq!(head.header("content-type"), Some("text/event-stream"));
    assert_eq!(head.header("cache-control"), Some("no-store, no-transform"));
    assert_eq!(head.header("x-accel-buffering"), Some("no"));
    assert_eq!(head.header("content-length"), None);
    let head = hub.request("HEAD /v1/devices/d/commands", "", b"").head;
    assert_eq!(head.header("content-type"), Some("application/json"));
    // The stream is still the device's.
    let sent = hub.command("d", "ping");
    assert_eq!(live.expect("command")["id"], sent["command"]);
}

#[test]
fn every_answer_of_the_api_has_type_length_and_caching() {
    let hub = Hub::start();
    let answer = hub.get("/v1/devices");
    assert_eq!(answer.head.header("content-type"), Some("application/json"));
    assert_eq!(answer.head.header("cache-control"), Some("no-store"));
    assert_eq!(answer.head.header("content-encoding"), None);
    assert!(answer.head.header("date").is_some());
    assert_eq!(answer.text(), r#"{"items":[],"next":null}"#);
}

#[test]
fn a_query_is_judged_strictly() {
    let hub = Hub::start();
    for (path, code) in [
        ("/v1/commands?limit=0", "bad_request"),
        ("/v1/commands?limit=1001", "bad_request"),
        ("/v1/commands?limit=1&limit=1", "bad_request"),
        ("/v1/commands?state=done", "bad_request"),
        ("/v1/commands?device=a%2Fb", "bad_request"),
        ("/v1/commands?after=nonsense", "bad_request"),
        ("/v1/commands?lmit=1", "unknown_field"),
        ("/v1/devices?select=a+b", "bad_request"),
        ("/v1/devices?select=%ff", "bad_request"),
        ("/v1/devices?online=maybe", "bad_request"),
        ("/v1/ping?x", "unknown_field"),
        ("/healthz?x=1", "unknown_field"),
    ] {
        assert_eq!(hub.get(path).code(), code, "{path}");
    }
    assert_eq!(hub.get("/v1/commands?_=1690000000&_=2&limit=1000").status, 200);
}

#[test]
fn a_target_longer_than_its_limit_is_414() {
    // `uri_too_long` once stood in the contract and was never given: a long query was read whole.
    let hub = Hub::start();
    let of = |bytes: usize| format!("/v1/ping?_={}", "x".repeat(bytes - "/v1/ping?_=".len()));
    assert_eq!(hub.get(&of(16 * 1024)).status, 200);
    let refused = hub.get(&of(16 * 1024 + 1));
    assert_eq!((refused.status, refused.code().as_str()), (414, "uri_too_long"));
}

#[test]
fn a_body_over_its_limit_is_refused_before_it_is_read() {
    let hub = Hub::start();
    // Announced in the head: refused before a byte of it is sent.
    let mut connection = hub.connect();
    connection
        .send("POST /v1/send/d/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 65537\r\n\r\n");
    assert_eq!(connection.answer_to("POST").code(), "payload_too_large");
    // Not announced: refused as soon as it is too long, and not at its end.
    let mut connection = hub.connect();
    connection.send(
        "POST /v1/send/d/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    connection.send(format!("10001\r\n{}", "x".repeat(0x10001)));
    assert_eq!(connection.answer_to("POST").code(), "payload_too_large");
    // At the limit it is taken.
    assert_eq!(hub.post("/v1/send/d/a", &"x".repeat(65536)).status, 202);
}

#[test]
fn a_client_that_writes_all_before_it_reads_finds_the_refusal() {
    let hub = Hub::start();
    let answer = hub.post("/v1/send/d/a", &"x".repeat(8 * 1024 * 1024));
    assert_eq!(answer.code(), "payload_too_large");
}

#[test]
fn a_client_that_waits_for_leave_to_send_gets_it_or_a_refusal() {
    let hub = Hub::start();
    let head =
        "POST /v1/send/d/a HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length:";
    let mut connection = hub.connect();
    connection.send(format!("{head} 2\r\n\r\n"));
    assert_eq!(connection.answer_to("POST").status, 100);
    connection.send("hi");
    assert_eq!(connection.answer_to("POST").status, 202);

    let mut connection = hub.connect();
    connection.send(format!("{head} 65537\r\n\r\n"));
    assert_eq!(connection.answer_to("POST").code(), "payload_too_large");
}

#[test]
fn a_body_that_does_not_arrive_is_not_waited_for() {
    let hub = Hub::with(|config| config.body_timeout = Duration::from_secs(1));
    let mut connection = hub.connect();
    connection.send("POST /v1/send/d/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhi");
    let answer = connection.answer_to("POST");
    assert_eq!((answer.status, answer.code().as_str()), (408, "request_timeout"));
    assert!(connection.ends(), "the rest of the body must not be taken for a request");
    assert_eq!(hub.get("/v1/commands").json()["items"].as_array().unwrap().len(), 0);
}

#[test]
fn requests_follow_one_another_on_one_connection() {
    let hub = Hub::start();
    let mut connection = Connection::to(hub.addr);
    connection.send(
        "GET /v1/ping?nonce=1 HTTP/1.1\r\nHost: localhost\r\n\r\n\
         GET /v1/nothing HTTP/1.1\r\nHost: localhost\r\n\r\n\
         GET /v1/ping?nonce=2 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    );
    assert_eq!(connection.answer_to("GET").json()["nonce"], "1");
    assert_eq!(connection.answer_to("GET").status, 404);
    assert_eq!(connection.answer_to("GET").json()["nonce"], "2");
}

#[test]
fn a_ping_names_the_hub() {
    let hub = Hub::start();
    let answer = hub.get("/v1/ping?nonce=a%20b%22");
    let pong = answer.json();
    assert_eq!(pong["hub"], concat!("bellwire/", env!("CARGO_PKG_VERSION")));
    assert_eq!(pong["nonce"], "a b\"");
    assert!(pong["time_ms"].as_u64().is_some_and(|ms| ms > 1_700_000_000_000));
    assert_eq!(pong.as_object().unwrap().len(), 3);
    assert_eq!(hub.get("/v1/ping").json()["nonce"], serde_json::Value::Null);
}

#[test]
fn healthz_and_readyz_report_a_hub_that_is_ready_and_one_that_drains() {
    let hub = Hub::start();
    assert_eq!(hub.get("/healthz").text(), r#"{"status":"ok"}"#);
    assert_eq!(hub.get("/readyz").status, 200);
    hub.driver.drain();
    assert_eq!(hub.get("/healthz").text(), r#"{"status":"ok"}"#);
    assert_eq!(hub.get("/readyz").code(), "draining");
    assert_eq!(hub.post("/v1/send/d/a", "").code(), "draining");
    assert_eq!(hub.get("/v1/devices/d/stream").code(), "draining");
    assert_eq!(hub.get("/v1/devices/d/commands").code(), "draining");
    assert_eq!(hub.request("HEAD /v1/devices/d/stream", "", b"").status, 503);
    assert_eq!(hub.get("/v1/commands").status, 200);
}
