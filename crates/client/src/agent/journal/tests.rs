//! The journal on a real disk: torn, damaged, foreign, full, locked, compacted, repaired.

use std::os::unix::fs::MetadataExt as _;

use bellwire_proto::{Report, ReportState};

use super::*;

fn device() -> DeviceId {
    "kiosk-7".parse().unwrap()
}

fn record(n: u8) -> Record {
    let command = bellwire_proto::CommandId::from_parts(u64::from(n), [n; 10]);
    let mut report = Report::of(ReportState::Succeeded);
    report.outcome.stdout = Some(format!("line\n{n}"));
    report.outcome.result = Some(bellwire_proto::Json::null());
    Record::Ended { command, report: Some(Box::new(report)) }
}

fn open(dir: &Path) -> Result<(Journal, Vec<Record>), JournalError> {
    let mut records = Vec::new();
    let journal = Journal::open(dir, &device(), |record| records.push(record))?;
    Ok((journal, records))
}

/// Writes a journal with these records, one per line, and returns where each line ends.
fn written(dir: &Path, records: &[Record]) -> Vec<u64> {
    let (mut journal, _) = open(dir).unwrap();
    let mut ends = vec![journal.bytes()];
    for record in records {
        journal.append(&[record], Reserve::of(4096)).unwrap();
        ends.push(journal.bytes());
    }
    ends
}

#[test]
fn appended_records_are_read_back_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let records: Vec<_> = (0..5).map(record).collect();
    written(dir.path(), &records);
    let (mut journal, records_read) = open(dir.path()).unwrap();
    assert_eq!(records_read, records);
    journal.append(&[&record(5), &record(6)], Reserve::default()).unwrap();
    drop(journal);
    assert_eq!(open(dir.path()).unwrap().1, (0..7).map(record).collect::<Vec<_>>());
}

#[test]
fn a_journal_cut_anywhere_in_its_last_line_is_repaired_and_written_on() {
    let dir = tempfile::tempdir().unwrap();
    let ends = written(dir.path(), &[record(0), record(1)]);
    let whole = std::fs::read(dir.path().join(JOURNAL)).unwrap();
    for cut in ends[1]..ends[2] {
        std::fs::write(dir.path().join(JOURNAL), &whole[..cut as usize]).unwrap();
        let (mut journal, records_read) = open(dir.path()).unwrap();
        assert_eq!(records_read, [record(0)], "cut at {cut}");
        journal.append(&[&record(2)], Reserve::default()).unwrap();
        drop(journal);
        assert_eq!(open(dir.path()).unwrap().1, [record(0), record(2)], "cut at {cut}");
    }
}

#[test]
fn an_end_of_zeros_as_a_file_system_leaves_after_a_power_cut_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let ends = written(dir.path(), &[record(0)]);
    let file = OpenOptions::new().write(true).open(dir.path().join(JOURNAL)).unwrap();
    file.set_len(ends[1] + 4096).unwrap();
    let (journal, records_read) = open(dir.path()).unwrap();
    assert_eq!((records_read, journal.bytes()), (vec![record(0)], ends[1]));
}

/// The parts of a journal as short texts, and the error for which it would be refused.
fn shown(dir: &Path) -> (Vec<String>, String) {
    let mut parts = Vec::new();
    let refused = show(dir, &device(), |span, part| {
        let at = span.at;
        parts.push(match part {
            JournalPart::Records(records) => format!("{} records", records.len()),
            JournalPart::Unknown { known, .. } => format!("unknown at {at}, {} known", known.len()),
            JournalPart::Damaged => format!("{} bytes damaged at {at}", span.bytes),
            JournalPart::Torn => format!("{} bytes torn at {at}", span.bytes),
        });
    });
    (parts, refused.err().map(|error| error.to_string()).unwrap_or_default())
}

fn change(dir: &Path, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let path = dir.join(JOURNAL);
    let mut bytes = std::fs::read(&path).unwrap();
    change(&mut bytes);
    std::fs::write(&path, &bytes).unwrap();
    bytes
}

