//! The judge: it sees everything that goes into the core, comes out of it and goes to disk, and compares
//! that with the promises of the contract. It knows nothing of how the core works.
//!
//! Decisions (which command is sent next, how many at once, which state may follow which) are judged by
//! the transactions, which are atomic and in order. Answers, frames and events are judged when they leave
//! the core: what they show must have been on disk at some time before. The rules about a single row are
//! in `judge/rows.rs`.

mod rollouts;
mod rows;
mod schedules;
mod tokens;
mod windows;

use std::collections::{BTreeMap, BTreeSet};

use bellwire_core::record::{Change, TokenRecord, Txn, TxnId};
use bellwire_core::{
    Answer, Frame, HubEvent, Instant, Now, Output, RequestId, RolloutOp, ScheduleOp, SessionId,
    Target,
};
use bellwire_proto::limits::CANCEL_SLOT;
use bellwire_proto::stream::CommandEvent;
use bellwire_proto::{
    Code, CommandId, Counts, Delivery, DeliveryState, DeviceChange, DeviceId, Seq, Timestamp,
    TokenId,
};

use super::store::Disk;
pub(crate) use rows::sendings;
use rows::{Sending, row_may_follow};
use schedules::Schedules;
use tokens::Tokens;

/// What was requested, as far as the answer is judged by it.
#[derive(Debug, Clone)]
pub(crate) enum Requested {
    /// A command to this target; with its idempotency key and the digest of the request, if it has a key.
    Send(Option<(String, [u8; 32])>, Target),
    /// The same to all devices; these were registered when it was requested.
    SendToAll(Option<(String, [u8; 32])>, Vec<DeviceId>, Instant),
    Cancel(CommandId),
    Rollout(CommandId, RolloutOp),
    Report(CommandId),
    Listen(SessionId),
    Poll(DeviceId),
    Confirm,
    /// Labels or facts, identified by their text.
    Put(DeviceId, String),
    Delete(DeviceId),
    MakeToken(Box<TokenRecord>),
    Revoke(TokenId),
    /// With this join token, for this token; whether the former was answered as revoked before.
    Enroll {
        join: TokenId,
        token: TokenId,
        after_revocation: bool,
    },
    Approve,
    Schedule(ScheduleOp),
}

/// A stream, as far as it is judged.
struct Stream {
    device: DeviceId,
    ack_none: bool,
    ended: bool,
}

/// The listener that a command was sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Receiver {
    Stream(SessionId),
    Poll(RequestId),
}

/// The sending of a command with the greatest attempt number that its device was sent.
struct LastSending {
    attempt: u32,
    at: Instant,
    receivers: Vec<Receiver>,
}

pub(crate) type Verdict = Result<(), String>;

#[derive(Default)]
pub(crate) struct Judge {
    max_in_flight: usize,
    /// Requests without a reply.
    open: BTreeMap<RequestId, Requested>,
    /// Requests whose client has disconnected: a reply to one may still come, and is not judged.
    abandoned: BTreeSet<RequestId>,
    streams: BTreeMap<SessionId, Stream>,
    sent: BTreeMap<(DeviceId, Seq), LastSending>,
    /// Every version of every delivery that was on disk, by command.
    snapshots: BTreeMap<CommandId, Vec<Delivery>>,
    /// The version that was last notified.
    notified: BTreeMap<(CommandId, DeviceId), u64>,
    keys: BTreeMap<(String, [u8; 32]), CommandId>,
    put: BTreeSet<(DeviceId, String)>,
    /// Devices that were notified as online.
    online: BTreeSet<DeviceId>,
    deleted: BTreeSet<DeviceId>,
    decided_at: BTreeMap<TxnId, Now>,
    /// The targets of each command that was promised to its sender: each has a delivery in the end.
    promised: BTreeMap<CommandId, Vec<DeviceId>>,
    tokens: Tokens,
    schedules: Schedules,
}

impl Judge {
    pub(crate) fn new(max_in_flight: usize) -> Self {
        Self { max_in_flight, ..Self::default() }
    }

    // --- What goes in ---

