//! A stream decodes the same in any chunks, and never panics.
//!
//! ```text
//! cargo install cargo-fuzz
//! cargo +nightly fuzz run sse_decode
//! ```
//!
//! `cargo check --manifest-path fuzz/Cargo.toml` needs no nightly compiler, and the same property
//! runs as `crates/sse/tests/properties.rs` with every test.
#![no_main]

use bellwire_sse::{Decoder, Event, OwnedItem};
use libfuzzer_sys::fuzz_target;

// The first byte is the limit, the second how many of those that follow are chunk lengths, used
// again and again; the rest is the stream.
fuzz_target!(|input: &[u8]| {
    let [limit, lengths, rest @ ..] = input else { return };
    let (lengths, stream) = rest.split_at(usize::from(*lengths).min(rest.len()));
    let limit_bytes = match limit {
        // As good as none.
        255 => usize::MAX,
        limit => usize::from(*limit),
    };
    let whole = decode(limit_bytes, [stream]);
    assert_eq!(decode(limit_bytes, stream.chunks(1)), whole, "bytewise");
    if lengths.iter().any(|length| *length > 0) {
        assert_eq!(decode(limit_bytes, cut(stream, lengths)), whole, "cut by {lengths:?}");
    }
});

/// The complete output of a decoder.
#[derive(Debug, Default, PartialEq)]
struct Decoded {
    events: Vec<Event>,
    comments: Vec<String>,
    too_large: usize,
    last_event_id: String,
    header_id: Option<String>,
    retry_ms: Option<u64>,
}

fn decode<'a>(limit_bytes: usize, chunks: impl IntoIterator<Item = &'a [u8]>) -> Decoded {
    let mut decoder = Decoder::builder().comments(true).limit_bytes(limit_bytes).build();
    let mut decoded = Decoded::default();
    for mut chunk in chunks {
        loop {
            match decoder.decode_owned(&mut chunk) {
                Ok(Some(OwnedItem::Event(event))) => decoded.events.push(event),
                Ok(Some(OwnedItem::Comment(text))) => decoded.comments.push(text),
                Ok(None) => break,
                Err(_) => decoded.too_large += 1,
            }
        }
    }
    decoded.last_event_id = decoder.last_event_id().to_owned();
    decoded.header_id = decoder.header_id().map(str::to_owned);
    decoded.retry_ms = decoder.retry_ms();
    decoded
}

fn cut<'a>(stream: &'a [u8], lengths: &[u8]) -> Vec<&'a [u8]> {
    let mut rest = stream;
    let mut chunks = Vec::new();
    for length in lengths.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (chunk, after) = rest.split_at(usize::from(*length).min(rest.len()));
        chunks.push(chunk);
        rest = after;
    }
    chunks
}
