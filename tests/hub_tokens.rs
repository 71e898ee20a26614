//! Promise: the first steps of a closed hub, as docs/operations.md lists them, by the real program.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message of a test"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use bellwire_testkit::{Program, command};

const BELLWIRE: &str = env!("CARGO_BIN_EXE_bellwire");

fn bellwire(args: &[&str]) -> Command {
    command(BELLWIRE, args)
}

fn run(args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = bellwire(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

fn ok(args: &[&str]) -> String {
    let (code, stdout, stderr) = run(args);
    assert_eq!(code, 0, "{args:?}: {stderr}");
    stdout
}

/// Makes the first token in a folder, and a file with it.
fn first_token(folder: &Path) -> (String, String) {
    let (data_dir, file) = (folder.join("hub"), folder.join("admin"));
    let (data_dir, file) = (data_dir.to_str().unwrap(), file.to_str().unwrap());
    let create = ["token", "create", "--role", "admin", "--data-dir", data_dir, "--quiet"];
    let (code, stdout, stderr) = run(&create);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("made the data folder") && stderr.lines().count() == 1, "{stderr}");
    assert!(stdout.starts_with("bw_") && stdout.trim().len() == 84, "the token alone: {stdout:?}");
    fs::write(file, &stdout).unwrap();
    (data_dir.to_owned(), file.to_owned())
}

#[test]
fn a_hub_beyond_loopback_needs_an_admin_token_or_open_and_check_and_serve_agree() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("hub");
    let at = ["--listen", "0.0.0.0:0", "--data-dir", data_dir.to_str().unwrap()];
    let check = [&["config", "check"][..], &at].concat();
    for args in [&check, &[&["serve"][..], &at].concat()] {
        let (code, _, stderr) = run(args);
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.contains("bellwire token create --role admin"), "{stderr}");
        assert!(stderr.contains("--open"), "{stderr}");
    }
    first_token(folder.path());
    assert_eq!(run(&check).0, 0, "{:?}", run(&check));
    let hub = Program::start(bellwire(&["serve"]).args(at));
    hub.wait_for("ready;");
    // While it runs, and after it died: the token may be in the log of the database alone.
    assert_eq!(run(&check).0, 0);
    hub.kill();
    assert_eq!(run(&check).0, 0);
}

#[test]
fn access_says_that_an_open_hub_is_open_and_an_operator_what_its_own_token_allows() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("hub");
    let (_hub, addr) = Program::serve_anywhere(BELLWIRE, &data_dir);
    let url = format!("http://{addr}");
    let at = ["--hub", url.as_str()];
    let create =
        |role: &[&str]| ok(&[&["token", "create", "--quiet", "--role"], role, &at].concat());
    let operator = create(&["operator", "--select", "site=lyon"]);
    create(&["device", "--device", "kiosk-7"]);

    let everyone = "everyone  may do everything: the hub is open";
    let output = ok(&[&["access"], &at[..]].concat());
    assert!(output.contains(everyone) && output.contains("may send every action to"), "{output}");
    let output = ok(&[&["access", "--device", "kiosk-7"], &at[..]].concat());
    assert!(output.contains(everyone) && output.contains("its own token"), "{output}");
    let (_, _, stderr) = run(&[&["token", "list"], &at[..]].concat());
    assert!(stderr.contains("no admin token: the hub is open"), "{stderr}");

    // The token is in no list of processes: a file has it.
    let file = folder.path().join("operator");
    fs::write(&file, &operator).unwrap();
    let with = ["--hub", url.as_str(), "--token-file", file.to_str().unwrap()];
    let (code, output, stderr) = run(&[&["access"], &with[..]].concat());
    assert_eq!(code, 0, "{stderr}");
    assert!(output.contains("appliances site=lyon") && output.lines().count() == 1, "{output}");
    assert!(stderr.contains("an admin token shows all"), "{stderr}");

    // A folder does not say where its hub listens: no other hub is asked in its place.
    let (code, stdout, stderr) =
        run(&["token", "create", "--role", "admin", "--data-dir", data_dir.to_str().unwrap()]);
    assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
    assert!(stderr.contains("--hub URL"), "{stderr}");

    // What is revoked is often at hand as a whole, which is then in no error.
    let revoked = ok(&[&["token", "revoke", operator.trim()], &at[..]].concat());
    assert_eq!(revoked.trim(), format!("revoked {}", &operator[3..19]));
    let (_, _, stderr) = run(&[&["token", "create", "--role", "admin"], &at[..]].concat());
    assert!(stderr.contains("bellwire context add NAME HUB --token-file FILE"), "{stderr}");
}

