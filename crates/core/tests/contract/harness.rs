//! A hub, a store that commits at once (unless it is held), and time that passes when a test says so.
//!
//! What a listener received is written down in a few words: `command 1 #2` is the second sending of the
//! command with the number 1, `cancel 1` its cancellation, `bye replaced` the end.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bellwire_core::record::{DeliveryRecord, Load, Loaded};
use bellwire_core::{
    AccessChange, Answer, Calendar, Config, Frame, Hub, HubEvent, Instant, Listen, NotifyOn, Now,
    Output, Peer, Poll, RequestId, Send, SessionId, Target,
};
use bellwire_proto::stream::{Bye, CancelEvent, CommandEvent};
use bellwire_proto::{
    CommandId, Delivery, DeliveryState, DeviceId, Json, Labels, Problem, Report, ReportState,
    Seconds, Seq, Timestamp,
};

use crate::calendar::every;
use crate::store::Store;

pub(crate) struct Harness {
    pub(crate) hub: Hub,
    pub(crate) store: Store,
    pub(crate) now: Now,
    /// While this is set nothing gets to disk.
    pub(crate) disk_held: bool,
    /// While this is set no load is answered.
    pub(crate) loads_held: bool,
    /// While this is set no reader reads: no frame is taken or written.
    pub(crate) readers_held: bool,
    pub(crate) events: Vec<HubEvent>,
    pub(crate) access: Vec<AccessChange>,
    pub(crate) frames: Vec<CommandEvent>,
    pub(crate) byes: Vec<Bye>,
    pub(crate) notify_on: VecDeque<(SessionId, NotifyOn)>,
    loads: VecDeque<Load>,
    answers: BTreeMap<RequestId, Answer>,
    received: BTreeMap<SessionId, Vec<String>>,
    number: u64,
}

pub(crate) fn device(name: &str) -> DeviceId {
    name.parse().unwrap()
}

/// With times: an expression is a number of seconds.
pub(crate) fn config_with_calendar() -> Config {
    Config { calendar: Calendar(every), ..Config::default() }
}

impl Harness {
    pub(crate) fn new() -> Self {
        Self::with(Config::default())
    }

    pub(crate) fn with(config: Config) -> Self {
        let wall = Timestamp::from_unix_ms(1_700_000_000_000);
        let now = Now { instant: Instant::from_ms(5_000_000), wall };
        let mut store = Store::default();
        let mut hub = Hub::new(config, store.restart(now), 1);
        hub.observe_all(true);
        Self {
            hub,
            store,
            now,
            disk_held: false,
            loads_held: false,
            readers_held: false,
            events: Vec::new(),
            access: Vec::new(),
            frames: Vec::new(),
            byes: Vec::new(),
            notify_on: VecDeque::new(),
            loads: VecDeque::new(),
            answers: BTreeMap::new(),
            received: BTreeMap::new(),
            number: 0,
        }
    }

    // --- Time and the disk ---

    /// Lets seconds pass, with all that is due in them.
    pub(crate) fn pass(&mut self, seconds: f64) {
        let end = self.now.instant.after(Duration::from_millis((seconds * 1000.0) as u64));
        while let Some(at) = self.hub.poll_timeout().filter(|at| *at <= end) {
            self.advance_to(at);
            self.hub.handle_timeout(self.now);
            self.settle();
        }
        self.advance_to(end);
    }

    /// Lets time pass until the clock shows the next whole hour.
    pub(crate) fn pass_to_hour(&mut self) {
        let to_hour_ms = 3_600_000 - self.now.wall.unix_ms() % 3_600_000;
        self.pass(to_hour_ms as f64 / 1000.0);
    }

    /// Time passes, and the hub is not called.
    pub(crate) fn let_pass_unnoticed(&mut self, span: Duration) {
        self.advance_to(self.now.instant.after(span));
    }

    fn advance_to(&mut self, at: Instant) {
        let passed = at.since(self.now.instant);
        self.now =
            Now { instant: self.now.instant.after(passed), wall: self.now.wall.after(passed) };
    }

    /// Sets the wall clock, by so many seconds; the driver notices at once.
    pub(crate) fn step_wall_clock(&mut self, seconds: i64) {
        let wall_ms = self.now.wall.unix_ms().saturating_add_signed(seconds * 1000);
        self.now.wall = Timestamp::from_unix_ms(wall_ms);
        self.hub.handle_timeout(self.now);
        self.settle();
    }

