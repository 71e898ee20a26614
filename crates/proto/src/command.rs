//! A command as its sender sees it, and pages of lists. Contract, sections 1 and 3.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::delivery::DeliveryState;
use crate::id::{Action, CommandId, Seq};
use crate::json::Json;
use crate::time::Timestamp;

/// How many deliveries of a command are in which state; states with none are left out.
pub type Counts = BTreeMap<DeliveryState, u64>;

/// The command object of the API. All members are always written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// Its identity.
    pub id: CommandId,
    /// Its place in the hub-wide order.
    pub seq: Seq,
    /// What the devices are asked to do.
    pub action: Action,
    /// With what.
    pub data: Json,
    /// When it was stored.
    pub created_at: Timestamp,
    /// Who sent it; `None` on an open hub.
    pub created_by: Option<String>,
    /// Until when it must be accepted.
    pub expires_at: Timestamp,
    /// How many deliveries it has.
    pub total: u64,
    /// How many of them are in which state.
    pub counts: Counts,
    /// Whether all of them have ended.
    pub done: bool,
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Page<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// The opaque cursor of the next page, to be given as `after`; `None` on the last.
    pub next: Option<String>,
}
