//! Why a call did not do what it was for, told apart by what the caller can do about it.

use std::time::Duration;

use bellwire_proto::{Code, Problem};
use http::StatusCode;

use crate::event_source;
use crate::transport::TransportError;

/// Why a call failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no hub to be reached. Whether it took the request is not known unless the
    /// transport failed to connect; a call with an idempotency key can just be made again.
    #[error("the hub at {hub} cannot be reached: {source}; is it running, and is the URL right?")]
    Unreachable {
        /// The URL of the hub.
        hub: String,
        /// What failed.
        source: TransportError,
    },
    /// The hub says no, and why.
    #[error("{problem}")]
    Refused {
        /// Its own words. The code is stable.
        problem: Box<Problem>,
        /// When to come back, where it told so.
        retry_after: Option<Duration>,
    },
    /// What answers is no hub, or none of this version: a wrong URL, or a box on the way that
    /// answers for it, such as the sign-in page of a guest network.
    #[error("what answers at {hub} does not speak as a hub does: {reason}")]
    Foreign {
        /// The URL of the hub.
        hub: String,
        /// What was odd.
        reason: String,
        /// The status of the answer, where that was odd.
        status: Option<StatusCode>,
        /// When to come back, where it told so.
        retry_after: Option<Duration>,
    },
}

impl Error {
    /// The hub's code, if it was the hub that refused.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused { problem, .. } => Some(problem.code),
            _ => None,
        }
    }

    /// The meaning of an answer with a status other than those of success.
    pub(super) fn of_answer(
        hub: &str,
        status: StatusCode,
        retry_after: Option<Duration>,
        body: &[u8],
    ) -> Self {
        let problem = serde_json::from_slice(body)
            .ok()
            // A gateway has codes of its own that sound alike, and another status with them.
            .filter(|problem: &Problem| problem.code.status() == status.as_u16())
            .or_else(|| body.is_empty().then(|| of_parser(status)).flatten());
        match problem {
            Some(problem) => Self::Refused { problem: Box::new(problem), retry_after },
            None => Self::Foreign {
                hub: hub.to_owned(),
                reason: format!("it answered {status}, and not with a problem of the API"),
                status: Some(status),
                retry_after,
            },
        }
    }

    /// What answers is no hub.
    pub(super) fn foreign(hub: &str, reason: String) -> Self {
        Self::Foreign { hub: hub.to_owned(), reason, status: None, retry_after: None }
    }

    /// Why a stream of the hub's has ended.
    pub(super) fn of_stream(hub: &str, error: event_source::Error) -> Self {
        match error {
            event_source::Error::Transport(source) => {
                Self::Unreachable { hub: hub.to_owned(), source }
            }
            event_source::Error::Refused(refusal) => {
                Self::of_answer(hub, refusal.status, refusal.retry_after, &refusal.body)
            }
            other => Self::foreign(hub, other.to_string()),
        }
    }
}

/// What an HTTP parser refuses comes without a body (contract, section 1). A 400 is not among it: any box on
/// the way may say that.
fn of_parser(status: StatusCode) -> Option<Problem> {
    let code = match status.as_u16() {
        408 => Code::RequestTimeout,
        414 => Code::UriTooLong,
        431 => Code::HeadersTooLarge,
        _ => return None,
    };
    Some(Problem::new(code, "the request was refused before it was read"))
}
