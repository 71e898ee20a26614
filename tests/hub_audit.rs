//! Promise: `bellwire audit` shows who did what and what was refused, by the real program, over a kill.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message of a test"
)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use bellwire_testkit::{Program, admin_token, command};

const BELLWIRE: &str = env!("CARGO_BIN_EXE_bellwire");

fn bellwire(args: &[&str]) -> Command {
    command(BELLWIRE, args)
}

fn lines(args: &[&str]) -> Vec<serde_json::Value> {
    let output = bellwire(args).output().unwrap();
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), output.stderr);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&stderr));
    stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn what_was_done_and_what_was_refused_is_shown_and_followed_and_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("hub");
    let data_dir = data_dir.to_str().unwrap();
    let token = folder.path().join("admin");
    std::fs::write(&token, admin_token(BELLWIRE, Path::new(data_dir))).unwrap();
    let token = token.to_str().unwrap();

    let (hub, addr) = Program::serve_anywhere(BELLWIRE, Path::new(data_dir));
    let url = format!("http://{addr}");
    let at = ["--hub", &url, "--token-file", token];
    assert!(!bellwire(&["devices", "--hub", &url]).output().unwrap().status.success());
    let enrolled = bellwire(&["token", "create", "--role", "device", "--device", "d", "--quiet"])
        .args(at)
        .output()
        .unwrap();
    assert!(enrolled.status.success());
    hub.kill();

    let (_hub, addr) = Program::serve_anywhere(BELLWIRE, Path::new(data_dir));
    let url = format!("http://{addr}");
    let at = ["--hub", url.as_str(), "--token-file", token];
    let shown = lines(&[&["audit", "--json"][..], &at].concat());
    let entries: Vec<_> =
        shown.iter().map(|e| (e["verb"].as_str().unwrap(), &e["status"])).collect();
    assert_eq!(entries.len(), 3, "{entries:?}");
    assert_eq!(
        (entries[0].0, entries[1].0, entries[2].0),
        ("token.create", "read", "token.create")
    );
    assert_eq!(shown[0]["address"], serde_json::Value::Null, "in the folder, without a hub");
    assert_eq!((&shown[1]["status"], &shown[1]["code"]), (&401.into(), &"unauthenticated".into()));
    assert_eq!(shown[2]["object"]["device"], "d");
    let one = lines(&[&["audit", "--json", "--device", "d", "-n", "1"][..], &at].concat());
    assert_eq!(one[0]["verb"], "token.create");

    let mut following = bellwire(&["audit", "--follow", "--json", "-n", "1"])
        .args(at)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut followed = BufReader::new(following.stdout.take().unwrap()).lines();
    let listed = followed.next().unwrap().unwrap();
    assert!(listed.contains("token.create"), "the last that there was: {listed}");
    assert!(
        bellwire(&["send", "d", "ping", "--ttl", "60"]).args(at).output().unwrap().status.success()
    );
    let next = followed.next().unwrap().unwrap();
    assert!(next.contains(r#""verb":"send""#), "{next}");
    following.kill().unwrap();
    following.wait().unwrap();
}
