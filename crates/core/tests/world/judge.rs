//! The judge: sees everything that goes into the core, comes out of it and goes to disk, and holds it
//! against the promises of the contract. It knows nothing of how the core works.
//!
//! Decisions (whose turn, how many at once, what may follow what) are judged by the transactions,
//! which are atomic and in order; what is told to anyone is judged when it leaves the core, against
//! what was on disk at some time before.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bellwire_core::record::{Change, DeliveryRecord, Txn, TxnId};
use bellwire_core::{Answer, Frame, HubEvent, Output, RequestId, SessionId};
use bellwire_proto::limits::{CANCEL_SLOT, COUNTED_ATTEMPTS_MAX, SENDS_MAX};
use bellwire_proto::stream::CommandEvent;
use bellwire_proto::{
    Code, CommandId, Delivery, DeliveryState, DeviceChange, DeviceId, Seq, Timestamp,
};

use super::store::Disk;

/// How long after it is due a delivery may end: the hub may be down just then.
const SLACK: Duration = Duration::from_secs(30);

/// What a request was about, as far as its answer is judged by it.
#[derive(Debug, Clone)]
pub(crate) enum Asked {
    /// A command, maybe with a key and the digest of the request.
    Send(Option<(String, [u8; 32])>),
    Cancel(CommandId),
    Report(CommandId),
    Listen(SessionId),
    Poll(DeviceId),
    Confirm,
    /// Labels or facts, told apart by their text.
    Put(DeviceId, String),
    Delete(DeviceId),
}

/// A stream, as far as it is judged.
struct Stream {
    device: DeviceId,
    ack_none: bool,
    ended: bool,
}

/// Who is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ear {
    Stream(SessionId),
    Poll(RequestId),
}

/// The latest sending that a device was told of.
struct Told {
    attempt: u32,
    at: Timestamp,
    ears: Vec<Ear>,
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
    told: BTreeMap<(DeviceId, Seq), Told>,
    /// Every picture of a delivery that was on disk.
    pictures: BTreeMap<CommandId, Vec<Delivery>>,
    /// The version that was last notified.
    notified: BTreeMap<CommandId, u64>,
    keys: BTreeMap<(String, [u8; 32]), CommandId>,
    put: BTreeSet<(DeviceId, String)>,
    /// Devices that were notified as online.
    online: BTreeSet<DeviceId>,
    deleted: BTreeSet<DeviceId>,
    decided_at: BTreeMap<TxnId, Timestamp>,
}

impl Judge {
    pub(crate) fn new(max_in_flight: usize) -> Self {
        Self { max_in_flight, ..Self::default() }
    }

    // --- What goes in ---

    pub(crate) fn asked(&mut self, request: RequestId, asked: Asked) {
        self.open.insert(request, asked);
    }

    pub(crate) fn gone(&mut self, request: RequestId) {
        if self.open.remove(&request).is_some() {
            self.abandoned.insert(request);
        }
    }

    pub(crate) fn opened(&mut self, session: SessionId, device: DeviceId, ack_none: bool) {
        self.streams.insert(session, Stream { device, ack_none, ended: false });
    }

    /// Word that a stream has ended reaches the hub: who asked for it has gone.
    pub(crate) fn closed(&mut self, session: SessionId) {
        let asked = |asked: &Asked| matches!(asked, Asked::Listen(s) if *s == session);
        let request = self.open.iter().find(|(_, a)| asked(a)).map(|(request, _)| *request);
        request.into_iter().for_each(|request| self.gone(request));
    }

    /// The process has ended: nobody is answered, every stream is cut.
    pub(crate) fn restarted(&mut self) {
        self.open.clear();
        self.abandoned.clear();
        self.streams.clear();
        self.decided_at.clear();
        self.online.clear();
    }

    pub(crate) fn decided(&mut self, txn: TxnId, now: Timestamp) {
        self.decided_at.insert(txn, now);
    }

    // --- What goes to disk ---

