//! The rules that a simulation does not single out, one by one: what runs, when, and what a death
//! makes of it.

use std::sync::Arc;

use super::bench::{Bench, FAILED, HUB_MS, cancelled, code, event};
use super::world::List;
use super::*;
use crate::agent::run::Outcome;

#[test]
fn nothing_runs_before_the_hub_has_answered_to_accepted() {
    let mut bench = Bench::connected();
    let id = bench.command(1, "fail");
    for _ in 0..5 {
        bench.answer(id, ReportState::Accepted, FAILED);
        assert!(bench.started.is_empty() && bench.posts.is_empty());
        bench.sleep(60_000);
    }
    bench.shown(id, ReportState::Accepted, DeliveryState::Accepted);
    assert_eq!(bench.started, [id]);
}

#[test]
fn what_the_hub_has_ended_never_runs() {
    let ended = [
        DeliveryState::Expired,
        DeliveryState::TimedOut,
        DeliveryState::Cancelled,
        DeliveryState::Dead,
        DeliveryState::Succeeded,
    ];
    let shown = ended.map(|state| Answer::Delivery { state, rev: 0 });
    for (n, answer) in
        (1..).zip(shown.into_iter().chain([Answer::Conflict { state: None }, Answer::Gone]))
    {
        let mut bench = Bench::connected();
        let id = bench.command(n, "fail");
        bench.answer(id, ReportState::Accepted, answer);
        bench.sleep(100_000);
        assert!(bench.started.is_empty() && bench.posts.is_empty(), "{answer:?}");
        // Nor after a restart.
        let bench = Bench::after(bench.disk, "boot-1", 200_000);
        assert!(bench.posts.is_empty() && bench.sweeps.is_empty(), "{answer:?}");
    }
}

#[test]
fn a_command_that_waits_past_its_time_is_stale() {
    let mut bench = Bench::connected();
    let first = bench.running(1, "fail");
    let second = bench.command(2, "fail");
    bench.shown(second, ReportState::Accepted, DeliveryState::Accepted);
    bench.sleep(3_600_000);
    bench.shown(first, ReportState::Running, DeliveryState::Running);
    let report = bench.shown(second, ReportState::Rejected, DeliveryState::Rejected);
    assert_eq!(code(&report), Some("stale"));
}

#[test]
fn commands_start_in_the_order_of_the_hub_and_none_overtakes() {
    let mut bench = Bench::connected();
    bench.hello(HUB_MS, 3);
    let first = bench.running(1, "fail");
    // Another of the same action waits for it, and one of another action behind that too.
    let (second, third) = (bench.command(2, "fail"), bench.command(3, "rerun"));
    bench.shown(second, ReportState::Accepted, DeliveryState::Accepted);
    bench.shown(third, ReportState::Accepted, DeliveryState::Accepted);
    assert_eq!(bench.started, [first]);
    bench.succeeded(first);
    assert_eq!(bench.started, [first, second, third]);
}

#[test]
fn a_cancel_for_an_unknown_command_is_recorded_and_that_command_never_runs() {
    let mut bench = Bench::connected();
    let id = bench.cancel(1);
    bench.shown(id, ReportState::Cancelled, DeliveryState::Cancelled);
    let mut bench = Bench::after(bench.disk, "boot-1", 50_000);
    bench.hello(HUB_MS, 1);
    bench.command(1, "fail");
    bench.shown(id, ReportState::Cancelled, DeliveryState::Cancelled);
    assert!(bench.started.is_empty());
}

#[test]
fn a_cancelled_handler_is_stopped_and_one_that_had_ended_keeps_its_result() {
    let mut bench = Bench::connected();
    let id = bench.running(1, "fail");
    bench.cancel(1);
    assert_eq!(bench.stopped, [(id, Stop::Cancel)]);
    bench.ended(id, Ended::Stopped(cancelled("half")));
    let report = bench.shown(id, ReportState::Cancelled, DeliveryState::Cancelled);
    assert_eq!(report.stdout.as_deref(), Some("half"));

    let id = bench.running(2, "fail");
    bench.cancel(2);
    bench.succeeded(id);
    bench.shown(id, ReportState::Succeeded, DeliveryState::Succeeded);
}

