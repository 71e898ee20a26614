//! The registry of appliances from the command line: lists, labels, export and import, against a real hub.
#![cfg(feature = "hub")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message of a test"
)]

use std::fs;
use std::net::SocketAddr;
use std::process::{Output, Stdio};

use bellwire_testkit::{Http, Program, Terminal, command};
use serde_json::{Value, json};

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

    fn run(&self, args: &[&str]) -> Output {
        self.run_with(args, "")
    }

    /// The program with this text as its standard input, which is no terminal.
    fn run_with(&self, args: &[&str], input: &str) -> Output {
        let mut command = command(BELLWIRE, args);
        command.env("HOME", self.folder.path()).env_remove("XDG_CONFIG_HOME");
        command.env("BELLWIRE_HUB", format!("http://{}", self.address));
        let file = self.folder.path().join("input");
        fs::write(&file, input).unwrap();
        command.stdin(Stdio::from(fs::File::open(file).unwrap())).output().unwrap()
    }

    fn register(&self, device: &str, labels: Value, facts: Value) {
        let http = Http(self.address);
        let path = format!("/v1/devices/{device}");
        let put = |path: &str, body: Value| {
            http.request("PUT", path, &[], body.to_string().as_bytes()).unwrap()
        };
        assert_eq!(put(&path, json!({ "labels": labels })).status, 201);
        assert_eq!(put(&format!("{path}/facts"), facts).status, 200);
    }

    fn labels(&self, device: &str) -> Value {
        let shown = self.run(&["devices", "show", device, "--json"]);
        assert_eq!(code(&shown), 0, "{shown:?}");
        serde_json::from_slice::<Value>(&shown.stdout).unwrap()["labels"].clone()
    }
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

/// The names of the lines of an answer.
fn names(output: &Output) -> Vec<String> {
    assert_eq!(code(output), 0, "{output:?}");
    let name = |line: &str| {
        serde_json::from_str::<Value>(line).unwrap()["id"].as_str().unwrap().to_owned()
    };
    stdout(output).lines().map(name).collect()
}

fn fleet() -> Hub {
    let hub = Hub::start();
    hub.register("a", json!({"site": "lyon"}), json!({"os": "linux"}));
    hub.register("b", json!({"site": "lyon", "spare": ""}), json!({"os": "bsd"}));
    hub.register("c", json!({"site": "oslo"}), json!({"os": "linux"}));
    hub
}

