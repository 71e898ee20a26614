//! What went wrong once. The first line of each test tells the incident.

use std::time::Duration;

use bellwire_core::record::{IdempotencyKey, Load};
use bellwire_core::{Answer, Config, Footprint, Listen, Send};
use bellwire_proto::ReportState as R;
use bellwire_proto::limits::PACED_BYTES;
use bellwire_proto::{Code, DeliveryState, Json, Report, Seconds};

use crate::stage::{Stage, device};

fn keyed(send: &mut Send) {
    let key = IdempotencyKey { caller: String::new(), key: "a".to_owned() };
    send.idempotency = Some((key, [1; 32]));
}

#[test]
fn a_request_at_a_device_that_is_not_in_memory_is_answered() {
    // The device was forgotten as idle before what it had been loaded for, and loaded again, for ever.
    let mut stage = Stage::new();
    stage.loads_held = true;
    let request = stage.ask_to_send("kiosk", |_| {});
    stage.answer_load();
    assert_eq!(stage.loads_waiting(), 0);
    stage.settle();
    assert!(stage.delivery(request).is_ok());
}

#[test]
fn a_repeated_send_that_does_not_wait_after_all_is_forgotten() {
    // A send with a known key and a wait stayed among those who wait when the command had ended.
    let mut stage = Stage::new();
    let command = stage.try_send("kiosk", keyed).unwrap().command;
    stage.report("kiosk", command, R::Succeeded);
    let with = |send: &mut Send| {
        keyed(send);
        send.wait = Seconds::new(60);
    };
    assert!(stage.try_send("kiosk", with).is_ok());
    assert_eq!(stage.hub.footprint(), Footprint::default());
}

#[test]
fn sends_that_wait_for_their_key_are_refused_or_done_when_the_device_cannot_be_loaded() {
    // The failed load refused the first send; those who waited for its key hung for ever.
    let mut stage = Stage::new();
    stage.loads_held = true;
    let [first, second] = [(); 2].map(|()| stage.ask_to_send("kiosk", keyed));
    stage.answer_load();
    assert!(matches!(stage.fail_load(), Load::Device(_)));
    stage.loads_held = false;
    stage.settle();
    assert_eq!(stage.delivery(first).unwrap_err().code, Code::StoreUnavailable);
    assert!(stage.delivery(second).is_ok(), "the next one is the first");
}

#[test]
fn what_is_due_ends_although_a_load_failed() {
    // The device of a due delivery could not be loaded once; then nobody looked again.
    for answers_before in [0, 1] {
        let mut stage = Stage::new();
        let command = stage.try_send("kiosk", |s| s.ttl = Some(Seconds::new(5))).unwrap().command;
        stage.loads_held = true;
        stage.pass(5.0);
        for _ in 0..answers_before {
            stage.answer_load();
        }
        stage.fail_load();
        stage.settle();
        assert_eq!(stage.loads_waiting(), 0, "the store is left alone for a while");
        stage.loads_held = false;
        stage.pass(2.0);
        assert_eq!(stage.state(command), DeliveryState::Expired);
    }
}

#[test]
fn a_store_that_fails_ends_streams_whose_bye_waited_for_it() {
    // The replaced stream was forgotten, its bye withheld, and lost with the transaction.
    let mut stage = Stage::new();
    let older = stage.listen("kiosk");
    stage.send("kiosk");
    stage.hears(older);
    stage.disk_held = true;
    let (_, newer) = stage.ask_to_listen("kiosk", Listen::default());
    stage.hub.handle_store_failed(stage.now);
    stage.settle();
    assert_eq!([older, newer].map(|s| stage.hears(s)), [["bye replaced"], ["bye rotate"]]);
}

#[test]
fn after_the_store_has_failed_a_late_answer_to_a_load_changes_nothing() {
    // What was due was loaded and ended in transactions that no store would ever commit.
    let mut stage = Stage::new();
    stage.try_send("kiosk", |s| s.ttl = Some(Seconds::new(5))).unwrap();
    stage.loads_held = true;
    stage.pass(5.0);
    stage.hub.handle_store_failed(stage.now);
    stage.answer_load();
    assert_eq!((stage.loads_waiting(), stage.hub.footprint()), (0, Footprint::default()));
    let poll = stage.poll("kiosk");
    assert!(matches!(stage.answer(poll), Answer::Problem(_)));
    assert_eq!(stage.hub.footprint(), Footprint::default());
}

#[test]
fn a_nack_after_the_time_to_live_ends_the_delivery() {
    // It was queued with a due time in the past, and stayed so for as long as the nack asked: 7 days.
    let mut stage = Stage::new();
    stage.listen("kiosk");
    let command = stage.try_send("kiosk", |s| s.ttl = Some(Seconds::new(5))).unwrap().command;
    stage.report("kiosk", command, R::Accepted);
    stage.pass(10.0);
    let nack = Report { retry_after_s: Some(604_800), ..Report::of(R::Nack) };
    let answer = stage.report_with("kiosk", command, nack).unwrap();
    assert_eq!(
        (answer.state, answer.error.unwrap().code.as_str()),
        (DeliveryState::Expired, "expired")
    );
}

