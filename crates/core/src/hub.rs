//! The hub: what may happen to it, and what it wants done.
//!
//! Here is the interface: what senders ask, devices tell, streams do, operators do, the store says,
//! and time. How a device comes into memory and leaves it is in `hub/memory.rs`, how the same
//! request twice becomes one command in `hub/keys.rs`; the decisions themselves are in `device.rs`
//! and its neighbours.
//!
//! Bounds: every entry of `loading`, `lookups`, `waits` and `keys` belongs to an open request or
//! stream, so their number is bounded by the connections that the driver admits; a device has at
//! most `queue_max` deliveries queued and its window under way; `withheld` has an entry for each
//! transaction that the store has not committed yet, each of which belongs to one of those.

mod keys;
mod memory;

use std::collections::{BTreeSet, HashMap, VecDeque};

use bellwire_proto::stream::ByeReason;
use bellwire_proto::{Code, CommandId, DeviceId, Json, Labels, Problem, Report, Seq, Timestamp};

use crate::config::{Config, Recovered};
use crate::device::Device;
use crate::io::{Answer, Footprint, Listen, Output, Poll, Presence, RequestId, Send, SessionId};
use crate::op::Op;
use crate::record::{Committed, IdempotencyKey, Load, Loaded, TxnId};
use crate::session;
use crate::work::{Desk, SplitMix, Withheld};

pub(crate) use keys::Decided;
use keys::KeyInUse;

/// Devices that are looked up at once because something of theirs is due.
const DUE_DEVICES_MAX: usize = 256;
/// How long to leave the store alone when it still shows what is just being dealt with.
const DUE_AGAIN_MS: u64 = 200;

/// Every decision of a hub. See the crate's page for how it is driven.
#[derive(Debug)]
pub struct Hub {
    desk: Desk,
    devices: HashMap<DeviceId, Box<Device>>,
    /// When which device wants to be looked at.
    timers: BTreeSet<(Timestamp, DeviceId)>,
    /// When something is due of a device that is in the store alone.
    next_due: Option<Timestamp>,
    due_loading: bool,
    /// Keys that are being looked up, decided on, or written.
    keys: HashMap<IdempotencyKey, KeyInUse>,
    /// Keys whose first send was decided on, and those who wait for it not told yet.
    decided: VecDeque<Decided>,
    /// Cancellations that wait to learn whose command it is.
    cancels: HashMap<CommandId, Vec<(RequestId, bool)>>,
    /// What each transaction under way holds back, oldest first.
    withheld: VecDeque<Withheld>,
    committed: TxnId,
    failed: bool,
}

impl Hub {
    /// A hub over a store that has recovered. `seed` feeds the spread of reconnections.
    pub fn new(config: Config, recovered: Recovered, seed: u64) -> Self {
        Self {
            desk: Desk {
                config,
                outputs: VecDeque::new(),
                sessions: HashMap::new(),
                waiting: HashMap::new(),
                last_seq: recovered.last_seq,
                last_txn: TxnId::default(),
                random: SplitMix(seed),
                draining: false,
                observed: false,
                watched: HashMap::new(),
            },
            devices: HashMap::new(),
            timers: BTreeSet::new(),
            next_due: recovered.next_due,
            due_loading: false,
            keys: HashMap::new(),
            decided: VecDeque::new(),
            cancels: HashMap::new(),
            withheld: VecDeque::new(),
            committed: TxnId::default(),
            failed: false,
        }
    }

    // --- What senders ask ---

    /// Stores a command and sends it when its turn comes. `random` makes the command's id.
    ///
    /// Replies [`Answer::Delivery`] once it is on disk and, if asked to wait, has ended or the wait is
    /// over.
    pub fn handle_send(
        &mut self,
        request: RequestId,
        send: Send,
        random: [u8; 10],
        now: Timestamp,
    ) {
        if self.refused(request) {
            return;
        }
        if send.wait.get() > 0 {
            self.desk.waiting.insert(request, send.device.clone());
        }
        let Some((key, fingerprint)) = send.idempotency.clone() else {
            return self.send_now((request, Box::new(send), random), now);
        };
        match self.keys.get_mut(&key) {
            None => {
                let first = VecDeque::from([(request, Box::new(send), random)]);
                self.keys.insert(key.clone(), KeyInUse::Undecided(first));
                self.desk.outputs.push_back(Output::Load(Load::Idempotency(key)));
            }
            Some(KeyInUse::Undecided(waiting)) => {
                waiting.push_back((request, Box::new(send), random));
            }
            Some(KeyInUse::Made { fingerprint: made, command, device }) => {
                let made = (*made == fingerprint).then(|| (*command, device.clone()));
                self.send_again(request, send.wait, made, now);
            }
        }
    }

