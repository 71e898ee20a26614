//! A rollout: when the next batch of a command to many begins, and when none begins any more. The rules are those of
//! docs/protocol.md, section 3; no clock and no store here.
//!
//! Its row says which batch began last and how many targets have begun by then. Which of those have their delivery
//! follows from the targets that remain, and how many have ended from the deliveries; so nothing is counted twice over
//! a crash. What it leads to is in `hub/rollouts.rs`.

use std::time::Duration;

use bellwire_proto::{DeliveryState, RolloutState, Timestamp};

use crate::config::Calendar;
use crate::record::{BatchMark, RolloutCounts, RolloutRecord};
use crate::time::{Instant, Now};

/// A rollout that has not ended, or whose last targets have yet to be given up.
#[derive(Debug)]
pub(crate) struct Rollout {
    record: RolloutRecord,
    total: u64,
    /// Targets that have their delivery.
    expanded: u64,
    counts: RolloutCounts,
    /// When enough of the batch had ended. Of this process: after a restart the pause counts again.
    batch_done: Option<Instant>,
    /// While a batch that is due waits for its window.
    closed: Option<Closed>,
}

/// A window that is closed. The calendar is asked once for each opening, not with each call.
#[derive(Debug)]
struct Closed {
    /// When the calendar was asked. A clock that shows less was set back: then another opening is the next.
    since: Timestamp,
    opening: Timestamp,
}

/// When a rollout may have something to decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deadline {
    /// After a pause or an interval.
    Instant(Instant),
    /// At a time that the sender named, or when a window opens.
    Wall(Timestamp),
}

/// What is to be done for a rollout. Its row has changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The next batch begins.
    Begin,
    /// None begins any more; those under way are cancelled, or not.
    Abort { cancel: bool },
    /// Every delivery has ended.
    End,
}

impl Rollout {
    /// The rollout of a new command.
    pub(crate) fn new(record: RolloutRecord, total: u64) -> Self {
        Self {
            record,
            total,
            expanded: 0,
            counts: RolloutCounts::default(),
            batch_done: None,
            closed: None,
        }
    }

    /// One that a hub found when it started, with so many targets without a delivery.
    pub(crate) fn recovered(
        record: RolloutRecord,
        total: u64,
        waiting: u64,
        counts: RolloutCounts,
    ) -> Self {
        let expanded = total.saturating_sub(waiting);
        Self { record, total, expanded, counts, batch_done: None, closed: None }
    }

    pub(crate) fn record(&self) -> &RolloutRecord {
        &self.record
    }

    pub(crate) fn state(&self) -> RolloutState {
        self.record.state
    }

    /// How many targets may have their delivery now.
    pub(crate) fn may_expand(&self) -> u64 {
        match self.record.state {
            RolloutState::Running => self.record.begun.saturating_sub(self.expanded),
            RolloutState::Paused => 0,
            RolloutState::Aborted | RolloutState::Done => u64::MAX,
        }
    }

    /// So many targets got their delivery.
    pub(crate) fn expanded(&mut self, count: u64) {
        self.expanded += count;
    }

    /// What the deliveries that come into being now belong to.
    pub(crate) fn mark(&self) -> BatchMark {
        BatchMark { number: self.record.batch, began_at: self.record.began_at }
    }

    pub(crate) fn began(&self) -> Instant {
        self.record.began
    }

    /// A delivery of it has changed.
    pub(crate) fn moved(&mut self, batch: u64, before: DeliveryState, after: DeliveryState) {
        if !before.is_terminal() && after.is_terminal() {
            self.counts.ended += 1;
            self.counts.ended_in_batch += u64::from(batch == self.record.batch);
        }
        let fails =
            |state| self.record.plan.abort.as_ref().is_some_and(|a| a.states.contains(&state));
        match (fails(before), fails(after)) {
            (false, true) => self.counts.failed += 1,
            (true, false) => self.counts.failed = self.counts.failed.saturating_sub(1),
            _ => {}
        }
    }

