//! The promises of schedules, from what goes to disk: each time is run once at most, in the transaction that stores its
//! command; what was decided to be run is run or left out for a reason; nothing is run before its time, and nothing that
//! is due is forgotten.

use std::collections::{BTreeMap, BTreeSet};

use bellwire_core::record::{Change, ScheduleRecord, Txn};
use bellwire_core::{Now, ScheduleOp};
use bellwire_proto::limits::SCHEDULE_LATE;
use bellwire_proto::{CommandId, Missed, ScheduleId, Timestamp};

use super::super::schedules::calendar;
use super::super::store::Disk;
use super::Verdict;

#[derive(Default)]
pub(super) struct Schedules {
    /// The command of each run that was ever on disk.
    runs: BTreeMap<(ScheduleId, Timestamp), CommandId>,
    made: BTreeSet<ScheduleId>,
    deleted: BTreeSet<ScheduleId>,
}

fn next(record: &ScheduleRecord, after: Timestamp) -> Option<Timestamp> {
    (calendar().0)(&record.plan.cron, &record.plan.timezone, after)
}

impl Schedules {
    /// A transaction will be on disk next.
    pub(super) fn commit(&mut self, txn: &Txn, at: Option<Now>, disk: &Disk) -> Verdict {
        for change in txn.changes() {
            match change {
                Change::PutSchedule(record) => self.row_may_follow(record, txn, at, disk)?,
                Change::DeleteSchedule(id) => drop(self.deleted.insert(*id)),
                Change::PutIdempotency(key) if key.key.caller.starts_with("schedule ") => {
                    let of = |id: &ScheduleId| key.key.caller.ends_with(&id.to_string());
                    let gone = self.deleted.iter().any(of);
                    let beside = txn.changes().iter().any(|change| match change {
                        Change::PutSchedule(r) => r.last.is_some_and(|(_, c)| c == key.command),
                        _ => false,
                    });
                    if !gone && !beside {
                        return Err(format!("a run is stored without its schedule: {key:?}"));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn row_may_follow(
        &mut self,
        new: &ScheduleRecord,
        txn: &Txn,
        at: Option<Now>,
        disk: &Disk,
    ) -> Verdict {
        let Some(at) = at else { return Err(format!("decided never: {new:?}")) };
        let fails =
            |what: &str, old: &ScheduleRecord| Err(format!("{what}: {old:?} became {new:?}"));
        if self.deleted.contains(&new.id) {
            return Err(format!("a schedule was deleted, and is back: {new:?}"));
        }
        self.made.insert(new.id);
        let Some(old) = disk.schedules.get(&new.id) else {
            return match new.run.is_none() && new.last.is_none() && new.decided_at == at.wall {
                true => Ok(()),
                false => Err(format!("a schedule begins in the middle: {new:?}")),
            };
        };
        if new.last != old.last
            && let Some((time, command)) = new.last
        {
            if old.run != Some(time) {
                return fails("what was not decided is run", old);
            }
            if *self.runs.entry((new.id, time)).or_insert(command) != command {
                return fails("a time is run twice", old);
            }
            let stored = |c: &Change| matches!(c, Change::PutCommand(c) if c.head.id == command);
            let known = disk.commands.values().any(|stored| stored.head.id == command);
            if !known && !txn.changes().iter().any(stored) {
                return fails("a run without its command", old);
            }
        }
        if let Some(time) = old.run.filter(|time| new.run != Some(*time)) {
            let run = new.last.is_some_and(|(last, _)| last == time);
            let skipped = new.skipped.as_ref().is_some_and(|skipped| skipped.at == time);
            // One that is given up because the next is due shows that one's end instead.
            let given_up = new.decided_at > time;
            if !run && !skipped && !given_up {
                return fails("a run is lost", old);
            }
        }
        if new.decided_at < old.decided_at {
            return fails("a time is decided again", old);
        }
        if new.decided_at == old.decided_at
            || new.decided_at == at.wall && new.version > old.version
        {
            // Nothing was decided, or an operator lets it count anew.
            return Ok(());
        }
        let time = new.decided_at;
        if old.paused {
            return fails("a time is decided while it is paused", old);
        }
        if time > at.wall || next(old, Timestamp::from_unix_ms(time.unix_ms() - 1)) != Some(time) {
            return fails("a time is decided that is not due", old);
        }
        if next(old, time).is_some_and(|later| later <= at.wall) {
            return fails("a later time was due", old);
        }
        let missed = at.wall.since(time) > SCHEDULE_LATE && old.plan.missed == Missed::None;
        match new.run == Some(time) {
            true if missed => fails("what was missed is run", old),
            false if !missed => fails("what was due is not run", old),
            _ => Ok(()),
        }
    }

    /// An operator was answered.
    pub(super) fn is_done(&self, op: &ScheduleOp) -> Verdict {
        let id = op.id();
        let done = match op {
            ScheduleOp::Delete(_) => self.deleted.contains(&id),
            _ => self.made.contains(&id),
        };
        match done {
            true => Ok(()),
            false => Err(format!("answered, and not on disk: {op:?}")),
        }
    }

    /// The world is at rest; this is what its clock showed last.
    pub(super) fn rest(&self, disk: &Disk, wall: Timestamp) -> Verdict {
        for record in disk.schedules.values() {
            if record.run.is_some() {
                return Err(format!("a run was decided and never made: {record:?}"));
            }
            if !record.paused && next(record, record.decided_at).is_some_and(|at| at <= wall) {
                return Err(format!("what is due was forgotten: {record:?}"));
            }
        }
        Ok(())
    }
}
