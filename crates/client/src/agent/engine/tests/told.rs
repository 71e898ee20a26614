//! The rules of telling, one by one: signs of life, results, and the numbers that order them.

use std::sync::Arc;

use bellwire_proto::limits::REV_MAX;

use super::bench::{Bench, FAILED, HUB_MS, event};
use super::world::List;
use super::*;

#[test]
fn signs_of_life_come_at_most_10_seconds_apart() {
    let mut bench = Bench::connected();
    let id = bench.running(1, "fail");
    let waiting = bench.command(2, "fail");
    bench.shown(waiting, ReportState::Accepted, DeliveryState::Accepted);
    for _ in 0..20 {
        bench.sleep(10_000);
        bench.answer(id, ReportState::Running, FAILED);
        bench.shown(waiting, ReportState::Accepted, DeliveryState::Accepted);
    }
}

/// One sign that a network swallowed left a silence as long as the run clock, and the hub gave up a
/// command that ran. An offer of 6 s was given 10, and so was a result.
#[test]
fn one_word_that_is_swallowed_leaves_a_silence_of_two_thirds_of_the_run_clock_at_most() {
    for run_timeout_s in [3, 6, 12, 30, 300] {
        for state in [ReportState::Accepted, ReportState::Running, ReportState::Succeeded] {
            let mut bench = Bench::connected();
            let heard_ms = bench.now_ms;
            bench.engine.handle_command(1000, CommandEvent { run_timeout_s, ..event(1, "fail") });
            bench.act();
            let id = event(1, "fail").id;
            if state != ReportState::Accepted {
                bench.shown(id, ReportState::Accepted, DeliveryState::Accepted);
                bench.shown(id, ReportState::Running, DeliveryState::Running);
                let sign_due_ms = bench.engine.poll_timeout().unwrap();
                bench.sleep(sign_due_ms - bench.now_ms - 1);
                match state {
                    // The next sign was about to leave.
                    ReportState::Succeeded => bench.succeeded(id),
                    _ => bench.sleep(1),
                }
            }
            let limit = bench.engine.post_limit(id);
            bench.sleep(limit.as_millis() as u64);
            bench.answer(id, state, FAILED);
            while bench.posts.is_empty() {
                bench.sleep(100);
            }
            let silent_ms = bench.now_ms - heard_ms;
            let most_ms = run_timeout_s * 2000 / 3;
            assert!(silent_ms <= most_ms, "{state:?}: {silent_ms} ms of {run_timeout_s} s");
        }
    }
}

/// A result that a network took longer than 10 s for was told for ever, and never arrived.
#[test]
fn a_result_gets_more_time_with_each_try_and_a_sign_does_not() {
    let mut bench = Bench::connected();
    let id = bench.running(1, "fail");
    let mut limits = Vec::new();
    for _ in 0..3 {
        bench.sleep(10_000);
        limits.push(bench.engine.post_limit(id).as_secs());
        bench.answer(id, ReportState::Running, FAILED);
    }
    bench.succeeded(id);
    for _ in 0..8 {
        limits.push(bench.engine.post_limit(id).as_secs());
        bench.answer(id, ReportState::Succeeded, FAILED);
        bench.sleep(60_000);
    }
    assert_eq!(limits, [10, 10, 10, 10, 20, 40, 80, 160, 300, 300, 300]);
}

/// While the network lost one result after the other the pause grew to a minute, and the hub gave up a command
/// that had long ended.
#[test]
fn a_result_is_told_as_often_as_a_sign_while_the_run_clock_may_be_running() {
    let mut bench = Bench::connected();
    let id = bench.running(1, "fail");
    bench.succeeded(id);
    let over_ms = bench.now_ms + 300_000;
    let (mut timed, mut free) = (Vec::new(), Vec::new());
    for _ in 0..60 {
        bench.answer(id, ReportState::Succeeded, FAILED);
        let since_ms = bench.now_ms;
        while bench.posts.is_empty() {
            bench.sleep(100);
        }
        let pauses = if since_ms < over_ms { &mut timed } else { &mut free };
        pauses.push(bench.now_ms - since_ms);
    }
    assert!(timed.len() >= 30 && timed.iter().all(|ms| *ms <= 10_000), "{timed:?}");
    assert!(free.iter().all(|ms| (30_000..=60_000).contains(ms)), "{free:?}");
}