    pub(crate) fn requested(&mut self, request: RequestId, requested: Requested) {
        self.open.insert(request, requested);
    }

    pub(crate) fn disconnected(&mut self, request: RequestId) {
        if self.open.remove(&request).is_some() {
            self.abandoned.insert(request);
        }
    }

    pub(crate) fn opened(&mut self, session: SessionId, device: DeviceId, ack_none: bool) {
        self.streams.insert(session, Stream { device, ack_none, ended: false });
    }

    /// A device enrols.
    pub(crate) fn enrolling(&self, join: TokenId, token: TokenId) -> Requested {
        Requested::Enroll { join, token, after_revocation: self.tokens.is_revoked(join) }
    }

    /// The hub is notified that a stream has ended: the client that requested it has disconnected.
    pub(crate) fn closed(&mut self, session: SessionId) {
        let requested =
            |requested: &Requested| matches!(requested, Requested::Listen(s) if *s == session);
        let request = self.open.iter().find(|(_, a)| requested(a)).map(|(request, _)| *request);
        request.into_iter().for_each(|request| self.disconnected(request));
    }

    /// The process has ended: no open request will be answered, and every stream is cut.
    pub(crate) fn restarted(&mut self) {
        self.open.clear();
        self.abandoned.clear();
        self.streams.clear();
        self.decided_at.clear();
        self.online.clear();
    }

    pub(crate) fn decided(&mut self, txn: TxnId, now: Now) {
        self.decided_at.insert(txn, now);
    }

    // --- What goes to disk ---

    /// A transaction will be on disk next. `disk` is the state before it.
    pub(crate) fn commit(&mut self, txn: &Txn, disk: &Disk) -> Verdict {
        self.tokens.commit(txn, disk)?;
        let at = self.decided_at.get(&txn.id()).copied();
        self.schedules.commit(txn, at, disk)?;
        for change in txn.changes() {
            match change {
                Change::PutDelivery(row) => {
                    let old = disk.delivery(&row.device, row.head.seq);
                    row_may_follow(old, row)?;
                    windows::may_wait(row, old, at)?;
                    rollouts::delivery_may_begin(row, txn, disk)?;
                    rollouts::ends_with_its_last(row, txn, disk)?;
                    self.snapshots.entry(row.head.id).or_default().push(row.to_delivery());
                }
                Change::PutLabels(id, labels) => {
                    self.put.insert((id.clone(), format!("{labels:?}")));
                }
                Change::PutDevice(device) => {
                    self.put.insert((device.id.clone(), format!("{:?}", device.labels)));
                }
                Change::PutFacts(id, facts) => {
                    self.put.insert((id.clone(), facts.as_str().to_owned()));
                }
                Change::DeleteDevice(id) => {
                    self.deleted.insert(id.clone());
                }
                Change::PutIdempotency(record) => {
                    let key = (record.key.caller.clone(), record.key.key.clone());
                    if let Some(old) = disk.keys.get(&key).filter(|k| k.command != record.command) {
                        return Err(format!("one key, two commands: {old:?} and {record:?}"));
                    }
                }
                Change::PutRollout(seq, record) => {
                    let at = self.decided_at.get(&txn.id()).copied();
                    rollouts::rollout_may_follow(*seq, record, at, txn, disk)?;
                    windows::batch_may_begin(record, disk.rollouts.get(seq), at)?;
                }
                Change::PutCommand(_)
                | Change::PutTargets(..)
                | Change::DeleteTargets(..)
                | Change::AdoptTargets(..)
                | Change::DropTargets(_)
                | Change::PutCancel(..)
                | Change::DeleteCancel(_)
                | Change::PutQueued(..)
                | Change::PutSeen(..)
                | Change::PutPending(..)
                | Change::PutToken(_)
                | Change::PutUses(..)
                | Change::PutLastUsed(..)
                | Change::DeleteToken(_)
                | Change::DeleteTokensOf(_)
                | Change::PutSchedule(_)
                | Change::DeleteSchedule(_)
                | Change::PutAudit(_) => {}
            }
        }
        Ok(())
    }

