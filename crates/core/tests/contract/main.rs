//! The contract, sentence by sentence, as far as the core keeps it: one promise, one test.
//!
//! `stage.rs` sets a hub and a store on a stage where time stands still until a test lets it pass;
//! a test then reads like the sentence that it holds. What must hold whatever happens is told by
//! `../simulation.rs`.

#![expect(clippy::unwrap_used, reason = "a panic here is the message")]

mod cancelling;
mod incidents;
mod listening;
mod order;
mod polling;
mod sending;
mod stage;
mod states;
mod unanswered;

#[path = "../world/store.rs"]
#[allow(dead_code, reason = "the simulation uses what is left over here")]
mod store;
