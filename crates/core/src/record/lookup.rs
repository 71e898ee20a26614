//! What the core looks up in the store, and what it gets. Rows are in `record.rs`.

use bellwire_proto::{CommandId, DeviceId, Json, Seq, Timestamp, TokenId};

use super::{
    CommandHead, DeliveryRecord, IdempotencyKey, IdempotencyRecord, RolloutRecord, TargetChunk,
    TargetPage, TargetQuery, TokenRecord,
};
use crate::ids::RequestId;
use crate::time::{Instant, Now};

/// What the core looks up in the store. Reads see every transaction that was committed before they
/// were requested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Load {
    /// A device: whether it is known, its deliveries in flight, and the first page of its queue.
    Device(DeviceId, PageMax),
    /// The next page of a device's queue: ready deliveries with a greater number than this.
    Queue(DeviceId, Seq, PageMax),
    /// These deliveries of a device, live or terminal; those that are not there are left out.
    Deliveries(DeviceId, Vec<Seq>),
    /// Any live deliveries of a device, at most this many.
    Live(DeviceId, usize),
    /// The data of one command.
    Data(DeviceId, Seq),
    /// The delivery of a command at a device, live or terminal.
    Delivery(DeviceId, CommandId),
    /// A command, to cancel it.
    Command(CommandId),
    /// The names of a [`TargetChunk`] by its command and first name, and the command's data.
    Targets(Seq, DeviceId),
    /// The devices that a query finds after the given one, of so many that are looked at.
    Found {
        /// Who sends the command.
        request: RequestId,
        /// Which devices are meant.
        query: Box<TargetQuery>,
        /// By name after this one.
        after: Option<DeviceId>,
        /// Devices to look at, at most.
        rows_max: usize,
    },
    /// Devices that have a live delivery of this command, by name after the given one, at most
    /// this many.
    LiveOf(Seq, Option<DeviceId>, usize),
    /// The first of these devices that is not known.
    Unknown(RequestId, Vec<DeviceId>),
    /// What a key was used for.
    Idempotency(IdempotencyKey),
    /// A token, expired or not.
    Token(TokenId),
    /// Deliveries that are due by then, at most this many: those whose [`due_at`] the monotonic clock has
    /// reached, or whose scheduled time the wall clock has.
    ///
    /// [`due_at`]: DeliveryRecord::due_at
    Due(Now, usize),
    /// What was delivered (state `delivered`) to a device after the command `after`, in the order
    /// of delivery, not expired: by time of delivery, then by number. When `after` was not
    /// delivered or is no longer retained, all with a greater number.
    Delivered {
        /// The device.
        device: DeviceId,
        /// The last command that the device knows of.
        after: Seq,
        /// Commands that expired before this are left out.
        now: Instant,
        /// How much at most.
        page_max: PageMax,
    },
}

/// The bounds of a page that is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageMax {
    /// Rows at most.
    pub rows: usize,
    /// No further row once the data of those before adds up to this many bytes.
    pub bytes: usize,
}

/// A page of a device's queue, by number, with the data of each.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct QueuePage {
    /// Ready deliveries, rising.
    pub rows: Vec<(DeliveryRecord, Json)>,
    /// Whether there are more behind it.
    pub more: bool,
}

/// What a store knows of a device.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadedDevice {
    /// The device that was looked up.
    pub device: DeviceId,
    /// Whether it is known.
    pub known: bool,
    /// How many of its deliveries are `queued`, scheduled ones included.
    pub queued: u64,
    /// Its deliveries in flight, by number.
    pub active: Vec<DeliveryRecord>,
    /// The first page of its queue; empty when none is counted as `queued`.
    pub queue: QueuePage,
}

/// What a store knows of a command that is to be cancelled.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadedCommand {
    /// The command.
    pub head: CommandHead,
    /// As in [`super::CommandRecord::online_only`].
    pub online_only: bool,
    /// Its first delivery by device name, if there is one.
    pub first: Option<Box<DeliveryRecord>>,
    /// How many of its deliveries are terminal.
    pub terminal: u64,
    /// Its rollout.
    pub rollout: Option<Box<RolloutRecord>>,
}

/// The answer to a [`Load`].
#[derive(Debug, Clone, PartialEq)]
pub enum Loaded {
    /// To [`Load::Device`].
    Device(Box<LoadedDevice>),
    /// To [`Load::Queue`].
    Queue(DeviceId, QueuePage),
    /// To [`Load::Deliveries`].
    Deliveries(DeviceId, Vec<DeliveryRecord>),
    /// To [`Load::Live`].
    Live(DeviceId, Vec<DeliveryRecord>),
    /// To [`Load::Data`]; `None` when there is no such command.
    Data(DeviceId, Seq, Option<Json>),
    /// To [`Load::Delivery`].
    Delivery(DeviceId, CommandId, Option<Box<DeliveryRecord>>),
    /// To [`Load::Command`].
    Command(CommandId, Option<Box<LoadedCommand>>),
    /// To [`Load::Targets`]; `None` when there is no such chunk.
    Targets(Seq, DeviceId, Option<(TargetChunk, Json)>),
    /// To [`Load::Found`].
    Found(RequestId, TargetPage),
    /// To [`Load::LiveOf`], rising.
    LiveOf(Seq, Vec<DeviceId>),
    /// To [`Load::Unknown`].
    Unknown(RequestId, Option<DeviceId>),
    /// To [`Load::Idempotency`]; a key whose retention has elapsed may be returned or left out.
    Idempotency(IdempotencyKey, Option<Box<IdempotencyRecord>>),
    /// To [`Load::Token`].
    Token(TokenId, Option<Box<TokenRecord>>),
    /// To [`Load::Due`].
    Due {
        /// Those that are due, earliest first.
        rows: Vec<(DeviceId, Seq)>,
        /// When the earliest of all others is due, by the monotonic clock.
        next: Option<Instant>,
        /// The time for which the earliest of all others is scheduled, by the wall clock.
        next_scheduled: Option<Timestamp>,
    },
    /// To [`Load::Delivered`]: oldest first; empty when there are no more.
    Delivered(DeviceId, Vec<(DeliveryRecord, Json)>),
    /// The store could not answer.
    Failed(Load),
}
