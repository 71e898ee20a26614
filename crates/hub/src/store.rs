//! What the hub stores on disk: the one trait that stands for a backend.
//!
//! The driver hands transactions over with [`Store::submit`] and lookups with [`Store::load`];
//! neither blocks, and the outcome is reported to [`StoreEvents`], always from a thread of the
//! store. The API's own reads are [`ReadFuture`]s, answered by other threads. A store decides nothing:
//! what the rows mean is in `bellwire-core`. Tables, fsync points and what is assumed of the disk
//! are described in `docs/store.md`.
//!
//! The rule that every store follows: [`Txn::committed`] is called after the transaction is on
//! disk, never before, and after the first error of the disk never again.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bellwire_core::record::{
    Committed, DeviceRecord, Load, Loaded, ScheduleRecord, TargetPage, TokenRecord, Txn,
};
use bellwire_core::{Instant, Presence, TargetQuery};
use bellwire_proto::device::{DeviceOrder, LabelCounts};
use bellwire_proto::{
    Action, AuditEntry, Command, CommandId, CommandIdPrefix, Delivery, DeliveryState, Device,
    DeviceId, DeviceStatus, Page, ScheduleId, Selector, Timestamp, TokenId,
};

mod commits;
mod cursor;
#[cfg(feature = "fault")]
pub mod fault;
mod queue;
mod sqlite;
mod visible;

pub use commits::{CommitCounts, CommitTimes};
pub use cursor::{BadCursor, Cursor};
pub use sqlite::{OpenError, Options, SqliteStore, check_folder, has_admin_token};
pub use visible::Visible;

/// The pending result of a read. The read is queued when this is made, not when it is polled.
pub type ReadFuture<T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send>>;

/// A backend: it stores transactions and reads what they stored.
///
/// A read with a [`Visible`] shows what concerns those devices: other deliveries are neither listed nor counted, and a
/// command that has none of them is not there.
///
/// Every read sees each transaction whose [`Committed`] was reported before the read was made.
pub trait Store: Send + Sync + 'static {
    /// Puts a transaction on disk, in the order of the calls. Never blocks.
    ///
    /// What waits is bounded by the callers: each waiting transaction belongs to a request or to a
    /// live delivery, and both are counted. After a failure it is dropped: the failure was reported to
    /// [`StoreEvents::failed`], which stands for every transaction that was not reported.
    fn submit(&self, txn: Txn);

    /// Looks something up. Never blocks; answered by [`StoreEvents::loaded`], with
    /// [`Loaded::Failed`] when it cannot be. What waits is bounded as it is for [`Store::submit`].
    fn load(&self, load: Load);

    /// A command by its id.
    fn command(&self, id: CommandId, visible: Visible) -> ReadFuture<Option<Command>>;

    /// How long a device may be silent about a command that it has accepted; `None` when there is no such command.
    fn run_timeout(&self, id: CommandId) -> ReadFuture<Option<Duration>>;

    /// Commands, newest first.
    fn commands(&self, filter: CommandFilter, page: PageRequest) -> ReadFuture<Page<Command>>;

    /// Commands whose ids begin so, the last ids first, `limit` at most.
    fn commands_by_id(
        &self,
        prefix: CommandIdPrefix,
        limit: u32,
        visible: Visible,
    ) -> ReadFuture<Vec<Command>>;

    /// The queued deliveries of a command by device name, with what they wait for; `None` when there is no such command.
    fn waits(
        &self,
        id: CommandId,
        page: PageRequest,
        visible: Visible,
    ) -> ReadFuture<Option<Page<StoredWait>>>;

    /// The deliveries of a command by device name, or those in one state; `None` when there is no
    /// such command.
    fn deliveries(
        &self,
        id: CommandId,
        state: Option<DeliveryState>,
        page: PageRequest,
        visible: Visible,
    ) -> ReadFuture<Option<Page<Delivery>>>;

    /// A command, and a page of its deliveries by device name, after the given one, as of one moment.
    fn snapshot(
        &self,
        id: CommandId,
        after: Option<DeviceId>,
        visible: Visible,
    ) -> ReadFuture<Option<Snapshot>>;

    /// A device by its name.
    fn device(&self, id: DeviceId) -> ReadFuture<Option<StoredDevice>>;

    /// Several devices by their names, in the order given; `None` for one that is not known.
    fn devices_named(&self, ids: Vec<DeviceId>) -> ReadFuture<Vec<Option<StoredDevice>>>;

    /// Devices in the order of the filter, after a position, `limit` at most; `rows_max` rows are looked at for them at most.
    fn devices(
        &self,
        filter: DeviceFilter,
        after: Option<DevicePosition>,
        limit: u32,
        rows_max: u32,
    ) -> ReadFuture<DevicePage>;

    /// Those of these devices that are there and fit, in the order given.
    fn devices_fitting(
        &self,
        filter: DeviceFilter,
        devices: Vec<DeviceId>,
    ) -> ReadFuture<Vec<DeviceId>>;

    /// Keys of labels in their order, with their values and how many devices have them.
    fn labels(&self, page: PageRequest, visible: Visible) -> ReadFuture<Page<LabelCounts>>;

    /// The devices that a query finds after the given one, of `rows_max` that are looked at.
    fn found(
        &self,
        query: TargetQuery,
        after: Option<DeviceId>,
        rows_max: usize,
    ) -> ReadFuture<TargetPage>;

    /// A token by its id, expired or not.
    fn token(&self, id: TokenId) -> ReadFuture<Option<StoredToken>>;

    /// Tokens by id.
    fn tokens(&self, page: PageRequest) -> ReadFuture<Page<TokenRecord>>;

    /// A schedule by its id.
    fn schedule(&self, id: ScheduleId) -> ReadFuture<Option<ScheduleRecord>>;

    /// A schedule by its name.
    fn schedule_named(&self, name: String) -> ReadFuture<Option<ScheduleRecord>>;

    /// Schedules by id: those that a token made, or all.
    fn schedules(&self, of: Option<TokenId>, page: PageRequest)
    -> ReadFuture<Page<ScheduleRecord>>;

    /// The audit log, newest first.
    fn audit(&self, filter: AuditFilter, page: PageRequest) -> ReadFuture<Page<AuditEntry>>;

    /// Entries of the audit log after a number, oldest first, of `limit` that are looked at; and the last of those.
    /// Without a number: none, and the last that there is.
    fn audit_after(
        &self,
        filter: AuditFilter,
        after: Option<u64>,
        limit: u32,
    ) -> ReadFuture<(Vec<AuditEntry>, u64)>;

    /// Whether the store still takes transactions.
    ///
    /// # Errors
    /// The first error of the disk, for good.
    fn health(&self) -> Result<(), StoreError>;

    /// How long commits took; `None` of a store that does not measure it.
    fn commit_times(&self) -> Option<&CommitTimes> {
        None
    }

    /// Why there is no space for another command, as a refusal says it; `None` when there is. What is submitted is stored all
    /// the same, as long as the disk takes it.
    fn full(&self) -> Option<&'static str>;

    /// About how many bytes the commands take that were stored with this `created_by`, as long as they are there; 0 of a store
    /// that does not count them.
    fn bytes_of_sender(&self, _created_by: &str) -> u64 {
        0
    }

    /// A cursor from which nothing can be read, for one that names a device which the reader must not see. `None` without
    /// randomness: the list then ends.
    fn seal_cursor(&self, cursor: &Cursor) -> Option<Cursor>;

    /// The cursor that was sealed, or this one if it is not.
    ///
    /// # Errors
    /// When it was sealed by another store, or made up.
    fn open_cursor(&self, cursor: Cursor) -> Result<Cursor, BadCursor>;

    /// Puts what was submitted on disk, tidies up and ends the threads of the store, within a
    /// bounded time. What is submitted afterwards is dropped.
    fn close(&self);
}