    /// Carries out the hub's outputs until there are no more.
    pub(crate) fn settle(&mut self) {
        loop {
            while let Some(output) = self.hub.poll_output() {
                self.carry_out(output);
            }
            if !self.disk_held
                && let Some(committed) = self.store.commit_one()
            {
                self.hub.handle_committed(committed, self.now);
            } else if !self.loads_held
                && let Some(load) = self.loads.pop_front()
            {
                self.hub.handle_loaded(self.store.disk.load(&load), self.now);
            } else if !self.readers_held
                && let Some((session, notify_on)) = self.notify_on.pop_front()
            {
                if let NotifyOn::Taken(seq) | NotifyOn::Written(seq) = notify_on {
                    self.hub.handle_taken(session, seq, self.now);
                }
            } else {
                return;
            }
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Persist(txn) => self.store.submit(txn),
            Output::Load(load) => self.loads.push_back(load),
            Output::Send { session, frame, notify_on } => {
                if notify_on != NotifyOn::Nothing {
                    self.notify_on.push_back((session, notify_on));
                }
                self.received.entry(session).or_default().push(words(&frame));
                if let Frame::Command(event) = frame {
                    self.frames.push(event);
                }
            }
            Output::Close { session, bye } => {
                let reason = serde_json::to_value(bye.reason).unwrap();
                let received = self.received.entry(session).or_default();
                received.push(format!("bye {}", reason.as_str().unwrap()));
                self.byes.push(bye);
            }
            Output::Reply(request, answer) => {
                let old = self.answers.insert(request, answer);
                assert!(old.is_none(), "{request:?} was answered before: {old:?}");
            }
            Output::Notify(event) => self.events.push(event),
            Output::Access(change) => self.access.push(change),
        }
    }

    /// The loads that wait while they are held.
    pub(crate) fn loads_waiting(&self) -> usize {
        self.loads.len()
    }

    /// The oldest load that waits.
    pub(crate) fn next_load(&self) -> Option<&Load> {
        self.loads.front()
    }

    /// The store could not answer the oldest load.
    pub(crate) fn fail_load(&mut self) -> Load {
        let load = self.loads.pop_front().unwrap();
        self.hub.handle_loaded(Loaded::Failed(load.clone()), self.now);
        load
    }

    /// The store answers the oldest load, and nothing else.
    pub(crate) fn answer_load(&mut self) {
        let load = self.loads.pop_front().unwrap();
        self.hub.handle_loaded(self.store.disk.load(&load), self.now);
        while let Some(output) = self.hub.poll_output() {
            self.carry_out(output);
        }
    }

    /// One transaction gets to disk although the disk is held, with all that follows from it.
    pub(crate) fn commit_one(&mut self) {
        if let Some(committed) = self.store.commit_one() {
            self.hub.handle_committed(committed, self.now);
        }
        self.settle();
    }

    /// The hub dies and comes back; what was not on disk is lost.
    pub(crate) fn restart(&mut self) {
        self.restart_with(Config::default());
    }

    pub(crate) fn restart_with(&mut self, config: Config) {
        self.loads.clear();
        self.notify_on.clear();
        self.hub = Hub::new(config, self.store.restart(self.now), 1);
        self.hub.observe_all(true);
    }

    // --- Senders ---

    pub(crate) fn request(&mut self) -> RequestId {
        self.number += 1;
        RequestId(self.number)
    }

    pub(crate) fn ask_to_send(&mut self, to: &str, with: impl FnOnce(&mut Send)) -> RequestId {
        let request = self.request();
        let data = Json::text(&format!("request {}", self.number));
        let mut send = Send::new(device(to), "run".parse().unwrap(), data);
        with(&mut send);
        let mut random = [0; 10];
        random[2..].copy_from_slice(&self.number.to_be_bytes());
        self.hub.handle_send(request, send, random, self.now);
        self.settle();
        request
    }

    /// Sends, and gives the answer.
    pub(crate) fn try_send(
        &mut self,
        to: &str,
        with: impl FnOnce(&mut Send),
    ) -> Result<Delivery, Problem> {
        let request = self.ask_to_send(to, with);
        self.delivery(request)
    }

