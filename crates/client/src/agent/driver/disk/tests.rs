//! What becomes of appends that wait for the disk: together, one by one, and when it fails.

use std::path::Path;
use std::sync::Arc;

use bellwire_proto::{CommandId, Report, ReportState};
use bellwire_testkit::on_small_disk;

use super::*;

/// More than any disk has.
const TOO_MUCH: u64 = 1 << 55;

fn journal(folder: &Path) -> (Journal, Vec<Record>) {
    let mut told = Vec::new();
    let journal = Journal::open(folder, &"kiosk-7".parse().unwrap(), |record| told.push(record));
    (journal.unwrap(), told)
}

fn record(n: u64, stdout_bytes: usize) -> Record {
    let mut report = Report::of(ReportState::Succeeded);
    report.stdout = Some("x".repeat(stdout_bytes));
    Record::Ended { command: CommandId::from_parts(n, [7; 10]), report: Some(Box::new(report)) }
}

fn append_of(ticket: u64, stdout_bytes: usize, needed_bytes: u64) -> Work {
    let reserve = Reserve { needed_bytes, kept_bytes: 0 };
    Work::Append(Append { ticket, records: vec![record(ticket, stdout_bytes)], reserve })
}

fn compact_to(begun: Record) -> Work {
    let snapshot = Snapshot { begun, done: Arc::default(), live: Vec::new() };
    Work::Compact { snapshot, reserve_bytes: 0 }
}

fn told(done: &[Written]) -> Vec<String> {
    let told = |written: &Written| match written {
        Written::Appended { tickets, .. } => format!("appended {tickets:?}"),
        Written::Full { ticket } => format!("full {ticket}"),
        Written::Compacted { bytes } => format!("compacted {}", bytes.is_some()),
        Written::Failed { .. } => "failed".to_owned(),
    };
    done.iter().map(told).collect()
}

#[test]
fn what_waits_together_is_one_append_and_the_order_stands() {
    let folder = tempfile::tempdir().unwrap();
    let (journal_, _) = journal(folder.path());
    let work =
        [append_of(1, 9, 0), append_of(2, 9, 4096), compact_to(record(2, 9)), append_of(3, 9, 0)];
    let (_, done) = perform(journal_, work.into());
    assert_eq!(told(&done), ["appended [1, 2]", "compacted true", "appended [3]"]);
    assert_eq!(journal(folder.path()).1, [record(2, 9), record(3, 9)]);
}

#[test]
fn without_room_for_all_each_is_tried_alone_and_the_order_stands() {
    let folder = tempfile::tempdir().unwrap();
    let (journal_, _) = journal(folder.path());
    let work = [
        append_of(1, 9, 0),
        append_of(2, 9, TOO_MUCH),
        append_of(3, 9, 0),
        append_of(4, 9, TOO_MUCH),
        append_of(5, 9, 0),
    ];
    let (journal_, done) = perform(journal_, work.into());
    let order = ["appended [1]", "full 2", "appended [3]", "full 4", "appended [5]"];
    assert_eq!(told(&done), order);
    drop(journal_);
    assert_eq!(journal(folder.path()).1, [record(1, 9), record(3, 9), record(5, 9)]);
}

/// After a failure the next append was tried all the same, on a disk of which nothing was known.
#[test]
fn after_a_failure_nothing_more_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let (mut journal_, _) = journal(folder.path());
    journal_.break_disk();
    // Together they are refused for want of room, so that each is tried alone; the first one fails.
    let work = [append_of(1, 9, 0), append_of(2, 9, TOO_MUCH), append_of(3, 9, 0)];
    let (_, done) = perform(journal_, work.into());
    assert_eq!(told(&done), ["failed"]);
}

#[test]
fn a_disk_that_is_really_full_takes_what_fits_and_what_comes_after_there_is_room() {
    let name = "agent::driver::disk::tests::a_disk_that_is_really_full_takes_what_fits_and_what_comes_after_there_is_room";
    let Some(folder) = on_small_disk(name, 256) else { return };
    let folder = folder.join("state");
    let (journal_, _) = journal(&folder);
    let work = [append_of(1, 9, 0), append_of(2, 300 << 10, 0), append_of(3, 9, 0)];
    let (journal_, done) = perform(journal_, work.into());
    assert_eq!(told(&done), ["appended [1]", "full 2", "appended [3]"]);
    // What a compaction has no room for leaves everything as it was.
    let filler = folder.join("filler");
    std::fs::write(&filler, vec![7; 1 << 20]).unwrap_err();
    let (journal_, done) = perform(journal_, [compact_to(record(3, 9))].into());
    assert_eq!(told(&done), ["compacted false"]);
    let (journal_, done) = perform(journal_, [append_of(4, 9 << 10, 0)].into());
    assert_eq!(told(&done), ["full 4"]);
    std::fs::remove_file(filler).unwrap();
    let (journal_, done) = perform(journal_, [append_of(5, 9 << 10, 0)].into());
    assert_eq!(told(&done), ["appended [5]"]);
    drop(journal_);
    assert_eq!(journal(&folder).1, [record(1, 9), record(3, 9), record(5, 9 << 10)]);
}

/// The start of the only command under way asked for the whole of a room of which it took some itself: the
/// command waited for a disk that others had filled, and was stale in the end.
#[test]
fn what_was_taken_is_started_and_recorded_on_a_disk_that_others_have_filled_since() {
    let name = "agent::driver::disk::tests::what_was_taken_is_started_and_recorded_on_a_disk_that_others_have_filled_since";
    let Some(folder) = on_small_disk(name, 256) else { return };
    let (journal_, _) = journal(&folder.join("state"));
    let append = |ticket, stdout_bytes, needed_bytes| {
        let reserve = Reserve { needed_bytes, kept_bytes: 128 << 10 };
        Work::Append(Append { ticket, records: vec![record(ticket, stdout_bytes)], reserve })
    };
    let (journal_, done) = perform(journal_, [append(1, 9, 128 << 10)].into());
    assert_eq!(told(&done), ["appended [1]"]);
    std::fs::write(folder.join("filler"), vec![7; 1 << 20]).unwrap_err();
    let work = [append(2, 9, 120 << 10), append(3, 9, 140 << 10), append(4, 119 << 10, 0)];
    let (journal_, done) = perform(journal_, work.into());
    assert_eq!(told(&done), ["appended [2]", "full 3", "appended [4]"]);
    drop(journal_);
    assert_eq!(journal(&folder.join("state")).1.len(), 3);
}
