//! The hub behind its HTTP: requests and their one reply, watchers, and its life from the first
//! bind to the last byte. Everything here is real: SQLite on a temporary folder, shards, sockets.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that meets what it did not expect has failed"
)]

mod life;
mod requests;
mod support;
mod watching;