/// Eight results that a network swallowed held all places, and a sign waited for them, and an offer.
#[test]
fn results_that_are_swallowed_hold_up_nothing_else() {
    let mut bench = Bench::connected();
    bench.hello(HUB_MS, 8);
    let running = bench.running(1, "rerun");
    for n in 2..=20 {
        bench.cancel(n);
    }
    assert_eq!(bench.posts.len(), 8, "results, none of which is answered");
    bench.sleep(10_000);
    let offered = bench.command(21, "rerun");
    let beside = bench.posts.iter().skip(8).map(|(_, id, report)| (*id, report.state));
    let expected = [(running, ReportState::Running), (offered, ReportState::Accepted)];
    assert_eq!(beside.collect::<Vec<_>>(), expected);
    // Where the hub lets more be under way, more results may hang.
    bench.hello(HUB_MS, 20);
    assert_eq!(bench.posts.len(), 19 + 2);
}

/// Eight results that came to nothing again and again kept their places, and the ninth was told two hours later.
#[test]
fn results_that_come_to_nothing_hold_up_no_new_one_and_take_turns() {
    let mut bench = Bench::connected();
    bench.hello(HUB_MS, 20);
    let old: Vec<_> = (1..=20).map(|n| bench.cancel(n)).collect();
    let mut told = Vec::new();
    for _ in 0..20 {
        while let Some((ticket, id, _)) = bench.posts.pop_front() {
            told.push(id);
            bench.engine.handle_answer(bench.now_ms, ticket, FAILED);
            bench.act();
        }
        bench.sleep(30_000);
    }
    let times = |id: &CommandId| told.iter().filter(|told| *told == id).count();
    let (least, most) = (old.iter().map(times).min(), old.iter().map(times).max());
    assert!(most <= least.map(|least| 2 * least), "from {least:?} to {most:?} times");
    // None of them is answered any more, and still a new one is told.
    bench.sleep(60_000);
    bench.posts.clear();
    let new = bench.running(21, "fail");
    bench.succeeded(new);
    bench.shown(new, ReportState::Succeeded, DeliveryState::Succeeded);
}

/// Whoever reports for this device can have shown any number: signs went on below it, the hub ignored them all,
/// and gave the command up.
#[test]
fn signs_pass_a_greater_rev_that_the_hub_shows() {
    let mut bench = Bench::connected();
    let id = bench.command(1, "fail");
    let seen = (1 << 40) + 12_345;
    let shown = Answer::Delivery { state: DeliveryState::Accepted, rev: seen };
    bench.answer(id, ReportState::Accepted, shown);
    let report = bench.shown(id, ReportState::Running, DeliveryState::Running);
    assert!(report.rev > Some(seen), "{:?}", report.rev);
    // What an answer shows of our own is nobody else's.
    let starts =
        |disk: &[Record]| disk.iter().filter(|r| matches!(r, Record::Begun { .. })).count();
    let before = starts(&bench.disk);
    bench.sleep(10_000);
    bench.shown(id, ReportState::Running, DeliveryState::Running);
    assert_eq!(starts(&bench.disk), before);
}

#[test]
fn however_often_the_hub_asks_two_reports_of_a_command_are_under_way_at_most() {
    let mut bench = Bench::connected();
    let id = bench.command(1, "fail");
    for _ in 0..100 {
        bench.command(1, "fail");
    }
    assert_eq!(bench.posts.len(), 2);
    let (ticket, ..) = bench.posts.pop_front().unwrap();
    bench.engine.handle_answer(bench.now_ms, ticket, FAILED);
    bench.act();
    assert_eq!(bench.posts.len(), 2, "the last word of the hub is answered when there is room");
    bench.posts.pop_front();
    bench.shown(id, ReportState::Accepted, DeliveryState::Accepted);
    assert_eq!(bench.started, [id]);
}

