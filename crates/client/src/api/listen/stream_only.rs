//! One stream that reconnects by itself.
//!
//! [`EventSource`] connects and reconnects. Added here: the typed events, a new nonce for each connection and the check that
//! the hello repeats it, and the pause that a `bye` requests.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bellwire_proto::DeviceId;
use bellwire_proto::limits::{
    EVENT_BYTES_MAX, HEARTBEAT_S, LISTENER_BYE_PAUSE_MAX, LISTENER_DELAY_MIN, LISTENER_END_TIMEOUT,
    LISTENER_HEARTBEATS_TENTHS, LISTENER_HELLO_TIMEOUT, LISTENER_RETRY_MAX,
};
use futures_core::Stream;
use url::Url;

use super::events::{DeviceEvent, check_hello};
use super::{Controller, Error, ListenOptions, Signal, add_query, with_nonce};
use crate::event_source::{Event, EventSource, InvalidRequest, Item, Loss};

pub(super) struct StreamOnly {
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

impl StreamOnly {
    pub(super) fn new(
        hub: &Controller,
        device: &DeviceId,
        options: &ListenOptions,
    ) -> Result<Self, InvalidRequest> {
        let segments = ["v1", "devices", device.as_str(), "stream"];
        let mut url = hub.resource(segments);
        add_query(&mut url, "heartbeat", options.heartbeat);
        add_query(&mut url, "ack", options.no_ack.then_some("none"));
        add_query(&mut url, "prelude", options.prelude_bytes);
        add_query(&mut url, "probes", options.probes.then_some(1));
        add_query(&mut url, "confirm", options.confirm.then_some(1));
        add_query(&mut url, "compat", options.compat.then_some(1));
        let mut builder = hub
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
        let mut stream = Self {
            hub: hub.clone(),
            device: device.clone(),
            source: builder.build()?,
            url,
            nonce: String::new(),
            hello_received: false,
            bye_received: false,
        };
        stream.prepare_connection();
        Ok(stream)
    }

    /// Closes the stream and opens a new one at once, over a new connection.
    pub(super) fn network_changed(&mut self) {
        self.hub.shared.transport.network_changed();
        self.prepare_connection();
        self.source.restart();
    }

    pub(super) fn close(&mut self) {
        self.source.close();
    }

    pub(super) fn set_next_delay(&mut self, delay: Duration) {
        self.source.set_next_delay(delay);
    }

    pub(super) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Signal, Error>>> {
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

    /// Prepares the next connection, with a nonce of its own.
    fn prepare_connection(&mut self) {
        (self.hello_received, self.bye_received) = (false, false);
        self.source.set_read_timeout(LISTENER_HELLO_TIMEOUT);
        let (url, nonce) = with_nonce(&self.url);
        self.nonce = nonce;
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
        if !self.hello_received && event.name() != "hello" {
            return Err("it does not begin with a hello".to_owned());
        }
        if self.bye_received {
            return Ok(None);
        }
        Ok(Some(match DeviceEvent::read(event)? {
            DeviceEvent::Hello(hello) => {
                check_hello(&hello, &self.nonce, &self.device)?;
                self.hello_received = true;
                let heartbeat_s = hello.heartbeat_s.clamp(HEARTBEAT_S.min, HEARTBEAT_S.max);
                let silence_max =
                    Duration::from_millis(heartbeat_s * 100 * LISTENER_HEARTBEATS_TENTHS);
                self.source.set_read_timeout(silence_max);
                self.source.set_begun();
                self.source.set_server_clock(hello.time_ms);
                Signal::Hello(hello)
            }
            DeviceEvent::Command(command) => Signal::Command(command),
            DeviceEvent::Cancel(cancel) => Signal::Cancel(cancel),
            DeviceEvent::Bye { bye, pause } => {
                if let Some(pause) = pause {
                    self.source.set_next_delay(pause.min(LISTENER_BYE_PAUSE_MAX));
                }
                self.source.end_within(LISTENER_END_TIMEOUT);
                self.bye_received = true;
                match bye {
                    Some(bye) => Signal::Bye(bye),
                    None => return Ok(None),
                }
            }
            DeviceEvent::Unknown => return Ok(None),
        }))
    }
}

impl fmt::Debug for StreamOnly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}
