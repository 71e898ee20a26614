//! The words by which an agent says what went wrong: [`ErrorInfo::code`](crate::ErrorInfo) of a
//! delivery. Contract, section 2.
//!
//! Senders compare with them: a word once given is kept. The hub's own words are the names of the
//! states that it gives by itself.

/// `rejected`: the action is not on the list.
pub const UNKNOWN_ACTION: &str = "unknown_action";
/// `rejected`: the data are not what the action takes.
pub const INVALID_PARAMS: &str = "invalid_params";
/// `rejected`: its time to live was over before it could start.
pub const STALE: &str = "stale";
/// `rejected`: there is no room to remember it and its result.
pub const JOURNAL_FULL: &str = "journal_full";
/// `rejected`: it is not signed by whom it must be.
pub const BAD_SIGNATURE: &str = "bad_signature";

/// `failed`: the program exited with another status than 0.
pub const EXIT_STATUS: &str = "exit_status";
/// `failed`: a signal ended the program.
pub const SIGNAL: &str = "signal";
/// `failed`: it was over its limit.
pub const TIMEOUT: &str = "timeout";
/// `failed`: the end of the agent cut it off.
pub const INTERRUPTED: &str = "interrupted";
/// `failed`: the program could not be started.
pub const SPAWN_FAILED: &str = "spawn_failed";
/// `failed`: the web service answered, and not with 2xx.
pub const HTTP_STATUS: &str = "http_status";
/// `failed`: the web service could not be asked.
pub const FORWARD_FAILED: &str = "forward_failed";
/// `failed`: the handler itself is at fault.
pub const INTERNAL: &str = "internal";

/// Beside any state: what should be the result is none, or too large.
pub const BAD_RESULT: &str = "bad_result";
