//! JSON mode prints what Python prints: compared with the python3 of this machine.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message"
)]

mod classic_support;

use bellwire_proto::python_json;
use classic_support::standin;

#[test]
fn thousands_of_documents_are_printed_or_refused_as_python_does_it() {
    let seed = "20";
    let mut python = standin("classic_json.py", &[seed, "5000"]);
    let (mut printed, mut refused) = (0, 0);
    while let Some(line) = python.out() {
        let (text, expected): (String, Option<String>) =
            serde_json::from_str(&line).unwrap_or_else(|e| panic!("seed {seed}: {e} in {line}"));
        let ours = python_json::rewrite(&text);
        match &expected {
            Some(_) => printed += 1,
            None => refused += 1,
        }
        assert_eq!(ours.clone().ok(), expected, "seed {seed}, of {text:?}: {ours:?}");
    }
    let (code, _, errors) = python.end();
    assert_eq!((code, errors), (0, vec![]), "the stand-in itself failed");
    assert!(printed > 3000 && refused > 100, "too few: {printed} printed, {refused} refused");
}
