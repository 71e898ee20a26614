//! Section 7: cancelling.

use bellwire_proto::ReportState as R;
use bellwire_proto::{Code, CommandId, DeliveryState, Report, Seconds};

use crate::stage::Stage;

const NOTHING: [&str; 0] = [];

#[test]
fn what_was_never_sent_is_cancelled_at_once_and_the_device_hears_nothing() {
    let mut stage = Stage::new();
    let stream = stage.listen("kiosk");
    stage.send("kiosk");
    let waiting = stage.send("kiosk");
    stage.hears(stream);
    assert!(stage.cancel(waiting, false).unwrap(), "all has ended");
    assert_eq!((stage.state(waiting), stage.hears(stream)), (DeliveryState::Cancelled, vec![]));
}

#[test]
fn what_was_sent_is_cancelling_until_the_device_says_so() {
    for before in [None, Some(R::Accepted), Some(R::Running)] {
        let mut stage = Stage::new();
        let stream = stage.listen("kiosk");
        let command = stage.send("kiosk");
        if let Some(state) = before {
            stage.report("kiosk", command, state);
        }
        stage.hears(stream);
        assert!(!stage.cancel(command, false).unwrap());
        assert_eq!(stage.state(command), DeliveryState::Cancelling);
        assert_eq!(stage.hears(stream), ["cancel 1"]);
        assert_eq!(stage.report("kiosk", command, R::Cancelled).state, DeliveryState::Cancelled);
    }
}

#[test]
fn what_was_sent_once_and_is_queued_again_is_cancelling_too() {
    let mut stage = Stage::new();
    let stream = stage.listen("kiosk");
    let command = stage.send("kiosk");
    stage.close(stream);
    assert_eq!(stage.state(command), DeliveryState::Queued);
    assert!(!stage.cancel(command, false).unwrap());
    assert_eq!(stage.state(command), DeliveryState::Cancelling);
    let stream = stage.listen("kiosk");
    assert_eq!(stage.hears(stream), ["cancel 1"], "it is repeated on connect, and not sent again");
}

#[test]
fn a_finished_result_wins_the_race() {
    let mut stage = Stage::new();
    stage.listen("kiosk");
    let command = stage.send("kiosk");
    stage.cancel(command, false).unwrap();
    let answer = stage.report("kiosk", command, R::Succeeded);
    assert_eq!((answer.state, answer.late), (DeliveryState::Succeeded, false));
}

#[test]
fn while_cancelling_reports_of_the_run_change_no_state() {
    let mut stage = Stage::new();
    stage.listen("kiosk");
    let command = stage.send("kiosk");
    stage.cancel(command, false).unwrap();
    assert_eq!(stage.report("kiosk", command, R::Accepted).state, DeliveryState::Cancelling);
    let progress = Some(70.0.try_into().unwrap());
    let running = Report { progress, ..Report::of(R::Running) };
    let answer = stage.report_with("kiosk", command, running).unwrap();
    assert_eq!((answer.state, answer.progress), (DeliveryState::Cancelling, progress));
    assert_eq!(stage.report("kiosk", command, R::Nack).state, DeliveryState::Cancelled);
}

#[test]
fn cancelling_keeps_its_slot_for_60_s() {
    let mut stage = Stage::new();
    let stream = stage.listen("kiosk");
    let command = stage.send("kiosk");
    stage.send("kiosk");
    stage.cancel(command, false).unwrap();
    stage.hears(stream);
    stage.pass(59.9);
    assert_eq!(stage.hears(stream), NOTHING);
    stage.pass(0.1);
    assert_eq!(stage.hears(stream), ["command 2 #1"]);
    assert_eq!(stage.state(command), DeliveryState::Cancelling);
}

fn cancelling_with_run_timeout(stage: &mut Stage, seconds: u64) -> CommandId {
    stage.listen("kiosk");
    let with = |send: &mut bellwire_core::Send| send.run_timeout = Some(Seconds::new(seconds));
    let command = stage.try_send("kiosk", with).unwrap().command;
    stage.cancel(command, false).unwrap();
    command
}