#[test]
fn devices_are_listed_by_selector_prefix_and_order_and_an_error_points_at_its_place() {
    let hub = fleet();
    let listed = |args: &[&str]| names(&hub.run(&[&["devices", "--json"], args].concat()));
    assert_eq!(listed(&["-l", "site=lyon,!spare"]), ["a"]);
    assert_eq!(listed(&["-l", "facts.os=linux", "--sort=-id"]), ["c", "a"]);
    assert_eq!(listed(&["--prefix", "b"]), ["b"]);
    assert_eq!(listed(&["--offline", "--sort", "queued"]), ["a", "b", "c"]);
    assert_eq!(listed(&["--unseen", "7d"]), [""; 0]);
    let wide = hub.run(&["devices", "--wide", "--prefix", "b"]);
    assert!(stdout(&wide).contains(r#"{"os":"bsd"}"#), "{wide:?}");
    let refused = hub.run(&["devices", "-l", "site=lyon,os is x"]);
    assert_eq!(code(&refused), 2);
    assert!(stderr(&refused).contains("at character 14"), "{refused:?}");
    let refused = hub.run(&["devices", "--sort", "name"]);
    assert_eq!(code(&refused), 2);
    assert!(stderr(&refused).contains("last_seen_at"), "{refused:?}");
}

#[test]
fn labels_of_one_device_are_set_and_removed_and_all_others_stay() {
    let hub = fleet();
    let changed = hub.run(&["label", "b", "os=deb12", "spare-"]);
    assert_eq!(
        (code(&changed), stdout(&changed).as_str()),
        (0, "b  os=deb12,site=lyon\n"),
        "{changed:?}"
    );
    assert_eq!(hub.labels("b"), json!({"os": "deb12", "site": "lyon"}));
    let shown = hub.run(&["label", "b", "os-", "--dry-run"]);
    assert_eq!((code(&shown), stdout(&shown).as_str()), (0, "b  site=lyon\n"));
    assert_eq!(hub.labels("b"), json!({"os": "deb12", "site": "lyon"}));
    for (args, message) in [
        (&["label", "b"][..], "KEY=VALUE"),
        (&["label", "b", "site"], "site=VALUE"),
        (&["label", "b", "site=a b"], "letter or digit"),
        (&["label", "site=lyon"], "-l SELECTOR"),
        (&["label", "-l", "", "site=lyon", "--yes"], "every appliance"),
    ] {
        let refused = hub.run(args);
        assert_eq!(code(&refused), 2, "{args:?}: {refused:?}");
        assert!(stderr(&refused).contains(message), "{args:?}: {refused:?}");
    }
    let unknown = hub.run(&["label", "ghost", "site=lyon"]);
    assert_eq!(code(&unknown), 1, "{unknown:?}");
}

#[test]
fn labels_of_many_are_changed_after_their_number_is_shown_and_confirmed() {
    let hub = fleet();
    let many = |args: &[&str]| hub.run(&[&["label", "-l", "site=lyon"], args].concat());
    let unasked = many(&["site=paris"]);
    assert_eq!(code(&unasked), 2, "{unasked:?}");
    assert!(
        stderr(&unasked).contains("2 appliances") && stderr(&unasked).contains("--yes"),
        "{unasked:?}"
    );
    let shown = many(&["site=paris", "--dry-run"]);
    assert_eq!(stdout(&shown), "a  site=paris\nb  site=paris,spare=\n");
    assert_eq!(hub.labels("a"), json!({"site": "lyon"}), "nothing was to be changed");
    let changed = many(&["site=paris", "--yes", "--json"]);
    assert_eq!(names(&changed), ["a", "b"]);
    assert_eq!(hub.labels("b"), json!({"site": "paris", "spare": ""}));
    assert_eq!(hub.labels("c"), json!({"site": "oslo"}));
    let none = many(&["site=rome", "--yes"]);
    assert_eq!((code(&none), stdout(&none).as_str()), (0, ""));

    let labels = hub.run(&["labels", "--json"]);
    let lines: Vec<Value> =
        stdout(&labels).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["key"], "site");
    assert_eq!(
        lines[0]["values"],
        json!([{"value": "paris", "devices": 2}, {"value": "oslo", "devices": 1}])
    );
    let text = stdout(&hub.run(&["labels"]));
    assert!(text.lines().count() == 5 && text.contains("paris"), "{text}");
}

#[test]
fn on_a_terminal_it_is_asked_before_labels_of_many_are_changed_and_no_answer_is_no() {
    let hub = fleet();
    let url = format!("http://{}", hub.address);
    let environment = [("BELLWIRE_HUB", url.as_str())];
    let relabel = ["label", "-l", "site=lyon", "site=paris"];
    for (answer, code) in [("\n", 1), ("no\n", 1), ("y\n", 0)] {
        let mut terminal = Terminal::start(BELLWIRE, &relabel, &environment);
        terminal.shows("2 appliances");
        terminal.shows("[y/N]");
        assert_eq!(hub.labels("a"), json!({"site": "lyon"}), "before it was agreed to");
        terminal.types(answer);
        let (ended, screen) = terminal.ends();
        assert_eq!(ended, code, "{answer:?}: {screen}");
    }
    assert_eq!(hub.labels("a"), json!({"site": "paris"}));
    assert_eq!(hub.labels("b"), json!({"site": "paris", "spare": ""}));
}

#[test]
fn what_is_exported_is_imported_and_a_bad_line_changes_nothing() {
    let hub = fleet();
    let exported = hub.run(&["devices", "export"]);
    assert_eq!(
        stdout(&exported),
        "device,labels\na,site=lyon\nb,\"site=lyon,spare=\"\nc,site=oslo\n"
    );
    let lyon = hub.run(&["devices", "export", "-l", "site=lyon,!spare"]);
    assert_eq!(stdout(&lyon), "device,labels\na,site=lyon\n");

    let edited = stdout(&exported).replace("lyon", "paris") + "new,os=deb12\n";
    let other = Hub::start();
    let import = |args: &[&str], input: &str| {
        other.run_with(&[&["devices", "import", "-"], args].concat(), input)
    };
    let shown = import(&["--dry-run"], &edited);
    assert_eq!(code(&shown), 0, "{shown:?}");
    assert!(names(&other.run(&["devices", "--json"])).is_empty());
    assert_eq!(code(&import(&[], &edited)), 0);
    assert_eq!(names(&other.run(&["devices", "--json"])), ["a", "b", "c", "new"]);
    assert_eq!(other.labels("b"), json!({"site": "paris", "spare": ""}));
    // Labels that are not in the file stay, unless it replaces them.
    assert_eq!(code(&import(&[], "device,os\nb,deb11\nnew,\n")), 0);
    assert_eq!(other.labels("b"), json!({"os": "deb11", "site": "paris", "spare": ""}));
    assert_eq!(other.labels("new"), json!({"os": "deb12"}));
    assert_eq!(code(&import(&["--replace"], "device,os\nb,deb12\n")), 0);
    assert_eq!(other.labels("b"), json!({"os": "deb12"}));

    let bad = import(&[], "device,os\na,deb9\nb,not a value\n");
    assert_eq!(code(&bad), 2, "{bad:?}");
    assert!(stderr(&bad).contains("line 3"), "{bad:?}");
    assert_eq!(other.labels("a"), json!({"site": "paris"}));
    let absent = other.run(&["devices", "import", "no-such-file.csv"]);
    assert_eq!(code(&absent), 2, "{absent:?}");
}
