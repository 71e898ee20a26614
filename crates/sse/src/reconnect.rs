//! When to come back: the state of an EventSource between and during its connections.
//!
//! Pure data. The owner tells what happened and when (`handle_*`), with a number drawn at random
//! where one is needed, and asks until when to wait ([`Reconnect::poll_timeout`]). `now` is the time
//! since any fixed moment of the owner's choice, from a clock that never goes back. The last event
//! id and `retry` are read off the stream by the decoder (`decode.rs`).

use core::time::Duration;

/// How long to wait before each new connection, and how long a stream may be silent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The longest wait before the first retry; a stream's `retry` field replaces it. Default 1 s.
    pub base: Duration,
    /// The longest wait of all, unless `base` or `retry` is longer. Default 60 s.
    pub cap: Duration,
    /// How the wait is spread. Default: over all of it.
    pub jitter: Jitter,
    /// For how long a stream must have been open to count as healthy: then its end starts the
    /// backoff afresh. A server that accepts and closes at once gains nothing. Default 10 s.
    pub healthy_after: Duration,
    /// How long nothing at all may come before a stream counts as dead. Default: for ever.
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

/// How a wait is spread over its ceiling, which doubles with each failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Jitter {
    /// Anything from nothing to the ceiling, equally likely: a crowd that lost its server at one
    /// moment does not return at one moment. HTML would have each wait at least its reconnection
    /// time; [`Jitter::None`] does.
    #[default]
    Full,
    /// The ceiling itself.
    None,
}

/// The states of HTML's EventSource, with the wait between two connections told apart.
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
    /// It is over for good.
    Closed,
}

/// How a connection, or the try to make one, came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The server ended the stream in good order.
    Eof,
    /// The network failed, or an answer asked for another try.
    Failed,
    /// Nothing came for as long as [`Policy::silence_max`].
    Silent,
    /// The server said that there is nothing more to come (204), or what it said rules out another
    /// try.
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

    /// Where it stands.
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

    /// The stream is open: the answer's head came and is good.
    pub fn handle_open(&mut self, now: Duration) {
        if self.state != ReadyState::Closed {
            self.state = ReadyState::Open;
            self.opened_at = now;
            self.last_byte_at = now;
        }
    }

    /// Bytes came, whatever they mean: the stream is alive.
    pub fn handle_bytes(&mut self, now: Duration) {
        self.last_byte_at = now;
    }

    /// From now on a stream counts as dead when nothing came for this long: for a stream that tells
    /// how often it speaks.
    pub fn set_silence_max(&mut self, silence_max: Option<Duration>) {
        self.policy.silence_max = silence_max;
    }

    /// The stream named a reconnection time. Zero is heeded too.
    pub fn handle_retry(&mut self, retry_ms: u64) {
        self.retry = Some(Duration::from_millis(retry_ms));
    }

    /// The connection ended or could not be made. `random` is any number, drawn evenly from all.
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

    /// When something is due without a byte coming: the next connection while waiting, the stream's
    /// death while open (then it is to be dropped and ended as [`Ended::Silent`]).
    pub fn poll_timeout(&self) -> Option<Duration> {
        match self.state {
            ReadyState::Waiting { until } => Some(until),
            ReadyState::Open => Some(self.last_byte_at.saturating_add(self.policy.silence_max?)),
            ReadyState::Connecting | ReadyState::Closed => None,
        }
    }

    /// The longest that the next wait may be.
    fn ceiling(&self) -> Duration {
        let base = self.retry.unwrap_or(self.policy.base);
        let factor = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        base.saturating_mul(factor).min(self.policy.cap.max(base))
    }
}

/// The share of `ceiling` that `random` is of all numbers.
fn scale(ceiling: Duration, random: u64) -> Duration {
    let nanos = u128::from(u64::try_from(ceiling.as_nanos()).unwrap_or(u64::MAX));
    let share = (nanos * (u128::from(random) + 1)) >> 64;
    Duration::from_nanos(u64::try_from(share).unwrap_or(u64::MAX))
}
