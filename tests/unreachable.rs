//! Promise: a program that cannot reach its server says what stands in between: a proxy of the environment that is dead or
//! cannot be used, a name server that is silent; and it ends when it has said so.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message of a test"
)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::Command;

use bellwire_testkit::{Program, has_own_name_server, wait_until};

const BELLWIRE: &str = env!("CARGO_BIN_EXE_bellwire");
const REQUEST: &str = env!("CARGO_BIN_EXE_eventsource-request");
const CLIENT: &str = env!("CARGO_BIN_EXE_eventsource-client");

/// Exit code, and both outputs, of a program with this environment alone.
fn run(program: &str, args: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new(program);
    let output = command.args(args).env_clear().envs(variables.iter().copied()).output().unwrap();
    let text = [&output.stdout[..], &output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

/// A port of this machine that refuses connections.
fn refused() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[test]
fn a_dead_proxy_of_the_environment_is_named_with_its_variable() {
    let address = refused();
    let proxy = format!("http://user:s3cret@{address}");
    for (variable, hub) in [
        ("HTTP_PROXY", "http://hub.test"),
        ("https_proxy", "https://hub.test"),
        ("ALL_PROXY", "https://hub.test"),
    ] {
        let (code, text) = run(BELLWIRE, &["devices", "--hub", hub], &[(variable, proxy.as_str())]);
        assert_eq!(code, Some(6), "{text}");
        let sentence = format!(
            "the proxy http://{address}/ (from {variable}) cannot be reached at {address}: connection refused"
        );
        assert!(text.contains(&sentence), "{text}");
        assert!(!text.contains("s3cret") && !text.contains("hub.test"), "{text}");
    }
}

#[test]
fn a_proxy_variable_that_cannot_be_read_is_a_warning_that_names_it() {
    let hub = format!("http://{}", refused());
    for (variable, value) in [
        ("HTTP_PROXY", "http://user:s3cret@"),
        ("https_proxy", "ftp://proxy.test"),
        ("ALL_PROXY", "socks5://user:s3cret@proxy.test:1080"),
        ("HTTP_PROXY", "http://user:s3cret@proxy.test:99999"),
    ] {
        let (_, text) = run(BELLWIRE, &["devices", "--hub", &hub], &[(variable, value)]);
        assert!(text.contains(&format!("{variable} is ")), "{text}");
        assert!(text.contains("correct it or unset it") && !text.contains("s3cret"), "{text}");
    }
}

/// A line of the library that checks certificates stood before the error, which says it already.
#[test]
fn a_certificate_that_is_not_trusted_is_one_error_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../hub/tests/fixtures/tls");
    let mut serve = Command::new(BELLWIRE);
    serve.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(folder.path().join("hub"));
    serve.env("BELLWIRE_TLS_CERT", format!("{fixtures}/cert.pem"));
    let hub = Program::start(serve.env("BELLWIRE_TLS_KEY", format!("{fixtures}/key.pem")));
    let line = hub.wait_for("listening on https://");
    let url = line.split_whitespace().last().unwrap();
    for form in [&["--json"][..], &[], &["-v"]] {
        let (code, text) = run(BELLWIRE, &[&["devices", "--hub", url], form].concat(), &[]);
        assert_eq!((code, text.trim().lines().count()), (Some(6), 1), "{form:?}: {text}");
    }
}

/// `eventsource-request` said nothing for 45 s; the client said that it gave up, and its process stayed for 35 s more.
#[test]
fn a_silent_name_server_is_reported_while_and_after_it_is_waited_for() {
    if !has_own_name_server("a_silent_name_server_is_reported_while_and_after_it_is_waited_for") {
        return;
    }
    // It receives the questions, and answers none.
    let _silent = UdpSocket::bind("127.0.0.1:53").unwrap();
    let programs: [(&str, &[&str], i32); 3] = [
        (REQUEST, &["-H", "hub.silent.test", "kiosk", "ping"], 1),
        (CLIENT, &["-H", "hub.silent.test", "kiosk"], 0),
        (BELLWIRE, &["devices", "--hub", "http://hub.silent.test"], 6),
    ];
    // At the same time: each waits for some seconds.
    std::thread::scope(|scope| {
        for (program, args, expected) in programs {
            scope.spawn(move || {
                let (code, text) = run(program, args, &[]);
                assert_eq!(code, Some(expected), "{text}");
                assert!(text.contains("waiting for the DNS server"), "{text}");
                let named = "the DNS server did not answer for hub.silent.test";
                assert!(text.contains(named), "{text}");
            });
        }
    });
}

/// `listen` and `eventsource-client` repeated the status for ever and said nothing of a setting.
#[test]
fn a_listener_that_is_refused_says_once_which_setting_answers_it() {
    let folder = tempfile::tempdir().unwrap();
    let (_hub, address) = Program::serve_anywhere(BELLWIRE, &folder.path().join("hub"));
    // The hub is asked as a proxy is, so that it sees a name that is not its own.
    let hub = format!("http://{address}");
    let asks_for_a_token = format!("http://{}", answering("401 Unauthorized"));
    let asks_for_a_password = format!("http://{}", answering("407 Proxy Authentication Required"));
    let other_name = ["listen", "kiosk", "--hub", "http://hub.test"];
    let token = ["listen", "kiosk", "--hub", &asks_for_a_token];
    let port = asks_for_a_token.rsplit(':').next().unwrap();
    let classic = ["-k", "-r", "100", "-H", "127.0.0.1", "-P", port, "kiosk"];
    let classic_name = ["-k", "-r", "100", "-H", "hub.test", "kiosk"];
    let cases: [(&str, &[&str], &str, &str); 5] = [
        (BELLWIRE, &token, "", "pass --token-file"),
        (BELLWIRE, &other_name, &hub, "allowed_hosts"),
        (BELLWIRE, &other_name, &asks_for_a_password, "HTTP_PROXY="),
        (CLIENT, &classic, "", "-u USER"),
        (CLIENT, &classic_name, &asks_for_a_password, "HTTP_PROXY="),
    ];
    for (program, args, proxy, named) in cases {
        let mut command = Command::new(program);
        command.args(args).env_clear();
        if !proxy.is_empty() {
            command.env("HTTP_PROXY", proxy);
        }
        let listener = Program::start(&mut command);
        wait_until("two tries", || {
            let output = listener.output();
            let tries =
                output.matches("again in").count() + output.matches("reconnecting in").count();
            if tries >= 2 { Ok(()) } else { Err(output) }
        });
        let output = listener.output();
        assert_eq!(output.matches(named).count(), 1, "{args:?} through {proxy:?}: {output}");
        assert!(!output.contains("token does not allow"), "{output}");
    }
}

/// An operator without a token was advised to use another token.
#[test]
fn a_refusal_that_no_token_would_change_says_nothing_of_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let (_hub, address) = Program::serve_anywhere(BELLWIRE, &folder.path().join("hub"));
    let hub = format!("http://{address}");
    let args = ["devices", "--hub", "http://hub.test"];
    let (code, text) = run(BELLWIRE, &args, &[("HTTP_PROXY", &hub)]);
    assert!(code == Some(1) && text.contains("allowed_hosts"), "{text}");
    assert!(!text.contains("token"), "{text}");
    // The same with a token: it may be the reason.
    let variables = [("HTTP_PROXY", hub.as_str()), ("BELLWIRE_TOKEN", "bw_t")];
    let (_, text) = run(BELLWIRE, &args, &variables);
    assert!(text.contains("allowed_hosts") && !text.contains("--token-file"), "{text}");
}

/// A server that gives every request this status.
fn answering(status: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && socket.read(&mut byte).unwrap_or(0) > 0 {
                request.extend(byte);
            }
            let answer =
                format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            socket.write_all(answer.as_bytes()).ok();
        }
    });
    address
}
