//! Time: durations are of the monotonic clock, stamps of the wall clock, which may be set at any time.
//!
//! The incidents: after 8 h of suspension a command with a ttl of a minute was still delivered; a
//! hub that had started three days behind and was set right stamped everything three days early,
//! and then expired what was sent a moment ago with a ttl of a day.

use std::time::Duration;

use bellwire_core::record::IdempotencyKey;
use bellwire_core::{Now, Send};
use bellwire_proto::ReportState as R;
use bellwire_proto::{DeliveryState, Seconds};

use crate::harness::Harness;

const DAY_S: i64 = 86_400;

fn ttl(seconds: u64) -> impl Fn(&mut Send) {
    move |send| send.ttl = Some(Seconds::new(seconds))
}

#[test]
fn a_step_of_the_wall_clock_moves_no_ttl() {
    for step_s in [-3 * DAY_S, -3600, 3600, 3 * DAY_S] {
        let mut harness = Harness::new();
        let command = harness.try_send("kiosk", ttl(60)).unwrap().command;
        harness.step_wall_clock(step_s);
        harness.pass(59.9);
        assert_eq!(harness.state(command), DeliveryState::Queued, "too early, after {step_s} s");
        harness.pass(0.2);
        assert_eq!(harness.state(command), DeliveryState::Expired, "too late, after {step_s} s");
    }
}

#[test]
fn time_in_which_the_machine_slept_counts() {
    let mut harness = Harness::new();
    let command = harness.try_send("kiosk", ttl(60)).unwrap().command;
    // Nothing runs while the machine is suspended; then the device connects at once.
    harness.let_pass_unnoticed(Duration::from_secs(8 * 3600));
    let stream = harness.listen("kiosk");
    assert_eq!(harness.received(stream), Vec::<String>::new());
    harness.pass(0.5);
    assert_eq!(harness.state(command), DeliveryState::Expired);
}

#[test]
fn stamps_are_right_from_the_moment_at_which_the_wall_clock_is() {
    let mut harness = Harness::new();
    harness.step_wall_clock(3 * DAY_S);
    let delivery = harness.try_send("kiosk", ttl(60)).unwrap();
    assert_eq!(delivery.created_at, harness.now.wall);
    assert_eq!(delivery.expires_at, harness.now.wall.after(Duration::from_secs(60)));
}

#[test]
fn a_step_of_the_wall_clock_moves_no_run_clock_lease_wait_or_backoff() {
    for step_s in [-3 * DAY_S, 3 * DAY_S] {
        let mut harness = Harness::new();
        let stream = harness.listen("kiosk");
        let leased = harness.try_send("kiosk", |send| send.run_timeout = Some(Seconds::new(90)));
        let leased = leased.unwrap().command;
        harness.step_wall_clock(step_s);
        harness.pass(29.9);
        assert_eq!(harness.received(stream), ["command 1 #1"]);
        harness.pass(1.2);
        assert_eq!(harness.received(stream), ["command 1 #2"], "lease and backoff");
        harness.report("kiosk", leased, R::Accepted);
        harness.step_wall_clock(-step_s);
        harness.pass(89.9);
        assert_eq!(harness.state(leased), DeliveryState::Accepted);
        harness.pass(0.2);
        assert_eq!(harness.state(leased), DeliveryState::TimedOut);
        let waiting = harness.ask_to_send("other", |send| send.wait = Seconds::new(60));
        harness.step_wall_clock(step_s);
        harness.pass(59.9);
        assert!(!harness.is_answered(waiting));
        harness.pass(0.2);
        assert!(harness.is_answered(waiting));
    }
}

#[test]
fn a_step_of_the_wall_clock_forgets_no_idempotency_key() {
    let keyed = |send: &mut Send| {
        let key = IdempotencyKey { caller: String::new(), key: "k".to_owned() };
        send.idempotency = Some((key, [1; 32]));
    };
    let mut harness = Harness::new();
    let first = harness.try_send("kiosk", keyed).unwrap().command;
    harness.step_wall_clock(3 * DAY_S);
    assert_eq!(harness.try_send("kiosk", keyed).unwrap().command, first);
    harness.pass(86_401.0);
    assert_ne!(harness.try_send("kiosk", keyed).unwrap().command, first, "24 h are over");
}

#[test]
fn not_before_is_a_time_of_the_wall_clock_and_follows_its_steps() {
    let scheduled = |harness: &mut Harness| {
        let at = harness.now.wall.after(Duration::from_secs(3600));
        harness.try_send("kiosk", |send| send.not_before = Some(at)).unwrap().command
    };
    let mut harness = Harness::new();
    let stream = harness.listen("kiosk");
    scheduled(&mut harness);
    harness.step_wall_clock(3600);
    assert_eq!(harness.received(stream), ["command 1 #1"], "set forwards: it has come");

    let mut harness = Harness::new();
    let stream = harness.listen("kiosk");
    scheduled(&mut harness);
    harness.step_wall_clock(-7200);
    harness.pass(3.0 * 3600.0 - 1.0);
    assert_eq!(harness.received(stream), Vec::<String>::new(), "set back: it has not");
    harness.pass(2.0);
    assert_eq!(harness.received(stream), ["command 1 #1"]);
}

#[test]
fn the_ttl_of_a_scheduled_command_counts_from_its_not_before_and_over_a_restart() {
    let mut harness = Harness::new();
    let at = harness.now.wall.after(Duration::from_secs(3600));
    let with = |send: &mut Send| {
        send.not_before = Some(at);
        send.ttl = Some(Seconds::new(60));
    };
    let command = harness.try_send("kiosk", with).unwrap().command;
    harness.pass(3659.0);
    assert_eq!(harness.state(command), DeliveryState::Queued);
    harness.pass(2.0);
    assert_eq!(harness.state(command), DeliveryState::Expired);

    let at = harness.now.wall.after(Duration::from_secs(3600));
    let with = |send: &mut Send| {
        send.not_before = Some(at);
        send.ttl = Some(Seconds::new(60));
    };
    let command = harness.try_send("kiosk", with).unwrap().command;
    // Its time comes and its ttl elapses while the hub is down.
    harness.let_pass_unnoticed(Duration::from_secs(7200));
    harness.restart();
    harness.pass(1.0);
    assert_eq!(harness.state(command), DeliveryState::Expired);
}

#[test]
fn a_restart_with_a_wall_clock_that_is_wrong_takes_nothing_away() {
    let mut harness = Harness::new();
    let command = harness.try_send("kiosk", ttl(3600)).unwrap().command;
    // A machine without a battery: the store carries the monotonic clock over, the wall clock is
    // years behind, and NTP sets it right later.
    harness.now = Now { wall: bellwire_proto::Timestamp::from_unix_ms(0), ..harness.now };
    harness.restart();
    harness.pass(3000.0);
    harness.step_wall_clock(1_700_000_000);
    harness.pass(599.0);
    assert_eq!(harness.state(command), DeliveryState::Queued);
    harness.pass(2.0);
    assert_eq!(harness.state(command), DeliveryState::Expired);
}
