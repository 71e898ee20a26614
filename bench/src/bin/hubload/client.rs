//! The client: one thread, one epoll, very many streams and a few senders.
//!
//! A stream is open when its first event has arrived. Each sender has one request in flight; the
//! next is sent when the answer has arrived *and* the device has received the command. A command
//! contains its number, so that a lost, duplicated or misdirected one is detected.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use memchr::memmem;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use socket2::SockRef;

/// Bytes that a command's number needs.
pub(crate) const SIZE_MIN: usize = 32;
/// Streams that are being opened at once.
const OPENING_MAX: usize = 100;
/// Within which all streams must be open.
const OPEN_WITHIN: Duration = Duration::from_secs(120);
/// Within which the last command must be answered and received, once no more are sent.
const END_WITHIN: Duration = Duration::from_secs(20);
/// Tokens from here on are senders.
const SENDERS: usize = 1 << 32;

pub(crate) struct Client {
    poll: Poll,
    address: SocketAddr,
    streams: Vec<Stream>,
    senders: Vec<Sender>,
    size: usize,
    /// Requests ever made.
    made: u64,
    random: u64,
    scratch: Box<[u8]>,
    /// The tokens of the devices, by their numbers; none on an open hub.
    device_tokens: Vec<String>,
    /// The token of the senders.
    sender_token: Option<String>,
}

/// What came of a time of sending, in microseconds from just before the request was written.
#[derive(Default)]
pub(crate) struct Sent {
    /// Until the answer.
    pub(crate) answers: Vec<u32>,
    /// Until the device received the command.
    pub(crate) receipts: Vec<u32>,
}

struct Stream {
    socket: TcpStream,
    requested: bool,
    open: bool,
    /// The beginning of an event whose end has yet to come.
    partial: Vec<u8>,
}

struct Sender {
    socket: TcpStream,
    /// What of the request the kernel has not taken.
    unsent: Vec<u8>,
    /// What of the answer has come.
    answer: Vec<u8>,
    number: u64,
    device: usize,
    sent_at: Instant,
    answered: bool,
    received: bool,
}

impl Client {
    pub(crate) fn new(address: SocketAddr, streams: usize, size: usize) -> anyhow::Result<Self> {
        Ok(Self {
            poll: Poll::new()?,
            address,
            streams: Vec::with_capacity(streams),
            senders: Vec::new(),
            size,
            made: 0,
            random: 0x9E37_79B9_7F4A_7C15,
            scratch: vec![0; 64 * 1024].into(),
            device_tokens: Vec::new(),
            sender_token: None,
        })
    }

    /// From now on devices and senders have these tokens.
    pub(crate) fn with_tokens(self, devices: Vec<String>, sender: String) -> Self {
        Self { device_tokens: devices, sender_token: Some(sender), ..self }
    }

    /// Opens `count` streams more, and gives how many that were.
    pub(crate) fn open(&mut self, count: usize) -> anyhow::Result<usize> {
        let mut events = Events::with_capacity(1024);
        let goal = self.streams.len() + count;
        let mut opening = 0;
        let deadline = Instant::now() + OPEN_WITHIN;
        while opening > 0 || self.streams.len() < goal {
            while opening < OPENING_MAX && self.streams.len() < goal {
                self.begin_stream()?;
                opening += 1;
            }
            wait(&mut self.poll, &mut events, deadline)
                .with_context(|| format!("{opening} streams do not open"))?;
            for event in &events {
                let device = event.token().0;
                let Some(stream) = self.streams.get_mut(device) else { continue };
                let was_open = stream.open;
                if event.is_writable() && !std::mem::replace(&mut stream.requested, true) {
                    let authorization = authorization(self.device_tokens.get(device));
                    let request = format!(
                        "GET /v1/devices/d{device}/stream?ack=none HTTP/1.1\r\nHost: localhost\r\n{authorization}\r\n"
                    );
                    stream.socket.write_all(request.as_bytes())?;
                }
                stream.read(&mut self.scratch, |_| ()).with_context(|| of_device(device))?;
                opening -= usize::from(stream.open && !was_open);
            }
        }
        Ok(count)
    }

