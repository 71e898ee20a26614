//! Promise: the tools of the agent work as documented: the configuration is checked and extended, `listen` saves commands
//! and `replay` runs them again.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message of a test"
)]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bellwire_testkit::{Http, Program, wait_until};
use serde_json::Value;

const BELLWIRE: &str = env!("CARGO_BIN_EXE_bellwire");
const CONFIG: &str = r#"# of the workshop
hub = "http://127.0.0.1:1"
device = "kiosk"

[actions.greet]
run = ["/bin/sh", "-c", "cat; echo \" $BELLWIRE_ATTEMPT $BELLWIRE_DEVICE\""]
params = { name = "[a-z]+" }
"#;

fn bellwire(args: &[&str]) -> Command {
    let mut command = Command::new(BELLWIRE);
    command.args(args).env_remove("BELLWIRE_HUB").env_remove("NO_PROXY");
    command
}

fn output(args: &[&str]) -> (i32, String, String) {
    text_of(&bellwire(args).output().unwrap())
}

/// Exit code, standard output, standard error.
fn text_of(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn written(folder: &tempfile::TempDir, name: &str, text: &str) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A command as `listen --save-dir` writes it.
fn saved(folder: &tempfile::TempDir, action: &str, data: &str) -> String {
    let text = format!(
        r#"{{"device":"kiosk","command":{{"id":"018bcfe5-6800-7007-8707-070707070707","seq":5,
        "action":"{action}","data":{data},"attempt":3,"created_at":"2026-01-01T00:00:00.000Z",
        "expires_at":"2026-01-01T01:00:00.000Z","ttl_s":60,"run_timeout_s":60}}}}"#
    );
    written(folder, &format!("5-{action}.json"), &text)
}

#[test]
fn check_describes_each_action_and_reports_missing_files() {
    let folder = tempfile::tempdir().unwrap();
    let config = written(&folder, "good.toml", CONFIG);
    let (code, stdout, stderr) = output(&["agent", "check", "--config", &config]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("greet runs /bin/sh -c "), "{stdout}");
    let config =
        written(&folder, "agent.toml", &format!("{CONFIG}[actions.gone]\nrun = [\"/no/such\"]\n"));
    let (code, _, stderr) = output(&["agent", "check", "--config", &config]);
    assert_eq!(code, 1, "{stderr}");
    assert!(
        stderr.contains("actions.gone.run names a program that does not exist: /no/such"),
        "{stderr}"
    );
}

#[test]
fn check_reports_every_fault_with_its_key_and_exits_2() {
    let folder = tempfile::tempdir().unwrap();
    let config = written(&folder, "agent.toml", "hub = 5\n[actions.a]\nrun = 'x'\nspeed = 1\n");
    let (code, _, stderr) = output(&["agent", "check", "--config", &config]);
    assert_eq!(code, 2);
    for key in
        ["hub is 5", "device is missing", "actions.a.run is", "actions.a.speed is not a setting"]
    {
        assert!(stderr.contains(key), "{key} in {stderr}");
    }
    let missing = folder.path().join("missing.toml");
    let missing = missing.to_str().unwrap();
    let (code, stdout, _) = output(&["agent", "check", "--json", "--config", missing]);
    let checked: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(
        (code, &checked["ok"], &checked["faults"][0]["key"]),
        (2, &false.into(), &"the file".into())
    );

    let (code, stdout, _) = output(&["agent", "check", "--json", "--config", &config]);
    let checked: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &checked["ok"]), (2, &Value::Bool(false)));
    assert_eq!(checked["faults"].as_array().unwrap().len(), 4);
    let (code, _, stderr) = output(&["agent", "check", "--config", "/no/such.toml"]);
    assert_eq!(code, 2, "{stderr}");
}

