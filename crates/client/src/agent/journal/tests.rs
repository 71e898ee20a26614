//! The journal on a real disk: torn, damaged, foreign, full, locked, compacted.

use std::os::unix::fs::FileExt as _;

use bellwire_proto::{Report, ReportState};

use super::*;

fn device() -> DeviceId {
    "kiosk-7".parse().unwrap()
}

fn record(n: u8) -> Record {
    let command = bellwire_proto::CommandId::from_parts(u64::from(n), [n; 10]);
    let mut report = Report::of(ReportState::Succeeded);
    report.stdout = Some(format!("line\n{n}"));
    report.result = Some(bellwire_proto::Json::null());
    Record::Ended { command, report: Some(Box::new(report)) }
}

fn open(folder: &Path) -> Result<(Journal, Vec<Record>), JournalError> {
    let mut records = Vec::new();
    let journal = Journal::open(folder, &device(), |record| records.push(record))?;
    Ok((journal, records))
}

/// A journal with these records, one to a line, and where each line ends.
fn written(folder: &Path, records: &[Record]) -> Vec<u64> {
    let (mut journal, _) = open(folder).unwrap();
    let mut ends = vec![journal.bytes()];
    for record in records {
        journal.append(std::slice::from_ref(record), 4096).unwrap();
        ends.push(journal.bytes());
    }
    ends
}

#[test]
fn what_was_appended_is_told_again_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let records: Vec<_> = (0..5).map(record).collect();
    written(folder.path(), &records);
    let (mut journal, told) = open(folder.path()).unwrap();
    assert_eq!(told, records);
    journal.append(&[record(5), record(6)], 0).unwrap();
    drop(journal);
    assert_eq!(open(folder.path()).unwrap().1, (0..7).map(record).collect::<Vec<_>>());
}

#[test]
fn a_journal_cut_anywhere_in_its_last_line_is_repaired_and_written_on() {
    let folder = tempfile::tempdir().unwrap();
    let ends = written(folder.path(), &[record(0), record(1)]);
    let whole = std::fs::read(folder.path().join(JOURNAL)).unwrap();
    for cut in ends[1]..ends[2] {
        std::fs::write(folder.path().join(JOURNAL), &whole[..cut as usize]).unwrap();
        let (mut journal, told) = open(folder.path()).unwrap();
        assert_eq!(told, [record(0)], "cut at {cut}");
        journal.append(&[record(2)], 0).unwrap();
        drop(journal);
        assert_eq!(open(folder.path()).unwrap().1, [record(0), record(2)], "cut at {cut}");
    }
}

#[test]
fn an_end_of_zeros_as_a_file_system_leaves_after_a_power_cut_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let ends = written(folder.path(), &[record(0)]);
    let file = OpenOptions::new().write(true).open(folder.path().join(JOURNAL)).unwrap();
    file.set_len(ends[1] + 4096).unwrap();
    let (journal, told) = open(folder.path()).unwrap();
    assert_eq!((told, journal.bytes()), (vec![record(0)], ends[1]));
}

#[test]
fn damage_in_the_middle_is_refused_shown_and_repaired_on_demand() {
    let folder = tempfile::tempdir().unwrap();
    let ends = written(folder.path(), &[record(0), record(1), record(2)]);
    let file = OpenOptions::new().write(true).open(folder.path().join(JOURNAL)).unwrap();
    file.write_at(b"X", ends[1] + 20).unwrap();
    let refused = open(folder.path()).unwrap_err();
    assert!(matches!(refused, JournalError::Damaged { at, .. } if at == ends[1]), "{refused}");
    assert!(refused.to_string().contains("bellwire agent journal repair"), "{refused}");
    let mut shown = Vec::new();
    let damaged_at = show(folder.path(), &device(), |_, record| shown.push(record)).unwrap();
    assert_eq!((shown, damaged_at), (vec![record(0), record(2)], Some(ends[1])));
    assert_eq!(repair(folder.path(), &device()).unwrap(), 2);
    assert_eq!(open(folder.path()).unwrap().1, [record(0), record(2)]);
    assert!(folder.path().join(DAMAGED).exists(), "what was taken away is kept");
}

#[test]
fn another_devices_and_a_newer_journal_are_refused_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), &[record(0)]);
    let foreign = Journal::open(folder.path(), &"other".parse().unwrap(), drop).unwrap_err();
    assert!(matches!(foreign, JournalError::Foreign { .. }), "{foreign}");
    assert!(foreign.to_string().contains("state_dir"), "{foreign}");
    let header = serde_json::json!({"bellwire_journal": FORMAT + 1, "owner": "somebody"});
    std::fs::write(folder.path().join(JOURNAL), line::encode(&header).unwrap()).unwrap();
    let newer = open(folder.path()).unwrap_err();
    assert!(matches!(newer, JournalError::Newer { .. }), "{newer}");
}

#[test]
fn a_second_agent_is_kept_out() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(folder.path()).unwrap();
    assert!(matches!(open(folder.path()), Err(JournalError::Locked { .. })));
    drop(journal);
    assert!(open(folder.path()).is_ok());
}

#[test]
fn a_compaction_keeps_what_it_is_given_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), &(0..9).map(record).collect::<Vec<_>>());
    let (mut journal, _) = open(folder.path()).unwrap();
    let before = journal.bytes();
    journal.compact([vec![record(8)]].into_iter(), 4096).unwrap();
    assert!(journal.bytes() < before / 2);
    journal.append(&[record(9)], 0).unwrap();
    drop(journal);
    // One that a power cut left half done is worth nothing.
    std::fs::write(folder.path().join(DRAFT), b"half").unwrap();
    assert_eq!(open(folder.path()).unwrap().1, [record(8), record(9)]);
}

#[test]
fn what_does_not_fit_with_its_reserve_is_refused_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(folder.path()).unwrap();
    let before = journal.bytes();
    // More than any disk has.
    let refused = journal.append(&[record(0)], 1 << 55);
    assert!(matches!(refused, Err(AppendError::Full | AppendError::Failed(_))), "{refused:?}");
    assert_eq!(journal.bytes(), before);
    journal.append(&[record(1)], 0).unwrap();
    drop(journal);
    assert_eq!(open(folder.path()).unwrap().1, [record(1)]);
}
