//! One device, its hub, and every fault that can occur between them, in virtual time.
//!
//! The disk applies writes in order. If the process dies, those that the disk has not confirmed are there or not,
//! by chance. A handler whose agent dies continues until it ends, is killed, or the machine goes down.

use std::collections::BTreeMap;
use std::sync::Arc;

use bellwire_proto::limits::{AGENT_JOURNAL_BYTES_MAX, REV_MAX};

use super::hub::{Frame, Hub};
use super::judge::{CommandRuns, RunReport, StartOrder};
use super::*;
use bellwire_testkit::Random;

mod clocks;
mod environment;

pub(super) use clocks::Clocks;

/// From then on there are no more faults, and every command must end.
const CALM_MS: u64 = 900_000;
const END_MS: u64 = 4 * 3_600_000;
const ACTIONS: [&str; 5] = ["fail", "fail", "rerun", "succeed", "unlisted"];

/// The list of actions, where an action's name is its `on_restart`. It may change when the agent restarts.
#[derive(Debug, Clone, Copy)]
pub(super) struct List {
    pub(super) concurrency: usize,
    /// This action was removed from it.
    pub(super) off: Option<&'static str>,
    /// It accepts no data any more.
    pub(super) narrow: bool,
}

impl Default for List {
    fn default() -> Self {
        Self { concurrency: 1, off: None, narrow: false }
    }
}

impl Admission for List {
    fn admit(&self, action: &Action, _: &Json) -> Result<(), ErrorInfo> {
        self.run_settings(action).ok_or_else(|| ErrorInfo::of("unknown_action"))?;
        if self.narrow { Err(ErrorInfo::of("invalid_params")) } else { Ok(()) }
    }

    fn run_settings(&self, action: &Action) -> Option<RunSettings> {
        let name = Some(action.as_str()).filter(|name| self.off != Some(*name))?;
        let on_restart = OnRestart::ALL.into_iter().find(|o| o.as_str() == name)?;
        Some(RunSettings { on_restart, concurrency: self.concurrency, timeout: None })
    }
}

/// A bug that is injected, to show that the judge notices it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InjectedBug {
    NoStartRecord,
    TrustsHubClock,
}

#[derive(Debug, Clone)]
enum Event {
    Submit,
    Cancel,
    Connect,
    Cut,
    HubRestarts,
    Dies { reboots: bool },
    Starts,
    DiskFills,
    DiskEmpties,
    HubClockIsSet,
    DeviceClockIsSet,
    Tick,
    // Of one life of the agent:
    CommandArrives(u64, Box<CommandEvent>),
    CancelArrives(u64, CancelEvent),
    Written(u64),
    Wake(u64),
    OrphansKilled(u64, CommandId),
    ReportArrives(u64, u64, CommandId, Box<Report>),
    Answered(u64, u64, ReportAnswer),
    HandlerExits(u64),
    ShutDown(u64),
}

/// A handler that runs.
pub(super) struct Handler {
    pub(super) command: CommandId,
    number: u64,
    /// The life of the agent that started it.
    pub(super) life: u64,
}

/// A pending write.
enum DiskTask {
    Append(u64, Vec<Record>),
    Compact(JournalSnapshot),
}

pub(super) struct World {
    random: Random,
    pub(super) now_ms: u64,
    queue: BTreeMap<(u64, u64), Event>,
    number: u64,
    pub(super) hub: Hub,
    engine: Option<Engine>,
    pub(super) life: u64,
    pub(super) list: List,
    bounds: Bounds,
    bug: Option<InjectedBug>,
    linked: bool,
    booted_ms: u64,
    pub(super) boots: u64,
    disk: Vec<Record>,
    disk_bytes: u64,
    disk_full: bool,
    writing: VecDeque<DiskTask>,
    pub(super) compactions: usize,
    pub(super) order: StartOrder,
    pub(super) handlers: Vec<Handler>,
    pub(super) command_runs: BTreeMap<CommandId, CommandRuns>,
    pub(super) deaths: usize,
    /// The times in which the agent could report nothing, and since when it cannot.
    pub(super) silent: Vec<(u64, u64)>,
    pub(super) silent_since_ms: Option<u64>,
    trace: Option<Vec<String>>,
    pub(super) clocks: Clocks,
    pub(super) fault: Option<String>,
    wake_ms: Option<u64>,
    tick_ms: Option<u64>,
}

