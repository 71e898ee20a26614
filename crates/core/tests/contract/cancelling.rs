//! Section 7: cancelling.

use bellwire_proto::ReportState as R;
use bellwire_proto::{Code, CommandId, DeliveryState, Outcome, Report, Seconds};

use crate::harness::Harness;

const NOTHING: [&str; 0] = [];

#[test]
fn what_was_never_sent_is_cancelled_at_once_and_the_device_receives_nothing() {
    let mut harness = Harness::new();
    let stream = harness.listen("kiosk");
    harness.send("kiosk");
    let waiting = harness.send("kiosk");
    harness.received(stream);
    assert!(harness.cancel(waiting, false).unwrap(), "all has ended");
    assert_eq!(
        (harness.state(waiting), harness.received(stream)),
        (DeliveryState::Cancelled, vec![])
    );
}

#[test]
fn what_was_sent_is_cancelling_until_the_device_reports_it() {
    for before in [None, Some(R::Accepted), Some(R::Running)] {
        let mut harness = Harness::new();
        let stream = harness.listen("kiosk");
        let command = harness.send("kiosk");
        if let Some(state) = before {
            harness.report("kiosk", command, state);
        }
        harness.received(stream);
        assert!(!harness.cancel(command, false).unwrap());
        assert_eq!(harness.state(command), DeliveryState::Cancelling);
        assert_eq!(harness.received(stream), ["cancel 1"]);
        assert_eq!(harness.report("kiosk", command, R::Cancelled).state, DeliveryState::Cancelled);
    }
}

#[test]
fn what_was_sent_once_and_is_queued_again_is_cancelling_too() {
    let mut harness = Harness::new();
    let stream = harness.listen("kiosk");
    let command = harness.send("kiosk");
    harness.close(stream);
    assert_eq!(harness.state(command), DeliveryState::Queued);
    assert!(!harness.cancel(command, false).unwrap());
    assert_eq!(harness.state(command), DeliveryState::Cancelling);
    let stream = harness.listen("kiosk");
    assert_eq!(
        harness.received(stream),
        ["cancel 1"],
        "it is repeated on connect, and not sent again"
    );
}

#[test]
fn a_finished_result_wins_the_race() {
    let mut harness = Harness::new();
    harness.listen("kiosk");
    let command = harness.send("kiosk");
    harness.cancel(command, false).unwrap();
    let answer = harness.report("kiosk", command, R::Succeeded);
    assert_eq!((answer.state, answer.late), (DeliveryState::Succeeded, false));
}

#[test]
fn while_cancelling_reports_of_the_run_change_no_state() {
    let mut harness = Harness::new();
    harness.listen("kiosk");
    let command = harness.send("kiosk");
    harness.cancel(command, false).unwrap();
    assert_eq!(harness.report("kiosk", command, R::Accepted).state, DeliveryState::Cancelling);
    let progress = Some(70.0.try_into().unwrap());
    let running = Report::new(R::Running, Outcome { progress, ..Outcome::default() });
    let answer = harness.report_with("kiosk", command, running).unwrap();
    assert_eq!((answer.state, answer.outcome.progress), (DeliveryState::Cancelling, progress));
    assert_eq!(harness.report("kiosk", command, R::Nack).state, DeliveryState::Cancelled);
}

#[test]
fn cancelling_keeps_its_slot_for_60_s() {
    let mut harness = Harness::new();
    let stream = harness.listen("kiosk");
    let command = harness.send("kiosk");
    harness.send("kiosk");
    harness.cancel(command, false).unwrap();
    harness.received(stream);
    harness.pass(59.9);
    assert_eq!(harness.received(stream), NOTHING);
    harness.pass(0.1);
    assert_eq!(harness.received(stream), ["command 2 #1"]);
    assert_eq!(harness.state(command), DeliveryState::Cancelling);
}