    /// Cancels a command. Replies [`Answer::Cancelled`].
    pub fn handle_cancel(
        &mut self,
        request: RequestId,
        command: CommandId,
        force: bool,
        _now: Timestamp,
    ) {
        if self.refused(request) {
            return;
        }
        let waiting = self.cancels.entry(command).or_default();
        waiting.push((request, force));
        if waiting.len() == 1 {
            self.desk.outputs.push_back(Output::Load(Load::Targets(command)));
        }
    }

    /// The client of a waiting request has gone: nothing needs to be replied to it.
    pub fn handle_abandoned(&mut self, request: RequestId, now: Timestamp) {
        let Some(id) = self.desk.waiting.remove(&request) else {
            return;
        };
        self.with_device(&id, now, |device, _| device.abandoned(request));
    }

    // --- What devices tell ---

    /// A report about a delivery. Replies [`Answer::Delivery`].
    pub fn handle_report(
        &mut self,
        request: RequestId,
        device: DeviceId,
        command: CommandId,
        report: Report,
        now: Timestamp,
    ) {
        let report = Box::new(report);
        self.request_at(device, Op::Report { request, command, report }, now);
    }

    /// A device opens a stream. Replies [`Answer::Listening`]; from then on frames are sent to
    /// `session`, some maybe before the driver could attach it.
    pub fn handle_listen(
        &mut self,
        request: RequestId,
        session: SessionId,
        device: DeviceId,
        listen: Listen,
        now: Timestamp,
    ) {
        if self.refused(request) {
            return;
        }
        self.desk.sessions.insert(session, device.clone());
        let listen = Box::new(listen);
        self.request_at(device, Op::Listen { request, session, listen }, now);
    }

    /// A device confirms a stream. Replies [`Answer::Done`].
    pub fn handle_confirm(
        &mut self,
        request: RequestId,
        device: DeviceId,
        session: SessionId,
        now: Timestamp,
    ) {
        if self.refused(request) {
            return;
        }
        let mut outcome = Err(Problem::new(
            Code::Gone,
            "this stream has ended; open a new one and confirm the session of its hello",
        ));
        self.with_device(&device, now, |device, work| outcome = device.confirm(session, work));
        let answer = match outcome {
            Ok(()) => Answer::Done,
            Err(problem) => Answer::Problem(Box::new(problem)),
        };
        self.desk.outputs.push_back(Output::Reply(request, answer));
    }

    /// A device polls. Replies [`Answer::Poll`].
    pub fn handle_poll(
        &mut self,
        request: RequestId,
        device: DeviceId,
        poll: Poll,
        now: Timestamp,
    ) {
        if self.refused(request) {
            return;
        }
        self.desk.waiting.insert(request, device.clone());
        self.request_at(device, Op::Poll { request, poll: Box::new(poll) }, now);
    }

    // --- What happens to streams ---

    /// A frame that was sent with the wish to hear of it was taken or written.
    pub fn handle_taken(&mut self, session: SessionId, seq: Seq, now: Timestamp) {
        self.with_session(session, now, |device, work| device.taken(session, seq, work));
    }

    /// No byte from or to the device for too long: it no longer counts as online.
    pub fn handle_stalled(&mut self, session: SessionId, now: Timestamp) {
        self.with_session(session, now, |device, _| device.set_stalled(session, true));
    }

    /// There is life again on a stream that had stalled.
    pub fn handle_resumed(&mut self, session: SessionId, now: Timestamp) {
        self.with_session(session, now, |device, work| {
            device.heard(work.now);
            device.set_stalled(session, false);
        });
    }

    /// A stream has ended, whoever ended it.
    pub fn handle_closed(&mut self, session: SessionId, now: Timestamp) {
        let Some(id) = self.desk.sessions.remove(&session) else {
            return;
        };
        self.with_device(&id, now, |device, work| device.closed(session, work));
    }

    // --- What operators do to devices ---

    /// Registers a device, or replaces its labels. Replies [`Answer::Device`].
    pub fn handle_put_device(
        &mut self,
        request: RequestId,
        device: DeviceId,
        labels: Labels,
        now: Timestamp,
    ) {
        self.request_at(device, Op::PutDevice { request, labels }, now);
    }

