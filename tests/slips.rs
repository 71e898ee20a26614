//! A slip of the operator's hand runs no command: what `bellwire send` and `listen` make of a flag that does not exist, a
//! name that is misspelt, JSON that is broken, and a folder that cannot be used.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message of a test"
)]

use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};

use bellwire_testkit::{Http, Program, runs, wait_until};
use serde_json::Value;

const BELLWIRE: &str = env!("CARGO_BIN_EXE_bellwire");

/// What `listen --save-dir` writes.
const SAVED: &str = r#"{"device":"k-1","command":{"id":"0190f3c4-8d1e-7c3a-9b2f-5a6d7e8f9012","seq":1,"action":"ping","data":null,
"attempt":1,"created_at":"2026-01-31T12:00:00.000Z","expires_at":"2026-01-31T13:00:00.000Z","ttl_s":60,"run_timeout_s":60}}"#;

/// A hub on a folder of its own.
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

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(BELLWIRE);
        command.args(args).env("BELLWIRE_HUB", format!("http://{}", self.address));
        command.env("NO_PROXY", "127.0.0.1");
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args).output().unwrap())
    }

    /// Starts `bellwire listen` and waits until it is online.
    fn listen(&self, device: &str, args: &[&str]) -> Program {
        let listener = Program::start(&mut self.command(&[&["listen", device], args].concat()));
        listener.wait_for("listening as");
        listener
    }

    fn get(&self, path: &str) -> Value {
        Http(self.address).get(path).unwrap().json()
    }

    /// The data of every command, the newest first.
    fn sent(&self) -> Vec<Value> {
        let commands = self.get("/v1/commands");
        commands["items"].as_array().unwrap().iter().map(|c| c["data"].clone()).collect()
    }

    fn file(&self, name: &str, content: &[u8]) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

/// What a program printed, and its exit code.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// `bellwire send k-1 reboot --dry-run` rebooted: the flag that does not exist was the data.
#[test]
fn an_unknown_flag_is_never_sent_as_data() {
    let hub = Hub::start();
    for slip in ["--simulate", "-n", "-nv", "-hello", "--wat=30s", "--token=secret", "--note=a b"] {
        for args in [&["send", "k-1", "reboot", slip][..], &["send", "k-1", "reboot", "now", slip]]
        {
            let refused = hub.run(args);
            assert_eq!((refused.code, refused.stdout.as_str()), (Some(2), ""), "{refused:?}");
            assert!(refused.stderr.contains("unexpected argument '-"), "{refused:?}");
        }
    }
    assert!(hub.run(&["send", "k-1", "reboot", "--simulate"]).stderr.contains("-- --simulate"));
    // It exists by now, for many.
    assert_eq!(hub.run(&["send", "k-1", "reboot", "--dry-run"]).code, Some(2));
    assert_eq!(hub.sent(), Vec::<Value>::new());
}

#[test]
fn data_with_a_minus_sign_is_a_number_a_text_with_a_blank_or_behind_two_of_them() {
    let hub = Hub::start();
    let cases = [
        (&["-5"][..], Value::from(-5)),
        (&["-0.5", "--ttl", "1h"], Value::from(-0.5)),
        (&["-5 dB"], "-5 dB".into()),
        (&["- milk", "--json"], "- milk".into()),
        (&["--", "--dry-run"], "--dry-run".into()),
        (&["--ttl", "1h30m", "--", "-n"], "-n".into()),
    ];
    for (args, data) in cases {
        let sent = hub.run(&[&["send", "k-1", "note"], args].concat());
        assert_eq!(sent.code, Some(0), "{args:?}: {sent:?}");
        assert_eq!(hub.sent()[0], data, "{args:?}");
    }
    let piped = hub.command(&["send", "k-1", "note", "-"]).stdin(Stdio::null()).output().unwrap();
    assert!(piped.status.success(), "a minus sign alone is standard input: {piped:?}");
    assert_eq!(hub.sent()[0], Value::from(""));
}

#[test]
fn the_program_after_exec_is_no_option() {
    let hub = Hub::start();
    let saved = hub.file("saved.json", SAVED.as_bytes());
    assert_eq!(hub.run(&["replay", &saved, "--exec", "/bin/true"]).code, Some(0));
    for args in [&["listen", "k-1"], &["replay", saved.as_str()]] {
        let refused = hub.run(&[args, &["--exec", "--save-dir", "x"][..]].concat());
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(refused.stderr.contains("--save-dir looks like an option"), "{refused:?}");
        let refused = hub.run(&[args, &["--exce", "/bin/true"][..]].concat());
        assert_eq!(refused.code, Some(2), "{refused:?}");
        let missing = hub.run(&[args, &["--exec", "/no/such/program"][..]].concat());
        assert_eq!(missing.code, Some(2), "{missing:?}");
    }
}

