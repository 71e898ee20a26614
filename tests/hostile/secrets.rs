//! Promise: the secret of a token is shown once, to its creator, and is nowhere else: in no log, answer, error, metric, list
//! of processes, file or crash.

use bellwire_testkit::{Program, command, wait_until};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use serde_json::json;

use crate::support::{BELLWIRE, Closed, files, run};

/// The part of a token that is secret.
fn secret(token: &str) -> String {
    token.trim().rsplit('_').next().unwrap().to_owned()
}

/// Tokens of every role, and one that never worked.
struct Tokens {
    closed: Closed,
    all: Vec<String>,
}

impl Tokens {
    fn start() -> Self {
        let closed = Closed::that_logs_all();
        closed.register("door", &json!({"site": "lyon"}));
        let mut all = vec![closed.admin.clone()];
        for role in [
            json!({"role": "operator", "select": "site=lyon"}),
            json!({"role": "device", "device": "door"}),
            json!({"role": "join", "uses": 3}),
            json!({"role": "metrics"}),
        ] {
            all.push(closed.token(&role));
        }
        // One letter of its secret is another.
        let last = if closed.admin.ends_with('a') { "b" } else { "a" };
        all.push(format!("{}{last}", &closed.admin[..closed.admin.len() - 1]));
        Self { closed, all }
    }

    fn device(&self) -> &str {
        &self.all[2]
    }

    fn check(&self, what: &str, text: &str) {
        for token in &self.all {
            let (secret, shown) = (secret(token), what);
            assert!(secret.len() > 40, "a secret of 256 bits: {secret}");
            if let Some(at) = text.find(&secret) {
                let begin = text[..at].rfind('\n').map_or(0, |n| n + 1);
                panic!("{shown} shows a token's secret: {}", &text[begin..at + secret.len()]);
            }
        }
    }
}

/// Where people put tokens, by rule and by mistake.
#[test]
fn a_tokens_secret_is_in_no_log_answer_metric_or_file_of_the_hub() {
    let tokens = Tokens::start();
    let hub = &tokens.closed.hub;
    for token in &tokens.all {
        for request in [
            format!("GET /v1/tokens HTTP/1.1\r\nAuthorization: Bearer {token}\r\n"),
            format!("GET /v1/tokens/self HTTP/1.1\r\nAuthorization: Bearer {token}\r\n"),
            format!("GET /v1/audit HTTP/1.1\r\nAuthorization: Bearer {token}\r\n"),
            format!("GET /metrics HTTP/1.1\r\nAuthorization: Bearer {token}\r\n"),
            format!(
                "GET /v1/devices/door/commands?wait=0 HTTP/1.1\r\nAuthorization: Bearer {token}\r\n"
            ),
            format!("POST /v1/enroll HTTP/1.1\r\nAuthorization: Token {token}\r\n"),
            format!("GET /v1/devices HTTP/1.1\r\nAuthorization: {token}\r\n"),
            format!(
                "GET /v1/devices HTTP/1.1\r\nAuthorization: Bearer {token}\r\nAuthorization: Bearer {token}\r\n"
            ),
            format!("GET /v1/devices HTTP/1.1\r\nCookie: token={token}\r\n"),
            format!("GET /v1/devices HTTP/1.1\r\nX-Api-Key: {token}\r\n"),
            // HTTP/2 has no such field, and the parser sees it.
            format!("GET /v1/devices HTTP/1.1\r\nAuthorization: Bearer {token}\0\r\n"),
            format!("GET /v1/devices HTTP/1.1\r\nBearer {token}\r\n"),
        ] {
            let answer = hub.send(format!("{request}Host: localhost\r\nConnection: close\r\n\r\n"));
            tokens.check(&request, &answer);
        }
        let revoke = tokens.closed.ask(
            &tokens.closed.admin,
            &format!("DELETE /v1/tokens/{}x", &token[3..19]),
            "",
        );
        assert!(revoke.status >= 400);
    }
    tokens.check("the hub's log", &hub.program.output());
    for (path, bytes) in files(hub.folder.path()) {
        tokens.check(&path.display().to_string(), &String::from_utf8_lossy(&bytes));
    }
}

