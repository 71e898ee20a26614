//! Listening: streams, polls, confirming. Contract, section 4.

use serde_json::{Value, json};

use crate::support::{Hub, text};

#[test]
fn the_head_of_a_stream_is_exactly_that_of_the_contract() {
    let hub = Hub::start();
    let stream = hub.stream("/v1/devices/d/stream");
    assert_eq!(stream.head.first, "HTTP/1.1 200 OK");
    let mut lines = stream.head.lines.clone();
    lines.retain(|line| !line.to_ascii_lowercase().starts_with("date: "));
    assert_eq!(stream.head.lines.len(), lines.len() + 1, "one Date: {:?}", stream.head);
    assert_eq!(
        lines,
        [
            "Content-Type: text/event-stream",
            "Cache-Control: no-store, no-transform",
            "X-Accel-Buffering: no",
            "Transfer-Encoding: chunked",
            // A client that did not know would send its next request on a connection that is being
            // closed.
            "Connection: close",
        ]
    );
}

#[test]
fn hello_is_first_and_names_hub_and_device() {
    let hub = Hub::start();
    // What waits must not be sent before it.
    hub.command("d", "a");
    let mut stream = hub.stream("/v1/devices/d/stream?nonce=x%22y&heartbeat=1m");
    let hello = stream.event();
    assert_eq!(hello.fields(), ["event", "retry", "data"]);
    assert_eq!(hello.field("event"), Some("hello"));
    assert_eq!(hello.field("retry"), Some("2000"));
    let hello = hello.data();
    assert_eq!(hello["hub"], concat!("bellwire/", env!("CARGO_PKG_VERSION")));
    assert_eq!(hello["device"], "d");
    assert_eq!(hello["nonce"], "x\"y");
    assert_eq!(hello["heartbeat_s"], 60);
    assert_eq!(hello["max_in_flight"], 1);
    assert!(hello["time_ms"].as_u64().is_some_and(|ms| ms > 1_700_000_000_000), "{hello}");
    assert!(hello["up_ms"].as_u64().is_some_and(|ms| ms < 60_000), "{hello}");
    assert!(!text(&hello["session"]).is_empty());
    assert_eq!(hello.as_object().unwrap().len(), 8, "{hello}");
    let command = stream.event();
    assert_eq!(command.fields(), ["event", "id", "data"]);
    assert_eq!(command.field("id"), Some("1"));
    let command = command.data();
    assert_eq!((&command["seq"], &command["attempt"]), (&json!(1), &json!(1)));
    assert_eq!((&command["ttl_s"], &command["run_timeout_s"]), (&json!(3600), &json!(300)));
    assert_eq!(command.as_object().unwrap().len(), 9, "{command}");
}

#[test]
fn a_requested_prelude_is_in_the_first_write() {
    let hub = Hub::start();
    for (query, headers, bytes) in [
        ("", "", 0),
        ("?prelude=2", "", 2),
        ("?prelude=8192", "", 8192),
        ("", "Via: 1.1 squid\r\n", 4300),
        ("", "X-Forwarded-For: 192.0.2.7\r\n", 4300),
        ("?prelude=0", "Via: 1.1 squid\r\n", 0),
    ] {
        let mut connection = hub.connect();
        let path = format!("/v1/devices/d/stream{query}");
        connection.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"));
        connection.head();
        let first = connection.chunk();
        let first = std::str::from_utf8(&first).unwrap();
        let (comment, hello) = first.split_at(bytes);
        assert!(
            hello.starts_with("event: hello\n") && hello.ends_with("\n\n"),
            "{query} {headers}"
        );
        assert!(bytes == 0 || comment.starts_with(':') && comment.ends_with('\n'), "{comment:?}");
        assert_eq!(comment.matches('\n').count(), usize::from(bytes > 0), "one line");
    }
    for bad in ["prelude=1", "prelude=8193", "prelude=x", "heartbeat=4s", "ack=some", "compat=2"] {
        assert_eq!(hub.get(&format!("/v1/devices/d/stream?{bad}")).code(), "bad_request", "{bad}");
    }
    let long = format!("/v1/devices/d/stream?nonce={}", "n".repeat(65));
    assert_eq!(hub.get(&long).code(), "bad_request");
    assert_eq!(hub.get("/v1/devices/d/stream?prelud=2").code(), "unknown_field");
}

