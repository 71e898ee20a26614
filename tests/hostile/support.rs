//! A hub as an operator runs it, and clients that send what they like.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use bellwire_testkit::{EventStream, Http, Program, Response, admin_token, command};
use serde_json::Value;

// Where those that are shared with other tests look for them.
pub(crate) use crate::authority::{Authority, Client};

pub(crate) const BELLWIRE: &str = env!("CARGO_BIN_EXE_bellwire");

/// How long a hub may take for an answer, or to close a connection.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The settings of a hub with one plain listener.
pub(crate) const LISTEN: &str = "listen = '127.0.0.1:0'\n";

/// A hub in a folder of its own.
pub(crate) struct Hub {
    pub(crate) program: Program,
    pub(crate) addr: SocketAddr,
    pub(crate) folder: tempfile::TempDir,
}

/// A hub with tokens.
pub(crate) struct Closed {
    pub(crate) hub: Hub,
    /// A token of role `admin`.
    pub(crate) admin: String,
}

impl Hub {
    /// An open hub with these settings beside [`LISTEN`].
    pub(crate) fn open(settings: &str) -> Self {
        Self::in_folder(tempfile::tempdir().unwrap(), settings, &[])
    }

    pub(crate) fn in_folder(
        folder: tempfile::TempDir,
        settings: &str,
        environment: &[(&str, &str)],
    ) -> Self {
        let file = folder.path().join("hub.toml");
        std::fs::write(&file, format!("{LISTEN}{settings}")).unwrap();
        let mut serve = command(BELLWIRE, &["serve", "--config"]);
        // What a crash may leave is removed with the folder.
        serve.current_dir(&folder);
        serve.arg(&file).arg("--data-dir").arg(folder.path().join("hub"));
        let program = Program::start(serve.envs(environment.iter().copied()));
        program.wait_for("ready;");
        let addr = program.address();
        Self { program, addr, folder }
    }

    pub(crate) fn http(&self) -> Http {
        Http(self.addr)
    }

    /// What is in the head of an answer to these bytes, on a connection that ends with it.
    pub(crate) fn send(&self, bytes: impl AsRef<[u8]>) -> String {
        exchange(self.addr, bytes)
    }

    /// Whether it serves still.
    pub(crate) fn lives(&self) -> bool {
        self.http().get("/readyz").is_ok_and(|answer| answer.status == 200)
    }
}

impl Closed {
    pub(crate) fn start() -> Self {
        Self::with("")
    }

    pub(crate) fn with(settings: &str) -> Self {
        Self::in_environment(settings, &[])
    }

    /// One that logs everything.
    pub(crate) fn that_logs_all() -> Self {
        Self::in_environment("", &[("RUST_LOG", "trace")])
    }

    pub(crate) fn in_environment(settings: &str, environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let admin = admin_token(BELLWIRE, &folder.path().join("hub"));
        Self { hub: Hub::in_folder(folder, settings, environment), admin }
    }

    /// A request with a token: a line as `POST /v1/send/d/a`, and a body.
    pub(crate) fn ask(&self, token: &str, line: &str, body: &str) -> Response {
        let (method, target) = line.split_once(' ').unwrap();
        let bearer = format!("Bearer {token}");
        let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
        self.hub.http().request(method, target, &headers, body.as_bytes()).unwrap()
    }

    /// The whole answer to such a request, head and body; of a stream that is opened, the head.
    pub(crate) fn answer(&self, token: &str, line: &str, body: &str) -> String {
        let mut socket = TcpStream::connect(self.hub.addr).unwrap();
        let length = body.len();
        let head = format!(
            "{line} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
        socket.write_all(head.as_bytes()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let (mut answer, mut byte) = (Vec::new(), [0]);
        while !answer.ends_with(b"\r\n\r\n") {
            socket.read_exact(&mut byte).unwrap();
            answer.push(byte[0]);
        }
        let head = String::from_utf8(answer).unwrap();
        let streams = head.to_ascii_lowercase().contains("text/event-stream");
        if streams { head } else { head + &rest_of(&mut socket) }
    }

    /// The same as an admin, which must succeed; the answer's body.
    pub(crate) fn admin(&self, line: &str, body: &str) -> Value {
        let answer = self.ask(&self.admin, line, body);
        assert!((200..300).contains(&answer.status), "{line}: {answer:?}");
        if answer.body.is_empty() { Value::Null } else { answer.json() }
    }

    /// Makes a token.
    pub(crate) fn token(&self, body: &Value) -> String {
        text(&self.admin("POST /v1/tokens", &body.to_string())["token"])
    }

    /// Registers a device with these labels.
    pub(crate) fn register(&self, device: &str, labels: &Value) {
        let body = serde_json::json!({ "labels": labels }).to_string();
        self.admin(&format!("PUT /v1/devices/{device}"), &body);
    }

    pub(crate) fn stream(&self, token: &str, target: &str) -> EventStream {
        let bearer = format!("Bearer {token}");
        self.hub.http().stream_with(target, &[("Authorization", &bearer)]).unwrap()
    }
}

/// Everything that a server answers to these bytes until it closes the connection. A reset counts as a close: some of the
/// bytes were not read.
pub(crate) fn exchange(addr: SocketAddr, bytes: impl AsRef<[u8]>) -> String {
    let mut socket = TcpStream::connect(addr).unwrap();
    // What refuses before it has read everything may close meanwhile.
    let _ = socket.write_all(bytes.as_ref());
    rest_of(&mut socket)
}

/// Everything that is still to come on a connection.
pub(crate) fn rest_of(socket: &mut TcpStream) -> String {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = Vec::new();
    if let Err(error) = socket.read_to_end(&mut answer) {
        assert!(
            matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
            "the connection was not closed: {error}; so far {:?}",
            String::from_utf8_lossy(&answer)
        );
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// The status codes of the answers in what a server sent.
pub(crate) fn statuses(answers: &str) -> Vec<u16> {
    let heads = answers.split("HTTP/1.1 ").skip(1);
    heads.map(|head| head[..3].parse().unwrap_or_else(|_| panic!("{answers:?}"))).collect()
}

/// A string of JSON.
pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("text: {value}")).to_owned()
}

/// What a command of the program prints, both outputs, whatever its end.
pub(crate) fn run(args: &[&str], environment: &[(&str, &str)]) -> String {
    let mut command = command(BELLWIRE, args);
    command.envs(environment.iter().copied());
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

/// Every file below a folder, with its bytes.
pub(crate) fn files(folder: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.is_file() {
            // One may be gone by now.
            found.extend(std::fs::read(&path).ok().map(|bytes| (path, bytes)));
        }
    }
    found
}
