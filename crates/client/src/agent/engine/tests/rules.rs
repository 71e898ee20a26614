//! The rules of a command's life cycle, one by one: what runs, when, and what follows from a crash.

use std::sync::Arc;

use super::fixture::{FAILED, Fixture, HUB_MS, cancelled, code, event};
use super::world::List;
use super::*;
use crate::agent::run::Completion;

#[test]
fn nothing_runs_before_the_hub_has_answered_to_accepted() {
    let mut fixture = Fixture::connected();
    let id = fixture.command(1, "fail");
    for _ in 0..5 {
        fixture.answer(id, ReportState::Accepted, FAILED);
        assert!(fixture.started.is_empty() && fixture.posts.is_empty());
        fixture.sleep(60_000);
    }
    fixture.confirmed(id, ReportState::Accepted, DeliveryState::Accepted);
    assert_eq!(fixture.started, [id]);
}

#[test]
fn a_command_that_the_hub_has_ended_never_runs() {
    let ended = [
        DeliveryState::Expired,
        DeliveryState::TimedOut,
        DeliveryState::Cancelled,
        DeliveryState::Dead,
        DeliveryState::Succeeded,
    ];
    let confirmed = ended.map(|state| ReportAnswer::Delivery { state, rev: 0 });
    for (n, answer) in (1..).zip(
        confirmed.into_iter().chain([ReportAnswer::Conflict { state: None }, ReportAnswer::Gone]),
    ) {
        let mut fixture = Fixture::connected();
        let id = fixture.command(n, "fail");
        fixture.answer(id, ReportState::Accepted, answer);
        fixture.sleep(100_000);
        assert!(fixture.started.is_empty() && fixture.posts.is_empty(), "{answer:?}");
        // Nor after a restart.
        let fixture = Fixture::after(fixture.disk, "boot-1", 200_000);
        assert!(fixture.posts.is_empty() && fixture.orphan_kills.is_empty(), "{answer:?}");
    }
}

#[test]
fn a_command_that_waits_beyond_its_time_is_stale() {
    let mut fixture = Fixture::connected();
    let first = fixture.running(1, "fail");
    let second = fixture.command(2, "fail");
    fixture.confirmed(second, ReportState::Accepted, DeliveryState::Accepted);
    fixture.sleep(3_600_000);
    fixture.confirmed(first, ReportState::Running, DeliveryState::Running);
    let report = fixture.confirmed(second, ReportState::Rejected, DeliveryState::Rejected);
    assert_eq!(code(&report), Some("stale"));
}

#[test]
fn commands_start_in_the_order_of_the_hub_and_none_overtakes() {
    let mut fixture = Fixture::connected();
    fixture.hello(HUB_MS, 3);
    let first = fixture.running(1, "fail");
    // Another one of the same action waits for it, and one of another action waits behind that.
    let (second, third) = (fixture.command(2, "fail"), fixture.command(3, "rerun"));
    fixture.confirmed(second, ReportState::Accepted, DeliveryState::Accepted);
    fixture.confirmed(third, ReportState::Accepted, DeliveryState::Accepted);
    assert_eq!(fixture.started, [first]);
    fixture.succeeded(first);
    assert_eq!(fixture.started, [first, second, third]);
}

#[test]
fn a_cancel_for_an_unknown_command_is_recorded_and_that_command_never_runs() {
    let mut fixture = Fixture::connected();
    let id = fixture.cancel(1);
    fixture.confirmed(id, ReportState::Cancelled, DeliveryState::Cancelled);
    let mut fixture = Fixture::after(fixture.disk, "boot-1", 50_000);
    fixture.hello(HUB_MS, 1);
    fixture.command(1, "fail");
    fixture.confirmed(id, ReportState::Cancelled, DeliveryState::Cancelled);
    assert!(fixture.started.is_empty());
}

#[test]
fn a_cancelled_handler_is_stopped_and_one_that_had_ended_keeps_its_result() {
    let mut fixture = Fixture::connected();
    let id = fixture.running(1, "fail");
    fixture.cancel(1);
    assert_eq!(fixture.stopped, [(id, Stop::Cancel)]);
    fixture.ended(id, RunEnd::Stopped(cancelled("half")));
    let report = fixture.confirmed(id, ReportState::Cancelled, DeliveryState::Cancelled);
    assert_eq!(report.outcome.stdout.as_deref(), Some("half"));

    let id = fixture.running(2, "fail");
    fixture.cancel(2);
    fixture.succeeded(id);
    fixture.confirmed(id, ReportState::Succeeded, DeliveryState::Succeeded);
}

