//! A hub to listen at, and a stream by its raw bytes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use bellwire_testkit::{EventStream, Http, Program, wait_until};
use serde_json::{Value, json};

/// How long the next bytes of a stream may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A hub on a folder of its own.
pub(crate) struct Hub {
    pub(crate) address: SocketAddr,
    _program: Program,
    _folder: tempfile::TempDir,
}

/// A stream whose bytes are read as they come.
pub(crate) struct Raw {
    pub(crate) socket: TcpStream,
    /// What was read and not asked for yet.
    pub(crate) read: String,
}

impl Hub {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// With these variables.
    pub(crate) fn start_with(settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_bellwire"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]);
        command.arg(folder.path().join("hub")).envs(settings.iter().copied());
        let program = Program::start(&mut command);
        Self { address: program.address(), _program: program, _folder: folder }
    }

    pub(crate) fn http(&self) -> Http {
        Http(self.address)
    }

    pub(crate) fn listen(&self, device: &str, query: &str) -> EventStream {
        self.http().stream(&format!("/v1/devices/{device}/stream?{query}")).unwrap()
    }

    /// Sends a command; gives its id.
    pub(crate) fn send(&self, device: &str) -> String {
        let sent = self.http().post_json(&format!("/v1/send/{device}/ping"), "").unwrap();
        assert_eq!(sent.status, 202, "{sent:?}");
        sent.json()["command"].as_str().unwrap().to_owned()
    }

    pub(crate) fn confirm(&self, device: &str, session: &Value) -> u16 {
        let body = json!({ "session": session }).to_string();
        self.http().post_json(&format!("/v1/devices/{device}/confirm"), &body).unwrap().status
    }

    /// Waits until the device is shown so: `online` and `transport`.
    pub(crate) fn until_shown(&self, device: &str, online: bool, transport: Value) {
        wait_until(&format!("{device} to be online {online} by {transport}"), || {
            let shown =
                self.http().get(&format!("/v1/devices/{device}")).map_err(|e| e.to_string())?;
            let shown = shown.json();
            let fits = shown["online"] == online && shown["transport"] == transport;
            if fits { Ok(()) } else { Err(shown.to_string()) }
        });
    }

    /// Requests a stream of an HTTP version, and reads its head.
    pub(crate) fn raw(&self, version: &str, target: &str, fields: &str) -> (String, Raw) {
        let mut socket = TcpStream::connect(self.address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!("GET {target} HTTP/{version}\r\nHost: {}\r\n{fields}\r\n", self.address);
        socket.write_all(head.as_bytes()).unwrap();
        let mut raw = Raw { socket, read: String::new() };
        let head = raw.until("\r\n\r\n");
        (head, raw)
    }
}

impl Raw {
    /// Reads up to `end`, and gives what came before it and `end`.
    pub(crate) fn until(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = self.read.find(end) {
                let rest = self.read.split_off(at + end.len());
                return std::mem::replace(&mut self.read, rest);
            }
            let mut bytes = [0; 4096];
            let count = self
                .socket
                .read(&mut bytes)
                .unwrap_or_else(|error| panic!("{error} before {end:?}; so far {:?}", self.read));
            assert_ne!(count, 0, "the end before {end:?}; so far {:?}", self.read);
            self.read.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
        }
    }

    /// Reads to the end of the connection.
    pub(crate) fn read_to_end(&mut self) -> String {
        self.socket.read_to_string(&mut self.read).unwrap();
        std::mem::take(&mut self.read)
    }
}

/// The data of a frame as JSON.
pub(crate) fn data(frame: &str) -> Value {
    let line = frame.lines().find_map(|line| line.strip_prefix("data: "));
    serde_json::from_str(line.unwrap_or_else(|| panic!("no data in {frame:?}"))).unwrap()
}

/// The time in a heartbeat.
pub(crate) fn heartbeat_ms(frame: &str) -> u64 {
    let ms = frame.strip_prefix(": ").and_then(|text| text.strip_suffix("\n\n"));
    ms.and_then(|ms| ms.parse().ok()).unwrap_or_else(|| panic!("{frame:?} is no heartbeat"))
}
