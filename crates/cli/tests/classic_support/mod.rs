//! The harness of the classic tests: programs and stand-ins as real processes, HTTP by raw bytes.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "shared by tests that each need a part; a panic here is a test's failure message"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

/// How long anything may take that is waited for.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A process whose lines are read as they come. Killed when dropped.
pub struct Process {
    child: Child,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
    /// Lines that were read and skipped, for messages.
    seen: Vec<String>,
}

impl Process {
    pub fn start(command: &mut Command) -> Self {
        for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "ALL_PROXY"] {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let stdout = lines(child.stdout.take().unwrap());
        let stderr = lines(child.stderr.take().unwrap());
        Self { child, stdout, stderr, seen: Vec::new() }
    }

    /// The next line on standard output; `None` at its end.
    pub fn out(&mut self) -> Option<String> {
        next(&self.stdout, &self.seen)
    }

    /// The next line on standard error; `None` at its end.
    pub fn err(&mut self) -> Option<String> {
        next(&self.stderr, &self.seen)
    }

    /// The next line on standard error that holds `text`.
    pub fn err_with(&mut self, text: &str) -> String {
        loop {
            let line = self.err();
            let line = line.unwrap_or_else(|| panic!("no line with {text:?} in {:#?}", self.seen));
            self.seen.push(line.clone());
            if line.contains(text) {
                return line;
            }
        }
    }

    /// The next line on standard output, which is JSON.
    pub fn json(&mut self) -> serde_json::Value {
        let line = self.out().unwrap_or_else(|| {
            let errors: Vec<String> = std::iter::from_fn(|| self.err()).collect();
            panic!("it ended: {errors:#?}")
        });
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e} in {line:?}"))
    }

    /// Waits for the end: exit code, and the rest of both outputs.
    pub fn end(mut self) -> (i32, Vec<String>, Vec<String>) {
        let out = std::iter::from_fn(|| next(&self.stdout, &self.seen)).collect();
        let err = std::iter::from_fn(|| next(&self.stderr, &self.seen)).collect();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status.code().unwrap_or(-1), out, err);
            }
            assert!(Instant::now() < deadline, "it closed its outputs and does not end");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn terminate(self) -> (i32, Vec<String>, Vec<String>) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.end()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = sync_channel(1024);
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

fn next(lines: &Receiver<String>, seen: &[String]) -> Option<String> {
    match lines.recv_timeout(PATIENCE) {
        Ok(line) => Some(line),
        Err(RecvTimeoutError::Disconnected) => None,
        Err(RecvTimeoutError::Timeout) => panic!("no line in {PATIENCE:?}; before: {seen:#?}"),
    }
}

/// A stand-in of `tests/standins`, started. A machine without python3 fails the test.
pub fn standin(name: &str, args: &[&str]) -> Process {
    let script = repository().join("tests/standins").join(name);
    Process::start(Command::new("python3").arg("-u").arg(script).args(args))
}

/// The stand-in of a server, and its port.
pub fn classic_server(args: &[&str]) -> (Process, String) {
    let mut server = standin("classic_server.py", args);
    let port = server.json()[1].to_string();
    (server, port)
}

pub fn repository() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// A file of the test authority: `ca.pem`, `cert.pem`, `key.pem` (localhost, 127.0.0.1).
pub fn tls_file(name: &str) -> String {
    let file = repository().join("crates/hub/tests/fixtures/tls").join(name);
    file.into_os_string().into_string().unwrap()
}

/// The classic server on a port of its own choice.
pub fn server(args: &[&str]) -> (Process, SocketAddr) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eventsource-server"));
    let mut server = Process::start(command.args(["-H", "127.0.0.1", "-P", "0"]).args(args));
    let line = server.err_with("INFO:eventsource.listener:listening on ");
    let addr = line.rsplit("//").next().unwrap().parse();
    (server, addr.unwrap_or_else(|e| panic!("{e} in {line:?}")))
}

/// A connection on which bytes are written and read as they are.
pub struct Raw {
    socket: TcpStream,
    read: Vec<u8>,
}

impl Raw {
    pub fn send(addr: SocketAddr, request: &[u8]) -> Self {
        let mut socket = TcpStream::connect(addr).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.write_all(request).unwrap();
        Self { socket, read: Vec::new() }
    }

    /// Reads until what has come since the last call ends with `end`, and gives it.
    pub fn until(&mut self, end: &str) -> String {
        while !self.read.ends_with(end.as_bytes()) {
            let mut byte = [0];
            match self.socket.read(&mut byte) {
                Ok(1..) => self.read.push(byte[0]),
                end_of_it => panic!(
                    "{end_of_it:?} while waiting for {end:?} after {:?}",
                    String::from_utf8_lossy(&self.read)
                ),
            }
        }
        String::from_utf8(std::mem::take(&mut self.read)).unwrap()
    }

    /// Reads to the end of the connection.
    pub fn rest(mut self) -> String {
        self.socket.read_to_end(&mut self.read).unwrap();
        String::from_utf8(self.read).unwrap()
    }
}

/// A listener whose stream comes without chunks, as bytes to compare; its head is read.
pub fn listen(addr: SocketAddr, token: &str) -> Raw {
    listen_after(addr, token, "")
}

/// The same with more header fields, each ended by CRLF.
pub fn listen_after(addr: SocketAddr, token: &str, fields: &str) -> Raw {
    let request = format!("GET /poll/{token} HTTP/1.0\r\nHost: x\r\n{fields}\r\n");
    let mut listener = Raw::send(addr, request.as_bytes());
    let head = listener.until("\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    listener
}

/// An answer: status line, head, body.
#[derive(Debug)]
pub struct Answer {
    pub status: String,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

pub fn request(addr: SocketAddr, method: &str, path: &str, body: &[u8]) -> Answer {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let answer = Raw::send(addr, &[head.as_bytes(), body].concat()).rest();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    let (status, head) = head.split_once("\r\n").unwrap();
    Answer { status: status.to_owned(), head: head.to_owned(), body: body.to_owned() }
}

/// Posts and gives the status line and the body.
pub fn post(addr: SocketAddr, path: &str, body: impl AsRef<[u8]>) -> (String, String) {
    let answer = request(addr, "POST", path, body.as_ref());
    (answer.status, answer.body)
}

pub const OK: &str = "HTTP/1.1 200 OK";

/// Posts what must be taken.
pub fn posted(addr: SocketAddr, path: &str, body: impl AsRef<[u8]>) {
    assert_eq!(post(addr, path, body), (OK.to_owned(), String::new()), "of a post to {path}");
}

/// The original's page.
pub fn page(status: &str, message: &str) -> (String, String) {
    let (code, name) = status.split_once(' ').unwrap();
    (
        format!("HTTP/1.1 {status}"),
        format!("<html><title>{code}: {name}</title><body>{code}: {message}</body></html>\n"),
    )
}
