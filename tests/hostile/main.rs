//! What hostile clients try, against the real program over real sockets; each test is named after the promise that it holds.
//! docs/security.md lists the promises, and which test elsewhere holds those that are not here.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message of a test"
)]

#[path = "../hub_tls/support.rs"]
mod authority;
mod browser;
mod clock;
mod http;
mod identity;
mod limits;
#[allow(dead_code, reason = "the tests of ACME use what these do not")]
#[path = "../hub_acme/pebble.rs"]
mod pebble;
mod promises;
mod scope;
mod secrets;
mod support;
mod tls;
