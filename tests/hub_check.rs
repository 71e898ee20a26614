//! Promise: `config check` and `serve` agree about the data folder, by the same words and the same exit code, and a check
//! changes nothing; with `--json` the errors of both are for machines.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message of a test"
)]

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Output};

use bellwire_testkit::Program;
use serde_json::Value;

const BELLWIRE: &str = env!("CARGO_BIN_EXE_bellwire");

fn command(args: &[&str], data_dir: &Path) -> Command {
    let mut command = Command::new(BELLWIRE);
    command.args(args).args(["--listen", "127.0.0.1:0", "--data-dir"]).arg(data_dir);
    command
}

/// The exit code, and what is on standard error.
fn ended(output: &Output) -> (i32, String) {
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    (output.status.code().unwrap_or_else(|| panic!("killed: {output:?}")), text)
}

/// Everything of a folder that a check could change.
fn listed(folder: &Path) -> Vec<String> {
    let mut entries: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .flat_map(|entry| {
            let entry = entry.unwrap();
            let found = entry.metadata().unwrap();
            let line = format!("{:?} {found:?}", entry.path());
            let below = if found.is_dir() { listed(&entry.path()) } else { Vec::new() };
            // When something was last read is no change.
            let without = line.split("accessed:").next().unwrap_or_default().to_owned();
            std::iter::once(without).chain(below)
        })
        .collect();
    entries.sort();
    entries
}

/// Runs both; they must refuse with this code and say this, and the check must change nothing in `folder`.
fn both_refuse(folder: &Path, data_dir: &Path, reason: &str, wrap: impl Fn(Command) -> Command) {
    let before = listed(folder);
    let checked = ended(&wrap(command(&["config", "check"], data_dir)).output().unwrap());
    assert_eq!(listed(folder), before, "the check changed something");
    let (code, text) = &checked;
    assert!(*code == 1 && text.contains(reason), "{data_dir:?}, {reason}: {code} {text}");
    let served = ended(&wrap(command(&["serve"], data_dir)).output().unwrap());
    assert_eq!(served, checked, "of {data_dir:?}");
}

/// The check said ok, or another code than `serve`.
#[test]
fn a_data_folder_that_cannot_be_made_or_written_is_refused_by_both() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    fs::write(here.join("file"), "").unwrap();
    std::os::unix::fs::symlink("nowhere", here.join("link")).unwrap();
    for name in ["lock", "bellwire.db"] {
        fs::create_dir_all(here.join(format!("with a folder {name}")).join(name)).unwrap();
    }
    for (data_dir, reason) in [
        ("file", "move it away"),
        ("file/hub", "move it away"),
        ("link", "link to something that is not there"),
        ("with a folder lock", "move it away"),
        ("with a folder bellwire.db", "move it away"),
        ("/proc/bellwire/hub", "file system of the kernel"),
    ] {
        both_refuse(here, &here.join(data_dir), reason, |command| command);
    }
    let name = "x".repeat(300);
    both_refuse(here, &here.join(name), "set data_dir to a folder", |command| command);
}

#[test]
fn a_data_folder_without_the_right_to_write_is_refused_by_both() {
    // There this process is a user without rights of its own.
    let mut probe = Command::new("unshare");
    if !probe.args(["--user", "true"]).output().is_ok_and(|output| output.status.success()) {
        assert!(std::env::var_os("CI").is_none(), "no user namespace may be made here");
        eprintln!("no user namespace may be made here: nothing was tested");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let set = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    let (closed, open) = (folder.path().join("closed"), folder.path().join("open"));
    fs::create_dir(&closed).unwrap();
    fs::create_dir(&open).unwrap();
    fs::write(open.join("bellwire.db"), "").unwrap();
    set(&closed, 0o555);
    set(&open.join("bellwire.db"), 0o444);
    let unprivileged = |command: Command| {
        let mut unshare = Command::new("unshare");
        unshare.args(["--user", BELLWIRE]).args(command.get_args());
        unshare
    };
    for data_dir in [closed.clone(), closed.join("hub"), open] {
        both_refuse(folder.path(), &data_dir, "let the hub's account own it", unprivileged);
    }
    set(&closed, 0o755);
}

/// The database of another program, or of a newer one, was found by `serve` alone.
#[test]
fn a_database_that_is_foreign_or_newer_is_refused_by_both() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("hub");
    let hub = Program::start(&mut command(&["serve"], &data_dir));
    hub.wait_for("ready;");
    hub.terminate();
    let checked = command(&["config", "check"], &data_dir).output().unwrap();
    assert_eq!(ended(&checked), (0, String::new()), "its own");
    // The header of the file ("Database File Format" of SQLite, section 1.3).
    let (user_version, application_id) = (60, 68);
    let database = OpenOptions::new().write(true).open(data_dir.join("bellwire.db")).unwrap();
    database.write_all_at(&99_u32.to_be_bytes(), user_version).unwrap();
    both_refuse(folder.path(), &data_dir, "schema version 99", |command| command);
    database.write_all_at(&7_u32.to_be_bytes(), application_id).unwrap();
    both_refuse(folder.path(), &data_dir, "not a database of Bellwire", |command| command);
    fs::write(data_dir.join("bellwire.db"), "of something else\n").unwrap();
    both_refuse(folder.path(), &data_dir, "not a database of Bellwire", |command| command);
}

#[test]
fn a_hub_that_runs_with_the_folder_is_a_warning_of_the_check_and_stops_a_second_hub() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("hub");
    let hub = Program::start(&mut command(&["serve"], &data_dir));
    hub.wait_for("ready;");
    let checked = command(&["config", "check"], &data_dir).output().unwrap();
    let (code, text) = ended(&checked);
    assert!(code == 0 && text.contains("warning") && text.contains("is in use"), "{code} {text}");
    let checked = command(&["config", "check", "--json"], &data_dir).output().unwrap();
    let printed: Value = serde_json::from_slice(&checked.stdout).unwrap();
    assert!(printed["ok"] == true && printed["warnings"][0].as_str().unwrap().contains("in use"));
    let (code, text) = ended(&command(&["serve"], &data_dir).output().unwrap());
    assert!(code == 1 && text.contains("is in use by another hub"), "{code} {text}");
    // A check that looks at the lock does not stop a hub that starts.
    hub.terminate();
    let lock = File::open(data_dir.join("lock")).unwrap();
    assert!(lock.try_lock_shared().is_ok(), "the check left the lock alone");
}

/// They were lines for people.
#[test]
fn with_json_an_error_at_the_start_of_a_hub_is_for_machines() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let exposed = ["serve", "--json", "--listen", "0.0.0.0:0"];
    for (args, data_dir, code, status) in
        [(&exposed[..], "hub", "usage", 2), (&["serve", "--json"], "file", "failed", 1)]
    {
        let refused = command(args, &folder.path().join(data_dir)).output().unwrap();
        assert_eq!(refused.status.code(), Some(status), "{refused:?}");
        let error: Value = serde_json::from_slice(&refused.stderr).unwrap();
        let error = &error["error"];
        assert_eq!((&error["code"], &error["exit_code"]), (&code.into(), &status.into()));
        assert!(!error["message"].as_str().unwrap().is_empty(), "{error}");
    }
}