    /// A transaction is on disk: its sendings must respect times, the order of the queue, and `max_in_flight`.
    pub(crate) fn committed(&mut self, id: TxnId, sent: &[Sending], disk: &Disk) -> Verdict {
        let Some(at) = self.decided_at.remove(&id) else {
            return Err(format!("{id:?} was committed twice"));
        };
        for Sending { device, seq, not_before, retry_at, expires, window } in sent {
            if window.as_ref().is_some_and(|window| !windows::is_open(window, at.wall)) {
                return Err(format!(
                    "window: {device} is sent {seq} at {at:?}, outside of {window:?}"
                ));
            }
            if *expires <= at.instant {
                return Err(format!("time: {device} is sent {seq} at {at:?}, after {expires:?}"));
            }
            if not_before.is_some_and(|not_before| not_before > at.wall)
                || retry_at.is_some_and(|retry_at| retry_at > at.instant)
            {
                let early = format!("before {not_before:?} and {retry_at:?}");
                return Err(format!("time: {device} is sent {seq} at {at:?}, {early}"));
            }
            // Of what was only found for a command that is not stored, nothing is promised.
            let chunks = disk.targets.iter().filter(|((older, _), _)| {
                older < seq
                    && disk.commands.contains_key(older)
                    && !disk.rollouts.contains_key(older)
            });
            for ((older, _), chunk) in chunks {
                if chunk.devices.contains(device) {
                    return Err(format!("order: {device} is sent {seq}, {older} is not expanded"));
                }
            }
            let mut in_flight = 0;
            for row in disk.deliveries_of(device) {
                let waits = row.scheduled_at.is_some();
                if row.state == DeliveryState::Queued && row.head.seq < *seq && !waits {
                    let older = row.head.seq;
                    return Err(format!("order: {device} is sent {seq} while {older} waits"));
                }
                let in_slot = |since: Instant| at.instant < since.after(CANCEL_SLOT);
                let slot = row.cancelling_since.is_none_or(in_slot);
                let live = row.state != DeliveryState::Queued && !row.state.is_terminal();
                in_flight += usize::from(live && slot);
            }
            if in_flight > self.max_in_flight {
                return Err(format!(
                    "{device} has {in_flight} in flight with {seq}, more than max_in_flight"
                ));
            }
        }
        Ok(())
    }

    // --- What comes out ---

    pub(crate) fn output(&mut self, output: &Output, disk: &Disk, now: Instant) -> Verdict {
        match output {
            Output::Persist(_) | Output::Load(_) | Output::Access(_) => Ok(()),
            Output::Send { session, frame, .. } => {
                let Some(stream) = self.streams.get(session) else {
                    return Err(format!("a frame to {session:?}, which was never opened"));
                };
                if stream.ended {
                    return Err(format!("a frame to {session:?} after its bye"));
                }
                let (device, ack_none) = (stream.device.clone(), stream.ack_none);
                match frame {
                    Frame::Command(event) => self.send_command(
                        &device,
                        event,
                        Receiver::Stream(*session),
                        ack_none,
                        disk,
                        now,
                    ),
                    Frame::Cancel(event) => self.cancel_sent(event.id),
                }
            }
            Output::Close { session, .. } => match self.streams.get_mut(session) {
                Some(stream) if stream.ended => Err(format!("{session:?} has two byes")),
                Some(stream) => {
                    stream.ended = true;
                    Ok(())
                }
                None => Err(format!("a bye to {session:?}, which was never opened")),
            },
            Output::Reply(request, answer) => self.reply(*request, answer, disk, now),
            Output::Notify(HubEvent::Delivery { delivery, version }) => {
                self.seen(delivery, "a notification")?;
                let last =
                    self.notified.entry((delivery.command, delivery.device.clone())).or_default();
                if *version <= *last {
                    return Err(format!("notified version {version} after {last}: {delivery:?}"));
                }
                *last = *version;
                Ok(())
            }
            Output::Notify(HubEvent::Device { device, change, presence }) => {
                let fits = match change {
                    DeviceChange::Created | DeviceChange::Changed => true,
                    DeviceChange::Online => self.online.insert(device.clone()),
                    DeviceChange::Offline => self.online.remove(device),
                    DeviceChange::Removed => {
                        self.online.remove(device);
                        true
                    }
                };
                match fits && (*change != DeviceChange::Online || presence.online()) {
                    true => Ok(()),
                    false => Err(format!("{device} is notified as {change:?}, and was so before")),
                }
            }
        }
    }

