//! Whatever stands where a token is expected is judged without a panic: a token of the hub, and a JWT, whose header and
//! claims are judged here without a signature. A token that is parsed is written as it was read.
//!
//! ```text
//! cargo +nightly fuzz run tokens corpus/tokens seeds/tokens
//! ```
//!
//! The rules for JWTs are tested in `crates/hub/src/jwt/tests.rs`.
#![no_main]

use bellwire_hub::jwt;
use bellwire_proto::Credential;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(credential) = text.parse::<Credential>() {
        assert_eq!(credential.expose(), text);
    }
    // Nothing is signed with no key.
    assert!(jwt::judge_any(text).is_err());
});
