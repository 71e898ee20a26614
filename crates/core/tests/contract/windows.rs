//! Section 3, "Maintenance windows": a command is sent only while its window is open. When local times occur is the hub
//! crate's calendar; here a window opens every so many seconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bellwire_core::{Calendar, Config, Send};
use bellwire_proto::ReportState as R;
use bellwire_proto::{DeliveryState, Members, RolloutPlan, Seconds, Window};

use crate::calendar::every;
use crate::harness::{Harness, config_with_calendar};

const NOTHING: [&str; 0] = [];

/// A hub, so many minutes after a whole hour.
fn harness(minutes: u64) -> Harness {
    let mut harness = Harness::with(config_with_calendar());
    harness.pass_to_hour();
    harness.pass(minutes as f64 * 60.0);
    harness
}

/// Open in the first ten minutes of every hour.
fn window(send: &mut Send) {
    let window = Window { cron: "3600".to_owned(), minutes: 10, timezone: "UTC".to_owned() };
    send.window = Some(Arc::new(window));
    send.ttl = Some(Seconds::new(86_400));
}

#[test]
fn a_command_waits_for_its_window_and_holds_back_no_other() {
    let mut harness = harness(20);
    let stream = harness.listen("kiosk");
    let first = harness.try_send("kiosk", window).unwrap().command;
    let row = harness.row(first);
    let opening = row.scheduled_at.unwrap();
    assert_eq!((row.state, opening.unix_ms() % 3_600_000), (DeliveryState::Queued, 0));
    let second = harness.send("kiosk");
    assert_eq!(harness.received(stream), ["command 2 #1"]);
    harness.report("kiosk", second, R::Succeeded);
    harness.pass(40.0 * 60.0 - 0.1);
    assert_eq!(harness.received(stream), NOTHING, "closed");
    harness.pass(0.1);
    assert_eq!(harness.received(stream), ["command 1 #1"], "as it opens");
    // While it is open, it has its place by age.
    harness.report("kiosk", first, R::Accepted);
    harness.try_send("kiosk", window).unwrap();
    harness.send("kiosk");
    harness.report("kiosk", first, R::Succeeded);
    assert_eq!(harness.received(stream), ["command 3 #1"]);
}

#[test]
fn what_was_sent_goes_on_when_the_window_closes_and_what_is_queued_again_waits() {
    let mut harness = harness(9);
    harness.pass(40.0);
    let stream = harness.listen("kiosk");
    let other = harness.listen("other");
    let [sent, runs] = ["kiosk", "other"].map(|to| harness.try_send(to, window).unwrap().command);
    assert_eq!(harness.received(stream), ["command 1 #1"]);
    assert_eq!(harness.received(other), ["command 2 #1"]);
    harness.report("other", runs, R::Accepted);
    harness.pass(19.0);
    // One is lost with its stream just before the end, and the device is back after it.
    harness.close(stream);
    harness.pass(2.0);
    assert_eq!(harness.report("other", runs, R::Succeeded).state, DeliveryState::Succeeded);
    let stream = harness.listen("kiosk");
    assert_eq!(harness.received(stream), NOTHING);
    assert!(harness.row(sent).awaits_window, "{:?}", harness.row(sent));
    harness.pass(50.0 * 60.0);
    assert_eq!(harness.received(stream), ["command 1 #2"]);
}

#[test]
fn a_device_that_was_away_while_the_window_was_open_gets_it_in_the_next() {
    let mut harness = harness(20);
    let command = harness.try_send("kiosk", window).unwrap().command;
    let later = harness.send("kiosk");
    // It opens at 60 and closes at 70; the device comes at 75.
    harness.pass(55.0 * 60.0);
    let stream = harness.listen("kiosk");
    assert_eq!(harness.received(stream), ["command 2 #1"], "the younger is not held back");
    harness.report("kiosk", later, R::Succeeded);
    harness.pass(45.0 * 60.0 - 0.1);
    assert_eq!(harness.received(stream), NOTHING);
    harness.pass(0.1);
    assert_eq!(harness.received(stream), ["command 1 #1"]);
    assert_eq!(harness.state(command), DeliveryState::Sent);
}

#[test]
fn the_ttl_goes_on_while_the_window_is_closed() {
    let mut harness = harness(20);
    let _stream = harness.listen("kiosk");
    let short = |send: &mut Send| {
        window(send);
        send.ttl = Some(Seconds::new(600));
    };
    let command = harness.try_send("kiosk", short).unwrap().command;
    harness.pass(599.0);
    assert_eq!(harness.state(command), DeliveryState::Queued);
    harness.pass(1.1);
    assert_eq!(harness.state(command), DeliveryState::Expired);
    // From its not_before on.
    let at = harness.now.wall.after(Duration::from_secs(900));
    let later = |send: &mut Send| {
        short(send);
        send.not_before = Some(at);
    };
    let command = harness.try_send("kiosk", later).unwrap().command;
    harness.pass(901.0);
    assert!(harness.row(command).awaits_window, "closed when its time comes");
    harness.pass(598.0);
    assert_eq!(harness.state(command), DeliveryState::Queued);
    harness.pass(1.1);
    assert_eq!(harness.state(command), DeliveryState::Expired);
}