    fn reply(&mut self, request: RequestId, answer: &Answer, disk: &Disk, now: Instant) -> Verdict {
        if self.abandoned.remove(&request) {
            return Ok(());
        }
        let Some(requested) = self.open.remove(&request) else {
            return Err(format!("{request:?} is answered twice: {answer:?}"));
        };
        if let Some(verdict) = self.tokens.reply(&requested, answer) {
            return verdict;
        }
        match (requested, answer) {
            (Requested::Send(key, Target::Device(_)), Answer::Delivery(delivery)) => {
                self.seen(delivery, "a sender's answer")?;
                self.keyed(key, delivery.command)
            }
            (Requested::Send(key, Target::Device(device)), Answer::Command(command)) => {
                self.promised.insert(*command, vec![device]);
                self.keyed(key, *command)
            }
            (Requested::Send(key, Target::Devices(devices)), Answer::Command(command)) => {
                let stored = disk.commands.values().find(|stored| stored.head.id == *command);
                match stored {
                    Some(stored) if stored.head.total == devices.len() as u64 => {}
                    _ => return Err(format!("{command} is promised, but on disk as {stored:?}")),
                }
                self.promised.insert(*command, devices);
                self.keyed(key, *command)
            }
            (Requested::SendToAll(key, known, at), Answer::Command(command)) => {
                self.promised_to_all(*command, &known, at, disk)?;
                self.keyed(key, *command)
            }
            (Requested::Rollout(command, op), Answer::Cancelled) => {
                rollouts::is_done(command, op, disk)
            }
            (Requested::Schedule(op), Answer::Done) => self.schedules.is_done(&op),
            (Requested::Report(command), Answer::Delivery(delivery))
                if delivery.command == command =>
            {
                self.seen(delivery, "a device's answer")
            }
            (Requested::Cancel(command), Answer::Cancelled) => {
                let known = self.snapshots.get(&command).into_iter().flatten();
                let seq = disk.commands.values().find(|c| c.head.id == command).map(|c| c.head.seq);
                let Some(seq) = seq else { return Err(format!("{command} is not on disk")) };
                // Of a command to several, the cancellation is on disk, or no delivery that could be cancelled remains.
                let stopped = |state: DeliveryState| {
                    state.is_terminal() || state == DeliveryState::Cancelling
                };
                let cancelled = if disk.commands[&seq].head.is_to_many() {
                    let counts = disk.counts.get(&seq).into_iter().flatten();
                    disk.cancels.contains_key(&seq) || counts.into_iter().all(|(s, _)| stopped(*s))
                } else {
                    known.into_iter().any(|d| stopped(d.state))
                };
                match cancelled {
                    true => Ok(()),
                    false => Err(format!("{command} is answered as cancelled, not so on disk")),
                }
            }
            (Requested::Put(device, text), Answer::Device { .. }) => {
                match self.put.contains(&(device, text)) {
                    true => Ok(()),
                    false => Err(format!("{request:?} is answered, but not on disk")),
                }
            }
            (Requested::Delete(device), Answer::Done) => match self.deleted.contains(&device) {
                true => Ok(()),
                false => Err(format!("{device} is answered as removed, not so on disk")),
            },
            (Requested::Listen(_), Answer::Listening) | (Requested::Confirm, Answer::Done) => {
                Ok(())
            }
            (Requested::Poll(device), Answer::Poll { commands, cancels }) => {
                for event in commands {
                    self.send_command(&device, event, Receiver::Poll(request), false, disk, now)?;
                }
                cancels.iter().try_for_each(|event| self.cancel_sent(event.id))
            }
            (requested, Answer::Problem(problem)) => match &problem.delivery {
                Some(delivery) => self.seen(delivery, "a refusal"),
                None if problem.code == Code::IllegalTransition
                    && !is_to_none(&requested, disk) =>
                {
                    Err(format!("{requested:?} is refused without the delivery"))
                }
                None => Ok(()),
            },
            (requested, answer) => Err(format!("{requested:?} is answered by {answer:?}")),
        }
    }

