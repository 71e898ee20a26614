//! The disk, the link, the handlers and the life of the agent in the simulated world.

use super::super::fixture::{cancelled, succeeded};
use super::super::judge::LostReport;
use super::*;
use crate::agent::run::Completion;

impl World {
    /// Applies the oldest pending write, unless the disk is full.
    pub(super) fn write_done(&mut self) -> Option<(Option<u64>, bool)> {
        let work = self.writing.pop_front()?;
        let is_full = self.disk_full && !self.calm();
        match work {
            DiskTask::Compact(_) if is_full => Some((None, false)),
            DiskTask::Append(ticket, records) if is_full => {
                for record in &records {
                    // The write is refused, though a compaction may have contained the record before.
                    if let Record::Received(received) = record {
                        self.order.settled(received.event.id);
                    }
                }
                Some((Some(ticket), false))
            }
            DiskTask::Compact(snapshot) => {
                self.compactions += 1;
                let before_bytes = std::mem::take(&mut self.disk_bytes);
                self.disk.clear();
                self.order.forget_all();
                snapshot.lines().for_each(|line| self.write_line(line));
                if self.disk_bytes > before_bytes {
                    self.fault =
                        Some(format!("{before_bytes} are compacted to {}", self.disk_bytes));
                }
                Some((None, true))
            }
            DiskTask::Append(ticket, records) => {
                self.write_line(records);
                Some((Some(ticket), true))
            }
        }
    }

    pub(super) fn write_line(&mut self, records: Vec<Record>) {
        records.iter().for_each(|record| self.order.on_disk(record));
        self.disk_bytes += 10 + serde_json::to_vec(&records).unwrap().len() as u64;
        self.disk.extend(records);
        if self.disk_bytes > self.bounds.journal_bytes {
            self.fault = Some(format!("the journal is {} bytes long", self.disk_bytes));
        }
    }

    /// A failed report, for an unknown time or for as long as the hub requests.
    pub(super) fn failed(&mut self, id: CommandId) -> ReportAnswer {
        let after_s = self.random.pick(&[None, None, None, Some(0), Some(2), Some(30)]);
        self.note_lost(id, after_s.unwrap_or_default() * 1000, after_s.is_some());
        ReportAnswer::Failed { retry_after: after_s.map(Duration::from_secs) }
    }

    fn note_lost(&mut self, id: CommandId, wait_ms: u64, asked: bool) {
        let lost = LostReport { at_ms: self.now_ms, wait_ms, asked };
        self.command_runs.entry(id).or_default().lost.push(lost);
    }

    pub(super) fn latency_ms(&mut self) -> u64 {
        self.random.pick(&[1, 5, 40, 300, 2000])
    }

    pub(super) fn connect(&mut self) {
        let clocks = (self.hub.clock_ms(self.now_ms), self.device_ms());
        let (now_ms, max_in_flight) = (self.boot_ms(), self.hub.max_in_flight);
        let Some(engine) = &mut self.engine else { return };
        self.linked = true;
        engine.handle_hello(now_ms, clocks, max_in_flight);
        self.hub.tick(self.now_ms);
        let cancels = self.hub.reconnect();
        let commands = self.hub.send(self.now_ms);
        self.write_frames(cancels);
        self.write_frames(commands);
        self.act();
    }