    /// Keeps what a device tells of itself. Replies [`Answer::Device`].
    pub fn handle_put_facts(
        &mut self,
        request: RequestId,
        device: DeviceId,
        facts: Json,
        now: Timestamp,
    ) {
        self.request_at(device, Op::PutFacts { request, facts }, now);
    }

    /// Removes a device: its streams end, its live deliveries are cancelled. Replies
    /// [`Answer::Done`].
    pub fn handle_delete_device(&mut self, request: RequestId, device: DeviceId, now: Timestamp) {
        self.request_at(device, Op::Delete { request }, now);
    }

    // --- What the store says ---

    /// A transaction is on disk: what it held back may go.
    pub fn handle_committed(&mut self, committed: Committed, now: Timestamp) {
        if self.failed {
            return;
        }
        self.committed = self.committed.max(committed.0);
        while self.withheld.front().is_some_and(|w| w.txn <= self.committed) {
            let Some(Withheld { device, outputs, key, .. }) = self.withheld.pop_front() else {
                break;
            };
            self.desk.outputs.extend(outputs);
            if let Some(key) = key {
                self.keys.remove(&key);
            }
            let committed = self.committed;
            if let Some(device) = self.devices.get_mut(&device) {
                device.forget_ended(committed);
            }
            self.forget_if_idle(&device, now);
        }
    }

    /// The answer to a [`Output::Load`].
    pub fn handle_loaded(&mut self, loaded: Loaded, now: Timestamp) {
        if self.failed {
            return;
        }
        match loaded {
            Loaded::Device { device, known, live } => self.device_loaded(&device, known, live, now),
            Loaded::Data(device, data) => {
                self.with_device(&device, now, |device, _| device.data_loaded(data, now));
            }
            Loaded::Delivery(device, command, found) => {
                let found = found.map(|record| *record);
                self.with_device(&device, now, |d, work| d.looked_up(command, found, work));
            }
            Loaded::Targets(command, devices) => self.targets_loaded(command, &devices, now),
            Loaded::Idempotency(key, found) => self.key_loaded(&key, found, now),
            Loaded::Due(devices, next) => {
                self.due_loading = false;
                let again = Timestamp::from_unix_ms(now.unix_ms().saturating_add(DUE_AGAIN_MS));
                self.next_due = earliest(self.next_due, next.map(|at| at.max(again)));
                for device in devices {
                    self.at_device(device, Op::Tick, now);
                }
            }
            Loaded::Delivered(device, page) => {
                self.with_device(&device, now, |device, work| device.replay(page, work));
            }
            Loaded::Failed(load) => self.load_failed(load, now),
        }
    }

    /// The store will commit nothing more: what waits for it, and whatever else would, is refused with
    /// `store_unavailable`.
    pub fn handle_store_failed(&mut self, _now: Timestamp) {
        self.failed = true;
        let waiting: Vec<RequestId> =
            self.desk.waiting.drain().map(|(request, _)| request).collect();
        let withheld = std::mem::take(&mut self.withheld);
        let mut replies = Vec::new();
        for output in withheld.into_iter().flat_map(|w| w.outputs) {
            match output {
                Output::Reply(request, _) => replies.push(request),
                // These streams are forgotten already; nobody else would end them.
                Output::Close { .. } => self.desk.outputs.push_back(output),
                _ => {}
            }
        }
        let loading = self.devices.values().filter_map(|d| d.loading.as_ref());
        let lookups = self.devices.values().flat_map(|d| d.lookups.iter().map(|(_, ops)| ops));
        let ops = loading.chain(lookups).flatten().filter_map(Op::request);
        let keys = self.keys.values().flat_map(|key| match key {
            KeyInUse::Undecided(sends) => sends.iter().map(|(request, ..)| *request).collect(),
            KeyInUse::Made { .. } => Vec::new(),
        });
        let cancels = self.cancels.values().flatten().map(|(request, _)| *request);
        let refused: BTreeSet<RequestId> =
            waiting.into_iter().chain(replies).chain(ops).chain(keys).chain(cancels).collect();
        for request in refused {
            self.desk.refuse(request, store_unavailable());
        }
        self.keys.clear();
        self.cancels.clear();
        self.timers.clear();
        self.devices.clear();
        let sessions: BTreeSet<SessionId> = self.desk.sessions.drain().map(|(id, _)| id).collect();
        for session in sessions {
            let bye = session::bye(ByeReason::Rotate, self.desk.random.next_unit());
            self.desk.outputs.push_back(Output::Close { session, bye });
        }
    }

