//! The program does what its help says, seen from outside: arguments in, lines and exit codes out,
//! against a real hub.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message of a test"
)]

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};

use bellwire_testkit::{Http, Program, wait_until};
use serde_json::Value;

const BELLWIRE: &str = env!("CARGO_BIN_EXE_bellwire");

/// A hub on a folder of its own.
struct Hub {
    folder: tempfile::TempDir,
    program: Option<Program>,
    address: SocketAddr,
}

impl Hub {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (program, address) = Program::serve_anywhere(BELLWIRE, &folder.path().join("hub"));
        Self { folder, program: Some(program), address }
    }

    fn http(&self) -> Http {
        Http(self.address)
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Runs `bellwire` with this hub to its end.
    fn run(&self, args: &[&str]) -> Output {
        bellwire(args).env("BELLWIRE_HUB", self.url()).output().unwrap()
    }

    /// Starts `bellwire listen` for a device and waits until it is online.
    fn listen(&self, device: &str, args: &[&str]) -> Program {
        let mut command = bellwire(&["listen", device]);
        let listener = Program::start(command.args(args).env("BELLWIRE_HUB", self.url()));
        self.until_online(device, true);
        listener
    }

    fn until_online(&self, device: &str, online: bool) {
        self.until(device, "online", online.into());
    }

    fn until(&self, device: &str, member: &str, value: Value) {
        wait_until(&format!("{device} to have {member} {value}"), || {
            let answer =
                self.http().get(&format!("/v1/devices/{device}")).map_err(|e| e.to_string())?;
            if answer.json()[member] == value { Ok(()) } else { Err(answer.json().to_string()) }
        });
    }

    fn script(&self, text: &str) -> String {
        use std::os::unix::fs::PermissionsExt;
        let path = self.folder.path().join("handler.sh");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

/// The program, deaf to what the surroundings set.
fn bellwire(args: &[&str]) -> Command {
    let mut command = Command::new(BELLWIRE);
    command.args(args).env_remove("BELLWIRE_HUB").env("NO_PROXY", "127.0.0.1");
    command
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

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

#[test]
fn a_command_is_run_by_the_program_that_listens_and_its_end_is_the_exit_code() {
    let hub = Hub::start();
    let handler = hub.script(
        r#"case "$BELLWIRE_ACTION" in greet) echo "hello, $(cat)";; *) echo no >&2; exit 3;; esac"#,
    );
    let _listener = hub.listen("kiosk", &["--exec", &handler]);

    let greeted = hub.run(&["send", "kiosk", "greet", "world", "--wait", "30s", "--json"]);
    assert_eq!(code(&greeted), 0, "{greeted:?}");
    assert_eq!(
        (&json(&greeted)["state"], &json(&greeted)["stdout"]),
        (&"succeeded".into(), &"hello, world\n".into())
    );

    let refused = hub.run(&["send", "kiosk", "dance", "--wait", "30s"]);
    assert_eq!(code(&refused), 1, "{refused:?}");
    let shown = stdout(&refused);
    assert!(
        shown.contains("failed") && shown.contains("exit code 3") && shown.contains("stderr no"),
        "{shown}"
    );
    assert!(!shown.contains('\u{1b}'), "no colours in a pipe: {shown:?}");
}

#[test]
fn data_is_json_if_it_parses_as_such_unless_a_flag_decides() {
    let hub = Hub::start();
    for (args, data) in [
        (&["{\"a\":1.50}"][..], "{\"a\":1.50}"),
        (&["42"], "42"),
        (&["42", "--type", "text"], "\"42\""),
        (&["hello"], "\"hello\""),
        (&[], "null"),
    ] {
        let sent = hub.run(&[&["send", "away", "note", "--json"], args].concat());
        assert_eq!(code(&sent), 0, "{sent:?}");
        let id = json(&sent)["command"].as_str().unwrap().to_owned();
        let body = hub.http().get(&format!("/v1/commands/{id}")).unwrap().body;
        let body = String::from_utf8(body).unwrap();
        assert!(body.contains(&format!("\"data\":{data},")), "{args:?} became {body}");
    }
    assert_eq!(code(&hub.run(&["send", "away", "note", "{", "--type", "json"])), 2);
}

#[test]
fn each_kind_of_end_has_the_exit_code_of_the_help() {
    let hub = Hub::start();
    assert_eq!(code(&hub.run(&["send", "away", "ping"])), 0, "stored is enough without --wait");
    let offline = hub.run(&["send", "away", "ping", "--ttl", "0"]);
    assert_eq!(code(&offline), 5, "{offline:?}");
    let expired = hub.run(&["send", "later", "ping", "--ttl", "1s", "--wait", "30s"]);
    assert_eq!(code(&expired), 4, "{expired:?}");
    assert_eq!(code(&hub.run(&["send", "bad/name", "ping"])), 2);
    assert_eq!(code(&hub.run(&["send", "away", "ping", "--wait", "6m"])), 2);
    assert_eq!(code(&hub.run(&["no-such-thing"])), 2);
    let unknown = hub.run(&["status", "01a2050e-38dc-7644-95d4-c7a339930e68"]);
    assert_eq!(code(&unknown), 1, "{unknown:?}");

    let unreachable =
        bellwire(&["send", "x", "ping", "--hub", "http://127.0.0.1:1"]).output().unwrap();
    assert_eq!(code(&unreachable), 6, "{unreachable:?}");
    assert!(
        stderr(&unreachable).contains("127.0.0.1:1"),
        "the message names the hub: {unreachable:?}"
    );
}

#[test]
fn a_listener_survives_the_restart_of_the_hub() {
    let mut hub = Hub::start();
    let handler = hub.script("echo pong");
    let listener = hub.listen("kiosk", &["--exec", &handler]);
    hub.program.take().unwrap().kill();
    let (program, _) = Program::serve(BELLWIRE, &hub.folder.path().join("hub"), hub.address);
    hub.program = Some(program);
    hub.until_online("kiosk", true);
    let pong = hub.run(&["send", "kiosk", "ping", "--wait", "30s", "--json"]);
    assert_eq!(json(&pong)["stdout"], "pong\n");
    assert_eq!(listener.terminate().code(), Some(0));
}

#[test]
fn a_running_program_is_stopped_by_cancel() {
    let hub = Hub::start();
    let handler = hub.script("exec sleep 1000");
    let _listener = hub.listen("kiosk", &["--exec", &handler]);
    let sent = hub.run(&["send", "kiosk", "nap", "--json"]);
    let id = json(&sent)["command"].as_str().unwrap().to_owned();
    wait_until("the program to run", || {
        let page = hub.http().get(&format!("/v1/commands/{id}/deliveries")).unwrap().json();
        if page["items"][0]["state"] == "running" { Ok(()) } else { Err(page.to_string()) }
    });
    assert_eq!(code(&hub.run(&["cancel", &id])), 0);
    let watched = hub.run(&["watch", &id, "--json"]);
    assert_eq!(code(&watched), 1, "cancelled is not success: {watched:?}");
    let last: Value = serde_json::from_str(stdout(&watched).lines().last().unwrap()).unwrap();
    assert_eq!((&last["state"], &last["exit_code"]), (&"cancelled".into(), &143.into()));
}

/// Each sign of life of a command that runs was a block of lines, and ten minutes filled the terminal.
#[test]
fn watch_prints_changes_and_not_keepalive_reports() {
    let hub = Hub::start();
    let id =
        json(&hub.run(&["send", "kiosk", "nap", "--json"]))["command"].as_str().unwrap().to_owned();
    let path = format!("/v1/devices/kiosk/commands/{id}/status");
    let report = |report: &str| {
        assert_eq!(hub.http().post_json(&path, report).unwrap().status, 200, "{report}");
    };
    report(r#"{"state":"running"}"#);
    let watch = Program::start(bellwire(&["watch", &id]).env("BELLWIRE_HUB", hub.url()));
    watch.wait_for("running");
    (0..5).for_each(|_| report(r#"{"state":"running"}"#));
    report(r#"{"state":"succeeded"}"#);
    watch.wait_for("succeeded");
    let printed = watch.output();
    let times = |word: &str| printed.lines().filter(|line| line.starts_with(word)).count();
    assert_eq!((times("running"), times("succeeded")), (1, 1), "{printed}");
}

/// A 404 from whatever answered for the hub ended a listener that was to come back for ever.
#[test]
fn a_listener_reconnects_after_any_answer() {
    let hub = Hub::start();
    let mut command = bellwire(&["listen", "kiosk", "--hub", &format!("{}/nowhere", hub.url())]);
    let listener = Program::start(&mut command);
    listener.wait_for("404 Not Found; again in");
    assert_eq!(listener.terminate().code(), Some(0), "it was still there to be stopped");
}

/// Ctrl-C on a listener left the command `running` at the hub, and with it everything behind it.
#[test]
fn a_listener_that_is_stopped_answers_for_what_it_interrupts() {
    let hub = Hub::start();
    let handler = hub.script("exec sleep 1000");
    let listener = hub.listen("kiosk", &["--exec", &handler]);
    let sent = hub.run(&["send", "kiosk", "nap", "--json"]);
    let id = json(&sent)["command"].as_str().unwrap().to_owned();
    let delivery = || {
        let page = hub.http().get(&format!("/v1/commands/{id}/deliveries")).unwrap().json();
        page["items"][0].clone()
    };
    wait_until("the program to run", || {
        if delivery()["state"] == "running" { Ok(()) } else { Err(delivery().to_string()) }
    });
    assert_eq!(listener.terminate().code(), Some(0));
    let (state, error) = (&delivery()["state"], &delivery()["error"]["code"]);
    assert_eq!((state, error), (&"failed".into(), &"interrupted".into()));
}

#[test]
fn listen_json_prints_a_command_a_line_and_answers_it() {
    let hub = Hub::start();
    let listener = hub.listen("kiosk", &["--json"]);
    let sent = hub.run(&["send", "kiosk", "ping", "{\"n\":1}", "--wait", "30s", "--json"]);
    assert_eq!((code(&sent), &json(&sent)["state"]), (0, &"succeeded".into()));
    let line = listener.wait_for("\"action\":\"ping\"");
    let command: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(command["data"]["n"], 1);
}

#[test]
fn devices_are_listed_with_their_presence() {
    let hub = Hub::start();
    let _listener = hub.listen("here", &["--json"]);
    hub.run(&["send", "away", "ping"]);
    let names = |args: &[&str]| -> Vec<String> {
        let listed = hub.run(&[&["devices", "--json"], args].concat());
        let device = |line: &str| {
            serde_json::from_str::<Value>(line).unwrap()["id"].as_str().unwrap().to_owned()
        };
        stdout(&listed).lines().map(device).collect()
    };
    assert_eq!(names(&[]), ["away", "here"]);
    assert_eq!(names(&["--online"]), ["here"]);
    assert_eq!(names(&["--offline"]), ["away"]);
    assert!(names(&["--select", "site=lyon"]).is_empty());
    let table = stdout(&hub.run(&["devices"]));
    assert!(table.lines().any(|l| l.starts_with("away") && l.contains("offline")), "{table}");
}

#[test]
fn waiting_for_an_offline_appliance_says_so() {
    let hub = Hub::start();
    let mistyped = hub.run(&["send", "kisok", "ping", "--wait", "1s"]);
    assert_eq!(code(&mistyped), 4, "{mistyped:?}");
    assert!(stderr(&mistyped).contains("kisok has never connected"), "{mistyped:?}");

    let listener = hub.listen("kiosk", &["--exec", "/bin/true"]);
    // Between two polls the hub would not notice its end; it notices a stream that closes.
    hub.until("kiosk", "transport", "stream".into());
    drop(listener);
    hub.until_online("kiosk", false);
    let away = hub.run(&["send", "kiosk", "ping", "--wait", "1s"]);
    assert!(stderr(&away).contains("kiosk is offline since 20"), "{away:?}");

    let _listener = hub.listen("kiosk", &["--exec", "/bin/true"]);
    let there = hub.run(&["send", "kiosk", "ping", "--wait", "30s"]);
    assert!(!stderr(&there).contains("offline"), "{there:?}");
}

#[test]
fn a_second_hub_on_the_same_folder_is_refused() {
    let hub = Hub::start();
    let second = bellwire(&["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(hub.folder.path().join("hub"))
        .output()
        .unwrap();
    assert_eq!(code(&second), 1, "{second:?}");
    assert!(stderr(&second).contains("hub"), "the message names the folder: {second:?}");
}

#[test]
fn beyond_loopback_a_hub_listens_only_with_open() {
    let folder = tempfile::tempdir().unwrap();
    let refused = bellwire(&["serve", "--listen", "0.0.0.0:0", "--data-dir"])
        .arg(folder.path())
        .output()
        .unwrap();
    assert_eq!(code(&refused), 2, "{refused:?}");
    assert!(stderr(&refused).contains("open"), "the message names the way out: {refused:?}");
    assert!(is_empty(folder.path()), "nothing was made of a hub that did not start");
}

#[test]
fn sigterm_ends_a_hub_in_order_and_soon() {
    let mut hub = Hub::start();
    let _listener = hub.listen("kiosk", &["--json"]);
    assert_eq!(hub.program.take().unwrap().terminate().code(), Some(0));
}

#[test]
fn a_hub_raises_its_limit_of_open_files_and_warns_when_that_is_low() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -Sn 60 && ulimit -Hn 160 && exec \"$@\"", "sh", BELLWIRE]);
    command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(folder.path());
    command.env("BELLWIRE_CONNECTIONS_MAX", "200000");
    let hub = Program::start(&mut command);
    hub.wait_for("60 connections at once");
    let http = Http(hub.address());
    let mut streams = Vec::new();
    for n in 0..60 {
        let stream = http.stream(&format!("/v1/devices/d{n}/stream"));
        let mut stream = stream.unwrap_or_else(|e| panic!("stream {n} of 60: {e}"));
        stream.expect("hello");
        streams.push(stream);
    }
    assert!(http.get("/healthz").is_err(), "one connection too many is closed at once");
    assert!(!hub.output().contains("cannot accept"), "no accept fails: {}", hub.output());
}

#[test]
fn config_check_reports_every_fault_with_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hub.toml");
    std::fs::write(&file, "listen = \"nowhere\"\nlaese = \"30s\"\nqueue_max = 0\n").unwrap();
    let checked = bellwire(&["config", "check", "--config"]).arg(&file).output().unwrap();
    assert_eq!(code(&checked), 2, "{checked:?}");
    for key in ["listen", "laese", "queue_max"] {
        assert!(stderr(&checked).contains(key), "{key} is named: {}", stderr(&checked));
    }
    std::fs::write(&file, "lease = \"20s\"\n").unwrap();
    let checked = bellwire(&["config", "check", "--config"]).arg(&file).output().unwrap();
    assert_eq!(code(&checked), 0, "{checked:?}");
    assert!(stdout(&checked).contains("20"), "what is in force is shown: {}", stdout(&checked));
    let missing = bellwire(&["config", "check", "--config", "/no/such/file"]).output().unwrap();
    assert_eq!(code(&missing), 2, "{missing:?}");
}

#[test]
fn the_demo_ends_well_and_leaves_nothing_behind() {
    let temporary = tempfile::tempdir().unwrap();
    let demo = bellwire(&["demo"]).env("TMPDIR", temporary.path()).output().unwrap();
    assert_eq!(code(&demo), 0, "{demo:?}");
    let shown = stdout(&demo);
    for text in [
        "$ bellwire serve",
        "$ curl",
        "kill -9",
        "still there: queued",
        "hello, again",
        "Nothing was lost",
    ] {
        assert!(shown.contains(text), "{text:?} is shown: {shown}");
    }
    // "queued sent sent running".
    let lines: Vec<&str> = shown.lines().map(str::trim).collect();
    assert!(lines.windows(2).all(|pair| pair[0] != pair[1] || pair[0].is_empty()), "{shown}");
    assert!(is_empty(temporary.path()), "the folder is removed");
}

#[test]
fn the_faults_of_a_configuration_are_json_with_the_flag() {
    // `config check --json` printed nothing on standard output when there was a fault.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hub.toml");
    std::fs::write(&file, "lease = 'soon'\ncolour = 'red'\n").unwrap();
    let checked = bellwire(&["config", "check", "--json", "--config"]).arg(&file).output().unwrap();
    assert_eq!(code(&checked), 2, "{checked:?}");
    let printed = json(&checked);
    assert_eq!(
        (&printed["ok"], printed["faults"].as_array().unwrap().len()),
        (&false.into(), 2),
        "{printed}"
    );
}

#[test]
fn an_error_is_printed_once() {
    // "Connection refused" was three times in the message that the hub cannot be reached.
    let unreachable = bellwire(&["devices", "--hub", "http://127.0.0.1:1"]).output().unwrap();
    assert_eq!(code(&unreachable), 6, "{unreachable:?}");
    let printed = stderr(&unreachable);
    assert_eq!(printed.matches("refused").count(), 1, "{printed}");
}

#[test]
fn what_an_appliance_answers_cannot_steer_the_terminal() {
    // The output was cleaned, but not the error's message, the result and the data.
    let hub = Hub::start();
    let sent = json(&hub.run(&["send", "kiosk", "x", "\u{9b}31mdata", "--json"]));
    let command = sent["command"].as_str().unwrap();
    let report = "{\"state\":\"failed\",\"result\":\"\u{9b}2J\",\"error\":{\"code\":\"\\u001bc\",\"message\":\"\\u001b[2J\"}}";
    let path = format!("/v1/devices/kiosk/commands/{command}/status");
    assert_eq!(hub.http().post_json(&path, report).unwrap().status, 200);
    let shown = stdout(&hub.run(&["status", command]));
    assert!(shown.contains("[2J") && shown.contains("31mdata"), "{shown:?}");
    assert!(!shown.contains(|c: char| c.is_control() && c != '\n'), "{shown:?}");
}

#[test]
fn a_star_in_no_proxy_excepts_every_host() {
    let hub = Hub::start();
    for (no_proxy, expected) in [("*", 0), ("elsewhere.example", 6)] {
        let mut devices = bellwire(&["devices"]);
        devices.env("BELLWIRE_HUB", hub.url()).env("HTTP_PROXY", "http://127.0.0.1:1");
        let listed = devices.env("NO_PROXY", no_proxy).output().unwrap();
        assert_eq!(code(&listed), expected, "NO_PROXY={no_proxy}: {listed:?}");
    }
}

#[test]
fn the_demo_needs_no_proxy() {
    // Behind a company's proxy the demo requested its own hub on loopback from that, and gave up after eight seconds.
    let temporary = tempfile::tempdir().unwrap();
    let mut demo = bellwire(&["demo"]);
    for variable in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        demo.env(variable, "http://127.0.0.1:1");
    }
    demo.env_remove("NO_PROXY").env_remove("no_proxy");
    let demo = demo.env("TMPDIR", temporary.path()).output().unwrap();
    assert_eq!(code(&demo), 0, "{demo:?}");
}

#[test]
fn completions_and_the_man_page_are_made_from_the_program_itself() {
    let bash = bellwire(&["completions", "bash"]).output().unwrap();
    assert!(code(&bash) == 0 && stdout(&bash).contains("BELLWIRE_COMPLETE"));
    let man = bellwire(&["man"]).output().unwrap();
    assert!(code(&man) == 0 && stdout(&man).contains(".TH bellwire"));
    // It referred to pages that do not exist, named no chapter and omitted `config check`.
    let page = stdout(&man);
    assert!(page.contains(".SH \"BELLWIRE CONFIG CHECK\"") && !page.contains("demo(1)"), "{page}");
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().next().is_none()
}
