//! What a source tells.

use std::fmt;
use std::time::Duration;

use super::Loss;

/// What a source tells.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Item {
    /// A connection is there, and what comes is an event stream.
    Open,
    /// An event.
    Event(Event),
    /// The text of a comment after the colon, as it came; only if [`Builder::comments`](super::Builder::comments) asks.
    Comment(String),
    /// An event over [`Builder::event_bytes_max`](super::Builder::event_bytes_max) was dropped; the stream goes on behind it.
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
    pub(super) fn new(event: bellwire_sse::Event, has_id: bool) -> Self {
        Self { event, has_id }
    }

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
