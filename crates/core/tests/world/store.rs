//! A store in memory that keeps the promises of `record.rs` and no more: transactions are on disk in
//! order and when it says so; a read sees what was committed when it was asked, maybe more; a crash
//! loses the rest. It decides nothing and knows no time: whoever owns it says when to commit.

use std::collections::{BTreeMap, VecDeque};

use bellwire_core::Recovered;
use bellwire_core::record::{
    Change, CommandRecord, Committed, DeliveryRecord, DeviceRecord, IdempotencyRecord, Load,
    Loaded, Txn,
};
use bellwire_proto::limits::RUN_CLOCK_AFTER_RESTART;
use bellwire_proto::{CommandId, DeliveryState, DeviceId, Seq, Timestamp};

/// What is on disk.
#[derive(Default)]
pub(crate) struct Disk {
    pub(crate) commands: BTreeMap<Seq, CommandRecord>,
    pub(crate) deliveries: BTreeMap<(DeviceId, Seq), DeliveryRecord>,
    pub(crate) devices: BTreeMap<DeviceId, DeviceRecord>,
    pub(crate) keys: BTreeMap<(String, String), IdempotencyRecord>,
    by_id: BTreeMap<CommandId, (DeviceId, Seq)>,
}

/// The disk, and what is on its way there.
#[derive(Default)]
pub(crate) struct Store {
    pub(crate) disk: Disk,
    pending: VecDeque<Txn>,
}

impl Store {
    pub(crate) fn submit(&mut self, txn: Txn) {
        self.pending.push_back(txn);
    }

    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// The oldest transaction that is not on disk yet.
    pub(crate) fn first_pending(&self) -> Option<&Txn> {
        self.pending.front()
    }

    /// Puts the oldest transaction on disk.
    pub(crate) fn commit_one(&mut self) -> Option<Committed> {
        let txn = self.pending.pop_front()?;
        for change in txn.changes() {
            self.disk.apply(change);
        }
        Some(txn.committed())
    }

    /// What a lying store does: says that it is on disk, and forgets it.
    pub(crate) fn lose_one(&mut self) -> Option<Committed> {
        self.pending.pop_front().map(Txn::committed)
    }

    /// The disk has failed: nothing more will be written.
    pub(crate) fn abandon(&mut self) {
        self.pending.clear();
    }

    /// The process ends, and a new one opens the store: what was not committed is gone.
    pub(crate) fn restart(&mut self, now: Timestamp) -> Recovered {
        self.pending.clear();
        for row in self.disk.deliveries.values_mut() {
            if row.state == DeliveryState::Sent {
                row.state = DeliveryState::Queued;
                row.version += 1;
            }
            row.run_until = row.run_until.map(|at| at.max(now.after(RUN_CLOCK_AFTER_RESTART)));
        }
        Recovered {
            last_seq: self.disk.commands.last_key_value().map(|(seq, _)| *seq).unwrap_or_default(),
            next_due: self.disk.deliveries.values().filter_map(DeliveryRecord::due_at).min(),
        }
    }
}

impl Disk {
    pub(crate) fn apply(&mut self, change: &Change) {
        match change {
            Change::PutCommand(command) => {
                self.commands.insert(command.head.seq, (**command).clone());
            }
            Change::PutDelivery(row) => {
                let place = (row.device.clone(), row.head.seq);
                self.by_id.insert(row.head.id, place.clone());
                self.deliveries.insert(place, (**row).clone());
            }
            Change::PutDevice(device) => {
                self.devices.insert(device.id.clone(), (**device).clone());
            }
            Change::PutLabels(id, labels) => {
                if let Some(device) = self.devices.get_mut(id) {
                    device.labels.clone_from(labels);
                }
            }
            Change::PutFacts(id, facts) => {
                if let Some(device) = self.devices.get_mut(id) {
                    device.facts = facts.clone();
                }
            }
            Change::PutSeen(id, seen) => {
                if let Some(device) = self.devices.get_mut(id) {
                    device.seen = Some(seen.clone());
                }
            }
            Change::DeleteDevice(id) => {
                self.devices.remove(id);
            }
            Change::PutIdempotency(record) => {
                let key = (record.key.caller.clone(), record.key.key.clone());
                self.keys.insert(key, (**record).clone());
            }
        }
    }

