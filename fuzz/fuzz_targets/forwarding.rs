//! What proxies say of their clients is an address or nothing, whatever a client wrote before it; and never a panic.
//!
//! ```text
//! cargo +nightly fuzz run forwarding fuzz/corpus/forwarding fuzz/seeds/forwarding
//! ```
#![no_main]

use std::net::IpAddr;

use bellwire_hub::listen::{ListenerRules, parse_proxy_header};
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = parse_proxy_header(bytes);
    let proxy: IpAddr = [10, 0, 0, 1].into();
    let trusted_proxies = "10.0.0.0/8".parse().expect("a network");
    let rules = ListenerRules { trusted_proxies, ..ListenerRules::default() };
    // What an untrusted client writes, before what its proxy appends.
    for (field, appended) in [("x-forwarded-for", ", 192.0.2.1"), ("forwarded", ", for=192.0.2.1")]
    {
        let mut headers = HeaderMap::new();
        let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
        headers.insert(field, value);
        let _ = rules.client(proxy, &headers);
        let stranger: IpAddr = [203, 0, 113, 9].into();
        assert_eq!(
            rules.client(stranger, &headers),
            stranger,
            "who is not trusted is not believed"
        );
        // A proxy that cannot read the field as text begins a line of its own.
        if let Ok(text) = std::str::from_utf8(bytes)
            && text.bytes().all(|byte| (b' '..0x7F).contains(&byte))
        {
            let whole = HeaderValue::from_str(&format!("{text}{appended}")).expect("visible");
            headers.insert(field, whole);
            let client: IpAddr = [192, 0, 2, 1].into();
            assert_eq!(rules.client(proxy, &headers), client, "{field}: {text}");
        }
    }
});
