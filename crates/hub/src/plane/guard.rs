//! Counts the connections that are open, those that became streams included.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Counts one open connection for as long as it lives, in a counter of its maker; it moves with the
/// socket from the accept loop to the plane.
#[derive(Debug)]
pub struct ConnectionGuard(Option<Arc<AtomicUsize>>);

impl ConnectionGuard {
    /// Raises `open`, and lowers it again when dropped.
    pub fn new(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Relaxed);
        Self(Some(open.clone()))
    }

    /// For sockets that are not counted.
    pub fn none() -> Self {
        Self(None)
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        if let Some(open) = &self.0 {
            open.fetch_sub(1, Relaxed);
        }
    }
}
