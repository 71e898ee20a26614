//! The rules of reporting, one by one: keepalives, results, and the numbers that order them.

use std::sync::Arc;

use bellwire_proto::limits::REV_MAX;

use super::fixture::{FAILED, Fixture, HUB_MS, event};
use super::world::List;
use super::*;

#[test]
fn keepalive_reports_are_at_most_10_seconds_apart() {
    let mut fixture = Fixture::connected();
    let id = fixture.running(1, "fail");
    let waiting = fixture.command(2, "fail");
    fixture.confirmed(waiting, ReportState::Accepted, DeliveryState::Accepted);
    for _ in 0..20 {
        fixture.sleep(10_000);
        fixture.answer(id, ReportState::Running, FAILED);
        fixture.confirmed(waiting, ReportState::Accepted, DeliveryState::Accepted);
    }
}

/// One lost keepalive left a gap as long as the run clock, and the hub timed out a command that ran. An offer of
/// 6 s was given 10 s, and so was a result.
#[test]
fn one_lost_report_leaves_a_gap_of_two_thirds_of_the_run_clock_at_most() {
    for run_timeout_s in [3, 6, 12, 30, 300] {
        for state in [ReportState::Accepted, ReportState::Running, ReportState::Succeeded] {
            let mut fixture = Fixture::connected();
            let last_report_ms = fixture.now_ms;
            fixture.engine.handle_command(1000, CommandEvent { run_timeout_s, ..event(1, "fail") });
            fixture.act();
            let id = event(1, "fail").id;
            if state != ReportState::Accepted {
                fixture.confirmed(id, ReportState::Accepted, DeliveryState::Accepted);
                fixture.confirmed(id, ReportState::Running, DeliveryState::Running);
                let keepalive_due_ms = fixture.engine.poll_timeout().unwrap();
                fixture.sleep(keepalive_due_ms - fixture.now_ms - 1);
                match state {
                    // The next keepalive was about to be sent.
                    ReportState::Succeeded => fixture.succeeded(id),
                    _ => fixture.sleep(1),
                }
            }
            let limit = fixture.engine.post_limit(id);
            fixture.sleep(limit.as_millis() as u64);
            fixture.answer(id, state, FAILED);
            while fixture.posts.is_empty() {
                fixture.sleep(100);
            }
            let silent_ms = fixture.now_ms - last_report_ms;
            let most_ms = run_timeout_s * 2000 / 3;
            assert!(silent_ms <= most_ms, "{state:?}: {silent_ms} ms of {run_timeout_s} s");
        }
    }
}

/// A result that took longer than 10 s on a slow network was sent for ever, and never arrived.
#[test]
fn a_result_gets_more_time_with_each_try_and_a_keepalive_does_not() {
    let mut fixture = Fixture::connected();
    let id = fixture.running(1, "fail");
    let mut limits = Vec::new();
    for _ in 0..3 {
        fixture.sleep(10_000);
        limits.push(fixture.engine.post_limit(id).as_secs());
        fixture.answer(id, ReportState::Running, FAILED);
    }
    fixture.succeeded(id);
    for _ in 0..8 {
        limits.push(fixture.engine.post_limit(id).as_secs());
        fixture.answer(id, ReportState::Succeeded, FAILED);
        fixture.sleep(60_000);
    }
    assert_eq!(limits, [10, 10, 10, 10, 20, 40, 80, 160, 300, 300, 300]);
}

/// While the network lost one result after the other the pause grew to a minute, and the hub timed out a command
/// that had long ended.
#[test]
fn a_result_is_reported_as_often_as_a_keepalive_while_the_run_clock_may_run() {
    let mut fixture = Fixture::connected();
    let id = fixture.running(1, "fail");
    fixture.succeeded(id);
    let over_ms = fixture.now_ms + 300_000;
    let (mut timed, mut free) = (Vec::new(), Vec::new());
    for _ in 0..60 {
        fixture.answer(id, ReportState::Succeeded, FAILED);
        let since_ms = fixture.now_ms;
        while fixture.posts.is_empty() {
            fixture.sleep(100);
        }
        let pauses = if since_ms < over_ms { &mut timed } else { &mut free };
        pauses.push(fixture.now_ms - since_ms);
    }
    assert!(timed.len() >= 30 && timed.iter().all(|ms| *ms <= 10_000), "{timed:?}");
    assert!(free.iter().all(|ms| (30_000..=60_000).contains(ms)), "{free:?}");
}

