//! The rules of retention, one by one: the journal's limit, reservations, compactions, and a full disk.

use std::sync::Arc;

use bellwire_proto::limits::AGENT_JOURNAL_BYTES_MAX;

use super::fixture::{Fixture, HUB_MS, code, event, succeeded};
use super::world::List;
use super::*;

const DAY_MS: u64 = 86_400_000;
const MIB: u64 = 1 << 20;

/// A journal with space for one command and its result, and little more.
fn narrow() -> Fixture {
    let mut fixture = Fixture::connected();
    fixture.hello(HUB_MS, 5);
    fixture.engine.bounds.journal_bytes = 300 << 10;
    fixture
}

/// The records of this many completed commands.
fn done(count: u64, first_seen_ms: u64) -> impl Iterator<Item = Record> {
    (1..=count).map(move |n| {
        let CommandEvent { id, seq, .. } = event(n, "fail");
        let state = Some(ReportState::Succeeded);
        let done = Done { seq, first_seen_ms, state, exit_code: Some(0), code: None };
        Record::Done { command: id, done }
    })
}

/// Each rejection was journaled with the command's data, and the file grew beyond its limit.
#[test]
fn a_full_journal_rejects_new_commands_without_a_record() {
    let mut fixture = narrow();
    let first = fixture.running(1, "fail");
    let before = fixture.disk.clone();
    let second = fixture.command(2, "fail");
    let report = fixture.confirmed(second, ReportState::Rejected, DeliveryState::Rejected);
    assert_eq!(code(&report), Some("journal_full"));
    // A rejection for another reason names that reason.
    fixture.engine.bounds.journal_bytes = 200 << 10;
    let third = fixture.command(3, "unlisted");
    let report = fixture.confirmed(third, ReportState::Rejected, DeliveryState::Rejected);
    assert_eq!(code(&report), Some("unknown_action"));
    let fourth = fixture.cancel(4);
    fixture.confirmed(fourth, ReportState::Cancelled, DeliveryState::Cancelled);
    assert_eq!(fixture.disk, before, "a report without a record is forgotten");
    assert_eq!(fixture.engine.counts(), (1, 1));
    fixture.succeeded(first);
    fixture.confirmed(first, ReportState::Succeeded, DeliveryState::Succeeded);
}

#[test]
fn pending_writes_count_against_the_bound() {
    let mut fixture = narrow();
    fixture.engine.bounds.journal_bytes = 700 << 10;
    for n in 1..=2 {
        let data = Json::text(&"x".repeat(100 << 10));
        // The disk has not confirmed the first write when the second command arrives.
        fixture.engine.handle_command(fixture.now_ms, CommandEvent { data, ..event(n, "fail") });
    }
    fixture.act();
    let reported: Vec<_> = fixture.posts.iter().map(|(_, _, report)| code(report)).collect();
    assert_eq!(
        reported,
        [Some("journal_full"), None],
        "the second is refused, and the first is taken"
    );
}

#[test]
fn a_rejection_is_stored_without_the_data() {
    let mut fixture = Fixture::connected();
    let mut refused = event(1, "unlisted");
    refused.data = Json::text(&"x".repeat(100_000));
    fixture.engine.handle_command(fixture.now_ms, refused);
    fixture.act();
    let json = serde_json::to_string(&fixture.disk).unwrap();
    assert!(json.len() < 2000 && json.contains("unknown_action"), "{}", json.len());
}

#[test]
fn a_full_disk_rejects_new_commands_and_stores_results_once_there_is_space() {
    let mut fixture = Fixture::connected();
    let first = fixture.running(1, "fail");
    fixture.disk_full = true;
    let third = fixture.command(3, "fail");
    let report = fixture.confirmed(third, ReportState::Rejected, DeliveryState::Rejected);
    assert_eq!(code(&report), Some("journal_full"));
    fixture.succeeded(first);
    assert!(fixture.posts.is_empty(), "a result that is not on disk is not reported");
    // The hub still receives keepalives.
    fixture.sleep(10_000);
    fixture.confirmed(first, ReportState::Running, DeliveryState::Running);
    fixture.disk_full = false;
    fixture.sleep(DISK_RETRY_MS);
    fixture.confirmed(first, ReportState::Succeeded, DeliveryState::Succeeded);
}