#[test]
fn a_client_of_http_1_0_reads_until_the_end() {
    let hub = Hub::start();
    let mut connection = hub.connect();
    connection.send("GET /v1/devices/d/stream HTTP/1.0\r\n\r\n");
    let head = connection.head();
    assert_eq!(head.header("transfer-encoding"), None, "{head:?}");
    assert_eq!(head.header("content-type"), Some("text/event-stream"));
    hub.delete("/v1/devices/d");
    let text = connection.rest();
    assert!(text.starts_with("event: hello\nretry: 2000\ndata: {"), "{text:?}");
    let bye = text.split("\n\n").nth(1).unwrap();
    assert!(bye.starts_with("event: bye\ndata: {\"reason\":\"revoked\","), "{text:?}");
}

#[test]
fn the_newest_stream_of_a_device_is_the_one() {
    let hub = Hub::start();
    let mut first = hub.stream("/v1/devices/d/stream");
    first.expect("hello");
    let mut second = hub.stream("/v1/devices/d/stream");
    second.expect("hello");
    let bye = first.expect("bye");
    assert_eq!(bye["reason"], "replaced");
    assert!(bye["reconnect_s"].as_f64().is_some_and(|s| (0.5..=5.0).contains(&s)), "{bye}");
    assert_eq!(first.block(), None);
    let sent = hub.command("d", "a");
    assert_eq!(second.expect("command")["id"], sent["command"]);
}

#[test]
fn a_stream_without_acks_is_sent_what_followed_its_last_event() {
    let hub = Hub::start();
    let mut stream = hub.stream("/v1/devices/d/stream?ack=none");
    stream.expect("hello");
    let ids: Vec<Value> = (0..3).map(|_| hub.command("d", "a")["command"].clone()).collect();
    for id in &ids {
        assert_eq!(stream.expect("command")["id"], *id);
        // What is not yet known as delivered would be sent again, as another attempt.
        let delivered = json!({"delivered": 1});
        hub.until(|| hub.get(&format!("/v1/commands/{}", text(id))).json()["counts"] == delivered);
    }
    drop(stream);
    // The header takes precedence over the parameter; one that is not a number is ignored.
    for (query, headers, missed) in [
        ("&last_event_id=1", "", &ids[1..]),
        ("&last_event_id=0", "Last-Event-ID: 2\r\n", &ids[2..]),
        ("&last_event_id=2", "Last-Event-ID: x\r\n", &ids[2..]),
    ] {
        let path = format!("/v1/devices/d/stream?ack=none{query}");
        let mut again = hub.stream_with(&path, headers);
        again.expect("hello");
        for id in missed {
            let command = again.expect("command");
            assert_eq!((&command["id"], &command["attempt"]), (id, &json!(1)));
        }
    }
}

/// The page of a replay was once read before the end of what the last stream had been sent was on
/// disk: a client that reconnected within a commit missed a command for ever.
#[test]
fn a_stream_that_reconnects_at_once_misses_nothing() {
    let hub = Hub::start();
    let mut last = hub.command("d", "a")["seq"].clone();
    for _ in 0..20 {
        let header = format!("Last-Event-ID: {last}\r\n");
        let open = || hub.stream_with("/v1/devices/d/stream?ack=none", &header);
        let mut stream = open();
        stream.expect("hello");
        let sent = hub.command("d", "a");
        while stream.expect("command")["seq"] != sent["seq"] {}
        drop(stream);
        let mut again = open();
        again.expect("hello");
        while again.expect("command")["seq"] != sent["seq"] {}
        last = sent["seq"].clone();
    }
}

