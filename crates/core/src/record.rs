//! What the core requests of a store: the rows, the changes to them, and the lookups.
//!
//! The core decides, a store retains. A [`Txn`] is a set of changes that are on disk together or
//! not at all; a [`Committed`] is the proof that it is, and can be made only by consuming the
//! transaction. Stores commit transactions in the order in which they were given.
//!
//! A **command** is stored once; each of its targets has a **delivery**. The deliveries of a
//! command to many come into being step by step: until then its targets wait in
//! [`TargetChunk`]s, which are stored with the command. Lookups are in `record/lookup.rs`.

mod lookup;
mod rollout;
mod schedule;
mod targets;

use core::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bellwire_proto::limits::CANCEL_SLOT;
use bellwire_proto::{
    Action, Actor, AuditObject, Code, CommandId, Delivery, DeliveryState, DeviceId, Json, Labels,
    Outcome, Role, ScheduleId, Seq, Timestamp, Token, TokenId, Window,
};

use crate::time::{Instant, Now};

pub use lookup::{Load, Loaded, LoadedCommand, LoadedDevice, PageMax, QueuePage};
pub(crate) use rollout::{ABORTED_BY_CANCEL, ABORTED_BY_OPERATOR};
pub use rollout::{BatchMark, RolloutCounts, RolloutRecord};
pub use schedule::ScheduleRecord;
pub use targets::{ChunkRange, JobRecord, TargetChunk, TargetPage, TargetQuery};

/// A command without its data: what every delivery of it needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandHead {
    /// Its identity.
    pub id: CommandId,
    /// Its position in the hub-wide order.
    pub seq: Seq,
    /// How many deliveries it has, or will have when it is expanded.
    pub total: u64,
    /// What the device is requested to do.
    pub action: Action,
    /// When it was stored, by the wall clock.
    pub created_at: Timestamp,
    /// When it was stored, by the monotonic clock.
    pub created: Instant,
    /// Until when it must be accepted, as the wall clock showed when it was stored.
    pub expires_at: Timestamp,
    /// The run clock: how long a device may be silent once it has accepted.
    pub run_timeout: Duration,
    /// Not to be sent before this, by the wall clock.
    pub not_before: Option<Timestamp>,
    /// To be sent only while this is open, by the wall clock.
    pub window: Option<Arc<Window>>,
}

impl CommandHead {
    /// The time to live, which counts from when it may first be sent.
    pub fn ttl(&self) -> Duration {
        self.expires_at.since(self.not_before.unwrap_or(self.created_at))
    }

    /// Until when a delivery of it must be accepted, as seen from `now`. Time counts from when it
    /// was stored, or, by the wall clock, from `not_before`.
    pub fn expires(&self, now: Now) -> Instant {
        match self.not_before {
            None => self.created.after(self.ttl()),
            Some(at) => now.instant_of(at).before(now.wall.since(at)).after(self.ttl()),
        }
    }

    /// Whether it has several targets.
    pub fn is_to_many(&self) -> bool {
        self.total > 1
    }
}

/// A command as it is stored, once, when it is accepted from its sender.
#[derive(Debug, Clone, PartialEq)]
pub struct CommandRecord {
    /// Everything but the data.
    pub head: CommandHead,
    /// What goes with it, as it was sent.
    pub data: Json,
    /// Who sent it.
    pub created_by: Option<String>,
    /// The selector that named its devices, as it was written.
    pub select: Option<String>,
    /// The command that it retries.
    pub parent: Option<CommandId>,
    /// Only for devices that are online (`ttl=0`): what is offline expires at once.
    pub online_only: bool,
}

/// A delivery as it is stored: everything that must survive.
#[derive(Debug, Clone, PartialEq)]
pub struct DeliveryRecord {
    /// The command.
    pub head: CommandHead,
    /// The device.
    pub device: DeviceId,
    /// Of a rollout: its batch.
    pub batch: Option<BatchMark>,
    /// Its state. `Sent` on disk means that it may have been sent.
    pub state: DeliveryState,
    /// The number of the latest sending, as the device sees it.
    pub attempt: u32,
    /// How often this hub sent it.
    pub sends: u32,
    /// How many attempts failed in a way that counts.
    pub counted: u32,
    /// The `rev` of the last report that had one and counted.
    pub rev: Option<u64>,
    /// Rises with each change; of two snapshots the greater is the newer one.
    pub version: u64,
    /// When it last changed, by the wall clock.
    pub updated_at: Timestamp,
    /// When it last changed, by the monotonic clock: the order of deliveries in a replay, and the
    /// age of history.
    pub updated: Instant,
    /// Until when it must be accepted.
    pub expires: Instant,
    /// What the device reported of the run, and the hub's error if it gave up.
    pub outcome: Outcome,
    /// Whether its end was reported after the hub had given up.
    pub late: bool,
    /// Whether the hub alone decided on `cancelled`, which a late result may overwrite.
    pub forced: bool,
    /// Queued, and not to be sent before this time of the wall clock, which has not come yet.
    pub scheduled_at: Option<Timestamp>,
    /// That time is when its window opens, and its time to live counts meanwhile; otherwise it is its `not_before`.
    pub awaits_window: bool,
    /// Queued, and not to be sent again before this: a lease or a nack came before.
    pub retry_at: Option<Instant>,
    /// Accepted or running: the end of the run clock.
    pub run_until: Option<Instant>,
    /// Cancelling: since when.
    pub cancelling_since: Option<Instant>,
}