/// Eight lost results occupied all slots, and a keepalive and an offer waited for them.
#[test]
fn lost_results_block_no_other_report() {
    let mut fixture = Fixture::connected();
    fixture.hello(HUB_MS, 8);
    let running = fixture.running(1, "rerun");
    for n in 2..=20 {
        fixture.cancel(n);
    }
    assert_eq!(fixture.posts.len(), 8, "results, none of which is answered");
    fixture.sleep(10_000);
    let offered = fixture.command(21, "rerun");
    let beside = fixture.posts.iter().skip(8).map(|(_, id, report)| (*id, report.state));
    let expected = [(running, ReportState::Running), (offered, ReportState::Accepted)];
    assert_eq!(beside.collect::<Vec<_>>(), expected);
    // A greater `max_in_flight` of the hub allows more results in flight.
    fixture.hello(HUB_MS, 20);
    assert_eq!(fixture.posts.len(), 19 + 2);
}

/// Eight results that failed again and again kept their slots, and the ninth was reported two hours later.
#[test]
fn failing_results_block_no_new_one_and_alternate() {
    let mut fixture = Fixture::connected();
    fixture.hello(HUB_MS, 20);
    let old: Vec<_> = (1..=20).map(|n| fixture.cancel(n)).collect();
    let mut reported = Vec::new();
    for _ in 0..20 {
        while let Some((ticket, id, _)) = fixture.posts.pop_front() {
            reported.push(id);
            fixture.engine.handle_answer(fixture.now_ms, ticket, FAILED);
            fixture.act();
        }
        fixture.sleep(30_000);
    }
    let times = |id: &CommandId| reported.iter().filter(|reported| *reported == id).count();
    let (least, most) = (old.iter().map(times).min(), old.iter().map(times).max());
    assert!(most <= least.map(|least| 2 * least), "from {least:?} to {most:?} times");
    // None of them is answered any more, and a new one is reported nevertheless.
    fixture.sleep(60_000);
    fixture.posts.clear();
    let new = fixture.running(21, "fail");
    fixture.succeeded(new);
    fixture.confirmed(new, ReportState::Succeeded, DeliveryState::Succeeded);
}

/// Any client that may report for this device can set any number: keepalives continued below it, the hub ignored
/// them all and timed the command out.
#[test]
fn keepalives_exceed_a_greater_rev_that_the_hub_shows() {
    let mut fixture = Fixture::connected();
    let id = fixture.command(1, "fail");
    let seen = (1 << 40) + 12_345;
    let confirmed = ReportAnswer::Delivery { state: DeliveryState::Accepted, rev: seen };
    fixture.answer(id, ReportState::Accepted, confirmed);
    let report = fixture.confirmed(id, ReportState::Running, DeliveryState::Running);
    assert!(report.rev > Some(seen), "{:?}", report.rev);
    // A `rev` of our own in an answer is not exceeded.
    let starts =
        |disk: &[Record]| disk.iter().filter(|r| matches!(r, Record::Begun { .. })).count();
    let before = starts(&fixture.disk);
    fixture.sleep(10_000);
    fixture.confirmed(id, ReportState::Running, DeliveryState::Running);
    assert_eq!(starts(&fixture.disk), before);
}

#[test]
fn however_often_the_hub_asks_two_reports_of_a_command_are_under_way_at_most() {
    let mut fixture = Fixture::connected();
    let id = fixture.command(1, "fail");
    for _ in 0..100 {
        fixture.command(1, "fail");
    }
    assert_eq!(fixture.posts.len(), 2);
    let (ticket, ..) = fixture.posts.pop_front().unwrap();
    fixture.engine.handle_answer(fixture.now_ms, ticket, FAILED);
    fixture.act();
    assert_eq!(fixture.posts.len(), 2, "the hub's last request is answered when a slot is free");
    fixture.posts.pop_front();
    fixture.confirmed(id, ReportState::Accepted, DeliveryState::Accepted);
    assert_eq!(fixture.started, [id]);
}

