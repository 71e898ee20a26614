//! A device in memory: who listens for it, and its deliveries that have not ended.
//!
//! A device is in memory while it listens or is being worked on, and in the store alone
//! otherwise. Its rules stand beside this file: `queue.rs` (whose turn it is), `session.rs` (who
//! listens), `sender.rs` (what senders ask). All of them change rows only through
//! [`Work`], which `hub.rs` turns into one transaction when the call is over.

use std::time::Duration;

use bellwire_proto::limits::{CANCEL_SLOT, POLL_PRESENCE, SENDS_MAX};
use bellwire_proto::stream::CancelEvent;
use bellwire_proto::{
    Code, CommandId, Delivery, DeliveryState, DeviceChange, DeviceId, Json, Labels, Problem, Seq,
    Timestamp, Transport,
};

use crate::delivery::{Carriers, Live};
use crate::io::{Answer, HubEvent, Output, Peer, Presence, RequestId, SessionId};
use crate::op::Op;
use crate::record::{Change, DeliveryRecord, DeviceRecord, Load, Seen, TxnId};
use crate::session::{Listener, WaitingPoll};
use crate::work::{LOAD_AGAIN, Work};

#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) id: DeviceId,
    /// Whether there is a row for it, on disk or on its way there.
    pub(crate) known: bool,
    /// What waits for it to be loaded; `None` once it is. One entry for each open request at most.
    pub(crate) loading: Option<Vec<Op>>,
    /// The stream that counts: plain, or confirmed.
    pub(crate) stream: Option<Box<Listener>>,
    /// The stream that has yet to be confirmed.
    pub(crate) unconfirmed: Option<Box<Listener>>,
    /// The poll that waits for something to tell.
    pub(crate) poll: Option<Box<WaitingPoll>>,
    /// Cancellations that the next poll is told: of commands that have ended by force.
    pub(crate) cancels_for_poll: Vec<CancelEvent>,
    /// When the latest poll began or was answered.
    pub(crate) polled_at: Option<Timestamp>,
    /// Since when it is online.
    pub(crate) online_since: Option<Timestamp>,
    /// The last contact.
    pub(crate) seen_at: Option<Timestamp>,
    /// From where it last listened.
    pub(crate) peer: Peer,
    /// Deliveries that have not ended, or whose end is not on disk yet, by number.
    pub(crate) live: Vec<Live>,
    /// What waits for an ended delivery to be loaded again.
    pub(crate) lookups: Vec<(CommandId, Vec<Op>)>,
    /// Whether the data of the next commands is being loaded.
    pub(crate) loading_data: bool,
    /// The page of a replay that is being loaded: for which stream, and after which command.
    pub(crate) loading_page: Option<(SessionId, Seq)>,
    /// Not to be asked for data before this: the store could not answer.
    pub(crate) data_again_at: Option<Timestamp>,
    /// The latest transaction with a row of this device.
    pub(crate) txn: TxnId,
    /// The time at which `hub.rs` will look at it again.
    pub(crate) wake_at: Option<Timestamp>,
}

impl Device {
    pub(crate) fn loading(id: DeviceId, first: Op) -> Self {
        Self {
            id,
            known: false,
            loading: Some(vec![first]),
            stream: None,
            unconfirmed: None,
            poll: None,
            cancels_for_poll: Vec::new(),
            polled_at: None,
            online_since: None,
            seen_at: None,
            peer: Peer::default(),
            live: Vec::new(),
            lookups: Vec::new(),
            loading_data: false,
            loading_page: None,
            data_again_at: None,
            txn: TxnId::default(),
            wake_at: None,
        }
    }

    /// Takes what the store knew of it, and gives what has waited for that.
    pub(crate) fn loaded(
        &mut self,
        known: bool,
        live: Vec<DeliveryRecord>,
        lease: Duration,
    ) -> Vec<Op> {
        self.known = known;
        self.live = live.into_iter().map(|record| Live::new(record, None)).collect();
        for live in &mut self.live {
            // A row that says `sent` was last changed by that sending.
            live.lease_until = live.record.updated_at.after(lease);
        }
        self.loading.take().unwrap_or_default()
    }

    pub(crate) fn apply(&mut self, op: Op, work: &mut Work<'_>) {
        match op {
            Op::Send { request, send, random } => self.send(request, *send, random, work),
            Op::Listen { request, session, listen } => self.listen(request, session, *listen, work),
            Op::Poll { request, poll } => self.poll(request, *poll, work),
            Op::PutDevice { request, labels } => self.put_labels(request, labels, work),
            Op::PutFacts { request, facts } => self.put_facts(request, facts, work),
            Op::Delete { request } => self.delete(request, work),
            Op::Tick => {}
            Op::Rejoin { command, .. } | Op::Cancel { command, .. } => {
                self.on_delivery(command, op, work);
            }
            Op::Report { command, .. } => {
                self.heard(work.now);
                self.on_delivery(command, op, work);
            }
        }
    }

