//! Promise: the unit of the hub, `packaging/bellwire-hub.service`, does what it says: its `ExecStart` runs as a service of
//! `Type=notify`, its `ExecReload` reads the certificate again, and stopping it is orderly.
//!
//! The part of systemd is played by a socket that receives notifications (sd_notify(3)).

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message of a test"
)]

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bellwire_testkit::{Http, Program};

/// Longer than anything here takes.
const BOUND: Duration = Duration::from_secs(30);

/// The values of a key of the unit, in order.
fn values(unit: &str, key: &str) -> Vec<String> {
    let of_key = |line: &str| Some(line.strip_prefix(key)?.strip_prefix('=')?.to_owned());
    unit.lines().filter_map(of_key).collect()
}

#[test]
fn the_hub_notifies_the_service_manager_that_its_unit_names() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/bellwire-hub.service");
    let unit = fs::read_to_string(unit).unwrap();
    assert_eq!(values(&unit, "Type"), ["notify"]);
    assert_eq!(values(&unit, "ExecReload"), ["/bin/kill -HUP $MAINPID"]);
    // After a mistake in the settings it is not started again.
    assert_eq!(values(&unit, "RestartPreventExitStatus"), ["2"]);

    let folder = tempfile::tempdir().unwrap();
    let (config, state) = (folder.path().join("hub.toml"), folder.path().join("state"));
    let tls = |name: &str| {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../hub/tests/fixtures/tls").join(name)
    };
    let settings = format!(
        "listen = '127.0.0.1:0'\ntls_cert = {:?}\ntls_key = {:?}\n",
        tls("cert.pem"),
        tls("key.pem")
    );
    fs::write(&config, settings).unwrap();
    let socket = folder.path().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(BOUND)).unwrap();
    let notified = || {
        let mut bytes = [0; 256];
        let length = manager.recv(&mut bytes).expect("a notification of the hub");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };

    let exec = values(&unit, "ExecStart").pop().unwrap();
    let exec = exec.replace("/etc/bellwire/hub.toml", config.to_str().unwrap());
    let (program, args) = exec.split_once(' ').unwrap();
    assert_eq!(program, "/usr/bin/bellwire");
    let mut command = Command::new(env!("CARGO_BIN_EXE_bellwire"));
    command.args(args.split(' ')).env("NOTIFY_SOCKET", &socket);
    for variable in values(&unit, "Environment") {
        let variable = variable.replace("%S", state.to_str().unwrap());
        let (name, value) = variable.split_once('=').unwrap();
        command.env(name, value);
    }
    let hub = Program::start(&mut command);
    assert_eq!(notified(), "READY=1");
    // Ready means that it listens, and the data folder is that of the unit.
    let line = hub.wait_for("listening on https://");
    let address = line.split("https://").nth(1).unwrap().trim().parse().unwrap();
    assert!(Http(address).get("/healthz").is_err(), "it speaks TLS alone");
    assert!(state.join("bellwire-hub/bellwire.db").is_file());

    let mut reload = Command::new("kill");
    assert!(reload.args(["-HUP", &hub.id().to_string()]).status().unwrap().success());
    hub.wait_for("certificate and key read again");
    assert!(hub.terminate().success(), "an orderly end");
    assert_eq!(notified(), "STOPPING=1");
}

/// systemd would start it again every two seconds.
#[test]
fn a_mistake_in_the_settings_ends_with_the_status_that_the_unit_excepts() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("hub.toml");
    fs::write(&config, "laese = '1s'\n").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_bellwire"));
    let ended = command.args(["serve", "--config"]).arg(&config).output().unwrap();
    assert_eq!(ended.status.code(), Some(2), "{ended:?}");
}
