//! A device's stream: the hub's events as typed signals. Contract, section 4.
//!
//! [`EventSource`] connects and reconnects. Added here: the typed events, a new nonce for each connection and the check that
//! the hello repeats it, and the pause that a `bye` requests. The caller handles the commands.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bellwire_proto::limits::{
    EVENT_BYTES_MAX, HEARTBEAT_S, LISTENER_BYE_PAUSE_MAX, LISTENER_DELAY_MIN, LISTENER_END_TIMEOUT,
    LISTENER_HEARTBEATS_TENTHS, LISTENER_HELLO_TIMEOUT, LISTENER_RETRY_MAX,
};
use bellwire_proto::stream::{Bye, CancelEvent, CommandEvent, Hello};
use bellwire_proto::{DeviceId, Seconds, Seq};
use futures_core::Stream;
use reqwest::Url;
use serde::de::DeserializeOwned;

use super::{Controller, Error, add_query, nonce};
use crate::event_source::{Builder, Event, EventSource, InvalidRequest, Item, Loss, Retry};

/// The options of a device's stream.
///
/// ```
/// use bellwire_client::api::ListenOptions;
/// use bellwire_proto::Seconds;
///
/// let options = ListenOptions::default().heartbeat(Seconds::new(30)).confirm(true);
/// # drop(options);
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct ListenOptions {
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
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self {
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
        }
    }
}

impl ListenOptions {
    /// The hub's heartbeat: 5 s to 10 min, default 15 s. A stream that is silent for two and a half times the heartbeat in the
    /// hub's hello is dead and replaced; so is one without a hello 10 s after its start.
    pub fn heartbeat(mut self, heartbeat: Seconds) -> Self {
        self.heartbeat = Some(heartbeat);
        self
    }

    /// A command is completed once it is written, and no report is expected (`ack=none`).
    pub fn no_ack(mut self, no_ack: bool) -> Self {
        self.no_ack = no_ack;
        self
    }

    /// With [`ListenOptions::no_ack`]: the hub replays the commands after this one.
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

    /// Additional heartbeats at 1, 2 and 3 s, which show early whether the network buffers the stream.
    pub fn probes(mut self, probes: bool) -> Self {
        self.probes = probes;
        self
    }

    /// The hub ends the stream after 10 s unless [`Controller::confirm`] is called.
    pub fn confirm(mut self, confirm: bool) -> Self {
        self.confirm = confirm;
        self
    }

    /// A comment follows each event, for proxies that hold the last write back.
    pub fn compat(mut self, compat: bool) -> Self {
        self.compat = compat;
        self
    }

    /// Whether a redirect to another server is a loss, and not followed; see
    /// [`Builder::same_origin`]. Default: no.
    pub fn same_origin(mut self, same_origin: bool) -> Self {
        self.same_origin = same_origin;
        self
    }

    /// Which losses are final. Default: [`Retry::resilient`].
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

    fn add_to(&self, url: &mut Url) {
        add_query(url, "heartbeat", self.heartbeat);
        add_query(url, "ack", self.no_ack.then_some("none"));
        add_query(url, "prelude", self.prelude_bytes);
        add_query(url, "probes", self.probes.then_some(1));
        add_query(url, "confirm", self.confirm.then_some(1));
        add_query(url, "compat", self.compat.then_some(1));
    }
}

/// A signal of the hub to a listening device. It is exhaustive on purpose: a device should handle each of them.
#[derive(Debug, Clone)]
pub enum Signal {
    /// Connected, and the stream is for this device and request. The first signal of each connection.
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
    /// The stream is lost, or could not be made; the listener connects again by itself.
    Lost {
        /// Why it was lost.
        loss: Loss,
        /// Time until the next attempt.
        retry_in: Duration,
    },
}

/// The signals for a device, as a [`Stream`]. An `Err` is the last item; [`ListenOptions::retry`] decides which losses are
/// final.
pub struct Listener {
    hub: Controller,
    device: DeviceId,
    source: EventSource,
    /// The stream's URL without the nonce.
    url: Url,
    nonce: String,
    /// Of the current connection.
    hello_received: bool,
    /// Of the current connection: what follows is its orderly end, whatever it looks like.
    bye_received: bool,
}

impl Controller {
    /// Listens as a device.
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
        let segments = ["v1", "devices", device.as_str(), "stream"];
        let mut url = self.resource(segments);
        options.add_to(&mut url);
        let mut builder = self
            .source(segments)
            .comments(true)
            .begin_within(LISTENER_HELLO_TIMEOUT)
            .server_delay_min(LISTENER_DELAY_MIN)
            .retry_max(LISTENER_RETRY_MAX)
            .same_origin(options.same_origin)
            .event_bytes_max(EVENT_BYTES_MAX)
            .retry(options.retry.clone());
        if let Some(seq) = options.last_event_id {
            builder = builder.last_event_id(seq.to_string());
        }
        if let Some(delay_max) = options.reconnect_delay_max {
            builder = builder.reconnect_delay_max(delay_max);
        }
        if let Some(healthy_after) = options.healthy_after {
            builder = builder.healthy_after(healthy_after);
        }
        let mut listener = Listener {
            hub: self.clone(),
            device: device.clone(),
            source: builder.build()?,
            url,
            nonce: String::new(),
            hello_received: false,
            bye_received: false,
        };
        listener.prepare_connection();
        Ok(listener)
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