    // --- Time and the end ---

    /// The time that [`Hub::poll_timeout`] asked for has come.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        if self.failed {
            return;
        }
        while let Some((at, _)) = self.timers.first()
            && *at <= now
        {
            let Some((_, id)) = self.timers.pop_first() else {
                break;
            };
            if let Some(device) = self.devices.get_mut(&id) {
                device.wake_at = None;
            }
            self.with_device(&id, now, |_, _| {});
        }
        if !self.due_loading && self.next_due.is_some_and(|at| at <= now) {
            self.due_loading = true;
            self.next_due = None;
            self.desk.outputs.push_back(Output::Load(Load::Due(now, DUE_DEVICES_MAX)));
        }
    }

    /// The hub is about to stop: waits and polls are answered, streams get their `bye`, and new
    /// sends, streams and polls are refused. Reports are still taken.
    pub fn handle_drain(&mut self, now: Timestamp) {
        self.desk.draining = true;
        // In the order of names, so that a seed tells the whole story.
        let devices: BTreeSet<DeviceId> = self.devices.keys().cloned().collect();
        for id in devices {
            self.with_device(&id, now, |device, work| {
                device.end_streams(ByeReason::Draining, work);
                device.answer_waits(work);
            });
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.desk.outputs.pop_front()
    }

    /// When [`Hub::handle_timeout`] wants to be called, if nothing happens before.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let due = self.next_due.filter(|_| !self.due_loading && !self.failed);
        earliest(self.timers.first().map(|(at, _)| *at), due)
    }

    // --- What can be seen ---

    /// Whether a device is there, and how.
    pub fn presence(&self, device: &DeviceId, now: Timestamp) -> Presence {
        self.devices.get(device).map(|device| device.presence(now)).unwrap_or_default()
    }

    /// The devices that are online, in no order.
    pub fn online(&self) -> impl Iterator<Item = &DeviceId> {
        self.devices.values().filter(|d| d.online_since.is_some()).map(|d| &d.id)
    }

    /// How much is held in memory.
    pub fn footprint(&self) -> Footprint {
        Footprint {
            devices: self.devices.len(),
            sessions: self.desk.sessions.len(),
            waiting: self.desk.waiting.len(),
            timers: self.timers.len(),
            transactions: self.withheld.len(),
            lookups: self.keys.len() + self.cancels.len(),
        }
    }

    /// From now on every change is notified (`true`), or only those of watched commands.
    pub fn observe_all(&mut self, all: bool) {
        self.desk.observed = all;
    }

    /// From now on the changes of this command are notified; counted, one [`Hub::unwatch`] for each.
    pub fn watch(&mut self, command: CommandId) {
        *self.desk.watched.entry(command).or_default() += 1;
    }

    /// Replies [`Answer::Done`] once all that was decided until now is on disk. What is read of a
    /// watched command then lacks nothing that was decided while nobody watched it.
    pub fn handle_settle(&mut self, request: RequestId) {
        let reply = Output::Reply(request, Answer::Done);
        match self.withheld.back_mut() {
            Some(last) => last.outputs.push(reply),
            None => self.desk.outputs.push_back(reply),
        }
    }

    /// The end of one [`Hub::watch`].
    pub fn unwatch(&mut self, command: CommandId) {
        if let Some(count) = self.desk.watched.get_mut(&command) {
            *count -= 1;
            if *count == 0 {
                self.desk.watched.remove(&command);
            }
        }
    }

    // --- Cancellations ---

    fn targets_loaded(&mut self, command: CommandId, devices: &[DeviceId], now: Timestamp) {
        let waiting = self.cancels.remove(&command).unwrap_or_default();
        for (request, force) in waiting {
            match devices.first() {
                Some(device) => {
                    self.at_device(device.clone(), Op::Cancel { request, command, force }, now);
                }
                None => {
                    let detail = format!("no command has the id {command}");
                    self.desk.refuse(request, Problem::new(Code::UnknownCommand, detail));
                }
            }
        }
    }

    /// Whether the request was refused because nothing can be promised any more.
    fn refused(&mut self, request: RequestId) -> bool {
        if self.failed {
            self.desk.refuse(request, store_unavailable());
        }
        self.failed
    }
}

fn earliest(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn store_unavailable() -> Problem {
    Problem::new(
        Code::StoreUnavailable,
        "the hub cannot write its store; nothing was stored, and an operator must restart it",
    )
}
