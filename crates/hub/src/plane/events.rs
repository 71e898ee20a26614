//! What the plane tells: of frames, of streams, and why a stream ended.

use std::io;

use super::stream_id::StreamId;

/// Whether the sender of a frame wants to hear of it, with a tag of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receipt {
    /// No.
    None,
    /// [`StreamEvent::Buffered`], when the frame is in the stream's own buffer or written.
    Buffered(u64),
    /// [`StreamEvent::Written`], when the frame's last byte went to the kernel (or out of the
    /// response body).
    Written(u64),
}

/// What happened to a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamEvent {
    /// The frame sent with [`Receipt::Buffered`] will be written unless the stream breaks.
    Buffered {
        /// The stream.
        stream: StreamId,
        /// The sender's tag.
        tag: u64,
    },
    /// The frame sent with [`Receipt::Written`], and all before it, are with the kernel.
    Written {
        /// The stream.
        stream: StreamId,
        /// The sender's tag.
        tag: u64,
    },
    /// The stream is closed. Comes exactly once for each reservation, whoever closed it, and
    /// nothing comes after it; last bytes may still be on their way.
    Closed {
        /// The stream.
        stream: StreamId,
        /// Why.
        reason: CloseReason,
    },
    /// No byte came from the peer and none was taken for it for
    /// [`StreamOptions::silence_ms`](super::StreamOptions::silence_ms): the device is no longer
    /// online, though nobody has proven the stream broken.
    Stalled {
        /// The stream.
        stream: StreamId,
    },
    /// A stalled stream showed life.
    Resumed {
        /// The stream.
        stream: StreamId,
    },
}

/// Why a stream ended. The first group is what owners pass to [`Plane::close`](super::Plane::close), the second is what
/// the plane finds out by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// A newer stream of the same device took its place.
    Replaced,
    /// The hub is going down.
    Draining,
    /// The device or its token is no longer welcome.
    Revoked,
    /// Nobody confirmed that its bytes arrive.
    Unconfirmed,
    /// Its planned time is over.
    Rotate,
    /// It told all there was to tell.
    Ended,

    /// The reader left more unread than it may, or the hub could not keep up.
    Overloaded,
    /// The client ended the connection (FIN, close_notify, the body dropped).
    PeerClosed,
    /// The connection broke: a reset, a failed write, bad TLS.
    PeerReset,
    /// The peer acknowledged nothing for
    /// [`StreamOptions::silence_ms`](super::StreamOptions::silence_ms).
    TimedOut,
    /// No socket came for the reservation.
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

/// Who hears what happens to the streams.
pub trait StreamEvents: Send + Sync + 'static {
    /// Called on a shard's thread at the end of each turn in which something happened, with all of
    /// it in order; what is left in `batch` is dropped. It may call the plane. While it runs no
    /// stream of that shard is served: hand the batch on, do not wait.
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
