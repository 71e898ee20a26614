//! Section 2, the rest: how a delivery ends, what a report may do, what is seen of it and when.
//! The table itself is held cell by cell beside `delivery.rs`.

use std::time::Duration;

use bellwire_core::HubEvent;
use bellwire_proto::ReportState as R;
use bellwire_proto::{Code, DeliveryState, Report, Seconds};

use crate::stage::Stage;

const NOTHING: [&str; 0] = [];

fn seen(stage: &mut Stage) -> Vec<DeliveryState> {
    let states = stage.events.drain(..).filter_map(|event| match event {
        HubEvent::Delivery { delivery, .. } => Some(delivery.state),
        HubEvent::Device { .. } => None,
    });
    states.collect()
}

#[test]
fn every_transition_is_on_disk_before_an_answer_or_an_event_tells_of_it() {
    let mut stage = Stage::new();
    let stream = stage.listen("kiosk");
    stage.events.clear();
    stage.disk_held = true;
    let request = stage.ask_to_send("kiosk", |_| {});
    assert!(!stage.is_answered(request));
    assert_eq!((stage.hears(stream), seen(&mut stage)), (vec![], vec![]));
    stage.disk_held = false;
    stage.settle();
    let command = stage.delivery(request).unwrap().command;
    assert_eq!(stage.hears(stream), ["command 1 #1"]);
    assert_eq!(seen(&mut stage), [DeliveryState::Sent]);
    stage.disk_held = true;
    assert!(stage.cancel_later(command));
    assert_eq!((stage.hears(stream), seen(&mut stage)), (vec![], vec![]));
    stage.disk_held = false;
    stage.settle();
    assert_eq!(stage.hears(stream), ["cancel 1"]);
    assert_eq!(seen(&mut stage), [DeliveryState::Cancelling]);
}

#[test]
fn it_expires_when_its_time_to_live_is_over_before_it_was_accepted() {
    let mut stage = Stage::new();
    stage.listen("till");
    let ttl = |s: &mut bellwire_core::Send| s.ttl = Some(Seconds::new(10));
    let queued = stage.try_send("kiosk", ttl).unwrap().command;
    let sent = stage.try_send("till", ttl).unwrap().command;
    stage.pass(9.9);
    assert_eq!(
        (stage.state(queued), stage.state(sent)),
        (DeliveryState::Queued, DeliveryState::Sent)
    );
    stage.pass(0.1);
    for command in [queued, sent] {
        assert_eq!(stage.state(command), DeliveryState::Expired);
        assert_eq!(stage.row(command).outcome.error.as_ref().unwrap().code, "expired");
    }
}

#[test]
fn the_time_to_live_says_nothing_of_what_was_accepted() {
    let mut stage = Stage::new();
    stage.listen("kiosk");
    let command = stage.try_send("kiosk", |s| s.ttl = Some(Seconds::new(10))).unwrap().command;
    stage.report("kiosk", command, R::Accepted);
    stage.pass(60.0);
    assert_eq!(stage.state(command), DeliveryState::Accepted);
}

#[test]
fn it_times_out_when_the_run_clock_is_over() {
    let mut stage = Stage::new();
    let command =
        stage.try_send("kiosk", |s| s.run_timeout = Some(Seconds::new(10))).unwrap().command;
    stage.report("kiosk", command, R::Accepted);
    stage.pass(9.9);
    stage.report("kiosk", command, R::Accepted);
    stage.pass(9.9);
    stage.report("kiosk", command, R::Running);
    stage.pass(9.9);
    stage.report("kiosk", command, R::Running);
    stage.pass(9.9);
    let answer = stage.report("kiosk", command, R::Accepted);
    assert_eq!(answer.state, DeliveryState::Running, "accepted changes nothing once it runs");
    stage.pass(0.1);
    assert_eq!(stage.state(command), DeliveryState::TimedOut);
    assert_eq!(stage.row(command).outcome.error.as_ref().unwrap().code, "timed_out");
}

#[test]
fn what_was_nacked_after_it_was_accepted_is_sent_again_and_its_ttl_counts_again() {
    let mut stage = Stage::new();
    let stream = stage.listen("kiosk");
    let command = stage.try_send("kiosk", |s| s.ttl = Some(Seconds::new(60))).unwrap().command;
    stage.report("kiosk", command, R::Accepted);
    stage.hears(stream);
    stage.pass(10.0);
    stage.report("kiosk", command, R::Nack);
    stage.pass(1.0);
    assert_eq!(stage.hears(stream), ["command 1 #2"]);
    stage.pass(49.0);
    assert_eq!(stage.state(command), DeliveryState::Expired);
}

#[test]
fn a_result_told_after_the_hub_gave_up_overwrites_its_word_and_is_late() {
    let mut stage = Stage::new();
    let expired = stage.try_send("kiosk", |s| s.ttl = Some(Seconds::new(1))).unwrap().command;
    let timed_out =
        stage.try_send("kiosk", |s| s.run_timeout = Some(Seconds::new(1))).unwrap().command;
    let forced = stage.send("kiosk");
    stage.report("kiosk", timed_out, R::Running);
    stage.cancel(forced, true).unwrap();
    stage.pass(5.0);
    for (command, told, state) in [
        (expired, R::Succeeded, DeliveryState::Succeeded),
        (timed_out, R::Failed, DeliveryState::Failed),
        (forced, R::Succeeded, DeliveryState::Succeeded),
    ] {
        let answer = stage.report("kiosk", command, told);
        assert_eq!((answer.state, answer.late, answer.error), (state, true, None));
        let problem = stage.try_report("kiosk", command, R::Running).unwrap_err();
        assert_eq!(problem.code, Code::IllegalTransition);
    }
}