    /// What is to be done now, if anything is.
    pub(crate) fn decide(&mut self, calendar: Calendar, now: Now) -> Option<Decision> {
        if self.record.state.is_ended() {
            return None;
        }
        let RolloutCounts { ended, failed, .. } = self.counts;
        if let Some(rule) = self.record.plan.abort.as_ref().filter(|r| r.is_met(failed, ended)) {
            let cancel = rule.cancel;
            // Its states need not be failures.
            self.abort(format!("{failed} of {ended} ended in a state that aborts it"), now.instant);
            return Some(Decision::Abort { cancel });
        }
        if self.expanded == self.total && ended >= self.total {
            self.record.state = RolloutState::Done;
            self.record.ended = Some(now.instant);
            return Some(Decision::End);
        }
        if self.batch_is_done() {
            self.batch_done.get_or_insert(now.instant);
        }
        if self.record.state == RolloutState::Paused {
            return None;
        }
        if !self.next_is_due(now) || self.window_is_closed(calendar, now) {
            return None;
        }
        let next = self.record.batch + 1;
        let canaries = self.record.canaries;
        let size = if next == 1 && canaries > 0 {
            canaries
        } else {
            self.record.plan.batch_size(self.total)
        };
        self.record.batch = next;
        self.record.size = size.min(self.total - self.record.begun);
        self.record.begun += self.record.size;
        (self.record.began, self.record.began_at) = (now.instant, now.wall);
        self.counts.ended_in_batch = 0;
        self.batch_done = None;
        Some(Decision::Begin)
    }

    fn batch_is_done(&self) -> bool {
        let needed = self.record.plan.done_percent.saturating_mul(self.record.size);
        self.record.batch > 0 && self.counts.ended_in_batch.saturating_mul(100) >= needed
    }

    /// The next batch never begins before each target of this one has its delivery.
    fn next_is_due(&self, now: Now) -> bool {
        let more = self.record.begun < self.total && self.expanded == self.record.begun;
        if self.record.batch == 0 {
            return more && self.record.not_before.is_none_or(|at| at <= now.wall);
        }
        more && self.due().is_some_and(|at| at <= now.instant)
    }

    /// When the next batch begins, as far as that is known.
    fn due(&self) -> Option<Instant> {
        let plan = &self.record.plan;
        let after_pause = self.batch_done.map(|at| at.after(Duration::from_secs(plan.pause_s)));
        let after_interval =
            plan.interval_s.map(|s| self.record.began.after(Duration::from_secs(s)));
        crate::time::earliest(after_pause, after_interval)
    }

    /// Whether its window lets no batch begin now.
    fn window_is_closed(&mut self, calendar: Calendar, now: Now) -> bool {
        let holds = |c: &Closed| c.since <= now.wall && now.wall < c.opening;
        if self.closed.as_ref().is_some_and(holds) {
            return true;
        }
        let opening = self.record.window.as_deref().map(|w| calendar.awaited(w, now.wall));
        let opening = opening.filter(|opening| *opening > now.wall);
        self.closed = opening.map(|opening| Closed { since: now.wall, opening });
        self.closed.is_some()
    }

    /// When [`Rollout::decide`] is to be called, if nothing happens before. It was called for this `now`.
    pub(crate) fn deadline(&self, now: Now) -> Option<Deadline> {
        let waits = self.record.state == RolloutState::Running
            && self.record.begun < self.total
            && self.expanded == self.record.begun;
        match (&self.closed, self.record.batch) {
            _ if !waits => None,
            // It was due when the window was found to be closed.
            (Some(closed), _) => Some(Deadline::Wall(closed.opening)),
            (None, 0) => Some(Deadline::Wall(self.record.not_before.unwrap_or(now.wall))),
            (None, _) => self.due().map(Deadline::Instant),
        }
    }

    /// Pauses or resumes it, unless it has ended.
    pub(crate) fn pause(&mut self, pause: bool) {
        if !self.record.state.is_ended() {
            self.record.state = if pause { RolloutState::Paused } else { RolloutState::Running };
        }
    }

