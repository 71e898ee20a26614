//! Promise: a value that cannot be is refused in the words of this program, with what to write instead; and nothing waits
//! for ever.

#![cfg(feature = "hub")]
#![allow(clippy::unwrap_used, reason = "a panic here is the failure message of a test")]

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Output};

use bellwire_testkit::Program;

fn bellwire(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bellwire"));
    command.args(args).env("BELLWIRE_HUB", "http://127.0.0.1:1").env("NO_PROXY", "127.0.0.1");
    command
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// `number would be zero for non-zero type`, and `unexpected argument '-1' found`.
#[test]
fn a_bad_value_is_answered_by_what_the_option_takes() {
    for (args, message) in [
        (&["commands", "-n", "0"][..], "a whole number, 1 or more"),
        (&["commands", "-n", "-5"], "a whole number, 1 or more"),
        (&["commands", "--limit=x"], "a whole number, 1 or more"),
        (&["send", "k", "a", "--at", "-10m"], "10m or +10m"),
        (&["commands", "--since", "-10m"], "10m or +10m"),
        (&["commands", "--since", "yesterday"], "10m or +10m"),
        (&["send", "k", "a", "--ttl", "-5m"], "90, 90s, 15m"),
        (&["send", "k", "a", "--wait", "-1"], "90, 90s, 15m"),
        (&["agent", "on", "a", "--timeout", "-1m", "--", "true"], "90, 90s, 15m"),
    ] {
        let refused = bellwire(args).output().unwrap();
        let text = stderr(&refused);
        assert_eq!(refused.status.code(), Some(2), "{args:?}: {text}");
        assert!(text.contains(message), "{args:?}: {text}");
        assert!(!text.contains("non-zero type") && !text.contains("unexpected arg"), "{text}");
    }
    // What looks like an option is not a value.
    let slip = bellwire(&["send", "k", "a", "--idempotency-key", "--dry-ran"]).output().unwrap();
    assert!(stderr(&slip).contains("--dry-ran"), "{slip:?}");
    assert_eq!(slip.status.code(), Some(2));
}

/// It was refused: only times with a zone were known.
#[test]
fn a_time_without_a_zone_is_local() {
    let folder = tempfile::tempdir().unwrap();
    let program = env!("CARGO_BIN_EXE_bellwire");
    let (_hub, address) = Program::serve_anywhere(program, &folder.path().join("hub"));
    let url = format!("http://{address}");
    let send = |at: &str| {
        let mut command = bellwire(&["send", "k", "a", "--hub", &url, "--at", at]);
        command.env("TZ", "UTC-2").output().unwrap()
    };
    for at in ["2126-01-01T10:00:00", "2126-01-01 10:00"] {
        let sent = send(at);
        assert!(stderr(&sent).contains("2126-01-01T08:00:00.000Z"), "{at}: {sent:?}");
    }
    assert!(stderr(&send("2126-02-30T10:00")).contains("there is no such time"));
}

/// It waited as long as the other process held the lock.
#[test]
fn a_lock_of_the_contexts_that_is_not_released_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let contexts = folder.path().join("bellwire");
    fs::create_dir(&contexts).unwrap();
    let held = File::create(contexts.join("contexts.lock")).unwrap();
    held.lock().unwrap();
    let add = || {
        bellwire(&["context", "add", "prod", "http://hub.example.com"])
            .env("XDG_CONFIG_HOME", folder.path())
            .output()
            .unwrap()
    };
    let refused = add();
    let text = stderr(&refused);
    assert_eq!(refused.status.code(), Some(1), "{text}");
    assert!(text.contains("contexts.lock") && text.contains("fuser"), "{text}");
    assert!(!Path::new(&contexts.join("contexts.toml")).exists());
    drop(held);
    assert_eq!(add().status.code(), Some(0));
}
