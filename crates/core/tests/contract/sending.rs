//! Section 3: what a sender is answered, and when.

use std::time::Duration;

use bellwire_core::record::IdempotencyKey;
use bellwire_core::{Config, Send};
use bellwire_proto::ReportState as R;
use bellwire_proto::{Code, DeliveryState, Problem, Seconds};

use crate::harness::Harness;

fn keyed(key: &str, request: u8) -> impl Fn(&mut Send) {
    let key = IdempotencyKey { caller: String::new(), key: key.to_owned() };
    move |send| send.idempotency = Some((key.clone(), [request; 32]))
}

fn waiting(wait_s: u64) -> impl Fn(&mut Send) {
    move |send| send.wait = Seconds::new(wait_s)
}

#[test]
fn without_wait_the_answer_is_as_committed_queued_attempt_0() {
    let mut harness = Harness::new();
    let stream = harness.listen("kiosk");
    let answer = harness.try_send("kiosk", |_| {}).unwrap();
    assert_eq!((answer.state, answer.attempt), (DeliveryState::Queued, 0));
    assert_eq!(harness.received(stream), ["command 1 #1"]);
}

/// A repeat whose answer was lost was refused once its window had closed, and its sender took the command for not stored.
#[test]
fn what_could_not_be_stored_now_is_answered_all_the_same_if_its_key_was_used_before() {
    let mut harness = Harness::new();
    let refused = |send: &mut Send| {
        send.refused = Some(Box::new(Problem::bad_request("the window has closed")));
    };
    let first = harness.try_send("kiosk", keyed("k", 1)).unwrap();
    let again = harness.try_send("kiosk", |send| {
        keyed("k", 1)(send);
        refused(send);
    });
    assert_eq!(again.unwrap().command, first.command);
    for other in [None, Some("other")] {
        let problem = harness.try_send("kiosk", |send| {
            other.into_iter().for_each(|key| keyed(key, 1)(send));
            refused(send);
        });
        assert_eq!(problem.unwrap_err().code, Code::BadRequest, "{other:?}");
    }
    assert!(harness.try_send("kiosk", keyed("other", 2)).is_ok(), "a refusal uses no key up");
}

#[test]
fn seq_is_hub_wide_and_rises_over_restarts() {
    let mut harness = Harness::new();
    let mut seqs = Vec::new();
    for device in ["kiosk", "till", "kiosk"] {
        seqs.push(harness.try_send(device, |_| {}).unwrap().seq.get());
        harness.restart();
    }
    assert_eq!(seqs, [1, 2, 3]);
}

#[test]
fn with_wait_the_answer_comes_when_the_delivery_ends() {
    let mut harness = Harness::new();
    let request = harness.ask_to_send("kiosk", waiting(60));
    harness.pass(59.0);
    assert!(!harness.is_answered(request));
    let command = harness.store.disk.commands.first_key_value().unwrap().1.head.id;
    harness.report("kiosk", command, R::Succeeded);
    assert_eq!(harness.delivery(request).unwrap().state, DeliveryState::Succeeded);
}

#[test]
fn when_wait_has_run_out_the_answer_is_the_delivery_as_it_stands() {
    let mut harness = Harness::new();
    let request = harness.ask_to_send("kiosk", waiting(60));
    harness.listen("kiosk");
    harness.pass(59.999);
    assert!(!harness.is_answered(request));
    harness.pass(0.001);
    assert!(!harness.delivery(request).unwrap().state.is_terminal());
}

#[test]
fn a_draining_hub_answers_who_waits_and_takes_no_new_sends_but_reports() {
    let mut harness = Harness::new();
    let request = harness.ask_to_send("kiosk", waiting(60));
    harness.drain();
    let command = harness.delivery(request).unwrap().command;
    assert_eq!(harness.try_send("kiosk", |_| {}).unwrap_err().code, Code::Draining);
    assert_eq!(harness.report("kiosk", command, R::Succeeded).state, DeliveryState::Succeeded);
}

#[test]
fn idempotency_is_asked_before_draining_and_draining_before_the_state() {
    let mut harness = Harness::new();
    let first = harness.try_send("kiosk", keyed("a", 1)).unwrap();
    harness.drain();
    let again = harness.try_send("kiosk", keyed("a", 1)).unwrap();
    assert_eq!(again.command, first.command);
    let mismatch = harness.try_send("kiosk", keyed("a", 2)).unwrap_err();
    assert_eq!(mismatch.code, Code::IdempotencyMismatch);
    let offline = harness.try_send("kiosk", |send| send.ttl = Some(Seconds::new(0))).unwrap_err();
    assert_eq!(offline.code, Code::Draining);
}

