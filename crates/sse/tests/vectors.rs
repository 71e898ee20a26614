//! The cases of `vectors/sse-cases.json` (HTML standard, web-platform-tests, LaunchDarkly's contract
//! tests), each as it is and cut in every other way.

mod support;

use base64::{Engine, prelude::BASE64_STANDARD};
use bellwire_sse::Decoder;
use serde::Deserialize;
use support::{Decoded, decode_all, decode_all_owned};

/// Streams up to this long are cut at every position, longer ones at about as many.
const ALL_SPLITS_BYTES_MAX: usize = 2_000;

#[derive(Deserialize)]
struct Case {
    name: String,
    chunks: Vec<String>,
    expected: Vec<ExpectedEvent>,
    expected_last_event_id: String,
    expected_retry_ms: Option<u64>,
    expected_comments: Vec<String>,
    events_after_chunk: Vec<usize>,
    #[serde(default)]
    initial_last_event_id: String,
    #[serde(default)]
    retry_any: bool,
}

#[derive(Deserialize)]
struct ExpectedEvent {
    #[serde(rename = "type")]
    name: String,
    data: String,
    id: String,
}

impl Case {
    fn bytes(&self) -> Vec<Vec<u8>> {
        self.chunks
            .iter()
            .map(|chunk| BASE64_STANDARD.decode(chunk).expect("chunks are base64"))
            .collect()
    }

    fn decoder(&self) -> Decoder {
        Decoder::builder().comments(true).last_event_id(&*self.initial_last_event_id).build()
    }

    fn expected(&self, retry_ms: Option<u64>) -> Decoded {
        Decoded {
            events: self
                .expected
                .iter()
                .map(|event| (event.name.clone(), event.data.clone(), event.id.clone()))
                .collect(),
            comments: self.expected_comments.clone(),
            last_event_id: self.expected_last_event_id.clone(),
            retry_ms: if self.retry_any { retry_ms } else { self.expected_retry_ms },
            too_large: 0,
            events_after_chunk: self.events_after_chunk.clone(),
        }
    }
}

fn cases() -> Vec<Case> {
    let cases: Vec<Case> =
        serde_json::from_str(include_str!("vectors/sse-cases.json")).expect("the cases are JSON");
    assert_eq!(cases.len(), 81, "the file of cases is not the one that was agreed on");
    cases
}

#[test]
fn every_case_decodes_as_expected_and_on_time() {
    for case in cases() {
        let chunks = case.bytes();
        let decoded = decode_all(case.decoder(), chunks.iter().map(Vec::as_slice));
        assert_eq!(decoded, case.expected(decoded.retry_ms), "case {}", case.name);
        let decoded = decode_all_owned(case.decoder(), chunks.iter().map(Vec::as_slice));
        assert_eq!(decoded, case.expected(decoded.retry_ms), "case {}, owned", case.name);
    }
}

#[test]
fn every_case_decodes_the_same_however_it_is_cut() {
    for case in cases() {
        let whole = case.bytes().concat();
        let check = |how: &str, chunks: &[&[u8]]| {
            let decoded = decode_all(case.decoder(), chunks.iter().copied());
            let expected = case.expected(decoded.retry_ms).untimed();
            assert_eq!(decoded.untimed(), expected, "case {}, {how}", case.name);
        };
        check("whole", &[&whole]);
        check("bytewise", &whole.chunks(1).collect::<Vec<_>>());
        check("by 4096", &whole.chunks(4096).collect::<Vec<_>>());
        let step = whole.len().div_ceil(ALL_SPLITS_BYTES_MAX).max(1);
        for at in (0..=whole.len()).step_by(step) {
            let (a, b) = whole.split_at(at);
            check(&format!("cut at {at}"), &[a, b]);
            check(&format!("cut at {at} with an empty chunk between"), &[a, &[], b]);
        }
    }
}
