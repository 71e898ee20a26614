//! One delivery in memory, and what a report does to it: the table of the contract, section 2.
//!
//! Here is only what concerns the delivery itself. Which one is sent next is decided in
//! `device/scheduler.rs`, to which listeners in `device/listeners.rs`, and `device/deliveries.rs`
//! holds them and indexes them.

use std::time::Duration;

use bellwire_proto::limits::{BACKOFF_MAX, CANCEL_SLOT, COUNTED_ATTEMPTS_MAX, SENDS_MAX};
use bellwire_proto::{
    Code, DeliveryState, ErrorInfo, Json, Problem, Report, ReportState, Timestamp,
};

use crate::config::Calendar;
use crate::ids::RequestId;
use crate::record::{DeliveryRecord, TxnId};
use crate::time::{Instant, Now, earliest};

/// A delivery in memory: its row, and what is not worth a row.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) record: DeliveryRecord,
    /// The command's data, while it may have to be sent. `None` when it must be loaded first.
    pub(crate) data: Option<Json>,
    /// Sent: until when `accepted` is awaited.
    pub(crate) lease_until: Instant,
    /// Sent: which listeners carried this sending.
    pub(crate) carriers: Carriers,
    /// Cancelling: when a poll last carried the cancellation.
    pub(crate) cancel_polled_at: Option<Instant>,
    /// Whether the cancellation has yet to be sent to the listeners.
    pub(crate) cancel_unsent: bool,
    /// It has been cancelling for [`CANCEL_SLOT`]: it no longer takes a slot of `max_in_flight`.
    pub(crate) slot_released: bool,
    /// Senders that wait for the end, each until its deadline.
    pub(crate) waits: Vec<(RequestId, Instant)>,
    /// Whether the row has changed since it was last put into a transaction.
    pub(crate) dirty: bool,
    /// The transaction that holds its latest change.
    pub(crate) txn: TxnId,
    /// The state of its row in that transaction.
    pub(crate) written: DeliveryState,
}

/// A set of listeners: those that carried a sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Carriers(u8);

impl Carriers {
    pub(crate) const NONE: Self = Self(0);
    pub(crate) const STREAM: Self = Self(1);
    pub(crate) const UNCONFIRMED: Self = Self(2);
    pub(crate) const POLL: Self = Self(4);

    pub(crate) fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }

    pub(crate) fn remove(&mut self, other: Self) {
        self.0 &= !other.0;
    }

    pub(crate) fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// What a report did.
#[derive(Debug, PartialEq, Eq)]
enum Effect {
    /// Nothing at all: not even the `rev` is taken.
    NoChange,
    /// It is taken, and the state becomes this.
    To(DeliveryState),
    /// It is taken as the truth after the hub had given up.
    Late(DeliveryState),
    /// It is a failed attempt: queued again, or dead.
    Retry,
    /// The state does not allow it.
    Illegal,
}

impl Live {
    pub(crate) fn new(record: DeliveryRecord, data: Option<Json>) -> Self {
        Self {
            lease_until: record.updated,
            written: record.state,
            record,
            data,
            carriers: Carriers::NONE,
            cancel_polled_at: None,
            cancel_unsent: false,
            slot_released: false,
            waits: Vec::new(),
            dirty: false,
            txn: TxnId::default(),
        }
    }

    pub(crate) fn state(&self) -> DeliveryState {
        self.record.state
    }

    /// Whether it takes one of the `max_in_flight` slots of its device.
    pub(crate) fn takes_slot(&self) -> bool {
        let in_flight = self.state() != DeliveryState::Queued && !self.state().is_terminal();
        in_flight && !self.slot_released
    }

    /// Whether it has been cancelling for [`CANCEL_SLOT`], after which its slot is free.
    pub(crate) fn slot_has_elapsed(&self, now: Instant) -> bool {
        self.record.cancelling_since.is_some_and(|since| since.after(CANCEL_SLOT) <= now)
    }

