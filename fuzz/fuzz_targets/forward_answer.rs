//! Whatever a web service answers to a command that was forwarded to it becomes a result: JSON on one line, within its limit,
//! with the status; and never a panic.
//!
//! The first two bytes are the status, the rest is the body.
//!
//! ```text
//! cargo +nightly fuzz run forward_answer fuzz/corpus/forward_answer fuzz/seeds/forward_answer
//! ```
#![no_main]

use bellwire_client::agent::forward::completion_of;
use bellwire_client::agent::run::CompletionState;
use bellwire_proto::Report;
use bellwire_proto::limits::RESULT_BYTES_MAX;
use http::StatusCode;
use libfuzzer_sys::fuzz_target;

/// What is in a result. The body may be nested as deep as the contract allows, which a value of serde_json may not.
#[derive(serde::Deserialize)]
struct Answer {
    status: u16,
    #[serde(rename = "body")]
    _body: serde::de::IgnoredAny,
    #[serde(rename = "time_ms")]
    _time_ms: serde::de::IgnoredAny,
}

fuzz_target!(|input: &[u8]| {
    let [high, low, body @ ..] = input else { return };
    let Ok(status) = StatusCode::from_u16(u16::from_be_bytes([*high, *low])) else { return };
    // Over and over until it does not fit: of a few statuses alone, because each character is measured then.
    let often = if low % 16 == 1 { RESULT_BYTES_MAX / body.len().max(1) + 1 } else { 0 };
    for body in [body, &body.repeat(often)] {
        let completion = completion_of(status, body);
        assert_eq!(completion.state == CompletionState::Succeeded, status.is_success());
        let result = completion.outcome.result.clone().expect("each answer has a result");
        let text = result.as_str();
        assert!(text.len() <= RESULT_BYTES_MAX && !text.contains(['\n', '\r']), "{}", text.len());
        let read: Answer = serde_json::from_str(text).expect("JSON");
        assert_eq!(read.status, status.as_u16());
        // What the hub reads is what the agent reports.
        let report = serde_json::to_vec(&completion.into_report()).expect("JSON");
        assert!(Report::parse(&report).is_ok(), "{}", String::from_utf8_lossy(&report));
    }
});