#[test]
fn on_adds_an_action_and_leaves_the_rest_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let config = written(&folder, "agent.toml", CONFIG);
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o640)).unwrap();
    let add = |args: &[&str]| output(&[&["agent", "on", "--config", &config], args].concat());
    let (code, stdout, stderr) = add(&[
        "re.boot",
        "--on-restart",
        "succeed",
        "--timeout",
        "10m",
        "--",
        "/bin/echo",
        "-f",
        "a \"b\"",
    ]);
    assert_eq!(code, 0, "{stderr}");
    assert!(
        stdout.contains("re.boot runs /bin/echo -f \"a \\\"b\\\"\" in /; at most 600 s"),
        "{stdout}"
    );
    let text = std::fs::read_to_string(&config).unwrap();
    assert!(text.starts_with(CONFIG), "{text}");
    assert_eq!(std::fs::metadata(&config).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(output(&["agent", "check", "--config", &config]).0, 0);
    // An action that exists, or that would not be valid, is refused and changes nothing.
    for args in [&["greet", "--", "/bin/true"][..], &["new", "--", "./relative"]] {
        let (code, _, stderr) = add(args);
        assert_eq!(code, 2, "{stderr}");
        assert_eq!(std::fs::read_to_string(&config).unwrap(), text);
    }
}

#[test]
fn on_warns_of_the_action_that_it_added_and_of_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let config = written(&folder, "agent.toml", CONFIG);
    let add = |args: &[&str]| output(&[&["agent", "on", "--config", &config], args].concat());
    let (_, _, stderr) = add(&["a.bc", "--", "/no/such"]);
    assert!(
        stderr.contains("actions.\"a.bc\".run names a program that does not exist"),
        "{stderr}"
    );
    let (_, _, stderr) = add(&["a", "--", "/bin/sh"]);
    assert!(!stderr.contains("warning"), "{stderr}");
    let (code, stdout, _) = add(&["a.b", "--json", "--", "/no/such"]);
    let added: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &added["action"]), (0, &"a.b".into()));
    assert!(added["does"].as_str().unwrap().starts_with("runs /no/such"), "{added}");
    assert_eq!(added["warnings"].as_array().unwrap().len(), 1, "{added}");
}

#[test]
fn on_preserves_owner_group_and_mode_of_the_file() {
    // After `sudo bellwire agent on …` an agent in the file's group could not read it any more.
    let folder = tempfile::tempdir().unwrap();
    let config = written(&folder, "agent.toml", CONFIG);
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o664)).unwrap();
    // Only root can change the owner; every user can check that the mode survives a umask of 077.
    std::os::unix::fs::chown(&config, Some(65_534), Some(65_534)).ok();
    let before = std::fs::metadata(&config).unwrap();
    let script = "umask 077; exec \"$0\" agent on --config \"$1\" new -- /bin/true";
    let result = Command::new("sh").args(["-c", script, BELLWIRE, &config]).output().unwrap();
    assert!(result.status.success(), "{result:?}");
    let after = std::fs::metadata(&config).unwrap();
    assert_ne!(before.len(), after.len(), "it was changed");
    assert_eq!(
        (before.mode(), before.uid(), before.gid()),
        (after.mode(), after.uid(), after.gid())
    );
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(names.len(), 1, "no draft stays: {names:?}");
}

#[test]
fn two_processes_that_add_at_once_do_not_lose_an_action() {
    let folder = tempfile::tempdir().unwrap();
    let config = written(&folder, "agent.toml", CONFIG);
    let draft = written(&folder, "agent.toml.new", "of another process");
    let (code, _, stderr) = output(&["agent", "on", "--config", &config, "new", "--", "/bin/true"]);
    assert_eq!(code, 1);
    assert!(stderr.contains(&format!("remove {draft}")), "{stderr}");
    assert_eq!(std::fs::read_to_string(&config).unwrap(), CONFIG);
    assert!(Path::new(&draft).exists(), "it belongs to the other process");
}