#[test]
fn a_run_cut_off_by_a_crash_follows_on_restart() {
    for (action, boot, reported, reason) in [
        ("fail", "boot-1", ReportState::Failed, Some("interrupted")),
        ("fail", "boot-2", ReportState::Failed, Some("interrupted")),
        ("succeed", "boot-1", ReportState::Failed, Some("interrupted")),
        ("succeed", "boot-2", ReportState::Succeeded, None),
    ] {
        let mut fixture = Fixture::connected();
        let id = fixture.running(1, action);
        let mut fixture = Fixture::after(fixture.disk, boot, 5);
        assert_eq!(fixture.orphan_kills.len(), usize::from(action == "fail"), "{action} {boot}");
        if action == "fail" {
            fixture.confirmed(id, ReportState::Running, DeliveryState::Running);
        }
        fixture.orphans_killed(id);
        let (_, _, report) = fixture.posts.pop_front().unwrap();
        assert_eq!((report.state, code(&report)), (reported, reason), "{action} {boot}");
        assert!(fixture.started.is_empty());
    }
}

#[test]
fn a_command_is_rerun_three_times_at_most_and_after_its_orphans_are_dead() {
    let mut fixture = Fixture::connected();
    let id = fixture.running(1, "rerun");
    for _ in 0..3 {
        fixture = Fixture::after(fixture.disk, "boot-1", 2000);
        assert_eq!((&fixture.orphan_kills[..], &fixture.started[..]), (&[id][..], &[][..]));
        fixture.orphans_killed(id);
        fixture.answer(id, ReportState::Running, FAILED);
        assert_eq!(fixture.started, [id]);
    }
    fixture = Fixture::after(fixture.disk, "boot-1", 2000);
    fixture.confirmed(id, ReportState::Running, DeliveryState::Running);
    fixture.orphans_killed(id);
    assert!(fixture.started.is_empty());
    let report = fixture.confirmed(id, ReportState::Failed, DeliveryState::Failed);
    assert_eq!(code(&report), Some("interrupted"));
}

#[test]
fn a_shutdown_accepts_nothing_new_and_gives_handlers_30_seconds() {
    let mut fixture = Fixture::connected();
    let id = fixture.running(1, "fail");
    fixture.engine.handle_shutdown(fixture.now_ms);
    fixture.act();
    assert_eq!(fixture.stopped, [(id, Stop::Shutdown)]);
    let written = fixture.disk.len();
    fixture.command(2, "fail");
    assert_eq!((fixture.disk.len(), fixture.posts.len()), (written, 0), "it stays at the hub");
    fixture.sleep(29_999);
    assert!(!fixture.engine.is_finished(fixture.now_ms) && fixture.stopped.len() == 1);
    fixture.posts.clear();
    fixture.sleep(1);
    assert_eq!(fixture.stopped.last(), Some(&(id, Stop::Kill)));
    fixture.ended(id, RunEnd::Stopped(Completion::failed("interrupted", "killed")));
    let report = fixture.confirmed(id, ReportState::Failed, DeliveryState::Failed);
    assert_eq!(code(&report), Some("interrupted"));
    assert!(fixture.engine.is_finished(fixture.now_ms));
}

/// The end of a handler that was killed.
fn killed() -> RunEnd {
    RunEnd::Stopped(Completion::failed("interrupted", "killed"))
}

#[test]
fn final_reports_have_5_seconds_and_a_forced_shutdown_2_in_all() {
    let mut fixture = Fixture::connected();
    let id = fixture.running(1, "fail");
    fixture.engine.handle_shutdown(fixture.now_ms);
    fixture.sleep(30_000);
    fixture.posts.clear();
    fixture.ended(id, killed());
    fixture.sleep(4999);
    assert!(!fixture.engine.is_finished(fixture.now_ms), "the hub has not answered yet");
    fixture.sleep(1);
    assert!(fixture.engine.is_finished(fixture.now_ms), "it is reported after the restart");

    let mut fixture = Fixture::connected();
    let id = fixture.running(2, "fail");
    fixture.engine.handle_shutdown(fixture.now_ms);
    fixture.sleep(10_000);
    fixture.engine.handle_shutdown(fixture.now_ms);
    fixture.act();
    assert_eq!(fixture.stopped.last(), Some(&(id, Stop::Kill)));
    fixture.posts.clear();
    fixture.ended(id, killed());
    let is_end =
        |record: &Record| matches!(record, Record::Ended { command, .. } if *command == id);
    assert!(fixture.disk.iter().any(is_end), "it is written down all the same");
    fixture.sleep(1999);
    assert!(!fixture.engine.is_finished(fixture.now_ms), "the hub has not answered yet");
    fixture.sleep(1);
    assert!(fixture.engine.is_finished(fixture.now_ms));
}

