//! HTTP/1.1 by raw bytes: exactly what is written goes over the wire.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bellwire_sse::{Decoder, OwnedItem};
use serde_json::Value;

/// How long an answer, or the next bytes of a stream, may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server to talk to. Each request has a connection of its own.
#[derive(Debug, Clone, Copy)]
pub struct Http(pub SocketAddr);

/// An answer.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The head as it came, status line included.
    pub head: String,
    /// The body, dechunked.
    pub body: Vec<u8>,
}

/// An event stream that is being read.
#[derive(Debug)]
pub struct EventStream {
    reader: Body,
    decoder: Decoder,
    ready: std::collections::VecDeque<(String, String, String)>,
}

#[derive(Debug)]
struct Body {
    reader: BufReader<TcpStream>,
    /// Remaining bytes of the chunk; `None` when the body is not chunked.
    chunk: Option<usize>,
    ended: bool,
}

impl Http {
    /// A request; `body` is sent with its length.
    pub fn request(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Response> {
        let mut reader = self.begin(method, target, headers, body)?;
        let (status, head) = read_head(&mut reader)?;
        let length = header(&head, "content-length").and_then(|v| v.parse::<usize>().ok());
        let mut bytes = Vec::new();
        if chunked(&head) {
            Body { reader, chunk: Some(0), ended: false }.read_to_end(&mut bytes)?;
        } else if method != "HEAD" && status != 204 {
            match length {
                Some(length) => {
                    bytes.resize(length, 0);
                    reader.read_exact(&mut bytes)?;
                }
                None => drop(reader.read_to_end(&mut bytes)?),
            }
        }
        Ok(Response { status, head, body: bytes })
    }

    /// A GET.
    pub fn get(&self, target: &str) -> io::Result<Response> {
        self.request("GET", target, &[], b"")
    }

    /// A POST of JSON.
    pub fn post_json(&self, target: &str, body: &str) -> io::Result<Response> {
        self.request("POST", target, &[("Content-Type", "application/json")], body.as_bytes())
    }

    /// Opens an event stream; anything but 200 is an error.
    pub fn stream(&self, target: &str) -> io::Result<EventStream> {
        self.stream_with(target, &[])
    }

    /// The same with further header fields.
    pub fn stream_with(&self, target: &str, headers: &[(&str, &str)]) -> io::Result<EventStream> {
        let headers = [&[("Accept", "text/event-stream")], headers].concat();
        let mut reader = self.begin("GET", target, &headers, b"")?;
        let (status, head) = read_head(&mut reader)?;
        if status != 200 {
            return Err(io::Error::other(format!("{target} answered {head}")));
        }
        let chunk = chunked(&head).then_some(0);
        let reader = Body { reader, chunk, ended: false };
        Ok(EventStream { reader, decoder: Decoder::new(), ready: Default::default() })
    }

    fn begin(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<BufReader<TcpStream>> {
        let mut socket = TcpStream::connect_timeout(&self.0, PATIENCE)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_nodelay(true)?;
        let mut head = format!("{method} {target} HTTP/1.1\r\nConnection: close\r\n");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head.push_str(&format!("Host: {}\r\n", self.0));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() || method == "POST" || method == "PUT" {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        socket.write_all(&[head.as_bytes(), body].concat())?;
        Ok(BufReader::new(socket))
    }
}

impl Response {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| {
            panic!("{e} in {}{}", self.head, String::from_utf8_lossy(&self.body))
        })
    }

    /// A header field's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }
}

impl EventStream {
    /// The next event: name, data, id. `None` at the orderly end of the stream.
    pub fn event(&mut self) -> io::Result<Option<(String, String, String)>> {
        let mut bytes = vec![0; 16 * 1024];
        while self.ready.is_empty() {
            let n = self.reader.read(&mut bytes)?;
            if n == 0 {
                return Ok(None);
            }
            let mut chunk = &bytes[..n];
            while let Some(item) =
                self.decoder.decode_owned(&mut chunk).map_err(io::Error::other)?
            {
                if let OwnedItem::Event(event) = item {
                    let (name, id) = (event.name().to_owned(), event.id().to_owned());
                    self.ready.push_back((name, event.into_data(), id));
                }
            }
        }
        Ok(self.ready.pop_front())
    }

    /// The next event of this name, its data as JSON.
    pub fn expect(&mut self, name: &str) -> Value {
        loop {
            match self.event() {
                Ok(Some((event, data, _))) if event == name => {
                    return serde_json::from_str(&data).unwrap();
                }
                Ok(Some(_)) => {}
                other => panic!("the stream ended before an event {name}: {other:?}"),
            }
        }
    }
}

impl Read for Body {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some(remaining) = self.chunk else { return self.reader.read(into) };
        if self.ended {
            return Ok(0);
        }
        let remaining = if remaining == 0 { self.next_chunk()? } else { remaining };
        if remaining == 0 {
            self.ended = true;
            return Ok(0);
        }
        let n = into.len().min(remaining);
        let n = self.reader.read(&mut into[..n])?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.chunk = Some(remaining - n);
        if remaining == n {
            let mut end = [0; 2];
            self.reader.read_exact(&mut end)?;
        }
        Ok(n)
    }
}

impl Body {
    fn next_chunk(&mut self) -> io::Result<usize> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        usize::from_str_radix(line.trim(), 16)
            .map_err(|e| io::Error::other(format!("{e}: chunk {line:?}")))
    }
}

fn read_head(reader: &mut BufReader<TcpStream>) -> io::Result<(u16, String)> {
    let mut head = String::new();
    loop {
        let start = head.len();
        if reader.read_line(&mut head)? == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("head so far: {head:?}"),
            ));
        }
        if &head[start..] == "\r\n" {
            break;
        }
    }
    let status = head.split_whitespace().nth(1).and_then(|s| s.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("no status in {head:?}")))?;
    // 100 Continue is not the answer.
    if status == 100 { read_head(reader) } else { Ok((status, head)) }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let field = |line: &'a str| line.split_once(':').filter(|(n, _)| n.eq_ignore_ascii_case(name));
    head.lines().find_map(field).map(|(_, value)| value.trim())
}

fn chunked(head: &str) -> bool {
    header(head, "transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked"))
}