#[test]
fn a_stream_is_confirmed_by_the_name_in_its_hello() {
    let hub = Hub::start();
    let path = "/v1/devices/d/confirm";
    assert_eq!(hub.post(path, r#"{"session":"x"}"#).code(), "unknown_device");
    let mut plain = hub.stream("/v1/devices/d/stream");
    plain.expect("hello");
    let mut stream = hub.stream("/v1/devices/d/stream?confirm=1");
    let session = stream.expect("hello")["session"].clone();
    let body = json!({"session": session}).to_string();
    assert_eq!(hub.post(path, &body).status, 204);
    assert_eq!(plain.expect("bye")["reason"], "replaced");
    assert_eq!(hub.post(path, &body).status, 204, "it was confirmed before");
    for (body, code) in [
        (r#"{"session":"nonsense"}"#, "gone"),
        (r#"{"session":7}"#, "bad_request"),
        (r#"{}"#, "bad_request"),
        (r#"{"session":"x","more":1}"#, "unknown_field"),
    ] {
        assert_eq!(hub.post(path, body).code(), code, "{body}");
    }
    hub.put("/v1/devices/e", "{}");
    assert_eq!(hub.post("/v1/devices/e/confirm", &body).code(), "gone", "another device's");
}

#[test]
fn a_poll_is_answered_with_what_there_is() {
    let hub = Hub::start();
    let empty = hub.get("/v1/devices/d/commands?wait=0&nonce=n");
    assert_eq!(empty.status, 200, "{empty:?}");
    assert_eq!(empty.head.header("content-type"), Some("application/json"));
    assert_eq!(empty.head.header("cache-control"), Some("no-store"));
    let empty = empty.json();
    assert_eq!((&empty["commands"], &empty["cancels"]), (&json!([]), &json!([])));
    assert_eq!((&empty["hello"]["nonce"], &empty["hello"]["device"]), (&json!("n"), &json!("d")));

    let mut poll = hub.connect();
    poll.request("GET /v1/devices/d/commands?wait=20s", "", b"");
    let sent = hub.command("d", "a");
    let answer = poll.answer_to("GET").json();
    assert_eq!(answer["commands"][0]["id"], sent["command"]);
    assert_eq!(answer["commands"][0]["attempt"], 1);
    // It was lost on the way: what bore it had a number above what the device knows of.
    let again = hub.get("/v1/devices/d/commands?wait=0&last_event_id=0").json();
    assert_eq!(again["commands"][0]["attempt"], 2);
    assert_eq!(hub.get("/v1/devices/d").json()["transport"], "poll");
    let session = json!({"session": again["hello"]["session"]}).to_string();
    assert_eq!(hub.post("/v1/devices/d/confirm", &session).code(), "gone");
    for bad in ["wait=61", "wait=x", "last_event_id=-1"] {
        let code = hub.get(&format!("/v1/devices/d/commands?{bad}")).code();
        assert_eq!(code, "bad_request", "{bad}");
    }
    assert_eq!(hub.get("/v1/devices/d/commands?prelude=0").code(), "unknown_field");
}

#[test]
fn a_newer_poll_ends_the_older_one() {
    let hub = Hub::start();
    let mut older = hub.connect();
    older.request("GET /v1/devices/d/commands?wait=60s", "", b"");
    // The older one waits once the device is there.
    hub.until(|| hub.get("/v1/devices/d").status == 200);
    let mut newer = hub.connect();
    newer.request("GET /v1/devices/d/commands?wait=60s", "", b"");
    assert_eq!(older.answer_to("GET").json()["commands"], json!([]));
    hub.driver.drain();
    assert_eq!(newer.answer_to("GET").json()["commands"], json!([]));
}

#[test]
fn a_draining_hub_sends_bye() {
    let hub = Hub::start();
    let mut stream = hub.stream("/v1/devices/d/stream");
    stream.expect("hello");
    hub.driver.drain();
    let bye = stream.expect("bye");
    assert_eq!(bye["reason"], "draining");
    assert!(bye["reconnect_s"].as_f64().is_some_and(|s| (1.0..=10.0).contains(&s)), "{bye}");
    assert_eq!(stream.block(), None);
    assert_eq!(stream.connection.rest(), "", "nothing follows the end");
}
