//! The store as a child would write it: maps, walked through from end to end. What the real one
//! answers is compared with this.

use std::collections::BTreeMap;

use bellwire_core::record::Txn;
use bellwire_core::record::{
    Change, CommandRecord, DeliveryRecord, DeviceRecord, IdempotencyKey, IdempotencyRecord, Load,
    Loaded,
};
use bellwire_hub::store::{CommandFilter, DeviceFilter, PageRequest, Store, StoredDevice};
use bellwire_proto::limits::RUN_CLOCK_AFTER_RESTART;
use bellwire_proto::{Command, Delivery, DeliveryState, DeviceId, Json, Seq, Timestamp};

use super::{Kit, read};

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Model {
    pub last_seq: Seq,
    pub devices: BTreeMap<DeviceId, DeviceRecord>,
    pub commands: BTreeMap<Seq, CommandRecord>,
    pub deliveries: BTreeMap<(Seq, DeviceId), DeliveryRecord>,
    pub keys: BTreeMap<(String, String), IdempotencyRecord>,
}

/// All that can be asked of a store, but for filters.
#[derive(Debug, PartialEq)]
pub struct View {
    pub devices: Vec<StoredDevice>,
    pub commands: Vec<Command>,
    pub shown: Vec<Vec<(Delivery, u64)>>,
    pub deliveries: Vec<DeliveryRecord>,
    pub keys: Vec<IdempotencyRecord>,
}

impl Model {
    pub fn apply(&mut self, change: &Change) {
        match change.clone() {
            Change::PutCommand(row) => {
                self.last_seq = self.last_seq.max(row.head.seq);
                self.commands.insert(row.head.seq, *row);
            }
            Change::PutDelivery(row) => {
                self.deliveries.insert((row.head.seq, row.device.clone()), *row);
            }
            Change::PutDevice(row) => {
                self.devices.insert(row.id.clone(), *row);
            }
            Change::PutLabels(device, labels) => {
                self.devices.entry(device).and_modify(|row| row.labels = labels);
            }
            Change::PutFacts(device, facts) => {
                self.devices.entry(device).and_modify(|row| row.facts = facts);
            }
            Change::PutSeen(device, seen) => {
                self.devices.entry(device).and_modify(|row| row.seen = Some(seen));
            }
            Change::DeleteDevice(device) => {
                self.devices.remove(&device);
            }
            Change::PutIdempotency(row) => {
                self.keys.insert((row.key.caller.clone(), row.key.key.clone()), *row);
            }
        }
    }

    pub fn apply_all(&mut self, txn: &Txn) {
        txn.changes().iter().for_each(|change| self.apply(change));
    }

    /// What a start does, by the letter of the contract, section 2.
    pub fn recover(&mut self, now: Timestamp) {
        for row in self.deliveries.values_mut() {
            match row.state {
                DeliveryState::Sent => {
                    row.state = DeliveryState::Queued;
                    row.version += 1;
                    row.updated_at = now;
                    row.retry_at = None;
                }
                DeliveryState::Accepted | DeliveryState::Running => {
                    let least = now.after(RUN_CLOCK_AFTER_RESTART);
                    row.run_until = row.run_until.map(|until| until.max(least));
                }
                _ => {}
            }
        }
    }

    /// What retention takes: commands that are over since before `before`, and keys past `now`.
    pub fn purge(&mut self, before: Timestamp, now: Timestamp) {
        let over = |seq: &Seq, row: &CommandRecord, all: &Self| {
            row.head.created_at < before
                && all.of(*seq).all(|d| d.state.is_terminal() && d.updated_at < before)
        };
        let gone: Vec<Seq> =
            self.commands.iter().filter(|(s, c)| over(s, c, self)).map(|(s, _)| *s).collect();
        self.commands.retain(|seq, _| !gone.contains(seq));
        self.deliveries.retain(|(seq, _), _| !gone.contains(seq));
        self.keys.retain(|_, key| key.expires_at >= now);
    }

    /// The deliveries of a command, by name.
    pub fn of(&self, seq: Seq) -> impl Iterator<Item = &DeliveryRecord> {
        self.deliveries.values().filter(move |row| row.head.seq == seq)
    }

    pub fn next_due(&self) -> Option<Timestamp> {
        self.deliveries.values().filter_map(DeliveryRecord::due_at).min()
    }

    fn queued(&self, device: &DeviceId) -> u64 {
        let waits =
            |row: &&DeliveryRecord| row.device == *device && row.state == DeliveryState::Queued;
        self.deliveries.values().filter(waits).count() as u64
    }

    pub fn shown(&self, row: &CommandRecord) -> Command {
        let mut counts = BTreeMap::new();
        self.of(row.head.seq).for_each(|d| *counts.entry(d.state).or_default() += 1);
        Command {
            id: row.head.id,
            seq: row.head.seq,
            action: row.head.action.clone(),
            data: row.data.clone(),
            created_at: row.head.created_at,
            created_by: row.created_by.clone(),
            expires_at: row.head.expires_at,
            total: row.total,
            done: counts.keys().all(|state: &DeliveryState| state.is_terminal()),
            counts,
        }
    }

