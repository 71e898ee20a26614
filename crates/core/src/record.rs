//! What the core asks of a store: the rows, the changes to them, and what to load.
//!
//! The core decides, a store keeps. A [`Txn`] is a set of changes that are on disk together or not
//! at all; a [`Committed`] is the proof that it is, and can be made only by consuming the
//! transaction. Stores commit transactions in the order in which they were given.

use std::time::Duration;

use bellwire_proto::limits::CANCEL_SLOT;
use bellwire_proto::{
    Action, CommandId, Delivery, DeliveryState, DeviceId, ErrorInfo, Json, Labels, Progress, Seq,
    Timestamp,
};

/// A command without its data: what every delivery of it needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandHead {
    /// Its identity.
    pub id: CommandId,
    /// Its place in the hub-wide order.
    pub seq: Seq,
    /// What the device is asked to do.
    pub action: Action,
    /// When it was stored.
    pub created_at: Timestamp,
    /// Until when it must be accepted.
    pub expires_at: Timestamp,
    /// The run clock: how long a device may be silent once it has accepted.
    pub run_timeout: Duration,
    /// Not to be sent before this.
    pub not_before: Option<Timestamp>,
}

/// A command as it is stored, once, when it is accepted from its sender.
#[derive(Debug, Clone, PartialEq)]
pub struct CommandRecord {
    /// Everything but the data.
    pub head: CommandHead,
    /// What goes with it, as it came.
    pub data: Json,
    /// Who sent it.
    pub created_by: Option<String>,
    /// How many deliveries it has.
    pub total: u64,
}

/// A delivery as it is stored: everything that must survive.
#[derive(Debug, Clone, PartialEq)]
pub struct DeliveryRecord {
    /// The command.
    pub head: CommandHead,
    /// The device.
    pub device: DeviceId,
    /// Where it is in its life. `Sent` on disk says that it may have been sent.
    pub state: DeliveryState,
    /// The number of the latest sending, as the device is told.
    pub attempt: u32,
    /// How often this hub sent it.
    pub sends: u32,
    /// How many attempts failed in a way that counts.
    pub counted: u32,
    /// The `rev` of the last report that had one and counted.
    pub rev: Option<u64>,
    /// Rises with each change; tells an older picture from a newer one.
    pub version: u64,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// What the device told of the run.
    pub outcome: Outcome,
    /// Whether its end was told after the hub had given up.
    pub late: bool,
    /// Whether `cancelled` was the hub's word alone, which a late result may overwrite.
    pub forced: bool,
    /// Queued, and not to be sent again before this: a lease or a nack came before.
    pub retry_at: Option<Timestamp>,
    /// Accepted or running: when the run clock is over.
    pub run_until: Option<Timestamp>,
    /// Cancelling: since when.
    pub cancelling_since: Option<Timestamp>,
}

/// What a device told of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// How far it is.
    pub progress: Option<Progress>,
    /// The handler's exit code.
    pub exit_code: Option<i64>,
    /// What the handler gave back.
    pub result: Option<Json>,
    /// The end of standard output.
    pub stdout: Option<String>,
    /// The end of standard error.
    pub stderr: Option<String>,
    /// Whether output was cut.
    pub truncated: bool,
    /// Why it did not succeed.
    pub error: Option<ErrorInfo>,
}

impl DeliveryRecord {
    /// A delivery that has just come to be.
    pub fn new(head: CommandHead, device: DeviceId) -> Self {
        Self {
            updated_at: head.created_at,
            head,
            device,
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
        let outcome = self.outcome.clone();
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
            expires_at: self.head.expires_at,
            progress: outcome.progress,
            exit_code: outcome.exit_code,
            result: outcome.result,
            stdout: outcome.stdout,
            stderr: outcome.stderr,
            truncated: outcome.truncated,
            error: outcome.error,
            late: self.late,
        }
    }

    /// When the hub must act on it even if nobody listens: its time to live, its run clock, or the
    /// end of its cancelling. `None` once it has ended. A store keeps this beside the row and
    /// answers [`Load::Due`] by it.
    pub fn due_at(&self) -> Option<Timestamp> {
        match self.state {
            DeliveryState::Queued | DeliveryState::Sent => Some(self.head.expires_at),
            DeliveryState::Accepted | DeliveryState::Running => self.run_until,
            DeliveryState::Cancelling => self
                .cancelling_since
                .map(|since| since.after(self.head.run_timeout.max(CANCEL_SLOT))),
            _ => None,
        }
    }
}

