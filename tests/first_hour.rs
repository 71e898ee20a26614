//! What a new user stumbles over in the first hour with the programs: each message names the next step.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message of a test"
)]

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bellwire_testkit::{Http, Program, wait_until};
use serde_json::Value;

const BELLWIRE: &str = env!("CARGO_BIN_EXE_bellwire");
const CLASSIC: &str = env!("CARGO_BIN_EXE_eventsource-server");

/// A hub, and a home for its user.
struct Hub {
    folder: tempfile::TempDir,
    program: Program,
    address: SocketAddr,
}

impl Hub {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (program, address) = Program::serve_anywhere(BELLWIRE, &folder.path().join("hub"));
        Self { folder, program, address }
    }

    fn run(&self, args: &[&str]) -> Ran {
        let mut command = bellwire(self.folder.path(), args);
        Ran::of(command.env("BELLWIRE_HUB", format!("http://{}", self.address)).output().unwrap())
    }

    /// Sends a command, and gives its id.
    fn send(&self, device: &str, action: &str) -> String {
        let sent = self.run(&["send", device, action, "--json"]);
        sent.json()["command"].as_str().unwrap().to_owned()
    }
}

/// The program in this home, without the settings of the surroundings.
fn bellwire(home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(BELLWIRE);
    command.args(args).env_clear().env("HOME", home).env("PATH", "/usr/bin:/bin").current_dir(home);
    command
}

/// What a program printed, and its exit code.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    stdout: String,
    /// Both outputs.
    text: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        let stdout = String::from_utf8(output.stdout).unwrap();
        let text = format!("{stdout}{}", String::from_utf8(output.stderr).unwrap());
        Self { code: output.status.code(), stdout, text }
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The exit code, and texts that are in the output.
    #[track_caller]
    fn says(&self, code: i32, texts: &[&str]) {
        assert_eq!(self.code, Some(code), "{}", self.text);
        for text in texts {
            assert!(self.text.contains(text), "{text:?} is in: {}", self.text);
        }
    }
}

fn agent_config(home: &Path, state_dir: &Path, more: &str) -> PathBuf {
    let path = home.join("agent.toml");
    let state_dir = state_dir.display();
    let text = format!(
        "hub = \"http://127.0.0.1:1\"\ndevice = \"k\"\nstate_dir = \"{state_dir}\"\n{more}\n[actions.x]\nrun = [\"/bin/true\"]\n"
    );
    std::fs::write(&path, text).unwrap();
    path
}

/// The examples gave the hub the folder that is the agent's by default; the second one said that another of its own kind ran.
#[test]
fn hub_and_agent_do_not_share_a_folder_and_each_names_the_other() {
    let hub = Hub::start();
    let config = agent_config(hub.folder.path(), &hub.folder.path().join("hub"), "");
    let config = config.to_str().unwrap();
    for command in ["check", "run"] {
        let ran = hub.run(&["agent", command, "--config", config]);
        ran.says(1, &["is the data folder of a hub", "set state_dir"]);
    }
    let home = tempfile::tempdir().unwrap();
    let state_dir = home.path().join("state");
    let config = agent_config(home.path(), &state_dir, "");
    let mut run = bellwire(home.path(), &["agent", "run", "--config"]);
    let _agent = Program::start(run.arg(config));
    wait_until("the agent's journal", || {
        if state_dir.join("journal").exists() { Ok(()) } else { Err("none yet") }
    });
    let data_dir = state_dir.to_str().unwrap();
    for args in [&["serve", "--listen", "127.0.0.1:0"][..], &["config", "check"]] {
        let ran = bellwire(home.path(), &[args, &["--data-dir", data_dir]].concat()).output();
        Ran::of(ran.unwrap()).says(1, &["is the state folder of an agent", "--data-dir"]);
    }
}

#[test]
fn a_second_hub_or_agent_names_the_process_of_the_first() {
    let hub = Hub::start();
    let data_dir = hub.folder.path().join("hub");
    let process = format!("(process {})", hub.program.id());
    let args = ["serve", "--listen", "127.0.0.1:0", "--data-dir", data_dir.to_str().unwrap()];
    hub.run(&args).says(1, &["is in use by another hub", &process]);
    // A check has other advice than a start.
    let checked = hub.run(&["config", "check", "--data-dir", data_dir.to_str().unwrap()]);
    checked.says(0, &["is in use: a hub is running with it, which is no fault"]);
    assert!(!checked.text.contains("stop that one"), "{}", checked.text);
}