/// `1h30m` was refused.
#[test]
fn a_duration_may_have_several_units_wherever_one_is_read() {
    let hub = Hub::start();
    let sent = hub.run(&["send", "k-1", "x", "--run-timeout", "1h30m", "--ttl", "1d12h"]);
    assert_eq!(sent.code, Some(0), "{sent:?}");
    let posted = Http(hub.address).request("POST", "/v1/send/k-1/x?ttl=1m30s", &[], b"").unwrap();
    assert_eq!(posted.status, 202, "{posted:?}");
    let settings = hub.file("hub.toml", b"lease = \"1m30s\"\n");
    let checked = hub.run(&["config", "check", "--config", &settings]);
    assert!(checked.stdout.contains("lease = \"1m30s\""), "{checked:?}");
    let agent = "hub = \"http://h.example\"\ndevice = \"k\"\nstate_dir = \"/s\"\n\
                 [actions.x]\nrun = [\"/bin/true\"]\ntimeout = \"1h30m\"\n";
    let agent = hub.file("agent.toml", agent.as_bytes());
    let checked = hub.run(&["agent", "check", "--config", &agent]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
}

/// A misspelt name made a device in silence, with exit code 0.
#[test]
fn a_device_that_was_never_seen_is_reported_with_the_way_back() {
    let hub = Hub::start();
    for options in [&[][..], &["--json"], &["--wait", "1s"], &["--wait", "1s", "--json"]] {
        let sent = hub.run(&[&["send", "kisok", "ping"], options].concat());
        assert!(sent.stderr.contains("kisok has never connected"), "{options:?}: {sent:?}");
        let (_, undo) = sent.stderr.split_once("undo it with: bellwire ").unwrap();
        let undo: Vec<&str> = undo.lines().next().unwrap().split(' ').collect();
        assert_eq!(hub.run(&undo).code, Some(0), "{options:?}: {undo:?}");
        let last = &hub.get("/v1/commands")["items"][0];
        assert_eq!(last["counts"]["cancelled"], 1, "{options:?}: {last:?}");
        assert_eq!(hub.get("/v1/devices")["items"], serde_json::json!([]), "the name is gone too");
    }
    // One that an operator has registered is not to be removed.
    let put = Http(hub.address).request("PUT", "/v1/devices/kiosk-8", &[], b"{\"labels\":{}}");
    assert_eq!(put.unwrap().status, 201);
    let sent = hub.run(&["send", "kiosk-8", "ping"]);
    assert!(sent.stderr.contains("undo it with: bellwire cancel "), "{sent:?}");
    let _listener = hub.listen("kiosk", &["--exec", "/bin/true"]);
    let sent = hub.run(&["send", "kiosk", "ping"]);
    assert!(!sent.stderr.contains("never"), "{sent:?}");
}

#[test]
fn with_known_nothing_is_sent_to_a_device_that_was_never_seen() {
    let hub = Hub::start();
    let refused = hub.run(&["send", "kisok", "ping", "--known"]);
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""), "{refused:?}");
    assert!(refused.stderr.contains("bellwire devices"), "the next step: {refused:?}");
    assert_eq!(hub.get("/v1/devices")["items"], serde_json::json!([]), "none is created");

    // One that an earlier slip has created is no better known.
    assert_eq!(hub.run(&["send", "kisok", "ping"]).code, Some(0));
    assert_eq!(hub.run(&["send", "kisok", "ping", "--known"]).code, Some(1));
    assert_eq!(hub.sent().len(), 1);

    drop(hub.listen("kiosk", &["--exec", "/bin/true"]));
    let sent = hub.run(&["send", "kiosk", "ping", "--known"]);
    assert_eq!(sent.code, Some(0), "seen is enough, online or not: {sent:?}");
}

