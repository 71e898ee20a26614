//! A connection of the benchmarks that wait for each answer before the next request.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::client::content_length;

/// A connection that is used for one request after the other.
pub(crate) struct Connection(BufReader<TcpStream>);

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(Self(BufReader::new(stream)))
    }

    pub(crate) fn send(&mut self, device: &str, count: usize) -> anyhow::Result<()> {
        for _ in 0..count {
            self.request(&format!("POST /v1/send/{device}/work"), "x")?;
            let status = self.answer()?;
            ensure!(status == 202, "a send was answered {status}");
        }
        Ok(())
    }

    pub(crate) fn request(&mut self, what: &str, body: &str) -> anyhow::Result<()> {
        let length = body.len();
        let head =
            format!("{what} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
        Ok(self.0.get_mut().write_all(format!("{head}{body}").as_bytes())?)
    }

    /// Reads an answer with its body; its status.
    pub(crate) fn answer(&mut self) -> anyhow::Result<u16> {
        Ok(self.answer_with_body()?.0)
    }

    /// Requests something as JSON.
    pub(crate) fn json(&mut self, what: &str, body: &str) -> anyhow::Result<serde_json::Value> {
        self.request(what, body)?;
        let (status, body) = self.answer_with_body()?;
        let text = String::from_utf8_lossy(&body);
        ensure!(status < 300, "{what} was answered {status}: {text}");
        Ok(serde_json::from_slice(&body)?)
    }

    fn answer_with_body(&mut self) -> anyhow::Result<(u16, Vec<u8>)> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            ensure!(self.0.read_line(&mut head)? > 0, "the hub closed a connection");
        }
        let mut body = vec![0; content_length(&head).unwrap_or(0)];
        self.0.read_exact(&mut body)?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok((status.context("an answer without a status")?, body))
    }

    /// Reads a stream up to its next command; the command's id.
    pub(crate) fn next_command(&mut self) -> anyhow::Result<String> {
        loop {
            let mut line = String::new();
            ensure!(self.0.read_line(&mut line)? > 0, "the hub ended the stream");
            if let Some(rest) = line.strip_prefix("data: {\"id\":\"") {
                let id = rest.split('"').next();
                return id.map(str::to_owned).context("a command without an id");
            }
        }
    }
}