#[test]
fn the_documented_classic_action_is_served_beside_the_api() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["serve", "--listen", "127.0.0.1:0", "--classic", "--classic-action", "reboot"];
    let server = Program::start(&mut bellwire(folder.path(), &args));
    server.wait_for("made the data folder");
    let address = server.address();
    let mut listener = Http(address).stream("/poll/kiosk-7").unwrap();
    let posted = Http(address).post_json("/reboot/kiosk-7", "\"now\"").unwrap();
    assert_eq!(posted.status, 200);
    assert_eq!(listener.expect("reboot"), "now");
    assert_eq!(Http(address).post_json("/other/kiosk-7", "now").unwrap().status, 404);
    let mut alone = bellwire(folder.path(), &["config", "check", "--classic-action", "reboot"]);
    Ran::of(alone.output().unwrap()).says(2, &["classic_actions is set without classic"]);
}

#[test]
fn a_program_that_cannot_run_is_refused_with_what_to_do() {
    let hub = Hub::start();
    let script = hub.folder.path().join("h.sh");
    std::fs::write(&script, "#!/bin/sh\n").unwrap();
    let script = script.to_str().unwrap();
    hub.run(&["listen", "k", "--exec", script])
        .says(2, &["is not executable", &format!("chmod +x {script}")]);
    hub.run(&["listen", "k", "--exec", "echo hi there"])
        .says(2, &["separate words: --exec echo hi there"]);
    hub.run(&["listen", "k", "/bin/date"]).says(2, &["bellwire listen k --exec /bin/date"]);
}

#[test]
fn how_long_a_command_waits_and_why_is_shown() {
    let hub = Hub::start();
    hub.run(&["send", "--help"]).says(0, &["[default: 1h]", "[default: 5m]"]);
    hub.run(&["serve", "--help"]).says(0, &["[default: 127.0.0.1:8888]", "./bellwire-data"]);
    let sent = hub.run(&["send", "k", "first", "--wait", "1s"]);
    sent.says(4, &["the command waits for it until 2", "(1 h; --ttl", "waits: the appliance has"]);
    let mut stream = Http(hub.address).stream("/v1/devices/k2/stream").unwrap();
    stream.expect("hello");
    let first = hub.send("k2", "first");
    stream.expect("command");
    let waited = hub.run(&["send", "k2", "second", "--wait", "1s"]);
    waited.says(4, &[&format!("waits: behind another command, {first}")]);
    let id = hub.send("k2", "third");
    let status = hub.run(&["status", &id]);
    status.says(0, &["expires: 2", "(in 59 min)", "queued  k2 third"]);
    assert_eq!(status.text.matches(&id).count(), 1, "{}", status.text);
    let report = r#"{"state":"running"}"#;
    Http(hub.address)
        .post_json(&format!("/v1/devices/k2/commands/{first}/status"), report)
        .unwrap();
    hub.run(&["status", &first]).says(0, &["running since 2"]);
}

#[test]
fn a_line_of_the_list_of_commands_has_the_only_device_and_its_state() {
    let hub = Hub::start();
    hub.send("k", "ping");
    let listed = hub.run(&["commands", "--json"]).json();
    assert_eq!((&listed["device"], &listed["state"]), (&"k".into(), &"queued".into()), "{listed}");
    let many = r#"{"action":"ping","target":{"devices":["a","b"]}}"#;
    Http(hub.address).post_json("/v1/commands", many).unwrap();
    let listed = hub.run(&["commands", "--json", "-n", "1"]).json();
    assert!(listed.get("device").is_none() && listed["total"] == 2, "{listed}");
}

#[test]
fn a_hub_that_is_not_there_is_one_sentence_with_the_origin_of_its_url() {
    let home = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = listener.local_addr().unwrap().to_string();
    drop(listener);
    let url = format!("http://{refused}");
    let mut command = bellwire(home.path(), &["devices"]);
    let ran = Ran::of(command.env("BELLWIRE_HUB", &url).output().unwrap());
    let cause = format!("cannot connect to {refused}: connection refused;");
    ran.says(6, &[&cause, "that of the variable BELLWIRE_HUB", "with: bellwire serve"]);
    assert!(!ran.text.contains("os error"), "{}", ran.text);
    let by_flag = Ran::of(bellwire(home.path(), &["devices", "--hub", &url]).output().unwrap());
    assert!(!by_flag.text.contains("its URL is"), "{}", by_flag.text);
    let add = ["context", "add", "prod", &url, "--use"];
    Ran::of(bellwire(home.path(), &add).output().unwrap()).says(0, &[]);
    let ran = Ran::of(bellwire(home.path(), &["devices"]).output().unwrap());
    ran.says(6, &["its URL is that of the context prod"]);
}

