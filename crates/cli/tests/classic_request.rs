//! `eventsource-request`, against the stand-in of a server.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message"
)]

mod classic_support;

use std::process::Command;

use classic_support::{Process, classic_server, standin};
use serde_json::{Value, json};

/// Exit code and standard output.
fn request(args: &[&str]) -> (i32, Vec<String>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eventsource-request"));
    let (code, out, _) = Process::start(command.args(args)).end();
    (code, out)
}

fn lines(lines: &[&str]) -> Vec<String> {
    lines.iter().map(|&line| line.to_owned()).collect()
}

/// A listener of the stand-in, and its own request skipped.
fn listener(server: &mut Process, port: &str, token: &str) -> Process {
    let mut listener =
        standin("classic_client.py", &[&format!("http://127.0.0.1:{port}/poll/{token}")]);
    assert_eq!(listener.json()[1], 200);
    assert_eq!(server.json()[1], "GET");
    listener
}

#[test]
fn an_event_is_posted_and_the_empty_answer_printed() {
    let (mut server, port) = classic_server(&[]);
    let mut listener = listener(&mut server, &port, "tok");
    assert_eq!(request(&["-P", &port, "tok", "ping", "two\nlines é"]), (0, lines(&[""])));
    let message = server.json();
    assert_eq!(
        (&message[1], &message[2], &message[4]),
        (&json!("POST"), &json!("/ping/tok"), &json!("two\nlines é"))
    );
    assert_eq!(listener.json(), json!(["event", {"event": "ping", "data": "two\nlines é"}]));

    assert_eq!(
        request(&["--host", "127.0.0.1", "--port", &port, "tok", "ping"]),
        (0, lines(&[""]))
    );
    let message = server.json();
    assert_eq!((&message[3]["content-length"], &message[4]), (&json!("0"), &json!("")));
    assert_eq!(listener.json(), json!(["event", {"event": "ping", "data": ""}]));
}

#[test]
fn a_refusal_is_written_to_standard_output_with_exit_code_1() {
    let (mut server, port) = classic_server(&["--json"]);
    let refused =
        "Unable to send request (HTTP Error 404: Not Found): 404: Target is not connected";
    assert_eq!(request(&["-P", &port, "tok", "ping", "x"]), (1, lines(&[refused])));
    server.json();

    let _listener = listener(&mut server, &port, "tok");
    let refused =
        "Unable to send request (HTTP Error 404: Not Found): 404: Unknown action requested";
    assert_eq!(request(&["-P", &port, "tok", "reboot", "x"]), (1, lines(&[refused])));
    let refused = "Unable to send request (HTTP Error 400: Bad Request): 400: Data is not properly \
        formatted: <br />Expecting value: line 1 column 1 (char 0)";
    assert_eq!(request(&["-P", &port, "tok", "ping", "x"]), (1, lines(&[refused])));
}

#[test]
fn without_a_server_the_reason_stands_in_the_brackets() {
    // Bound and closed: a port without a listener.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (code, out) = request(&["-P", &port.to_string(), "tok", "ping"]);
    assert_eq!((code, out.len()), (1, 1), "{out:?}");
    assert!(
        out[0].starts_with("Unable to send request (")
            && out[0].ends_with(')')
            && out[0].contains("refused"),
        "{out:?}"
    );
}

#[test]
fn json_is_checked_and_sent_as_python_prints_it() {
    let (mut server, port) = classic_server(&["--json"]);
    let mut listener = listener(&mut server, &port, "tok");
    let data = "{\"b\" :[1E2,\"é</p>\"],\n\"a\":null}";
    assert_eq!(request(&["-P", &port, "-j", "tok", "ping", data]), (0, lines(&[""])));
    let message = server.json();
    assert_eq!(message[4], r#"{"b": [100.0, "\u00e9<\/p>"], "a": null}"#);
    assert_eq!(message[3]["content-type"], "application/json");
    assert_eq!(listener.json()[1]["data"], message[4]);

    for (data, expected) in [
        (
            &["{"][..],
            "Unable to send request (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))",
        ),
        (&[], "Unable to send request (Expecting value: line 1 column 1 (char 0))"),
    ] {
        let args = [&["-P", &port, "-j", "tok", "ping"], data].concat();
        assert_eq!(request(&args), (1, lines(&[expected])));
    }
}

/// A negative number and a text such as a line of a list were usage errors; argparse takes them for data.
#[test]
fn data_that_begins_with_a_minus_sign_is_read_as_by_argparse() {
    let (mut server, port) = classic_server(&[]);
    let mut listener = listener(&mut server, &port, "tok");
    for data in ["-5", "-0.5", "-.5", "-5 dB", "- milk", "-", "-P is a port"] {
        let expected = if data.starts_with("-P") { (2, vec![]) } else { (0, lines(&[""])) };
        let before = request(&["tok", "ping", data, "-P", &port]);
        assert_eq!(before, expected, "{data}, the options behind it");
        let after = request(&["-P", &port, "tok", "ping", data]);
        assert_eq!(after, expected, "{data}, the options before it");
        for _ in 0..if expected.0 == 0 { 2 } else { 0 } {
            assert_eq!(listener.json(), json!(["event", {"event": "ping", "data": data}]));
        }
    }
    for data in ["-n", "--dry-run", "--wat=30s", "-5dB"] {
        assert_eq!(request(&["-P", &port, "tok", "ping", data]), (2, vec![]), "{data}");
        assert_eq!(request(&["-P", &port, "--", "tok", "ping", data]).0, 0, "{data}");
        assert_eq!(listener.json(), json!(["event", {"event": "ping", "data": data}]));
    }
}

/// What it printed was lost on a full disk, with exit code 0.
#[test]
fn an_answer_that_cannot_be_printed_is_an_error() {
    let (mut server, port) = classic_server(&[]);
    let _listener = listener(&mut server, &port, "tok");
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_eventsource-request"));
    let output = command.args(["-P", &port, "tok", "ping"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8(output.stderr).unwrap().contains("No space left"));
}

#[test]
fn what_it_asks_is_escaped_and_usage_is_2() {
    let (mut server, port) = classic_server(&[]);
    request(&["-P", &port, "a b?", "ping"]);
    assert_eq!(server.json()[2], Value::from("/ping/a%20b%3F"));
    for args in [
        &["tok"][..],
        &["tok", "ping", "x", "y"],
        &["-P", "x", "tok", "ping"],
        &["--what", "tok", "ping"],
    ] {
        assert_eq!(request(args), (2, vec![]), "of {args:?}");
    }
    let (code, help) = request(&["--help"]);
    assert_eq!(code, 0);
    assert!(help.iter().any(|line| line.contains("Example:")), "{help:?}");
}
