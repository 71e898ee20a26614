//! Listening, as docs/protocol.md has it in section 4, from outside: the real program, and clients that write and read
//! raw bytes. Long polls are in `hub_polls.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message of a test"
)]

#[path = "hub_streams/support.rs"]
mod support;

use std::io::Write;
use std::net::Shutdown;

use bellwire_testkit::{EventStream, wait_until};
use serde_json::{Value, json};
use support::{Hub, data, heartbeat_ms};

#[test]
fn the_head_is_exact_and_nothing_is_compressed_whatever_the_client_accepts() {
    let hub = Hub::start();
    let accepts = "Accept-Encoding: gzip, deflate, br, zstd\r\n";
    for version in ["1.1", "1.0"] {
        let (head, mut raw) = hub.raw(version, "/v1/devices/k/stream", accepts);
        let head = head.to_lowercase();
        for field in [
            " 200 ok\r\n",
            "\r\ncontent-type: text/event-stream\r\n",
            "\r\ncache-control: no-store, no-transform\r\n",
            "\r\nx-accel-buffering: no\r\n",
            "\r\nconnection: close\r\n",
        ] {
            assert!(head.contains(field), "HTTP/{version}: no {field:?} in {head}");
        }
        for field in ["content-length", "content-encoding"] {
            assert!(!head.contains(field), "HTTP/{version}: {field} in {head}");
        }
        let chunked = head.contains("\r\ntransfer-encoding: chunked\r\n");
        assert_eq!(chunked, version == "1.1", "HTTP/{version}: {head}");
        if !chunked {
            let hello = raw.until("\n\n");
            assert!(hello.starts_with("event: hello\nretry: 2000\ndata: {"), "{hello}");
            assert_eq!(hello.matches('\n').count(), 4, "one line of data: {hello}");
            // It ends with the connection.
            hub.listen("k", "").expect("hello");
            let bye = raw.read_to_end();
            assert!(bye.starts_with("event: bye\ndata: {\"reason\":\"replaced\""), "{bye}");
        }
    }
}

#[test]
fn hello_is_first_echoes_the_nonce_and_has_all_its_members() {
    let hub = Hub::start();
    let (_, mut raw) = hub.raw("1.0", "/v1/devices/k/stream?nonce=a%20b&heartbeat=20s", "");
    let hello = data(&raw.until("\n\n"));
    let members: Vec<_> = hello.as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected = ["hub", "device", "session", "nonce", "heartbeat_s", "max_in_flight"]
        .into_iter()
        .chain(["time_ms", "up_ms"])
        .collect::<Vec<_>>();
    expected.sort_unstable();
    assert_eq!(members, expected);
    assert!(hello["hub"].as_str().unwrap().starts_with("bellwire/"), "{hello}");
    assert_eq!(
        (&hello["device"], &hello["nonce"], &hello["heartbeat_s"], &hello["max_in_flight"]),
        (&json!("k"), &json!("a b"), &json!(20), &json!(1))
    );
    assert!(hello["time_ms"].as_u64() > Some(1_600_000_000_000) && hello["up_ms"].is_u64());
    assert_eq!(hub.listen("k", "").expect("hello")["nonce"], Value::Null);
    for (query, status) in [("é".repeat(64), 200), ("é".repeat(65), 400)] {
        let query = query.replace('é', "%C3%A9");
        let (head, _) = hub.raw("1.1", &format!("/v1/devices/n/stream?nonce={query}"), "");
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{head}");
    }
}

#[test]
fn the_prelude_has_the_bytes_requested_or_4300_behind_a_proxy() {
    let hub = Hub::start();
    for (query, fields, expected) in [
        ("", "", 0),
        ("", "Via: 1.1 squid\r\n", 4300),
        ("", "X-Forwarded-For: 192.0.2.1\r\n", 4300),
        ("?prelude=0", "Via: 1.1 squid\r\n", 0),
        ("?prelude=2", "", 2),
        ("?prelude=8192", "X-Forwarded-For: 192.0.2.1\r\n", 8192),
    ] {
        let (_, mut raw) = hub.raw("1.0", &format!("/v1/devices/k/stream{query}"), fields);
        let begin = raw.until("event: hello\n");
        let prelude = begin.strip_suffix("event: hello\n").unwrap();
        assert_eq!(prelude.len(), expected, "{query} {fields}");
        if expected > 0 {
            assert!(prelude.starts_with(':') && prelude.ends_with('\n'), "{query}: {prelude:?}");
            assert_eq!(prelude.matches('\n').count(), 1, "one comment");
        }
    }
    for bytes in ["1", "8193", "-1"] {
        let refused = hub.http().get(&format!("/v1/devices/k/stream?prelude={bytes}")).unwrap();
        assert_eq!((refused.status, &refused.json()["code"]), (400, &json!("bad_request")));
    }
}

