//! Errors of the API: `application/problem+json` with a stable code (contract, section 1).
//!
//! This is the one place that maps a code to its status and title. The detail is a sentence for
//! people that states what to do; internal text never gets here.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::delivery::Delivery;

/// Declares the codes with their status and title, once.
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:literal, $title:literal;)*) => {
        /// The stable codes of the contract, section 1.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Code {
            $($(#[$doc])* $name,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// As it stands in `code`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The HTTP status.
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// The short text that is the same for every problem of this code.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

codes! {
    /// The request cannot be understood.
    BadRequest = "bad_request", 400, "Bad request";
    /// The request has a member or parameter that is not known here.
    UnknownField = "unknown_field", 400, "Unknown field";
    /// No credentials, or wrong ones.
    Unauthenticated = "unauthenticated", 401, "Unauthenticated";
    /// The credentials do not allow this.
    Forbidden = "forbidden", 403, "Forbidden";
    /// The device has enrolled, and an operator has yet to approve it.
    Pending = "pending", 403, "Pending";
    /// No such resource.
    NotFound = "not_found", 404, "Not found";
    /// No such device.
    UnknownDevice = "unknown_device", 404, "Unknown device";
    /// No such command, or not this device's.
    UnknownCommand = "unknown_command", 404, "Unknown command";
    /// The resource has no such method.
    MethodNotAllowed = "method_not_allowed", 405, "Method not allowed";
    /// The request did not arrive in time.
    RequestTimeout = "request_timeout", 408, "Request timeout";
    /// Something of this name exists already.
    Conflict = "conflict", 409, "Conflict";
    /// The delivery cannot change from its state to the one requested.
    IllegalTransition = "illegal_transition", 409, "Illegal transition";
    /// The command was for an online device (`ttl=0`), and the device is offline.
    DeviceOffline = "device_offline", 409, "Device offline";
    /// The `Idempotency-Key` was used for another request.
    IdempotencyMismatch = "idempotency_mismatch", 409, "Idempotency mismatch";
    /// It existed once and does not any more.
    Gone = "gone", 410, "Gone";
    /// The body, or a part of it, exceeds its limit.
    PayloadTooLarge = "payload_too_large", 413, "Payload too large";
    /// The request target is too long.
    UriTooLong = "uri_too_long", 414, "URI too long";
    /// Neither JSON nor UTF-8 text.
    UnsupportedMediaType = "unsupported_media_type", 415, "Unsupported media type";
    /// The device has as many deliveries queued as it may.
    QueueFull = "queue_full", 429, "Queue full";
    /// Too many requests.
    RateLimited = "rate_limited", 429, "Rate limited";
    /// The header fields are too large.
    HeadersTooLarge = "headers_too_large", 431, "Headers too large";
    /// The hub's own fault.
    Internal = "internal", 500, "Internal error";
    /// The hub is stopping and takes nothing new.
    Draining = "draining", 503, "Draining";
    /// The store cannot be written.
    StoreUnavailable = "store_unavailable", 503, "Store unavailable";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refusal: `application/problem+json` (RFC 9457).
///
/// ```
/// use bellwire_proto::{Code, Problem};
/// let problem = Problem::new(Code::QueueFull, "kiosk-7 has 100 commands queued; try again later");
/// let json = serde_json::to_string(&problem)?;
/// assert!(json.starts_with(r#"{"type":"about:blank","title":"Queue full","status":429,"#));
/// assert_eq!(serde_json::from_str::<Problem>(&json)?.code, Code::QueueFull);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Deserialize)]
pub struct Problem {
    /// The stable code, which also decides the status.
    pub code: Code,
    /// What happened and what to do, for a person.
    #[serde(default)]
    pub detail: String,
    /// For `illegal_transition`: the delivery as it is now.
    #[serde(default)]
    pub delivery: Option<Box<Delivery>>,
}

impl Problem {
    /// A problem of `code`; `detail` states what to do.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), delivery: None }
    }

    /// The request cannot be understood.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(Code::BadRequest, detail)
    }

    /// The hub is about to stop.
    pub fn draining() -> Self {
        Self::new(Code::Draining, "the hub is about to stop; try again in a few seconds")
    }

    /// Adds the delivery whose state does not allow the request.
    #[must_use]
    pub fn with_delivery(mut self, delivery: Delivery) -> Self {
        self.delivery = Some(Box::new(delivery));
        self
    }
}

impl Serialize for Problem {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Wire<'a> {
            r#type: &'static str,
            title: &'static str,
            status: u16,
            detail: &'a str,
            code: Code,
            #[serde(skip_serializing_if = "Option::is_none")]
            delivery: Option<&'a Delivery>,
        }
        Wire {
            r#type: "about:blank",
            title: self.code.title(),
            status: self.code.status(),
            detail: &self.detail,
            code: self.code,
            delivery: self.delivery.as_deref(),
        }
        .serialize(serializer)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}

impl std::error::Error for Problem {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_written_as_the_contract_writes_it() {
        for code in Code::ALL {
            assert_eq!(serde_json::to_string(code).unwrap(), format!("\"{code}\""));
            assert!((400..=503).contains(&code.status()));
        }
    }
}