    pub(crate) fn delivery(&self, command: CommandId) -> Option<&DeliveryRecord> {
        self.by_id.get(&command).and_then(|place| self.deliveries.get(place))
    }

    /// Every delivery of a device, by number.
    pub(crate) fn deliveries_of(&self, id: &DeviceId) -> impl Iterator<Item = &DeliveryRecord> {
        let first = (id.clone(), Seq::default());
        self.deliveries.range(first..).map(|(_, row)| row).take_while(move |row| row.device == *id)
    }

    pub(crate) fn load(&self, load: &Load) -> Loaded {
        match load {
            Load::Device(id) => Loaded::Device {
                device: id.clone(),
                known: self.devices.contains_key(id),
                live: self.deliveries_of(id).filter(|r| !r.state.is_terminal()).cloned().collect(),
            },
            Load::Data(id, seqs) => {
                let found = seqs.iter().filter_map(|seq| self.commands.get(seq));
                Loaded::Data(id.clone(), found.map(|c| (c.head.seq, c.data.clone())).collect())
            }
            Load::Delivery(id, command) => {
                let found = self.delivery(*command).filter(|row| row.device == *id);
                Loaded::Delivery(id.clone(), *command, found.cloned().map(Box::new))
            }
            Load::Targets(command) => {
                let device = self.by_id.get(command).map(|(device, _)| device.clone());
                Loaded::Targets(*command, device.into_iter().collect())
            }
            Load::Idempotency(key) => {
                let found = self.keys.get(&(key.caller.clone(), key.key.clone()));
                Loaded::Idempotency(key.clone(), found.cloned().map(Box::new))
            }
            Load::Due(by, devices_max) => self.load_due(*by, *devices_max),
            Load::Delivered { device, after, now, rows_max, bytes_max } => {
                let page = self.delivered(device, *after, *now, *rows_max, *bytes_max);
                Loaded::Delivered(device.clone(), page)
            }
        }
    }

    fn load_due(&self, by: Timestamp, devices_max: usize) -> Loaded {
        let mut due: Vec<DeviceId> = Vec::new();
        let rows = || self.deliveries.values().filter_map(|row| Some((row, row.due_at()?)));
        for (row, at) in rows() {
            if at <= by && due.len() < devices_max && !due.contains(&row.device) {
                due.push(row.device.clone());
            }
        }
        let others = rows().filter(|(row, _)| !due.contains(&row.device));
        let next = others.map(|(_, at)| at).min();
        Loaded::Due(due, next)
    }

    fn delivered(
        &self,
        device: &DeviceId,
        after: Seq,
        now: Timestamp,
        rows_max: usize,
        bytes_max: usize,
    ) -> Vec<(DeliveryRecord, bellwire_proto::Json)> {
        let delivered = self.deliveries_of(device).filter(|r| r.state == DeliveryState::Delivered);
        let mut rows: Vec<&DeliveryRecord> = delivered.collect();
        rows.sort_by_key(|row| (row.updated_at, row.head.seq));
        match rows.iter().position(|row| row.head.seq == after) {
            Some(at) => drop(rows.drain(..=at)),
            None => rows.retain(|row| row.head.seq > after),
        }
        let mut bytes = 0;
        let mut page = Vec::new();
        for row in rows.into_iter().filter(|row| row.head.expires_at > now).take(rows_max) {
            let Some(command) = self.commands.get(&row.head.seq) else { continue };
            if bytes >= bytes_max {
                break;
            }
            bytes += command.data.as_str().len();
            page.push((row.clone(), command.data.clone()));
        }
        page
    }
}