#[test]
fn ttl_0_is_only_if_the_device_is_online_and_then_counts_as_30_s() {
    let mut harness = Harness::new();
    let now_or_never = |send: &mut Send| send.ttl = Some(Seconds::new(0));
    assert_eq!(harness.try_send("kiosk", now_or_never).unwrap_err().code, Code::DeviceOffline);
    assert!(harness.store.disk.devices.is_empty(), "only a stored command creates a device");
    let stream = harness.listen_unconfirmed("kiosk");
    let unconfirmed = harness.try_send("kiosk", now_or_never).unwrap_err();
    assert_eq!(unconfirmed.code, Code::DeviceOffline);
    harness.confirm("kiosk", stream).unwrap();
    let answer = harness.try_send("kiosk", now_or_never).unwrap();
    assert_eq!(answer.expires_at, harness.now.wall.after(Duration::from_secs(30)));
    harness.close(stream);
    assert_eq!(harness.try_send("kiosk", now_or_never).unwrap_err().code, Code::DeviceOffline);
    harness.poll_with("kiosk", 0, None);
    harness.pass(39.9);
    assert!(harness.try_send("kiosk", now_or_never).is_ok(), "a poll counts for 40 s");
    harness.pass(0.1);
    assert_eq!(harness.try_send("kiosk", now_or_never).unwrap_err().code, Code::DeviceOffline);
}

/// An appliance that was killed while it polled, or soon after, was shown online for up to 40 s.
#[test]
fn a_device_whose_poll_or_stream_closes_is_offline_at_once() {
    let mut harness = Harness::new();
    let poll = harness.poll("kiosk");
    assert!(harness.online("kiosk"));
    harness.abandon(poll);
    assert!(!harness.online("kiosk"), "its client has disconnected");
    harness.poll_with("kiosk", 0, None);
    let stream = harness.listen("kiosk");
    harness.close(stream);
    assert!(!harness.online("kiosk"), "the poll was before the stream");
    let stream = harness.listen("kiosk");
    harness.poll("kiosk");
    harness.close(stream);
    assert!(harness.online("kiosk"), "a poll waits beside it");
}

/// A device that doubted its stream polled beside it and then closed it; until its next poll it was shown offline.
#[test]
fn a_device_that_polled_beside_a_stream_stays_online_when_that_closes() {
    let mut harness = Harness::new();
    let stream = harness.listen("kiosk");
    harness.poll_with("kiosk", 0, None);
    harness.close(stream);
    assert!(harness.online("kiosk"), "the poll counts for 40 s");
    harness.pass(41.0);
    assert!(!harness.online("kiosk"));
}

#[test]
fn the_defaults_are_one_hour_to_live_and_five_minutes_to_run() {
    let mut harness = Harness::new();
    harness.listen("kiosk");
    let answer = harness.try_send("kiosk", |_| {}).unwrap();
    assert_eq!(answer.expires_at, harness.now.wall.after(Duration::from_secs(3600)));
    assert_eq!((harness.frames[0].ttl_s, harness.frames[0].run_timeout_s), (3600, 300));
}

#[test]
fn the_time_to_live_counts_from_not_before() {
    let mut harness = Harness::new();
    let later = harness.now.wall.after(Duration::from_secs(100));
    let with = |send: &mut Send| {
        send.not_before = Some(later);
        send.ttl = Some(Seconds::new(5));
    };
    let answer = harness.try_send("kiosk", with).unwrap();
    assert_eq!(answer.expires_at, later.after(Duration::from_secs(5)));
    harness.pass(104.9);
    assert_eq!(harness.state(answer.command), DeliveryState::Queued);
}

#[test]
fn the_same_key_and_request_is_answered_for_the_same_command_as_it_stands_now() {
    let mut harness = Harness::new();
    let first = harness.try_send("kiosk", keyed("a", 1)).unwrap();
    harness.report("kiosk", first.command, R::Running);
    let again = harness.try_send("kiosk", keyed("a", 1)).unwrap();
    assert_eq!((again.command, again.state), (first.command, DeliveryState::Running));
    harness.report("kiosk", first.command, R::Failed);
    let again = harness.try_send("kiosk", keyed("a", 1)).unwrap();
    assert_eq!((again.command, again.state), (first.command, DeliveryState::Failed));
    harness.restart();
    let again = harness.try_send("kiosk", keyed("a", 1)).unwrap();
    assert_eq!(again.command, first.command);
    assert_eq!(harness.store.disk.commands.len(), 1);
}

#[test]
fn the_same_key_and_request_waits_if_asked() {
    let mut harness = Harness::new();
    let first = harness.try_send("kiosk", keyed("a", 1)).unwrap();
    let with = |send: &mut Send| {
        keyed("a", 1)(send);
        waiting(60)(send);
    };
    let request = harness.ask_to_send("kiosk", with);
    harness.pass(30.0);
    assert!(!harness.is_answered(request));
    harness.report("kiosk", first.command, R::Succeeded);
    assert_eq!(harness.delivery(request).unwrap().state, DeliveryState::Succeeded);
    let request = harness.ask_to_send("kiosk", with);
    assert!(harness.is_answered(request), "what has ended is not waited for");
}

