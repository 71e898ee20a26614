//! What happens at the hub, as it happens: to one command, or to everything. Contract, sections 3
//! and 6.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bellwire_proto::{Command, CommandId, Delivery, DeviceEvent};
use futures_core::Stream;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Controller, EVENT_BYTES_MAX, Error};
use crate::event_source::{Event, EventSource, InvalidRequest, Item, Loss, Retry};

/// How long the hub may be silent: four times its heartbeat.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// What becomes of a command.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum CommandChange {
    /// A delivery as it is: first each of them, then each that changes.
    Delivery(Box<Delivery>),
    /// All have ended. Nothing comes after.
    Done(Box<Command>),
}

/// What happens at the hub.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum HubChange {
    /// The hub itself; also the first thing told on each connection.
    Hub {
        /// Program and version.
        hub: String,
        /// What it does.
        state: HubState,
    },
    /// A device came, went, was registered or was removed.
    Device(Box<DeviceEvent>),
    /// A delivery changed.
    Delivery(Box<Delivery>),
}

/// What a hub does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum HubState {
    /// It takes commands.
    Ready,
    /// It is about to stop.
    Draining,
}

/// Typed events of the hub, as a [`Stream`].
///
/// An `Err` is the last item. A connection that is lost is made anew, and what is told then begins
/// again with how things stand; only a hub that cannot be reached in the first place is an error.
pub struct Events<T> {
    hub: Controller,
    source: EventSource,
    read: Read<T>,
    /// What ends the stream when it was told.
    is_last: fn(&T) -> bool,
    /// There was a connection.
    reached: bool,
    ended: bool,
}

/// Reads an event; `None` is one that this version does not know.
type Read<T> = fn(&Event) -> Option<Result<T, serde_json::Error>>;

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
    /// When TLS cannot be set up; what the hub says comes through the stream.
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
            .read_timeout(SILENCE_MAX)
            .event_bytes_max(EVENT_BYTES_MAX)
            .retry(Retry::resilient())
            .build()?;
        Ok(Events { hub: self.clone(), source, read, is_last, reached: false, ended: false })
    }
}

impl<T> Events<T> {
    /// The next change; `None` after the last.
    pub async fn next(&mut self) -> Option<Result<T, Error>> {
        futures_util::StreamExt::next(self).await
    }

    /// What an item of the source means here; `None` when it is nothing to tell.
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
                    Some(Err(self.hub.foreign(format!("its {name} event cannot be read: {error}"))))
                }
            },
            Item::Lost { loss: Loss::Failed(error), .. } if !self.reached => {
                self.ended = true;
                Some(Err(Error::of_stream(self.hub.url(), error)))
            }
            Item::Lost { loss, retry_in } => {
                tracing::info!(%loss, ?retry_in, "stream lost");
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
            let told = match ready!(Pin::new(&mut self.source).poll_next(cx)) {
                None => break,
                Some(Ok(item)) => self.interpret(item),
                Some(Err(error)) => Some(Err(Error::of_stream(self.hub.url(), error))),
            };
            if told.is_some() {
                return Poll::Ready(told);
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