    /// A command to all is promised to every device that was there when it was requested and was not removed since, and
    /// to no unknown one.
    fn promised_to_all(
        &mut self,
        id: CommandId,
        known: &[DeviceId],
        at: Instant,
        disk: &Disk,
    ) -> Verdict {
        let Some(command) = disk.commands.values().find(|stored| stored.head.id == id) else {
            return Err(format!("{id} is promised, and not on disk"));
        };
        let seq = command.head.seq;
        let waiting = disk.targets.iter().filter(|((of, _), _)| *of == seq);
        let mut targets: BTreeSet<DeviceId> =
            waiting.flat_map(|(_, chunk)| chunk.devices.iter().cloned()).collect();
        targets.extend(disk.deliveries_of_command(seq).map(|row| row.device.clone()));
        // By its key, of a command whose own answer may have been lost.
        let again = self.promised.contains_key(&id) || command.head.created < at;
        let missing = known.iter().find(|id| !targets.contains(*id) && !self.deleted.contains(*id));
        if let Some(device) = missing.filter(|_| !again) {
            return Err(format!("{id} is to all, and not to {device}, which was there before"));
        }
        if targets.len() as u64 != command.head.total {
            return Err(format!("{id} has {} targets: {:?}", targets.len(), command.head));
        }
        let strange =
            |id: &&DeviceId| !disk.devices.contains_key(*id) && !self.deleted.contains(*id);
        if let Some(device) = targets.iter().find(strange) {
            return Err(format!("{id} is to {device}, which is not registered"));
        }
        self.promised.insert(id, targets.into_iter().collect());
        Ok(())
    }

    /// Requests with one key and digest are all answered for one command.
    fn keyed(&mut self, key: Option<(String, [u8; 32])>, command: CommandId) -> Verdict {
        let Some(key) = key else { return Ok(()) };
        let first = *self.keys.entry(key).or_insert(command);
        match first == command {
            true => Ok(()),
            false => Err(format!("one key, two commands: {first}, {command}")),
        }
    }

    /// A device is sent a command: the attempt must be greater than the last, unless it is the same
    /// sending to another listener, at the same moment, or a replay of what was delivered.
    fn send_command(
        &mut self,
        device: &DeviceId,
        event: &CommandEvent,
        receiver: Receiver,
        ack_none: bool,
        disk: &Disk,
        now: Instant,
    ) -> Verdict {
        let row = disk.deliveries.get(&(device.clone(), event.seq));
        let Some(row) = row.filter(|row| row.head.id == event.id) else {
            return Err(format!("{device} is sent a command that is not on disk: {event:?}"));
        };
        if disk.commands.get(&event.seq).is_none_or(|command| command.data != event.data) {
            return Err(format!("{device} is sent other data than the sender gave: {event:?}"));
        }
        if event.attempt > row.attempt || event.attempt == 0 {
            return Err(format!("{device} is sent an attempt that is not on disk: {event:?}"));
        }
        let sent = self.sent.entry((device.clone(), event.seq)).or_insert(LastSending {
            attempt: 0,
            at: now,
            receivers: Vec::new(),
        });
        let replay =
            ack_none && row.state == DeliveryState::Delivered && event.attempt == row.attempt;
        if event.attempt > sent.attempt {
            *sent = LastSending { attempt: event.attempt, at: now, receivers: vec![receiver] };
        } else if event.attempt == sent.attempt
            && sent.at == now
            && !sent.receivers.contains(&receiver)
        {
            sent.receivers.push(receiver);
        } else if !replay {
            let known = sent.attempt;
            return Err(format!(
                "a command of {device} was sent again as attempt {}, after {known}: {event:?}",
                event.attempt
            ));
        }
        Ok(())
    }

