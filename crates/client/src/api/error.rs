//! Why a call failed, by what the caller can do about it.

use std::time::Duration;

use bellwire_proto::{Code, Problem};
use http::StatusCode;

use crate::event_source;
use crate::transport::{TransportError, TransportStage};

/// Why a call failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The network failed, or the hub is down. Whether it received the request is not known, unless the transport failed to
    /// connect; a call with an idempotency key can be repeated.
    #[error("{}", unreachable(.hub, .source))]
    Unreachable {
        /// The URL of the hub.
        hub: String,
        /// What failed.
        source: TransportError,
    },
    /// The hub refused the request: change it, or wait for `retry_after`.
    #[error("{problem}")]
    Refused {
        /// The hub's reason. Its code is stable.
        problem: Box<Problem>,
        /// The header `Retry-After`, if there was one.
        retry_after: Option<Duration>,
    },
    /// The response is not one of a hub, or of a hub of this version: the URL is wrong, or a proxy or captive portal answers
    /// for the hub.
    #[error("what answers at {hub} is not a hub: {reason}")]
    Foreign {
        /// The URL of the hub.
        hub: String,
        /// What was unexpected.
        reason: String,
        /// The status, if that was unexpected.
        status: Option<StatusCode>,
        /// Where it redirects to, if it does: a URL, or a path at the same server.
        location: Option<String>,
        /// The header `Retry-After`, if there was one.
        retry_after: Option<Duration>,
    },
}

impl Error {
    /// The hub's code, if the hub refused the request.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused { problem, .. } => Some(problem.code),
            _ => None,
        }
    }

    /// The error for a response without a status of success.
    pub(super) fn of_answer(
        hub: &str,
        status: StatusCode,
        retry_after: Option<Duration>,
        body: &[u8],
    ) -> Self {
        let problem = serde_json::from_slice(body)
            .ok()
            // A gateway may have codes with the same names, and another status.
            .filter(|problem: &Problem| problem.code.status() == status.as_u16())
            .or_else(|| body.is_empty().then(|| of_parser(status)).flatten());
        match problem {
            Some(problem) => Self::Refused { problem: Box::new(problem), retry_after },
            None => Self::Foreign {
                hub: hub.to_owned(),
                reason: format!("it answered {status} without a problem of the API"),
                status: Some(status),
                location: None,
                retry_after,
            },
        }
    }

    /// Whether a refusal is the hub's own, and not that of a middlebox.
    pub(crate) fn is_hubs(refusal: &event_source::Refusal) -> bool {
        matches!(Self::of_answer("", refusal.status, None, &refusal.body), Self::Refused { .. })
    }

    /// The error for a response that is not one of a hub.
    pub(super) fn foreign(hub: &str, reason: String) -> Self {
        let hub = hub.to_owned();
        Self::Foreign { hub, reason, status: None, location: None, retry_after: None }
    }

    /// The error for a response that redirects to `location`.
    pub(super) fn redirect(hub: &str, location: String) -> Self {
        let reason = format!("it redirects to {location}; if that is the hub, use its URL");
        let (hub, location) = (hub.to_owned(), Some(location));
        Self::Foreign { hub, reason, status: None, location, retry_after: None }
    }

    /// The error for a stream that has ended.
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

/// The text of [`Error::Unreachable`]: a proxy that cannot be reached says nothing of the hub.
fn unreachable(hub: &str, source: &TransportError) -> String {
    match source.advice() {
        Some(advice) if source.is_of_proxy() => format!("{source}; {advice}"),
        Some(advice) => format!("the hub at {hub} cannot be reached: {source}; {advice}"),
        // The proxy has answered, so that it runs.
        None if source.stage() == TransportStage::ProxyAuthentication => {
            format!("the hub at {hub} cannot be reached: {source}")
        }
        None => format!(
            "the hub at {hub} cannot be reached: {source}; is it running, and is the URL right?"
        ),
    }
}

/// The problem of a request that the hub's HTTP parser refused, without a body (contract, section 1). A 400 is not among them:
/// any proxy may answer that.
fn of_parser(status: StatusCode) -> Option<Problem> {
    let code = match status.as_u16() {
        408 => Code::RequestTimeout,
        414 => Code::UriTooLong,
        431 => Code::HeadersTooLarge,
        _ => return None,
    };
    Some(Problem::new(code, "the request was refused before it was read"))
}
