//! Promise: `agent check` and `agent run` agree on whether an agent can run on this machine, and each says what to do.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message of a test"
)]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use bellwire_testkit::Program;

const BELLWIRE: &str = env!("CARGO_BIN_EXE_bellwire");

/// A folder with a configuration of the given settings.
struct Scene {
    folder: tempfile::TempDir,
}

impl Scene {
    fn new(settings: &str) -> Self {
        let scene = Self { folder: tempfile::tempdir().unwrap() };
        let here = scene.folder.path().display().to_string();
        let state = match settings.contains("state_dir") {
            true => String::new(),
            false => format!("state_dir = '{here}/state'\n"),
        };
        let hub = match settings.contains("hub =") {
            true => "",
            false => "hub = 'http://127.0.0.1:1'\n",
        };
        let text = format!("{hub}device = 'kiosk'\n{state}{}", settings.replace("HERE", &here));
        scene.write("agent.toml", &text, 0o600);
        scene
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        self.write_bytes(name, text.as_bytes(), mode);
    }

    fn write_bytes(&self, name: &str, bytes: &[u8], mode: u32) {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, what: &str) -> Command {
        let mut command = Command::new(BELLWIRE);
        command.args(["agent", what, "--config"]).arg(self.path("agent.toml"));
        command.env_remove("NOTIFY_SOCKET").env("NO_PROXY", "127.0.0.1");
        command
    }
}

