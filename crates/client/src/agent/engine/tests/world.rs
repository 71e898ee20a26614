//! One device, its hub, and everything between them that can go wrong, in virtual time.
//!
//! The disk keeps what it was asked for in order; what it has not answered for when the process
//! dies is there or not, by chance. A handler that its agent leaves behind lives on until it ends,
//! is killed, or the machine goes down.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::hub::{EPOCH_MS, Frame, Hub};
use super::judge::{Story, Told};
use super::random::Random;
use super::*;
use crate::agent::run::End;

/// The world is calm from then on, and everything must come to an end.
const CALM_MS: u64 = 900_000;
const END_MS: u64 = 4 * 3_600_000;
const ACTIONS: [&str; 5] = ["fail", "fail", "rerun", "succeed", "unlisted"];

/// What the list of actions says: the action's name is its `on_restart`.
pub(super) struct ByName;

impl Judge for ByName {
    fn judge(&self, action: &Action, _: &Json) -> Result<Terms, ErrorInfo> {
        let on_restart = match action.as_str() {
            "fail" => OnRestart::Fail,
            "rerun" => OnRestart::Rerun,
            "succeed" => OnRestart::Succeed,
            _ => return Err(ErrorInfo::of("unknown_action")),
        };
        Ok(Terms { on_restart, concurrency: 1, timeout: None })
    }
}

#[derive(Debug, Clone)]
enum Event {
    Submit,
    Cancel,
    Connect,
    Cut,
    HubRestarts,
    Dies { reboots: bool },
    Born,
    DiskFills,
    DiskEmpties,
    Tick,
    // Of one life of the agent:
    Hears(u64, Box<CommandEvent>),
    HearsCancel(u64, CancelEvent),
    Written(u64),
    Wake(u64),
    Swept(u64, CommandId),
    Arrives(u64, u64, CommandId, Box<Report>),
    Answered(u64, u64, Answer),
    HandlerEnds(u64),
    ShutDown(u64),
}

/// A handler that runs.
struct Handler {
    command: CommandId,
    number: u64,
    /// Of which life of the agent.
    life: u64,
}

pub(super) struct World {
    random: Random,
    now_ms: u64,
    queue: BTreeMap<(u64, u64), Event>,
    number: u64,
    pub(super) hub: Hub,
    engine: Option<Engine>,
    life: u64,
    no_start_record: bool,
    linked: bool,
    booted_ms: u64,
    pub(super) boots: u64,
    disk: Vec<Record>,
    disk_full: bool,
    /// On the way to the disk: `None` marks a compaction.
    writing: VecDeque<(Option<u64>, Vec<Record>)>,
    handlers: Vec<Handler>,
    pub(super) stories: BTreeMap<CommandId, Story>,
    pub(super) deaths: usize,
    trace: Vec<String>,
    pub(super) fault: Option<String>,
    wake_ms: Option<u64>,
}

impl World {
    /// Lives through the history of a seed. What happened comes back, and the verdict.
    pub(super) fn run(seed: u64, no_start_record: bool) -> (Vec<String>, Result<Told, String>) {
        let mut random = Random::new(seed);
        let max_in_flight = random.pick(&[1, 1, 2, 3]);
        let mut world = Self {
            hub: Hub { max_in_flight, ..Hub::default() },
            random,
            now_ms: 1000,
            queue: BTreeMap::new(),
            number: 0,
            engine: None,
            life: 0,
            no_start_record,
            linked: false,
            booted_ms: 0,
            boots: 1,
            disk: Vec::new(),
            disk_full: false,
            writing: VecDeque::new(),
            handlers: Vec::new(),
            stories: BTreeMap::new(),
            deaths: 0,
            trace: Vec::new(),
            fault: None,
            wake_ms: None,
        };
        world.plan();
        while let Some(((at_ms, _), event)) = world.queue.pop_first() {
            world.now_ms = at_ms;
            world.live(event);
            if world.fault.is_some() {
                break;
            }
        }
        let verdict = world.judge();
        (world.trace, verdict)
    }

