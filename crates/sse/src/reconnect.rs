//! When to reconnect: the state of an EventSource between and during its connections.
//!
//! Pure data. The owner reports each event with its time (`handle_*`), with a random number where
//! one is needed, and polls for the next deadline ([`Reconnect::poll_timeout`]). `now` is the time
//! since any fixed moment of the owner's choice, by a monotonic clock. The decoder (`decode.rs`)
//! reads the last event id and `retry` from the stream.

use core::time::Duration;

/// How long to wait before each new connection, and how long a stream may be silent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The longest wait before the first retry; a stream's `retry` field replaces it. Default 1 s.
    pub base: Duration,
    /// The longest wait of all, unless `base` or `retry` is longer. Default 60 s.
    pub cap: Duration,
    /// How the wait is randomized. Default: over all of it.
    pub jitter: Jitter,
    /// How long a stream must have been open to count as healthy: then its end restarts the
    /// backoff. A server that accepts and closes at once is backed off from. Default 10 s.
    pub healthy_after: Duration,
    /// How long a stream may be silent before it counts as dead. Default: for ever.
    pub silence_max: Option<Duration>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            base: Duration::from_secs(1),
            cap: Duration::from_secs(60),
            jitter: Jitter::Full,
            healthy_after: Duration::from_secs(10),
            silence_max: None,
        }
    }
}

/// How a wait is drawn from its ceiling, which doubles with each failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Jitter {
    /// Uniformly between zero and the ceiling (full jitter): clients that lost their server
    /// together do not reconnect together. HTML requires each wait to last at least the
    /// reconnection time; [`Jitter::None`] does.
    #[default]
    Full,
    /// Exactly the ceiling.
    None,
}

/// The states of HTML's EventSource, with the wait between two connections as a state of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadyState {
    /// A connection is being made.
    Connecting,
    /// The stream is open.
    Open,
    /// The next connection is due at this time.
    Waiting {
        /// When to connect.
        until: Duration,
    },
    /// Closed; it does not reconnect.
    Closed,
}

/// How a connection, or the attempt to make one, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The server ended the stream in order.
    Eof,
    /// The network failed, or the answer calls for a retry.
    Failed,
    /// The stream was silent for [`Policy::silence_max`].
    Silent,
    /// The server ended it for good (204), or its answer rules out a retry.
    Stopped,
}

/// What to do after an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Connect after this long.
    Wait(Duration),
    /// Do not connect again.
    Stop,
}

/// The reconnection state of one event source.
///
/// ```
/// use bellwire_sse::{Ended, Jitter, Next, Policy, ReadyState, Reconnect};
/// use std::time::Duration;
///
/// let mut source = Reconnect::new(Policy { jitter: Jitter::None, ..Policy::default() });
/// let now = Duration::ZERO;
/// assert_eq!(source.handle_end(Ended::Failed, now, 0), Next::Wait(Duration::from_secs(1)));
/// assert_eq!(source.poll_timeout(), Some(Duration::from_secs(1)));
/// source.handle_connecting();
/// assert_eq!(source.handle_end(Ended::Failed, now, 0), Next::Wait(Duration::from_secs(2)));
/// assert_eq!(source.handle_end(Ended::Stopped, now, 0), Next::Stop);
/// assert_eq!(source.ready_state(), ReadyState::Closed);
/// ```
#[derive(Clone, Debug)]
pub struct Reconnect {
    policy: Policy,
    state: ReadyState,
    retry: Option<Duration>,
    /// Ends since the last healthy stream.
    failures: u32,
    opened_at: Duration,
    last_byte_at: Duration,
}

impl Reconnect {
    /// The state before the first connection: connecting.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            state: ReadyState::Connecting,
            retry: None,
            failures: 0,
            opened_at: Duration::ZERO,
            last_byte_at: Duration::ZERO,
        }
    }

    /// The current state.
    pub fn ready_state(&self) -> ReadyState {
        self.state
    }

    /// The ends since the last healthy stream.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// A connection is being made.
    pub fn handle_connecting(&mut self) {
        if self.state != ReadyState::Closed {
            self.state = ReadyState::Connecting;
        }
    }

    /// The stream is open: a valid head of an answer arrived.
    pub fn handle_open(&mut self, now: Duration) {
        if self.state != ReadyState::Closed {
            self.state = ReadyState::Open;
            self.opened_at = now;
            self.last_byte_at = now;
        }
    }

    /// Bytes of any kind arrived: the stream is not silent.
    pub fn handle_bytes(&mut self, now: Duration) {
        self.last_byte_at = now;
    }

    /// Sets [`Policy::silence_max`] from now on: for a stream that announces its heartbeat.
    pub fn set_silence_max(&mut self, silence_max: Option<Duration>) {
        self.policy.silence_max = silence_max;
    }

    /// The stream set a reconnection time. Zero is valid too.
    pub fn handle_retry(&mut self, retry_ms: u64) {
        self.retry = Some(Duration::from_millis(retry_ms));
    }

    /// The connection ended or could not be made. `random` is drawn uniformly from all `u64`.
    pub fn handle_end(&mut self, ended: Ended, now: Duration, random: u64) -> Next {
        if self.state == ReadyState::Closed || ended == Ended::Stopped {
            self.state = ReadyState::Closed;
            return Next::Stop;
        }
        let open_for = now.saturating_sub(self.opened_at);
        if self.state == ReadyState::Open && open_for >= self.policy.healthy_after {
            self.failures = 0;
        }
        let ceiling = self.ceiling();
        self.failures = self.failures.saturating_add(1);
        let wait = match self.policy.jitter {
            Jitter::Full => scale(ceiling, random),
            Jitter::None => ceiling,
        };
        self.state = ReadyState::Waiting { until: now.saturating_add(wait) };
        Next::Wait(wait)
    }

    /// The owner closed it: no more connections.
    pub fn handle_close(&mut self) {
        self.state = ReadyState::Closed;
    }

    /// The next deadline: the next connection while waiting, the end of a silent stream while open
    /// (then it is to be dropped and ended as [`Ended::Silent`]).
    pub fn poll_timeout(&self) -> Option<Duration> {
        match self.state {
            ReadyState::Waiting { until } => Some(until),
            ReadyState::Open => Some(self.last_byte_at.saturating_add(self.policy.silence_max?)),
            ReadyState::Connecting | ReadyState::Closed => None,
        }
    }

    /// The longest that the next wait can be.
    fn ceiling(&self) -> Duration {
        let base = self.retry.unwrap_or(self.policy.base);
        let factor = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        base.saturating_mul(factor).min(self.policy.cap.max(base))
    }
}

/// Scales `ceiling` by `random` / 2^64.
fn scale(ceiling: Duration, random: u64) -> Duration {
    let nanos = u128::from(u64::try_from(ceiling.as_nanos()).unwrap_or(u64::MAX));
    let share = (nanos * (u128::from(random) + 1)) >> 64;
    Duration::from_nanos(u64::try_from(share).unwrap_or(u64::MAX))
}
