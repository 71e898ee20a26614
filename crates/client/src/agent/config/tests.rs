//! The example of the manual, and every fault that a file can have.

use super::*;
use crate::agent::policy::Violation;

const EXAMPLE: &str = r#"
hub = "https://hub.example.com"
device = "kiosk-042"
credential_file = "/etc/bellwire/credential"
state_dir = "/var/lib/bellwire"
heartbeat = "30s"
[facts]
site = "lyon"
floors = [1, 2]
[actions.ping]
run = ["/bin/echo", "pong"]
[actions.reboot]
run = ["/sbin/reboot"]
on_restart = "succeed"
[actions.deploy]
forward = "http://127.0.0.1:9000/deploy"
timeout = "10m"
params = { version = '^[0-9.]{1,16}$', force = { type = "boolean", optional = true } }
[actions."unpack.v2"]
run = ["tar", "x"]
user = "root"
cwd = "/srv"
umask = "027"
env = { LANG = "C" }
pass_env = ["NOT_SET_ANYWHERE"]
kill_after = 10
concurrency = 2
"#;

const HEAD: &str = "hub = 'http://127.0.0.1:1'\ndevice = 'kiosk'\n";

fn faults(text: &str) -> Vec<String> {
    AgentConfig::read(text).unwrap_err().iter().map(Fault::to_string).collect()
}

