//! What a store deletes in time: history, the audit log, and what senders are charged for it.

mod store_kit;

use std::time::Duration;

use bellwire_core::SeqSource;
use bellwire_core::record::{
    Change, IdempotencyKey, IdempotencyRecord, Load, Loaded, RolloutRecord, TargetChunk,
};
use bellwire_hub::store::{AuditFilter, CommandFilter, Cursor, Options, PageRequest, Store};
use bellwire_proto::limits::DELIVERY_STORED_BYTES;
use bellwire_proto::{AuditEntry, DeliveryState, RolloutState, Seq};
use store_kit::model::Model;
use store_kit::*;

const DAY_MS: u64 = 86_400_000;

/// A store that retains history for two days, three days after the tests' beginning.
fn later() -> Options {
    options_at(3 * DAY_MS).history_retention(Duration::from_millis(2 * DAY_MS))
}

#[test]
fn history_is_purged_in_pieces_and_nothing_live_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let kit = Kit::open(dir.path());
    let mut model = Model::default();
    let key = |key: &str, expires| {
        Change::PutIdempotency(Box::new(IdempotencyRecord {
            key: IdempotencyKey { caller: String::new(), key: key.into() },
            fingerprint: [0; 32],
            command: id(1),
            device: Some(device("a")),
            expires,
        }))
    };
    let mut changes = vec![key("old", instant(DAY_MS)), key("new", instant(4 * DAY_MS))];
    for seq in 1..=500 {
        let total = if seq == 3 { 2 } else { 1 };
        changes.push(put_command_to_many(seq, total));
        changes.push(put(of_many(
            total,
            match seq % 50 {
                0 => delivery(seq, "a"),
                1 => delivery_in(seq, "a", DeliveryState::Cancelling, 1),
                2 => delivery_in(seq, "a", DeliveryState::Expired, 2 * DAY_MS),
                _ => delivery_in(seq, "a", DeliveryState::Succeeded, 1),
            },
        )));
    }
    // One of two deliveries of this command is live, and keeps both.
    changes.push(put(of_many(2, delivery(3, "b"))));
    changes.iter().for_each(|change| model.apply(change));
    kit.commit(changes);
    kit.close();

    let universe = model.clone();
    model.recover(now_at(3 * DAY_MS));
    model.purge(instant(DAY_MS), instant(3 * DAY_MS));
    assert_eq!(model.commands().count(), 31, "the model has purged too");
    let kit = Kit::open_with(dir.path(), later());
    // Each commit takes a step of at least 64 commands with it.
    for _ in 0..10 {
        kit.commit(vec![]);
    }
    assert_eq!(kit.view(&universe), model.view());
}

#[test]
fn a_sender_is_charged_for_its_commands_once_each_until_they_are_purged_over_a_restart_too() {
    let dir = tempfile::tempdir().unwrap();
    let by = |seq, sender: &str, total| {
        let mut record = command(seq);
        (record.created_by, record.head.total) = (Some(sender.into()), total);
        Change::PutCommand(Box::new(record))
    };
    let data_bytes = command(1).data.as_str().len() as u64;
    let counted = |kit: &Kit| ["a", "b"].map(|sender| kit.store.bytes_of_sender(sender));
    let kit = Kit::open_with(dir.path(), options_at(1).count_senders(true));
    let ended = |seq| put(delivery_in(seq, "d", DeliveryState::Succeeded, 1));
    kit.commit(vec![by(1, "a", 1), ended(1), by(2, "a", 1), put(delivery(2, "d"))]);
    kit.commit(vec![by(2, "a", 1), by(3, "b", 1), ended(3), put_command(4), ended(4)]);
    let one = data_bytes + DELIVERY_STORED_BYTES;
    assert_eq!(counted(&kit), [2 * one, one], "a command that is stored twice counts once");
    kit.commit(vec![by(5, "b", 1000), put(of_many(1000, delivery(5, "d")))]);
    let many = data_bytes + 1000 * DELIVERY_STORED_BYTES;
    assert_eq!(counted(&kit), [2 * one, one + many], "to many: its data once");
    kit.close();

    let kit = Kit::open_with(dir.path(), options_at(1).count_senders(true));
    assert_eq!(counted(&kit), [2 * one, one + many], "found again");
    kit.close();

    let kit = Kit::open_with(dir.path(), later().count_senders(true));
    kit.commit(vec![]);
    assert_eq!(counted(&kit), [one, many], "what has ended long ago is gone");
    kit.close();
    assert_eq!(
        counted(&Kit::open_with(dir.path(), later())),
        [0, 0],
        "without a limit nothing is counted"
    );
}

