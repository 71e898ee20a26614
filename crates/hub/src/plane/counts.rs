//! What the plane counts, for metrics. Shards add with relaxed atomics; a snapshot may be torn
//! between two numbers, never within one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::stream::UnsentTotal;
use super::{CloseReason, SinkTransport};

/// A snapshot of what the plane has done so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    /// Streams that have a sink and have not been closed.
    pub open: u64,
    /// The same by what carries them; each transport is there.
    pub open_by: Vec<(SinkTransport, u64)>,
    /// Bytes that kernels and body readers took, heads and framing included.
    pub bytes_written: u64,
    /// Writes that took them.
    pub writes: u64,
    /// Bytes that wait for slow readers, of all streams.
    pub unsent_bytes: u64,
    /// Streams closed since the start, by reason; every reason is there.
    pub closed: Vec<(CloseReason, u64)>,
}

impl Counts {
    /// How many streams closed for this reason.
    pub fn closed_as(&self, reason: CloseReason) -> u64 {
        self.closed.iter().find(|(known, _)| *known == reason).map_or(0, |(_, count)| *count)
    }
}

#[derive(Default)]
pub(crate) struct Counters {
    attached: [AtomicU64; SinkTransport::ALL.len()],
    detached: [AtomicU64; SinkTransport::ALL.len()],
    bytes_written: AtomicU64,
    writes: AtomicU64,
    pub(crate) unsent: Arc<UnsentTotal>,
    closed: [AtomicU64; CloseReason::ALL.len()],
}

impl Counters {
    pub(crate) fn attached(&self, transport: SinkTransport) {
        add(&self.attached, &SinkTransport::ALL, transport);
    }

    pub(crate) fn wrote(&self, bytes: usize) {
        self.bytes_written.fetch_add(bytes as u64, Relaxed);
        self.writes.fetch_add(1, Relaxed);
    }

    pub(crate) fn closed(&self, reason: CloseReason, was_attached: Option<SinkTransport>) {
        if let Some(transport) = was_attached {
            add(&self.detached, &SinkTransport::ALL, transport);
        }
        add(&self.closed, &CloseReason::ALL, reason);
    }

    pub(crate) fn snapshot(&self) -> Counts {
        // Detached first: a stream counted in neither is better than one below zero.
        let open = self.attached.iter().zip(&self.detached).map(|(attached, detached)| {
            let detached = detached.load(Relaxed);
            attached.load(Relaxed).saturating_sub(detached)
        });
        let open_by: Vec<_> = SinkTransport::ALL.into_iter().zip(open).collect();
        Counts {
            open: open_by.iter().map(|(_, open)| open).sum(),
            open_by,
            bytes_written: self.bytes_written.load(Relaxed),
            writes: self.writes.load(Relaxed),
            unsent_bytes: self.unsent.bytes() as u64,
            closed: CloseReason::ALL
                .into_iter()
                .zip(&self.closed)
                .map(|(reason, count)| (reason, count.load(Relaxed)))
                .collect(),
        }
    }
}

fn add<T: PartialEq>(counts: &[AtomicU64], of: &[T], which: T) {
    for (count, known) in counts.iter().zip(of) {
        if *known == which {
            count.fetch_add(1, Relaxed);
        }
    }
}
