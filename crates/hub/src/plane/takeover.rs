//! The request to take a connection over: made by a handler, fulfilled by the connection's task in
//! `listen`, the only one that can take the socket from the HTTP server.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use bytes::Bytes;

use super::{CloseReason, Framing, Plane, Sink, StreamId};

/// In the extensions of each request whose connection can be taken over; see
/// [`Plane::respond`](super::Plane::respond).
#[derive(Clone, Default)]
pub struct Takeover {
    slot: Arc<Mutex<Slot>>,
}

#[derive(Default)]
struct Slot {
    request: Option<TakeoverRequest>,
    waker: Option<Waker>,
    /// The connection and its task have ended.
    closed: bool,
}

/// A stream that waits for its connection. Dropped before it is fulfilled, it closes the stream.
pub(crate) struct TakeoverRequest {
    plane: Plane,
    id: StreamId,
    framing: Framing,
    head: Bytes,
    done: bool,
}

impl TakeoverRequest {
    pub(crate) fn new(plane: Plane, id: StreamId, framing: Framing, head: Bytes) -> Self {
        Self { plane, id, framing, head, done: false }
    }

    pub(crate) fn fulfil(mut self, sink: Sink) {
        self.done = true;
        self.plane.attach(self.id, sink, self.framing, std::mem::take(&mut self.head));
    }
}

impl Drop for TakeoverRequest {
    fn drop(&mut self) {
        if !self.done {
            self.plane.close(self.id, None, CloseReason::PeerClosed);
        }
    }
}

impl Takeover {
    /// Requests the connection. The future of the handler is dropped when it is taken over.
    pub(crate) fn request(&self, request: TakeoverRequest) {
        let (waker, refused) = {
            let mut slot = self.lock();
            if slot.closed {
                (None, Some(request))
            } else {
                let earlier = slot.request.replace(request);
                (slot.waker.take(), earlier)
            }
        };
        // Dropping a request closes its stream: not under the lock.
        drop(refused);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether there is a request; if not, `waker` is called when there is.
    pub(crate) fn is_requested(&self, waker: &Waker) -> bool {
        let mut slot = self.lock();
        if slot.request.is_none()
            && !slot.waker.as_ref().is_some_and(|known| known.will_wake(waker))
        {
            slot.waker = Some(waker.clone());
        }
        slot.request.is_some()
    }

    pub(crate) fn take(&self) -> Option<TakeoverRequest> {
        self.lock().request.take()
    }

    /// The connection ends: a request that waits, and any later one, closes its stream.
    pub(crate) fn close(&self) {
        let request = {
            let mut slot = self.lock();
            slot.closed = true;
            slot.waker = None;
            slot.request.take()
        };
        drop(request);
    }

    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Takeover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Takeover").finish_non_exhaustive()
    }
}