    /// Closes the stream and opens a new one at once.
    pub fn restart(&mut self) {
        self.prepare_connection();
        self.source.restart();
    }

    /// Closes the stream and does not reconnect.
    pub fn close(&mut self) {
        self.source.close();
    }

    /// Waits this long after the current connection is lost, whatever the hub requested.
    pub fn set_next_delay(&mut self, delay: Duration) {
        self.source.set_next_delay(delay);
    }

    /// Prepares the next connection, with a nonce of its own.
    fn prepare_connection(&mut self) {
        (self.hello_received, self.bye_received) = (false, false);
        self.source.set_read_timeout(LISTENER_HELLO_TIMEOUT);
        self.nonce = nonce();
        let mut url = self.url.clone();
        add_query(&mut url, "nonce", Some(&self.nonce));
        self.source.set_url(url);
    }

    /// The signal in an item of the source; `None` when it is none.
    fn interpret(&mut self, item: Item) -> Option<Result<Signal, Error>> {
        let reason = match item {
            Item::Open => return None,
            Item::Comment(text) => {
                let time_ms = text.trim().parse().ok();
                return self.hello_received.then_some(Ok(Signal::Heartbeat { time_ms }));
            }
            Item::Lost { loss, retry_in } => {
                let loss = if self.bye_received { Loss::Ended } else { loss };
                self.prepare_connection();
                return Some(Ok(Signal::Lost { loss, retry_in }));
            }
            Item::Event(event) => match self.read(&event) {
                Ok(signal) => return signal.map(Ok),
                Err(reason) => reason,
            },
            Item::Skipped { limit_bytes } => {
                format!("an event of more than {limit_bytes} bytes")
            }
        };
        match self.source.reject(reason) {
            Ok(lost) => self.interpret(lost),
            Err(error) => Some(Err(Error::of_stream(self.hub.url(), error))),
        }
    }

    /// Parses an event. An unknown one is skipped; an invalid one is a reason to reject the stream.
    fn read(&mut self, event: &Event) -> Result<Option<Signal>, String> {
        if event.name() == "hello" {
            let hello: Hello = parse(event)?;
            if hello.nonce.as_deref() != Some(&self.nonce) {
                return Err("the hello belongs to another request, as from a cache".to_owned());
            }
            if hello.device != self.device {
                return Err("the hello is for another device".to_owned());
            }
            self.hello_received = true;
            let heartbeat_s = hello.heartbeat_s.clamp(HEARTBEAT_S.min, HEARTBEAT_S.max);
            let silence_max = Duration::from_millis(heartbeat_s * 100 * LISTENER_HEARTBEATS_TENTHS);
            self.source.set_read_timeout(silence_max);
            self.source.set_begun();
            self.source.set_server_clock(hello.time_ms);
            return Ok(Some(Signal::Hello(hello)));
        }
        if !self.hello_received {
            return Err("it does not begin with a hello".to_owned());
        }
        if self.bye_received {
            return Ok(None);
        }
        Ok(Some(match event.name() {
            "command" => Signal::Command(parse(event)?),
            "cancel" => Signal::Cancel(parse(event)?),
            "bye" => {
                // A later hub may have other reasons; the pause is valid whatever they are.
                let AnyBye { reconnect_s } = parse(event)?;
                let pause = reconnect_s.and_then(|s| Duration::try_from_secs_f64(s).ok());
                if let Some(pause) = pause {
                    self.source.set_next_delay(pause.min(LISTENER_BYE_PAUSE_MAX));
                }
                self.source.end_within(LISTENER_END_TIMEOUT);
                self.bye_received = true;
                match parse(event) {
                    Ok(bye) => Signal::Bye(bye),
                    Err(_) => return Ok(None),
                }
            }
            _ => return Ok(None),
        }))
    }
}

impl Stream for Listener {
    type Item = Result<Signal, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let signal = match ready!(Pin::new(&mut self.source).poll_next(cx)) {
                None => return Poll::Ready(None),
                Some(Ok(item)) => self.interpret(item),
                Some(Err(error)) => Some(Err(Error::of_stream(self.hub.url(), error))),
            };
            if signal.is_some() {
                return Poll::Ready(signal);
            }
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Listener").field(&self.source).finish()
    }
}

/// A `bye` of any version.
#[derive(serde::Deserialize)]
struct AnyBye {
    reconnect_s: Option<f64>,
}

fn parse<T: DeserializeOwned>(event: &Event) -> Result<T, String> {
    serde_json::from_str(event.data())
        .map_err(|error| format!("its {} event cannot be parsed: {error}", event.name()))
}
