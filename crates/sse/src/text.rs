//! UTF-8 with replacement, in pieces, because a read may end within a character.
//!
//! The result is that of `String::from_utf8_lossy` on the whole: each maximal subpart of an invalid
//! sequence becomes one U+FFFD (Unicode section 3.9, as in the WHATWG decoder). Line ends, the
//! colon and the space are ASCII and never inside such a subpart, so values can be decoded one by
//! one.

use alloc::string::String;
use core::str;

/// The bytes as text, if they are UTF-8.
pub(crate) fn from_utf8(bytes: &[u8]) -> Option<&str> {
    // Shorter input does not fill a vector, and the standard library is faster there.
    #[cfg(feature = "std")]
    if bytes.len() >= 64 {
        return simdutf8::basic::from_utf8(bytes).ok();
    }
    str::from_utf8(bytes).ok()
}

/// Appends a whole value.
pub(crate) fn push_lossy(out: &mut String, value: &[u8]) {
    match from_utf8(value) {
        Some(text) => out.push_str(text),
        None => out.push_str(&String::from_utf8_lossy(value)),
    }
}

/// The bytes of a character that the last piece did not complete.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pieces {
    /// A proper prefix of a valid sequence: no character has more than three such bytes.
    open: [u8; 3],
    open_len: u8,
}

impl Pieces {
    /// Appends the next piece of a value.
    pub(crate) fn push(&mut self, out: &mut String, mut piece: &[u8]) {
        while self.open_len > 0 {
            let Some((&next, rest)) = piece.split_first() else {
                return;
            };
            if !self.take(out, next) {
                continue;
            }
            piece = rest;
        }
        match from_utf8(piece) {
            Some(text) => out.push_str(text),
            None => self.push_broken(out, piece),
        }
    }

    /// Appends a piece that is not UTF-8 by itself.
    fn push_broken(&mut self, out: &mut String, piece: &[u8]) {
        let mut chunks = piece.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            out.push_str(chunk.valid());
            let broken = chunk.invalid();
            if chunks.peek().is_none() && is_incomplete(broken) {
                self.set_open(broken);
            } else if !broken.is_empty() {
                out.push(char::REPLACEMENT_CHARACTER);
            }
        }
    }

    /// Ends the value: a character that is still open will not be completed.
    pub(crate) fn finish(&mut self, out: &mut String) {
        if self.open_len > 0 {
            out.push(char::REPLACEMENT_CHARACTER);
            self.open_len = 0;
        }
    }

    /// Adds a byte to the open character; false if the byte does not belong to it, and then the
    /// open part became U+FFFD.
    fn take(&mut self, out: &mut String, next: u8) -> bool {
        let [a, b, c] = self.open;
        let (bytes, len) = match self.open_len {
            1 => ([a, next, 0, 0], 2),
            2 => ([a, b, next, 0], 3),
            _ => ([a, b, c, next], 4),
        };
        let bytes = bytes.get(..len).unwrap_or_default();
        if let Ok(text) = str::from_utf8(bytes) {
            out.push_str(text);
            self.open_len = 0;
            true
        } else if is_incomplete(bytes) {
            self.set_open(bytes);
            true
        } else {
            self.finish(out);
            false
        }
    }

    fn set_open(&mut self, bytes: &[u8]) {
        self.open_len = 0;
        for (slot, &byte) in self.open.iter_mut().zip(bytes) {
            *slot = byte;
            self.open_len += 1;
        }
    }
}

/// Whether these bytes are a proper prefix of a character.
fn is_incomplete(bytes: &[u8]) -> bool {
    str::from_utf8(bytes)
        .is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
}