/// The numbers of the commands that are there.
fn commands(kit: &Kit) -> Vec<u64> {
    let all = PageRequest { limit: 1000, after: None };
    let mut found: Vec<u64> = read(kit.store.commands(CommandFilter::default(), all))
        .items
        .iter()
        .map(|c| c.seq.get())
        .collect();
    found.sort_unstable();
    found
}

/// A command to one device had no delivery yet, so none was live, and the purge took it.
#[test]
fn a_command_whose_rollout_has_not_begun_is_retained_however_old_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let kit = Kit::open(dir.path());
    let chunk = || TargetChunk { devices: vec![device("a")], canary: false, registered: false };
    let paused = RolloutRecord { state: RolloutState::Paused, ..rollout(1) };
    let aborted = RolloutRecord { state: RolloutState::Aborted, ..rollout(1) };
    let done = RolloutRecord { state: RolloutState::Done, batch: 1, begun: 1, ..rollout(1) };
    kit.commit(vec![
        put_command(1),
        Change::PutTargets(Seq::new(1), chunk()),
        put_rollout(1, paused),
        // It was aborted, and its target has yet to be given up.
        put_command(2),
        Change::PutTargets(Seq::new(2), chunk()),
        put_rollout(2, aborted),
        // No target waits, and the end of the rollout is not stored yet.
        put_command(3),
        put(delivery_in(3, "a", DeliveryState::Succeeded, 1)),
        put_rollout(3, RolloutRecord { batch: 1, begun: 1, ..rollout(1) }),
        put_command(4),
        put(delivery_in(4, "a", DeliveryState::Succeeded, 1)),
        put_rollout(4, done),
    ]);
    kit.close();
    let kit = Kit::open_with(dir.path(), later());
    kit.commit(vec![]);
    kit.commit(vec![]);
    assert_eq!(commands(&kit), [1, 2, 3], "only the last has ended");
    let targets = kit.load(Load::Targets(Seq::new(1), device("a")));
    assert!(matches!(targets, Loaded::Targets(_, _, Some(_))), "{targets:?}");
}

/// What a rollout takes weeks for was purged as soon as it had ended.
#[test]
fn a_command_to_many_is_retained_from_the_end_of_its_rollout_and_from_its_not_before() {
    let dir = tempfile::tempdir().unwrap();
    let kit = Kit::open(dir.path());
    let mut model = Model::default();
    // Of the longest life, and retained for two days.
    let (soon, late) = (20 * DAY_MS, 24 * DAY_MS);
    let mut changes = vec![];
    for (seq, ended) in [(1, soon), (2, late)] {
        let state = if seq == 1 { RolloutState::Done } else { RolloutState::Aborted };
        let batches = RolloutRecord { state, batch: 2, begun: 2, ..rollout(2) };
        changes.push(put_command_to_many(seq, 2));
        changes.push(put_rollout(seq, RolloutRecord { ended: Some(instant(ended)), ..batches }));
    }
    for (seq, not_before) in [(3, soon), (4, late)] {
        let mut record = command(seq);
        (record.head.total, record.head.not_before) = (2, Some(at(not_before)));
        changes.push(Change::PutCommand(Box::new(record)));
    }
    for (seq, name) in (1..=4).flat_map(|seq| [(seq, "a"), (seq, "b")]) {
        changes.push(put(of_many(2, delivery_in(seq, name, DeliveryState::Succeeded, 1))));
    }
    changes.iter().for_each(|change| model.apply(change));
    kit.commit(changes);
    kit.close();
    let now = 31 * DAY_MS;
    model.purge(instant(now - 2 * DAY_MS), instant(now));
    let retention = Duration::from_millis(2 * DAY_MS);
    let kit = Kit::open_with(dir.path(), options_at(now).history_retention(retention));
    kit.commit(vec![]);
    kit.commit(vec![]);
    assert_eq!(commands(&kit), [2, 4], "those that ended late");
    assert_eq!(model.commands().map(|c| c.head.seq.get()).collect::<Vec<_>>(), [2, 4]);
}

