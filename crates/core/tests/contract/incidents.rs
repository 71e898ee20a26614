//! What once failed. The first line of each test states the incident.

use std::time::Duration;

use bellwire_core::record::{IdempotencyKey, Load};
use bellwire_core::{Answer, Config, Footprint, Listen, Send};
use bellwire_proto::ReportState as R;
use bellwire_proto::limits::PACED_BYTES;
use bellwire_proto::{Code, DeliveryState, Json, Report, Seconds};

use crate::harness::{Harness, device};

fn keyed(send: &mut Send) {
    let key = IdempotencyKey { caller: String::new(), key: "a".to_owned() };
    send.idempotency = Some((key, [1; 32]));
}

#[test]
fn a_request_at_a_device_that_is_not_in_memory_is_answered() {
    // The device was forgotten as idle before what it had been loaded for, and loaded again, for ever.
    let mut harness = Harness::new();
    harness.loads_held = true;
    let request = harness.ask_to_send("kiosk", |_| {});
    harness.answer_load();
    assert_eq!(harness.loads_waiting(), 0);
    harness.settle();
    assert!(harness.delivery(request).is_ok());
}

#[test]
fn a_repeated_send_that_does_not_wait_after_all_is_forgotten() {
    // A send with a known key and a wait stayed among those who wait when the command had ended.
    let mut harness = Harness::new();
    let command = harness.try_send("kiosk", keyed).unwrap().command;
    harness.report("kiosk", command, R::Succeeded);
    let with = |send: &mut Send| {
        keyed(send);
        send.wait = Seconds::new(60);
    };
    assert!(harness.try_send("kiosk", with).is_ok());
    assert_eq!(harness.hub.footprint(), Footprint::default());
}

#[test]
fn sends_that_wait_for_their_key_are_refused_or_done_when_the_device_cannot_be_loaded() {
    // The failed load refused the first send; those who waited for its key hung for ever.
    let mut harness = Harness::new();
    harness.loads_held = true;
    let [first, second] = [(); 2].map(|()| harness.ask_to_send("kiosk", keyed));
    harness.answer_load();
    assert!(matches!(harness.fail_load(), Load::Device(..)));
    harness.loads_held = false;
    harness.settle();
    assert_eq!(harness.delivery(first).unwrap_err().code, Code::StoreUnavailable);
    assert!(harness.delivery(second).is_ok(), "the next one is the first");
}

#[test]
fn what_is_due_ends_although_a_load_failed() {
    // The device of a due delivery could not be loaded once; then it was never looked up again.
    for answers_before in [0, 1] {
        let mut harness = Harness::new();
        let command = harness.try_send("kiosk", |s| s.ttl = Some(Seconds::new(5))).unwrap().command;
        harness.loads_held = true;
        harness.pass(5.0);
        for _ in 0..answers_before {
            harness.answer_load();
        }
        harness.fail_load();
        harness.settle();
        assert_eq!(harness.loads_waiting(), 0, "the store is left alone for a while");
        harness.loads_held = false;
        harness.pass(2.0);
        assert_eq!(harness.state(command), DeliveryState::Expired);
    }
}

#[test]
fn a_store_that_fails_ends_streams_whose_bye_waited_for_it() {
    // The replaced stream was forgotten, its bye withheld, and lost with the transaction.
    let mut harness = Harness::new();
    let older = harness.listen("kiosk");
    harness.send("kiosk");
    harness.received(older);
    harness.disk_held = true;
    let (_, newer) = harness.ask_to_listen("kiosk", Listen::default());
    harness.hub.handle_store_failed(harness.now);
    harness.settle();
    assert_eq!([older, newer].map(|s| harness.received(s)), [["bye replaced"], ["bye rotate"]]);
}

#[test]
fn after_the_store_has_failed_a_late_answer_to_a_load_changes_nothing() {
    // What was due was loaded and ended in transactions that no store would ever commit.
    let mut harness = Harness::new();
    harness.try_send("kiosk", |s| s.ttl = Some(Seconds::new(5))).unwrap();
    harness.loads_held = true;
    harness.pass(5.0);
    harness.hub.handle_store_failed(harness.now);
    harness.answer_load();
    assert_eq!((harness.loads_waiting(), harness.hub.footprint()), (0, Footprint::default()));
    let poll = harness.poll("kiosk");
    assert!(matches!(harness.answer(poll), Answer::Problem(_)));
    assert_eq!(harness.hub.footprint(), Footprint::default());
}

#[test]
fn a_nack_after_the_time_to_live_ends_the_delivery() {
    // It was queued with a due time in the past, and stayed so for the nack's `retry_after_s`: 7 days.
    let mut harness = Harness::new();
    harness.listen("kiosk");
    let command = harness.try_send("kiosk", |s| s.ttl = Some(Seconds::new(5))).unwrap().command;
    harness.report("kiosk", command, R::Accepted);
    harness.pass(10.0);
    let nack = Report { retry_after_s: Some(604_800), ..Report::of(R::Nack) };
    let answer = harness.report_with("kiosk", command, nack).unwrap();
    assert_eq!(
        (answer.state, answer.outcome.error.unwrap().code.as_str()),
        (DeliveryState::Expired, "expired")
    );
}

