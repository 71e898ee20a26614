//! What an operator looks for: lists, reasons, short ids, contexts, errors for machines, against a real hub.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message of a test"
)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use bellwire_testkit::{Http, Program, wait_until};
use serde_json::Value;

const BELLWIRE: &str = env!("CARGO_BIN_EXE_bellwire");

/// A hub, and a user's home, on a folder of their own.
struct Hub {
    folder: tempfile::TempDir,
    _program: Program,
    address: SocketAddr,
}

impl Hub {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (program, address) = Program::serve_anywhere(BELLWIRE, &folder.path().join("hub"));
        Self { folder, _program: program, address }
    }

    fn http(&self) -> Http {
        Http(self.address)
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The program with this hub.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = bellwire(self.folder.path(), args);
        command.env("BELLWIRE_HUB", self.url());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Sends a command, and gives its id.
    fn send(&self, device: &str, action: &str, args: &[&str]) -> String {
        let sent = self.run(&[&["send", device, action, "--json"], args].concat());
        assert_eq!(code(&sent), 0, "{sent:?}");
        json(&sent.stdout)["command"].as_str().unwrap().to_owned()
    }

    /// Connects a device that takes commands and reports nothing by itself.
    fn listen(&self, device: &str) -> bellwire_testkit::EventStream {
        let mut stream = self.http().stream(&format!("/v1/devices/{device}/stream")).unwrap();
        stream.expect("hello");
        stream
    }

    /// Reports a state of a command.
    fn report(&self, device: &str, id: &str, report: &str) {
        let target = format!("/v1/devices/{device}/commands/{id}/status");
        let answer = self.http().post_json(&target, report).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.json());
    }

    /// What `status` says that the command waits for.
    fn waits(&self, id: &str) -> (Value, String) {
        let shown = self.run(&["status", id, "--json"]);
        let line = stdout(&shown).lines().nth(1).unwrap().to_owned();
        let text = stdout(&self.run(&["status", id]));
        (json(line.as_bytes())["waits"].clone(), text)
    }
}

/// The program in a home of its own, deaf to what the surroundings set.
fn bellwire(home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(BELLWIRE);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("BELLWIRE_") || name.to_lowercase().ends_with("_proxy") {
            command.env_remove(name);
        }
    }
    command.args(args).env("HOME", home).env_remove("XDG_CONFIG_HOME").env("NO_PROXY", "127.0.0.1");
    command
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("killed: {output:?}"))
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(bytes)))
}

/// The ids, or another member, of the lines of an answer.
fn members(output: &Output, member: &str) -> Vec<String> {
    let lines = stdout(output);
    lines.lines().map(|line| json(line.as_bytes())[member].as_str().unwrap().to_owned()).collect()
}

/// A server that gives every request this answer; gives its address and collects what it was sent.
fn answering(answer: &'static str) -> (SocketAddr, std::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (seen, requests) = std::sync::mpsc::sync_channel(16);
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && socket.read(&mut byte).unwrap() > 0 {
                request.extend(byte);
            }
            if seen.send(String::from_utf8_lossy(&request).into_owned()).is_err() {
                return;
            }
            socket.write_all(answer.as_bytes()).unwrap();
        }
    });
    (address, requests)
}

#[test]
fn commands_are_listed_newest_first_and_filtered() {
    let hub = Hub::start();
    let none = hub.run(&["commands"]);
    assert!(code(&none) == 0 && stderr(&none).contains("no commands yet"), "{none:?}");
    let ids = [("a", "ping"), ("b", "ping"), ("a", "open")].map(|(d, a)| hub.send(d, a, &[]));
    hub.run(&["cancel", &ids[1]]);
    for (filter, expected) in [
        (&[][..], &[2, 1, 0][..]),
        (&["--device", "a"], &[2, 0]),
        (&["--action", "ping"], &[1, 0]),
        (&["--state", "cancelled"], &[1]),
        (&["--since", "1h"], &[2, 1, 0]),
        (&["--since", "2100-01-01T00:00:00Z"], &[]),
        (&["-n", "1"], &[2]),
    ] {
        let listed = hub.run(&[&["commands", "--json"], filter].concat());
        let expected: Vec<&String> = expected.iter().map(|n| &ids[*n]).collect();
        assert_eq!(members(&listed, "id").iter().collect::<Vec<_>>(), expected, "{filter:?}");
    }
    let table = stdout(&hub.run(&["commands"]));
    let row = table.lines().nth(1).unwrap_or_default();
    assert!(row.contains("a  ") && row.contains("open") && row.contains("queued"), "{table}");
    assert_eq!(code(&hub.run(&["commands", "--state", "lost"])), 2);
}

