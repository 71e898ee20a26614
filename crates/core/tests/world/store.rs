//! A store in memory that keeps the promises of `record.rs` and no more: transactions are on disk in
//! order and when it says so; a read sees what was committed when it was requested, maybe more; a
//! crash loses the rest. It decides nothing and knows no time: its owner says when to commit.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bellwire_core::record::{
    AuditRecord, Change, CommandRecord, Committed, DeliveryRecord, DeviceRecord, IdempotencyRecord,
    JobRecord, Load, Loaded, LoadedCommand, LoadedDevice, PageMax, QueuePage, RolloutCounts,
    RolloutRecord, ScheduleRecord, TargetChunk, TargetPage, TokenRecord, Txn,
};
use bellwire_core::{Instant, Now, Recovered, SeqSource, TargetQuery};
use bellwire_proto::limits::RUN_CLOCK_AFTER_RESTART;
use bellwire_proto::{
    CommandId, Counts, DeliveryState, DeviceId, Json, Role, ScheduleId, Selector, Seq, TokenId,
};

/// What is on disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk {
    /// The greatest number ever given out.
    pub(crate) last_seq: Seq,
    pub(crate) commands: BTreeMap<Seq, CommandRecord>,
    pub(crate) deliveries: BTreeMap<(DeviceId, Seq), DeliveryRecord>,
    pub(crate) devices: BTreeMap<DeviceId, DeviceRecord>,
    pub(crate) keys: BTreeMap<(String, String), IdempotencyRecord>,
    pub(crate) targets: BTreeMap<(Seq, DeviceId), TargetChunk>,
    pub(crate) cancels: BTreeMap<Seq, bool>,
    pub(crate) rollouts: BTreeMap<Seq, RolloutRecord>,
    pub(crate) queued: BTreeMap<DeviceId, u64>,
    pub(crate) tokens: BTreeMap<TokenId, TokenRecord>,
    pub(crate) schedules: BTreeMap<ScheduleId, ScheduleRecord>,
    pub(crate) audit: Vec<AuditRecord>,
    /// Counters of commands to many.
    pub(crate) counts: BTreeMap<Seq, Counts>,
    by_id: BTreeMap<CommandId, Seq>,
    /// The deliveries of a command, for reads by command.
    by_command: BTreeSet<(Seq, DeviceId)>,
}

/// The disk, and the transactions that are not on it yet.
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

    /// What a store with a bug does: it reports a transaction as committed, and forgets it.
    pub(crate) fn lose_one(&mut self) -> Option<Committed> {
        self.pending.pop_front().map(Txn::committed)
    }

    /// The disk has failed: nothing more will be written.
    pub(crate) fn abandon(&mut self) {
        self.pending.clear();
    }

    /// The process ends, and a new one opens the store: what was not committed is gone.
    pub(crate) fn restart(&mut self, now: Now) -> Recovered {
        self.pending.clear();
        self.disk.recover(now)
    }
}

impl Disk {
    /// What a start makes of it: contract, section 2, "Restart of the hub".
    pub(crate) fn recover(&mut self, now: Now) -> Recovered {
        let Self { targets, commands, .. } = self;
        targets.retain(|(seq, _), _| commands.contains_key(seq));
        let rows: Vec<DeliveryRecord> = self.deliveries.values().cloned().collect();
        for mut row in rows {
            if row.state == DeliveryState::Sent {
                row.state = DeliveryState::Queued;
                row.version += 1;
                row.retry_at = None;
                (row.updated_at, row.updated) = (now.wall, now.instant);
                *self.queued.entry(row.device.clone()).or_default() += 1;
            }
            let least = now.instant.after(RUN_CLOCK_AFTER_RESTART);
            row.run_until = row.run_until.map(|at| at.max(least));
            self.put_delivery(&row);
        }
        let rows = || self.deliveries.values();
        Recovered {
            seqs: SeqSource::after(self.last_seq),
            next_due: rows().filter_map(DeliveryRecord::due_at).min(),
            next_scheduled: rows().filter_map(|row| row.scheduled_at).min(),
            jobs: self.jobs(),
            admin_tokens: self.tokens.values().filter(|t| t.role == Role::Admin).count() as u64,
            schedules: self.schedules.values().cloned().collect(),
        }
    }