#[test]
fn after_a_reboot_the_hubs_clock_is_waited_for() {
    let mut bench = Bench::connected();
    let id = bench.command(1, "fail");
    // A clock that began anew says nothing of what came before.
    let mut bench = Bench::after(bench.disk, "boot-2", 5);
    bench.shown(id, ReportState::Accepted, DeliveryState::Accepted);
    bench.sleep(100_000_000);
    assert!(bench.started.is_empty(), "the hub's clock is not known yet");
    bench.posts.clear();
    let mut late = Bench::after(bench.disk.clone(), "boot-3", 5);
    bench.hello(HUB_MS + 3_599_999, 1);
    assert_eq!(bench.started, [id]);
    late.hello(HUB_MS + 3_600_000, 1);
    late.answer(id, ReportState::Accepted, FAILED);
    let report = late.shown(id, ReportState::Rejected, DeliveryState::Rejected);
    assert_eq!(code(&report), Some("stale"));
}

#[test]
fn what_ran_when_the_agent_died_follows_on_restart() {
    for (action, boot, told, reason) in [
        ("fail", "boot-1", ReportState::Failed, Some("interrupted")),
        ("fail", "boot-2", ReportState::Failed, Some("interrupted")),
        ("succeed", "boot-1", ReportState::Failed, Some("interrupted")),
        ("succeed", "boot-2", ReportState::Succeeded, None),
    ] {
        let mut bench = Bench::connected();
        let id = bench.running(1, action);
        let mut bench = Bench::after(bench.disk, boot, 5);
        assert_eq!(bench.sweeps.len(), usize::from(action == "fail"), "{action} {boot}");
        if action == "fail" {
            bench.shown(id, ReportState::Running, DeliveryState::Running);
        }
        bench.swept(id);
        let (_, _, report) = bench.posts.pop_front().unwrap();
        assert_eq!((report.state, code(&report)), (told, reason), "{action} {boot}");
        assert!(bench.started.is_empty());
    }
}

#[test]
fn a_command_is_run_again_three_times_at_most_and_after_its_remains_are_dead() {
    let mut bench = Bench::connected();
    let id = bench.running(1, "rerun");
    for _ in 0..3 {
        bench = Bench::after(bench.disk, "boot-1", 2000);
        assert_eq!((&bench.sweeps[..], &bench.started[..]), (&[id][..], &[][..]));
        bench.swept(id);
        bench.answer(id, ReportState::Running, FAILED);
        assert_eq!(bench.started, [id]);
    }
    bench = Bench::after(bench.disk, "boot-1", 2000);
    bench.shown(id, ReportState::Running, DeliveryState::Running);
    bench.swept(id);
    assert!(bench.started.is_empty());
    let report = bench.shown(id, ReportState::Failed, DeliveryState::Failed);
    assert_eq!(code(&report), Some("interrupted"));
}

#[test]
fn a_shutdown_takes_nothing_new_and_gives_handlers_half_a_minute() {
    let mut bench = Bench::connected();
    let id = bench.running(1, "fail");
    bench.engine.handle_shutdown(bench.now_ms);
    bench.act();
    assert_eq!(bench.stopped, [(id, Stop::Shutdown)]);
    let written = bench.disk.len();
    bench.command(2, "fail");
    assert_eq!((bench.disk.len(), bench.posts.len()), (written, 0), "the hub keeps it");
    bench.sleep(29_999);
    assert!(!bench.engine.is_over(bench.now_ms) && bench.stopped.len() == 1);
    bench.posts.clear();
    bench.sleep(1);
    assert_eq!(bench.stopped.last(), Some(&(id, Stop::Kill)));
    bench.ended(id, Ended::Stopped(Outcome::failed("interrupted", "killed")));
    let report = bench.shown(id, ReportState::Failed, DeliveryState::Failed);
    assert_eq!(code(&report), Some("interrupted"));
    assert!(bench.engine.is_over(bench.now_ms));
}

/// What a handler that is killed says of it.
fn killed() -> Ended {
    Ended::Stopped(Outcome::failed("interrupted", "killed"))
}