impl World {
    /// Runs the history of a seed, and judges it.
    pub(super) fn run(seed: u64, bug: Option<InjectedBug>) -> Result<RunReport, String> {
        let mut world = Self::new(seed, bug, None);
        world.run_events();
        world.judge()
    }

    /// The events in the history of a seed. It is not recorded in each run, since it would slow that down.
    pub(super) fn trace(seed: u64, bug: Option<InjectedBug>) -> String {
        let mut world = Self::new(seed, bug, Some(Vec::new()));
        world.run_events();
        world.trace.unwrap_or_default().join("\n")
    }

    fn new(seed: u64, bug: Option<InjectedBug>, trace: Option<Vec<String>>) -> Self {
        let mut random = Random::new(seed);
        let max_in_flight = random.pick(&[1, 1, 2, 3]);
        // Some journals are so small that two commands fill them, and some retention periods so short that completed
        // commands are forgotten within the history.
        let bounds = Bounds {
            journal_bytes: random.pick(&[24 << 10, 48 << 10, AGENT_JOURNAL_BYTES_MAX]),
            result_bytes: 6 << 10,
            report_bytes: 1 << 10,
            compact_bytes: random.pick(&[2 << 10, 8 << 10]),
            retain_ms: random.pick(&[200_000, Bounds::AGENT.retain_ms]),
            forget_every_ms: 300_000,
            rejected_ms: 400_000,
        };
        let mut world = Self {
            hub: Hub { max_in_flight, ..Hub::default() },
            random,
            now_ms: 1000,
            queue: BTreeMap::new(),
            number: 0,
            engine: None,
            life: 0,
            list: List::default(),
            bounds,
            bug,
            linked: false,
            booted_ms: 0,
            boots: 1,
            disk: Vec::new(),
            disk_bytes: 0,
            disk_full: false,
            writing: VecDeque::new(),
            compactions: 0,
            order: StartOrder::default(),
            handlers: Vec::new(),
            command_runs: BTreeMap::new(),
            deaths: 0,
            silent: Vec::new(),
            silent_since_ms: Some(0),
            trace,
            clocks: Clocks::default(),
            fault: None,
            wake_ms: None,
            tick_ms: None,
        };
        world.plan();
        world
    }

    fn run_events(&mut self) {
        while let Some(((at_ms, _), event)) = self.queue.pop_first() {
            self.now_ms = at_ms;
            // Events inside of the agent do not change the hub.
            let within = matches!(
                event,
                Event::Written(_) | Event::Wake(_) | Event::Answered(..) | Event::HandlerExits(_)
            );
            self.apply(event);
            if !within {
                self.tick();
            }
            self.note_silence();
            if self.fault.is_some() {
                return;
            }
        }
    }

    /// What the hub does by itself, now and at its next timeout.
    fn tick(&mut self) {
        self.hub.tick(self.now_ms);
        if let Err(fault) = self.judge_timeouts() {
            self.fault.get_or_insert(fault);
        }
        if self.linked && self.engine.is_some() {
            let frames = self.hub.send(self.now_ms);
            self.write_frames(frames);
        }
        let Some(due_ms) = self.hub.due_ms().filter(|at_ms| *at_ms < END_MS) else { return };
        if self.tick_ms.is_none_or(|planned| due_ms < planned) {
            self.tick_ms = Some(due_ms);
            self.at(due_ms.max(self.now_ms + 1), Event::Tick);
        }
    }

    /// Notes since when the agent can report nothing, or is stopping and leaves work to its next life. It notices
    /// free space on the disk with a delay.
    fn note_silence(&mut self) {
        let ends = self.engine.as_ref().is_none_or(|engine| engine.stopping.is_some());
        let silent = ends || !self.linked || self.disk_full;
        match self.silent_since_ms {
            None if silent => self.silent_since_ms = Some(self.now_ms),
            Some(since_ms) if !silent => {
                self.silent.push((since_ms, self.now_ms + DISK_RETRY_MS));
                self.silent_since_ms = None;
            }
            _ => {}
        }
    }