    /// Something to do to one delivery, which may have ended long ago.
    fn on_delivery(&mut self, command: CommandId, op: Op, work: &mut Work<'_>) {
        // The report of a removed device finds nothing: its history is for senders alone.
        if let Op::Report { request, .. } = op
            && !self.known
        {
            let detail = format!("{} is not registered", self.id);
            return work.refuse(request, Problem::new(Code::UnknownCommand, detail));
        }
        if let Some(live) = self.live.iter_mut().find(|l| l.record.head.id == command) {
            return apply_to(live, op, work);
        }
        match self.lookups.iter_mut().find(|(id, _)| *id == command) {
            Some((_, waiting)) => waiting.push(op),
            None => {
                self.lookups.push((command, vec![op]));
                work.load(Load::Delivery(self.id.clone(), command));
            }
        }
    }

    /// The store has looked for a delivery that is not live.
    pub(crate) fn looked_up(
        &mut self,
        command: CommandId,
        found: Option<DeliveryRecord>,
        work: &mut Work<'_>,
    ) {
        let Some(at) = self.lookups.iter().position(|(id, _)| *id == command) else {
            return;
        };
        let (_, waiting) = self.lookups.swap_remove(at);
        match found {
            Some(record) => {
                let at = self.live.partition_point(|l| l.record.head.seq < record.head.seq);
                self.live.insert(at, Live::new(record, None));
            }
            None => {
                for request in waiting.iter().filter_map(Op::request) {
                    let detail = format!("{} has no command {command}", self.id);
                    work.answered(request);
                    work.refuse(request, Problem::new(Code::UnknownCommand, detail));
                }
                return;
            }
        }
        for op in waiting {
            self.on_delivery(command, op, work);
        }
    }

    /// Makes the device known, if it may be.
    ///
    /// # Errors
    /// `unknown_device` where devices are not created on sight.
    pub(crate) fn ensure_known(&mut self, work: &mut Work<'_>) -> Result<(), Problem> {
        if self.known {
            return Ok(());
        }
        if !work.config().create_on_sight {
            return Err(self.unknown());
        }
        self.create(Labels::new(), work);
        Ok(())
    }

    fn create(&mut self, labels: Labels, work: &mut Work<'_>) {
        self.known = true;
        let seen = self.seen_at.map(|at| self.seen(at));
        work.change(Change::PutDevice(Box::new(DeviceRecord {
            id: self.id.clone(),
            labels,
            facts: Json::from_checked("{}".to_owned()).unwrap_or_default(),
            created_at: work.now,
            seen,
        })));
        self.notify(DeviceChange::Created, work);
    }

    fn unknown(&self) -> Problem {
        Problem::new(Code::UnknownDevice, format!("no device is named {}", self.id))
    }

    fn put_labels(&mut self, request: RequestId, labels: Labels, work: &mut Work<'_>) {
        let created = !self.known;
        if created {
            self.create(labels, work);
        } else {
            work.change(Change::PutLabels(self.id.clone(), labels));
        }
        work.reply(request, Answer::Device { created });
    }

    fn put_facts(&mut self, request: RequestId, facts: Json, work: &mut Work<'_>) {
        if !self.known {
            return work.refuse(request, self.unknown());
        }
        work.change(Change::PutFacts(self.id.clone(), facts));
        work.reply(request, Answer::Device { created: false });
    }

    fn delete(&mut self, request: RequestId, work: &mut Work<'_>) {
        if !self.known {
            return work.refuse(request, self.unknown());
        }
        self.end_streams(bellwire_proto::stream::ByeReason::Revoked, work);
        for live in self.live.iter_mut().filter(|l| !l.state().is_terminal()) {
            live.go(DeliveryState::Cancelled, work.now);
        }
        self.known = false;
        self.flush_rows(work);
        work.change(Change::DeleteDevice(self.id.clone()));
        self.notify(DeviceChange::Removed, work);
        work.reply(request, Answer::Done);
    }

    // --- Presence ---

    /// Somebody who speaks for the device was heard.
    pub(crate) fn heard(&mut self, now: Timestamp) {
        self.seen_at = Some(now);
    }

    /// A stream that counted as presence is about to go: bytes passed on it until now, as far as is
    /// known (to the silence after which it stalls).
    pub(crate) fn heard_until_now(&mut self, now: Timestamp) {
        if self.streams() {
            self.heard(now);
        }
    }

