//! Completion in a real shell, with names from a real hub.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message of a test"
)]

use std::path::Path;
use std::process::Command;

use bellwire_testkit::{Http, Program};

const BELLWIRE: &str = env!("CARGO_BIN_EXE_bellwire");

/// What bash offers for the last of these words, one a line; and that nothing is printed beside.
fn offered(hub: &str, words: &[&str]) -> Vec<String> {
    let home = tempfile::tempdir().unwrap();
    let script = "source <(bellwire completions bash)\n\
        COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); COMP_TYPE=9\n\
        _clap_complete_bellwire bellwire \"${COMP_WORDS[COMP_CWORD]}\" \"\"\n\
        printf '%s\\n' \"${COMPREPLY[@]}\"";
    let programs = Path::new(BELLWIRE).parent().unwrap().to_owned();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([programs].into_iter().chain(std::env::split_paths(&path)));
    let mut bash = Command::new("bash");
    bash.args(["--norc", "-c", script, "bash", "bellwire"]).args(words);
    bash.env("PATH", path.unwrap()).env("HOME", home.path()).env("BELLWIRE_HUB", hub);
    bash.env_remove("XDG_CONFIG_HOME").env_remove("HTTP_PROXY").env_remove("http_proxy");
    let output = bash.output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
}

#[test]
fn names_and_ids_are_completed_from_the_hub() {
    let folder = tempfile::tempdir().unwrap();
    let (_hub, address) = Program::serve_anywhere(BELLWIRE, folder.path());
    let hub = format!("http://{address}");
    let http = Http(address);
    for send in ["kiosk-1/ping", "kiosk-2/reboot", "door/ping"] {
        assert_eq!(http.post_json(&format!("/v1/send/{send}"), "1").unwrap().status, 202);
    }
    let sent = http.get("/v1/commands").unwrap().json();
    let id = sent["items"][0]["id"].as_str().unwrap();

    assert_eq!(offered(&hub, &["send", "ki"]), ["kiosk-1", "kiosk-2"]);
    assert_eq!(offered(&hub, &["devices", "show", "d"]), ["door"]);
    assert_eq!(offered(&hub, &["commands", "--state", "succ"]), ["succeeded"]);
    assert_eq!(offered(&hub, &["commands", "--state", ""]).len(), 13, "every state");
    assert_eq!(offered(&hub, &["send", "door", "re"]), ["reboot"]);
    assert_eq!(offered(&hub, &["cancel", &id[..14]]).len(), 1);
    let ids = offered(&hub, &["status", "0"]);
    assert!(ids.len() == 3 && ids.iter().any(|short| id.starts_with(short.as_str())), "{ids:?}");
    // The hub that the line names, and not that of the environment.
    let away = "http://127.0.0.1:1";
    assert_eq!(offered(away, &["send", "--hub", &hub, "d"]), ["door"]);
    assert!(offered(&hub, &["sen"]).contains(&"send".to_owned()));
    assert!(offered(&hub, &["send", "--idem"]).contains(&"--idempotency-key".to_owned()));
}

#[test]
fn a_hub_that_is_away_offers_nothing_and_says_nothing() {
    assert!(offered("http://127.0.0.1:1", &["status", "0"]).is_empty());
    assert!(offered("not a URL", &["send", "ki"]).is_empty());
    // One that takes the connection and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let hub = format!("http://{}", silent.local_addr().unwrap());
    assert!(offered(&hub, &["devices", "show", "d"]).is_empty());
}