#[test]
fn the_short_id_of_a_list_is_enough_everywhere_and_an_ambiguous_one_lists_the_candidates() {
    let hub = Hub::start();
    let ids = [hub.send("a", "ping", &[]), hub.send("b", "ping", &[])];
    let table = stdout(&hub.run(&["commands", "--device", "a"]));
    let short = table.lines().nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    assert!(short.len() < ids[0].len() && ids[0].starts_with(&short), "{short} of {ids:?}");

    let ambiguous = hub.run(&["cancel", &ids[0][..4]]);
    assert_eq!(code(&ambiguous), 2, "{ambiguous:?}");
    assert!(ids.iter().all(|id| stderr(&ambiguous).contains(id.as_str())), "{ambiguous:?}");
    let error = json(&hub.run(&["status", "0", "--json"]).stderr)["error"].clone();
    assert_eq!(error["code"], "ambiguous_id");
    assert_eq!(error["candidates"], serde_json::json!([ids[1], ids[0]]));

    assert!(stdout(&hub.run(&["status", &short])).contains(&ids[0]));
    assert!(stdout(&hub.run(&["status", &short.to_uppercase()])).contains(&ids[0]));
    assert_eq!(code(&hub.run(&["cancel", &short])), 0);
    assert_eq!(code(&hub.run(&["watch", &short])), 1, "it was cancelled");
    let unknown = hub.run(&["status", "ffff"]);
    assert!(code(&unknown) == 1 && stderr(&unknown).contains("unknown_command"), "{unknown:?}");
    assert_eq!(code(&hub.run(&["status", "kiosk"])), 2);
}

