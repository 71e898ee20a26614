//! The stream: one at a time, its proof, its end, and when the next is opened.

use bellwire_proto::CommandId;
use bellwire_proto::limits::HEARTBEAT_S;
use bellwire_proto::stream::ByeReason;
use serde::{Deserialize, Serialize};

use super::deadlines::{
    BACKOFF_BASE_MS, BYE_END_MS, BYE_PAUSE_MAX_MS, COMPAT_MS, CONFIRM_MS, CONFIRM_RETRY_MS,
    DEAD_TENTHS, HEAD_MS, HEARTBEAT_S_MIN, HELLO_MS, PING_MS, PROBES_MIN, PROBES_MS, REOPEN_MAX_MS,
    SHORT_HEARTBEAT_MS, SHORT_STREAM_HEARTBEATS, SHORT_STREAMS_MAX, SUSPECT_TENTHS,
    SUSPENSION_MAX_MS, SUSPENSION_MS,
};
use super::lag::Lags;
use super::random::Random;
use super::{Carrier, Contact, Output, Path, PathHint};

mod check;
mod end;

#[derive(Debug)]
pub(super) struct Streamer {
    state: StreamState,
    mode: StreamMode,
    /// The mode that carried last, or [`StreamMode::Suspended`] if none did: the next run begins with it.
    settled: StreamMode,
    /// Since when `mode` is [`StreamMode::Compat`].
    compat_since: u64,
    /// The length of the next suspension, before it is spread.
    suspension_ms: u64,
    /// Streams in a row that were good and short.
    short_streams: u32,
    /// The heartbeat that this network needs, in seconds.
    negotiated_s: Option<u64>,
    /// Since when it is requested.
    negotiated_since: u64,
    /// Pings in a row that failed.
    failed_pings: u32,
    /// Why the last one failed; why the plain one did.
    why: Option<String>,
    why_compat: Option<String>,
}

#[derive(Debug)]
enum StreamState {
    /// Opened as soon as the hub has answered.
    Due,
    /// During a suspension, or a pause between two streams.
    Waiting { until: u64, is_suspension: bool },
    /// The request was sent.
    Opening { sent: u64 },
    /// The head has arrived.
    Headed { sent: u64, head: u64 },
    /// The hello has arrived.
    Live(Box<Live>),
    /// It failed, and a ping shows whose fault that is.
    Checking,
}

/// A stream whose hello has arrived.
#[derive(Debug)]
pub(super) struct Live {
    sent: u64,
    hello: u64,
    /// The hub's clock when the request arrived, in Unix milliseconds.
    zero_ms: i128,
    heartbeat_ms: u64,
    session: String,
    lags: Lags,
    /// Heartbeats on time.
    on_time: u32,
    /// When the last of them arrived.
    on_time_at: u64,
    /// When the last byte came.
    last: u64,
    is_good: bool,
    confirmation: Confirmation,
    /// A poll was under way when the hub had, or received, the confirmation: it may take the poll for a doubt.
    polled_beside: bool,
    is_suspect: bool,
    bye: Option<Farewell>,
}

#[derive(Debug)]
enum Confirmation {
    DueAt(u64),
    InFlight,
    Done,
}

#[derive(Debug)]
struct Farewell {
    reason: Option<ByeReason>,
    pause_ms: Option<u64>,
    at: u64,
}

/// How the next stream is opened, or that none is: what the middleboxes of this network let through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamMode {
    /// Without padding: nothing delays what the hub writes, or that is not known yet.
    #[default]
    Plain,
    /// With padding, a comment after each write (`compat=1` of the contract): a middlebox holds back the last write until
    /// another one follows.
    Compat,
    /// No stream for some time, because the middleboxes let neither mode through: polls carry alone. `rest` in a file, as
    /// earlier versions named it.
    #[serde(rename = "rest")]
    Suspended,
}

