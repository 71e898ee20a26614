//! One line of a stream: its field and its value, whole or in pieces.
//!
//! `decode.rs` finds lines and uses their values; there are no blocks or events here.

use crate::text::Pieces;

/// The field of a line that has a meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    Data,
    Event,
    Id,
    Retry,
    Comment,
}

/// Splits a line into a known field and its value, without one leading space.
pub(crate) fn split_line(line: &[u8]) -> Option<(Field, &[u8])> {
    let (field, rest) = match line {
        [b'd', b'a', b't', b'a', rest @ ..] => (Field::Data, rest),
        [b'i', b'd', rest @ ..] => (Field::Id, rest),
        [b'e', b'v', b'e', b'n', b't', rest @ ..] => (Field::Event, rest),
        [b'r', b'e', b't', b'r', b'y', rest @ ..] => (Field::Retry, rest),
        [b':', text @ ..] => return Some((Field::Comment, text)),
        _ => return None,
    };
    match rest {
        [b':', b' ', value @ ..] | [b':', value @ ..] | value @ [] => Some((field, value)),
        _ => None,
    }
}

/// The start of a line: at most the longest field name.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NamePrefix {
    bytes: [u8; 5],
    len: usize,
}

/// A value whose end has not arrived yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Value {
    pub(crate) field: Field,
    /// No byte of it has arrived: one space would be dropped.
    pub(crate) at_start: bool,
    pub(crate) pieces: Pieces,
    pub(crate) digits: Digits,
    /// So far; for comments only, the other fields count in their block.
    pub(crate) len_bytes: usize,
}

/// The value of a `retry` line as far as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Digits {
    None,
    Number(u64),
    Invalid,
}

impl NamePrefix {
    /// Adds a byte; false if no known name begins like that.
    pub(crate) fn push(&mut self, byte: u8) -> bool {
        match self.bytes.get_mut(self.len) {
            Some(slot) => *slot = byte,
            None => return false,
        }
        self.len += 1;
        true
    }

    /// The field of this name; the empty one is that of a comment.
    pub(crate) fn field(&self) -> Option<Field> {
        match self.bytes.get(..self.len)? {
            b"" => Some(Field::Comment),
            b"data" => Some(Field::Data),
            b"event" => Some(Field::Event),
            b"id" => Some(Field::Id),
            b"retry" => Some(Field::Retry),
            _ => None,
        }
    }
}

impl Value {
    pub(crate) fn new(field: Field) -> Self {
        Self {
            field,
            at_start: true,
            pieces: Pieces::default(),
            digits: Digits::None,
            len_bytes: 0,
        }
    }
}

impl Digits {
    /// Continues with a piece; anything but ASCII digits invalidates the value.
    pub(crate) fn and(self, piece: &[u8]) -> Self {
        piece.iter().fold(self, |so_far, byte| match (so_far, byte) {
            (Self::Invalid, _) => Self::Invalid,
            (Self::None, b'0'..=b'9') => Self::Number(u64::from(byte - b'0')),
            (Self::Number(n), b'0'..=b'9') => {
                Self::Number(n.saturating_mul(10).saturating_add(u64::from(byte - b'0')))
            }
            _ => Self::Invalid,
        })
    }
}