#[test]
fn a_slip_of_the_command_line_is_answered_with_the_right_line() {
    let hub = Hub::start();
    hub.run(&["send", "k", "x", "--at", "+10m", "--wait", "5s"]).says(2, &["bellwire watch ID"]);
    hub.run(&["send", "k", "greet", "hello", "world"])
        .says(2, &["in quotes: bellwire send k greet 'hello world'"]);
    hub.run(&["devices", "kiosk-7"]).says(2, &["did you mean `bellwire devices show kiosk-7`?"]);
    hub.send("k", "ping");
    for list in [&["devices", "list"][..], &["devices", "list", "--offline"]] {
        hub.run(list).says(0, &["k ", "offline"]);
    }
}

#[test]
fn to_cancel_what_has_ended_says_how_it_ended() {
    let hub = Hub::start();
    let id = hub.send("k", "ping");
    hub.run(&["cancel", &id]).says(0, &["cancelled"]);
    hub.run(&["cancel", &id]).says(0, &["it has already ended: cancelled"]);
    // The exit code was another with --json.
    hub.run(&["cancel", &id, "--json"]).says(0, &[&id, "\"done\":true", "\"cancelled\":1"]);
    hub.run(&["cancel", &id, "--force", "--json"]).says(0, &["\"cancelled\":1"]);
}

#[test]
fn a_fault_of_a_file_has_its_line_and_what_was_meant() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("hub.toml");
    let check = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let mut check = bellwire(home.path(), &["config", "check", "--config"]);
        Ran::of(check.arg(&file).output().unwrap())
    };
    check("open = true\nhistroy = \"1d\"\n")
        .says(2, &["hub.toml, line 2: histroy is not a setting; did you mean history?"]);
    check("listen = 127.0.0.1:8888\n").says(2, &["line 1", "quotes around it: \"127.0.0.1:8888\""]);
    let agent = agent_config(home.path(), &home.path().join("state"), "heartbaet = \"15s\"");
    let text = std::fs::read_to_string(&agent).unwrap();
    std::fs::write(&agent, format!("{text}heartbeat = \"15s\"\n")).unwrap();
    let mut check = bellwire(home.path(), &["agent", "check", "--config"]);
    Ran::of(check.arg(&agent).output().unwrap()).says(
        2,
        &["did you mean heartbeat? (line 4)", "must stand above the first [table] (line 7)"],
    );
}

#[test]
fn init_writes_the_state_folder_that_it_is_given() {
    let home = tempfile::tempdir().unwrap();
    let args =
        ["agent", "init", "http://127.0.0.1:1", "k", "--config", "a.toml", "--state-dir", "s"];
    Ran::of(bellwire(home.path(), &args).output().unwrap()).says(0, &[]);
    let written = std::fs::read_to_string(home.path().join("a.toml")).unwrap();
    let folder = home.path().join("s");
    assert!(written.contains(&format!("state_dir = \"{}\"", folder.display())), "{written}");
}

/// `enroll` recommended to check and run a configuration that is not there.
#[test]
fn enroll_names_the_configuration_that_it_has_written_and_writes_the_state_folder() {
    let hub = Hub::start();
    let join = hub.run(&["token", "create", "--role", "join", "--quiet"]);
    std::fs::write(hub.folder.path().join("join"), &join.stdout).unwrap();
    let url = format!("http://{}", hub.address);
    let enroll = ["agent", "enroll", &url, "--token-file", "join", "--config", "e/a.toml"];
    hub.run(&[&enroll[..], &["--device", "k", "--state-dir", "s"]].concat())
        .says(0, &["check --config e/a.toml, then bellwire agent run --config e/a.toml"]);
    let written = std::fs::read_to_string(hub.folder.path().join("e/a.toml")).unwrap();
    let folder = hub.folder.path().join("s");
    assert!(written.contains(&format!("state_dir = \"{}\"", folder.display())), "{written}");
}

