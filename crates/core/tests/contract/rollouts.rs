//! Section 3: rollouts, as far as others notice them. When a batch begins is tested beside the rules, in `rollout.rs`.

use bellwire_core::{Answer, RequestId, RolloutOp, Send};
use bellwire_proto::limits::{COMMAND_DEVICES_AT_ONCE, ROLLOUTS_MAX};
use bellwire_proto::{Code, CommandId, Members, Problem, RolloutPlan, RolloutState};

use crate::harness::Harness;

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