/// After two shutdown requests during the write of a start, the handler still ran for 30 s.
#[test]
fn a_start_in_progress_at_a_forced_shutdown_is_reported_as_interrupted() {
    let mut fixture = Fixture::connected();
    let id = fixture.command(1, "fail");
    let (ticket, _, report) = fixture.posts.pop_front().unwrap();
    let confirmed =
        ReportAnswer::Delivery { state: DeliveryState::Accepted, rev: report.rev.unwrap() };
    fixture.engine.handle_answer(fixture.now_ms, ticket, confirmed);
    fixture.engine.handle_shutdown(fixture.now_ms);
    fixture.engine.handle_shutdown(fixture.now_ms);
    fixture.act();
    assert!(fixture.started.is_empty());
    let report = fixture.confirmed(id, ReportState::Failed, DeliveryState::Failed);
    assert_eq!(code(&report), Some("interrupted"));
    assert!(fixture.engine.is_finished(fixture.now_ms));
}

/// A stopping agent accepted a command that the hub would otherwise have held for its time to live.
#[test]
fn a_stopping_agent_offers_nothing_more() {
    let mut fixture = Fixture::connected();
    fixture.hello(HUB_MS, 2);
    let running = fixture.running(1, "fail");
    let offered = fixture.command(2, "rerun");
    fixture.engine.handle_shutdown(fixture.now_ms);
    fixture.answer(offered, ReportState::Accepted, FAILED);
    fixture.sleep(10_000);
    fixture.confirmed(running, ReportState::Running, DeliveryState::Running);
    assert!(fixture.posts.is_empty(), "{:?}", fixture.posts);
    fixture.succeeded(running);
    fixture.confirmed(running, ReportState::Succeeded, DeliveryState::Succeeded);
    assert!(fixture.engine.is_finished(fixture.now_ms));
    let mut next = Fixture::after(fixture.disk, "boot-1", 20_000);
    next.confirmed(offered, ReportState::Accepted, DeliveryState::Accepted);
}

#[test]
fn a_handler_receives_the_latest_attempt() {
    let mut fixture = Fixture::connected();
    let id = fixture.command(1, "fail");
    fixture.posts.clear();
    let again = CommandEvent { attempt: 3, ..event(1, "fail") };
    fixture.engine.handle_command(fixture.now_ms, again);
    fixture.act();
    fixture.confirmed(id, ReportState::Accepted, DeliveryState::Accepted);
    assert_eq!((&fixture.started[..], &fixture.attempts[..]), (&[id][..], &[3][..]));
}

#[test]
fn a_cancelled_handler_that_a_shutdown_ends_is_cancelled() {
    let mut fixture = Fixture::connected();
    let id = fixture.running(1, "rerun");
    fixture.cancel(1);
    fixture.engine.handle_shutdown(fixture.now_ms);
    fixture.act();
    fixture.ended(id, killed());
    let report = fixture.confirmed(id, ReportState::Cancelled, DeliveryState::Cancelled);
    assert_eq!(code(&report), None, "nothing has gone wrong");
}

#[test]
fn a_handler_that_reports_a_stop_without_a_request_has_ended() {
    let mut fixture = Fixture::connected();
    let id = fixture.running(1, "rerun");
    let half = Progress::try_from(50.0).unwrap();
    fixture.engine.handle_progress(fixture.now_ms, id, half);
    fixture.ended(id, killed());
    let report = fixture.confirmed(id, ReportState::Failed, DeliveryState::Failed);
    assert_eq!(report.outcome.progress, Some(half));
}

#[test]
fn a_rerun_interrupted_by_a_shutdown_continues_after_the_restart() {
    let mut fixture = Fixture::connected();
    let id = fixture.running(1, "rerun");
    fixture.engine.handle_shutdown(fixture.now_ms);
    fixture.act();
    fixture.ended(id, RunEnd::Stopped(Completion::failed("interrupted", "signal 15 ended it")));
    assert!(fixture.posts.is_empty() && fixture.engine.is_finished(fixture.now_ms));
    let mut fixture = Fixture::after(fixture.disk, "boot-1", 5000);
    fixture.orphans_killed(id);
    fixture.confirmed(id, ReportState::Running, DeliveryState::Running);
    assert_eq!(fixture.started, [id]);
}

