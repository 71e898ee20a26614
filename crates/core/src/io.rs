//! What goes into the core and what comes out of it.

use std::sync::Arc;

use bellwire_proto::stream::{Bye, CancelEvent, CommandEvent};
use bellwire_proto::{
    Action, CommandId, Delivery, DeviceChange, DeviceId, Json, Problem, RolloutPlan, ScheduleId,
    SchedulePlan, Seconds, Seq, Timestamp, TokenId, Transport, Window, limits,
};

use crate::ids::{RequestId, SessionId};
use crate::record::{IdempotencyKey, Load, ScheduleRecord, TargetQuery, Txn};

/// The devices that a command is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// One device.
    Device(DeviceId),
    /// Several devices, rising by name, without duplicates; never empty.
    Devices(Vec<DeviceId>),
    /// The devices that are found in the store when the command is stored; maybe none.
    Found(Box<TargetQuery>),
}

/// What an operator does to a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RolloutOp {
    /// No batch begins until it is resumed.
    Pause,
    /// Batches begin again.
    Resume,
    /// None begins any more.
    Abort,
}

/// What is done to a schedule. Who may do that was checked before.
#[derive(Debug, Clone)]
pub enum ScheduleOp {
    /// It is made; from when its times count is decided by the core.
    Create(Box<ScheduleRecord>),
    /// It gets another plan, if it is still as it was in this version.
    Change {
        /// The schedule.
        id: ScheduleId,
        /// What replaces its plan.
        plan: Box<SchedulePlan>,
        /// Whether it is paused then.
        paused: bool,
        /// The version that was read.
        version: u64,
    },
    /// It is paused or resumed.
    Pause {
        /// The schedule.
        id: ScheduleId,
        /// Whether it is paused from now on, or resumed.
        paused: bool,
    },
    /// It is deleted.
    Delete(ScheduleId),
}

impl ScheduleOp {
    /// The schedule.
    pub fn id(&self) -> ScheduleId {
        match self {
            Self::Create(record) => record.id,
            Self::Change { id, .. } | Self::Pause { id, .. } | Self::Delete(id) => *id,
        }
    }
}

impl Target {
    /// These devices, in any order; what is named twice counts once. `None` when there are none.
    ///
    /// ```
    /// use bellwire_core::Target;
    /// let target = Target::of(vec!["b".parse()?, "a".parse()?, "b".parse()?]);
    /// assert_eq!(target, Some(Target::Devices(vec!["a".parse()?, "b".parse()?])));
    /// assert_eq!(Target::of(vec!["a".parse()?]), Some(Target::Device("a".parse()?)));
    /// assert_eq!(Target::of(vec![]), None);
    /// # Ok::<(), bellwire_proto::InvalidName>(())
    /// ```
    pub fn of(mut devices: Vec<DeviceId>) -> Option<Self> {
        devices.sort_unstable();
        devices.dedup();
        match devices.len() {
            0 | 1 => devices.pop().map(Self::Device),
            _ => Some(Self::Devices(devices)),
        }
    }
}

/// A command to be stored.
#[derive(Debug, Clone)]
pub struct Send {
    /// The devices that it is for.
    pub target: Target,
    /// What the device is to do.
    pub action: Action,
    /// The action's data.
    pub data: Json,
    /// Time to live; `None` is the default, zero is "only if it is online".
    pub ttl: Option<Seconds>,
    /// The run clock; `None` is the default.
    pub run_timeout: Option<Seconds>,
    /// How long the sender waits for the end; only for a command to one device.
    pub wait: Seconds,
    /// Not to be sent before this time of the wall clock; the time to live counts from then.
    pub not_before: Option<Timestamp>,
    /// It is sent only while this is open.
    pub window: Option<Arc<Window>>,
    /// What a full queue does: the command is stored all the same and its delivery `rejected`
    /// (`true`, and always so for several devices), or the request is refused.
    pub reject_when_full: bool,
    /// The selector that named the target, as it was written.
    pub select: Option<String>,
    /// The command that it retries.
    pub parent: Option<CommandId>,
    /// How it is rolled out; to all at once without a plan.
    pub rollout: Option<Box<RolloutPlan>>,
    /// Who sends it.
    pub created_by: Option<String>,
    /// The caller's key, and the digest of the request that it stands for.
    pub idempotency: Option<(IdempotencyKey, [u8; 32])>,
    /// Why it cannot be stored now. One whose key was used before is answered all the same: it was stored then.
    pub refused: Option<Box<Problem>>,
    /// The schedule whose run it is, and the time that is run. For the core alone.
    pub run: Option<(ScheduleId, Timestamp)>,
}

