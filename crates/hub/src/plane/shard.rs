//! The loop of one shard: an epoll, a table of streams, a timer wheel. A stream stays on one shard,
//! and everything here runs on that shard's thread.
//!
//! One iteration: read from the sockets, apply every command that has gathered, run the timers that
//! are due, then write once to each stream that got something. Only then the owner gets its events.
//! Writing to a stream and ending it is in `writing.rs`.

use std::sync::Arc;
use std::task::Wake;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mio::{Events, Poll, Token};

use super::clock::Clock;
use super::config::Limits;
use super::counts::Counters;
use super::frame::{Frame, Framing};
use super::inbox::{Inbox, ShardCommand};
use super::sequence::Sequences;
use super::sink::{ReadOutcome, Sink};
use super::stream::{Stream, StreamState};
use super::stream_id::{Key, StreamId};
use super::wheel::Wheel;
use super::{CloseReason, HeartbeatForm, Receipt, StreamEvent, StreamEvents, StreamOptions};

/// The token of the waker; no slot reaches it.
pub(crate) const WAKER: Token = Token(usize::MAX);
/// Sockets read in one iteration before the commands are applied.
const EVENTS_PER_ITERATION: usize = 1024;
/// Bytes read at once from a socket, to be dropped.
const SCRATCH_BYTES: usize = 16 * 1024;

pub(crate) struct Shard {
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) poll: Poll,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) events: Arc<dyn StreamEvents>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) limits: Limits,
    pub(crate) streams: Vec<Stream>,
    /// Streams that are not free.
    pub(crate) live: usize,
    pub(crate) wheel: Wheel,
    pub(crate) sequences: Sequences,
    /// Slots to be flushed at the end of the iteration.
    pub(crate) dirty: Vec<u32>,
    /// Slots whose sockets have more to read than one iteration reads.
    pub(crate) unread: Vec<u32>,
    /// Slots to return to the inbox.
    pub(crate) freed: Vec<Key>,
    /// Events for the owner of the plane.
    pub(crate) batch: Vec<StreamEvent>,
    pub(crate) scratch: Box<[u8]>,
    pub(crate) now_ms: u64,
    /// The heartbeats of this iteration, made when the first stream needs one.
    heartbeats: [Option<Frame>; 2],
    stop_at: Option<Instant>,
}

/// Has the shard process a stream whose response body was emptied or dropped.
struct BodyWaker {
    inbox: Arc<Inbox>,
    key: Key,
}

impl Wake for BodyWaker {
    fn wake(self: Arc<Self>) {
        self.inbox.push(ShardCommand::BodyReady(self.key));
    }
}

impl Shard {
    pub(crate) fn new(
        inbox: Arc<Inbox>,
        poll: Poll,
        clock: Arc<dyn Clock>,
        events: Arc<dyn StreamEvents>,
        counters: Arc<Counters>,
        limits: Limits,
    ) -> Self {
        let now_ms = clock.up_ms();
        Self {
            inbox,
            poll,
            clock,
            events,
            counters,
            limits,
            streams: Vec::new(),
            live: 0,
            wheel: Wheel::new(now_ms),
            sequences: Sequences::new(),
            dirty: Vec::new(),
            unread: Vec::new(),
            freed: Vec::new(),
            batch: Vec::new(),
            scratch: vec![0; SCRATCH_BYTES].into(),
            now_ms,
            heartbeats: [None, None],
            stop_at: None,
        }
    }