/// An offer whose answer was lost was repeated ever more seldom, while the hub's run clock ran.
#[test]
fn an_offer_whose_answer_is_lost_is_repeated_as_often_as_a_keepalive() {
    let mut fixture = Fixture::connected();
    let id = fixture.command(1, "fail");
    for _ in 0..100 {
        fixture.answer(id, ReportState::Accepted, FAILED);
        let since_ms = fixture.now_ms;
        while fixture.posts.is_empty() {
            fixture.sleep(100);
        }
        assert!(fixture.now_ms - since_ms <= 10_000, "{} ms", fixture.now_ms - since_ms);
    }
}

/// The pause doubled until the shift overflowed, and became zero.
#[test]
fn however_often_a_result_fails_there_is_a_pause() {
    let mut fixture = Fixture::connected();
    let id = fixture.running(1, "fail");
    fixture.succeeded(id);
    for n in 0..200 {
        fixture.answer(id, ReportState::Succeeded, FAILED);
        assert!(fixture.posts.is_empty(), "after {n} failures");
        fixture.sleep(60_000);
    }
}

#[test]
fn a_cancel_that_was_lost_is_seen_in_the_hubs_answer() {
    let mut fixture = Fixture::connected();
    let waiting = fixture.command(1, "fail");
    fixture.confirmed(waiting, ReportState::Accepted, DeliveryState::Cancelling);
    fixture.confirmed(waiting, ReportState::Cancelled, DeliveryState::Cancelled);
    let id = fixture.running(2, "fail");
    fixture.sleep(10_000);
    fixture.confirmed(id, ReportState::Running, DeliveryState::Cancelling);
    assert_eq!((fixture.started, fixture.stopped), (vec![id], vec![(id, Stop::Cancel)]));
}

#[test]
fn a_duplicate_is_reported_again_with_a_new_rev_and_does_not_run_again() {
    let mut fixture = Fixture::connected();
    let id = fixture.running(1, "fail");
    fixture.succeeded(id);
    let first = fixture.confirmed(id, ReportState::Succeeded, DeliveryState::Succeeded);
    fixture.command(1, "fail");
    let again = fixture.confirmed(id, ReportState::Succeeded, DeliveryState::Succeeded);
    assert!(again.rev > first.rev, "{:?} and {:?}", first.rev, again.rev);
    let mut fixture = Fixture::after(fixture.disk, "boot-2", 50);
    fixture.hello(HUB_MS, 1);
    fixture.command(1, "fail");
    let later = fixture.confirmed(id, ReportState::Succeeded, DeliveryState::Succeeded);
    assert!(later.rev > again.rev, "{:?} and {:?}", again.rev, later.rev);
    assert!(fixture.started.is_empty());
}

#[test]
fn a_result_is_reported_until_the_delivery_shows_it() {
    let mut fixture = Fixture::connected();
    let id = fixture.running(1, "fail");
    fixture.succeeded(id);
    // A hub with a greater rev ignores this one: the journal is younger than the hub's state.
    let rev = 1 << 40;
    let first = fixture.answer(
        id,
        ReportState::Succeeded,
        ReportAnswer::Delivery { state: DeliveryState::Running, rev },
    );
    fixture.sleep(60_000);
    let second = fixture.confirmed(id, ReportState::Succeeded, DeliveryState::Succeeded);
    assert!(first.rev.unwrap() < rev && second.rev.unwrap() > rev, "{:?}", second.rev);
    fixture.sleep(100_000);
    assert!(fixture.posts.is_empty());
}

#[test]
fn a_result_that_is_too_large_continuesce_more_without_output() {
    let mut fixture = Fixture::connected();
    let id = fixture.running(1, "fail");
    fixture.succeeded(id);
    let whole = fixture.answer(id, ReportState::Succeeded, ReportAnswer::TooLarge);
    let reduced = fixture.confirmed(id, ReportState::Succeeded, DeliveryState::Succeeded);
    assert_eq!((whole.outcome.stdout.as_deref(), reduced.outcome.stdout), (Some("out\n"), None));
    assert_eq!(reduced.outcome.truncated, Some(true));
}

