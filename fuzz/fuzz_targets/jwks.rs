//! Whatever the keys of another issuer's tokens are in place of, they are read without a panic, and are of use or not: some
//! keys, and no more than may be.
//!
//! ```text
//! cargo +nightly fuzz run jwks fuzz/corpus/jwks fuzz/seeds/jwks
//! ```
#![no_main]

use bellwire_hub::jwt;
use bellwire_proto::limits::JWT_KEYS_MAX;
use http::HeaderValue;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let [of_file, of_answer] = jwt::count_keys(bytes);
    for keys in [of_file, of_answer].into_iter().flatten() {
        assert!((1..=JWT_KEYS_MAX).contains(&keys), "{keys}");
    }
    assert!(of_answer <= of_file, "a URL gives no secrets and no PEM");
    let private = bytes.windows(11).any(|text| text == b"PRIVATE KEY");
    assert!(
        !private || bytes.contains(&b'{') || of_file.is_none(),
        "it would be taken for a public one"
    );
    if let Ok(value) = HeaderValue::from_bytes(bytes) {
        let _ = jwt::max_age(value);
    }
});