/// After a restart a younger command overtook a rerun, and ran beside the orphans of the first run.
#[test]
fn orphans_of_a_run_block_younger_commands_until_they_are_dead() {
    let mut fixture = Fixture::connected();
    fixture.hello(HUB_MS, 2);
    let first = fixture.running(1, "rerun");
    let second = fixture.command(2, "rerun");
    fixture.confirmed(second, ReportState::Accepted, DeliveryState::Accepted);
    assert_eq!(fixture.started, [first], "one of an action at a time");
    let mut fixture = Fixture::after(fixture.disk, "boot-1", 2000);
    fixture.hello(HUB_MS, 2);
    fixture.confirmed(first, ReportState::Running, DeliveryState::Running);
    fixture.confirmed(second, ReportState::Accepted, DeliveryState::Accepted);
    assert_eq!((fixture.orphan_kills.as_slice(), fixture.started.len()), ([first].as_slice(), 0));
    fixture.orphans_killed(first);
    fixture.confirmed(first, ReportState::Running, DeliveryState::Running);
    assert_eq!(fixture.started, [first]);
}

/// The orphans of a younger run did not count: an older command of the action was started beside them.
#[test]
fn orphans_of_a_run_occupy_a_slot_until_they_are_dead() {
    let mut fixture = Fixture::connected();
    let younger = fixture.running(2, "fail");
    let older = fixture.command(1, "fail");
    fixture.confirmed(older, ReportState::Accepted, DeliveryState::Accepted);
    let mut fixture = Fixture::after(fixture.disk, "boot-1", 2000);
    fixture.hello(HUB_MS, 2);
    fixture.confirmed(older, ReportState::Accepted, DeliveryState::Accepted);
    assert!(fixture.started.is_empty(), "the younger one's processes live");
    fixture.orphans_killed(younger);
    assert_eq!(fixture.started, [older]);
}

#[test]
fn keepalives_are_sent_while_orphans_are_being_killed() {
    let mut fixture = Fixture::connected();
    let id = fixture.running(1, "fail");
    let mut fixture = Fixture::after(fixture.disk, "boot-1", 2000);
    for _ in 0..3 {
        fixture.confirmed(id, ReportState::Running, DeliveryState::Running);
        assert!(fixture.posts.is_empty());
        fixture.sleep(10_000);
    }
}

/// A forced cancel came while the agent was dead; the agent was started again and repeated the work.
#[test]
fn a_rerun_confirms_with_the_hub_first_and_does_not_run_if_that_has_ended_it() {
    let ended = [DeliveryState::Cancelled, DeliveryState::TimedOut, DeliveryState::Failed];
    let confirmed = ended.map(|state| ReportAnswer::Delivery { state, rev: 0 });
    let conflict = ReportAnswer::Conflict { state: Some(DeliveryState::Cancelled) };
    let no = [conflict, ReportAnswer::Gone, ReportAnswer::PermanentRejection];
    for (n, answer) in (1..).zip(confirmed.into_iter().chain(no)) {
        let mut fixture = Fixture::connected();
        let id = fixture.running(n, "rerun");
        let mut fixture = Fixture::after(fixture.disk, "boot-1", 2000);
        fixture.orphans_killed(id);
        fixture.answer(id, ReportState::Running, answer);
        assert!(fixture.started.is_empty(), "{answer:?}");
        let report = fixture.answer(id, ReportState::Failed, conflict);
        assert_eq!(code(&report), Some("interrupted"), "{answer:?}");
        fixture.sleep(100_000);
        assert!(fixture.posts.is_empty(), "{answer:?}");
    }
    // A hub that is cancelling is sent `cancelled`; a hub that is away delays nothing.
    let mut fixture = Fixture::connected();
    let id = fixture.running(9, "rerun");
    let disk = fixture.disk;
    let mut fixture = Fixture::after(disk.clone(), "boot-1", 2000);
    fixture.orphans_killed(id);
    fixture.confirmed(id, ReportState::Running, DeliveryState::Cancelling);
    fixture.confirmed(id, ReportState::Cancelled, DeliveryState::Cancelled);
    assert!(fixture.started.is_empty());
    let mut fixture = Fixture::after(disk, "boot-1", 2000);
    fixture.orphans_killed(id);
    assert!(fixture.started.is_empty());
    fixture.answer(id, ReportState::Running, FAILED);
    assert_eq!(fixture.started, [id]);
}

