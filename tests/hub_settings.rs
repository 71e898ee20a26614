//! `bellwire serve` and `bellwire config check`: what a hub is refused or warned for, and what it notices while it runs,
//! with the real program.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message of a test"
)]

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bellwire_testkit::{Http, Program, command, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const BELLWIRE: &str = env!("CARGO_BIN_EXE_bellwire");

fn bellwire(args: &[&str]) -> Command {
    command(BELLWIRE, args)
}

fn run(args: &[&str]) -> Output {
    bellwire(args).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("killed: {output:?}"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_owned()).unwrap()
}

fn tls(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../hub/tests/fixtures/tls").join(name)
}

/// Starts a hub on a free port; gives it and its address.
fn serve(command: &mut Command) -> (Program, SocketAddr) {
    let hub = Program::start(command.args(["serve", "--listen", "127.0.0.1:0"]));
    let line = hub.wait_for("listening on http");
    let address = line.split("://").nth(1).unwrap().split_whitespace().next().unwrap();
    let address = address.trim_end_matches(';').parse().unwrap();
    (hub, address)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// `config check` said ok, and `serve` refused the same file.
#[test]
fn config_check_refuses_what_serve_refuses_and_for_the_same_reason() {
    let folder = tempfile::tempdir().unwrap();
    let (file, encrypted) = (folder.path().join("hub.toml"), folder.path().join("encrypted.key"));
    let pem = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n";
    fs::write(&encrypted, pem).unwrap();
    let pair = |cert: &Path, key: &Path| format!("tls_cert = {cert:?}\ntls_key = {key:?}\n");
    let (cert, key) = (tls("cert.pem"), tls("key.pem"));
    for (settings, reason) in [
        ("listen = '0.0.0.0:0'".to_owned(), "open"),
        (pair(&tls("missing.pem"), &key), "missing.pem"),
        (pair(&cert, &tls("missing.pem")), "missing.pem"),
        (pair(&cert, folder.path()), "cannot use"),
        (pair(&key, &cert), "holds no certificate"),
        (pair(&cert, &cert), "holds no private key"),
        (pair(&cert, &encrypted), "is encrypted"),
        (pair(&cert, &encrypted), "openssl pkey"),
        (pair(&cert, &tls("other-key.pem")), "other-key.pem"),
        ("lease = 'soon'".to_owned(), "lease"),
    ] {
        let listen = if settings.contains("listen") { "" } else { "listen = '127.0.0.1:0'\n" };
        fs::write(&file, format!("{listen}{settings}")).unwrap();
        let checked = bellwire(&["config", "check", "--config"]).arg(&file).output().unwrap();
        assert_eq!(code(&checked), 2, "{settings}: {checked:?}");
        let shown = text(&checked.stderr);
        assert!(shown.contains(reason), "{settings}: {shown}");
        let served = bellwire(&["serve", "--config"]).arg(&file).current_dir(&folder).output();
        let served = served.unwrap();
        assert_eq!(code(&served), 2, "{settings}: {served:?}");
        assert!(text(&served.stderr).contains(shown.trim_end()), "{shown} and {served:?}");
    }
    assert!(!folder.path().join("bellwire-data").exists(), "nothing was made of a refused hub");

    // Every fault, for machines too.
    fs::write(&file, format!("listen = '0.0.0.0:0'\n{}", pair(&cert, &cert))).unwrap();
    let checked = bellwire(&["config", "check", "--json", "--config"]).arg(&file).output().unwrap();
    let printed: Value = serde_json::from_slice(&checked.stdout).unwrap();
    assert_eq!((&printed["ok"], printed["faults"].as_array().unwrap().len()), (&false.into(), 2));
}

/// It printed `listen = 127.0.0.1:8888`, which is no TOML.
#[test]
fn what_config_check_prints_is_a_configuration_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hub.toml");
    let flags =
        ["config", "check", "--listen", "0.0.0.0:1,[::1]:2", "--open", "--data-dir", "a 'b' \"c\""];
    let first = bellwire(&flags)
        .env("BELLWIRE_CORS_ORIGINS", "https://ops.example.com, http://x:80")
        .env("BELLWIRE_LEASE", "20s")
        .output()
        .unwrap();
    assert_eq!(code(&first), 0, "{first:?}");
    fs::write(&file, &first.stdout).unwrap();
    let second = bellwire(&["config", "check", "--config"]).arg(&file).output().unwrap();
    assert_eq!(text(&second.stdout), text(&first.stdout), "{second:?}");
    for line in [
        "\nlease = \"20s\"",
        "\n# history = \"30d\"",
        "\n# header_timeout = \"10s\"",
        "\n# queue_max = 100",
        "\n# connections_max = 200000",
        "open = true",
        "\"https://ops.example.com\", \"http://x\"",
    ] {
        assert!(text(&first.stdout).contains(line), "{line}: {}", text(&first.stdout));
    }
}

/// A hub did not start in a cluster that has a Service named `bellwire`.
#[test]
fn foreign_variables_are_named_in_a_warning_and_a_misspelt_setting_is_found_by_strict() {
    let folder = tempfile::tempdir().unwrap();
    let foreign = [
        ("BELLWIRE_SERVICE_HOST", "10.0.0.1"),
        ("BELLWIRE_SERVICE_PORT", "8888"),
        ("BELLWIRE_PORT", "tcp://10.0.0.1:8888"),
        ("BELLWIRE_PORT_8888_TCP_ADDR", "10.0.0.1"),
    ];
    let (hub, address) =
        serve(bellwire(&[]).envs(foreign).env("BELLWIRE_DATA_DIR", folder.path().join("hub")));
    assert_eq!(Http(address).get("/readyz").unwrap().status, 200);
    let warning = hub.wait_for("the hub has no such settings");
    for (name, _) in foreign {
        assert!(warning.contains(name), "{warning}");
    }

    let check =
        |args: &[&str]| bellwire(args).envs(foreign).env("BELLWIRE_LAESE", "1s").output().unwrap();
    let lenient = check(&["config", "check"]);
    assert_eq!(code(&lenient), 0, "{lenient:?}");
    assert!(text(&lenient.stderr).contains("BELLWIRE_LAESE"), "{lenient:?}");
    let lenient = check(&["config", "check", "--json"]);
    let printed: Value = serde_json::from_slice(&lenient.stdout).unwrap();
    assert!(printed["warnings"][0].as_str().unwrap().contains("BELLWIRE_LAESE"), "{printed}");
    let settings = &printed["settings"];
    assert_eq!((&settings["queue_max"], &settings["lease"]), (&100.into(), &"30s".into()));
    assert_eq!(settings["listen"][0], "127.0.0.1:8888");
    let strict = check(&["config", "check", "--strict"]);
    assert_eq!(code(&strict), 2, "{strict:?}");
    assert!(text(&strict.stderr).contains("BELLWIRE_LAESE is not a setting"), "{strict:?}");

    // What a handler of the agent finds, and what clients read, is not foreign.
    let ours = [
        "COMMAND",
        "ACTION",
        "DEVICE",
        "ATTEMPT",
        "EXPIRES_AT",
        "DATA_FILE",
        "HUB",
        "TOKEN",
        "CONTEXT",
    ];
    let ours = ours.map(|name| (format!("BELLWIRE_{name}"), "x"));
    let inside = bellwire(&["config", "check", "--strict"]).envs(ours).output().unwrap();
    assert_eq!((code(&inside), text(&inside.stderr)), (0, String::new()));
}

/// Sends were answered 202 into files that no path led to any more.
#[test]
fn a_data_folder_that_is_deleted_under_a_running_hub_is_noticed() {
    for deleted in ["the folder", "bellwire.db", "bellwire.db-wal"] {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = folder.path().join("hub");
        let (hub, address) = serve(bellwire(&[]).env("BELLWIRE_DATA_DIR", &data_dir));
        let http = Http(address);
        assert_eq!(http.post_json("/v1/send/d/a", "").unwrap().status, 202);
        match deleted {
            "the folder" => fs::remove_dir_all(&data_dir).unwrap(),
            file => fs::remove_file(data_dir.join(file)).unwrap(),
        }
        let sent = http.post_json("/v1/send/d/a", "").unwrap();
        assert_eq!(
            (sent.status, &sent.json()["code"]),
            (503, &"store_unavailable".into()),
            "{deleted}"
        );
        // What was refused was counted as queued.
        let devices = http.get("/v1/devices").unwrap();
        assert_eq!(devices.json()["items"][0]["queued"], 1, "{deleted}: {devices:?}");
        assert_eq!(http.get("/readyz").unwrap().status, 503, "{deleted}");
        assert_eq!(http.get("/healthz").unwrap().status, 200, "{deleted}");
        hub.wait_for("was deleted, moved or replaced while the hub was running");
    }
    // Without a send too, and when another file is in its place.
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("hub");
    let (hub, address) = serve(bellwire(&[]).env("BELLWIRE_DATA_DIR", &data_dir));
    fs::rename(&data_dir, folder.path().join("moved")).unwrap();
    fs::create_dir(&data_dir).unwrap();
    fs::write(data_dir.join("bellwire.db"), "").unwrap();
    assert_eq!(Http(address).get("/readyz").unwrap().status, 503);
    hub.wait_for("was deleted, moved or replaced while the hub was running");
}

/// A copy has the modes of the umask under which it was made, and the hub did not warn.
#[test]
fn a_restored_backup_that_others_may_read_is_made_private_and_that_is_logged() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (folder.path().join("old"), folder.path().join("new"));
    let (hub, address) = serve(bellwire(&[]).env("BELLWIRE_DATA_DIR", &old));
    assert_eq!(Http(address).post_json("/v1/send/d/secret", "").unwrap().status, 202);
    hub.terminate();
    fs::create_dir(&new).unwrap();
    fs::copy(old.join("bellwire.db"), new.join("bellwire.db")).unwrap();
    fs::set_permissions(&new, Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(new.join("bellwire.db"), Permissions::from_mode(0o644)).unwrap();

    let (hub, address) = serve(bellwire(&[]).env("BELLWIRE_DATA_DIR", &new));
    assert_eq!(mode(&new), 0o700);
    for file in ["bellwire.db", "bellwire.db-wal", "bellwire.db-shm", "lock"] {
        assert_eq!(mode(&new.join(file)), 0o600, "{file}");
    }
    hub.wait_for("(mode 0755): its mode is now 0700");
    hub.wait_for("(mode 0644): its mode is now 0600");
    let commands = Http(address).get("/v1/commands").unwrap().json();
    assert_eq!(commands["items"][0]["action"], "secret");
    hub.terminate();
    // Once repaired, there is nothing to say.
    let (hub, _) = serve(bellwire(&[]).env("BELLWIRE_DATA_DIR", &new));
    hub.wait_for("ready;");
    assert!(!hub.output().contains("mode"), "{}", hub.output());
}

/// It said that certificate and key were read again.
#[test]
fn sighup_reports_what_was_read_again_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let hang_up = |hub: &Program| {
        let pid = Pid::from_raw(i32::try_from(hub.id()).unwrap()).unwrap();
        kill_process(pid, Signal::HUP).unwrap();
    };
    let (hub, _) = serve(bellwire(&[]).env("BELLWIRE_DATA_DIR", folder.path().join("plain")));
    hub.wait_for("ready;");
    hang_up(&hub);
    hub.wait_for("nothing to read again");
    assert!(!hub.output().contains("certificate"), "{}", hub.output());

    let mut command = bellwire(&[]);
    command.env("BELLWIRE_TLS_CERT", tls("cert.pem")).env("BELLWIRE_TLS_KEY", tls("key.pem"));
    let (hub, _) = serve(command.env("BELLWIRE_DATA_DIR", folder.path().join("tls")));
    hub.wait_for("ready;");
    hang_up(&hub);
    hub.wait_for("certificate and key read again");
}

