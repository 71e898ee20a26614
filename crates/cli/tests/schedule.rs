//! `bellwire schedule` against a real hub.
#![cfg(feature = "hub")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message of a test"
)]

use std::process::Output;

use bellwire_testkit::{Program, command};
use serde_json::Value;

const BELLWIRE: &str = env!("CARGO_BIN_EXE_bellwire");

/// A hub, and a user's home, on a folder of their own.
struct Hub {
    folder: tempfile::TempDir,
    _program: Program,
    url: String,
}

impl Hub {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (program, address) = Program::serve_anywhere(BELLWIRE, &folder.path().join("hub"));
        Self { folder, _program: program, url: format!("http://{address}") }
    }

    /// The program's exit code, its output and its errors.
    fn bellwire(&self, args: &[&str]) -> (i32, String, String) {
        let mut command = command(BELLWIRE, args);
        command.env("HOME", self.folder.path()).env("BELLWIRE_HUB", &self.url);
        let Output { status, stdout, stderr } = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code().unwrap(), text(stdout), text(stderr))
    }

    /// `bellwire schedule`.
    fn run(&self, args: &[&str]) -> (i32, String, String) {
        self.bellwire(&[&["schedule"], args].concat())
    }

    fn json(&self, args: &[&str]) -> Value {
        let (code, stdout, stderr) = self.run(&[args, &["--json"]].concat());
        assert_eq!(code, 0, "{args:?}: {stderr}");
        serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{e}: {stdout}"))
    }
}

#[test]
fn a_schedule_is_made_with_its_next_three_times_and_then_listed_paused_resumed_and_deleted() {
    let hub = Hub::start();
    let (_, _, empty) = hub.run(&["list"]);
    assert!(empty.contains("schedule create"), "{empty}");
    let create = ["create", "nightly", "0 3 1 1 *", "backup", "-l", "site=lyon,!spare"];
    let (code, stdout, stderr) = hub.run(&[&create[..], &["--timezone", "Europe/Paris"]].concat());
    assert_eq!(code, 0, "{stderr}");
    let next = stdout.lines().find(|line| line.contains("next ")).unwrap();
    // In its own zone, as its expression is.
    assert_eq!(next.matches("-01-01 03:00 CET").count(), 3, "{stdout}");
    assert!(stdout.contains("backup to what matches site=lyon,!spare"), "{stdout}");

    let shown = hub.json(&["show", "nightly"]);
    assert_eq!(shown["timezone"], "Europe/Paris");
    assert_eq!(shown["target"]["select"], "site=lyon,!spare");
    assert!(shown["next_at"].as_str().unwrap().ends_with("-01-01T02:00:00.000Z"), "{shown}");
    let (_, table, _) = hub.run(&["list"]);
    let row = table.lines().nth(1).unwrap();
    assert!(row.starts_with("nightly ") && row.ends_with("-01-01 03:00 CET"), "{table}");

    let (_, paused, _) = hub.run(&["pause", "nightly"]);
    assert!(paused.contains("paused"), "{paused}");
    assert_eq!(hub.json(&["list"])["paused"], true);
    assert_eq!(hub.json(&["resume", shown["id"].as_str().unwrap()])["next_at"], shown["next_at"]);
    assert_eq!(hub.json(&["delete", "nightly"])["deleted"], "nightly");
    let (code, _, stderr) = hub.run(&["show", "nightly"]);
    assert!(code == 1 && stderr.contains("bellwire schedule list"), "{code} {stderr}");
}

