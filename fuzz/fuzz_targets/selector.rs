//! A selector is read or refused with a place in the text; what is shown of it is read again as the same.
//!
//! ```text
//! cargo +nightly fuzz run selector
//! ```
//!
//! The same property runs as `crates/proto/tests/selector/main.rs` with every test.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/proto/tests/selector/judge.rs"]
mod judge;

fuzz_target!(|input: &[u8]| {
    if let Ok(text) = std::str::from_utf8(input) {
        judge::selector(text);
    }
});
