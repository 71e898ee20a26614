//! Schedules: made, changed, paused and deleted by the core; read from the store.

use bellwire_core::ScheduleOp;
use bellwire_core::record::ScheduleRecord;
use bellwire_proto::{Action, AuditObject, Problem, ScheduleId, SchedulePlan, TokenId};

use super::{Driver, entropy};
use crate::audit::verb;
use crate::internal;

impl Driver {
    /// Makes a schedule that acts for this token.
    ///
    /// # Errors
    /// `conflict` when the name is taken, `rate_limited`, `draining`, `store_unavailable`, `internal` when the system
    /// gives no entropy.
    pub async fn make_schedule(
        &self,
        plan: SchedulePlan,
        paused: bool,
        created_by: Option<TokenId>,
    ) -> Result<ScheduleId, Problem> {
        let now = self.now();
        let id = ScheduleId::from_parts(now.unix_ms(), entropy().map_err(internal::failed)?);
        let record = ScheduleRecord { paused, ..ScheduleRecord::new(id, plan, created_by, now) };
        self.change_schedule(ScheduleOp::Create(Box::new(record))).await?;
        Ok(id)
    }

    /// Makes, changes, pauses or deletes a schedule.
    ///
    /// # Errors
    /// `not_found`, `conflict`, `rate_limited`, `draining`, `store_unavailable`.
    pub async fn change_schedule(&self, op: ScheduleOp) -> Result<(), Problem> {
        let object = AuditObject { action: action_of(&op), ..AuditObject::schedule(op.id()) };
        let (verb, status) = named(&op);
        let entry = self.record(verb, object, status);
        let reply =
            self.request_recorded(entry, |hub, request, now| hub.handle_schedule(request, op, now));
        self.done(reply.await?)
    }
}

/// What the audit log says of it: the verb, and the status of the answer.
fn named(op: &ScheduleOp) -> (&'static str, u16) {
    match op {
        ScheduleOp::Create(_) => (verb::SCHEDULE_CREATE, 201),
        ScheduleOp::Change { .. } => (verb::SCHEDULE_CHANGE, 200),
        ScheduleOp::Pause { paused: true, .. } => (verb::SCHEDULE_PAUSE, 200),
        ScheduleOp::Pause { paused: false, .. } => (verb::SCHEDULE_RESUME, 200),
        ScheduleOp::Delete(_) => (verb::SCHEDULE_DELETE, 204),
    }
}

/// The action that it is about, where it brings one.
fn action_of(op: &ScheduleOp) -> Option<Action> {
    match op {
        ScheduleOp::Create(record) => Some(record.plan.action.clone()),
        ScheduleOp::Change { plan, .. } => Some(plan.action.clone()),
        ScheduleOp::Pause { .. } | ScheduleOp::Delete(_) => None,
    }
}