/// An offer whose answer was lost was told again ever more seldom, while the hub's run clock ran.
#[test]
fn an_offer_whose_answer_is_lost_is_told_again_as_often_as_a_sign() {
    let mut bench = Bench::connected();
    let id = bench.command(1, "fail");
    for _ in 0..100 {
        bench.answer(id, ReportState::Accepted, FAILED);
        let since_ms = bench.now_ms;
        while bench.posts.is_empty() {
            bench.sleep(100);
        }
        assert!(bench.now_ms - since_ms <= 10_000, "{} ms", bench.now_ms - since_ms);
    }
}

/// The pause doubled until it was shifted out of its number, and was none at all.
#[test]
fn however_often_a_result_comes_to_nothing_there_is_a_pause() {
    let mut bench = Bench::connected();
    let id = bench.running(1, "fail");
    bench.succeeded(id);
    for n in 0..200 {
        bench.answer(id, ReportState::Succeeded, FAILED);
        assert!(bench.posts.is_empty(), "after {n} failures");
        bench.sleep(60_000);
    }
}

#[test]
fn a_cancel_that_was_lost_is_seen_in_the_hubs_answer() {
    let mut bench = Bench::connected();
    let waiting = bench.command(1, "fail");
    bench.shown(waiting, ReportState::Accepted, DeliveryState::Cancelling);
    bench.shown(waiting, ReportState::Cancelled, DeliveryState::Cancelled);
    let id = bench.running(2, "fail");
    bench.sleep(10_000);
    bench.shown(id, ReportState::Running, DeliveryState::Cancelling);
    assert_eq!((bench.started, bench.stopped), (vec![id], vec![(id, Stop::Cancel)]));
}

#[test]
fn a_duplicate_is_told_again_with_a_new_rev_and_does_not_run_again() {
    let mut bench = Bench::connected();
    let id = bench.running(1, "fail");
    bench.succeeded(id);
    let first = bench.shown(id, ReportState::Succeeded, DeliveryState::Succeeded);
    bench.command(1, "fail");
    let again = bench.shown(id, ReportState::Succeeded, DeliveryState::Succeeded);
    assert!(again.rev > first.rev, "{:?} and {:?}", first.rev, again.rev);
    let mut bench = Bench::after(bench.disk, "boot-2", 50);
    bench.hello(HUB_MS, 1);
    bench.command(1, "fail");
    let later = bench.shown(id, ReportState::Succeeded, DeliveryState::Succeeded);
    assert!(later.rev > again.rev, "{:?} and {:?}", again.rev, later.rev);
    assert!(bench.started.is_empty());
}

#[test]
fn a_result_is_told_until_the_delivery_shows_it() {
    let mut bench = Bench::connected();
    let id = bench.running(1, "fail");
    bench.succeeded(id);
    // A hub that has seen a greater rev ignores this one: the journal is younger than the hub.
    let rev = 1 << 40;
    let first = bench.answer(
        id,
        ReportState::Succeeded,
        Answer::Delivery { state: DeliveryState::Running, rev },
    );
    bench.sleep(60_000);
    let second = bench.shown(id, ReportState::Succeeded, DeliveryState::Succeeded);
    assert!(first.rev.unwrap() < rev && second.rev.unwrap() > rev, "{:?}", second.rev);
    bench.sleep(100_000);
    assert!(bench.posts.is_empty());
}

#[test]
fn a_result_that_is_too_large_goes_once_more_without_output() {
    let mut bench = Bench::connected();
    let id = bench.running(1, "fail");
    bench.succeeded(id);
    let whole = bench.answer(id, ReportState::Succeeded, Answer::TooLarge);
    let thin = bench.shown(id, ReportState::Succeeded, DeliveryState::Succeeded);
    assert_eq!((whole.stdout.as_deref(), thin.stdout), (Some("out\n"), None));
    assert_eq!(thin.truncated, Some(true));
}

