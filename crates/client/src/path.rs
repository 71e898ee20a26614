//! One device's way through the network: which of the two ways, stream or long poll, carries its commands.
//!
//! [`Path`] decides and does no I/O: the listener reports each event with `handle_*` and the time, carries out
//! [`Path::poll_output`], and calls [`Path::handle_timeout`] at [`Path::poll_timeout`]. Times are milliseconds of any
//! monotonic clock of the caller.
//!
//! The long poll is the floor: a response that ends passes every middlebox. So a poll comes first and proves hub,
//! credential and network in one exchange; then a stream is proven beside it. A stream is *good* once its hello and two
//! heartbeats were on time by the hub's own clock, and carries once the hub has its confirmation; then the poller is idle.
//! A stream that fails while the hub answers a ping is the network's fault: it is tried once more with a comment after each
//! write, and then streams are suspended while polls carry. Two ways share one cursor, and each (command, attempt) is delivered
//! once.
//!
//! - `poller`: the polls, how long each is held, and what their loss means.
//! - `streamer`: one stream at a time, its proof, its end, and when the next is opened.
//! - `lag`: whether a stream's bytes are on time. `received`: the cursor, and what was delivered.
//! - [`deadlines`]: every number, with its source. [`status`]: what an operator reads.
//!
//! Beside the decision are `pac`, which proxies lead to the hub by a PAC file, and `wake`, which notices that the network is
//! another than before.

use std::collections::VecDeque;

use bellwire_proto::{CommandId, Seq};

pub mod deadlines;
mod lag;
#[cfg(feature = "pac")]
pub mod pac;
mod poller;
mod random;
mod received;
pub mod status;
mod streamer;
#[cfg(test)]
mod tests;
#[cfg(feature = "agent")]
pub mod wake;

pub use lag::limit_ms as lag_limit_ms;
pub use poller::{PollFailure, PollFailureKind};
pub use status::{Carrier, PathHint, PathStatus};
pub use streamer::{HelloTimes, StreamEnd, StreamMode};

use deadlines::{BACKOFF_BASE_MS, DELAY_MIN_MS};
use lag::Exchanges;
use poller::Poller;
use random::Random;
use received::Received;
use streamer::Streamer;

/// What a caller may set.
#[derive(Debug, Clone)]
pub struct PathSettings {
    /// The heartbeat requested from the hub, in seconds; `None` for its default.
    pub heartbeat_s: Option<u64>,
    /// The cap of the growing wait while nothing works.
    pub backoff_max_ms: u64,
    /// How long a connection must have lasted for its end to reset that wait.
    pub healthy_after_ms: u64,
    /// The last command that arrived before, if that is known.
    pub cursor: Option<Seq>,
    /// What an earlier run has found out about the network.
    pub hint: Option<PathHint>,
}

impl Default for PathSettings {
    fn default() -> Self {
        Self {
            heartbeat_s: None,
            backoff_max_ms: 60_000,
            healthy_after_ms: 10_000,
            cursor: None,
            hint: None,
        }
    }
}

/// What the caller has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Open a stream, with probes and to be confirmed. There is none at this time.
    OpenStream {
        /// A comment follows each write.
        compat: bool,
        /// The heartbeat to request, in seconds.
        heartbeat_s: Option<u64>,
    },
    /// Close the stream; no event of it is expected any more.
    CloseStream,
    /// Request commands. There is no poll under way.
    Poll {
        /// How long the hub is to hold the request, in seconds; 0 is at once.
        wait_s: u64,
        /// After which time without a whole answer it has failed.
        timeout_ms: u64,
    },
    /// Drop the poll under way; no answer of it is expected any more.
    DropPoll,
    /// Ask the hub for a ping.
    Ping {
        /// After which time without an answer it has failed.
        timeout_ms: u64,
    },
    /// Confirm the stream.
    Confirm {
        /// Its session.
        session: String,
        /// After which time without an answer it has failed.
        timeout_ms: u64,
    },
    /// Neither way works; a poll follows after this time.
    Lost {
        /// Milliseconds from now.
        retry_in_ms: u64,
    },
    /// [`Path::status`] has changed, or what the next run needs of [`Path::hint`].
    Changed,
}

/// The decisions about one device's way.
#[derive(Debug)]
pub struct Path {
    settings: PathSettings,
    random: Random,
    outputs: VecDeque<Output>,
    contact: Contact,
    poller: Poller,
    streamer: Streamer,
    received: Received,
    exchanges: Exchanges,
    /// Replaces the next pause, once.
    next_delay_ms: Option<u64>,
    /// When the last byte came before a stream became suspect or broke; `None` once something has arrived on any way.
    silent_since: Option<u64>,
    status: PathStatus,
    /// Those of the last [`Output::Changed`].
    hint_values: status::HintValues,
}

/// Whether the hub has answered on any way since the last loss.
#[derive(Debug)]
enum Contact {
    Since(u64),
    /// A poll is due.
    Lost {
        retry_at: u64,
        stream_beside: bool,
    },
}

impl Path {
    /// The decisions of a path that begins now. `seed` is random: the waits of many devices must differ.
    pub fn new(now: u64, settings: PathSettings, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let (poller, streamer) = (
            Poller::new(now, settings.hint.as_ref()),
            Streamer::new(now, settings.hint.as_ref(), &mut random),
        );
        let mut path = Self {
            random,
            outputs: VecDeque::new(),
            contact: Contact::Lost { retry_at: now, stream_beside: false },
            poller,
            streamer,
            received: Received::new(settings.cursor),
            exchanges: Exchanges::default(),
            next_delay_ms: None,
            silent_since: None,
            status: PathStatus::new(now),
            hint_values: Default::default(),
            settings,
        };
        path.hint_values = path.hint_values();
        path.advance(now);
        path
    }

