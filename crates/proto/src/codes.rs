//! The error codes of the agent: [`ErrorInfo::code`](crate::ErrorInfo) of a delivery. Contract,
//! section 2.
//!
//! Senders compare with them, so a released code never changes. The hub's own codes are the names
//! of the states that it sets by itself.

/// `rejected`: the agent's configuration does not list the action.
pub const UNKNOWN_ACTION: &str = "unknown_action";
/// `rejected`: the data do not match the action's parameters.
pub const INVALID_PARAMS: &str = "invalid_params";
/// `rejected`: its time to live had passed before it could start.
pub const STALE: &str = "stale";
/// `rejected`: the journal has no space for it and its result.
pub const JOURNAL_FULL: &str = "journal_full";
/// `rejected`: the required signature is missing or invalid.
pub const BAD_SIGNATURE: &str = "bad_signature";

/// `failed`: the program exited with another status than 0.
pub const EXIT_STATUS: &str = "exit_status";
/// `failed`: a signal ended the program.
pub const SIGNAL: &str = "signal";
/// `failed`: the handler exceeded its time limit.
pub const TIMEOUT: &str = "timeout";
/// `failed`: the agent ended while the handler was running.
pub const INTERRUPTED: &str = "interrupted";
/// `failed`: the program could not be started.
pub const SPAWN_FAILED: &str = "spawn_failed";
/// `failed`: the web service answered, and not with 2xx.
pub const HTTP_STATUS: &str = "http_status";
/// `failed`: the web service could not be reached.
pub const FORWARD_FAILED: &str = "forward_failed";
/// `failed`: a fault of the handler or of the agent itself.
pub const INTERNAL: &str = "internal";

/// With any state: the result is not valid, or too large.
pub const BAD_RESULT: &str = "bad_result";
