//! `eventsource-server`, by raw bytes and against stand-ins of its client and its request.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message"
)]

mod classic_support;

use std::process::Command;

use classic_support::{
    Process, Raw, listen, listen_after, page, post, posted, request, server, standin, tls_file,
};
use serde_json::{Value, json};

#[test]
fn frames_are_right_byte_for_byte() {
    let (_server, addr) = server(&["--action", "reboot"]);
    let mut listener = listen(addr, "tok");
    for (action, body, frame) in [
        ("ping", "hello", "event: ping\r\ndata: hello\r\n\r\n"),
        ("ping", "", "event: ping\r\ndata: \r\n\r\n"),
        ("reboot", "é\u{1f600}", "event: reboot\r\ndata: é\u{1f600}\r\n\r\n"),
        ("ping", "a\nb\r\nc\rd", "event: ping\r\ndata: a\r\ndata: b\r\ndata: c\r\ndata: d\r\n\r\n"),
        ("ping", "a\r\n", "event: ping\r\ndata: a\r\ndata: \r\n\r\n"),
        ("ping", "\n\n", "event: ping\r\ndata: \r\ndata: \r\ndata: \r\n\r\n"),
        ("ping", " {\"a\": 1}", "event: ping\r\ndata:  {\"a\": 1}\r\n\r\n"),
    ] {
        posted(addr, &format!("/{action}/tok"), body);
        assert_eq!(listener.until("\r\n\r\n"), frame, "of {body:?}");
    }
    posted(addr, "/close/tok", "bye");
    assert_eq!(listener.rest(), "", "close ends the stream and writes no event");
}