    /// Sends with the defaults of the contract.
    pub(crate) fn send(&mut self, to: &str) -> CommandId {
        self.try_send(to, |_| {}).unwrap().command
    }

    pub(crate) fn send_many(&mut self, to: &str, count: usize) {
        for _ in 0..count {
            self.send(to);
        }
    }

    /// Sends to several devices, and gives the command once it is promised.
    pub(crate) fn send_to(&mut self, devices: &[&str], with: impl FnOnce(&mut Send)) -> CommandId {
        let request = self.ask_to_send_to(devices, with);
        match self.answer(request) {
            Answer::Command(command) => command,
            answer => panic!("{request:?} is answered by {answer:?}"),
        }
    }

    pub(crate) fn ask_to_send_to(
        &mut self,
        devices: &[&str],
        with: impl FnOnce(&mut Send),
    ) -> RequestId {
        let target = Target::of(devices.iter().map(|name| device(name)).collect()).unwrap();
        self.ask_to_send("any", |send| {
            send.target = target;
            with(send);
        })
    }

    /// Sends to any target, and gives the command once it is promised.
    pub(crate) fn send_to_target(
        &mut self,
        target: Target,
        with: impl FnOnce(&mut Send),
    ) -> CommandId {
        let request = self.ask_to_send_to_target(target, with);
        match self.answer(request) {
            Answer::Command(command) => command,
            answer => panic!("{request:?} is answered by {answer:?}"),
        }
    }

    pub(crate) fn ask_to_send_to_target(
        &mut self,
        target: Target,
        with: impl FnOnce(&mut Send),
    ) -> RequestId {
        self.ask_to_send("any", |send| {
            send.target = target;
            with(send);
        })
    }

    /// Cancels: whether every delivery has ended, or the refusal.
    pub(crate) fn cancel(&mut self, command: CommandId, force: bool) -> Result<bool, Problem> {
        let request = self.request();
        self.hub.handle_cancel(request, command, force, self.now);
        self.settle();
        match self.answer(request) {
            Answer::Cancelled => {
                let seq = self.store.disk.first_of(command).unwrap().head.seq;
                let mut rows = self.store.disk.deliveries_of_command(seq);
                Ok(rows.all(|row| row.state.is_terminal()))
            }
            Answer::Problem(problem) => Err(*problem),
            answer => panic!("a cancellation is answered by {answer:?}"),
        }
    }

    /// Requests a cancellation. True while it is not answered.
    pub(crate) fn cancel_later(&mut self, command: CommandId) -> bool {
        let request = self.request();
        self.hub.handle_cancel(request, command, false, self.now);
        self.settle();
        !self.is_answered(request)
    }

    // --- Answers ---

    pub(crate) fn is_answered(&self, request: RequestId) -> bool {
        self.answers.contains_key(&request)
    }

    pub(crate) fn answer(&mut self, request: RequestId) -> Answer {
        self.answers.remove(&request).unwrap_or_else(|| panic!("{request:?} is not answered"))
    }

    pub(crate) fn delivery(&mut self, request: RequestId) -> Result<Delivery, Problem> {
        match self.answer(request) {
            Answer::Delivery(delivery) => Ok(*delivery),
            Answer::Problem(problem) => Err(*problem),
            answer => panic!("{request:?} is answered by {answer:?}"),
        }
    }

    /// What a poll was answered with.
    pub(crate) fn polled(&mut self, request: RequestId) -> Vec<String> {
        match self.answer(request) {
            Answer::Poll { commands, cancels } => {
                let commands = commands.into_iter().map(|event| words(&Frame::Command(event)));
                commands.chain(cancels.into_iter().map(|e| words(&Frame::Cancel(e)))).collect()
            }
            answer => panic!("a poll is answered by {answer:?}"),
        }
    }

    // --- Devices ---

    pub(crate) fn ask_to_listen(&mut self, who: &str, listen: Listen) -> (RequestId, SessionId) {
        let (request, session) = (self.request(), SessionId(self.number));
        self.hub.handle_listen(request, session, device(who), listen, self.now);
        self.settle();
        (request, session)
    }

    pub(crate) fn listen_with(&mut self, who: &str, listen: Listen) -> SessionId {
        let (request, session) = self.ask_to_listen(who, listen);
        assert!(matches!(self.answer(request), Answer::Listening));
        session
    }

