//! Section 4, `ack=none`: streams of devices that do not answer, and what they are told again.

use bellwire_core::{Listen, Wanted};
use bellwire_proto::limits::PACED_BYTES;
use bellwire_proto::{DeliveryState, Json, Seconds, Seq};

use crate::stage::Stage;

const NOTHING: [&str; 0] = [];

#[test]
fn a_command_is_delivered_once_it_was_taken() {
    let mut stage = Stage::new();
    let stream = stage.listen_ack_none("sign", None);
    stage.readers_held = true;
    let command = stage.send("sign");
    assert_eq!(stage.hears(stream), ["command 1 #1"]);
    assert_eq!(stage.state(command), DeliveryState::Sent);
    stage.readers_held = false;
    stage.settle();
    assert_eq!(stage.state(command), DeliveryState::Delivered);
}

#[test]
fn a_backlog_is_paced_by_the_reader_and_what_is_live_by_the_buffer() {
    let mut stage = Stage::new();
    stage.send_many("sign", 3);
    stage.readers_held = true;
    let stream = stage.listen_ack_none("sign", None);
    assert_eq!(stage.hears(stream), ["command 1 #1"]);
    assert_eq!(stage.wanted, [(stream, Wanted::Written(Seq::new(1)))]);
    stage.readers_held = false;
    stage.settle();
    assert_eq!(stage.hears(stream), ["command 2 #1", "command 3 #1"]);
    stage.readers_held = true;
    stage.send("sign");
    assert_eq!(stage.wanted, [(stream, Wanted::Taken(Seq::new(4)))]);
}

#[test]
fn a_slow_reader_is_not_sent_a_second_copy_into_the_same_stream() {
    let mut stage = Stage::new();
    let command = stage.send("sign");
    stage.readers_held = true;
    let stream = stage.listen_ack_none("sign", None);
    assert_eq!(stage.hears(stream), ["command 1 #1"]);
    stage.pass(600.0);
    assert_eq!(stage.hears(stream), NOTHING, "no lease runs on what waits to be written");
    stage.readers_held = false;
    stage.settle();
    assert_eq!(stage.state(command), DeliveryState::Delivered);
}

#[test]
fn last_event_id_replays_what_came_after_it_with_the_same_attempt() {
    let mut stage = Stage::new();
    let stream = stage.listen_ack_none("sign", None);
    stage.readers_held = true;
    stage.send("sign");
    stage.close(stream);
    stage.wanted.clear();
    stage.readers_held = false;
    stage.listen_ack_none("sign", None);
    stage.send_many("sign", 2);
    stage.restart();
    let stream = stage.listen_ack_none("sign", Some(0));
    assert_eq!(stage.hears(stream), ["command 1 #2", "command 2 #1", "command 3 #1"]);
    let stream = stage.listen_ack_none("sign", Some(2));
    assert_eq!(stage.hears(stream), ["command 3 #1"]);
    let stream = stage.listen_ack_none("sign", None);
    assert_eq!(stage.hears(stream), NOTHING, "without a number nothing is replayed");
}

#[test]
fn a_replay_is_in_the_order_of_delivery() {
    let mut stage = Stage::new();
    stage.listen_ack_none("sign", None);
    let later = stage.now.after(std::time::Duration::from_secs(10));
    stage.try_send("sign", |send| send.not_before = Some(later)).unwrap();
    stage.send_many("sign", 2);
    stage.pass(10.0);
    let stream = stage.listen_ack_none("sign", Some(2));
    assert_eq!(stage.hears(stream), ["command 3 #1", "command 1 #1"]);
}

#[test]
fn what_has_expired_is_not_replayed() {
    let mut stage = Stage::new();
    stage.listen_ack_none("sign", None);
    stage.try_send("sign", |send| send.ttl = Some(Seconds::new(5))).unwrap();
    stage.send("sign");
    stage.pass(6.0);
    let stream = stage.listen_ack_none("sign", Some(0));
    assert_eq!(stage.hears(stream), ["command 2 #1"]);
}

#[test]
fn what_waits_comes_after_the_replay() {
    let mut stage = Stage::new();
    let stream = stage.listen_ack_none("sign", None);
    stage.send("sign");
    stage.close(stream);
    stage.send("sign");
    let stream = stage.listen_ack_none("sign", Some(0));
    assert_eq!(stage.hears(stream), ["command 1 #1", "command 2 #1"]);
}

#[test]
fn a_long_replay_comes_in_pages_that_the_reader_paces() {
    let mut stage = Stage::new();
    stage.listen_ack_none("sign", None);
    for _ in 0..150 {
        stage.send("sign");
    }
    stage.readers_held = true;
    let stream = stage.listen_ack_none("sign", Some(0));
    let first = stage.hears(stream).len();
    assert!((1..150).contains(&first), "{first} at once");
    stage.readers_held = false;
    stage.settle();
    assert_eq!(first + stage.hears(stream).len(), 150);
}

#[test]
fn a_replay_of_great_commands_is_bounded_in_bytes() {
    let mut stage = Stage::new();
    stage.listen_ack_none("sign", None);
    let great = "x".repeat(64 * 1024 - 2);
    for _ in 0..20 {
        stage.try_send("sign", |send| send.data = Json::text(&great)).unwrap();
    }
    stage.readers_held = true;
    let stream = stage.listen_ack_none("sign", Some(0));
    let bytes = stage.hears(stream).len() * great.len();
    assert!(bytes <= PACED_BYTES + great.len(), "{bytes} bytes at once");
}

#[test]
fn with_confirm_commands_and_replays_wait_for_the_confirmation() {
    let mut stage = Stage::new();
    let stream = stage.listen_ack_none("sign", None);
    stage.send("sign");
    stage.close(stream);
    stage.send("sign");
    let last_event_id = Some(Seq::new(0));
    let listen = Listen { ack_none: true, confirm: true, last_event_id, ..Listen::default() };
    let stream = stage.listen_with("sign", listen);
    assert_eq!(stage.hears(stream), NOTHING);
    stage.confirm("sign", stream).unwrap();
    assert_eq!(stage.hears(stream), ["command 1 #1", "command 2 #1"]);
}

#[test]
fn a_word_about_a_frame_of_an_older_stream_delivers_nothing() {
    let mut stage = Stage::new();
    let older = stage.listen_ack_none("sign", None);
    stage.readers_held = true;
    let command = stage.send("sign");
    stage.listen_ack_none("sign", None);
    stage.hub.handle_taken(older, Seq::new(1), stage.now);
    stage.settle();
    assert_eq!(stage.state(command), DeliveryState::Sent);
}
