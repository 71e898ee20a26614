//! The agent: runs each command once, and only what the list allows.

pub mod config;
mod engine;
mod fault;
pub mod forward;
pub mod handler;
mod journal;
pub mod policy;
pub mod run;

pub use journal::JournalError;
