//! Promise: what a client command reads (a token, data, a context, a time) is taken from where people put it, and what it did
//! is reported when it was done.
#![cfg(feature = "hub")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message of a test"
)]

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use bellwire_testkit::{Http, Program};

const BELLWIRE: &str = env!("CARGO_BIN_EXE_bellwire");

struct Hub {
    folder: tempfile::TempDir,
    _program: Program,
    address: SocketAddr,
}

impl Hub {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (program, address) = Program::serve_anywhere(BELLWIRE, &folder.path().join("hub"));
        Self { folder, _program: program, address }
    }

    /// Runs the program to its end with this standard input; gives its exit code and both outputs.
    fn run(&self, args: &[&str], input: &[u8]) -> (i32, String) {
        let hub = format!("http://{}", self.address);
        let mut command = bellwire(self.folder.path(), args);
        run(command.env("BELLWIRE_HUB", hub), input)
    }

    fn commands(&self) -> Vec<serde_json::Value> {
        let list = Http(self.address).get("/v1/commands").unwrap().json();
        list["items"].as_array().unwrap().clone()
    }
}

/// The program with a home of its own and an environment of nothing else.
fn bellwire(home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(BELLWIRE);
    command.args(args).env_clear().env("HOME", home);
    command
}

fn run(command: &mut Command, input: &[u8]) -> (i32, String) {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // One that does not read it has ended.
    child.stdin.take().unwrap().write_all(input).ok();
    let output = child.wait_with_output().unwrap();
    let text = [&output.stdout[..], &output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

/// `--token-file <(pass show bellwire)` was not a regular file, and `-` no file at all.
#[test]
fn token_and_data_are_read_from_pipes_and_from_standard_input() {
    let hub = Hub::start();
    for (args, input) in [
        (&["health", "--token-file", "/dev/stdin"][..], &b"bw_token\n"[..]),
        (&["health", "--token-file", "-"], b"bw_token\n"),
        (&["send", "k", "a", "--data-file", "-"], b"from a pipe"),
        (&["send", "k", "a", "--data-file", "/dev/stdin"], b"from a pipe"),
    ] {
        let (code, text) = hub.run(args, input);
        assert_eq!(code, 0, "{args:?}: {text}");
    }
    let data: Vec<_> = hub.commands().iter().map(|command| command["data"].clone()).collect();
    assert_eq!(data, ["from a pipe", "from a pipe"]);
    for (args, input, named) in [
        (&["health", "--token-file", "-"][..], &b"two words\n"[..], "on standard input"),
        (&["send", "k", "a", "-", "--token-file", "-"], b"x", "standard input is read once"),
        (&["send", "k", "a", "--data-file", "-"], b"\xff\xfex\0", "iconv -f UTF-16"),
    ] {
        let (code, text) = hub.run(args, input);
        assert!(code == 2 && text.contains(named), "{args:?}: {text}");
    }
}

/// It was listed as something that is no URL.
#[test]
fn a_context_with_several_urls_is_listed_with_each_and_no_password() {
    let home = tempfile::tempdir().unwrap();
    let context =
        |args: &[&str]| run(&mut bellwire(home.path(), &[&["context"], args].concat()), b"");
    let urls = "https://kiosk:s3cret@hub.example, http://hub.example:8888";
    assert_eq!(context(&["add", "prod", urls]).0, 0);
    let shown = "https://hub.example/,http://hub.example:8888/";
    let (code, text) = context(&["list"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains(shown) && !text.contains("s3cret"), "{text}");
    let (_, json) = context(&["list", "--json"]);
    assert!(json.contains(&format!("\"hub\":\"{shown}\"")), "{json}");
    let (code, text) = context(&["add", "none", " , "]);
    assert_eq!(code, 2, "{text}");
}

/// The next command went to another hub in silence.
#[test]
fn removing_the_context_in_use_says_what_is_used_from_now_on() {
    let home = tempfile::tempdir().unwrap();
    let context =
        |args: &[&str]| run(&mut bellwire(home.path(), &[&["context"], args].concat()), b"");
    for name in ["prod", "lab"] {
        assert_eq!(context(&["add", name, "http://hub.example"]).0, 0);
    }
    assert_eq!(context(&["use", "prod"]).0, 0);
    assert_eq!(context(&["remove", "lab"]), (0, String::new()));
    let (code, text) = context(&["remove", "prod"]);
    assert!(code == 0 && text.contains("http://127.0.0.1:8888"), "{text}");
    assert!(text.contains("prod was in use") && text.contains("bellwire context use"), "{text}");
}

/// "to be sent at" stood before a refusal, and the second try with a key was refused as another request.
#[test]
fn a_time_from_now_is_announced_when_it_is_accepted_and_has_no_key() {
    let hub = Hub::start();
    let (code, text) = hub.run(&["send", "k", "a", "--at", "+10m"], b"");
    assert!(code == 0 && text.contains("to be sent at"), "{text}");
    let (code, text) = hub.run(&["send", "k", "a", "--at", "+10m", "--ttl", "8d"], b"");
    assert!(code == 2 && text.contains("from 0s to 7d"), "{text}");
    assert!(!text.contains("to be sent at"), "{text}");
    let (code, text) = hub.run(&["send", "k", "a", "--at", "+10m", "--run-timeout", "2d"], b"");
    assert!(code == 2 && !text.contains("to be sent at"), "{text}");
    let (code, text) = hub.run(&["send", "k", "a", "--at", "+10m", "--idempotency-key", "x"], b"");
    assert!(code == 2 && text.contains("give the time itself"), "{text}");
    let commands = hub.commands();
    assert_eq!(commands.len(), 1, "{commands:?}");
    // The hub says when, in every command.
    assert!(commands[0]["not_before"].is_string(), "{commands:?}");
    for member in ["select", "rollout", "parent"] {
        assert!(commands[0].get(member).is_some_and(serde_json::Value::is_null), "{member}");
    }
    let (_, text) = hub.run(&["commands"], b"");
    let at = commands[0]["not_before"].as_str().unwrap();
    assert!(text.contains(at), "a list without {at}: {text}");
}

/// The lines of a log stood between the events, with a date, a level and the name of a module.
#[test]
fn a_lost_stream_is_a_note_and_no_line_of_a_log() {
    let home = tempfile::tempdir().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (hub, address) = Program::serve_anywhere(BELLWIRE, &folder.path().join("hub"));
    let url = format!("http://{address}");
    let send = |wait: &[&str]| {
        let mut command =
            bellwire(home.path(), &[&["send", "k", "a", "--hub", &url], wait].concat());
        Program::start(&mut command)
    };
    assert!(send(&[]).wait().success());
    let id = Http(address).get("/v1/commands").unwrap().json()["items"][0]["id"].clone();
    let followers = [
        (bellwire(home.path(), &["events", "--hub", &url]), "ready"),
        (bellwire(home.path(), &["commands", "--follow", "--hub", &url]), "queued"),
        (bellwire(home.path(), &["watch", id.as_str().unwrap(), "--hub", &url]), "queued"),
    ];
    let followers = followers.map(|(mut command, first)| (Program::start(&mut command), first));
    for (follower, first) in &followers {
        follower.wait_for(first);
    }
    let sender = send(&["--wait", "1m"]);
    sender.wait_for("waiting for k");
    // The stream of `commands --follow` has begun when it shows what comes.
    followers[1].0.wait_for("queued");
    hub.terminate();
    for follower in followers.iter().map(|(follower, _)| follower) {
        let line = follower.wait_for("again in");
        assert!(line.contains(&url), "{line}");
        assert!(!follower.output().contains("INFO"), "{}", follower.output());
    }
}

#[test]
fn cancelling_needs_four_digits_of_an_id() {
    let hub = Hub::start();
    assert_eq!(hub.run(&["send", "k", "a"], b"").0, 0);
    let id = hub.commands()[0]["id"].as_str().unwrap().to_owned();
    let (code, text) = hub.run(&["cancel", &id[..3]], b"");
    assert!(code == 2 && text.contains("at least 4 digits"), "{text}");
    assert_eq!(hub.commands()[0]["done"], false);
    let (code, text) = hub.run(&["cancel", &id[..4]], b"");
    assert_eq!(code, 0, "{text}");
}
