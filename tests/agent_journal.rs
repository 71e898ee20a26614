//! Promise: an agent whose journal is damaged says so and exits, and the remedy that it names works:
//! `bellwire agent journal show` shows what can be read, `bellwire agent journal repair` repairs it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message of a test"
)]

use std::path::PathBuf;
use std::process::Command;

use bellwire_testkit::{Program, wait_until};
use serde_json::Value;

const BELLWIRE: &str = env!("CARGO_BIN_EXE_bellwire");

/// An agent without a hub, in a directory of its own.
struct Device {
    folder: tempfile::TempDir,
}

impl Device {
    /// With a journal that contains one start of the agent.
    fn new() -> Self {
        let device = Self { folder: tempfile::tempdir().unwrap() };
        let state = device.folder.path().join("state");
        // Nothing listens on port 1.
        let text = format!(
            "hub = \"http://127.0.0.1:1\"\ndevice = \"kiosk\"\nstate_dir = {state:?}\n\
             [actions.ping]\nrun = [\"/bin/echo\"]\n"
        );
        std::fs::write(device.folder.path().join("agent.toml"), text).unwrap();
        let agent = Program::start(&mut device.bellwire(&["agent", "run"]));
        wait_until("a record in the journal", || {
            let lines = std::fs::read(device.journal()).unwrap_or_default();
            let count = lines.iter().filter(|byte| **byte == b'\n').count();
            if count == 2 { Ok(()) } else { Err(format!("{count} lines")) }
        });
        agent.kill();
        device
    }

    fn journal(&self) -> PathBuf {
        self.folder.path().join("state/journal")
    }

    fn bellwire(&self, args: &[&str]) -> Command {
        let mut command = Command::new(BELLWIRE);
        command.args(args).arg("--config").arg(self.folder.path().join("agent.toml"));
        command.env_remove("NOTIFY_SOCKET");
        command
    }

    /// Runs a command: exit code, standard output and standard error.
    fn run_command(&self, args: &[&str]) -> (i32, String, String) {
        let output = self.bellwire(args).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    fn runs(&self) {
        let agent = Program::start(&mut self.bellwire(&["agent", "run"]));
        agent.wait_for("ready");
    }
}

#[test]
fn an_empty_journal_stops_the_agent_until_it_is_repaired() {
    let device = Device::new();
    std::fs::write(device.journal(), "").unwrap();
    let (code, _, run) = device.run_command(&["agent", "run"]);
    assert_eq!(code, 1, "{run}");
    assert!(run.contains("`bellwire agent journal repair`"), "{run}");
    let (code, parts, show) = device.run_command(&["agent", "journal", "show"]);
    assert_eq!((code, parts.as_str()), (1, ""), "{show}");
    assert!(show.contains("lost its first line"), "{show}");
    let (code, repaired, why) = device.run_command(&["agent", "journal", "repair"]);
    assert_eq!((code, repaired.as_str()), (0, "0 records retained, 0 lines dropped\n"), "{why}");
    assert!(why.contains("journal.damaged"), "{why}");
    device.runs();
}

#[test]
fn a_damaged_journal_is_shown_as_json_and_repaired() {
    let device = Device::new();
    let mut bytes = std::fs::read(device.journal()).unwrap();
    let head_bytes = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    bytes[20] ^= 1;
    std::fs::write(device.journal(), &bytes).unwrap();
    assert_eq!(device.run_command(&["agent", "run"]).0, 1);
    let (code, parts, why) = device.run_command(&["agent", "journal", "show", "--json"]);
    assert_eq!(code, 1, "{why}");
    let parts: Vec<Value> = parts.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(parts.len(), 2, "{parts:?}");
    assert_eq!(parts[0]["damaged"], serde_json::json!({"at": 0, "bytes": head_bytes}));
    assert_eq!(parts[1]["begun"]["start"], 1);
    let (code, repaired, why) = device.run_command(&["agent", "journal", "repair", "--json"]);
    assert_eq!(code, 0, "{why}");
    let repaired: Value = serde_json::from_str(&repaired).unwrap();
    assert_eq!((&repaired["records_retained"], &repaired["lines_dropped"]), (&1.into(), &1.into()));
    assert_eq!(std::fs::read(repaired["copy"].as_str().unwrap()).unwrap(), bytes);
    device.runs();
    let (code, parts, _) = device.run_command(&["agent", "journal", "show"]);
    assert_eq!(code, 0, "{parts}");
    let (code, nothing, _) = device.run_command(&["agent", "journal", "repair"]);
    assert_eq!(code, 0);
    assert!(nothing.starts_with("nothing to repair"), "{nothing}");
}
