//! How a plane is built, and the part of it that every shard reads.

use std::sync::Arc;

use bellwire_proto::limits::{
    STREAM_ATTACH_TIMEOUT_MS, STREAM_FIN_TIMEOUT_MS, STREAM_LINGER_MS, UNSENT_BYTES_IN_ALL,
    UNSENT_BYTES_MAX,
};

use super::clock::{Clock, SystemClock};
use super::frame::Frame;

/// How a plane is built. `Default` is right for a hub that runs as a server of its own.
#[derive(Clone)]
pub struct PlaneConfig {
    /// Threads, each with its part of the streams; 0 means one per core, at most 64.
    pub shards: usize,
    /// A frame that finds more than this many bytes unsent ends its stream as
    /// [`CloseReason::Overloaded`](super::CloseReason::Overloaded). So a stream holds at most this, one frame, and what gathers in
    /// one iteration (64 KiB). Default 1 MiB (contract, section 4).
    pub unsent_bytes_max: usize,
    /// Bytes that all streams together may have unsent; 0 is no limit. Beyond it a frame for a stream that has some unsent ends
    /// that stream in the same way; those that are up to date go on. What sinks hold is not among them: 64 KiB of a body, a
    /// record of 16 KiB of TLS, at most. Default 512 MiB.
    pub unsent_bytes_in_all_max: usize,
    /// The last frame of a stream that ends as overloaded, behind what is unsent.
    pub overloaded_last: Option<Frame>,
    /// A reservation that has no sink after this time is closed as
    /// [`CloseReason::NeverAttached`](super::CloseReason::NeverAttached). Default 10,000.
    pub reservation_ms: u64,
    /// How long a closed stream may take to send what is unsent. Default 5,000.
    pub linger_ms: u64,
    /// How long a closed stream that has sent everything waits for the peer's FIN, so that no reset
    /// destroys bytes in flight. Default 1,000.
    pub drain_ms: u64,
    /// The hub's clock.
    pub clock: Arc<dyn Clock>,
}

impl Default for PlaneConfig {
    fn default() -> Self {
        Self {
            shards: 0,
            unsent_bytes_max: UNSENT_BYTES_MAX,
            unsent_bytes_in_all_max: UNSENT_BYTES_IN_ALL.default as usize,
            overloaded_last: None,
            reservation_ms: STREAM_ATTACH_TIMEOUT_MS,
            linger_ms: STREAM_LINGER_MS,
            drain_ms: STREAM_FIN_TIMEOUT_MS,
            clock: Arc::new(SystemClock::default()),
        }
    }
}

/// The part of [`PlaneConfig`] that every shard holds.
#[derive(Clone)]
pub(super) struct Limits {
    pub(super) unsent_bytes_max: usize,
    pub(super) unsent_bytes_in_all_max: usize,
    pub(super) overloaded_last: Option<Frame>,
    pub(super) reservation_ms: u64,
    pub(super) linger_ms: u64,
    pub(super) drain_ms: u64,
    /// The comment that pushes an event out of a proxy which holds the last write back.
    pub(super) compat_frame: Frame,
}

impl Limits {
    pub(super) fn of(config: &PlaneConfig) -> Self {
        Self {
            unsent_bytes_max: config.unsent_bytes_max,
            unsent_bytes_in_all_max: match config.unsent_bytes_in_all_max {
                0 => usize::MAX,
                most => most,
            },
            overloaded_last: config.overloaded_last.clone(),
            reservation_ms: config.reservation_ms,
            linger_ms: config.linger_ms,
            drain_ms: config.drain_ms,
            compat_frame: Frame::new(b":\n\n"),
        }
    }
}