    fn plan(&mut self) {
        self.after(0, Event::Starts);
        let many = self.random.percent(5);
        for _ in 0..if many { 80 } else { self.random.from(3, 25) } {
            self.some_time(Event::Submit);
        }
        for _ in 0..self.random.from(0, 4) {
            self.some_time(Event::Cancel);
        }
        for _ in 0..self.random.from(0, 6) {
            let reboots = self.random.percent(40);
            self.some_time(Event::Dies { reboots });
        }
        for _ in 0..self.random.from(0, 6) {
            self.some_time(Event::Cut);
        }
        for _ in 0..self.random.from(0, 2) {
            self.some_time(Event::HubRestarts);
        }
        if self.random.percent(25) {
            self.some_time(Event::DiskFills);
        }
        self.plan_clocks();
    }

    fn calm(&self) -> bool {
        self.now_ms >= CALM_MS
    }

    fn at(&mut self, at_ms: u64, event: Event) {
        self.number += 1;
        self.queue.insert((at_ms, self.number), event);
    }

    fn after(&mut self, ms: u64, event: Event) {
        self.at(self.now_ms + ms, event);
    }

    fn some_time(&mut self, event: Event) {
        let at_ms = self.random.from(2000, CALM_MS - 1);
        self.at(at_ms, event);
    }