#[test]
fn probes_are_heartbeats_at_1_2_and_3_seconds_and_then_one_comes_per_heartbeat() {
    let hub = Hub::start();
    let (_, mut raw) = hub.raw("1.0", "/v1/devices/k/stream?probes=1&heartbeat=5s", "");
    let begun_ms = data(&raw.until("\n\n"))["time_ms"].as_u64().unwrap();
    let mut since: Vec<u64> = (0..4).map(|_| heartbeat_ms(&raw.until("\n\n")) - begun_ms).collect();
    // Of a busy machine only this is certain: none is early, and the fourth counts from the third.
    since[3] -= since[2];
    let early = since.iter().zip([1000, 2000, 3000, 5000]).any(|(at, due)| at + 20 < due);
    assert!(!early, "{since:?}");
}

#[test]
fn with_compat_a_comment_pushes_each_event_and_heartbeat_and_never_itself() {
    let hub = Hub::start();
    let (_, mut raw) = hub.raw("1.0", "/v1/devices/k/stream?compat=1&heartbeat=5s", "");
    assert!(raw.until("\n\n").starts_with("event: hello"));
    assert_eq!(raw.until("\n\n"), ":\n\n");
    hub.send("k");
    assert!(raw.until("\n\n").starts_with("event: command\nid: 1\ndata: {"));
    assert_eq!(raw.until("\n\n"), ":\n\n");
    heartbeat_ms(&raw.until("\n\n"));
    assert_eq!(raw.until("\n\n"), ":\n\n");
    heartbeat_ms(&raw.until("\n\n"));
}

/// A proxy that buffers reads on for a client that has gone, as long as the hub lets it.
#[test]
fn an_unconfirmed_stream_ends_also_when_its_peer_reads_on_for_ever_and_never_closes() {
    let hub = Hub::start();
    let ghosts = [("1.1", "a"), ("1.0", "b")].map(|(version, device)| {
        let target = format!("/v1/devices/{device}/stream?confirm=1&heartbeat=5s");
        (device, hub.raw(version, &target, "").1)
    });
    for (device, mut ghost) in ghosts {
        let read = ghost.read_to_end();
        let (_, bye) = read.split_once("event: bye\n").unwrap_or_else(|| panic!("{read}"));
        let bye = data(bye);
        assert_eq!(bye["reason"], "unconfirmed");
        assert!((0.5..=5.0).contains(&bye["reconnect_s"].as_f64().unwrap()), "{bye}");
        // The hub does not keep its end of the connection for the peer's FIN either.
        wait_until("the hub to have closed the socket", || match ghost.socket.write_all(b"x") {
            Ok(()) => Err("it takes bytes"),
            Err(_) => Ok(()),
        });
        hub.until_shown(device, false, Value::Null);
    }
}

#[test]
fn a_stream_counts_once_it_is_confirmed_and_only_its_own_device_confirms_it() {
    let hub = Hub::start();
    let mut stream = hub.listen("k", "confirm=1");
    let session = stream.expect("hello")["session"].clone();
    hub.send("other");
    let command = hub.send("k");
    assert_eq!(stream.expect("command")["id"], command, "an unconfirmed stream gets commands");
    hub.until_shown("k", false, Value::Null);
    assert_eq!(hub.confirm("k", &json!("no-such-session")), 410);
    assert_eq!(hub.confirm("other", &session), 410);
    assert_eq!(hub.confirm("k", &session), 204);
    hub.until_shown("k", true, json!("stream"));
    assert_eq!(hub.confirm("k", &session), 204, "also when it was confirmed before");
    drop(stream);
    hub.until_shown("k", false, Value::Null);
    assert_eq!(hub.confirm("k", &session), 410);
}

