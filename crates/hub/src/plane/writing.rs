//! How a shard writes to its streams, and how it ends them.
//!
//! During an iteration frames gather for a stream; at its end they leave in one write. What the
//! kernel refuses waits in the stream's outbox until epoll reports the socket writable.

use std::io;

use super::frame::Frame;
use super::sequence::Sequence;
use super::shard::Shard;
use super::sink::{Sink, SinkTransport};
use super::stream::{Stream, StreamState};
use super::stream_id::Key;
use super::{CloseReason, Receipt, StreamEvent};

/// Bytes that gather for one stream before they are written within the iteration, so that a burst
/// to a fast reader never counts as unsent, and so that joining copies at most this and one frame.
const GATHERED_BYTES_MAX: usize = 64 * 1024;

impl Shard {
    /// Enqueues a frame for the stream, to be written at the end of this iteration.
    pub(crate) fn enqueue(&mut self, slot: u32, frame: &Frame, receipt: Receipt) {
        let Some(stream) = self.streams.get_mut(slot as usize) else {
            return;
        };
        let written = match receipt {
            Receipt::Written(tag) => Some(tag),
            Receipt::None | Receipt::Buffered(_) => None,
        };
        if stream.sink.is_none() {
            stream.outbox(&self.counters.unsent).push_early(frame.clone(), written);
            return;
        }
        stream.gathered = self.sequences.append(stream.gathered, frame);
        let gathered = self.sequences.len(stream.gathered, stream.framing);
        if let Some(tag) = written {
            stream.outbox(&self.counters.unsent).tag(tag, gathered);
        }
        self.mark_dirty(slot);
        if gathered >= GATHERED_BYTES_MAX {
            self.flush(slot);
        }
    }

    /// Has the stream flushed at the end of the iteration.
    pub(crate) fn mark_dirty(&mut self, slot: u32) {
        if let Some(stream) = self.streams.get_mut(slot as usize)
            && !std::mem::replace(&mut stream.dirty, true)
        {
            self.dirty.push(slot);
        }
    }

    /// Writes what has gathered for the stream.
    pub(crate) fn flush(&mut self, slot: u32) {
        let Some(stream) = self.streams.get_mut(slot as usize) else {
            return;
        };
        stream.dirty = false;
        let gathered = std::mem::replace(&mut stream.gathered, Sequence::EMPTY);
        let Some(sink) = &mut stream.sink else { return };
        let waiting = stream.outbox.as_ref().is_some_and(|outbox| !outbox.front().is_empty());
        if waiting || stream.blocked || gathered.is_empty() {
            if !gathered.is_empty() {
                let bytes = self.sequences.joined(gathered, stream.framing);
                stream.outbox(&self.counters.unsent).push(bytes);
            }
            if !stream.blocked {
                self.drain(slot);
            }
            return;
        }
        let bytes = self.sequences.joined(gathered, stream.framing);
        match sink.write(std::slice::from_ref(&bytes)) {
            Ok(count) if count == bytes.len() && sink.held() == 0 => {
                if let Some(outbox) = &mut stream.outbox {
                    outbox.passed(count);
                }
                self.counters.wrote(count);
                self.on_activity(slot);
                self.after_write(slot);
            }
            Ok(count) => {
                let outbox = stream.outbox(&self.counters.unsent);
                // The bytes pass through the queue, so that it counts what the sink accepts of them.
                outbox.push(bytes);
                outbox.advance(count);
                self.counters.wrote(count);
                self.on_activity(slot);
                self.drain(slot);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                stream.blocked = true;
                stream.outbox(&self.counters.unsent).push(bytes);
            }
            Err(error) => self.abort(slot, CloseReason::of(&error)),
        }
    }

    /// Writes from the outbox until it is empty or the kernel refuses.
    pub(crate) fn drain(&mut self, slot: u32) {
        let Some(stream) = self.streams.get_mut(slot as usize) else {
            return;
        };
        let outcome = drain(stream);
        match outcome {
            Ok(0) => (),
            Ok(count) => {
                self.counters.wrote(count);
                self.on_activity(slot);
            }
            Err(error) => return self.abort(slot, CloseReason::of(&error)),
        }
        self.after_write(slot);
    }

