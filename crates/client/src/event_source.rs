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
use std::time::Duration;

use bellwire_sse::{DecodeError, Decoder, Ended, Next, OwnedItem, ReadyState, Reconnect};
use bytes::{Buf as _, Bytes};
use futures_core::Stream;
use http::{HeaderName, HeaderValue};
use tokio::time::{Instant, Sleep};

use crate::transport::{ByteStream, Transport};

mod builder;
mod connect;
mod error;
mod retry;

pub use builder::{Builder, InvalidRequest};
pub use error::{Error, Loss, RedirectFault, Refusal};
pub use retry::Retry;

use connect::{Answer, Connecting, Plan};

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
    /// Replaces the next wait.
    next_delay: Option<Duration>,
    link: Link,
    /// What `Reconnect`'s times count from.
    epoch: Instant,
    /// Due at the end of a wait, or when silence may have lasted too long.
    alarm: Option<Pin<Box<Sleep>>>,
}

/// Where the source stands, with what it holds there.
enum Link {
    /// The next poll connects.
    Due,
    Connecting(Connecting),
    Open {
        body: ByteStream,
        /// What is read and not yet decoded.
        chunk: Bytes,
    },
    /// The alarm ends it.
    Waiting,
    Closed,
}

/// What a source tells.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Item {
    /// A connection is there, and what comes is an event stream.
    Open,
    /// An event.
    Event(Event),
    /// The text of a comment after the colon, as it came; only if [`Builder::comments`] asks.
    Comment(String),
    /// An event over [`Builder::event_bytes_max`] was dropped; the stream goes on behind it.
    Skipped {
        /// The limit in force.
        limit_bytes: usize,
    },
    /// The connection is gone, or could not be made; the next one is made by itself.
    Lost {
        /// How it was lost.
        loss: Loss,
        /// After how long the next one is tried.
        retry_in: Duration,
    },
}

/// An event.
#[derive(Clone, PartialEq, Eq)]
pub struct Event {
    event: bellwire_sse::Event,
    has_id: bool,
}

impl Event {
    /// Its name (the DOM calls it type): `message` when the stream gave none.
    pub fn name(&self) -> &str {
        self.event.name()
    }

    /// Its data lines, joined by line feeds.
    pub fn data(&self) -> &str {
        self.event.data()
    }

    /// The last event id as of this event: its own, an earlier one's, or empty.
    pub fn id(&self) -> &str {
        self.event.id()
    }

    /// The id that this very event had, if it had one.
    pub fn own_id(&self) -> Option<&str> {
        self.has_id.then(|| self.event.id())
    }

    /// Its data, without a copy.
    pub fn into_data(self) -> String {
        self.event.into_data()
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("name", &self.name())
            .field("data", &self.data())
            .field("id", &self.id())
            .field("own_id", &self.own_id())
            .finish()
    }
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
        if !matches!(self.link, Link::Closed) {
            self.link = Link::Due;
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
        if matches!(self.link, Link::Open { .. }) {
            self.set_watchdog();
        }
    }

    /// Drops the connection as one that failed: what came over it is not what it should be. The
    /// answer is the item that tells of it, as the stream would have; [`Retry`] has its say.
    pub fn reject(&mut self, reason: impl Into<String>) -> Result<Item, Error> {
        let error = Error::Rejected { reason: reason.into() };
        match self.link {
            Link::Closed => Err(error),
            _ => self.lose(Loss::Failed(error.clone())).unwrap_or(Err(error)),
        }
    }

    /// Sends the next connection's request to this URL: for a parameter that is new each time.
    pub(crate) fn set_url(&mut self, url: reqwest::Url) {
        Arc::make_mut(&mut self.plan).url = url;
    }

    /// Sends this with each request from the next on, in place of what was sent.
    pub(crate) fn set_header(&mut self, name: HeaderName, value: HeaderValue) {
        Arc::make_mut(&mut self.plan).headers.insert(name, value);
    }

    /// Drops the connection and makes no more. The stream ends.
    pub fn close(&mut self) {
        self.reconnect.handle_close();
        self.link = Link::Closed;
    }