    /// None of it begins any more.
    pub(crate) fn abort(&mut self, reason: String, now: Instant) {
        self.record.state = RolloutState::Aborted;
        self.record.ended = Some(now);
        self.record.reason = Some(reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bellwire_proto::{Members, RolloutPlan, Window};

    const CALENDAR: Calendar = Calendar(crate::calendar::every);

    fn at(seconds: u64) -> Now {
        Now {
            instant: Instant::from_ms(seconds * 1000),
            wall: Timestamp::from_unix_ms(1_700_000_000_000 + seconds * 1000),
        }
    }

    fn rollout(plan: &str, total: u64, canaries: u64) -> Rollout {
        let plan = RolloutPlan::take(&mut Members::parse(plan.as_bytes()).unwrap()).unwrap();
        Rollout::new(RolloutRecord::new(plan, total, canaries, None, at(0)), total)
    }

    fn end(rollout: &mut Rollout, count: u64, state: DeliveryState) {
        let batch = rollout.record.batch;
        (0..count).for_each(|_| rollout.moved(batch, DeliveryState::Sent, state));
    }

    #[test]
    fn a_batch_begins_when_the_last_has_ended_to_its_percentage_and_after_the_pause() {
        let mut rollout = rollout(r#"{"batch":4,"done_percent":60,"pause_s":5}"#, 10, 0);
        assert_eq!(rollout.decide(CALENDAR, at(0)), Some(Decision::Begin));
        assert_eq!(rollout.may_expand(), 4);
        rollout.expanded(4);
        end(&mut rollout, 2, DeliveryState::Succeeded);
        assert_eq!(
            (rollout.decide(CALENDAR, at(1)), rollout.deadline(at(1))),
            (None, None),
            "50 percent"
        );
        end(&mut rollout, 1, DeliveryState::Expired);
        assert_eq!(rollout.decide(CALENDAR, at(2)), None);
        assert_eq!(rollout.deadline(at(2)), Some(Deadline::Instant(at(7).instant)));
        assert_eq!(rollout.decide(CALENDAR, at(7)), Some(Decision::Begin));
        assert_eq!((rollout.record.batch, rollout.record.size, rollout.record.begun), (2, 4, 8));
        // What still runs of the first batch is not of the second.
        rollout.expanded(4);
        rollout.moved(1, DeliveryState::Sent, DeliveryState::Succeeded);
        assert_eq!((rollout.decide(CALENDAR, at(8)), rollout.counts.ended_in_batch), (None, 0));
    }

    #[test]
    fn an_interval_begins_the_next_whatever_has_ended_but_not_before_all_have_their_delivery() {
        let mut rollout = rollout(r#"{"batch":"50%","interval_s":60}"#, 4, 1);
        assert_eq!(rollout.decide(CALENDAR, at(0)), Some(Decision::Begin));
        assert_eq!(rollout.record.size, 1, "the canary");
        assert_eq!((rollout.decide(CALENDAR, at(60)), rollout.deadline(at(60))), (None, None));
        rollout.expanded(1);
        assert_eq!(rollout.deadline(at(1)), Some(Deadline::Instant(at(60).instant)));
        assert_eq!(rollout.decide(CALENDAR, at(60)), Some(Decision::Begin));
        assert_eq!((rollout.record.size, rollout.record.batches), (2, 3));
    }

    #[test]
    fn failures_abort_it_and_what_is_corrected_late_is_no_failure() {
        let plan = r#"{"batch":5,"abort":{"percent":50,"min":2,"cancel":true}}"#;
        let mut rollout = rollout(plan, 10, 0);
        assert_eq!(rollout.decide(CALENDAR, at(0)), Some(Decision::Begin));
        rollout.expanded(5);
        end(&mut rollout, 1, DeliveryState::TimedOut);
        rollout.moved(1, DeliveryState::TimedOut, DeliveryState::Succeeded);
        end(&mut rollout, 2, DeliveryState::Succeeded);
        end(&mut rollout, 1, DeliveryState::Failed);
        assert_eq!(rollout.decide(CALENDAR, at(1)), None, "1 of 4");
        // A pause does not stop the rule.
        rollout.pause(true);
        end(&mut rollout, 1, DeliveryState::Dead);
        assert_eq!(rollout.decide(CALENDAR, at(1)), None, "2 of 5");
        rollout.moved(1, DeliveryState::Succeeded, DeliveryState::Failed);
        assert_eq!(rollout.decide(CALENDAR, at(2)), Some(Decision::Abort { cancel: true }));
        assert_eq!(rollout.record.ended, Some(at(2).instant));
        assert_eq!(rollout.may_expand(), u64::MAX, "to be given up");
        rollout.pause(false);
        assert_eq!(rollout.state(), RolloutState::Aborted, "it has ended");
    }

    #[test]
    fn the_pause_between_batches_goes_on_while_it_is_paused() {
        let mut rollout = rollout(r#"{"batch":2,"pause_s":60}"#, 4, 0);
        assert_eq!(rollout.decide(CALENDAR, at(0)), Some(Decision::Begin));
        rollout.expanded(2);
        rollout.pause(true);
        end(&mut rollout, 2, DeliveryState::Succeeded);
        assert_eq!((rollout.decide(CALENDAR, at(10)), rollout.deadline(at(10))), (None, None));
        assert_eq!(rollout.decide(CALENDAR, at(40)), None);
        rollout.pause(false);
        assert_eq!(rollout.decide(CALENDAR, at(40)), None);
        assert_eq!(
            rollout.deadline(at(40)),
            Some(Deadline::Instant(at(70).instant)),
            "60 s after the batch ended"
        );
        // What became due meanwhile begins when it is resumed.
        rollout.pause(true);
        assert_eq!(rollout.decide(CALENDAR, at(90)), None);
        rollout.pause(false);
        assert_eq!(rollout.decide(CALENDAR, at(90)), Some(Decision::Begin));
    }

    #[test]
    fn a_last_delivery_that_meets_the_abort_rule_ends_it_as_aborted() {
        let plan = r#"{"batch":2,"abort":{"percent":50,"states":["succeeded"]}}"#;
        let mut rollout = rollout(plan, 2, 0);
        assert_eq!(rollout.decide(CALENDAR, at(0)), Some(Decision::Begin));
        rollout.expanded(2);
        end(&mut rollout, 1, DeliveryState::Succeeded);
        end(&mut rollout, 1, DeliveryState::Expired);
        assert_eq!(rollout.decide(CALENDAR, at(1)), Some(Decision::Abort { cancel: false }));
        let reason = rollout.record.reason.as_deref();
        assert_eq!(reason, Some("1 of 2 ended in a state that aborts it"));
    }

    #[test]
    fn it_ends_with_its_last_delivery_and_begins_at_its_time() {
        let mut rollout = rollout(r#"{"batch":5}"#, 5, 0);
        rollout.record.not_before = Some(at(30).wall);
        assert_eq!(rollout.decide(CALENDAR, at(0)), None);
        assert_eq!(rollout.deadline(at(0)), Some(Deadline::Wall(at(30).wall)));
        assert_eq!(rollout.decide(CALENDAR, at(30)), Some(Decision::Begin));
        rollout.expanded(5);
        end(&mut rollout, 5, DeliveryState::Expired);
        assert_eq!(rollout.decide(CALENDAR, at(31)), Some(Decision::End));
        assert_eq!((rollout.decide(CALENDAR, at(32)), rollout.state()), (None, RolloutState::Done));
        assert_eq!(rollout.record.ended, Some(at(31).instant));
    }

    #[test]
    fn a_batch_begins_only_while_the_window_is_open() {
        let mut rollout = rollout(r#"{"batch":1,"pause_s":90}"#, 3, 0);
        let window = Window { cron: "3600".to_owned(), minutes: 1, timezone: "UTC".to_owned() };
        rollout.record.window = Some(window.into());
        let opens = 3600 - 1_700_000_000 % 3600;
        assert_eq!(rollout.decide(CALENDAR, at(0)), None);
        assert_eq!(rollout.deadline(at(0)), Some(Deadline::Wall(at(opens).wall)));
        assert_eq!(rollout.decide(CALENDAR, at(opens)), Some(Decision::Begin));
        rollout.expanded(1);
        end(&mut rollout, 1, DeliveryState::Succeeded);
        assert_eq!(rollout.decide(CALENDAR, at(opens + 1)), None);
        // The pause ends when it has closed.
        let next = Some(Deadline::Wall(at(opens + 3600).wall));
        assert_eq!(rollout.decide(CALENDAR, at(opens + 91)), None);
        assert_eq!(rollout.deadline(at(opens + 91)), next);
        assert_eq!(rollout.decide(CALENDAR, at(opens + 3600)), Some(Decision::Begin));
    }
}
