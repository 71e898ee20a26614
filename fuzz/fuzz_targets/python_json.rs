//! What the classic format's JSON mode takes is written again as Python would: ASCII on one line, without what would end a
//! script element, and the same value; and never a panic.
//!
//! ```text
//! cargo +nightly fuzz run python_json fuzz/corpus/python_json fuzz/seeds/python_json
//! ```
#![no_main]

use bellwire_proto::python_json::rewrite;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(written) = rewrite(text) else { return };
    assert!(written.bytes().all(|byte| (b' '..0x7F).contains(&byte)), "{written:?}");
    assert!(!written.contains("</"), "{written:?}");
    assert_eq!(rewrite(&written).as_deref(), Ok(written.as_str()), "it is a fixed point");
});
