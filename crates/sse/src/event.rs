//! The values of events: an event as it was received, and the checked id and name of one to send.
//!
//! The decoder makes [`EventRef`] and [`Event`]; the encoder takes [`EventId`] and [`EventName`].
//! Nothing here knows how either is written on the wire.

use alloc::{borrow::ToOwned, string::String};
use core::{fmt, str::FromStr};

/// The name of an event without one (HTML section 9.2.6).
pub(crate) const DEFAULT_NAME: &str = "message";

/// An event as it was dispatched, borrowed from the decoder or from the chunk that it came in.
///
/// ```
/// use bellwire_sse::EventRef;
///
/// let event = EventRef::new("message", "hello", "");
/// let owned = event.to_event();
/// assert_eq!(owned.data(), "hello");
/// assert_eq!(owned.as_event_ref(), event);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventRef<'a> {
    name: &'a str,
    data: &'a str,
    id: &'a str,
}

impl<'a> EventRef<'a> {
    /// Makes an event from its name, data and last event id. An empty name is `message`.
    pub const fn new(name: &'a str, data: &'a str, id: &'a str) -> Self {
        let name = if name.is_empty() { DEFAULT_NAME } else { name };
        Self { name, data, id }
    }

    /// The event's name (the DOM calls it type): `message` when the stream gave none.
    pub const fn name(&self) -> &'a str {
        self.name
    }

    /// The data lines, joined by line feeds.
    pub const fn data(&self) -> &'a str {
        self.data
    }

    /// The last event id as of this event: its own, or the one inherited, or empty.
    pub const fn id(&self) -> &'a str {
        self.id
    }

    /// The same event, owned.
    pub fn to_event(&self) -> Event {
        let name_len = if self.name == DEFAULT_NAME { 0 } else { self.name.len() };
        let mut text = String::with_capacity(self.data.len() + name_len + self.id.len());
        text.push_str(self.data);
        Event::from_parts(text, self.name, self.id)
    }
}

/// An event as it was dispatched, owned.
///
/// The three values share one allocation; [`Event::into_data`] returns the data without a copy.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Event {
    /// The data, then the name unless it is `message`, then the id.
    text: String,
    data_len: usize,
    name_len: usize,
}

impl Event {
    /// Completes an event whose data is already in a string of its own.
    pub(crate) fn from_parts(data: String, name: &str, id: &str) -> Self {
        let mut text = data;
        let data_len = text.len();
        let name = if name == DEFAULT_NAME { "" } else { name };
        text.push_str(name);
        text.push_str(id);
        Self { text, data_len, name_len: name.len() }
    }

    /// The event's name (the DOM calls it type): `message` when the stream gave none.
    pub fn name(&self) -> &str {
        self.as_event_ref().name
    }

    /// The data lines, joined by line feeds.
    pub fn data(&self) -> &str {
        self.as_event_ref().data
    }

    /// The last event id as of this event: its own, or the one inherited, or empty.
    pub fn id(&self) -> &str {
        self.as_event_ref().id
    }

    /// The data, without a copy.
    pub fn into_data(mut self) -> String {
        self.text.truncate(self.data_len);
        self.text
    }

    /// A borrowed view of the event.
    pub fn as_event_ref(&self) -> EventRef<'_> {
        let (data, rest) = self.text.split_at(self.data_len);
        let (name, id) = rest.split_at(self.name_len);
        EventRef::new(name, data, id)
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("name", &self.name())
            .field("data", &self.data())
            .field("id", &self.id())
            .finish()
    }
}

impl From<EventRef<'_>> for Event {
    fn from(event: EventRef<'_>) -> Self {
        event.to_event()
    }
}

/// An item of a stream, borrowed from the decoder or from the chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A dispatched event.
    Event(EventRef<'a>),
    /// The text after the colon of a comment, as it came; only if [`crate::DecoderBuilder::comments`] is
    /// set.
    Comment(&'a str),
}

/// An item of a stream, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnedItem {
    /// A dispatched event.
    Event(Event),
    /// The text after the colon of a comment, as it came; only if [`crate::DecoderBuilder::comments`] is
    /// set.
    Comment(String),
}

impl From<Item<'_>> for OwnedItem {
    fn from(item: Item<'_>) -> Self {
        match item {
            Item::Event(event) => Self::Event(event.to_event()),
            Item::Comment(text) => Self::Comment(text.to_owned()),
        }
    }
}

/// Defines a checked string: forbidden characters are refused when it is made, so that writing it
/// can neither fail nor add a line.
macro_rules! checked_string {
    ($(#[$doc:meta])* $name:ident, $forbidden:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Checks and takes the value.
            ///
            /// # Errors
            /// [`InvalidValue`] contains the first character that is not allowed.
            pub fn new(value: impl Into<String>) -> Result<Self, InvalidValue> {
                let value = value.into();
                match value.char_indices().find(|(_, c)| $forbidden.contains(c)) {
                    Some((at, character)) => Err(InvalidValue { character, at }),
                    None => Ok(Self(value)),
                }
            }

            /// The value.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidValue;

            fn from_str(value: &str) -> Result<Self, InvalidValue> {
                Self::new(value.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.0
            }
        }
    };
}

checked_string! {
    /// An id that can be sent: no NUL (the decoder would ignore it), CR or LF. It may be empty, which
    /// clears the reader's last event id.
    ///
    /// ```
    /// use bellwire_sse::EventId;
    ///
    /// assert_eq!(EventId::from(42).as_str(), "42");
    /// assert!(EventId::new("42\ndata: smuggled").is_err());
    /// ```
    EventId, ['\0', '\r', '\n']
}

checked_string! {
    /// An event name that can be sent: no CR or LF. An empty one is read as `message`.
    ///
    /// ```
    /// use bellwire_sse::EventName;
    ///
    /// assert_eq!(EventName::new("command")?.as_str(), "command");
    /// assert!(EventName::new("a\rb").is_err());
    /// # Ok::<(), bellwire_sse::InvalidValue>(())
    /// ```
    EventName, ['\r', '\n']
}

impl From<u64> for EventId {
    fn from(number: u64) -> Self {
        Self(alloc::format!("{number}"))
    }
}

/// A value that would break out of its line, or that the reader would ignore; the fault of the code
/// that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidValue {
    character: char,
    at: usize,
}

impl fmt::Display for InvalidValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "character {:?} at byte {} is not allowed here", self.character, self.at)
    }
}

impl core::error::Error for InvalidValue {}
