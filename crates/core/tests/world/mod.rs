//! A world around one hub, in virtual time, from a seed: devices, links that delay, cut, double and
//! reorder, clients who send and cancel, operators, a store that crashes and fails, restarts.
//!
//! [`World::run`] jumps from deadline to deadline, and hands all that happens to the
//! [`Judge`](judge::Judge). Everything is decided by the seed, so that a failure can be seen again.
//! What can happen is in `event.rs`, what devices do in `appliance.rs`, what clients do in `clients.rs`, what goes wrong in
//! `faults.rs`, the disk in `store.rs`.

pub(crate) mod appliance;
mod clients;
mod event;
mod faults;
pub(crate) mod holders;
pub(crate) mod judge;
pub(crate) mod random;
pub(crate) mod schedules;
#[allow(dead_code, reason = "the store's own tests use what is not used here")]
pub(crate) mod store;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use bellwire_core::record::{Committed, Load, Loaded};
use bellwire_core::{Footprint, Hub, Instant, NotifyOn, Now, Output, RequestId, SessionId};
use bellwire_proto::Timestamp;

use appliance::Appliance;
use clients::Client;
use event::{Event, Input, Owner};
use faults::{Fault, FaultProfile};
use holders::Holder;
use judge::{Judge, Requested, Verdict};
use random::Random;
use store::Store;

const START: Instant = Instant::from_ms(5_000_000);
/// What the wall clock shows at [`START`].
const WALL_START_MS: u64 = 1_700_000_000_000;
/// Steps after which a run is assumed never to end.
const STEPS_MAX: u32 = 60_000;
/// A bug injected on purpose, to show that the judge sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InjectedBug {
    /// The store reports a transaction as committed, and loses it.
    StoreLies,
    /// The store finds nothing that is due.
    StoreForgetsWhatIsDue,
    /// After a restart the numbers of the sendings begin anew.
    StoreForgetsAttempts,
    /// After a restart some targets of a command to many are gone.
    StoreForgetsTargets,
    /// After a restart all targets of a rollout have begun.
    StoreForgetsBatches,
    /// After a restart the decisions of schedules are those of ten minutes ago.
    StoreForgetsTimes,
    /// After a restart no run of a schedule was decided.
    StoreForgetsRuns,
    /// After a restart windows open half a minute late, and close so.
    WindowsAreLate,
    /// The driver writes every frame twice.
    DriverWritesTwice,
    /// The driver loses some answers.
    DriverLosesAnswers,
    /// The driver answers before the store has committed.
    DriverDoesNotWait,
    /// The driver holds frames back while it carries out all other outputs.
    DriverWritesAfterBye,
}

pub(crate) struct World {
    random: Random,
    profile: FaultProfile,
    bug: Option<InjectedBug>,
    now: Instant,
    /// By how much the wall clock was set forwards (positive) or back, in all.
    wall_step_ms: i64,
    events: BTreeMap<(Instant, u64), Event>,
    next_number: u64,
    hub: Hub,
    /// The number of the hub's present process; events of an older one are dropped.
    life: u32,
    up: bool,
    /// The process will end soon: its store has failed, or it drains.
    ailing: bool,
    store: Store,
    commit_planned: bool,
    judge: Judge,
    devices: Vec<Appliance>,
    clients: Vec<Client>,
    /// Tokens that operators had made.
    holders: Vec<Holder>,
    owners: BTreeMap<RequestId, Owner>,
    sessions: BTreeMap<SessionId, usize>,
    /// Streams that have ended; the request for one may reach the hub after its end.
    closed: BTreeSet<SessionId>,
    calm: bool,
    alone: bool,
    /// Frames that a faulty driver holds back.
    late_frames: Vec<Output>,
    /// A hash of all outputs.
    digest: u64,
    /// The last events, to be printed when a failing run is repeated.
    trace: Option<VecDeque<String>>,
}

/// The result of a run.
pub(crate) struct RunReport {
    pub(crate) verdict: Verdict,
    pub(crate) digest: u64,
    pub(crate) commands: usize,
    pub(crate) trace: VecDeque<String>,
}

impl World {
    /// Runs the world of a seed to its end. `traced` records the last events and a digest of all outputs,
    /// which costs time.
    pub(crate) fn run(seed: u64, bug: Option<InjectedBug>, traced: bool) -> RunReport {
        let mut world = Self::new(seed, bug);
        world.trace = traced.then(VecDeque::new);
        let verdict = catch_unwind(AssertUnwindSafe(|| world.live()))
            .unwrap_or_else(|_| Err("a panic; its message is above".to_owned()));
        RunReport {
            verdict,
            digest: world.digest,
            commands: world.store.disk.commands.len(),
            trace: world.trace.unwrap_or_default(),
        }
    }

