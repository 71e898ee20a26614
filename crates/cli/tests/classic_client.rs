//! `eventsource-client`, against the stand-in of a server.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message"
)]

mod classic_support;

use std::process::Command;

use classic_support::{Process, classic_server, standin, tls_file};
use serde_json::{Value, json};

/// A stand-in that answers each GET by the next of `scenes`, and the last for ever.
fn scripted(scenes: Value) -> (Process, String) {
    classic_server(&["--script", &scenes.to_string()])
}

fn client(args: &[&str]) -> Process {
    Process::start(Command::new(env!("CARGO_BIN_EXE_eventsource-client")).args(args))
}

/// Runs to its end: what it logged.
fn log(args: &[&str]) -> Vec<String> {
    let (code, out, log) = client(args).end();
    assert_eq!((code, out), (0, vec![]), "{log:#?}");
    log
}

fn post(port: &str, args: &[&str]) {
    let origin = format!("http://127.0.0.1:{port}");
    let answer = standin("classic_request.py", &[&[&*origin], args].concat()).json();
    assert_eq!(answer["status"], 200, "{answer}");
}

/// The next GET of the stand-in.
fn next_get(server: &mut Process) -> Value {
    loop {
        let message = server.json();
        if message[1] == "GET" {
            return message;
        }
    }
}

const RECEIVED: &str = "INFO:eventsource.client:received ";

fn received(event: &str) -> Option<String> {
    Some(format!("{RECEIVED}{event}"))
}

#[test]
fn events_are_logged_on_one_line_each_and_the_end_is_not() {
    let (mut server, port) = classic_server(&["--id", "--keepalive", "20"]);
    let mut client = client(&["-P", &port, "tok"]);
    let message = next_get(&mut server);
    assert_eq!(message[2], "/poll/tok");
    assert_eq!(message[3]["accept"], "text/event-stream");
    assert_eq!(message[3].get("last-event-id"), None, "there is none yet");
    assert_eq!(message[3].get("authorization"), None);
    post(&port, &["tok", "ping", "hello"]);
    assert_eq!(client.err(), received("Event<0,ping,hello>"));
    post(&port, &["tok", "ping", "two\nlines é\n"]);
    assert_eq!(client.err(), received("Event<1,ping,two\\nlines é\\n>"));
    post(&port, &["tok", "ping"]);
    assert_eq!(client.err(), received("Event<2,ping,>"));
    post(&port, &["tok", "retry", "150"]);
    post(&port, &["tok", "ping", "x"]);
    assert_eq!(client.err(), received("Event<3,ping,x>"));

    // An orderly end: it reconnects by itself, and sends its last event id.
    post(&port, &["tok", "close"]);
    let message = next_get(&mut server);
    assert_eq!(message[3]["last-event-id"], "3");
    post(&port, &["tok", "ping", "again"]);
    assert_eq!(client.err(), received("Event<4,ping,again>"));
}

#[test]
fn an_id_is_the_events_own_or_none() {
    let body = "id: 7\r\nevent: a\r\ndata: x\r\n\r\nevent: b\r\ndata: y\r\n\r\n";
    let (_server, port) = scripted(json!([{"body": body}, {"status": 404}]));
    let log = log(&["-P", &port, "tok"]);
    assert_eq!(
        log,
        [
            format!("{RECEIVED}Event<7,a,x>"),
            format!("{RECEIVED}Event<None,b,y>"),
            "ERROR:eventsource.client:HTTP 404: Not Found".to_owned(),
        ]
    );
}

#[test]
fn without_k_it_reconnects_after_an_orderly_end_and_stops_on_other_errors() {
    let event = |data: &str| format!("event: ping\r\ndata: {data}\r\n\r\n");
    let (_server, port) = scripted(json!([
        {"body": event("1")},
        {"status": 500}, {"status": 502}, {"status": 503}, {"status": 504},
        {"body": event("2")},
        {"status": 403},
    ]));
    let log = log(&["-P", &port, "tok"]);
    let events: Vec<_> = log.iter().filter_map(|line| line.strip_prefix(RECEIVED)).collect();
    assert_eq!(events, ["Event<None,ping,1>", "Event<None,ping,2>"]);
    assert_eq!(log.last().unwrap(), "ERROR:eventsource.client:HTTP 403: Forbidden");

    let (_server, port) =
        scripted(json!([{"body": event("1"), "end": "broken"}, {"body": event("2")}]));
    let log = self::log(&["-P", &port, "-r", "1", "tok"]);
    assert_eq!(log.len(), 2, "a broken transfer is not an orderly end, with any -r: {log:#?}");
    assert_eq!(Some(log[0].clone()), received("Event<None,ping,1>"));
    assert!(log[1].starts_with("ERROR:eventsource.client:"), "{log:#?}");

    let (_server, port) = scripted(json!([{"status": 204}]));
    assert_eq!(
        self::log(&["-P", &port, "tok"]),
        ["INFO:eventsource.client:disconnection requested"]
    );
}

/// `-r -1` was a usage error; the original reads it as a number, and does not reconnect.
#[test]
fn with_a_delay_of_minus_one_it_does_not_reconnect() {
    let body = "event: ping\r\ndata: x\r\n\r\n";
    for extra in [&["-r", "-1"][..], &["-k", "--retry", "-1"], &["-r-1"]] {
        let (mut server, port) = scripted(json!([{"body": body}, {"body": body}, {"status": 404}]));
        let lines = log(&[&["-P", &port, "tok"], extra].concat());
        let events = lines.iter().filter(|line| line.starts_with(RECEIVED)).count();
        assert_eq!(events, 1, "{extra:?}: {lines:#?}");
        assert_eq!(next_get(&mut server)[2], "/poll/tok");
    }
    assert_eq!(client(&["-r", "-2", "tok"]).end().0, 2);
}

