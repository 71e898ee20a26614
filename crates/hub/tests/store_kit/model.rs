//! The store as a child would write it: maps, walked through from end to end. What the real one
//! answers is compared with this. The rows and the lookups are those of the core's own tests; here
//! is what the API reads, and retention.

use bellwire_core::record::{Change, Load, Loaded, Txn};
use std::time::Duration;

use bellwire_core::record::{
    AuditRecord, CommandRecord, DeliveryRecord, DeviceRecord, IdempotencyKey, IdempotencyRecord,
    RolloutRecord, ScheduleRecord, TokenRecord,
};
use bellwire_core::{Instant, Now, Recovered};
use bellwire_hub::store::{
    AuditFilter, CommandFilter, DeviceFilter, PageRequest, Store, StoredDevice, Visible,
};
use bellwire_proto::limits::{RUN_TIMEOUT_S, TTL_S};
use bellwire_proto::{AuditEntry, Command, Counts, Delivery, DeliveryState, DeviceId, Seq};

use super::{Kit, read};

#[path = "../../../core/tests/world/store.rs"]
#[allow(unreachable_pub, reason = "it is a file of the core's tests")]
mod world_store;

use world_store::Disk;

#[derive(Debug, Clone, Default)]
pub struct Model {
    disk: Disk,
}

/// All that can be read of a store, but for filters.
#[derive(Debug, PartialEq)]
pub struct View {
    pub devices: Vec<StoredDevice>,
    pub commands: Vec<Command>,
    pub shown: Vec<Vec<(Delivery, u64)>>,
    pub deliveries: Vec<DeliveryRecord>,
    pub keys: Vec<IdempotencyRecord>,
    pub tokens: Vec<TokenRecord>,
    pub schedules: Vec<ScheduleRecord>,
    /// Newest first, without their numbers.
    pub audit: Vec<AuditEntry>,
}

impl Model {
    pub fn apply(&mut self, change: &Change) {
        self.disk.apply(change);
    }

    pub fn apply_all(&mut self, txn: &Txn) {
        txn.changes().iter().for_each(|change| self.apply(change));
    }

    pub fn recover(&mut self, now: Now) -> Recovered {
        self.disk.recover(now)
    }

    /// What retention takes: commands that ended before `before`, and keys past `now`.
    pub fn purge(&mut self, before: Instant, now: Instant) {
        // Of a command to many it is looked at only whether all have ended.
        let before_many = before.before(Duration::from_secs(TTL_S.max + RUN_TIMEOUT_S.max));
        let waits = |seq: Seq| {
            self.disk.targets.keys().any(|(of, _)| *of == seq)
                || self.disk.rollouts.get(&seq).is_some_and(|r| !r.state.is_ended())
        };
        let ended = |row: &CommandRecord| {
            if waits(row.head.seq) {
                return false;
            }
            let all: Vec<_> = self.of(row.head.seq).collect();
            let terminal = all.iter().all(|d| d.state.is_terminal());
            if row.head.is_to_many() {
                let complete = all.len() as u64 >= row.head.total;
                let not_before = row.head.not_before;
                // The clocks of these tests show the same.
                let began =
                    not_before.map_or(row.head.created, |at| Instant::from_ms(at.unix_ms()));
                let ended = self.disk.rollouts.get(&row.head.seq).and_then(|r| r.ended);
                let last = [Some(row.head.created), Some(began), ended].into_iter().flatten().max();
                terminal && complete && last < Some(before_many)
            } else {
                let old = row.head.created < before && all.iter().all(|d| d.updated < before);
                terminal && old
            }
        };
        let commands = self.disk.commands.values();
        let purged: Vec<Seq> = commands.filter(|row| ended(row)).map(|row| row.head.seq).collect();
        purged.into_iter().for_each(|seq| self.disk.forget(seq));
        self.disk.keys.retain(|_, key| key.expires >= now);
    }

    /// The deliveries of a command, by name.
    pub fn of(&self, seq: Seq) -> impl Iterator<Item = &DeliveryRecord> {
        self.disk.deliveries_of_command(seq)
    }

    pub fn commands(&self) -> impl DoubleEndedIterator<Item = &CommandRecord> {
        self.disk.commands.values()
    }

    pub fn devices(&self) -> impl Iterator<Item = &DeviceRecord> {
        self.disk.devices.values()
    }

    pub fn shown(&self, row: &CommandRecord) -> Command {
        let mut counts = Counts::new();
        self.of(row.head.seq).for_each(|d| *counts.entry(d.state).or_default() += 1);
        let rollout = self.disk.rollouts.get(&row.head.seq);
        let waiting = row.head.total.saturating_sub(counts.values().sum());
        if rollout.is_some() && waiting > 0 {
            *counts.entry(DeliveryState::Queued).or_default() += waiting;
        }
        let terminal = self.of(row.head.seq).filter(|d| d.state.is_terminal()).count() as u64;
        Command {
            id: row.head.id,
            seq: row.head.seq,
            action: row.head.action.clone(),
            data: row.data.clone(),
            created_at: row.head.created_at,
            created_by: row.created_by.clone(),
            expires_at: row.head.expires_at,
            total: row.head.total,
            done: terminal >= row.head.total,
            counts,
            not_before: row.head.not_before,
            window: row.head.window.as_deref().cloned(),
            select: None,
            rollout: rollout.map(RolloutRecord::to_rollout),
            parent: None,
        }
    }

