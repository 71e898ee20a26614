//! The contract, sentence by sentence, as far as it is the core's: one promise, one test.
//!
//! `harness.rs` joins a hub and a store, and time stands still until a test lets it pass; a test
//! then reads like the sentence that it checks. What must hold whatever happens is checked by
//! `../simulation.rs`.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic here is the message")]

mod audit;
mod calendar;
mod cancelling;
mod clock;
mod harness;
mod incidents;
mod listening;
mod many;
mod order;
mod polling;
mod queue;
mod review;
mod rollouts;
mod rotating;
mod schedules;
mod sending;
mod states;
mod tokens;
mod unanswered;
mod windows;

#[path = "../world/store.rs"]
#[allow(dead_code, reason = "the simulation uses what these tests do not")]
mod store;
