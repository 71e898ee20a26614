//! Standard output or standard error on a full disk: a service goes on and logs it, a tool prints an error and exits 1, and
//! none panics.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message of a test"
)]

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use bellwire_testkit::{Http, wait_until};
use serde_json::Value;

const BELLWIRE: &str = env!("CARGO_BIN_EXE_bellwire");

fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

fn bellwire(args: &[&str]) -> Command {
    let mut command = Command::new(BELLWIRE);
    command.args(args).env_remove("BELLWIRE_HUB").env("NO_PROXY", "127.0.0.1");
    command.stdin(Stdio::null());
    command
}

/// A service whose standard output is on a full disk. Killed when dropped.
struct Service {
    child: Child,
    log: BufReader<std::process::ChildStderr>,
}

impl Service {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(full()).stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        Self { child, log }
    }

    /// The next line of its log with this text.
    fn wait_for(&mut self, text: &str) -> String {
        let mut log = String::new();
        loop {
            let mut line = String::new();
            let bytes = self.log.read_line(&mut line).unwrap();
            assert_ne!(bytes, 0, "it ended without {text:?}: {log}");
            if line.contains(text) {
                return line;
            }
            log.push_str(&line);
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn serve(data_dir: &Path) -> (Service, SocketAddr) {
    let mut command = bellwire(&["serve", "--listen", "127.0.0.1:0", "--data-dir"]);
    let mut hub = Service::start(command.arg(data_dir));
    let line = hub.wait_for("listening on http://");
    assert!(line.contains("WARN") && line.contains("No space left"), "{line}");
    let address = line.split("http://").nth(1).unwrap().split(';').next().unwrap();
    (hub, address.parse().unwrap())
}

/// The delivery of a command that was posted.
fn delivery(http: Http, sent: &Value) -> Value {
    let id = sent["command"].as_str().unwrap();
    http.get(&format!("/v1/commands/{id}/deliveries")).unwrap().json()["items"][0].clone()
}

/// The hub did not start because of its banner, and a listener ended at its first command.
#[test]
fn services_go_on_and_log_it() {
    let folder = tempfile::tempdir().unwrap();
    let (_hub, address) = serve(&folder.path().join("hub"));
    let (http, url) = (Http(address), format!("http://{address}"));

    for form in [&[][..], &["--json"]] {
        let mut command = bellwire(&[&["listen", "kiosk", "--hub", &url], form].concat());
        let mut listener = Service::start(command.args(["--exec", "/bin/echo", "pong"]));
        listener.wait_for("listening as");
        for _ in 0..2 {
            let answer = http.request("POST", "/v1/send/kiosk/ping?wait=60s", &[], b"").unwrap();
            assert_eq!(answer.json()["stdout"], "pong\n", "{}", answer.json());
            listener.wait_for("No space left");
        }
    }
}

/// What is only printed was answered succeeded, though no line of it was written.
#[test]
fn a_command_that_cannot_be_printed_is_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let (_hub, address) = serve(&folder.path().join("hub"));
    let http = Http(address);
    let mut listener =
        Service::start(&mut bellwire(&["listen", "kiosk", "--hub", &format!("http://{address}")]));
    listener.wait_for("listening as");
    let sent = http.request("POST", "/v1/send/kiosk/ping", &[], b"").unwrap().json();
    listener.wait_for("is not shown");
    wait_until("the hub to have it again", || match delivery(http, &sent) {
        delivery if delivery["state"] == "queued" && delivery["attempt"] != 0 => Ok(()),
        other => Err(other.to_string()),
    });
}

/// `devices` panicked, with exit code 101; completions and the manual were cut off with exit code 0.
#[test]
fn tools_print_an_error_and_exit_1() {
    let folder = tempfile::tempdir().unwrap();
    let (_hub, address) = serve(&folder.path().join("hub"));
    let url = format!("http://{address}");
    let config = folder.path().join("agent.toml");
    let agent = format!("hub = \"{url}\"\ndevice = \"kiosk\"\nstate_dir = {:?}\n", folder.path());
    std::fs::write(&config, agent).unwrap();
    let sent = Http(address).request("POST", "/v1/send/k/p", &[], b"").unwrap().json();
    let id = sent["command"].as_str().unwrap();
    Http(address).request("POST", "/v1/send/other/p", &[], b"").unwrap();
    let new = folder.path().join("new.toml");
    let new = new.to_str().unwrap();
    for args in [
        &["devices"][..],
        &["devices", "--json"],
        &["send", "k", "p"],
        &["send", "k", "p", "--json"],
        &["status", id],
        &["watch", id],
        &["cancel", id],
        &["devices", "remove", "k", "other"],
        &["agent", "init", &url, "kiosk", "--config", new],
        &["agent", "on", "pong", "--config", new, "--", "/bin/echo"],
        &["agent", "check", "--config", config.to_str().unwrap()],
        &["config", "check"],
        &["config", "check", "--json"],
        &["demo"],
        &["completions", "bash"],
        &["man"],
        &["--help"],
        &["--version"],
        &["help", "send"],
    ] {
        let mut command = bellwire(args);
        let output = command.env("BELLWIRE_HUB", &url).stdout(full()).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {stderr}");
        assert!(stderr.contains("No space left"), "{args:?}: {stderr}");
        let (what, done) = match args[0] {
            "cancel" => ("cancel", "was cancelled"),
            "devices" if args[1..].first() == Some(&"remove") => {
                ("devices remove", "removed: k, other")
            }
            "agent" if args[1] == "init" => ("agent init", "new.toml was written"),
            "agent" if args[1] == "on" => ("agent on", "pong was added to"),
            other => (other, ""),
        };
        assert!(stderr.contains(done), "{what} does not say what was done: {stderr}");
        assert!(args[0] != "send" || stderr.contains("the command 0"), "the id stays: {stderr}");
    }
    for program in [
        env!("CARGO_BIN_EXE_eventsource-server"),
        env!("CARGO_BIN_EXE_eventsource-client"),
        env!("CARGO_BIN_EXE_eventsource-request"),
    ] {
        let output = Command::new(program).arg("--help").stdout(full()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{program}: {output:?}");
    }
}

/// A reader that has had enough, as `head`, is not a failure.
#[test]
fn a_reader_that_ends_early_is_not_an_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = bellwire(&["completions", "bash"]).stdout(writer).output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
}

/// A log on a full disk ended what logged: it is where panics come from that no log shows.
#[test]
fn standard_error_on_a_full_disk_ends_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = bellwire(&["serve", "--listen", "127.0.0.1:0", "--data-dir"]);
    command.arg(folder.path().join("hub")).stdout(Stdio::piped()).stderr(full());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let url = line.split("listening on ").nth(1).unwrap_or_else(|| panic!("{line:?}")).trim();
    for (args, code) in [
        (&["send", "k", "p"][..], 0),
        (&["devices"], 0),
        (&["send", "k", "p", "--known"], 1),
        (&["send", "k", "p", "{"], 2),
        (&["send", "k", "p", "--dry-run"], 2),
    ] {
        let mut command = bellwire(args);
        let output = command.env("BELLWIRE_HUB", url).stderr(full()).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}
