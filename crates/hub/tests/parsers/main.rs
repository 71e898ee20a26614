//! The request parsers against anything at all, and against what is nearly right: never a panic,
//! and verdicts that agree with one another. The fuzz targets go on where this ends.

mod judge;

use proptest::prelude::*;

/// Pieces of queries, headers and paths.
const PARAM_PIECES: &[&str] = &[
    "ttl",
    "limit",
    "force",
    "wait",
    "_",
    "=",
    "&",
    ";",
    ",",
    "%",
    "%2",
    "%2f",
    "%c3%a9",
    "%ff",
    "+",
    "0",
    "1",
    "90",
    "s",
    "m",
    "7d",
    "604800",
    "18446744073709551616",
    "\"",
    "\\",
    " ",
    "d",
    "..",
    "application/json",
    "identity",
    "é",
];

/// Pieces of bodies.
const BODY_PIECES: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\"state\":\"running\"",
    "\"state\":",
    "\"succeeded\"",
    "\"command\":\"01900000-0000-7000-8000-000000000000\"",
    "\"rev\":",
    "\"progress\":",
    "1",
    "-0",
    "1.50",
    "1e2",
    "null",
    "true",
    "\"result\":",
    "\"data\":",
    "\"action\":\"a\"",
    "\"target\":{\"device\":\"d\"}",
    "\"devices\":[\"d\"]",
    "\"ttl_s\":",
    "\"labels\":",
    "\"error\":{\"code\":\"x\"}",
    "\\ud800",
    "\\u00e9",
    "\\n",
    "\n",
    " ",
    "é",
];

fn text_of(pieces: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop::collection::vec(prop::sample::select(pieces), 0..24);
    pieces.prop_map(|pieces| pieces.concat().into_bytes())
}

/// Members of bodies, and what may stand there.
const NAMES: &[&str] = &[
    "state",
    "command",
    "rev",
    "attempt",
    "result",
    "exit_code",
    "stdout",
    "error",
    "data",
    "action",
    "target",
    "ttl_s",
    "labels",
    "session",
    "name",
    "cron",
    "rollout",
];
const VALUES: &[&str] = &[
    "\"running\"",
    "\"nack\"",
    "1",
    "0",
    "null",
    "{\"device\":\"d\"}",
    "\"a\"",
    "{}",
    "[1.50, 1e2]",
    "{\"code\":\"x\"}",
    "\"@daily\"",
    "{\"all\":true}",
    "{\"batch\":1}",
    "\"01900000-0000-7000-8000-000000000000\"",
];

/// An object whose members are all of the contract, though maybe twice or of a wrong type.
fn nearly_a_body() -> impl Strategy<Value = Vec<u8>> {
    let member = (prop::sample::select(NAMES), prop::sample::select(VALUES));
    prop::collection::vec(member, 0..5).prop_map(|members| {
        let members: Vec<_> = members.iter().map(|(n, v)| format!("\"{n}\": {v}")).collect();
        format!("{{{}}}", members.join(",\n")).into_bytes()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn params_are_judged_alike_whatever_they_are(
        input in prop_oneof![text_of(PARAM_PIECES), prop::collection::vec(any::<u8>(), 0..64)],
    ) {
        judge::params(&input);
    }

    #[test]
    fn bodies_are_judged_alike_whatever_they_are(
        input in prop_oneof![
            text_of(BODY_PIECES),
            nearly_a_body(),
            prop::collection::vec(any::<u8>(), 0..64),
        ],
    ) {
        judge::bodies(&input);
    }
}
