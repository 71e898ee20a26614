//! What the program's exit codes mean. The list for people is in the help of `bellwire`.

use bellwire_proto::{Code, DeliveryState, Problem};

/// Succeeded, or stored without waiting.
pub const OK: u8 = 0;
/// Failed, cancelled, or refused for another reason.
pub const FAILED: u8 = 1;
/// The command line, the configuration or the request is wrong.
pub const USAGE: u8 = 2;
/// The appliance rejected it.
pub const REJECTED: u8 = 3;
/// Expired, timed out or dead; or the wait elapsed first.
pub const TOO_LATE: u8 = 4;
/// The appliance is offline.
pub const OFFLINE: u8 = 5;
/// The hub cannot be reached, or cannot serve now.
pub const UNREACHABLE: u8 = 6;

/// For a command that was waited for.
pub const fn for_state(state: DeliveryState) -> u8 {
    match state {
        DeliveryState::Succeeded | DeliveryState::Delivered => OK,
        DeliveryState::Failed | DeliveryState::Cancelled => FAILED,
        DeliveryState::Rejected => REJECTED,
        DeliveryState::Expired | DeliveryState::TimedOut | DeliveryState::Dead => TOO_LATE,
        DeliveryState::Queued
        | DeliveryState::Sent
        | DeliveryState::Accepted
        | DeliveryState::Running
        | DeliveryState::Cancelling => TOO_LATE,
    }
}

/// For a refusal of the hub.
pub fn for_problem(problem: &Problem) -> u8 {
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

/// A mistake of the user, found after the command line was parsed.
#[derive(Debug)]
pub struct Usage(pub String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_the_exit_code_of_the_help() {
        let codes: Vec<u8> = DeliveryState::ALL.into_iter().map(for_state).collect();
        assert_eq!(codes, [4, 4, 4, 4, 4, 0, 1, 3, 4, 4, 4, 1, 0]);
    }

    #[test]
    fn an_offline_appliance_and_a_hub_that_cannot_serve_have_codes_of_their_own() {
        let code = |code| for_problem(&Problem::new(code, ""));
        assert_eq!(code(Code::DeviceOffline), OFFLINE);
        assert_eq!(code(Code::Draining), UNREACHABLE);
        assert_eq!(code(Code::BadRequest), USAGE);
        assert_eq!(code(Code::QueueFull), FAILED);
    }
}
