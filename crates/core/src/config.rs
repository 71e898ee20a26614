//! What an operator sets of the core's rules, and what a store reports at the start.

use std::fmt;
use std::time::Duration;

use bellwire_proto::limits;
use bellwire_proto::{SchedulePlan, Seq, Timestamp, Window};

use crate::record::{JobRecord, ScheduleRecord};
use crate::time::Instant;

/// The rules that can be set. The defaults are the contract's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How long a command waits for `accepted` after it was sent.
    pub lease: Duration,
    /// Deliveries of one device in `queued`; one more is refused.
    pub queue_max: usize,
    /// Deliveries of one device in flight.
    pub max_in_flight: usize,
    /// After how long each stream is given its planned end, give or take a fifth; `None` is never.
    pub stream_max: Option<Duration>,
    /// Streams that one token may have; one more is refused. `None` is no limit.
    pub streams_per_token: Option<u64>,
    /// Whether an unknown device is created when it first listens or a command for it is stored, while the hub is
    /// open. On a closed hub it must be registered or enrolled.
    pub create_on_sight: bool,
    /// When schedules are due.
    pub calendar: Calendar,
}

/// When a schedule is due and a window opens: the first time after the given one, by its expression and its zone. A pure function; `None` when
/// there is none. By default nothing is ever due.
#[derive(Clone, Copy)]
pub struct Calendar(pub fn(&str, &str, Timestamp) -> Option<Timestamp>);

impl Calendar {
    pub(crate) fn next(self, plan: &SchedulePlan, after: Timestamp) -> Option<Timestamp> {
        (self.0)(&plan.cron, &plan.timezone, after)
    }

    /// From when on a window is open, from this time on: this time itself while it is. `None` when it opens no more.
    pub fn opening(self, window: &Window, from: Timestamp) -> Option<Timestamp> {
        let open_for = Duration::from_secs(window.minutes.saturating_mul(60));
        let opened = (self.0)(&window.cron, &window.timezone, from.before(open_for))?;
        Some(opened.max(from))
    }

    /// The same, as a time to wait for: one that opens no more is waited for in vain.
    pub(crate) fn awaited(self, window: &Window, from: Timestamp) -> Timestamp {
        self.opening(window, from).unwrap_or(Timestamp::from_unix_ms(u64::MAX))
    }
}

impl Default for Calendar {
    fn default() -> Self {
        Self(|_, _, _| None)
    }
}

impl fmt::Debug for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Calendar")
    }
}

impl PartialEq for Calendar {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::fn_addr_eq(self.0, other.0)
    }
}

impl Eq for Calendar {}

impl Default for Config {
    fn default() -> Self {
        Self {
            lease: limits::LEASE,
            queue_max: limits::QUEUE_MAX,
            max_in_flight: limits::MAX_IN_FLIGHT,
            stream_max: None,
            streams_per_token: Some(limits::STREAMS_PER_TOKEN.default),
            create_on_sight: true,
            calendar: Calendar::default(),
        }
    }
}

/// Where the numbers of commands come from: strictly rising, each given out once.
///
/// The core is handed one and never makes a number by itself, so that the source can be another
/// where several hubs share a fleet.
///
/// ```
/// use bellwire_core::SeqSource;
/// use bellwire_proto::Seq;
/// let mut seqs = SeqSource::after(Seq::new(41));
/// assert_eq!(seqs.next(), Seq::new(42));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SeqSource {
    last: Seq,
}

impl SeqSource {
    /// A source whose first number is the one after `last`.
    pub const fn after(last: Seq) -> Self {
        Self { last }
    }

    /// The next number.
    #[expect(clippy::should_implement_trait, reason = "it never ends, so it is no iterator")]
    pub fn next(&mut self) -> Seq {
        self.last = self.last.next();
        self.last
    }
}

/// What the store knows when the hub starts. The store has by then put every `sent` back to
/// `queued`, and prolonged every run clock to the least time that must remain on it after a restart
/// (contract, section 2).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Recovered {
    /// The source of the next command's number.
    pub seqs: SeqSource,
    /// When the earliest live delivery is due, by the monotonic clock.
    pub next_due: Option<Instant>,
    /// When the earliest scheduled delivery may be sent, by the wall clock.
    pub next_scheduled: Option<Timestamp>,
    /// Commands to many whose expansion or cancellation is unfinished.
    pub jobs: Vec<JobRecord>,
    /// How many `admin` tokens there are, expired or not. None: the hub is open.
    pub admin_tokens: u64,
    /// All schedules.
    pub schedules: Vec<ScheduleRecord>,
}
