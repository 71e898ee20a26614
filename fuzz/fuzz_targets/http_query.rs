//! Path segments, queries and headers give the same result by every function, and never a panic.
//!
//! ```text
//! cargo +nightly fuzz run http_query
//! ```
//!
//! The same property runs as `crates/hub/tests/parsers` with every test.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/hub/tests/parsers/judge.rs"]
#[allow(dead_code, reason = "this target uses one of its two checks")]
mod judge;

fuzz_target!(|input: &[u8]| judge::params(input));
