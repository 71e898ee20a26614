//! What gathers for the streams of a shard in one iteration of its loop, and how it is joined.
//!
//! Frames to the same streams in the same order form one sequence; a stream holds only the number
//! of its sequence. Sequences share their prefixes: a sequence is a frame and the sequence before
//! it. So ten frames to ten thousand streams are ten entries here, joined once, and ten thousand
//! writes of the one joined buffer.

use bytes::{Bytes, BytesMut};

use super::frame::{Frame, Framing};

/// The number of a sequence, good until [`Sequences::clear`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sequence(u32);

impl Sequence {
    /// No frames at all.
    pub(crate) const EMPTY: Self = Self(0);

    pub(crate) fn is_empty(self) -> bool {
        self == Self::EMPTY
    }
}

pub(crate) struct Sequences {
    /// Entry 0 is the empty sequence.
    entries: Vec<Entry>,
}

struct Entry {
    before: Sequence,
    frame: Frame,
    /// The sequence that was made last by appending to this one: a fan-out appends the same frame for every
    /// stream, and finds it here.
    then: Sequence,
    chunked_len: usize,
    bare_len: usize,
    chunked: Option<Bytes>,
    bare: Option<Bytes>,
}

impl Entry {
    fn new(before: Sequence, frame: Frame, chunked_len: usize, bare_len: usize) -> Self {
        let then = Sequence::EMPTY;
        Self { before, frame, then, chunked_len, bare_len, chunked: None, bare: None }
    }
}

impl Sequences {
    pub(crate) fn new() -> Self {
        Self { entries: vec![Entry::new(Sequence::EMPTY, Frame::new(b""), 0, 0)] }
    }

    /// The sequence `to` with `frame` behind it.
    pub(crate) fn append(&mut self, to: Sequence, frame: &Frame) -> Sequence {
        let then = self.entry(to).then;
        if !then.is_empty() && self.entry(then).frame.is_same(frame) {
            return then;
        }
        let next = Sequence(self.entries.len() as u32);
        let last = self.entry_mut(to);
        last.then = next;
        let chunked_len = last.chunked_len + frame.len(Framing::Chunked);
        let bare_len = last.bare_len + frame.len(Framing::UntilClose);
        self.entries.push(Entry::new(to, frame.clone(), chunked_len, bare_len));
        next
    }

    pub(crate) fn len(&self, sequence: Sequence, framing: Framing) -> usize {
        let entry = self.entry(sequence);
        match framing {
            Framing::Chunked => entry.chunked_len,
            Framing::UntilClose => entry.bare_len,
        }
    }

    /// The whole sequence as one buffer, joined at the first call.
    pub(crate) fn joined(&mut self, sequence: Sequence, framing: Framing) -> Bytes {
        let entry = self.entry(sequence);
        let known = match framing {
            Framing::Chunked => &entry.chunked,
            Framing::UntilClose => &entry.bare,
        };
        if let Some(joined) = known {
            return joined.clone();
        }
        let joined = if entry.before.is_empty() {
            entry.frame.bytes(framing)
        } else {
            let mut joined = BytesMut::with_capacity(self.len(sequence, framing));
            for frame in self.frames(sequence) {
                joined.extend_from_slice(&frame.bytes(framing));
            }
            joined.freeze()
        };
        let entry = self.entry_mut(sequence);
        match framing {
            Framing::Chunked => entry.chunked = Some(joined.clone()),
            Framing::UntilClose => entry.bare = Some(joined.clone()),
        }
        joined
    }

    /// The frames of the sequence, oldest first.
    pub(crate) fn frames(&self, sequence: Sequence) -> Vec<Frame> {
        let mut frames = Vec::new();
        let mut at = sequence;
        while !at.is_empty() {
            let entry = self.entry(at);
            frames.push(entry.frame.clone());
            at = entry.before;
        }
        frames.reverse();
        frames
    }

    /// Drops every sequence; to be called when no stream holds one any more.
    pub(crate) fn clear(&mut self) {
        self.entries.truncate(1);
        self.entry_mut(Sequence::EMPTY).then = Sequence::EMPTY;
        // The memory of one burst must not be held for ever.
        self.entries.shrink_to(1024);
    }

    #[expect(clippy::indexing_slicing, reason = "a sequence is made by append and cleared by all")]
    fn entry(&self, sequence: Sequence) -> &Entry {
        &self.entries[sequence.0 as usize]
    }

    #[expect(clippy::indexing_slicing, reason = "a sequence is made by append and cleared by all")]
    fn entry_mut(&mut self, sequence: Sequence) -> &mut Entry {
        &mut self.entries[sequence.0 as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_that_got_the_same_frames_share_one_joined_buffer() {
        let mut sequences = Sequences::new();
        let (a, b) = (Frame::new(b"data: a\n\n"), Frame::new(b"data: b\n\n"));
        let mut streams = [Sequence::EMPTY; 3];
        for frame in [&a, &b] {
            for stream in &mut streams {
                *stream = sequences.append(*stream, frame);
            }
        }
        let buffers = streams.map(|stream| sequences.joined(stream, Framing::Chunked));
        assert_eq!(buffers[0], "9\r\ndata: a\n\n\r\n9\r\ndata: b\n\n\r\n");
        assert!(buffers.iter().all(|buffer| buffer.as_ptr() == buffers[0].as_ptr()));
        assert_eq!(sequences.len(streams[0], Framing::Chunked), buffers[0].len());
        assert_eq!(sequences.joined(streams[0], Framing::UntilClose), "data: a\n\ndata: b\n\n");
    }

    #[test]
    fn a_frame_in_between_makes_another_sequence_in_order() {
        let mut sequences = Sequences::new();
        let [a, b, x] = [b"a", b"b", b"x"].map(|body| Frame::new(body));
        let mut one = sequences.append(Sequence::EMPTY, &a);
        let mut two = sequences.append(Sequence::EMPTY, &a);
        two = sequences.append(two, &x);
        one = sequences.append(one, &b);
        two = sequences.append(two, &b);
        assert_eq!(sequences.joined(one, Framing::UntilClose), "ab");
        assert_eq!(sequences.joined(two, Framing::UntilClose), "axb");
    }

    #[test]
    fn a_single_frame_is_passed_on_without_a_copy() {
        let mut sequences = Sequences::new();
        let frame = Frame::new(b"data: a\n\n");
        let sequence = sequences.append(Sequence::EMPTY, &frame);
        let joined = sequences.joined(sequence, Framing::Chunked);
        assert_eq!(joined.as_ptr(), frame.bytes(Framing::Chunked).as_ptr());
    }
}