    /// Sends for so long, with `window` requests in flight, to devices at random.
    pub(crate) fn send(&mut self, window: usize, duration: Duration) -> anyhow::Result<Sent> {
        self.senders.clear();
        for number in 0..window {
            let mut socket = self.connect()?;
            let token = Token(SENDERS + number);
            let both = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut socket, token, both)?;
            self.senders.push(Sender::new(socket));
        }
        let mut sent = Sent::default();
        let until = Instant::now() + duration;
        let mut busy = 0;
        for at in 0..window {
            busy += usize::from(self.next_request(at, window)?);
        }
        let mut events = Events::with_capacity(1024);
        let mut numbers = Vec::new();
        while busy > 0 {
            wait(&mut self.poll, &mut events, until + END_WITHIN)
                .with_context(|| format!("{busy} commands are not answered or not received"))?;
            let now = Instant::now();
            for event in &events {
                let token = event.token().0;
                let done = match token.checked_sub(SENDERS) {
                    Some(at) => {
                        let Some(sender) = self.senders.get_mut(at) else { continue };
                        sender.flush()?;
                        let answered = sender.read(&mut self.scratch)?;
                        if answered {
                            sent.answers.push(micros(now, sender.sent_at));
                        }
                        (answered && sender.received).then_some(at).into_iter().collect()
                    }
                    None => {
                        let Some(stream) = self.streams.get_mut(token) else { continue };
                        numbers.clear();
                        stream
                            .read(&mut self.scratch, |number| numbers.push(number))
                            .with_context(|| of_device(token))?;
                        self.received(token, &numbers, now, &mut sent)?
                    }
                };
                for at in done {
                    let again = now < until && self.next_request(at, window)?;
                    busy -= usize::from(!again);
                }
            }
        }
        self.senders.clear();
        Ok(sent)
    }

    /// Takes note of what a device received; gives the senders that are free for it.
    fn received(
        &mut self,
        device: usize,
        numbers: &[u64],
        now: Instant,
        sent: &mut Sent,
    ) -> anyhow::Result<Vec<usize>> {
        let mut free = Vec::new();
        for &number in numbers {
            let at = (number % self.senders.len() as u64) as usize;
            let sender = self.senders.get_mut(at).context("no sender sends")?;
            let expected = sender.number == number && sender.device == device && !sender.received;
            ensure!(expected, "device d{device} received command {number} unasked or again");
            sender.received = true;
            sent.receipts.push(micros(now, sender.sent_at));
            if sender.answered {
                free.push(at);
            }
        }
        Ok(free)
    }

    /// Sends the next command; its number identifies the sender.
    fn next_request(&mut self, at: usize, window: usize) -> anyhow::Result<bool> {
        let device = self.random_device();
        let Some(sender) = self.senders.get_mut(at) else { return Ok(false) };
        self.made += 1;
        let number = self.made * window as u64 + at as u64;
        let start = format!("{{\"n\":{number},\"fill\":\"");
        let fill = ".".repeat(self.size.saturating_sub(start.len() + 2));
        let body = format!("{start}{fill}\"}}");
        let authorization = authorization(self.sender_token.as_ref());
        let request = format!(
            "POST /v1/send/d{device}/x HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             {authorization}Content-Length: {}\r\n\r\n{body}",
            body.len(),
        );
        sender.number = number;
        sender.device = device;
        (sender.answered, sender.received) = (false, false);
        sender.unsent = request.into_bytes();
        sender.sent_at = Instant::now();
        sender.flush()?;
        Ok(true)
    }

    fn begin_stream(&mut self) -> anyhow::Result<()> {
        let mut socket = self.connect()?;
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut socket, Token(self.streams.len()), both)?;
        self.streams.push(Stream { socket, requested: false, open: false, partial: Vec::new() });
        Ok(())
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let socket = TcpStream::connect(self.address)?;
        socket.set_nodelay(true)?;
        // Closed with a reset: thousands of ports in TIME_WAIT would be missing in the next round.
        SockRef::from(&socket).set_linger(Some(Duration::ZERO))?;
        Ok(socket)
    }

    fn random_device(&mut self) -> usize {
        // Xorshift: a uniform spread is enough.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % self.streams.len() as u64) as usize
    }
}

impl Stream {
    /// Reads what has arrived; passes on the number of each command.
    fn read(&mut self, scratch: &mut [u8], mut command: impl FnMut(u64)) -> anyhow::Result<()> {
        loop {
            let (bytes, more) = match read_some(&mut self.socket, scratch)? {
                Some(read) => read,
                None => return Ok(()),
            };
            let mut rest = bytes;
            if !self.partial.is_empty() {
                self.partial.extend_from_slice(bytes);
                rest = &self.partial;
            }
            while let Some(end) = memmem::find(rest, b"\n\n") {
                let (event, behind) = rest.split_at(end + 2);
                self.open = true;
                if let Some(number) = number_in(event) {
                    command(number);
                }
                rest = behind;
            }
            // The end of a chunk behind its event, nothing more.
            let rest = if rest == b"\r\n" { &[] } else { rest };
            self.partial = rest.to_vec();
            if !more {
                return Ok(());
            }
        }
    }
}

