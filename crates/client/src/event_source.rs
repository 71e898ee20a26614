//! The client side of Server-Sent Events: a stream of events that mends itself.
//!
//! [`EventSource`] keeps one connection open at a time and does what HTML's section 9.2 says when
//! it ends. The work is divided: one try to connect, with its redirects, is `connect.rs`; whether a
//! loss is final is decided in `retry.rs` and nowhere else; how long to wait, and when silence is
//! death, is `bellwire_sse::Reconnect`; bytes become events in `bellwire_sse::Decoder`. Here they
//! are only put together, and no step of [`EventSource::poll_next`] does more than one of them.

use std::fmt;
use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use bellwire_sse::{DecodeError, Decoder, Ended, Next, OwnedItem, ReadyState, Reconnect};
use bytes::{Buf as _, Bytes};
use futures_core::Stream;
use http::HeaderValue;
use tokio::time::{Instant, Sleep};

use crate::transport::{ByteStream, Transport};

mod builder;
mod connect;
mod error;
mod item;
mod retry;

pub use builder::{Builder, InvalidRequest};
pub use error::{Error, Loss, RedirectFault, Refusal};
pub use item::{Event, Item};
pub use retry::Retry;

use connect::{ConnectOutcome, Connecting, Plan};

/// The longest wait that a server can ask for, by `retry` or by `Retry-After`: past it, one bad
/// byte could silence a client for good.
pub const SERVER_WAIT_MAX: Duration = Duration::from_secs(3600);

/// A stream of server-sent events that reconnects by itself.
///
/// ```
/// use axum::{Router, routing::get};
/// use bellwire_client::{EventSource, event_source::Retry};
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// let hello = async || ([("content-type", "text/event-stream")], "id: 1\ndata: hello\n\n");
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// let url = format!("http://{}/events", listener.local_addr()?);
/// let routes = Router::new().route("/events", get(hello));
/// tokio::spawn(async { axum::serve(listener, routes).await });
///
/// let mut source = EventSource::builder(url).retry(Retry::never()).build()?;
/// let event = source.next_event().await?.expect("the server sends one");
/// assert_eq!((event.name(), event.data(), event.id()), ("message", "hello", "1"));
/// assert!(source.next_event().await?.is_none(), "it ended, and we do not come back");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # What it yields
///
/// As a [`Stream`] it tells everything as an [`Item`]; [`EventSource::next_event`] tells events
/// alone. In both, an `Err` is the last thing said: the source has given up, and is closed. A
/// connection that is lost and will be made anew is one [`Item::Lost`]. `None` is an orderly end:
/// the server answered 204, the source was closed, or the stream ended and [`Retry`] has no more.
///
/// # What the standard says, and what it leaves open
///
/// The URL asked is always the one given; redirects are followed each time. `Last-Event-ID` is
/// sent when there is a last event id and a header can carry it. A server's `retry` replaces the
/// delay; every wait in a row without a healthy stream doubles it, up to a cap, and the wait itself
/// is drawn at random from zero to that, so that a crowd does not come back at one moment. What a
/// loss means for the next try is [`Retry`]'s to say.
///
/// Nothing is read ahead of who asks: a reader that does not poll holds the server back by TCP.
/// To drop the source, or to close it, drops the connection.
///
/// It needs a tokio runtime with its clock and network enabled.
pub struct EventSource {
    transport: Arc<dyn Transport>,
    plan: Arc<Plan>,
    decoder: Decoder,
    reconnect: Reconnect,
    retry: Retry,
    silence_max: Option<Duration>,
    delay_min: Duration,
    server_delay_min: Duration,
    retry_max: Duration,
    /// Replaces the next wait.
    next_delay: Option<Duration>,
    connection: ConnectionState,
    /// When the try or the stream at hand began.
    connecting_at: Instant,
    begin_within: Option<Duration>,
    /// The stream is dead then, unless it has begun as it should.
    begin_by: Option<Instant>,
    /// What the server's clock showed, and when.
    server_clock: Option<(SystemTime, Instant)>,
    /// What `Reconnect`'s times count from.
    epoch: Instant,
    /// Due at the end of a wait, or when silence may have lasted too long.
    timer: Option<Pin<Box<Sleep>>>,
}