#[test]
fn damage_in_the_middle_is_refused_shown_and_repaired_on_demand() {
    let dir = tempfile::tempdir().unwrap();
    let ends = written(dir.path(), &[record(0), record(1), record(2)]);
    let damaged = change(dir.path(), |bytes| bytes[ends[1] as usize + 20] = b'X');
    let refused = open(dir.path()).unwrap_err();
    assert!(matches!(refused, JournalError::Damaged { at, .. } if at == ends[1]), "{refused}");
    assert!(refused.to_string().contains("bellwire agent journal repair"), "{refused}");
    let (parts, why) = shown(dir.path());
    let bad = format!("{} bytes damaged at {}", ends[2] - ends[1], ends[1]);
    assert_eq!(
        (parts, why),
        (vec!["1 records".into(), bad, "1 records".into()], refused.to_string())
    );
    let repaired = repair(dir.path(), &device()).unwrap();
    assert_eq!((repaired.records_retained, repaired.lines_dropped), (2, 1));
    assert_eq!(std::fs::read(repaired.copy.unwrap()).unwrap(), damaged, "the file as it was");
    assert_eq!(open(dir.path()).unwrap().1, [record(0), record(2)]);
}

#[test]
fn a_byte_changed_anywhere_but_in_the_last_line_is_refused_and_a_repair_loses_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let records = [record(0), record(1), record(2)];
    let ends = written(dir.path(), &records);
    let whole = change(dir.path(), |_| {});
    for at in 0..whole.len() {
        // One bit of each byte, so that every bit position occurs; of a line feed all bits.
        let bits = if whole[at] == b'\n' { 0..8 } else { at % 8..at % 8 + 1 };
        for bit in bits.map(|n| 1_u8 << n) {
            change(dir.path(), |bytes| {
                bytes.clone_from(&whole);
                bytes[at] ^= bit;
            });
            let line = ends.iter().filter(|end| **end <= at as u64).count();
            let records_read = open(dir.path());
            if line == records.len() {
                // A line feed that the change creates makes two bad lines, which is damage.
                let records_read = records_read
                    .map(|(_, records_read)| records_read)
                    .unwrap_or(records[..2].to_vec());
                assert_eq!(records_read, records[..2], "byte {at} ^ {bit}");
                continue;
            }
            assert!(records_read.is_err(), "byte {at} ^ {bit} of line {line} is not noticed");
            // A repair syncs many times.
            if whole[at] != b'\n' && at % 5 != 0 {
                continue;
            }
            repair(dir.path(), &device()).unwrap();
            let mut remaining = records.to_vec();
            if line > 0 {
                remaining.remove(line - 1);
            }
            assert_eq!(open(dir.path()).unwrap().1, remaining, "byte {at} ^ {bit}");
        }
    }
}

/// A last but one line without its line feed formed one bad line with the last, which was taken for a torn end:
/// two records that had been on disk were cut off.
#[test]
fn a_good_line_behind_one_that_lost_its_feed_is_not_cut_off_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let ends = written(dir.path(), &[record(0), record(1), record(2)]);
    let before = change(dir.path(), |bytes| bytes[ends[2] as usize - 1] ^= 1);
    let refused = open(dir.path()).unwrap_err();
    assert!(matches!(refused, JournalError::Damaged { at, .. } if at == ends[1]), "{refused}");
    assert_eq!(change(dir.path(), |_| {}), before, "nothing is changed");
    assert_eq!(repair(dir.path(), &device()).unwrap().records_retained, 2);
    assert_eq!(open(dir.path()).unwrap().1, [record(0), record(2)]);
}