/// It was tried only every other time.
#[test]
fn a_start_without_disk_space_is_retried_every_5_seconds() {
    let mut fixture = Fixture::connected();
    let id = fixture.command(1, "fail");
    fixture.disk_full = true;
    fixture.confirmed(id, ReportState::Accepted, DeliveryState::Accepted);
    fixture.sleep(DISK_RETRY_MS);
    fixture.disk_full = false;
    fixture.sleep(DISK_RETRY_MS);
    assert_eq!(fixture.started, [id]);
}

/// Of 100 commands that were to run at once the 64th was rejected, with an empty journal.
#[test]
fn a_journal_is_not_full_because_many_commands_run() {
    let mut fixture = Fixture::connected();
    fixture.hello(HUB_MS, 100);
    for n in 1..=100 {
        let id = fixture.command(n, "rerun");
        let at = fixture.posts.iter().position(|(_, command, _)| *command == id);
        if let Some((ticket, _, report)) = at.and_then(|at| fixture.posts.remove(at)) {
            assert_eq!((report.state, code(&report)), (ReportState::Accepted, None), "{n}");
            let rev = report.rev.unwrap();
            let confirmed = ReportAnswer::Delivery { state: DeliveryState::Accepted, rev };
            fixture.engine.handle_answer(fixture.now_ms, ticket, confirmed);
            fixture.act();
        }
    }
}

#[test]
fn only_new_commands_and_starts_need_a_reservation_and_the_last_one_releases_it() {
    let result_bytes = Bounds::AGENT.result_bytes;
    let mut fixture = Fixture::connected();
    fixture.hello(HUB_MS, 2);
    let first = fixture.command(1, "fail");
    assert_eq!(fixture.reserve, Reserve::of(result_bytes));
    let second = fixture.command(2, "rerun");
    assert_eq!(fixture.reserve, Reserve::of(2 * result_bytes));
    fixture.confirmed(first, ReportState::Accepted, DeliveryState::Accepted);
    let report_bytes = Bounds::AGENT.report_bytes;
    assert!(result_bytes - report_bytes > 4096, "the reservation includes the start record");
    let for_one = Reserve { needed_bytes: report_bytes, reserved_bytes: 2 * result_bytes };
    assert_eq!(
        fixture.reserve, for_one,
        "a start needs its own reservation, and waiting commands do not block it"
    );
    fixture.confirmed(second, ReportState::Accepted, DeliveryState::Accepted);
    fixture.posts.clear();
    fixture.succeeded(first);
    let as_it_is = Reserve { needed_bytes: 0, reserved_bytes: 2 * result_bytes };
    assert_eq!(fixture.reserve, as_it_is, "the reservation of the other one stays");
    fixture.succeeded(second);
    fixture.posts.clear();
    let third = fixture.cancel(3);
    fixture.confirmed(third, ReportState::Cancelled, DeliveryState::Cancelled);
    assert_eq!(fixture.reserve, Reserve::default(), "no reservation is needed any more");
    assert_eq!(Fixture::after(fixture.disk, "boot-2", 5).reserve, Reserve::default());
}

/// An agent that was started on a full disk accepted commands and reported nothing at all.
#[test]
fn an_agent_started_on_a_full_disk_recovers_by_itself() {
    let mut fixture = Fixture::new();
    let mut engine = Engine::new(Arc::new(List::default()), "boot-1".into(), 7);
    engine.begin(2000, 0);
    fixture.engine = engine;
    fixture.disk_full = true;
    fixture.act();
    fixture.hello(HUB_MS, 1);
    let id = fixture.command(1, "fail");
    for _ in 0..20 {
        fixture.sleep(DISK_RETRY_MS);
    }
    assert!(fixture.posts.is_empty(), "no number is used that is not on disk");
    fixture.disk_full = false;
    fixture.sleep(DISK_RETRY_MS);
    let report = fixture.confirmed(id, ReportState::Rejected, DeliveryState::Rejected);
    assert_eq!(code(&report), Some("journal_full"));
}

#[test]
fn a_postponed_start_overtaken_by_a_shutdown_causes_no_busy_loop() {
    let mut fixture = Fixture::connected();
    let id = fixture.command(1, "fail");
    fixture.disk_full = true;
    fixture.confirmed(id, ReportState::Accepted, DeliveryState::Accepted);
    fixture.engine.handle_shutdown(fixture.now_ms);
    fixture.sleep(DISK_RETRY_MS);
    assert!(fixture.started.is_empty());
    let wake_ms = fixture.engine.poll_timeout();
    assert!(wake_ms.is_none_or(|at| at > fixture.now_ms), "it would spin: {wake_ms:?}");
}

