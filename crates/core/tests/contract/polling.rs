//! Section 4, the long-poll form.

use bellwire_core::Config;
use bellwire_proto::DeliveryState;
use bellwire_proto::ReportState as R;

use crate::stage::Stage;

const NOTHING: [&str; 0] = [];

#[test]
fn a_poll_is_answered_as_soon_as_there_is_something_to_tell() {
    let mut stage = Stage::new();
    let poll = stage.poll("kiosk");
    stage.pass(10.0);
    assert!(!stage.is_answered(poll));
    let command = stage.send("kiosk");
    assert_eq!(stage.polled(poll), ["command 1 #1"]);
    let poll = stage.poll("kiosk");
    stage.cancel(command, false).unwrap();
    assert_eq!(stage.polled(poll), ["cancel 1"]);
}

#[test]
fn a_poll_is_answered_with_empty_lists_after_its_wait_and_at_once_if_that_is_0() {
    let mut stage = Stage::new();
    let poll = stage.poll_with("kiosk", 25, None);
    stage.pass(24.999);
    assert!(!stage.is_answered(poll));
    stage.pass(0.001);
    assert_eq!(stage.polled(poll), NOTHING);
    let poll = stage.poll_with("kiosk", 0, None);
    assert_eq!(stage.polled(poll), NOTHING);
}

#[test]
fn a_poll_without_wait_is_told_what_is_queued() {
    let mut stage = Stage::with(Config { max_in_flight: 2, ..Config::default() });
    stage.send_many("kiosk", 3);
    let poll = stage.poll_with("kiosk", 0, None);
    assert_eq!(stage.polled(poll), ["command 1 #1", "command 2 #1"]);
}

#[test]
fn a_newer_poll_ends_a_waiting_older_one_with_empty_lists() {
    let mut stage = Stage::new();
    let older = stage.poll("kiosk");
    let newer = stage.poll("kiosk");
    assert_eq!(stage.polled(older), NOTHING);
    stage.send("kiosk");
    assert_eq!(stage.polled(newer), ["command 1 #1"]);
}

#[test]
fn a_poll_and_a_stream_run_side_by_side_and_hear_the_same_attempt() {
    let mut stage = Stage::new();
    let stream = stage.listen("kiosk");
    let poll = stage.poll("kiosk");
    let command = stage.send("kiosk");
    assert_eq!(stage.hears(stream), ["command 1 #1"]);
    assert_eq!(stage.polled(poll), ["command 1 #1"]);
    let poll = stage.poll("kiosk");
    stage.cancel(command, false).unwrap();
    assert_eq!(stage.hears(stream), ["cancel 1"]);
    assert_eq!(stage.polled(poll), ["cancel 1"]);
}

#[test]
fn a_stream_that_opens_leaves_a_waiting_poll_alone() {
    let mut stage = Stage::new();
    let poll = stage.poll("kiosk");
    let stream = stage.listen("kiosk");
    assert!(!stage.is_answered(poll));
    stage.close(stream);
    assert!(!stage.is_answered(poll));
}

#[test]
fn what_a_poll_carried_too_is_not_queued_again_when_the_stream_is_lost() {
    let mut stage = Stage::new();
    let stream = stage.listen("kiosk");
    stage.poll("kiosk");
    let command = stage.send("kiosk");
    stage.close(stream);
    assert_eq!(stage.state(command), DeliveryState::Sent);
}

#[test]
fn what_was_sent_comes_again_after_its_lease() {
    let mut stage = Stage::new();
    stage.send("kiosk");
    let poll = stage.poll("kiosk");
    assert_eq!(stage.polled(poll), ["command 1 #1"]);
    let poll = stage.poll("kiosk");
    stage.pass(24.0);
    assert!(!stage.is_answered(poll));
    stage.pass(1.0);
    assert_eq!(stage.polled(poll), NOTHING);
    let poll = stage.poll("kiosk");
    stage.pass(5.9);
    assert!(!stage.is_answered(poll), "30 s, and 1 s of backoff");
    stage.pass(0.1);
    assert_eq!(stage.polled(poll), ["command 1 #2"]);
}

#[test]
fn what_was_sent_comes_again_at_once_if_its_seq_is_above_last_event_id() {
    let mut stage = Stage::new();
    let command = stage.send("kiosk");
    stage.poll("kiosk");
    let poll = stage.poll_with("kiosk", 25, Some(1));
    assert!(!stage.is_answered(poll), "it has arrived");
    let poll = stage.poll_with("kiosk", 25, Some(0));
    assert_eq!(stage.polled(poll), ["command 1 #2"]);
    assert_eq!(stage.row(command).counted, 0);
}

#[test]
fn what_only_an_unconfirmed_stream_carried_comes_again_at_once() {
    let mut stage = Stage::new();
    let command = stage.send("kiosk");
    let stream = stage.listen_unconfirmed("kiosk");
    stage.hears(stream);
    let poll = stage.poll("kiosk");
    assert_eq!(stage.polled(poll), ["command 1 #2"]);
    assert_eq!(stage.hears(stream), ["command 1 #2"], "a copy of the same sending");
    assert_eq!(stage.row(command).counted, 0);
}

#[test]
fn a_cancel_comes_again_after_one_lease() {
    let mut stage = Stage::new();
    let command = stage.send("kiosk");
    stage.poll("kiosk");
    stage.cancel(command, false).unwrap();
    let poll = stage.poll("kiosk");
    assert_eq!(stage.polled(poll), ["cancel 1"]);
    let poll = stage.poll("kiosk");
    stage.pass(25.0);
    assert_eq!(stage.polled(poll), NOTHING);
    stage.pass(5.0);
    let poll = stage.poll("kiosk");
    assert_eq!(stage.polled(poll), ["cancel 1"]);
}

#[test]
fn what_was_accepted_does_not_come_again() {
    let mut stage = Stage::new();
    let command = stage.send("kiosk");
    stage.poll("kiosk");
    stage.report("kiosk", command, R::Accepted);
    let poll = stage.poll_with("kiosk", 0, Some(0));
    assert_eq!(stage.polled(poll), NOTHING);
}

#[test]
fn a_poll_counts_as_presence_for_40_s_from_its_answer() {
    let mut stage = Stage::new();
    stage.poll_with("kiosk", 25, None);
    stage.pass(25.0 + 39.9);
    assert!(stage.online("kiosk"));
    stage.pass(0.1);
    assert!(!stage.online("kiosk"));
}