impl DeliveryRecord {
    /// A delivery that has just come into being. `expires` counts anew when a scheduled one
    /// becomes ready.
    pub fn new(head: CommandHead, device: DeviceId, now: Now) -> Self {
        Self {
            updated_at: now.wall,
            updated: now.instant,
            expires: head.expires(now),
            scheduled_at: head.not_before.filter(|at| *at > now.wall),
            awaits_window: false,
            head,
            device,
            batch: None,
            state: DeliveryState::Queued,
            attempt: 0,
            sends: 0,
            counted: 0,
            rev: None,
            version: 0,
            outcome: Outcome::default(),
            late: false,
            forced: false,
            retry_at: None,
            run_until: None,
            cancelling_since: None,
        }
    }

    /// The object that the API shows of it.
    pub fn to_delivery(&self) -> Delivery {
        Delivery {
            command: self.head.id,
            seq: self.head.seq,
            device: self.device.clone(),
            action: self.head.action.clone(),
            state: self.state,
            attempt: self.attempt,
            rev: self.rev.unwrap_or(0),
            created_at: self.head.created_at,
            updated_at: self.updated_at,
            expires_at: self.expires_at(),
            outcome: self.outcome.clone(),
            late: self.late,
        }
    }

    /// Until when it must be accepted, as the wall clock showed when that was decided.
    pub fn expires_at(&self) -> Timestamp {
        self.batch.map_or(self.head.expires_at, |batch| batch.began_at.after(self.head.ttl()))
    }

    /// When the hub must act on it even without a listener: its time to live, its run clock, or the
    /// end of its cancelling. `None` once it is terminal, and until its `not_before`: that is a
    /// matter of the wall clock. A store retains this beside the row and answers [`Load::Due`] by
    /// it.
    pub fn due_at(&self) -> Option<Instant> {
        match self.state {
            DeliveryState::Queued if self.scheduled_at.is_some() && !self.awaits_window => None,
            DeliveryState::Queued | DeliveryState::Sent => Some(self.expires),
            DeliveryState::Accepted | DeliveryState::Running => self.run_until,
            DeliveryState::Cancelling => self
                .cancelling_since
                .map(|since| since.after(self.head.run_timeout.max(CANCEL_SLOT))),
            _ => None,
        }
    }

    /// Whether it waits in the queue and no time of the wall clock stands against sending it.
    pub fn is_ready(&self) -> bool {
        self.state == DeliveryState::Queued && self.scheduled_at.is_none()
    }
}

/// A device as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceRecord {
    /// Its name.
    pub id: DeviceId,
    /// What operators attach to it.
    pub labels: Labels,
    /// What it reports about itself: a JSON object.
    pub facts: Json,
    /// When it was first seen or registered.
    pub created_at: Timestamp,
    /// Its last contact, as far as that was stored.
    pub seen: Option<Seen>,
    /// It has enrolled, and an operator has yet to approve it.
    pub pending: bool,
}

/// A token as it is stored: no secret, only its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRecord {
    /// Its public name.
    pub id: TokenId,
    /// SHA-256 of its secret.
    pub digest: [u8; 32],
    /// What it may do.
    pub role: Role,
    /// From when on it does not work, by the wall clock.
    pub expires_at: Option<Timestamp>,
    /// What it is for.
    pub note: Option<String>,
    /// When it was made, by the wall clock.
    pub created_at: Timestamp,
    /// The id of the token that made it.
    pub created_by: Option<String>,
    /// When it was last used, as far as that was stored.
    pub last_used_at: Option<Timestamp>,
}

impl TokenRecord {
    /// Whether it does not work any more.
    pub fn is_expired(&self, wall: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= wall)
    }

    /// The object that the API shows of it.
    pub fn to_token(&self) -> Token {
        Token {
            id: Some(self.id),
            role: self.role.clone(),
            expires_at: self.expires_at,
            note: self.note.clone(),
            created_at: Some(self.created_at),
            created_by: self.created_by.clone(),
            last_used_at: self.last_used_at,
        }
    }
}

/// An entry of the audit log, as it is stored. The store numbers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRecord {
    /// When, by the wall clock; of several refusals, the first.
    pub at: Timestamp,
    /// The caller. Shared, for one caller usually has more than one entry.
    pub actor: Arc<Actor>,
    /// The address of the caller, without the port.
    pub address: Option<IpAddr>,
    /// What was done, as in [`AuditEntry::verb`](bellwire_proto::AuditEntry::verb).
    pub verb: &'static str,
    /// The device, command, token or schedule that it concerned.
    pub object: AuditObject,
    /// The HTTP status of the answer.
    pub status: u16,
    /// Of a refusal: the code of its problem.
    pub code: Option<Code>,
    /// How many refusals it stands for.
    pub count: u64,
    /// Of refusals that are still being counted: their number. The same number again replaces the count and nothing else.
    pub refusal: Option<u64>,
}