/// A journal at its limit, in which every command was ten days old, rejected each new command until it had grown.
#[test]
fn an_old_journal_is_compacted_at_the_first_hello_and_deferred_commands_keep_their_order() {
    let list = List { concurrency: 1, ..List::default() };
    let disk = done(300_000, HUB_MS - 10 * DAY_MS).collect();
    let mut fixture = Fixture::with(list, disk, "boot-1", 1000, AGENT_JOURNAL_BYTES_MAX - MIB);
    assert_eq!(fixture.compactions, 0, "how old it is cannot be known yet");
    fixture.engine.handle_hello(1000, (HUB_MS, HUB_MS), 3);
    let lines: Vec<_> = std::iter::from_fn(|| fixture.engine.poll_output()).collect();
    let [Output::Write { .. }, Output::Compact { snapshot, .. }] = &lines[..] else {
        panic!("{lines:?}")
    };
    assert_eq!(snapshot.lines().count(), 1, "nothing but the start number is young");
    // The compaction takes time; the second command alone would fit, and does not overtake.
    let (mut first, second, third) =
        (event(500_001, "fail"), event(500_002, "rerun"), event(500_003, "fail"));
    first.data = Json::text(&"x".repeat(900_000));
    let ids = [first.id, second.id, third.id];
    for event in [first, second, third] {
        fixture.engine.handle_command(1000, event);
    }
    fixture.cancel(500_003);
    assert!(fixture.disk.iter().all(|record| !matches!(record, Record::Received(_))));
    fixture.bytes = 100;
    fixture.engine.handle_compacted(1000, Some(100));
    fixture.act();
    fixture.confirmed(ids[2], ReportState::Cancelled, DeliveryState::Cancelled);
    fixture.confirmed(ids[0], ReportState::Accepted, DeliveryState::Accepted);
    fixture.confirmed(ids[1], ReportState::Accepted, DeliveryState::Accepted);
    assert_eq!(fixture.started, [ids[0], ids[1]]);
    let offered = |(_, id, report): &(u64, CommandId, Report)| {
        *id == ids[2] && report.state == ReportState::Accepted
    };
    assert!(!fixture.posts.iter().any(offered), "the cancelled one is not taken after all");
}

#[test]
fn a_compaction_is_tried_before_a_command_is_rejected_for_space() {
    let mut fixture = narrow();
    fixture.bytes = 200 << 10;
    let completed = fixture.cancel(1);
    fixture.confirmed(completed, ReportState::Cancelled, DeliveryState::Cancelled);
    assert_eq!(fixture.compactions, 0, "so short a journal is not worth one");
    let id = fixture.command(2, "fail");
    fixture.confirmed(id, ReportState::Accepted, DeliveryState::Accepted);
    assert_eq!((fixture.compactions, fixture.started), (1, vec![id]));
}

#[test]
fn a_failed_compaction_rejects_the_commands_that_waited_for_it() {
    let mut fixture = Fixture::connected();
    fixture.engine.handle_written(1000, 0, AGENT_JOURNAL_BYTES_MAX);
    let Some(Output::Compact { .. }) = fixture.engine.poll_output() else {
        panic!("no compaction")
    };
    let id = fixture.command(1, "fail");
    assert!(fixture.posts.is_empty(), "it waits for the compaction");
    fixture.engine.handle_compacted(1000, None);
    fixture.act();
    let report = fixture.confirmed(id, ReportState::Rejected, DeliveryState::Rejected);
    assert_eq!((code(&report), fixture.compactions), (Some("journal_full"), 0));
}

