//! What a handler can rely on, with real programs: its environment, how it is ended, what is reported.
//!
//! A program reports by a progress line that it runs, so that no test waits by the clock.
#![cfg(feature = "agent")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message of a test"
)]

mod ended;
mod started;
mod support;
