//! The promises of a rollout, from what is on disk: no batch is skipped, none begins early or after the abort rule is met,
//! and no target begins outside of the batch that runs.

use bellwire_core::record::{Change, DeliveryRecord, RolloutRecord, Txn};
use bellwire_core::{Now, RolloutOp};
use bellwire_proto::{CommandId, DeliveryState, RolloutState, Seq};

use super::Verdict;
use crate::world::store::Disk;

/// A delivery comes into being: it is of the batch that began last, that batch has a slot for it, and nothing stands
/// against it; or it is given up.
pub(super) fn delivery_may_begin(row: &DeliveryRecord, txn: &Txn, disk: &Disk) -> Verdict {
    let seq = row.head.seq;
    let Some(rollout) = disk.rollouts.get(&seq) else { return Ok(()) };
    if disk.delivery(&row.device, seq).is_some() {
        return Ok(());
    }
    let given_up = row.state == DeliveryState::Cancelled && row.sends == 0;
    if rollout.state.is_ended() || disk.cancels.contains_key(&seq) {
        return match given_up {
            true => Ok(()),
            false => Err(format!("it begins, and its rollout has ended: {rollout:?}, {row:?}")),
        };
    }
    let number = row.batch.map(|batch| batch.number);
    if rollout.state != RolloutState::Running || number != Some(rollout.batch) {
        return Err(format!("it begins outside of the batch that runs: {rollout:?}, {row:?}"));
    }
    if too_many_failures(seq, rollout, disk) {
        return Err(format!("it begins though too many have failed: {rollout:?}, {row:?}"));
    }
    let beside = txn.changes().iter().filter(|change| match change {
        Change::PutDelivery(other) => {
            other.head.seq == seq && disk.delivery(&other.device, seq).is_none()
        }
        _ => false,
    });
    let begun = disk.deliveries_of_command(seq).count() + beside.count();
    match begun as u64 <= rollout.begun {
        true => Ok(()),
        false => Err(format!("{begun} have begun, more than the batches have: {rollout:?}")),
    }
}

fn too_many_failures(seq: Seq, rollout: &RolloutRecord, disk: &Disk) -> bool {
    let counts = disk.rollout_counts(seq, rollout);
    let Some(rule) = &rollout.plan.abort else { return false };
    counts.ended >= rule.min.max(1) && counts.failed * 100 >= rule.percent * counts.ended
}

/// The row of a rollout changes.
pub(super) fn rollout_may_follow(
    seq: Seq,
    new: &RolloutRecord,
    at: Option<Now>,
    disk: &Disk,
) -> Verdict {
    let Some(old) = disk.rollouts.get(&seq) else {
        return match new.batch {
            0 => Ok(()),
            _ => Err(format!("a rollout begins in the middle: {new:?}")),
        };
    };
    if old.state.is_ended() {
        return Err(format!("a rollout goes on after its end: {old:?}, {new:?}"));
    }
    let begun = disk.deliveries_of_command(seq).count() as u64;
    let counts = disk.rollout_counts(seq, old);
    let total = disk.commands.get(&seq).map_or(0, |command| command.head.total);
    if new.state == RolloutState::Done && counts.ended < total {
        return Err(format!("a rollout is done with {} of {total}: {new:?}", counts.ended));
    }
    if new.batch == old.batch {
        return Ok(());
    }
    let (Some(at), true) = (at, new.batch == old.batch + 1 && old.begun == begun) else {
        return Err(format!("a batch is skipped, {begun} have begun: {old:?}, {new:?}"));
    };
    if old.state != RolloutState::Running || too_many_failures(seq, old, disk) {
        return Err(format!("a batch begins, and must not: {old:?}, {new:?}"));
    }
    if old.batch == 0 {
        return match old.not_before.is_none_or(|not_before| not_before <= at.wall) {
            true => Ok(()),
            false => Err(format!("a rollout begins before its time: {old:?}")),
        };
    }
    let since_begin = at.instant.since(old.began).as_secs();
    let interval = old.plan.interval_s.is_some_and(|interval| since_begin >= interval);
    let ended = counts.ended_in_batch * 100 >= old.plan.done_percent * old.size;
    match interval || (ended && since_begin >= old.plan.pause_s) {
        true => Ok(()),
        false => Err(format!("a batch begins early, {counts:?} {since_begin} s: {old:?}")),
    }
}

/// An operator was answered: it is so on disk, or was overtaken by the end.
pub(super) fn is_done(command: CommandId, op: RolloutOp, disk: &Disk) -> Verdict {
    let stored = disk.commands.values().find(|stored| stored.head.id == command);
    let Some(rollout) = stored.and_then(|stored| disk.rollouts.get(&stored.head.seq)) else {
        return Err(format!("{command} has no rollout, and {op:?} is answered"));
    };
    match (op, rollout.state) {
        (RolloutOp::Abort, RolloutState::Aborted) | (_, RolloutState::Done) => Ok(()),
        // Others may have changed it since.
        (RolloutOp::Pause | RolloutOp::Resume, _) => Ok(()),
        (op, state) => Err(format!("{op:?} of {command} is answered, and it is {state:?}")),
    }
}
