//! The targets of a command to many: which devices they are, and the chunks in which those are stored that have no
//! delivery yet.

use bellwire_proto::{CommandId, DeliveryState, DeviceId, Selector};

use super::CommandHead;
use super::rollout::{RolloutCounts, RolloutRecord};

/// A part of the targets of a command to many that has no deliveries yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetChunk {
    /// Device names, rising; as it is stored never empty.
    pub devices: Vec<DeviceId>,
    /// Of a rollout: they are of its first batch.
    pub canary: bool,
    /// Of a rollout: all of them were registered when it was stored, so that one which is not any more was removed.
    pub registered: bool,
}

impl TargetChunk {
    /// Its first and its last name; `None` if it has none.
    pub fn range(&self) -> Option<ChunkRange> {
        let (first, last) = (self.devices.first()?.clone(), self.devices.last()?.clone());
        Some(ChunkRange { first, last, targets: self.devices.len() as u64, canary: self.canary })
    }
}

/// Which of the registered devices a command is for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TargetQuery {
    /// Those that it selects; all without one.
    pub select: Option<Selector>,
    /// The scope of the sender: what is outside of it is not there. All without one.
    pub scope: Option<Selector>,
    /// Only these, if they are given: rising, without duplicates.
    pub named: Option<Vec<DeviceId>>,
    /// Only those where this command has ended so.
    pub ended: Option<(CommandId, Vec<DeliveryState>)>,
    /// Those that it selects are the first batch of the rollout.
    pub canary: Option<Selector>,
}

/// Some of the devices that a [`TargetQuery`] finds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TargetPage {
    /// Those that it finds, rising.
    pub devices: Vec<DeviceId>,
    /// Those of them that the query names as canaries, rising.
    pub canaries: Vec<DeviceId>,
    /// The last device that was looked at; `None` when there are no more.
    pub last: Option<DeviceId>,
}

/// The first and the last name of a [`TargetChunk`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkRange {
    /// The first; names the chunk.
    pub first: DeviceId,
    /// The last.
    pub last: DeviceId,
    /// How many it has.
    pub targets: u64,
    /// As in [`TargetChunk::canary`].
    pub canary: bool,
}

/// A command to many that was not expanded, or not cancelled, to its end when the hub stopped.
#[derive(Debug, Clone, PartialEq)]
pub struct JobRecord {
    /// The command.
    pub head: CommandHead,
    /// As in [`CommandRecord::online_only`](super::CommandRecord::online_only).
    pub online_only: bool,
    /// The targets that have no delivery yet, rising.
    pub chunks: Vec<ChunkRange>,
    /// It is being cancelled; by force or not.
    pub cancel: Option<bool>,
    /// Its rollout, if it has one, and what has become of that.
    pub rollout: Option<(RolloutRecord, RolloutCounts)>,
}