/// What a stream's hello says: the hub's times, and the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelloTimes {
    /// The hub's clock in Unix milliseconds.
    pub time_ms: u64,
    /// Milliseconds since the request arrived at the hub.
    pub up_ms: u64,
    /// The longest time between two writes, in seconds.
    pub heartbeat_s: u64,
    /// The stream's session, which [`Output::Confirm`] repeats once the stream is good.
    pub session: String,
}

/// How a stream has ended, or why there was none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamEnd {
    /// The response ended in order, without a fault: by the hub, or by a middlebox that limits its time.
    Ended,
    /// The connection broke, or could not be made: a fault of the network, or the hub is down.
    Broken {
        /// What failed, as a sentence for an operator.
        why: String,
    },
    /// The hub itself refuses the stream: no other mode changes that.
    RefusedByHub {
        /// The pause before the next try that the hub requests, in milliseconds.
        pause_ms: Option<u64>,
        /// The hub's reason, as a sentence for an operator.
        why: String,
    },
    /// The response is not a stream of the hub for this request: a middlebox answers, or something else at the hub's URL.
    NotOurs {
        /// What answered, as a sentence for an operator.
        why: String,
    },
}

impl Streamer {
    pub(super) fn new(now: u64, hint: Option<&PathHint>, random: &mut Random) -> Self {
        let mut streamer = Self {
            state: StreamState::Due,
            mode: StreamMode::Plain,
            settled: hint.map_or(StreamMode::Plain, |hint| hint.mode),
            compat_since: now,
            suspension_ms: SUSPENSION_MS,
            short_streams: 0,
            // A file may say anything.
            negotiated_s: hint
                .and_then(|hint| hint.heartbeat_s)
                .map(|needed_s| needed_s.clamp(HEARTBEAT_S.min, HEARTBEAT_S.default)),
            negotiated_since: now,
            failed_pings: 0,
            why: hint.and_then(|hint| hint.why.clone()),
            why_compat: hint.and_then(|hint| hint.why.clone()),
        };
        match hint.map(|hint| hint.mode) {
            Some(StreamMode::Compat) => streamer.mode = StreamMode::Compat,
            Some(StreamMode::Suspended) => {
                let until = now + random.spread(SUSPENSION_MS);
                streamer.state = StreamState::Waiting { until, is_suspension: true };
            }
            Some(StreamMode::Plain) | None => {}
        }
        streamer
    }

    /// Forgets what was known of the network. Returns whether a stream is to be closed.
    pub(super) fn reset(&mut self) -> bool {
        let is_open = self.is_open();
        *self = Self::new(0, None, &mut Random::new(0));
        is_open
    }

    fn is_open(&self) -> bool {
        use StreamState::{Headed, Live, Opening};
        matches!(self.state, Opening { .. } | Headed { .. } | Live(_))
    }

    /// Whether nothing has arrived for so long that it may be dead.
    pub(super) fn is_suspect(&self) -> bool {
        matches!(&self.state, StreamState::Live(live) if live.is_suspect)
    }

    /// Nothing arrives on any way: the reason for the better way's absence.
    pub(super) fn note_silence(&mut self, silent_ms: u64) {
        if self.is_suspect() {
            self.why = Some(format!("nothing received for {} s", silent_ms / 1000));
        }
    }

    /// Whether its hello has arrived, and no `bye`.
    pub(super) fn is_live(&self) -> bool {
        matches!(&self.state, StreamState::Live(live) if live.bye.is_none())
    }

    /// Whether it needs no poll beside it.
    pub(super) fn carries(&self) -> bool {
        let StreamState::Live(live) = &self.state else { return false };
        let is_confirmed = matches!(live.confirmation, Confirmation::Done);
        live.is_good && is_confirmed && !live.is_suspect && live.bye.is_none()
    }

    /// Whether it is good, and the hub is about to know: a poll now would say that the device doubts it.
    pub(super) fn is_being_confirmed(&self) -> bool {
        let StreamState::Live(live) = &self.state else { return false };
        let in_flight = matches!(live.confirmation, Confirmation::InFlight);
        live.is_good && in_flight && !live.is_suspect && live.bye.is_none()
    }

