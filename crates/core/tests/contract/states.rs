//! Section 2, the rest: how a delivery ends, what a report may do, what is seen of it and when.
//! The table itself is tested cell by cell in `delivery.rs`.

use std::time::Duration;

use bellwire_core::HubEvent;
use bellwire_proto::ReportState as R;
use bellwire_proto::{Code, DeliveryState, Outcome, Report, Seconds};

use crate::harness::Harness;

const NOTHING: [&str; 0] = [];

fn seen(harness: &mut Harness) -> Vec<DeliveryState> {
    let states = harness.events.drain(..).filter_map(|event| match event {
        HubEvent::Delivery { delivery, .. } => Some(delivery.state),
        HubEvent::Device { .. } => None,
    });
    states.collect()
}

#[test]
fn every_transition_is_on_disk_before_an_answer_or_an_event_reports_it() {
    let mut harness = Harness::new();
    let stream = harness.listen("kiosk");
    harness.events.clear();
    harness.disk_held = true;
    let request = harness.ask_to_send("kiosk", |_| {});
    assert!(!harness.is_answered(request));
    assert_eq!((harness.received(stream), seen(&mut harness)), (vec![], vec![]));
    harness.disk_held = false;
    harness.settle();
    let command = harness.delivery(request).unwrap().command;
    assert_eq!(harness.received(stream), ["command 1 #1"]);
    assert_eq!(seen(&mut harness), [DeliveryState::Sent]);
    harness.disk_held = true;
    assert!(harness.cancel_later(command));
    assert_eq!((harness.received(stream), seen(&mut harness)), (vec![], vec![]));
    harness.disk_held = false;
    harness.settle();
    assert_eq!(harness.received(stream), ["cancel 1"]);
    assert_eq!(seen(&mut harness), [DeliveryState::Cancelling]);
}

#[test]
fn it_expires_when_its_time_to_live_has_elapsed_before_it_was_accepted() {
    let mut harness = Harness::new();
    harness.listen("till");
    let ttl = |s: &mut bellwire_core::Send| s.ttl = Some(Seconds::new(10));
    let queued = harness.try_send("kiosk", ttl).unwrap().command;
    let sent = harness.try_send("till", ttl).unwrap().command;
    harness.pass(9.9);
    assert_eq!(
        (harness.state(queued), harness.state(sent)),
        (DeliveryState::Queued, DeliveryState::Sent)
    );
    harness.pass(0.1);
    for command in [queued, sent] {
        assert_eq!(harness.state(command), DeliveryState::Expired);
        assert_eq!(harness.row(command).outcome.error.as_ref().unwrap().code, "expired");
    }
}

#[test]
fn the_time_to_live_says_nothing_of_what_was_accepted() {
    let mut harness = Harness::new();
    harness.listen("kiosk");
    let command = harness.try_send("kiosk", |s| s.ttl = Some(Seconds::new(10))).unwrap().command;
    harness.report("kiosk", command, R::Accepted);
    harness.pass(60.0);
    assert_eq!(harness.state(command), DeliveryState::Accepted);
}

#[test]
fn it_times_out_when_the_run_clock_has_elapsed() {
    let mut harness = Harness::new();
    let command =
        harness.try_send("kiosk", |s| s.run_timeout = Some(Seconds::new(10))).unwrap().command;
    harness.report("kiosk", command, R::Accepted);
    harness.pass(9.9);
    harness.report("kiosk", command, R::Accepted);
    harness.pass(9.9);
    harness.report("kiosk", command, R::Running);
    harness.pass(9.9);
    harness.report("kiosk", command, R::Running);
    harness.pass(9.9);
    let answer = harness.report("kiosk", command, R::Accepted);
    assert_eq!(answer.state, DeliveryState::Running, "accepted changes nothing once it runs");
    harness.pass(0.1);
    assert_eq!(harness.state(command), DeliveryState::TimedOut);
    assert_eq!(harness.row(command).outcome.error.as_ref().unwrap().code, "timed_out");
}

#[test]
fn what_was_nacked_after_it_was_accepted_is_sent_again_and_its_ttl_counts_again() {
    let mut harness = Harness::new();
    let stream = harness.listen("kiosk");
    let command = harness.try_send("kiosk", |s| s.ttl = Some(Seconds::new(60))).unwrap().command;
    harness.report("kiosk", command, R::Accepted);
    harness.received(stream);
    harness.pass(10.0);
    harness.report("kiosk", command, R::Nack);
    harness.pass(1.0);
    assert_eq!(harness.received(stream), ["command 1 #2"]);
    harness.pass(49.0);
    assert_eq!(harness.state(command), DeliveryState::Expired);
}

#[test]
fn a_result_reported_after_the_hub_gave_up_replaces_the_state_and_is_late() {
    let mut harness = Harness::new();
    let expired = harness.try_send("kiosk", |s| s.ttl = Some(Seconds::new(1))).unwrap().command;
    let timed_out =
        harness.try_send("kiosk", |s| s.run_timeout = Some(Seconds::new(1))).unwrap().command;
    let forced = harness.send("kiosk");
    harness.report("kiosk", timed_out, R::Running);
    harness.cancel(forced, true).unwrap();
    harness.pass(5.0);
    for (command, sent, state) in [
        (expired, R::Succeeded, DeliveryState::Succeeded),
        (timed_out, R::Failed, DeliveryState::Failed),
        (forced, R::Succeeded, DeliveryState::Succeeded),
    ] {
        let answer = harness.report("kiosk", command, sent);
        assert_eq!((answer.state, answer.late, answer.outcome.error), (state, true, None));
        let problem = harness.try_report("kiosk", command, R::Running).unwrap_err();
        assert_eq!(problem.code, Code::IllegalTransition);
    }
}

