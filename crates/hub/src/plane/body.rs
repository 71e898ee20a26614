//! A stream inside an ordinary response body: for a Router mounted in another server, for HTTP/2,
//! and wherever else the socket cannot be taken over.
//!
//! The shard writes into a small buffer under a lock; the server's task reads from it and wakes the
//! shard when there is space again. A dropped body means that the client has disconnected.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

/// Bytes that a body holds; more wait in the stream's own bounded outbox.
pub(crate) const BODY_BUFFER_BYTES_MAX: usize = 64 * 1024;

/// The body of a response that carries a stream; its bytes come from a shard of the plane.
///
/// Dropping it ends the stream as [`CloseReason::PeerClosed`](super::CloseReason::PeerClosed).
pub struct StreamBody {
    shared: Arc<Shared>,
}

/// The shard's end.
pub(crate) struct BodyWriter {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<BodyState>,
}

#[derive(Default)]
struct BodyState {
    pieces: VecDeque<Bytes>,
    held: usize,
    /// Called when the body was read until it is empty, and when it is dropped.
    shard: Option<Waker>,
    /// Called when there is something to read.
    reader: Option<Waker>,
    /// The shard ended the stream.
    finished: bool,
    /// The reader dropped the body.
    dropped: bool,
}

pub(crate) fn pair() -> (BodyWriter, StreamBody) {
    let shared = Arc::new(Shared::default());
    (BodyWriter { shared: shared.clone() }, StreamBody { shared })
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, BodyState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BodyWriter {
    pub(crate) fn notify(&mut self, shard: Waker) {
        let mut state = self.shared.lock();
        if state.dropped {
            drop(state);
            shard.wake();
        } else {
            state.shard = Some(shard);
        }
    }

    pub(crate) fn is_dropped(&self) -> bool {
        self.shared.lock().dropped
    }

    pub(crate) fn write(&mut self, pieces: &[Bytes]) -> io::Result<usize> {
        let mut state = self.shared.lock();
        if state.dropped {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let mut taken = 0;
        for piece in pieces {
            let capacity = BODY_BUFFER_BYTES_MAX.saturating_sub(state.held);
            if capacity == 0 {
                break;
            }
            let piece = piece.slice(..piece.len().min(capacity));
            state.held += piece.len();
            taken += piece.len();
            state.pieces.push_back(piece);
        }
        if taken == 0 && pieces.iter().any(|piece| !piece.is_empty()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let waker = state.reader.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(taken)
    }

    pub(crate) fn held(&self) -> usize {
        self.shared.lock().held
    }

    pub(crate) fn finish(&mut self) {
        let waker = {
            let mut state = self.shared.lock();
            state.finished = true;
            state.shard = None;
            state.reader.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Drop for BodyWriter {
    fn drop(&mut self) {
        self.finish();
    }
}

impl http_body::Body for StreamBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        let mut state = self.shared.lock();
        let Some(piece) = state.pieces.pop_front() else {
            if state.finished {
                return Poll::Ready(None);
            }
            state.reader = Some(context.waker().clone());
            return Poll::Pending;
        };
        state.held -= piece.len();
        // The shard is woken once, when the buffer is empty: then a whole one fits again.
        let shard = state.shard.as_ref().filter(|_| state.pieces.is_empty()).cloned();
        drop(state);
        if let Some(shard) = shard {
            shard.wake();
        }
        Poll::Ready(Some(Ok(http_body::Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        let state = self.shared.lock();
        state.finished && state.pieces.is_empty()
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        let shard = {
            let mut state = self.shared.lock();
            state.dropped = true;
            state.pieces.clear();
            state.held = 0;
            state.shard.take()
        };
        if let Some(shard) = shard {
            shard.wake();
        }
    }
}

impl std::fmt::Debug for StreamBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamBody").finish_non_exhaustive()
    }
}