#[test]
fn neither_check_nor_a_fault_shows_a_password() {
    let folder = tempfile::tempdir().unwrap();
    for scheme in ["http", "htps"] {
        let text = CONFIG.replace("http://", &format!("{scheme}://kiosk:s3cret@"));
        let config = written(&folder, "agent.toml", &text);
        for form in [&["--json"][..], &[]] {
            let (_, stdout, stderr) =
                output(&[&["agent", "check", "--config", &config], form].concat());
            assert!(!format!("{stdout}{stderr}").contains("s3cret"), "{stdout}{stderr}");
        }
    }
}

#[test]
fn check_warns_when_others_may_change_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let config = written(&folder, "agent.toml", CONFIG);
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o666)).unwrap();
    let (code, _, stderr) = output(&["agent", "check", "--config", &config]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("the file is one that every user may change: "), "{stderr}");
}

#[test]
fn status_shows_text_of_the_hub_without_control_characters() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let text = format!("state_dir = {:?}\n{CONFIG}", state.display().to_string());
    let config = written(&folder, "agent.toml", &text);
    let escape = "\\u001b]0;owned\\u0007";
    let result = format!(
        r#"{{"version":"1","pid":1,"device":"kiosk","up_s":1,"connection":{{"hub":"http://h{escape}",
        "connected":false,"since_s":1,"hub_version":"h{escape}","last_loss":"l{escape}",
        "retry_in_s":1}},"journal":{{"folder":"/","bytes":1,"bytes_max":1,"commands":1,
        "under_way":1}},"commands":[{{"id":"018bcfe5-6800-7007-8707-070707070707","seq":1,
        "action":"a","state":"running","code":"c{escape}","reported":false,"runs":1}}]}}"#
    );
    let agent = std::os::unix::net::UnixListener::bind(state.join("agent.sock")).unwrap();
    let agent = std::thread::spawn(move || {
        agent.accept().unwrap().0.write_all(result.replace('\n', "").as_bytes()).unwrap();
    });
    let (code, stdout, stderr) = output(&["agent", "status", "--config", &config]);
    agent.join().unwrap();
    assert_eq!(code, 0, "{stderr}");
    assert!(!stdout.contains(['\u{1b}', '\u{7}']), "{stdout:?}");
    for text in ["hub h\u{fffd}]0;owned", "  l\u{fffd}]0;owned", " c\u{fffd}]0;owned"] {
        assert!(stdout.contains(text), "{text:?} in {stdout:?}");
    }
    assert!(
        !stdout.contains("not reported yet"),
        "a running command has no result to report: {stdout}"
    );
}

#[test]
fn a_handler_inherits_neither_descriptors_nor_ignored_signals() {
    let folder = tempfile::tempdir().unwrap();
    let file = saved(&folder, "look", "null");
    let look = "ls /proc/self/fd; grep -E '^Sig(Ign|Blk)' /proc/self/status";
    // As a careless supervisor may start it.
    let script = format!(
        "trap '' HUP USR1 PIPE; exec 7</etc/passwd 9</etc/passwd; \
         exec \"$0\" replay \"$1\" --json --exec /bin/sh -c \"{look}\""
    );
    let result = Command::new("sh").args(["-c", &script, BELLWIRE, &file]).output().unwrap();
    let delivery: Value = serde_json::from_slice(&result.stdout).unwrap();
    let stdout = delivery["stdout"].as_str().unwrap();
    assert!(stdout.starts_with("0\n1\n2\n3\n4\nSig"), "4 is the folder that ls reads: {stdout}");
    for name in ["SigBlk:\t", "SigIgn:\t"] {
        let mask = stdout.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        let mask = u64::from_str_radix(mask, 16).unwrap();
        // 32 and 33 are the C library's own.
        assert_eq!(mask & !(0b11 << 31), 0, "{stdout}");
    }
}