/// Broken JSON was sent as text in silence.
#[test]
fn what_begins_like_json_and_is_not_is_sent_only_as_text() {
    let hub = Hub::start();
    for broken in [r#"{"a":1}extra"#, " [1,2", r#""half"#, r#"{'a':1}"#, r#""\ud800""#] {
        let refused = hub.run(&["send", "k-1", "x", broken]);
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(refused.stderr.contains("--type text"), "{refused:?}");
        let text = hub.run(&["send", "k-1", "x", broken, "--type", "text"]);
        assert_eq!(text.code, Some(0), "{text:?}");
        assert_eq!(hub.sent()[0], broken);
    }
    assert_eq!(hub.run(&["send", "k-1", "x", "hello {"]).code, Some(0), "no usual text is refused");
    let file = hub.file("broken.json", b"{\"a\":");
    assert_eq!(hub.run(&["send", "k-1", "x", "--data-file", &file]).code, Some(2));
}

/// "the data is a lone surrogate at byte 1 is not text", and the same of a body.
#[test]
fn the_message_about_half_a_surrogate_pair_is_a_sentence() {
    let hub = Hub::start();
    let refused = hub.run(&["send", "k-1", "x", r#""\ud800""#, "--type", "json"]);
    let expected = "error: the data is not JSON: a lone surrogate at byte 1\n";
    assert_eq!((refused.code, refused.stderr.as_str()), (Some(2), expected));
    let posted = Http(hub.address).post_json("/v1/send/k-1/x", r#""\ud800""#).unwrap();
    assert_eq!(posted.json()["detail"], "the body is not JSON: a lone surrogate at byte 1");
}

/// A JSON file with a byte order mark was sent as text.
#[test]
fn a_byte_order_mark_before_json_is_left_out() {
    let hub = Hub::start();
    let file = hub.file("bom.json", b"\xef\xbb\xbf{\"a\":1}");
    for kind in ["auto", "json"] {
        let sent = hub.run(&["send", "k-1", "x", "--data-file", &file, "--type", kind]);
        assert!(sent.stderr.contains("byte order mark"), "{sent:?}");
        assert_eq!(hub.sent()[0], serde_json::json!({"a": 1}), "{kind}");
    }
    hub.run(&["send", "k-1", "x", "--data-file", &file, "--type", "text"]);
    assert_eq!(hub.sent()[0], "\u{feff}{\"a\":1}");
    let broken = hub.file("broken.json", b"\xef\xbb\xbf{\"a\":");
    assert_eq!(hub.run(&["send", "k-1", "x", "--data-file", &broken]).code, Some(2));
}

/// `listen --exec` let a program run for ever, whatever the sender had said.
#[test]
fn listen_ends_a_program_and_what_it_started_at_the_run_timeout() {
    let hub = Hub::start();
    let pid_file = hub.file("pid", b"");
    let script = format!("sleep 1000 & echo $! > {pid_file}; wait");
    let _listener = hub.listen("kiosk", &["--exec", "/bin/sh", "-c", &script]);
    let sent = hub.run(&["send", "kiosk", "nap", "--run-timeout", "1s", "--wait", "1m", "--json"]);
    let delivery = sent.json();
    assert_eq!(
        (sent.code, &delivery["state"], &delivery["error"]["code"]),
        (Some(1), &"failed".into(), &"timeout".into()),
        "{sent:?}"
    );
    let pid = std::fs::read_to_string(&pid_file).unwrap();
    wait_until("what the program started to end", || {
        if runs(pid.trim()) { Err(pid.clone()) } else { Ok(()) }
    });
}

/// That nothing could be saved was reported at the first command.
#[test]
fn a_folder_that_cannot_be_used_is_reported_at_the_start() {
    let hub = Hub::start();
    let file = hub.file("file", b"");
    for folder in [file.clone(), format!("{file}/below")] {
        let refused = hub.run(&["listen", "kiosk", "--save-dir", &folder]);
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(refused.stderr.contains("--save-dir") && refused.stderr.contains(&folder));
    }
    assert_eq!(hub.get("/v1/devices")["items"], serde_json::json!([]), "it has not listened");
}

#[test]
fn a_file_that_listen_saved_has_the_name_of_the_manual() {
    let help = Ran::of(Command::new(BELLWIRE).args(["listen", "--help"]).output().unwrap());
    assert!(help.stdout.contains("SEQ-ACTION-ID.json"), "{help:?}");
    let hub = Hub::start();
    let folder = hub.folder.path().join("commands");
    let _listener = hub.listen("kiosk", &["--save-dir", folder.to_str().unwrap()]);
    let sent = hub.run(&["send", "kiosk", "deploy", "--wait", "1m", "--json"]).json();
    let name = format!("{}-deploy-{}.json", sent["seq"], sent["command"].as_str().unwrap());
    let names: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, [name.as_str()], "and nothing of the probe is left");
}
