//! A stream between its reservation in the plane and its connection.

use std::sync::Arc;

use super::runtime::Runtime;
use crate::plane::{CloseReason, StreamId};

/// A stream that is reserved in the plane and has no connection yet. Dropped before
/// [`Reserved::attached`], it is closed, which is reported to whatever sends into it.
#[must_use = "a stream that is not attached is closed"]
pub struct Reserved {
    pub(super) runtime: Arc<Runtime>,
    pub(super) stream: StreamId,
    pub(super) attached: bool,
}

impl Reserved {
    /// The stream, to send into or to look at.
    pub fn stream(&self) -> StreamId {
        self.stream
    }

    /// The name of the stream in `hello`, which `confirm` repeats.
    pub fn session(&self) -> String {
        self.runtime.session_name(self.stream.get())
    }

    /// From now on the stream is the plane's, which closes it if no connection is attached. Call it
    /// right before [`Plane::respond`](crate::plane::Plane::respond): its future is dropped when the connection is taken over, and
    /// all that the handler holds with it.
    pub fn attached(mut self) {
        self.attached = true;
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if !self.attached {
            let reason = CloseReason::NeverAttached;
            self.runtime.plane.close(self.stream, None, reason);
        }
    }
}

impl std::fmt::Debug for Reserved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Reserved").field(&self.stream).finish()
    }
}