#[test]
fn a_refused_result_is_told_every_5_minutes_for_a_day_and_holds_up_no_other() {
    let mut bench = Bench::connected();
    let id = bench.running(1, "fail");
    bench.succeeded(id);
    bench.answer(id, ReportState::Succeeded, Answer::Unfit);
    let other = bench.running(2, "fail");
    bench.succeeded(other);
    bench.shown(other, ReportState::Succeeded, DeliveryState::Succeeded);
    let mut times = 1;
    for _ in 0..2000 {
        bench.sleep(60_000);
        if !bench.posts.is_empty() {
            bench.answer(id, ReportState::Succeeded, Answer::Unfit);
            times += 1;
        }
    }
    assert_eq!(times, 1 + 24 * 60 / 5);
    let bench = Bench::after(bench.disk, "boot-1", 50_000);
    assert!(bench.posts.is_empty(), "it is given up for good");
}

#[test]
fn retry_after_is_heeded() {
    let mut bench = Bench::connected();
    let id = bench.running(1, "fail");
    bench.succeeded(id);
    let busy = Answer::Failed { retry_after: Some(Duration::from_secs(7)) };
    bench.answer(id, ReportState::Succeeded, busy);
    bench.sleep(6999);
    assert!(bench.posts.is_empty());
    bench.sleep(1);
    bench.shown(id, ReportState::Succeeded, DeliveryState::Succeeded);
}

fn full() -> Progress {
    Progress::try_from(100.0).unwrap()
}

#[test]
fn a_result_says_how_far_it_came() {
    let mut bench = Bench::connected();
    let id = bench.running(1, "fail");
    bench.engine.handle_progress(bench.now_ms, id, full());
    bench.succeeded(id);
    let report = bench.shown(id, ReportState::Succeeded, DeliveryState::Succeeded);
    assert_eq!(report.progress, Some(full()));
}

#[test]
fn progress_is_told_within_a_second_and_no_more_often_than_that() {
    let mut bench = Bench::connected();
    let id = bench.running(1, "fail");
    let (start_ms, mut told) = (bench.now_ms, Vec::new());
    for percent in 0..=24 {
        let progress = Progress::try_from(f64::from(percent)).unwrap();
        bench.engine.handle_progress(bench.now_ms, id, progress);
        bench.sleep(100);
        if !bench.posts.is_empty() {
            let report = bench.shown(id, ReportState::Running, DeliveryState::Running);
            told.push((bench.now_ms - start_ms, report.progress.map(Progress::get)));
        }
    }
    assert_eq!(told, [(1000, Some(9.0)), (2000, Some(19.0))]);
}

#[test]
fn what_waits_gives_its_signs_though_posts_fail() {
    for busy in [None, Some(Duration::from_secs(200))] {
        let mut bench = Bench::connected();
        bench.running(1, "fail");
        let waiting = bench.command(2, "fail");
        bench.shown(waiting, ReportState::Accepted, DeliveryState::Accepted);
        let (mut last_ms, mut signs) = (bench.now_ms, 0);
        for _ in 0..3000 {
            bench.sleep(100);
            while let Some((ticket, command, _)) = bench.posts.pop_front() {
                if command == waiting {
                    assert!(bench.now_ms - last_ms <= 10_000, "{busy:?}");
                    (last_ms, signs) = (bench.now_ms, signs + 1);
                }
                let failed = Answer::Failed { retry_after: busy };
                bench.engine.handle_answer(bench.now_ms, ticket, failed);
                bench.act();
            }
        }
        assert!(signs >= 30, "{signs} signs in 300 s");
    }
}

