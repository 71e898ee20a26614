//! A device's commands as typed signals. Contract, section 4.
//!
//! By default they arrive on two ways, a stream and a long poll, and [`path`](crate::path) decides which carries: `two_ways`
//! carries its decisions out, with the requests of `poll`. [`ListenOptions::stream_only`] is one stream that reconnects by
//! itself. `events` is what both read. The caller handles the commands.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bellwire_proto::stream::{Bye, CancelEvent, CommandEvent, Hello};
use bellwire_proto::{DeviceId, Seconds, Seq};
use futures_core::Stream;
use tokio::time::Instant;
use url::Url;

use super::{Controller, Error, add_query, nonce};
use crate::event_source::{Builder, EventSource, InvalidRequest, Loss, Retry};
use crate::path::{Carrier, PathHint};

mod events;
mod poll;
mod stream_only;
mod two_ways;

use stream_only::StreamOnly;
use two_ways::TwoWays;

/// The options of a device's listening.
///
/// ```
/// use bellwire_client::api::ListenOptions;
/// use bellwire_proto::Seconds;
///
/// let options = ListenOptions::default().heartbeat(Seconds::new(30));
/// # drop(options);
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct ListenOptions {
    stream_only: bool,
    heartbeat: Option<Seconds>,
    no_ack: bool,
    last_event_id: Option<Seq>,
    prelude_bytes: Option<u32>,
    probes: bool,
    confirm: bool,
    compat: bool,
    same_origin: bool,
    retry: Retry,
    reconnect_delay_max: Option<Duration>,
    healthy_after: Option<Duration>,
    path_hint: Option<PathHint>,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self {
            stream_only: false,
            heartbeat: None,
            no_ack: false,
            last_event_id: None,
            prelude_bytes: None,
            probes: false,
            confirm: false,
            compat: false,
            same_origin: false,
            retry: Retry::resilient(),
            reconnect_delay_max: None,
            healthy_after: None,
            path_hint: None,
        }
    }
}

impl ListenOptions {
    /// One stream and no polls, as a browser's `EventSource`. Behind a middlebox that buffers nothing arrives. Default: no, but
    /// with [`ListenOptions::no_ack`] always: a poll cannot complete a command without a report.
    pub fn stream_only(mut self, stream_only: bool) -> Self {
        self.stream_only = stream_only;
        self
    }

    /// The hub's heartbeat: 5 s to 10 min, default 15 s. A stream that is silent for two and a half times the heartbeat in the
    /// hub's hello is dead and replaced.
    pub fn heartbeat(mut self, heartbeat: Seconds) -> Self {
        self.heartbeat = Some(heartbeat);
        self
    }

    /// A command is completed once it is written, and no report is expected (`ack=none`).
    pub fn no_ack(mut self, no_ack: bool) -> Self {
        self.no_ack = no_ack;
        self
    }

    /// The last command that arrived. With [`ListenOptions::no_ack`] the hub replays the commands after this one; else it sends
    /// again at once what it sent after it.
    pub fn last_event_id(mut self, seq: Seq) -> Self {
        self.last_event_id = Some(seq);
        self
    }

    /// Bytes of a comment at the beginning, 0 or 2 to 8,192, which fill the preview of a content scanner. By default the hub
    /// decides.
    pub fn prelude_bytes(mut self, bytes: u32) -> Self {
        self.prelude_bytes = Some(bytes);
        self
    }

    /// With a stream alone: additional heartbeats at 1, 2 and 3 s, which show early whether the network buffers the stream.
    pub fn probes(mut self, probes: bool) -> Self {
        self.probes = probes;
        self
    }

    /// With a stream alone: the hub ends it after 10 s unless [`Controller::confirm`] is called.
    pub fn confirm(mut self, confirm: bool) -> Self {
        self.confirm = confirm;
        self
    }

    /// With a stream alone: a comment follows each event, for proxies that hold the last write back.
    pub fn compat(mut self, compat: bool) -> Self {
        self.compat = compat;
        self
    }

    /// Whether a redirect to another server is a loss, and not followed; see
    /// [`Builder::same_origin`]. Default: no. Polls follow none.
    pub fn same_origin(mut self, same_origin: bool) -> Self {
        self.same_origin = same_origin;
        self
    }

    /// Which losses are final. Default: [`Retry::resilient`]. A stream that fails while polls work is no loss.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// The cap of the growing wait while no connection is healthy. Default: 60 s.
    pub fn reconnect_delay_max(mut self, delay_max: Duration) -> Self {
        self.reconnect_delay_max = Some(delay_max);
        self
    }

    /// How long a connection must have lasted for its end to reset the backoff. Default: 10 s.
    pub fn healthy_after(mut self, healthy_after: Duration) -> Self {
        self.healthy_after = Some(healthy_after);
        self
    }

    /// What an earlier run has found out about the network, from [`Listener::path_hint`]: a hint, which saves requests.
    pub fn path_hint(mut self, path_hint: PathHint) -> Self {
        self.path_hint = Some(path_hint);
        self
    }
}

