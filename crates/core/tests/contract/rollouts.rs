//! Section 3: rollouts, as far as others notice them. When a batch begins is tested beside the rules, in `rollout.rs`.

use bellwire_core::record::TargetQuery;
use bellwire_core::{Answer, Config, RequestId, RolloutOp, Send, Target};
use bellwire_proto::limits::{COMMAND_DEVICES_AT_ONCE, ROLLOUTS_MAX};
use bellwire_proto::{
    Code, CommandId, DeliveryState, Members, Problem, Report, ReportState, RolloutPlan,
    RolloutState,
};

use crate::harness::{Harness, device};

fn in_batches_of_one(send: &mut Send) {
    let plan = RolloutPlan::take(&mut Members::parse(br#"{"batch":1}"#).unwrap()).unwrap();
    send.rollout = Some(Box::new(plan));
}

fn ask(harness: &mut Harness, command: CommandId, op: RolloutOp) -> RequestId {
    let request = harness.request();
    harness.hub.handle_rollout(request, command, op, harness.now);
    harness.settle();
    request
}

fn change(harness: &mut Harness, command: CommandId, op: RolloutOp) {
    let request = ask(harness, command, op);
    let answer = harness.answer(request);
    assert!(matches!(answer, Answer::Cancelled), "{op:?}: {answer:?}");
}

fn state(harness: &Harness, command: CommandId) -> RolloutState {
    let disk = &harness.store.disk;
    let stored = disk.commands.values().find(|stored| stored.head.id == command).unwrap();
    disk.rollouts[&stored.head.seq].state
}

fn refused(harness: &mut Harness, request: RequestId) -> Problem {
    match harness.answer(request) {
        Answer::Problem(problem) => *problem,
        answer => panic!("it is not refused: {answer:?}"),
    }
}

#[test]
fn a_pause_is_answered_when_it_is_on_disk_and_lasts_over_a_restart() {
    let mut harness = Harness::new();
    for (op, expected) in [
        (RolloutOp::Pause, RolloutState::Paused),
        (RolloutOp::Resume, RolloutState::Running),
        (RolloutOp::Abort, RolloutState::Aborted),
    ] {
        let command = harness.send_to(&["a", "b"], in_batches_of_one);
        if op == RolloutOp::Resume {
            change(&mut harness, command, RolloutOp::Pause);
        }
        harness.disk_held = true;
        let request = ask(&mut harness, command, op);
        assert!(!harness.is_answered(request), "{op:?} is answered, and not on disk");
        assert_ne!(state(&harness, command), expected);
        harness.commit_one();
        assert!(matches!(harness.answer(request), Answer::Cancelled), "{op:?} is on disk");
        harness.restart();
        harness.disk_held = false;
        harness.pass(1.0);
        assert_eq!(state(&harness, command), expected, "{op:?} is lost over a restart");
    }
}

/// A reader saw a command whose deliveries had all ended, with a rollout that was still running.
#[test]
fn the_last_delivery_and_the_end_of_its_rollout_are_on_disk_together() {
    let mut harness = Harness::new();
    for (reported, expected) in
        [(ReportState::Succeeded, RolloutState::Done), (ReportState::Failed, RolloutState::Aborted)]
    {
        let command = harness.send_to(&["a"], |send| {
            let plan = br#"{"batch":1,"abort":{"percent":100}}"#;
            let plan = RolloutPlan::take(&mut Members::parse(plan).unwrap()).unwrap();
            send.rollout = Some(Box::new(plan));
        });
        assert_eq!(state(&harness, command), RolloutState::Running);
        harness.disk_held = true;
        let report = harness.request();
        let now = harness.now;
        harness.hub.handle_report(report, device("a"), command, Report::of(reported), now);
        harness.settle();
        harness.commit_one();
        assert_eq!(state(&harness, command), expected, "in the commit of {reported:?}");
        assert!(harness.is_answered(report));
        harness.disk_held = false;
        harness.settle();
    }
}

/// With 256 rollouts paused, every cancel and every command to many was refused until someone resumed one.
#[test]
fn rollouts_that_last_long_refuse_no_other_command_and_no_cancel() {
    let mut harness = Harness::new();
    let rollouts: Vec<CommandId> = (0..ROLLOUTS_MAX)
        .map(|n| {
            let (one, other) = (format!("r{n}"), format!("s{n}"));
            harness.send_to(&[&one, &other], in_batches_of_one)
        })
        .collect();
    for command in &rollouts {
        change(&mut harness, *command, RolloutOp::Pause);
    }
    let names: Vec<String> = (0..=COMMAND_DEVICES_AT_ONCE).map(|n| format!("d{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let other = harness.send_to(&names, |_| {});
    assert!(harness.cancel(other, false).unwrap(), "a command to many is cancelled");

    let one_more = harness.ask_to_send_to(&["a", "b"], in_batches_of_one);
    let problem = refused(&mut harness, one_more);
    assert_eq!(problem.code, Code::RateLimited);
    assert!(
        problem.detail.contains("resume or abort one"),
        "it says what to do: {}",
        problem.detail
    );

    change(&mut harness, rollouts[0], RolloutOp::Abort);
    harness.send_to(&["a", "b"], in_batches_of_one);
    assert!(harness.cancel(rollouts[1], false).unwrap(), "a paused one is cancelled");
    harness.send_to(&["a", "b"], in_batches_of_one);
}

type ToTargets = fn(&mut Send);

/// On an open hub it came into being again, without its labels; on a closed one it counted as a failure.
#[test]
fn a_device_that_was_removed_before_its_batch_begins_is_no_failure_and_does_not_come_back() {
    let by_selector = |send: &mut Send| {
        let query = TargetQuery { select: Some("site".parse().unwrap()), ..TargetQuery::default() };
        send.target = Target::Found(Box::new(query));
    };
    let all = |send: &mut Send| send.target = Target::Found(Box::default());
    let named = |_: &mut Send| {};
    let targets: [(bool, ToTargets); 4] =
        [(true, by_selector), (true, all), (false, all), (false, named)];
    for (create_on_sight, target) in targets {
        let config = || Config { create_on_sight, ..Config::default() };
        let mut harness = Harness::with(config());
        ["a", "b", "c"].iter().for_each(|name| harness.register(name, &[("site", "lyon")]));
        let command = harness.send_to(&["a", "b", "c"], |send| {
            let plan = br#"{"batch":1,"abort":{"percent":1}}"#;
            let plan = RolloutPlan::take(&mut Members::parse(plan).unwrap()).unwrap();
            send.rollout = Some(Box::new(plan));
            target(send);
        });
        assert!(matches!(harness.delete("b"), Answer::Done));
        harness.restart_with(config());
        harness.report("a", command, ReportState::Succeeded);
        harness.report("c", command, ReportState::Succeeded);
        assert_eq!(state(&harness, command), RolloutState::Done);
        let disk = &harness.store.disk;
        let row = disk.deliveries.values().find(|row| row.device == device("b")).unwrap();
        // As with the deliveries that it has when it is removed.
        assert_eq!((row.state, &row.outcome.error), (DeliveryState::Cancelled, &None));
        assert!(!disk.devices.contains_key(&device("b")), "it stays removed");
    }
}

#[test]
fn devices_that_a_rollout_names_come_into_being_on_an_open_hub_with_their_batch() {
    let mut harness = Harness::new();
    let command = harness.send_to(&["a", "b"], in_batches_of_one);
    assert!(!harness.store.disk.devices.contains_key(&device("b")), "not before");
    harness.report("a", command, ReportState::Succeeded);
    harness.report("b", command, ReportState::Succeeded);
    assert_eq!(state(&harness, command), RolloutState::Done);
    assert!(harness.store.disk.devices.contains_key(&device("b")));
}
