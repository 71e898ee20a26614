//! A hub on a port of its own, and a client that reads bytes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bellwire_hub::app::{Bound, Running};
use bellwire_hub::config::Config;
use bellwire_hub::driver::Driver;
use serde_json::Value;
use tokio::runtime::Runtime;

/// How long a test waits for a byte before it fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// A hub with a folder of its own. Dropped, it is stopped, and the folder is removed.
pub(crate) struct Hub {
    pub(crate) driver: Driver,
    pub(crate) addr: SocketAddr,
    runtime: Runtime,
    running: Option<Running>,
    _folder: tempfile::TempDir,
}

impl Hub {
    pub(crate) fn start() -> Self {
        Self::with(|_| {})
    }

    /// A hub with other settings than the defaults.
    pub(crate) fn with(set: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.listen = vec!["127.0.0.1:0".parse().unwrap()];
        config.data_dir = folder.path().join("hub");
        config.drain = Duration::ZERO;
        set(&mut config);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let running = runtime.block_on(async { Bound::bind(config).await.unwrap().serve() });
        let (driver, addr) = (running.hub().driver().clone(), running.listeners()[0].address);
        Self { driver, addr, runtime, running: Some(running), _folder: folder }
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::to(self.addr)
    }

    /// One request on a connection of its own: a line as `POST /v1/send/d/a`, more header lines, a body.
    pub(crate) fn request(&self, line: &str, headers: &str, body: &[u8]) -> Answer {
        let mut connection = self.connect();
        connection.request(line, headers, body);
        connection.answer_to(line)
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.request(&format!("GET {path}"), "", b"")
    }

    pub(crate) fn post(&self, path: &str, body: &str) -> Answer {
        self.request(&format!("POST {path}"), "", body.as_bytes())
    }

    pub(crate) fn put(&self, path: &str, body: &str) -> Answer {
        self.request(&format!("PUT {path}"), "", body.as_bytes())
    }

    pub(crate) fn delete(&self, path: &str) -> Answer {
        self.request(&format!("DELETE {path}"), "", b"")
    }

    /// Opens a stream, which must be answered 200.
    pub(crate) fn stream(&self, path: &str) -> Stream {
        self.stream_with(path, "")
    }

    pub(crate) fn stream_with(&self, path: &str, headers: &str) -> Stream {
        self.connect().into_stream(path, headers)
    }

    /// Serves a router as any program with axum would, for as long as the hub is there.
    #[expect(clippy::disallowed_methods, reason = "the test needs an ordinary axum server")]
    pub(crate) fn serve_by_axum(&self, router: axum::Router) -> SocketAddr {
        self.runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let addr = listener.local_addr().unwrap();
            tokio::spawn(async move { axum::serve(listener, router).await });
            addr
        })
    }

    /// Sends a command without waiting and gives its delivery.
    pub(crate) fn command(&self, device: &str, action: &str) -> Value {
        let answer = self.post(&format!("/v1/send/{device}/{action}"), "");
        assert_eq!(answer.status, 202, "{answer:?}");
        answer.json()
    }

    /// Polls until the condition holds.
    pub(crate) fn until(&self, so: impl Fn() -> bool) {
        let started = Instant::now();
        while !so() {
            assert!(started.elapsed() < PATIENCE, "the condition never held");
            std::thread::yield_now();
        }
    }

    /// Reports of a command by its delivery.
    pub(crate) fn report(&self, delivery: &Value, body: &str) -> Answer {
        let (device, command) = (text(&delivery["device"]), text(&delivery["command"]));
        self.post(&format!("/v1/devices/{device}/commands/{command}/status"), body)
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            self.runtime.block_on(running.shutdown());
        }
    }
}