    /// Runs until a `ShardCommand::Stop` has been applied.
    pub(crate) fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS_PER_ITERATION);
        let (mut commands, mut fired) = (Vec::new(), Vec::new());
        while !self.has_stopped() {
            let wait = self.wait();
            if let Err(error) = self.poll.poll(&mut events, wait)
                && error.kind() != std::io::ErrorKind::Interrupted
            {
                tracing::error!(%error, "a shard of the plane cannot wait for its sockets");
            }
            self.now_ms = self.clock.up_ms();
            for event in &events {
                if event.token() != WAKER {
                    self.on_readable(event.token().0 as u32, event.is_writable());
                }
            }
            for slot in std::mem::take(&mut self.unread) {
                self.on_readable(slot, false);
            }
            self.inbox.take(&mut commands, &mut self.freed);
            for command in commands.drain(..) {
                self.apply(command);
            }
            // The memory of one burst must not be held for ever.
            commands.shrink_to(1024);
            self.wheel.advance(self.now_ms, &mut fired);
            for slot in fired.drain(..) {
                self.on_timer(slot);
            }
            self.end_iteration();
        }
    }

    fn end_iteration(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for slot in dirty.drain(..) {
            self.flush(slot);
        }
        dirty.shrink_to(1024);
        self.dirty = dirty;
        self.sequences.clear();
        self.heartbeats = [None, None];
        if !self.batch.is_empty() {
            self.events.on_events(&mut self.batch);
            self.batch.clear();
            self.batch.shrink_to(1024);
        }
    }

    /// How long to sleep; `None` until there is an event.
    fn wait(&self) -> Option<Duration> {
        if !self.unread.is_empty() || !self.inbox.may_sleep() {
            return Some(Duration::ZERO);
        }
        let timer = self.wheel.wait_ms(self.clock.up_ms()).map(Duration::from_millis);
        let stop = self.stop_at.map(|at| at.saturating_duration_since(Instant::now()));
        match (timer, stop) {
            (Some(timer), Some(stop)) => Some(timer.min(stop)),
            (timer, stop) => timer.or(stop),
        }
    }

    fn has_stopped(&self) -> bool {
        self.stop_at.is_some_and(|at| self.live == 0 || Instant::now() >= at)
    }

    /// The stream of this key, unless it was released.
    fn find(&mut self, key: Key) -> Option<&mut Stream> {
        self.streams.get_mut(key.slot as usize).filter(|stream| {
            stream.generation == key.generation && stream.state != StreamState::Free
        })
    }

    fn apply(&mut self, command: ShardCommand) {
        match command {
            ShardCommand::Reserve { key, options } => self.reserve(key, &options),
            ShardCommand::Attach { key, sink, framing, head } => {
                self.attach(key, sink, framing, &head)
            }
            ShardCommand::Send { key, frame, receipt } => self.send(key, &frame, receipt),
            ShardCommand::SendMany { keys, frame } => {
                for &key in &keys {
                    self.send(key, &frame, Receipt::None);
                }
            }
            ShardCommand::Close { key, last, reason } => {
                if self.find(key).is_some() {
                    self.end(key.slot, last, reason);
                }
            }
            ShardCommand::BodyReady(key) => {
                if self.find(key).is_some() {
                    self.on_readable(key.slot, true);
                }
            }
            ShardCommand::Stop { grace_ms } => self.stop(grace_ms),
            #[cfg(test)]
            ShardCommand::Panic => panic!("on purpose"),
        }
    }

    fn reserve(&mut self, key: Key, options: &StreamOptions) {
        let slot = key.slot as usize;
        while self.streams.len() <= slot {
            self.streams.push(Stream::free(0));
        }
        let deadline_ms = self.now_ms + self.limits.reservation_ms;
        if let Some(stream) = self.streams.get_mut(slot) {
            *stream = Stream::reserved(key.generation, options, deadline_ms);
            self.live += 1;
            self.wheel.set(key.slot, deadline_ms);
        }
        if self.is_stopping() {
            self.abort(key.slot, CloseReason::Shutdown);
        }
    }

    fn attach(&mut self, key: Key, mut sink: Sink, framing: Framing, head: &Bytes) {
        let (now_ms, linger_ms) = (self.now_ms, self.limits.linger_ms);
        let inbox = self.inbox.clone();
        let Some(stream) = self
            .streams
            .get_mut(key.slot as usize)
            .filter(|stream| stream.generation == key.generation && stream.sink.is_none())
        else {
            return;
        };
        match stream.state {
            StreamState::Reserved => {
                stream.state = StreamState::Open;
                self.counters.attached(sink.transport());
            }
            // Closed before its sink was attached: the client still gets what was enqueued.
            StreamState::Ending => stream.deadline_ms = now_ms + linger_ms,
            StreamState::Free | StreamState::Open | StreamState::Draining => return,
        }
        stream.framing = if sink.is_body() { Framing::UntilClose } else { framing };
        stream.attached(now_ms);
        sink.notify(|| Arc::new(BodyWaker { inbox, key }).into());
        let user_timeout = Duration::from_millis(stream.unacknowledged_ms());
        let started =
            sink.start(self.poll.registry(), Token(key.slot as usize), Some(user_timeout));
        if sink.reads_ahead() {
            self.unread.push(key.slot);
        }
        stream.sink = Some(sink);
        let framing = stream.framing;
        stream.outbox(&self.counters.unsent).start(head, framing);
        self.wheel.set(key.slot, stream.due_at_ms());
        self.mark_dirty(key.slot);
        if let Err(error) = started {
            tracing::warn!(%error, "a socket cannot be watched");
            self.abort(key.slot, CloseReason::PeerReset);
        }
    }

    fn send(&mut self, key: Key, frame: &Frame, receipt: Receipt) {
        let Limits { unsent_bytes_max, unsent_bytes_in_all_max, .. } = self.limits;
        let too_much_in_all = self.counters.unsent.bytes() > unsent_bytes_in_all_max;
        let Some(stream) = self.find(key) else { return };
        if !matches!(stream.state, StreamState::Open | StreamState::Reserved) {
            return;
        }
        let unsent = stream.unsent();
        // Of one that has yet to be attached it is not known whether its reader is behind.
        let is_behind = stream.state == StreamState::Open && unsent > 0;
        if unsent > unsent_bytes_max || too_much_in_all && is_behind {
            let last = self.limits.overloaded_last.clone();
            self.end(key.slot, last, CloseReason::Overloaded);
            return;
        }
        self.enqueue(key.slot, frame, receipt);
        let now_ms = self.now_ms;
        // A burst is written while it gathers, and that may have ended the stream.
        let Some(stream) = self.find(key) else { return };
        if stream.wrote(now_ms) && stream.state == StreamState::Open {
            let due_at_ms = stream.due_at_ms();
            self.wheel.set(key.slot, due_at_ms);
        }
        if let Receipt::Buffered(tag) = receipt {
            let stream = StreamId::new(self.inbox.shard(), key);
            self.batch.push(StreamEvent::Buffered { stream, tag });
        }
    }

    /// A socket is readable or writable, or a response body was emptied or dropped.
    fn on_readable(&mut self, slot: u32, writable: bool) {
        let Some(stream) = self.streams.get_mut(slot as usize) else {
            return;
        };
        let Some(sink) = &mut stream.sink else { return };
        match sink.discard_input(&mut self.scratch) {
            Ok(ReadOutcome::Nothing) => (),
            Ok(ReadOutcome::Bytes) => self.on_activity(slot),
            Ok(ReadOutcome::More) => {
                self.unread.push(slot);
                self.on_activity(slot);
            }
            Ok(ReadOutcome::Eof) => return self.abort(slot, CloseReason::PeerClosed),
            Err(error) => return self.abort(slot, CloseReason::of(&error)),
        }
        if let Some(stream) = self.streams.get_mut(slot as usize)
            && writable
        {
            let blocked = std::mem::replace(&mut stream.blocked, false);
            if blocked || stream.outbox.is_some() {
                self.drain(slot);
            }
        }
    }

    /// The peer is active: it sent or accepted a byte.
    pub(crate) fn on_activity(&mut self, slot: u32) {
        let now_ms = self.now_ms;
        let Some(stream) = self.streams.get_mut(slot as usize) else {
            return;
        };
        stream.active_ms = now_ms;
        if stream.state == StreamState::Open && std::mem::replace(&mut stream.stalled, false) {
            self.wheel.set(slot, stream.due_at_ms());
            let id = self.id(slot);
            self.batch.push(StreamEvent::Resumed { stream: id });
        }
    }

    fn on_timer(&mut self, slot: u32) {
        let now_ms = self.now_ms;
        let Some(stream) = self.streams.get_mut(slot as usize) else {
            return;
        };
        match stream.state {
            StreamState::Free => return,
            StreamState::Reserved => return self.abort(slot, CloseReason::NeverAttached),
            StreamState::Ending | StreamState::Draining => {
                if now_ms >= stream.deadline_ms {
                    self.release(slot);
                } else {
                    self.wheel.set(slot, stream.deadline_ms);
                }
                return;
            }
            StreamState::Open => (),
        }
        let due = stream.due(now_ms);
        // A slow reader has bytes to read; a heartbeat would only wait behind them.
        let (form, blocked) = (stream.form, stream.blocked);
        if due.heartbeat && !blocked {
            stream.wrote(now_ms);
            let frame = self.heartbeat(form);
            self.enqueue(slot, &frame, Receipt::None);
        }
        if due.compat && !blocked {
            let frame = self.limits.compat_frame.clone();
            self.enqueue(slot, &frame, Receipt::None);
        }
        if due.stalled {
            let id = self.id(slot);
            self.batch.push(StreamEvent::Stalled { stream: id });
        }
        if let Some(stream) = self.streams.get(slot as usize) {
            self.wheel.set(slot, stream.due_at_ms());
        }
    }

    /// The heartbeat of this iteration: all streams get the same bytes.
    fn heartbeat(&mut self, form: HeartbeatForm) -> Frame {
        let [v1, classic] = &mut self.heartbeats;
        let made = match form {
            HeartbeatForm::V1 => v1,
            HeartbeatForm::Classic => classic,
        };
        made.get_or_insert_with(|| Frame::new(form.text(self.clock.unix_ms()).as_bytes())).clone()
    }

    fn stop(&mut self, grace_ms: u64) {
        self.stop_at = Some(Instant::now() + Duration::from_millis(grace_ms));
        for slot in 0..self.streams.len() as u32 {
            self.end(slot, None, CloseReason::Shutdown);
            let stream = self.streams.get(slot as usize);
            if stream.is_some_and(|stream| stream.sink.is_none()) {
                // Closed, and its sink will not be attached any more.
                self.release(slot);
            }
        }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stop_at.is_some()
    }

    pub(crate) fn id(&self, slot: u32) -> StreamId {
        let generation = self.streams.get(slot as usize).map_or(0, |stream| stream.generation);
        StreamId::new(self.inbox.shard(), Key { slot, generation })
    }
}

impl Drop for Shard {
    /// After a panic too: an inbox whose shard has ended would fill up, and hold sockets open.
    fn drop(&mut self) {
        self.inbox.close();
    }
}
