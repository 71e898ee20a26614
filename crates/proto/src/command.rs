//! A command as its sender sees it, and pages of lists. Contract, sections 1 and 3.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::delivery::DeliveryState;
use crate::id::{Action, CommandId, DeviceId, Seq};
use crate::json::Json;
use crate::rollout::Rollout;
use crate::time::Timestamp;
use crate::window::Window;

/// How many deliveries of a command are in each state; states with none are absent.
pub type Counts = BTreeMap<DeliveryState, u64>;

/// The command object of the API. All members are always written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// Its identity.
    pub id: CommandId,
    /// Its position in the hub-wide order.
    pub seq: Seq,
    /// What the devices are to do.
    pub action: Action,
    /// The data of the action.
    pub data: Json,
    /// When it was stored.
    pub created_at: Timestamp,
    /// The sender; `None` on an open hub.
    pub created_by: Option<String>,
    /// The time by which it must be accepted.
    pub expires_at: Timestamp,
    /// How many deliveries it has.
    pub total: u64,
    /// How many of them are in each state.
    pub counts: Counts,
    /// Whether all of them have ended.
    pub done: bool,
    /// Not to be sent before this; `None` if it could be sent at once.
    pub not_before: Option<Timestamp>,
    /// Sent only while this is open; `None` if it could be sent at any time.
    pub window: Option<Window>,
    /// The selector that named its devices; `None` if they were named otherwise.
    pub select: Option<String>,
    /// How far it has been rolled out; `None` for one that was sent to all devices at once.
    pub rollout: Option<Rollout>,
    /// The command that it retries.
    pub parent: Option<CommandId>,
}

/// What a command would be sent to: the answer to a dry run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Preview {
    /// How many devices it would be for.
    pub total: u64,
    /// How many of them are online.
    pub online: u64,
    /// How many have a full queue: their deliveries would be rejected.
    pub queue_full: u64,
    /// The first of them by name, at most
    /// [`PREVIEW_DEVICES_MAX`](crate::limits::PREVIEW_DEVICES_MAX).
    pub devices: Vec<DeviceId>,
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Page<T> {
    /// Its items.
    pub items: Vec<T>,
    /// The opaque cursor of the next page, to be given as `after`; `None` on the last.
    pub next: Option<String>,
}
