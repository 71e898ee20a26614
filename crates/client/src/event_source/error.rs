//! Why a connection is lost.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;

use crate::transport::TransportError;

/// Why a connection was lost.
#[derive(Debug, Clone)]
pub enum Loss {
    /// The server ended the stream in good order.
    Ended,
    /// It failed, or could not be made.
    Failed(Error),
}

impl Loss {
    /// The pause that the server requests before the next attempt.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Failed(Error::Refused(refusal)) => refusal.retry_after,
            _ => None,
        }
    }

    /// What to do about it, where the loss itself says enough to know: the rest of a sentence.
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::Failed(error) => error.advice(),
            Self::Ended => None,
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
    /// The network, TLS or a proxy failed: no connection, no response, or a stream that broke off.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// Nothing arrived within [`Builder::read_timeout`](super::Builder::read_timeout).
    #[error("nothing arrived for {} ms: the stream is dead", .after.as_millis())]
    Silent {
        /// The timeout.
        after: Duration,
    },
    /// Bytes arrived, but the reader did not accept the beginning of the stream in time.
    #[error("the stream did not begin as expected within {} ms", .within.as_millis())]
    NotBegun {
        /// The timeout.
        within: Duration,
    },
    /// The server answered with a status other than 200, 204 or a redirect.
    #[error(transparent)]
    Refused(Box<Refusal>),
    /// The response is not an event stream: the URL is wrong, or a proxy or captive portal answers for the server.
    #[error("the response is not an event stream but {}", .content_type.as_deref().unwrap_or("of no type"))]
    NotAStream {
        /// The `Content-Type` of the response.
        content_type: Option<String>,
    },
    /// The reader cannot use what it received: [`EventSource::reject`](super::EventSource::reject).
    #[error("what was received is not the server's: {reason}")]
    Rejected {
        /// The reader's reason.
        reason: String,
    },
    /// The server redirects to another server, or to anything but an event stream:
    /// [`Builder::same_origin`](super::Builder::same_origin).
    #[error("it redirects to {to}: {reason}")]
    Elsewhere {
        /// The URL that it leads to, without credentials.
        to: String,
        /// Why it was not followed or used.
        reason: String,
    },
    /// A redirect that cannot be followed.
    #[error(transparent)]
    Redirect(#[from] RedirectFault),
}

impl Error {
    /// What to do about it, where the error itself says enough to know: the rest of a sentence.
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::Transport(error) => error.advice(),
            Self::NotAStream { .. }
            | Self::Rejected { .. }
            | Self::Elsewhere { .. }
            | Self::Redirect(_) => Some(OF_PORTAL.to_owned()),
            Self::Silent { .. } | Self::NotBegun { .. } | Self::Refused(_) => None,
        }
    }
}

/// What answers in place of the server, and what to do about it: the rest of a sentence.
const OF_PORTAL: &str = "a middlebox may answer in place of the server, such as the sign-in page of a guest network: sign in there, or \
                         check the URL";

/// A response with a status other than those of a stream.
#[derive(Clone, thiserror::Error)]
#[error("the server answered {status}")]
pub struct Refusal {
    /// The status.
    pub status: StatusCode,
    /// The header `Retry-After`; a date in it counts from the response's own `Date`.
    pub retry_after: Option<Duration>,
    /// The body: at most its first 64 KiB, as far as they arrived in time.
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
    /// It has no `Location`, or an empty one.
    #[error("the redirect has no Location, or an empty one")]
    NoLocation,
    /// Its `Location` is not an http or https URL.
    #[error("the redirect's Location is not an http or https URL")]
    InvalidLocation,
    /// It is the twenty-first in a row (Fetch, section 4.4).
    #[error("there are more than 20 redirects in a row")]
    TooMany,
}