#[test]
fn status_says_why_a_command_waits() {
    let hub = Hub::start();
    let (waits, text) = hub.waits(&hub.send("new", "ping", &[]));
    assert_eq!((&waits["reason"], &waits["since"]), (&"offline".into(), &Value::Null));
    assert!(text.contains("never connected"), "{text}");

    let mut stream = hub.listen("k");
    let first = hub.send("k", "ping", &[]);
    assert_eq!(stream.expect("command")["id"], first.as_str());
    let second = hub.send("k", "ping", &[]);
    hub.report("k", &first, r#"{"state":"accepted"}"#);
    let (waits, text) = hub.waits(&second);
    assert_eq!((&waits["reason"], &waits["behind"]), (&"behind".into(), &first.as_str().into()));
    assert!(text.contains(&format!("behind another command, {first}")), "{text}");

    hub.report("k", &first, r#"{"state":"nack","retry_after_s":3600}"#);
    let (waits, text) = hub.waits(&first);
    assert_eq!(waits["reason"], "backoff", "{waits}");
    assert!(waits["until"].is_string() && text.contains("sent again at"), "{text}");
    assert_eq!(hub.waits(&second).0["reason"], "behind");

    let later = hub.send("k", "ping", &["--at", "+10m"]);
    let (waits, text) = hub.waits(&later);
    assert_eq!(waits["reason"], "scheduled", "{waits}");
    assert!(text.contains("for its time, 20") && waits["until"].is_string(), "{text}");

    drop(stream);
    wait_until("the device to be offline", || {
        let (waits, text) = hub.waits(&first);
        let since = waits["since"].as_str().is_some_and(|since| text.contains(since));
        if waits["reason"] == "offline" && since { Ok(()) } else { Err(text) }
    });
}

#[test]
fn a_command_for_later_is_refused_when_its_time_is_past_and_nothing_is_stored() {
    let hub = Hub::start();
    let past = hub.run(&["send", "k", "ping", "--at", "2020-01-01T00:00:00Z"]);
    assert!(code(&past) == 2 && stderr(&past).contains("is in the past"), "{past:?}");
    assert_eq!(code(&hub.run(&["send", "k", "ping", "--at", "teatime"])), 2);
    assert!(stdout(&hub.run(&["commands", "--json"])).is_empty());
    let stored = hub.run(&["send", "k", "note", "text", "--at", "23:59", "--ttl", "60"]);
    assert!(code(&stored) == 0 && stderr(&stored).contains("to be sent at 20"), "{stored:?}");
    let listed = hub.run(&["commands", "--json"]);
    assert_eq!(json(&listed.stdout)["data"], "text");
}

/// It looked like a second command.
#[test]
fn a_command_that_was_sent_before_with_its_key_is_said_to_be_no_new_one() {
    let hub = Hub::start();
    let send = ["send", "k-1", "ping", "--idempotency-key", "n-1"];
    let first = hub.run(&send);
    assert!(code(&first) == 0 && !stderr(&first).contains("already sent"), "{first:?}");
    let again = hub.run(&send);
    assert!(stderr(&again).contains("nothing new was sent"), "{again:?}");
    assert_eq!(stdout(&again), stdout(&first));
}

#[test]
fn a_device_is_shown_with_its_last_commands_and_removed_unless_another_is_unknown() {
    let hub = Hub::start();
    let id = hub.send("k-1", "ping", &[]);
    let shown = stdout(&hub.run(&["devices", "show", "k-1"]));
    assert!(shown.contains("never connected") && shown.contains("queued     1"), "{shown}");
    assert!(
        shown.lines().any(|line| id.starts_with(line.split(' ').next().unwrap_or("-"))),
        "{shown}"
    );
    assert_eq!(json(&hub.run(&["devices", "show", "k-1", "--json"]).stdout)["id"], "k-1");

    let refused = hub.run(&["devices", "remove", "k-1", "k-2"]);
    assert!(code(&refused) == 1 && stderr(&refused).contains("k-2"), "{refused:?}");
    assert_eq!(code(&hub.run(&["devices", "show", "k-1"])), 0, "nothing was removed");
    let removed = hub.run(&["devices", "remove", "k-1"]);
    assert!(stdout(&removed).contains("removed k-1; 1 queued"), "{removed:?}");
    assert_eq!(code(&hub.run(&["devices", "show", "k-1"])), 1);
    assert!(stdout(&hub.run(&["status", &id])).contains("cancelled"));
}

#[test]
fn events_and_followed_commands_are_printed_as_they_happen() {
    let hub = Hub::start();
    let before = hub.send("k", "old", &[]);
    let events = Program::start(&mut hub.command(&["events", "--device", "k", "--json"]));
    events.wait_for(r#"{"event":"hub","data":{"hub":"bellwire/"#);
    let follow = Program::start(&mut hub.command(&["commands", "--follow", "--device", "k"]));
    follow.wait_for(&before[..18]);

    hub.send("other", "ping", &[]);
    let id = hub.send("k", "ping", &[]);
    let line = events.wait_for(&id);
    let event = json(line.as_bytes());
    assert_eq!((&event["event"], &event["data"]["device"]), (&"delivery".into(), &"k".into()));
    assert!(follow.wait_for(&id).contains("queued"));
    let _stream = hub.listen("k");
    events.wait_for(r#""change":"online""#);
    assert!(!events.output().contains("other") && !follow.output().contains("other"));
}

#[test]
fn the_exit_code_of_health_says_whether_the_hub_takes_commands() {
    let hub = Hub::start();
    let well = hub.run(&["health", "--json"]);
    assert_eq!((code(&well), &json(&well.stdout)["ready"]), (0, &true.into()));
    assert!(stdout(&hub.run(&["health"])).starts_with("ready"));
    let gone = hub.run(&["health", "--hub", "http://127.0.0.1:1"]);
    assert_eq!(code(&gone), 6, "{gone:?}");
}

#[test]
fn errors_are_json_on_standard_error_with_the_code_of_the_problem() {
    let hub = Hub::start();
    let unreachable = "http://127.0.0.1:1";
    for (args, name, exit_code) in [
        (&["devices", "show", "k"][..], "unknown_device", 1),
        (&["send", "k", "ping", "--ttl", "0"], "device_offline", 5),
        (&["devices", "--hub", unreachable], "unreachable", 6),
        (&["send", "k"], "usage", 2),
        (&["devices", "--select", "a,,b"], "usage", 2),
        (&["send", "k", "ping", "--wait", "6m"], "usage", 2),
    ] {
        let failed = hub.run(&[args, &["--json"]].concat());
        let error = json(&failed.stderr)["error"].clone();
        assert_eq!((code(&failed), &error["code"]), (exit_code, &name.into()), "{failed:?}");
        assert_eq!(error["exit_code"], exit_code, "{error}");
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{error}");
        assert!(stdout(&failed).is_empty(), "{failed:?}");
    }
    let error = json(&hub.run(&["devices", "show", "k", "--json"]).stderr)["error"].clone();
    assert_eq!(error["status"], 404);
}

#[test]
fn a_context_names_the_hub_until_another_is_named() {
    use std::os::unix::fs::PermissionsExt as _;
    let hub = Hub::start();
    let home = hub.folder.path();
    let run = |args: &[&str]| bellwire(home, args).output().unwrap();
    let add = |args: &[&str]| code(&run(&[&["context", "add"], args].concat()));
    assert_eq!(add(&["prod", &hub.url()]), 0);
    assert_eq!(add(&["away", "http://127.0.0.1:1", "--use"]), 0);
    assert_eq!(add(&["prod", "http://127.0.0.1:1"]), 2, "it is not replaced by mistake");
    assert_eq!(add(&["bad name", "http://127.0.0.1:1"]), 2);
    assert_eq!(add(&["bad", "127.0.0.1:1"]), 2);
    assert_eq!(add(&["bad", &hub.url(), "--token-file", "/no/such/file"]), 2);

    assert_eq!(code(&run(&["devices"])), 6, "the one in use");
    assert_eq!(code(&run(&["devices", "--context", "prod"])), 0);
    let variable = bellwire(home, &["devices"]).env("BELLWIRE_CONTEXT", "prod").output().unwrap();
    assert_eq!(code(&variable), 0, "{variable:?}");
    assert_eq!(code(&run(&["devices", "--hub", &hub.url()])), 0);
    assert_eq!(code(&run(&["devices", "--context", "prdo"])), 2);
    assert_eq!(code(&run(&["context", "use", "prod"])), 0);
    assert_eq!(code(&run(&["devices"])), 0);

    let listed = run(&["context", "list", "--json"]);
    assert_eq!(members(&listed, "name"), ["away", "prod"]);
    let file = home.join(".config/bellwire/contexts.toml");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    // One that was restored with open modes is closed, and that is reported.
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let noticed = run(&["context", "list"]);
    assert!(stderr(&noticed).contains("could be read by others"), "{noticed:?}");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    assert_eq!(code(&run(&["context", "remove", "prod"])), 0);
    assert_eq!(code(&run(&["context", "remove", "prod"])), 2);
    assert_eq!(members(&run(&["context", "list", "--json"]), "name"), ["away"]);
}

#[test]
fn a_token_goes_with_every_request_and_a_401_names_the_setting() {
    let (address, requests) = answering(
        "HTTP/1.1 401 Unauthorized\r\nContent-Type: application/problem+json\r\n\
         Connection: close\r\n\r\n{\"code\":\"unauthenticated\",\"status\":401,\"detail\":\"unknown token\"}",
    );
    let home = tempfile::tempdir().unwrap();
    let url = format!("http://{address}");
    let file = home.path().join("token");
    std::fs::write(&file, "bw_file\n").unwrap();
    let file = file.to_str().unwrap();
    let mut add = bellwire(home.path(), &["context", "add", "c", &url, "--token-file", "-"]);
    let mut added = add.stdin(Stdio::piped()).spawn().unwrap();
    added.stdin.take().unwrap().write_all(b"bw_context\n").unwrap();
    assert!(added.wait().unwrap().success());

    for (args, variable, token) in [
        (&["devices", "--hub", &url, "--token-file", file][..], None, Some("bw_file")),
        (&["devices", "--hub", &url], Some("bw_variable"), Some("bw_variable")),
        (&["devices", "--hub", &url], None, None),
        (&["health", "--context", "c"], None, Some("bw_context")),
        (&["events", "--context", "c"], None, Some("bw_context")),
        (&["commands", "--context", "c"], Some("bw_variable"), Some("bw_context")),
    ] {
        let mut command = bellwire(home.path(), args);
        command.envs(variable.map(|token| ("BELLWIRE_TOKEN", token)));
        let refused = command.output().unwrap();
        let request = requests.recv().unwrap().to_lowercase();
        let sent = request.lines().find_map(|line| line.strip_prefix("authorization: bearer "));
        assert_eq!(sent, token, "{args:?} sent {request}");
        let message = stderr(&refused);
        assert!(code(&refused) == 1 && message.contains("--token-file"), "{args:?}: {refused:?}");
        assert!(!message.contains("bw_"), "{message}");
        // "Requires a token" is wrong of an open hub, which checks one that is sent.
        assert_eq!(
            message.contains("the one that was sent"),
            token.is_some(),
            "{args:?}: {message}"
        );
    }
}

#[test]
fn a_407_names_the_setting() {
    let (proxy, _requests) = answering(
        "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    );
    let home = tempfile::tempdir().unwrap();
    for (hub, variable) in
        [("http://hub.example", "HTTP_PROXY="), ("https://hub.example", "HTTPS_PROXY=")]
    {
        let mut command = bellwire(home.path(), &["devices", "--hub", hub]);
        let proxy = format!("http://{proxy}");
        command.env_remove("NO_PROXY").env("HTTP_PROXY", &proxy).env("HTTPS_PROXY", &proxy);
        let refused = command.output().unwrap();
        let message = stderr(&refused);
        assert!(code(&refused) == 6 && message.contains(variable), "{hub}: {refused:?}");
    }
}

/// It was sent as it was, or the message was about a header.
#[test]
fn a_token_variable_that_is_no_token_is_named_and_not_shown() {
    let home = tempfile::tempdir().unwrap();
    for token in ["two words", "s3cr\u{e9}t", "line\nbreak"] {
        let mut command = bellwire(home.path(), &["health", "--hub", "http://127.0.0.1:1"]);
        let refused = command.env("BELLWIRE_TOKEN", token).output().unwrap();
        let message = stderr(&refused);
        assert!(
            code(&refused) == 2 && message.contains("BELLWIRE_TOKEN cannot be used"),
            "{message}"
        );
        assert!(!message.contains(token), "{message}");
    }
}

/// Its first part was taken for the whole, and a change wrote that back.
#[test]
fn contexts_that_are_too_long_to_be_read_are_left_as_they_are() {
    let home = tempfile::tempdir().unwrap();
    let add = ["context", "add", "prod", "http://127.0.0.1:1"];
    assert_eq!(code(&bellwire(home.path(), &add).output().unwrap()), 0);
    let file = home.path().join(".config/bellwire/contexts.toml");
    let mut text = std::fs::read_to_string(&file).unwrap();
    text.push_str(&"# a comment\n".repeat(100_000));
    std::fs::write(&file, &text).unwrap();
    let refused = bellwire(home.path(), &["context", "use", "prod"]).output().unwrap();
    assert!(code(&refused) == 2 && stderr(&refused).contains("contexts.toml"), "{refused:?}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
}

#[test]
fn a_hub_with_an_authority_of_its_own_is_trusted_by_ca_file() {
    let fixture = |name: &str| -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../hub/tests/fixtures/tls").join(name)
    };
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("hub.toml");
    let settings = format!(
        "listen = \"127.0.0.1:0\"\ndata_dir = {:?}\ntls_cert = {:?}\ntls_key = {:?}\n",
        folder.path().join("hub"),
        fixture("cert.pem"),
        fixture("key.pem")
    );
    std::fs::write(&config, settings).unwrap();
    let serve = ["serve", "--config", config.to_str().unwrap()];
    let hub = Program::start(&mut bellwire(folder.path(), &serve));
    let line = hub.wait_for("listening on https://");
    let address = line.split("https://").nth(1).unwrap().split_whitespace().next().unwrap();
    let url = format!("https://{}", address.trim_end_matches(','));

    let run = |args: &[&str]| bellwire(folder.path(), args).output().unwrap();
    let untrusted = run(&["health", "--hub", &url]);
    let message = stderr(&untrusted);
    assert!(code(&untrusted) == 6 && message.contains("--ca-file"), "{untrusted:?}");
    // Once it ended in the words of the TLS library.
    assert!(!message.contains("OtherError") && !message.contains("is it running"), "{message}");
    let ca = fixture("ca.pem").to_str().unwrap().to_owned();
    let trusted = run(&["health", "--hub", &url, "--ca-file", &ca]);
    assert_eq!(code(&trusted), 0, "{trusted:?}");
    assert_eq!(code(&run(&["context", "add", "tls", &url, "--ca-file", &ca, "--use"])), 0);
    assert_eq!(code(&run(&["health"])), 0);
    let missing = run(&["health", "--hub", &url, "--ca-file", "/no/such.pem"]);
    assert!(code(&missing) == 2 && stderr(&missing).contains("/no/such.pem"), "{missing:?}");
}
