//! The agent: runs each command once, and only what the list allows.

mod engine;
mod fault;
mod journal;
pub mod run;

pub use journal::JournalError;
