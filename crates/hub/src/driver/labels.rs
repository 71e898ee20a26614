//! Changes of labels that rest on what they were: a merge, and one that is conditional.
//!
//! The core holds no labels, so they are read from the store, changed, and put. Meanwhile no other change of the same
//! device's labels begins. That includes those that rest on nothing, which would be lost otherwise, and the device's removal,
//! after which a change would register it again.

use bellwire_proto::labels::{LabelsPatch, merge};
use bellwire_proto::limits::LABELS_BYTES_MAX;
use bellwire_proto::{AuditObject, Code, DeviceId, Labels, Problem};
use std::hash::{BuildHasher as _, RandomState};
use tokio::sync::{Mutex, MutexGuard};

use super::{Answer, Driver, unexpected};
use crate::audit::verb;
use crate::internal;

/// What is to become of the labels of a device.
#[derive(Debug)]
pub enum LabelsChange {
    /// They are these; an unknown device is registered.
    Replace(Labels),
    /// They are changed by this; the device must be there.
    Merge(LabelsPatch),
}

/// What has become of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelsChanged {
    /// It is on disk; whether it registered the device.
    Done {
        /// There was no such device.
        created: bool,
    },
    /// The labels were not those on which the change rests. Nothing was changed.
    Unexpected,
}

/// One of these is locked while labels of a device are changed. Two devices that share one wait for each other.
#[derive(Debug)]
pub(super) struct LabelLocks {
    locks: [Mutex<()>; LOCKS],
    hasher: RandomState,
}

const LOCKS: usize = 64;

impl Default for LabelLocks {
    fn default() -> Self {
        Self { locks: std::array::from_fn(|_| Mutex::default()), hasher: RandomState::new() }
    }
}

impl LabelLocks {
    async fn lock(&self, device: &DeviceId) -> Option<MutexGuard<'_, ()>> {
        let at = self.hasher.hash_one(device) % LOCKS as u64;
        let lock = self.locks.get(usize::try_from(at).unwrap_or_default())?;
        Some(lock.lock().await)
    }
}

impl Driver {
    /// Does what changes the labels of a device, or ends them, while no other such change is under way. It is a task of its
    /// own: a client that goes away ends it neither between a read and the commit, nor before its commit is on disk.
    pub(super) async fn hold_labels_for<T, F>(
        &self,
        device: DeviceId,
        act: impl FnOnce(Self) -> F + Send + 'static,
    ) -> Result<T, Problem>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Problem>> + Send,
    {
        let driver = self.clone();
        let acting = async move {
            let _held = driver.hold_labels(&device).await;
            act(driver.clone()).await
        };
        tokio::spawn(acting).await.map_err(internal::failed)?
    }

    /// Until this is dropped, no other change of the device's labels begins.
    pub(super) async fn hold_labels(&self, device: &DeviceId) -> Option<MutexGuard<'_, ()>> {
        self.runtime.labels.lock(device).await
    }

    /// Changes the labels of a device, if they are `as_expected`: `None` stands for a device that is not there.
    ///
    /// # Errors
    /// `unknown_device` for a merge, `payload_too_large` when the labels would be too long, `store_unavailable`.
    pub async fn change_labels(
        &self,
        device: DeviceId,
        change: LabelsChange,
        as_expected: impl Fn(Option<&Labels>) -> bool + Send + 'static,
    ) -> Result<LabelsChanged, Problem> {
        let changed = device.clone();
        self.hold_labels_for(device, move |driver| async move {
            let device = changed;
            let old = driver.store().device(device.clone()).await?.map(|row| row.record.labels);
            let labels = match (change, old.clone()) {
                (LabelsChange::Merge(_), None) => {
                    return Err(bellwire_core::unknown_device(&device));
                }
                _ if !as_expected(old.as_ref()) => return Ok(LabelsChanged::Unexpected),
                (LabelsChange::Replace(labels), _) => labels,
                (LabelsChange::Merge(patch), Some(old)) => merge(old, patch),
            };
            if serde_json::to_vec(&labels).map_err(internal::failed)?.len() > LABELS_BYTES_MAX {
                let detail =
                    format!("the labels of a device are at most {LABELS_BYTES_MAX} bytes as JSON");
                return Err(Problem::new(Code::PayloadTooLarge, detail));
            }
            let created = driver.put_labels(device, labels).await?;
            Ok(LabelsChanged::Done { created })
        })
        .await
    }

    /// Puts labels, which the caller holds.
    pub(super) async fn put_labels(
        &self,
        device: DeviceId,
        labels: Labels,
    ) -> Result<bool, Problem> {
        let record = self.record(verb::DEVICE_PUT, AuditObject::device(&device), 200);
        let reply = self.request_recorded(record, |hub, request, now| {
            hub.handle_put_device(request, device, labels, now)
        });
        match reply.await? {
            Answer::Device { created } => Ok(created),
            answer => Err(unexpected(&answer)),
        }
    }
}