#[test]
fn cancelling_ends_timed_out_after_the_greater_of_60_s_and_the_run_timeout() {
    for (run_timeout_s, ends_s) in [(5, 60.0), (90, 90.0)] {
        let mut stage = Stage::new();
        let command = cancelling_with_run_timeout(&mut stage, run_timeout_s);
        stage.pass(ends_s - 0.001);
        assert_eq!(stage.state(command), DeliveryState::Cancelling);
        stage.pass(0.001);
        assert_eq!(stage.state(command), DeliveryState::TimedOut);
    }
}

#[test]
fn cancelling_ends_over_a_restart_as_well() {
    let mut stage = Stage::new();
    let command = cancelling_with_run_timeout(&mut stage, 5);
    stage.pass(30.0);
    stage.restart();
    stage.pass(30.5);
    assert_eq!(stage.state(command), DeliveryState::TimedOut);
}

#[test]
fn by_force_it_is_cancelled_at_once_and_a_live_stream_is_still_told() {
    let mut stage = Stage::new();
    let stream = stage.listen("kiosk");
    let command = stage.send("kiosk");
    stage.send("kiosk");
    stage.hears(stream);
    assert!(stage.cancel(command, true).unwrap());
    assert_eq!(stage.state(command), DeliveryState::Cancelled);
    assert_eq!(stage.hears(stream), ["cancel 1", "command 2 #1"]);
}

#[test]
fn by_force_what_is_cancelling_already_is_cancelled() {
    let mut stage = Stage::new();
    stage.listen("kiosk");
    let command = stage.send("kiosk");
    assert!(!stage.cancel(command, false).unwrap());
    assert!(!stage.cancel(command, false).unwrap(), "asked again it is still cancelling");
    assert!(stage.cancel(command, true).unwrap());
}

#[test]
fn by_force_a_waiting_poll_is_told_and_else_the_next_one() {
    let mut stage = Stage::new();
    let [first, second] = [(); 2].map(|()| stage.send("kiosk"));
    let poll = stage.poll("kiosk");
    assert_eq!(stage.polled(poll), ["command 1 #1"]);
    stage.cancel(first, true).unwrap();
    let poll = stage.poll("kiosk");
    assert_eq!(stage.polled(poll), ["cancel 1"]);
    let poll = stage.poll("kiosk");
    assert_eq!(stage.polled(poll), ["command 2 #1"]);
    let poll = stage.poll("kiosk");
    stage.cancel(second, true).unwrap();
    assert_eq!(stage.polled(poll), ["cancel 2"]);
}

#[test]
fn what_had_ended_before_is_refused_with_the_delivery() {
    let mut stage = Stage::new();
    let command = stage.send("kiosk");
    stage.report("kiosk", command, R::Succeeded);
    for force in [false, true] {
        let problem = stage.cancel(command, force).unwrap_err();
        assert_eq!(problem.code, Code::IllegalTransition);
        assert_eq!(problem.delivery.unwrap().state, DeliveryState::Succeeded);
    }
}

#[test]
fn nothing_is_known_of_a_command_that_was_never_stored() {
    let mut stage = Stage::new();
    let problem = stage.cancel(CommandId::from_parts(1, [9; 10]), false).unwrap_err();
    assert_eq!(problem.code, Code::UnknownCommand);
}

#[test]
fn a_sender_that_waits_hears_of_the_cancellation() {
    let mut stage = Stage::new();
    let request = stage.ask_to_send("kiosk", |send| send.wait = Seconds::new(60));
    let command = stage.store.disk.commands.first_key_value().unwrap().1.head.id;
    stage.cancel(command, false).unwrap();
    assert_eq!(stage.delivery(request).unwrap().state, DeliveryState::Cancelled);
}