    /// A command as one sees it who sees the devices that a selector matches; `None` when that is nothing of it.
    pub fn seen(&self, row: &CommandRecord, visible: &Visible) -> Option<Command> {
        let sees = |device: &DeviceId| {
            self.disk.devices.get(device).is_some_and(|d| visible.sees(&d.labels))
        };
        let mut command = self.shown(row);
        command.counts = Counts::new();
        for delivery in self.of(row.head.seq).filter(|d| sees(&d.device)) {
            *command.counts.entry(delivery.state).or_default() += 1;
        }
        let waits =
            |device: &&DeviceId| sees(device) && self.disk.delivery(device, row.head.seq).is_none();
        let chunks = self.disk.targets.iter().filter(|((seq, _), _)| *seq == row.head.seq);
        let waiting = chunks.map(|(_, chunk)| chunk.devices.iter().filter(waits).count() as u64);
        let waiting = waiting.sum::<u64>();
        command.total = command.counts.values().sum::<u64>() + waiting;
        if command.rollout.is_some() && waiting > 0 {
            *command.counts.entry(DeliveryState::Queued).or_default() += waiting;
        }
        // What its sender wrote of others, and what counts them, is for the sender, who is none of these readers.
        command.select = None;
        if let Some(rollout) = command.rollout.as_mut().filter(|_| command.total < row.head.total) {
            (rollout.batch, rollout.batches) = (0, 0);
            let by_hand = ["an operator aborted it", "the command was cancelled"];
            let by_rule = rollout.reason.as_mut().filter(|why| !by_hand.contains(&why.as_str()));
            by_rule
                .into_iter()
                .for_each(|why| "too many ended in a state that aborts it".clone_into(why));
        }
        let terminal = command.counts.iter().filter(|(state, _)| state.is_terminal());
        command.done = terminal.map(|(_, count)| count).sum::<u64>() >= command.total;
        (command.total > 0).then_some(command)
    }

    /// The deliveries of a command that such a one sees.
    pub fn seen_of(&self, seq: Seq, visible: &Visible) -> Vec<Delivery> {
        let sees = |row: &&DeliveryRecord| {
            self.disk.devices.get(&row.device).is_some_and(|d| visible.sees(&d.labels))
        };
        self.of(seq).filter(sees).map(DeliveryRecord::to_delivery).collect()
    }

    pub fn view(&self) -> View {
        let disk = &self.disk;
        let commands: Vec<_> = disk.commands.values().rev().map(|c| self.shown(c)).collect();
        let shown = |c: &Command| self.of(c.seq).map(|d| (d.to_delivery(), d.version)).collect();
        let queued = |device: &DeviceId| disk.queued.get(device).copied().unwrap_or_default();
        let devices = disk
            .devices
            .values()
            .map(|record| StoredDevice { record: record.clone(), queued: queued(&record.id) });
        View {
            devices: devices.collect(),
            shown: commands.iter().map(shown).collect(),
            commands,
            deliveries: disk.deliveries.values().cloned().collect(),
            keys: disk.keys.values().cloned().collect(),
            tokens: disk.tokens.values().cloned().collect(),
            schedules: disk.schedules.values().cloned().collect(),
            audit: disk.audit.iter().rev().map(entry).collect(),
        }
    }

    pub fn answer(&self, load: &Load) -> Loaded {
        self.disk.load(load)
    }
}

impl Kit {
    /// All that the store has, of what `universe` has or ever had.
    pub fn view(&self, universe: &Model) -> View {
        let all = PageRequest { limit: 1_000_000, after: None };
        let commands = read(self.store.commands(CommandFilter::default(), all.clone())).items;
        let shown = commands
            .iter()
            .map(|c| read(self.store.snapshot(c.id, None, Visible::all())).unwrap().deliveries)
            .collect();
        let one = |(device, seq): &(DeviceId, Seq)| self.delivery(seq.get(), device.as_str());
        let key = |(caller, key): &(String, String)| {
            let key = IdempotencyKey { caller: caller.clone(), key: key.clone() };
            match self.load(Load::Idempotency(key)) {
                Loaded::Idempotency(_, found) => found.map(|boxed| *boxed),
                other => panic!("not a key: {other:?}"),
            }
        };
        let audit = read(self.store.audit(AuditFilter::default(), all.clone())).items.into_iter();
        View {
            tokens: read(self.store.tokens(all.clone())).items,
            audit: audit.map(|entry| AuditEntry { id: 0, ..entry }).collect(),
            devices: self.devices(&DeviceFilter::default(), 1_000_000),
            schedules: read(self.store.schedules(None, all.clone())).items,
            commands,
            shown,
            deliveries: universe.disk.deliveries.keys().filter_map(one).collect(),
            keys: universe.disk.keys.keys().filter_map(key).collect(),
        }
    }
}

/// An entry as it is read, without its number.
fn entry(record: &AuditRecord) -> AuditEntry {
    let AuditRecord { at, actor, address, verb, object, status, code, count, .. } = record.clone();
    let (actor, address) = ((*actor).clone(), address.map(|address| address.to_string()));
    AuditEntry { id: 0, at, actor, address, verb: verb.to_owned(), object, status, code, count }
}
