//! Commands to many from the command line, and their rollouts: against a real hub, whose appliances report by plain HTTP.
#![cfg(feature = "hub")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message of a test"
)]

use std::net::SocketAddr;
use std::process::Output;

use bellwire_testkit::{CTRL_C, Http, Program, Terminal, command, wait_until};
use serde_json::{Value, json};

const BELLWIRE: &str = env!("CARGO_BIN_EXE_bellwire");

struct Hub {
    _folder: tempfile::TempDir,
    _program: Program,
    address: SocketAddr,
}

/// a and b are in lyon, c is the canary.
fn fleet() -> Hub {
    let folder = tempfile::tempdir().unwrap();
    let (program, address) = Program::serve_anywhere(BELLWIRE, &folder.path().join("hub"));
    let hub = Hub { _folder: folder, _program: program, address };
    for (device, labels) in [
        ("a", json!({"site": "lyon"})),
        ("b", json!({"site": "lyon"})),
        ("c", json!({"role": "canary"})),
    ] {
        hub.post("PUT", &format!("/v1/devices/{device}"), &json!({"labels": labels}));
    }
    hub
}

impl Hub {
    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn post(&self, method: &str, path: &str, body: &Value) {
        let body = body.to_string();
        let answer = Http(self.address).request(method, path, &[], body.as_bytes()).unwrap();
        assert!(answer.status < 300, "{path}: {answer:?}");
    }

    fn get(&self, path: &str) -> Value {
        Http(self.address).get(path).unwrap().json()
    }

    fn run(&self, args: &[&str]) -> Output {
        command(BELLWIRE, args).env("BELLWIRE_HUB", self.url()).output().unwrap()
    }

    fn start(&self, args: &[&str]) -> Program {
        Program::start(command(BELLWIRE, args).env("BELLWIRE_HUB", self.url()))
    }

    fn on_terminal(&self, args: &[&str]) -> Terminal {
        Terminal::start(BELLWIRE, args, &[("BELLWIRE_HUB", &self.url())])
    }

    fn commands(&self) -> Vec<Value> {
        self.get("/v1/commands")["items"].as_array().unwrap().clone()
    }

    /// The newest command, once there is one.
    fn newest(&self) -> Value {
        wait_until("a command", || self.commands().into_iter().next().ok_or("none yet"))
    }

    /// The devices of a command that have begun, with their states.
    fn deliveries(&self, id: &str) -> Vec<String> {
        let page = self.get(&format!("/v1/commands/{id}/deliveries"));
        let items = page["items"].as_array().unwrap().iter();
        let text = |d: &Value, name: &str| d[name].as_str().unwrap().to_owned();
        items.map(|d| format!("{} {}", text(d, "device"), text(d, "state"))).collect()
    }

    /// A device reports, as soon as it has the delivery.
    fn report(&self, id: &str, device: &str, report: &Value) {
        let begun = format!("{device} queued");
        wait_until(&begun, || {
            let deliveries = self.deliveries(id);
            if deliveries.contains(&begun) { Ok(()) } else { Err(format!("{deliveries:?}")) }
        });
        self.post("POST", &format!("/v1/devices/{device}/commands/{id}/status"), report);
    }
}