    fn plan(&mut self) {
        self.after(0, Event::Born);
        for _ in 0..self.random.from(3, 25) {
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
        for at_s in 1..END_MS / 1000 {
            let pause_s = if at_s * 1000 < CALM_MS { 1 } else { 20 };
            if at_s % pause_s == 0 {
                self.at(at_s * 1000, Event::Tick);
            }
        }
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

    fn tell(&mut self, text: impl FnOnce() -> String) {
        let line = format!("{:>9} {}", self.now_ms, text());
        self.trace.push(line);
    }

    fn boot_ms(&self) -> u64 {
        self.now_ms - self.booted_ms
    }

    // --- What happens ---

    fn live(&mut self, event: Event) {
        let noisy = matches!(event, Event::Tick | Event::Wake(_));
        if !noisy {
            self.tell(|| format!("{event:?}"));
        }
        match event {
            Event::Submit => {
                let action = self.random.pick(&ACTIONS);
                let ttl_s = self.random.pick(&[5, 60, 3600, 36_000]);
                let run_timeout_s = self.random.pick(&[5, 60, 300]);
                self.hub.submit(self.now_ms, action, ttl_s, run_timeout_s);
            }
            Event::Cancel => {
                let ids: Vec<CommandId> = self.hub.deliveries.keys().copied().collect();
                if !ids.is_empty() {
                    let (id, force) = (self.random.pick(&ids), self.random.percent(30));
                    let frame = self.hub.cancel(id, force);
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
            Event::Born => self.born(),
            Event::DiskFills => {
                self.disk_full = true;
                let pause_ms = self.random.from(1000, 60_000);
                self.after(pause_ms, Event::DiskEmpties);
            }
            Event::DiskEmpties => self.disk_full = false,
            Event::Tick => {
                self.hub.tick(self.now_ms);
                if self.linked && self.engine.is_some() {
                    let frames = self.hub.send(self.now_ms);
                    self.write_frames(frames);
                }
            }
            Event::Arrives(life, ticket, id, report) => {
                let answer = self.hub.report(self.now_ms, id, &report);
                let lost = !self.linked || !self.calm() && self.random.percent(10);
                let answer = if lost { Answer::Failed { retry_after: None } } else { answer };
                let latency_ms = self.latency_ms();
                self.after(latency_ms, Event::Answered(life, ticket, answer));
            }
            Event::HandlerEnds(number) => self.handler_ends(number),
            of_life => self.engine_hears(of_life),
        }
    }

    fn engine_hears(&mut self, event: Event) {
        let (now_ms, current) = (self.boot_ms(), self.life);
        let written = match event {
            Event::Written(life) if life == current => Some(self.write_done()),
            _ => None,
        };
        let bytes = self.disk_bytes();
        let Some(engine) = &mut self.engine else { return };
        match event {
            Event::Hears(life, command) if life == current => {
                engine.handle_command(now_ms, *command);
            }
            Event::HearsCancel(life, cancel) if life == current => {
                engine.handle_cancel(now_ms, cancel);
            }
            Event::Written(life) if life == current => match written.flatten() {
                Some((None, true)) => engine.handle_compacted(Some(bytes)),
                Some((None, false)) => engine.handle_compacted(None),
                Some((Some(ticket), true)) => engine.handle_written(now_ms, ticket, bytes),
                Some((Some(ticket), false)) => engine.handle_disk_full(now_ms, ticket),
                None => {}
            },
            Event::Wake(life) if life == current => {
                self.wake_ms = None;
                engine.handle_timeout(now_ms);
            }
            Event::Swept(life, id) if life == current => {
                self.handlers.retain(|handler| handler.command != id);
                engine.handle_swept(now_ms, id);
            }
            Event::Answered(life, ticket, answer) if life == current => {
                engine.handle_answer(now_ms, ticket, answer);
            }
            Event::ShutDown(life) if life == current => engine.handle_shutdown(now_ms),
            _ => return,
        }
        self.act();
    }

    /// Does what the engine wants done. The process may die between any two things.
    fn act(&mut self) {
        while let Some(output) = self.engine.as_mut().and_then(Engine::poll_output) {
            if !self.calm() && self.random.percent(1) && self.random.percent(60) {
                let reboots = self.random.percent(40);
                return self.die(reboots);
            }
            self.tell(|| format!("  {output:?}"));
            let life = self.life;
            match output {
                Output::Write { ticket, records, .. } => {
                    self.writing.push_back((Some(ticket), records));
                    let ms = self.random.from(0, 200);
                    self.after(ms, Event::Written(life));
                }
                Output::Compact { records, .. } => {
                    self.writing.push_back((None, records));
                    self.after(200, Event::Written(life));
                }
                Output::Post { ticket, command, report } => self.post(ticket, command, report),
                Output::Start { event, .. } => self.start(&event),
                Output::Stop { command, stop } => self.stop(command, stop),
                Output::Sweep { command } => self.after(50, Event::Swept(life, command)),
            }
        }
        let Some(engine) = &self.engine else { return };
        if engine.is_over(self.boot_ms()) {
            self.tell(|| "the agent ends in good order".to_owned());
            return self.die(false);
        }
        let wake_ms = engine.poll_timeout();
        if wake_ms.is_some_and(|at_ms| at_ms <= self.boot_ms()) {
            self.fault = Some(format!("the engine spins: it asks to be woken at {wake_ms:?}"));
        }
        if let Some(at_ms) = wake_ms {
            let at_ms = (self.booted_ms + at_ms).max(self.now_ms + 1);
            if self.wake_ms.is_none_or(|planned| at_ms < planned) && at_ms < END_MS {
                self.wake_ms = Some(at_ms);
                self.at(at_ms, Event::Wake(self.life));
            }
        }
    }

    fn born(&mut self) {
        if self.engine.is_some() {
            return;
        }
        self.life += 1;
        let boot = BootId::from(format!("boot-{}", self.boots).as_str());
        let mut engine = Engine::new(Arc::new(ByName), boot, self.random.next());
        engine.no_start_record = self.no_start_record;
        self.disk.iter().for_each(|record| engine.restore(record.clone()));
        engine.begin(self.boot_ms(), self.disk_bytes());
        self.engine = Some(engine);
        self.wake_ms = None;
        let pause_ms = self.random.from(10, 5000);
        self.after(pause_ms, Event::Connect);
        if !self.calm() && self.random.percent(20) {
            let ms = self.random.from(1000, 100_000);
            self.after(ms, Event::ShutDown(self.life));
        }
        self.act();
    }

    fn die(&mut self, reboots: bool) {
        if self.engine.take().is_none() {
            return;
        }
        self.tell(|| format!("the agent dies{}", if reboots { " with its machine" } else { "" }));
        self.deaths += 1;
        for story in self.stories.values_mut().filter(|story| story.starts > 0) {
            story.deaths += 1;
        }
        self.linked = false;
        // Of what is on the way to the disk, any beginning may have got there.
        for _ in 0..self.random.from(0, self.writing.len() as u64) {
            self.write_done();
        }
        self.writing.clear();
        if reboots {
            self.boots += 1;
            self.booted_ms = self.now_ms;
            self.handlers.clear();
        } else if self.random.percent(50) {
            let life = self.life;
            self.handlers.retain(|handler| handler.life != life);
        }
        let pause_ms = if self.calm() { 100 } else { self.random.from(10, 30_000) };
        self.after(pause_ms, Event::Born);
    }

    // --- Disk, link and handlers ---

    /// The oldest of what is on the way gets to the disk, unless that is full.
    fn write_done(&mut self) -> Option<(Option<u64>, bool)> {
        let (ticket, records) = self.writing.pop_front()?;
        if self.disk_full && !self.calm() {
            return Some((ticket, false));
        }
        if ticket.is_none() {
            self.disk.clear();
        }
        self.disk.extend(records);
        Some((ticket, true))
    }

    /// Long enough a record for compactions to happen.
    fn disk_bytes(&self) -> u64 {
        self.disk.len() as u64 * 30_000
    }

    fn latency_ms(&mut self) -> u64 {
        self.random.pick(&[1, 5, 40, 300, 2000])
    }

    fn connect(&mut self) {
        let hub_ms = EPOCH_MS + self.now_ms;
        let (now_ms, max_in_flight) = (self.boot_ms(), self.hub.max_in_flight);
        let Some(engine) = &mut self.engine else { return };
        self.linked = true;
        engine.handle_hello(now_ms, hub_ms, max_in_flight);
        self.hub.tick(self.now_ms);
        let cancels = self.hub.reconnect();
        let commands = self.hub.send(self.now_ms);
        self.write_frames(cancels);
        self.write_frames(commands);
        self.act();
    }

    /// Frames may come twice, as over a link that is doubled, or not at all.
    fn write_frames(&mut self, frames: Vec<Frame>) {
        for frame in frames {
            let copies = match self.random.from(0, 9) {
                _ if self.calm() => 1,
                0 => 0,
                1 => 2,
                _ => 1,
            };
            for _ in 0..copies {
                let (life, latency_ms) = (self.life, self.latency_ms());
                match &frame {
                    Frame::Command(event) => {
                        self.after(latency_ms, Event::Hears(life, Box::new(event.clone())));
                    }
                    Frame::Cancel(event) => {
                        self.after(latency_ms, Event::HearsCancel(life, *event));
                    }
                }
            }
        }
    }

    fn post(&mut self, ticket: u64, command: CommandId, report: Report) {
        let story = self.stories.entry(command).or_default();
        if !story.revs.insert(report.rev.unwrap()) {
            self.fault = Some(format!("rev {:?} of {command} is used twice", report.rev));
        }
        let (life, latency_ms) = (self.life, self.latency_ms());
        let lost = !self.linked || !self.calm() && self.random.percent(10);
        if lost {
            let failed = Answer::Failed { retry_after: None };
            return self.after(latency_ms, Event::Answered(life, ticket, failed));
        }
        if self.random.percent(5) {
            // A doubled link: the copy comes whenever it comes, and nobody reads its answer.
            let late_ms = self.random.from(1, 20_000);
            let copy = Event::Arrives(0, ticket, command, Box::new(report.clone()));
            self.after(late_ms, copy);
        }
        self.after(latency_ms, Event::Arrives(life, ticket, command, Box::new(report)));
    }

    fn start(&mut self, event: &CommandEvent) {
        let story = self.stories.entry(event.id).or_default();
        story.starts += 1;
        // The ttl is told in whole seconds, rounded up, and takes its time to arrive.
        let late_ms = (EPOCH_MS + self.now_ms).saturating_sub(event.expires_at.unix_ms());
        if late_ms > 4000 {
            self.fault = Some(format!("{} is started {late_ms} ms after its time", event.id));
        }
        if self.handlers.iter().any(|handler| handler.command == event.id) {
            self.fault = Some(format!("{} runs beside itself", event.id));
        }
        self.number += 1;
        let number = self.number;
        self.handlers.push(Handler { command: event.id, number, life: self.life });
        let ms = self.random.pick(&[1, 50, 3000, 40_000]);
        self.after(ms, Event::HandlerEnds(number));
    }

    fn handler_ends(&mut self, number: u64) {
        let Some(at) = self.handlers.iter().position(|handler| handler.number == number) else {
            return;
        };
        let handler = self.handlers.remove(at);
        self.stories.entry(handler.command).or_default().finished += 1;
        if handler.life == self.life && self.engine.is_some() {
            let outcome = Outcome { stdout: Some("done\n".into()), ..Outcome::of(End::Succeeded) };
            let now_ms = self.boot_ms();
            if let Some(engine) = &mut self.engine {
                engine.handle_ended(now_ms, handler.command, Ended::Finished(outcome));
            }
            self.act();
        }
    }

    fn stop(&mut self, command: CommandId, stop: Stop) {
        let life = self.life;
        let found = |h: &Handler| h.command == command && h.life == life;
        if stop == Stop::Shutdown && self.random.percent(70) || !self.handlers.iter().any(found) {
            return;
        }
        self.handlers.retain(|handler| !found(handler));
        let outcome = match stop {
            Stop::Cancel => Outcome::of(End::Cancelled),
            Stop::Shutdown | Stop::Kill => Outcome::failed("interrupted", "shutdown"),
        };
        let now_ms = self.boot_ms();
        if let Some(engine) = &mut self.engine {
            engine.handle_ended(now_ms, command, Ended::Stopped(outcome));
        }
    }
}