    fn seen(&self, at: Timestamp) -> Seen {
        Seen { at, address: self.peer.address.clone(), agent: self.peer.agent.clone() }
    }

    /// Until when the latest poll counts as presence and as a listener.
    pub(crate) fn poll_counts_until(&self) -> Option<Timestamp> {
        self.polled_at.map(|at| at.after(POLL_PRESENCE))
    }

    pub(crate) fn polls(&self, now: Timestamp) -> bool {
        self.poll.is_some() || self.poll_counts_until().is_some_and(|until| now < until)
    }

    pub(crate) fn streams(&self) -> bool {
        self.stream.as_ref().is_some_and(|s| !s.stalled)
    }

    pub(crate) fn presence(&self, now: Timestamp) -> Presence {
        let transport = match (self.streams(), self.polls(now)) {
            (true, _) => Some(Transport::Stream),
            (false, true) => Some(Transport::Poll),
            (false, false) => None,
        };
        Presence {
            connected_at: transport.and(self.online_since),
            transport: self.online_since.and(transport),
            seen_at: if self.streams() { Some(now) } else { self.seen_at },
            peer: self.peer.clone(),
        }
    }

    /// Tells of a device that has come or gone since this was last asked.
    pub(crate) fn update_presence(&mut self, work: &mut Work<'_>) {
        let online = self.streams() || self.polls(work.now);
        if online == self.online_since.is_some() {
            return;
        }
        self.online_since = online.then_some(work.now);
        if !online && self.known {
            let seen = self.seen(self.seen_at.unwrap_or(work.now));
            work.change(Change::PutSeen(self.id.clone(), seen));
        }
        if self.known {
            let change = if online { DeviceChange::Online } else { DeviceChange::Offline };
            self.notify(change, work);
        }
    }

    fn notify(&self, change: DeviceChange, work: &mut Work<'_>) {
        if work.observed() {
            work.output(Output::Notify(HubEvent::Device {
                device: self.id.clone(),
                change,
                presence: self.presence(work.now),
            }));
        }
    }

    // --- Rows and time ---

    /// Puts every row that has changed into the transaction, and tells those who wait or watch.
    pub(crate) fn flush_rows(&mut self, work: &mut Work<'_>) {
        for live in self.live.iter_mut().filter(|l| l.dirty) {
            live.dirty = false;
            live.record.version += 1;
            work.change(Change::PutDelivery(Box::new(live.record.clone())));
            if work.watches(live.record.head.id) {
                work.output(Output::Notify(HubEvent::Delivery {
                    delivery: Box::new(live.record.to_delivery()),
                    version: live.record.version,
                }));
            }
            live.txn = work.txn();
            if live.state().is_terminal() {
                for (request, _) in live.waits.drain(..) {
                    work.answered(request);
                    work.reply(request, Answer::Delivery(Box::new(live.record.to_delivery())));
                }
            }
        }
    }

    /// Forgets ended deliveries whose end is on disk, and data that can be loaded from there.
    pub(crate) fn forget_ended(&mut self, committed: TxnId) {
        for live in self.live.iter_mut().filter(|l| l.data_in_passing && l.txn <= committed) {
            live.data_in_passing = false;
            if live.state() == DeliveryState::Queued {
                live.data = None;
            }
        }
        self.live.retain(|l| !(l.state().is_terminal() && l.txn <= committed));
        if self.live.is_empty() {
            self.live.shrink_to_fit();
        }
    }

    /// Whether nothing would be lost by forgetting it: all of it is in the store.
    pub(crate) fn idle(&self, committed: TxnId, now: Timestamp) -> bool {
        self.loading.is_none()
            && self.stream.is_none()
            && self.unconfirmed.is_none()
            && !self.polls(now)
            && self.online_since.is_none()
            && self.lookups.is_empty()
            && !self.loading_data
            && self.loading_page.is_none()
            && self.txn <= committed
            && self.live.iter().all(|l| l.waits.is_empty())
    }

    /// When an idle device must be looked at again.
    pub(crate) fn due_at(&self) -> Option<Timestamp> {
        self.live.iter().filter_map(|l| l.record.due_at()).min()
    }

