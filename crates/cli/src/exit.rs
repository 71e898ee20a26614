//! What the program's exit codes mean. The list for people is in the help of `bellwire`.

use bellwire_proto::{Code, Problem, State};

/// Succeeded, or stored when nobody asked to wait.
pub const OK: u8 = 0;
/// Failed, cancelled, or refused for another reason.
pub const FAILED: u8 = 1;
/// The command line, the configuration or the request is wrong.
pub const USAGE: u8 = 2;
/// The appliance rejected it.
pub const REJECTED: u8 = 3;
/// Expired, timed out or dead; or the wait was over first.
pub const TOO_LATE: u8 = 4;
/// The appliance is offline.
pub const OFFLINE: u8 = 5;
/// The hub cannot be reached, or cannot serve now.
pub const UNREACHABLE: u8 = 6;

/// For a command that was waited for.
pub const fn of_state(state: State) -> u8 {
    match state {
        State::Succeeded | State::Delivered => OK,
        State::Failed | State::Cancelled => FAILED,
        State::Rejected => REJECTED,
        State::Expired | State::TimedOut | State::Dead => TOO_LATE,
        State::Queued | State::Sent | State::Accepted | State::Running | State::Cancelling => {
            TOO_LATE
        }
    }
}

/// For a refusal of the hub.
pub fn of_problem(problem: &Problem) -> u8 {
    match problem.code {
        Code::DeviceOffline => OFFLINE,
        Code::Draining | Code::StoreUnavailable => UNREACHABLE,
        Code::BadRequest
        | Code::UnknownField
        | Code::PayloadTooLarge
        | Code::UnsupportedMediaType
        | Code::IdempotencyMismatch => USAGE,
        _ => FAILED,
    }
}
