//! The harness that the scenarios share: real processes, HTTP by raw bytes, chance from a seed.
//!
//! It knows nothing of Bellwire's internals: it starts the program, speaks HTTP/1.1 over plain
//! sockets, and reads event streams. Every wait has a bound, and one that expires names what was
//! waited for.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message of a test"
)]

mod again;
mod agent;
mod http;
mod process;
mod random;
mod terminal;

pub use again::{
    as_process_1, has_own_name_server, has_own_network, is_process_1, on_small_disk,
    under_umask_077,
};
pub use agent::{AgentScene, begin, until};
pub use http::{EventStream, Http, Response};
pub use process::{Program, admin_token, command, runs, wait_until};
pub use random::Random;
pub use terminal::{CTRL_C, Terminal};
