//! Section 2, "Order", "attempt", "Lease": which command is sent next, and when one is sent again.

use std::time::Duration;

use bellwire_core::Config;
use bellwire_proto::ReportState as R;
use bellwire_proto::{DeliveryState, Report, Seconds};

use crate::harness::Harness;

const NOTHING: [&str; 0] = [];

fn nack(retry_after_s: u64) -> Report {
    Report { retry_after_s: Some(retry_after_s), ..Report::of(R::Nack) }
}

#[test]
fn commands_of_a_device_are_sent_one_after_the_other_oldest_first() {
    let mut harness = Harness::new();
    let [first, second, _] = [(); 3].map(|()| harness.send("kiosk"));
    let stream = harness.listen("kiosk");
    assert_eq!(harness.received(stream), ["command 1 #1"]);
    for state in [R::Accepted, R::Running] {
        harness.report("kiosk", first, state);
        assert_eq!(harness.received(stream), NOTHING, "{state:?} has not ended");
    }
    harness.report("kiosk", first, R::Succeeded);
    assert_eq!(harness.received(stream), ["command 2 #1"]);
    harness.report("kiosk", second, R::Rejected);
    assert_eq!(harness.received(stream), ["command 3 #1"]);
}

#[test]
fn as_many_are_under_way_as_max_in_flight_says() {
    let mut harness = Harness::with(Config { max_in_flight: 2, ..Config::default() });
    let stream = harness.listen("kiosk");
    let [_, second, _] = [(); 3].map(|()| harness.send("kiosk"));
    assert_eq!(harness.received(stream), ["command 1 #1", "command 2 #1"]);
    harness.report("kiosk", second, R::Failed);
    assert_eq!(harness.received(stream), ["command 3 #1"]);
}

#[test]
fn devices_do_not_wait_for_each_other() {
    let mut harness = Harness::new();
    let streams = ["kiosk", "till"].map(|who| harness.listen(who));
    harness.send("kiosk");
    harness.send("till");
    assert_eq!(streams.map(|s| harness.received(s)), [["command 1 #1"], ["command 2 #1"]]);
}

#[test]
fn one_that_waits_after_a_nack_holds_back_the_younger() {
    let mut harness = Harness::new();
    let stream = harness.listen("kiosk");
    let first = harness.send("kiosk");
    harness.send("kiosk");
    harness.received(stream);
    let answer = harness.report_with("kiosk", first, nack(5)).unwrap();
    assert_eq!((answer.state, answer.attempt), (DeliveryState::Queued, 1));
    harness.pass(4.9);
    assert_eq!(harness.received(stream), NOTHING);
    harness.pass(0.1);
    assert_eq!(harness.received(stream), ["command 1 #2"]);
}

#[test]
fn one_that_waits_after_a_lease_holds_back_the_younger() {
    let mut harness = Harness::new();
    let stream = harness.listen("kiosk");
    harness.send("kiosk");
    harness.send("kiosk");
    harness.received(stream);
    harness.pass(30.9);
    assert_eq!(harness.received(stream), NOTHING);
    harness.pass(0.1);
    assert_eq!(harness.received(stream), ["command 1 #2"]);
}

#[test]
fn one_that_waits_for_not_before_does_not_hold_back_the_younger() {
    let mut harness = Harness::new();
    let stream = harness.listen("kiosk");
    let later = harness.now.wall.after(Duration::from_secs(10));
    harness.try_send("kiosk", |send| send.not_before = Some(later)).unwrap();
    let second = harness.send("kiosk");
    assert_eq!(harness.received(stream), ["command 2 #1"]);
    harness.report("kiosk", second, R::Succeeded);
    harness.pass(9.9);
    assert_eq!(harness.received(stream), NOTHING);
    harness.pass(0.1);
    assert_eq!(harness.received(stream), ["command 1 #1"]);
}