#[test]
fn a_device_is_reported_offline_before_it_is_removed() {
    // After a commit in the millisecond in which a poll's presence ended, the removal was never notified.
    let mut harness = Harness::new();
    harness.poll_with("kiosk", 0, None);
    harness.pass(39.0);
    harness.disk_held = true;
    let request = harness.ask_to_send("kiosk", |_| {});
    harness.let_pass_unnoticed(Duration::from_secs(1));
    harness.events.clear();
    harness.disk_held = false;
    harness.settle();
    harness.pass(0.0);
    assert!(harness.delivery(request).is_ok());
    let offline = |event: &bellwire_core::HubEvent| matches!(event, bellwire_core::HubEvent::Device { presence, .. } if !presence.online());
    assert!(harness.events.iter().any(offline), "{:?}", harness.events);
}

#[test]
fn data_that_cannot_be_read_is_not_asked_for_again_at_once() {
    // The hub looked it up again as fast as the store could refuse.
    let mut harness = Harness::new();
    let stream = harness.listen("kiosk");
    let command = harness.send("kiosk");
    harness.report("kiosk", command, R::Accepted);
    harness.loads_held = true;
    harness.received(stream);
    let nack = Report { retry_after_s: Some(0), ..Report::of(R::Nack) };
    harness.report_with("kiosk", command, nack).unwrap();
    assert!(matches!(harness.fail_load(), Load::Data(..)));
    harness.settle();
    assert_eq!(harness.loads_waiting(), 0);
    harness.loads_held = false;
    harness.pass(1.0);
    assert_eq!(harness.received(stream), ["command 1 #2"]);
}

#[test]
fn a_command_that_is_next_before_it_is_on_disk_is_not_looked_for_there() {
    // A device connected in the moment in which its command was being stored: the data was looked up
    // again and again until it was on disk.
    let mut harness = Harness::new();
    harness.disk_held = true;
    let request = harness.ask_to_send("kiosk", |_| {});
    harness.loads_held = true;
    let (_, stream) = harness.ask_to_listen("kiosk", Listen::default());
    assert_eq!(harness.loads_waiting(), 0);
    harness.disk_held = false;
    harness.settle();
    assert!(harness.delivery(request).is_ok());
    assert_eq!(harness.received(stream), ["command 1 #1"]);
}

#[test]
fn a_stream_gets_the_replay_that_it_asked_for() {
    // The page that an older stream had requested, from another position, was taken for its own.
    let mut harness = Harness::new();
    harness.listen_ack_none("sign", None);
    harness.send_many("sign", 3);
    harness.loads_held = true;
    let older = harness.listen_ack_none("sign", Some(2));
    let newer = harness.listen_ack_none("sign", Some(0));
    harness.loads_held = false;
    harness.settle();
    assert_eq!(harness.received(older), ["bye replaced"]);
    assert_eq!(harness.received(newer), ["command 1 #1", "command 2 #1", "command 3 #1"]);
}

#[test]
fn a_stream_that_answers_gets_no_replay() {
    // An ack=none stream had requested a page, which was then sent to the plain stream that replaced it.
    let mut harness = Harness::new();
    harness.listen_ack_none("sign", None);
    harness.send("sign");
    harness.loads_held = true;
    harness.listen_ack_none("sign", Some(0));
    let listen = Listen { last_event_id: Some(bellwire_proto::Seq::new(0)), ..Listen::default() };
    let plain = harness.listen_with("sign", listen);
    harness.loads_held = false;
    harness.settle();
    assert_eq!(harness.received(plain), [""; 0]);
}

#[test]
fn cancellations_by_force_do_not_gather_at_a_device_that_no_longer_polls() {
    // A device polled once and then used its stream alone: each cancellation was held for a poll that never
    // came.
    let mut harness = Harness::new();
    harness.poll_with("kiosk", 0, None);
    harness.listen("kiosk");
    harness.pass(60.0);
    for _ in 0..3 {
        let command = harness.send("kiosk");
        harness.cancel(command, true).unwrap();
    }
    let poll = harness.poll_with("kiosk", 0, None);
    assert_eq!(harness.polled(poll), [""; 0]);
}

#[test]
fn a_lease_holds_although_its_device_was_forgotten() {
    // With a lease of more than 40 s, what a poll had been sent came again as soon as it polled.
    let mut harness =
        Harness::with(Config { lease: Duration::from_secs(120), ..Config::default() });
    harness.send("kiosk");
    harness.poll("kiosk");
    harness.pass(50.0);
    assert_eq!(harness.hub.footprint(), Footprint::default());
    let poll = harness.poll_with("kiosk", 0, None);
    assert_eq!(harness.polled(poll), [""; 0]);
}