    fn new(seed: u64, bug: Option<InjectedBug>) -> Self {
        let mut random = Random::new(seed);
        let r = &mut random;
        let profile = FaultProfile::drawn(r);
        let devices = r.from(1, 4) as usize;
        let clients = r.from(1, 3) as usize;
        let life_seed = r.next();
        let mut store = Store::default();
        let hub = Hub::new(profile.config(), store.restart(clock(START, 0)), life_seed);
        let mut world = Self {
            judge: Judge::new(profile.max_in_flight),
            random,
            profile,
            bug,
            now: START,
            wall_step_ms: 0,
            events: BTreeMap::new(),
            next_number: 0,
            hub,
            life: 0,
            up: true,
            ailing: false,
            store,
            commit_planned: false,
            devices: Vec::new(),
            clients: Vec::new(),
            holders: Vec::new(),
            owners: BTreeMap::new(),
            sessions: BTreeMap::new(),
            closed: BTreeSet::new(),
            calm: false,
            alone: false,
            late_frames: Vec::new(),
            digest: 0xCBF2_9CE4_8422_2325,
            trace: None,
        };
        world.settle(devices, clients);
        world
    }

    fn settle(&mut self, devices: usize, clients: usize) {
        self.hub.observe_all(true);
        for index in 0..devices {
            let device = Appliance::new(index, &mut self.random);
            self.devices.push(device);
            self.begin_listening(index);
        }
        for index in 0..clients {
            self.clients.push(Client::default());
            self.after_ms(1, 3000, Event::Client(index));
        }
        let active_ms = self.profile.active.as_millis() as u64;
        for _ in 0..self.profile.crashes {
            let fault = self.random.pick(&[Fault::Crash, Fault::StoreFails, Fault::Drain]);
            self.after_ms(1, active_ms, Event::Fault(fault));
        }
        for _ in 0..self.profile.clock_steps {
            self.after_ms(1, active_ms, Event::Fault(Fault::ClockStep));
        }
        let end = if self.profile.calm_first { Fault::Calm } else { Fault::Alone };
        self.at(START.after(self.profile.active), Event::Fault(end));
    }

    fn live(&mut self) -> Verdict {
        for _ in 0..STEPS_MAX {
            let deadline = self.hub.poll_timeout().filter(|_| self.up);
            let event = self.events.first_key_value().map(|((at, _), _)| *at);
            match (deadline, event) {
                (Some(deadline), event) if event.is_none_or(|at| deadline <= at) => {
                    self.now = self.now.max(deadline);
                    self.hub.handle_timeout(self.clock());
                }
                (_, Some(_)) => {
                    let Some(((at, _), event)) = self.events.pop_first() else { continue };
                    self.now = self.now.max(at);
                    self.note(|| format!("{event:?}"));
                    self.happens(event)?;
                }
                (_, None) => return self.rest(),
            }
            self.carry_out()?;
        }
        Err(format!(
            "the run does not end: {:?}, {:?} events",
            self.hub.footprint(),
            self.events.len()
        ))
    }

    /// No event will follow any more: every request must be answered, every delivery ended, and the
    /// hub's memory empty.
    fn rest(&mut self) -> Verdict {
        self.judge.rest(&self.store.disk, self.clock().wall)?;
        match self.hub.footprint() {
            footprint if footprint == Footprint::default() => Ok(()),
            footprint => Err(format!("at rest the hub still holds {footprint:?}")),
        }
    }

