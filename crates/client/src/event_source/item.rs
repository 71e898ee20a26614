//! What an event source yields.

use std::fmt;
use std::time::Duration;

use super::Loss;

/// An item of an event source.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Item {
    /// Connected, and the response is an event stream.
    Open,
    /// An event.
    Event(Event),
    /// The text of a comment after the colon; only with [`Builder::comments`](super::Builder::comments).
    Comment(String),
    /// An event longer than [`Builder::event_bytes_max`](super::Builder::event_bytes_max) was dropped; the stream continues.
    Skipped {
        /// The limit.
        limit_bytes: usize,
    },
    /// The connection is lost, or could not be made; the source connects again by itself.
    Lost {
        /// What ended the connection, and whose fault that is.
        loss: Loss,
        /// Time until the next attempt.
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
    pub(super) fn new(event: bellwire_sse::Event, has_id: bool) -> Self {
        Self { event, has_id }
    }

    /// Its name, which the DOM calls type: `message` by default.
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

    /// Its own id, if it had one.
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
