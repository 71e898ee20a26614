//! Section 3: what a sender is answered, and when.

use std::time::Duration;

use bellwire_core::record::IdempotencyKey;
use bellwire_core::{Config, Send};
use bellwire_proto::ReportState as R;
use bellwire_proto::{Code, DeliveryState, Seconds};

use crate::stage::Stage;

fn keyed(key: &str, request: u8) -> impl Fn(&mut Send) {
    let key = IdempotencyKey { caller: String::new(), key: key.to_owned() };
    move |send| send.idempotency = Some((key.clone(), [request; 32]))
}

fn waiting(wait_s: u64) -> impl Fn(&mut Send) {
    move |send| send.wait = Seconds::new(wait_s)
}

#[test]
fn without_wait_the_answer_is_as_committed_queued_attempt_0() {
    let mut stage = Stage::new();
    let stream = stage.listen("kiosk");
    let answer = stage.try_send("kiosk", |_| {}).unwrap();
    assert_eq!((answer.state, answer.attempt), (DeliveryState::Queued, 0));
    assert_eq!(stage.hears(stream), ["command 1 #1"]);
}

#[test]
fn seq_is_hub_wide_and_rises_over_restarts() {
    let mut stage = Stage::new();
    let mut seqs = Vec::new();
    for device in ["kiosk", "till", "kiosk"] {
        seqs.push(stage.try_send(device, |_| {}).unwrap().seq.get());
        stage.restart();
    }
    assert_eq!(seqs, [1, 2, 3]);
}

#[test]
fn with_wait_the_answer_comes_when_the_delivery_ends() {
    let mut stage = Stage::new();
    let request = stage.ask_to_send("kiosk", waiting(60));
    stage.pass(59.0);
    assert!(!stage.is_answered(request));
    let command = stage.store.disk.commands.first_key_value().unwrap().1.head.id;
    stage.report("kiosk", command, R::Succeeded);
    assert_eq!(stage.delivery(request).unwrap().state, DeliveryState::Succeeded);
}

#[test]
fn when_wait_has_run_out_the_answer_is_the_delivery_as_it_stands() {
    let mut stage = Stage::new();
    let request = stage.ask_to_send("kiosk", waiting(60));
    stage.listen("kiosk");
    stage.pass(59.999);
    assert!(!stage.is_answered(request));
    stage.pass(0.001);
    assert!(!stage.delivery(request).unwrap().state.is_terminal());
}

#[test]
fn a_draining_hub_answers_who_waits_and_takes_no_new_sends_but_reports() {
    let mut stage = Stage::new();
    let request = stage.ask_to_send("kiosk", waiting(60));
    stage.drain();
    let command = stage.delivery(request).unwrap().command;
    assert_eq!(stage.try_send("kiosk", |_| {}).unwrap_err().code, Code::Draining);
    assert_eq!(stage.report("kiosk", command, R::Succeeded).state, DeliveryState::Succeeded);
}

#[test]
fn idempotency_is_asked_before_draining_and_draining_before_the_state() {
    let mut stage = Stage::new();
    let first = stage.try_send("kiosk", keyed("a", 1)).unwrap();
    stage.drain();
    let again = stage.try_send("kiosk", keyed("a", 1)).unwrap();
    assert_eq!(again.command, first.command);
    let mismatch = stage.try_send("kiosk", keyed("a", 2)).unwrap_err();
    assert_eq!(mismatch.code, Code::IdempotencyMismatch);
    let offline = stage.try_send("kiosk", |send| send.ttl = Some(Seconds::new(0))).unwrap_err();
    assert_eq!(offline.code, Code::Draining);
}