#[test]
fn the_audit_log_is_bounded_in_time_and_in_bytes_and_its_numbers_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let keep = Duration::from_millis(2 * DAY_MS);
    let kit = Kit::open(dir.path());
    let old = (0..1500).map(|_| put_audit(0));
    kit.commit(old.chain((0..3).map(|_| put_audit(2 * DAY_MS))).collect());
    assert_eq!(audit_ids(&kit).len(), 1503);
    kit.close();
    let kit = Kit::open_with(dir.path(), options_at(3 * DAY_MS).audit_retention(keep, 1 << 30));
    for _ in 0..10 {
        kit.commit(vec![]);
    }
    assert_eq!(audit_ids(&kit), [1503, 1502, 1501], "those of today");
    kit.close();
    // More than one entry takes that was committed by itself, and less than two.
    let bytes_max = 80;
    let again = |days| options_at(days * DAY_MS).audit_retention(keep, bytes_max);
    let kit = Kit::open_with(dir.path(), again(3));
    kit.commit(vec![put_audit(3 * DAY_MS)]);
    assert_eq!(audit_ids(&kit).len(), 4, "what was committed together goes together");
    kit.commit(vec![put_audit(3 * DAY_MS)]);
    kit.close();
    let kit = Kit::open_with(dir.path(), again(3));
    kit.commit(vec![]);
    assert_eq!(audit_ids(&kit), [1505, 1504]);
    kit.close();
    let kit = Kit::open_with(dir.path(), again(30));
    kit.commit(vec![]);
    assert_eq!(audit_ids(&kit), [1505], "the last one stays, for the numbers");
    kit.commit(vec![put_audit(30 * DAY_MS)]);
    assert_eq!(audit_ids(&kit)[0], 1506);
}

/// Pages and followers begin anywhere, and entries are stored in blocks of one commit.
#[test]
fn a_page_and_a_follower_begin_within_what_was_committed_together() {
    let dir = tempfile::tempdir().unwrap();
    let kit = Kit::open(dir.path());
    kit.commit((0..600).map(|_| put_audit(7)).collect());
    kit.commit(vec![put_audit(7)]);
    kit.commit((0..3).map(|_| put_audit(8)).collect());
    let page = |after: u64, limit| {
        let after = Some(Cursor::after_audit(after));
        read(kit.store.audit(AuditFilter::default(), PageRequest { limit, after }))
    };
    let ids = |entries: &[AuditEntry]| entries.iter().map(|e| e.id).collect::<Vec<_>>();
    for after in [1, 2, 256, 257, 258, 600, 601, 602, 604, 605, u64::MAX] {
        let before: Vec<u64> = (1..after.min(605)).rev().take(300).collect();
        assert_eq!(ids(&page(after, 300).items), before, "before {after}");
        let (followed, last) =
            read(kit.store.audit_after(AuditFilter::default(), Some(after), 1_000_000));
        assert_eq!(
            ids(&followed),
            (after.saturating_add(1)..605).collect::<Vec<_>>(),
            "after {after}"
        );
        assert_eq!(last, after.max(604));
    }
    assert_eq!(page(605, 300).next.as_deref(), Some(&*Cursor::after_audit(305).to_string()));
    // A follower looks at a bounded part, and continues after it.
    let (mut after, mut looks) = (0, 0);
    while after < 604 {
        let (found, last) = read(kit.store.audit_after(AuditFilter::default(), Some(after), 1));
        assert_eq!(ids(&found), (after + 1..=last).collect::<Vec<_>>());
        (after, looks) = (last, looks + 1);
    }
    assert!(looks > 3, "{looks}");
}

#[test]
fn a_number_is_never_given_out_again_even_when_all_history_was_purged() {
    let dir = tempfile::tempdir().unwrap();
    let kit = Kit::open(dir.path());
    kit.commit(vec![put_command(7), put(delivery_in(7, "a", DeliveryState::Succeeded, 1))]);
    kit.close();
    let kit = Kit::open_with(dir.path(), later());
    kit.commit(vec![]);
    let first = PageRequest { limit: 10, after: None };
    assert!(read(kit.store.commands(CommandFilter::default(), first)).items.is_empty());
    kit.close();
    assert_eq!(Kit::open(dir.path()).recovered.seqs, SeqSource::after(Seq::new(7)));
}