/// A signal of the hub to a listening device. It is exhaustive on purpose: a device should handle each of them.
#[derive(Debug, Clone)]
pub enum Signal {
    /// The hub answers, and the answer is for this device and request: the first signal after the start and after each loss.
    /// It comes again when what it says of the hub has changed.
    Hello(Hello),
    /// A command to run.
    Command(CommandEvent),
    /// A command to stop, or not to run.
    Cancel(CancelEvent),
    /// The hub is about to end the stream. The listener connects again by itself, after the requested pause.
    Bye(Bye),
    /// A keepalive, with the hub's clock if it was sent.
    Heartbeat {
        /// In Unix milliseconds.
        time_ms: Option<u64>,
    },
    /// Another way carries the commands from now on, or it is known why not the better one; or what [`Listener::path_hint`] says is
    /// another, as when streams are suspended. [`Listener::way`] shows since when, and for how long.
    Carrier {
        /// `None` while neither works.
        carrier: Option<Carrier>,
        /// Why not the better way, as a sentence for an operator; `None` for a plain stream.
        why: Option<String>,
    },
    /// The hub cannot be reached, on neither way; the listener connects again by itself.
    Lost {
        /// What ended the connection, and whose fault that is.
        loss: Loss,
        /// Time until the next attempt.
        retry_in: Duration,
    },
}

/// Which way carries a device's commands.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Way {
    /// `None` while neither works.
    pub carrier: Option<Carrier>,
    /// When this carrier, or the lack of one, began.
    pub since: Instant,
    /// Why not the better way; `None` for a plain stream.
    pub why: Option<String>,
    /// For how long no stream is tried any more, while streams are suspended.
    pub suspended_for: Option<Duration>,
    /// For how long nothing has arrived, if a stream has broken or is silent for too long, and no other way has brought anything
    /// since: whether the carrier works is not known then.
    pub silent_for: Option<Duration>,
}

/// The signals for a device, as a [`Stream`]. An `Err` is the last item; [`ListenOptions::retry`] decides which losses are
/// final.
///
/// Everything happens while it is polled: a caller that handles a command for long delays what follows, and is not taken for a
/// network that is slow.
pub struct Listener {
    ways: Ways,
}

enum Ways {
    Stream(Box<StreamOnly>),
    Two(Box<TwoWays>),
}

impl Controller {
    /// Listens as a device: long polls at first, and a stream once it is proven that the network lets one through.
    ///
    /// ```no_run
    /// use bellwire_client::{Controller, api::{ListenOptions, Signal}};
    /// use bellwire_proto::{DeviceId, Report, ReportState};
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let hub = Controller::new("http://127.0.0.1:8888")?;
    /// let device: DeviceId = "kiosk-7".parse()?;
    /// let mut signals = hub.listen(&device, &ListenOptions::default())?;
    /// while let Some(signal) = signals.next().await {
    ///     if let Signal::Command(command) = signal? {
    ///         println!("{} {}", command.action, command.data.as_str());
    ///         hub.report(&device, command.id, &Report::of(ReportState::Succeeded)).await?;
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// A command can arrive twice: again with a greater `attempt` when the hub does not know that it arrived. Two listeners of
    /// one device replace each other's stream for as long as both run.
    ///
    /// # Errors
    /// When TLS cannot be set up; a refusal of the hub is an item of the stream.
    pub fn listen(
        &self,
        device: &DeviceId,
        options: &ListenOptions,
    ) -> Result<Listener, InvalidRequest> {
        let ways = if options.stream_only || options.no_ack {
            Ways::Stream(Box::new(StreamOnly::new(self, device, options)?))
        } else {
            Ways::Two(Box::new(TwoWays::new(self, device, options)))
        };
        Ok(Listener { ways })
    }

    /// The settings of a source at this hub.
    pub(super) fn source<'a>(&self, segments: impl IntoIterator<Item = &'a str>) -> Builder {
        EventSource::builder(self.resource(segments).as_str())
            .transport(self.shared.transport.clone())
            .headers(&self.shared.headers)
            .authorize(self.shared.authorize.clone())
    }
}

impl Listener {
    /// The next signal; `None` once it is closed.
    pub async fn next(&mut self) -> Option<Result<Signal, Error>> {
        futures_util::StreamExt::next(self).await
    }

    /// The network is another one: a new address, route or proxy, or the machine has slept. What was known of it is void, every
    /// connection is dropped, and everything is tried at once.
    pub fn network_changed(&mut self) {
        match &mut self.ways {
            Ways::Stream(stream) => stream.network_changed(),
            Ways::Two(ways) => ways.network_changed(),
        }
    }

    /// Closes every connection and does not reconnect.
    pub fn close(&mut self) {
        match &mut self.ways {
            Ways::Stream(stream) => stream.close(),
            Ways::Two(ways) => ways.close(),
        }
    }

    /// Waits this long after the current connection is lost, whatever the hub requested.
    pub fn set_next_delay(&mut self, delay: Duration) {
        match &mut self.ways {
            Ways::Stream(stream) => stream.set_next_delay(delay),
            Ways::Two(ways) => ways.set_next_delay(delay),
        }
    }

    /// Which way carries, since when, and why not the better one. `None` with a stream alone.
    pub fn way(&self) -> Option<Way> {
        match &self.ways {
            Ways::Stream(_) => None,
            Ways::Two(ways) => Some(ways.way()),
        }
    }

    /// What is known of the network, for a later run. `None` with a stream alone.
    pub fn path_hint(&self) -> Option<PathHint> {
        match &self.ways {
            Ways::Stream(_) => None,
            Ways::Two(ways) => Some(ways.path_hint()),
        }
    }
}

impl Stream for Listener {
    type Item = Result<Signal, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match &mut self.ways {
            Ways::Stream(stream) => stream.poll_next(cx),
            Ways::Two(ways) => ways.poll_next(cx),
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.ways {
            Ways::Stream(stream) => f.debug_tuple("Listener").field(stream).finish(),
            Ways::Two(ways) => f.debug_tuple("Listener").field(ways).finish(),
        }
    }
}

/// The URL of a request with a nonce of its own.
fn with_nonce(url: &Url) -> (Url, String) {
    let (mut url, nonce) = (url.clone(), nonce());
    add_query(&mut url, "nonce", Some(&nonce));
    (url, nonce)
}