    /// Reports what was written, drops an empty outbox, and moves an ending stream to its next
    /// state.
    fn after_write(&mut self, slot: u32) {
        let id = self.id(slot);
        let Some(stream) = self.streams.get_mut(slot as usize) else {
            return;
        };
        let Some(sink) = &mut stream.sink else { return };
        if let Some(outbox) = &mut stream.outbox {
            let held = sink.held();
            while let Some(tag) = outbox.written(held) {
                self.batch.push(StreamEvent::Written { stream: id, tag });
            }
            if !outbox.is_empty() {
                return;
            }
            stream.outbox = None;
        }
        let done = stream.gathered.is_empty() && (sink.is_body() || sink.held() == 0);
        if stream.state != StreamState::Ending || !done {
            return;
        }
        if sink.finish() {
            stream.state = StreamState::Draining;
            stream.deadline_ms = self.now_ms + self.limits.drain_ms;
            self.wheel.set(slot, stream.deadline_ms);
        } else {
            self.release(slot);
        }
    }

    /// Ends a stream from this side: `last` and the end of the body follow what is unsent, within
    /// `linger_ms`. The owner gets its event at once.
    pub(crate) fn end(&mut self, slot: u32, last: Option<Frame>, reason: CloseReason) {
        let Some(stream) = self.streams.get_mut(slot as usize) else {
            return;
        };
        match stream.state {
            StreamState::Open => stream.deadline_ms = self.now_ms + self.limits.linger_ms,
            // The reservation's own deadline continues: the sink may still be attached.
            StreamState::Reserved => (),
            StreamState::Free | StreamState::Ending | StreamState::Draining => return,
        }
        let was_attached = stream.sink.as_ref().map(Sink::transport);
        stream.state = StreamState::Ending;
        self.wheel.set(slot, stream.deadline_ms);
        if let Some(outbox) = &mut stream.outbox {
            outbox.forget_tags();
        }
        self.report_closed(slot, reason, was_attached);
        if let Some(last) = last {
            self.enqueue(slot, &last, Receipt::None);
        }
        self.enqueue(slot, &Frame::end(), Receipt::None);
    }

    /// Ends a stream whose peer disconnected or never connected: nothing more can be sent.
    pub(crate) fn abort(&mut self, slot: u32, reason: CloseReason) {
        let Some(stream) = self.streams.get(slot as usize) else {
            return;
        };
        if matches!(stream.state, StreamState::Open | StreamState::Reserved) {
            let was_attached = stream.sink.as_ref().map(Sink::transport);
            self.report_closed(slot, reason, was_attached);
        }
        self.release(slot);
    }

    /// Releases the stream; its slot may be reused from the next iteration on.
    pub(crate) fn release(&mut self, slot: u32) {
        let Some(stream) = self.streams.get_mut(slot as usize) else {
            return;
        };
        if stream.state == StreamState::Free {
            return;
        }
        let key = Key { slot, generation: stream.generation };
        *stream = Stream::free(stream.generation);
        self.live -= 1;
        self.wheel.clear(slot);
        self.freed.push(key.next());
    }

    fn report_closed(
        &mut self,
        slot: u32,
        reason: CloseReason,
        was_attached: Option<SinkTransport>,
    ) {
        let stream = self.id(slot);
        self.counters.closed(reason, was_attached);
        self.batch.push(StreamEvent::Closed { stream, reason });
    }
}

/// Writes what waits in the stream's outbox and what its sink holds; returns the bytes accepted.
fn drain(stream: &mut Stream) -> io::Result<usize> {
    let Some(sink) = &mut stream.sink else {
        return Ok(0);
    };
    let mut total = 0;
    let refused = loop {
        let front = stream.outbox.as_ref().map(|outbox| outbox.front()).unwrap_or_default();
        let outcome = if front.is_empty() { sink.flush().map(|()| 0) } else { sink.write(front) };
        match outcome {
            Ok(count) => {
                total += count;
                match &mut stream.outbox {
                    Some(outbox) if !outbox.front().is_empty() => outbox.advance(count),
                    _ => break None,
                }
            }
            Err(error) => break Some(error),
        }
    };
    match refused {
        Some(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        refused => {
            stream.blocked = refused.is_some();
            Ok(total)
        }
    }
}
