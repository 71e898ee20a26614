//! The classic programs, `eventsource-server`, `eventsource-client` and `eventsource-request`: the
//! Python library's own, flag by flag (`docs/classic.md`). Each is one file in `src/bin`; here is
//! what two or more of them need.

pub mod address;
pub mod log;

/// The log of one of the programs, named as Python names a logger.
pub mod logger {
    /// `eventsource-server`.
    pub const LISTENER: &str = "eventsource.listener";
    /// `eventsource-client`.
    pub const CLIENT: &str = "eventsource.client";
}