/// The warning stood before every error, although the number was the default.
#[test]
fn the_limit_of_connections_is_mentioned_when_they_come_near_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 160 && exec \"$@\"", "sh", BELLWIRE]);
    let (hub, address) = serve(command.env("BELLWIRE_DATA_DIR", folder.path().join("hub")));
    hub.wait_for("ready;");
    let http = Http(address);
    let mut streams = Vec::new();
    for n in 0..60 {
        if n == 50 {
            assert!(!hub.output().contains("connections"), "{}", hub.output());
        }
        let mut stream = http.stream(&format!("/v1/devices/d{n}/stream")).unwrap();
        stream.expect("hello");
        streams.push(stream);
    }
    hub.wait_for("few connections more can be accepted");
    assert_eq!(hub.output().matches("few connections more").count(), 1, "{}", hub.output());
}

#[test]
fn a_hub_starts_when_its_banner_cannot_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$@\" > /dev/full", "sh", BELLWIRE]);
    let (hub, address) = serve(command.env("BELLWIRE_DATA_DIR", folder.path().join("hub")));
    hub.wait_for("standard output cannot be written");
    assert_eq!(Http(address).get("/readyz").unwrap().status, 200);
}

/// `serve --json` printed its line for people.
#[test]
fn serve_with_json_prints_one_value_with_the_addresses() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("hub");
    let at = ["--listen", "127.0.0.1:0", "--listen", "[::1]:0", "--json"];
    let mut command = bellwire(&[&["serve"][..], &at].concat());
    let hub = Program::start(command.env("BELLWIRE_DATA_DIR", &data_dir));
    // Standard output and the log are two pipes, of which either may be read first.
    hub.wait_for("\"version\"");
    hub.wait_for("ready;");
    let output = hub.output();
    let line = output.lines().find(|line| line.starts_with('{')).unwrap();
    let value: serde_json::Value = serde_json::from_str(line).unwrap();
    let listening = value["listening"].as_array().unwrap();
    assert_eq!((listening.len(), value["version"].is_string()), (2, true), "{line}");
    assert!(listening[0].as_str().unwrap().starts_with("http://127.0.0.1:"), "{line}");
    assert!(!output.contains("listening on"), "{output}");
}

