//! An engine for tests of a single rule, with the disk and the hub controlled by the test.

use std::sync::Arc;

use bellwire_proto::{Outcome, Seq, Timestamp};

use super::world::List;
use super::*;
use crate::agent::run::{Completion, CompletionState};

/// An engine whose disk answers at once and whose hub answers as the test says.
pub(super) struct Fixture {
    pub(super) engine: Engine,
    pub(super) now_ms: u64,
    /// The length of the journal that the engine is given.
    pub(super) bytes: u64,
    pub(super) disk: Vec<Record>,
    pub(super) disk_full: bool,
    /// The reservation of the last append.
    pub(super) reserve: Reserve,
    pub(super) compactions: usize,
    pub(super) posts: VecDeque<(u64, CommandId, Report)>,
    pub(super) started: Vec<CommandId>,
    /// The `attempt` that each of them received.
    pub(super) attempts: Vec<u32>,
    pub(super) stopped: Vec<(CommandId, Stop)>,
    pub(super) orphan_kills: Vec<CommandId>,
}

pub(super) const HUB_MS: u64 = 1_800_000_000_000;

impl Fixture {
    pub(super) fn new() -> Self {
        Self::after(Vec::new(), "boot-1", 1000)
    }

    /// After a restart on this disk.
    pub(super) fn after(disk: Vec<Record>, boot: &str, now_ms: u64) -> Self {
        Self::with(List::default(), disk, boot, now_ms, 0)
    }

    /// With another list of actions, and another length of the journal.
    pub(super) fn with(list: List, disk: Vec<Record>, boot: &str, now_ms: u64, bytes: u64) -> Self {
        let mut engine = Engine::new(Arc::new(list), boot.into(), 7);
        disk.iter().for_each(|record| engine.restore(record.clone()));
        engine.begin(now_ms, bytes);
        let mut fixture = Self {
            engine,
            now_ms,
            bytes,
            disk,
            disk_full: false,
            reserve: Reserve::default(),
            compactions: 0,
            posts: VecDeque::new(),
            started: Vec::new(),
            attempts: Vec::new(),
            stopped: Vec::new(),
            orphan_kills: Vec::new(),
        };
        fixture.act();
        fixture
    }

    pub(super) fn connected() -> Self {
        let mut fixture = Self::new();
        fixture.hello(HUB_MS, 1);
        fixture
    }

    /// From a hub whose clock agrees with the device's.
    pub(super) fn hello(&mut self, hub_ms: u64, max_in_flight: usize) {
        self.hello_with_clocks((hub_ms, hub_ms), max_in_flight);
    }

    /// With what the hub's clock shows and the device's own.
    pub(super) fn hello_with_clocks(&mut self, clocks: (u64, u64), max_in_flight: usize) {
        self.engine.handle_hello(self.now_ms, clocks, max_in_flight);
        self.act();
    }

    pub(super) fn act(&mut self) {
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Write { ticket, .. } if self.disk_full => {
                    self.engine.handle_disk_full(self.now_ms, ticket);
                }
                Output::Write { ticket, records, reserve } => {
                    self.reserve = reserve;
                    self.disk.extend(records);
                    self.engine.handle_written(self.now_ms, ticket, self.bytes);
                }
                Output::Compact { snapshot, .. } => {
                    self.disk = snapshot.lines().flatten().collect();
                    self.bytes = self.disk.len() as u64 * 150;
                    self.compactions += 1;
                    self.engine.handle_compacted(self.now_ms, Some(self.bytes));
                }
                Output::Post { ticket, command, report } => {
                    self.posts.push_back((ticket, command, report));
                }
                Output::Start { event, .. } => {
                    self.started.push(event.id);
                    self.attempts.push(event.attempt);
                }
                Output::Stop { command, stop } => self.stopped.push((command, stop)),
                Output::KillOrphans { command } => self.orphan_kills.push(command),
            }
        }
    }

    pub(super) fn sleep(&mut self, ms: u64) {
        self.now_ms += ms;
        self.engine.handle_timeout(self.now_ms);
        self.act();
    }

    pub(super) fn command(&mut self, n: u64, action: &str) -> CommandId {
        let event = event(n, action);
        let id = event.id;
        self.engine.handle_command(self.now_ms, event);
        self.act();
        id
    }

    pub(super) fn cancel(&mut self, n: u64) -> CommandId {
        let CommandEvent { id, seq, .. } = event(n, "fail");
        self.engine.handle_cancel(self.now_ms, CancelEvent { id, seq });
        self.act();
        id
    }

    /// Answers the next report, which must have this command and state.
    pub(super) fn answer(
        &mut self,
        id: CommandId,
        state: ReportState,
        answer: ReportAnswer,
    ) -> Report {
        let next = self.posts.pop_front().expect("a report");
        let (ticket, command, report) = next;
        assert_eq!((command, report.state), (id, state), "{report:?}");
        self.engine.handle_answer(self.now_ms, ticket, answer);
        self.act();
        report
    }

    pub(super) fn confirmed(
        &mut self,
        id: CommandId,
        state: ReportState,
        delivery: DeliveryState,
    ) -> Report {
        let rev = self.posts.front().and_then(|(_, _, report)| report.rev).unwrap();
        self.answer(id, state, ReportAnswer::Delivery { state: delivery, rev })
    }

    /// Brings a command up to a running handler.
    pub(super) fn running(&mut self, n: u64, action: &str) -> CommandId {
        let id = self.command(n, action);
        self.confirmed(id, ReportState::Accepted, DeliveryState::Accepted);
        assert_eq!(self.started.last(), Some(&id));
        self.confirmed(id, ReportState::Running, DeliveryState::Running);
        id
    }

    pub(super) fn ended(&mut self, id: CommandId, ended: RunEnd) {
        self.engine.handle_ended(self.now_ms, id, ended);
        self.act();
    }

    pub(super) fn succeeded(&mut self, id: CommandId) {
        self.ended(id, RunEnd::Finished(succeeded("out\n")));
    }

    pub(super) fn orphans_killed(&mut self, id: CommandId) {
        self.engine.handle_orphans_killed(self.now_ms, id);
        self.act();
    }
}

pub(super) fn event(n: u64, action: &str) -> CommandEvent {
    CommandEvent {
        id: CommandId::from_parts(n, [n as u8; 10]),
        seq: n.to_string().parse::<Seq>().unwrap(),
        action: action.parse().unwrap(),
        data: Json::null(),
        attempt: 1,
        created_at: Timestamp::from_unix_ms(HUB_MS),
        expires_at: Timestamp::from_unix_ms(HUB_MS + 3_600_000),
        ttl_s: 3600,
        run_timeout_s: 300,
    }
}

pub(super) fn code(report: &Report) -> Option<&str> {
    report.outcome.error.as_ref().map(|error| error.code.as_str())
}

/// The completion of a handler with this output.
pub(super) fn succeeded(stdout: &str) -> Completion {
    Completion { state: CompletionState::Succeeded, outcome: output(stdout) }
}

/// The completion of a handler that a cancel stopped.
pub(super) fn cancelled(stdout: &str) -> Completion {
    Completion { state: CompletionState::Cancelled, outcome: output(stdout) }
}

fn output(stdout: &str) -> Outcome {
    Outcome { stdout: Some(stdout.to_owned()), ..Outcome::default() }
}

pub(super) const FAILED: ReportAnswer = ReportAnswer::Failed { retry_after: None };
