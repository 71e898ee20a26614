//! Why a delivery is still queued: an answer for people. Contract, section 3.

use serde::{Deserialize, Serialize};

use crate::id::{CommandId, DeviceId};
use crate::time::Timestamp;

/// What a queued delivery waits for. The first that holds, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitReason {
    /// For its `not_before`.
    Scheduled,
    /// For its maintenance window to open.
    Window,
    /// For the device to connect.
    Offline,
    /// For the backoff after a nack or a lease.
    Backoff,
    /// For other commands of its device.
    Behind,
    /// For nothing: it is sent now.
    Ready,
}

/// A queued delivery, and what it waits for. All members are always written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// The device.
    pub device: DeviceId,
    /// What it waits for.
    pub reason: WaitReason,
    /// `offline`: when the device was last known to be online; `None` if it never was.
    pub since: Option<Timestamp>,
    /// `scheduled`, `window` and `backoff`: when that ends.
    pub until: Option<Timestamp>,
    /// `behind`: the command that is first.
    pub behind: Option<CommandId>,
}
