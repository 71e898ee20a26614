//! The judge: sees everything that goes into the core, comes out of it and goes to disk, and holds it
//! against the promises of the contract. It knows nothing of how the core works.
//!
//! Decisions (whose turn, how many at once, what may follow what) are judged by the transactions,
//! which are atomic and in order; what is sent to anyone is judged when it leaves the core, against
//! what was on disk at some time before.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bellwire_core::record::{Change, DeliveryRecord, Txn, TxnId};
use bellwire_core::{Answer, Frame, HubEvent, Instant, Now, Output, RequestId, SessionId, Target};
use bellwire_proto::limits::{CANCEL_SLOT, COUNTED_ATTEMPTS_MAX, SENDS_MAX};
use bellwire_proto::stream::CommandEvent;
use bellwire_proto::{
    Code, CommandId, Counts, Delivery, DeliveryState, DeviceChange, DeviceId, Seq, Timestamp,
};

use super::store::Disk;

/// How long after it is due a delivery may end: the hub may be down just then.
const SLACK: Duration = Duration::from_secs(30);

/// What a request was about, as far as its answer is judged by it.
#[derive(Debug, Clone)]
pub(crate) enum Asked {
    /// A command, maybe with a key and the digest of the request, and its target.
    Send(Option<(String, [u8; 32])>, Target),
    Cancel(CommandId),
    Report(CommandId),
    Listen(SessionId),
    Poll(DeviceId),
    Confirm,
    /// Labels or facts, sent apart by their text.
    Put(DeviceId, String),
    Delete(DeviceId),
}

/// A stream, as far as it is judged.
struct Stream {
    device: DeviceId,
    ack_none: bool,
    ended: bool,
}

/// Who is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Receiver {
    Stream(SessionId),
    Poll(RequestId),
}

/// The latest sending that a device was sent of.
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
    open: BTreeMap<RequestId, Asked>,
    /// Requests whose client has gone: one reply may still come, and is nobody's business.
    abandoned: BTreeSet<RequestId>,
    streams: BTreeMap<SessionId, Stream>,
    sent: BTreeMap<(DeviceId, Seq), LastSending>,
    /// Every picture of a delivery that was on disk.
    snapshots: BTreeMap<CommandId, Vec<Delivery>>,
    /// The version that was last notified.
    notified: BTreeMap<(CommandId, DeviceId), u64>,
    keys: BTreeMap<(String, [u8; 32]), CommandId>,
    put: BTreeSet<(DeviceId, String)>,
    /// Devices that were notified as online.
    online: BTreeSet<DeviceId>,
    deleted: BTreeSet<DeviceId>,
    decided_at: BTreeMap<TxnId, Now>,
    /// What senders were promised: every target has its delivery in the end.
    promised: BTreeMap<CommandId, Vec<DeviceId>>,
}

impl Judge {
    pub(crate) fn new(max_in_flight: usize) -> Self {
        Self { max_in_flight, ..Self::default() }
    }

    // --- What goes in ---

    pub(crate) fn asked(&mut self, request: RequestId, asked: Asked) {
        self.open.insert(request, asked);
    }

    pub(crate) fn disconnected(&mut self, request: RequestId) {
        if self.open.remove(&request).is_some() {
            self.abandoned.insert(request);
        }
    }

    pub(crate) fn opened(&mut self, session: SessionId, device: DeviceId, ack_none: bool) {
        self.streams.insert(session, Stream { device, ack_none, ended: false });
    }

    /// The hub is notified that a stream has ended: its requester has gone.
    pub(crate) fn closed(&mut self, session: SessionId) {
        let asked = |asked: &Asked| matches!(asked, Asked::Listen(s) if *s == session);
        let request = self.open.iter().find(|(_, a)| asked(a)).map(|(request, _)| *request);
        request.into_iter().for_each(|request| self.disconnected(request));
    }

    /// The process has ended: nobody is answered, every stream is cut.
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

