//! The agent: runs each command once, and only what the list allows.

pub mod config;
pub mod forward;
pub mod handler;
pub mod policy;
pub mod run;