    /// A frame may be doubled or lost.
    pub(super) fn write_frames(&mut self, frames: Vec<Frame>) {
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
                        self.after(
                            latency_ms,
                            Event::CommandArrives(life, Box::new(event.clone())),
                        );
                    }
                    Frame::Cancel(event) => {
                        self.after(latency_ms, Event::CancelArrives(life, *event));
                    }
                }
            }
        }
    }

    pub(super) fn post(&mut self, ticket: u64, command: CommandId, report: Report) {
        if report.state.is_terminal() {
            self.order.settled(command);
        }
        let runs_of = self.command_runs.entry(command).or_default();
        if !runs_of.revs.insert(report.rev.unwrap()) {
            self.fault = Some(format!("rev {:?} of {command} is used twice", report.rev));
        }
        let (life, latency_ms) = (self.life, self.latency_ms());
        let lost = !self.linked || !self.calm() && self.random.percent(10);
        if lost && self.random.percent(40) {
            // Dropped silently: the report fails when its timeout ends.
            let limit = self.engine.as_ref().map(|engine| engine.post_limit(command));
            let limit_ms = limit.map_or(0, |limit| limit.as_millis() as u64);
            self.note_lost(command, limit_ms, false);
            let nothing = ReportAnswer::Failed { retry_after: None };
            return self.after(limit_ms, Event::Answered(life, ticket, nothing));
        }
        if lost {
            let failed = self.failed(command);
            return self.after(latency_ms, Event::Answered(life, ticket, failed));
        }
        if self.random.percent(5) {
            // A doubled request: the copy arrives at any time, and its answer is not read.
            let late_ms = self.random.from(1, 20_000);
            let copy = Event::ReportArrives(0, ticket, command, Box::new(report.clone()));
            self.after(late_ms, copy);
        }
        self.after(latency_ms, Event::ReportArrives(life, ticket, command, Box::new(report)));
    }

    pub(super) fn start(&mut self, event: &CommandEvent) {
        self.command_runs.entry(event.id).or_default().starts += 1;
        if let Err(fault) = self.judge_start(event) {
            self.fault.get_or_insert(fault);
        }
        self.number += 1;
        let number = self.number;
        self.handlers.push(Handler { command: event.id, number, life: self.life });
        let ms = self.random.pick(&[1, 50, 3000, 40_000]);
        self.after(ms, Event::HandlerExits(number));
    }

    pub(super) fn handler_exits(&mut self, number: u64) {
        let Some(at) = self.handlers.iter().position(|handler| handler.number == number) else {
            return;
        };
        let handler = self.handlers.remove(at);
        self.command_runs.entry(handler.command).or_default().finished += 1;
        if handler.life == self.life && self.engine.is_some() {
            let completion = succeeded("done\n");
            let now_ms = self.boot_ms();
            if let Some(engine) = &mut self.engine {
                engine.handle_ended(now_ms, handler.command, RunEnd::Finished(completion));
            }
            self.act();
        }
    }

    pub(super) fn stop(&mut self, command: CommandId, stop: Stop) {
        let life = self.life;
        let found = |h: &Handler| h.command == command && h.life == life;
        if stop == Stop::Shutdown && self.random.percent(70) || !self.handlers.iter().any(found) {
            return;
        }
        self.handlers.retain(|handler| !found(handler));
        let completion = match stop {
            Stop::Cancel => cancelled(""),
            Stop::Shutdown | Stop::Kill => Completion::failed("interrupted", "shutdown"),
        };
        let now_ms = self.boot_ms();
        if let Some(engine) = &mut self.engine {
            engine.handle_ended(now_ms, command, RunEnd::Stopped(completion));
        }
    }

    pub(super) fn start_agent(&mut self) {
        if self.engine.is_some() {
            return;
        }
        self.life += 1;
        let boot = BootId::from(format!("boot-{}", self.boots).as_str());
        let list = List {
            concurrency: self.random.pick(&[1, 1, 2]),
            off: self.random.percent(5).then_some("rerun"),
            narrow: !self.calm() && self.random.percent(5),
        };
        let mut engine = Engine::new(Arc::new(list), boot, self.random.next());
        (engine.bounds, engine.no_start_record) =
            (self.bounds, self.bug == Some(InjectedBug::NoStartRecord));
        engine.time.trusts_hub = self.bug == Some(InjectedBug::TrustsHubClock);
        self.list = list;
        self.order.new_life();
        self.disk.iter().for_each(|record| engine.restore(record.clone()));
        engine.begin(self.boot_ms(), self.disk_bytes);
        self.engine = Some(engine);
        self.clocks.new_life();
        self.wake_ms = None;
        let pause_ms = self.random.from(10, 5000);
        self.after(pause_ms, Event::Connect);
        if !self.calm() && self.random.percent(20) {
            let ms = self.random.from(1000, 100_000);
            self.after(ms, Event::ShutDown(self.life));
        }
        self.act();
    }

    pub(super) fn die(&mut self, reboots: bool) {
        if self.engine.take().is_none() {
            return;
        }
        self.log(|| format!("the agent dies{}", if reboots { " with its machine" } else { "" }));
        self.deaths += 1;
        for runs_of in self.command_runs.values_mut().filter(|runs_of| runs_of.starts > 0) {
            runs_of.deaths += 1;
        }
        self.linked = false;
        // Of the pending writes, any first part may be on disk.
        for _ in 0..self.random.from(0, self.writing.len() as u64) {
            self.write_done();
        }
        self.writing.clear();
        if reboots {
            self.boots += 1;
            self.booted_ms = self.now_ms;
            self.reset_device_clock();
            self.handlers.clear();
        } else if self.random.percent(50) {
            let life = self.life;
            self.handlers.retain(|handler| handler.life != life);
        }
        let pause_ms = if self.calm() { 100 } else { self.random.from(10, 30_000) };
        self.after(pause_ms, Event::Starts);
    }
}