/// An append is on disk before the next begins, so two bad lines cannot both be torn; they were cut off as if they
/// were.
#[test]
fn two_bad_lines_at_the_end_are_damage_and_not_torn() {
    let dir = tempfile::tempdir().unwrap();
    let ends = written(dir.path(), &[record(0), record(1), record(2)]);
    change(dir.path(), |bytes| {
        bytes[ends[1] as usize] = b'X';
        bytes.truncate(ends[2] as usize + 5);
    });
    let refused = open(dir.path()).unwrap_err();
    assert!(matches!(refused, JournalError::Damaged { at, .. } if at == ends[1]), "{refused}");
    assert_eq!(repair(dir.path(), &device()).unwrap().lines_dropped, 2);
    assert_eq!(open(dir.path()).unwrap().1, [record(0)]);
}

/// A record of an unknown kind, from a later version, was cut off as a torn end.
#[test]
fn a_whole_line_that_this_version_does_not_know_is_refused_and_never_cut() {
    let dir = tempfile::tempdir().unwrap();
    let ends = written(dir.path(), &[record(0)]);
    let later = serde_json::json!([{"paused": {"command": "x"}}, record(1)]);
    let before = change(dir.path(), |bytes| bytes.extend(line::encode(&later).unwrap()));
    let refused = open(dir.path()).unwrap_err();
    assert!(matches!(refused, JournalError::Unknown { at, .. } if at == ends[1]), "{refused}");
    assert!(refused.to_string().contains("install the newer version"), "{refused}");
    assert_eq!(change(dir.path(), |_| {}), before, "nothing is cut");
    let unknown = format!("unknown at {}, 1 known", ends[1]);
    assert_eq!(shown(dir.path()), (vec!["1 records".into(), unknown], refused.to_string()));
    let repaired = repair(dir.path(), &device()).unwrap();
    assert_eq!(std::fs::read(repaired.copy.unwrap()).unwrap(), before);
    assert_eq!(open(dir.path()).unwrap().1, [record(0), record(1)], "known records are preserved");
}

/// `run`, `journal show` and `journal repair` all refused such a file, each with the advice to use another one.
#[test]
fn an_empty_journal_and_one_without_its_first_line_have_a_way_out_that_works() {
    let records = [record(0), record(1)];
    type Change = fn(&mut Vec<u8>, usize);
    let cases: [(&str, Change, &[Record]); 5] = [
        ("empty", |bytes, _| bytes.clear(), &[]),
        ("all zeros", |bytes, _| bytes.fill(0), &[]),
        ("a bad byte", |bytes, _| bytes[20] ^= 1, &records),
        ("cut away", |bytes, head| drop(bytes.drain(..head)), &records),
        ("without its feed", |bytes, head| bytes[head - 1] ^= 1, &records),
    ];
    for (name, damage, remaining) in cases {
        let dir = tempfile::tempdir().unwrap();
        let ends = written(dir.path(), &records);
        let before = change(dir.path(), |bytes| damage(bytes, ends[0] as usize));
        let refused = open(dir.path()).unwrap_err();
        assert!(matches!(refused, JournalError::Headless { .. }), "{name}: {refused}");
        assert!(refused.to_string().contains("bellwire agent journal repair"), "{refused}");
        let (parts, why) = shown(dir.path());
        assert_eq!(why, refused.to_string(), "{name}");
        assert_eq!(
            parts.iter().filter(|part| *part == "1 records").count(),
            remaining.len(),
            "{name}"
        );
        let repaired = repair(dir.path(), &device()).unwrap();
        assert_eq!(repaired.records_retained, remaining.len(), "{name}");
        assert_eq!(std::fs::read(repaired.copy.unwrap()).unwrap(), before, "{name}");
        assert_eq!(open(dir.path()).unwrap().1, remaining, "{name}");
    }
}