    /// A transaction is about to be on disk.
    pub(crate) fn commit(&mut self, txn: &Txn, disk: &Disk) -> Verdict {
        for change in txn.changes() {
            match change {
                Change::PutDelivery(row) => {
                    row_may_follow(disk.delivery(&row.device, row.head.seq), row)?;
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
                Change::PutCommand(_)
                | Change::PutTargets(..)
                | Change::DeleteTargets(..)
                | Change::PutCancel(..)
                | Change::DeleteCancel(_)
                | Change::PutQueued(..)
                | Change::PutSeen(..) => {}
            }
        }
        Ok(())
    }

    /// A transaction is on disk: what it decided is held against the order and the window.
    pub(crate) fn committed(&mut self, id: TxnId, sent: &[Sending], disk: &Disk) -> Verdict {
        let Some(at) = self.decided_at.remove(&id) else {
            return Err(format!("{id:?} was committed twice"));
        };
        for Sending { device, seq, not_before, retry_at, expires } in sent {
            if *expires <= at.instant {
                return Err(format!("time: {device} is sent {seq} at {at:?}, after {expires:?}"));
            }
            if not_before.is_some_and(|not_before| not_before > at.wall)
                || retry_at.is_some_and(|retry_at| retry_at > at.instant)
            {
                let early = format!("before {not_before:?} and {retry_at:?}");
                return Err(format!("time: {device} is sent {seq} at {at:?}, {early}"));
            }
            let chunks = disk.targets.iter().filter(|((older, _), _)| older < seq);
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
                let over = |since: Instant| at.instant < since.after(CANCEL_SLOT);
                let slot = row.cancelling_since.is_none_or(over);
                let live = row.state != DeliveryState::Queued && !row.state.is_terminal();
                in_flight += usize::from(live && slot);
            }
            if in_flight > self.max_in_flight {
                return Err(format!("window: {device} has {in_flight} under way with {seq}"));
            }
        }
        Ok(())
    }

    // --- What comes out ---