impl Send {
    /// A command to one device with the defaults of the contract.
    pub fn new(device: DeviceId, action: Action, data: Json) -> Self {
        Self::to(Target::Device(device), action, data)
    }

    /// A command with the defaults of the contract.
    pub fn to(target: Target, action: Action, data: Json) -> Self {
        Self {
            target,
            action,
            data,
            ttl: None,
            run_timeout: None,
            wait: Seconds::new(limits::WAIT_S.default),
            not_before: None,
            window: None,
            reject_when_full: false,
            select: None,
            parent: None,
            rollout: None,
            created_by: None,
            idempotency: None,
            refused: None,
            run: None,
        }
    }
}

/// A send with the randomness of its command's id.
pub(crate) type NewSend = (RequestId, Box<Send>, [u8; 10]);

/// The client's end of a listener.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Peer {
    /// Its address without the port.
    pub address: Option<String>,
    /// Its `User-Agent`.
    pub agent: Option<String>,
}

/// What a device requests of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listen {
    /// The device sends no reports: what was written is `delivered`.
    pub ack_none: bool,
    /// The stream counts only once it is confirmed.
    pub confirm: bool,
    /// The last command that the device knows of. Matters with `ack_none` alone.
    pub last_event_id: Option<Seq>,
    /// The client's end of the connection.
    pub peer: Peer,
    /// With which token; `None` on an open hub.
    pub token: Option<TokenUse>,
}

/// The token of a listener, which ends with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenUse {
    /// The token.
    pub id: TokenId,
    /// When it expires.
    pub expires_at: Option<Timestamp>,
    /// It is stored as a token of the device that listens, so that its end names the device.
    pub own: bool,
}

/// A device that enrols.
#[derive(Debug, Clone)]
pub struct Enrolment {
    /// The join token with which it comes.
    pub join: TokenId,
    /// The name that it wants, or one that was made for it.
    pub device: DeviceId,
    /// What it reports of itself.
    pub facts: Option<Json>,
    /// The id of the token that is made for it.
    pub token: TokenId,
    /// SHA-256 of that token's secret.
    pub digest: [u8; 32],
}

/// Who may do what has changed: what was remembered of it is to be forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessChange {
    /// There is an `admin` token: from now on no request without a credential is answered.
    Closed,
    /// This token does not work any more.
    Token(TokenId),
    /// The tokens, the labels or the status of this device changed, or it is removed.
    Device(DeviceId),
}

/// What a device requests of a long poll.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Poll {
    /// How long the answer may wait for a command.
    pub wait: Seconds,
    /// The last command that the device knows of: what was sent with a greater number was lost.
    pub last_event_id: Option<Seq>,
    /// The client's end of the connection.
    pub peer: Peer,
    /// With which token or other credential that may end; `None` on an open hub.
    pub token: Option<TokenId>,
}

/// What is to be done, in this order.
#[derive(Debug)]
pub enum Output {
    /// Put this on disk; then call [`Hub::handle_committed`](crate::Hub::handle_committed).
    Persist(Txn),
    /// Look this up; then call [`Hub::handle_loaded`](crate::Hub::handle_loaded).
    Load(Load),
    /// Write this into a stream. If the stream has ended, it is dropped.
    Send {
        /// The stream.
        session: SessionId,
        /// What to write.
        frame: Frame,
        /// Which progress of the frame is to be reported, with the number of its command.
        notify_on: NotifyOn,
    },
    /// End a stream. [`Hub::handle_closed`](crate::Hub::handle_closed) need not be called afterwards, and
    /// has no effect then.
    Close {
        /// The stream.
        session: SessionId,
        /// The last event.
        bye: Bye,
    },
    /// Forget what was remembered of tokens and devices; it is on disk. Before the reply to the request that changed it.
    Access(AccessChange),
    /// Answer a request.
    Reply(RequestId, Answer),
    /// Report this to observers and watchers. It is on disk (`sent` and presence excepted).
    Notify(HubEvent),
}

