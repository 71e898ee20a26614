//! A label is legal in a body exactly when it is legal in a selector, and the selector that is made of it selects its device.
//!
//! The first line is a key, the rest a value.
//!
//! ```text
//! cargo +nightly fuzz run labels fuzz/corpus/labels fuzz/seeds/labels
//! ```
#![no_main]

use bellwire_proto::device::parse_labels_body;
use bellwire_proto::labels::{is_label_key, is_label_value};
use bellwire_proto::{Labels, Selector};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (key, value) = text.split_once('\n').unwrap_or((text, ""));
    let legal = is_label_key(key) && is_label_value(value);
    let body = serde_json::json!({"labels": {key: value}}).to_string();
    let labels = parse_labels_body(body.as_bytes());
    assert_eq!(labels.is_ok(), legal, "{body}");
    let Ok(labels) = labels else { return };
    assert_eq!(labels, Labels::from([(key.to_owned(), value.to_owned())]));
    // A selector takes such a key for a fact (docs/protocol.md, section 6).
    if key.starts_with("facts.") {
        return;
    }
    let selected = format!("{key}={value}").parse::<Selector>();
    let selector = selected.unwrap_or_else(|error| panic!("{key}={value}: {error}"));
    assert!(selector.matches(&labels), "{selector}");
    assert!(!selector.matches(&Labels::new()), "{selector}");
    assert_eq!(selector.to_string().parse(), Ok(selector));
});
