//! A long queue: what is in memory of it, and that nothing of it is forgotten in the store.

use bellwire_core::Config;
use bellwire_core::record::Load;
use bellwire_proto::ReportState as R;
use bellwire_proto::{Code, DeliveryState, Seconds};

use crate::harness::Harness;

fn long_queue(count: usize) -> Harness {
    let mut harness = Harness::with(Config { queue_max: count, ..Config::default() });
    harness.send_many("kiosk", count);
    harness
}

#[test]
fn a_long_queue_is_delivered_in_order_page_by_page() {
    let mut harness = long_queue(100);
    let stream = harness.listen("kiosk");
    for seq in 1..=100u64 {
        assert_eq!(harness.received(stream), [format!("command {seq} #1")]);
        let command = harness.frames.last().unwrap().id;
        harness.report("kiosk", command, R::Succeeded);
    }
    assert!(harness.store.disk.queued.is_empty());
}

#[test]
fn a_queue_in_the_store_counts_against_its_limit() {
    let mut harness = long_queue(50);
    let refused = harness.try_send("kiosk", |_| {}).unwrap_err();
    assert_eq!(refused.code, Code::QueueFull);
    harness.restart_with(Config { queue_max: 50, ..Config::default() });
    let refused = harness.try_send("kiosk", |_| {}).unwrap_err();
    assert_eq!(refused.code, Code::QueueFull, "after a restart");
}

#[test]
fn what_is_in_the_store_alone_expires_while_its_device_is_busy() {
    let mut harness = long_queue(60);
    harness.listen("kiosk");
    let running = harness.frames[0].id;
    harness.report("kiosk", running, R::Running);
    for _ in 0..70 {
        harness.pass(60.0);
        if harness.state(running) == DeliveryState::Running {
            harness.report("kiosk", running, R::Running);
        }
    }
    let rows = harness.store.disk.deliveries.values();
    assert_eq!(rows.filter(|row| row.state == DeliveryState::Expired).count(), 59);
}

#[test]
fn a_scheduled_one_in_the_store_does_not_hold_back_the_queue_and_comes_in_its_time() {
    let mut harness = long_queue(0);
    let mut harness = {
        harness.restart_with(Config { queue_max: 1000, ..Config::default() });
        harness
    };
    let later = harness.now.wall.after(std::time::Duration::from_secs(100));
    let scheduled = harness.try_send("kiosk", |send| send.not_before = Some(later)).unwrap();
    harness.send_many("kiosk", 40);
    let stream = harness.listen("kiosk");
    assert_eq!(harness.received(stream), ["command 2 #1"]);
    let second = harness.frames[0].id;
    harness.report("kiosk", second, R::Running);
    harness.pass(101.0);
    harness.report("kiosk", second, R::Succeeded);
    assert_eq!(harness.received(stream), ["command 1 #1"], "the oldest that may be sent");
    assert_eq!(harness.state(scheduled.command), DeliveryState::Sent);
}

#[test]
fn a_report_and_a_cancellation_find_what_is_in_the_store_alone() {
    let mut harness = long_queue(60);
    harness.listen("kiosk");
    let rows: Vec<_> = harness.store.disk.commands.values().map(|c| c.head.id).collect();
    assert_eq!(harness.report("kiosk", rows[50], R::Succeeded).state, DeliveryState::Succeeded);
    assert!(harness.cancel(rows[51], false).unwrap());
    let waiting = harness.ask_to_send("kiosk", |send| send.wait = Seconds::new(60));
    assert!(!harness.is_answered(waiting));
}

#[test]
fn a_device_with_a_long_queue_is_removed_in_steps_and_all_of_it_is_cancelled() {
    let mut harness = long_queue(1000);
    harness.delete("kiosk");
    let rows = harness.store.disk.deliveries.values();
    assert_eq!(rows.filter(|row| row.state == DeliveryState::Cancelled).count(), 1000);
    assert!(harness.store.disk.queued.is_empty() && harness.store.disk.devices.is_empty());
    // It may come back, and nothing of its history comes with it.
    let stream = harness.listen("kiosk");
    assert_eq!(harness.received(stream), Vec::<String>::new());
}

#[test]
fn a_removal_that_cannot_read_the_store_is_refused_and_can_be_requested_again() {
    let mut harness = long_queue(1000);
    harness.loads_held = true;
    let request = harness.ask_to_delete("kiosk");
    harness.answer_load();
    harness.settle();
    assert!(matches!(harness.fail_load(), Load::Live(..)));
    harness.loads_held = false;
    harness.settle();
    let bellwire_core::Answer::Problem(problem) = harness.answer(request) else {
        panic!("not refused")
    };
    assert_eq!(problem.code, Code::StoreUnavailable);
    harness.delete("kiosk");
    assert!(harness.store.disk.devices.is_empty());
}