    /// When the hub must act on it next. When a queued one may be sent again after a lease or a nack is
    /// the scheduler's, and the time of a scheduled one is in an index of its own.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        if self.state().is_terminal() {
            return None;
        }
        let lease = (self.state() == DeliveryState::Sent).then_some(self.lease_until);
        let since = self.record.cancelling_since.filter(|_| !self.slot_released);
        let slot = since.map(|since| since.after(CANCEL_SLOT));
        let wait = self.waits.iter().map(|(_, until)| *until).min();
        [lease, slot, wait].into_iter().fold(self.record.due_at(), earliest)
    }

    /// Changes the state, and clears the members that only an earlier state needs.
    pub(crate) fn transition(&mut self, state: DeliveryState, now: Now) {
        let record = &mut self.record;
        record.state = state;
        (record.scheduled_at, record.awaits_window) = (None, false);
        record.retry_at = None;
        record.run_until = match state {
            DeliveryState::Accepted | DeliveryState::Running => {
                Some(now.instant.after(record.head.run_timeout))
            }
            _ => None,
        };
        record.cancelling_since = match state {
            DeliveryState::Cancelling => record.cancelling_since.or(Some(now.instant)),
            _ => None,
        };
        if state != DeliveryState::Cancelling {
            self.slot_released = false;
        }
        if !matches!(state, DeliveryState::Queued | DeliveryState::Sent) {
            self.data = None;
        }
        if state != DeliveryState::Sent {
            self.carriers = Carriers::NONE;
        }
        self.touch(now);
    }

    /// The row has changed.
    pub(crate) fn touch(&mut self, now: Now) {
        self.record.updated_at = now.wall;
        self.record.updated = now.instant;
        self.dirty = true;
    }

    /// Its time has come: from now on it waits in the queue. From its `not_before` on its time to live counts.
    pub(crate) fn become_ready(&mut self, now: Now) {
        self.record.scheduled_at = None;
        if !std::mem::take(&mut self.record.awaits_window) {
            self.record.expires = self.record.head.expires(now);
        }
        self.touch(now);
    }

    /// Has it wait for its window, if that is closed; false when nothing stands against sending it. Its time to live counts
    /// meanwhile.
    pub(crate) fn await_window(&mut self, calendar: Calendar, now: Now) -> bool {
        let window = self.record.head.window.as_deref().filter(|_| self.record.is_ready());
        let opening = window.map(|window| calendar.awaited(window, now.wall));
        opening.is_some_and(|opening| self.await_opening(opening, now))
    }

    /// The same where it is known from when on the window is open.
    pub(crate) fn await_opening(&mut self, opening: Timestamp, now: Now) -> bool {
        if !self.record.is_ready() || opening <= now.wall {
            return false;
        }
        (self.record.scheduled_at, self.record.awaits_window) = (Some(opening), true);
        self.touch(now);
        true
    }

    /// Ends by the hub's decision; the error says which.
    pub(crate) fn give_up(&mut self, state: DeliveryState, now: Now) {
        self.record.outcome.error = Some(ErrorInfo::of(state.as_str()));
        self.transition(state, now);
    }

    /// A sending was lost without a fault of the device: queued again at once and uncounted, or dead.
    pub(crate) fn requeue(&mut self, now: Now) {
        if self.record.sends >= SENDS_MAX {
            self.give_up(DeliveryState::Dead, now);
        } else {
            self.transition(DeliveryState::Queued, now);
        }
    }

    /// An attempt that counts has failed: queued again after `wait` (by default the backoff), or dead.
    pub(crate) fn fail_attempt(&mut self, wait: Option<Duration>, now: Now) {
        self.record.counted += 1;
        if self.record.counted >= COUNTED_ATTEMPTS_MAX {
            self.give_up(DeliveryState::Dead, now);
            return;
        }
        self.requeue(now);
        if self.state() == DeliveryState::Queued {
            let wait = wait.unwrap_or_else(|| backoff(self.record.counted));
            self.record.retry_at = Some(now.instant.after(wait));
        }
    }

    /// Stops it: at once if it was never sent or `force` is given, else as soon as the device
    /// reports that it has stopped.
    ///
    /// # Errors
    /// `illegal_transition` when it had ended before.
    pub(crate) fn cancel(&mut self, force: bool, now: Now) -> Result<(), Problem> {
        if self.state().is_terminal() {
            return Err(self.illegal("cancelled"));
        }
        let was_sent = self.record.sends > 0;
        self.cancel_unsent |= was_sent && (force || self.state() != DeliveryState::Cancelling);
        if force {
            self.record.forced = true;
            self.transition(DeliveryState::Cancelled, now);
        } else if !was_sent && self.state() == DeliveryState::Queued {
            self.transition(DeliveryState::Cancelled, now);
        } else if self.state() != DeliveryState::Cancelling {
            self.transition(DeliveryState::Cancelling, now);
        }
        Ok(())
    }

    /// Applies a report of the device. On `Ok` the answer is 200 with the delivery as it then is.
    ///
    /// # Errors
    /// `illegal_transition`, with the delivery as it stands.
    pub(crate) fn report(&mut self, report: Report, now: Now) -> Result<(), Problem> {
        let nack = report.state == ReportState::Nack;
        if nack && report.attempt.is_some_and(|attempt| attempt < self.record.attempt) {
            return Ok(());
        }
        if report.rev.is_some_and(|rev| self.record.rev.is_some_and(|known| rev <= known)) {
            return Ok(());
        }
        match self.effect(report.state) {
            Effect::NoChange => {}
            Effect::To(state) => {
                self.transition(state, now);
                self.take(report);
            }
            Effect::Late(state) => {
                if self.state() != DeliveryState::Cancelled {
                    self.record.outcome.error = None;
                }
                self.record.late = true;
                self.record.forced = false;
                self.transition(state, now);
                self.take(report);
            }
            Effect::Retry => {
                self.fail_attempt(report.retry_after_s.map(Duration::from_secs), now);
                self.take(report);
                // The time to live counts again, and may have passed during the run.
                if self.state() == DeliveryState::Queued && self.record.expires <= now.instant {
                    self.give_up(DeliveryState::Expired, now);
                }
            }
            Effect::Illegal => return Err(self.illegal(report.state.as_str())),
        }
        Ok(())
    }

    /// The refusal of what the state does not allow.
    pub(crate) fn illegal(&self, target: &str) -> Problem {
        let detail = format!("the delivery is {}; it cannot become {target}", self.state());
        Problem::new(Code::IllegalTransition, detail).with_delivery(self.record.to_delivery())
    }

    /// The table.
    fn effect(&self, report: ReportState) -> Effect {
        use DeliveryState as S;
        use ReportState as R;
        let given_up = matches!(self.state(), S::TimedOut | S::Expired | S::Dead)
            || (self.state() == S::Cancelled && self.record.forced);
        match (self.state(), report) {
            (S::Queued | S::Sent | S::Accepted, R::Accepted) => Effect::To(S::Accepted),
            (S::Queued | S::Sent | S::Accepted | S::Running, R::Running) => Effect::To(S::Running),
            (S::Queued | S::Sent | S::Accepted, R::Rejected) => Effect::To(S::Rejected),
            (S::Queued | S::Sent | S::Accepted, R::Nack) => Effect::Retry,
            (S::Queued | S::Sent | S::Accepted | S::Running | S::Cancelling, R::Succeeded) => {
                Effect::To(S::Succeeded)
            }
            (S::Queued | S::Sent | S::Accepted | S::Running | S::Cancelling, R::Failed) => {
                Effect::To(S::Failed)
            }
            (S::Running, R::Accepted) | (S::Cancelling, R::Accepted) => Effect::NoChange,
            (S::Cancelling, R::Running) => Effect::To(S::Cancelling),
            (S::Cancelling, R::Rejected) => Effect::To(S::Rejected),
            (S::Cancelling, R::Cancelled | R::Nack) => Effect::To(S::Cancelled),
            (S::Succeeded, R::Succeeded)
            | (S::Failed, R::Failed)
            | (S::Rejected, R::Rejected)
            | (S::Cancelled, R::Cancelled) => Effect::NoChange,
            (_, R::Succeeded) if given_up => Effect::Late(S::Succeeded),
            (_, R::Failed) if given_up => Effect::Late(S::Failed),
            _ => Effect::Illegal,
        }
    }

    /// Stores the members that were reported; the others do not change.
    fn take(&mut self, mut report: Report) {
        let record = &mut self.record;
        record.rev = report.rev.or(record.rev);
        record.attempt = record.attempt.max(report.attempt.unwrap_or(0));
        // `dead` by a nack retains the hub's error: the device did not know that it was the last.
        if record.state == DeliveryState::Dead {
            report.outcome.error = None;
        }
        record.outcome.update(report.outcome);
    }
}

