//! The example `vectors` answers the file of cases exactly as the file expects.

#[path = "../examples/vectors.rs"]
#[expect(dead_code, reason = "the example's own main is not run here")]
mod vectors;

use serde_json::{Map, Value};
use std::io::BufWriter;

const ANSWERED: [&str; 6] = [
    "name",
    "expected",
    "expected_last_event_id",
    "expected_retry_ms",
    "expected_comments",
    "events_after_chunk",
];

#[test]
fn each_answer_is_what_the_case_expects() {
    let cases: Vec<Map<String, Value>> =
        serde_json::from_str(include_str!("vectors/sse-cases.json")).unwrap();
    // What is expected is not sent along, so that it cannot be echoed.
    let requests: Vec<String> = cases
        .iter()
        .map(|case| {
            let mut requests = case.clone();
            requests.retain(|key, _| matches!(&**key, "name" | "chunks" | "initial_last_event_id"));
            Value::Object(requests).to_string()
        })
        .collect();
    let mut answers = Vec::new();
    vectors::answer_all(requests.join("\n").as_bytes(), &mut answers).unwrap();
    let answers: Vec<Map<String, Value>> = answers
        .split_inclusive(|byte| *byte == b'\n')
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();

    assert_eq!(answers.len(), cases.len(), "one answer for each case");
    for (case, answer) in cases.iter().zip(&answers) {
        assert_eq!(answer.len(), ANSWERED.len(), "members of {answer:?}");
        for key in ANSWERED {
            let any = key == "expected_retry_ms" && case.contains_key("retry_any");
            assert!(
                any || answer[key] == case[key],
                "{key} of case {}: {}",
                case["name"],
                answer[key]
            );
        }
    }
}

#[test]
fn a_line_that_is_not_a_case_is_reported_with_its_number() {
    let lines = "{\"name\":\"a\",\"chunks\":[]}\n{\"name\":\"b\",\"chunks\":[\"?\"]}\n";
    let error = vectors::answer_all(lines.as_bytes(), &mut Vec::new()).unwrap_err();
    assert!(error.to_string().starts_with("line 2: "), "{error}");
}

#[test]
fn an_answer_is_out_before_the_next_case_is_read() {
    // A program that wrote one case, held the input open and waited for the answer waited for ever: it came
    // at the end.
    let lines = "{\"name\":\"a\",\"chunks\":[]}\nno case\n";
    let mut answers = BufWriter::new(Vec::new());
    vectors::answer_all(lines.as_bytes(), &mut answers).unwrap_err();
    let out = String::from_utf8_lossy(answers.get_ref());
    assert!(out.starts_with(r#"{"name":"a","#) && out.ends_with('\n'), "flushed so far: {out:?}");
}