    fn cancel_sent(&self, command: CommandId) -> Verdict {
        let mut known = self.snapshots.get(&command).into_iter().flatten();
        match known.any(|d| matches!(d.state, DeliveryState::Cancelling | DeliveryState::Cancelled))
        {
            true => Ok(()),
            false => Err(format!("a cancel of {command}, which is not cancelled on disk")),
        }
    }

    /// A delivery was shown: it must have been on disk like that. `queued` need not have been, when one
    /// transaction queued it and sent it.
    fn seen(&self, delivery: &Delivery, by: &str) -> Verdict {
        let known = self.snapshots.get(&delivery.command).map(Vec::as_slice).unwrap_or_default();
        let passed = |on_disk: &Delivery| {
            delivery.state == DeliveryState::Queued && on_disk.attempt >= delivery.attempt
        };
        match known.iter().rev().any(|on_disk| on_disk == delivery || passed(on_disk)) {
            true => Ok(()),
            false => Err(format!("{by} shows what is not on disk: {delivery:?}")),
        }
    }

    // --- The end ---

    /// The world is at rest: every request was answered, every delivery has ended.
    pub(crate) fn rest(&self, disk: &Disk, wall: Timestamp) -> Verdict {
        if let Some((request, requested)) = self.open.first_key_value() {
            return Err(format!("{request:?} was never answered: {requested:?}"));
        }
        if let Some(device) = self.online.first() {
            return Err(format!("{device} is offline, and observers were not notified"));
        }
        if let Some(row) = disk.deliveries.values().find(|row| !row.state.is_terminal()) {
            return Err(format!("it never ended: {row:?}"));
        }
        if !disk.targets.is_empty() || !disk.cancels.is_empty() {
            let (targets, cancels) = (&disk.targets, &disk.cancels);
            return Err(format!("commands to many are unfinished: {targets:?}, {cancels:?}"));
        }
        if let Some((seq, rollout)) = disk.rollouts.iter().find(|(_, r)| !r.state.is_ended()) {
            return Err(format!("the rollout of {seq} never ended: {rollout:?}"));
        }
        if let Some(queued) = disk.queued.first_key_value() {
            return Err(format!("nothing is queued, yet it is counted: {queued:?}"));
        }
        self.tokens.rest(disk)?;
        self.schedules.rest(disk, wall)?;
        self.all_targets_have_their_delivery(disk)
    }

    /// Each target of an acknowledged command has one delivery, and the counters are right.
    fn all_targets_have_their_delivery(&self, disk: &Disk) -> Verdict {
        for command in disk.commands.values() {
            let head = &command.head;
            let rows: Vec<_> = disk.deliveries_of_command(head.seq).collect();
            if rows.len() as u64 != head.total {
                return Err(format!("{head:?} has {} deliveries", rows.len()));
            }
            if let Some(devices) = self.promised.get(&head.id)
                && !rows.iter().map(|row| &row.device).eq(devices)
            {
                return Err(format!("{head:?} has other targets than it was sent to"));
            }
            let mut counts = Counts::new();
            for row in &rows {
                *counts.entry(row.state).or_default() += 1;
            }
            let counted = disk.counts.get(&head.seq);
            if head.is_to_many() && counted != Some(&counts) {
                return Err(format!("{head:?} is counted as {counted:?}, and is {counts:?}"));
            }
        }
        let lost = self.promised.iter().filter(|(_, targets)| !targets.is_empty());
        let lost = lost.map(|(id, _)| id).find(|id| disk.first_of(**id).is_none());
        lost.map_or(Ok(()), |id| Err(format!("{id} was promised and has no delivery")))
    }
}

/// Whether this is the cancellation of a command that was for no device.
fn is_to_none(requested: &Requested, disk: &Disk) -> bool {
    let Requested::Cancel(id) = requested else { return false };
    disk.commands.values().any(|stored| stored.head.id == *id && stored.head.total == 0)
}
