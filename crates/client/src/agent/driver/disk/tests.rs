//! The outcomes of appends that wait for the disk: together, one by one, and when it fails.

use std::path::Path;
use std::sync::Arc;

use bellwire_proto::{CommandId, Report, ReportState};
use bellwire_testkit::on_small_disk;

use super::*;

/// More than any disk has.
const TOO_MUCH: u64 = 1 << 55;

fn journal(dir: &Path) -> (Journal, Vec<Record>) {
    let mut outcomes = Vec::new();
    let journal = Journal::open(dir, &"kiosk-7".parse().unwrap(), |record| outcomes.push(record));
    (journal.unwrap(), outcomes)
}

fn record(n: u64, stdout_bytes: usize) -> Record {
    let mut report = Report::of(ReportState::Succeeded);
    report.outcome.stdout = Some("x".repeat(stdout_bytes));
    Record::Ended { command: CommandId::from_parts(n, [7; 10]), report: Some(Box::new(report)) }
}

fn append_of(ticket: u64, stdout_bytes: usize, needed_bytes: u64) -> DiskTask {
    let reserve = Reserve { needed_bytes, reserved_bytes: 0 };
    DiskTask::Append(Append { ticket, records: vec![record(ticket, stdout_bytes)], reserve })
}

fn compact_to(begun: Record) -> DiskTask {
    let snapshot = JournalSnapshot { start_number: begun, done: Arc::default(), live: Vec::new() };
    DiskTask::Compact { snapshot, reserve_bytes: 0 }
}

fn outcomes(done: &[DiskOutcome]) -> Vec<String> {
    let outcomes = |written: &DiskOutcome| match written {
        DiskOutcome::Appended { tickets, .. } => format!("appended {tickets:?}"),
        DiskOutcome::Full { ticket } => format!("full {ticket}"),
        DiskOutcome::Compacted { bytes } => format!("compacted {}", bytes.is_some()),
        DiskOutcome::Failed { .. } => "failed".to_owned(),
    };
    done.iter().map(outcomes).collect()
}

#[test]
fn waiting_appends_are_joined_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let (journal_, _) = journal(dir.path());
    let tasks =
        [append_of(1, 9, 0), append_of(2, 9, 4096), compact_to(record(2, 9)), append_of(3, 9, 0)];
    let (_, done) = run_tasks(journal_, tasks.into());
    assert_eq!(outcomes(&done), ["appended [1, 2]", "compacted true", "appended [3]"]);
    assert_eq!(journal(dir.path()).1, [record(2, 9), record(3, 9)]);
}

#[test]
fn without_space_for_all_each_is_tried_alone_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let (journal_, _) = journal(dir.path());
    let tasks = [
        append_of(1, 9, 0),
        append_of(2, 9, TOO_MUCH),
        append_of(3, 9, 0),
        append_of(4, 9, TOO_MUCH),
        append_of(5, 9, 0),
    ];
    let (journal_, done) = run_tasks(journal_, tasks.into());
    let order = ["appended [1]", "full 2", "appended [3]", "full 4", "appended [5]"];
    assert_eq!(outcomes(&done), order);
    drop(journal_);
    assert_eq!(journal(dir.path()).1, [record(1, 9), record(3, 9), record(5, 9)]);
}

/// After a failure the next append was tried all the same, on a disk whose content was unknown.
#[test]
fn after_a_failure_nothing_more_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal_, _) = journal(dir.path());
    journal_.break_disk();
    // Together they lack space, so that each is tried alone; the first one fails.
    let tasks = [append_of(1, 9, 0), append_of(2, 9, TOO_MUCH), append_of(3, 9, 0)];
    let (_, done) = run_tasks(journal_, tasks.into());
    assert_eq!(outcomes(&done), ["failed"]);
}

#[test]
fn a_full_disk_takes_what_fits_and_later_appends_once_there_is_space() {
    let name = "agent::driver::disk::tests::a_full_disk_takes_what_fits_and_later_appends_once_there_is_space";
    let Some(dir) = on_small_disk(name, 256) else { return };
    let dir = dir.join("state");
    let (journal_, _) = journal(&dir);
    let tasks = [append_of(1, 9, 0), append_of(2, 300 << 10, 0), append_of(3, 9, 0)];
    let (journal_, done) = run_tasks(journal_, tasks.into());
    assert_eq!(outcomes(&done), ["appended [1]", "full 2", "appended [3]"]);
    // A compaction without space changes nothing.
    let filler = dir.join("filler");
    std::fs::write(&filler, vec![7; 1 << 20]).unwrap_err();
    let (journal_, done) = run_tasks(journal_, [compact_to(record(3, 9))].into());
    assert_eq!(outcomes(&done), ["compacted false"]);
    let (journal_, done) = run_tasks(journal_, [append_of(4, 9 << 10, 0)].into());
    assert_eq!(outcomes(&done), ["full 4"]);
    std::fs::remove_file(filler).unwrap();
    let (journal_, done) = run_tasks(journal_, [append_of(5, 9 << 10, 0)].into());
    assert_eq!(outcomes(&done), ["appended [5]"]);
    drop(journal_);
    assert_eq!(journal(&dir).1, [record(1, 9), record(3, 9), record(5, 9 << 10)]);
}

/// The start of the only command in progress required the whole of a reservation of which it used some itself: the
/// command waited for a disk that other programs had filled, and became stale.
#[test]
fn a_stored_command_can_start_and_end_on_a_disk_filled_since() {
    let name =
        "agent::driver::disk::tests::a_stored_command_can_start_and_end_on_a_disk_filled_since";
    let Some(dir) = on_small_disk(name, 256) else { return };
    let (journal_, _) = journal(&dir.join("state"));
    let append = |ticket, stdout_bytes, needed_bytes| {
        let reserve = Reserve { needed_bytes, reserved_bytes: 128 << 10 };
        DiskTask::Append(Append { ticket, records: vec![record(ticket, stdout_bytes)], reserve })
    };
    let (journal_, done) = run_tasks(journal_, [append(1, 9, 128 << 10)].into());
    assert_eq!(outcomes(&done), ["appended [1]"]);
    std::fs::write(dir.join("filler"), vec![7; 1 << 20]).unwrap_err();
    let tasks = [append(2, 9, 120 << 10), append(3, 9, 140 << 10), append(4, 119 << 10, 0)];
    let (journal_, done) = run_tasks(journal_, tasks.into());
    assert_eq!(outcomes(&done), ["appended [2]", "full 3", "appended [4]"]);
    drop(journal_);
    assert_eq!(journal(&dir.join("state")).1.len(), 3);
}