/// Where a store reports the outcome of transactions and loads. Called from the threads of the store.
pub trait StoreEvents: Send + Sync + 'static {
    /// These are on disk. In the order in which they were submitted, each once.
    fn committed(&self, committed: Vec<Committed>);

    /// The answers to loads, each once, in any order.
    fn loaded(&self, loaded: Vec<Loaded>);

    /// The disk failed: nothing that was not reported as committed will be. Called once at most.
    fn failed(&self, error: StoreError);
}

/// A command, and a page of its deliveries.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// The command; on a first page as its reader sees it, on the others as it is.
    pub command: Command,
    /// Deliveries by device name, each with its version. A page is bounded in bytes.
    pub deliveries: Vec<(Delivery, u64)>,
    /// Whether there are more after the last.
    pub more: bool,
}

/// Which commands to list. With `device` and `state` both, a command must have one delivery that
/// fits both.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommandFilter {
    /// For this device.
    pub device: Option<DeviceId>,
    /// With a delivery in this state.
    pub state: Option<DeliveryState>,
    /// Of this action.
    pub action: Option<Action>,
    /// What exists for the reader.
    pub visible: Visible,
}

/// Which devices to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceFilter {
    /// Those whose labels it matches; the default matches all.
    pub select: Selector,
    /// Those whose names begin so.
    pub prefix: String,
    /// Those whose last contact was before this; of one that had none, when it was made. Of those that are online the store
    /// does not know their last contact.
    pub unseen_before: Option<Timestamp>,
    /// Those that wait for approval, or do not.
    pub pending: Option<bool>,
    /// In which order.
    pub order: DeviceOrder,
    /// What exists for the reader.
    pub visible: Visible,
}

/// Which entries of the audit log to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// By holders of this token.
    pub actor: Option<String>,
    /// That concern this device.
    pub device: Option<DeviceId>,
    /// Of this kind.
    pub verb: Option<String>,
    /// From this time on.
    pub since: Option<Timestamp>,
}