#[test]
fn what_an_unconfirmed_stream_carried_is_sent_again_uncounted_when_it_ends() {
    let hub = Hub::start();
    let command = hub.send("k");
    let mut stream = hub.listen("k", "confirm=1");
    assert_eq!(stream.expect("command")["attempt"], 1);
    assert_eq!(stream.expect("bye")["reason"], "unconfirmed");
    assert_eq!(stream.event().unwrap(), None, "the end");
    let mut next = hub.listen("k", "");
    let again = next.expect("command");
    assert_eq!((&again["id"], &again["attempt"]), (&json!(command), &json!(2)));
}

#[test]
fn which_stream_replaces_which() {
    let hub = Hub::start();
    let replaced = |stream: &mut EventStream| {
        assert_eq!(stream.expect("bye")["reason"], "replaced");
        assert_eq!(stream.event().unwrap(), None, "the end");
    };
    let mut plain = hub.listen("k", "");
    plain.expect("hello");
    let mut newer = hub.listen("k", "");
    newer.expect("hello");
    replaced(&mut plain);
    // With confirm=1 only once it is confirmed; a second unconfirmed one replaces the first.
    let mut first = hub.listen("k", "confirm=1");
    first.expect("hello");
    let mut second = hub.listen("k", "confirm=1");
    let session = second.expect("hello")["session"].clone();
    replaced(&mut first);
    let command = hub.send("k");
    for stream in [&mut newer, &mut second] {
        let event = stream.expect("command");
        assert_eq!((&event["id"], &event["attempt"]), (&json!(command), &json!(1)));
    }
    assert_eq!(hub.confirm("k", &session), 204);
    replaced(&mut newer);
    // A plain one replaces both.
    let mut unconfirmed = hub.listen("k", "confirm=1");
    unconfirmed.expect("hello");
    let mut last = hub.listen("k", "");
    last.expect("hello");
    replaced(&mut second);
    replaced(&mut unconfirmed);
    hub.until_shown("k", true, json!("stream"));
}

#[test]
fn a_new_stream_begins_with_what_is_unaccepted_oldest_first_and_each_cancel_again() {
    let hub = Hub::start_with(&[("BELLWIRE_MAX_IN_FLIGHT", "3")]);
    let ids = [(); 4].map(|()| hub.send("k"));
    let (_, mut raw) = hub.raw("1.0", "/v1/devices/k/stream", "Last-Event-ID: 1000\r\n");
    raw.until("\n\n");
    for (n, id) in (1..=3).zip(&ids) {
        let frame = raw.until("\n\n");
        assert!(frame.starts_with(&format!("event: command\nid: {n}\ndata: {{")), "{frame}");
        let event = data(&frame);
        let mut members: Vec<_> = event.as_object().unwrap().keys().map(String::as_str).collect();
        members.sort_unstable();
        let expected = [
            "action",
            "attempt",
            "created_at",
            "data",
            "expires_at",
            "id",
            "run_timeout_s",
            "seq",
            "ttl_s",
        ];
        assert_eq!(members, expected);
        assert_eq!((&event["id"], &event["seq"]), (&json!(id), &json!(n)));
        assert_eq!((&event["ttl_s"], &event["run_timeout_s"]), (&json!(3600), &json!(300)));
    }
    // Within max_in_flight; what is accepted is not sent again, what is cancelled is.
    let report = format!("/v1/devices/k/commands/{}/status", ids[0]);
    assert_eq!(hub.http().post_json(&report, "{\"state\":\"accepted\"}").unwrap().status, 200);
    let target = format!("/v1/commands/{}", ids[0]);
    assert_eq!(hub.http().request("DELETE", &target, &[], b"").unwrap().status, 202);
    let cancel = raw.until("\n\n");
    assert_eq!(cancel, format!("event: cancel\ndata: {{\"id\":\"{}\",\"seq\":1}}\n\n", ids[0]));
    let mut next = hub.listen("k", "");
    assert_eq!(next.expect("hello")["max_in_flight"], 3);
    let mut sent = Vec::new();
    for _ in 0..3 {
        let (name, data, _) = next.event().unwrap().unwrap();
        let data: Value = serde_json::from_str(&data).unwrap();
        sent.push((name, data["seq"].as_u64().unwrap(), data["attempt"].as_u64()));
    }
    sent.sort_unstable_by_key(|(_, seq, _)| *seq);
    let expected = [("cancel", 1, None), ("command", 2, Some(2)), ("command", 3, Some(2))];
    assert_eq!(sent, expected.map(|(name, seq, attempt)| (name.to_owned(), seq, attempt)));
}