#[test]
fn the_last_words_of_a_shutdown_have_5_seconds_and_those_of_a_second_one_2_in_all() {
    let mut bench = Bench::connected();
    let id = bench.running(1, "fail");
    bench.engine.handle_shutdown(bench.now_ms);
    bench.sleep(30_000);
    bench.posts.clear();
    bench.ended(id, killed());
    bench.sleep(4999);
    assert!(!bench.engine.is_over(bench.now_ms), "the hub has not answered yet");
    bench.sleep(1);
    assert!(bench.engine.is_over(bench.now_ms), "the next life tells it");

    let mut bench = Bench::connected();
    let id = bench.running(2, "fail");
    bench.engine.handle_shutdown(bench.now_ms);
    bench.sleep(10_000);
    bench.engine.handle_shutdown(bench.now_ms);
    bench.act();
    assert_eq!(bench.stopped.last(), Some(&(id, Stop::Kill)));
    bench.posts.clear();
    bench.ended(id, killed());
    let is_end =
        |record: &Record| matches!(record, Record::Ended { command, .. } if *command == id);
    assert!(bench.disk.iter().any(is_end), "it is written down all the same");
    bench.sleep(1999);
    assert!(!bench.engine.is_over(bench.now_ms), "the hub has not answered yet");
    bench.sleep(1);
    assert!(bench.engine.is_over(bench.now_ms));
}

/// Told twice to stop while a start was on its way to the disk, it let the handler run for 30 s.
#[test]
fn what_was_about_to_start_at_a_second_shutdown_does_not_and_is_told_as_interrupted() {
    let mut bench = Bench::connected();
    let id = bench.command(1, "fail");
    let (ticket, _, report) = bench.posts.pop_front().unwrap();
    let shown = Answer::Delivery { state: DeliveryState::Accepted, rev: report.rev.unwrap() };
    bench.engine.handle_answer(bench.now_ms, ticket, shown);
    bench.engine.handle_shutdown(bench.now_ms);
    bench.engine.handle_shutdown(bench.now_ms);
    bench.act();
    assert!(bench.started.is_empty());
    let report = bench.shown(id, ReportState::Failed, DeliveryState::Failed);
    assert_eq!(code(&report), Some("interrupted"));
    assert!(bench.engine.is_over(bench.now_ms));
}

/// What the hub would have kept for its time to live was accepted by an agent that was about to end.
#[test]
fn an_agent_that_is_told_to_stop_offers_nothing_more() {
    let mut bench = Bench::connected();
    bench.hello(HUB_MS, 2);
    let running = bench.running(1, "fail");
    let offered = bench.command(2, "rerun");
    bench.engine.handle_shutdown(bench.now_ms);
    bench.answer(offered, ReportState::Accepted, FAILED);
    bench.sleep(10_000);
    bench.shown(running, ReportState::Running, DeliveryState::Running);
    assert!(bench.posts.is_empty(), "{:?}", bench.posts);
    bench.succeeded(running);
    bench.shown(running, ReportState::Succeeded, DeliveryState::Succeeded);
    assert!(bench.engine.is_over(bench.now_ms));
    let mut next = Bench::after(bench.disk, "boot-1", 20_000);
    next.shown(offered, ReportState::Accepted, DeliveryState::Accepted);
}

#[test]
fn a_handler_is_told_how_often_the_hub_has_sent_its_command() {
    let mut bench = Bench::connected();
    let id = bench.command(1, "fail");
    bench.posts.clear();
    let again = CommandEvent { attempt: 3, ..event(1, "fail") };
    bench.engine.handle_command(bench.now_ms, again);
    bench.act();
    bench.shown(id, ReportState::Accepted, DeliveryState::Accepted);
    assert_eq!((&bench.started[..], &bench.attempts[..]), (&[id][..], &[3][..]));
}

#[test]
fn a_cancelled_handler_that_a_shutdown_ends_is_cancelled() {
    let mut bench = Bench::connected();
    let id = bench.running(1, "rerun");
    bench.cancel(1);
    bench.engine.handle_shutdown(bench.now_ms);
    bench.act();
    bench.ended(id, killed());
    let report = bench.shown(id, ReportState::Cancelled, DeliveryState::Cancelled);
    assert_eq!(code(&report), None, "nothing has gone wrong");
}

#[test]
fn a_handler_that_says_it_was_stopped_when_nobody_stopped_it_has_ended() {
    let mut bench = Bench::connected();
    let id = bench.running(1, "rerun");
    let half = Progress::try_from(50.0).unwrap();
    bench.engine.handle_progress(bench.now_ms, id, half);
    bench.ended(id, killed());
    let report = bench.shown(id, ReportState::Failed, DeliveryState::Failed);
    assert_eq!(report.progress, Some(half));
}

