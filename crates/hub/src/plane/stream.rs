//! One stream on its shard, small because most of a hundred thousand are idle: what is unsent is in
//! an [`Outbox`] that exists only while something is.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bellwire_proto::limits::{COMPAT_DELAY_MS, PROBE_INTERVAL_MS, PROBES};
use bytes::{Bytes, BytesMut};

use super::frame::{Frame, Framing};
use super::sequence::Sequence;
use super::sink::Sink;
use super::{HeartbeatForm, StreamOptions};

pub(crate) struct Stream {
    pub(crate) generation: u32,
    pub(crate) state: StreamState,
    pub(crate) framing: Framing,
    pub(crate) form: HeartbeatForm,
    probes_left: u8,
    compat: bool,
    pub(crate) stalled: bool,
    /// The kernel refused bytes; epoll will report when the socket is writable.
    pub(crate) blocked: bool,
    /// In the list of streams to be flushed at the end of this iteration.
    pub(crate) dirty: bool,
    /// 0 for none.
    heartbeat_ms: u32,
    silence_ms: u32,
    pub(crate) gathered: Sequence,
    pub(crate) sink: Option<Sink>,
    pub(crate) outbox: Option<Box<Outbox>>,
    attached_ms: u64,
    /// When the comment of `compat=1` is due; `u64::MAX` when it is not.
    compat_at_ms: u64,
    /// When an event or a heartbeat was last given to the stream.
    wrote_ms: u64,
    /// When the peer last sent or accepted a byte.
    pub(crate) active_ms: u64,
    /// When a stream that is not open is released.
    pub(crate) deadline_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamState {
    Free,
    /// Waits for its sink.
    Reserved,
    Open,
    /// `Closed` was reported; the last bytes are unsent, or the sink is not attached yet.
    Ending,
    /// Everything is written and the writing side shut; waits for the peer's FIN.
    Draining,
}

/// What is due now on an open stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) heartbeat: bool,
    pub(crate) compat: bool,
    pub(crate) stalled: bool,
}

impl Stream {
    pub(crate) fn free(generation: u32) -> Self {
        Self {
            generation,
            state: StreamState::Free,
            framing: Framing::Chunked,
            form: HeartbeatForm::V1,
            probes_left: 0,
            compat: false,
            stalled: false,
            blocked: false,
            dirty: false,
            heartbeat_ms: 0,
            silence_ms: 0,
            gathered: Sequence::EMPTY,
            sink: None,
            outbox: None,
            attached_ms: 0,
            compat_at_ms: u64::MAX,
            wrote_ms: 0,
            active_ms: 0,
            deadline_ms: 0,
        }
    }

    pub(crate) fn reserved(generation: u32, options: &StreamOptions, deadline_ms: u64) -> Self {
        Self {
            state: StreamState::Reserved,
            form: options.heartbeat.map_or(HeartbeatForm::V1, |heartbeat| heartbeat.form),
            probes_left: if options.probes { PROBES } else { 0 },
            compat: options.compat,
            heartbeat_ms: options.heartbeat.map_or(0, |heartbeat| heartbeat.every_ms.max(1)),
            silence_ms: options.silence_ms(),
            deadline_ms,
            ..Self::free(generation)
        }
    }

    /// The sink is attached, and the first event leaves with the head.
    pub(crate) fn attached(&mut self, now_ms: u64) {
        self.attached_ms = now_ms;
        self.wrote_ms = now_ms;
        self.active_ms = now_ms;
        if self.compat {
            // The first write is held back like any other.
            self.compat_at_ms = now_ms + COMPAT_DELAY_MS;
        }
    }

    /// How long bytes may stay unacknowledged before the kernel ends the connection, by `TCP_USER_TIMEOUT` (RFC 5482). It
    /// counts from the first byte that is not acknowledged, which a heartbeat writes up to one interval after the last one
    /// that was: so it is one interval shorter than the silence.
    pub(crate) fn unacknowledged_ms(&self) -> u64 {
        u64::from(self.silence_ms.saturating_sub(self.heartbeat_ms))
    }

    fn silence_ms(&self) -> u64 {
        u64::from(self.silence_ms)
    }

    /// An event or a heartbeat was enqueued. True if that makes the timer due sooner.
    pub(crate) fn wrote(&mut self, now_ms: u64) -> bool {
        if self.form == HeartbeatForm::V1 {
            self.wrote_ms = now_ms;
        }
        if self.compat {
            self.compat_at_ms = now_ms + COMPAT_DELAY_MS;
        }
        self.compat
    }