    /// When a device in memory must be looked at again.
    pub(crate) fn next_deadline(&self, now: Timestamp) -> Option<Timestamp> {
        let listening = self.takes_commands();
        let deliveries = self.live.iter().flat_map(|l| {
            let record = &l.record;
            let cancelling = record.cancelling_since.map(|since| since.after(CANCEL_SLOT));
            [
                record.due_at(),
                (record.state == DeliveryState::Sent).then_some(l.lease_until),
                record.retry_at.filter(|_| listening),
                record
                    .head
                    .not_before
                    .filter(|_| listening && record.state == DeliveryState::Queued),
                cancelling,
                l.waits.iter().map(|(_, until)| *until).min(),
            ]
        });
        let polls = self.poll.as_ref().map(|poll| poll.until).or(self.poll_counts_until());
        let confirm = self.unconfirmed.as_ref().and_then(|l| l.confirm_until);
        // What is past has been acted upon, or will be when what it waits for comes.
        let data = self.data_again_at.filter(|_| listening);
        deliveries.chain([polls, confirm, data]).flatten().filter(|at| *at > now).min()
    }

    /// Acts on the time.
    pub(crate) fn tick(&mut self, work: &mut Work<'_>) {
        let now = work.now;
        // What an `ack=none` stream still has to write is delivered when it has: no lease runs.
        let unanswered = self.stream.as_ref().is_some_and(|s| s.ack_none);
        let live_listener = self.stream.is_some() || self.unconfirmed.is_some() || self.polls(now);
        for live in &mut self.live {
            let due = live.record.due_at().is_some_and(|at| at <= now);
            match live.state() {
                DeliveryState::Queued | DeliveryState::Sent if due => {
                    live.give_up(DeliveryState::Expired, now)
                }
                // A restart queues again what it finds sent, the hundredth time too.
                DeliveryState::Queued if live.record.sends >= SENDS_MAX => {
                    live.give_up(DeliveryState::Dead, now)
                }
                DeliveryState::Accepted | DeliveryState::Running | DeliveryState::Cancelling
                    if due =>
                {
                    live.give_up(DeliveryState::TimedOut, now);
                }
                DeliveryState::Sent if unanswered && live.carriers == Carriers::STREAM => {}
                DeliveryState::Sent if live.lease_until <= now && live_listener => {
                    live.fail_attempt(None, now)
                }
                DeliveryState::Sent if live.lease_until <= now => live.requeue(now),
                _ => {}
            }
            if live.state().is_terminal() {
                continue;
            }
            for (request, _) in live.waits.extract_if(.., |(_, until)| *until <= now) {
                work.answered(request);
                work.reply(request, Answer::Delivery(Box::new(live.record.to_delivery())));
            }
        }
        self.unconfirmed_in_time(work);
    }

    /// The senders that wait hear how it stands: the hub is about to stop.
    pub(crate) fn answer_waits(&mut self, work: &mut Work<'_>) {
        for live in &mut self.live {
            for (request, _) in live.waits.drain(..) {
                work.answered(request);
                work.reply(request, Answer::Delivery(Box::new(live.record.to_delivery())));
            }
        }
    }

    /// The client of a waiting request has gone.
    pub(crate) fn abandoned(&mut self, request: RequestId) {
        self.poll.take_if(|poll| poll.request == request);
        for live in &mut self.live {
            live.waits.retain(|(waiting, _)| *waiting != request);
        }
    }

    /// Takes the data of commands that the store has read.
    pub(crate) fn data_loaded(&mut self, data: Vec<(Seq, Json)>, now: Timestamp) {
        self.loading_data = false;
        self.data_again_at = data.is_empty().then(|| now.after(LOAD_AGAIN));
        for (seq, json) in data {
            let found = self.live.iter_mut().find(|l| l.record.head.seq == seq);
            if let Some(live) = found.filter(|l| l.state() == DeliveryState::Queued) {
                live.data = Some(json);
            }
        }
    }
}

/// What a sender or a device does to one delivery.
fn apply_to(live: &mut Live, op: Op, work: &mut Work<'_>) {
    match op {
        Op::Report { request, report, .. } => match live.report(*report, work.now) {
            Ok(()) => work.reply(request, delivery(live)),
            Err(problem) => work.refuse(request, problem),
        },
        Op::Rejoin { request, wait, .. } => {
            if live.state().is_terminal() || wait.get() == 0 || work.draining() {
                work.answered(request);
                work.reply(request, delivery(live));
            } else if work.is_waiting(request) {
                live.waits.push((request, work.now.after(wait.duration())));
            }
        }
        Op::Cancel { request, force, .. } => match live.cancel(force, work.now) {
            Ok(()) => work.reply(request, Answer::Cancelled { done: live.state().is_terminal() }),
            Err(problem) => work.refuse(request, problem),
        },
        _ => {}
    }
}

fn delivery(live: &Live) -> Answer {
    let delivery: Delivery = live.record.to_delivery();
    Answer::Delivery(Box::new(delivery))
}