    pub(crate) fn apply(&mut self, change: &Change) {
        match change {
            Change::PutCommand(command) => {
                self.last_seq = self.last_seq.max(command.head.seq);
                self.by_id.insert(command.head.id, command.head.seq);
                self.commands.insert(command.head.seq, (**command).clone());
            }
            Change::PutTargets(command, chunk) => {
                self.targets.insert((*command, chunk.devices[0].clone()), chunk.clone());
            }
            Change::DeleteTargets(command, first) => {
                self.targets.remove(&(*command, first.clone()));
            }
            Change::AdoptTargets(stage, command) => {
                for (first, chunk) in self.take_targets(*stage) {
                    self.targets.insert((*command, first), chunk);
                }
            }
            Change::DropTargets(stage) => drop(self.take_targets(*stage)),
            Change::PutRollout(command, rollout) => {
                self.rollouts.insert(*command, (**rollout).clone());
            }
            Change::PutCancel(command, force) => drop(self.cancels.insert(*command, *force)),
            Change::DeleteCancel(command) => drop(self.cancels.remove(command)),
            Change::PutDelivery(row) => self.put_delivery(row),
            Change::PutQueued(device, 0) => drop(self.queued.remove(device)),
            Change::PutQueued(device, queued) => {
                self.queued.insert(device.clone(), *queued);
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
            Change::PutPending(id, pending) => {
                if let Some(device) = self.devices.get_mut(id) {
                    device.pending = *pending;
                }
            }
            Change::PutToken(record) => {
                self.tokens.insert(record.id, (**record).clone());
            }
            Change::PutUses(id, uses) => {
                if let Some(Role::Join(join)) = self.tokens.get_mut(id).map(|t| &mut t.role) {
                    join.uses_left = Some(*uses);
                }
            }
            Change::PutLastUsed(id, at) => {
                if let Some(token) = self.tokens.get_mut(id) {
                    token.last_used_at = Some(*at);
                }
            }
            Change::DeleteToken(id) => drop(self.tokens.remove(id)),
            Change::DeleteTokensOf(id) => {
                self.tokens.retain(|_, token| token.role.device() != Some(id));
            }
            Change::PutSchedule(record) => {
                self.schedules.insert(record.id, (**record).clone());
            }
            Change::DeleteSchedule(id) => drop(self.schedules.remove(id)),
            Change::PutAudit(record) => {
                let counted =
                    |row: &&mut AuditRecord| row.refusal.is_some() && row.refusal == record.refusal;
                match self.audit.iter_mut().find(counted) {
                    Some(row) => row.count = record.count,
                    None => self.audit.push((**record).clone()),
                }
            }
        }
    }

    fn take_targets(&mut self, stage: Seq) -> Vec<(DeviceId, TargetChunk)> {
        let taken = self.targets.extract_if(.., |(seq, _), _| *seq == stage);
        taken.map(|((_, first), chunk)| (first, chunk)).collect()
    }

    fn put_delivery(&mut self, row: &DeliveryRecord) {
        let (seq, device) = (row.head.seq, row.device.clone());
        self.by_command.insert((seq, device.clone()));
        let old = self.deliveries.insert((device, seq), row.clone());
        if row.head.is_to_many() {
            let counts = self.counts.entry(seq).or_default();
            if let Some(old) = old {
                let count = counts.entry(old.state).or_default();
                *count -= 1;
                if *count == 0 {
                    counts.remove(&old.state);
                }
            }
            *counts.entry(row.state).or_default() += 1;
        }
    }

    fn jobs(&self) -> Vec<JobRecord> {
        let live = self.rollouts.iter().filter(|(_, rollout)| !rollout.state.is_ended());
        let seqs = self.targets.keys().map(|(seq, _)| *seq).chain(self.cancels.keys().copied());
        let seqs: BTreeSet<Seq> = seqs.chain(live.map(|(seq, _)| *seq)).collect();
        let job = |seq: Seq| {
            let command = &self.commands[&seq];
            let chunks = self.targets.range((seq, first_name())..);
            let chunks = chunks.take_while(|((s, _), _)| *s == seq);
            let chunks = chunks.filter_map(|(_, chunk)| chunk.range());
            JobRecord {
                head: command.head.clone(),
                online_only: command.online_only,
                chunks: chunks.collect(),
                cancel: self.cancels.get(&seq).copied(),
                rollout: self.rollouts.get(&seq).map(|r| (r.clone(), self.rollout_counts(seq, r))),
            }
        };
        seqs.into_iter().map(job).collect()
    }

    /// What has become of the deliveries of a rollout.
    pub(crate) fn rollout_counts(&self, seq: Seq, rollout: &RolloutRecord) -> RolloutCounts {
        rollout_counts(self.deliveries_of_command(seq), rollout)
    }

    /// Forgets a command with all that belongs to it.
    pub(crate) fn forget(&mut self, seq: Seq) {
        if let Some(command) = self.commands.remove(&seq) {
            self.by_id.remove(&command.head.id);
        }
        self.deliveries.retain(|(_, of), _| *of != seq);
        self.by_command.retain(|(of, _)| *of != seq);
        self.counts.remove(&seq);
        self.rollouts.remove(&seq);
    }

    pub(crate) fn delivery(&self, device: &DeviceId, seq: Seq) -> Option<&DeliveryRecord> {
        self.deliveries.get(&(device.clone(), seq))
    }

    /// The first delivery of a command by device name.
    pub(crate) fn first_of(&self, command: CommandId) -> Option<&DeliveryRecord> {
        self.deliveries_of_command(*self.by_id.get(&command)?).next()
    }

    /// Every delivery of a device, by number.
    pub(crate) fn deliveries_of(&self, id: &DeviceId) -> impl Iterator<Item = &DeliveryRecord> {
        let first = (id.clone(), Seq::default());
        self.deliveries.range(first..).map(|(_, row)| row).take_while(move |row| row.device == *id)
    }

    /// Every delivery of a command, by device name.
    pub(crate) fn deliveries_of_command(&self, seq: Seq) -> impl Iterator<Item = &DeliveryRecord> {
        let of = self.by_command.range((seq, first_name())..).take_while(move |(s, _)| *s == seq);
        of.map(|(seq, device)| &self.deliveries[&(device.clone(), *seq)])
    }

    pub(crate) fn load(&self, load: &Load) -> Loaded {
        match load {
            Load::Device(id, page_max) => {
                let live = || self.deliveries_of(id).filter(|row| !row.state.is_terminal());
                let queued = self.queued.get(id);
                let queue = queued.map(|_| self.queue(id, Seq::ZERO, *page_max));
                Loaded::Device(Box::new(LoadedDevice {
                    device: id.clone(),
                    known: self.devices.contains_key(id),
                    queued: queued.copied().unwrap_or_default(),
                    active: live()
                        .filter(|row| row.state != DeliveryState::Queued)
                        .cloned()
                        .collect(),
                    queue: queue.unwrap_or_default(),
                }))
            }
            Load::Queue(id, after, page_max) => {
                Loaded::Queue(id.clone(), self.queue(id, *after, *page_max))
            }
            Load::Deliveries(id, seqs) => {
                let found = seqs.iter().filter_map(|seq| self.delivery(id, *seq));
                Loaded::Deliveries(id.clone(), found.cloned().collect())
            }
            Load::Live(id, max) => {
                let live = self.deliveries_of(id).filter(|row| !row.state.is_terminal());
                Loaded::Live(id.clone(), live.take(*max).cloned().collect())
            }
            Load::Data(id, seq) => {
                let data = self.commands.get(seq).map(|command| command.data.clone());
                Loaded::Data(id.clone(), *seq, data)
            }
            Load::Delivery(id, command) => {
                let seq = self.by_id.get(command);
                let found = seq.and_then(|seq| self.delivery(id, *seq));
                Loaded::Delivery(id.clone(), *command, found.cloned().map(Box::new))
            }
            Load::Command(id) => {
                let command = self.by_id.get(id).map(|seq| &self.commands[seq]);
                Loaded::Command(*id, command.map(|command| Box::new(self.to_cancel(command))))
            }
            Load::Targets(seq, first) => {
                let chunk = self.targets.get(&(*seq, first.clone()));
                let data = self.commands.get(seq).map(|command| command.data.clone());
                Loaded::Targets(*seq, first.clone(), chunk.cloned().zip(data))
            }
            Load::Found { request, query, after, rows_max } => {
                Loaded::Found(*request, self.find(query, after.as_ref(), *rows_max))
            }
            Load::LiveOf(seq, after, max) => {
                let behind = |row: &&DeliveryRecord| {
                    !row.state.is_terminal() && after.as_ref().is_none_or(|a| row.device > *a)
                };
                let live = self.deliveries_of_command(*seq).filter(behind);
                Loaded::LiveOf(*seq, live.take(*max).map(|row| row.device.clone()).collect())
            }
            Load::Unknown(request, devices) => {
                let unknown = devices.iter().find(|device| !self.devices.contains_key(device));
                Loaded::Unknown(*request, unknown.cloned())
            }
            Load::Idempotency(key) => {
                let found = self.keys.get(&(key.caller.clone(), key.key.clone()));
                Loaded::Idempotency(key.clone(), found.cloned().map(Box::new))
            }
            Load::Token(id) => Loaded::Token(*id, self.tokens.get(id).cloned().map(Box::new)),
            Load::Due(now, max) => self.load_due(*now, *max),
            Load::Delivered { device, after, now, page_max } => {
                let page = self.delivered(device, *after, *now, *page_max);
                Loaded::Delivered(device.clone(), page)
            }
        }
    }

    fn find(&self, query: &TargetQuery, after: Option<&DeviceId>, rows_max: usize) -> TargetPage {
        let candidates: Vec<DeviceId> = match (&query.named, &query.ended) {
            (Some(named), _) => named.clone(),
            (None, Some((parent, states))) => {
                let seq = self.by_id.get(parent).copied().unwrap_or_default();
                let rows = self.deliveries_of_command(seq);
                let ended = rows.filter(|row| states.contains(&row.state));
                ended.map(|row| row.device.clone()).collect()
            }
            (None, None) => self.devices.keys().cloned().collect(),
        };
        let behind = candidates.into_iter().filter(|device| after.is_none_or(|a| device > a));
        let looked_at: Vec<DeviceId> = behind.take(rows_max).collect();
        let selects = |select: &Selector, id: &DeviceId| {
            self.devices.get(id).is_some_and(|device| {
                let facts = bellwire_proto::facts::selectable(&device.facts);
                select.selects(&device.labels, &facts)
            })
        };
        let selected = |id: &&DeviceId| {
            query.select.iter().chain(&query.scope).all(|select| selects(select, id))
        };
        let devices: Vec<DeviceId> = looked_at.iter().filter(selected).cloned().collect();
        let canary = |id: &&DeviceId| query.canary.as_ref().is_some_and(|c| selects(c, id));
        TargetPage {
            last: looked_at.get(rows_max - 1).cloned(),
            canaries: devices.iter().filter(canary).cloned().collect(),
            devices,
        }
    }

    fn queue(&self, id: &DeviceId, after: Seq, max: PageMax) -> QueuePage {
        let ready = self.deliveries_of(id).filter(|row| row.is_ready() && row.head.seq > after);
        let mut page = QueuePage::default();
        let mut bytes = 0;
        for row in ready {
            if page.rows.len() >= max.rows || bytes >= max.bytes {
                page.more = true;
                break;
            }
            let data = self.commands[&row.head.seq].data.clone();
            bytes += data.as_str().len();
            page.rows.push((row.clone(), data));
        }
        page
    }

    fn to_cancel(&self, command: &CommandRecord) -> LoadedCommand {
        let deliveries = || self.deliveries_of_command(command.head.seq);
        LoadedCommand {
            head: command.head.clone(),
            online_only: command.online_only,
            first: deliveries().next().cloned().map(Box::new),
            rollout: self.rollouts.get(&command.head.seq).cloned().map(Box::new),
            terminal: deliveries().filter(|row| row.state.is_terminal()).count() as u64,
        }
    }

    /// A delivery that waits for its window is due at two times: when that opens, and when it expires.
    fn load_due(&self, now: Now, max: usize) -> Loaded {
        let all = || self.deliveries.values();
        let mut by_due: Vec<_> = all().filter_map(|row| Some((row.due_at()?, row))).collect();
        by_due.sort_by_key(|(at, row)| (*at, row.device.clone(), row.head.seq));
        let due = by_due.iter().take_while(|(at, _)| *at <= now.instant).take(max).count();
        let next = by_due.get(due).map(|(at, _)| *at);

        let mut by_clock: Vec<_> = all().filter_map(|row| Some((row.scheduled_at?, row))).collect();
        by_clock.sort_by_key(|(at, row)| (*at, row.device.clone(), row.head.seq));
        let scheduled = by_clock.iter().take_while(|(at, _)| *at <= now.wall);
        let scheduled = scheduled.take(max - due).count();
        let next_scheduled = by_clock.get(scheduled).map(|(at, _)| *at);

        let rows = by_due.iter().take(due).map(|(_, row)| row);
        let rows = rows.chain(by_clock.iter().take(scheduled).map(|(_, row)| row));
        let rows = rows.map(|row| (row.device.clone(), row.head.seq)).collect();
        Loaded::Due { rows, next, next_scheduled }
    }

    fn delivered(
        &self,
        device: &DeviceId,
        after: Seq,
        now: Instant,
        max: PageMax,
    ) -> Vec<(DeliveryRecord, Json)> {
        let delivered = self.deliveries_of(device).filter(|r| r.state == DeliveryState::Delivered);
        let mut rows: Vec<&DeliveryRecord> = delivered.collect();
        rows.sort_by_key(|row| (row.updated, row.head.seq));
        match rows.iter().position(|row| row.head.seq == after) {
            Some(at) => drop(rows.drain(..=at)),
            None => rows.retain(|row| row.head.seq > after),
        }
        let mut bytes = 0;
        let mut page = Vec::new();
        for row in rows.into_iter().filter(|row| row.expires > now).take(max.rows) {
            let Some(command) = self.commands.get(&row.head.seq) else { continue };
            if bytes >= max.bytes {
                break;
            }
            bytes += command.data.as_str().len();
            page.push((row.clone(), command.data.clone()));
        }
        page
    }
}

/// A name before all others: `-` sorts first among the characters of a name.
fn first_name() -> DeviceId {
    "-".parse().unwrap()
}

/// What a rollout counts among the deliveries of its command.
pub(crate) fn rollout_counts<'a>(
    rows: impl Iterator<Item = &'a DeliveryRecord>,
    rollout: &RolloutRecord,
) -> RolloutCounts {
    let mut counts = RolloutCounts::default();
    let failures = rollout.plan.abort.as_ref().map(|rule| &rule.states);
    for row in rows.filter(|row| row.state.is_terminal()) {
        counts.ended += 1;
        counts.failed += u64::from(failures.is_some_and(|states| states.contains(&row.state)));
        let in_batch = row.batch.is_some_and(|batch| batch.number == rollout.batch);
        counts.ended_in_batch += u64::from(in_batch);
    }
    counts
}
