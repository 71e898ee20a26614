//! Encodes events, one field line at a time in the order of the calls.
//!
//! No value can add a line or an event: ids and names were checked when they were made (`event.rs`),
//! numbers have only digits, and data and comments are split at every line end. Nothing here buffers
//! or sends; the bytes are appended to the caller's `Vec`.

use crate::event::{EventId, EventName};
use alloc::vec::Vec;
use memchr::memchr2;

/// What ends the lines of an encoded stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LineEnd {
    /// LF, one byte.
    #[default]
    Lf,
    /// CR LF, as the classic Python library writes.
    CrLf,
}

impl LineEnd {
    const fn as_bytes(self) -> &'static [u8] {
        match self {
            Self::Lf => b"\n",
            Self::CrLf => b"\r\n",
        }
    }
}

/// Writes fields into a byte buffer. [`Encoder::end`] closes the event.
///
/// ```
/// use bellwire_sse::{Encoder, EventId, EventName};
///
/// let mut out = Vec::new();
/// Encoder::new(&mut out)
///     .event(&EventName::new("note")?)
///     .id(&EventId::from(7))
///     .retry(2000)
///     .data("two\r\nlines")
///     .end();
/// assert_eq!(out, b"event: note\nid: 7\nretry: 2000\ndata: two\ndata: lines\n\n");
/// # Ok::<(), bellwire_sse::InvalidValue>(())
/// ```
///
/// A reader dispatches an event at [`Encoder::end`] if it has data, be it empty; without any
/// [`Encoder::data`], `id` and `retry` take effect all the same.
#[derive(Debug)]
pub struct Encoder<'a> {
    out: &'a mut Vec<u8>,
    line_end: LineEnd,
}

impl<'a> Encoder<'a> {
    /// An encoder that appends to `out`, lines ended by LF.
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        Self::with_line_end(out, LineEnd::Lf)
    }

    /// An encoder that appends to `out`, lines ended by `line_end`.
    pub fn with_line_end(out: &'a mut Vec<u8>, line_end: LineEnd) -> Self {
        Self { out, line_end }
    }

    /// Writes the event's name.
    pub fn event(&mut self, name: &EventName) -> &mut Self {
        self.line(b"event: ", name.as_str().as_bytes())
    }

    /// Writes the event's id.
    pub fn id(&mut self, id: &EventId) -> &mut Self {
        self.line(b"id: ", id.as_str().as_bytes())
    }

    /// Writes the reconnection time in milliseconds.
    pub fn retry(&mut self, retry_ms: u64) -> &mut Self {
        // Twenty digits are the most that a u64 has.
        let mut digits = [0_u8; 20];
        let mut rest = retry_ms;
        let mut from = digits.len();
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
            from -= 1;
            if rest == 0 {
                break;
            }
        }
        self.line(b"retry: ", digits.get(from..).unwrap_or_default())
    }

    /// Writes the data, one `data` line for each of its lines: CR, LF and CR LF each end one, so
    /// empty data is one empty line and a trailing line end gives one more. The reader receives the
    /// same text with every line end as LF.
    pub fn data(&mut self, data: &str) -> &mut Self {
        self.lines(b"data: ", data)
    }

    /// Writes a comment, one line for each of its lines. Readers ignore it; it prevents that an
    /// idle stream is closed.
    pub fn comment(&mut self, text: &str) -> &mut Self {
        self.lines(b": ", text)
    }

    /// Ends the event: one blank line.
    pub fn end(&mut self) {
        self.out.extend_from_slice(self.line_end.as_bytes());
    }

    fn lines(&mut self, prefix: &[u8], text: &str) -> &mut Self {
        let mut rest = text.as_bytes();
        while let Some((line, after)) =
            memchr2(b'\n', b'\r', rest).and_then(|at| rest.split_at_checked(at))
        {
            self.line(prefix, line);
            rest = match after {
                [b'\r', b'\n', rest @ ..] | [_, rest @ ..] => rest,
                [] => &[],
            };
        }
        self.line(prefix, rest)
    }

    fn line(&mut self, prefix: &[u8], value: &[u8]) -> &mut Self {
        self.out.extend_from_slice(prefix);
        self.out.extend_from_slice(value);
        self.out.extend_from_slice(self.line_end.as_bytes());
        self
    }
}