#[test]
fn ttl_0_is_only_if_the_device_is_online_and_then_counts_as_30_s() {
    let mut stage = Stage::new();
    let now_or_never = |send: &mut Send| send.ttl = Some(Seconds::new(0));
    assert_eq!(stage.try_send("kiosk", now_or_never).unwrap_err().code, Code::DeviceOffline);
    assert!(stage.store.disk.devices.is_empty(), "only a stored command creates a device");
    let stream = stage.listen_unconfirmed("kiosk");
    let unconfirmed = stage.try_send("kiosk", now_or_never).unwrap_err();
    assert_eq!(unconfirmed.code, Code::DeviceOffline);
    stage.confirm("kiosk", stream).unwrap();
    let answer = stage.try_send("kiosk", now_or_never).unwrap();
    assert_eq!(answer.expires_at, stage.now.after(Duration::from_secs(30)));
    stage.close(stream);
    assert_eq!(stage.try_send("kiosk", now_or_never).unwrap_err().code, Code::DeviceOffline);
    stage.poll_with("kiosk", 0, None);
    stage.pass(39.9);
    assert!(stage.try_send("kiosk", now_or_never).is_ok(), "a poll counts for 40 s");
    stage.pass(0.1);
    assert_eq!(stage.try_send("kiosk", now_or_never).unwrap_err().code, Code::DeviceOffline);
}

#[test]
fn the_defaults_are_one_hour_to_live_and_five_minutes_to_run() {
    let mut stage = Stage::new();
    stage.listen("kiosk");
    let answer = stage.try_send("kiosk", |_| {}).unwrap();
    assert_eq!(answer.expires_at, stage.now.after(Duration::from_secs(3600)));
    assert_eq!((stage.frames[0].ttl_s, stage.frames[0].run_timeout_s), (3600, 300));
}

#[test]
fn the_time_to_live_counts_from_not_before() {
    let mut stage = Stage::new();
    let later = stage.now.after(Duration::from_secs(100));
    let with = |send: &mut Send| {
        send.not_before = Some(later);
        send.ttl = Some(Seconds::new(5));
    };
    let answer = stage.try_send("kiosk", with).unwrap();
    assert_eq!(answer.expires_at, later.after(Duration::from_secs(5)));
    stage.pass(104.9);
    assert_eq!(stage.state(answer.command), DeliveryState::Queued);
}

#[test]
fn the_same_key_and_request_is_answered_for_the_same_command_as_it_stands_now() {
    let mut stage = Stage::new();
    let first = stage.try_send("kiosk", keyed("a", 1)).unwrap();
    stage.report("kiosk", first.command, R::Running);
    let again = stage.try_send("kiosk", keyed("a", 1)).unwrap();
    assert_eq!((again.command, again.state), (first.command, DeliveryState::Running));
    stage.report("kiosk", first.command, R::Failed);
    let again = stage.try_send("kiosk", keyed("a", 1)).unwrap();
    assert_eq!((again.command, again.state), (first.command, DeliveryState::Failed));
    stage.restart();
    let again = stage.try_send("kiosk", keyed("a", 1)).unwrap();
    assert_eq!(again.command, first.command);
    assert_eq!(stage.store.disk.commands.len(), 1);
}

#[test]
fn the_same_key_and_request_waits_if_asked() {
    let mut stage = Stage::new();
    let first = stage.try_send("kiosk", keyed("a", 1)).unwrap();
    let with = |send: &mut Send| {
        keyed("a", 1)(send);
        waiting(60)(send);
    };
    let request = stage.ask_to_send("kiosk", with);
    stage.pass(30.0);
    assert!(!stage.is_answered(request));
    stage.report("kiosk", first.command, R::Succeeded);
    assert_eq!(stage.delivery(request).unwrap().state, DeliveryState::Succeeded);
    let request = stage.ask_to_send("kiosk", with);
    assert!(stage.is_answered(request), "what has ended is not waited for");
}

#[test]
fn the_same_key_with_another_request_is_a_mismatch() {
    let mut stage = Stage::new();
    stage.try_send("kiosk", keyed("a", 1)).unwrap();
    let problem = stage.try_send("till", keyed("a", 2)).unwrap_err();
    assert_eq!(problem.code, Code::IdempotencyMismatch);
    assert_eq!(stage.store.disk.commands.len(), 1);
}

