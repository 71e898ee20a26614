//! Counts the connections that are open, those that became streams included.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::quota::Share;

/// Counts one open connection for as long as it lives, in a counter of its maker; it moves with the
/// socket from the accept loop to the plane.
#[derive(Debug)]
pub struct ConnectionGuard {
    open: Option<Arc<AtomicUsize>>,
    _share: Share,
}

impl ConnectionGuard {
    /// Raises `open`, and lowers it again when dropped.
    pub fn new(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Relaxed);
        Self { open: Some(open.clone()), _share: Share::default() }
    }

    /// Holds the part of what its address may have open as well.
    pub(crate) fn with(self, share: Share) -> Self {
        let mut guard = self;
        guard._share = share;
        guard
    }

    /// For sockets that are not counted.
    pub fn none() -> Self {
        Self { open: None, _share: Share::default() }
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        if let Some(open) = &self.open {
            open.fetch_sub(1, Relaxed);
        }
    }
}
