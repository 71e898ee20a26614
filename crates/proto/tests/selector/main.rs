//! Selectors against anything at all, and against what is nearly one. The fuzz target goes on where this ends.

mod judge;

use bellwire_proto::Selector;
use proptest::prelude::*;

/// Pieces of selectors.
const PIECES: &[&str] = &[
    "site",
    "facts.",
    "facts.os",
    "example.com/tier",
    "in",
    "notin",
    " in (",
    " notin(",
    "(",
    ")",
    ",",
    "=",
    "==",
    "!=",
    "!",
    " ",
    "\t",
    "lyon",
    "a",
    "A",
    "-",
    ".",
    "/",
    "0",
    "é",
    ">",
    "\u{0}",
];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn what_is_shown_of_a_selector_is_read_as_the_same_and_an_error_has_its_place(
        text in prop_oneof![
            prop::collection::vec(prop::sample::select(PIECES), 0..16).prop_map(|pieces| pieces.concat()),
            any::<String>(),
        ],
    ) {
        judge::selector(&text);
    }
}

#[test]
fn every_seed_of_the_fuzz_target_is_judged_and_most_are_selectors() {
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seeds/selector");
    let texts: Vec<String> = std::fs::read_dir(seeds)
        .unwrap()
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    texts.iter().for_each(|text| judge::selector(text));
    let read = texts.iter().filter(|text| text.parse::<Selector>().is_ok()).count();
    assert!(read >= 5 && read < texts.len(), "{read} of {} seeds are selectors", texts.len());
}