impl Sender {
    fn new(socket: TcpStream) -> Self {
        Self {
            socket,
            unsent: Vec::new(),
            answer: Vec::new(),
            number: 0,
            device: 0,
            sent_at: Instant::now(),
            answered: true,
            received: true,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match self.socket.write(&self.unsent) {
                Ok(written) => drop(self.unsent.drain(..written)),
                // Not connected yet: a writable event will come.
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) =>
                {
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads what there is; true when that completes the answer.
    fn read(&mut self, scratch: &mut [u8]) -> anyhow::Result<bool> {
        while let Some((bytes, more)) = read_some(&mut self.socket, scratch)? {
            self.answer.extend_from_slice(bytes);
            if !more {
                break;
            }
        }
        let Some(end) = memmem::find(&self.answer, b"\r\n\r\n") else { return Ok(false) };
        let head = String::from_utf8_lossy(self.answer.get(..end).unwrap_or_default());
        if self.answer.len() < end + 4 + content_length(&head).unwrap_or(0) {
            return Ok(false);
        }
        ensure!(head.starts_with("HTTP/1.1 2"), "a command was answered: {head}");
        ensure!(!self.answered, "an answer without a request");
        self.answer.clear();
        self.answered = true;
        Ok(true)
    }
}

/// The header field with a token, if there is one.
fn authorization(token: Option<&String>) -> String {
    token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default()
}

/// The length of a body, from the head before it.
pub(crate) fn content_length(head: &str) -> Option<usize> {
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"))?;
    value.trim().parse().ok()
}

/// Reads once; `None` when there is nothing. True beside the bytes if there may be more.
pub(crate) fn read_some<'a>(
    socket: &mut TcpStream,
    scratch: &'a mut [u8],
) -> anyhow::Result<Option<(&'a [u8], bool)>> {
    let capacity = scratch.len();
    match socket.read(scratch) {
        Ok(0) => bail!("the other end closed the connection"),
        Ok(read) => Ok(Some((scratch.get(..read).unwrap_or_default(), read == capacity))),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Waits for events. That there always are some does not suffice: streams have heartbeats.
fn wait(poll: &mut Poll, events: &mut Events, deadline: Instant) -> anyhow::Result<()> {
    let remaining = deadline.saturating_duration_since(Instant::now());
    ensure!(!remaining.is_zero(), "timed out");
    match poll.poll(events, Some(remaining)) {
        Err(error) if error.kind() != ErrorKind::Interrupted => Err(error.into()),
        _ => Ok(()),
    }
}

/// The number of the command that an event bears.
fn number_in(event: &[u8]) -> Option<u64> {
    const MARK: &[u8] = b"\"n\":";
    let digits = event.get(memmem::find(event, MARK)? + MARK.len()..)?;
    let digits = digits.split(|byte| !byte.is_ascii_digit()).next()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn micros(now: Instant, since: Instant) -> u32 {
    u32::try_from(now.saturating_duration_since(since).as_micros()).unwrap_or(u32::MAX)
}

fn of_device(device: usize) -> String {
    format!("the stream of d{device}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic here is the failure message of a test")]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_found_in_the_events_of_hub_and_floor_and_in_no_other() {
        let hub =
            b"event: command\nid: 7\ndata: {\"id\":\"0\",\"data\":{\"n\":42,\"fill\":\"\"}}\n\n";
        assert_eq!(number_in(hub), Some(42));
        assert_eq!(number_in(b"data: {\"n\":7,\"fill\":\"..\"}\n\n"), Some(7));
        assert_eq!(number_in(b"event: hello\ndata: {\"nonce\":null,\"heartbeat_s\":15}\n\n"), None);
        assert_eq!(number_in(b": 1700000000000\n\n"), None);
    }

    #[test]
    fn a_stream_yields_each_command_once_however_its_bytes_are_cut() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        let socket = TcpStream::from_std(near);
        let mut stream = Stream { socket, requested: true, open: false, partial: Vec::new() };
        let mut numbers = Vec::new();
        for piece in ["HTTP/1.1 200 OK\r\n\r\n10\r\ndata: {\"n\":", "1}\n", "\n\r\n"] {
            far.write_all(piece.as_bytes()).unwrap();
            // Blocking: it returns when the piece has come.
            stream.read(&mut [0; 64], |number| numbers.push(number)).unwrap();
        }
        assert!(stream.open && stream.partial.is_empty(), "the end of a chunk is not retained");
        assert_eq!(numbers, [1]);
    }
}
