//! The API by raw bytes over real sockets, against a whole hub: core, store on disk, plane, listener.
//!
//! Each module holds the promises of one part of the contract; `support` starts the hub and reads
//! the answers, with nothing of the hub's own code on the client's side.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic is the failure message, in helpers too"
)]

mod access;
mod audit;
mod browsers;
mod checks;
mod commands;
mod devices;
mod jwks;
mod jwt;
mod metrics;
mod mounted;
mod quota;
mod registry;
mod reports;
mod revocation;
mod rollouts;
mod schedules;
mod sending;
mod streams;
mod support;
mod targets;
mod tokens;
mod windows;