    /// Moves the alarm. The first time makes it, so that a source can be built outside a runtime.
    fn set_alarm(&mut self, at: Instant) {
        match &mut self.alarm {
            Some(alarm) => alarm.as_mut().reset(at),
            None => self.alarm = Some(Box::pin(tokio::time::sleep_until(at))),
        }
    }

    fn poll_alarm(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.alarm {
            Some(alarm) => alarm.as_mut().poll(cx),
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
        let request = self.plan.clone();
        self.link = Link::Connecting(connect::start(self.transport.clone(), request, id));
        if let Some(silence_max) = self.silence_max {
            self.set_alarm(Instant::now() + silence_max);
        }
    }

    fn poll_connecting(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Item, Error>>> {
        let Link::Connecting(connecting) = &mut self.link else {
            return Poll::Ready(None);
        };
        let answer = match connecting.as_mut().poll(cx) {
            Poll::Ready(answer) => answer,
            Poll::Pending => {
                let Some(silence_max) = self.silence_max else {
                    return Poll::Pending;
                };
                ready!(self.poll_alarm(cx));
                Err(Error::Silent { after: silence_max })
            }
        };
        Poll::Ready(match answer {
            Ok(Answer::Stream(body)) => {
                self.reconnect.handle_open(self.now());
                self.set_watchdog();
                self.link = Link::Open { body, chunk: Bytes::new() };
                Some(Ok(Item::Open))
            }
            Ok(Answer::NoMore) => {
                self.close();
                None
            }
            Err(error) => self.lose(Loss::Failed(error)),
        })
    }

    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Item, Error>>> {
        loop {
            if let Some(item) = self.decode() {
                return Poll::Ready(Some(Ok(item)));
            }
            let Link::Open { body, chunk } = &mut self.link else {
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
            return Poll::Ready(self.lose(loss));
        }
    }

    /// The next item of what was read.
    fn decode(&mut self) -> Option<Item> {
        let Link::Open { chunk, .. } = &mut self.link else {
            return None;
        };
        let mut rest: &[u8] = chunk;
        let item = match self.decoder.decode_owned(&mut rest) {
            Ok(None) => None,
            Ok(Some(OwnedItem::Comment(text))) => Some(Item::Comment(text)),
            Ok(Some(OwnedItem::Event(event))) => {
                Some(Item::Event(Event { event, has_id: self.decoder.event_has_id() }))
            }
            Err(DecodeError::TooLarge { limit_bytes }) => Some(Item::Skipped { limit_bytes }),
            Err(_) => None,
        };
        let used_bytes = chunk.len() - rest.len();
        chunk.advance(used_bytes);
        item
    }

    /// Ready when nothing came for too long. The alarm is moved only when it goes off, not with
    /// each byte that puts it off.
    fn poll_watchdog(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        let Some(silence_max) = self.silence_max else {
            return Poll::Pending;
        };
        loop {
            ready!(self.poll_alarm(cx));
            if self.reconnect.poll_timeout().is_none_or(|at| at <= self.now()) {
                return Poll::Ready(Error::Silent { after: silence_max });
            }
            self.set_watchdog();
        }
    }

    fn set_watchdog(&mut self) {
        if let Some(at) = self.reconnect.poll_timeout() {
            self.set_alarm(self.epoch + at);
        }
    }

    /// The connection is lost: waits for the next, or gives up.
    fn lose(&mut self, loss: Loss) -> Option<Result<Item, Error>> {
        if let Some(retry_ms) = self.decoder.retry_ms() {
            let longest_ms = SERVER_WAIT_MAX.as_secs() * 1000;
            self.reconnect.handle_retry(retry_ms.min(longest_ms));
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
                let retry_in = told.unwrap_or(drawn);
                self.set_alarm(Instant::now() + retry_in);
                self.link = Link::Waiting;
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
            match &self.link {
                Link::Due => self.connect(),
                Link::Connecting(_) => return self.poll_connecting(cx),
                Link::Open { .. } => return self.poll_open(cx),
                Link::Waiting => {
                    ready!(self.poll_alarm(cx));
                    self.link = Link::Due;
                }
                Link::Closed => return Poll::Ready(None),
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
