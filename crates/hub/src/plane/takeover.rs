//! The order to take a connection over: given by a handler, carried out by the connection's task
//! in `listen`, the only one that can take the socket from under the HTTP server.

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
    order: Option<Order>,
    waker: Option<Waker>,
    /// The connection is gone, and its task with it.
    closed: bool,
}

/// A stream that waits for its connection. Dropped without one, it closes the stream.
pub(crate) struct Order {
    plane: Plane,
    id: StreamId,
    framing: Framing,
    head: Bytes,
    done: bool,
}

impl Order {
    pub(crate) fn new(plane: Plane, id: StreamId, framing: Framing, head: Bytes) -> Self {
        Self { plane, id, framing, head, done: false }
    }

    pub(crate) fn carry_out(mut self, sink: Sink) {
        self.done = true;
        self.plane.attach(self.id, sink, self.framing, std::mem::take(&mut self.head));
    }
}

impl Drop for Order {
    fn drop(&mut self) {
        if !self.done {
            self.plane.close(self.id, None, CloseReason::PeerClosed);
        }
    }
}

impl Takeover {
    /// Asks for the connection. The asker's future is dropped when it is taken.
    pub(crate) fn place(&self, order: Order) {
        let (waker, refused) = {
            let mut slot = self.lock();
            if slot.closed {
                (None, Some(order))
            } else {
                let earlier = slot.order.replace(order);
                (slot.waker.take(), earlier)
            }
        };
        // Dropping an order closes its stream: not under the lock.
        drop(refused);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether there is an order; if not, `waker` is called when there is.
    pub(crate) fn is_ordered(&self, waker: &Waker) -> bool {
        let mut slot = self.lock();
        if slot.order.is_none() && !slot.waker.as_ref().is_some_and(|known| known.will_wake(waker))
        {
            slot.waker = Some(waker.clone());
        }
        slot.order.is_some()
    }

    pub(crate) fn take(&self) -> Option<Order> {
        self.lock().order.take()
    }

    /// The connection ends: an order that waits, and any that comes, closes its stream.
    pub(crate) fn close(&self) {
        let order = {
            let mut slot = self.lock();
            slot.closed = true;
            slot.waker = None;
            slot.order.take()
        };
        drop(order);
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
