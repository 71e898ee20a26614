//! Promise: `bellwire agent run` runs the actions of its list for a real hub, as a service does: it notifies when it is ready,
//! rejects other actions, stops in order, and leaves no process behind.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message of a test"
)]

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Command, Output};

use bellwire_testkit::{Http, Program, as_process_1, runs, wait_until};
use serde_json::{Value, json};

const BELLWIRE: &str = env!("CARGO_BIN_EXE_bellwire");

/// A hub and the configuration of an agent, in a folder of their own.
struct Scene {
    folder: tempfile::TempDir,
    _hub: Program,
    http: Http,
}

impl Scene {
    /// `actions` is the rest of agent.toml.
    fn new(actions: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("hub");
        let config = folder.path().join("hub.toml");
        std::fs::write(&config, "max_in_flight = 10\n").unwrap();
        let mut command = Command::new(BELLWIRE);
        command.args(["serve", "--listen", "127.0.0.1:0", "--config"]).arg(&config);
        let hub = Program::start(command.arg("--data-dir").arg(&data));
        let address = hub.address();
        let state = folder.path().join("state");
        let text = format!(
            "hub = \"http://{address}\"\ndevice = \"kiosk\"\nstate_dir = {state:?}\n{actions}"
        );
        std::fs::write(folder.path().join("agent.toml"), text).unwrap();
        Self { folder, _hub: hub, http: Http(address) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn bellwire(&self, args: &[&str]) -> Command {
        let mut command = Command::new(BELLWIRE);
        command.args(args).arg("--config").arg(self.path("agent.toml"));
        command.env("NO_PROXY", "127.0.0.1").env_remove("NOTIFY_SOCKET");
        command
    }

    /// Starts the agent and waits until it is online.
    fn agent(&self) -> Program {
        let agent = Program::start(&mut self.bellwire(&["agent", "run"]));
        self.until_online();
        agent
    }

    fn until_online(&self) {
        wait_until("the agent to be online", || {
            let answer = self.http.get("/v1/devices/kiosk").map_err(|e| e.to_string())?;
            if answer.json()["online"] == true { Ok(()) } else { Err(answer.json().to_string()) }
        });
    }

    fn post(&self, target: &str, body: &str) -> Value {
        let headers = [("content-type", "application/json")];
        self.http.request("POST", target, &headers, body.as_bytes()).unwrap().json()
    }

    /// Sends a command and waits for its end.
    fn send(&self, action: &str, data: &str) -> Value {
        self.post(&format!("/v1/send/kiosk/{action}?wait=60s"), data)
    }

    /// Sends a command and returns its id.
    fn begin(&self, action: &str) -> String {
        let delivery = self.post(&format!("/v1/send/kiosk/{action}"), "");
        delivery["command"].as_str().unwrap_or_else(|| panic!("{delivery}")).to_owned()
    }

    fn delivery(&self, id: &str) -> Result<Value, String> {
        let answer = self.http.get(&format!("/v1/commands/{id}/deliveries"));
        Ok(answer.map_err(|e| e.to_string())?.json()["items"][0].clone())
    }

    fn until(&self, id: &str, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        wait_until(what, || {
            let delivery = self.delivery(id)?;
            if fits(&delivery) { Ok(delivery) } else { Err(delivery.to_string()) }
        })
    }
}

fn text_of(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_hub_can_be_started_by_a_handler() {
    // `bellwire serve` took BELLWIRE_DATA_FILE, which the agent sets, for a setting and refused.
    let program = serde_json::to_string(BELLWIRE).unwrap();
    let scene = Scene::new(&format!("[actions.check]\nrun = [{program}, \"config\", \"check\"]\n"));
    let agent = scene.agent();
    let check = scene.send("check", "");
    assert_eq!(check["state"], "succeeded", "{check}");
    assert!(agent.terminate().success());
}

#[test]
fn only_listed_actions_run_and_status_shows_the_commands() {
    let scene = Scene::new(
        "[facts]\nsite = \"lyon\"\n[actions.ping]\nrun = [\"/bin/echo\", \"pong\"]\n\
         [actions.deploy]\nrun = [\"/bin/sh\", \"-c\", \"cat >&3\"]\nparams = { version = '^[0-9.]+$' }\n",
    );
    let agent = scene.agent();
    let ping = scene.send("ping", "");
    assert_eq!((&ping["state"], &ping["stdout"]), (&json!("succeeded"), &json!("pong\n")));
    let unknown = scene.send("format", "");
    assert_eq!(
        (&unknown["state"], &unknown["error"]["code"]),
        (&json!("rejected"), &json!("unknown_action"))
    );
    agent.wait_for("unknown_action");
    let invalid = scene.send("deploy", r#"{"version":"1;ls"}"#);
    assert_eq!(
        (&invalid["state"], &invalid["error"]["code"]),
        (&json!("rejected"), &json!("invalid_params"))
    );
    assert!(invalid["error"]["message"].as_str().unwrap().contains("\"version\""), "{invalid}");
    let deploy = scene.send("deploy", r#"{"version": "1.4"}"#);
    assert_eq!(
        (&deploy["state"], &deploy["result"]),
        (&json!("succeeded"), &json!({"version": "1.4"}))
    );

    let (code, stdout, stderr) =
        text_of(&scene.bellwire(&["agent", "status", "--json"]).output().unwrap());
    assert_eq!(code, 0, "{stderr}");
    let status: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(status["connection"]["connected"], true);
    let states: Vec<&Value> =
        status["commands"].as_array().unwrap().iter().map(|command| &command["state"]).collect();
    assert_eq!(states, ["succeeded", "rejected", "rejected", "succeeded"]);
    let (code, stdout, _) =
        text_of(&scene.bellwire(&["agent", "journal", "show"]).output().unwrap());
    assert_eq!(code, 0);
    assert!(stdout.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{stdout}");
    let device = scene.http.get("/v1/devices/kiosk").unwrap().json();
    assert_eq!(device["facts"]["site"], "lyon");
}

#[test]
fn systemd_is_notified_of_ready_watchdog_and_stopping_and_the_exit_code_is_0() {
    let scene = Scene::new("[actions.ping]\nrun = [\"/bin/echo\"]\n");
    let path = scene.path("notify");
    let listener = UnixDatagram::bind(&path).unwrap();
    listener.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
    let receive = || {
        let mut notification = [0; 256];
        let length = listener.recv(&mut notification).expect("a notification within 60 s");
        String::from_utf8(notification[..length].to_vec()).unwrap()
    };
    let mut command = scene.bellwire(&["agent", "run"]);
    let agent = Program::start(command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000"));
    assert_eq!(receive(), "READY=1");
    assert_eq!(receive(), "WATCHDOG=1");
    assert_eq!(receive(), "WATCHDOG=1");
    // The folder is locked by then: a second agent is refused.
    let (code, _, stderr) = text_of(&scene.bellwire(&["agent", "run"]).output().unwrap());
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("another agent (process "), "{stderr}");
    assert_eq!(agent.terminate().code(), Some(0));
    let received: Vec<String> =
        std::iter::from_fn(|| Some(receive())).take_while(|n| n != "STOPPING=1").collect();
    assert!(received.iter().all(|n| n == "WATCHDOG=1"), "{received:?}");
    let (code, _, stderr) = text_of(&scene.bellwire(&["agent", "status"]).output().unwrap());
    assert_eq!(code, 1);
    assert!(stderr.contains("no agent runs"), "{stderr}");
}

#[test]
fn one_action_runs_one_at_a_time_and_as_many_as_its_concurrency_says() {
    let scene = Scene::new("");
    let (lock, both) = (scene.path("lock"), scene.path("both"));
    let one = format!("mkdir {0} || exit 9; sleep 0.05; rmdir {0}", lock.display());
    // Each of two waits for the other: they end only if they run at the same time.
    let two =
        format!("echo >> {0}; until [ $(wc -l < {0}) -ge 2 ]; do sleep 0.02; done", both.display());
    let config = std::fs::read_to_string(scene.path("agent.toml")).unwrap();
    let actions = format!(
        "[actions.one]\nrun = [\"/bin/sh\", \"-c\", {one:?}]\n\
         [actions.two]\nrun = [\"/bin/sh\", \"-c\", {two:?}]\nconcurrency = 2\n"
    );
    std::fs::write(scene.path("agent.toml"), config + &actions).unwrap();
    let _agent = scene.agent();
    let ids: Vec<String> =
        (0..5).map(|_| scene.begin("one")).chain((0..2).map(|_| scene.begin("two"))).collect();
    for id in ids {
        let delivery = scene.until(&id, "a command to end", |d| d["exit_code"].is_number());
        assert_eq!(delivery["state"], "succeeded", "{delivery}");
    }
}

#[test]
fn a_cancelled_handler_ends_with_its_output_and_its_children() {
    let script = "echo child $$; sleep 1000 & echo child $!; echo BELLWIRE_PROGRESS=1; wait";
    let scene = Scene::new(&format!("[actions.long]\nrun = [\"/bin/sh\", \"-c\", {script:?}]\n"));
    let _agent = scene.agent();
    let id = scene.begin("long");
    scene.until(&id, "progress", |d| d["progress"] == 1);
    scene.http.request("DELETE", &format!("/v1/commands/{id}"), &[], b"").unwrap();
    let ended = scene.until(&id, "the end of the cancelled", |d| d["state"] == "cancelled");
    let children: Vec<&str> = ended["stdout"]
        .as_str()
        .unwrap()
        .lines()
        .filter_map(|line| line.strip_prefix("child "))
        .collect();
    assert_eq!(children.len(), 2, "{ended}");
    assert!(!children.iter().any(|pid| runs(pid)), "{children:?}");
}

#[test]
fn orphans_of_a_killed_agent_are_killed_and_their_command_has_failed_as_interrupted() {
    let scene = Scene::new("");
    let pids = scene.path("pids");
    let script =
        format!("sleep 1000 & echo $$ $! > {}; echo BELLWIRE_PROGRESS=1; wait", pids.display());
    let config = std::fs::read_to_string(scene.path("agent.toml")).unwrap();
    let action = format!("[actions.long]\nrun = [\"/bin/sh\", \"-c\", {script:?}]\n");
    std::fs::write(scene.path("agent.toml"), config + &action).unwrap();
    let agent = scene.agent();
    let id = scene.begin("long");
    scene.until(&id, "progress", |d| d["progress"] == 1);
    agent.kill();
    let pids = std::fs::read_to_string(pids).unwrap();
    assert!(pids.split_whitespace().all(runs), "they outlive the agent's KILL");
    let _agent = scene.agent();
    let ended = scene.until(&id, "the end of the interrupted", |d| d["state"] == "failed");
    assert_eq!(ended["error"]["code"], "interrupted");
    assert!(!pids.split_whitespace().any(runs), "{pids}");
}

/// In a container without an init the agent is process 1: dead orphans of its handlers were never collected.
#[test]
fn as_process_1_the_agent_collects_orphans_and_no_handler_loses_its_exit_code() {
    let Some(mut command) = as_process_1() else { return };
    // The child prints its id, is orphaned when its parent exits, and dies after that.
    let leave = "(read line; exit 0) < \"$0\" & echo $!; exit 7";
    let gone = "read -r pid; while [ -e /proc/$pid ]; do :; done; echo gone";
    let scene = Scene::new("");
    let fifo = scene.path("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, 0o600.into()).unwrap();
    let config = std::fs::read_to_string(scene.path("agent.toml")).unwrap();
    let actions = format!(
        "[actions.leave]\nrun = [\"/bin/sh\", \"-c\", {leave:?}, {fifo:?}]\nconcurrency = 10\n\
         [actions.gone]\nrun = [\"/bin/sh\", \"-c\", {gone:?}]\n\
         [actions.who]\nrun = [\"/bin/cat\", \"/proc/1/comm\"]\n"
    );
    std::fs::write(scene.path("agent.toml"), config + &actions).unwrap();
    command.arg(BELLWIRE).args(["agent", "run", "--config"]).arg(scene.path("agent.toml"));
    let mut agent = Program::start(command.env("NO_PROXY", "127.0.0.1"));
    scene.until_online();
    assert_eq!(scene.send("who", "")["stdout"], "bellwire\n");
    let ids: Vec<String> = (0..10).map(|_| scene.begin("leave")).collect();
    let pids = ids.iter().map(|id| {
        let ended = scene.until(id, "the exit code", |d| d["exit_code"].is_number());
        assert_eq!(ended["exit_code"], 7, "{ended}");
        ended["stdout"].as_str().unwrap().trim().to_owned()
    });
    let pids: Vec<String> = pids.collect();
    // Opened and closed without writing: each reader reads the end of the file.
    drop(std::fs::File::options().write(true).open(&fifo).unwrap());
    for pid in pids {
        assert_eq!(scene.send("gone", &pid)["stdout"], "gone\n", "{}", agent.output());
    }
    // A signal to process 1 reaches the agent once.
    let id = agent.id();
    let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
    let process_1 = rustix::process::Pid::from_raw(children.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(process_1, rustix::process::Signal::TERM).unwrap();
    let status = wait_until("the agent to end", || agent.ended().ok_or("it runs"));
    assert_eq!(status.code(), Some(0), "{}", agent.output());
    assert!(agent.output().contains("stopping"), "{}", agent.output());
    assert!(!agent.output().contains("twice"), "{}", agent.output());
}