    pub fn view(&self) -> View {
        let commands: Vec<_> = self.commands.values().rev().map(|c| self.shown(c)).collect();
        let shown = |c: &Command| self.of(c.seq).map(|d| (d.to_delivery(), d.version)).collect();
        View {
            devices: self
                .devices
                .values()
                .map(|record| StoredDevice {
                    record: record.clone(),
                    queued: self.queued(&record.id),
                })
                .collect(),
            shown: commands.iter().map(shown).collect(),
            commands,
            deliveries: self.deliveries.values().cloned().collect(),
            keys: self.keys.values().cloned().collect(),
        }
    }

    pub fn answer(&self, load: &Load) -> Loaded {
        let of_device = |device: &DeviceId| {
            let device = device.clone();
            self.deliveries.values().filter(move |row| row.device == device)
        };
        match load.clone() {
            Load::Device(device) => Loaded::Device {
                known: self.devices.contains_key(&device),
                live: of_device(&device).filter(|d| !d.state.is_terminal()).cloned().collect(),
                device,
            },
            Load::Data(device, seqs) => {
                let data = |seq: Seq| self.commands.get(&seq).map(|c| (seq, c.data.clone()));
                Loaded::Data(device, seqs.into_iter().filter_map(data).collect())
            }
            Load::Delivery(device, id) => {
                let found = of_device(&device).find(|row| row.head.id == id);
                Loaded::Delivery(device.clone(), id, found.cloned().map(Box::new))
            }
            Load::Targets(id) => {
                let of_it = self.deliveries.values().filter(|row| row.head.id == id);
                Loaded::Targets(id, of_it.map(|row| row.device.clone()).collect())
            }
            Load::Idempotency(key) => {
                let found = self.keys.get(&(key.caller.clone(), key.key.clone()));
                Loaded::Idempotency(key, found.cloned().map(Box::new))
            }
            Load::Due(by, devices_max) => self.due(by, devices_max),
            Load::Delivered { device, after, now, rows_max, bytes_max } => {
                let mut rows: Vec<_> =
                    of_device(&device).filter(|d| d.state == DeliveryState::Delivered).collect();
                rows.sort_by_key(|row| (row.updated_at, row.head.seq));
                match rows.iter().position(|row| row.head.seq == after) {
                    Some(at) => drop(rows.drain(..=at)),
                    None => rows.retain(|row| row.head.seq > after),
                }
                rows.retain(|row| row.head.expires_at > now);
                Loaded::Delivered(device, self.up_to(rows, rows_max, bytes_max))
            }
        }
    }

    fn due(&self, by: Timestamp, devices_max: usize) -> Loaded {
        let mut rows: Vec<_> =
            self.deliveries.values().filter_map(|d| Some((d.due_at()?, &d.device))).collect();
        rows.sort();
        let mut devices: Vec<DeviceId> = Vec::new();
        for (due_at, device) in &rows {
            let fits = *due_at <= by && devices.len() < devices_max;
            if fits && !devices.contains(device) {
                devices.push((*device).clone());
            }
        }
        let next = rows.iter().find(|(_, device)| !devices.contains(device)).map(|(at, _)| *at);
        Loaded::Due(devices, next)
    }

    fn up_to(
        &self,
        rows: Vec<&DeliveryRecord>,
        rows_max: usize,
        bytes_max: usize,
    ) -> Vec<(DeliveryRecord, Json)> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        for row in rows {
            if taken.len() == rows_max || bytes >= bytes_max {
                break;
            }
            let data = self.commands[&row.head.seq].data.clone();
            bytes += data.as_str().len();
            taken.push((row.clone(), data));
        }
        taken
    }
}

impl Kit {
    /// All that the store has, of what `universe` has or ever had.
    pub fn view(&self, universe: &Model) -> View {
        let all = PageRequest { limit: 1_000_000, after: None };
        let commands = read(self.store.commands(CommandFilter::default(), all.clone())).items;
        let shown = commands.iter().map(|c| read(self.store.snapshot(c.id)).unwrap().1).collect();
        let one = |(seq, device): &(Seq, DeviceId)| self.delivery(seq.get(), device.as_str());
        let key = |(caller, key): &(String, String)| {
            let key = IdempotencyKey { caller: caller.clone(), key: key.clone() };
            match self.load(Load::Idempotency(key)) {
                Loaded::Idempotency(_, found) => found.map(|boxed| *boxed),
                other => panic!("not a key: {other:?}"),
            }
        };
        View {
            devices: read(self.store.devices(DeviceFilter::default(), all)).items,
            commands,
            shown,
            deliveries: universe.deliveries.keys().filter_map(one).collect(),
            keys: universe.keys.keys().filter_map(key).collect(),
        }
    }
}
