//! Streams of changes at the hub: of one command, or of all devices and deliveries. Contract, sections 3 and 6.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bellwire_proto::limits::{EVENT_BYTES_MAX, WATCHER_SILENCE_MAX};
use bellwire_proto::{Command, CommandId, Delivery, DeviceEvent};
use futures_core::Stream;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Controller, Error};
use crate::event_source::{Event, EventSource, InvalidRequest, Item, Loss, Retry};

/// A change of a command.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum CommandChange {
    /// The state of a delivery: first of each one, then of each one that changes.
    Delivery(Box<Delivery>),
    /// All deliveries are terminal. This is the last item.
    Done(Box<Command>),
}

/// A change at the hub.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum HubChange {
    /// The state of the hub; also the first item of each connection.
    Hub {
        /// Program and version.
        hub: String,
        /// Its state.
        state: HubState,
    },
    /// A device connected, disconnected, was registered or was removed.
    Device(Box<DeviceEvent>),
    /// A delivery changed.
    Delivery(Box<Delivery>),
}

/// The state of a hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum HubState {
    /// It accepts commands.
    Ready,
    /// It is about to stop.
    Draining,
}

/// Typed events of the hub, as a [`Stream`].
///
/// An `Err` is the last item. A lost connection is replaced, and then the items begin again with the current state; only a
/// failure of the first connection is an error.
pub struct Events<T> {
    hub: Controller,
    source: EventSource,
    read: Read<T>,
    /// Whether an item is the last one.
    is_last: fn(&T) -> bool,
    /// There was a connection before.
    reached: bool,
    ended: bool,
    /// Called for a lost connection that is replaced.
    on_lost: Option<OnLost>,
}

type OnLost = Box<dyn FnMut(&Loss, Duration) + Send>;

/// Reads an event; `None` is one that this version does not know.
pub(super) type Read<T> = fn(&Event) -> Option<Result<T, serde_json::Error>>;

impl Controller {
    /// Watches a command until all of its deliveries have ended.
    ///
    /// ```no_run
    /// use bellwire_client::{Controller, api::CommandChange};
    ///
    /// # async fn example(hub: Controller, id: bellwire_proto::CommandId)
    /// # -> Result<(), Box<dyn std::error::Error>> {
    /// let mut changes = hub.watch(id)?;
    /// while let Some(change) = changes.next().await {
    ///     if let CommandChange::Delivery(delivery) = change? {
    ///         println!("{}: {}", delivery.device, delivery.state);
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When TLS cannot be set up; a refusal of the hub is an item of the stream.
    pub fn watch(&self, id: CommandId) -> Result<Events<CommandChange>, InvalidRequest> {
        let id = id.to_string();
        let is_last = |change: &CommandChange| matches!(change, CommandChange::Done(_));
        self.stream_of(["v1", "commands", &id, "events"], read_command_change, is_last)
    }

    /// Watches devices and deliveries.
    ///
    /// # Errors
    /// As [`Controller::watch`].
    pub fn events(&self) -> Result<Events<HubChange>, InvalidRequest> {
        self.stream_of(["v1", "events"], read_hub_change, |_| false)
    }

    fn stream_of<'a, T>(
        &self,
        segments: impl IntoIterator<Item = &'a str>,
        read: Read<T>,
        is_last: fn(&T) -> bool,
    ) -> Result<Events<T>, InvalidRequest> {
        let source = self
            .source(segments)
            .read_timeout(WATCHER_SILENCE_MAX)
            .event_bytes_max(EVENT_BYTES_MAX)
            .retry(Retry::resilient())
            .build()?;
        Ok(self.events_of(source, read, is_last))
    }

    pub(super) fn events_of<T>(
        &self,
        source: EventSource,
        read: Read<T>,
        is_last: fn(&T) -> bool,
    ) -> Events<T> {
        Events {
            hub: self.clone(),
            source,
            read,
            is_last,
            reached: false,
            ended: false,
            on_lost: None,
        }
    }
}

impl<T> Events<T> {
    /// Calls this for each lost connection, with the time until the next is made. Default: it is logged.
    #[must_use]
    pub fn on_lost(mut self, on_lost: impl FnMut(&Loss, Duration) + Send + 'static) -> Self {
        self.on_lost = Some(Box::new(on_lost));
        self
    }

    /// The next change; `None` after the last.
    pub async fn next(&mut self) -> Option<Result<T, Error>> {
        futures_util::StreamExt::next(self).await
    }

    /// The change in an item of the source; `None` when it is none.
    fn interpret(&mut self, item: Item) -> Option<Result<T, Error>> {
        match item {
            Item::Open => {
                self.reached = true;
                None
            }
            Item::Event(event) => match (self.read)(&event)? {
                Ok(change) => {
                    self.ended = (self.is_last)(&change);
                    Some(Ok(change))
                }
                Err(error) => {
                    self.ended = true;
                    let name = event.name();
                    Some(Err(self
                        .hub
                        .foreign(format!("its {name} event cannot be parsed: {error}"))))
                }
            },
            Item::Lost { loss: Loss::Failed(error), .. } if !self.reached => {
                self.ended = true;
                Some(Err(Error::of_stream(self.hub.url(), error)))
            }
            Item::Lost { loss, retry_in } => {
                match &mut self.on_lost {
                    Some(on_lost) => on_lost(&loss, retry_in),
                    None => tracing::info!(%loss, ?retry_in, "stream lost"),
                }
                None
            }
            Item::Skipped { limit_bytes } => {
                self.ended = true;
                let reason = format!("it sent an event of more than {limit_bytes} bytes");
                Some(Err(self.hub.foreign(reason)))
            }
            Item::Comment(_) => None,
        }
    }
}

impl<T> Stream for Events<T> {
    type Item = Result<T, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        while !self.ended {
            let change = match ready!(Pin::new(&mut self.source).poll_next(cx)) {
                None => break,
                Some(Ok(item)) => self.interpret(item),
                Some(Err(error)) => Some(Err(Error::of_stream(self.hub.url(), error))),
            };
            if change.is_some() {
                return Poll::Ready(change);
            }
        }
        self.source.close();
        Poll::Ready(None)
    }
}

impl<T> fmt::Debug for Events<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Events").field(&self.source).finish()
    }
}

fn read_command_change(event: &Event) -> Option<Result<CommandChange, serde_json::Error>> {
    Some(match event.name() {
        "delivery" => read(event).map(CommandChange::Delivery),
        "done" => read(event).map(CommandChange::Done),
        _ => return None,
    })
}

fn read_hub_change(event: &Event) -> Option<Result<HubChange, serde_json::Error>> {
    #[derive(Deserialize)]
    struct Hub {
        hub: String,
        state: HubState,
    }
    Some(match event.name() {
        "hub" => read(event).map(|Hub { hub, state }| HubChange::Hub { hub, state }),
        "device" => read(event).map(HubChange::Device),
        "delivery" => read(event).map(HubChange::Delivery),
        _ => return None,
    })
}

fn read<T: DeserializeOwned>(event: &Event) -> Result<T, serde_json::Error> {
    serde_json::from_str(event.data())
}