#[test]
fn what_waits_for_its_window_survives_a_restart_at_any_time() {
    let mut harness = harness(20);
    let [away, missed] = [(); 2].map(|()| harness.try_send("kiosk", window).unwrap().command);
    harness.restart_with(config_with_calendar());
    let stream = harness.listen("kiosk");
    assert_eq!(harness.received(stream), NOTHING);
    harness.pass(40.0 * 60.0);
    assert_eq!(harness.received(stream), ["command 1 #1"]);
    // What it had sent is queued again by the restart, and the window has closed meanwhile.
    harness.let_pass_unnoticed(Duration::from_secs(660));
    harness.restart_with(config_with_calendar());
    let stream = harness.listen("kiosk");
    assert_eq!(harness.received(stream), NOTHING);
    harness.pass(49.0 * 60.0);
    assert_eq!(harness.received(stream), ["command 1 #2"]);
    harness.report("kiosk", away, R::Succeeded);
    assert_eq!(harness.received(stream), ["command 2 #1"]);
    assert_eq!(harness.state(missed), DeliveryState::Sent);
}

#[test]
fn a_command_to_many_waits_for_the_window_and_those_that_wait_are_sent_in_their_order() {
    let mut harness = harness(20);
    let names = ["a", "b", "c"];
    let streams = names.map(|name| harness.listen(name));
    let [first, _] = [(); 2].map(|()| harness.send_to(&names, window));
    harness.pass(40.0 * 60.0 - 0.1);
    streams.iter().for_each(|stream| assert_eq!(harness.received(*stream), NOTHING));
    harness.pass(0.1);
    for (name, stream) in names.iter().zip(streams) {
        assert_eq!(harness.received(stream), ["command 1 #1"]);
        harness.report(name, first, R::Succeeded);
        assert_eq!(harness.received(stream), ["command 2 #1"]);
    }
}

#[test]
fn each_batch_of_a_rollout_begins_while_the_window_is_open() {
    let mut harness = harness(20);
    let names = ["a", "b", "c"];
    names.iter().for_each(|name| harness.register(name, &[]));
    let rollout = harness.send_to(&names, |send| {
        window(send);
        send.ttl = Some(Seconds::new(60));
        let mut body = Members::parse(br#"{"batch":2}"#).unwrap();
        send.rollout = Some(Box::new(RolloutPlan::take(&mut body).unwrap()));
    });
    harness.pass(40.0 * 60.0 - 0.1);
    assert!(harness.store.disk.deliveries.is_empty(), "no batch has begun");
    harness.restart_with(config_with_calendar());
    let streams = names.map(|name| harness.listen(name));
    harness.pass(0.1);
    let sent: Vec<usize> = streams.iter().map(|stream| harness.received(*stream).len()).collect();
    assert_eq!(sent, [1, 1, 0]);
    // The first batch ends when the window has closed.
    ["a", "b"].iter().for_each(|name| drop(harness.report(name, rollout, R::Accepted)));
    harness.pass(250.0);
    harness.report("a", rollout, R::Succeeded);
    harness.report("b", rollout, R::Running);
    harness.pass(250.0);
    harness.report("b", rollout, R::Running);
    harness.pass(110.0);
    harness.report("b", rollout, R::Failed);
    harness.pass(49.0 * 60.0);
    assert_eq!(harness.received(streams[2]), NOTHING);
    harness.pass(60.0);
    assert_eq!(harness.received(streams[2]).len(), 1, "its ttl counts from the batch");
}

/// Each of 60 rollouts that waited had its expression read again with every send, which took 27 ms of a processor then.
#[test]
fn rollouts_that_wait_for_their_window_ask_the_calendar_once_and_not_with_every_call() {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    let calendar = Calendar(|cron, zone, after| {
        ASKED.fetch_add(1, Ordering::Relaxed);
        every(cron, zone, after)
    });
    let mut harness = Harness::with(Config { calendar, ..Config::default() });
    harness.pass_to_hour();
    harness.pass(20.0 * 60.0);
    for n in 0..20 {
        let (one, other) = (format!("r{n}"), format!("s{n}"));
        harness.send_to(&[&one, &other], |send| {
            window(send);
            let mut body = Members::parse(br#"{"batch":1}"#).unwrap();
            send.rollout = Some(Box::new(RolloutPlan::take(&mut body).unwrap()));
        });
    }
    harness.pass(1.0);
    let before = ASKED.load(Ordering::Relaxed);
    assert_eq!(before, 20, "each was looked up once");
    for n in 0..100 {
        harness.send(&format!("d{n}"));
        harness.pass(1.0);
    }
    assert_eq!(ASKED.load(Ordering::Relaxed), before, "sends have nothing to do with windows");
    // A clock that is set back shows another opening, and one that has passed is not the next any more.
    harness.step_wall_clock(-2 * 3600);
    assert!(harness.store.disk.rollouts.values().all(|rollout| rollout.batch == 0));
    harness.pass_to_hour();
    assert!(harness.store.disk.rollouts.values().all(|rollout| rollout.batch == 1), "it opens");
}

#[test]
fn the_deliveries_of_a_command_to_many_ask_the_calendar_once_together() {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    let calendar = Calendar(|cron, zone, after| {
        ASKED.fetch_add(1, Ordering::Relaxed);
        every(cron, zone, after)
    });
    let mut harness = Harness::with(Config { calendar, ..Config::default() });
    harness.pass_to_hour();
    harness.pass(20.0 * 60.0);
    let names: Vec<String> = (0..100).map(|n| format!("d{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    harness.send_to(&names, window);
    let rows: Vec<_> = harness.store.disk.deliveries.values().collect();
    assert!(rows.len() == 100 && rows.iter().all(|row| row.awaits_window), "all wait");
    assert_eq!(ASKED.load(Ordering::Relaxed), 1);
}
