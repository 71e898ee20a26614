//! What a hub counts for its metrics, beside what its parts count themselves. `http/metrics.rs` shows all of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bellwire_core::record::{Change, Committed, Txn, TxnId};
use bellwire_proto::Code;

use crate::tls::Serving;

/// Counters of a hub since its start: relaxed atomics, one for each label that there may be.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// Answers by the first digit of their status, from 1.
    answers: [AtomicU64; 5],
    refusals: [AtomicU64; Code::ALL.len()],
    sends: AtomicU64,
    audit_entries: AtomicU64,
    /// What the transactions have that are not on disk yet; `None` once the store has failed, for none of them will be.
    uncommitted: Mutex<Option<BTreeMap<TxnId, Stored>>>,
    /// The certificates of a hub that has a server of its own.
    certificates: OnceLock<Arc<Serving>>,
}

/// What a transaction stores, as far as it is counted.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Stored {
    commands: u64,
    audit_entries: u64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            answers: Default::default(),
            refusals: std::array::from_fn(|_| AtomicU64::new(0)),
            sends: AtomicU64::new(0),
            audit_entries: AtomicU64::new(0),
            uncommitted: Mutex::new(Some(BTreeMap::new())),
            certificates: OnceLock::new(),
        }
    }
}

impl Metrics {
    /// A request was answered with this status, and if it was refused, for this reason.
    pub(crate) fn answered(&self, status: u16, refused: Option<Code>) {
        let class = usize::from(status / 100).checked_sub(1);
        if let Some(count) = class.and_then(|class| self.answers.get(class)) {
            count.fetch_add(1, Relaxed);
        }
        let Some(code) = refused else { return };
        for (count, known) in self.refusals.iter().zip(Code::ALL) {
            if *known == code {
                count.fetch_add(1, Relaxed);
            }
        }
    }

    /// A transaction is on its way to the disk.
    pub(crate) fn submits(&self, txn: &Txn) {
        let mut stored = Stored::default();
        for change in txn.changes() {
            match change {
                Change::PutCommand(_) => stored.commands += 1,
                Change::PutAudit(_) => stored.audit_entries += 1,
                _ => {}
            }
        }
        if stored != Stored::default()
            && let Some(uncommitted) = self.uncommitted().as_mut()
        {
            uncommitted.insert(txn.id(), stored);
        }
    }

    /// These transactions are on disk.
    pub(crate) fn committed(&self, committed: &[Committed]) {
        let mut uncommitted = self.uncommitted();
        let Some(uncommitted) = uncommitted.as_mut() else { return };
        for stored in committed.iter().filter_map(|committed| uncommitted.remove(&committed.id())) {
            self.sends.fetch_add(stored.commands, Relaxed);
            self.audit_entries.fetch_add(stored.audit_entries, Relaxed);
        }
    }

    /// No transaction will be on disk any more.
    pub(crate) fn store_failed(&self) {
        *self.uncommitted() = None;
    }

    fn uncommitted(&self) -> MutexGuard<'_, Option<BTreeMap<TxnId, Stored>>> {
        // Nothing panics while it is held.
        self.uncommitted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on these certificates are shown.
    pub(crate) fn show(&self, certificates: Arc<Serving>) {
        // A hub has one server at most.
        let _second = self.certificates.set(certificates);
    }

    /// Answers by the class of their status.
    pub(crate) fn answers(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"];
        classes.into_iter().zip(self.answers.iter().map(|count| count.load(Relaxed)))
    }

    /// Refusals by their reason; each reason is there.
    pub(crate) fn refusals(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.refusals.iter().map(|count| count.load(Relaxed));
        Code::ALL.iter().map(|code| code.as_str()).zip(counts)
    }

    pub(crate) fn sends(&self) -> u64 {
        self.sends.load(Relaxed)
    }

    pub(crate) fn audit_entries(&self) -> u64 {
        self.audit_entries.load(Relaxed)
    }

    pub(crate) fn certificates(&self) -> Option<&Serving> {
        self.certificates.get().map(|serving| &**serving)
    }
}
