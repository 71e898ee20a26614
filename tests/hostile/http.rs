//! Promise: no request is taken for another one, for two, or for a line of a log; and none names what it may not.

use std::io::Write;
use std::net::TcpStream;

use bellwire_testkit::Terminal;
use serde_json::json;

use crate::support::{BELLWIRE, Closed, Hub, PATIENCE, exchange, rest_of, run, statuses};

/// A request that is answered with its nonce, after which the connection is closed.
const CANARY: &str =
    "GET /v1/ping?nonce=canary HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
/// A request that a smuggler hides.
const HIDDEN: &str =
    "POST /v1/send/d/hidden HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n";

fn nothing_was_sent(hub: &Hub) {
    let commands = hub.http().get("/v1/commands").unwrap();
    let commands = String::from_utf8(commands.body).unwrap();
    assert!(!commands.contains("hidden"), "a hidden request was served: {commands}");
}

/// Heads that two servers could divide otherwise: all are refused, and what follows is not read.
#[test]
fn a_request_whose_length_is_ambiguous_is_refused_and_its_connection_closed() {
    let hub = Hub::open("");
    let post = "POST /v1/send/d/a HTTP/1.1\r\nHost: localhost\r\n";
    for fields in [
        // Content-Length twice, or none.
        "Content-Length: 0\r\nContent-Length: 4\r\n",
        "Content-Length: 4, 4\r\n",
        "Content-Length: 0, 4\r\n",
        "Content-Length: +4\r\n",
        "Content-Length: -4\r\n",
        "Content-Length: 0x4\r\n",
        "Content-Length: 4 4\r\n",
        "Content-Length: \r\n",
        "Content-Length: 18446744073709551620\r\n",
        // Transfer-Encoding that is not chunked at its end, or hidden.
        "Transfer-Encoding: identity\r\nContent-Length: 4\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding:\u{b}chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding\t: chunked\r\n",
        "Content-Length : 4\r\n",
        // Lines that continue, and bytes that end a line elsewhere.
        "X: a\r\n Transfer-Encoding: chunked\r\n",
        "X: a\r\n\tContent-Length: 4\r\n",
        " X: a\r\n",
        "X: a\rContent-Length: 4\r\n",
        "X: a\0b\r\n",
        "X\0: a\r\n",
        "no colon\r\n",
        ": no name\r\n",
    ] {
        let answers = hub.send(format!("{post}{fields}\r\n{HIDDEN}{CANARY}"));
        assert_eq!(statuses(&answers), [400], "{fields:?}: {answers}");
    }
    // Of several codings the last is chunked (RFC 9112, section 6.1), and a proxy that goes by the first reads other chunks.
    for fields in [
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: identity, chunked\r\n",
        "Transfer-Encoding: , chunked\r\n",
    ] {
        let chunks = "2\r\n11\r\n0\r\n\r\n";
        let answers = hub.send(format!("{post}{fields}\r\n{chunks}{HIDDEN}{CANARY}"));
        assert_eq!(statuses(&answers), [400], "{fields:?}: {answers}");
    }
    let old = "POST /v1/send/d/a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(statuses(&hub.send(format!("{old}0\r\n\r\n{HIDDEN}"))), [400]);
    nothing_was_sent(&hub);
}

/// Of two hosts a proxy before the hub may go by the other one. Clients that were written for one appliance may send none.
#[test]
fn a_request_has_one_host_or_none() {
    let open = Hub::open("");
    let closed = Closed::start();
    for (line, fields, expected) in [
        ("GET /v1/ping HTTP/1.1", "Host: localhost\r\nHost: localhost\r\n", 400_u16),
        ("GET /v1/ping HTTP/1.1", "Host: localhost\r\nX: y\r\nhost: 127.0.0.1\r\n", 400),
        ("GET /v1/ping HTTP/1.0", "Host: localhost\r\nHost: localhost\r\n", 400),
        ("GET /v1/ping HTTP/1.1", "Host: localhost\r\nConnection: close\r\n", 200),
        ("GET /v1/ping HTTP/1.1", "Connection: close\r\n", 200),
        ("GET /v1/ping HTTP/1.0", "", 200),
        ("GET /v1/ping HTTP/1.0", "Host: localhost\r\n", 200),
    ] {
        for (hub, which) in [(&open, "open"), (&closed.hub, "closed")] {
            let answers = hub.send(format!("{line}\r\n{fields}\r\n{CANARY}"));
            // Of the version of the request.
            let status = answers.get(9..12).map(str::parse);
            assert_eq!(status, Some(Ok(expected)), "{which}, {line} {fields:?}: {answers}");
            assert!(!answers.contains("canary"), "{which}, {line} {fields:?}: {answers}");
        }
    }
}