#[test]
fn a_rejected_result_is_reported_every_5_minutes_for_a_day_and_blocks_no_other() {
    let mut fixture = Fixture::connected();
    let id = fixture.running(1, "fail");
    fixture.succeeded(id);
    fixture.answer(id, ReportState::Succeeded, ReportAnswer::PermanentRejection);
    let other = fixture.running(2, "fail");
    fixture.succeeded(other);
    fixture.confirmed(other, ReportState::Succeeded, DeliveryState::Succeeded);
    let mut times = 1;
    for _ in 0..2000 {
        fixture.sleep(60_000);
        if !fixture.posts.is_empty() {
            fixture.answer(id, ReportState::Succeeded, ReportAnswer::PermanentRejection);
            times += 1;
        }
    }
    assert_eq!(times, 1 + 24 * 60 / 5);
    let fixture = Fixture::after(fixture.disk, "boot-1", 50_000);
    assert!(fixture.posts.is_empty(), "it is given up for good");
}

#[test]
fn retry_after_is_respected() {
    let mut fixture = Fixture::connected();
    let id = fixture.running(1, "fail");
    fixture.succeeded(id);
    let busy = ReportAnswer::Failed { retry_after: Some(Duration::from_secs(7)) };
    fixture.answer(id, ReportState::Succeeded, busy);
    fixture.sleep(6999);
    assert!(fixture.posts.is_empty());
    fixture.sleep(1);
    fixture.confirmed(id, ReportState::Succeeded, DeliveryState::Succeeded);
}

fn full() -> Progress {
    Progress::try_from(100.0).unwrap()
}

#[test]
fn a_result_says_how_far_it_came() {
    let mut fixture = Fixture::connected();
    let id = fixture.running(1, "fail");
    fixture.engine.handle_progress(fixture.now_ms, id, full());
    fixture.succeeded(id);
    let report = fixture.confirmed(id, ReportState::Succeeded, DeliveryState::Succeeded);
    assert_eq!(report.outcome.progress, Some(full()));
}

#[test]
fn progress_is_reported_within_a_second_and_no_more_often_than_that() {
    let mut fixture = Fixture::connected();
    let id = fixture.running(1, "fail");
    let (start_ms, mut reported) = (fixture.now_ms, Vec::new());
    for percent in 0..=24 {
        let progress = Progress::try_from(f64::from(percent)).unwrap();
        fixture.engine.handle_progress(fixture.now_ms, id, progress);
        fixture.sleep(100);
        if !fixture.posts.is_empty() {
            let report = fixture.confirmed(id, ReportState::Running, DeliveryState::Running);
            reported.push((fixture.now_ms - start_ms, report.outcome.progress.map(Progress::get)));
        }
    }
    assert_eq!(reported, [(1000, Some(9.0)), (2000, Some(19.0))]);
}

#[test]
fn waiting_commands_send_keepalives_though_posts_fail() {
    for busy in [None, Some(Duration::from_secs(200))] {
        let mut fixture = Fixture::connected();
        fixture.running(1, "fail");
        let waiting = fixture.command(2, "fail");
        fixture.confirmed(waiting, ReportState::Accepted, DeliveryState::Accepted);
        let (mut last_ms, mut reports) = (fixture.now_ms, 0);
        for _ in 0..3000 {
            fixture.sleep(100);
            while let Some((ticket, command, _)) = fixture.posts.pop_front() {
                if command == waiting {
                    assert!(fixture.now_ms - last_ms <= 10_000, "{busy:?}");
                    (last_ms, reports) = (fixture.now_ms, reports + 1);
                }
                let failed = ReportAnswer::Failed { retry_after: busy };
                fixture.engine.handle_answer(fixture.now_ms, ticket, failed);
                fixture.act();
            }
        }
        assert!(reports >= 30, "{reports} reports in 300 s");
    }
}

/// A hub that answered 503 with `Retry-After: 0` received two thousand requests a second.
#[test]
fn a_retry_after_of_zero_causes_no_busy_loop() {
    let mut fixture = Fixture::connected();
    let id = fixture.running(1, "fail");
    fixture.succeeded(id);
    let busy = ReportAnswer::Failed { retry_after: Some(Duration::ZERO) };
    let mut posts = 0;
    for _ in 0..600 {
        while let Some((ticket, command, _)) = fixture.posts.pop_front() {
            assert_eq!(command, id);
            posts += 1;
            assert!(posts <= 10, "{posts} posts at {} ms", fixture.now_ms);
            fixture.engine.handle_answer(fixture.now_ms, ticket, busy);
            fixture.act();
        }
        fixture.sleep(100);
    }
    assert!(posts >= 4, "{posts} in a minute");
}