    /// What is due now, once.
    pub(crate) fn due(&mut self, now_ms: u64) -> Due {
        let mut due = Due::default();
        if self.probes_left > 0 && now_ms >= self.probe_at() {
            self.probes_left -= 1;
            due.heartbeat = true;
        }
        if self.heartbeat_ms > 0 && now_ms >= self.heartbeat_at() {
            due.heartbeat = true;
            self.wrote_ms = match self.form {
                HeartbeatForm::V1 => now_ms,
                // The classic form has a fixed interval, whatever else is written.
                HeartbeatForm::Classic => now_ms - (now_ms - self.wrote_ms) % self.every_ms(),
            };
        }
        if now_ms >= self.compat_at_ms {
            self.compat_at_ms = u64::MAX;
            due.compat = !due.heartbeat;
        }
        if !self.stalled && now_ms >= self.stalls_at() {
            self.stalled = true;
            due.stalled = true;
        }
        due
    }

    /// When this stream's timer is next due.
    pub(crate) fn due_at_ms(&self) -> u64 {
        if self.state != StreamState::Open {
            return self.deadline_ms;
        }
        [
            (self.heartbeat_ms > 0, self.heartbeat_at()),
            (self.probes_left > 0, self.probe_at()),
            (true, self.compat_at_ms),
            (!self.stalled, self.stalls_at()),
        ]
        .into_iter()
        .filter_map(|(armed, at)| armed.then_some(at))
        .min()
        .unwrap_or(u64::MAX)
    }

    /// Enqueued bytes that the kernel or the body's reader does not have yet, without what gathered
    /// in this iteration.
    pub(crate) fn unsent(&self) -> usize {
        let held = self.sink.as_ref().map_or(0, Sink::held);
        held + self.outbox.as_ref().map_or(0, |outbox| outbox.queued + outbox.early_bytes)
    }

    /// The outbox, made when there is none: what it holds is counted in `all`.
    pub(crate) fn outbox(&mut self, all: &Arc<UnsentTotal>) -> &mut Outbox {
        let held = self.sink.as_ref().map_or(0, Sink::held) as u64;
        self.outbox.get_or_insert_with(|| Box::new(Outbox::new(all.clone(), held)))
    }

    fn every_ms(&self) -> u64 {
        u64::from(self.heartbeat_ms.max(1))
    }

    fn heartbeat_at(&self) -> u64 {
        self.wrote_ms + self.every_ms()
    }

    fn probe_at(&self) -> u64 {
        let done = PROBES.saturating_sub(self.probes_left);
        self.attached_ms + (u64::from(done) + 1) * PROBE_INTERVAL_MS
    }

    fn stalls_at(&self) -> u64 {
        self.active_ms + self.silence_ms()
    }
}

/// Bytes that the outboxes of a plane hold, of all its shards.
#[derive(Debug, Default)]
pub(crate) struct UnsentTotal(AtomicUsize);

impl UnsentTotal {
    pub(crate) fn bytes(&self) -> usize {
        self.0.load(Relaxed)
    }
}

/// What was enqueued for a stream and is unsent. Idle streams have none.
pub(crate) struct Outbox {
    all: Arc<UnsentTotal>,
    queue: VecDeque<Bytes>,
    /// Bytes in `queue`.
    queued: usize,
    /// Bytes ever put into this outbox, and those that the sink accepted.
    enqueued: u64,
    taken: u64,
    /// Receipts to give when everything up to a count of bytes is written: (count, tag).
    tags: VecDeque<(u64, u64)>,
    /// Frames from before there was a sink, with the tag of their receipt.
    early: Vec<(Frame, Option<u64>)>,
    early_bytes: usize,
}

/// What is held goes with it, however the stream ended.
impl Drop for Outbox {
    fn drop(&mut self) {
        self.all.0.fetch_sub(self.queued + self.early_bytes, Relaxed);
    }
}

impl Outbox {
    /// One in front of a sink that holds so many bytes.
    fn new(all: Arc<UnsentTotal>, held: u64) -> Self {
        Self {
            all,
            queue: VecDeque::new(),
            queued: 0,
            enqueued: held,
            taken: held,
            tags: VecDeque::new(),
            early: Vec::new(),
            early_bytes: 0,
        }
    }

    pub(crate) fn push(&mut self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        self.queued += bytes.len();
        self.all.0.fetch_add(bytes.len(), Relaxed);
        self.enqueued += bytes.len() as u64;
        self.queue.push_back(bytes);
    }

    pub(crate) fn push_early(&mut self, frame: Frame, written: Option<u64>) {
        let bytes = frame.len(Framing::Chunked);
        self.early_bytes += bytes;
        self.all.0.fetch_add(bytes, Relaxed);
        self.early.push((frame, written));
    }

    /// Bytes that were written without passing through the queue.
    pub(crate) fn passed(&mut self, bytes: usize) {
        self.enqueued += bytes as u64;
        self.taken += bytes as u64;
    }

    /// Requests a receipt with `tag` for when everything in the outbox and `more` bytes behind it
    /// are written.
    pub(crate) fn tag(&mut self, tag: u64, more: usize) {
        self.tags.push_back((self.enqueued + more as u64, tag));
    }

