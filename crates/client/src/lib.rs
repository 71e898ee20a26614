//! An EventSource client for any stream, and the typed API of a Bellwire hub.
//!
//! Reading a stream of events, whoever serves it. It reconnects by itself; only what is final is
//! an error:
//!
//! ```no_run
//! use bellwire_client::EventSource;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let mut source = EventSource::get("https://stream.wikimedia.org/v2/stream/recentchange")?;
//! while let Some(event) = source.next_event().await? {
//!     println!("{}: {}", event.name(), event.data());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! - [`EventSource`]: the client side of Server-Sent Events, by the letter of the standard.
//! - [`transport`]: what it sends its requests through.

mod address;
pub mod event_source;
pub mod transport;

pub use address::InvalidUrl;
pub use event_source::EventSource;
