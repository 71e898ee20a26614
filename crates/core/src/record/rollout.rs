//! What is stored of a rollout: its row, and to which batch a delivery belongs. The rules are in `rollout.rs` of the core.

use std::sync::Arc;

use bellwire_proto::{Rollout, RolloutPlan, RolloutState, Timestamp, Window};

use crate::time::{Instant, Now};

/// The reasons of a rollout that no rule aborted.
pub(crate) const ABORTED_BY_OPERATOR: &str = "an operator aborted it";
pub(crate) const ABORTED_BY_CANCEL: &str = "the command was cancelled";

/// The rollout of a command as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolloutRecord {
    /// What was requested.
    pub plan: RolloutPlan,
    /// How far it has come.
    pub state: RolloutState,
    /// The batch that began last; 0 before the first.
    pub batch: u64,
    /// How many there are.
    pub batches: u64,
    /// Targets of the first batch that the canary selector chose; 0 without them.
    pub canaries: u64,
    /// Targets of the batch that began last.
    pub size: u64,
    /// Targets of all batches that have begun.
    pub begun: u64,
    /// When the last batch began, by the monotonic clock.
    pub began: Instant,
    /// The same by the wall clock.
    pub began_at: Timestamp,
    /// The first batch does not begin before this, by the wall clock.
    pub not_before: Option<Timestamp>,
    /// Batches begin only while this is open, by the wall clock.
    pub window: Option<Arc<Window>>,
    /// Why it was aborted.
    pub reason: Option<String>,
    /// When it was aborted or done, by the monotonic clock; `None` before. Its history is retained from then on.
    pub ended: Option<Instant>,
}

impl RolloutRecord {
    /// One of which nothing has begun.
    pub fn new(
        plan: RolloutPlan,
        total: u64,
        canaries: u64,
        not_before: Option<Timestamp>,
        now: Now,
    ) -> Self {
        Self {
            batches: plan.batches(total, canaries),
            plan,
            state: RolloutState::Running,
            batch: 0,
            canaries,
            size: 0,
            begun: 0,
            began: now.instant,
            began_at: now.wall,
            not_before,
            window: None,
            reason: None,
            ended: None,
        }
    }

    /// The object that the API shows of it.
    pub fn to_rollout(&self) -> Rollout {
        let Self { state, batch, batches, reason, .. } = self;
        Rollout { state: *state, batch: *batch, batches: *batches, reason: reason.clone() }
    }

    /// The same for a reader who sees a part of its devices: without the numbers, which count the others too.
    pub fn to_rollout_of_part(&self) -> Rollout {
        let reason = self.reason.as_deref().map(|reason| match reason {
            ABORTED_BY_OPERATOR | ABORTED_BY_CANCEL => reason.to_owned(),
            _ => "too many ended in a state that aborts it".to_owned(),
        });
        Rollout { state: self.state, batch: 0, batches: 0, reason }
    }
}

/// What has become of the deliveries of a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RolloutCounts {
    /// How many have ended.
    pub ended: u64,
    /// How many of those are in the states of the abort rule.
    pub failed: u64,
    /// How many of the last batch have ended.
    pub ended_in_batch: u64,
}

/// The batch that a delivery belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchMark {
    /// Its number, from 1.
    pub number: u64,
    /// When it began; the time to live counts from then.
    pub began_at: Timestamp,
}