/// An event for a device's stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A command to run; its event carries the number as its id.
    Command(CommandEvent),
    /// A command to stop.
    Cancel(CancelEvent),
}

/// The progress of a frame after which [`Hub::handle_taken`](crate::Hub::handle_taken) is to be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotifyOn {
    /// No call is wanted.
    Nothing,
    /// The stream's buffer or the kernel has taken it.
    Taken(Seq),
    /// Its last byte went to the kernel.
    Written(Seq),
}

/// The answer to a request.
#[derive(Debug, Clone)]
pub enum Answer {
    /// To a send to one device, or a report: the delivery as it stands.
    Delivery(Box<Delivery>),
    /// To a send to several devices: it is on disk, and is to be read from the store.
    Command(CommandId),
    /// To a listen: the stream may begin.
    Listening,
    /// To a poll: what there is to run and to stop.
    Poll {
        /// Commands to run, oldest first.
        commands: Vec<CommandEvent>,
        /// Commands to stop.
        cancels: Vec<CancelEvent>,
    },
    /// To a registration, labels or facts: it is on disk; whether the device is new.
    Device {
        /// It was not known before.
        created: bool,
    },
    /// To an enrolment: the device and its token are on disk.
    Enrolled {
        /// Whether an operator must approve it first.
        pending: bool,
    },
    /// To a cancellation: it is on disk. The command is to be read from the store.
    Cancelled,
    /// To a confirmation, a removal, a token made or revoked, or the question whether all is on disk.
    Done,
    /// A refusal.
    Problem(Box<Problem>),
}

/// Something that happened, for observers and watchers.
#[derive(Debug, Clone)]
pub enum HubEvent {
    /// A delivery changed; it is as it is on disk.
    Delivery {
        /// The delivery now.
        delivery: Box<Delivery>,
        /// Rises with each change of this delivery.
        version: u64,
    },
    /// A device connected or disconnected, was created or removed.
    Device {
        /// The device.
        device: DeviceId,
        /// What happened.
        change: DeviceChange,
        /// Whether it is online now, and how.
        presence: Presence,
    },
}

impl HubEvent {
    /// The command that this is about.
    pub fn command(&self) -> Option<CommandId> {
        match self {
            Self::Delivery { delivery, .. } => Some(delivery.command),
            Self::Device { .. } => None,
        }
    }
}

/// Whether and how a device is online. Known to the core alone; not on disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Presence {
    /// Since when it is online; `None` while it is not.
    pub connected_at: Option<Timestamp>,
    /// How it listens while it is online.
    pub transport: Option<Transport>,
    /// The last contact, if there was one since it was loaded.
    pub seen_at: Option<Timestamp>,
    /// The client's end of the connection.
    pub peer: Peer,
    /// Whether two agents with its identity take its stream from each other.
    pub conflict: bool,
}

impl Presence {
    /// Whether the device is online.
    pub fn online(&self) -> bool {
        self.connected_at.is_some()
    }
}

/// How much a hub holds in memory, in entries. All zero while there is no listener, no request and no
/// step under way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Devices that listen, or that a call is under way for.
    pub devices: usize,
    /// Streams.
    pub sessions: usize,
    /// Polls, and senders that wait for an end.
    pub waiting: usize,
    /// Deadlines of devices.
    pub timers: usize,
    /// Transactions that the store has not committed.
    pub transactions: usize,
    /// Idempotency keys and cancellations that are being looked up or written.
    pub lookups: usize,
    /// Commands to many that are being expanded or cancelled, and their steps under way.
    pub jobs: usize,
    /// Tokens that are being looked up or changed, and those of open streams.
    pub tokens: usize,
    /// Runs of schedules that are under way.
    pub runs: usize,
    /// Entries of the audit log whose requests have not changed anything yet.
    pub audits: usize,
}