#[test]
fn what_is_given_is_what_the_hub_gets() {
    let hub = Hub::start();
    let made = hub.json(&[
        "create",
        "patch",
        "30 2 * * SUN",
        "update",
        r#"{"version":1.50}"#,
        "--device",
        "b",
        "--device",
        "a",
        "--ttl",
        "1d",
        "--run-timeout",
        "10m",
        "--batch",
        "10%",
        "--overlap",
        "queue",
        "--missed",
        "once",
        "--paused",
    ]);
    for (member, value) in [
        ("cron", serde_json::json!("30 2 * * SUN")),
        ("target", serde_json::json!({"devices": ["a", "b"]})),
        ("ttl_s", 86_400.into()),
        ("run_timeout_s", 600.into()),
        ("rollout", serde_json::json!({"batch": "10%"})),
        ("overlap", "queue".into()),
        ("missed", "once".into()),
        ("paused", true.into()),
        ("timezone", "UTC".into()),
    ] {
        assert_eq!(made[member], value, "{member}: {made}");
    }
    let (_, whole, _) = hub.run(&["show", "patch", "--json"]);
    assert!(whole.contains(r#""data":{"version":1.50}"#), "to the digit: {whole}");
    let text = hub.json(&["create", "note", "@daily", "note", "buy milk", "--all"]);
    assert_eq!((&text["data"], &text["target"]["all"]), (&"buy milk".into(), &true.into()));
}

#[test]
fn a_mistake_is_refused_with_what_would_be_right() {
    let hub = Hub::start();
    for (args, code, says) in [
        (&["create", "x", "@daily", "ping"][..], 2, "--all"),
        (&["create", "x", "@daily", "ping", "--all", "-l", "a"], 2, "cannot be used with"),
        (&["create", "x y", "@daily", "ping", "--all"], 2, "named by"),
        (&["create", "x", "@daily", "ping", "{bad", "--all"], 2, "begins like JSON"),
        (&["create", "x", "60 * * * *", "ping", "--all"], 2, "<CRON>: the minute"),
        (
            &["create", "x", "@daily", "ping", "--all", "--timezone", "Paris"],
            2,
            "--timezone is the name of a zone",
        ),
        (&["create", "x", "@daily", "ping", "--all", "--batch", "0%"], 2, "1% to 100%"),
        (&["create", "x", "@daily", "ping", "-", "--all"], 2, "- is not read"),
        (&["delete", "nothing"], 1, "bellwire schedule list"),
    ] {
        let (found, stdout, stderr) = hub.run(args);
        assert!(found == code && stderr.contains(says), "{args:?}: {found} {stdout} {stderr}");
    }
}

#[test]
fn a_command_waits_for_its_maintenance_window_and_says_so() {
    let hub = Hub::start();
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    // Half a day from now.
    let cron = format!("15 {} * * *", (since_1970.as_secs() / 3600 + 12) % 24);
    let send = ["send", "kiosk", "update", "--window", &cron, "--window-for", "30m"];
    let (code, _, stderr) = hub.bellwire(&send);
    assert!(code == 2 && stderr.contains(" or more reaches it (--ttl "), "{code} {stderr}");
    let (code, _, stderr) = hub.bellwire(&[&send[..], &["--ttl", "24h", "--wait"]].concat());
    assert!(code == 2 && stderr.contains("bellwire watch"), "{code} {stderr}");
    let (code, _, stderr) = hub.bellwire(&send[..5]);
    assert!(code == 2 && stderr.contains("--window-for"), "{code} {stderr}");

    let zone = ["--ttl", "24h", "--timezone", "Etc/UTC"];
    let (code, stdout, stderr) = hub.bellwire(&[&send[..], &zone].concat());
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("for its maintenance window, which opens at"), "{stdout} {stderr}");
    let (_, list, _) = hub.bellwire(&["commands", "--json"]);
    let command: Value = serde_json::from_str(list.lines().next().unwrap()).unwrap();
    let window = serde_json::json!({"cron": cron, "minutes": 30, "timezone": "Etc/UTC"});
    assert_eq!(command["window"], window, "{command}");
    let (_, status, _) = hub.bellwire(&["status", command["id"].as_str().unwrap()]);
    assert!(status.contains("maintenance window"), "{status}");

    let plan = ["create", "fix", "0 12 * * *", "update", "--all", "--ttl", "18h"];
    let window = ["--window", "0 2 * * *", "--window-for", "2h", "--timezone", "Europe/Paris"];
    let (code, stdout, stderr) = hub.run(&[&plan[..], &window].concat());
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("window opens at 0 2 * * * (Europe/Paris) for 2 h"), "{stdout}");
}

#[test]
fn a_program_changes_a_schedule_by_a_merge_patch_of_its_plan() {
    let hub = Hub::start();
    hub.json(&["create", "nightly", "0 3 1 1 *", "backup", "--all"]);
    let patch = bellwire_proto::Json::parse(r#"{"cron":"0 4 1 1 *","ttl_s":60}"#).unwrap();
    let controller = bellwire_client::Controller::new(&hub.url).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(controller.change_schedule("nightly", &patch)).unwrap();
    let shown = hub.json(&["show", "nightly"]);
    assert_eq!((&shown["cron"], &shown["ttl_s"]), (&"0 4 1 1 *".into(), &60.into()), "{shown}");
}