#[test]
fn a_repair_never_writes_over_the_copy_of_an_earlier_one() {
    let dir = tempfile::tempdir().unwrap();
    let ends = written(dir.path(), &[record(0), record(1), record(2)]);
    let mut copies = Vec::new();
    for name in ["journal.damaged", "journal.damaged-2"] {
        let before = change(dir.path(), |bytes| bytes[ends[0] as usize + 20] ^= 1);
        let repaired = repair(dir.path(), &device()).unwrap();
        assert_eq!(repaired.copy, Some(dir.path().join(name)));
        copies.push((repaired.copy.unwrap(), before));
    }
    for (path, before) in copies {
        assert_eq!(std::fs::read(&path).unwrap(), before, "{}", path.display());
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }
    let nothing = repair(dir.path(), &device()).unwrap();
    assert_eq!(nothing, Repaired { records_retained: 1, lines_dropped: 0, copy: None });
}

/// Root repaired the journal of an agent that runs as an ordinary user, which could not open it any more.
#[test]
fn a_repaired_journal_and_its_copy_have_the_owner_of_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    let ends = written(dir.path(), &[record(0), record(1)]);
    let path = dir.path().join(JOURNAL);
    let own = rustix::process::geteuid();
    let (uid, gid) = if own.is_root() {
        (65_534, 65_533)
    } else {
        (own.as_raw(), rustix::process::getegid().as_raw())
    };
    std::os::unix::fs::chown(&path, Some(uid), Some(gid)).unwrap();
    change(dir.path(), |bytes| bytes[ends[0] as usize + 20] ^= 1);
    let copy = repair(dir.path(), &device()).unwrap().copy.unwrap();
    for path in [path, copy] {
        let found = std::fs::metadata(&path).unwrap();
        assert_eq!((found.uid(), found.gid()), (uid, gid), "{}", path.display());
        assert_eq!(found.mode() & 0o777, 0o600);
    }
}

#[test]
fn a_missing_journal_is_distinguished_from_a_bad_one() {
    let dir = tempfile::tempdir().unwrap();
    let missing = repair(dir.path(), &device()).unwrap_err();
    assert!(matches!(missing, JournalError::Missing { .. }), "{missing}");
    assert!(shown(dir.path()).1.contains("no agent has run with this state_dir yet"));
    assert!(!dir.path().join(LOCK).exists(), "to look leaves nothing behind");
}

#[test]
fn a_state_dir_is_created_with_its_parents_and_private_to_its_owner() {
    let above = tempfile::tempdir().unwrap();
    let dir = above.path().join("var/lib/bellwire");
    drop(open(&dir).unwrap());
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(&dir) & 0o066, 0, "no other user lists it or makes files in it");
    assert_eq!((mode(&dir.join(LOCK)), mode(&dir.join(JOURNAL))), (0o600, 0o600));
}

#[test]
fn another_devices_and_a_newer_journal_are_refused_with_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), &[record(0)]);
    let foreign = Journal::open(dir.path(), &"other".parse().unwrap(), drop).unwrap_err();
    assert!(matches!(foreign, JournalError::Foreign { .. }), "{foreign}");
    assert!(foreign.to_string().contains("state_dir"), "{foreign}");
    let header = serde_json::json!({"bellwire_journal": FORMAT + 1, "owner": "somebody"});
    std::fs::write(dir.path().join(JOURNAL), line::encode(&header).unwrap()).unwrap();
    let newer = open(dir.path()).unwrap_err();
    assert!(matches!(newer, JournalError::Newer { .. }), "{newer}");
}

#[test]
fn a_second_agent_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path()).unwrap();
    assert!(matches!(open(dir.path()), Err(JournalError::Locked { .. })));
    drop(journal);
    assert!(open(dir.path()).is_ok());
}

#[test]
fn a_compacted_journal_has_the_given_records_and_can_be_appended_to() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), &(0..9).map(record).collect::<Vec<_>>());
    let (mut journal, _) = open(dir.path()).unwrap();
    let before = journal.bytes();
    assert!(journal.compact([vec![record(8)]].into_iter(), 4096).unwrap());
    assert!(journal.bytes() < before / 2);
    journal.append(&[&record(9)], Reserve::default()).unwrap();
    drop(journal);
    // An unfinished compaction of before a crash is worthless, and is removed.
    std::fs::write(dir.path().join(DRAFT), b"half").unwrap();
    assert_eq!(open(dir.path()).unwrap().1, [record(8), record(9)]);
    assert!(!dir.path().join(DRAFT).exists());
}