fn text_of(output: &Output) -> (Option<i32>, String) {
    let text = [&output.stdout[..], &output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

/// `agent check` said 0.
#[test]
fn what_ends_agent_run_is_a_fault_of_agent_check_with_the_same_words() {
    for (settings, named) in [
        ("ca_file = 'HERE/garbage'\n", "ca_file cannot be used"),
        ("ca_file = 'HERE/missing'\n", "ca_file cannot be used"),
        ("state_dir = 'HERE/garbage'\n", "move that file away"),
        ("state_dir = 'HERE/garbage/below'\n", "move that file away"),
        ("state_dir = 'HERE/open'\n", "can be written by everybody: chmod o-w"),
        ("hub = 'http://127.0.0.1:1/?a=b'\n", "the URL of a hub has no query"),
    ] {
        let scene = Scene::new(settings);
        scene.write("garbage", "no certificate\n", 0o600);
        std::fs::create_dir(scene.path("open")).unwrap();
        let open = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(scene.path("open"), open).unwrap();
        let (code, text) = text_of(&scene.command("check").output().unwrap());
        assert!(matches!(code, Some(1 | 2)), "{settings}: {code:?} {text}");
        assert!(text.contains(named), "{settings}: {text}");
        let checked = code;
        let (code, text) = text_of(&scene.command("run").output().unwrap());
        assert_eq!(code, checked, "{settings}: {text}");
        assert!(text.contains(named), "{settings}: {text}");
    }
}

/// A journal of another device, or a damaged one, ended `agent run` after `agent check` had said 0.
#[test]
fn a_journal_that_no_agent_can_use_is_found_by_agent_check() {
    let scene = Scene::new("");
    let state = scene.path("state");
    std::fs::create_dir(&state).unwrap();
    for (journal, named) in
        [("nothing of an agent\n", "agent journal repair"), ("", "has lost its first line")]
    {
        std::fs::write(state.join("journal"), journal).unwrap();
        for what in ["check", "run"] {
            let (code, text) = text_of(&scene.command(what).output().unwrap());
            assert_eq!(code, Some(1), "{what}: {text}");
            assert!(text.contains(named), "{what}: {text}");
        }
    }
}

/// A script from Windows failed with "No such file", and `agent check` had said 0. An agent that does not start because of one
/// action could not be repaired from afar.
#[test]
fn what_breaks_one_part_is_a_fault_of_agent_check_and_an_error_of_a_running_agent() {
    for (settings, named) in [
        ("[actions.a]\nrun = ['HERE/crlf.sh']\n", "lines that end with CR LF"),
        ("[actions.a]\nrun = ['HERE/lost.sh']\n", "needs /no/such/python, which is not there"),
        ("[actions.a]\nrun = ['HERE/bom.sh']\n", "begins with a byte order mark"),
        ("[actions.a]\nrun = ['HERE/bare']\n", "names no interpreter"),
        ("[actions.a]\nrun = ['HERE/foreign']\n", "is for another machine"),
        ("[actions.a]\nrun = ['HERE/torn']\n", "is cut off"),
        ("[actions.a]\nrun = ['HERE/gone']\n", "names a program that does not exist"),
        ("credential_file = 'HERE/two'\n", "must contain one token"),
        ("credential_file = 'HERE/gone'\n", "credential_file cannot be used"),
    ] {
        let scene = Scene::new(settings);
        scene.write("crlf.sh", "#!/bin/sh\r\necho hello\r\n", 0o755);
        scene.write("lost.sh", "#!/no/such/python -u\n", 0o755);
        scene.write("bom.sh", "\u{feff}#!/bin/sh\necho hello\n", 0o755);
        scene.write("bare", "#!", 0o755);
        // The program itself, as if it were built for a processor that no machine has; and its first bytes.
        let mut foreign = std::fs::read(BELLWIRE).unwrap();
        scene.write_bytes("torn", &foreign[..40], 0o755);
        foreign.truncate(4096);
        foreign[18..20].copy_from_slice(&[0xfe, 0xfe]);
        scene.write_bytes("foreign", &foreign, 0o755);
        scene.write("two", "two tokens\n", 0o600);
        let (code, text) = text_of(&scene.command("check").output().unwrap());
        assert_eq!(code, Some(1), "{settings}: {text}");
        assert!(text.contains(named), "{settings}: {text}");
        let agent = Program::start(&mut scene.command("run"));
        agent.wait_for(named);
        agent.wait_for("ready");
        assert!(agent.terminate().success(), "{settings}");
    }
}

/// The journal was in `/tmp/bellwire`, where any user could have put a folder before.
#[test]
fn a_user_without_a_home_is_asked_for_a_state_folder() {
    // There this process is the user 65534, who has none.
    let mut probe = Command::new("unshare");
    if !probe.args(["--user", "true"]).output().is_ok_and(|output| output.status.success()) {
        assert!(std::env::var_os("CI").is_none(), "no user namespace may be made here");
        eprintln!("no user namespace may be made here: nothing was tested");
        return;
    }
    let scene = Scene::new("");
    scene.write("agent.toml", "hub = 'http://127.0.0.1:1'\ndevice = 'kiosk'\n", 0o644);
    for (what, code) in [("check", 2), ("run", 2)] {
        let command = scene.command(what);
        let mut unmapped = Command::new("unshare");
        unmapped.arg("--user").arg(BELLWIRE).args(command.get_args());
        for name in ["HOME", "XDG_STATE_HOME", "STATE_DIRECTORY"] {
            unmapped.env_remove(name);
        }
        let (found, text) = text_of(&unmapped.output().unwrap());
        assert_eq!(found, Some(code), "{what}: {text}");
        assert!(text.contains("state_dir is not set, and this user has no home"), "{text}");
    }
}

/// `agent check` said 0 of a folder that `agent run` could not make or write to.
#[test]
fn a_state_folder_that_cannot_be_made_or_written_is_found_by_agent_check() {
    let scene = Scene::new("state_dir = '/proc/bellwire/state'\n");
    for what in ["check", "run"] {
        let (code, text) = text_of(&scene.command(what).output().unwrap());
        assert_eq!(code, Some(1), "{what}: {text}");
        assert!(text.contains("file system of the kernel"), "{what}: {text}");
    }
    let mut probe = Command::new("unshare");
    if !probe.args(["--user", "true"]).output().is_ok_and(|output| output.status.success()) {
        assert!(std::env::var_os("CI").is_none(), "no user namespace may be made here");
        eprintln!("no user namespace may be made here: the rest was not tested");
        return;
    }
    let set = |path: PathBuf, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    for state in ["closed", "closed/state", "with-journal"] {
        let scene = Scene::new(&format!("state_dir = 'HERE/{state}'\n"));
        set(scene.path("agent.toml"), 0o644);
        std::fs::create_dir(scene.path("closed")).unwrap();
        std::fs::create_dir(scene.path("with-journal")).unwrap();
        scene.write("with-journal/lock", "", 0o400);
        set(scene.path("closed"), 0o555);
        for what in ["check", "run"] {
            let mut unmapped = Command::new("unshare");
            unmapped.arg("--user").arg(BELLWIRE).args(scene.command(what).get_args());
            let (code, text) = text_of(&unmapped.output().unwrap());
            assert_eq!(code, Some(1), "{state}, {what}: {text}");
            assert!(text.contains("run this as the agent's own user"), "{state}, {what}: {text}");
        }
    }
}

/// The agent went without the proxy that the network needs, and `agent check` said 0.
#[test]
fn a_proxy_of_the_environment_that_cannot_be_read_is_found_by_agent_check() {
    let scene = Scene::new("hub = 'http://hub.example.com'\n");
    let check = |variables: &[(&str, &str)]| {
        let mut command = scene.command("check");
        for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"] {
            command.env_remove(name);
        }
        text_of(&command.envs(variables.iter().copied()).output().unwrap())
    };
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
        let (code, text) = check(&[(name, "ftp://kiosk:s3cret@proxy:3128")]);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains(&format!("{name} (of the environment)")), "{text}");
        assert!(!text.contains("s3cret"), "{text}");
    }
    for unused in [
        &[("HTTP_PROXY", "http://proxy:3128")][..],
        &[("HTTPS_PROXY", "ftp://proxy")],
        &[("HTTP_PROXY", "ftp://proxy"), ("NO_PROXY", "example.com")],
        &[("HTTP_PROXY", "")],
    ] {
        assert_eq!(check(unused).0, Some(0), "{unused:?}: {}", check(unused).1);
    }
    // The agent runs: another way may lead to the hub.
    let mut run = scene.command("run");
    let agent = Program::start(run.env("HTTP_PROXY", "ftp://proxy").env_remove("NO_PROXY"));
    agent.wait_for("HTTP_PROXY (of the environment)");
    agent.wait_for("ready");
}

/// A wrong file was 1 in `agent check` and 2 in `agent run`; and of an agent that starts without one of its actions
/// `agent check` said that none works.
#[test]
fn a_wrong_configuration_has_the_same_exit_code_everywhere_and_the_summary_says_what_it_stops() {
    let scene = Scene::new("colour = 'red'\n");
    for (what, file) in
        [("check", "agent.toml"), ("run", "agent.toml"), ("check", "gone"), ("run", "gone")]
    {
        let mut command = Command::new(BELLWIRE);
        command.args(["agent", what, "--config"]).arg(scene.path(file));
        let (code, text) = text_of(&command.output().unwrap());
        assert_eq!(code, Some(2), "{what} {file}: {text}");
    }
    let (_, text) = text_of(&scene.command("check").output().unwrap());
    assert!(text.contains("no agent starts with it"), "{text}");
    let scene = Scene::new("[actions.a]\nrun = ['HERE/gone']\n");
    let (code, text) = text_of(&scene.command("check").output().unwrap());
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("an agent starts, and this part of it does not work"), "{text}");
}