    fn happens(&mut self, event: Event) -> Verdict {
        match event {
            Event::Hub(life, input) if life == self.life && self.up => self.reach_hub(input),
            Event::Commit(life) if life == self.life => {
                self.commit_planned = false;
                let most = self.store.pending().max(1);
                let count = self.random.from(1, most as u64);
                let committed = self.commit(count as usize)?;
                let notice_ms = self.random.from(0, 3);
                self.after_ms(notice_ms, notice_ms, Event::Committed(life, committed));
            }
            Event::Committed(life, committed) if life == self.life => {
                if self.up {
                    let clock = self.clock();
                    for committed in committed {
                        self.hub.handle_committed(committed, clock);
                    }
                }
                self.plan_commit();
            }
            Event::Loaded(life, load, found) if life == self.life && self.up => {
                let loaded = found.unwrap_or_else(|| self.load(&load));
                self.hub.handle_loaded(loaded, self.clock());
            }
            Event::Hub(..) | Event::Commit(_) | Event::Committed(..) | Event::Loaded(..) => {}
            Event::Answered(request, answer) => match self.owners.remove(&request) {
                Some(Owner::Device(index)) => self.device_answered(index, request, &answer),
                Some(Owner::Client(index)) => self.client_answered(index, request, answer),
                None => {}
            },
            Event::Frame(session, frame) => self.device_receives(session, &frame),
            Event::Ended(session, bye) => self.stream_ended(session, bye),
            Event::Device(index, wake) => self.device_wakes(index, wake),
            Event::ClockNoticed(life) => {
                if life == self.life && self.up {
                    self.hub.handle_timeout(self.clock());
                }
            }
            Event::Client(index) => self.client_acts(index),
            Event::Fault(fault) => self.fault(fault)?,
        }
        Ok(())
    }

    fn reach_hub(&mut self, input: Input) {
        let now = self.clock();
        match input {
            Input::Send(request, send, random) => self.hub.handle_send(request, *send, random, now),
            Input::Cancel(request, id, force) => self.hub.handle_cancel(request, id, force, now),
            Input::Rollout(request, id, op) => self.hub.handle_rollout(request, id, op, now),
            Input::Abandoned(request) => {
                self.judge.disconnected(request);
                self.hub.handle_abandoned(request, now);
            }
            Input::Report(request, device, command, report) => {
                self.hub.handle_report(request, device, command, *report, now);
            }
            Input::Listen(request, session, device, listen) => {
                self.judge.opened(session, device.clone(), listen.ack_none);
                if self.closed.contains(&session) {
                    return self.judge.disconnected(request);
                }
                self.hub.handle_listen(request, session, device, listen, now);
            }
            Input::Confirm(request, device, session) => {
                self.hub.handle_confirm(request, device, session, now);
            }
            Input::Poll(request, device, poll) => self.hub.handle_poll(request, device, poll, now),
            Input::Taken(session, seq) => self.hub.handle_taken(session, seq, now),
            Input::Stalled(session) => self.hub.handle_stalled(session, now),
            Input::Resumed(session) => self.hub.handle_resumed(session, now),
            Input::Closed(session) => {
                self.closed.insert(session);
                self.judge.closed(session);
                self.hub.handle_closed(session, now);
            }
            Input::PutDevice(request, device, labels) => {
                self.hub.handle_put_device(request, device, labels, now);
            }
            Input::PutFacts(request, device, facts) => {
                self.hub.handle_put_facts(request, device, facts, now);
            }
            Input::Delete(request, device) => self.hub.handle_delete_device(request, device, now),
            input => self.reach_hub_with_token(input),
        }
    }

    /// Carries out the hub's outputs.
    fn carry_out(&mut self) -> Verdict {
        let mut late = Vec::new();
        while let Some(output) = self.hub.poll_output() {
            self.note_output(&output);
            let is_frame = matches!(output, Output::Send { .. });
            if self.bug == Some(InjectedBug::DriverWritesAfterBye) && is_frame {
                late.push(output);
                continue;
            }
            self.carry_out_one(output)?;
        }
        std::mem::swap(&mut self.late_frames, &mut late);
        late.into_iter().try_for_each(|output| self.carry_out_one(output))
    }

    fn carry_out_one(&mut self, output: Output) -> Verdict {
        let is_reply = matches!(output, Output::Reply(..));
        if self.bug == Some(InjectedBug::DriverLosesAnswers) && is_reply && self.random.percent(2) {
            return Ok(());
        }
        self.judge.output(&output, &self.store.disk, self.now)?;
        match output {
            Output::Persist(txn) => {
                self.judge.decided(txn.id(), clock(self.now, self.wall_step_ms));
                self.store.submit(txn);
                if self.bug == Some(InjectedBug::DriverDoesNotWait) {
                    let committed = self.store.lose_one();
                    self.after_ms(
                        0,
                        0,
                        Event::Committed(self.life, committed.into_iter().collect()),
                    );
                }
                self.plan_commit();
            }
            Output::Load(load) => {
                let early = self.random.percent(50).then(|| self.load(&load));
                let most = self.profile.commit_ms_max;
                self.after_ms(0, most, Event::Loaded(self.life, load, early));
            }
            Output::Send { session, frame, notify_on } => {
                if self.bug == Some(InjectedBug::DriverWritesTwice) {
                    let again = Output::Send { session, frame: frame.clone(), notify_on };
                    self.judge.output(&again, &self.store.disk, self.now)?;
                }
                if let NotifyOn::Taken(seq) | NotifyOn::Written(seq) = notify_on {
                    self.reaches(Input::Taken(session, seq));
                }
                self.write(session, frame);
            }
            Output::Close { session, bye } => {
                let at = self.now.after(Duration::from_millis(self.latency_ms()));
                self.at(at.max(self.arrival(session)), Event::Ended(session, bye));
            }
            Output::Reply(request, answer) => {
                let lost = self.random.percent(self.profile.request_lost) && !self.calm;
                if !lost {
                    let latency_ms = self.latency_ms();
                    self.after_ms(latency_ms, latency_ms, Event::Answered(request, answer));
                }
            }
            Output::Notify(_) | Output::Access(_) => {}
        }
        Ok(())
    }