    pub(super) fn carrier(&self) -> Carrier {
        if self.mode == StreamMode::Compat { Carrier::CompatStream } else { Carrier::Stream }
    }

    pub(super) fn why(&self) -> Option<&str> {
        self.why.as_deref()
    }

    pub(super) fn why_compat(&self) -> Option<String> {
        self.why_compat.clone()
    }

    pub(super) fn suspended_until(&self) -> Option<u64> {
        match self.state {
            StreamState::Waiting { until, is_suspension: true } => Some(until),
            _ => None,
        }
    }

    /// The mode for the next run. Not that of a stream which is being tried: a run that ended meanwhile would make the next one
    /// try everything again.
    pub(super) fn settled_mode(&self) -> StreamMode {
        self.settled
    }

    /// Notes what is known once a stream carries: what was wrong before is over, but for what the comments are for.
    pub(super) fn settle(&mut self) {
        if self.carries() {
            self.settled = self.mode;
            if self.mode == StreamMode::Plain {
                self.why_compat = None;
            }
            if self.why != self.why_compat {
                self.why.clone_from(&self.why_compat);
            }
        }
    }

    pub(super) fn negotiated_s(&self) -> Option<u64> {
        self.negotiated_s
    }
}

impl Path {
    /// Opens a stream if one is due.
    pub(super) fn start_stream(&mut self, now: u64) {
        let is_due = match (&self.streamer.state, &self.contact) {
            (StreamState::Due, Contact::Since(_)) => true,
            (StreamState::Due, Contact::Lost { retry_at, stream_beside }) => {
                *stream_beside && *retry_at <= now
            }
            (StreamState::Waiting { until, .. }, Contact::Since(_)) => *until <= now,
            _ => false,
        };
        if !is_due {
            return;
        }
        if let Contact::Lost { stream_beside, .. } = &mut self.contact {
            *stream_beside = false;
        }
        let streamer = &mut self.streamer;
        if streamer.mode == StreamMode::Compat
            && now.saturating_sub(streamer.compat_since) >= COMPAT_MS
        {
            streamer.mode = StreamMode::Plain;
        }
        if now.saturating_sub(streamer.negotiated_since) >= SHORT_HEARTBEAT_MS {
            streamer.negotiated_s = None;
        }
        streamer.state = StreamState::Opening { sent: now };
        let compat = streamer.mode == StreamMode::Compat;
        let wanted = self.settings.heartbeat_s;
        let heartbeat_s = match (streamer.negotiated_s, wanted) {
            (Some(needed), Some(wanted)) => Some(needed.min(wanted)),
            (needed, wanted) => needed.or(wanted),
        };
        self.outputs.push_back(Output::OpenStream { compat, heartbeat_s });
    }

    /// The head of the stream has arrived. `sent` is when its request was given to a connection: what came before is no lag.
    pub fn handle_stream_head(&mut self, now: u64, sent: u64) {
        self.silent_since = None;
        if let StreamState::Opening { .. } = self.streamer.state {
            self.streamer.state = StreamState::Headed { sent, head: now };
        }
        self.advance(now);
    }

    /// The hello of the stream has arrived, and is for this request and device.
    pub fn handle_hello(&mut self, now: u64, times: HelloTimes) {
        let (StreamState::Opening { sent } | StreamState::Headed { sent, .. }) =
            self.streamer.state
        else {
            return;
        };
        self.silent_since = None;
        let mut lags = Lags::default();
        lags.hello(
            now.saturating_sub(sent).saturating_sub(times.up_ms),
            self.exchanges.median_ms(),
        );
        self.streamer.state = StreamState::Live(Box::new(Live {
            sent,
            hello: now,
            zero_ms: i128::from(times.time_ms) - i128::from(times.up_ms),
            heartbeat_ms: times.heartbeat_s.max(1).saturating_mul(1000),
            session: times.session,
            lags,
            on_time: 0,
            on_time_at: now,
            last: now,
            is_good: false,
            confirmation: Confirmation::DueAt(now),
            polled_beside: false,
            is_suspect: false,
            bye: None,
        }));
        self.gain(now);
        self.advance(now);
    }

