//! The rules of the journal, one by one: its bound, what is forgotten, and a disk that is full.

use std::sync::Arc;

use super::bench::{Bench, FAILED, HUB_MS, code, event, succeeded};
use super::world::List;
use super::*;

const DAY_MS: u64 = 86_400_000;
const MIB: u64 = 1 << 20;

/// A journal with room for one command and its result, and hardly more.
fn narrow() -> Bench {
    let mut bench = Bench::connected();
    bench.hello(HUB_MS, 5);
    bench.engine.bounds.journal_bytes = 300 << 10;
    bench
}

/// The records of so many commands that are over.
fn done(count: u64, hub_ms: u64) -> impl Iterator<Item = Record> {
    (1..=count).map(move |n| {
        let CommandEvent { id, seq, .. } = event(n, "fail");
        let state = Some(ReportState::Succeeded);
        let done = Done { seq, hub_ms, state, exit_code: Some(0), code: None };
        Record::Done { command: id, done }
    })
}

/// Each refusal was journaled with the command's data, and the file grew past its bound.
#[test]
fn a_full_journal_refuses_what_is_new_and_writes_nothing_for_that() {
    let mut bench = narrow();
    let first = bench.running(1, "fail");
    let before = bench.disk.clone();
    let second = bench.command(2, "fail");
    let report = bench.shown(second, ReportState::Rejected, DeliveryState::Rejected);
    assert_eq!(code(&report), Some("journal_full"));
    // What is refused for another reason says that.
    bench.engine.bounds.journal_bytes = 200 << 10;
    let third = bench.command(3, "unlisted");
    let report = bench.shown(third, ReportState::Rejected, DeliveryState::Rejected);
    assert_eq!(code(&report), Some("unknown_action"));
    let fourth = bench.cancel(4);
    bench.shown(fourth, ReportState::Cancelled, DeliveryState::Cancelled);
    assert_eq!(bench.disk, before, "what is told without a record is forgotten with it");
    assert_eq!(bench.engine.counts(), (1, 1));
    bench.succeeded(first);
    bench.shown(first, ReportState::Succeeded, DeliveryState::Succeeded);
}

#[test]
fn what_is_on_its_way_to_the_disk_counts_against_the_bound() {
    let mut bench = narrow();
    bench.engine.bounds.journal_bytes = 700 << 10;
    for n in 1..=2 {
        let data = Json::text(&"x".repeat(100 << 10));
        // The disk has not answered for the first when the second comes.
        bench.engine.handle_command(bench.now_ms, CommandEvent { data, ..event(n, "fail") });
    }
    bench.act();
    let told: Vec<_> = bench.posts.iter().map(|(_, _, report)| code(report)).collect();
    assert_eq!(told, [Some("journal_full"), None], "the second is refused, and the first is taken");
}

#[test]
fn a_refusal_is_kept_without_the_data() {
    let mut bench = Bench::connected();
    let mut refused = event(1, "unlisted");
    refused.data = Json::text(&"x".repeat(100_000));
    bench.engine.handle_command(bench.now_ms, refused);
    bench.act();
    let json = serde_json::to_string(&bench.disk).unwrap();
    assert!(json.len() < 2000 && json.contains("unknown_action"), "{}", json.len());
}

#[test]
fn a_full_disk_refuses_what_is_new_and_records_what_runs_once_there_is_room() {
    let mut bench = Bench::connected();
    let first = bench.running(1, "fail");
    bench.disk_full = true;
    let third = bench.command(3, "fail");
    let report = bench.shown(third, ReportState::Rejected, DeliveryState::Rejected);
    assert_eq!(code(&report), Some("journal_full"));
    bench.succeeded(first);
    assert!(bench.posts.is_empty(), "what is not on disk is not told");
    // The hub is not left to think that nobody is there.
    bench.sleep(10_000);
    bench.shown(first, ReportState::Running, DeliveryState::Running);
    bench.disk_full = false;
    bench.sleep(DISK_RETRY_MS);
    bench.shown(first, ReportState::Succeeded, DeliveryState::Succeeded);
}

/// It was tried every other time that it was due.
#[test]
fn a_start_that_found_no_room_is_tried_every_5_seconds() {
    let mut bench = Bench::connected();
    let id = bench.command(1, "fail");
    bench.disk_full = true;
    bench.shown(id, ReportState::Accepted, DeliveryState::Accepted);
    bench.sleep(DISK_RETRY_MS);
    bench.disk_full = false;
    bench.sleep(DISK_RETRY_MS);
    assert_eq!(bench.started, [id]);
}

