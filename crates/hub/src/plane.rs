//! The streams of the hub: very many sockets that are nearly idle, written to at once.
//!
//! Shards are threads, one per core, each with its own epoll, table of streams and timer wheel; a
//! stream stays on one shard and costs it about a hundred bytes. The rest of the hub holds a
//! [`Plane`] and [`StreamId`]s: commands go in without blocking, [`StreamEvent`]s come out.
//!
//! ```text
//! reserve ──> id ── frames may be sent from here on ──> attach(socket) ── send … send ──> close
//! ```
//!
//! The plane decides nothing: `core` decides what is sent to which device and when a stream is
//! replaced, `frames.rs` encodes the events. The plane is responsible for the properties of a
//! stream (contract, section 4): one event is one write; heartbeats; a bound on what a slow reader
//! may leave unread; an orderly end.

mod body;
mod clock;
mod config;
mod counts;
mod events;
mod frame;
mod guard;
mod inbox;
mod options;
mod respond;
mod sequence;
mod shard;
mod sink;
mod stream;
mod stream_id;
mod takeover;
mod wheel;
mod writing;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use bellwire_proto::limits::{SHARDS, SHARDS_BY_CORES_MAX};
use bytes::Bytes;

pub use body::StreamBody;
pub use clock::{Clock, ManualClock, SystemClock};
pub use config::PlaneConfig;
pub use counts::Counts;
pub use events::{CloseReason, Receipt, StreamEvent, StreamEvents};
pub use frame::{Frame, Framing};
pub use guard::ConnectionGuard;
pub use options::{Heartbeat, HeartbeatForm, StreamOptions};
pub use respond::StreamHead;
pub use sink::{Sink, SinkTransport};
pub use stream_id::StreamId;
pub use takeover::Takeover;

use config::Limits;
use counts::Counters;
use inbox::{Inbox, ShardCommand};
use shard::Shard;
use stream_id::Key;

/// A handle to the streams; clones are the same plane. When the last one is dropped, every stream
/// ends.
///
/// Four classes of methods, in the order in which a stream needs them. Only
/// [`Self::shutdown`] blocks; the others may be called on any thread, also from
/// [`StreamEvents::on_events`].
///
/// 1. **Begin**: [`Self::start`] once; [`Self::reserve`] for each stream, which returns its
///    [`StreamId`].
/// 2. **Attach**, at most once for each id: [`Self::respond`] in a handler, which takes the
///    connection over where it can; [`Self::respond_with_body`] for a response body;
///    [`Self::attach`] for any [`Sink`].
/// 3. **Send**, any time between reserve and close, before attach too: [`Self::send`],
///    [`Self::send_many`]. Frames leave in the order of the calls.
/// 4. **End**: [`Self::close`] for one stream, [`Self::shutdown`] for all. A closed id is ignored
///    by every method, so that a late call for an old stream cannot reach a new one.
///
/// Events go the other way, to [`StreamEvents`]: receipts of frames, `Stalled` and `Resumed`, and
/// as the last event of each reservation `Closed`, exactly once. [`Self::counts`] is for metrics,
/// [`Self::is_alive`] for health.
/// `tests/plane_streams.rs` shows each class over real sockets.
///
/// ```
/// use std::sync::{Arc, mpsc};
/// use bellwire_hub::plane::*;
///
/// struct Channel(mpsc::SyncSender<StreamEvent>);
/// impl StreamEvents for Channel {
///     fn on_events(&self, batch: &mut Vec<StreamEvent>) {
///         batch.drain(..).for_each(|event| self.0.send(event).unwrap());
///     }
/// }
///
/// let (sender, events) = mpsc::sync_channel(1000);
/// let config = PlaneConfig { shards: 1, ..PlaneConfig::default() };
/// let plane = Plane::start(config, Arc::new(Channel(sender)))?;
///
/// let stream = plane.reserve(StreamOptions::default());
/// plane.send(stream, Frame::new(b"event: hello\ndata: {}\n\n"), Receipt::Buffered(7));
/// assert_eq!(events.recv().unwrap(), StreamEvent::Buffered { stream, tag: 7 });
///
/// plane.close(stream, None, CloseReason::Replaced);
/// let reason = CloseReason::Replaced;
/// assert_eq!(events.recv().unwrap(), StreamEvent::Closed { stream, reason });
/// plane.shutdown(1_000);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct Plane {
    inner: Arc<Inner>,
}

