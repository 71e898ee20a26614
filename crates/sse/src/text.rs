//! UTF-8 with replacement, in pieces: what a stream's bytes mean when a read may end anywhere.
//!
//! The result is that of `String::from_utf8_lossy` on the whole: each maximal subpart of an invalid
//! sequence becomes one U+FFFD (Unicode section 3.9, as the WHATWG decoder has it). Line ends, the
//! colon and the space are ASCII and never lie inside such a subpart, so values may be decoded one
//! by one.

use alloc::string::String;
use core::str;

/// Appends a whole value.
pub(crate) fn push_lossy(out: &mut String, value: &[u8]) {
    let mut pieces = Pieces::default();
    pieces.push(out, value);
    pieces.finish(out);
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
        loop {
            let error = match str::from_utf8(piece) {
                Ok(text) => return out.push_str(text),
                Err(error) => error,
            };
            let (valid, rest) = piece.split_at(error.valid_up_to());
            // Known to be valid; checked again rather than trusted, since only bad input gets here.
            out.push_str(str::from_utf8(valid).unwrap_or_default());
            let Some(invalid_len) = error.error_len() else {
                return self.keep_open(rest);
            };
            out.push(char::REPLACEMENT_CHARACTER);
            piece = rest.get(invalid_len..).unwrap_or_default();
        }
    }

    /// Ends the value: a character that is still open will not be completed.
    pub(crate) fn finish(&mut self, out: &mut String) {
        if self.open_len > 0 {
            out.push(char::REPLACEMENT_CHARACTER);
            self.open_len = 0;
        }
    }

    /// Tries the open character with one more byte; false if the byte does not belong to it, and
    /// then the open part has become U+FFFD.
    fn take(&mut self, out: &mut String, next: u8) -> bool {
        let [a, b, c] = self.open;
        let (bytes, len) = match self.open_len {
            1 => ([a, next, 0, 0], 2),
            2 => ([a, b, next, 0], 3),
            _ => ([a, b, c, next], 4),
        };
        let bytes = bytes.get(..len).unwrap_or_default();
        match str::from_utf8(bytes) {
            Ok(text) => {
                out.push_str(text);
                self.open_len = 0;
                true
            }
            Err(error) if error.error_len().is_none() => {
                self.keep_open(bytes);
                true
            }
            Err(_) => {
                self.finish(out);
                false
            }
        }
    }

    fn keep_open(&mut self, bytes: &[u8]) {
        self.open_len = 0;
        for (slot, &byte) in self.open.iter_mut().zip(bytes) {
            *slot = byte;
            self.open_len += 1;
        }
    }
}
