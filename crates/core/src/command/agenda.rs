//! Which commands to many have something to be done now, and at which time the others have.
//!
//! There may be hundreds of rollouts, paused for weeks, and every call of the core asks what comes next: what waits is found
//! here, so that no call walks over all of them. An entry is only a hint: what it leads to is decided by the job.

use std::collections::{BTreeMap, BTreeSet};

use bellwire_proto::{Seq, Timestamp};

use crate::rollout::Deadline;
use crate::time::{Instant, Now, earliest};

#[derive(Debug, Default)]
pub(super) struct Agenda {
    /// Jobs of which targets may be expanded or deliveries cancelled.
    active: BTreeSet<Seq>,
    /// Rollouts that have changed since they were last asked for a decision.
    undecided: BTreeSet<Seq>,
    /// What the other rollouts wait for, if it is a time; the same by time.
    deadlines: BTreeMap<Seq, Deadline>,
    by_instant: BTreeSet<(Instant, Seq)>,
    by_wall: BTreeSet<(Timestamp, Seq)>,
    /// The wall clock when the rollouts were last asked.
    wall: Option<Timestamp>,
}

impl Agenda {
    /// A job has changed.
    pub(super) fn put(&mut self, command: Seq, is_active: bool, is_rollout: bool) {
        if is_active {
            self.active.insert(command);
        } else {
            self.active.remove(&command);
        }
        if is_rollout {
            self.undecided.insert(command);
        } else {
            self.forget_rollout(command);
        }
    }

    /// There is no such job any more.
    pub(super) fn remove(&mut self, command: Seq) {
        self.active.remove(&command);
        self.forget_rollout(command);
    }

    pub(super) fn is_active(&self, command: Seq) -> bool {
        self.active.contains(&command)
    }

    /// The jobs that have something to be done, oldest first.
    pub(super) fn active(&self) -> impl Iterator<Item = Seq> {
        self.active.iter().copied()
    }

    /// The same of those before this one.
    pub(super) fn active_before(&self, command: Seq) -> impl Iterator<Item = Seq> {
        self.active.range(..command).copied()
    }

    /// The rollout must be asked for a decision.
    pub(super) fn ask(&mut self, command: Seq) {
        self.undecided.insert(command);
    }

    /// The next rollout to ask. It is to be asked again until it decides nothing: see [`Agenda::decided`].
    pub(super) fn next_to_ask(&mut self, now: Now) -> Option<Seq> {
        if self.wall.replace(now.wall).is_some_and(|before| now.wall < before) {
            // The clock was set back: an earlier opening of a window may be the next one.
            self.undecided.extend(self.deadlines.keys());
        }
        while let Some(command) = pop_due(&mut self.by_instant, now.instant) {
            self.undecided.insert(command);
        }
        while let Some(command) = pop_due(&mut self.by_wall, now.wall) {
            self.undecided.insert(command);
        }
        self.undecided.first().copied()
    }

    /// The rollout has nothing to decide until it changes, or until this time.
    pub(super) fn decided(&mut self, command: Seq, deadline: Option<Deadline>) {
        self.forget_rollout(command);
        let Some(deadline) = deadline else { return };
        self.deadlines.insert(command, deadline);
        match deadline {
            Deadline::Instant(at) => self.by_instant.insert((at, command)),
            Deadline::Wall(at) => self.by_wall.insert((at, command)),
        };
    }

    /// When [`Agenda::next_to_ask`] has one, if no job changes before.
    pub(super) fn deadline(&self, now: Now) -> Option<Instant> {
        if !self.undecided.is_empty() {
            return Some(now.instant);
        }
        let by_wall = self.by_wall.first().map(|(at, _)| now.instant_of(*at));
        earliest(by_wall, self.by_instant.first().map(|(at, _)| *at))
    }

    fn forget_rollout(&mut self, command: Seq) {
        self.undecided.remove(&command);
        match self.deadlines.remove(&command) {
            Some(Deadline::Instant(at)) => self.by_instant.remove(&(at, command)),
            Some(Deadline::Wall(at)) => self.by_wall.remove(&(at, command)),
            None => false,
        };
    }
}

fn pop_due<T: Ord + Copy>(by_time: &mut BTreeSet<(T, Seq)>, until: T) -> Option<Seq> {
    let (at, command) = *by_time.first()?;
    (at <= until).then(|| {
        by_time.pop_first();
        command
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64, wall_ms: u64) -> Now {
        Now { instant: Instant::from_ms(ms), wall: Timestamp::from_unix_ms(wall_ms) }
    }

    /// What is asked at this time, and decides nothing.
    fn asked(agenda: &mut Agenda, now: Now) -> Vec<Seq> {
        let mut asked = Vec::new();
        while let Some(command) = agenda.next_to_ask(now) {
            agenda.decided(command, None);
            asked.push(command);
        }
        asked
    }

    #[test]
    fn a_rollout_is_asked_when_it_changes_and_at_its_time_and_otherwise_not() {
        let [by_instant, by_wall, changed] = [1, 2, 3].map(Seq::new);
        let mut agenda = Agenda::default();
        agenda.decided(by_instant, Some(Deadline::Instant(Instant::from_ms(50))));
        agenda.decided(by_wall, Some(Deadline::Wall(Timestamp::from_unix_ms(1070))));
        assert_eq!(agenda.deadline(at(0, 1000)), Some(Instant::from_ms(50)));
        assert_eq!(asked(&mut agenda, at(10, 1010)), []);
        agenda.ask(changed);
        assert_eq!(agenda.deadline(at(20, 1020)), Some(Instant::from_ms(20)), "at once");
        assert_eq!(asked(&mut agenda, at(20, 1020)), [changed]);
        assert_eq!(asked(&mut agenda, at(50, 1050)), [by_instant]);
        assert_eq!(agenda.deadline(at(50, 1050)), Some(Instant::from_ms(70)));
        assert_eq!(asked(&mut agenda, at(70, 1070)), [by_wall]);
        assert_eq!(agenda.deadline(at(90, 1090)), None);
    }

    #[test]
    fn all_that_wait_are_asked_again_when_the_clock_was_set_back_and_none_that_is_gone() {
        let [stays, goes] = [1, 2].map(Seq::new);
        let mut agenda = Agenda::default();
        for command in [stays, goes] {
            agenda.decided(command, Some(Deadline::Wall(Timestamp::from_unix_ms(5000))));
        }
        assert_eq!(asked(&mut agenda, at(0, 4000)), []);
        agenda.remove(goes);
        assert_eq!(asked(&mut agenda, at(1, 1000)), [stays]);
        assert_eq!(asked(&mut agenda, at(2, 1001)), []);
    }
}