#[test]
fn an_appliance_enrols_is_approved_and_loses_its_access_by_revocation() {
    let folder = tempfile::tempdir().unwrap();
    let (data_dir, admin) = first_token(folder.path());
    let (hub, addr) = Program::serve_anywhere(BELLWIRE, Path::new(&data_dir));
    let url = format!("http://{addr}");
    let with = |args: &[&'static str]| {
        let mut all: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        all.extend(["--hub", &url, "--token-file", &admin].map(str::to_owned));
        all
    };
    let admin_runs = |args: &[&'static str]| {
        let all = with(args);
        ok(&all.iter().map(String::as_str).collect::<Vec<_>>())
    };
    assert_eq!(run(&["devices", "--hub", &url]).0, 1, "refused without a token");
    // A running hub is asked: its folder is in use.
    assert!(
        run(&["token", "list", "--data-dir", &data_dir, "--hub", &url, "--token-file", &admin])
            .1
            .contains("admin")
    );

    let join = admin_runs(&[
        "token",
        "create",
        "--role",
        "join",
        "--uses",
        "1",
        "--label",
        "site=lyon",
        "--approve",
        "--quiet",
    ]);
    let [join_file, config] = ["join", "etc/agent.toml"].map(|name| folder.path().join(name));
    fs::write(&join_file, join).unwrap();
    let enroll = || {
        let mut enroll = bellwire(&["agent", "enroll", &url, "--device", "kiosk-7", "--json"]);
        enroll.arg("--token-file").arg(&join_file).arg("--config").arg(&config);
        enroll.output().unwrap()
    };
    let credential = folder.path().join("etc/credential");
    // As an enrolment leaves it that was killed before it had a token.
    fs::create_dir(folder.path().join("etc")).unwrap();
    fs::write(&credential, "").unwrap();
    let enrolled = enroll();
    assert!(enrolled.status.success(), "{enrolled:?}");
    assert_eq!(fs::metadata(&credential).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(fs::read_to_string(&config).unwrap().contains("credential_file"));
    let secret = fs::read_to_string(&credential).unwrap();
    assert!(!String::from_utf8_lossy(&enrolled.stdout).contains(secret.trim()));
    let again = enroll();
    assert_eq!(again.status.code(), Some(2), "the credential is never replaced: {again:?}");
    assert_eq!(fs::read_to_string(&credential).unwrap(), secret);

    let credential = credential.to_str().unwrap();
    let show = ["devices", "show", "kiosk-7", "--hub", &url, "--token-file", credential, "--json"];
    assert!(run(&show).2.contains("\"pending\""), "{:?}", run(&show));
    assert!(admin_runs(&["devices"]).contains("pending"), "{}", admin_runs(&["devices"]));
    admin_runs(&["devices", "approve", "kiosk-7"]);
    assert!(!admin_runs(&["devices"]).contains("pending"));
    assert!(ok(&show).contains("\"site\":\"lyon\""));
    let output = admin_runs(&["access", "--device", "kiosk-7"]);
    assert!(
        output.contains("its own token") && output.contains("may do everything to it"),
        "{output}"
    );

    let listed = admin_runs(&["token", "list", "--json"]);
    let own = listed.lines().find(|line| line.contains("kiosk-7")).unwrap();
    let own: serde_json::Value = serde_json::from_str(own).unwrap();
    let mut revoke = with(&["token", "revoke"]);
    revoke.push(own["id"].as_str().unwrap().to_owned());
    ok(&revoke.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(run(&show).2.contains("unauthenticated"));
    hub.terminate();
}
