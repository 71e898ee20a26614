//! The client side of Server-Sent Events: a stream of events that reconnects by itself.
//!
//! [`EventSource`] has one connection at a time and does what HTML, section 9.2, says when it ends. `connect.rs` is one
//! attempt to connect, with its redirects; `retry.rs` alone decides whether a loss is final; `bellwire_sse::Reconnect` decides
//! how long to wait and when a silent connection is dead; `bellwire_sse::Decoder` turns bytes into events. This file joins
//! them, and each step of [`EventSource::poll_next`] does one of these things.

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

use crate::transport::{ByteStream, RequestSent, Transport};

mod builder;
mod connect;
mod error;
mod item;
mod retry;

pub use builder::{Builder, InvalidRequest};
pub use connect::is_event_stream;
pub use error::{Error, Loss, RedirectFault, Refusal};
pub use item::{Event, Item};
pub use retry::Retry;

use connect::{ConnectOutcome, Connecting, Plan};

/// The longest wait that a server can request, by `retry` or by `Retry-After`: our choice. Without it one wrong byte could
/// silence a client for ever.
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
/// assert!(source.next_event().await?.is_none(), "it ended, and does not reconnect");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # What it yields
///
/// As a [`Stream`] it yields every [`Item`]; [`EventSource::next_event`] returns events alone. In both, an `Err` is the last
/// item: the loss is final and the source closed. A lost connection that will be replaced is one [`Item::Lost`]. `None` is
/// an orderly end: the server answered 204, the source was closed, or the stream ended and [`Retry`] does not reconnect.
///
/// # How it follows the standard, and what that leaves open
///
/// Each connection requests the URL that was given, and follows redirects anew. `Last-Event-ID` is sent when there is a last
/// event id that a header may have. A server's `retry` replaces the delay; each wait in a row without a healthy stream
/// doubles it, up to a cap, and the wait is drawn at random between zero and that (full jitter), so that many clients do not
/// reconnect at one moment. [`Retry`] decides which losses are final.
///
/// Nothing is read ahead of the caller: one that does not poll slows the server down by TCP. Dropping or closing the source
/// closes the connection.
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
    /// Replaces the next wait, once.
    next_delay: Option<Duration>,
    connection: ConnectionState,
    /// When the current attempt or stream began.
    connecting_at: Instant,
    /// When the request of the current stream was sent, if the transport knows that.
    request_sent: Option<Instant>,
    begin_within: Option<Duration>,
    /// When the stream is dead unless the reader has accepted its beginning.
    begin_by: Option<Instant>,
    /// A time of the server's clock, and when it was received.
    server_clock: Option<(SystemTime, Instant)>,
    /// The zero of the times of `Reconnect`.
    epoch: Instant,
    /// Fires at the end of a wait, or when the connection may be dead.
    timer: Option<Pin<Box<Sleep>>>,
}

