//! Section 4, the long-poll form.

use bellwire_core::Config;
use bellwire_proto::DeliveryState;
use bellwire_proto::ReportState as R;

use crate::harness::Harness;

const NOTHING: [&str; 0] = [];

#[test]
fn a_poll_is_answered_as_soon_as_there_is_something_to_send() {
    let mut harness = Harness::new();
    let poll = harness.poll("kiosk");
    harness.pass(10.0);
    assert!(!harness.is_answered(poll));
    let command = harness.send("kiosk");
    assert_eq!(harness.polled(poll), ["command 1 #1"]);
    let poll = harness.poll("kiosk");
    harness.cancel(command, false).unwrap();
    assert_eq!(harness.polled(poll), ["cancel 1"]);
}

#[test]
fn a_poll_is_answered_with_empty_lists_after_its_wait_and_at_once_if_that_is_0() {
    let mut harness = Harness::new();
    let poll = harness.poll_with("kiosk", 25, None);
    harness.pass(24.999);
    assert!(!harness.is_answered(poll));
    harness.pass(0.001);
    assert_eq!(harness.polled(poll), NOTHING);
    let poll = harness.poll_with("kiosk", 0, None);
    assert_eq!(harness.polled(poll), NOTHING);
}

#[test]
fn a_poll_without_wait_receives_what_is_queued() {
    let mut harness = Harness::with(Config { max_in_flight: 2, ..Config::default() });
    harness.send_many("kiosk", 3);
    let poll = harness.poll_with("kiosk", 0, None);
    assert_eq!(harness.polled(poll), ["command 1 #1", "command 2 #1"]);
}

#[test]
fn a_newer_poll_ends_a_waiting_older_one_with_empty_lists() {
    let mut harness = Harness::new();
    let older = harness.poll("kiosk");
    let newer = harness.poll("kiosk");
    assert_eq!(harness.polled(older), NOTHING);
    harness.send("kiosk");
    assert_eq!(harness.polled(newer), ["command 1 #1"]);
}

#[test]
fn a_poll_and_a_stream_run_side_by_side_and_receive_the_same_attempt() {
    let mut harness = Harness::new();
    let stream = harness.listen("kiosk");
    let poll = harness.poll("kiosk");
    let command = harness.send("kiosk");
    assert_eq!(harness.received(stream), ["command 1 #1"]);
    assert_eq!(harness.polled(poll), ["command 1 #1"]);
    let poll = harness.poll("kiosk");
    harness.cancel(command, false).unwrap();
    assert_eq!(harness.received(stream), ["cancel 1"]);
    assert_eq!(harness.polled(poll), ["cancel 1"]);
}

#[test]
fn a_stream_that_opens_leaves_a_waiting_poll_alone() {
    let mut harness = Harness::new();
    let poll = harness.poll("kiosk");
    let stream = harness.listen("kiosk");
    assert!(!harness.is_answered(poll));
    harness.close(stream);
    assert!(!harness.is_answered(poll));
}

#[test]
fn what_a_poll_carried_too_is_not_queued_again_when_the_stream_is_lost() {
    let mut harness = Harness::new();
    let stream = harness.listen("kiosk");
    harness.poll("kiosk");
    let command = harness.send("kiosk");
    harness.close(stream);
    assert_eq!(harness.state(command), DeliveryState::Sent);
}

#[test]
fn what_was_sent_comes_again_after_its_lease() {
    let mut harness = Harness::new();
    harness.send("kiosk");
    let poll = harness.poll("kiosk");
    assert_eq!(harness.polled(poll), ["command 1 #1"]);
    let poll = harness.poll("kiosk");
    harness.pass(24.0);
    assert!(!harness.is_answered(poll));
    harness.pass(1.0);
    assert_eq!(harness.polled(poll), NOTHING);
    let poll = harness.poll("kiosk");
    harness.pass(5.9);
    assert!(!harness.is_answered(poll), "30 s, and 1 s of backoff");
    harness.pass(0.1);
    assert_eq!(harness.polled(poll), ["command 1 #2"]);
}

#[test]
fn what_was_sent_comes_again_at_once_if_its_seq_is_above_last_event_id() {
    let mut harness = Harness::new();
    let command = harness.send("kiosk");
    harness.poll("kiosk");
    let poll = harness.poll_with("kiosk", 25, Some(1));
    assert!(!harness.is_answered(poll), "it has arrived");
    let poll = harness.poll_with("kiosk", 25, Some(0));
    assert_eq!(harness.polled(poll), ["command 1 #2"]);
    assert_eq!(harness.row(command).counted, 0);
}

#[test]
fn what_only_an_unconfirmed_stream_carried_comes_again_at_once() {
    let mut harness = Harness::new();
    let command = harness.send("kiosk");
    let stream = harness.listen_unconfirmed("kiosk");
    harness.received(stream);
    let poll = harness.poll("kiosk");
    assert_eq!(harness.polled(poll), ["command 1 #2"]);
    assert_eq!(harness.received(stream), ["command 1 #2"], "a copy of the same sending");
    assert_eq!(harness.row(command).counted, 0);
}

#[test]
fn a_cancel_comes_again_after_one_lease() {
    let mut harness = Harness::new();
    let command = harness.send("kiosk");
    harness.poll("kiosk");
    harness.cancel(command, false).unwrap();
    let poll = harness.poll("kiosk");
    assert_eq!(harness.polled(poll), ["cancel 1"]);
    let poll = harness.poll("kiosk");
    harness.pass(25.0);
    assert_eq!(harness.polled(poll), NOTHING);
    harness.pass(5.0);
    let poll = harness.poll("kiosk");
    assert_eq!(harness.polled(poll), ["cancel 1"]);
}

#[test]
fn what_was_accepted_does_not_come_again() {
    let mut harness = Harness::new();
    let command = harness.send("kiosk");
    harness.poll("kiosk");
    harness.report("kiosk", command, R::Accepted);
    let poll = harness.poll_with("kiosk", 0, Some(0));
    assert_eq!(harness.polled(poll), NOTHING);
}

#[test]
fn a_poll_counts_as_presence_for_40_s_from_its_answer() {
    let mut harness = Harness::new();
    harness.poll_with("kiosk", 25, None);
    harness.pass(25.0 + 39.9);
    assert!(harness.online("kiosk"));
    harness.pass(0.1);
    assert!(!harness.online("kiosk"));
}
