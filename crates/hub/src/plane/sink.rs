//! Where the bytes of a stream go: a plain socket, a TLS socket, or a response body that an HTTP
//! server writes. One interface for the three; the shard does not distinguish them.
//!
//! Nothing here blocks, and nothing queues without a bound: a TLS sink holds at most one record
//! that the kernel refused, a body at most `BODY_BUFFER_BYTES_MAX`.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use rustls::ServerConnection;
use socket2::SockRef;

use super::body::{BodyWriter, StreamBody};
use super::guard::ConnectionGuard;

/// Buffers handed to one `writev`; the kernel's own limit is 1024.
const SLICES_MAX: usize = 32;
/// Plaintext given to rustls at once: one full record (RFC 8446 section 5.1).
const RECORD_BYTES: usize = 16 * 1024;

/// Where the bytes of a stream go.
pub struct Sink(Kind);

enum Kind {
    Plain { socket: TcpStream, _guard: ConnectionGuard },
    Tls(Box<Tls>),
    Body(BodyWriter),
}

/// What carries a stream, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SinkTransport {
    /// A socket.
    Plain,
    /// A socket with TLS.
    Tls,
    /// A response body: HTTP/2, or another program's server.
    Body,
}

impl SinkTransport {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Plain, Self::Tls, Self::Body];

    /// As a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Tls => "tls",
            Self::Body => "body",
        }
    }
}

struct Tls {
    socket: TcpStream,
    session: ServerConnection,
    /// Plaintext bytes in the record that the kernel has not taken whole.
    held: usize,
    _guard: ConnectionGuard,
}

/// What reading from the peer found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ReadOutcome {
    Nothing,
    /// Bytes came; all of them were read and dropped.
    Bytes,
    /// Bytes came and more may wait; other streams are next.
    More,
    /// The peer will send no more.
    Eof,
}

impl Sink {
    /// A socket that was taken over. It must be nonblocking, as those of tokio are.
    pub fn plain(socket: std::net::TcpStream, guard: ConnectionGuard) -> Self {
        Self(Kind::Plain { socket: TcpStream::from_std(socket), _guard: guard })
    }

    /// A socket that was taken over together with its TLS session, after the handshake.
    pub fn tls(
        socket: std::net::TcpStream,
        mut session: ServerConnection,
        guard: ConnectionGuard,
    ) -> Self {
        session.set_buffer_limit(Some(2 * RECORD_BYTES));
        let socket = TcpStream::from_std(socket);
        Self(Kind::Tls(Box::new(Tls { socket, session, held: 0, _guard: guard })))
    }

    /// A response body, and the sink that fills it.
    pub fn body() -> (Self, StreamBody) {
        let (writer, body) = super::body::pair();
        (Self(Kind::Body(writer)), body)
    }

    pub(crate) fn transport(&self) -> SinkTransport {
        match self.0 {
            Kind::Plain { .. } => SinkTransport::Plain,
            Kind::Tls(_) => SinkTransport::Tls,
            Kind::Body(_) => SinkTransport::Body,
        }
    }

    pub(crate) fn is_body(&self) -> bool {
        matches!(self.0, Kind::Body(_))
    }

    /// Whether the peer's bytes, or its close_notify, may have been read already, so that epoll
    /// will not report them.
    pub(crate) fn reads_ahead(&self) -> bool {
        matches!(self.0, Kind::Tls(_))
    }

    /// Registers a socket with its shard.
    pub(crate) fn start(
        &mut self,
        registry: &Registry,
        token: Token,
        user_timeout: Option<Duration>,
    ) -> io::Result<()> {
        let socket = match &mut self.0 {
            Kind::Plain { socket, .. } => socket,
            Kind::Tls(tls) => &mut tls.socket,
            Kind::Body(_) => return Ok(()),
        };
        // A refusal here only delays detection: the stream's own deadlines remain.
        let _ = SockRef::from(&*socket).set_tcp_user_timeout(user_timeout);
        registry.register(socket, token, Interest::READABLE | Interest::WRITABLE)
    }

    /// Has a body wake `shard` when [`Self::discard_input`] or [`Self::write`] can make progress.
    pub(crate) fn notify(&mut self, shard: impl FnOnce() -> Waker) {
        if let Kind::Body(body) = &mut self.0 {
            body.notify(shard());
        }
    }

    /// Writes from the front of `pieces` without blocking and returns the number of bytes;
    /// `WouldBlock` when none.
    pub(crate) fn write(&mut self, pieces: &[Bytes]) -> io::Result<usize> {
        match &mut self.0 {
            Kind::Plain { socket, .. } => write_plain(socket, pieces),
            Kind::Tls(tls) => tls.write(pieces),
            Kind::Body(body) => body.write(pieces),
        }
    }