/// The state of the source.
enum ConnectionState {
    /// The next poll connects.
    Due,
    Connecting(Connecting),
    Open {
        body: ByteStream,
        /// Bytes that are read and not yet decoded.
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
    /// When the URL is invalid, or TLS cannot be set up. Nothing is sent yet: the first poll connects.
    pub fn get(url: impl AsRef<str>) -> Result<Self, InvalidRequest> {
        Self::builder(url).build()
    }

    /// The settings of a source, to be changed and built.
    pub fn builder(url: impl AsRef<str>) -> Builder {
        Builder::new(url.as_ref())
    }

    /// The next event; `None` after an orderly end. Other items are skipped; a lost connection and a dropped event are
    /// logged by [`tracing`].
    ///
    /// Cancel safe: no event is lost.
    ///
    /// # Errors
    /// A final loss. The next call returns `None`.
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

    /// The next item: `StreamExt::next` without the import.
    pub async fn next_item(&mut self) -> Option<Result<Item, Error>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// The state by the standard.
    pub fn ready_state(&self) -> ReadyState {
        self.reconnect.ready_state()
    }

    /// The last event id, which the next event without an id inherits.
    pub fn last_event_id(&self) -> &str {
        self.decoder.last_event_id()
    }

    /// Closes the connection, if there is one, and connects again at once, with the last event id. [`Item::Open`] is the only
    /// item about it. A closed source remains closed.
    pub fn restart(&mut self) {
        if !matches!(self.connection, ConnectionState::Closed) {
            self.connection = ConnectionState::Due;
        }
    }

    /// Waits this long after the current connection is lost, in place of every other delay: for a server that announces the
    /// time of its return in an event.
    pub fn set_next_delay(&mut self, delay: Duration) {
        self.next_delay = Some(delay);
    }

    /// Replaces [`Builder::read_timeout`] from now on: for a stream that announces its heartbeat.
    pub fn set_read_timeout(&mut self, timeout: Duration) {
        self.silence_max = Some(timeout);
        self.reconnect.set_silence_max(Some(timeout));
        if matches!(self.connection, ConnectionState::Open { .. }) {
            self.set_watchdog();
        }
    }

    /// Treats the connection as failed, because the reader cannot use what it received. Returns what the stream would have
    /// yielded for this loss; [`Retry`] decides whether it is final.
    pub fn reject(&mut self, reason: impl Into<String>) -> Result<Item, Error> {
        let error = Error::Rejected { reason: reason.into() };
        match self.connection {
            ConnectionState::Closed => Err(error),
            _ => self.handle_loss(Loss::Failed(error.clone())).unwrap_or(Err(error)),
        }
    }

    /// Sets the URL of the next connection: for a parameter that is new each time.
    pub(crate) fn set_url(&mut self, url: url::Url) {
        Arc::make_mut(&mut self.plan).url = url;
    }

    /// Accepts the beginning of the current stream: see [`Builder::begin_within`].
    pub(crate) fn set_begun(&mut self) {
        self.begin_by = None;
    }

    /// Ends the current stream after this time, whatever it still sends.
    pub(crate) fn end_within(&mut self, within: Duration) {
        self.begin_by = Some(Instant::now() + within);
        self.set_watchdog();
    }

    /// Sets the current time of the server's clock, for a `Retry-After` without a `Date`.
    pub(crate) fn set_server_clock(&mut self, unix_ms: u64) {
        let shown = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(unix_ms));
        self.server_clock = shown.map(|shown| (shown, Instant::now()));
    }

    /// When the request of the current stream was sent, if the transport knows that.
    pub(crate) fn request_sent(&self) -> Option<Instant> {
        self.request_sent
    }

    /// Closes the connection and does not reconnect. The stream ends.
    pub fn close(&mut self) {
        self.reconnect.handle_close();
        self.connection = ConnectionState::Closed;
    }

    /// Sets the timer. The first call creates it, so that a source can be built outside a runtime.
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

    /// Starts an attempt to connect.
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
            Ok(ConnectOutcome::Stream(body, sent)) => {
                self.request_sent = sent.map(|RequestSent(at)| at.into());
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

    /// The next item of the bytes that were read.
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

    /// Ready when the connection is dead. The timer is set again when it fires, not with each byte that arrives.
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

    /// When the current connection is dead if nothing more arrives, and the reason.
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

    /// The connection is lost: starts the wait for the next one, or closes the source.
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
        // Without randomness the wait is the longest one.
        let random = getrandom::u64().unwrap_or(u64::MAX);
        match (self.reconnect.handle_end(ended, self.now(), random), loss) {
            (Next::Wait(wait), loss) => {
                let retry_after = loss.retry_after().unwrap_or_default().min(SERVER_WAIT_MAX);
                let drawn = wait.max(retry_after).max(self.delay_min);
                let fixed = self.next_delay.take().or_else(|| self.retry.delay_after(&loss));
                // A server that requests almost no delay each time must not be tried without a pause.
                let again = self.reconnect.failures() > 1;
                let retry_in = match fixed {
                    Some(delay) if again && delay < self.server_delay_min => delay.max(drawn),
                    fixed => fixed.unwrap_or(drawn),
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