#[test]
fn with_k_it_reconnects_whatever_happens() {
    let event = |data: &str| format!("id: {data}\r\nevent: ping\r\ndata: {data}\r\n\r\n");
    let (mut server, port) = scripted(json!([
        {"body": event("1"), "end": "broken"},
        {"status": 404}, {"status": 423}, {"status": 204},
        {"headers": {"Content-Type": "text/html"}, "body": "<p>Sign in</p>"},
        {"body": event("2")},
    ]));
    let mut client = client(&["-P", &port, "-k", "tok"]);
    let first = client.err_with(RECEIVED);
    let second = client.err_with(RECEIVED);
    assert_eq!(Some(first), received("Event<1,ping,1>"));
    assert_eq!(Some(second), received("Event<2,ping,2>"));
    assert_eq!(next_get(&mut server)[3].get("last-event-id"), None);
    for _ in 0..5 {
        assert_eq!(next_get(&mut server)[3]["last-event-id"], "1");
    }
}

#[test]
fn without_a_server_it_says_so_and_ends_with_0() {
    // Bound and closed: a port without a listener.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let log = log(&["-P", &port.to_string(), "tok"]);
    assert_eq!(log.len(), 1, "{log:#?}");
    assert!(
        log[0].starts_with("ERROR:eventsource.client:") && log[0].contains("refused"),
        "{log:#?}"
    );
}

#[test]
fn a_taken_token_and_a_wrong_action_end_it() {
    let (mut server, port) = classic_server(&[]);
    let _first = client(&["-P", &port, "tok"]);
    next_get(&mut server);
    assert_eq!(log(&["-P", &port, "tok"]), ["ERROR:eventsource.client:HTTP 423: Locked"]);
    next_get(&mut server);
    // The stand-in sends it to /, and there it is at odds with the stand-in's paths.
    let _stray = client(&["-P", &port, "-a", "listen", "tok"]);
    assert_eq!(next_get(&mut server)[2], "/listen/tok");
    assert_eq!(next_get(&mut server)[2], "/");
}

#[test]
fn what_a_network_answers_is_logged_with_what_to_do() {
    for (status, advice) in
        [(407, "set user and password in the proxy's URL"), (511, "the network requires a sign-in")]
    {
        let (_server, port) = scripted(json!([{"status": status}]));
        let log = log(&["-P", &port, "tok"]);
        let last = log.last().unwrap();
        assert!(last.starts_with("WARNING:") && last.contains(advice), "{status}: {log:#?}");
    }
}

#[test]
fn basic_authentication_and_a_prefix_go_with_every_request() {
    let (mut server, port) = scripted(json!([{}]));
    let _client = client(&["-P", &port, "-u", "user", "-p", "pass", "-x", "/front/", "tok"]);
    for _ in 0..2 {
        let message = next_get(&mut server);
        assert_eq!(message[2], "/front/poll/tok");
        assert_eq!(message[3]["authorization"], "Basic dXNlcjpwYXNz");
    }
}

#[test]
fn certificates_are_checked_with_the_flag_and_warned_about_without() {
    let (cert, key) = (tls_file("cert.pem"), tls_file("key.pem"));
    let (_server, port) = classic_server(&[
        "--cert",
        &cert,
        "--key",
        &key,
        "--script",
        &json!([
            {"body": "event: ping\r\ndata: x\r\n\r\n"}, {"status": 404},
            {"body": "event: ping\r\ndata: y\r\n\r\n"}, {"status": 404},
        ])
        .to_string(),
    ]);
    let run = |args: &[&str], authorities: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_eventsource-client"));
        command.args(["-P", &port, "-H", "localhost", "-S"]).args(args);
        command.env("SSL_CERT_FILE", authorities).env_remove("SSL_CERT_DIR");
        let (code, _, log) = Process::start(&mut command).end();
        assert_eq!(code, 0, "{log:#?}");
        log
    };
    let log = run(&["tok"], "/dev/null");
    assert_eq!(log.len(), 3, "{log:#?}");
    assert!(
        log[0].starts_with("WARNING:eventsource.client:the server's certificate is not checked"),
        "{log:#?}"
    );
    assert_eq!(Some(log[1].clone()), received("Event<None,ping,x>"));

    let log = run(&["-V", "tok"], &cert);
    assert_eq!(log.len(), 1, "an unknown authority ends it: {log:#?}");
    assert!(log[0].starts_with("ERROR:eventsource.client:cannot connect"), "{log:#?}");

    let log = run(&["-V", "tok"], &tls_file("ca.pem"));
    assert_eq!(log.len(), 2, "no warning: {log:#?}");
    assert_eq!(Some(log[0].clone()), received("Event<None,ping,y>"));
}

#[test]
fn debug_logs_comments_and_usage_is_2() {
    let (_server, port) = scripted(json!([{"body": ": keepalive 1.00\r\n\r\n"}, {"status": 404}]));
    let log = log(&["-d", "-P", &port, "tok"]);
    let comment = "DEBUG:eventsource.client:received comment: keepalive 1.00";
    assert!(log.iter().any(|line| line == comment), "{log:#?}");

    for args in [
        &[][..],
        &["tok", "more"],
        &["-r", "soon", "tok"],
        &["-P", "x", "tok"],
        &["-p", "secret", "tok"],
    ] {
        assert_eq!(client(args).end().0, 2, "of {args:?}");
    }
    let (code, help, _) = client(&["--help"]).end();
    assert_eq!(code, 0);
    assert!(help.iter().any(|line| line.contains("Example:")), "{help:?}");
}