#[test]
fn what_a_restart_leaves_a_run_clock_is_at_least_30_s() {
    let mut harness = Harness::new();
    let command =
        harness.try_send("kiosk", |s| s.run_timeout = Some(Seconds::new(60))).unwrap().command;
    let short =
        harness.try_send("till", |s| s.run_timeout = Some(Seconds::new(5))).unwrap().command;
    harness.report("kiosk", command, R::Running);
    harness.report("till", short, R::Running);
    harness.restart();
    harness.pass(29.9);
    assert_eq!(harness.state(short), DeliveryState::Running);
    harness.pass(0.4);
    assert_eq!(
        (harness.state(short), harness.state(command)),
        (DeliveryState::TimedOut, DeliveryState::Running)
    );
    harness.pass(30.0);
    assert_eq!(harness.state(command), DeliveryState::TimedOut);
}

#[test]
fn the_time_to_live_continues_over_a_restart() {
    let mut harness = Harness::new();
    let command = harness.try_send("kiosk", |s| s.ttl = Some(Seconds::new(20))).unwrap().command;
    harness.pass(10.0);
    harness.restart();
    harness.pass(9.9);
    assert_eq!(harness.state(command), DeliveryState::Queued);
    harness.pass(0.4);
    assert_eq!(harness.state(command), DeliveryState::Expired);
}

#[test]
fn a_report_is_legal_from_queued_and_it_is_then_not_sent_again() {
    for state in [R::Accepted, R::Running, R::Succeeded, R::Failed, R::Rejected] {
        let mut harness = Harness::new();
        let stream = harness.listen("kiosk");
        let command = harness.send("kiosk");
        harness.close(stream);
        harness.restart();
        harness.report("kiosk", command, state);
        let stream = harness.listen("kiosk");
        assert_eq!(harness.received(stream), NOTHING, "after {state:?}");
    }
}

#[test]
fn a_report_of_the_state_it_has_changes_nothing() {
    let mut harness = Harness::new();
    let command = harness.send("kiosk");
    let exited = |exit_code| Outcome { exit_code: Some(exit_code), ..Outcome::default() };
    let ended = Report { rev: Some(3), ..Report::new(R::Succeeded, exited(0)) };
    let answer = harness.report_with("kiosk", command, ended).unwrap();
    harness.pass(10.0);
    let again = Report { rev: Some(4), ..Report::new(R::Succeeded, exited(1)) };
    assert_eq!(harness.report_with("kiosk", command, again).unwrap(), answer);
    assert_eq!(harness.row(command).to_delivery(), answer);
}

#[test]
fn a_refusal_bears_the_delivery_as_it_stands() {
    let mut harness = Harness::new();
    let command = harness.send("kiosk");
    harness.report("kiosk", command, R::Running);
    for state in [R::Nack, R::Rejected, R::Cancelled] {
        let problem = harness.try_report("kiosk", command, state).unwrap_err();
        assert_eq!(problem.code, Code::IllegalTransition);
        assert_eq!(problem.delivery.as_deref(), Some(&harness.row(command).to_delivery()));
    }
}

#[test]
fn given_members_replace_and_the_others_stay() {
    let mut harness = Harness::new();
    let command = harness.send("kiosk");
    let progress = |p: f64| Some(p.try_into().unwrap());
    let half = Outcome {
        progress: progress(40.0),
        stdout: Some("half".into()),
        stderr: Some("hm".into()),
        ..Outcome::default()
    };
    let running = Report::new(R::Running, half.clone());
    harness.report_with("kiosk", command, running).unwrap();
    let whole = Outcome { stdout: Some("whole".into()), ..Outcome::default() };
    let answer = harness.report_with("kiosk", command, Report::new(R::Succeeded, whole)).unwrap();
    assert_eq!(answer.outcome, Outcome { stdout: Some("whole".into()), ..half });
}

#[test]
fn a_command_of_another_device_is_unknown() {
    let mut harness = Harness::new();
    let command = harness.send("kiosk");
    harness.listen("till");
    let problem = harness.try_report("till", command, R::Succeeded).unwrap_err();
    assert_eq!(problem.code, Code::UnknownCommand);
    assert_eq!(harness.state(command), DeliveryState::Queued);
}

#[test]
fn an_ended_delivery_is_answered_from_disk_long_after() {
    let mut harness = Harness::new();
    let command = harness.send("kiosk");
    harness.report("kiosk", command, R::Succeeded);
    harness.pass(Duration::from_secs(86_400).as_secs_f64());
    assert_eq!(harness.hub.footprint(), bellwire_core::Footprint::default());
    assert_eq!(harness.report("kiosk", command, R::Succeeded).state, DeliveryState::Succeeded);
    assert!(harness.try_report("kiosk", command, R::Failed).is_err());
    assert_eq!(harness.hub.footprint(), bellwire_core::Footprint::default());
}