#[test]
fn a_restart_gives_the_hundredth_sending_no_successor() {
    // The store queues again what it finds sent, and the hub sent it a hundred and first time.
    let mut harness = Harness::new();
    let command = harness.send("kiosk");
    for sending in 1..=100 {
        let stream = harness.listen("kiosk");
        assert_eq!(harness.received(stream), [format!("command 1 #{sending}")]);
        if sending < 100 {
            harness.close(stream);
        }
    }
    harness.restart();
    let stream = harness.listen("kiosk");
    assert_eq!(harness.received(stream), [""; 0]);
    assert_eq!(harness.state(command), DeliveryState::Dead);
}

#[test]
fn a_report_of_a_device_that_is_being_removed_is_unknown() {
    // While the removal was on its way to disk the report was answered 409, and a second later 404.
    let mut harness = Harness::new();
    let command = harness.send("kiosk");
    harness.disk_held = true;
    harness.ask_to_delete("kiosk");
    let request = bellwire_core::RequestId(u64::MAX);
    let (report, now) = (Report::of(R::Succeeded), harness.now);
    harness.hub.handle_report(request, crate::harness::device("kiosk"), command, report, now);
    harness.disk_held = false;
    harness.settle();
    assert_eq!(harness.delivery(request).unwrap_err().code, Code::UnknownCommand);
}

#[test]
fn a_device_whose_lookup_failed_is_forgotten() {
    // It stayed in memory for ever: nothing else was to happen to it.
    let mut harness = Harness::new();
    let command = harness.send("kiosk");
    harness.report("kiosk", command, R::Succeeded);
    harness.loads_held = true;
    let request = bellwire_core::RequestId(u64::MAX);
    let (report, now) = (Report::of(R::Failed), harness.now);
    harness.hub.handle_report(request, crate::harness::device("kiosk"), command, report, now);
    harness.settle();
    harness.answer_load();
    assert!(matches!(harness.fail_load(), Load::Delivery(..)));
    harness.settle();
    assert_eq!(harness.delivery(request).unwrap_err().code, Code::StoreUnavailable);
    assert_eq!(harness.hub.footprint(), Footprint::default());
}

#[test]
fn a_window_of_great_commands_waits_for_its_reader() {
    // With a window above 16 a device that reconnected and read slowly got its whole backlog at once, was
    // cut off as overloaded, reconnected, and so on, until the hundredth sending made the command `dead`.
    let great = Json::text(&"x".repeat(64 * 1024 - 2));
    for listen in [Harness::listen, Harness::listen_unconfirmed] {
        let mut harness = Harness::with(Config { max_in_flight: 100, ..Config::default() });
        for _ in 0..50 {
            harness.try_send("kiosk", |send| send.data = great.clone()).unwrap();
        }
        harness.readers_held = true;
        let stream = listen(&mut harness, "kiosk");
        let first = harness.received(stream).len();
        assert_eq!(first, PACED_BYTES / (64 * 1024), "at once, and no more until they are written");
        let poll = harness.poll("kiosk");
        let polled = harness.polled(poll).len();
        assert!(first + polled >= 50, "a poll beside the slow stream is sent the rest");
    }
}

#[test]
fn a_reader_that_keeps_up_gets_a_whole_window() {
    // The counterpart: once a command is written another may follow, without any report.
    let great = Json::text(&"x".repeat(64 * 1024 - 2));
    let mut harness = Harness::with(Config { max_in_flight: 100, ..Config::default() });
    for _ in 0..50 {
        harness.try_send("kiosk", |send| send.data = great.clone()).unwrap();
    }
    let stream = harness.listen("kiosk");
    assert_eq!(harness.received(stream).len(), 50);
}

#[test]
fn a_device_was_last_seen_when_its_stream_went() {
    // A device that had listened for a day and disconnected was shown as last seen a day ago: only the
    // beginning of a stream, or a poll, was taken for a contact.
    let mut harness = Harness::new();
    let seen = |harness: &Harness| harness.hub.presence(&device("kiosk"), harness.now).seen_at;
    let stream = harness.listen("kiosk");
    harness.pass(3600.0);
    assert_eq!(seen(&harness), Some(harness.now.wall), "while it listens");
    // A poll that waits keeps it in memory when the stream is gone.
    harness.poll("kiosk");
    harness.pass(10.0);
    harness.close(stream);
    let gone = harness.now.wall;
    harness.pass(10.0);
    assert_eq!(seen(&harness), Some(gone), "after it disconnected");
    let command = harness.send("kiosk");
    harness.report("kiosk", command, R::Succeeded);
    assert_eq!(seen(&harness), Some(harness.now.wall), "a report is a contact");
}