/// A page that a user of the hub's machine opened could send to every appliance.
#[test]
fn a_page_of_another_origin_cannot_send_to_a_hub_as_it_is_started() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = bellwire(&[]);
    command.env("BELLWIRE_CORS_ORIGINS", "https://ops.example.com").env("BELLWIRE_CLASSIC", "true");
    let (_hub, address) = serve(command.env("BELLWIRE_DATA_DIR", folder.path().join("hub")));
    let post = |path: &str, origin: &str| {
        let headers = [("Content-Type", "text/plain"), ("Origin", origin)];
        Http(address).request("POST", path, &headers, b"x").unwrap().status
    };
    assert_eq!(post("/v1/send/door/open", "https://evil.example"), 403);
    assert_eq!(post("/v1/send/door/open", "https://ops.example.com"), 202);
    assert_eq!(post("/v1/send/door/open", &format!("http://{address}")), 202);
    assert_eq!(post("/ping/token", "https://evil.example"), 403);
    wait_until("the program to answer by its address", || {
        let devices = Http(address).get("/v1/devices").map_err(|e| e.to_string())?;
        if devices.status == 200 { Ok(()) } else { Err(devices.head) }
    });
    // The classic server by itself has the rule for pages too.
    let mut command = Command::new(env!("CARGO_BIN_EXE_eventsource-server"));
    let server = Program::start(command.args(["-H", "127.0.0.1", "-P", "0"]));
    let address = server.address();
    let foreign = [("Origin", "https://evil.example")];
    let refused = Http(address).request("POST", "/ping/token", &foreign, b"x").unwrap();
    assert_eq!(refused.status, 403, "{refused:?}");
    assert_eq!(run(&["config", "check"]).status.code(), Some(0));
}