    /// What to do next. Empty it after each call of a `handle_*`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Path::handle_timeout`], unless something happens before.
    pub fn poll_timeout(&self) -> Option<u64> {
        self.next_poll_at().into_iter().chain(self.stream_timeout()).min()
    }

    /// A deadline has passed.
    pub fn handle_timeout(&mut self, now: u64) {
        self.check_stream(now);
        self.advance(now);
    }

    /// Whether neither way works.
    pub fn is_lost(&self) -> bool {
        matches!(self.contact, Contact::Lost { .. })
    }

    /// Which way carries, since when, and why not the better one.
    pub fn status(&self) -> &PathStatus {
        &self.status
    }

    /// What a later run may begin with.
    pub fn hint(&self) -> PathHint {
        let (mode, hold_s, heartbeat_s) = self.hint_values();
        PathHint { mode, hold_s, heartbeat_s, why: self.streamer.why().map(str::to_owned) }
    }

    fn hint_values(&self) -> status::HintValues {
        (self.streamer.settled_mode(), self.poller.hold_s(), self.streamer.negotiated_s())
    }

    /// The highest seq that arrived, for `last_event_id`.
    pub fn cursor(&self) -> Option<Seq> {
        self.received.cursor()
    }

    /// Whether a command that a poll brought is new: the same attempt may arrive on both ways.
    pub fn receive_polled(&mut self, now: u64, id: CommandId, seq: Seq, attempt: u32) -> bool {
        let is_new = self.received.insert(id, seq, attempt);
        if is_new {
            self.await_copy(now, (id, attempt));
        }
        is_new
    }

    /// Whether a command that the stream brought is new. Call [`Path::handle_stream_activity`] then.
    pub fn receive_streamed(&mut self, now: u64, id: CommandId, seq: Seq, attempt: u32) -> bool {
        self.note_copy(now, (id, attempt));
        self.received.insert(id, seq, attempt)
    }

    /// Waits this long after the current loss or the next one, whatever the hub requested.
    pub fn set_next_delay(&mut self, delay_ms: u64) {
        self.next_delay_ms = Some(delay_ms);
    }

    /// The network is another one, or an operator requests it: suspensions and backoffs are void, and everything is tried at once.
    pub fn network_changed(&mut self, now: u64) {
        self.exchanges = Exchanges::default();
        (self.next_delay_ms, self.silent_since) = (None, None);
        if self.streamer.reset() {
            self.outputs.push_back(Output::CloseStream);
        }
        if self.poller.reset(now) {
            self.outputs.push_back(Output::DropPoll);
        }
        if let Contact::Lost { retry_at, .. } = &mut self.contact {
            *retry_at = now;
        }
        self.advance(now);
    }

    /// The hub has answered.
    fn gain(&mut self, now: u64) {
        if self.is_lost() {
            self.contact = Contact::Since(now);
            self.poller.next_at = self.poller.next_at.min(now);
        }
    }

    /// Neither way works. `pause_ms` is a pause that was requested.
    fn lose(&mut self, now: u64, pause_ms: Option<u64>, stream_may_work: bool) {
        if let Contact::Since(since) = self.contact
            && now.saturating_sub(since) >= self.settings.healthy_after_ms
        {
            self.poller.losses = 0;
        }
        self.poller.losses = self.poller.losses.saturating_add(1);
        let losses = self.poller.losses;
        let ceiling = BACKOFF_BASE_MS
            .saturating_mul(1 << (losses - 1).min(20))
            .min(self.settings.backoff_max_ms.max(BACKOFF_BASE_MS));
        let drawn = self.random.below(ceiling);
        let retry_in_ms = match self.next_delay_ms.take().or(pause_ms) {
            // A hub that requests almost no pause each time must not be tried without one.
            Some(pause) if losses > 1 && pause < DELAY_MIN_MS => pause.max(drawn),
            Some(pause) => pause,
            None => drawn,
        };
        let stream_beside = stream_may_work && losses.is_multiple_of(2);
        self.contact = Contact::Lost { retry_at: now + retry_in_ms, stream_beside };
        self.outputs.push_back(Output::Lost { retry_in_ms });
    }

    /// Starts what is due, and notes which way carries.
    fn advance(&mut self, now: u64) {
        self.start_poll(now);
        self.start_stream(now);
        self.confirm_again();
        self.streamer.settle();
        let carrier = if self.streamer.carries() {
            Some(self.streamer.carrier())
        } else if self.is_lost() {
            None
        } else if self.poller.fails() && self.streamer.is_live() && !self.streamer.is_suspect() {
            Some(self.streamer.carrier())
        } else {
            Some(Carrier::Poll)
        };
        let why = match carrier {
            Some(Carrier::Stream) => None,
            Some(Carrier::CompatStream) => self.streamer.why_compat(),
            Some(Carrier::Poll) => {
                Some(self.streamer.why().unwrap_or(status::BEING_PROVEN).to_owned())
            }
            None => self.poller.why.clone(),
        };
        self.status.silent_since_ms = self.silent_since.filter(|_| carrier.is_some());
        let hints = self.hint_values();
        let has_news = std::mem::replace(&mut self.hint_values, hints) != hints;
        if self.status.update(now, carrier, why, self.streamer.suspended_until()) || has_news {
            self.outputs.push_back(Output::Changed);
        }
    }
}
