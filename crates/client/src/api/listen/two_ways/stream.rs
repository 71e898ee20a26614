//! The stream among the two ways: opened, read, and its end reported to the path.

use std::pin::Pin;
use std::task::{Context, Poll};

use bellwire_proto::Seconds;
use bellwire_proto::limits::{EVENT_BYTES_MAX, HEARTBEAT_S};
use bellwire_proto::stream::CommandEvent;
use futures_core::Stream as _;

use super::super::events::{DeviceEvent, check_hello};
use super::super::poll::stream_end;
use super::super::{Signal, add_query, with_nonce};
use super::{OpenStream, TwoWays};
use crate::event_source::{self, InvalidRequest, Item, Loss, Retry};
use crate::path::{HelloTimes, StreamEnd};

impl TwoWays {
    pub(super) fn open(&mut self, compat: bool, heartbeat_s: Option<u64>) {
        match self.stream(compat, heartbeat_s) {
            Ok(stream) => self.stream = Some(stream),
            Err(error) => {
                let now = self.now();
                let why = error.to_string();
                self.path.handle_stream_end(now, StreamEnd::NotOurs { why });
            }
        }
    }

    fn stream(&self, compat: bool, heartbeat_s: Option<u64>) -> Result<OpenStream, InvalidRequest> {
        let segments = ["v1", "devices", self.device.as_str(), "stream"];
        let cursor = self.path.cursor();
        let mut url = self.hub.resource(segments);
        add_query(&mut url, "heartbeat", heartbeat_s.map(Seconds::new));
        add_query(&mut url, "prelude", self.options.prelude_bytes);
        add_query(&mut url, "probes", Some(1));
        add_query(&mut url, "confirm", Some(1));
        add_query(&mut url, "compat", compat.then_some(1));
        // A middlebox may strip the header.
        add_query(&mut url, "last_event_id", cursor);
        let (url, nonce) = with_nonce(&url);
        let mut builder = self
            .hub
            .source(segments)
            .comments(true)
            .same_origin(self.options.same_origin)
            .event_bytes_max(EVENT_BYTES_MAX)
            .retry(Retry::never());
        if let Some(seq) = cursor {
            builder = builder.last_event_id(seq.to_string());
        }
        let mut source = builder.build()?;
        source.set_url(url);
        if let Some(clock_ms) = self.hub_clock_ms() {
            source.set_server_clock(clock_ms);
        }
        Ok(OpenStream {
            source,
            nonce,
            is_open: false,
            hello_received: false,
            bye_received: false,
            generation: None,
        })
    }

    pub(super) fn poll_stream(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let now = self.now();
        let Some(stream) = &mut self.stream else { return Poll::Pending };
        let item = match Pin::new(&mut stream.source).poll_next(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(item) => item,
        };
        match item {
            Some(Ok(Item::Open)) => {
                stream.is_open = true;
                let sent = stream.source.request_sent().map_or(now, |at| self.since_epoch(at));
                self.path.handle_stream_head(now, sent);
            }
            Some(Ok(Item::Comment(text))) => self.on_comment(now, &text),
            Some(Ok(Item::Event(event))) => match DeviceEvent::read(&event) {
                Ok(event) => self.on_event(now, event),
                Err(reason) => self.reject(now, reason),
            },
            Some(Ok(Item::Skipped { limit_bytes })) => {
                self.reject(now, format!("an event of more than {limit_bytes} bytes"));
            }
            Some(Ok(Item::Lost { loss, .. })) => self.stream_ended(now, loss),
            Some(Err(error)) => self.stream_ended(now, Loss::Failed(error)),
            None if stream.is_open => self.stream_ended(now, Loss::Ended),
            None => self.reject(now, "the answer is a status 204".to_owned()),
        }
        Poll::Ready(())
    }

    fn on_comment(&mut self, now: u64, text: &str) {
        let Some(OpenStream { hello_received: true, bye_received: false, .. }) = self.stream else {
            return;
        };
        let generation = self.generation();
        let of_stream = self.stream.as_ref().and_then(|stream| stream.generation);
        if generation.is_some() && of_stream != generation {
            // A better base is in use: the stream follows.
            return self.path.network_changed(now);
        }
        let time_ms = text.trim().parse().ok();
        match time_ms {
            Some(time_ms) if self.caught_up => self.path.handle_heartbeat(now, time_ms),
            _ => self.path.handle_stream_activity(now),
        }
        self.signals.push_back(Signal::Heartbeat { time_ms });
    }

    fn on_event(&mut self, now: u64, event: DeviceEvent) {
        let generation = self.generation();
        let Some(stream) = &mut self.stream else { return };
        if stream.bye_received {
            return;
        }
        match event {
            DeviceEvent::Hello(hello) => match check_hello(&hello, &stream.nonce, &self.device) {
                Ok(()) => {
                    (stream.hello_received, stream.generation) = (true, generation);
                    let times = HelloTimes {
                        time_ms: hello.time_ms,
                        up_ms: hello.up_ms,
                        heartbeat_s: hello.heartbeat_s.clamp(HEARTBEAT_S.min, HEARTBEAT_S.max),
                        session: hello.session.clone(),
                    };
                    self.handle_hello(hello);
                    self.path.handle_hello(now, times);
                }
                Err(reason) => self.reject(now, reason),
            },
            _ if !stream.hello_received => {
                self.reject(now, "it does not begin with a hello".to_owned());
            }
            DeviceEvent::Command(command) => {
                if !self.caught_up {
                    self.path.excuse_stream();
                }
                let CommandEvent { id, seq, attempt, .. } = command;
                if self.path.receive_streamed(now, id, seq, attempt) {
                    self.signals.push_back(Signal::Command(command));
                }
                self.path.handle_stream_activity(now);
            }
            DeviceEvent::Cancel(cancel) => {
                self.path.handle_stream_activity(now);
                self.signals.push_back(Signal::Cancel(cancel));
            }
            DeviceEvent::Bye { bye, pause } => {
                stream.bye_received = true;
                let pause_ms =
                    pause.map(|pause| u64::try_from(pause.as_millis()).unwrap_or(u64::MAX));
                self.path.handle_bye(now, bye.map(|bye| bye.reason), pause_ms);
                self.signals.extend(bye.map(Signal::Bye));
            }
            DeviceEvent::Unknown => self.path.handle_stream_activity(now),
        }
    }

    /// Treats the stream as failed, because it is not the hub's.
    fn reject(&mut self, now: u64, reason: String) {
        self.stream_ended(now, Loss::Failed(event_source::Error::Rejected { reason }));
    }

    fn stream_ended(&mut self, now: u64, loss: Loss) {
        let by_bye = self.stream.as_ref().is_some_and(|stream| stream.bye_received);
        let loss = if by_bye { Loss::Ended } else { loss };
        (self.stream, self.confirmation) = (None, None);
        let end = stream_end(&self.options.retry, &loss);
        self.loss = loss;
        self.path.handle_stream_end(now, end);
    }
}