#[test]
fn replay_runs_a_saved_command_with_the_handler_of_its_action() {
    let folder = tempfile::tempdir().unwrap();
    let config = written(&folder, "agent.toml", CONFIG);
    let replay = |action: &str, data: &str| {
        let file = saved(&folder, action, data);
        let (code, stdout, stderr) = output(&["replay", &file, "--json", "--config", &config]);
        let delivery: Value =
            serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{e}: {stdout} {stderr}"));
        (code, delivery)
    };
    let (code, delivery) = replay("greet", r#"{ "name": "ada" }"#);
    assert_eq!((code, &delivery["state"]), (0, &"succeeded".into()));
    assert_eq!(delivery["stdout"], "{\"name\":\"ada\"} 3 kiosk\n");
    let (code, delivery) = replay("greet", r#"{"name":"Ada"}"#);
    assert_eq!((code, &delivery["error"]["code"]), (3, &"invalid_params".into()));
    assert!(delivery["error"]["message"].as_str().unwrap().contains("\"name\""), "{delivery}");
    let (code, delivery) = replay("format", "null");
    assert_eq!((code, &delivery["error"]["code"]), (3, &"unknown_action".into()));
}

#[test]
fn a_handler_starts_in_the_root_folder_with_a_closed_umask_and_a_clear_environment() {
    let folder = tempfile::tempdir().unwrap();
    let script = "pwd; umask; env";
    let text = format!(
        "{CONFIG}[actions.look]\nrun = [\"/bin/sh\", \"-c\", {script:?}]\n\
         env = {{ LANG = \"C\" }}\npass_env = [\"PASSED\", \"ABSENT\"]\n\
         [actions.elsewhere]\nrun = [\"/bin/sh\", \"-c\", {script:?}]\n\
         cwd = \"/tmp\"\numask = \"027\"\n"
    );
    let config = written(&folder, "agent.toml", &text);
    let look = |action: &str| {
        let file = saved(&folder, action, "null");
        let mut command = bellwire(&["replay", &file, "--json", "--config", &config]);
        let (_, stdout, stderr) =
            text_of(&command.env("PASSED", "on").env("SECRET", "x").output().unwrap());
        let delivery: Value =
            serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{e}: {stderr}"));
        delivery["stdout"].as_str().unwrap().to_owned()
    };
    let stdout = look("look");
    assert!(stdout.starts_with("/\n0077\n"), "{stdout}");
    for (line, there) in [("LANG=C", true), ("PASSED=on", true), ("SECRET=x", false)] {
        assert_eq!(stdout.lines().any(|l| l == line), there, "{line} in {stdout}");
    }
    assert!(!stdout.contains("ABSENT"), "{stdout}");
    assert!(look("elsewhere").starts_with("/tmp\n0027\n"));
}

#[test]
fn replay_runs_a_program_or_posts_to_a_url_past_every_proxy() {
    let folder = tempfile::tempdir().unwrap();
    let file = saved(&folder, "deploy", "\"to all\"");
    let (code, stdout, _) = output(&["replay", &file, "--exec", "/bin/sh", "-c", "cat; exit 4"]);
    assert_eq!(code, 1);
    assert!(stdout.contains("exit code 4") && stdout.contains("to all"), "{stdout}");

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut byte = [0];
        while !request.ends_with(b"to all") {
            assert_eq!(socket.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&request));
            request.push(byte[0]);
        }
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n[42]").unwrap();
        String::from_utf8(request).unwrap()
    });
    // Nothing listens there: using a proxy would fail.
    let mut command = bellwire(&["replay", &file, "--json", "--to", &url]);
    for proxy in ["http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"] {
        command.env(proxy, "http://127.0.0.1:1");
    }
    let (code, stdout, stderr) = text_of(&command.output().unwrap());
    assert_eq!(code, 0, "{stdout} {stderr}");
    let delivery: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(delivery["result"]["body"], serde_json::json!([42]));
    let request = server.join().unwrap();
    assert!(request.starts_with("POST /hook HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("bellwire-action: deploy\r\n"), "{request}");
}

#[test]
fn a_file_without_a_command_is_a_usage_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = written(&folder, "x.json", "{}");
    let (code, _, stderr) = output(&["replay", &file, "--to", "http://127.0.0.1:1"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("is not what listen --save-dir writes"), "{stderr}");
}

#[test]
fn listen_saves_each_command_for_replay_and_runs_its_program_once() {
    let folder = tempfile::tempdir().unwrap();
    let (_hub, address) = Program::serve_anywhere(BELLWIRE, &folder.path().join("hub"));
    let commands = folder.path().join("commands");
    let script =
        "cat \"$BELLWIRE_DATA_FILE\"; echo BELLWIRE_PROGRESS=40; echo '{\"done\":true}' >&3";
    let url = format!("http://{address}");
    let mut command = bellwire(&["listen", "kiosk", "--hub", &url, "--save-dir"]);
    command.env("NO_PROXY", "127.0.0.1").arg(&commands).args(["--exec", "/bin/sh", "-c", script]);
    let listener = Program::start(&mut command);
    listener.wait_for("listening as kiosk");
    let answer = Http(address)
        .request(
            "POST",
            "/v1/send/kiosk/greet?wait=30s",
            &[("content-type", "text/plain")],
            b"hello",
        )
        .unwrap();
    let delivery = answer.json();
    assert_eq!(
        (&delivery["state"], &delivery["stdout"]),
        (&"succeeded".into(), &"helloBELLWIRE_PROGRESS=40\n".into())
    );
    assert_eq!(delivery["result"], serde_json::json!({"done": true}));
    let files = files(&commands);
    let [file] = files.as_slice() else { panic!("one file: {files:?}") };
    let id = delivery["command"].as_str().unwrap();
    assert_eq!(
        file.file_name().unwrap().to_str().unwrap(),
        format!("{}-greet-{id}.json", delivery["seq"])
    );
    let (code, stdout, _) = output(&["replay", file.to_str().unwrap(), "--json", "--exec", "cat"]);
    let again: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &again["stdout"]), (0, &"hello".into()));
    listener.terminate();
}