#[test]
fn a_forced_cancel_stops_the_handler_and_a_timeout_at_the_hub_does_not() {
    for (state, stops) in [
        (DeliveryState::Cancelled, true),
        (DeliveryState::TimedOut, false),
        (DeliveryState::Expired, false),
        (DeliveryState::Dead, false),
    ] {
        for answer in [
            ReportAnswer::Conflict { state: Some(state) },
            ReportAnswer::Delivery { state, rev: 1 << 40 },
        ] {
            let mut fixture = Fixture::connected();
            let id = fixture.running(1, "fail");
            fixture.sleep(10_000);
            fixture.answer(id, ReportState::Running, answer);
            assert_eq!(fixture.stopped.len(), usize::from(stops), "{answer:?}");
            fixture.sleep(10_000);
            fixture.answer(id, ReportState::Running, answer);
            assert_eq!(fixture.stopped.len(), usize::from(stops), "{answer:?}, again");
        }
    }
}

/// Where the kernel's name of the boot could not be read, each crash of the agent counted as a reboot.
#[test]
fn a_boot_without_a_name_is_no_reboot() {
    let unnamed = |n| Fixture::after(Vec::new(), &format!("start-{n:016x}"), 1000);
    for (before, after) in [("boot-1", "start-1"), ("start-1", "boot-1"), ("start-1", "start-2")] {
        let mut fixture = unnamed(1);
        if before == "boot-1" {
            fixture = Fixture::new();
        }
        fixture.hello(HUB_MS, 1);
        let id = fixture.running(1, "succeed");
        let mut fixture = Fixture::after(fixture.disk, after, 2000);
        let report = fixture.confirmed(id, ReportState::Failed, DeliveryState::Failed);
        assert_eq!(code(&report), Some("interrupted"), "{before} and {after}");
    }
}

#[test]
fn a_waiting_command_is_checked_against_the_current_list() {
    let narrow = List { narrow: true, ..List::default() };
    let mut fixture = Fixture::connected();
    let ran = fixture.running(1, "rerun");
    let waits = fixture.command(2, "fail");
    fixture.confirmed(waits, ReportState::Accepted, DeliveryState::Accepted);
    let mut fixture = Fixture::with(narrow, fixture.disk, "boot-1", 2000, 0);
    fixture.hello(HUB_MS, 2);
    fixture.confirmed(ran, ReportState::Running, DeliveryState::Running);
    fixture.confirmed(waits, ReportState::Accepted, DeliveryState::Accepted);
    fixture.orphans_killed(ran);
    fixture.confirmed(ran, ReportState::Running, DeliveryState::Running);
    let report = fixture.confirmed(ran, ReportState::Failed, DeliveryState::Failed);
    assert_eq!(code(&report), Some("interrupted"), "it may not run again with these data");
    let report = fixture.confirmed(waits, ReportState::Rejected, DeliveryState::Rejected);
    assert_eq!(code(&report), Some("invalid_params"));
    // The list's rule for an interrupted run applies, whatever the list says about its data now.
    let mut booted = Fixture::connected();
    let id = booted.running(3, "succeed");
    let narrow = List { narrow: true, ..List::default() };
    let mut booted = Fixture::with(narrow, booted.disk, "boot-2", 2000, 0);
    booted.confirmed(id, ReportState::Succeeded, DeliveryState::Succeeded);

    let off = List { off: Some("fail"), ..List::default() };
    let mut other = Fixture::connected();
    let id = other.command(4, "fail");
    let mut other = Fixture::with(off, other.disk, "boot-1", 2000, 0);
    other.confirmed(id, ReportState::Accepted, DeliveryState::Accepted);
    let report = other.confirmed(id, ReportState::Rejected, DeliveryState::Rejected);
    assert_eq!(code(&report), Some("unknown_action"));
    assert_eq!((fixture.started.len(), booted.started.len(), other.started.len()), (0, 0, 0));
}

/// During a write that hung, the agent used a whole core until systemd killed it.
#[test]
fn a_late_shutdown_causes_no_busy_loop() {
    let mut engine = Engine::new(Arc::new(List::default()), "boot-1".into(), 7);
    engine.begin(1000, 0);
    engine.handle_shutdown(1000);
    for _ in 0..3 {
        let Some(at_ms) = engine.poll_timeout() else { break };
        engine.handle_timeout(at_ms);
        assert!(engine.poll_timeout().is_none_or(|next| next > at_ms), "it spins at {at_ms}");
    }
    assert_eq!((engine.poll_timeout(), engine.is_finished(1 << 40)), (None, false));
}
