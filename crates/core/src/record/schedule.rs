//! The row of a schedule.

use bellwire_proto::{CommandId, ScheduleId, SchedulePlan, Skipped, Timestamp, TokenId};

/// A schedule as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct ScheduleRecord {
    /// Its identity.
    pub id: ScheduleId,
    /// What was requested.
    pub plan: SchedulePlan,
    /// Whether it is paused.
    pub paused: bool,
    /// Why it was paused, unless an operator did.
    pub reason: Option<String>,
    /// When it was made, by the wall clock.
    pub created_at: Timestamp,
    /// The token that made it, on whose behalf it acts; `None` on an open hub.
    pub created_by: Option<TokenId>,
    /// Every time up to this is decided: run, left out, or before it began to count.
    pub decided_at: Timestamp,
    /// The time of a run that was decided, and whose command is not stored yet.
    pub run: Option<Timestamp>,
    /// The time and the command of the last run.
    pub last: Option<(Timestamp, CommandId)>,
    /// The last time that was left out.
    pub skipped: Option<Skipped>,
    /// Rises with each change by others than its runs.
    pub version: u64,
}

impl ScheduleRecord {
    /// A new one. It counts its times from when it is stored.
    pub fn new(
        id: ScheduleId,
        plan: SchedulePlan,
        created_by: Option<TokenId>,
        now: Timestamp,
    ) -> Self {
        Self {
            id,
            plan,
            paused: false,
            reason: None,
            created_at: now,
            created_by,
            decided_at: now,
            run: None,
            last: None,
            skipped: None,
            version: 0,
        }
    }
}
