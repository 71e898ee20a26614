//! Two agents with one identity: each takes the stream from the other, again and again. Contract, section 6, `status`.

use std::collections::VecDeque;

use bellwire_proto::DeviceChange;
use bellwire_proto::limits::{CONFLICT_REPLACED_MAX, CONFLICT_WINDOW};

use crate::device::Device;
use crate::time::Instant;
use crate::txn::TxnBuilder;

/// When streams of a device were replaced by others. Nothing while none was: a hub holds very many devices.
#[derive(Debug, Default)]
pub(super) struct IdentityConflict(Option<Box<Replaced>>);

#[derive(Debug, Default)]
struct Replaced {
    /// The latest, rising: one more than are allowed, at most.
    at: VecDeque<Instant>,
    conflict: bool,
}

impl IdentityConflict {
    /// A stream was replaced by a newer one.
    pub(super) fn replaced(&mut self, now: Instant) {
        let replaced = self.0.get_or_insert_default();
        replaced.at.push_back(now);
        if replaced.at.len() > CONFLICT_REPLACED_MAX + 1 {
            replaced.at.pop_front();
        }
    }

    pub(super) fn is_conflict(&self) -> bool {
        self.0.as_ref().is_some_and(|replaced| replaced.conflict)
    }

    /// When it has been quiet for long enough.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let latest = self.0.as_ref().filter(|replaced| replaced.conflict)?.at.back()?;
        Some(latest.after(CONFLICT_WINDOW))
    }

    /// Forgets what is too old. True when a conflict began or ended.
    fn update(&mut self, now: Instant) -> bool {
        let Some(replaced) = &mut self.0 else { return false };
        while replaced.at.front().is_some_and(|at| at.after(CONFLICT_WINDOW) <= now) {
            replaced.at.pop_front();
        }
        let was = replaced.conflict;
        // It begins with many, and ends with none.
        replaced.conflict =
            replaced.at.len() > CONFLICT_REPLACED_MAX || (was && !replaced.at.is_empty());
        let changed = was != replaced.conflict;
        if replaced.at.is_empty() {
            self.0 = None;
        }
        changed
    }
}

impl Device {
    /// Notifies observers if a conflict has begun or ended since the last call.
    pub(super) fn update_rivalry(&mut self, txn: &mut TxnBuilder<'_>) {
        if self.identity_conflict.update(txn.now.instant) && self.known {
            self.notify(DeviceChange::Changed, txn);
        }
    }
}