/// Of 100 commands that were to run at once the 64th was rejected, with an empty journal.
#[test]
fn a_journal_is_not_full_because_many_commands_run() {
    let mut bench = Bench::connected();
    bench.hello(HUB_MS, 100);
    for n in 1..=100 {
        let id = bench.command(n, "rerun");
        let at = bench.posts.iter().position(|(_, command, _)| *command == id);
        if let Some((ticket, _, report)) = at.and_then(|at| bench.posts.remove(at)) {
            assert_eq!((report.state, code(&report)), (ReportState::Accepted, None), "{n}");
            let rev = report.rev.unwrap();
            let shown = Answer::Delivery { state: DeliveryState::Accepted, rev };
            bench.engine.handle_answer(bench.now_ms, ticket, shown);
            bench.act();
        }
    }
}

#[test]
fn only_what_adds_a_result_asks_for_room_and_the_last_one_gives_it_back() {
    let result_bytes = Bounds::AGENT.result_bytes;
    let mut bench = Bench::connected();
    bench.hello(HUB_MS, 2);
    let first = bench.command(1, "fail");
    assert_eq!(bench.reserve, Reserve::of(result_bytes));
    let second = bench.command(2, "rerun");
    assert_eq!(bench.reserve, Reserve::of(2 * result_bytes));
    bench.shown(first, ReportState::Accepted, DeliveryState::Accepted);
    let report_bytes = Bounds::AGENT.report_bytes;
    assert!(result_bytes - report_bytes > 4096, "what the start itself takes was kept for it, too");
    let for_one = Reserve { needed_bytes: report_bytes, kept_bytes: 2 * result_bytes };
    assert_eq!(bench.reserve, for_one, "a start needs its own: what waits keeps it from nobody");
    bench.shown(second, ReportState::Accepted, DeliveryState::Accepted);
    bench.posts.clear();
    bench.succeeded(first);
    let as_it_is = Reserve { needed_bytes: 0, kept_bytes: 2 * result_bytes };
    assert_eq!(bench.reserve, as_it_is, "what is kept for the other one stays");
    bench.succeeded(second);
    bench.posts.clear();
    let third = bench.cancel(3);
    bench.shown(third, ReportState::Cancelled, DeliveryState::Cancelled);
    assert_eq!(bench.reserve, Reserve::default(), "nobody needs it any more");
    assert_eq!(Bench::after(bench.disk, "boot-2", 5).reserve, Reserve::default());
}

/// Started on a full disk, the agent took commands and told nothing at all.
#[test]
fn a_start_on_a_full_disk_heals_by_itself() {
    let mut bench = Bench::new();
    let mut engine = Engine::new(Arc::new(List::default()), "boot-1".into(), 7);
    engine.begin(2000, 0);
    bench.engine = engine;
    bench.disk_full = true;
    bench.act();
    bench.hello(HUB_MS, 1);
    let id = bench.command(1, "fail");
    for _ in 0..20 {
        bench.sleep(DISK_RETRY_MS);
    }
    assert!(bench.posts.is_empty(), "no number is used that is not on disk");
    bench.disk_full = false;
    bench.sleep(DISK_RETRY_MS);
    let report = bench.shown(id, ReportState::Rejected, DeliveryState::Rejected);
    assert_eq!(code(&report), Some("journal_full"));
}

#[test]
fn a_start_that_the_disk_put_off_and_a_shutdown_overtook_wakes_nobody() {
    let mut bench = Bench::connected();
    let id = bench.command(1, "fail");
    bench.disk_full = true;
    bench.shown(id, ReportState::Accepted, DeliveryState::Accepted);
    bench.engine.handle_shutdown(bench.now_ms);
    bench.sleep(DISK_RETRY_MS);
    assert!(bench.started.is_empty());
    let wake_ms = bench.engine.poll_timeout();
    assert!(wake_ms.is_none_or(|at| at > bench.now_ms), "it would spin: {wake_ms:?}");
}