/// Two answers showed greater numbers; when the first new start number was on disk, the second one was used, and
/// used again after a power cut.
#[test]
fn no_rev_is_used_before_its_start_number_is_on_disk() {
    let mut engine = Engine::new(Arc::new(List::default()), "boot-1".into(), 7);
    engine.begin(1000, 0);
    let (mut writes, mut posts, mut disk) = (VecDeque::new(), VecDeque::new(), Vec::new());
    let drain = |engine: &mut Engine, writes: &mut VecDeque<_>, posts: &mut VecDeque<_>| {
        while let Some(output) = engine.poll_output() {
            match output {
                Output::Write { ticket, records, .. } => writes.push_back((ticket, records)),
                Output::Post { ticket, report, .. } => posts.push_back((ticket, report)),
                _ => {}
            }
        }
    };
    engine.handle_hello(1000, (HUB_MS, HUB_MS), 3);
    for n in 1..=2 {
        engine.handle_command(1000, event(n, "fail"));
    }
    drain(&mut engine, &mut writes, &mut posts);
    while let Some((ticket, records)) = writes.pop_front() {
        disk.extend(records);
        engine.handle_written(1000, ticket, 0);
        drain(&mut engine, &mut writes, &mut posts);
    }
    assert_eq!(posts.len(), 2);
    for rev in [1 << 40, 1 << 41] {
        let (ticket, _) = posts.pop_front().unwrap();
        engine.handle_answer(
            1000,
            ticket,
            ReportAnswer::Delivery { state: DeliveryState::Sent, rev },
        );
        drain(&mut engine, &mut writes, &mut posts);
    }
    let (ticket, records) = writes.pop_front().unwrap();
    assert_eq!(writes.len(), 1, "the second start number is on its way");
    disk.extend(records);
    engine.handle_written(1000, ticket, 0);
    engine.handle_timeout(10_000);
    drain(&mut engine, &mut writes, &mut posts);
    assert!(posts.is_empty(), "used before it was on disk: {posts:?}");
    let (ticket, _) = writes.pop_front().unwrap();
    engine.handle_written(10_000, ticket, 0);
    drain(&mut engine, &mut writes, &mut posts);
    assert!(posts.iter().all(|(_, report)| report.rev.unwrap() > 1 << 41) && posts.len() == 2);
}

/// One delivery with the greatest number made the hub reject every later report of every command, over restarts
/// too.
#[test]
fn the_greatest_rev_at_the_hub_blocks_no_other_command() {
    let mut fixture = Fixture::connected();
    fixture.hello(HUB_MS, 2);
    let id = fixture.running(1, "fail");
    fixture.succeeded(id);
    let confirmed = ReportAnswer::Delivery { state: DeliveryState::Running, rev: REV_MAX };
    fixture.answer(id, ReportState::Succeeded, confirmed);
    let other = fixture.running(2, "rerun");
    fixture.succeeded(other);
    let report = fixture.confirmed(other, ReportState::Succeeded, DeliveryState::Succeeded);
    assert!(report.rev.unwrap() < 1 << 40, "{:?}", report.rev);
    for _ in 0..25 * 60 {
        fixture.sleep(60_000);
        while !fixture.posts.is_empty() {
            let report = fixture.answer(id, ReportState::Succeeded, confirmed);
            assert!(report.rev.unwrap() <= REV_MAX);
        }
    }
    assert_eq!(fixture.engine.counts().0, 0, "what can never be reported is dropped after a day");
    // What an earlier version wrote is corrected by a restart.
    fixture.disk.push(Record::Begun { start: (REV_MAX + 1) >> 25, clock: None });
    let mut fixture = Fixture::after(fixture.disk, "boot-2", 5);
    fixture.hello(HUB_MS, 1);
    let id = fixture.command(3, "fail");
    let report = fixture.confirmed(id, ReportState::Accepted, DeliveryState::Accepted);
    assert!(report.rev.unwrap() < 1 << 40, "{:?}", report.rev);
}