/// The wait after the `counted`-th failure: 1, 2, 4, … 60 s.
fn backoff(counted: u32) -> Duration {
    let doubled = 1u64.checked_shl(counted.saturating_sub(1)).unwrap_or(u64::MAX);
    Duration::from_secs(doubled).min(BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::CommandHead;
    use bellwire_proto::{CommandId, Seq, Timestamp};

    const NOW: Now =
        Now { instant: Instant::from_ms(500_000), wall: Timestamp::from_unix_ms(1_000_000) };

    fn live(state: DeliveryState, forced: bool) -> Live {
        let head = CommandHead {
            id: CommandId::from_parts(1, [0; 10]),
            seq: Seq::new(1),
            total: 1,
            action: "ping".parse().unwrap(),
            created_at: NOW.wall,
            created: NOW.instant,
            expires_at: NOW.wall.after(Duration::from_secs(60)),
            run_timeout: Duration::from_secs(5),
            not_before: None,
            window: None,
        };
        let mut live = Live::new(DeliveryRecord::new(head, "d".parse().unwrap(), NOW), None);
        live.record.forced = forced;
        live.transition(state, NOW);
        live.dirty = false;
        live
    }

    /// The contract's table, row by row: what each report makes of each state. `-` is no change,
    /// `!` is 409.
    const TABLE: &str = "
        state      accepted running    succeeded failed rejected cancelled nack
        queued     accepted running    succeeded failed rejected !         queued
        sent       accepted running    succeeded failed rejected !         queued
        accepted   accepted running    succeeded failed rejected !         queued
        running    -        running    succeeded failed !        !         !
        cancelling -        cancelling succeeded failed rejected cancelled cancelled
        timed_out  !        !          succeeded failed !        !         !
        expired    !        !          succeeded failed !        !         !
        dead       !        !          succeeded failed !        !         !
        succeeded  !        !          -         !      !        !         !
        failed     !        !          !         -      !        !         !
        rejected   !        !          !         !      -        !         !
        cancelled  !        !          !         !      !        -         !
        delivered  !        !          !         !      !        !         !
        forced     !        !          succeeded failed !        -         !
    ";

    #[test]
    fn reports_do_what_the_table_of_the_contract_says() {
        let mut cells = 0;
        for row in TABLE.lines().map(str::trim).filter(|l| !l.is_empty()).skip(1) {
            let mut words = row.split_whitespace();
            let name = words.next().unwrap();
            let forced = name == "forced";
            let state: DeliveryState =
                if forced { DeliveryState::Cancelled } else { name.parse().unwrap() };
            for (report, expected) in ReportState::ALL.into_iter().zip(words) {
                let mut live = live(state, forced);
                let outcome = live.report(Report::of(report), NOW);
                let cell = format!("{name} x {}", report.as_str());
                match expected {
                    "!" => assert!(outcome.is_err() && !live.dirty, "{cell} must be refused"),
                    "-" => {
                        assert!(outcome.is_ok() && !live.dirty, "{cell} must change nothing");
                        assert_eq!(live.state(), state, "{cell}");
                    }
                    to => {
                        assert!(outcome.is_ok() && live.dirty, "{cell} must be taken");
                        assert_eq!(live.state().as_str(), to, "{cell}");
                    }
                }
                cells += 1;
            }
        }
        assert_eq!(cells, 14 * 7);
    }

    #[test]
    fn a_report_that_is_not_newer_changes_nothing_even_where_it_would_be_illegal() {
        let mut live = live(DeliveryState::Sent, false);
        let with_rev = |state, rev| Report { rev: Some(rev), ..Report::of(state) };
        assert!(live.report(with_rev(ReportState::Running, 0), NOW).is_ok());
        assert_eq!(
            (live.state(), live.record.rev),
            (DeliveryState::Running, Some(0)),
            "the first rev counts"
        );
        live.dirty = false;
        assert!(live.report(with_rev(ReportState::Cancelled, 0), NOW).is_ok());
        assert!(!live.dirty);
        assert!(live.report(with_rev(ReportState::Cancelled, 1), NOW).is_err());
        assert_eq!(live.record.rev, Some(0), "a refused report leaves rev");
        assert!(
            live.report(Report::of(ReportState::Succeeded), NOW).is_ok(),
            "without rev is newer"
        );
        assert_eq!(live.record.rev, Some(0));
    }

    #[test]
    fn a_nack_of_an_older_attempt_is_ignored_and_its_rev_is_not_taken() {
        let mut live = live(DeliveryState::Running, false);
        live.record.attempt = 3;
        let nack = Report { attempt: Some(2), rev: Some(9), ..Report::of(ReportState::Nack) };
        assert!(live.report(nack, NOW).is_ok());
        assert_eq!(
            (live.state(), live.record.rev, live.dirty),
            (DeliveryState::Running, None, false)
        );
        let report = Report { attempt: Some(2), ..Report::of(ReportState::Succeeded) };
        assert!(live.report(report, NOW).is_ok());
        assert_eq!((live.state(), live.record.attempt), (DeliveryState::Succeeded, 3));
    }

    #[test]
    fn late_truth_clears_the_error_that_the_hub_had_put() {
        let mut live = live(DeliveryState::Running, false);
        live.give_up(DeliveryState::TimedOut, NOW);
        assert_eq!(live.record.outcome.error, Some(ErrorInfo::of("timed_out")));
        assert!(live.report(Report::of(ReportState::Failed), NOW).is_ok());
        assert_eq!((live.record.late, live.record.outcome.error.clone()), (true, None));
        assert!(live.report(Report::of(ReportState::Succeeded), NOW).is_err(), "late only once");
    }

    #[test]
    fn the_tenth_counted_attempt_and_the_hundredth_sending_are_the_last() {
        let mut nacked = live(DeliveryState::Queued, false);
        for failures in 1..=10 {
            assert_eq!(nacked.state(), DeliveryState::Queued, "before failure {failures}");
            nacked.transition(DeliveryState::Sent, NOW);
            assert!(nacked.report(Report::of(ReportState::Nack), NOW).is_ok());
        }
        assert_eq!(nacked.state(), DeliveryState::Dead);
        let mut lost = live(DeliveryState::Sent, false);
        lost.record.sends = 99;
        lost.requeue(NOW);
        assert_eq!(lost.state(), DeliveryState::Queued);
        lost.record.sends = 100;
        lost.requeue(NOW);
        assert_eq!(lost.state(), DeliveryState::Dead);
    }

    #[test]
    fn the_backoff_doubles_from_one_second_to_sixty() {
        let seconds: Vec<u64> = (1..=9).map(|n| backoff(n).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(backoff(u32::MAX), BACKOFF_MAX);
    }
}
