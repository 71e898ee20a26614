//! The decoder: the WHATWG event stream interpretation, sans-IO.
//!
//! A value within one chunk stays there until its event is dispatched, and is returned as a slice
//! of the chunk. It moves into the decoder's own buffers only when the chunk ends first, when a
//! second data line is joined to it, or when its UTF-8 must be repaired. Unknown fields, and
//! comments unless they are requested, are never stored and cost no memory however long they are.
//!
//! Lines are parsed in `line.rs`, those that a chunk cuts are continued in `decode/resume.rs`,
//! values wait for the end of their block in `block.rs`, invalid UTF-8 is repaired in `text.rs`,
//! events are defined in `event.rs`. When to reconnect is decided in `reconnect.rs`.

mod builder;
mod resume;

pub use builder::DecoderBuilder;
use resume::Resumed;

use crate::{
    block::{Block, Held, InChunk, RETAINED_CAPACITY_BYTES, clear, held_text},
    event::{DEFAULT_NAME, Event, EventRef, Item, OwnedItem},
    last_id::{Id, LastId},
    line::{Digits, Field, NamePrefix, Value, split_line},
};
use alloc::{borrow::ToOwned, string::String};
use core::{fmt, mem};
use memchr::memchr2;

/// The default of [`DecoderBuilder::limit_bytes`]: 32 MiB, because LaunchDarkly's contract tests
/// send an event of 14 MB, and flag payloads of that size occur.
pub const DEFAULT_LIMIT_BYTES: usize = 32 << 20;

/// A long line is searched, checked and copied in windows of so many bytes, so that each step after
/// the first finds them in the nearest cache.
const WINDOW_BYTES: usize = 4096;

/// Why an item could not be decoded: the sender's fault, or a limit that is too low.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeError {
    /// An event, or a requested comment, is longer than the limit. All of it is skipped, including
    /// its id; decoding continues behind it. Raise the limit if such events are expected.
    TooLarge {
        /// The limit in force.
        limit_bytes: usize,
    },
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { limit_bytes } => {
                write!(f, "event is longer than the limit of {limit_bytes} bytes; it was skipped")
            }
        }
    }
}

impl core::error::Error for DecodeError {}

/// A decoder of event streams: it takes chunks as they arrive and returns events.
///
/// ```
/// use bellwire_sse::{Decoder, OwnedItem};
///
/// let mut decoder = Decoder::builder().comments(true).limit_bytes(1 << 20).build();
/// let mut chunk: &[u8] = b": hi\nretry: 500\nid: 3\n\n";
/// assert_eq!(decoder.decode_owned(&mut chunk)?, Some(OwnedItem::Comment(" hi".into())));
/// assert_eq!(decoder.decode_owned(&mut chunk)?, None);
/// assert_eq!((decoder.retry_ms(), decoder.last_event_id()), (Some(500), "3"));
/// # Ok::<(), bellwire_sse::DecodeError>(())
/// ```
///
/// The outcome does not depend on where chunks end. An event is returned as soon as its blank line
/// is complete, even when that is a lone CR which may turn out to be half of a CRLF. Invalid UTF-8
/// becomes U+FFFD. Nothing is dispatched at the end of a stream: an unfinished block is dropped by
/// [`Decoder::reconnected`], or with the decoder.
#[derive(Clone, Debug)]
pub struct Decoder {
    limit_bytes: usize,
    comments: bool,
    position: Position,
    /// The last line ended in CR: a LF that follows belongs to it.
    after_cr: bool,
    block: Block,
    /// The value of an unfinished `id`, `event` or comment line.
    line: String,
    last_id: LastId,
    retry_ms: Option<u64>,
}

/// The position within a line at the end of the last chunk.
#[derive(Clone, Copy, Debug)]
enum Position {
    /// At the start of the stream, with so many bytes of a byte order mark seen.
    Bom(usize),
    LineStart,
    /// In a line whose first bytes may still be those of a known field's name.
    Name(NamePrefix),
    /// In the value of a known field.
    Value(Value),
    /// In a line that is ignored, or of a block that is skipped.
    Ignored,
}