#[test]
fn a_lease_that_has_elapsed_on_a_live_stream_is_a_counted_attempt_with_a_doubling_wait() {
    let mut harness = Harness::new();
    let stream = harness.listen("kiosk");
    let command =
        harness.try_send("kiosk", |send| send.ttl = Some(Seconds::new(86_400))).unwrap().command;
    for failures in 1..=9 {
        assert_eq!(harness.received(stream), [format!("command 1 #{failures}")]);
        harness.pass(30.0);
        assert_eq!(
            (harness.state(command), harness.row(command).counted),
            (DeliveryState::Queued, failures)
        );
        let wait_s = f64::from(2u32.pow(failures - 1).min(60));
        harness.pass(wait_s - 0.001);
        assert_eq!(harness.received(stream), NOTHING, "{wait_s} s after failure {failures}");
        harness.pass(0.001);
    }
    assert_eq!(harness.received(stream), ["command 1 #10"]);
    harness.pass(30.0);
    let row = harness.row(command);
    assert_eq!((row.state, row.attempt), (DeliveryState::Dead, 10));
    assert_eq!(row.outcome.error.as_ref().unwrap().code, "dead");
}

#[test]
fn a_nack_waits_as_a_lease_does_unless_it_says_how_long() {
    let mut harness = Harness::new();
    let stream = harness.listen("kiosk");
    let command = harness.send("kiosk");
    for (wait_s, attempt) in [(1.0, 2), (2.0, 3), (4.0, 4)] {
        harness.received(stream);
        harness.report("kiosk", command, R::Nack);
        harness.pass(wait_s - 0.001);
        assert_eq!(harness.received(stream), NOTHING);
        harness.pass(0.001);
        assert_eq!(harness.received(stream), [format!("command 1 #{attempt}")]);
    }
    harness.report_with("kiosk", command, nack(0)).unwrap();
    assert_eq!(harness.received(stream), ["command 1 #5"]);
    assert_eq!(harness.row(command).counted, 4);
}

#[test]
fn the_lease_is_of_sent_alone_what_was_accepted_is_not_sent_again() {
    let mut harness = Harness::new();
    let stream = harness.listen("kiosk");
    let command = harness.send("kiosk");
    harness.report("kiosk", command, R::Accepted);
    harness.received(stream);
    harness.pass(200.0);
    let newer = harness.listen("kiosk");
    assert_eq!(harness.received(newer), NOTHING);
    assert_eq!(harness.state(command), DeliveryState::Accepted);
}

#[test]
fn a_lost_stream_queues_again_at_once_and_uncounted() {
    let mut harness = Harness::new();
    let stream = harness.listen("kiosk");
    let command = harness.send("kiosk");
    harness.close(stream);
    assert_eq!((harness.state(command), harness.row(command).counted), (DeliveryState::Queued, 0));
    let newer = harness.listen("kiosk");
    assert_eq!(harness.received(newer), ["command 1 #2"]);
}

#[test]
fn the_failure_of_the_hundredth_sending_makes_it_dead() {
    let mut harness = Harness::new();
    let command = harness.send("kiosk");
    for sending in 1..=100 {
        let stream = harness.listen("kiosk");
        assert_eq!(harness.received(stream), [format!("command 1 #{sending}")]);
        harness.close(stream);
    }
    let row = harness.row(command);
    assert_eq!((row.state, row.attempt, row.counted), (DeliveryState::Dead, 100, 0));
    let stream = harness.listen("kiosk");
    assert_eq!(harness.received(stream), NOTHING);
}

#[test]
fn a_lease_that_has_elapsed_without_a_listener_is_not_counted() {
    let mut harness = Harness::with(Config { lease: Duration::from_secs(60), ..Config::default() });
    let command = harness.send("kiosk");
    let poll = harness.poll("kiosk");
    assert_eq!(harness.polled(poll), ["command 1 #1"]);
    harness.pass(61.0);
    let poll = harness.poll("kiosk");
    assert_eq!(harness.polled(poll), ["command 1 #2"]);
    assert_eq!(harness.row(command).counted, 0, "the poll was more than 40 s ago");
}

#[test]
fn a_lease_that_has_elapsed_within_40_s_of_a_poll_is_counted() {
    let mut harness = Harness::new();
    let command = harness.send("kiosk");
    harness.poll("kiosk");
    harness.pass(30.0);
    assert_eq!((harness.state(command), harness.row(command).counted), (DeliveryState::Queued, 1));
}

#[test]
fn after_a_restart_sent_is_queued_again_uncounted() {
    let mut harness = Harness::new();
    let stream = harness.listen("kiosk");
    let command = harness.send("kiosk");
    assert_eq!(harness.received(stream), ["command 1 #1"]);
    harness.restart();
    assert_eq!((harness.state(command), harness.row(command).counted), (DeliveryState::Queued, 0));
    let stream = harness.listen("kiosk");
    assert_eq!(harness.received(stream), ["command 1 #2"]);
}