struct Inner {
    inboxes: Box<[Arc<Inbox>]>,
    next: AtomicUsize,
    counters: Arc<Counters>,
    clock: Arc<dyn Clock>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Whether [`Plane::shutdown`] was called.
    stopping: AtomicBool,
}

/// Frames and ends of streams that are passed to the shards together. To wake a shard for each of
/// them costs more than to write it.
pub(crate) struct Batch {
    by_shard: Vec<Vec<ShardCommand>>,
}

/// Of one shard in a [`Batch`]: enough to share a wake-up, and few enough that the first of them does
/// not wait long for the last.
const BATCH_COMMANDS_MAX: usize = 64;

impl Plane {
    /// An empty batch.
    pub(crate) fn batch(&self) -> Batch {
        Batch { by_shard: self.inner.inboxes.iter().map(|_| Vec::new()).collect() }
    }

    /// As [`Plane::send`], once the batch is [submitted](Plane::submit).
    pub(crate) fn send_in(&self, batch: &mut Batch, id: StreamId, frame: Frame, receipt: Receipt) {
        self.add(batch, id, ShardCommand::Send { key: id.key(), frame, receipt });
    }

    /// As [`Plane::close`], once the batch is [submitted](Plane::submit).
    pub(crate) fn close_in(
        &self,
        batch: &mut Batch,
        id: StreamId,
        last: Option<Frame>,
        reason: CloseReason,
    ) {
        self.add(batch, id, ShardCommand::Close { key: id.key(), last, reason });
    }

    /// Passes a batch to the shards, each its part in the order in which it was added, and empties it.
    pub(crate) fn submit(&self, batch: &mut Batch) {
        for (inbox, commands) in self.inner.inboxes.iter().zip(&mut batch.by_shard) {
            if !commands.is_empty() {
                inbox.push_all(commands);
            }
        }
    }

    fn add(&self, batch: &mut Batch, id: StreamId, command: ShardCommand) {
        if let Some(commands) = batch.by_shard.get_mut(id.shard())
            && let Some(inbox) = self.inbox(id)
        {
            commands.push(command);
            if commands.len() >= BATCH_COMMANDS_MAX {
                inbox.push_all(commands);
            }
        }
    }

    /// Starts the shards.
    ///
    /// # Errors
    /// When the system refuses a thread or an epoll.
    pub fn start(config: PlaneConfig, events: Arc<dyn StreamEvents>) -> io::Result<Self> {
        let shards = match config.shards {
            0 => {
                std::thread::available_parallelism().map_or(1, usize::from).min(SHARDS_BY_CORES_MAX)
            }
            // A stream's id has eight bits for its shard.
            count => count.min(SHARDS.max as usize),
        };
        let limits = Limits::of(&config);
        let counters = Arc::new(Counters::default());
        let (mut inboxes, mut ready) = (Vec::new(), Vec::new());
        for number in 0..shards {
            let poll = mio::Poll::new()?;
            let waker = mio::Waker::new(poll.registry(), shard::WAKER)?;
            let inbox = Arc::new(Inbox::new(number as u8, waker));
            inboxes.push(inbox.clone());
            ready.push(Shard::new(
                inbox,
                poll,
                config.clock.clone(),
                events.clone(),
                counters.clone(),
                limits.clone(),
            ));
        }
        let inner = Inner {
            inboxes: inboxes.into(),
            next: AtomicUsize::new(0),
            counters,
            clock: config.clock,
            threads: Mutex::new(Vec::new()),
            stopping: AtomicBool::new(false),
        };
        // From here on a failure drops `inner`, which stops the shards that run already.
        let plane = Self { inner: Arc::new(inner) };
        for (number, shard) in ready.into_iter().enumerate() {
            let name = format!("plane-{number}");
            let thread = std::thread::Builder::new().name(name).spawn(move || shard.run())?;
            plane.threads().push(thread);
        }
        Ok(plane)
    }

