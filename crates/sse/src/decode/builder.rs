//! The settings and the initial state of a decoder.

use alloc::string::String;

use super::{DEFAULT_LIMIT_BYTES, Decoder, Position};
use crate::block::Block;
use crate::last_id::{Id, LastId};

/// The settings of a [`Decoder`].
#[derive(Clone, Debug)]
pub struct DecoderBuilder {
    limit_bytes: usize,
    comments: bool,
    last_event_id: String,
}

impl Default for DecoderBuilder {
    fn default() -> Self {
        let limit_bytes = DEFAULT_LIMIT_BYTES;
        Self { limit_bytes, comments: false, last_event_id: String::new() }
    }
}

impl DecoderBuilder {
    /// The most bytes of the values of one event (its `data`, `event` and `id` lines, each with one
    /// byte for its end), or of one comment. Default: [`DEFAULT_LIMIT_BYTES`].
    ///
    /// What the decoder holds stays within a small multiple of this: a stray byte that is not UTF-8
    /// becomes the three bytes of U+FFFD, buffers double when they grow, and the last id is
    /// retained.
    #[must_use]
    pub fn limit_bytes(mut self, limit_bytes: usize) -> Self {
        self.limit_bytes = limit_bytes;
        self
    }

    /// Whether comments are items, or are skipped. Default: skipped.
    #[must_use]
    pub fn comments(mut self, comments: bool) -> Self {
        self.comments = comments;
        self
    }

    /// The last event id of an earlier connection, which events without an id of their own inherit.
    /// One with a NUL is ignored, as in a stream.
    #[must_use]
    pub fn last_event_id(mut self, id: impl Into<String>) -> Self {
        self.last_event_id = id.into();
        self
    }

    /// The decoder.
    pub fn build(self) -> Decoder {
        let mut decoder = Decoder {
            limit_bytes: self.limit_bytes,
            comments: self.comments,
            position: Position::Bom(0),
            after_cr: false,
            block: Block::default(),
            line: String::new(),
            last_id: LastId::default(),
            retry_ms: None,
        };
        if let Some(id) = Id::check(self.last_event_id.as_bytes()) {
            decoder.last_id.commit(id);
        }
        decoder
    }
}
