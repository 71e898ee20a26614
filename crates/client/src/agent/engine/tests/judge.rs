//! The verdict on a history: the hub's states match what happened at the device, commands ran in the order of the
//! hub and within the concurrency limits, and the journal stayed within its limit.

use std::collections::BTreeSet;

use bellwire_proto::stream::CommandEvent;
use bellwire_proto::{CommandId, DeliveryState};

use super::world::World;
use crate::agent::journal::Record;

/// Counts of what happened.
#[derive(Debug, Default)]
pub(super) struct RunReport {
    pub(super) starts: usize,
    pub(super) deaths: usize,
    pub(super) interrupted: usize,
    pub(super) reruns: usize,
    pub(super) succeeded_by_reboot: usize,
    pub(super) timed_out: usize,
    /// Rejected because the journal or the disk was full.
    pub(super) full: usize,
    pub(super) compactions: usize,
    /// Stopped by a forced cancel.
    pub(super) cancelled: usize,
    /// Forgotten because of their age, and dropped because they were rejected for long.
    pub(super) forgotten: usize,
    pub(super) dropped: usize,
}

impl RunReport {
    pub(super) fn add(&mut self, other: &Self) {
        self.starts += other.starts;
        self.deaths += other.deaths;
        self.interrupted += other.interrupted;
        self.reruns += other.reruns;
        self.succeeded_by_reboot += other.succeeded_by_reboot;
        self.timed_out += other.timed_out;
        self.full += other.full;
        self.compactions += other.compactions;
        self.cancelled += other.cancelled;
        self.forgotten += other.forgotten;
        self.dropped += other.dropped;
    }
}

/// What happened to a command at the device.
#[derive(Default)]
pub(super) struct CommandRuns {
    pub(super) starts: usize,
    pub(super) finished: usize,
    /// Crashes of the agent since its first start.
    pub(super) deaths: usize,
    pub(super) revs: BTreeSet<u64>,
    pub(super) lost: Vec<LostReport>,
}

/// A report that was lost, or whose answer was.
pub(super) struct LostReport {
    pub(super) at_ms: u64,
    /// How long no other could be expected: the hub had requested the wait, or the network had dropped the report.
    pub(super) wait_ms: u64,
    pub(super) asked: bool,
}

/// What is known from the disk and the agent about the order in which commands may start.
#[derive(Default)]
pub(super) struct StartOrder {
    /// Commands on disk without an end.
    open: BTreeSet<CommandId>,
    /// Since the agent started: commands that were started, and commands that have ended or were refused.
    started: BTreeSet<CommandId>,
    settled: BTreeSet<CommandId>,
}

impl StartOrder {
    pub(super) fn new_life(&mut self) {
        self.started.clear();
        self.settled.clear();
    }

    /// A compaction begins: what it does not contain is forgotten.
    pub(super) fn forget_all(&mut self) {
        self.open.clear();
    }

    pub(super) fn on_disk(&mut self, record: &Record) {
        match record {
            Record::Received(received) => drop(self.open.insert(received.event.id)),
            Record::Ended { command, .. }
            | Record::Acked { command }
            | Record::Done { command, .. } => drop(self.open.remove(command)),
            _ => {}
        }
    }

    /// For the agent it has ended, on disk or not.
    pub(super) fn settled(&mut self, id: CommandId) {
        self.settled.insert(id);
    }

    /// The command that is overtaken if this one starts now. Here the ids have the order of the hub.
    fn overtaken(&self, id: CommandId) -> Option<&CommandId> {
        let mut before = self.open.range(..id);
        before.find(|id| !self.started.contains(*id) && !self.settled.contains(*id))
    }
}

impl World {
    /// Whether a handler may start now.
    pub(super) fn judge_start(&mut self, event: &CommandEvent) -> Result<(), String> {
        let id = event.id;
        // `ttl_s` is in whole seconds, rounded up, and takes its time to arrive.
        let expires_ms = self.hub.deliveries[&id].expires_ms;
        // After a reboot the hub's clock decides, and setting it back prolongs what it stamped before.
        let back_ms = if self.boots > 1 { self.clocks.hub_backward_ms } else { 0 };
        let late_ms = self.now_ms.saturating_sub(expires_ms);
        if late_ms > 4000 + back_ms {
            return Err(format!("{id} is started {late_ms} ms after its time"));
        }
        if self.handlers.iter().any(|handler| handler.command == id) {
            return Err(format!("{id} runs twice at the same time"));
        }
        if let Some(first) = self.order.overtaken(id) {
            return Err(format!("{id} overtakes {first}"));
        }
        self.order.started.insert(id);
        let mine = self.handlers.iter().filter(|handler| handler.life == self.life).count();
        if mine >= self.hub.max_in_flight {
            return Err(format!("{id} is one more than may run at once"));
        }
        // The orphan processes of a `succeed` are not killed.
        let counts = |life| life == self.life || event.action.as_str() != "succeed";
        let same = |id: &CommandId| self.hub.deliveries[id].event.action == event.action;
        let beside = self.handlers.iter().filter(|h| same(&h.command) && counts(h.life)).count();
        if beside >= self.list.concurrency {
            return Err(format!("{id} runs at the same time as {beside} of its action"));
        }
        Ok(())
    }