#[test]
fn a_rerun_that_a_shutdown_ends_is_left_to_the_next_life() {
    let mut bench = Bench::connected();
    let id = bench.running(1, "rerun");
    bench.engine.handle_shutdown(bench.now_ms);
    bench.act();
    bench.ended(id, Ended::Stopped(Outcome::failed("interrupted", "signal 15 ended it")));
    assert!(bench.posts.is_empty() && bench.engine.is_over(bench.now_ms));
    let mut bench = Bench::after(bench.disk, "boot-1", 5000);
    bench.swept(id);
    bench.shown(id, ReportState::Running, DeliveryState::Running);
    assert_eq!(bench.started, [id]);
}

/// After a restart a younger command overtook a rerun, and ran beside what was left of it.
#[test]
fn what_is_left_of_a_run_holds_up_what_is_younger_until_it_is_dead() {
    let mut bench = Bench::connected();
    bench.hello(HUB_MS, 2);
    let first = bench.running(1, "rerun");
    let second = bench.command(2, "rerun");
    bench.shown(second, ReportState::Accepted, DeliveryState::Accepted);
    assert_eq!(bench.started, [first], "one of an action at a time");
    let mut bench = Bench::after(bench.disk, "boot-1", 2000);
    bench.hello(HUB_MS, 2);
    bench.shown(first, ReportState::Running, DeliveryState::Running);
    bench.shown(second, ReportState::Accepted, DeliveryState::Accepted);
    assert_eq!((bench.sweeps.as_slice(), bench.started.len()), ([first].as_slice(), 0));
    bench.swept(first);
    bench.shown(first, ReportState::Running, DeliveryState::Running);
    assert_eq!(bench.started, [first]);
}

/// What was left of a younger run did not count: an older command of the action was started beside it.
#[test]
fn what_is_left_of_a_run_takes_a_place_until_it_is_dead() {
    let mut bench = Bench::connected();
    let younger = bench.running(2, "fail");
    let older = bench.command(1, "fail");
    bench.shown(older, ReportState::Accepted, DeliveryState::Accepted);
    let mut bench = Bench::after(bench.disk, "boot-1", 2000);
    bench.hello(HUB_MS, 2);
    bench.shown(older, ReportState::Accepted, DeliveryState::Accepted);
    assert!(bench.started.is_empty(), "the younger one's processes live");
    bench.swept(younger);
    assert_eq!(bench.started, [older]);
}

#[test]
fn while_the_remains_of_a_run_are_being_killed_the_hub_hears_of_it() {
    let mut bench = Bench::connected();
    let id = bench.running(1, "fail");
    let mut bench = Bench::after(bench.disk, "boot-1", 2000);
    for _ in 0..3 {
        bench.shown(id, ReportState::Running, DeliveryState::Running);
        assert!(bench.posts.is_empty());
        bench.sleep(10_000);
    }
}

/// An operator ended a command by force while its agent was dead; the agent came back and began the
/// work anew.
#[test]
fn a_rerun_asks_the_hub_first_and_does_not_run_if_that_has_ended_it() {
    let ended = [DeliveryState::Cancelled, DeliveryState::TimedOut, DeliveryState::Failed];
    let shown = ended.map(|state| Answer::Delivery { state, rev: 0 });
    let conflict = Answer::Conflict { state: Some(DeliveryState::Cancelled) };
    let no = [conflict, Answer::Gone, Answer::Unfit];
    for (n, answer) in (1..).zip(shown.into_iter().chain(no)) {
        let mut bench = Bench::connected();
        let id = bench.running(n, "rerun");
        let mut bench = Bench::after(bench.disk, "boot-1", 2000);
        bench.swept(id);
        bench.answer(id, ReportState::Running, answer);
        assert!(bench.started.is_empty(), "{answer:?}");
        let report = bench.answer(id, ReportState::Failed, conflict);
        assert_eq!(code(&report), Some("interrupted"), "{answer:?}");
        bench.sleep(100_000);
        assert!(bench.posts.is_empty(), "{answer:?}");
    }
    // A hub that asks for its end is told `cancelled`; one that is away does not hold it up.
    let mut bench = Bench::connected();
    let id = bench.running(9, "rerun");
    let disk = bench.disk;
    let mut bench = Bench::after(disk.clone(), "boot-1", 2000);
    bench.swept(id);
    bench.shown(id, ReportState::Running, DeliveryState::Cancelling);
    bench.shown(id, ReportState::Cancelled, DeliveryState::Cancelled);
    assert!(bench.started.is_empty());
    let mut bench = Bench::after(disk, "boot-1", 2000);
    bench.swept(id);
    assert!(bench.started.is_empty());
    bench.answer(id, ReportState::Running, FAILED);
    assert_eq!(bench.started, [id]);
}

