//! Shared by the decoder's tests: runs a decoder over chunks and collects its output.

use bellwire_sse::{DecodeError, Decoder, Item, OwnedItem};

/// The complete output of a decoder for a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Decoded {
    /// Name, data and id of each event.
    pub(crate) events: Vec<(String, String, String)>,
    pub(crate) comments: Vec<String>,
    pub(crate) last_event_id: String,
    pub(crate) retry_ms: Option<u64>,
    /// How many events or comments exceeded the limit.
    pub(crate) too_large: usize,
    pub(crate) events_after_chunk: Vec<usize>,
}

impl Decoded {
    /// The same, but for when the events came, which depends on the chunks.
    pub(crate) fn untimed(mut self) -> Self {
        self.events_after_chunk.clear();
        self
    }
}

/// Runs a decoder over chunks, borrowed.
pub(crate) fn decode_all<'a>(
    mut decoder: Decoder,
    chunks: impl IntoIterator<Item = &'a [u8]>,
) -> Decoded {
    let mut decoded = Decoded::default();
    for mut chunk in chunks {
        loop {
            match decoder.decode(&mut chunk) {
                Ok(Some(Item::Event(event))) => decoded.events.push((
                    event.name().into(),
                    event.data().into(),
                    event.id().into(),
                )),
                Ok(Some(Item::Comment(text))) => decoded.comments.push(text.into()),
                Ok(None) => break,
                Err(DecodeError::TooLarge { .. }) => decoded.too_large += 1,
                Err(error) => panic!("unexpected {error}"),
            }
        }
        assert!(chunk.is_empty(), "the decoder stopped with {} bytes left", chunk.len());
        decoded.events_after_chunk.push(decoded.events.len());
    }
    decoded.last_event_id = decoder.last_event_id().into();
    decoded.retry_ms = decoder.retry_ms();
    decoded
}

/// As [`decode_all`], owned.
pub(crate) fn decode_all_owned<'a>(
    mut decoder: Decoder,
    chunks: impl IntoIterator<Item = &'a [u8]>,
) -> Decoded {
    let mut decoded = Decoded::default();
    for mut chunk in chunks {
        loop {
            match decoder.decode_owned(&mut chunk) {
                Ok(Some(OwnedItem::Event(event))) => decoded.events.push((
                    event.name().into(),
                    event.data().into(),
                    event.id().into(),
                )),
                Ok(Some(OwnedItem::Comment(text))) => decoded.comments.push(text),
                Ok(None) => break,
                Err(DecodeError::TooLarge { .. }) => decoded.too_large += 1,
                Err(error) => panic!("unexpected {error}"),
            }
        }
        decoded.events_after_chunk.push(decoded.events.len());
    }
    decoded.last_event_id = decoder.last_event_id().into();
    decoded.retry_ms = decoder.retry_ms();
    decoded
}