    // --- The store ---

    fn plan_commit(&mut self) {
        if !self.commit_planned && self.store.pending() > 0 {
            self.commit_planned = true;
            self.after_ms(0, self.profile.commit_ms_max, Event::Commit(self.life));
        }
    }

    fn commit(&mut self, count: usize) -> Result<Vec<Committed>, String> {
        let mut all = Vec::new();
        for _ in 0..count {
            let Some(txn) = self.store.first_pending() else { break };
            if self.bug == Some(InjectedBug::StoreLies) && self.random.percent(5) {
                all.extend(self.store.lose_one());
                continue;
            }
            let (id, sent) = (txn.id(), judge::sendings(txn, &self.store.disk));
            self.judge.commit(txn, &self.store.disk)?;
            all.extend(self.store.commit_one());
            self.judge.committed(id, &sent, &self.store.disk)?;
        }
        Ok(all)
    }

    fn load(&mut self, load: &Load) -> Loaded {
        if !self.calm && self.random.percent(self.profile.load_fails) {
            return Loaded::Failed(load.clone());
        }
        if self.bug == Some(InjectedBug::StoreForgetsWhatIsDue) && matches!(load, Load::Due(..)) {
            return Loaded::Due { rows: Vec::new(), next: None, next_scheduled: None };
        }
        self.store.disk.load(load)
    }

    // --- Time and chance ---

    fn clock(&self) -> Now {
        clock(self.now, self.wall_step_ms)
    }

    fn at(&mut self, at: Instant, event: Event) {
        self.next_number += 1;
        self.events.insert((at, self.next_number), event);
    }

    fn after_ms(&mut self, least: u64, most: u64, event: Event) {
        let ms = self.random.from(least, most.max(least));
        self.at(self.now.after(Duration::from_millis(ms)), event);
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn latency_ms(&mut self) -> u64 {
        let most = if self.calm { 5 } else { self.profile.latency_ms_max };
        self.random.from(0, most)
    }

    /// Sends an input to the hub. Later ones may overtake it.
    fn reaches(&mut self, input: Input) {
        let latency_ms = self.latency_ms();
        self.after_ms(latency_ms, latency_ms, Event::Hub(self.life, input));
    }

    /// Sends a request to the hub. It may be lost on its way.
    fn request(
        &mut self,
        owner: Owner,
        requested: Requested,
        make: impl FnOnce(RequestId) -> Input,
    ) -> RequestId {
        let request = RequestId(self.number());
        let input = make(request);
        self.owners.insert(request, owner);
        if !self.up || (!self.calm && self.random.percent(self.profile.request_lost)) {
            return request;
        }
        self.judge.requested(request, requested);
        self.reaches(input);
        request
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            if trace.len() == 400 {
                trace.pop_front();
            }
            trace.push_back(format!("{:>8} {}", self.now.since(START).as_millis(), what()));
        }
    }

    fn note_output(&mut self, output: &Output) {
        if self.trace.is_some() {
            let text = format!("    -> {output:?}");
            for byte in text.bytes() {
                // FNV-1a.
                self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3);
            }
            self.note(|| text);
        }
    }
}

/// Both clocks, when the wall clock was set forwards by `step_ms` in all.
fn clock(instant: Instant, step_ms: i64) -> Now {
    let wall_ms = WALL_START_MS + instant.since(START).as_millis() as u64;
    Now { instant, wall: Timestamp::from_unix_ms(wall_ms.saturating_add_signed(step_ms)) }
}
