//! Whatever a disk holds in place of a journal is shown without a panic: what is damaged and what is torn lies in order within
//! it, at most one end is torn, and a whole line behind it is found.
//!
//! With an even first byte the rest is the file; with an odd one its lines are JSON, each of which gets the checksum that it
//! lacks, because nothing would ever guess one.
//!
//! ```text
//! cargo +nightly fuzz run journal fuzz/corpus/journal fuzz/seeds/journal
//! ```
#![no_main]

use bellwire_client::agent::inspect::{JournalItem, line_of, show_bytes};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let [form, rest @ ..] = input else { return };
    let mut file = if form % 2 == 0 { rest.to_vec() } else { with_checksums(rest) };
    let (shown, _) = show(&file);
    let torn = shown.iter().filter(|item| matches!(item, JournalItem::Torn { .. })).count();
    assert!(torn <= 1, "{shown:?}");
    // An append that follows a torn one makes it damage, and is found itself.
    let last = r#"[{"acked":{"command":"01900000-0000-7000-8000-000000000000"}}]"#;
    file.extend_from_slice(&line_of(last).expect("JSON on one line"));
    let (shown, refused) = show(&file);
    // Of a bad line so many positions are tried as the start of a good one.
    let starts = file.windows(2).filter(|two| two == b" [").count();
    if refused || starts > 64 {
        return;
    }
    let is_torn = |item: &JournalItem| matches!(item, JournalItem::Torn { .. });
    assert!(!shown.iter().any(is_torn), "a whole line is the end: {shown:?}");
});

/// What is shown, and whether it is of another device or a newer format: then nothing is.
fn show(file: &[u8]) -> (Vec<JournalItem>, bool) {
    let device = "d".parse().expect("a name");
    let mut items = Vec::new();
    let result = show_bytes(file, &device, |item| items.push(item));
    let mut end = 0;
    for item in &items {
        let (at, bytes) = match item {
            JournalItem::Damaged { at, bytes } | JournalItem::Torn { at, bytes } => (*at, *bytes),
            JournalItem::Unknown { at, json } => (*at, json.len() as u64),
            _ => continue,
        };
        assert!(end <= at && bytes > 0 && at + bytes <= file.len() as u64, "{items:?}");
        end = at + bytes;
    }
    (items, result.is_err())
}

fn with_checksums(lines: &[u8]) -> Vec<u8> {
    let lines = lines.split_inclusive(|byte| *byte == b'\n');
    let whole = |line: &[u8]| std::str::from_utf8(line).ok().and_then(|json| line_of(json.trim()));
    lines.flat_map(|line| whole(line).unwrap_or_else(|| line.to_vec())).collect()
}