/// A contact with a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// When, by the wall clock.
    pub at: Timestamp,
    /// The address from which it came, without the port.
    pub address: Option<String>,
    /// Its `User-Agent`.
    pub agent: Option<String>,
}

/// An `Idempotency-Key` and what it was used for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyRecord {
    /// Whose key it is, and the key.
    pub key: IdempotencyKey,
    /// A digest of the request; the same key with another is a mistake of the caller.
    pub fingerprint: [u8; 32],
    /// The command that the request made.
    pub command: CommandId,
    /// The device that the command is for; `None` when it is a command to many.
    pub device: Option<DeviceId>,
    /// Until when the key is retained.
    pub expires: Instant,
}

/// Whose key, and the key: keys of different callers never meet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey {
    /// The caller; empty on an open hub.
    pub caller: String,
    /// The value of the header.
    pub key: String,
}

/// One change to the store. All of them can be applied again without harm.
///
/// Beside the rows a store retains, for each command to many, **how many of its deliveries are in
/// which state**. These counters are a function of the rows: [`Change::PutDelivery`] of such a
/// command moves one from the state of the row that it replaces to the new one.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// A new command.
    PutCommand(Box<CommandRecord>),
    /// Targets of a command to many that have no delivery yet.
    PutTargets(Seq, TargetChunk),
    /// The targets of the chunk with this first name have their deliveries.
    DeleteTargets(Seq, DeviceId),
    /// All targets that were put under the first number belong to the command with the second, which is stored by the
    /// same transaction. Until then no command has the first: a start deletes such targets.
    AdoptTargets(Seq, Seq),
    /// All targets that were put under this number are given up: there will be no command.
    DropTargets(Seq),
    /// A rollout, new or changed.
    PutRollout(Seq, Box<RolloutRecord>),
    /// A command to many is being cancelled, by force or not.
    PutCancel(Seq, bool),
    /// The cancellation of a command to many has reached every delivery.
    DeleteCancel(Seq),
    /// A delivery, new or changed: the whole row.
    PutDelivery(Box<DeliveryRecord>),
    /// How many deliveries of a device are `queued`.
    PutQueued(DeviceId, u64),
    /// A new device.
    PutDevice(Box<DeviceRecord>),
    /// A device's labels.
    PutLabels(DeviceId, Labels),
    /// A device's facts.
    PutFacts(DeviceId, Json),
    /// A contact with a device. Nothing is promised by it: it may be lost in a crash.
    PutSeen(DeviceId, Seen),
    /// A device is removed. Its deliveries stay.
    DeleteDevice(DeviceId),
    /// A key and what it was used for.
    PutIdempotency(Box<IdempotencyRecord>),
    /// Whether a device must be approved before it may work.
    PutPending(DeviceId, bool),
    /// A new token.
    PutToken(Box<TokenRecord>),
    /// How many more devices may enrol with a join token.
    PutUses(TokenId, u64),
    /// A use of a token, to the minute. Nothing is promised by it: it may be lost in a crash.
    PutLastUsed(TokenId, Timestamp),
    /// A token is revoked.
    DeleteToken(TokenId),
    /// All tokens of a device are revoked.
    DeleteTokensOf(DeviceId),
    /// A schedule, new or changed: the whole row.
    PutSchedule(Box<ScheduleRecord>),
    /// A schedule is deleted. Its commands stay.
    DeleteSchedule(ScheduleId),
    /// An entry of the audit log. The one change that applied twice leaves two rows, unless it counts refusals.
    PutAudit(Box<AuditRecord>),
}

/// The number of a transaction; they are given out and committed in rising order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct TxnId(pub u64);

/// Changes that are on disk together or not at all.
#[derive(Debug)]
#[must_use = "a transaction that no store gets is an answer that never comes"]
pub struct Txn {
    id: TxnId,
    changes: Vec<Change>,
}

impl Txn {
    /// Made by the core alone, and by the tests of a store.
    pub fn new(id: TxnId, changes: Vec<Change>) -> Self {
        Self { id, changes }
    }

    /// Its number.
    pub fn id(&self) -> TxnId {
        self.id
    }

    /// What it changes, in order.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// To be called by a store when the changes are on disk, and never before.
    pub fn committed(self) -> Committed {
        Committed(self.id)
    }
}

/// The proof that a transaction is on disk.
#[derive(Debug)]
#[must_use = "answers wait for this"]
pub struct Committed(pub(crate) TxnId);

impl Committed {
    /// The number of the transaction that is on disk.
    pub fn id(&self) -> TxnId {
        self.0
    }
}
