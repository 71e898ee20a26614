//! Every number of a path, with its source. Milliseconds, unless the name says seconds.
//!
//! "Measured" is a run of 58 simulated and real middleboxes (Squid, nginx, HAProxy, Varnish and others) in network
//! namespaces; "contract" is docs/protocol.md.

use bellwire_proto::limits::{
    HEARTBEAT_S, LISTENER_BYE_PAUSE_MAX, LISTENER_DELAY_MIN, LISTENER_END_TIMEOUT,
    LISTENER_HEARTBEATS_TENTHS, POLL_WAIT_S,
};

/// How long a poll is held, in seconds. Contract, section 4: the default of `wait`; below the 30 s within which Heroku's router
/// and others require a first byte.
pub const HOLD_S_MAX: u64 = POLL_WAIT_S.default;
/// The shortest hold, in seconds; below it a short poll costs no more. Measured: the strictest limit to a first byte is 5 s.
pub const HOLD_S_MIN: u64 = 5;
/// How much longer than its hold a poll may take: connecting is a part of it, of which an attempt has 4 s.
pub const POLL_GRACE_MS: u64 = 5_000;
/// How much that grows with each poll in a row that timed out, and up to which sum: for links that need longer.
pub const POLL_GRACE_STEP_MS: u64 = 5_000;
/// The greatest grace of a poll.
pub const POLL_GRACE_MAX_MS: u64 = 30_000;
/// A poll that failed earlier than this was not held too long: below [`HOLD_S_MIN`].
pub const HELD_MIN_MS: u64 = 4_000;
/// How many polls must fail at the shortest hold before polls are not held any more.
pub const FLOOR_FAILURES_MAX: u32 = 2;
/// The time between two polls that are not held, +/- [`JITTER_PERCENT`]: one per 30 s is what a held poll costs, too.
pub const SHORT_POLL_MS: u64 = 30_000;
/// After this time without a poll that was held too long, a hold of 1.5 times is tried.
pub const HOLD_GROWS_AFTER_MS: u64 = 3_600_000;
/// The pause after the second answer in a row that came early and without news, doubling: another listener of this name polls too, or a
/// middlebox answers. Up to [`SHORT_POLL_MS`].
pub const EARLY_ANSWER_MS: u64 = 1_000;
/// The pause after a failed poll while a stream lives is twice this at first, +/- [`JITTER_PERCENT`], and doubles with each failure in
/// a row up to [`POLL_RETRY_MAX_MS`].
pub const POLL_RETRY_MS: u64 = 500;
/// The greatest such pause.
pub const POLL_RETRY_MAX_MS: u64 = 60_000;

/// The first ceiling of the backoff while neither way works, doubling with each loss in a row, with full jitter: down to no pause at
/// all. Also half of the first pause after which a stream is tried again as it was, doubling, +/- [`JITTER_PERCENT`].
pub const BACKOFF_BASE_MS: u64 = 1_000;
/// The least pause that a hub can request twice in a row.
pub const DELAY_MIN_MS: u64 = LISTENER_DELAY_MIN.as_millis() as u64;

/// From the request of a stream to the head of its response. Measured: a buffer releases no head at all; real streams had
/// theirs within 1 s.
pub const HEAD_MS: u64 = 10_000;
/// From the head to the hello, which the hub writes at once and together with it.
pub const HELLO_MS: u64 = 3_000;
/// From the hello to the second probe, which the hub sends 2 s after the request, besides the limit of a lag: contract,
/// section 4, `probes`.
pub const PROBES_MS: u64 = 3_000;
/// How many heartbeats on time make a stream good.
pub const PROBES_MIN: u32 = 2;
/// The greatest lag of a stream that passes each write on. Measured: streams that are not buffered stay below 0.3 s; one write
/// behind is 1 s at the probes.
pub const LAG_MS: u64 = 700;
/// How much later than a poll's a stream's copy of a command may arrive, besides the allowance for an exchange; the hub sends both at
/// one moment. Also how long a stream is watched after its last probe before it is good: a write right behind the probe may
/// have pushed it through a middlebox that is one write behind. Contract, section 4: with `compat` the next write follows after 100 ms.
pub const COPY_LAG_MS: u64 = 250;
/// The most that the time of an exchange adds to [`LAG_MS`]; a slower link has twice that time instead.
pub const LAG_ALLOWANCE_MAX_MS: u64 = 500;
/// Of how many exchanges the median is the time of one. Our choice: a link that became slow counts from the third on.
pub const EXCHANGES: usize = 5;
/// How many of the last [`LAGS`] lags must be over the limit for a stream to fail: one is a retransmission.
pub const LATE_MAX: usize = 2;
/// How many lags are remembered.
pub const LAGS: usize = 4;
/// After how many tenths of a heartbeat without a byte a stream is suspect, and polls start beside it. Measured: the worst
/// delay after a silent death fell to less than half.
pub const SUSPECT_TENTHS: u64 = 13;
/// After how many tenths it is closed. Contract, section 4, and docs/agent.md.
pub const DEAD_TENTHS: u64 = LISTENER_HEARTBEATS_TENTHS;
/// How long a confirmation may take, and the pause before it is repeated: the hub waits for 10 s (contract, section 4).
pub const CONFIRM_MS: u64 = 4_000;
/// The pause before a confirmation is repeated.
pub const CONFIRM_RETRY_MS: u64 = 1_000;
/// How long the end of a stream may take after its `bye`.
pub const BYE_END_MS: u64 = LISTENER_END_TIMEOUT.as_millis() as u64;
/// The longest pause that a `bye` can request.
pub const BYE_PAUSE_MAX_MS: u64 = LISTENER_BYE_PAUSE_MAX.as_millis() as u64;
/// How long a ping may take: 4 s for an attempt to connect, and 5 s for the answer.
pub const PING_MS: u64 = 10_000;

/// The greatest pause before a stream that broke is opened again, at random, so that the devices of a hub that crashed do not
/// return at one moment. One that ended in order is opened again at once.
pub const REOPEN_MAX_MS: u64 = 1_000;
/// The greatest pause before the poll that covers the gap.
pub const COVER_MAX_MS: u64 = 200;
/// A good stream shorter than this many heartbeats is a short one.
pub const SHORT_STREAM_HEARTBEATS: u64 = 3;
/// After how many short ones in a row a shorter heartbeat is requested, and then the stream is suspended.
pub const SHORT_STREAMS_MAX: u32 = 3;
/// The shortest heartbeat that is requested for that, in seconds. Contract, section 4.
pub const HEARTBEAT_S_MIN: u64 = HEARTBEAT_S.min;
/// How long a shorter heartbeat is requested before the usual one is tried again, at the next opening: as long as comments are.
pub const SHORT_HEARTBEAT_MS: u64 = COMPAT_MS;
/// How long streams are suspended after both modes failed, doubling with each time, +/- [`JITTER_PERCENT`]. LaunchDarkly's
/// clients wait as long at first.
pub const SUSPENSION_MS: u64 = 300_000;
/// The longest suspension.
pub const SUSPENSION_MAX_MS: u64 = 86_400_000;
/// How long a stream stays with a comment after each write before the plain one is tried again, at its next opening.
pub const COMPAT_MS: u64 = 86_400_000;
/// How far a suspension and a pause between short polls are spread, in percent.
pub const JITTER_PERCENT: u64 = 20;

/// How many (command, attempt) are remembered as delivered: more than a hub sends within one lease.
pub const RECEIVED_MAX: usize = 1024;
/// How long the hint of an earlier run counts, in seconds.
pub const HINT_S: u64 = 86_400;