    /// A new stream. Frames may be sent to it at once; they wait in its outbox for
    /// [`Self::attach`]. Without one it is closed after [`PlaneConfig::reservation_ms`].
    pub fn reserve(&self, options: StreamOptions) -> StreamId {
        let inboxes = &self.inner.inboxes;
        let next = self.inner.next.fetch_add(1, Ordering::Relaxed) % inboxes.len();
        #[expect(clippy::indexing_slicing, reason = "a remainder of the length")]
        inboxes[next].reserve(options)
    }

    /// Gives a reserved stream its sink. `head` (the response head of a socket that was taken over,
    /// empty for a body) and every frame that has gathered leave in one write.
    ///
    /// If the stream was closed meanwhile with a last frame, that is still written; if it was
    /// released, the sink is dropped.
    pub fn attach(&self, id: StreamId, sink: Sink, framing: Framing, head: Bytes) {
        self.push(id, ShardCommand::Attach { key: id.key(), sink, framing, head });
    }

    /// Sends a frame, behind all that was sent before. For a closed stream there is no receipt.
    pub fn send(&self, id: StreamId, frame: Frame, receipt: Receipt) {
        if let Some(inbox) = self.inbox(id) {
            inbox.send(id.key(), frame, receipt);
        }
    }

    /// Sends one frame to many streams.
    pub fn send_many(&self, ids: &[StreamId], frame: &Frame) {
        let mut by_shard: Vec<Vec<Key>> = vec![Vec::new(); self.inner.inboxes.len()];
        for id in ids {
            if let Some(keys) = by_shard.get_mut(id.shard()) {
                keys.push(id.key());
            }
        }
        for (inbox, keys) in self.inner.inboxes.iter().zip(by_shard) {
            if !keys.is_empty() {
                inbox.send_many(keys.into(), frame.clone());
            }
        }
    }

    /// Ends a stream: `last`, the end of the body and FIN go out behind what is unsent, within
    /// [`PlaneConfig::linger_ms`]. A stream that is closed already does not change.
    pub fn close(&self, id: StreamId, last: Option<Frame>, reason: CloseReason) {
        self.push(id, ShardCommand::Close { key: id.key(), last, reason });
    }

    /// Counters since the start, for metrics.
    pub fn counts(&self) -> Counts {
        self.inner.counters.snapshot()
    }

    /// Whether every shard runs. One that has panicked ended with its streams, and what is sent to it
    /// is dropped; only a restart of the process repairs that.
    pub fn is_alive(&self) -> bool {
        self.inner.stopping.load(Ordering::Acquire)
            || !self.threads().iter().any(JoinHandle::is_finished)
    }

    /// Has every shard read the clock; only a clock that does not move by itself needs it.
    pub fn wake(&self) {
        for inbox in &self.inner.inboxes {
            inbox.wake();
        }
    }

    /// Ends every stream as [`CloseReason::Shutdown`], waits up to `grace_ms` for their last bytes,
    /// and joins the shards. What is sent to the plane afterwards is dropped. It blocks: do not call
    /// it on a thread that serves tasks, nor from [`StreamEvents::on_events`].
    pub fn shutdown(&self, grace_ms: u64) {
        self.inner.stopping.store(true, Ordering::Release);
        for inbox in &self.inner.inboxes {
            inbox.push(ShardCommand::Stop { grace_ms });
        }
        for thread in std::mem::take(&mut *self.threads()) {
            if thread.join().is_err() {
                tracing::error!("a shard of the plane had panicked");
            }
        }
    }

    /// Has every shard panic.
    #[cfg(test)]
    pub(crate) fn panic(&self) {
        for inbox in &self.inner.inboxes {
            inbox.push(ShardCommand::Panic);
        }
    }

    fn inbox(&self, id: StreamId) -> Option<&Inbox> {
        self.inner.inboxes.get(id.shard()).map(|inbox| &**inbox)
    }

    fn push(&self, id: StreamId, command: ShardCommand) {
        if let Some(inbox) = self.inbox(id) {
            inbox.push(command);
        }
    }

    fn threads(&self) -> std::sync::MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.inner.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for inbox in &self.inboxes {
            inbox.push(ShardCommand::Stop { grace_ms: 0 });
        }
    }
}

impl std::fmt::Debug for Plane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plane").field("shards", &self.inner.inboxes.len()).finish_non_exhaustive()
    }
}