/// An item to return, and where its text is.
enum Ready<'a> {
    Event { name: Held<'a>, data: Held<'a> },
    Comment(Held<'a>),
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder at the start of a stream, with the default limit and without comments.
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// The default settings of a decoder, to be changed and built.
    pub fn builder() -> DecoderBuilder {
        DecoderBuilder::default()
    }

    /// Returns the next item and advances `chunk` behind it; `None` when the chunk is used up.
    ///
    /// The rest of the chunk must be passed in again before the next chunk. An item borrows from
    /// the chunk if it is there in one piece, else from the decoder.
    ///
    /// # Errors
    /// [`DecodeError::TooLarge`] once for each event or comment beyond the limit. The decoder stays
    /// usable: the next call continues behind what was skipped.
    pub fn decode<'a, 'c: 'a>(
        &'a mut self,
        chunk: &mut &'c [u8],
    ) -> Result<Option<Item<'a>>, DecodeError> {
        Ok(self.advance(chunk)?.map(|ready| match ready {
            Ready::Event { name, data } => Item::Event(self.event(name, data)),
            Ready::Comment(text) => Item::Comment(text.get(&self.line)),
        }))
    }

    /// As [`Decoder::decode`], but owned: a large event's data is moved out, not copied.
    ///
    /// # Errors
    /// As [`Decoder::decode`].
    pub fn decode_owned(&mut self, chunk: &mut &[u8]) -> Result<Option<OwnedItem>, DecodeError> {
        Ok(self.advance(chunk)?.map(|ready| match ready {
            Ready::Event { name, data: Held::Buffer }
                if self.block.data.len() > RETAINED_CAPACITY_BYTES =>
            {
                let data = mem::take(&mut self.block.data);
                let name = name.get(&self.block.name);
                OwnedItem::Event(Event::from_parts(data, name, self.last_id.as_str()))
            }
            Ready::Event { name, data } => OwnedItem::Event(self.event(name, data).to_event()),
            Ready::Comment(text) => OwnedItem::Comment(text.get(&self.line).to_owned()),
        }))
    }

    /// Whether the event just returned had an `id` field of its own; false after anything else.
    pub fn event_has_id(&self) -> bool {
        self.block.dispatched && self.block.has_id
    }

    /// The id of the last complete block that had one, or the initial one.
    pub fn last_event_id(&self) -> &str {
        self.last_id.as_str()
    }

    /// The `Last-Event-ID` that a reconnect should send, if any.
    ///
    /// This is the last event id, unless that is empty (then there is no header) or contains a
    /// control character, which is not allowed in a header: then it is the last id before it that
    /// is allowed. Resuming a little early repeats an event; resuming without an id may lose some.
    pub fn header_id(&self) -> Option<&str> {
        self.last_id.header()
    }

    /// The last valid `retry` field, in milliseconds; one beyond `u64` is `u64::MAX`.
    pub fn retry_ms(&self) -> Option<u64> {
        self.retry_ms
    }

    /// Prepares for a new connection: drops the unfinished block and expects a byte order mark
    /// again. The last event id and `retry` stay.
    pub fn reconnected(&mut self) {
        self.position = Position::Bom(0);
        self.after_cr = false;
        self.block.clear();
    }

    /// The event that was just completed.
    fn event<'a>(&'a self, name: Held<'a>, data: Held<'a>) -> EventRef<'a> {
        let (name, data) = (name.get(&self.block.name), data.get(&self.block.data));
        EventRef::new(name, data, self.last_id.as_str())
    }

    /// Runs to the next item or to the end of the chunk.
    fn advance<'a>(&mut self, chunk: &mut &'a [u8]) -> Result<Option<Ready<'a>>, DecodeError> {
        if self.block.dispatched {
            self.block.clear();
        }
        let mut held = InChunk::default();
        loop {
            if self.after_cr {
                let Some(&first) = chunk.first() else { break };
                self.after_cr = false;
                if first == b'\n' {
                    take_first(chunk, 1);
                }
            }
            if !matches!(self.position, Position::LineStart) {
                match self.resume(chunk)? {
                    Resumed::Line => continue,
                    Resumed::Comment => return Ok(Some(Ready::Comment(Held::Buffer))),
                    Resumed::NeedMore => break,
                }
            }
            let Some(line) = self.take_line(chunk, usize::MAX) else {
                break;
            };
            if line.is_empty() {
                if self.finish_block(held) {
                    return Ok(Some(self.dispatch(held)));
                }
                held = InChunk::default();
            } else {
                let outcome = self.whole_line(line, &mut held);
                if !matches!(outcome, Ok(None)) {
                    self.block.store(held);
                    return outcome.map(|comment| comment.map(Ready::Comment));
                }
            }
        }
        self.block.store(held);
        if matches!(self.position, Position::LineStart) && !chunk.is_empty() {
            self.position = Position::Name(NamePrefix::default());
        }
        while !chunk.is_empty() {
            let piece = take_first(chunk, WINDOW_BYTES);
            self.take_piece(piece).inspect_err(|_| self.position = Position::Ignored)?;
        }
        Ok(None)
    }

    /// Removes a line with its end from the chunk, if the end is among the first `within` bytes.
    fn take_line<'a>(&mut self, chunk: &mut &'a [u8], within: usize) -> Option<&'a [u8]> {
        // Every event ends in an empty line, which needs no search.
        let end = match chunk.first()? {
            b'\n' | b'\r' => 0,
            _ => memchr2(b'\n', b'\r', chunk.get(..within).unwrap_or(chunk))?,
        };
        let (line, rest) = chunk.split_at_checked(end)?;
        *chunk = match rest {
            [b'\r', b'\n', rest @ ..] | [b'\n', rest @ ..] => rest,
            [b'\r'] => {
                self.after_cr = true;
                &[]
            }
            [_, rest @ ..] => rest,
            [] => &[],
        };
        Some(line)
    }

    /// Processes a line that is complete within the chunk.
    fn whole_line<'a>(
        &mut self,
        line: &'a [u8],
        held: &mut InChunk<'a>,
    ) -> Result<Option<Held<'a>>, DecodeError> {
        if self.block.skipped {
            return Ok(None);
        }
        let Some((field, value)) = split_line(line) else {
            return Ok(None);
        };
        match field {
            Field::Data => {
                self.count(value.len() + 1)?;
                if held.data.is_none() && !self.block.has_data {
                    held.data = Some(value);
                } else {
                    if let Some(first) = held.data.take() {
                        self.block.push_data_line(first);
                    }
                    self.block.push_data_line(value);
                }
            }
            Field::Event => {
                self.count(value.len() + 1)?;
                held.name = Some(value);
            }
            Field::Id => {
                self.count(value.len() + 1)?;
                held.id = Id::check(value).or(held.id);
            }
            Field::Retry => self.set_retry(Digits::None.and(value)),
            Field::Comment if !self.comments => {}
            Field::Comment => {
                if value.len() > self.limit_bytes {
                    return Err(DecodeError::TooLarge { limit_bytes: self.limit_bytes });
                }
                clear(&mut self.line);
                return Ok(Some(held_text(value, &mut self.line)));
            }
        }
        Ok(None)
    }

    /// Ends the block at its blank line; true if it is an event, and then it is to be dispatched.
    fn finish_block(&mut self, held: InChunk<'_>) -> bool {
        let skipped = self.block.skipped;
        if !skipped {
            if let Some(id) = held.id {
                self.block.has_id = true;
                self.last_id.commit(id);
            } else if self.block.has_id {
                let stored = mem::take(&mut self.block.id);
                if let Some(id) = Id::check(stored.as_bytes()) {
                    self.last_id.commit(id);
                }
                self.block.id = stored;
            }
        }
        let is_event = !skipped && (self.block.has_data || held.data.is_some());
        if !is_event {
            self.block.clear();
        }
        is_event
    }

    fn dispatch<'a>(&mut self, held: InChunk<'a>) -> Ready<'a> {
        self.block.dispatched = true;
        let data = match held.data {
            Some(data) => held_text(data, &mut self.block.data),
            None => Held::Buffer,
        };
        let name = match held.name {
            Some([]) => Held::Chunk(DEFAULT_NAME),
            Some(name) => {
                self.block.name.clear();
                held_text(name, &mut self.block.name)
            }
            None if self.block.name.is_empty() => Held::Chunk(DEFAULT_NAME),
            None => Held::Buffer,
        };
        Ready::Event { name, data }
    }

    fn set_retry(&mut self, digits: Digits) {
        if let Digits::Number(retry_ms) = digits {
            self.retry_ms = Some(retry_ms);
        }
    }

    /// Adds to the size of the block, and skips the block when it exceeds the limit.
    fn count(&mut self, added_bytes: usize) -> Result<(), DecodeError> {
        self.block.len_bytes = self.block.len_bytes.saturating_add(added_bytes);
        if self.block.len_bytes <= self.limit_bytes {
            return Ok(());
        }
        self.block.clear();
        self.block.skipped = true;
        Err(DecodeError::TooLarge { limit_bytes: self.limit_bytes })
    }
}

/// Removes up to `len` bytes from the front.
fn take_first<'a>(chunk: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (first, rest) = chunk.split_at_checked(len).unwrap_or((chunk, &[]));
    *chunk = rest;
    first
}

#[cfg(test)]
mod tests;
