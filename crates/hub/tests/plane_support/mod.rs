//! What the tests of the plane and of the listener share: a channel for events, sockets in pairs,
//! and reads that end.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is the message")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bellwire_hub::plane::ConnectionGuard;
use bellwire_hub::plane::{
    CloseReason, Frame, Heartbeat, HeartbeatForm, ManualClock, Plane, PlaneConfig, Receipt, Sink,
    StreamEvent, StreamEvents, StreamId, StreamOptions,
};

/// Long enough for any machine; reached only by a failure.
pub const PATIENCE: Duration = Duration::from_secs(20);
pub const UNIX_MS: u64 = 1_700_000_000_000;

/// Events go into a channel. After reporting that the stream in `gate` is closed, the shard waits
/// for the gate.
struct Hook {
    sender: SyncSender<StreamEvent>,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    closes_after: Mutex<Option<StreamId>>,
    held: Mutex<()>,
}

impl StreamEvents for Hook {
    fn on_events(&self, batch: &mut Vec<StreamEvent>) {
        let probe = *self.gate.closes_after.lock().unwrap();
        let stops = probe.is_some_and(|probe| batch.contains(&closed(probe, CloseReason::Ended)));
        for event in batch.drain(..) {
            // A test that has ended no longer listens.
            let _ = self.sender.send(event);
        }
        if stops {
            drop(self.gate.held.lock());
        }
    }
}

/// A plane of one shard under a clock that stands still.
pub struct World {
    pub plane: Plane,
    pub clock: Arc<ManualClock>,
    events: Receiver<StreamEvent>,
    gate: Arc<Gate>,
}

impl World {
    pub fn new() -> Self {
        Self::with(PlaneConfig::default())
    }

    pub fn with(config: PlaneConfig) -> Self {
        let clock = Arc::new(ManualClock::new(UNIX_MS));
        let (sender, events) = sync_channel(10_000);
        let gate = Arc::new(Gate::default());
        let hook = Hook { sender, gate: gate.clone() };
        let config = PlaneConfig { shards: 1, clock: clock.clone(), ..config };
        let plane = Plane::start(config, Arc::new(hook)).unwrap();
        Self { plane, clock, events, gate }
    }

    pub fn event(&self) -> StreamEvent {
        self.events.recv_timeout(PATIENCE).expect("an event should have come")
    }

    /// Every event that the shard has reported so far.
    pub fn events_so_far(&self) -> Vec<StreamEvent> {
        let probe = self.plane.reserve(StreamOptions::default());
        self.plane.send(probe, Frame::new(b":"), Receipt::Buffered(u64::MAX));
        let mut events = Vec::new();
        loop {
            match self.event() {
                StreamEvent::Buffered { stream, .. } if stream == probe => break,
                event => events.push(event),
            }
        }
        self.plane.close(probe, None, CloseReason::Ended);
        assert_eq!(self.event(), closed(probe, CloseReason::Ended));
        events
    }

    /// Returns when the shard has obeyed every command given before.
    pub fn settle(&self) {
        assert_eq!(self.events_so_far(), []);
    }

    /// Holds the shard, so that frames gather for one iteration.
    pub fn hold(&self) -> MutexGuard<'_, ()> {
        let hold = self.gate.held.lock().unwrap();
        let probe = self.plane.reserve(StreamOptions::default());
        *self.gate.closes_after.lock().unwrap() = Some(probe);
        self.plane.close(probe, None, CloseReason::Ended);
        // The event is reported before the gate is taken, by a shard that then processes nothing
        // more.
        assert_eq!(self.event(), closed(probe, CloseReason::Ended));
        hold
    }

    /// Moves the clock and has the shard act on it.
    pub fn advance(&self, ms: u64) {
        self.clock.advance(ms);
        self.plane.wake();
    }

    /// A stream with its client's end, the head already read.
    pub fn stream(
        &self,
        options: StreamOptions,
        framing: bellwire_hub::plane::Framing,
    ) -> (StreamId, TcpStream) {
        let (mut client, socket) = sockets();
        let id = self.plane.reserve(options);
        self.plane.attach(id, plain(socket), framing, "HEAD\r\n".into());
        assert_eq!(read_exactly(&mut client, 6), b"HEAD\r\n");
        (id, client)
    }
}

pub fn closed(stream: StreamId, reason: CloseReason) -> StreamEvent {
    StreamEvent::Closed { stream, reason }
}

pub fn heartbeat(every_ms: u32) -> StreamOptions {
    let heartbeat = Some(Heartbeat { every_ms, form: HeartbeatForm::V1 });
    StreamOptions { heartbeat, ..StreamOptions::default() }
}

pub fn plain(socket: TcpStream) -> Sink {
    Sink::plain(socket, ConnectionGuard::none())
}

/// A client's socket, and the server's end of it as tokio would leave it.
pub fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = connect(listener.local_addr().unwrap());
    let (socket, _) = listener.accept().unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.set_nodelay(true).unwrap();
    (client, socket)
}

pub fn connect(addr: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(addr).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

pub fn read_exactly(client: &mut impl Read, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    client.read_exact(&mut bytes).expect("the bytes should have come");
    bytes
}

/// Reads until the text so far ends with `end`.
pub fn read_until(client: &mut impl Read, end: &str) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end.as_bytes()) {
        let mut byte = [0];
        let count = client.read(&mut byte).unwrap_or_else(|error| {
            panic!("{error} before {end:?} came; so far {:?}", String::from_utf8_lossy(&bytes))
        });
        assert_ne!(count, 0, "the end before {end:?}: {:?}", String::from_utf8_lossy(&bytes));
        bytes.push(byte[0]);
    }
    String::from_utf8(bytes).unwrap()
}

/// Reads to the orderly end of the connection.
pub fn read_to_end(client: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).expect("an orderly end");
    String::from_utf8(bytes).unwrap()
}

pub fn write(client: &mut impl Write, bytes: &str) {
    client.write_all(bytes.as_bytes()).unwrap();
}