impl AuditFilter {
    /// Whether an entry is one of these.
    pub fn matches(&self, entry: &AuditEntry) -> bool {
        let Self { actor, device, verb, since } = self;
        (actor.is_none() || *actor == entry.actor.token)
            && (device.is_none() || *device == entry.object.device)
            && verb.as_ref().is_none_or(|verb| *verb == entry.verb)
            && since.is_none_or(|since| entry.at >= since)
    }
}

/// Where a device is in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevicePosition {
    /// The device.
    pub device: DeviceId,
    /// What the list is sorted by: the last contact in milliseconds, -1 for none; the length of the queue; 0 by name.
    pub value: i64,
}

impl DevicePosition {
    /// By last contact, the value of those that are online.
    pub const ONLINE: i64 = i64::MAX;
}

/// A part of a list of devices, without their rows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DevicePage {
    /// Those that fit.
    pub found: Vec<DevicePosition>,
    /// Rows that were looked at.
    pub looked_at: u32,
    /// The last that was looked at, when there may be more behind it.
    pub next: Option<DevicePosition>,
}

/// Which part of a list to read.
///
/// A page may hold fewer items than requested and yet have a next one: a search through many rows
/// that fit nothing is cut into pages too, and so is one whose items are long. Once they hold
/// [`PAGE_BYTES_MAX`](bellwire_proto::limits::PAGE_BYTES_MAX) bytes no other is added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    /// Items at most.
    pub limit: u32,
    /// What the page before gave as `next`.
    pub after: Option<Cursor>,
}

/// A device as it is on disk.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredDevice {
    /// Its row.
    pub record: DeviceRecord,
    /// How many of its deliveries are `queued`.
    pub queued: u64,
}

/// A token as it is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredToken {
    /// Its row.
    pub record: TokenRecord,
    /// Of a device's token: whether the device must be approved first.
    pub pending: bool,
}

/// A queued delivery as it is on disk, with what may stand before it.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredWait {
    /// Its device.
    pub device: StoredDevice,
    /// Its `not_before` or when its window opens, as long as it waits for that.
    pub scheduled_at: Option<Timestamp>,
    /// That is when its window opens.
    pub awaits_window: bool,
    /// The end of its backoff.
    pub retry_at: Option<Instant>,
    /// Deliveries of the device that are sent and not terminal; no more than this many are counted:
    /// [`IN_FLIGHT_CEILING`](bellwire_proto::limits::IN_FLIGHT_CEILING).
    pub in_flight: usize,
    /// The first of those.
    pub first_in_flight: Option<CommandId>,
    /// The first of the device's queue that is older.
    pub older: Option<CommandId>,
}

impl StoredDevice {
    /// About what it holds in memory, in bytes.
    pub(crate) fn weight(&self) -> usize {
        let DeviceRecord { labels, facts, seen, .. } = &self.record;
        let labels = labels.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
        let agent = seen.as_ref().and_then(|seen| seen.agent.as_ref()).map_or(0, String::len);
        size_of::<Self>() + labels + facts.as_str().len() + agent
    }

    /// The device as the API shows it: its row, and whether it is online.
    pub fn into_device(self, presence: Presence) -> Device {
        let Self { record, queued } = self;
        let seen = record.seen;
        let seen_at = seen.as_ref().map(|seen| seen.at);
        let (address, agent) = seen.map_or((None, None), |seen| (seen.address, seen.agent));
        Device {
            id: record.id,
            labels: record.labels,
            facts: record.facts,
            online: presence.online(),
            connected_at: presence.connected_at,
            last_seen_at: presence.seen_at.max(seen_at),
            address: presence.peer.address.or(address),
            agent: presence.peer.agent.or(agent),
            transport: presence.transport,
            queued,
            created_at: record.created_at,
            status: match (record.pending, presence.conflict) {
                (true, _) => DeviceStatus::Pending,
                (false, true) => DeviceStatus::Conflict,
                (false, false) => DeviceStatus::Active,
            },
        }
    }
}

/// Why a store refuses a request, or has stopped. The cause is the [source](Error::source), and not part of
/// the message.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The machine's fault, as a rule: the disk refused a write, is full or damaged. Nothing more is
    /// stored until an operator has repaired it and restarted the hub.
    #[error("the store failed")]
    Failed(#[source] Arc<dyn Error + Send + Sync>),
    /// This one read failed. If the disk is to blame, [`StoreError::Failed`] follows.
    #[error("the store could not be read")]
    Unreadable(#[source] Arc<dyn Error + Send + Sync>),
    /// The hub's: too many reads wait already. Worth another try.
    #[error("too many reads are waiting")]
    Busy,
    /// The hub's: the store was closed, or no thread remains that could read. Worth another try only
    /// after a restart.
    #[error("the store is closed")]
    Closed,
    /// The client's: a cursor that no page of this list gave.
    #[error(transparent)]
    BadCursor(#[from] BadCursor),
}
