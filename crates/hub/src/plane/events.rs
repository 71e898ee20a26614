//! What the plane reports to its owner: about frames, about streams, and why a stream ended.

use std::io;

use super::stream_id::StreamId;

/// Which receipt the sender of a frame requests, with a tag of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receipt {
    /// No receipt.
    None,
    /// [`StreamEvent::Buffered`], when the frame is in the stream's own buffer, or was written.
    Buffered(u64),
    /// [`StreamEvent::Written`], when the kernel (or the reader of the response body) has the
    /// frame's last byte.
    Written(u64),
}

/// An event of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamEvent {
    /// The frame sent with [`Receipt::Buffered`] will be written unless the stream breaks.
    Buffered {
        /// The stream.
        stream: StreamId,
        /// The sender's tag.
        tag: u64,
    },
    /// The kernel has the frame sent with [`Receipt::Written`], and all before it.
    Written {
        /// The stream.
        stream: StreamId,
        /// The sender's tag.
        tag: u64,
    },
    /// The stream is closed. Reported exactly once for each reservation and as its last event,
    /// whichever side closed it; the last bytes may still be unsent.
    Closed {
        /// The stream.
        stream: StreamId,
        /// Which side closed it, and what for.
        reason: CloseReason,
    },
    /// The peer sent no byte and accepted none for two heartbeats and 10 s: the device is no longer
    /// online, although the connection has not failed.
    Stalled {
        /// The stream.
        stream: StreamId,
    },
    /// A stalled stream is active again.
    Resumed {
        /// The stream.
        stream: StreamId,
    },
}

/// Why a stream ended. Owners pass those of the first group to [`Plane::close`](super::Plane::close), the plane detects
/// those of the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// A newer stream of the same device replaced it.
    Replaced,
    /// The hub is stopping.
    Draining,
    /// The device or its token was revoked.
    Revoked,
    /// The device did not confirm it in time.
    Unconfirmed,
    /// It reached its planned lifetime.
    Rotate,
    /// Everything that it was opened for has been sent: an export, or the watch of a command that ended.
    Ended,

    /// The reader is too slow, or the hub could not keep up.
    Overloaded,
    /// The client ended the connection (FIN, close_notify, the body dropped).
    PeerClosed,
    /// The connection failed: a reset, a failed write, a TLS error.
    PeerReset,
    /// The peer acknowledged nothing for a heartbeat and 10 s.
    TimedOut,
    /// The reservation got no sink in time.
    NeverAttached,
    /// The plane was shut down.
    Shutdown,
}

impl CloseReason {
    /// Every reason, in the order of metrics.
    pub const ALL: [Self; 12] = [
        Self::Replaced,
        Self::Draining,
        Self::Revoked,
        Self::Unconfirmed,
        Self::Rotate,
        Self::Ended,
        Self::Overloaded,
        Self::PeerClosed,
        Self::PeerReset,
        Self::TimedOut,
        Self::NeverAttached,
        Self::Shutdown,
    ];

    /// The reason as a label: snake case, stable.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Replaced => "replaced",
            Self::Draining => "draining",
            Self::Revoked => "revoked",
            Self::Unconfirmed => "unconfirmed",
            Self::Rotate => "rotate",
            Self::Ended => "ended",
            Self::Overloaded => "overloaded",
            Self::PeerClosed => "peer_closed",
            Self::PeerReset => "peer_reset",
            Self::TimedOut => "timed_out",
            Self::NeverAttached => "never_attached",
            Self::Shutdown => "shutdown",
        }
    }

    pub(crate) fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut => Self::TimedOut,
            _ => Self::PeerReset,
        }
    }
}

/// Receives the events of all streams.
pub trait StreamEvents: Send + Sync + 'static {
    /// Called on a shard's thread at the end of each iteration that has events, with all of them in
    /// order; what remains in `batch` is dropped. It may call the plane. While it runs no stream of
    /// that shard is served: pass the batch on and do not block.
    fn on_events(&self, batch: &mut Vec<StreamEvent>);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_label_of_its_own() {
        let labels: std::collections::HashSet<_> =
            CloseReason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(labels.len(), CloseReason::ALL.len());
    }
}