#[test]
fn the_file_of_the_manual_is_read() {
    let config = AgentConfig::read(EXAMPLE).unwrap();
    assert_eq!(config.device.as_str(), "kiosk-042");
    assert_eq!(config.state_dir, Path::new("/var/lib/bellwire"));
    assert_eq!(config.facts["floors"].to_string(), "[1,2]");
    let shown: Vec<String> = config.actions.iter().map(|(a, c)| format!("{a} {c}")).collect();
    assert_eq!(
        shown,
        [
            "deploy posts to http://127.0.0.1:9000/deploy; at most 600 s; one at a time; data with force \
             (optional): true or false, version: a string that matches ^[0-9.]{1,16}$ as a whole; \
             when interrupted: fail",
            "ping runs /bin/echo pong in /; at most 300 s, or what the sender sets; one at a time; any data; \
             when interrupted: fail",
            "reboot runs /sbin/reboot in /; at most 300 s, or what the sender sets; one at a time; any data; \
             when interrupted: succeed",
            "unpack.v2 runs tar x as root in /srv with LANG; at most 300 s, or what the sender sets; 2 at a time; \
             any data; when interrupted: fail",
        ]
    );
    let params = config.actions[&"deploy".parse().unwrap()].params.as_ref().unwrap();
    assert_eq!(params.check(r#"{"version":"1.4","force":true}"#), Ok(()));
    assert_eq!(params.check("{}"), Err(Violation::Missing("version".to_owned())));
}

#[test]
fn every_fault_is_reported_with_its_key() {
    let text = r#"
hub = "hub.example.com"
credential_file = "credential"
heartbeat = "1s"
colour = "red"
[actions.shell]
run = "echo pong"
[actions.relative]
run = ["./x"]
timeout = 0
on_restart = "maybe"
concurrency = 0
umask = "999"
env = { BELLWIRE_COMMAND = "x", LANG = 5 }
pass_env = "HOME"
kill_after = "1h"
user = "no such account"
cwd = "here"
remote = true
colour = "red"
[actions.neither]
timeout = 5
[actions.both]
run = ["x"]
forward = "http://localhost"
timeout = "x"
cwd = "/"
[actions.pass]
run = ["x"]
pass_env = ["BELLWIRE_X", "A=B"]
umask = 22
[actions.far]
forward = "http://10.1.2.3/"
user = "root"
[actions."a b"]
run = ["x"]
[actions.params]
run = ["x"]
[actions.params.params]
a = "("
b = 5
c = { optional = true, typ = "string" }
d = { type = "string", min = 1 }
e = { type = "integer", min = 2, max = 1 }
f = { type = "number", enum = ["x"] }
g = { type = "boolean", optional = "yes", nested = {} }
[actions]
flat = 1
"#;
    let found = faults(text);
    for expected in [
        "hub is \"hub.example.com\", but",
        "device is missing: ",
        "credential_file is \"credential\", but it is an absolute path",
        "heartbeat is \"1s\", but it is a duration: ",
        "colour is not a setting",
        "actions.shell.run is \"echo pong\", but it is a list",
        "actions.relative.run is [\"./x\"], but",
        "actions.relative.timeout is 0, but it is a duration: seconds, or as in \"90s\"",
        "actions.relative.on_restart is \"maybe\", but it is fail, rerun or succeed",
        "actions.relative.concurrency is 0, but",
        "actions.relative.umask is \"999\", but it is octal digits in quotes",
        "actions.relative.env.BELLWIRE_COMMAND names BELLWIRE_COMMAND, but the prefix BELLWIRE_ is",
        "actions.relative.env.LANG is not a text",
        "actions.relative.pass_env is ",
        "actions.relative.kill_after is ",
        "actions.relative.user is \"no such account\", but",
        "actions.relative.cwd is \"here\", but it is an absolute path",
        "actions.relative.remote is true, but it is only for forward",
        "actions.relative.colour is not a setting",
        "actions.neither has neither run nor forward",
        "actions.both has both run and forward",
        "actions.both.timeout is \"x\"",
        "actions.pass.pass_env names BELLWIRE_X, but the prefix BELLWIRE_ is reserved for the agent",
        "actions.pass.pass_env names \"A=B\", which is not a valid name of a variable",
        "actions.pass.umask is 22, but it is octal digits in quotes",
        "actions.far.forward has the host 10.1.2.3, which is another machine",
        "actions.far.user is \"root\", but it is only for run",
        "actions.\"a b\" is not an action name",
        "actions.params.params.a is not a regular expression: found open group without closing",
        "actions.params.params.b is 5, but it is a pattern, or a table with type",
        "actions.params.params.c.type is missing",
        "actions.params.params.c.typ is not a setting",
        "actions.params.params.d.min is 1, but it is only for type integer or number",
        "actions.params.params.e has a min that is greater",
        "actions.params.params.f.enum is [\"x\"], but",
        "actions.params.params.g.optional is \"yes\", but it is true or false",
        "actions.params.params.g.nested is not a setting",
        "actions.flat is 1, but it is a table",
    ] {
        let times = found.iter().filter(|fault| fault.starts_with(expected)).count();
        assert_eq!(times, 1, "{expected}\nin {found:#?}");
    }
    assert_eq!(found.len(), 38, "{found:#?}");
}

#[test]
fn no_password_in_a_url_is_shown() {
    // It was in the first line of the log, in `agent check` and in the fault of a mistyped URL.
    let text = "device = 'd'\nproxy = 'http://u:s3cret@proxy.example.com:3128'\n\
        hub = 'http://kiosk:s3cret@hub.example.com'\n\
        [actions.a]\nforward = 'http://u:s3cret@127.0.0.1:9/x'\n";
    let config = AgentConfig::read(text).unwrap();
    let policy = config.policy();
    let shown = format!("{config:?} {} {:?} {policy:?}", config.hub, config.readiness());
    assert!(shown.contains("hub.example.com") && !shown.contains("s3cret"), "{shown}");
    assert!(config.hub.with_credentials().contains("s3cret"), "the hub must still receive it");
    for (from, to) in [("http:", "htps:"), ("http://", "://"), ("example.com", "exa mple.com")] {
        let found = faults(&text.replace(from, to)).join("\n");
        assert!(found.contains("hub is ") && !found.contains("s3cret"), "{found}");
    }
}

/// `http://LAN\user:password@proxy` was the host "lan" to a browser's parser of URLs.
#[test]
fn a_proxy_of_a_domains_user_is_percent_encoded_and_a_backslash_is_a_fault_that_says_so() {
    let config = |proxy: &str| format!("hub = 'http://h'\ndevice = 'd'\nproxy = '{proxy}'\n");
    assert!(AgentConfig::read(&config("http://LAN%5Cuser:s3cret@proxy.test:3128")).is_ok());
    let found = faults(&config("http://LAN\\user:s3cret@proxy.test:3128")).join("\n");
    assert!(found.starts_with("proxy has a backslash"), "{found}");
    assert!(found.contains("DOMAIN%5Cuser") && !found.contains("s3cret"), "{found}");
}

#[test]
fn pinned_keys_are_a_list_of_hashes() {
    let config = |pins: &str| format!("hub = 'http://h'\ndevice = 'd'\npin_sha256 = {pins}\n");
    let key = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
    let read = AgentConfig::read(&config(&format!("['sha256//{key}', '{key}']"))).unwrap();
    assert_eq!(read.pin_sha256.len(), 2);
    for bad in ["'sha256//x'", "['sha256//x']", "[1]", "'sha256//47DEQpj8HBSa'"] {
        let found = faults(&config(bad)).join("\n");
        assert!(found.starts_with("pin_sha256 is ") && found.contains("sha256//47"), "{found}");
    }
}

#[test]
fn facts_leave_space_for_those_that_the_agent_adds() {
    let text =
        |bytes| format!("hub = 'http://h'\ndevice = 'd'\nfacts.x = '{}'\n", "x".repeat(bytes));
    assert!(AgentConfig::read(&text(12 * 1024 - 8)).is_ok());
    let found = faults(&text(12 * 1024 - 7));
    assert!(found[0].ends_with("12 KiB as JSON"), "{found:?}");
}

#[test]
fn a_program_that_others_may_change_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("tool");
    std::fs::write(&program, "#!/bin/sh\n").unwrap();
    let warnings = |mode, folder_mode| {
        set_mode(&program, mode);
        set_mode(folder.path(), folder_mode);
        let text = format!(
            "hub = 'http://h'\ndevice = 'd'\n[actions.'a.b']\nrun = ['tool']\nenv.PATH = '{}'\n",
            folder.path().display()
        );
        let config = AgentConfig::read(&text).unwrap();
        let warnings = config.warnings_of(&"a.b".parse().unwrap());
        warnings.iter().map(Fault::to_string).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(warnings(0o755, 0o755), "", "found by the PATH that it gets");
    assert!(
        warnings(0o757, 0o755).starts_with("actions.\"a.b\".run names a program that every user")
    );
    assert!(
        warnings(0o755, 0o777).contains("every user may change: "),
        "another can take its place"
    );
    assert_eq!(warnings(0o755, 0o1777), "", "not in a folder like /tmp");
    std::fs::write(&program, "echo no shell reads this\n").unwrap();
    assert!(warnings(0o755, 0o755).contains("without #! in its first line"));
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn the_fault_of_a_file_that_is_not_toml_names_the_line() {
    let found = faults("hub = 'x'\nhub = 'y'\n");
    assert!(found[0].starts_with("line 2 is not TOML: "), "{found:?}");
}

#[test]
fn a_credential_file_contains_one_token_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("credential");
    for (text, token) in
        [("bw_1_x\n", Some("bw_1_x")), ("", None), ("a b", None), ("a\nb", None), ("tökén", None)]
    {
        std::fs::write(&file, text).unwrap();
        assert_eq!(read_credential(&file).ok().as_deref(), token, "{text:?}");
    }
}

fn keys(faults: &[Fault]) -> Vec<&str> {
    faults.iter().map(|fault| fault.key.as_str()).collect()
}

/// They were warnings, and `agent check` said 0 of an appliance that could do nothing.
#[test]
fn what_cannot_work_is_an_error_and_an_agent_starts_all_the_same() {
    let state_dir = tempfile::tempdir().unwrap();
    let config = AgentConfig::read(&format!(
        "hub = 'http://hub.example.com'\ndevice = 'd'\ncredential_file = '/no/credential'\n\
         state_dir = '{}'\n\
         [actions.a]\nrun = ['/no/such/program']\ncwd = '/no/folder'\n\
         [actions.b]\nrun = ['no-such-program-anywhere']\n[actions.c]\nrun = ['/bin/sh']\n",
        state_dir.path().display()
    ))
    .unwrap();
    for found in [config.readiness(), config.readiness_here()] {
        assert_eq!(keys(&found.faults), [""; 0], "{found:?}");
        assert_eq!(
            keys(&found.errors),
            ["credential_file", "actions.a.run", "actions.a.cwd", "actions.b.run"]
        );
        assert!(!found.is_ready());
    }
}

/// `agent check` said 0 where `agent run` ended 1.
#[test]
fn what_no_agent_starts_with_is_a_fault() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(at("garbage"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        .unwrap();
    std::fs::write(at("empty"), "").unwrap();
    std::fs::create_dir(at("open")).unwrap();
    set_mode(Path::new(&at("open")), 0o777);
    for (key, value) in [
        ("ca_file", at("garbage")),
        ("ca_file", at("empty")),
        ("ca_file", at("missing")),
        ("state_dir", at("empty")),
        ("state_dir", at("empty/below")),
        ("state_dir", at("open")),
    ] {
        let own =
            if key == "state_dir" { String::new() } else { format!("state_dir = '{}'\n", at("s")) };
        let text = format!("hub = 'http://h'\ndevice = 'd'\n{own}{key} = '{value}'\n");
        let config = AgentConfig::read(&text).unwrap();
        for found in [config.readiness(), config.readiness_here()] {
            assert_eq!(keys(&found.faults), [key], "{value}: {found:?}");
        }
    }
    let query = "hub = 'http://u:s3cret@h/?a=b'\ndevice = 'd'\n";
    let found = faults(query).join("\n");
    assert!(found.contains("has no query") && !found.contains("s3cret"), "{found}");
}

/// Such a program could read its data only from standard input, and nothing reported why.
#[test]
fn a_state_folder_that_an_actions_user_cannot_traverse_is_a_warning() {
    let state_dir = tempfile::tempdir().unwrap();
    let warnings = |mode| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(state_dir.path(), mode).unwrap();
        let user = if rustix::process::geteuid().is_root() { "nobody" } else { "root" };
        let config = AgentConfig::read(&format!(
            "hub = 'http://127.0.0.1'\ndevice = 'd'\nstate_dir = '{}'\n\
             [actions.a]\nrun = ['/bin/sh']\nuser = '{user}'\n",
            state_dir.path().display()
        ))
        .unwrap();
        let way_out = format!("chmod o+x {}", state_dir.path().display());
        [config.readiness().warnings, config.readiness_here().warnings]
            .map(|all| all.iter().filter(|warning| warning.problem.ends_with(&way_out)).count())
    };
    assert_eq!(warnings(0o700), [1, 1], "closed to others");
    assert_eq!(warnings(0o711), [0, 0], "others may pass");
}

/// `{:?}` of a configuration, as a program logs it, showed the token that `env` gives to a handler; so did the
/// fault of an `env` at the wrong place.
#[test]
fn debug_and_faults_name_variables_and_never_show_their_values() {
    let actions = "[actions.a]\nrun = ['/bin/true']\nenv = { TOKEN = 's3cret' }\n";
    let config = AgentConfig::read(&format!("{HEAD}{actions}")).unwrap();
    let shown = format!("{config:?}");
    assert!(shown.contains("\"TOKEN\": ***") && !shown.contains("s3cret"), "{shown}");
    for wrong in [
        "run = ['/bin/true']\nenv = 'TOKEN=s3cret'",
        "run = ['/bin/true']\nenv = ['s3cret']",
        "forward = 'http://127.0.0.1/'\nenv = { TOKEN = 's3cret' }",
    ] {
        let faults = AgentConfig::read(&format!("{HEAD}[actions.a]\n{wrong}")).unwrap_err();
        let shown = format!("{faults} {faults:?}");
        assert!(shown.contains("actions.a.env is") && !shown.contains("s3cret"), "{shown}");
    }
}
