//! The current block of lines: the values that are stored, and those that are still in the current
//! chunk.
//!
//! `decode.rs` fills and clears it; lines are parsed in `line.rs`. Values are not interpreted here.

use crate::{
    last_id::Id,
    text::{from_utf8, push_lossy},
};
use alloc::string::String;

/// A buffer that grew beyond this is freed after its event, not reused for the next.
pub(crate) const RETAINED_CAPACITY_BYTES: usize = 1 << 20;

/// The stored values of the current block. Values that are still in the chunk are in [`InChunk`],
/// which always holds the later ones.
#[derive(Clone, Debug, Default)]
pub(crate) struct Block {
    /// The data lines, joined by LF.
    pub(crate) data: String,
    pub(crate) has_data: bool,
    /// Empty when it has none.
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) has_id: bool,
    /// The bytes of its values, counted as for
    /// [`DecoderBuilder::limit_bytes`](crate::DecoderBuilder::limit_bytes).
    pub(crate) len_bytes: usize,
    /// It exceeded the limit: all of it is ignored, up to and including its blank line.
    pub(crate) skipped: bool,
    /// It was dispatched and is cleared at the next call.
    pub(crate) dispatched: bool,
}

impl Block {
    pub(crate) fn clear(&mut self) {
        clear(&mut self.data);
        clear(&mut self.name);
        clear(&mut self.id);
        self.has_data = false;
        self.has_id = false;
        self.len_bytes = 0;
        self.skipped = false;
        self.dispatched = false;
    }

    /// Adds a data line behind those that are stored.
    pub(crate) fn push_data_line(&mut self, value: &[u8]) {
        self.start_data_line();
        push_lossy(&mut self.data, value);
    }

    /// Begins one more data line behind those that are stored.
    pub(crate) fn start_data_line(&mut self) {
        if self.has_data {
            self.data.push('\n');
        }
        self.has_data = true;
    }

    /// Moves the values that are still in the chunk into the block.
    pub(crate) fn store(&mut self, held: InChunk<'_>) {
        if self.skipped {
            return;
        }
        if let Some(data) = held.data {
            self.push_data_line(data);
        }
        if let Some(name) = held.name {
            self.name.clear();
            push_lossy(&mut self.name, name);
        }
        if let Some(id) = held.id {
            self.id.clear();
            push_lossy(&mut self.id, id.bytes);
            self.has_id = true;
        }
    }
}

/// The values of the current block that are in the current chunk.
#[derive(Clone, Copy, Default)]
pub(crate) struct InChunk<'a> {
    pub(crate) data: Option<&'a [u8]>,
    pub(crate) name: Option<&'a [u8]>,
    pub(crate) id: Option<Id<'a>>,
}

/// A text to return, and where it is.
pub(crate) enum Held<'a> {
    Chunk(&'a str),
    Buffer,
}

impl<'a> Held<'a> {
    /// The text, from `buffer` if it is not in the chunk.
    pub(crate) fn get(self, buffer: &'a str) -> &'a str {
        match self {
            Self::Chunk(text) => text,
            Self::Buffer => buffer,
        }
    }
}

/// The text of a value: the bytes in the chunk if they are UTF-8, else repaired in `buffer`, which
/// must be empty.
pub(crate) fn held_text<'a>(value: &'a [u8], buffer: &mut String) -> Held<'a> {
    match from_utf8(value) {
        Some(text) => Held::Chunk(text),
        None => {
            push_lossy(buffer, value);
            Held::Buffer
        }
    }
}

/// Clears a buffer, and frees it if it is large.
pub(crate) fn clear(buffer: &mut String) {
    if buffer.capacity() > RETAINED_CAPACITY_BYTES {
        *buffer = String::new();
    }
    buffer.clear();
}
