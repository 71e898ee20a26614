//! Faults that a review of the core found before they did any harm: one test each.

use std::time::Duration;

use bellwire_core::Send;
use bellwire_core::record::Load;
use bellwire_proto::ReportState as R;
use bellwire_proto::{Code, DeliveryState, Seconds};

use crate::harness::Harness;

const HOUR: Duration = Duration::from_secs(3600);

fn ttl_of_a_minute(send: &mut Send) {
    send.ttl = Some(Seconds::new(60));
}

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}{n:03}")).collect()
}

fn refs(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

#[test]
fn what_expired_before_it_was_expanded_is_not_sent() {
    // A hub that was down for an hour after its 202 sent a command whose ttl was a minute.
    let mut harness = Harness::new();
    harness.loads_held = true;
    harness.send_to(&refs(&names("d", 300)), ttl_of_a_minute);
    harness.let_pass_unnoticed(HOUR);
    harness.restart();
    harness.loads_held = false;
    let stream = harness.listen("d250");
    harness.pass(1.0);
    assert_eq!(harness.received(stream), Vec::<String>::new());
}

#[test]
fn what_expired_in_the_store_alone_is_not_sent_when_its_page_is_loaded() {
    // The first page of a queue was expired as it should be, and then the second was sent.
    let mut harness = Harness::new();
    (0..40).for_each(|_| drop(harness.try_send("kiosk", ttl_of_a_minute).unwrap()));
    harness.let_pass_unnoticed(HOUR);
    harness.restart();
    let stream = harness.listen("kiosk");
    assert_eq!(harness.received(stream), Vec::<String>::new());
}

#[test]
fn a_report_about_what_expired_in_the_store_alone_is_refused() {
    let mut harness = Harness::new();
    let last = (0..40).map(|_| harness.try_send("kiosk", ttl_of_a_minute).unwrap().command).last();
    harness.let_pass_unnoticed(HOUR);
    let refused = harness.try_report("kiosk", last.unwrap(), R::Accepted).unwrap_err();
    assert_eq!(refused.code, Code::IllegalTransition);
    assert_eq!(refused.delivery.unwrap().state, DeliveryState::Expired);
}

#[test]
fn an_unconfirmed_stream_ends_in_time_although_the_device_had_polled() {
    // The end of the poll's presence, which had elapsed, hid the deadline of the confirmation.
    for plain_stream_too in [false, true] {
        let mut harness = Harness::new();
        let poll = harness.poll_with("kiosk", 0, None);
        harness.polled(poll);
        if plain_stream_too {
            harness.listen("kiosk");
        }
        harness.pass(60.0);
        let stream = harness.listen_unconfirmed("kiosk");
        harness.pass(11.0);
        assert_eq!(harness.received(stream), ["bye unconfirmed"]);
    }
}

#[test]
fn a_cancellation_whose_deliveries_cannot_be_read_does_not_hammer_the_store() {
    let mut harness = Harness::new();
    let command = harness.send_to(&refs(&names("d", 3)), |_| {});
    harness.loads_held = true;
    assert!(harness.cancel_later(command));
    harness.answer_load();
    harness.settle();
    let mut lookups = 0;
    while harness.loads_waiting() > 0 && lookups < 100 {
        match lookups % 4 {
            0 => harness.answer_load(),
            _ => drop(harness.fail_load()),
        }
        harness.settle();
        lookups += 1;
    }
    assert!(lookups < 20, "{lookups} lookups in no time at all");
    harness.loads_held = false;
    harness.pass(2.0);
    assert_eq!(harness.state(command), DeliveryState::Cancelled);
}

#[test]
fn a_device_that_cannot_be_read_holds_up_its_own_chunk_alone() {
    // Two of them held both steps, and no command to many went on.
    let mut harness = Harness::new();
    harness.loads_held = true;
    harness.send_to(&refs(&names("a", 300)), |_| {});
    let other = harness.send_to(&refs(&names("b", 300)), |_| {});
    for _ in 0..40 {
        while harness.loads_waiting() > 0 {
            let damaged = |load: &Load| matches!(load, Load::Device(id, _) if ["a000", "a150"].contains(&id.as_str()));
            if harness.next_load().is_some_and(damaged) {
                harness.fail_load();
            } else {
                harness.answer_load();
            }
            harness.settle();
        }
        harness.pass(0.25);
    }
    let seq = harness.row(other).head.seq;
    assert_eq!(harness.store.disk.deliveries_of_command(seq).count(), 300);
}

#[test]
fn a_step_of_the_wall_clock_reaches_a_scheduled_command_that_a_sender_waits_for() {
    let mut harness = Harness::new();
    let stream = harness.listen("kiosk");
    let tomorrow = harness.now.wall.after(24 * HOUR);
    harness.ask_to_send("kiosk", |send| {
        send.not_before = Some(tomorrow);
        send.wait = Seconds::new(300);
    });
    harness.step_wall_clock(86_460);
    assert_eq!(harness.received(stream), ["command 1 #1"]);
}

#[test]
fn a_chunk_that_a_device_waits_for_comes_before_the_chunks_of_older_commands() {
    let mut harness = Harness::new();
    harness.loads_held = true;
    let older = harness.send_to(&refs(&names("d", 900)), |_| {});
    harness.send_to(&refs(&names("e", 640)), |_| {});
    harness.disk_held = true;
    harness.loads_held = false;
    let (_, stream) = harness.ask_to_listen("e600", bellwire_core::Listen::default());
    harness.ask_to_send("e600", |_| {});
    let mut commits = 0;
    while harness.received(stream).is_empty() {
        harness.commit_one();
        commits += 1;
        assert!(commits < 100, "it is never sent");
    }
    let expanded = harness
        .store
        .disk
        .first_of(older)
        .map_or(0, |row| harness.store.disk.deliveries_of_command(row.head.seq).count());
    assert!(expanded <= 3 * 128, "{expanded} of 900 deliveries of the older command came first");
}

#[test]
fn cancellations_under_way_are_bounded() {
    let mut harness = Harness::new();
    let commands: Vec<_> = (0..300)
        .map(|n| harness.send_to(&refs(&names(&format!("x{}-", n % 5), 129)), |_| {}))
        .collect();
    harness.disk_held = true;
    let refused = commands.into_iter().filter(|command| !harness.cancel_later(*command)).count();
    assert_eq!(refused, 300 - bellwire_proto::limits::COMMANDS_TO_MANY_MAX);
}

#[test]
fn a_store_that_failed_does_not_promise_that_all_is_on_disk() {
    let mut harness = Harness::new();
    harness.hub.handle_store_failed(harness.now);
    harness.hub.handle_settle(bellwire_core::RequestId(999));
    harness.settle();
    let answer = harness.answer(bellwire_core::RequestId(999));
    assert!(matches!(answer, bellwire_core::Answer::Problem(_)), "{answer:?}");
}
