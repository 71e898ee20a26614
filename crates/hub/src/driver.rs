//! Where core meets tokio: requests, streams, the store and the clock on one side, decisions on
//! the other.
//!
//! A [`Driver`] is what the HTTP handlers hold. Each of its methods is one turn: lock the core,
//! tell it what happened, and carry out every output before the lock is let go, so that outputs
//! keep their order. Nothing under the lock waits: [`Store::submit`] and [`Plane::send`] only
//! queue, a reply is a oneshot, and the [`feed`](crate::feed) is told by a bounded queue. The
//! store's thread and the plane's shards call back from their own threads and take turns like
//! everybody else; neither may call back from within a call that was made to it.
//!
//! Nothing is decided here, and no HTTP is known here.

#![expect(
    clippy::todo,
    unused_variables,
    dead_code,
    reason = "the outline of the interface; the bodies follow"
)]

use std::sync::Arc;

use bellwire_core::{Listen, Poll, Presence, Send};
use bellwire_proto::stream::{CancelEvent, CommandEvent};
use bellwire_proto::{
    CommandId, Delivery, Device, DeviceId, Json, Labels, Problem, Report, Timestamp,
};

use crate::config::Config;
use crate::plane::{Plane, StreamId, StreamOptions};
use crate::store::{Store, StoredDevice};

pub mod frames;

/// The hub as its HTTP handlers see it. Cheap to clone.
///
/// Every request has exactly one reply; a future that is dropped before it tells the core that
/// nobody waits any more.
#[derive(Clone)]
pub struct Driver {
    shared: Arc<Shared>,
}

/// What a poll is answered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Told {
    /// Commands to run, oldest first.
    pub commands: Vec<CommandEvent>,
    /// Commands to stop.
    pub cancels: Vec<CancelEvent>,
}

/// Whether the hub can take work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// It can.
    Ready,
    /// It is about to stop.
    Draining,
    /// The store has failed, and nothing more can be promised.
    StoreFailed,
}

/// A stream that is reserved in the plane and to be attached to a connection. Dropped before it
/// was attached, it is closed, and the core hears of it.
#[must_use = "a stream that nobody attaches is closed"]
pub struct Reserved {
    driver: Driver,
    stream: StreamId,
}

impl Driver {
    // --- What senders ask ---

    /// Stores a command; answers once it is on disk and, if asked to wait, has ended or the wait
    /// is over.
    ///
    /// # Errors
    /// `queue_full`, `device_offline`, `idempotency_mismatch`, `unknown_device`, `draining`,
    /// `store_unavailable`.
    pub async fn send(&self, send: Send) -> Result<Delivery, Problem> {
        todo!()
    }

    /// Cancels a command. True when every delivery of it has ended; the command itself is to be
    /// read from the store.
    ///
    /// # Errors
    /// `unknown_command`, `illegal_transition` when all had ended before, `store_unavailable`.
    pub async fn cancel(&self, command: CommandId, force: bool) -> Result<bool, Problem> {
        todo!()
    }

    // --- What devices tell ---

    /// Takes a report about a delivery; answers once it is on disk.
    ///
    /// # Errors
    /// `unknown_command`, `illegal_transition`, `store_unavailable`.
    pub async fn report(
        &self,
        device: DeviceId,
        command: CommandId,
        report: Report,
    ) -> Result<Delivery, Problem> {
        todo!()
    }

    /// Opens a device's stream: reserves it in the plane and lets the core send into it. What the
    /// core sends before the stream is attached waits there.
    ///
    /// # Errors
    /// `unknown_device`, `draining`, `store_unavailable`.
    pub async fn listen(
        &self,
        device: DeviceId,
        listen: Listen,
        options: StreamOptions,
    ) -> Result<Reserved, Problem> {
        todo!()
    }

    /// Confirms a stream; `session` is what its `hello` told, see [`Reserved::session`].
    ///
    /// # Errors
    /// `gone` when no such session of this device is live.
    pub async fn confirm(&self, device: DeviceId, session: &str) -> Result<(), Problem> {
        todo!()
    }

    /// Answers as soon as there is something to tell the device, or when the wait is over.
    ///
    /// # Errors
    /// `unknown_device`, `draining`, `store_unavailable`.
    pub async fn poll(&self, device: DeviceId, poll: Poll) -> Result<Told, Problem> {
        todo!()
    }

    // --- What operators do to devices ---

    /// Registers a device, or replaces its labels. True when it was not known before; the device
    /// itself is read by [`Driver::device`].
    ///
    /// # Errors
    /// `store_unavailable`.
    pub async fn put_device(&self, device: DeviceId, labels: Labels) -> Result<bool, Problem> {
        todo!()
    }

    /// Keeps what a device tells of itself.
    ///
    /// # Errors
    /// `unknown_device`, `store_unavailable`.
    pub async fn put_facts(&self, device: DeviceId, facts: Json) -> Result<(), Problem> {
        todo!()
    }

    /// Removes a device: its streams end and its live deliveries are cancelled.
    ///
    /// # Errors
    /// `unknown_device`, `store_unavailable`.
    pub async fn delete_device(&self, device: DeviceId) -> Result<(), Problem> {
        todo!()
    }

    // --- Who watches ---

    /// Opens a stream of what happens to a command: every delivery as it is, each change, `done`,
    /// the end.
    ///
    /// # Errors
    /// `unknown_command`, `draining`, `store_unavailable`, `rate_limited` past 1,000 watchers.
    pub async fn watch(
        &self,
        command: CommandId,
        options: StreamOptions,
    ) -> Result<Reserved, Problem> {
        todo!()
    }

    /// Opens a stream of what happens to all devices and deliveries.
    ///
    /// # Errors
    /// `draining`, `rate_limited` past 1,000 watchers.
    pub fn observe(&self, options: StreamOptions) -> Result<Reserved, Problem> {
        todo!()
    }

    // --- What can be seen ---

    /// Whether a device is there, and how.
    pub fn presence(&self, device: &DeviceId) -> Presence {
        todo!()
    }

    /// A device as the API shows it; `None` when it is not known.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub async fn device(&self, device: DeviceId) -> Result<Option<Device>, Problem> {
        todo!()
    }

    /// Joins what the store knows of a device with where it is now.
    pub fn show(&self, stored: StoredDevice) -> Device {
        todo!()
    }

    /// What an operator has set.
    pub fn config(&self) -> &Config {
        todo!()
    }

    /// A name for a session that is none: the `session` in the `hello` of a poll, which cannot be
    /// confirmed.
    pub fn no_session(&self) -> String {
        todo!()
    }

    /// The hub's clock.
    pub fn now(&self) -> Timestamp {
        todo!()
    }

    /// Whether the hub can take work: `/readyz`.
    pub fn readiness(&self) -> Readiness {
        todo!()
    }

    /// Where commands, deliveries and devices are read.
    pub fn store(&self) -> &dyn Store {
        todo!()
    }

    /// Where streams are attached.
    pub fn plane(&self) -> &Plane {
        todo!()
    }

    // --- The end ---

    /// Begins the end: waits and polls are answered, every stream gets its `bye`, and new sends,
    /// streams and polls are refused from now on. Reports and reads go on.
    pub fn drain(&self) {
        todo!()
    }
}

impl Reserved {
    /// The stream, to be attached.
    pub fn stream(&self) -> StreamId {
        self.stream
    }

    /// The name of the stream in `hello`, for `confirm`.
    pub fn session(&self) -> String {
        todo!()
    }

    /// The stream is now attached (or the plane closes it): nothing is left to be undone.
    pub fn attached(self) {
        todo!()
    }
}

struct Shared {}