#[test]
fn what_a_stream_cannot_be_asked_for_is_refused() {
    let hub = Hub::start();
    for (query, code) in [
        ("heartbeat=4s", "bad_request"),
        ("heartbeat=11m", "bad_request"),
        ("ack=all", "bad_request"),
        ("confirm=yes", "bad_request"),
        ("probes=2", "bad_request"),
        ("compat=-1", "bad_request"),
        ("last_event_id=x", "bad_request"),
        ("nonce=a&nonce=b", "bad_request"),
        ("wait=1s", "unknown_field"),
    ] {
        let refused = hub.http().get(&format!("/v1/devices/k/stream?{query}")).unwrap();
        assert_eq!((refused.status, &refused.json()["code"]), (400, &json!(code)), "{query}");
    }
    // What cannot be parsed in the header is ignored.
    let (head, _) = hub.raw("1.1", "/v1/devices/k/stream?_=1", "Last-Event-ID: x\r\n");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
}

#[test]
fn a_fin_of_the_client_ends_the_stream_at_once() {
    let hub = Hub::start();
    let (_, mut raw) = hub.raw("1.1", "/v1/devices/k/stream", "");
    raw.until("event: hello");
    hub.until_shown("k", true, json!("stream"));
    raw.socket.shutdown(Shutdown::Write).unwrap();
    hub.until_shown("k", false, Value::Null);
}

#[test]
fn without_acks_a_command_is_delivered_by_its_sending_and_what_followed_an_id_is_replayed() {
    let hub = Hub::start();
    let [_, second, third] = [(); 3].map(|()| hub.send("k"));
    let mut stream = hub.listen("k", "ack=none");
    let seqs = [(); 3].map(|()| stream.expect("command")["seq"].as_u64().unwrap());
    wait_until("all to be delivered", || {
        let page = hub.http().get("/v1/commands?state=delivered").map_err(|e| e.to_string())?;
        let items = page.json()["items"].as_array().unwrap().len();
        if items == 3 { Ok(()) } else { Err(format!("{items} are")) }
    });
    drop(stream);
    // The header wins over the query, with the same attempt; with confirm=1 the commands wait.
    let target = format!("/v1/devices/k/stream?ack=none&confirm=1&last_event_id={}", seqs[2]);
    let (_, mut raw) = hub.raw("1.0", &target, &format!("Last-Event-ID: {}\r\n", seqs[0]));
    let session = data(&raw.until("\n\n"))["session"].clone();
    assert_eq!(raw.read, "");
    assert_eq!(hub.confirm("k", &session), 204);
    for command in [second, third] {
        let event = data(&raw.until("\n\n"));
        assert_eq!((&event["id"], &event["attempt"]), (&json!(command), &json!(1)));
    }
}

#[test]
fn a_stream_gets_its_planned_end_and_loses_nothing_by_it() {
    let hub = Hub::start_with(&[("BELLWIRE_STREAM_MAX", "10s")]);
    let http = hub.http();
    let mut stream = http.stream("/v1/devices/k/stream").unwrap();
    http.post_json("/v1/send/k/ping", "").unwrap();
    assert_eq!(stream.expect("command")["attempt"], 1);
    let bye = stream.expect("bye");
    assert_eq!(bye["reason"], "rotate");
    assert!((0.5..=5.0).contains(&bye["reconnect_s"].as_f64().unwrap()), "{bye}");
    assert_eq!(stream.event().unwrap(), None, "the end");
    let mut next = http.stream("/v1/devices/k/stream").unwrap();
    assert_eq!(next.expect("command")["attempt"], 2);
}

#[test]
fn ping_answers_anyone_at_once_and_is_never_stored() {
    let hub = Hub::start();
    let answer = hub.http().get("/v1/ping?nonce=n-1").unwrap();
    assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let ping = answer.json();
    assert_eq!(ping.as_object().unwrap().len(), 3, "{ping}");
    assert!(ping["hub"].as_str().unwrap().starts_with("bellwire/"), "{ping}");
    assert_eq!(ping["nonce"], "n-1");
    assert!(ping["time_ms"].as_u64() > Some(1_600_000_000_000), "{ping}");
    assert_eq!(hub.http().get("/v1/ping").unwrap().json()["nonce"], Value::Null);
}
