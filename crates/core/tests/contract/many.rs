//! Section 3: commands to several devices. What is promised is on disk, and happens, whatever
//! crashes in between.

use std::collections::BTreeSet;

use bellwire_core::record::IdempotencyKey;
use bellwire_core::{Answer, Config, Send, Target, TargetQuery};
use bellwire_proto::ReportState as R;
use bellwire_proto::{Code, CommandId, DeliveryState, DeviceId, Seconds};

use crate::harness::{Harness, device};

/// More than two steps of an expansion.
const MANY: usize = 300;

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("d{n:03}")).collect()
}

fn refs(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

/// The state of each delivery of a command, by device name.
fn states(harness: &Harness, command: CommandId) -> Vec<(String, DeliveryState)> {
    let disk = &harness.store.disk;
    let stored = disk.commands.values().find(|stored| stored.head.id == command).unwrap();
    let rows = disk.deliveries_of_command(stored.head.seq);
    rows.map(|row| (row.device.to_string(), row.state)).collect()
}

fn count(harness: &Harness, command: CommandId, state: DeliveryState) -> usize {
    states(harness, command).into_iter().filter(|(_, is)| *is == state).count()
}

fn ttl(seconds: u64) -> impl Fn(&mut Send) {
    move |send| send.ttl = Some(Seconds::new(seconds))
}

#[test]
fn every_device_gets_one_delivery_and_the_answer_comes_when_all_are_on_disk() {
    let mut harness = Harness::new();
    let stream = harness.listen("b");
    harness.disk_held = true;
    let request = harness.ask_to_send_to(&["b", "a", "c"], |_| {});
    assert!(!harness.is_answered(request));
    harness.disk_held = false;
    harness.settle();
    let Answer::Command(command) = harness.answer(request) else { panic!("another answer") };
    let expected =
        [("a", DeliveryState::Queued), ("b", DeliveryState::Sent), ("c", DeliveryState::Queued)];
    let expected = expected.map(|(name, state)| (name.to_owned(), state));
    assert_eq!(states(&harness, command), expected);
    assert_eq!(harness.received(stream), ["command 1 #1"]);
}

#[test]
fn a_command_to_many_is_promised_before_it_is_expanded() {
    let mut harness = Harness::new();
    harness.loads_held = true;
    let names = names(MANY);
    let command = harness.send_to(&refs(&names), |_| {});
    assert_eq!(states(&harness, command), []);
    harness.loads_held = false;
    harness.settle();
    assert_eq!(count(&harness, command, DeliveryState::Queued), MANY);
    assert!(harness.store.disk.targets.is_empty());
    assert_eq!(harness.hub.footprint(), bellwire_core::Footprint::default());
}

/// Others waited for steps of hundreds of rows, several of them in a commit.
#[test]
fn beside_other_senders_one_step_is_under_way_and_what_they_send_is_written_before_the_next() {
    let mut harness = Harness::new();
    harness.disk_held = true;
    let many = harness.ask_to_send_to(&refs(&names(MANY)), |_| {});
    harness.commit_one();
    assert!(harness.is_answered(many));
    assert_eq!(harness.store.pending(), 1, "the first step");
    let other = harness.ask_to_send("other", |_| {});
    assert_eq!(harness.store.pending(), 2, "and the other's");
    harness.commit_one();
    assert_eq!(harness.store.pending(), 1, "the other's alone");
    harness.commit_one();
    assert!(harness.is_answered(other));
    assert_eq!(harness.store.pending(), 1, "the second step");
    // Nobody else is there any more.
    harness.pass(0.05);
    harness.commit_one();
    assert_eq!(harness.store.pending(), 8, "steps at once");
}

#[test]
fn an_expansion_continues_after_a_crash_at_each_of_its_steps() {
    let names = names(MANY);
    for commits in 1..8 {
        let mut harness = Harness::new();
        harness.disk_held = true;
        harness.ask_to_send_to(&refs(&names), |_| {});
        for _ in 0..commits {
            harness.commit_one();
        }
        harness.restart();
        harness.disk_held = false;
        harness.settle();
        harness.pass(1.0);
        let command = harness.store.disk.commands.first_key_value().unwrap().1.head.id;
        let targets: BTreeSet<String> =
            states(&harness, command).into_iter().map(|s| s.0).collect();
        assert!(targets.iter().eq(&names), "after {commits} commits: {targets:?}");
        assert_eq!(
            count(&harness, command, DeliveryState::Queued),
            MANY,
            "after {commits} commits"
        );
    }
}

#[test]
fn an_expansion_continues_when_loads_fail() {
    let names = names(MANY);
    let mut harness = Harness::new();
    harness.loads_held = true;
    let command = harness.send_to(&refs(&names), |_| {});
    harness.fail_load();
    harness.settle();
    harness.pass(1.0);
    // The first chunk is loaded; some of its devices cannot be.
    harness.answer_load();
    (0..5).for_each(|_| drop(harness.fail_load()));
    harness.settle();
    harness.loads_held = false;
    harness.pass(2.0);
    assert_eq!(count(&harness, command, DeliveryState::Queued), MANY);
}

#[test]
fn order_holds_towards_a_command_that_came_while_the_older_was_expanded() {
    let names = names(MANY);
    let mut harness = Harness::new();
    let stream = harness.listen("d250");
    harness.loads_held = true;
    harness.send_to(&refs(&names), |_| {});
    let younger = harness.send("d250");
    assert_eq!(harness.received(stream), Vec::<String>::new(), "the older has to come first");
    harness.loads_held = false;
    harness.settle();
    assert_eq!(harness.received(stream), ["command 1 #1"]);
    let older = harness.store.disk.commands.first_key_value().unwrap().1.head.id;
    harness.report("d250", older, R::Succeeded);
    assert_eq!(harness.received(stream), ["command 2 #1"]);
    assert_eq!(harness.state(younger), DeliveryState::Sent);
}

#[test]
fn a_device_that_is_no_target_waits_for_its_chunk_and_no_longer() {
    let mut names = names(MANY);
    names.retain(|name| name != "d250");
    let mut harness = Harness::new();
    let stream = harness.listen("d250");
    harness.loads_held = true;
    harness.send_to(&refs(&names), |_| {});
    harness.send("d250");
    harness.loads_held = false;
    harness.settle();
    assert_eq!(harness.received(stream), ["command 2 #1"]);
}

#[test]
fn a_device_whose_queue_is_full_gets_its_delivery_rejected() {
    let mut harness = Harness::with(Config { queue_max: 1, ..Config::default() });
    harness.send("a");
    let command = harness.send_to(&["a", "b"], |_| {});
    let found = states(&harness, command);
    assert_eq!((found[0].1, found[1].1), (DeliveryState::Rejected, DeliveryState::Queued));
    assert_eq!(harness.row(command).outcome.error.as_ref().unwrap().code, "queue_full");
}

#[test]
fn with_ttl_0_devices_that_are_offline_expire_at_once() {
    let mut harness = Harness::new();
    harness.listen("a");
    let command = harness.send_to(&["a", "b"], ttl(0));
    let found = states(&harness, command);
    assert_eq!((found[0].1, found[1].1), (DeliveryState::Sent, DeliveryState::Expired));
}

#[test]
fn the_same_request_again_is_answered_for_the_same_command() {
    let keyed = |request: u8| {
        let key = IdempotencyKey { caller: String::new(), key: "k".to_owned() };
        move |send: &mut Send| send.idempotency = Some((key.clone(), [request; 32]))
    };
    for count in [2, MANY] {
        let names = names(count);
        let mut harness = Harness::new();
        let first = harness.send_to(&refs(&names), keyed(1));
        assert_eq!(harness.send_to(&refs(&names), keyed(1)), first);
        let other = harness.ask_to_send_to(&refs(&names), keyed(2));
        let Answer::Problem(problem) = harness.answer(other) else { panic!("not refused") };
        assert_eq!(problem.code, Code::IdempotencyMismatch);
        harness.restart();
        assert_eq!(harness.send_to(&refs(&names), keyed(1)), first, "after a restart");
        assert_eq!(harness.store.disk.commands.len(), 1);
    }
}

#[test]
fn where_devices_must_be_registered_an_unknown_one_refuses_the_whole() {
    let mut harness = Harness::with(Config { create_on_sight: false, ..Config::default() });
    harness.put("a");
    let request = harness.ask_to_send_to(&["a", "b"], |_| {});
    let Answer::Problem(problem) = harness.answer(request) else { panic!("not refused") };
    assert_eq!(problem.code, Code::UnknownDevice);
    assert!(problem.detail.contains(" b;"), "{}", problem.detail);
    harness.put("b");
    harness.send_to(&["a", "b"], |_| {});
}

#[test]
fn a_cancellation_reaches_every_delivery() {
    let mut harness = Harness::new();
    let stream = harness.listen("b");
    let command = harness.send_to(&["a", "b", "c"], |_| {});
    assert!(!harness.cancel(command, false).unwrap(), "b has yet to answer");
    let found: Vec<DeliveryState> = states(&harness, command).into_iter().map(|s| s.1).collect();
    assert_eq!(
        found,
        [DeliveryState::Cancelled, DeliveryState::Cancelling, DeliveryState::Cancelled]
    );
    assert_eq!(harness.received(stream), ["command 1 #1", "cancel 1"]);
    harness.report("b", command, R::Cancelled);
    let refused = harness.cancel(command, false).unwrap_err();
    assert_eq!(refused.code, Code::IllegalTransition);
    assert_eq!(refused.delivery.unwrap().device, device("a"), "of several the first");
}

#[test]
fn by_force_every_delivery_ends_at_once() {
    let mut harness = Harness::new();
    let stream = harness.listen("b");
    let command = harness.send_to(&["a", "b"], |_| {});
    assert!(!harness.cancel(command, false).unwrap());
    assert!(harness.cancel(command, true).unwrap());
    assert_eq!(count(&harness, command, DeliveryState::Cancelled), 2);
    assert_eq!(harness.received(stream), ["command 1 #1", "cancel 1", "cancel 1"]);
}

#[test]
fn a_cancellation_of_many_is_promised_and_continues_after_a_crash() {
    let names = names(MANY);
    for commits in 0..12 {
        let mut harness = Harness::new();
        harness.disk_held = true;
        harness.ask_to_send_to(&refs(&names), |_| {});
        harness.commit_one();
        let command = harness.store.disk.commands.first_key_value().unwrap().1.head.id;
        // Part of it is expanded, part is not.
        harness.commit_one();
        assert!(harness.cancel_later(command));
        while harness.store.disk.cancels.is_empty() {
            harness.commit_one();
        }
        for _ in 0..commits {
            harness.commit_one();
        }
        harness.restart();
        harness.disk_held = false;
        harness.settle();
        harness.pass(2.0);
        assert_eq!(
            count(&harness, command, DeliveryState::Cancelled),
            MANY,
            "after {commits} commits"
        );
        assert!(harness.store.disk.cancels.is_empty(), "after {commits} commits");
    }
}

/// Ten cancelled commands to 100,000 devices each once held up every other write for ten seconds.
#[test]
fn cancellations_of_many_wait_for_the_disk_together() {
    let names = names(MANY);
    let mut harness = Harness::new();
    let commands: Vec<CommandId> = (0..6).map(|_| harness.send_to(&refs(&names), |_| {})).collect();
    harness.disk_held = true;
    for command in &commands {
        harness.cancel_later(*command);
    }
    let mut waiting_max = 0;
    while harness.store.pending() > 0 {
        waiting_max = waiting_max.max(harness.store.pending());
        harness.commit_one();
    }
    // Two pages of 128 deliveries, and what each command stores for itself.
    assert!(waiting_max <= 2 * 128 + 2 * commands.len(), "{waiting_max} transactions waited");
    for command in commands {
        assert_eq!(count(&harness, command, DeliveryState::Cancelled), MANY);
    }
    assert!(harness.store.disk.cancels.is_empty());
}

#[test]
fn a_device_that_is_removed_after_it_was_promised_a_command_has_it_cancelled() {
    let names = names(MANY);
    let mut harness = Harness::new();
    harness.put("d250");
    harness.loads_held = true;
    let command = harness.send_to(&refs(&names), |_| {});
    let removed = harness.ask_to_delete("d250");
    harness.loads_held = false;
    harness.settle();
    assert!(matches!(harness.answer(removed), Answer::Done));
    let of = |name: &str| states(&harness, command).into_iter().find(|s| s.0 == name).unwrap().1;
    assert_eq!((of("d250"), of("d251")), (DeliveryState::Cancelled, DeliveryState::Queued));
    let known: Vec<&DeviceId> = harness.store.disk.devices.keys().collect();
    assert!(!known.contains(&&device("d250")), "it is not created again");
}

#[test]
fn a_draining_hub_refuses_and_finishes_what_it_promised_after_its_restart() {
    let names = names(MANY);
    let mut harness = Harness::new();
    harness.drain();
    let refused = harness.ask_to_send_to(&refs(&names), |_| {});
    let Answer::Problem(problem) = harness.answer(refused) else { panic!("not refused") };
    assert_eq!(problem.code, Code::Draining);
}

// --- Targets that are found ---

/// Registers devices, of which those with an even number are in lyon.
fn register(harness: &mut Harness, count: usize) {
    for (n, name) in names(count).iter().enumerate() {
        let site = if n % 2 == 0 { "lyon" } else { "nice" };
        harness.register(name, &[("site", site)]);
    }
}

fn found(select: Option<&str>, scope: Option<&str>) -> Target {
    let parsed = |text: &str| text.parse().unwrap();
    Target::Found(Box::new(TargetQuery {
        select: select.map(parsed),
        scope: scope.map(parsed),
        ..TargetQuery::default()
    }))
}

#[test]
fn a_selector_names_the_devices_that_match_when_the_command_is_stored() {
    let mut harness = Harness::new();
    register(&mut harness, MANY);
    let command = harness.send_to_target(found(Some("site=lyon"), None), |_| {});
    assert_eq!(count(&harness, command, DeliveryState::Queued), MANY / 2);
    // Who comes later is not among them.
    harness.register("late", &[("site", "lyon")]);
    harness.pass(10.0);
    assert_eq!(states(&harness, command).len(), MANY / 2);
    assert_eq!(harness.hub.footprint(), bellwire_core::Footprint::default());
}

#[test]
fn what_the_scope_of_the_sender_leaves_out_is_no_target() {
    let mut harness = Harness::new();
    register(&mut harness, 4);
    let command = harness.send_to_target(found(None, Some("site=nice")), |_| {});
    let targets: Vec<String> = states(&harness, command).into_iter().map(|s| s.0).collect();
    assert_eq!(targets, ["d001", "d003"]);
}

#[test]
fn a_command_to_none_is_stored_and_cannot_be_cancelled() {
    let mut harness = Harness::new();
    let command = harness.send_to_target(found(Some("site=lyon"), None), |_| {});
    let stored = harness.store.disk.commands.first_key_value().unwrap().1;
    assert_eq!((stored.head.id, stored.head.total), (command, 0));
    assert_eq!(harness.cancel(command, false).unwrap_err().code, Code::IllegalTransition);
}

#[test]
fn targets_that_were_found_for_a_command_that_is_not_stored_are_forgotten() {
    for commits in 1..12 {
        let mut harness = Harness::new();
        register(&mut harness, 3000);
        harness.disk_held = true;
        let key = IdempotencyKey { caller: String::new(), key: "k".to_owned() };
        harness.ask_to_send_to_target(found(None, None), |send| {
            send.idempotency = Some((key.clone(), [1; 32]));
        });
        for _ in 0..commits {
            harness.commit_one();
        }
        harness.restart();
        harness.disk_held = false;
        harness.settle();
        harness.pass(1.0);
        let disk = &harness.store.disk;
        assert!(disk.targets.is_empty(), "after {commits} commits: {:?}", disk.targets.keys());
        let Some((_, stored)) = disk.commands.first_key_value() else { continue };
        let id = stored.head.id;
        assert_eq!(count(&harness, id, DeliveryState::Queued), 3000, "after {commits} commits");
    }
}

#[test]
fn a_search_that_the_store_cannot_answer_refuses_the_command_and_leaves_nothing() {
    let mut harness = Harness::new();
    register(&mut harness, 3000);
    harness.loads_held = true;
    let request = harness.ask_to_send_to_target(found(None, None), |_| {});
    harness.answer_load();
    harness.settle();
    assert!(!harness.store.disk.targets.is_empty(), "the first page is staged");
    harness.fail_load();
    harness.settle();
    let Answer::Problem(problem) = harness.answer(request) else { panic!("another answer") };
    assert_eq!(problem.code, Code::StoreUnavailable);
    assert!(harness.store.disk.targets.is_empty());
    assert_eq!(harness.hub.footprint(), bellwire_core::Footprint::default());
}

#[test]
fn order_holds_towards_commands_before_and_after_a_search() {
    let mut harness = Harness::new();
    register(&mut harness, 3000);
    let stream = harness.listen("d2999");
    harness.loads_held = true;
    let request = harness.ask_to_send_to_target(found(None, None), |_| {});
    // It comes in while the devices are looked for, and is stored first.
    let between = harness.send("d2999");
    while !harness.is_answered(request) {
        harness.answer_load();
        harness.settle();
    }
    let after = harness.send("d2999");
    harness.loads_held = false;
    harness.settle();
    let Answer::Command(found) = harness.answer(request) else { panic!("another answer") };
    let order = [between, found, after];
    let seqs = order.map(|command| {
        let commands = harness.store.disk.commands.values();
        commands.map(|c| &c.head).find(|head| head.id == command).unwrap().seq
    });
    assert!(seqs.is_sorted());
    let mut sent = Vec::new();
    for command in order {
        sent.extend(harness.received(stream));
        harness.report("d2999", command, R::Succeeded);
    }
    assert_eq!(sent, seqs.map(|seq| format!("command {seq} #1")));
}