#[test]
fn a_device_is_told_to_be_offline_before_it_is_forgotten() {
    // A commit in the millisecond in which a poll's presence ended made the device vanish unseen.
    let mut stage = Stage::new();
    stage.poll_with("kiosk", 0, None);
    stage.pass(39.0);
    stage.disk_held = true;
    let request = stage.ask_to_send("kiosk", |_| {});
    stage.now = stage.now.after(Duration::from_secs(1));
    stage.events.clear();
    stage.disk_held = false;
    stage.settle();
    stage.pass(0.0);
    assert!(stage.delivery(request).is_ok());
    let offline = |event: &bellwire_core::HubEvent| matches!(event, bellwire_core::HubEvent::Device { presence, .. } if !presence.online());
    assert!(stage.events.iter().any(offline), "{:?}", stage.events);
}

#[test]
fn data_that_cannot_be_read_is_not_asked_for_again_at_once() {
    // The hub asked as fast as the store could refuse.
    let mut stage = Stage::new();
    stage.send("kiosk");
    stage.pass(1.0);
    stage.loads_held = true;
    let (_, stream) = stage.ask_to_listen("kiosk", Listen::default());
    stage.answer_load();
    stage.settle();
    assert!(matches!(stage.fail_load(), Load::Data(..)));
    stage.settle();
    assert_eq!(stage.loads_waiting(), 0);
    stage.loads_held = false;
    stage.pass(1.0);
    assert_eq!(stage.hears(stream), ["command 1 #1"]);
}

#[test]
fn a_command_whose_turn_comes_before_it_is_on_disk_is_not_looked_for_there() {
    // A device came for a command in the moment in which it was being stored: its data was asked for
    // again and again until it was there.
    let mut stage = Stage::new();
    stage.disk_held = true;
    let request = stage.ask_to_send("kiosk", |_| {});
    stage.loads_held = true;
    let (_, stream) = stage.ask_to_listen("kiosk", Listen::default());
    assert_eq!(stage.loads_waiting(), 0);
    stage.disk_held = false;
    stage.settle();
    assert!(stage.delivery(request).is_ok());
    assert_eq!(stage.hears(stream), ["command 1 #1"]);
}

#[test]
fn a_stream_gets_the_replay_that_it_asked_for() {
    // The page that an older stream had asked for, from another place, was taken for its own.
    let mut stage = Stage::new();
    stage.listen_ack_none("sign", None);
    stage.send_many("sign", 3);
    stage.loads_held = true;
    let older = stage.listen_ack_none("sign", Some(2));
    let newer = stage.listen_ack_none("sign", Some(0));
    stage.loads_held = false;
    stage.settle();
    assert_eq!(stage.hears(older), ["bye replaced"]);
    assert_eq!(stage.hears(newer), ["command 1 #1", "command 2 #1", "command 3 #1"]);
}

#[test]
fn a_stream_that_answers_gets_no_replay() {
    // An ack=none stream had asked for a page; the plain stream that replaced it was sent it.
    let mut stage = Stage::new();
    stage.listen_ack_none("sign", None);
    stage.send("sign");
    stage.loads_held = true;
    stage.listen_ack_none("sign", Some(0));
    let listen = Listen { last_event_id: Some(bellwire_proto::Seq::new(0)), ..Listen::default() };
    let plain = stage.listen_with("sign", listen);
    stage.loads_held = false;
    stage.settle();
    assert_eq!(stage.hears(plain), [""; 0]);
}

#[test]
fn cancellations_by_force_do_not_gather_at_a_device_that_no_longer_polls() {
    // A device polled once and then kept to its stream: each was kept for a poll that never came.
    let mut stage = Stage::new();
    stage.poll_with("kiosk", 0, None);
    stage.listen("kiosk");
    stage.pass(60.0);
    for _ in 0..3 {
        let command = stage.send("kiosk");
        stage.cancel(command, true).unwrap();
    }
    let poll = stage.poll_with("kiosk", 0, None);
    assert_eq!(stage.polled(poll), [""; 0]);
}

#[test]
fn a_lease_holds_although_its_device_was_forgotten() {
    // With a lease of more than 40 s, what a poll had been told came again as soon as it polled.
    let mut stage = Stage::with(Config { lease: Duration::from_secs(120), ..Config::default() });
    stage.send("kiosk");
    stage.poll("kiosk");
    stage.pass(50.0);
    assert_eq!(stage.hub.footprint(), Footprint::default());
    let poll = stage.poll_with("kiosk", 0, None);
    assert_eq!(stage.polled(poll), [""; 0]);
}

