//! How a connection is lost, and what is told of it.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;

use crate::transport::TransportError;

/// How a connection was lost.
#[derive(Debug, Clone)]
pub enum Loss {
    /// The server ended the stream in good order.
    Ended,
    /// It broke, or could not be made.
    Failed(Error),
}

impl Loss {
    /// How long the server asked to stay away.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Failed(Error::Refused(refusal)) => refusal.retry_after,
            _ => None,
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended => f.write_str("the server ended the stream"),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

/// Why there is no stream.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The network, TLS or a proxy: no connection, no answer, or a stream that broke off.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// Nothing came for as long as [`Builder::read_timeout`](super::Builder::read_timeout) says.
    #[error("nothing came for {} ms: the stream is dead", .after.as_millis())]
    Silent {
        /// For how long.
        after: Duration,
    },
    /// Bytes came, but not what the stream must begin with.
    #[error("the stream did not begin as it must within {} ms", .within.as_millis())]
    NotBegun {
        /// In which time it should have.
        within: Duration,
    },
    /// A status that is neither 200 nor 204 nor a redirect.
    #[error(transparent)]
    Refused(Box<Refusal>),
    /// A body that is no event stream: a wrong URL, or a box on the way that answers for the server.
    #[error("the answer is not an event stream but {}", .content_type.as_deref().unwrap_or("of no type"))]
    NotAStream {
        /// The `Content-Type` that came.
        content_type: Option<String>,
    },
    /// What came is not what the reader expects: [`EventSource::reject`](super::EventSource::reject).
    #[error("the stream was rejected: {reason}")]
    Rejected {
        /// The reader's own words.
        reason: String,
    },
    /// A redirect to another server, or to what is no event stream there:
    /// [`Builder::same_origin`](super::Builder::same_origin).
    #[error("it redirects to {to}: {reason}")]
    Elsewhere {
        /// Where it leads, without credentials.
        to: String,
        /// Why that is no stream of ours.
        reason: String,
    },
    /// A redirect that cannot be followed.
    #[error(transparent)]
    Redirect(#[from] RedirectFault),
}

/// An answer with a status that is not for streams.
#[derive(Clone, thiserror::Error)]
#[error("the server answered {status}")]
pub struct Refusal {
    /// The status.
    pub status: StatusCode,
    /// `Retry-After`: in seconds, or a time that the answer's own `Date` makes a span.
    pub retry_after: Option<Duration>,
    /// What the server said of it: the first 64 KiB at most, empty when it did not come in time.
    pub body: Bytes,
}

impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refusal")
            .field("status", &self.status)
            .field("retry_after", &self.retry_after)
            .field("body", &String::from_utf8_lossy(&self.body))
            .finish()
    }
}

/// Why a redirect cannot be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RedirectFault {
    /// It does not say where to.
    #[error("the redirect has no Location, or an empty one")]
    NoLocation,
    /// Where to is no URL, or not one of HTTP.
    #[error("the redirect's Location is not an http or https URL")]
    InvalidLocation,
    /// It is the twenty-first in a row (Fetch, section 4.4).
    #[error("the redirects do not end")]
    TooMany,
}