    /// Only a dead agent or a dead link may explain that no report arrived for so long.
    pub(super) fn judge_timeouts(&mut self) -> Result<(), String> {
        for (id, last_report_ms) in std::mem::take(&mut self.hub.timed_out) {
            if self.hub.rejects_until_ms.contains_key(&id) {
                continue;
            }
            let run_timeout_ms = self.hub.deliveries[&id].event.run_timeout_s * 1000;
            // A keepalive is due after a third of it, and takes its time; so does the tick of this world.
            let keepalive_ms = (run_timeout_ms / 3).min(10_000) + 5000;
            let within = |from_ms: u64, to_ms: u64| {
                to_ms.min(self.now_ms).saturating_sub(from_ms.max(last_report_ms))
            };
            let silent = self.silent.iter().map(|(from, to)| within(*from, *to)).sum::<u64>()
                + self.silent_since_ms.map_or(0, |from| within(from, self.now_ms));
            let lost = self.command_runs.get(&id).into_iter().flat_map(|runs_of| &runs_of.lost);
            let lost: Vec<_> = lost.filter(|lost| lost.at_ms + 5000 >= last_report_ms).collect();
            let lost_ms = match lost[..] {
                // A single lost report is repeated before the run clock ends, however it was lost.
                [LostReport { asked: false, .. }] if silent == 0 => 0,
                _ => lost.iter().map(|lost| lost.wait_ms + keepalive_ms).sum(),
            };
            if silent + lost_ms + keepalive_ms < run_timeout_ms {
                return Err(format!(
                    "{id} is timed out after {run_timeout_ms} ms, since {last_report_ms}, though its agent lived: mute for {silent} ms"
                ));
            }
        }
        Ok(())
    }

    pub(super) fn judge(&mut self) -> Result<RunReport, String> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        self.judge_retention()?;
        let mut report = RunReport {
            deaths: self.deaths,
            compactions: self.compactions,
            forgotten: self.clocks.forgotten,
            dropped: self.clocks.dropped,
            ..RunReport::default()
        };
        for (id, delivery) in &self.hub.deliveries {
            let none = CommandRuns::default();
            let runs_of = self.command_runs.get(id).unwrap_or(&none);
            let (state, action) = (delivery.state, delivery.event.action.as_str());
            let code = delivery.error.as_deref();
            let seen = format!(
                "{id} ({action}) is {state} {code:?}; it was started {} times, finished {}, deaths {}, boots {}",
                runs_of.starts, runs_of.finished, runs_of.deaths, self.boots
            );
            if !state.is_terminal() {
                return Err(format!("it never ends: {seen}"));
            }
            let starts_max = match action {
                "rerun" => (runs_of.deaths + 1).min(4),
                "unlisted" => 0,
                _ => 1,
            };
            let interrupted = state == DeliveryState::Failed && code == Some("interrupted");
            let by_reboot = action == "succeed" && runs_of.finished == 0 && self.boots > 1;
            let holds = runs_of.starts <= starts_max
                && match state {
                    DeliveryState::Succeeded => runs_of.finished > 0 || by_reboot,
                    // Or the hub had ended it while the agent was dead.
                    DeliveryState::Failed => interrupted && self.deaths > 0,
                    DeliveryState::Rejected => runs_of.starts == 0,
                    _ => true,
                };
            if !holds {
                return Err(seen);
            }
            report.starts += runs_of.starts;
            report.reruns += runs_of.starts.saturating_sub(1);
            report.interrupted += usize::from(interrupted);
            report.timed_out += usize::from(state == DeliveryState::TimedOut);
            report.full += usize::from(code == Some("journal_full"));
            report.cancelled +=
                usize::from(state == DeliveryState::Cancelled && runs_of.starts > 0);
            report.succeeded_by_reboot +=
                usize::from(state == DeliveryState::Succeeded && by_reboot);
        }
        Ok(report)
    }
}
