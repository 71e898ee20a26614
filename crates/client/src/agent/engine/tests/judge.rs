//! The verdict on a history: what the hub shows must be what happened at the device.

use std::collections::BTreeSet;

use bellwire_proto::State;

use super::world::World;

/// What happened, in numbers.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) starts: usize,
    pub(super) deaths: usize,
    pub(super) interrupted: usize,
    pub(super) reruns: usize,
    pub(super) succeeded_by_reboot: usize,
}

impl Told {
    pub(super) fn add(&mut self, other: &Self) {
        self.starts += other.starts;
        self.deaths += other.deaths;
        self.interrupted += other.interrupted;
        self.reruns += other.reruns;
        self.succeeded_by_reboot += other.succeeded_by_reboot;
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
}

impl World {
    pub(super) fn judge(&mut self) -> Result<Told, String> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        let mut told = Told { deaths: self.deaths, ..Told::default() };
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
            let interrupted = state == State::Failed && code == Some("interrupted");
            let by_reboot = action == "succeed" && story.finished == 0 && self.boots > 1;
            let holds = story.starts <= starts_max
                && match state {
                    State::Succeeded => story.finished > 0 || by_reboot,
                    State::Failed => interrupted && self.deaths > 0,
                    State::Rejected => story.starts == 0,
                    _ => true,
                };
            if !holds {
                return Err(seen);
            }
            told.starts += story.starts;
            told.reruns += story.starts.saturating_sub(1);
            told.interrupted += usize::from(interrupted);
            told.succeeded_by_reboot += usize::from(state == State::Succeeded && by_reboot);
        }
        Ok(told)
    }
}