    fn log(&mut self, text: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>9} {}", self.now_ms, text()));
        }
    }

    fn boot_ms(&self) -> u64 {
        self.now_ms - self.booted_ms
    }

    // --- Events ---

    fn apply(&mut self, event: Event) {
        let noisy = matches!(event, Event::Tick | Event::Wake(_));
        if !noisy {
            self.log(|| format!("{event:?}"));
        }
        match event {
            Event::Submit => {
                let action = self.random.pick(&ACTIONS);
                let ttl_s = self.random.pick(&[5, 60, 3600, 36_000]);
                let run_timeout_s = self.random.pick(&[20, 60, 300]);
                let (ttl_s, rev) = match self.random.from(0, 19) {
                    0 => (ttl_s, 1 << 30),
                    1 => (ttl_s, 1 << 45),
                    // Nothing can be reported of it: its time to live must end within the history.
                    2 => (5, REV_MAX),
                    _ => (ttl_s, 0),
                };
                let id = self.hub.submit(self.now_ms, action, (ttl_s, run_timeout_s), rev);
                if self.random.percent(8) {
                    let for_ms = self.random.pick(&[100_000, END_MS]);
                    self.hub.rejects_until_ms.insert(id, self.now_ms + for_ms);
                }
            }
            Event::Cancel => {
                let ids: Vec<CommandId> = self.hub.deliveries.keys().copied().collect();
                if !ids.is_empty() {
                    let (id, force) = (self.random.pick(&ids), self.random.percent(30));
                    let frame = self.hub.cancel(id, force).filter(|_| self.linked);
                    self.write_frames(frame.into_iter().collect());
                }
            }
            Event::Connect => self.connect(),
            Event::Cut => {
                self.linked = false;
                let pause_ms = self.random.pick(&[100, 5000, 90_000]);
                self.after(pause_ms, Event::Connect);
            }
            Event::HubRestarts => {
                self.linked = false;
                self.hub.reconnect();
                self.after(3000, Event::Connect);
            }
            Event::Dies { reboots } => self.die(reboots),
            Event::Starts => self.start_agent(),
            Event::DiskFills => {
                self.disk_full = true;
                let pause_ms = self.random.from(1000, 60_000);
                self.after(pause_ms, Event::DiskEmpties);
            }
            Event::DiskEmpties => self.disk_full = false,
            Event::HubClockIsSet => self.set_hub_clock(),
            Event::DeviceClockIsSet => self.set_device_clock(),
            Event::Tick => self.tick_ms = None,
            Event::ReportArrives(life, ticket, id, report) => {
                let answer = self.hub.report(self.now_ms, id, &report);
                let lost = !self.linked || !self.calm() && self.random.percent(10);
                let answer = if lost { self.failed(id) } else { answer };
                let latency_ms = self.latency_ms();
                self.after(latency_ms, Event::Answered(life, ticket, answer));
            }
            Event::HandlerExits(number) => self.handler_exits(number),
            of_life => self.engine_event(of_life),
        }
    }

    fn engine_event(&mut self, event: Event) {
        let (now_ms, current) = (self.boot_ms(), self.life);
        let written = match event {
            Event::Written(life) if life == current => Some(self.write_done()),
            _ => None,
        };
        let bytes = self.disk_bytes;
        let device_ms = self.device_ms();
        self.note_arrival(&event);
        let Some(engine) = &mut self.engine else { return };
        engine.handle_device_clock(now_ms, device_ms);
        match event {
            Event::CommandArrives(life, command) if life == current => {
                engine.handle_command(now_ms, *command);
            }
            Event::CancelArrives(life, cancel) if life == current => {
                engine.handle_cancel(now_ms, cancel);
            }
            Event::Written(life) if life == current => match written.flatten() {
                Some((None, true)) => engine.handle_compacted(now_ms, Some(bytes)),
                Some((None, false)) => engine.handle_compacted(now_ms, None),
                Some((Some(ticket), true)) => engine.handle_written(now_ms, ticket, bytes),
                Some((Some(ticket), false)) => engine.handle_disk_full(now_ms, ticket),
                None => {}
            },
            Event::Wake(life) if life == current => {
                self.wake_ms = None;
                engine.handle_timeout(now_ms);
            }
            Event::OrphansKilled(life, id) if life == current => {
                self.handlers.retain(|handler| handler.command != id);
                engine.handle_orphans_killed(now_ms, id);
            }
            Event::Answered(life, ticket, answer) if life == current => {
                engine.handle_answer(now_ms, ticket, answer);
            }
            Event::ShutDown(life) if life == current => engine.handle_shutdown(now_ms),
            _ => return,
        }
        self.act();
        self.note_forgotten();
    }

    /// Carries out the outputs of the engine. The process may die between any two of them.
    fn act(&mut self) {
        while let Some(output) = self.engine.as_mut().and_then(Engine::poll_output) {
            if !self.calm() && self.random.percent(1) && self.random.percent(60) {
                let reboots = self.random.percent(40);
                return self.die(reboots);
            }
            self.log(|| format!("  {output:?}"));
            let life = self.life;
            match output {
                Output::Write { ticket, records, .. } => {
                    for record in &records {
                        if let Record::Ended { command, .. } | Record::Acked { command } = record {
                            self.order.settled(*command);
                        }
                        match record {
                            Record::Acked { command } => self.note_acked(*command),
                            Record::PermanentRejection { command, .. } => {
                                self.note_rejected(*command);
                            }
                            _ => {}
                        }
                    }
                    self.writing.push_back(DiskTask::Append(ticket, records));
                    let ms = self.random.from(0, 200);
                    self.after(ms, Event::Written(life));
                }
                Output::Compact { snapshot, .. } => {
                    self.writing.push_back(DiskTask::Compact(snapshot));
                    let ms = self.random.pick(&[200, 3000]);
                    self.after(ms, Event::Written(life));
                }
                Output::Post { ticket, command, report } => self.post(ticket, command, report),
                Output::Start { event, .. } => self.start(&event),
                Output::Stop { command, stop } => self.stop(command, stop),
                Output::KillOrphans { command } => {
                    let ms = self.random.pick(&[50, 500, 15_000]);
                    self.after(ms, Event::OrphansKilled(life, command));
                }
            }
        }
        let Some(engine) = &self.engine else { return };
        if engine.is_finished(self.boot_ms()) {
            self.log(|| "the agent ends in good order".to_owned());
            return self.die(false);
        }
        let wake_ms = engine.poll_timeout();
        if wake_ms.is_some_and(|at_ms| at_ms <= self.boot_ms()) {
            self.fault = Some(format!("the engine busy-loops: its next timeout is {wake_ms:?}"));
        }
        if let Some(at_ms) = wake_ms {
            let at_ms = (self.booted_ms + at_ms).max(self.now_ms + 1);
            if self.wake_ms.is_none_or(|planned| at_ms < planned) && at_ms < END_MS {
                self.wake_ms = Some(at_ms);
                self.at(at_ms, Event::Wake(self.life));
            }
        }
    }
}