/// What stands where no token belongs is answered without it, and what is logged of it is at most its place.
#[test]
fn a_token_that_was_put_into_a_path_or_body_by_mistake_is_not_repeated() {
    let tokens = Tokens::start();
    let hub = &tokens.closed.hub;
    let (admin, token) = (&tokens.closed.admin, tokens.device());
    let bearer = format!("Authorization: Bearer {admin}\r\n");
    for target in [
        format!("/v1/devices?token={token}"),
        format!("/v1/devices?access_token={token}"),
        format!("/v1/tokens/{token}"),
    ] {
        for fields in ["", bearer.as_str()] {
            let answer = hub.send(format!(
                "DELETE {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}\r\n"
            ));
            tokens.check(&target, &answer);
            let answer = hub.send(format!(
                "GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}\r\n"
            ));
            tokens.check(&target, &answer);
        }
    }
    for body in
        [format!(r#"{{"token":"{token}"}}"#), format!(r#"{{"{token}":1}}"#), token.to_owned()]
    {
        for line in ["POST /v1/tokens", "POST /v1/commands", "PUT /v1/devices/door"] {
            let answer = tokens.closed.ask(admin, line, &body);
            // A member that is not known is named: it is the caller's own, and goes to the caller alone.
            let named = String::from_utf8_lossy(&answer.body).contains(&secret(token));
            assert!(!named || body.starts_with(r#"{"bw_"#), "{line} {body}: {answer:?}");
        }
    }
    let audit = tokens.closed.ask(admin, "GET /v1/audit?limit=1000", "");
    tokens.check("the audit log", &String::from_utf8_lossy(&audit.body));
    for (path, bytes) in files(&hub.folder.path().join("hub")) {
        tokens.check(&path.display().to_string(), &String::from_utf8_lossy(&bytes));
    }
}

/// The log is read by more people than the folder, so that nothing that a caller sent is in it, at any level.
#[test]
fn a_log_of_everything_has_no_token_wherever_it_was_sent() {
    let tokens = Tokens::start();
    let hub = &tokens.closed.hub;
    let token = tokens.device();
    for target in
        [format!("/v1/devices?token={token}"), format!("/v1/tokens/{token}"), format!("/{token}")]
    {
        hub.send(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
    }
    tokens.closed.ask(&tokens.closed.admin, "POST /v1/tokens", &format!(r#"{{"{token}":1}}"#));
    let log = hub.program.output();
    assert!(log.contains("TRACE"), "the hub logs everything: {log}");
    tokens.check("the hub's log", &log);
}

/// Flags take files or standard input: what is on a command line everybody on the machine reads (`ps`).
#[test]
fn no_command_takes_a_secret_as_an_argument_and_none_prints_one() {
    let tokens = Tokens::start();
    let url = format!("http://{}", tokens.closed.hub.addr);
    let folder = tempfile::tempdir().unwrap();
    // One that may do everything, one that may do little, and one that does not work.
    for n in [0, 2, 5] {
        let token = &tokens.all[n];
        let file = folder.path().join(n.to_string());
        std::fs::write(&file, token).unwrap();
        let file = file.to_str().unwrap();
        for args in [
            &["devices"][..],
            &["devices", "show", "door"],
            &["send", "door", "ring", "--ttl", "1m"],
            &["token", "list"],
            &["token", "list", "--json"],
            &["access"],
            &["audit"],
            &["doctor", "--device", "door"],
            &["events", "--help"],
        ] {
            let with = [args, &["--hub", &url, "--token-file", file]].concat();
            let shown = run(&with, &[("RUST_LOG", "trace")]);
            tokens.check(&format!("bellwire {args:?}"), &shown);
            // In the environment, which only the same user reads.
            let by_environment = [("BELLWIRE_TOKEN", token.as_str()), ("RUST_LOG", "trace")];
            let shown = run(&[args, &["--hub", &url]].concat(), &by_environment);
            tokens.check(&format!("bellwire {args:?}"), &shown);
        }
        // Where the secret itself is given, it is not repeated.
        for args in [
            &["devices", "--token-file", token][..],
            &["devices", "--token", token],
            &["context", "add", "c", &url, "--token-file", token],
            &["token", "revoke", token, "--hub", &url],
            &["agent", "enroll", &url, "--token-file", token],
        ] {
            let shown = run(args, &[("HOME", folder.path().to_str().unwrap())]);
            tokens.check(&format!("bellwire {}", args[0]), &shown);
        }
    }
    // As the password of a URL it has to be accepted, because scripts rely on that.
    let admin = &tokens.all[0];
    let with_password = url.replace("http://", &format!("http://any:{admin}@"));
    for args in [
        &["devices", "--hub", &with_password][..],
        &["devices", "--hub", &with_password, "--json"],
        &["context", "add", "c", &with_password],
        &["doctor", "--hub", &with_password],
    ] {
        let shown = run(args, &[("HOME", folder.path().to_str().unwrap())]);
        tokens.check(&format!("bellwire {}", args[0]), &shown);
        assert!(shown.contains("ps") && shown.contains("--token-file"), "{}: {shown}", args[0]);
    }
    for (hub, variable) in [(Some(&url), None), (None, Some(&with_password))] {
        let args: Vec<&str> = hub.iter().flat_map(|hub| ["--hub", hub.as_str()]).collect();
        let variable: Vec<_> = variable.iter().map(|hub| ("BELLWIRE_HUB", hub.as_str())).collect();
        let shown = run(&[&["devices"], &args[..]].concat(), &variable);
        assert!(!shown.contains("(ps)"), "there is none: {shown}");
    }
    let shown = run(&["devices", "--token-file", "eyJhbGciOiJFZERTQSJ9.e30.c2VjcmV0"], &[]);
    assert!(!shown.contains("c2VjcmV0"), "a JWT is repeated: {shown}");
    let help = run(&["man", "--markdown"], &[]);
    for line in help.lines().filter(|line| line.contains("--") && line.contains("token")) {
        assert!(
            !line.contains("--token <") && !line.contains("--secret"),
            "a secret as an argument: {line}"
        );
    }
}

/// The agent holds the credential of its device for as long as it runs.
#[test]
fn an_agent_shows_its_credential_neither_in_ps_nor_in_its_log_nor_in_its_journal() {
    let tokens = Tokens::start();
    let folder = tempfile::tempdir().unwrap();
    let credential = folder.path().join("credential");
    std::fs::write(&credential, tokens.device()).unwrap();
    let state = folder.path().join("state");
    let config = folder.path().join("agent.toml");
    let text = format!(
        "device = \"door\"\nhub = \"http://{}\"\nstate_dir = {state:?}\ncredential_file = {credential:?}\n\
         [actions.ring]\nrun = [\"sh\", \"-c\", \"env; tr '\\\\0' '\\\\n' </proc/$PPID/cmdline\"]\n",
        tokens.closed.hub.addr
    );
    std::fs::write(&config, text).unwrap();
    let mut agent = command(BELLWIRE, &["agent", "run", "--config"]);
    let agent = Program::start(agent.arg(&config).env("RUST_LOG", "trace"));
    let sent = tokens.closed.admin("POST /v1/send/door/ring?wait=20s", "");
    assert_eq!(sent["state"], "succeeded", "{sent}: {}", agent.output());
    // What a handler is given, and what anybody reads of the agent.
    tokens.check("a handler's environment", &sent.to_string());
    let command_line = std::fs::read(format!("/proc/{}/cmdline", agent.id())).unwrap();
    tokens.check("ps", &String::from_utf8_lossy(&command_line));
    tokens.check("the agent's log", &agent.output());
    for args in [
        &["agent", "status", "--config"][..],
        &["agent", "journal", "show", "--config"],
        &["agent", "check", "--config"],
    ] {
        let shown = run(&[args, &[config.to_str().unwrap()]].concat(), &[]);
        tokens.check(&format!("{args:?}"), &shown);
    }
    for (path, bytes) in files(&state) {
        tokens.check(&path.display().to_string(), &String::from_utf8_lossy(&bytes));
    }
}

/// A crash prints no memory, and leaves no core file that does.
#[test]
fn a_hub_that_crashes_prints_no_token_and_leaves_no_core() {
    // As where a service manager or a shell allows core files; what this test starts inherits it.
    let allowed = getrlimit(Resource::Core).maximum;
    setrlimit(Resource::Core, Rlimit { current: allowed, maximum: allowed }).unwrap();
    assert_ne!(allowed, Some(0), "core files are not allowed here, and nothing would be tested");
    let tokens = Tokens::start();
    let _stream = tokens.closed.stream(tokens.device(), "/v1/devices/door/stream");
    let program = &tokens.closed.hub.program;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", program.id())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    let pid = Pid::from_raw(i32::try_from(program.id()).unwrap()).unwrap();
    kill_process(pid, Signal::ABORT).unwrap();
    wait_until("the hub to end", || {
        let stat =
            std::fs::read_to_string(format!("/proc/{}/stat", program.id())).unwrap_or_default();
        if stat.is_empty() || stat.contains(") Z ") { Ok(()) } else { Err(stat) }
    });
    tokens.check("a crash", &program.output());
    let core: Vec<&str> = core.split_whitespace().collect();
    // With none, a program in core_pattern would get it all the same (core(5)).
    assert_eq!(core[4], "1", "a core file has every token in use: {core:?}");
}