/// A proxy that goes by the other one of the two fields has another request behind it.
#[test]
fn a_request_with_both_lengths_ends_its_connection_and_nothing_behind_it_is_read() {
    let hub = Hub::open("");
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nX: y\r\ntransfer-ENCODING: Chunked\r\nContent-Length: 5\r\n",
    ] {
        let post = format!("POST /v1/send/d/a HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
        let answers = hub.send(format!("{post}0\r\n\r\n{HIDDEN}{CANARY}"));
        assert_eq!(statuses(&answers).len(), 1, "{fields:?}: {answers}");
        assert!(answers.to_ascii_lowercase().contains("connection: close"), "{answers}");
        assert!(!answers.contains("canary"), "{fields:?}: {answers}");
    }
    nothing_was_sent(&hub);
}

/// Two equal ones are one (RFC 9112, section 6.3), and what follows begins where it says.
#[test]
fn a_content_length_that_is_repeated_counts_once() {
    let hub = Hub::open("");
    let post = "POST /v1/send/d/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n11";
    let answers = hub.send(format!("{post}{CANARY}"));
    assert_eq!(statuses(&answers), [202, 200], "{answers}");
}

#[test]
fn a_body_of_chunks_that_are_not_exactly_chunks_is_refused_and_ends_the_connection() {
    let hub = Hub::open("body_timeout = 1\n");
    let post =
        "POST /v1/send/d/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    for body in [
        "0\n\n",
        "2\n11\r\n0\r\n\r\n",
        "2\r\n11\n0\r\n\r\n",
        "2\r\n1111\r\n0\r\n\r\n",
        "2;a=\n1\r\n11\r\n0\r\n\r\n",
        "+2\r\n11\r\n0\r\n\r\n",
        "-2\r\n11\r\n0\r\n\r\n",
        "0x2\r\n11\r\n0\r\n\r\n",
        "10000000000000002\r\n11\r\n0\r\n\r\n",
        "\r\n2\r\n11\r\n0\r\n\r\n",
        "2 2\r\n11\r\n0\r\n\r\n",
        "\u{b2}\r\n11\r\n0\r\n\r\n",
    ] {
        let answers = hub.send(format!("{post}{body}{HIDDEN}{CANARY}"));
        let statuses = statuses(&answers);
        assert!(matches!(statuses[..], [] | [400]), "{body:?}: {answers}");
        assert!(!answers.contains("canary"), "{body:?}: {answers}");
    }
    nothing_was_sent(&hub);
    // A trailer is no header.
    let trailer = "2\r\n11\r\n0\r\nAuthorization: Bearer bw_x\r\nContent-Length: 500\r\n\r\n";
    let answers = hub.send(format!("{post}{trailer}{CANARY}"));
    assert_eq!(statuses(&answers), [202, 200], "{answers}");
}

/// RFC 9112, section 2.2, lets a line end with LF alone. It ends a line everywhere then, and stands in no value.
#[test]
fn a_bare_line_feed_ends_a_line_and_is_never_part_of_a_value() {
    let hub = Hub::open("");
    // Were `X` one line, there were no length, and what follows another request.
    let post = "POST /v1/send/d/a HTTP/1.1\r\nHost: localhost\r\nX: y\nContent-Length: 87\r\n\r\n";
    let hidden = format!("{HIDDEN:>87}");
    let answers = hub.send(format!("{post}{hidden}{CANARY}"));
    assert_eq!(statuses(&answers), [202, 200], "the length counts: {answers}");
    nothing_was_sent_by_itself(&hub);
    let lines = "GET /v1/ping?nonce=lines HTTP/1.1\nHost: localhost\n\n";
    let answers = hub.send(format!("{lines}{CANARY}"));
    assert_eq!(statuses(&answers), [200, 200], "{answers}");
}