    /// A command, or any other event or comment, has arrived on the stream.
    pub fn handle_stream_activity(&mut self, now: u64) {
        if let StreamState::Live(live) = &mut self.streamer.state {
            live.last = now;
            live.is_suspect = false;
        }
        self.silent_since = None;
        self.check_stream(now);
        self.advance(now);
    }

    /// A poll has brought a command that is new: a stream that passes each write on brings it too, at this moment.
    pub(super) fn await_copy(&mut self, now: u64, copy: (CommandId, u32)) {
        if let StreamState::Live(live) = &mut self.streamer.state
            && !live.is_suspect
        {
            live.lags.await_copy(now, copy);
        }
    }

    /// The stream has brought a command.
    pub(super) fn note_copy(&mut self, now: u64, copy: (CommandId, u32)) {
        let exchange_ms = self.exchanges.median_ms();
        if let StreamState::Live(live) = &mut self.streamer.state {
            live.lags.check_copy(now, exchange_ms);
            live.lags.note_copy(copy);
        }
    }

    /// Nothing was read for a while, so that what is read now says nothing of when it arrived.
    pub fn excuse_stream(&mut self) {
        if let StreamState::Live(live) = &mut self.streamer.state {
            live.lags.excuse_copy();
        }
    }

    /// A heartbeat has arrived. `time_ms` is the hub's clock in it.
    pub fn handle_heartbeat(&mut self, now: u64, time_ms: u64) {
        let exchange_ms = self.exchanges.median_ms();
        if let StreamState::Live(live) = &mut self.streamer.state {
            let up_ms = i128::from(time_ms) - live.zero_ms;
            let lag_ms = i128::from(now.saturating_sub(live.sent)) - up_ms;
            if live.lags.note(u64::try_from(lag_ms.max(0)).unwrap_or(u64::MAX), exchange_ms) {
                (live.on_time, live.on_time_at) = (live.on_time.saturating_add(1), now);
            } else {
                live.on_time = 0;
            }
        }
        self.handle_stream_activity(now);
    }

    /// The hub has answered to the confirmation, or did not.
    pub fn handle_confirmation(&mut self, now: u64, is_accepted: bool) {
        if let StreamState::Live(live) = &mut self.streamer.state {
            live.confirmation = match is_accepted {
                true => Confirmation::Done,
                // The hub ends the stream if none arrives.
                false => Confirmation::DueAt(now + CONFIRM_RETRY_MS),
            };
        }
        self.check_stream(now);
        self.advance(now);
    }

    /// The hub has answered a ping, which took this long.
    pub fn handle_pong(&mut self, now: u64, exchange_ms: u64) {
        self.exchanges.note(exchange_ms);
        self.silent_since = None;
        if matches!(self.streamer.state, StreamState::Checking) {
            self.streamer.failed_pings = 0;
            match self.streamer.mode {
                StreamMode::Plain => {
                    let streamer = &mut self.streamer;
                    (streamer.mode, streamer.compat_since) = (StreamMode::Compat, now);
                    streamer.why_compat = streamer.why.clone();
                    streamer.state = StreamState::Due;
                }
                StreamMode::Compat | StreamMode::Suspended => self.suspend_stream(now),
            }
        }
        self.advance(now);
    }

    /// A ping has failed, too: the network is down, and the stream is not at fault.
    pub fn handle_ping_failure(&mut self, now: u64) {
        if matches!(self.streamer.state, StreamState::Checking) {
            self.pause_stream(now, None);
        }
        self.advance(now);
    }
}
