//! Shared by the tests of this crate: a server whose bytes the test writes, and a source that runs beside it.
//!
//! Every wait is for the event itself; [`within`] only bounds how long a broken test hangs.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file is a program of its own and uses its part"
)]

pub mod hub;

use std::future::Future;
use std::time::Duration;

use bellwire_client::event_source::{Builder, Error, Event, EventSource, Item, Loss};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Long enough for a machine that does ten other things.
const HANG: Duration = Duration::from_secs(30);

/// The result of something that must happen soon.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(HANG, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {} s for {what}", HANG.as_secs()),
    }
}

/// A server on a port that the kernel chooses.
pub struct Server {
    listener: TcpListener,
}

impl Server {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { listener }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }

    pub fn address(&self) -> std::net::SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// Accepts a connection and sends this, whatever it receives.
    pub async fn accept_and_send(&self, bytes: &[u8]) {
        let (mut socket, _) = within("a connection", self.listener.accept()).await.unwrap();
        socket.write_all(bytes).await.unwrap();
        // Until the peer closes: closing at once could discard what was sent.
        socket.read_to_end(&mut Vec::new()).await.ok();
    }

    /// The next request, with its connection.
    pub async fn request(&self) -> Exchange {
        within("a request", async {
            let (socket, _) = self.listener.accept().await.unwrap();
            Exchange::read(socket).await
        })
        .await
    }
}

/// A request, and the connection to answer it on.
pub struct Exchange<S = TcpStream> {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    socket: S,
}

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Exchange<S> {
    pub async fn read(mut socket: S) -> Self {
        let mut bytes = Vec::new();
        let head_end = loop {
            if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                break at;
            }
            let mut byte = [0; 1];
            assert_eq!(socket.read(&mut byte).await.unwrap(), 1, "half a request");
            bytes.push(byte[0]);
        };
        let head = String::from_utf8(bytes[..head_end].to_vec()).unwrap();
        let mut lines = head.split("\r\n");
        let mut first = lines.next().unwrap().split(' ').map(str::to_owned);
        let mut exchange = Self {
            method: first.next().unwrap(),
            target: first.next().unwrap(),
            headers: lines
                .map(|line| line.split_once(": ").unwrap())
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                .collect(),
            body: Vec::new(),
            socket,
        };
        let length = exchange.header("content-length").map_or(0, |n| n.parse().unwrap());
        exchange.body = vec![0; length];
        exchange.socket.read_exact(&mut exchange.body).await.unwrap();
        exchange
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let mut all = self.headers.iter().filter(|(n, _)| n == name);
        let value = all.next().map(|(_, value)| value.as_str());
        assert!(all.next().is_none(), "{name} was sent twice");
        value
    }

    pub fn path_and_query(&self) -> (&str, &str) {
        self.target.split_once('?').unwrap_or((&self.target, ""))
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.socket.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Starts an event stream that lasts until the connection ends.
    pub async fn open_stream(&mut self) {
        self.send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n").await;
    }

    /// Answers with this head and body, and closes.
    pub async fn answer(mut self, status_and_headers: &str, body: &str) {
        let length = body.len();
        let head = status_and_headers.replace('\n', "\r\n");
        self.send(format!(
            "HTTP/1.1 {head}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
        ))
        .await;
        self.end().await;
    }

    /// Ends the connection in good order.
    pub async fn end(mut self) {
        // The client may have disconnected already.
        let _ = self.socket.shutdown().await;
    }

    /// Waits until the client has closed the connection.
    pub async fn dropped(mut self) {
        let mut rest = [0; 64];
        within("the client to drop the connection", async {
            while self.socket.read(&mut rest).await.is_ok_and(|n| n > 0) {}
        })
        .await;
    }
}

/// A source that runs in a task of its own, and its items.
pub struct Tail {
    items: mpsc::Receiver<Result<Item, Error>>,
    task: JoinHandle<()>,
}

impl Tail {
    pub fn start(builder: Builder) -> Self {
        Self::of(builder.build().unwrap())
    }

    pub fn of(mut source: EventSource) -> Self {
        let (sender, items) = mpsc::channel(1);
        let task = tokio::spawn(async move {
            while let Some(item) = source.next_item().await {
                if sender.send(item).await.is_err() {
                    return;
                }
            }
        });
        Self { items, task }
    }

    /// The next item but `Open`; `None` when it has ended.
    pub async fn item(&mut self) -> Option<Result<Item, Error>> {
        loop {
            match within("an item", self.items.recv()).await {
                Some(Ok(Item::Open)) => {}
                item => return item,
            }
        }
    }

    pub async fn event(&mut self) -> Event {
        match self.item().await {
            Some(Ok(Item::Event(event))) => event,
            other => panic!("expected an event, not {other:?}"),
        }
    }

    pub async fn data(&mut self) -> String {
        self.event().await.into_data()
    }

    pub async fn lost(&mut self) -> Loss {
        match self.item().await {
            Some(Ok(Item::Lost { loss, .. })) => loss,
            other => panic!("expected a loss, not {other:?}"),
        }
    }

    /// The final error, the last item.
    pub async fn gave_up(&mut self) -> Error {
        match self.item().await {
            Some(Err(error)) => {
                self.ended().await;
                error
            }
            other => panic!("expected a final error, not {other:?}"),
        }
    }

    pub async fn ended(&mut self) {
        let item = self.item().await;
        assert!(item.is_none(), "the end was due, not {item:?}");
    }

    /// Drops the source.
    pub fn drop_source(self) {
        self.task.abort();
    }
}