#[test]
fn what_is_older_than_the_longest_ttl_and_a_day_is_forgotten_and_nothing_younger() {
    let kept_ms = Bounds::AGENT.kept_ms;
    let mut bench = Bench::connected();
    let old = bench.running(1, "fail");
    bench.succeeded(old);
    bench.shown(old, ReportState::Succeeded, DeliveryState::Succeeded);
    bench.sleep(60_000);
    let young = bench.cancel(2);
    bench.shown(young, ReportState::Cancelled, DeliveryState::Cancelled);
    let unheard = bench.cancel(3);
    bench.sleep(kept_ms - 59_000);
    // At the latest a day after the last look, which was with the first hello.
    bench.sleep(DAY_MS);
    bench.bytes = 2 * MIB;
    bench.answer(unheard, ReportState::Cancelled, FAILED);
    bench.command(4, "unlisted");
    assert_eq!(bench.compactions, 1);
    let kept = Bench::after(bench.disk, "boot-1", bench.now_ms).engine;
    let known = |id| kept.entries.contains_key(&id) || kept.past.knows(id);
    assert_eq!((known(old), known(young), known(unheard)), (false, false, true));
    let mut bench = Bench::connected();
    let young = bench.cancel(2);
    bench.shown(young, ReportState::Cancelled, DeliveryState::Cancelled);
    bench.sleep(kept_ms);
    assert!(bench.engine.past.knows(young), "it is not older than that yet");
}

/// A device that is started each morning compacted before it knew the time, and never forgot.
#[test]
fn a_device_that_is_started_each_day_forgets_what_is_old() {
    let mut bench = Bench::connected();
    let old = bench.running(1, "fail");
    bench.succeeded(old);
    bench.shown(old, ReportState::Succeeded, DeliveryState::Succeeded);
    for day in 1..=12 {
        let boot = format!("boot-{day}");
        bench = Bench::with(List::default(), bench.disk, &boot, 1000, 40 * MIB);
        bench.hello(HUB_MS + day * DAY_MS, 1);
        assert_eq!(bench.engine.past.knows(old), day <= 8, "on day {day}");
    }
}

/// A journal at its bound, in which all was ten days old, rejected each command until it had grown.
#[test]
fn an_old_journal_heals_with_the_first_hello_and_takes_what_came_meanwhile_in_order() {
    let list = List { concurrency: 1, ..List::default() };
    let disk = done(300_000, HUB_MS - 10 * DAY_MS).collect();
    let mut bench = Bench::with(list, disk, "boot-1", 1000, JOURNAL_BYTES_MAX - MIB);
    assert_eq!(bench.compactions, 0, "how old it is cannot be known yet");
    bench.engine.handle_hello(1000, HUB_MS, 3);
    let lines: Vec<_> = std::iter::from_fn(|| bench.engine.poll_output()).collect();
    let [Output::Compact { snapshot, .. }] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!(snapshot.lines().count(), 1, "nothing but the start number is young");
    // The compaction takes its time; the second command alone would fit, and does not overtake.
    let (mut first, second, third) =
        (event(500_001, "fail"), event(500_002, "rerun"), event(500_003, "fail"));
    first.data = Json::text(&"x".repeat(900_000));
    let ids = [first.id, second.id, third.id];
    for event in [first, second, third] {
        bench.engine.handle_command(1000, event);
    }
    bench.cancel(500_003);
    assert!(bench.disk.iter().all(|record| !matches!(record, Record::Received(_))));
    bench.bytes = 100;
    bench.engine.handle_compacted(1000, Some(100));
    bench.act();
    bench.shown(ids[2], ReportState::Cancelled, DeliveryState::Cancelled);
    bench.shown(ids[0], ReportState::Accepted, DeliveryState::Accepted);
    bench.shown(ids[1], ReportState::Accepted, DeliveryState::Accepted);
    assert_eq!(bench.started, [ids[0], ids[1]]);
    let offered = |(_, id, report): &(u64, CommandId, Report)| {
        *id == ids[2] && report.state == ReportState::Accepted
    };
    assert!(!bench.posts.iter().any(offered), "the cancelled one is not taken after all");
}

#[test]
fn where_room_is_lacking_a_compaction_makes_it_before_a_command_is_refused() {
    let mut bench = narrow();
    bench.bytes = 200 << 10;
    let over = bench.cancel(1);
    bench.shown(over, ReportState::Cancelled, DeliveryState::Cancelled);
    assert_eq!(bench.compactions, 0, "so short a journal is not worth one");
    let id = bench.command(2, "fail");
    bench.shown(id, ReportState::Accepted, DeliveryState::Accepted);
    assert_eq!((bench.compactions, bench.started), (1, vec![id]));
}

#[test]
fn a_compaction_that_failed_refuses_what_it_was_to_make_room_for() {
    let mut bench = Bench::connected();
    bench.engine.handle_written(1000, 0, JOURNAL_BYTES_MAX);
    let Some(Output::Compact { .. }) = bench.engine.poll_output() else { panic!("no compaction") };
    let id = bench.command(1, "fail");
    assert!(bench.posts.is_empty(), "it waits for the compaction");
    bench.engine.handle_compacted(1000, None);
    bench.act();
    let report = bench.shown(id, ReportState::Rejected, DeliveryState::Rejected);
    assert_eq!((code(&report), bench.compactions), (Some("journal_full"), 0));
}

