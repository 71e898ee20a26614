//! The agent.

mod fault;
mod journal;

pub use journal::JournalError;
