//! The answer of a PAC file is a bounded list of proxies whose URLs are valid, or an error; and never a panic.
//!
//! ```text
//! cargo +nightly fuzz run pac_answer
//! ```
#![no_main]

use bellwire_client::path::pac::{PacAnswer, ProxyEntry};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(answer) = PacAnswer::parse(text) else { return };
    assert!((1..=16).contains(&answer.entries.len()) && answer.notes.len() <= 8);
    let is_direct = |entry: &ProxyEntry| *entry == ProxyEntry::Direct;
    let lists_direct = text.to_ascii_uppercase().contains("DIRECT");
    let is_empty = text.split(';').all(|entry| entry.trim().is_empty());
    assert!(lists_direct || is_empty || !answer.entries.iter().any(is_direct), "not listed");
    for url in answer.entries.iter().filter_map(ProxyEntry::url) {
        let uri: http::Uri = url.parse().expect("a URL that names a proxy");
        assert!(uri.port_u16().is_some_and(|port| port != 0), "{url}");
        // What it says is what the answer said.
        let kind = if uri.scheme_str() == Some("https") { "HTTPS" } else { "PROXY" };
        let again = format!("{kind} {}", uri.authority().expect("an authority"));
        let again = PacAnswer::parse(&again).expect("the entry alone");
        assert_eq!(again.entries.first().and_then(ProxyEntry::url), Some(url));
    }
});