fn nothing_was_sent_by_itself(hub: &Hub) {
    let commands = hub.http().get("/v1/commands?action=hidden").unwrap();
    assert_eq!(commands.json()["items"], json!([]), "a hidden request was served");
}

/// What a refused request brought, or one that has no use for a body, is not the next request.
#[test]
fn the_body_of_a_request_that_does_not_read_it_is_no_request() {
    let closed = Closed::start();
    let body = HIDDEN.repeat(3);
    for (line, status) in [
        ("POST /v1/send/d/a", 401),
        ("GET /v1/ping", 200),
        ("DELETE /v1/devices/d", 401),
        ("PATCH /v1/ping", 405),
        ("GET /nothing", 404),
        ("OPTIONS /v1/devices", 204),
        ("HEAD /v1/ping", 200),
    ] {
        let head =
            format!("{line} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
        let answers = closed.hub.send(format!("{head}{body}{CANARY}"));
        let answered = statuses(&answers);
        // The connection is closed after the first answer, or goes on behind the body.
        assert!(
            matches!(answered[..], [first] if first == status) || answered == [status, 200],
            "{line}: {answers}"
        );
    }
    assert_eq!(closed.admin("GET /v1/commands", "")["items"], json!([]));
}

#[test]
fn what_is_not_http_1_is_refused_and_closed() {
    let hub = Hub::open("");
    for bytes in [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
        b"GET /v1/ping\r\n\r\n",
        b"GET /v1/ping HTTP/1.2\r\nHost: localhost\r\n\r\n",
        b"GET /v1/ping HTTP/3.0\r\nHost: localhost\r\n\r\n",
        b"GET /v1/ping HTTQ/1.1\r\nHost: localhost\r\n\r\n",
        b"G\x00T /v1/ping HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET  /v1/ping HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00\x00\x00\x00\r\n\r\n",
    ] {
        let answers = hub.send([bytes, CANARY.as_bytes()].concat());
        assert!(!answers.contains("canary"), "{:?}: {answers}", String::from_utf8_lossy(bytes));
        assert!(!answers.contains("200 OK"), "{:?}: {answers}", String::from_utf8_lossy(bytes));
    }
    assert!(hub.lives());
}

/// A path is matched as it came; nothing in it is resolved, so that no rule of a proxy before the hub is passed by.
#[test]
fn a_path_reaches_the_route_that_it_spells_and_no_other() {
    let closed = Closed::start();
    closed.register("kiosk", &json!({}));
    let ask = |target: &str| closed.ask(&closed.admin, &format!("GET {target}"), "");
    assert_eq!(ask("/v1/devices/kiosk").status, 200);
    for (target, status) in [
        ("/v1/ping/../devices/kiosk", 404),
        ("/v1/./devices/kiosk", 404),
        ("/v1//devices/kiosk", 404),
        ("//v1/devices/kiosk", 404),
        ("/v1/devices//kiosk", 404),
        ("/v1/devices/kiosk/", 404),
        ("/v1/devices/kiosk;a=b", 400),
        ("/v1/%64evices/kiosk", 404),
        ("/v1%2Fdevices%2Fkiosk", 404),
        ("/v1/devices%2Fkiosk", 404),
        ("/V1/devices/kiosk", 404),
        ("/v1/Devices/kiosk", 404),
        ("\\v1\\devices\\kiosk", 400),
        ("/v1/devices/%2e%2e", 400),
        ("/v1/devices/%2E%2E%2Ftokens", 400),
        ("/v1/devices/..", 400),
        ("/v1/devices/.", 400),
        ("/v1/devices/..%5c..%5ctokens", 400),
        ("/v1/devices/kiosk%00", 400),
        ("/v1/devices/kiosk%0d%0aX:%20y", 400),
        ("/v1/devices/kiosk%2f", 400),
        ("/v1/devices/%6biosk", 200),
        ("/v1/devices/%256biosk", 400),
        // Overlong, half a character, full-width, and letters that look alike.
        ("/v1/devices/%c0%ae%c0%ae", 400),
        ("/v1/devices/%ff", 400),
        ("/v1/devices/%EF%BD%8Biosk", 400),
        ("/v1/devices/%D0%BAiosk", 400),
        ("/v1/devices/%zz", 400),
        ("/v1/devices/%", 400),
        ("/v1/devices/kiosk?%", 400),
        ("/v1/devices/kiosk%3Flimit=1", 400),
        // What follows is no part of a target (RFC 9112, section 3.2.1), and chooses nothing.
        ("/v1/devices/kiosk#/v1/tokens", 200),
    ] {
        let answer = ask(target);
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        // What is not a target of RFC 9112 at all is refused by the parser.
        let fits = answer.status == status || (answer.status == 400 && body.is_empty());
        assert!(fits, "{target} is {} and not {status}: {body}", answer.status);
    }
}

/// RFC 9112, section 3.2.2: a target of absolute form is served by its path; its authority is the host that counts.
#[test]
fn an_absolute_target_is_the_path_that_it_has_under_the_same_rules() {
    let closed = Closed::start();
    let head = |target: &str, host: &str, fields: &str| {
        let request =
            format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{fields}\r\n");
        exchange(closed.hub.addr, request)
    };
    let bearer = format!("Authorization: Bearer {}\r\n", closed.admin);
    let statuses = |target: &str, fields: &str| statuses(&head(target, "localhost", fields));
    assert_eq!(statuses("http://localhost/v1/ping", ""), [200]);
    assert_eq!(statuses("http://localhost/v1/devices", ""), [401], "no way around the token");
    assert_eq!(statuses("http://localhost/v1/devices", &bearer), [200]);
    assert_eq!(statuses("http://localhost/v1/ping/../devices", &bearer), [404]);
    assert_eq!(statuses("http://localhost//v1/devices", &bearer), [404]);
    assert_eq!(statuses("http://a:b@localhost/v1/devices", ""), [401], "userinfo is no credential");
    assert_eq!(statuses("*", &bearer), [404]);
    let connect = exchange(
        closed.hub.addr,
        format!(
            "CONNECT localhost:22 HTTP/1.1\r\nHost: localhost:22\r\nConnection: close\r\n{bearer}\r\n"
        ),
    );
    assert!(!connect.contains(" 200 "), "the hub is no proxy: {connect}");
    // The hub fetches nothing: another authority is a name of its own, if anything.
    let other = head("http://127.0.0.1:1/v1/ping?nonce=mine", "localhost", "");
    assert!(other.contains("mine") || other.contains(" 403 "), "{other}");

    let open = Hub::open("");
    let foreign = exchange(
        open.addr,
        "GET http://evil.example/v1/devices HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    );
    assert!(foreign.contains(" 403 "), "the authority counts as the host: {foreign}");
    for hosts in
        ["Host: localhost\r\nHost: evil.example\r\n", "Host: evil.example\r\nHost: localhost\r\n"]
    {
        let two = exchange(
            open.addr,
            format!("GET /v1/devices HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n"),
        );
        assert!(!two.contains(" 200 "), "which of two hosts is meant? {hosts:?}: {two}");
    }
}

/// Values that end a line, or move a terminal's cursor, in every place of a request that is stored, answered or logged.
#[test]
fn nothing_that_a_client_sends_makes_a_header_or_a_line_of_the_log() {
    let closed = Closed::that_logs_all();
    let hub = &closed.hub;
    let forged = "2026-01-01T00:00:00Z  INFO bellwire: forged";
    let encoded = "%0d%0aSet-Cookie:%20forged=1%0d%0a%0d%0a%1b%5b2J";
    let bearer = format!("Authorization: Bearer {}\r\nConnection: close\r\n", closed.admin);
    for target in [
        format!("/v1/ping?nonce={encoded}"),
        format!("/v1/ping?{encoded}=1"),
        format!("/v1/devices/{encoded}"),
        format!("/v1/devices?prefix={encoded}"),
        format!("/v1/devices?select={encoded}"),
        format!("/v1/commands?after={encoded}"),
        format!("/v1/commands/{encoded}"),
        format!("/v1/{encoded}"),
        format!("/{encoded}"),
        format!("/v1/devices/d/stream?nonce={encoded}{}", "x".repeat(64)),
        format!("/v1/devices/d/stream?heartbeat={encoded}"),
    ] {
        let answer = hub.send(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{bearer}\r\n"));
        let head = answer.split("\r\n\r\n").next().unwrap();
        assert!(!head.to_ascii_lowercase().contains("set-cookie"), "{target}: {answer}");
        assert!(!answer.contains('\u{1b}'), "{target}: {answer:?}");
        assert_eq!(statuses(&answer).len(), 1, "{target}: {answer}");
    }
    // In header fields: what RFC 9110, section 5.5, forbids in a value is refused; the rest stays a value.
    for (field, refused) in [
        ("User-Agent: a\u{1b}[2Jb", true),
        ("User-Agent: a\u{7f}b", true),
        ("Origin: http://a\u{1b}[31m", true),
        ("X-Forwarded-For: 1.2.3.4\u{8}", true),
        ("Idempotency-Key: a\tb", false),
        ("User-Agent: \u{202e}\u{9b}2J", false),
        ("Last-Event-ID: \u{85}\u{2028}1", false),
    ] {
        let request = format!(
            "GET /v1/devices/d/commands?wait=0 HTTP/1.1\r\nHost: localhost\r\n{bearer}{field}\r\n\r\n"
        );
        let answer = hub.send(request);
        assert_eq!(statuses(&answer) == [400], refused, "{field:?}: {answer}");
    }
    for line in [format!("POST /v1/send/d/a%0a{forged}"), format!("POST /v1/send/{forged}/a")] {
        let line = line.replace(' ', "%20").replacen("%20", " ", 1);
        hub.send(format!(
            "{line} HTTP/1.1\r\nHost: localhost\r\n{bearer}Content-Length: 0\r\n\r\n"
        ));
    }
    let log = hub.program.output();
    assert!(!log.contains("forged"), "{log}");
    assert!(!log.chars().any(|c| c.is_control() && c != '\n'), "{log:?}");
}

/// The terminal of an operator who lists what appliances say of themselves.
#[test]
fn what_an_appliance_says_of_itself_moves_no_operators_cursor() {
    let hub = Hub::open("");
    let evil = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\rfake";
    let http = hub.http();
    assert_eq!(http.request("PUT", "/v1/devices/door", &[], b"{}").unwrap().status, 201);
    let facts = json!({"os": evil, evil: "x", "deep": {"a": [evil]}}).to_string();
    assert_eq!(
        http.request("PUT", "/v1/devices/door/facts", &[], facts.as_bytes()).unwrap().status,
        200
    );
    let mut stream = TcpStream::connect(hub.addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let agent = "\u{9b}31m\u{202e}agent";
    let request = format!(
        "GET /v1/devices/door/commands?wait=0 HTTP/1.1\r\nHost: localhost\r\nUser-Agent: {agent}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    rest_of(&mut stream);
    let sent = http.post_json("/v1/send/door/ring", &json!(evil).to_string()).unwrap().json();
    let path = format!("/v1/devices/door/commands/{}/status", sent["command"].as_str().unwrap());
    let error = json!({"code": "broken", "message": evil});
    let report = json!({"state": "failed", "error": error, "stdout": evil}).to_string();
    assert_eq!(http.post_json(&path, &report).unwrap().status, 200);
    let url = format!("http://{}", hub.addr);
    let id = sent["command"].as_str().unwrap();
    for args in [
        &["devices"][..],
        &["devices", "show", "door"],
        &["commands"],
        &["status", id],
        &["audit"],
        &["access"],
        &["devices", "--wide"],
        &["results", id],
        &["devices", "--json"],
        &["status", id, "--json"],
    ] {
        let shown = run(&[args, &["--hub", &url]].concat(), &[]);
        let moves = |c: char| c.is_control() && c != '\n' && c != '\t';
        assert!(!shown.chars().any(moves), "bellwire {args:?} prints {shown:?}");
    }
    // CSV is as it was reported, in a file, and not on a screen.
    let csv = ["results", id, "--csv", "--hub", &url];
    let file = run(&csv, &[]);
    assert!(file.contains(evil), "{file:?}");
    let (code, screen) = Terminal::start(BELLWIRE, &csv, &[]).ends();
    let moves = |c: char| c.is_control() && !matches!(c, '\r' | '\n');
    assert_eq!(code, 0);
    assert!(screen.contains("owned") && !screen.chars().any(moves), "{screen:?}");
}
