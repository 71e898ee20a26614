//! The agent: runs each command once, and only what the list allows.

pub mod run;