    /// Bytes that [`Self::write`] accepted and that the kernel or the body's reader does not have
    /// yet.
    pub(crate) fn held(&self) -> usize {
        match &self.0 {
            Kind::Plain { .. } => 0,
            Kind::Tls(tls) => tls.held,
            Kind::Body(body) => body.held(),
        }
    }

    /// Writes what is held.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Kind::Tls(tls) => tls.flush(),
            Kind::Plain { .. } | Kind::Body(_) => Ok(()),
        }
    }

    /// Reads and drops what the peer sent, [`READS_MAX`] times `scratch` at most.
    pub(crate) fn discard_input(&mut self, scratch: &mut [u8]) -> io::Result<ReadOutcome> {
        match &mut self.0 {
            Kind::Plain { socket, .. } => discard_plain(socket, scratch),
            Kind::Tls(tls) => tls.discard_input(scratch),
            Kind::Body(body) if body.is_dropped() => Ok(ReadOutcome::Eof),
            Kind::Body(_) => Ok(ReadOutcome::Nothing),
        }
    }

    /// Shuts the writing side. True when the peer's FIN should be awaited: closing a socket with
    /// unread bytes sends a reset, which destroys bytes in flight.
    pub(crate) fn finish(&mut self) -> bool {
        match &mut self.0 {
            Kind::Plain { socket, .. } => socket.shutdown(Shutdown::Write).is_ok(),
            Kind::Tls(tls) => {
                tls.session.send_close_notify();
                // If the kernel has no space for the alert, the FIN has to suffice.
                let _ = tls.flush();
                tls.socket.shutdown(Shutdown::Write).is_ok()
            }
            Kind::Body(body) => {
                body.finish();
                false
            }
        }
    }
}

fn write_plain(socket: &mut TcpStream, pieces: &[Bytes]) -> io::Result<usize> {
    loop {
        let written = match pieces {
            [piece] => socket.write(piece),
            _ => {
                let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                for (slice, piece) in slices.iter_mut().zip(pieces) {
                    *slice = IoSlice::new(piece);
                }
                let count = pieces.len().min(SLICES_MAX);
                socket.write_vectored(slices.get(..count).unwrap_or_default())
            }
        };
        match written {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            other => return other,
        }
    }
}

/// How many times `scratch` is filled from one socket before the other sockets are next.
const READS_MAX: usize = 4;

fn discard_plain(socket: &mut TcpStream, scratch: &mut [u8]) -> io::Result<ReadOutcome> {
    let mut outcome = ReadOutcome::Nothing;
    for _ in 0..READS_MAX {
        match socket.read(scratch) {
            Ok(0) => return Ok(ReadOutcome::Eof),
            // An edge-triggered epoll reports again when more arrives after a short read, but a FIN
            // may have come with these bytes: read until the kernel has nothing.
            Ok(_) => outcome = ReadOutcome::Bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(outcome),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(error) => return Err(error),
        }
    }
    Ok(ReadOutcome::More)
}

impl Tls {
    fn write(&mut self, pieces: &[Bytes]) -> io::Result<usize> {
        let mut taken = 0;
        for piece in pieces {
            for record in piece.chunks(RECORD_BYTES) {
                match self.flush() {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock && taken > 0 => {
                        return Ok(taken);
                    }
                    other => other?,
                }
                let count = self.session.writer().write(record)?;
                self.held = count;
                taken += count;
                if count < record.len() {
                    return if taken > 0 {
                        Ok(taken)
                    } else {
                        Err(io::ErrorKind::WouldBlock.into())
                    };
                }
            }
        }
        match self.flush() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && taken > 0 => Ok(taken),
            other => other.map(|()| taken),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut self.socket) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => (),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Err(error),
            }
        }
        self.held = 0;
        Ok(())
    }

    fn discard_input(&mut self, scratch: &mut [u8]) -> io::Result<ReadOutcome> {
        let mut outcome = ReadOutcome::Nothing;
        for _ in 0..READS_MAX {
            // First what the session has read already, perhaps before the takeover: epoll does not
            // report it.
            let state = self
                .session
                .process_new_packets()
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            let mut reader = self.session.reader();
            while matches!(reader.read(scratch), Ok(count) if count > 0) {}
            if state.peer_has_closed() {
                return Ok(ReadOutcome::Eof);
            }
            match self.session.read_tls(&mut self.socket) {
                Ok(0) => return Ok(ReadOutcome::Eof),
                Ok(_) => outcome = ReadOutcome::Bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(outcome),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
        }
        Ok(ReadOutcome::More)
    }
}
