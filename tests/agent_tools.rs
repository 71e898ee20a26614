//! Promise: what stands around the agent does what its help says: the configuration is checked and
//! extended, commands are saved by `listen` and given to a handler again by `replay`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message of a test"
)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
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
    told(&bellwire(args).output().unwrap())
}

/// Exit code, standard output, standard error.
fn told(output: &Output) -> (i32, String, String) {
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
        r#"{{"device":"kiosk","id":"018bcfe5-6800-7007-8707-070707070707","seq":5,"action":"{action}",
        "data":{data},"attempt":3,"created_at":"2026-01-01T00:00:00.000Z",
        "expires_at":"2026-01-01T01:00:00.000Z","ttl_s":60,"run_timeout_s":60}}"#
    );
    written(folder, &format!("5-{action}.json"), &text)
}

#[test]
fn check_says_what_each_action_would_do_and_warns_of_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let config =
        written(&folder, "agent.toml", &format!("{CONFIG}[actions.gone]\nrun = [\"/no/such\"]\n"));
    let (code, stdout, stderr) = output(&["agent", "check", "--config", &config]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("greet runs /bin/sh -c "), "{stdout}");
    assert!(
        stderr.contains("actions.gone.run names a program that is not there: /no/such"),
        "{stderr}"
    );
}

#[test]
fn check_reports_every_fault_with_its_key_and_exits_1() {
    let folder = tempfile::tempdir().unwrap();
    let config = written(&folder, "agent.toml", "hub = 5\n[actions.a]\nrun = 'x'\nspeed = 1\n");
    let (code, _, stderr) = output(&["agent", "check", "--config", &config]);
    assert_eq!(code, 1);
    for key in
        ["hub is 5", "device is missing", "actions.a.run is", "actions.a.speed is not a setting"]
    {
        assert!(stderr.contains(key), "{key} in {stderr}");
    }
    let (code, stdout, _) = output(&["agent", "check", "--json", "--config", &config]);
    let checked: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &checked["ok"]), (1, &Value::Bool(false)));
    assert_eq!(checked["faults"].as_array().unwrap().len(), 4);
    let (code, _, stderr) = output(&["agent", "check", "--config", "/no/such.toml"]);
    assert_eq!(code, 1, "{stderr}");
}

#[test]
fn on_adds_an_action_and_leaves_the_rest_as_it_was() {
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
    // What is there already, or would not be read, is refused and changes nothing.
    for args in [&["greet", "--", "/bin/true"][..], &["new", "--", "./relative"]] {
        let (code, _, stderr) = add(args);
        assert_eq!(code, 2, "{stderr}");
        assert_eq!(std::fs::read_to_string(&config).unwrap(), text);
    }
}

#[test]
fn replay_gives_a_saved_command_to_the_handler_of_its_action() {
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
fn a_handler_of_the_list_starts_in_the_root_folder_with_a_closed_umask_and_a_clear_environment() {
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
            told(&command.env("PASSED", "on").env("SECRET", "x").output().unwrap());
        let delivery: Value =
            serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{e}: {stderr}"));
        delivery["stdout"].as_str().unwrap().to_owned()
    };
    let said = look("look");
    assert!(said.starts_with("/\n0077\n"), "{said}");
    for (line, there) in [("LANG=C", true), ("PASSED=on", true), ("SECRET=x", false)] {
        assert_eq!(said.lines().any(|l| l == line), there, "{line} in {said}");
    }
    assert!(!said.contains("ABSENT"), "{said}");
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
    // Nobody listens there: a proxy that was asked would fail it.
    let mut command = bellwire(&["replay", &file, "--json", "--to", &url]);
    for proxy in ["http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"] {
        command.env(proxy, "http://127.0.0.1:1");
    }
    let (code, stdout, stderr) = told(&command.output().unwrap());
    assert_eq!(code, 0, "{stdout} {stderr}");
    let delivery: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(delivery["result"]["body"], serde_json::json!([42]));
    let request = server.join().unwrap();
    assert!(request.starts_with("POST /hook HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("bellwire-action: deploy\r\n"), "{request}");
}

#[test]
fn a_file_that_is_no_command_is_a_mistake_of_the_caller() {
    let folder = tempfile::tempdir().unwrap();
    let file = written(&folder, "x.json", "{}");
    let (code, _, stderr) = output(&["replay", &file, "--to", "http://127.0.0.1:1"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("is not what listen --save-dir writes"), "{stderr}");
}

#[test]
fn listen_saves_each_command_for_replay_and_runs_its_program_once() {
    let folder = tempfile::tempdir().unwrap();
    let any_port: SocketAddr = ([127, 0, 0, 1], 0).into();
    let (_hub, address) = Program::serve(BELLWIRE, &folder.path().join("hub"), any_port);
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

/// Those in a folder, once there is one.
fn files(folder: &Path) -> Vec<PathBuf> {
    wait_until("the first file", || {
        let read = std::fs::read_dir(folder).map_err(|e| e.to_string())?;
        let files: Vec<PathBuf> = read.map(|entry| entry.unwrap().path()).collect();
        if files.is_empty() { Err("none yet".to_owned()) } else { Ok(files) }
    })
}