#[test]
fn a_restart_gives_the_hundredth_sending_no_successor() {
    // The store queues again what it finds sent, and the hub sent it a hundred and first time.
    let mut stage = Stage::new();
    let command = stage.send("kiosk");
    for sending in 1..=100 {
        let stream = stage.listen("kiosk");
        assert_eq!(stage.hears(stream), [format!("command 1 #{sending}")]);
        if sending < 100 {
            stage.close(stream);
        }
    }
    stage.restart();
    let stream = stage.listen("kiosk");
    assert_eq!(stage.hears(stream), [""; 0]);
    assert_eq!(stage.state(command), DeliveryState::Dead);
}

#[test]
fn a_report_of_a_device_that_is_being_removed_is_unknown() {
    // While the removal was on its way to disk the report was answered 409, and a second later 404.
    let mut stage = Stage::new();
    let command = stage.send("kiosk");
    stage.disk_held = true;
    stage.ask_to_delete("kiosk");
    let request = bellwire_core::RequestId(u64::MAX);
    let (report, now) = (Report::of(R::Succeeded), stage.now);
    stage.hub.handle_report(request, crate::stage::device("kiosk"), command, report, now);
    stage.disk_held = false;
    stage.settle();
    assert_eq!(stage.delivery(request).unwrap_err().code, Code::UnknownCommand);
}

#[test]
fn a_device_whose_lookup_failed_is_forgotten() {
    // It stayed in memory for ever: nothing else was to happen to it.
    let mut stage = Stage::new();
    let command = stage.send("kiosk");
    stage.report("kiosk", command, R::Succeeded);
    stage.loads_held = true;
    let request = bellwire_core::RequestId(u64::MAX);
    let (report, now) = (Report::of(R::Failed), stage.now);
    stage.hub.handle_report(request, crate::stage::device("kiosk"), command, report, now);
    stage.settle();
    stage.answer_load();
    assert!(matches!(stage.fail_load(), Load::Delivery(..)));
    stage.settle();
    assert_eq!(stage.delivery(request).unwrap_err().code, Code::StoreUnavailable);
    assert_eq!(stage.hub.footprint(), Footprint::default());
}

#[test]
fn a_window_of_great_commands_waits_for_its_reader() {
    // With a window above 16 a device that came back slowly got its whole backlog at once, was cut
    // off as overloaded, came back, and so on, until the hundredth sending made it `dead`.
    let great = Json::text(&"x".repeat(64 * 1024 - 2));
    for listen in [Stage::listen, Stage::listen_unconfirmed] {
        let mut stage = Stage::with(Config { max_in_flight: 100, ..Config::default() });
        for _ in 0..50 {
            stage.try_send("kiosk", |send| send.data = great.clone()).unwrap();
        }
        stage.readers_held = true;
        let stream = listen(&mut stage, "kiosk");
        let first = stage.hears(stream).len();
        assert_eq!(first, PACED_BYTES / (64 * 1024), "at once, and no more until they are written");
        let poll = stage.poll("kiosk");
        let polled = stage.polled(poll).len();
        assert!(first + polled >= 50, "a poll beside the slow stream is told the rest");
    }
}

#[test]
fn a_reader_that_keeps_up_gets_a_whole_window() {
    // The other half of it: what was written makes room for more, without any report.
    let great = Json::text(&"x".repeat(64 * 1024 - 2));
    let mut stage = Stage::with(Config { max_in_flight: 100, ..Config::default() });
    for _ in 0..50 {
        stage.try_send("kiosk", |send| send.data = great.clone()).unwrap();
    }
    let stream = stage.listen("kiosk");
    assert_eq!(stage.hears(stream).len(), 50);
}

#[test]
fn a_device_was_last_seen_when_its_stream_went() {
    // A device that had listened for a day and went was shown as last seen a day ago: only the
    // beginning of a stream, or a poll, was taken for a sign of life.
    let mut stage = Stage::new();
    let seen = |stage: &Stage| stage.hub.presence(&device("kiosk"), stage.now).seen_at;
    let stream = stage.listen("kiosk");
    stage.pass(3600.0);
    assert_eq!(seen(&stage), Some(stage.now), "while it listens");
    // A poll keeps it in memory when the stream is gone.
    stage.poll_with("kiosk", 0, None);
    stage.pass(10.0);
    stage.close(stream);
    let gone = stage.now;
    stage.pass(10.0);
    assert_eq!(seen(&stage), Some(gone), "when it has gone");
    let command = stage.send("kiosk");
    stage.report("kiosk", command, R::Succeeded);
    assert_eq!(seen(&stage), Some(stage.now), "a report is a sign of life");
}