    /// The sink is attached: puts `head` and the early frames into the queue as one buffer.
    pub(crate) fn start(&mut self, head: &[u8], framing: Framing) {
        let mut joined = BytesMut::with_capacity(head.len() + self.early_bytes);
        joined.extend_from_slice(head);
        for (frame, written) in std::mem::take(&mut self.early) {
            joined.extend_from_slice(&frame.bytes(framing));
            if let Some(tag) = written {
                self.tag(tag, joined.len());
            }
        }
        self.all.0.fetch_sub(std::mem::take(&mut self.early_bytes), Relaxed);
        self.push(joined.freeze());
    }

    /// The pieces at the front, to be written.
    pub(crate) fn front(&self) -> &[Bytes] {
        self.queue.as_slices().0
    }

    /// The sink accepted `bytes` from the front.
    pub(crate) fn advance(&mut self, mut bytes: usize) {
        self.taken += bytes as u64;
        let unsent = self.queued.saturating_sub(bytes);
        self.all.0.fetch_sub(self.queued - unsent, Relaxed);
        self.queued = unsent;
        while let Some(piece) = self.queue.front_mut() {
            if piece.len() > bytes {
                bytes::Buf::advance(piece, bytes);
                return;
            }
            bytes -= piece.len();
            self.queue.pop_front();
        }
    }

    /// The next tag whose bytes have all been written by a sink that still holds `held`.
    pub(crate) fn written(&mut self, held: usize) -> Option<u64> {
        let &(at, tag) = self.tags.front()?;
        if at > self.taken.saturating_sub(held as u64) {
            return None;
        }
        self.tags.pop_front();
        Some(tag)
    }

    pub(crate) fn forget_tags(&mut self) {
        self.tags.clear();
        for (_, written) in &mut self.early {
            *written = None;
        }
    }

    /// Nothing is unsent and no receipt is due.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.tags.is_empty() && self.early.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plane::Heartbeat;

    fn open(options: &StreamOptions) -> Stream {
        let mut stream = Stream::reserved(1, options, 10_000);
        stream.state = StreamState::Open;
        stream.attached(1_000);
        stream
    }

    fn heartbeat(every_ms: u32, form: HeartbeatForm) -> StreamOptions {
        StreamOptions { heartbeat: Some(Heartbeat { every_ms, form }), ..StreamOptions::default() }
    }

    /// When heartbeats and compat comments are due, with events written at the given moments.
    fn beats(stream: &mut Stream, events: &[u64], until_ms: u64) -> Vec<(u64, char)> {
        let mut beats = Vec::new();
        for now in 1_000..until_ms {
            if events.contains(&now) {
                stream.wrote(now);
            }
            if now < stream.due_at_ms() {
                continue;
            }
            let due = stream.due(now);
            if due.heartbeat {
                beats.push((now, 'h'));
                stream.wrote(now);
            }
            if due.compat {
                beats.push((now, 'c'));
            }
            stream.active_ms = now;
        }
        beats
    }

    #[test]
    fn a_heartbeat_is_due_when_nothing_else_was_written_for_its_interval() {
        let mut stream = open(&heartbeat(5_000, HeartbeatForm::V1));
        assert_eq!(beats(&mut stream, &[3_000], 14_000), [(8_000, 'h'), (13_000, 'h')]);
    }

    #[test]
    fn classic_heartbeats_have_a_fixed_interval_whatever_is_written() {
        let mut stream = open(&heartbeat(5_000, HeartbeatForm::Classic));
        assert_eq!(beats(&mut stream, &[3_000], 14_000), [(6_000, 'h'), (11_000, 'h')]);
    }

    #[test]
    fn probes_come_one_two_and_three_seconds_after_the_start() {
        let mut stream =
            open(&StreamOptions { probes: true, ..heartbeat(5_000, HeartbeatForm::V1) });
        let expected = [(2_000, 'h'), (3_000, 'h'), (4_000, 'h'), (9_000, 'h')];
        assert_eq!(beats(&mut stream, &[], 10_000), expected);
    }

    #[test]
    fn compat_pushes_each_event_and_heartbeat_and_never_itself() {
        // A proxy that holds the last write back once delayed `hello`, because no later write
        // pushed it on.
        let mut stream =
            open(&StreamOptions { compat: true, ..heartbeat(5_000, HeartbeatForm::V1) });
        let expected = [(1_100, 'c'), (3_100, 'c'), (8_000, 'h'), (8_100, 'c'), (13_000, 'h')];
        assert_eq!(beats(&mut stream, &[3_000], 13_050), expected);
    }

    #[test]
    fn a_stream_inactive_for_two_heartbeats_and_ten_seconds_stalls_once() {
        let mut stream = open(&heartbeat(5_000, HeartbeatForm::V1));
        assert!(!stream.due(20_999).stalled);
        assert!(stream.due(21_000).stalled);
        assert!(!stream.due(30_000).stalled);
    }

    #[test]
    fn an_idle_stream_is_small() {
        assert!(size_of::<Stream>() <= 112, "{} bytes", size_of::<Stream>());
    }
}