#[test]
fn listen_accepts_no_command_that_it_cannot_save() {
    // It printed the failure and answered succeeded: the command was lost.
    let folder = tempfile::tempdir().unwrap();
    let (_hub, address) = Program::serve_anywhere(BELLWIRE, &folder.path().join("hub"));
    let commands = folder.path().join("commands");
    let url = format!("http://{address}");
    let mut command = bellwire(&["listen", "kiosk", "--hub", &url, "--save-dir"]);
    let listener = Program::start(command.arg(&commands).env("NO_PROXY", "127.0.0.1"));
    listener.wait_for("listening as kiosk");
    // It could be used when the listener started.
    std::fs::remove_dir(&commands).unwrap();
    written(&folder, "commands", "a file is no folder");
    let sent = Http(address).request("POST", "/v1/send/kiosk/greet", &[], b"").unwrap().json();
    listener.wait_for("is not saved and not taken");
    let path = format!("/v1/commands/{}/deliveries", sent["command"].as_str().unwrap());
    wait_until("the hub to have it", || {
        let page = Http(address).request("GET", &path, &[], b"").map_err(|e| e.to_string())?;
        let state = page.json()["items"][0]["state"].clone();
        if state == "queued" { Ok(()) } else { Err(format!("{state}")) }
    });
    listener.terminate();
}

/// The files in a folder, once there is one.
fn files(folder: &Path) -> Vec<PathBuf> {
    wait_until("the first file", || {
        let read = std::fs::read_dir(folder).map_err(|e| e.to_string())?;
        let files: Vec<PathBuf> = read.map(|entry| entry.unwrap().path()).collect();
        if files.is_empty() { Err("none yet".to_owned()) } else { Ok(files) }
    })
}
