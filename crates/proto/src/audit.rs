//! The audit log's entry: who did what, to whom, from where, and how it ended. Contract, section 6, "Audit".

use serde::{Deserialize, Serialize};

use crate::id::{Action, CommandId, DeviceId, ScheduleId};
use crate::problem::Code;
use crate::role::RoleName;
use crate::time::Timestamp;
use crate::token::TokenId;

/// An entry as the API shows it. All members are always written.
///
/// ```
/// use bellwire_proto::audit::AuditEntry;
/// let text = r#"{"id":7,"at":"2026-01-02T03:04:05.000Z","actor":{"token":null,"role":null},
///     "address":"192.0.2.7","verb":"read","object":{"device":null,"command":null,"action":null,"token":null,"schedule":null},
///     "status":401,"code":"unauthenticated","count":12}"#;
/// let entry: AuditEntry = serde_json::from_str(text)?;
/// assert_eq!((entry.status, entry.count), (401, 12));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Rises with each entry. Also the id of its event in a stream.
    pub id: u64,
    /// When, by the hub's wall clock; of several refusals, the first.
    pub at: Timestamp,
    /// The caller.
    pub actor: Actor,
    /// The address of the caller, without the port; `None` when it was done on the hub's own machine, in its data folder.
    pub address: Option<String>,
    /// What was done: `send`, `cancel`, `token.create` …
    pub verb: String,
    /// The device, command, token or schedule that it concerned.
    pub object: AuditObject,
    /// The HTTP status of the answer.
    pub status: u16,
    /// Of a refusal: the code of its problem.
    pub code: Option<Code>,
    /// How many refusals of one caller, one address and one code within a minute this stands for; otherwise 1.
    pub count: u64,
}

/// Who did it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Actor {
    /// The id of its token, as in `created_by`; `None` for a caller without one that works.
    pub token: Option<String>,
    /// The role that it had; `None` when it was refused for having none.
    pub role: Option<RoleName>,
}

/// What was acted upon, as far as it has a name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AuditObject {
    /// A device.
    pub device: Option<DeviceId>,
    /// A command.
    pub command: Option<CommandId>,
    /// What was to be done.
    pub action: Option<Action>,
    /// A token, by its id.
    pub token: Option<TokenId>,
    /// A schedule, by its id: one that was changed, or whose run it was.
    pub schedule: Option<ScheduleId>,
}

impl AuditObject {
    /// A device.
    pub fn device(device: &DeviceId) -> Self {
        Self { device: Some(device.clone()), ..Self::default() }
    }

    /// A token.
    pub fn token(token: TokenId) -> Self {
        Self { token: Some(token), ..Self::default() }
    }

    /// A command.
    pub fn command(command: CommandId) -> Self {
        Self { command: Some(command), ..Self::default() }
    }

    /// A schedule.
    pub fn schedule(schedule: ScheduleId) -> Self {
        Self { schedule: Some(schedule), ..Self::default() }
    }
}