#[test]
fn a_compaction_writes_no_more_than_it_replaced() {
    let mut bench = Bench::connected();
    for n in 1..=20 {
        let id = bench.running(n, "fail");
        bench.succeeded(id);
        bench.shown(id, ReportState::Succeeded, DeliveryState::Succeeded);
        let id = bench.cancel(100 + n);
        bench.shown(id, ReportState::Cancelled, DeliveryState::Cancelled);
    }
    let waits = bench.running(50, "fail");
    let bytes = |records: &[Record]| serde_json::to_vec(records).unwrap().len();
    let before = bytes(&bench.disk);
    bench.bytes = 2 * MIB;
    bench.sleep(10_000);
    bench.shown(waits, ReportState::Running, DeliveryState::Running);
    bench.cancel(60);
    assert_eq!(bench.compactions, 1);
    // A start number, one record for each that is over, two for what runs, two for the cancel.
    assert_eq!(bench.disk.len(), 1 + 40 + 2 + 2, "{:?}", bench.disk);
    assert!(bytes(&bench.disk) < before / 2, "{} of {before}", bytes(&bench.disk));
}

#[test]
fn a_duplicate_soon_after_is_told_everything_and_a_late_one_how_it_ended() {
    let mut bench = Bench::connected();
    let first = bench.running(1, "fail");
    let mut outcome = succeeded(&"x".repeat(1000));
    outcome.exit_code = Some(3);
    bench.ended(first, Ended::Finished(outcome));
    let told = bench.shown(first, ReportState::Succeeded, DeliveryState::Succeeded);
    for restart in [false, true] {
        if restart {
            bench = Bench::after(bench.disk, "boot-2", 5);
            bench.hello(HUB_MS, 1);
        }
        bench.command(1, "fail");
        let again = bench.shown(first, ReportState::Succeeded, DeliveryState::Succeeded);
        assert_eq!((again.stdout, again.exit_code), (told.stdout.clone(), Some(3)));
    }
    for n in 2..=10 {
        let id = bench.running(n, "fail");
        bench.ended(id, Ended::Finished(succeeded(&"x".repeat(60_000))));
        bench.shown(id, ReportState::Succeeded, DeliveryState::Succeeded);
    }
    bench.command(1, "fail");
    let late = bench.shown(first, ReportState::Succeeded, DeliveryState::Succeeded);
    assert_eq!((late.stdout, late.exit_code), (None, Some(3)));
}

/// The picture that a compaction wrote said that a command was started whose start had found no room: a
/// reboot later it had `succeeded` without having run.
#[test]
fn a_compaction_waits_for_what_the_disk_may_refuse() {
    let mut bench = Bench::connected();
    bench.command(1, "succeed");
    bench.bytes = Bounds::AGENT.compact_bytes + 1;
    let rev = bench.posts.front().and_then(|(_, _, report)| report.rev).unwrap();
    let (ticket, ..) = bench.posts.pop_front().unwrap();
    let shown = Answer::Delivery { state: DeliveryState::Accepted, rev };
    bench.engine.handle_answer(bench.now_ms, ticket, shown);
    let start = match bench.engine.poll_output() {
        Some(Output::Write { ticket, .. }) => ticket,
        other => panic!("a start is written: {other:?}"),
    };
    bench.engine.keeping.bytes = bench.bytes;
    bench.engine.handle_timeout(bench.now_ms + 1);
    assert_eq!((bench.engine.poll_output(), bench.compactions), (None, 0), "it is not known yet");
    bench.engine.handle_disk_full(bench.now_ms + 1, start);
    bench.act();
    assert_eq!((bench.compactions, bench.started.len()), (1, 0));
    let is_start = |record: &Record| matches!(record, Record::Started { .. });
    assert!(!bench.disk.iter().any(is_start), "{:?}", bench.disk);
}

#[test]
fn what_is_held_back_for_room_is_left_to_the_hub_by_a_shutdown() {
    let mut bench = Bench::connected();
    bench.engine.handle_written(1000, 0, JOURNAL_BYTES_MAX);
    let Some(Output::Compact { .. }) = bench.engine.poll_output() else { panic!("no compaction") };
    bench.command(1, "fail");
    let before = bench.disk.clone();
    bench.engine.handle_shutdown(1000);
    bench.engine.handle_compacted(1000, Some(100));
    bench.act();
    assert_eq!((&bench.disk, bench.posts.len()), (&before, 0), "nothing new is taken");
}
