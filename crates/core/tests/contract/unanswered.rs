//! Section 4, `ack=none`: streams of devices that do not answer, and what they are sent again.

use bellwire_core::{Listen, NotifyOn};
use bellwire_proto::limits::PACED_BYTES;
use bellwire_proto::{DeliveryState, Json, Seconds, Seq};

use crate::harness::Harness;

const NOTHING: [&str; 0] = [];

#[test]
fn a_command_is_delivered_once_it_was_taken() {
    let mut harness = Harness::new();
    let stream = harness.listen_ack_none("sign", None);
    harness.readers_held = true;
    let command = harness.send("sign");
    assert_eq!(harness.received(stream), ["command 1 #1"]);
    assert_eq!(harness.state(command), DeliveryState::Sent);
    harness.readers_held = false;
    harness.settle();
    assert_eq!(harness.state(command), DeliveryState::Delivered);
}

#[test]
fn a_backlog_is_paced_by_the_reader_and_what_is_live_by_the_buffer() {
    let mut harness = Harness::new();
    harness.send_many("sign", 3);
    harness.readers_held = true;
    let stream = harness.listen_ack_none("sign", None);
    assert_eq!(harness.received(stream), ["command 1 #1"]);
    assert_eq!(harness.notify_on, [(stream, NotifyOn::Written(Seq::new(1)))]);
    harness.readers_held = false;
    harness.settle();
    assert_eq!(harness.received(stream), ["command 2 #1", "command 3 #1"]);
    harness.readers_held = true;
    harness.send("sign");
    assert_eq!(harness.notify_on, [(stream, NotifyOn::Taken(Seq::new(4)))]);
}

#[test]
fn a_slow_reader_is_not_sent_a_second_copy_into_the_same_stream() {
    let mut harness = Harness::new();
    let command = harness.send("sign");
    harness.readers_held = true;
    let stream = harness.listen_ack_none("sign", None);
    assert_eq!(harness.received(stream), ["command 1 #1"]);
    harness.pass(600.0);
    assert_eq!(harness.received(stream), NOTHING, "no lease runs on what waits to be written");
    harness.readers_held = false;
    harness.settle();
    assert_eq!(harness.state(command), DeliveryState::Delivered);
}

#[test]
fn last_event_id_replays_what_came_after_it_with_the_same_attempt() {
    let mut harness = Harness::new();
    let stream = harness.listen_ack_none("sign", None);
    harness.readers_held = true;
    harness.send("sign");
    harness.close(stream);
    harness.notify_on.clear();
    harness.readers_held = false;
    harness.listen_ack_none("sign", None);
    harness.send_many("sign", 2);
    harness.restart();
    let stream = harness.listen_ack_none("sign", Some(0));
    assert_eq!(harness.received(stream), ["command 1 #2", "command 2 #1", "command 3 #1"]);
    let stream = harness.listen_ack_none("sign", Some(2));
    assert_eq!(harness.received(stream), ["command 3 #1"]);
    let stream = harness.listen_ack_none("sign", None);
    assert_eq!(harness.received(stream), NOTHING, "without a number nothing is replayed");
}

#[test]
fn a_replay_is_in_the_order_of_delivery() {
    let mut harness = Harness::new();
    harness.listen_ack_none("sign", None);
    let later = harness.now.wall.after(std::time::Duration::from_secs(10));
    harness.try_send("sign", |send| send.not_before = Some(later)).unwrap();
    harness.send_many("sign", 2);
    harness.pass(10.0);
    let stream = harness.listen_ack_none("sign", Some(2));
    assert_eq!(harness.received(stream), ["command 3 #1", "command 1 #1"]);
}

#[test]
fn what_has_expired_is_not_replayed() {
    let mut harness = Harness::new();
    harness.listen_ack_none("sign", None);
    harness.try_send("sign", |send| send.ttl = Some(Seconds::new(5))).unwrap();
    harness.send("sign");
    harness.pass(6.0);
    let stream = harness.listen_ack_none("sign", Some(0));
    assert_eq!(harness.received(stream), ["command 2 #1"]);
}

#[test]
fn what_waits_comes_after_the_replay() {
    let mut harness = Harness::new();
    let stream = harness.listen_ack_none("sign", None);
    harness.send("sign");
    harness.close(stream);
    harness.send("sign");
    let stream = harness.listen_ack_none("sign", Some(0));
    assert_eq!(harness.received(stream), ["command 1 #1", "command 2 #1"]);
}

#[test]
fn a_long_replay_comes_in_pages_that_the_reader_paces() {
    let mut harness = Harness::new();
    harness.listen_ack_none("sign", None);
    for _ in 0..150 {
        harness.send("sign");
    }
    harness.readers_held = true;
    let stream = harness.listen_ack_none("sign", Some(0));
    let first = harness.received(stream).len();
    assert!((1..150).contains(&first), "{first} at once");
    harness.readers_held = false;
    harness.settle();
    assert_eq!(first + harness.received(stream).len(), 150);
}

#[test]
fn a_replay_of_great_commands_is_bounded_in_bytes() {
    let mut harness = Harness::new();
    harness.listen_ack_none("sign", None);
    let great = "x".repeat(64 * 1024 - 2);
    for _ in 0..20 {
        harness.try_send("sign", |send| send.data = Json::text(&great)).unwrap();
    }
    harness.readers_held = true;
    let stream = harness.listen_ack_none("sign", Some(0));
    let bytes = harness.received(stream).len() * great.len();
    assert!(bytes <= PACED_BYTES + great.len(), "{bytes} bytes at once");
}

#[test]
fn with_confirm_commands_and_replays_wait_for_the_confirmation() {
    let mut harness = Harness::new();
    let stream = harness.listen_ack_none("sign", None);
    harness.send("sign");
    harness.close(stream);
    harness.send("sign");
    let last_event_id = Some(Seq::new(0));
    let listen = Listen { ack_none: true, confirm: true, last_event_id, ..Listen::default() };
    let stream = harness.listen_with("sign", listen);
    assert_eq!(harness.received(stream), NOTHING);
    harness.confirm("sign", stream).unwrap();
    assert_eq!(harness.received(stream), ["command 1 #1", "command 2 #1"]);
}

#[test]
fn a_receipt_for_a_frame_of_an_older_stream_delivers_nothing() {
    let mut harness = Harness::new();
    let older = harness.listen_ack_none("sign", None);
    harness.readers_held = true;
    let command = harness.send("sign");
    harness.listen_ack_none("sign", None);
    harness.hub.handle_taken(older, Seq::new(1), harness.now);
    harness.settle();
    assert_eq!(harness.state(command), DeliveryState::Sent);
}