/// A connection, read with patience.
pub(crate) struct Connection {
    socket: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Connection {
    pub(crate) fn to(addr: SocketAddr) -> Self {
        let socket = TcpStream::connect(addr).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let reader = BufReader::new(socket.try_clone().unwrap());
        Self { socket, reader }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.socket.write_all(bytes.as_ref()).unwrap();
    }

    pub(crate) fn request(&mut self, line: &str, headers: &str, body: &[u8]) {
        let length = body.len();
        let head = format!(
            "{line} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{headers}\r\n"
        );
        self.send([head.as_bytes(), body].concat());
    }

    /// Requests a stream, which must be answered 200 and in chunks.
    pub(crate) fn into_stream(mut self, path: &str, headers: &str) -> Stream {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"));
        let head = self.head();
        assert_eq!(head.status, 200, "{path}: {head:?}");
        assert_eq!(head.header("transfer-encoding"), Some("chunked"), "{head:?}");
        Stream { connection: self, head, text: String::new() }
    }

    /// The head of the next answer.
    pub(crate) fn head(&mut self) -> Head {
        let mut lines = std::iter::from_fn(|| Some(self.line())).take_while(|l| !l.is_empty());
        let first = lines.next().expect("a status line");
        let mut words = first.splitn(3, ' ');
        assert_eq!(words.next(), Some("HTTP/1.1"), "{first:?}");
        let status = words.next().unwrap().parse().unwrap();
        Head { first, status, lines: lines.collect() }
    }

    /// The next answer, to a request that began with `line`.
    pub(crate) fn answer_to(&mut self, line: &str) -> Answer {
        let head = self.head();
        let mut body = Vec::new();
        let length = head.header("content-length").map(|l| l.parse::<usize>().unwrap());
        let bodiless = line.starts_with("HEAD ") || head.status == 204 || head.status == 100;
        match length {
            _ if bodiless => {}
            Some(length) => {
                body.resize(length, 0);
                self.reader.read_exact(&mut body).unwrap();
            }
            None if head.header("transfer-encoding") == Some("chunked") => loop {
                match self.chunk() {
                    chunk if chunk.is_empty() => break,
                    chunk => body.extend(chunk),
                }
            },
            None => panic!("an answer without a length: {head:?}"),
        }
        Answer { status: head.status, head, body }
    }

    /// Whether the other end ends the connection, and has sent nothing more before.
    pub(crate) fn ends(&mut self) -> bool {
        matches!(self.reader.fill_buf(), Ok(&[]))
    }

    /// Sends a request without a body on a connection that may be closed already; whether it could.
    pub(crate) fn try_request(&mut self, line: &str) -> bool {
        self.socket
            .write_all(format!("{line} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
            .is_ok()
    }

    /// Whether the other end closes the connection, in order or by a reset, before it sends anything.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.reader.fill_buf().map_or(true, <[u8]>::is_empty)
    }

    /// Everything that arrives until the other end closes the connection.
    pub(crate) fn rest(&mut self) -> String {
        let mut rest = String::new();
        self.reader.read_to_string(&mut rest).unwrap();
        rest
    }

    fn line(&mut self) -> String {
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line).expect("a line within the patience");
        let line = String::from_utf8(line).unwrap();
        line.strip_suffix("\r\n").unwrap_or_else(|| panic!("a line ends in CRLF: {line:?}")).into()
    }

    /// The next chunk; empty at the end of the body.
    pub(crate) fn chunk(&mut self) -> Vec<u8> {
        let size = usize::from_str_radix(&self.line(), 16).unwrap();
        let mut chunk = vec![0; size + 2];
        self.reader.read_exact(&mut chunk).unwrap();
        assert!(chunk.ends_with(b"\r\n"));
        chunk.truncate(size);
        chunk
    }
}

#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) first: String,
    pub(crate) status: u16,
    pub(crate) lines: Vec<String>,
}

impl Head {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.lines.iter().find_map(|line| {
            let (n, value) = line.split_once(':')?;
            n.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The code of a refusal, which must be a whole problem.
    pub(crate) fn code(&self) -> String {
        assert_eq!(self.head.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["type"], "about:blank", "{problem}");
        assert_eq!(problem["status"], self.status, "{problem}");
        assert!(problem["title"].is_string() && problem["detail"].is_string(), "{problem}");
        let asks_to_wait = matches!(self.status, 429 | 503);
        assert_eq!(self.head.header("retry-after").is_some(), asks_to_wait, "{self:?}");
        text(&problem["code"]).to_owned()
    }
}

/// A stream of events over chunks.
pub(crate) struct Stream {
    pub(crate) connection: Connection,
    pub(crate) head: Head,
    /// What was received and is not yet a whole block.
    text: String,
}

/// A block of lines of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) lines: Vec<String>,
}

impl Stream {
    /// The next block that is an event; heartbeats are skipped.
    pub(crate) fn event(&mut self) -> Block {
        let started = Instant::now();
        loop {
            let block = self.block().expect("an event before the end of the stream");
            // Heartbeats never end: they must not hide that an event is missing.
            assert!(started.elapsed() < PATIENCE, "no event came, only {block:?}");
            if block.lines.iter().any(|line| !line.starts_with(':')) {
                return block;
            }
        }
    }

    /// The next event, which must be of this type; its data.
    pub(crate) fn expect(&mut self, event: &str) -> Value {
        let block = self.event();
        assert_eq!(block.field("event"), Some(event), "{block:?}");
        block.data()
    }

    /// The next block; `None` when the stream has ended in order.
    pub(crate) fn block(&mut self) -> Option<Block> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let lines = block.split('\n').map(str::to_owned).collect();
                self.text = rest.to_owned();
                return Some(Block { lines });
            }
            let chunk = self.connection.chunk();
            if chunk.is_empty() {
                assert_eq!(self.text, "", "the stream ended within a block");
                return None;
            }
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }
}

impl Block {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.lines.iter().find_map(|line| line.strip_prefix(&format!("{name}: ")))
    }

    pub(crate) fn data(&self) -> Value {
        serde_json::from_str(self.field("data").expect("data")).unwrap()
    }

    /// The names of its fields, in order; a comment is "".
    pub(crate) fn fields(&self) -> Vec<&str> {
        self.lines.iter().map(|line| line.split(':').next().unwrap()).collect()
    }
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("text: {value}"))
}