    pub(crate) fn output(&mut self, output: &Output, disk: &Disk, now: Instant) -> Verdict {
        match output {
            Output::Persist(_) | Output::Load(_) => Ok(()),
            Output::Send { session, frame, .. } => {
                let Some(stream) = self.streams.get(session) else {
                    return Err(format!("a frame to {session:?}, which nobody opened"));
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
                None => Err(format!("a bye to {session:?}, which nobody opened")),
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
                    DeviceChange::Created => true,
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
        let Some(asked) = self.open.remove(&request) else {
            return Err(format!("{request:?} is answered twice: {answer:?}"));
        };
        match (asked, answer) {
            (Asked::Send(key, Target::Device(_)), Answer::Delivery(delivery)) => {
                self.seen(delivery, "a sender's answer")?;
                self.keyed(key, delivery.command)
            }
            (Asked::Send(key, Target::Devices(devices)), Answer::Command(command)) => {
                let stored = disk.commands.values().find(|stored| stored.head.id == *command);
                match stored {
                    Some(stored) if stored.head.total == devices.len() as u64 => {}
                    _ => return Err(format!("{command} is promised, but on disk as {stored:?}")),
                }
                self.promised.insert(*command, devices);
                self.keyed(key, *command)
            }
            (Asked::Report(command), Answer::Delivery(delivery)) if delivery.command == command => {
                self.seen(delivery, "a device's answer")
            }
            (Asked::Cancel(command), Answer::Cancelled) => {
                let known = self.snapshots.get(&command).into_iter().flatten();
                let seq = disk.commands.values().find(|c| c.head.id == command).map(|c| c.head.seq);
                let Some(seq) = seq else { return Err(format!("{command} is not on disk")) };
                // Of several, it is on disk that all will be, or none is under way any more.
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
            (Asked::Put(device, text), Answer::Device { .. }) => {
                match self.put.contains(&(device, text)) {
                    true => Ok(()),
                    false => Err(format!("{request:?} is answered, but not on disk")),
                }
            }
            (Asked::Delete(device), Answer::Done) => match self.deleted.contains(&device) {
                true => Ok(()),
                false => Err(format!("{device} is answered as removed, not so on disk")),
            },
            (Asked::Listen(_), Answer::Listening) | (Asked::Confirm, Answer::Done) => Ok(()),
            (Asked::Poll(device), Answer::Poll { commands, cancels }) => {
                for event in commands {
                    self.send_command(&device, event, Receiver::Poll(request), false, disk, now)?;
                }
                cancels.iter().try_for_each(|event| self.cancel_sent(event.id))
            }
            (asked, Answer::Problem(problem)) => match &problem.delivery {
                Some(delivery) => self.seen(delivery, "a refusal"),
                None if problem.code == Code::IllegalTransition => {
                    Err(format!("{asked:?} is refused without the delivery"))
                }
                None => Ok(()),
            },
            (asked, answer) => Err(format!("{asked:?} is answered by {answer:?}")),
        }
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

    /// A device is sent a command: the number of the sending must have risen, unless it is a copy
    /// of the same moment, or a replay of what was delivered.
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
            return Err(format!("{device} is sent of what is not on disk: {event:?}"));
        };
        if disk.commands.get(&event.seq).is_none_or(|command| command.data != event.data) {
            return Err(format!("{device} is sent other data than was sent: {event:?}"));
        }
        if event.attempt > row.attempt || event.attempt == 0 {
            return Err(format!("{device} is sent of a sending that is not on disk: {event:?}"));
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
            return Err(format!("{device} was sent of attempt {known}, and now: {event:?}"));
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

    /// A delivery became visible: it was so on disk. `queued` may have been passed through on the way
    /// to `sent` within one transaction.
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

    /// The world is at rest: everybody was answered, everything has ended.
    pub(crate) fn rest(&self, disk: &Disk) -> Verdict {
        if let Some((request, asked)) = self.open.first_key_value() {
            return Err(format!("{request:?} was never answered: {asked:?}"));
        }
        if let Some(device) = self.online.first() {
            return Err(format!("{device} has gone, and nobody was notified"));
        }
        if let Some(row) = disk.deliveries.values().find(|row| !row.state.is_terminal()) {
            return Err(format!("it never ended: {row:?}"));
        }
        if !disk.targets.is_empty() || !disk.cancels.is_empty() {
            let (targets, cancels) = (&disk.targets, &disk.cancels);
            return Err(format!("commands to many are unfinished: {targets:?}, {cancels:?}"));
        }
        if let Some(queued) = disk.queued.first_key_value() {
            return Err(format!("nothing is queued, yet it is counted: {queued:?}"));
        }
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
            if let Some(counted) = disk.counts.get(&head.seq).filter(|c| **c != counts) {
                return Err(format!("{head:?} is counted as {counted:?}, and is {counts:?}"));
            }
        }
        let lost = self.promised.keys().find(|id| disk.first_of(**id).is_none());
        lost.map_or(Ok(()), |id| Err(format!("{id} was promised and has no delivery")))
    }
}

/// A delivery that a transaction says was sent.
pub(crate) struct Sending {
    device: DeviceId,
    seq: Seq,
    /// Its sender named this time.
    not_before: Option<Timestamp>,
    /// A failure before asked for patience until then.
    retry_at: Option<Instant>,
    /// After this it must not be sent.
    expires: Instant,
}

/// The deliveries that a transaction, which is not on disk yet, says were sent.
pub(crate) fn sendings(txn: &Txn, disk: &Disk) -> Vec<Sending> {
    let rows = txn.changes().iter().filter_map(|change| match change {
        Change::PutDelivery(row) => Some(&**row),
        _ => None,
    });
    let sending = |row: &DeliveryRecord| {
        let old = disk.delivery(&row.device, row.head.seq);
        // A failure that is part of this transaction may have asked for less.
        let retry_at = old.filter(|old| old.counted == row.counted).and_then(|old| old.retry_at);
        // The wall clock may have been set back since it had become ready.
        let ready = old.is_some_and(|old| old.scheduled_at.is_none());
        let not_before = row.head.not_before.filter(|_| !ready);
        let (device, seq, expires) = (row.device.clone(), row.head.seq, row.expires);
        let sending = Sending { device, seq, not_before, retry_at, expires };
        (row.sends > old.map_or(0, |old| old.sends)).then_some(sending)
    };
    rows.filter_map(sending).collect()
}

/// Whether a row may take the place of the one before.
fn row_may_follow(old: Option<&DeliveryRecord>, new: &DeliveryRecord) -> Verdict {
    let verdict = |fine: bool, what: &str| match fine {
        true => Ok(()),
        false => Err(format!("{what}: {old:?} became {new:?}")),
    };
    verdict(new.counted <= COUNTED_ATTEMPTS_MAX, "more attempts than may fail")?;
    verdict(new.sends <= SENDS_MAX, "more sendings than there may be")?;
    let Some(old) = old else {
        return Ok(());
    };
    let moved = new.expires != old.expires && old.scheduled_at.is_none();
    verdict(!moved, "its time to live changed")?;
    verdict(new.head == old.head && new.device == old.device, "another delivery")?;
    verdict(new.version > old.version, "the version did not rise")?;
    verdict(new.updated >= old.updated, "the time went back")?;
    verdict(new.rev >= old.rev, "rev fell")?;
    verdict(new.attempt >= old.attempt && new.sends >= old.sends, "attempts fell")?;
    verdict(new.counted >= old.counted, "counted attempts fell")?;
    if let Some(due_at) = old.due_at()
        && new.state.is_terminal()
    {
        let by = due_at.max(old.updated).after(SLACK);
        verdict(new.updated <= by, "it ended long after it was due")?;
        let early = new.state == DeliveryState::Expired && new.updated < new.expires;
        verdict(!early, "it expired before its time")?;
    }
    let sent = new.late && matches!(new.state, DeliveryState::Succeeded | DeliveryState::Failed);
    verdict(!old.state.is_terminal() || sent, "what had ended changed")
}