#[test]
fn requests_with_one_key_at_the_same_moment_make_one_command() {
    let mut stage = Stage::new();
    (stage.disk_held, stage.loads_held) = (true, true);
    let early = [1, 1, 2].map(|print| stage.ask_to_send("kiosk", keyed("a", print)));
    stage.loads_held = false;
    stage.settle();
    let late = [1, 2].map(|print| stage.ask_to_send("kiosk", keyed("a", print)));
    assert!(!stage.is_answered(early[0]) && !stage.is_answered(late[0]), "nothing is on disk");
    stage.disk_held = false;
    stage.settle();
    let answers = early.into_iter().chain(late).map(|request| stage.delivery(request));
    let seqs: Vec<_> = answers.map(|a| a.map(|d| d.seq.get()).map_err(|p| p.code)).collect();
    let mismatch = Err(Code::IdempotencyMismatch);
    assert_eq!(seqs, [Ok(1), Ok(1), mismatch, Ok(1), mismatch]);
}

#[test]
fn a_key_is_kept_24_hours() {
    let mut stage = Stage::new();
    let first = stage.try_send("kiosk", keyed("a", 1)).unwrap();
    stage.pass(24.0 * 3600.0 - 1.0);
    assert_eq!(stage.try_send("kiosk", keyed("a", 1)).unwrap().command, first.command);
    stage.pass(1.0);
    assert_ne!(stage.try_send("kiosk", keyed("a", 2)).unwrap().command, first.command);
}

#[test]
fn keys_of_different_callers_never_meet() {
    let mut stage = Stage::new();
    let of = |caller: &str| {
        let key = IdempotencyKey { caller: caller.to_owned(), key: "a".to_owned() };
        move |send: &mut Send| send.idempotency = Some((key, [1; 32]))
    };
    let ann = stage.try_send("kiosk", of("ann")).unwrap();
    let bob = stage.try_send("kiosk", of("bob")).unwrap();
    assert_ne!(ann.command, bob.command);
}

#[test]
fn only_what_was_stored_is_kept_for_a_key() {
    let mut stage = Stage::new();
    let with = |send: &mut Send| {
        keyed("a", 1)(send);
        send.ttl = Some(Seconds::new(0));
    };
    assert_eq!(stage.try_send("kiosk", with).unwrap_err().code, Code::DeviceOffline);
    assert!(stage.try_send("kiosk", keyed("a", 2)).is_ok(), "the key is free");
}

#[test]
fn past_100_queued_the_queue_is_full_and_what_is_under_way_does_not_count() {
    let mut stage = Stage::new();
    stage.listen("kiosk");
    let under_way = stage.send("kiosk");
    for _ in 0..100 {
        stage.send("kiosk");
    }
    assert_eq!(stage.try_send("kiosk", |_| {}).unwrap_err().code, Code::QueueFull);
    assert!(stage.try_send("till", |_| {}).is_ok());
    stage.report("kiosk", under_way, R::Succeeded);
    assert!(stage.try_send("kiosk", |_| {}).is_ok());
}

#[test]
fn a_command_that_may_be_for_many_is_stored_and_rejected_by_a_full_queue() {
    let mut stage = Stage::new();
    stage.send_many("kiosk", 100);
    let delivery = stage.try_send("kiosk", |send| send.reject_when_full = true).unwrap();
    assert_eq!(delivery.state, DeliveryState::Rejected);
    assert_eq!(delivery.error.map(|e| e.code).as_deref(), Some("queue_full"));
    let stream = stage.listen("kiosk");
    assert_eq!(stage.hears(stream), ["command 1 #1"], "and is never sent");
}

#[test]
fn on_a_closed_hub_an_unknown_device_is_not_created() {
    let mut stage = Stage::with(Config { create_on_sight: false, ..Config::default() });
    assert_eq!(stage.try_send("kiosk", |_| {}).unwrap_err().code, Code::UnknownDevice);
    stage.put("kiosk");
    assert!(stage.try_send("kiosk", |_| {}).is_ok());
}

#[test]
fn a_stored_command_creates_an_unknown_device() {
    let mut stage = Stage::new();
    stage.send("kiosk");
    assert_eq!(stage.store.disk.devices.len(), 1);
}

#[test]
fn who_has_gone_is_not_answered_and_the_command_stays() {
    let mut stage = Stage::new();
    let request = stage.ask_to_send("kiosk", waiting(60));
    stage.hub.handle_abandoned(request, stage.now);
    stage.pass(100.0);
    assert!(!stage.is_answered(request));
    assert_eq!(stage.store.disk.commands.len(), 1);
}
