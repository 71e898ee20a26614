//! The EventSource (Server-Sent Events) codec and reconnection state, without I/O.
//!
//! ```
//! use bellwire_sse::{Decoder, Item};
//!
//! let mut decoder = Decoder::new();
//! let mut chunk: &[u8] = b"id: 7\nevent: greeting\ndata: hello\n\ndata: wor";
//! while let Some(item) = decoder.decode(&mut chunk)? {
//!     let Item::Event(event) = item else { continue };
//!     assert_eq!((event.name(), event.data(), event.id()), ("greeting", "hello", "7"));
//! }
//! // The rest of the second event arrives with the next read.
//! let mut chunk: &[u8] = b"ld\n\n";
//! let Some(Item::Event(event)) = decoder.decode(&mut chunk)? else { unreachable!() };
//! assert_eq!((event.name(), event.data(), event.id()), ("message", "world", "7"));
//! # Ok::<(), bellwire_sse::DecodeError>(())
//! ```
//!
//! - [`Decoder`]: parses bytes into events exactly by the [WHATWG algorithm], borrowed or owned.
//! - [`Encoder`]: writes events as bytes; no value can add a line or an event.
//! - [`Reconnect`]: when to reconnect after a stream has ended, and when a silent stream is dead.
//!
//! Nothing here reads a socket, a clock or a source of randomness: bytes, `now` and random numbers are
//! arguments. The crate is `no_std` and needs `alloc`. The feature `std`, on by default, only lets
//! `memchr` and `simdutf8` use the processor's vector instructions; without it `memchr` is the only
//! dependency.
//!
//! [WHATWG algorithm]: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
#![forbid(unsafe_code)]
#![no_std]

extern crate alloc;

mod block;
mod decode;
mod encode;
mod event;
mod last_id;
mod line;
mod reconnect;
mod text;

pub use decode::{DEFAULT_LIMIT_BYTES, DecodeError, Decoder, DecoderBuilder};
pub use encode::{Encoder, LineEnd};
pub use event::{Event, EventId, EventName, EventRef, InvalidValue, Item, OwnedItem};
pub use reconnect::{Ended, Jitter, Next, Policy, ReadyState, Reconnect};