    pub(crate) fn listen(&mut self, who: &str) -> SessionId {
        self.listen_with(who, Listen::default())
    }

    pub(crate) fn listen_unconfirmed(&mut self, who: &str) -> SessionId {
        self.listen_with(who, Listen { confirm: true, ..Listen::default() })
    }

    pub(crate) fn listen_ack_none(&mut self, who: &str, last_event_id: Option<u64>) -> SessionId {
        let last_event_id = last_event_id.map(Seq::new);
        self.listen_with(who, Listen { ack_none: true, last_event_id, ..Listen::default() })
    }

    pub(crate) fn confirm(&mut self, who: &str, session: SessionId) -> Result<(), Problem> {
        let request = self.request();
        self.hub.handle_confirm(request, device(who), session, self.now);
        self.settle();
        match self.answer(request) {
            Answer::Done => Ok(()),
            Answer::Problem(problem) => Err(*problem),
            answer => panic!("a confirmation is answered by {answer:?}"),
        }
    }

    pub(crate) fn close(&mut self, session: SessionId) {
        self.hub.handle_closed(session, self.now);
        self.settle();
    }

    /// The client of a request disconnects.
    pub(crate) fn abandon(&mut self, request: RequestId) {
        self.hub.handle_abandoned(request, self.now);
        self.settle();
    }

    pub(crate) fn poll_with(&mut self, who: &str, wait_s: u64, after: Option<u64>) -> RequestId {
        let request = self.request();
        let last_event_id = after.map(Seq::new);
        let poll =
            Poll { wait: Seconds::new(wait_s), last_event_id, peer: Peer::default(), token: None };
        self.hub.handle_poll(request, device(who), poll, self.now);
        self.settle();
        request
    }

    pub(crate) fn poll(&mut self, who: &str) -> RequestId {
        self.poll_with(who, 25, None)
    }

    /// What a stream received since the last call of this.
    pub(crate) fn received(&mut self, session: SessionId) -> Vec<String> {
        self.received.remove(&session).unwrap_or_default()
    }

    pub(crate) fn report_with(
        &mut self,
        who: &str,
        command: CommandId,
        report: Report,
    ) -> Result<Delivery, Problem> {
        let request = self.request();
        self.hub.handle_report(request, device(who), command, report, self.now);
        self.settle();
        self.delivery(request)
    }

    pub(crate) fn try_report(
        &mut self,
        who: &str,
        command: CommandId,
        state: ReportState,
    ) -> Result<Delivery, Problem> {
        self.report_with(who, command, Report::of(state))
    }

    pub(crate) fn report(&mut self, who: &str, command: CommandId, state: ReportState) -> Delivery {
        self.try_report(who, command, state).unwrap()
    }

    // --- Operators ---

    pub(crate) fn put(&mut self, who: &str) -> Answer {
        let request = self.request();
        self.hub.handle_put_device(request, device(who), Labels::new(), self.now);
        self.settle();
        self.answer(request)
    }

    /// Registers a device with labels.
    pub(crate) fn register(&mut self, who: &str, labels: &[(&str, &str)]) {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let request = self.request();
        self.hub.handle_put_device(request, device(who), labels, self.now);
        self.settle();
        let _created = self.answer(request);
    }

    pub(crate) fn ask_to_delete(&mut self, who: &str) -> RequestId {
        let request = self.request();
        self.hub.handle_delete_device(request, device(who), self.now);
        self.settle();
        request
    }

    pub(crate) fn delete(&mut self, who: &str) -> Answer {
        let request = self.ask_to_delete(who);
        self.answer(request)
    }

    pub(crate) fn drain(&mut self) {
        self.hub.handle_drain(self.now);
        self.settle();
    }

    // --- What can be seen ---

    pub(crate) fn row(&self, command: CommandId) -> &DeliveryRecord {
        self.store.disk.first_of(command).unwrap()
    }

    pub(crate) fn state(&self, command: CommandId) -> DeliveryState {
        self.row(command).state
    }

    pub(crate) fn online(&self, who: &str) -> bool {
        self.hub.presence(&device(who), self.now).online()
    }
}

fn words(frame: &Frame) -> String {
    match frame {
        Frame::Command(CommandEvent { seq, attempt, .. }) => format!("command {seq} #{attempt}"),
        Frame::Cancel(CancelEvent { seq, .. }) => format!("cancel {seq}"),
    }
}