    /// A transaction is about to be on disk.
    pub(crate) fn commit(&mut self, txn: &Txn, disk: &Disk) -> Verdict {
        for change in txn.changes() {
            match change {
                Change::PutDelivery(row) => {
                    row_may_follow(disk.delivery(row.head.id), row)?;
                    self.pictures.entry(row.head.id).or_default().push(row.to_delivery());
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
                Change::PutCommand(_) | Change::PutSeen(..) => {}
            }
        }
        Ok(())
    }

    /// A transaction is on disk: what it decided is held against the order and the window.
    pub(crate) fn committed(&mut self, id: TxnId, sent: &[Sending], disk: &Disk) -> Verdict {
        let Some(at) = self.decided_at.remove(&id) else {
            return Err(format!("{id:?} was committed twice"));
        };
        for Sending { device, seq, not_before } in sent {
            if not_before.is_some_and(|not_before| not_before > at) {
                return Err(format!("time: {device} is sent {seq} at {at}, before {not_before:?}"));
            }
            let mut in_flight = 0;
            for row in disk.deliveries_of(device) {
                let waits = row.head.not_before.is_some_and(|not_before| not_before > at);
                if row.state == DeliveryState::Queued && row.head.seq < *seq && !waits {
                    let older = row.head.seq;
                    return Err(format!("order: {device} is sent {seq} while {older} waits"));
                }
                let slot = row.cancelling_since.is_none_or(|since| at < since.after(CANCEL_SLOT));
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

    pub(crate) fn output(&mut self, output: &Output, disk: &Disk, now: Timestamp) -> Verdict {
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
                    Frame::Command(event) => {
                        self.tell(&device, event, Ear::Stream(*session), ack_none, disk, now)
                    }
                    Frame::Cancel(event) => self.cancel_told(event.id),
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
                let last = self.notified.entry(delivery.command).or_default();
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

    fn reply(
        &mut self,
        request: RequestId,
        answer: &Answer,
        disk: &Disk,
        now: Timestamp,
    ) -> Verdict {
        if self.abandoned.remove(&request) {
            return Ok(());
        }
        let Some(asked) = self.open.remove(&request) else {
            return Err(format!("{request:?} is answered twice: {answer:?}"));
        };
        match (asked, answer) {
            (Asked::Send(key), Answer::Delivery(delivery)) => {
                self.seen(delivery, "a sender's answer")?;
                if let Some(key) = key {
                    let first = *self.keys.entry(key).or_insert(delivery.command);
                    if first != delivery.command {
                        return Err(format!("one key, two commands: {first}, {delivery:?}"));
                    }
                }
                Ok(())
            }
            (Asked::Report(command), Answer::Delivery(delivery)) if delivery.command == command => {
                self.seen(delivery, "a device's answer")
            }
            (Asked::Cancel(command), Answer::Cancelled { done }) => {
                let known = self.pictures.get(&command).into_iter().flatten();
                let fits = |state: DeliveryState| match done {
                    true => state.is_terminal(),
                    false => state == DeliveryState::Cancelling,
                };
                match known.into_iter().any(|d| fits(d.state)) {
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
                    self.tell(&device, event, Ear::Poll(request), false, disk, now)?;
                }
                cancels.iter().try_for_each(|event| self.cancel_told(event.id))
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

    /// A device is told of a command: the number of the sending must have risen, unless it is a copy
    /// of the same moment, or a replay of what was delivered.
    fn tell(
        &mut self,
        device: &DeviceId,
        event: &CommandEvent,
        ear: Ear,
        ack_none: bool,
        disk: &Disk,
        now: Timestamp,
    ) -> Verdict {
        let row = disk.deliveries.get(&(device.clone(), event.seq));
        let Some(row) = row.filter(|row| row.head.id == event.id) else {
            return Err(format!("{device} is told of what is not on disk: {event:?}"));
        };
        if disk.commands.get(&event.seq).is_none_or(|command| command.data != event.data) {
            return Err(format!("{device} is told other data than was sent: {event:?}"));
        }
        if event.attempt > row.attempt || event.attempt == 0 {
            return Err(format!("{device} is told of a sending that is not on disk: {event:?}"));
        }
        let told = self.told.entry((device.clone(), event.seq)).or_insert(Told {
            attempt: 0,
            at: now,
            ears: Vec::new(),
        });
        let replay =
            ack_none && row.state == DeliveryState::Delivered && event.attempt == row.attempt;
        if event.attempt > told.attempt {
            *told = Told { attempt: event.attempt, at: now, ears: vec![ear] };
        } else if event.attempt == told.attempt && told.at == now && !told.ears.contains(&ear) {
            told.ears.push(ear);
        } else if !replay {
            let known = told.attempt;
            return Err(format!("{device} was told of attempt {known}, and now: {event:?}"));
        }
        Ok(())
    }

    fn cancel_told(&self, command: CommandId) -> Verdict {
        let mut known = self.pictures.get(&command).into_iter().flatten();
        match known.any(|d| matches!(d.state, DeliveryState::Cancelling | DeliveryState::Cancelled))
        {
            true => Ok(()),
            false => Err(format!("a cancel of {command}, which is not cancelled on disk")),
        }
    }

    /// Somebody sees a delivery: it was so on disk. `queued` may have been passed through on the way
    /// to `sent` within one transaction.
    fn seen(&self, delivery: &Delivery, by: &str) -> Verdict {
        let known = self.pictures.get(&delivery.command).map(Vec::as_slice).unwrap_or_default();
        let passed = |on_disk: &Delivery| {
            delivery.state == DeliveryState::Queued && on_disk.attempt >= delivery.attempt
        };
        match known.iter().rev().any(|on_disk| on_disk == delivery || passed(on_disk)) {
            true => Ok(()),
            false => Err(format!("{by} tells what is not on disk: {delivery:?}")),
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
        match disk.deliveries.values().find(|row| !row.state.is_terminal()) {
            Some(row) => Err(format!("it never ended: {row:?}")),
            None => Ok(()),
        }
    }
}

/// A delivery that a transaction says was sent.
pub(crate) struct Sending {
    device: DeviceId,
    seq: Seq,
    /// Its sender, or a failure before, asked for patience until then.
    not_before: Option<Timestamp>,
}

/// The deliveries that a transaction, which is not on disk yet, says were sent.
pub(crate) fn sendings(txn: &Txn, disk: &Disk) -> Vec<Sending> {
    let rows = txn.changes().iter().filter_map(|change| match change {
        Change::PutDelivery(row) => Some(&**row),
        _ => None,
    });
    let sending = |row: &DeliveryRecord| {
        let old = disk.delivery(row.head.id);
        // A failure that is part of this transaction may have asked for less.
        let patience = old.filter(|old| old.counted == row.counted).and_then(|old| old.retry_at);
        let (device, seq) = (row.device.clone(), row.head.seq);
        let sending = Sending { device, seq, not_before: patience.max(row.head.not_before) };
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
    verdict(new.head == old.head && new.device == old.device, "another delivery")?;
    verdict(new.version > old.version, "the version did not rise")?;
    verdict(new.updated_at >= old.updated_at, "the time went back")?;
    verdict(new.rev >= old.rev, "rev fell")?;
    verdict(new.attempt >= old.attempt && new.sends >= old.sends, "attempts fell")?;
    verdict(new.counted >= old.counted, "counted attempts fell")?;
    if let Some(due_at) = old.due_at()
        && new.state.is_terminal()
    {
        let by = due_at.max(old.updated_at).after(SLACK);
        verdict(new.updated_at <= by, "it ended long after it was due")?;
    }
    let told = new.late && matches!(new.state, DeliveryState::Succeeded | DeliveryState::Failed);
    verdict(!old.state.is_terminal() || told, "what had ended changed")
}