/// Where the source stands, with what it holds there.
enum ConnectionState {
    /// The next poll connects.
    Due,
    Connecting(Connecting),
    Open {
        body: ByteStream,
        /// What is read and not yet decoded.
        chunk: Bytes,
    },
    /// The timer ends it.
    Waiting,
    Closed,
}

impl EventSource {
    /// A source of the events at `url`, by GET and with the settings of the standard.
    ///
    /// # Errors
    /// When the URL is none, or TLS cannot be set up. Nothing is sent yet: the first poll connects.
    pub fn get(url: impl AsRef<str>) -> Result<Self, InvalidRequest> {
        Self::builder(url).build()
    }

    /// The settings of a source, to be changed and built.
    pub fn builder(url: impl AsRef<str>) -> Builder {
        Builder::new(url.as_ref())
    }

    /// The next event; `None` after an orderly end. Everything else is passed over, save that a
    /// lost connection and a dropped event are told to [`tracing`].
    ///
    /// It may be cancelled without losing an event.
    ///
    /// # Errors
    /// Why the source has given up. What comes after is `None`.
    pub async fn next_event(&mut self) -> Result<Option<Event>, Error> {
        loop {
            match self.next_item().await.transpose()? {
                None => return Ok(None),
                Some(Item::Event(event)) => return Ok(Some(event)),
                Some(Item::Lost { loss, retry_in }) => {
                    tracing::info!(%loss, ?retry_in, "stream lost");
                }
                Some(Item::Skipped { limit_bytes }) => {
                    tracing::warn!(limit_bytes, "event dropped: it is over the limit");
                }
                Some(Item::Open | Item::Comment(_)) => {}
            }
        }
    }

    /// The next item: what `StreamExt::next` would give, without the import.
    pub async fn next_item(&mut self) -> Option<Result<Item, Error>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// Where it stands.
    pub fn ready_state(&self) -> ReadyState {
        self.reconnect.ready_state()
    }

    /// The last event id: what the next event without an id of its own inherits.
    pub fn last_event_id(&self) -> &str {
        self.decoder.last_event_id()
    }

    /// Drops the connection if there is one and makes a new one at once, with the last event id.
    /// Nothing is told of it but [`Item::Open`]. A closed source stays closed.
    pub fn restart(&mut self) {
        if !matches!(self.connection, ConnectionState::Closed) {
            self.connection = ConnectionState::Due;
        }
    }

    /// Waits this long after the connection at hand is lost, whatever was told before: for a
    /// server that names the time of its return in an event.
    pub fn set_next_delay(&mut self, delay: Duration) {
        self.next_delay = Some(delay);
    }

    /// From now on a connection is dead when nothing comes over it for this long, in place of
    /// [`Builder::read_timeout`]: for a stream that tells how often it speaks.
    pub fn set_read_timeout(&mut self, timeout: Duration) {
        self.silence_max = Some(timeout);
        self.reconnect.set_silence_max(Some(timeout));
        if matches!(self.connection, ConnectionState::Open { .. }) {
            self.set_watchdog();
        }
    }

    /// Drops the connection as one that failed: what came over it is not what it should be. The
    /// answer is the item that tells of it, as the stream would have; [`Retry`] has its say.
    pub fn reject(&mut self, reason: impl Into<String>) -> Result<Item, Error> {
        let error = Error::Rejected { reason: reason.into() };
        match self.connection {
            ConnectionState::Closed => Err(error),
            _ => self.handle_loss(Loss::Failed(error.clone())).unwrap_or(Err(error)),
        }
    }

    /// Sends the next connection's request to this URL: for a parameter that is new each time.
    pub(crate) fn set_url(&mut self, url: reqwest::Url) {
        Arc::make_mut(&mut self.plan).url = url;
    }

    /// The stream at hand is what it should be: see [`Builder::begin_within`].
    pub(crate) fn set_begun(&mut self) {
        self.begin_by = None;
    }