/// It said that the hub does not know "this credential", and there was none.
#[test]
fn the_first_admin_token_says_what_it_ends_and_an_agent_without_a_token_says_that() {
    let hub = Hub::start();
    hub.run(&["schedule", "create", "nightly", "0 3 * * *", "backup", "--all"]).says(0, &[]);
    let config = agent_config(hub.folder.path(), &hub.folder.path().join("state"), "");
    let text = std::fs::read_to_string(&config).unwrap();
    let line = text.lines().find(|line| line.starts_with("hub = ")).unwrap();
    let url = format!("http://{}", hub.address);
    std::fs::write(&config, text.replace(line, &format!("hub = \"{url}\""))).unwrap();
    let mut agent = bellwire(hub.folder.path(), &["agent", "run", "--config"]);
    let agent = Program::start(agent.arg(&config));
    let mut listener = bellwire(hub.folder.path(), &["listen", "kiosk-8", "--hub", &url]);
    let listener = Program::start(&mut listener);
    agent.wait_for("connected");
    listener.wait_for("listening as");

    let first = hub.run(&["token", "create", "--role", "admin", "--quiet"]);
    first.says(0, &["1 schedule that was made without a token is paused for good: nightly"]);
    agent.wait_for("the hub requires a token and this agent has none: bellwire agent enroll");
    listener.wait_for("pass --token-file");
    let token = hub.folder.path().join("admin");
    std::fs::write(&token, &first.stdout).unwrap();
    let admin =
        |args: &[&str]| hub.run(&[args, &["--token-file", token.to_str().unwrap()]].concat());
    admin(&["schedule", "list"]).says(0, &["paused"]);
    let resumed = admin(&["schedule", "resume", "nightly"]);
    resumed.says(1, &["made on the open hub, without a token", "create it anew"]);
    let second = admin(&["token", "create", "--role", "admin"]);
    assert!(!second.text.contains("paused"), "{}", second.text);
}

#[test]
fn a_limit_that_refuses_a_command_is_named_with_its_setting() {
    let folder = tempfile::tempdir().unwrap();
    let mut serve = bellwire(folder.path(), &["serve", "--listen", "127.0.0.1:0"]);
    let serve = serve.env("BELLWIRE_QUEUE_MAX", "1").env("BELLWIRE_DATA_BYTES_MAX", "8");
    let server = Program::start(serve);
    let url = format!("http://{}", server.address());
    let send = |data: &str| {
        let args = ["send", "k", "x", data, "--hub", &url];
        Ran::of(bellwire(folder.path(), &args).output().unwrap())
    };
    send("1234567890").says(2, &["8 bytes, which is data_bytes_max of the hub"]);
    send("1").says(0, &[]);
    send("2").says(1, &["1 commands queued, which is queue_max of the hub"]);
}

#[test]
fn a_classic_server_says_that_it_is_open_and_is_recognised() {
    let home = tempfile::tempdir().unwrap();
    let mut open = Command::new(CLASSIC);
    let server = Program::start(open.args(["-P", "0"]));
    server.wait_for("no authentication");
    let hub = format!("http://127.0.0.1:{}", server.address().port());
    let health = bellwire(home.path(), &["health", "--hub", &hub]).output().unwrap();
    Ran::of(health).says(6, &["answers as a classic server does", "bellwire serve --classic"]);
}

#[test]
fn the_status_of_an_agent_shows_why_a_forward_has_not_begun() {
    let hub = Hub::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let text = format!(
        "hub = \"http://{}\"\ndevice = \"k\"\nstate_dir = \"{}\"\n[actions.x]\nforward = \"http://127.0.0.1:{port}/\"\n",
        hub.address,
        hub.folder.path().join("state").display()
    );
    let config = hub.folder.path().join("agent.toml");
    std::fs::write(&config, text).unwrap();
    let config = config.to_str().unwrap();
    let mut run = bellwire(hub.folder.path(), &["agent", "run", "--config", config]);
    let _agent = Program::start(&mut run);
    hub.send("k", "x");
    wait_until("the reason in the status", || {
        let status = hub.run(&["agent", "status", "--config", config]);
        let shown = status.text.contains("connection refused; tried again until the limit");
        if shown { Ok(()) } else { Err(status.text) }
    });
}