#[test]
fn an_append_that_does_not_fit_with_its_reservation_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(dir.path()).unwrap();
    let before = journal.bytes();
    // More than any disk has.
    let refused = journal.append(&[&record(0)], Reserve::of(1 << 55));
    assert!(matches!(refused, Err(AppendError::Full)), "{refused:?}");
    assert_eq!(journal.bytes(), before);
    journal.append(&[&record(1)], Reserve::default()).unwrap();
    drop(journal);
    assert_eq!(open(dir.path()).unwrap().1, [record(1)]);
}

/// Space that was once reserved for results was never released, up to 64 MiB of a small disk.
#[test]
fn an_unused_reservation_is_released() {
    const MIB: u64 = 1 << 20;
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(dir.path()).unwrap();
    let taken = || std::fs::metadata(dir.path().join(JOURNAL)).unwrap().blocks() * 512;
    // Where the file system cannot reserve space, less than this is allocated throughout.
    let mut taken_after = |mib: u64| {
        journal.append(&[&record(0)], Reserve::of(mib * MIB)).unwrap();
        taken() / MIB
    };
    assert!(taken_after(8) <= 8);
    assert!(taken_after(3) <= 8, "what is in use is not let go, not even for a moment");
    assert_eq!(taken_after(0), 0);
    let most = taken_after(4);
    drop(journal);
    let (mut journal, records_read) = open(dir.path()).unwrap();
    assert_eq!(
        (records_read.len(), taken() / MIB),
        (4, most),
        "what was reserved before the restart"
    );
    journal.append(&[&record(0)], Reserve::default()).unwrap();
    assert_eq!(taken() / MIB, 0);
}

/// The cut released the reservation of an accepted command to other programs, and the command became stale.
#[test]
fn a_torn_end_does_not_lose_the_reservation() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(dir.path()).unwrap();
    journal.append(&[&record(0)], Reserve::of(4 << 20)).unwrap();
    drop(journal);
    let path = dir.path().join(JOURNAL);
    let taken = || std::fs::metadata(&path).unwrap().blocks() * 512;
    let before = taken();
    OpenOptions::new().append(true).open(&path).unwrap().write_all(b"torn").unwrap();
    assert_eq!(open(dir.path()).unwrap().1, [record(0)]);
    assert!(taken() >= before, "{} of {before} bytes", taken());
}

#[test]
fn a_compaction_that_would_be_longer_leaves_the_journal_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(dir.path()).unwrap();
    let records: Vec<_> = (0..9).map(record).collect();
    journal.append(&records.iter().collect::<Vec<_>>(), Reserve::default()).unwrap();
    let before = change(dir.path(), |_| {});
    let is_done = journal.compact(records.iter().map(|record| vec![record.clone()]), 0).unwrap();
    assert!(!is_done);
    assert_eq!(change(dir.path(), |_| {}), before);
    assert!(!dir.path().join(DRAFT).exists());
    journal.append(&[&record(9)], Reserve::default()).unwrap();
    drop(journal);
    assert_eq!(open(dir.path()).unwrap().1, (0..10).map(record).collect::<Vec<_>>());
}

#[test]
fn a_line_too_long_to_be_read_again_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(dir.path()).unwrap();
    let command = bellwire_proto::CommandId::from_parts(1, [1; 10]);
    let boot = BootId::from(&*"x".repeat(AGENT_JOURNAL_LINE_BYTES_MAX as usize));
    let refused = journal.append(&[&Record::Started { command, run: 1, boot }], Reserve::default());
    assert!(matches!(refused, Err(AppendError::Full)), "{refused:?}");
}