/// A page whose name resolved to 127.0.0.1 was the own origin of a hub that listens on every address.
#[test]
fn a_hub_on_every_address_checks_the_host_of_clients_of_its_machine() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = bellwire(&["serve", "--listen", "0.0.0.0:0", "--open", "--data-dir"]);
    let hub = Program::start(command.arg(folder.path().join("hub")));
    let port = hub.address().port();
    let get = |host: &str| {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        Http(address).get(&format!("http://{host}/v1/devices")).unwrap().status
    };
    assert_eq!(get("evil.example"), 403);
    assert_eq!(get("localhost"), 200);
    assert_eq!(get("192.0.2.1"), 200);
}

/// `BELLWIRE_LISTEN=` of a container file was an address that is none; clients and the agent take it for unset.
#[test]
fn an_empty_variable_is_no_setting() {
    let checked = bellwire(&["config", "check"]).env("BELLWIRE_LISTEN", "").output().unwrap();
    assert_eq!(code(&checked), 0, "{checked:?}");
    assert!(text(&checked.stdout).contains("# listen = "), "{checked:?}");
}

/// Only the first of several lines was an error.
#[test]
fn several_faults_are_a_list_below_one_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hub.toml");
    fs::write(&file, "lease = 'soon'\ncolour = 'red'\n").unwrap();
    for command in [&["config", "check", "--config"][..], &["serve", "--config"]] {
        let refused = bellwire(command).arg(&file).output().unwrap();
        let printed = text(&refused.stderr);
        let lines: Vec<_> = printed.lines().collect();
        assert_eq!(code(&refused), 2, "{printed}");
        assert!(lines[0].contains("error:") && lines[0].contains("2 faults"), "{printed}");
        assert!(
            lines.len() == 3 && lines[1..].iter().all(|line| line.starts_with("  ")),
            "{printed}"
        );
    }
}
