//! The verdict on a history: what the hub shows must be what happened at the device, in the order of
//! the hub, no more at once than may be, and in a journal that keeps its bound.

use std::collections::BTreeSet;

use bellwire_proto::stream::CommandEvent;
use bellwire_proto::{CommandId, DeliveryState};

use super::hub::EPOCH_MS;
use super::world::World;
use crate::agent::journal::Record;

/// What happened, in numbers.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) starts: usize,
    pub(super) deaths: usize,
    pub(super) interrupted: usize,
    pub(super) reruns: usize,
    pub(super) succeeded_by_reboot: usize,
    pub(super) timed_out: usize,
    /// Rejected since the journal or the disk was full.
    pub(super) full: usize,
    pub(super) compactions: usize,
    /// Stopped since an operator had ended it by force.
    pub(super) cancelled: usize,
}

impl Told {
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
    }
}

/// What became of a command at the device.
#[derive(Default)]
pub(super) struct Story {
    pub(super) starts: usize,
    pub(super) finished: usize,
    /// Deaths of the agent since its first start.
    pub(super) deaths: usize,
    pub(super) revs: BTreeSet<u64>,
    pub(super) lost: Vec<Lost>,
}

/// A report that was lost, or its answer was.
pub(super) struct Lost {
    pub(super) at_ms: u64,
    /// How long nothing could be expected then: the hub had asked for that, or the network had swallowed it.
    pub(super) wait_ms: u64,
    pub(super) asked: bool,
}

/// What the disk and the agent say of the commands, for the order in which they start.
#[derive(Default)]
pub(super) struct Order {
    /// Those on disk without an end.
    open: BTreeSet<CommandId>,
    /// In this life: those that were started, and those that were ended or refused.
    started: BTreeSet<CommandId>,
    settled: BTreeSet<CommandId>,
}

impl Order {
    pub(super) fn new_life(&mut self) {
        self.started.clear();
        self.settled.clear();
    }

    /// A compaction begins: what is not in it is forgotten.
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

    /// It is over as far as the agent is concerned, be that on disk or not.
    pub(super) fn settled(&mut self, id: CommandId) {
        self.settled.insert(id);
    }

    /// The one that is overtaken if this starts now. The ids are in the order of the hub here.
    fn overtaken(&self, id: CommandId) -> Option<&CommandId> {
        let mut before = self.open.range(..id);
        before.find(|id| !self.started.contains(*id) && !self.settled.contains(*id))
    }
}

impl World {
    /// Whether a handler may start now.
    pub(super) fn judge_start(&mut self, event: &CommandEvent) -> Result<(), String> {
        let id = event.id;
        // The ttl is told in whole seconds, rounded up, and takes its time to arrive.
        let late_ms = (EPOCH_MS + self.now_ms).saturating_sub(event.expires_at.unix_ms());
        if late_ms > 4000 {
            return Err(format!("{id} is started {late_ms} ms after its time"));
        }
        if self.handlers.iter().any(|handler| handler.command == id) {
            return Err(format!("{id} runs beside itself"));
        }
        if let Some(first) = self.order.overtaken(id) {
            return Err(format!("{id} overtakes {first}"));
        }
        self.order.started.insert(id);
        let mine = self.handlers.iter().filter(|handler| handler.life == self.life).count();
        if mine >= self.hub.max_in_flight {
            return Err(format!("{id} is one more than may run at once"));
        }
        // What a `succeed` left behind is not killed.
        let counts = |life| life == self.life || event.action.as_str() != "succeed";
        let same = |id: &CommandId| self.hub.deliveries[id].event.action == event.action;
        let beside = self.handlers.iter().filter(|h| same(&h.command) && counts(h.life)).count();
        if beside >= self.list.concurrency {
            return Err(format!("{id} runs beside {beside} of its action"));
        }
        Ok(())
    }

    /// Only a dead agent or a dead link explains that no sign came for so long.
    pub(super) fn judge_timeouts(&mut self) -> Result<(), String> {
        for (id, heard_ms) in std::mem::take(&mut self.hub.timed_out) {
            let run_timeout_ms = self.hub.deliveries[&id].event.run_timeout_s * 1000;
            // A sign is due after a third of it, and takes its time; so does the tick of this world.
            let sign_ms = (run_timeout_ms / 3).min(10_000) + 5000;
            let within = |from_ms: u64, to_ms: u64| {
                to_ms.min(self.now_ms).saturating_sub(from_ms.max(heard_ms))
            };
            let mute = self.mute.iter().map(|(from, to)| within(*from, *to)).sum::<u64>()
                + self.mute_since_ms.map_or(0, |from| within(from, self.now_ms));
            let lost = self.stories.get(&id).into_iter().flat_map(|story| &story.lost);
            let lost: Vec<_> = lost.filter(|lost| lost.at_ms + 5000 >= heard_ms).collect();
            let lost_ms = match lost[..] {
                // One alone is made good before the clock is over, however it was lost.
                [Lost { asked: false, .. }] if mute == 0 => 0,
                _ => lost.iter().map(|lost| lost.wait_ms + sign_ms).sum(),
            };
            if mute + lost_ms + sign_ms < run_timeout_ms {
                return Err(format!(
                    "{id} is timed out after {run_timeout_ms} ms, since {heard_ms}, though its agent lived: mute for {mute} ms"
                ));
            }
        }
        Ok(())
    }

    pub(super) fn judge(&mut self) -> Result<Told, String> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        let mut told =
            Told { deaths: self.deaths, compactions: self.compactions, ..Told::default() };
        for (id, delivery) in &self.hub.deliveries {
            let none = Story::default();
            let story = self.stories.get(id).unwrap_or(&none);
            let (state, action) = (delivery.state, delivery.event.action.as_str());
            let code = delivery.error.as_deref();
            let seen = format!(
                "{id} ({action}) is {state} {code:?}; it was started {} times, finished {}, deaths {}, boots {}",
                story.starts, story.finished, story.deaths, self.boots
            );
            if !state.is_terminal() {
                return Err(format!("it never ends: {seen}"));
            }
            let starts_max = match action {
                "rerun" => (story.deaths + 1).min(4),
                "unlisted" => 0,
                _ => 1,
            };
            let interrupted = state == DeliveryState::Failed && code == Some("interrupted");
            let by_reboot = action == "succeed" && story.finished == 0 && self.boots > 1;
            let holds = story.starts <= starts_max
                && match state {
                    DeliveryState::Succeeded => story.finished > 0 || by_reboot,
                    // One that the hub had ended while its agent was dead, among others.
                    DeliveryState::Failed => interrupted && self.deaths > 0,
                    DeliveryState::Rejected => story.starts == 0,
                    _ => true,
                };
            if !holds {
                return Err(seen);
            }
            told.starts += story.starts;
            told.reruns += story.starts.saturating_sub(1);
            told.interrupted += usize::from(interrupted);
            told.timed_out += usize::from(state == DeliveryState::TimedOut);
            told.full += usize::from(code == Some("journal_full"));
            told.cancelled += usize::from(state == DeliveryState::Cancelled && story.starts > 0);
            told.succeeded_by_reboot += usize::from(state == DeliveryState::Succeeded && by_reboot);
        }
        Ok(told)
    }
}