#[test]
fn the_same_key_with_another_request_is_a_mismatch() {
    let mut harness = Harness::new();
    harness.try_send("kiosk", keyed("a", 1)).unwrap();
    let problem = harness.try_send("till", keyed("a", 2)).unwrap_err();
    assert_eq!(problem.code, Code::IdempotencyMismatch);
    assert_eq!(harness.store.disk.commands.len(), 1);
}

#[test]
fn requests_with_one_key_at_the_same_moment_make_one_command() {
    let mut harness = Harness::new();
    (harness.disk_held, harness.loads_held) = (true, true);
    let early = [1, 1, 2].map(|print| harness.ask_to_send("kiosk", keyed("a", print)));
    harness.loads_held = false;
    harness.settle();
    let late = [1, 2].map(|print| harness.ask_to_send("kiosk", keyed("a", print)));
    assert!(!harness.is_answered(early[0]) && !harness.is_answered(late[0]), "nothing is on disk");
    harness.disk_held = false;
    harness.settle();
    let answers = early.into_iter().chain(late).map(|request| harness.delivery(request));
    let seqs: Vec<_> = answers.map(|a| a.map(|d| d.seq.get()).map_err(|p| p.code)).collect();
    let mismatch = Err(Code::IdempotencyMismatch);
    assert_eq!(seqs, [Ok(1), Ok(1), mismatch, Ok(1), mismatch]);
}

#[test]
fn a_key_is_retained_24_hours() {
    let mut harness = Harness::new();
    let first = harness.try_send("kiosk", keyed("a", 1)).unwrap();
    harness.pass(24.0 * 3600.0 - 1.0);
    assert_eq!(harness.try_send("kiosk", keyed("a", 1)).unwrap().command, first.command);
    harness.pass(1.0);
    assert_ne!(harness.try_send("kiosk", keyed("a", 2)).unwrap().command, first.command);
}

#[test]
fn keys_of_different_callers_never_meet() {
    let mut harness = Harness::new();
    let of = |caller: &str| {
        let key = IdempotencyKey { caller: caller.to_owned(), key: "a".to_owned() };
        move |send: &mut Send| send.idempotency = Some((key, [1; 32]))
    };
    let ann = harness.try_send("kiosk", of("ann")).unwrap();
    let bob = harness.try_send("kiosk", of("bob")).unwrap();
    assert_ne!(ann.command, bob.command);
}

#[test]
fn only_what_was_stored_is_retained_for_a_key() {
    let mut harness = Harness::new();
    let with = |send: &mut Send| {
        keyed("a", 1)(send);
        send.ttl = Some(Seconds::new(0));
    };
    assert_eq!(harness.try_send("kiosk", with).unwrap_err().code, Code::DeviceOffline);
    assert!(harness.try_send("kiosk", keyed("a", 2)).is_ok(), "the key is free");
}

#[test]
fn beyond_100_queued_the_queue_is_full_and_what_is_under_way_does_not_count() {
    let mut harness = Harness::new();
    harness.listen("kiosk");
    let under_way = harness.send("kiosk");
    for _ in 0..100 {
        harness.send("kiosk");
    }
    assert_eq!(harness.try_send("kiosk", |_| {}).unwrap_err().code, Code::QueueFull);
    assert!(harness.try_send("till", |_| {}).is_ok());
    harness.report("kiosk", under_way, R::Succeeded);
    assert!(harness.try_send("kiosk", |_| {}).is_ok());
}

#[test]
fn a_command_that_may_be_for_many_is_stored_and_rejected_by_a_full_queue() {
    let mut harness = Harness::new();
    harness.send_many("kiosk", 100);
    let delivery = harness.try_send("kiosk", |send| send.reject_when_full = true).unwrap();
    assert_eq!(delivery.state, DeliveryState::Rejected);
    assert_eq!(delivery.outcome.error.map(|e| e.code).as_deref(), Some("queue_full"));
    let stream = harness.listen("kiosk");
    assert_eq!(harness.received(stream), ["command 1 #1"], "and is never sent");
}

#[test]
fn on_a_closed_hub_an_unknown_device_is_not_created() {
    let mut harness = Harness::with(Config { create_on_sight: false, ..Config::default() });
    assert_eq!(harness.try_send("kiosk", |_| {}).unwrap_err().code, Code::UnknownDevice);
    harness.put("kiosk");
    assert!(harness.try_send("kiosk", |_| {}).is_ok());
}

#[test]
fn a_stored_command_creates_an_unknown_device() {
    let mut harness = Harness::new();
    harness.send("kiosk");
    assert_eq!(harness.store.disk.devices.len(), 1);
}

#[test]
fn a_sender_that_has_disconnected_is_not_answered_and_the_command_stays() {
    let mut harness = Harness::new();
    let request = harness.ask_to_send("kiosk", waiting(60));
    harness.hub.handle_abandoned(request, harness.now);
    harness.pass(100.0);
    assert!(!harness.is_answered(request));
    assert_eq!(harness.store.disk.commands.len(), 1);
}