#[test]
fn what_a_restart_leaves_a_run_clock_is_at_least_30_s() {
    let mut stage = Stage::new();
    let command =
        stage.try_send("kiosk", |s| s.run_timeout = Some(Seconds::new(60))).unwrap().command;
    let short = stage.try_send("till", |s| s.run_timeout = Some(Seconds::new(5))).unwrap().command;
    stage.report("kiosk", command, R::Running);
    stage.report("till", short, R::Running);
    stage.restart();
    stage.pass(29.9);
    assert_eq!(stage.state(short), DeliveryState::Running);
    stage.pass(0.4);
    assert_eq!(
        (stage.state(short), stage.state(command)),
        (DeliveryState::TimedOut, DeliveryState::Running)
    );
    stage.pass(30.0);
    assert_eq!(stage.state(command), DeliveryState::TimedOut);
}

#[test]
fn the_time_to_live_goes_on_over_a_restart() {
    let mut stage = Stage::new();
    let command = stage.try_send("kiosk", |s| s.ttl = Some(Seconds::new(20))).unwrap().command;
    stage.pass(10.0);
    stage.restart();
    stage.pass(9.9);
    assert_eq!(stage.state(command), DeliveryState::Queued);
    stage.pass(0.4);
    assert_eq!(stage.state(command), DeliveryState::Expired);
}

#[test]
fn a_report_is_legal_from_queued_and_it_is_then_not_sent_again() {
    for state in [R::Accepted, R::Running, R::Succeeded, R::Failed, R::Rejected] {
        let mut stage = Stage::new();
        let stream = stage.listen("kiosk");
        let command = stage.send("kiosk");
        stage.close(stream);
        stage.restart();
        stage.report("kiosk", command, state);
        let stream = stage.listen("kiosk");
        assert_eq!(stage.hears(stream), NOTHING, "after {state:?}");
    }
}

#[test]
fn told_its_own_state_again_nothing_changes() {
    let mut stage = Stage::new();
    let command = stage.send("kiosk");
    let ended = Report { rev: Some(3), exit_code: Some(0), ..Report::of(R::Succeeded) };
    let answer = stage.report_with("kiosk", command, ended).unwrap();
    stage.pass(10.0);
    let again = Report { rev: Some(4), exit_code: Some(1), ..Report::of(R::Succeeded) };
    assert_eq!(stage.report_with("kiosk", command, again).unwrap(), answer);
    assert_eq!(stage.row(command).to_delivery(), answer);
}

#[test]
fn a_refusal_bears_the_delivery_as_it_stands() {
    let mut stage = Stage::new();
    let command = stage.send("kiosk");
    stage.report("kiosk", command, R::Running);
    for state in [R::Nack, R::Rejected, R::Cancelled] {
        let problem = stage.try_report("kiosk", command, state).unwrap_err();
        assert_eq!(problem.code, Code::IllegalTransition);
        assert_eq!(problem.delivery.as_deref(), Some(&stage.row(command).to_delivery()));
    }
}

#[test]
fn given_members_replace_and_the_others_stay() {
    let mut stage = Stage::new();
    let command = stage.send("kiosk");
    let progress = |p: f64| Some(p.try_into().unwrap());
    let running = Report {
        progress: progress(40.0),
        stdout: Some("half".into()),
        stderr: Some("hm".into()),
        ..Report::of(R::Running)
    };
    stage.report_with("kiosk", command, running).unwrap();
    let ended = Report { stdout: Some("whole".into()), ..Report::of(R::Succeeded) };
    let answer = stage.report_with("kiosk", command, ended).unwrap();
    assert_eq!(answer.progress, progress(40.0));
    assert_eq!((answer.stdout.as_deref(), answer.stderr.as_deref()), (Some("whole"), Some("hm")));
}

#[test]
fn a_command_of_another_device_is_unknown() {
    let mut stage = Stage::new();
    let command = stage.send("kiosk");
    stage.listen("till");
    let problem = stage.try_report("till", command, R::Succeeded).unwrap_err();
    assert_eq!(problem.code, Code::UnknownCommand);
    assert_eq!(stage.state(command), DeliveryState::Queued);
}

#[test]
fn an_ended_delivery_is_answered_from_disk_long_after() {
    let mut stage = Stage::new();
    let command = stage.send("kiosk");
    stage.report("kiosk", command, R::Succeeded);
    stage.pass(Duration::from_secs(86_400).as_secs_f64());
    assert_eq!(stage.hub.footprint(), bellwire_core::Footprint::default());
    assert_eq!(stage.report("kiosk", command, R::Succeeded).state, DeliveryState::Succeeded);
    assert!(stage.try_report("kiosk", command, R::Failed).is_err());
    assert_eq!(stage.hub.footprint(), bellwire_core::Footprint::default());
}