#[test]
fn what_an_operator_ended_by_force_is_stopped_and_what_only_timed_out_goes_on() {
    for (state, stops) in [
        (DeliveryState::Cancelled, true),
        (DeliveryState::TimedOut, false),
        (DeliveryState::Expired, false),
        (DeliveryState::Dead, false),
    ] {
        for answer in
            [Answer::Conflict { state: Some(state) }, Answer::Delivery { state, rev: 1 << 40 }]
        {
            let mut bench = Bench::connected();
            let id = bench.running(1, "fail");
            bench.sleep(10_000);
            bench.answer(id, ReportState::Running, answer);
            assert_eq!(bench.stopped.len(), usize::from(stops), "{answer:?}");
            bench.sleep(10_000);
            bench.answer(id, ReportState::Running, answer);
            assert_eq!(bench.stopped.len(), usize::from(stops), "{answer:?}, told again");
        }
    }
}

/// Where the kernel's name of the boot could not be read, each crash of the agent was a reboot.
#[test]
fn a_boot_without_a_name_is_no_reboot() {
    let unnamed = |n| Bench::after(Vec::new(), &format!("start-{n:016x}"), 1000);
    for (before, after) in [("boot-1", "start-1"), ("start-1", "boot-1"), ("start-1", "start-2")] {
        let mut bench = unnamed(1);
        if before == "boot-1" {
            bench = Bench::new();
        }
        bench.hello(HUB_MS, 1);
        let id = bench.running(1, "succeed");
        let mut bench = Bench::after(bench.disk, after, 2000);
        let report = bench.shown(id, ReportState::Failed, DeliveryState::Failed);
        assert_eq!(code(&report), Some("interrupted"), "{before} and {after}");
    }
}

#[test]
fn what_waits_is_judged_by_the_list_as_it_is_when_its_turn_comes() {
    let narrow = List { narrow: true, ..List::default() };
    let mut bench = Bench::connected();
    let ran = bench.running(1, "rerun");
    let waits = bench.command(2, "fail");
    bench.shown(waits, ReportState::Accepted, DeliveryState::Accepted);
    let mut bench = Bench::with(narrow, bench.disk, "boot-1", 2000, 0);
    bench.hello(HUB_MS, 2);
    bench.shown(ran, ReportState::Running, DeliveryState::Running);
    bench.shown(waits, ReportState::Accepted, DeliveryState::Accepted);
    bench.swept(ran);
    bench.shown(ran, ReportState::Running, DeliveryState::Running);
    let report = bench.shown(ran, ReportState::Failed, DeliveryState::Failed);
    assert_eq!(code(&report), Some("interrupted"), "it may not run again with these data");
    let report = bench.shown(waits, ReportState::Rejected, DeliveryState::Rejected);
    assert_eq!(code(&report), Some("invalid_params"));
    // What the list said of a run that was cut off holds, whatever it says of data now.
    let mut booted = Bench::connected();
    let id = booted.running(3, "succeed");
    let narrow = List { narrow: true, ..List::default() };
    let mut booted = Bench::with(narrow, booted.disk, "boot-2", 2000, 0);
    booted.shown(id, ReportState::Succeeded, DeliveryState::Succeeded);

    let off = List { off: Some("fail"), ..List::default() };
    let mut other = Bench::connected();
    let id = other.command(4, "fail");
    let mut other = Bench::with(off, other.disk, "boot-1", 2000, 0);
    other.shown(id, ReportState::Accepted, DeliveryState::Accepted);
    let report = other.shown(id, ReportState::Rejected, DeliveryState::Rejected);
    assert_eq!(code(&report), Some("unknown_action"));
    assert_eq!((bench.started.len(), booted.started.len(), other.started.len()), (0, 0, 0));
}

/// With a write that hung, the agent took a whole core until systemd killed it.
#[test]
fn an_end_that_is_late_wakes_nobody_any_more() {
    let mut engine = Engine::new(Arc::new(List::default()), "boot-1".into(), 7);
    engine.begin(1000, 0);
    engine.handle_shutdown(1000);
    for _ in 0..3 {
        let Some(at_ms) = engine.poll_timeout() else { break };
        engine.handle_timeout(at_ms);
        assert!(engine.poll_timeout().is_none_or(|next| next > at_ms), "it spins at {at_ms}");
    }
    assert_eq!((engine.poll_timeout(), engine.is_over(1 << 40)), (None, false));
}
