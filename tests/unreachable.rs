//! Promise: a program that cannot reach its server says what stands in between: a proxy of the environment that is dead or
//! cannot be used, a name server that is silent; and it ends when it has said so.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message of a test"
)]

use std::net::{TcpListener, UdpSocket};
use std::process::Command;

use bellwire_testkit::{Program, has_own_name_server};

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
    let proxy = format!("http://user:s3cret@{}", refused());
    for (variable, hub) in [
        ("HTTP_PROXY", "http://hub.test"),
        ("https_proxy", "https://hub.test"),
        ("ALL_PROXY", "https://hub.test"),
    ] {
        let (code, text) = run(BELLWIRE, &["devices", "--hub", hub], &[(variable, proxy.as_str())]);
        assert_eq!(code, Some(6), "{text}");
        assert!(text.contains(&format!("(from {variable}) cannot be reached")), "{text}");
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