#[test]
fn to_http_1_1_the_stream_is_chunked_and_its_head_is_the_originals() {
    let (_server, addr) = server(&[]);
    let mut listener = Raw::send(addr, b"GET /poll/tok HTTP/1.1\r\nHost: x\r\n\r\n");
    let head = listener.until("\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    for field in
        ["Content-Type: text/event-stream", "Cache-Control: no-cache", "Transfer-Encoding: chunked"]
    {
        assert!(head.contains(&format!("\r\n{field}\r\n")), "no {field} in {head}");
    }
    posted(addr, "/ping/tok", "x");
    posted(addr, "/close/tok", "");
    assert_eq!(listener.rest(), "18\r\nevent: ping\r\ndata: x\r\n\r\n\r\n0\r\n\r\n");
}

#[test]
fn refusals_come_in_the_contracts_order_with_the_originals_pages() {
    for (flags, accept) in [(&[][..], "text/plain"), (&["-j"], "application/json")] {
        let (_server, addr) = server(flags);
        let absent = page("404 Not Found", "Target is not connected");
        assert_eq!(
            post(addr, "/what/tok", b"\xff"),
            absent,
            "404 for an absent listener is checked first"
        );
        let _listener = listen(addr, "tok");
        let unknown = page("404 Not Found", "Unknown action requested");
        assert_eq!(post(addr, "/what/tok", b"\xff"), unknown, "then what is not known");
        assert_eq!(post(addr, "/retry/tok", "1"), unknown, "without ids there is no retry");
        let bad = "Data is not properly formatted: <br />&#x27;utf-8&#x27; codec can&#x27;t decode byte \
            0xff in position 1: invalid start byte";
        assert_eq!(post(addr, "/ping/tok", b"a\xff"), page("400 Bad Request", bad));
        for body in [&b"1"[..], b"\xff"] {
            let answer = request(addr, "POST", "/ping/tok", body);
            assert_eq!(answer.header("Accept"), Some(accept), "{answer:?}");
        }
    }
}

/// A page whose own name was made to resolve to the server (DNS rebinding) was of the server's own origin.
#[test]
fn a_browser_reaches_the_server_by_a_known_name_alone_and_a_program_by_any() {
    let (_server, addr) = server(&["--allowed-host", "ops.example"]);
    let status = |version: &str, fields: &str| {
        let head = format!("GET /poll/tok HTTP/{version}\r\n{fields}\r\n");
        let mut listener = Raw::send(addr, head.as_bytes());
        let head = listener.until("\r\n\r\n");
        let status = head.split(' ').nth(1).unwrap().to_owned();
        // The token is free again for the next one.
        if status == "200" {
            posted(addr, "/close/tok", "");
            listener.rest();
        } else {
            assert!(listener.rest().contains("--allowed-host"), "{head}");
        }
        status
    };
    let browser = "User-Agent: Mozilla/5.0\r\nAccept-Language: en\r\n";
    assert_eq!(
        status("1.1", &format!("Host: evil.example:8888\r\n{browser}Connection: close\r\n")),
        "403"
    );
    for host in ["ops.example", "localhost:8888", "127.0.0.1", "[::1]:8888"] {
        assert_eq!(status("1.1", &format!("Host: {host}\r\n{browser}")), "200", "{host}");
    }
    for fields in ["Host: evil.example\r\n", "Host: a_b:x\r\nUser-Agent: PycURL/7.19\r\n"] {
        assert_eq!(status("1.1", fields), "200", "{fields:?}");
    }
    assert_eq!(status("1.0", ""), "200");
}

#[test]
fn other_paths_and_methods_are_refused_as_the_original_refuses_them() {
    let (_server, addr) = server(&[]);
    for path in ["/ping/tok", "/x/poll/tok", "/pol/tok"] {
        let moved = request(addr, "GET", path, b"");
        assert_eq!(moved.status, "HTTP/1.1 301 Moved Permanently", "of {path}");
        assert_eq!((moved.header("Location"), &*moved.body), (Some("/"), ""), "of {path}");
    }
    let nothing = request(addr, "GET", "/", b"");
    assert_eq!((nothing.status, nothing.body), page("404 Not Found", "Not Found"));
    let wrong = request(addr, "DELETE", "/poll/tok", b"");
    assert_eq!(wrong.header("Allow"), Some("GET, HEAD, OPTIONS, POST"));
    assert_eq!((wrong.status, wrong.body), page("405 Method Not Allowed", "Method Not Allowed"));
    let options = request(addr, "OPTIONS", "/poll/tok", b"");
    assert_eq!(options.status, "HTTP/1.1 204 No Content");
}

#[test]
fn a_token_has_one_listener_and_is_free_once_that_disconnects() {
    let (_server, addr) = server(&[]);
    let taken = || {
        let answer = request(addr, "GET", "/poll/tok", b"");
        (answer.status, answer.body)
    };
    let first = listen(addr, "tok");
    assert_eq!(taken(), page("423 Locked", "Target is already connected"));
    let _other = listen(addr, "tok2");
    posted(addr, "/ping/tok", "the first one is still there");
    drop(first);
    // It disconnected: the next listener is not refused.
    let second = listen(addr, "tok");
    posted(addr, "/close/tok", "");
    let mut third = listen(addr, "tok");
    assert_eq!(second.rest(), "");
    posted(addr, "/ping/tok", "x");
    assert_eq!(third.until("\r\n\r\n"), "event: ping\r\ndata: x\r\n\r\n");
}

#[test]
fn json_is_judged_and_written_anew() {
    let (_server, addr) = server(&["-j"]);
    let mut listener = listen(addr, "tok");
    for (body, data) in [
        (
            "{\"b\":1,\n\"a\":[1.0,2E3,\"é\u{1f600}\"]}",
            r#"{"b": 1, "a": [1.0, 2000.0, "\u00e9\ud83d\ude00"]}"#,
        ),
        ("\"</script>\"", r#""<\/script>""#),
        ("{\"a\":1,\"b\":2,\"a\":3}", r#"{"a": 3, "b": 2}"#),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("[1e16,1E400,NaN]", "[1e+16, Infinity, NaN]"),
    ] {
        posted(addr, "/ping/tok", body);
        assert_eq!(listener.until("\r\n\r\n"), format!("event: ping\r\ndata: {data}\r\n\r\n"));
    }
    for (action, body, reason) in [
        ("ping", "hello", "Expecting value: line 1 column 1 (char 0)"),
        ("ping", "", "Expecting value: line 1 column 1 (char 0)"),
        ("ping", "{\"a\" 1}", "Expecting &#x27;:&#x27; delimiter: line 1 column 6 (char 5)"),
        ("close", "bye", "Expecting value: line 1 column 1 (char 0)"),
    ] {
        let expected =
            page("400 Bad Request", &format!("Data is not properly formatted: <br />{reason}"));
        assert_eq!(post(addr, &format!("/{action}/tok"), body), expected, "of {action} {body:?}");
    }
    posted(addr, "/close/tok", "null");
    assert_eq!(listener.rest(), "");
}

#[test]
fn ids_count_for_the_whole_server_and_retry_is_in_the_next_event() {
    let (_server, addr) = server(&["--id"]);
    let (mut a, mut b) = (listen(addr, "a"), listen(addr, "b"));
    for (path, body, frame) in [
        ("/ping/a", "x", "id: 0\r\nevent: ping\r\ndata: x\r\n\r\n"),
        ("/retry/a", "soon", "id: 2\r\nevent: retry\r\ndata: soon\r\n\r\n"),
        ("/ping/a", "y", "id: 4\r\nretry: 5000\r\nevent: ping\r\ndata: y\r\n\r\n"),
        ("/ping/a", "z", "id: 6\r\nevent: ping\r\ndata: z\r\n\r\n"),
    ] {
        if frame.contains("retry: 5000") {
            posted(addr, "/retry/a", "1");
            posted(addr, "/retry/a", "5000");
        }
        posted(addr, path, body);
        assert_eq!(a.until("\r\n\r\n"), frame);
        posted(addr, "/ping/b", "");
    }
    for id in [1, 3, 5, 7] {
        assert_eq!(b.until("\r\n\r\n"), format!("id: {id}\r\nevent: ping\r\ndata: \r\n\r\n"));
    }
}

#[test]
fn events_after_the_last_event_id_are_replayed_before_new_ones() {
    let (_server, addr) = server(&["-i"]);
    let first = listen(addr, "tok");
    posted(addr, "/retry/tok", "9");
    for number in 0..120 {
        posted(addr, "/ping/tok", format!("{number}"));
    }
    drop(first);
    let mut again = listen_after(addr, "tok", "Last-Event-ID: 117\r\n");
    posted(addr, "/ping/tok", "120");
    for number in 118..=120 {
        let frame = format!("id: {number}\r\nevent: ping\r\ndata: {number}\r\n\r\n");
        assert_eq!(again.until("\r\n\r\n"), frame);
    }
    drop(again);
    let mut late = listen_after(addr, "tok", "Last-Event-ID: 0\r\n");
    let oldest = late.until("\r\n\r\n");
    assert_eq!(
        oldest, "id: 21\r\nevent: ping\r\ndata: 21\r\n\r\n",
        "the last hundred are retained"
    );
    drop(late);
    for fields in ["", "Last-Event-ID: what\r\n", "Last-Event-ID: 999\r\n"] {
        let mut new = listen_after(addr, "tok", fields);
        posted(addr, "/ping/tok", "live");
        let event = new.until("\r\n\r\n");
        assert!(event.ends_with("data: live\r\n\r\n"), "{fields:?} replays nothing: {event:?}");
    }
}

#[test]
fn keepalive_comments_have_two_decimals() {
    let (_server, addr) = server(&["-k", "50"]);
    let mut listener = listen(addr, "tok");
    for _ in 0..3 {
        let comment = listener.until("\r\n\r\n");
        let time = comment.strip_prefix(": keepalive ").and_then(|c| c.strip_suffix("\r\n\r\n"));
        let (seconds, decimals) =
            time.and_then(|t| t.split_once('.')).unwrap_or_else(|| panic!("{comment:?}"));
        assert!(seconds.parse::<u64>().is_ok() && decimals.parse::<u8>().is_ok(), "{comment:?}");
        assert_eq!(decimals.len(), 2, "{comment:?}");
    }
}

#[test]
fn a_body_over_a_mebibyte_is_refused_and_one_of_that_size_is_not() {
    let (_server, addr) = server(&[]);
    let too_large = page("413 Payload Too Large", "Payload Too Large");
    let body = vec![b'x'; 1024 * 1024 + 1];
    assert_eq!(post(addr, "/ping/tok", &body), page("404 Not Found", "Target is not connected"));
    let mut listener = listen(addr, "tok");
    assert_eq!(post(addr, "/ping/tok", &body), too_large);
    posted(addr, "/ping/tok", &body[1..]);
    assert_eq!(
        listener.until("\r\n\r\n").len(),
        "event: ping\r\ndata: \r\n\r\n".len() + 1024 * 1024
    );
}

#[test]
fn escapes_in_a_path_are_decoded() {
    let (_server, addr) = server(&[]);
    let mut listener = listen(addr, "a%2Fb%20%C3%A9");
    posted(addr, "/%70ing/%61%2fb%20%c3%a9", "x");
    assert_eq!(listener.until("\r\n\r\n"), "event: ping\r\ndata: x\r\n\r\n");
    assert_eq!(post(addr, "/ping/a/b%20%c3%a9", "x").0, "HTTP/1.1 404 Not Found");
}

/// The stand-in of a client, its answer's head read.
fn strict_client(args: &[&str]) -> Process {
    let mut client = standin("classic_client.py", args);
    let head = client.json();
    assert_eq!((&head[0], &head[1]), (&json!("head"), &json!(200)), "{head}");
    assert_eq!(head[2]["content-type"], "text/event-stream");
    client
}

fn stranger_posts(origin: &str, args: &[&str]) -> Value {
    standin("classic_request.py", &[&[origin], args].concat()).json()
}

#[test]
fn strangers_that_follow_the_contract_get_along_with_it() {
    let (server, addr) = server(&["-j", "-i", "-k", "20", "--action", "reboot"]);
    let origin = format!("http://{addr}");
    let url = format!("{origin}/poll/tok");
    let mut client = strict_client(&[&url]);
    let taken = standin("classic_client.py", &[&url]).json();
    assert_eq!(taken[1], 423);
    let ok = json!({"status": 200, "reason": "OK", "accept": "application/json", "body": ""});
    assert_eq!(stranger_posts(&origin, &["tok", "reboot", "{\"when\":\"now\"}"]), ok);
    assert_eq!(stranger_posts(&origin, &["tok", "retry", "250"]), ok);
    assert_eq!(stranger_posts(&origin, &["tok", "ping", "1"]), ok);
    let refused = stranger_posts(&origin, &["tok", "ping", "x"]);
    assert_eq!((&refused["status"], &refused["reason"]), (&json!(400), &json!("Bad Request")));
    assert_eq!(stranger_posts(&origin, &["tok", "close", "0"]), ok);
    let (mut events, mut comments) = (vec![], 0);
    loop {
        let message = client.json();
        match message[0].as_str() {
            Some("event") => events.push(message[1].clone()),
            Some("comment") => comments += 1,
            _ => break assert_eq!(message, json!(["end"])),
        }
    }
    let expected = [
        json!({"id": "0", "event": "reboot", "data": "{\"when\": \"now\"}"}),
        json!({"id": "1", "retry": "250", "event": "ping", "data": "1"}),
    ];
    assert_eq!(events, expected);
    assert!(comments > 0, "python takes longer to start than a keepalive to come");
    assert_eq!(client.end().0, 0);

    let mut again = strict_client(&[&url, "--last-event-id", "0"]);
    let event =
        std::iter::from_fn(|| Some(again.json())).find(|message| message[0] == "event").unwrap();
    assert_eq!(event, json!(["event", {"id": "1", "event": "ping", "data": "1"}]));
    let (code, _, errors) = server.terminate();
    assert_eq!((code, errors), (0, vec![]), "SIGTERM is an orderly end");
}

#[test]
fn with_a_key_and_a_certificate_it_speaks_https() {
    let (key, cert, ca) = (tls_file("key.pem"), tls_file("cert.pem"), tls_file("ca.pem"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_eventsource-server"));
    let mut server =
        Process::start(command.args(["-H", "localhost", "-P", "0", "-K", &key, "-C", &cert]));
    let line = server.err_with("listening on https://127.0.0.1:");
    let port = line.rsplit(':').next().unwrap();
    let url = format!("https://localhost:{port}/poll/tok");
    let mut client = strict_client(&[&url, "--ca", &ca]);
    let mut second = standin("classic_client.py", &[&url, "--ca", &ca]);
    assert_eq!(second.json()[1], 423, "the stream over TLS holds its token");
    assert_eq!(server.terminate().0, 0);
    assert_eq!(client.json(), json!(["end"]), "SIGTERM ends streams in good order");
    assert_eq!(client.end().0, 0);
}

#[test]
fn usage_is_2_and_what_cannot_be_served_is_1() {
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_eventsource-server"));
        Process::start(command.args(args)).end()
    };
    for args in [
        &["--what"][..],
        &["-P", "x"],
        &["-P", "65536"],
        &["-k", "soon"],
        &["-K", "key.pem"],
        &["-C", "cert.pem"],
        &["stray"],
    ] {
        assert_eq!(run(args).0, 2, "of {args:?}");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for (args, reason) in [
        (&["-H", "127.0.0.1", "-P", &*port][..], "cannot listen"),
        (&["-P", "0", "-K", "no-such-key.pem", "-C", "no-such-cert.pem"], "no-such-cert.pem"),
        (&["-P", "0", "--action", "a\nb"], "the action"),
    ] {
        let (code, _, errors) = run(args);
        assert_eq!(code, 1, "of {args:?}: {errors:?}");
        assert!(
            errors[0].starts_with("ERROR:eventsource.listener:") && errors[0].contains(reason),
            "{errors:?}"
        );
    }
    let (code, help, _) = run(&["--help"]);
    assert_eq!(code, 0);
    assert!(help.iter().any(|line| line.contains("Example:")), "{help:?}");
}