/// A device as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceRecord {
    /// Its name.
    pub id: DeviceId,
    /// What operators say of it.
    pub labels: Labels,
    /// What it says of itself: a JSON object.
    pub facts: Json,
    /// When it was first seen or registered.
    pub created_at: Timestamp,
    /// When and from where it was last seen, as far as that was written down.
    pub seen: Option<Seen>,
}

/// A contact with a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// When.
    pub at: Timestamp,
    /// From where, without the port.
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
    /// The device that the command is for.
    pub device: DeviceId,
    /// Until when the key is kept.
    pub expires_at: Timestamp,
}

/// Whose key, and the key: keys of different callers never meet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey {
    /// The caller; empty on an open hub.
    pub caller: String,
    /// What the header said.
    pub key: String,
}

/// One change to the store. All of them can be applied again without harm.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// A new command.
    PutCommand(Box<CommandRecord>),
    /// A delivery, new or changed: the whole row.
    PutDelivery(Box<DeliveryRecord>),
    /// A new device.
    PutDevice(Box<DeviceRecord>),
    /// A device's labels.
    PutLabels(DeviceId, Labels),
    /// A device's facts.
    PutFacts(DeviceId, Json),
    /// A device was there. Nothing is promised by it: it may be lost in a crash.
    PutSeen(DeviceId, Seen),
    /// A device is known no more. Its deliveries stay.
    DeleteDevice(DeviceId),
    /// A key and what it was used for.
    PutIdempotency(Box<IdempotencyRecord>),
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

/// What the core wants to know from the store. Reads see every transaction that was committed
/// before they were asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Load {
    /// A device and its live deliveries.
    Device(DeviceId),
    /// The data of commands; those that are not there are left out.
    Data(DeviceId, Vec<Seq>),
    /// The delivery of a command at a device, live or ended.
    Delivery(DeviceId, CommandId),
    /// The devices of a command: at most one as long as commands are for single devices.
    Targets(CommandId),
    /// What a key was used for.
    Idempotency(IdempotencyKey),
    /// Devices that have a live delivery which is due by then, at most this many.
    Due(Timestamp, usize),
    /// What was delivered (state `delivered`) to a device after the command `after`, in the order
    /// of delivery, not expired at `now`: by time of delivery, then by number. When `after` was
    /// not delivered or is no longer kept, all with a greater number.
    Delivered {
        /// The device.
        device: DeviceId,
        /// The last command that the device knows of.
        after: Seq,
        /// Commands that expired before this are left out.
        now: Timestamp,
        /// Rows at most.
        rows_max: usize,
        /// No further row once the data of those before adds up to this many bytes.
        bytes_max: usize,
    },
}

/// The answer to a [`Load`].
#[derive(Debug, Clone, PartialEq)]
pub enum Loaded {
    /// To [`Load::Device`].
    Device {
        /// The device asked for.
        device: DeviceId,
        /// Whether it is known.
        known: bool,
        /// Its deliveries that have not ended, by number.
        live: Vec<DeliveryRecord>,
    },
    /// To [`Load::Data`].
    Data(DeviceId, Vec<(Seq, Json)>),
    /// To [`Load::Delivery`].
    Delivery(DeviceId, CommandId, Option<Box<DeliveryRecord>>),
    /// To [`Load::Targets`].
    Targets(CommandId, Vec<DeviceId>),
    /// To [`Load::Idempotency`]; a key past its time may be given or left out.
    Idempotency(IdempotencyKey, Option<Box<IdempotencyRecord>>),
    /// To [`Load::Due`]: the devices, and when the earliest delivery of all others is due.
    Due(Vec<DeviceId>, Option<Timestamp>),
    /// To [`Load::Delivered`]: oldest first; empty when there are no more.
    Delivered(DeviceId, Vec<(DeliveryRecord, Json)>),
    /// The store could not answer.
    Failed(Load),
}
