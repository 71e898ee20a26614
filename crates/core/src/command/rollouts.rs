//! The rollouts among the commands to many: which of their targets may get their delivery, and what has been decided.

use bellwire_proto::limits::ROLLOUTS_MAX;
use bellwire_proto::{DeliveryState, Seq};

use super::cancellation::Cancel;
use super::{CHUNK_DEVICES, Commands, Job};
use crate::config::Calendar;
use crate::io::RolloutOp;
use crate::record::{ABORTED_BY_CANCEL, ABORTED_BY_OPERATOR, RolloutRecord, TxnId};
use crate::rollout::{Decision, Rollout};
use crate::time::{Instant, Now};

/// A decision of a rollout, and its row.
#[derive(Debug)]
pub(crate) struct RolloutStep {
    pub(crate) command: Seq,
    pub(crate) decision: Decision,
    pub(crate) record: RolloutRecord,
}

impl Job {
    /// How many targets may get their delivery now.
    pub(super) fn may_expand(&self) -> u64 {
        match &self.rollout {
            Some(rollout) if self.cancel.is_none() => {
                rollout.may_expand().min(CHUNK_DEVICES as u64)
            }
            Some(_) => CHUNK_DEVICES as u64,
            None => u64::MAX,
        }
    }

    /// Whether a younger command at a device must wait for what is not expanded yet.
    pub(super) fn holds_back(&self) -> bool {
        self.rollout.is_none()
    }

    /// Whether nothing is to be done of it before its rollout decides something.
    pub(super) fn is_dormant(&self) -> bool {
        self.rollout.is_some() && self.cancel.is_none() && self.may_expand() == 0
    }

    fn decide(&mut self, command: Seq, calendar: Calendar, now: Now) -> Option<RolloutStep> {
        let rollout = self.rollout.as_mut()?;
        let decision = rollout.decide(calendar, now)?;
        Some(RolloutStep { command, decision, record: rollout.record().clone() })
    }

    pub(super) fn is_rolling_out(&self) -> bool {
        self.rollout.as_ref().is_some_and(|rollout| !rollout.state().is_ended())
    }
}

impl Commands {
    /// Whether no more rollouts may begin, with those whose targets are being looked for.
    pub(crate) fn rollouts_are_full(&self) -> bool {
        let jobs = self.jobs.values().filter(|job| job.is_rolling_out()).count();
        let sends = self.selections.values().map(|selection| &selection.send.1);
        jobs + sends.filter(|send| send.rollout.is_some()).count() >= ROLLOUTS_MAX
    }

    pub(crate) fn rollout(&self, command: Seq) -> Option<&Rollout> {
        self.jobs.get(&command)?.rollout.as_ref()
    }

    /// A delivery of a batch has changed.
    pub(crate) fn rollout_moved(
        &mut self,
        command: Seq,
        batch: u64,
        before: DeliveryState,
        after: DeliveryState,
    ) {
        let job = self.jobs.get_mut(&command);
        if let Some(rollout) = job.and_then(|job| job.rollout.as_mut()) {
            rollout.moved(batch, before, after);
            self.moved.insert(command);
            self.agenda.ask(command);
        }
    }

    /// The next thing that a rollout has decided because a delivery of it has changed.
    pub(crate) fn next_decision_of_moved(
        &mut self,
        calendar: Calendar,
        now: Now,
    ) -> Option<RolloutStep> {
        while let Some(command) = self.moved.pop_first() {
            let job = self.jobs.get_mut(&command);
            let step = job.and_then(|job| job.decide(command, calendar, now));
            if step.is_some() {
                return step;
            }
        }
        None
    }

    /// The next thing that a rollout has decided.
    pub(crate) fn next_decision(&mut self, calendar: Calendar, now: Now) -> Option<RolloutStep> {
        while let Some(command) = self.agenda.next_to_ask(now) {
            let job = self.jobs.get_mut(&command);
            if let Some(step) = job.and_then(|job| job.decide(command, calendar, now)) {
                return Some(step);
            }
            let deadline = self.rollout(command).and_then(|rollout| rollout.deadline(now));
            self.agenda.decided(command, deadline);
        }
        None
    }

    /// When the next one is due.
    pub(crate) fn rollout_deadline(&self, now: Now) -> Option<Instant> {
        self.agenda.deadline(now)
    }

    /// Its row is part of this transaction.
    pub(crate) fn rollout_written(&mut self, command: Seq, txn: TxnId) {
        let Some(job) = self.jobs.get_mut(&command) else { return };
        job.txn = txn;
        self.settle(command);
    }

    /// Changes a rollout that has not ended. Returns its row, and whether what is under way is to be cancelled.
    pub(crate) fn change_rollout(
        &mut self,
        command: Seq,
        op: RolloutOp,
        now: Instant,
    ) -> Option<(RolloutRecord, bool)> {
        let rollout = self.jobs.get_mut(&command)?.rollout.as_mut()?;
        let mut cancel = false;
        match op {
            RolloutOp::Pause => rollout.pause(true),
            RolloutOp::Resume => rollout.pause(false),
            RolloutOp::Abort => {
                cancel = rollout.record().plan.abort.as_ref().is_some_and(|rule| rule.cancel);
                rollout.abort(ABORTED_BY_OPERATOR.to_owned(), now);
            }
        }
        Some((rollout.record().clone(), cancel))
    }

    /// A command that is rolled out is being cancelled as a whole: its row, if that ends the rollout.
    pub(crate) fn end_rollout_by_cancel(
        &mut self,
        command: Seq,
        now: Instant,
    ) -> Option<RolloutRecord> {
        let job = self.jobs.get_mut(&command).filter(|job| job.is_rolling_out())?;
        let rollout = job.rollout.as_mut()?;
        rollout.abort(ABORTED_BY_CANCEL.to_owned(), now);
        Some(rollout.record().clone())
    }

    /// What is under way of an aborted rollout is cancelled, once the rest has been given up.
    pub(crate) fn cancel_aborted(&mut self, command: Seq, txn: TxnId) -> bool {
        let Some(job) = self.jobs.get_mut(&command) else { return false };
        job.txn = txn;
        let force = job.cancel.get_or_insert_with(|| Cancel::new(false)).force;
        self.settle(command);
        force
    }
}
