//! The floor: a server with the least work for the same load.
//!
//! One thread and one epoll; fixed heads; no HTTP parsing beyond the end of a head and a content
//! length; one write per stream and message. A command is on disk before it is answered: all
//! requests of one iteration of the loop become one write to a plain file and one fsync. It has no
//! state, no retry and no time, and trusts its client.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;

use memchr::memmem;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

use super::client::{content_length, read_some};

const LISTENER: Token = Token(usize::MAX);
const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
    Cache-Control: no-store\r\n\r\nevent: hello\ndata: {}\n\n";
const STORED: &[u8] = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n";

struct Floor {
    poll: Poll,
    listener: TcpListener,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    /// By the number in a device's name, its connection.
    devices: Vec<Option<usize>>,
    journal: File,
    /// The sends of this iteration: the connection that waits for the answer, the device, and the
    /// event.
    gathered: Vec<(usize, usize, Vec<u8>)>,
    scratch: Box<[u8]>,
}

struct Connection {
    socket: TcpStream,
    partial: Vec<u8>,
}

/// Serves until it is killed.
pub(crate) fn run(folder: &Path) -> anyhow::Result<()> {
    let poll = Poll::new()?;
    let std_listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    std_listener.set_nonblocking(true)?;
    std_listener.set_tcp_nodelay(true)?;
    std_listener.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    std_listener.listen(4096)?;
    let mut listener = TcpListener::from_std(std_listener.into());
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    println!("listening on http://{}", listener.local_addr()?);
    let mut floor = Floor {
        poll,
        listener,
        connections: Vec::new(),
        free: Vec::new(),
        devices: Vec::new(),
        journal: File::create(folder.join("journal"))?,
        gathered: Vec::new(),
        scratch: vec![0; 64 * 1024].into(),
    };
    let mut events = Events::with_capacity(1024);
    loop {
        floor.poll.poll(&mut events, None)?;
        for event in &events {
            match event.token() {
                LISTENER => floor.accept()?,
                Token(at) => floor.on_readable(at),
            }
        }
        floor.store_and_reply()?;
    }
}

impl Floor {
    fn accept(&mut self) -> anyhow::Result<()> {
        loop {
            let mut socket = match self.listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let at = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            self.poll.registry().register(&mut socket, Token(at), Interest::READABLE)?;
            if let Some(slot) = self.connections.get_mut(at) {
                *slot = Some(Connection { socket, partial: Vec::new() });
            }
        }
    }

    /// Reads requests; GET opens the stream of a device, POST sends to one.
    fn on_readable(&mut self, at: usize) {
        let Some(slot) = self.connections.get_mut(at) else { return };
        let Some(connection) = slot else { return };
        let Ok(read) = read_some(&mut connection.socket, &mut self.scratch) else {
            *slot = None;
            self.free.push(at);
            return;
        };
        let Some((bytes, _)) = read else { return };
        connection.partial.extend_from_slice(bytes);
        while let Some((head, body, length)) = request(&connection.partial) {
            let device = device_in(head);
            if self.devices.len() <= device {
                self.devices.resize(device + 1, None);
            }
            if head.starts_with("GET") {
                if let Some(slot) = self.devices.get_mut(device) {
                    *slot = Some(at);
                }
                connection.socket.write_all(HEAD).ok();
            } else {
                let event = [b"data: ", body, b"\n\n"].concat();
                self.gathered.push((at, device, event));
            }
            connection.partial.drain(..length);
        }
        if connection.partial.is_empty() {
            connection.partial = Vec::new();
        }
    }

    fn store_and_reply(&mut self) -> anyhow::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let journal: Vec<u8> =
            self.gathered.iter().flat_map(|(.., event)| event).copied().collect();
        self.journal.write_all(&journal)?;
        self.journal.sync_data()?;
        for (sender, device, event) in std::mem::take(&mut self.gathered) {
            let stream = self.devices.get(device).copied().flatten();
            for (at, bytes) in [(Some(sender), STORED), (stream, &event)] {
                let slot = at.and_then(|at| self.connections.get_mut(at));
                if let Some(Some(connection)) = slot {
                    connection.socket.write_all(bytes).ok();
                }
            }
        }
        Ok(())
    }
}

/// The head, the body and the length of the first request, once it is whole.
fn request(bytes: &[u8]) -> Option<(&str, &[u8], usize)> {
    let end = memmem::find(bytes, b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(bytes.get(..end)?).ok()?;
    let length = end + content_length(head).unwrap_or(0);
    Some((head, bytes.get(end..length)?, length))
}

/// The number in the name of the device: `…/d17/…`.
fn device_in(head: &str) -> usize {
    let names = head.split(['/', ' ']).filter_map(|part| part.strip_prefix('d'));
    names.filter_map(|name| name.parse().ok()).next().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_taken_once_it_is_whole() {
        let bytes = b"POST /v1/send/d17/x HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}GET";
        for cut in 0..bytes.len() - 3 {
            assert_eq!(request(bytes.get(..cut).unwrap_or_default()), None, "cut at {cut}");
        }
        let taken = request(bytes).map(|(head, body, length)| (device_in(head), body, length));
        assert_eq!(taken, Some((17, b"{}".as_slice(), bytes.len() - 3)));
    }
}
