//! What a hub counts for its metrics, beside what its parts count themselves. `http/metrics.rs` shows all of it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use bellwire_proto::Code;

use crate::tls::Serving;

/// Counters of a hub since its start: relaxed atomics, one for each label that there may be.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// Answers by the first digit of their status, from 1.
    answers: [AtomicU64; 5],
    refusals: [AtomicU64; Code::ALL.len()],
    sends: AtomicU64,
    audit_entries: AtomicU64,
    /// The certificates of a hub that has a server of its own.
    certificates: OnceLock<Arc<Serving>>,
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

    /// A command was stored, or an earlier one with its key answered.
    pub(crate) fn sent(&self) {
        self.sends.fetch_add(1, Relaxed);
    }

    /// So many entries of the audit log are on their way to the disk.
    pub(crate) fn audited(&self, entries: u64) {
        if entries > 0 {
            self.audit_entries.fetch_add(entries, Relaxed);
        }
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
