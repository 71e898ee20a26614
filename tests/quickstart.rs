//! Promise: the commands of `docs/quickstart-agent.md` do what the page says, in its order.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message of a test"
)]

use std::path::Path;
use std::process::Command;

use bellwire_testkit::Program;

const BELLWIRE: &str = env!("CARGO_BIN_EXE_bellwire");
const PAGE: &str = include_str!("../docs/quickstart-agent.md");
/// The address in the page.
const ADDRESS: &str = "127.0.0.1:8888";

/// The commands of each terminal.
fn blocks() -> Vec<&'static str> {
    PAGE.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

/// A shell in the folder that runs these lines; the last one replaces it, so that it can be ended.
fn shell(folder: &Path, lines: &str, address: &str) -> Command {
    let lines = lines.trim_end().replace(ADDRESS, address);
    let script = match lines.rsplit_once('\n') {
        Some((before, last)) => format!("{before}\nexec {last}"),
        None if lines.contains("||") => lines,
        None => format!("exec {lines}"),
    };
    let path = format!(
        "{}:{}",
        Path::new(BELLWIRE).parent().unwrap().display(),
        std::env::var("PATH").unwrap()
    );
    let mut shell = Command::new("sh");
    shell.args(["-ec", &script]).current_dir(folder).env("PATH", path);
    // The state folder of a user; that of root is outside of the test's folder.
    shell.env("HOME", folder).env("STATE_DIRECTORY", folder.join("state"));
    shell.env("BELLWIRE_HUB", format!("http://{address}")).env("NO_PROXY", "127.0.0.1");
    shell.env_remove("NOTIFY_SOCKET").env_remove("XDG_STATE_HOME");
    shell
}

#[test]
fn the_commands_of_the_page_run_in_their_order() {
    let [hub, appliance, send, refused] = blocks()[..] else { panic!("the page has changed") };
    let folder = tempfile::tempdir().unwrap();
    let hub = Program::start(&mut shell(folder.path(), hub, "127.0.0.1:0"));
    let address = &hub.address().to_string();

    let agent = Program::start(&mut shell(folder.path(), appliance, address));
    agent.wait_for("connected");
    assert!(agent.output().contains("kiosk-7 at http://"), "{}", agent.output());

    let output = shell(folder.path(), send, address).output().unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success() && text.contains("succeeded"), "{text}");
    let output = shell(folder.path(), refused, address).output().unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success() && text.contains("rejected"), "{text}");

    assert!(agent.terminate().success());
}

/// A second `init` must not lose what the first one and its owner wrote.
#[test]
fn init_writes_a_configuration_that_check_accepts_and_replaces_none() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let init = |arguments: &str| {
        let line = format!("bellwire agent init {arguments} --config new/agent.toml");
        let output = shell(folder.path(), &line, ADDRESS).output().unwrap();
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    std::fs::write(folder.path().join("token"), "bw_1\n").unwrap();
    let (code, text) = init("'http://u:pass\"word@127.0.0.1:1' kiosk-7 --token-file token");
    assert_eq!(code, Some(0), "{text}");
    let path = folder.path().join("new/agent.toml");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let written = std::fs::read_to_string(&path).unwrap();
    let token = folder.path().join("token").display().to_string();
    assert!(written.contains(&format!("credential_file = \"{token}\"")), "{written}");
    let check = shell(folder.path(), "bellwire agent check --config new/agent.toml", ADDRESS);
    assert!({ check }.status().unwrap().success());
    let (code, text) = init("http://127.0.0.1:2 other");
    assert_eq!(code, Some(2), "{text}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), written);
    std::fs::remove_file(&path).unwrap();
    let (code, text) = init("ftp://127.0.0.1 kiosk-7");
    assert_eq!(code, Some(2), "{text}");
    assert!(!path.exists(), "{text}");
}