#[test]
fn a_compaction_writes_no_more_than_it_replaced() {
    let mut fixture = Fixture::connected();
    for n in 1..=20 {
        let id = fixture.running(n, "fail");
        fixture.succeeded(id);
        fixture.confirmed(id, ReportState::Succeeded, DeliveryState::Succeeded);
        let id = fixture.cancel(100 + n);
        fixture.confirmed(id, ReportState::Cancelled, DeliveryState::Cancelled);
    }
    let waits = fixture.running(50, "fail");
    let bytes = |records: &[Record]| serde_json::to_vec(records).unwrap().len();
    let before = bytes(&fixture.disk);
    fixture.bytes = 2 * MIB;
    fixture.sleep(10_000);
    fixture.confirmed(waits, ReportState::Running, DeliveryState::Running);
    fixture.cancel(60);
    assert_eq!(fixture.compactions, 1);
    // A start number, one record for each completed command, two for the running one, two for the cancelled one.
    assert_eq!(fixture.disk.len(), 1 + 40 + 2 + 2, "{:?}", fixture.disk);
    assert!(bytes(&fixture.disk) < before / 2, "{} of {before}", bytes(&fixture.disk));
}

#[test]
fn an_early_duplicate_gets_the_whole_report_and_a_late_one_the_outcome() {
    let mut fixture = Fixture::connected();
    let first = fixture.running(1, "fail");
    let mut completion = succeeded(&"x".repeat(1000));
    completion.outcome.exit_code = Some(3);
    fixture.ended(first, RunEnd::Finished(completion));
    let reported = fixture.confirmed(first, ReportState::Succeeded, DeliveryState::Succeeded);
    for restart in [false, true] {
        if restart {
            fixture = Fixture::after(fixture.disk, "boot-2", 5);
            fixture.hello(HUB_MS, 1);
        }
        fixture.command(1, "fail");
        let again = fixture.confirmed(first, ReportState::Succeeded, DeliveryState::Succeeded);
        assert_eq!(
            (again.outcome.stdout, again.outcome.exit_code),
            (reported.outcome.stdout.clone(), Some(3))
        );
    }
    for n in 2..=10 {
        let id = fixture.running(n, "fail");
        fixture.ended(id, RunEnd::Finished(succeeded(&"x".repeat(60_000))));
        fixture.confirmed(id, ReportState::Succeeded, DeliveryState::Succeeded);
    }
    fixture.command(1, "fail");
    let late = fixture.confirmed(first, ReportState::Succeeded, DeliveryState::Succeeded);
    assert_eq!((late.outcome.stdout, late.outcome.exit_code), (None, Some(3)));
}

/// A compaction's snapshot contained a start that the disk then refused: after a reboot the command had `succeeded`
/// without a run.
#[test]
fn a_compaction_waits_for_writes_that_may_fail() {
    let mut fixture = Fixture::connected();
    fixture.command(1, "succeed");
    fixture.bytes = Bounds::AGENT.compact_bytes + 1;
    let rev = fixture.posts.front().and_then(|(_, _, report)| report.rev).unwrap();
    let (ticket, ..) = fixture.posts.pop_front().unwrap();
    let confirmed = ReportAnswer::Delivery { state: DeliveryState::Accepted, rev };
    fixture.engine.handle_answer(fixture.now_ms, ticket, confirmed);
    let start = match fixture.engine.poll_output() {
        Some(Output::Write { ticket, .. }) => ticket,
        other => panic!("a start is written: {other:?}"),
    };
    fixture.engine.journal.bytes = fixture.bytes;
    fixture.engine.handle_timeout(fixture.now_ms + 1);
    assert_eq!(
        (fixture.engine.poll_output(), fixture.compactions),
        (None, 0),
        "it is not known yet"
    );
    fixture.engine.handle_disk_full(fixture.now_ms + 1, start);
    fixture.act();
    assert_eq!((fixture.compactions, fixture.started.len()), (1, 0));
    let is_start = |record: &Record| matches!(record, Record::Started { .. });
    assert!(!fixture.disk.iter().any(is_start), "{:?}", fixture.disk);
}

#[test]
fn deferred_commands_stay_at_the_hub_on_shutdown() {
    let mut fixture = Fixture::connected();
    fixture.engine.handle_written(1000, 0, AGENT_JOURNAL_BYTES_MAX);
    let Some(Output::Compact { .. }) = fixture.engine.poll_output() else {
        panic!("no compaction")
    };
    fixture.command(1, "fail");
    let before = fixture.disk.clone();
    fixture.engine.handle_shutdown(1000);
    fixture.engine.handle_compacted(1000, Some(100));
    fixture.act();
    assert_eq!((&fixture.disk, fixture.posts.len()), (&before, 0), "nothing new is taken");
}