/// A hub that answered 503 with `Retry-After: 0` was asked two thousand times a second.
#[test]
fn a_hub_that_says_at_once_is_not_asked_in_a_loop() {
    let mut bench = Bench::connected();
    let id = bench.running(1, "fail");
    bench.succeeded(id);
    let busy = Answer::Failed { retry_after: Some(Duration::ZERO) };
    let mut posts = 0;
    for _ in 0..600 {
        while let Some((ticket, command, _)) = bench.posts.pop_front() {
            assert_eq!(command, id);
            posts += 1;
            assert!(posts <= 10, "{posts} posts at {} ms", bench.now_ms);
            bench.engine.handle_answer(bench.now_ms, ticket, busy);
            bench.act();
        }
        bench.sleep(100);
    }
    assert!(posts >= 4, "{posts} in a minute");
}

/// After a restart the day began anew, so a device that is started each morning never gave up.
#[test]
fn a_refused_result_is_given_up_after_a_day_whatever_restarts() {
    let mut bench = Bench::connected();
    let id = bench.running(1, "fail");
    bench.succeeded(id);
    let mut hub_ms = HUB_MS;
    for (life, told) in [(1, true), (2, true), (3, false)] {
        bench.hello(hub_ms, 1);
        assert!(!bench.posts.is_empty(), "life {life}");
        bench.answer(id, ReportState::Succeeded, Answer::Unfit);
        bench.sleep(300_000);
        assert_eq!(!bench.posts.is_empty(), told, "life {life}");
        hub_ms += 12 * 3_600_000;
        bench = Bench::after(bench.disk, &format!("boot-{}", life + 1), 5);
    }
    assert!(bench.posts.is_empty(), "it is given up for good");
}

/// A hub that had begun in 1970 and learnt the time dropped what it had refused a minute before.
#[test]
fn a_hub_whose_clock_jumps_drops_no_refused_result() {
    let mut bench = Bench::connected();
    let id = bench.running(1, "fail");
    bench.succeeded(id);
    bench.answer(id, ReportState::Succeeded, Answer::Unfit);
    bench.hello(HUB_MS + 2 * 86_400_000, 1);
    bench.sleep(300_000);
    bench.answer(id, ReportState::Succeeded, Answer::Unfit);
    bench.sleep(300_000);
    bench.shown(id, ReportState::Succeeded, DeliveryState::Succeeded);
}

/// Two answers showed greater numbers; when the first new start was on disk, the second was used,
/// and used again after a power cut.
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
    engine.handle_hello(1000, HUB_MS, 3);
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
        engine.handle_answer(1000, ticket, Answer::Delivery { state: DeliveryState::Sent, rev });
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

/// One delivery that showed the greatest number there is made every later report of every command
/// one that the hub refuses, over restarts too.
#[test]
fn the_greatest_rev_at_the_hub_spoils_no_other_command() {
    let mut bench = Bench::connected();
    bench.hello(HUB_MS, 2);
    let id = bench.running(1, "fail");
    bench.succeeded(id);
    let shown = Answer::Delivery { state: DeliveryState::Running, rev: REV_MAX };
    bench.answer(id, ReportState::Succeeded, shown);
    let other = bench.running(2, "rerun");
    bench.succeeded(other);
    let report = bench.shown(other, ReportState::Succeeded, DeliveryState::Succeeded);
    assert!(report.rev.unwrap() < 1 << 40, "{:?}", report.rev);
    for _ in 0..25 * 60 {
        bench.sleep(60_000);
        while !bench.posts.is_empty() {
            let report = bench.answer(id, ReportState::Succeeded, shown);
            assert!(report.rev.unwrap() <= REV_MAX);
        }
    }
    assert_eq!(bench.engine.counts().0, 0, "what can never be told is given up after a day");
    // What an earlier version wrote of it is healed by a restart.
    bench.disk.push(Record::Begun { start: (REV_MAX + 1) >> 25 });
    let mut bench = Bench::after(bench.disk, "boot-2", 5);
    bench.hello(HUB_MS, 1);
    let id = bench.command(3, "fail");
    let report = bench.shown(id, ReportState::Accepted, DeliveryState::Accepted);
    assert!(report.rev.unwrap() < 1 << 40, "{:?}", report.rev);
}