fn cancelling_with_run_timeout(harness: &mut Harness, seconds: u64) -> CommandId {
    harness.listen("kiosk");
    let with = |send: &mut bellwire_core::Send| send.run_timeout = Some(Seconds::new(seconds));
    let command = harness.try_send("kiosk", with).unwrap().command;
    harness.cancel(command, false).unwrap();
    command
}

#[test]
fn cancelling_ends_timed_out_after_the_greater_of_60_s_and_the_run_timeout() {
    for (run_timeout_s, ends_s) in [(5, 60.0), (90, 90.0)] {
        let mut harness = Harness::new();
        let command = cancelling_with_run_timeout(&mut harness, run_timeout_s);
        harness.pass(ends_s - 0.001);
        assert_eq!(harness.state(command), DeliveryState::Cancelling);
        harness.pass(0.001);
        assert_eq!(harness.state(command), DeliveryState::TimedOut);
    }
}

#[test]
fn cancelling_ends_over_a_restart_as_well() {
    let mut harness = Harness::new();
    let command = cancelling_with_run_timeout(&mut harness, 5);
    harness.pass(30.0);
    harness.restart();
    harness.pass(30.5);
    assert_eq!(harness.state(command), DeliveryState::TimedOut);
}

#[test]
fn by_force_it_is_cancelled_at_once_and_a_live_stream_still_receives_the_cancel() {
    let mut harness = Harness::new();
    let stream = harness.listen("kiosk");
    let command = harness.send("kiosk");
    harness.send("kiosk");
    harness.received(stream);
    assert!(harness.cancel(command, true).unwrap());
    assert_eq!(harness.state(command), DeliveryState::Cancelled);
    assert_eq!(harness.received(stream), ["cancel 1", "command 2 #1"]);
}

#[test]
fn by_force_what_is_cancelling_already_is_cancelled() {
    let mut harness = Harness::new();
    harness.listen("kiosk");
    let command = harness.send("kiosk");
    assert!(!harness.cancel(command, false).unwrap());
    assert!(!harness.cancel(command, false).unwrap(), "asked again it is still cancelling");
    assert!(harness.cancel(command, true).unwrap());
}

#[test]
fn by_force_a_waiting_poll_receives_the_cancel_and_else_the_next_one() {
    let mut harness = Harness::new();
    let [first, second] = [(); 2].map(|()| harness.send("kiosk"));
    let poll = harness.poll("kiosk");
    assert_eq!(harness.polled(poll), ["command 1 #1"]);
    harness.cancel(first, true).unwrap();
    let poll = harness.poll("kiosk");
    assert_eq!(harness.polled(poll), ["command 2 #1", "cancel 1"]);
    let poll = harness.poll("kiosk");
    harness.cancel(second, true).unwrap();
    assert_eq!(harness.polled(poll), ["cancel 2"]);
}

#[test]
fn what_had_ended_before_is_refused_with_the_delivery() {
    let mut harness = Harness::new();
    let command = harness.send("kiosk");
    harness.report("kiosk", command, R::Succeeded);
    for force in [false, true] {
        let problem = harness.cancel(command, force).unwrap_err();
        assert_eq!(problem.code, Code::IllegalTransition);
        assert_eq!(problem.delivery.unwrap().state, DeliveryState::Succeeded);
    }
}

#[test]
fn nothing_is_known_of_a_command_that_was_never_stored() {
    let mut harness = Harness::new();
    let problem = harness.cancel(CommandId::from_parts(1, [9; 10]), false).unwrap_err();
    assert_eq!(problem.code, Code::UnknownCommand);
}

#[test]
fn a_sender_that_waits_is_answered_with_the_cancellation() {
    let mut harness = Harness::new();
    let request = harness.ask_to_send("kiosk", |send| send.wait = Seconds::new(60));
    let command = harness.store.disk.commands.first_key_value().unwrap().1.head.id;
    harness.cancel(command, false).unwrap();
    assert_eq!(harness.delivery(request).unwrap().state, DeliveryState::Cancelled);
}
