//! Schedules: made, changed, paused and deleted by the core; read from the store.

use bellwire_core::ScheduleOp;
use bellwire_core::record::ScheduleRecord;
use bellwire_proto::{Problem, ScheduleId, SchedulePlan, TokenId};

use super::{Driver, entropy, internal};

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
        let id = ScheduleId::from_parts(now.unix_ms(), entropy().map_err(|_| internal())?);
        let record = ScheduleRecord { paused, ..ScheduleRecord::new(id, plan, created_by, now) };
        self.change_schedule(ScheduleOp::Create(Box::new(record))).await?;
        Ok(id)
    }

    /// Makes, changes, pauses or deletes a schedule.
    ///
    /// # Errors
    /// `not_found`, `conflict`, `rate_limited`, `draining`, `store_unavailable`.
    pub async fn change_schedule(&self, op: ScheduleOp) -> Result<(), Problem> {
        let reply = self.request(|hub, request, now| hub.handle_schedule(request, op, now));
        self.done(reply.await?)
    }
}