    /// The stream at hand is over after this time, whatever still comes over it.
    pub(crate) fn end_within(&mut self, within: Duration) {
        self.begin_by = Some(Instant::now() + within);
        self.set_watchdog();
    }

    /// What the server's clock shows now: a `Retry-After` may count on it.
    pub(crate) fn set_server_clock(&mut self, unix_ms: u64) {
        let shown = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(unix_ms));
        self.server_clock = shown.map(|shown| (shown, Instant::now()));
    }

    /// Drops the connection and makes no more. The stream ends.
    pub fn close(&mut self) {
        self.reconnect.handle_close();
        self.connection = ConnectionState::Closed;
    }

    /// Moves the timer. The first time makes it, so that a source can be built outside a runtime.
    fn set_timer(&mut self, at: Instant) {
        match &mut self.timer {
            Some(timer) => timer.as_mut().reset(at),
            None => self.timer = Some(Box::pin(tokio::time::sleep_until(at))),
        }
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.timer {
            Some(timer) => timer.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// Starts a try to connect.
    fn connect(&mut self) {
        self.decoder.reconnected();
        self.reconnect.handle_connecting();
        let id = self.decoder.header_id();
        let id = id.and_then(|id| HeaderValue::from_bytes(id.as_bytes()).ok());
        let clock = self.server_clock.and_then(|(shown, at)| shown.checked_add(at.elapsed()));
        let (transport, request) = (self.transport.clone(), self.plan.clone());
        self.connection =
            ConnectionState::Connecting(connect::start(transport, request, id, clock));
        self.connecting_at = Instant::now();
        self.begin_by = self.begin_within.map(|within| self.connecting_at + within);
        self.set_watchdog();
    }

    fn poll_connecting(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Item, Error>>> {
        let ConnectionState::Connecting(connecting) = &mut self.connection else {
            return Poll::Ready(None);
        };
        let answer = match connecting.as_mut().poll(cx) {
            Poll::Ready(answer) => answer,
            Poll::Pending => Err(ready!(self.poll_watchdog(cx))),
        };
        Poll::Ready(match answer {
            Ok(ConnectOutcome::Stream(body)) => {
                self.reconnect.handle_open(self.now());
                self.connection = ConnectionState::Open { body, chunk: Bytes::new() };
                self.set_watchdog();
                Some(Ok(Item::Open))
            }
            Ok(ConnectOutcome::NoContent) => {
                self.close();
                None
            }
            Err(error) => self.handle_loss(Loss::Failed(error)),
        })
    }

    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Item, Error>>> {
        loop {
            if let Some(item) = self.decode() {
                return Poll::Ready(Some(Ok(item)));
            }
            let ConnectionState::Open { body, chunk } = &mut self.connection else {
                return Poll::Ready(None);
            };
            let loss = match body.as_mut().poll_next(cx) {
                Poll::Ready(Some(Ok(bytes))) => {
                    *chunk = bytes;
                    self.reconnect.handle_bytes(self.now());
                    continue;
                }
                Poll::Ready(Some(Err(error))) => Loss::Failed(Error::Transport(error)),
                Poll::Ready(None) => Loss::Ended,
                Poll::Pending => Loss::Failed(ready!(self.poll_watchdog(cx))),
            };
            return Poll::Ready(self.handle_loss(loss));
        }
    }

    /// The next item of what was read.
    fn decode(&mut self) -> Option<Item> {
        let ConnectionState::Open { chunk, .. } = &mut self.connection else {
            return None;
        };
        let mut rest: &[u8] = chunk;
        let item = match self.decoder.decode_owned(&mut rest) {
            Ok(None) => None,
            Ok(Some(OwnedItem::Comment(text))) => Some(Item::Comment(text)),
            Ok(Some(OwnedItem::Event(event))) => {
                Some(Item::Event(Event::new(event, self.decoder.event_has_id())))
            }
            Err(DecodeError::TooLarge { limit_bytes }) => Some(Item::Skipped { limit_bytes }),
            Err(_) => None,
        };
        let used_bytes = chunk.len() - rest.len();
        chunk.advance(used_bytes);
        item
    }

    /// Ready when the connection is dead. The timer is moved only when it goes off, not with each
    /// byte that puts it off.
    fn poll_watchdog(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        while let Some((dead_at, why)) = self.dead_at() {
            ready!(self.poll_timer(cx));
            if dead_at <= Instant::now() {
                return Poll::Ready(why);
            }
            self.set_timer(dead_at);
        }
        Poll::Pending
    }

    fn set_watchdog(&mut self) {
        if let Some((dead_at, _)) = self.dead_at() {
            self.set_timer(dead_at);
        }
    }

    /// When the connection at hand is dead if nothing more comes, and of what.
    fn dead_at(&self) -> Option<(Instant, Error)> {
        let is_open = matches!(self.connection, ConnectionState::Open { .. });
        let silent = self.silence_max.and_then(|after| {
            let at = match is_open {
                true => self.epoch + self.reconnect.poll_timeout()?,
                false => self.connecting_at + after,
            };
            Some((at, Error::Silent { after }))
        });
        let not_begun = self.begin_by.zip(self.begin_within).map(|(by, within)| match is_open {
            true => (by, Error::NotBegun { within }),
            false => (by, Error::Silent { after: within }),
        });
        silent.into_iter().chain(not_begun).min_by_key(|(at, _)| *at)
    }

    /// The connection is lost: waits for the next, or gives up.
    fn handle_loss(&mut self, loss: Loss) -> Option<Result<Item, Error>> {
        if let Some(retry_ms) = self.decoder.retry_ms() {
            let ms = |limit: Duration| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
            let (least_ms, most_ms) = (ms(self.server_delay_min), ms(self.retry_max));
            self.reconnect.handle_retry(retry_ms.min(most_ms).max(least_ms));
        }
        let ended = match &loss {
            _ if !self.retry.tries_again_after(&loss) => Ended::Stopped,
            Loss::Ended => Ended::Eof,
            Loss::Failed(Error::Silent { .. }) => Ended::Silent,
            Loss::Failed(_) => Ended::Failed,
        };
        // Without randomness the wait is the longest one: late, and still spread by nothing worse
        // than the losses themselves.
        let random = getrandom::u64().unwrap_or(u64::MAX);
        match (self.reconnect.handle_end(ended, self.now(), random), loss) {
            (Next::Wait(wait), loss) => {
                let asked = loss.retry_after().unwrap_or_default().min(SERVER_WAIT_MAX);
                let drawn = wait.max(asked).max(self.delay_min);
                let told = self.next_delay.take().or_else(|| self.retry.delay_after(&loss));
                // Who asks for next to nothing again and again would be asked without a pause.
                let again = self.reconnect.failures() > 1;
                let retry_in = match told {
                    Some(told) if again && told < self.server_delay_min => told.max(drawn),
                    told => told.unwrap_or(drawn),
                };
                self.set_timer(Instant::now() + retry_in);
                self.connection = ConnectionState::Waiting;
                Some(Ok(Item::Lost { loss, retry_in }))
            }
            (Next::Stop, Loss::Ended) => {
                self.close();
                None
            }
            (Next::Stop, Loss::Failed(error)) => {
                self.close();
                Some(Err(error))
            }
        }
    }
}

impl Stream for EventSource {
    type Item = Result<Item, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match &self.connection {
                ConnectionState::Due => self.connect(),
                ConnectionState::Connecting(_) => return self.poll_connecting(cx),
                ConnectionState::Open { .. } => return self.poll_open(cx),
                ConnectionState::Waiting => {
                    ready!(self.poll_timer(cx));
                    self.connection = ConnectionState::Due;
                }
                ConnectionState::Closed => return Poll::Ready(None),
            }
        }
    }
}

impl fmt::Debug for EventSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventSource")
            .field("request", &self.plan)
            .field("ready_state", &self.ready_state())
            .field("last_event_id", &self.last_event_id())
            .finish_non_exhaustive()
    }
}