fn id_of(command: &Value) -> String {
    command["id"].as_str().unwrap().to_owned()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("killed: {output:?}"))
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn how_many_match_is_shown_first_and_nothing_is_sent_without_a_yes() {
    let hub = fleet();
    let lyon = |args: &[&str]| hub.run(&[&["send", "-l", "site=lyon", "ping"], args].concat());
    let unasked = lyon(&[]);
    assert_eq!(code(&unasked), 2, "{unasked:?}");
    let output = stderr(&unasked);
    assert!(
        output.contains("2 appliances, 0 of them online") && output.contains("--yes"),
        "{output}"
    );
    let listed = lyon(&["--dry-run"]);
    assert_eq!((code(&listed), stdout(&listed).as_str()), (0, "a  site=lyon\nb  site=lyon\n"));
    let none = hub.run(&["send", "-l", "site=mars", "ping", "--yes"]);
    assert_eq!(code(&none), 1, "{none:?}");
    assert!(stderr(&none).contains("no appliance matches"), "{none:?}");
    assert!(hub.commands().is_empty(), "nothing was to be sent");

    let sent = lyon(&[r#"{"n":1}"#, "--yes", "--json"]);
    assert_eq!(code(&sent), 0, "{sent:?}");
    let sent: Value = serde_json::from_slice(&sent.stdout).unwrap();
    assert_eq!((&sent["total"], &sent["select"]), (&json!(2), &json!("site=lyon")));
    assert_eq!(hub.get(&format!("/v1/commands/{}", id_of(&sent)))["data"], json!({"n": 1}));
    let all = hub.run(&["send", "--all", "ping", "-y"]);
    assert_eq!(code(&all), 0, "{all:?}");
    assert_eq!(hub.newest()["total"], 3);
}

#[test]
fn on_a_terminal_it_is_asked_whether_to_send() {
    let hub = fleet();
    for (answer, ended, commands) in [("\n", 1, 0), ("n\n", 1, 0), ("y\n", 0, 1)] {
        let mut terminal = hub.on_terminal(&["send", "--all", "ping"]);
        terminal.shows("ping will be sent to 3 appliances");
        terminal.shows("[y/N]");
        assert!(hub.commands().is_empty());
        terminal.types(answer);
        let (code, screen) = terminal.ends();
        assert_eq!((code, hub.commands().len()), (ended, commands), "{answer:?}: {screen}");
    }
}

#[test]
fn at_the_end_there_is_a_table_of_what_failed_and_the_code_of_the_worst() {
    let hub = fleet();
    let sending = hub.start(&["send", "--all", "update", "--yes", "--wait"]);
    let id = id_of(&hub.newest());
    hub.report(&id, "a", &json!({"state": "succeeded"}));
    let output = "unpacking\nno space left on device\n\n";
    let failed = json!({"state": "failed", "exit_code": 3, "stderr": output});
    hub.report(&id, "b", &failed);
    let unknown = json!({"code": "unknown_action", "message": null});
    hub.report(&id, "c", &json!({"state": "rejected", "error": unknown}));
    sending.wait_for("done: ");
    let output = sending.output();
    let line = |part: &str| output.lines().find(|line| line.contains(part)).map(str::to_owned);
    let (b, c) = (line("no space left").unwrap(), line("unknown_action").unwrap());
    assert!(b.starts_with("b ") && b.contains("failed") && b.contains(" 3 "), "{output}");
    assert!(c.starts_with("c ") && c.contains("rejected"), "{output}");
    assert!(line("unpacking").is_none(), "the last line alone: {output}");
    assert_eq!(sending.wait().code(), Some(1), "failed is worse than rejected");

    let results = hub.run(&["results", &id, "--failed", "--csv"]);
    let rows: Vec<String> = stdout(&results).lines().map(str::to_owned).collect();
    assert_eq!((code(&results), rows[0].starts_with("device,state,")), (0, true), "{rows:?}");
    assert!(rows[1].starts_with("b,failed,") && !rows.iter().any(|row| row.starts_with("a,")));
    let retry = hub.run(&["retry", &id, "--state", "failed", "--json"]);
    let retry: Value = serde_json::from_slice(&retry.stdout).unwrap();
    assert_eq!((&retry["total"], &retry["parent"]), (&json!(1), &json!(id)));
}

#[test]
fn a_wait_that_elapses_ends_with_the_code_of_what_has_not_ended() {
    let hub = fleet();
    let waited = hub.run(&["send", "--all", "ping", "--yes", "--wait", "1s"]);
    assert_eq!(code(&waited), 4, "{waited:?}");
    assert!(stderr(&waited).contains("bellwire watch"), "{waited:?}");
}

#[test]
fn a_rollout_begins_with_its_canary_and_is_aborted_by_failures() {
    let hub = fleet();
    let rollout = ["--batch", "1", "--canary", "role=canary", "--abort", "50%"];
    let sending =
        hub.start(&[&["send", "--all", "update", "--yes", "--wait"][..], &rollout].concat());
    let id = id_of(&hub.newest());
    hub.report(&id, "c", &json!({"state": "failed", "stdout": "broken"}));
    sending.wait_for("aborted");
    sending.wait_for("c                        failed");
    assert_eq!(sending.wait().code(), Some(1));
    let command = hub.get(&format!("/v1/commands/{id}"));
    assert_eq!(command["counts"], json!({"failed": 1, "cancelled": 2}));
}

#[test]
fn ctrl_c_asks_whether_to_leave_it_pause_it_or_abort_it() {
    let hub = fleet();
    let send = ["send", "--all", "update", "--yes", "--wait", "--batch", "1"];
    let mut terminal = hub.on_terminal(&send);
    let id = id_of(&hub.newest());
    let state = |id: &str| hub.get(&format!("/v1/commands/{id}"))["rollout"]["state"].clone();
    // A bar for each state.
    terminal.shows("0/3");
    terminal.types(CTRL_C);
    terminal.shows("[l/p/a/G]");
    terminal.types("p\n");
    let (ended, screen) = terminal.ends();
    assert_eq!((ended, state(&id)), (4, json!("paused")), "{screen}");
    assert!(screen.contains(&format!("bellwire resume {id}")), "{screen}");
    let listed = stdout(&hub.run(&["commands"]));
    assert!(listed.contains("paused, batch 1 of 3"), "{listed}");
    let status = hub.run(&["status", &id]);
    assert!(stdout(&status).contains("rollout paused, batch 1 of 3"), "{status:?}");
    assert!(stderr(&status).contains("2 more have not begun"), "{status:?}");

    assert_eq!(code(&hub.run(&["resume", &id])), 0);
    assert_eq!(state(&id), "running");
    assert_eq!(code(&hub.run(&["pause", &id])), 0);
    let aborted = hub.run(&["abort", &id]);
    assert_eq!((code(&aborted), state(&id)), (0, json!("aborted")));
    assert!(stderr(&aborted).contains(&format!("stop it too with: bellwire cancel {id}")));
    assert_eq!(code(&hub.run(&["resume", &id])), 1, "it has ended");

    // A second Ctrl-C leaves it, and a third is not needed.
    let mut terminal = hub.on_terminal(&["send", "-l", "site=lyon", "update", "--yes", "--wait"]);
    terminal.shows("0/2");
    terminal.types(CTRL_C);
    terminal.shows("[l/a/G]");
    terminal.types(CTRL_C);
    let (ended, screen) = terminal.ends();
    assert_eq!(ended, 4, "{screen}");
    assert!(screen.contains("not ended yet; follow it with: bellwire watch"), "{screen}");

    // Without an intervention it goes on; the client that aborts it sees its end.
    let mut terminal = hub.on_terminal(&send);
    let second = wait_until("a second command", || match hub.commands().as_slice() {
        [second, _, _] => Ok(id_of(second)),
        _ => Err("none yet"),
    });
    terminal.shows("0/3");
    terminal.types(CTRL_C);
    terminal.shows("[l/p/a/G]");
    terminal.types("a\n");
    wait_until("the abort", || match state(&second) {
        state if state == "aborted" => Ok(()),
        state => Err(state),
    });
    hub.report(&second, "a", &json!({"state": "succeeded"}));
    let (ended, screen) = terminal.ends();
    assert_eq!(ended, 1, "two were cancelled: {screen}");
}

#[test]
fn what_does_not_go_together_is_a_mistake_and_sends_nothing() {
    let hub = fleet();
    for (args, part) in [
        (&["k", "ping", "--batch", "1"][..], "--all"),
        (&["k", "ping", "--dry-run"], "--all"),
        (&["--all", "-l", "site=lyon", "ping"], "cannot be used with"),
        (&["--all", "ping", "--batch", "0"], "from 1"),
        (&["--all", "ping", "--batch", "1", "--abort", "120%"], "100%"),
        (&["--all", "ping", "--canary", "role=canary"], "--batch"),
        (&["--all", "ping", "--known"], "cannot be used with"),
        (&["-l", "site=lyon", "two words"], "<ACTION>"),
        (&["-l", "site=", "ping", "hello", "world"], "'hello world'"),
        (&["-l", "", "ping", "--yes"], "--all"),
    ] {
        let refused = hub.run(&[&["send"], args].concat());
        assert_eq!(code(&refused), 2, "{args:?}: {refused:?}");
        assert!(stderr(&refused).contains(part), "{args:?}: {refused:?}");
    }
    assert!(hub.commands().is_empty());
}

/// The name of an appliance beside -l became the action, and the error recommended that.
#[test]
fn the_name_of_an_appliance_is_never_taken_for_the_action() {
    let hub = fleet();
    for args in [
        &["-l", "site=lyon", "a", "update", "2.3", "--yes"][..],
        &["-l", "role=canary", "a", "update", "--yes"],
        &["-l", "site=lyon", "a", "update", "--dry-run"],
        &["--device", "b", "a", "update", "--yes"],
        &["--all", "a", "--yes"],
        &["a", "b", "update"],
        &["a", "b", "update", "2.3"],
    ] {
        let refused = hub.run(&[&["send"], args].concat());
        assert_eq!(code(&refused), 2, "{args:?}: {refused:?}");
        assert!(stderr(&refused).contains(" is an appliance: "), "{args:?}: {refused:?}");
    }
    assert!(hub.commands().is_empty());

    let unquoted = hub.run(&["send", "-l", "site=lyon", "note", "hello", "world"]);
    let hint = "bellwire send -l 'site=lyon' note 'hello world'";
    assert!(stderr(&unquoted).contains(hint), "{unquoted:?}");
    let listed = hub.run(&["send", "-l", "site=lyon", "note", "buy milk", "--dry-run"]);
    assert!(stderr(&listed).contains("note 'buy milk' would be sent to 2 "), "{listed:?}");
    // The words the wrong way round make a device `ping`, which is no appliance.
    assert_eq!(code(&hub.run(&["send", "ping", "a"])), 0);
    assert_eq!(code(&hub.run(&["send", "-l", "site=lyon", "ping", "--yes"])), 0);
}

#[test]
fn several_are_named_one_by_one_and_each_has_a_state_of_its_own() {
    let hub = fleet();
    let comma = hub.run(&["send", "a,b", "update"]);
    assert_eq!(code(&comma), 2, "{comma:?}");
    assert!(stderr(&comma).contains("--device a --device b"), "{comma:?}");
    let named = ["send", "--device", "a", "--device", "b", "update", "2.3"];
    assert_eq!(code(&hub.run(&named)), 2, "it is asked first");
    let listed = hub.run(&["send", "--device", "a", "--device", "typo", "update", "--dry-run"]);
    assert_eq!((code(&listed), stdout(&listed).as_str()), (0, "a  site=lyon\n"));
    assert!(stderr(&listed).contains("typo has never connected"), "{listed:?}");
    assert!(hub.commands().is_empty(), "nothing was to be sent");
    // To one, --yes says nothing; it is no mistake.
    assert_eq!(code(&hub.run(&["send", "c", "ping", "--yes"])), 0);

    let sent = hub.run(&[&named[..], &["--yes", "--json"]].concat());
    let sent: Value = serde_json::from_slice(&sent.stdout).unwrap();
    let id = id_of(&sent);
    assert_eq!((&sent["total"], &sent["data"]), (&json!(2), &json!(2.3)));
    hub.report(&id, "a", &json!({"state": "succeeded"}));
    for (device, state) in [("a", "succeeded (one of 2 devices)"), ("b", "queued (one of 2 ")] {
        for args in [&["commands", "--device", device][..], &["devices", "show", device]] {
            let shown = hub.run(args);
            let line =
                stdout(&shown).lines().find(|line| line.contains("update")).map(str::to_owned);
            assert!(line.is_some_and(|line| line.contains(state)), "{args:?}: {shown:?}");
        }
        let listed = hub.run(&["commands", "--device", device, "--state", "succeeded", "--json"]);
        assert_eq!(stdout(&listed).contains(r#""device":"a","state":"succeeded""#), device == "a");
    }

    // What was cancelled has not failed: `results --failed` shows what `retry` takes.
    assert_eq!(code(&hub.run(&["cancel", &id])), 0);
    let failed = hub.run(&["results", &id, "--failed"]);
    assert_eq!((stdout(&failed).as_str(), stderr(&failed).trim()), ("", "none has failed"));
    assert_eq!(code(&hub.run(&["retry", &id])), 1);
}
