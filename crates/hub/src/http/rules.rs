//! Which role may call which route. Contract, section 6, "Tokens".
//!
//! Every entry of the table of routes states its rule, or the table does not compile. What an operator sees and sends
//! within a route is checked by the handler, through the caller.

use bellwire_proto::{Code, DeviceId, Problem, Role};

use super::caller::Caller;

/// Who may call a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// Everyone, without a credential; one that is sent is not looked at.
    Anyone,
    /// Every holder of a token, whatever its role.
    Holder,
    /// Admins.
    Admin,
    /// Admins and operators, who see their part.
    Operator,
    /// Admins, and operators that see everything: they register, label and remove devices.
    Registrar,
    /// Admins, and the device of the path.
    Device,
    /// Admins, operators and the device of the path.
    DeviceOrOperator,
    /// Admins, and tokens for metrics.
    Metrics,
    /// Join tokens.
    Join,
}

impl Rule {
    /// Whether a caller may call the route. `device` reads the name of the device in its path, as far as it is one.
    ///
    /// # Errors
    /// `forbidden`; `unauthenticated` for enrolment without a token.
    pub(super) fn check(
        self,
        caller: &Caller,
        device: impl FnOnce() -> Option<DeviceId>,
    ) -> Result<(), Problem> {
        let role = caller.role();
        let own = || role.device().is_some_and(|own| Some(own) == device().as_ref());
        let allowed = match self {
            Self::Anyone | Self::Holder => true,
            Self::Admin => *role == Role::Admin,
            Self::Operator => matches!(role, Role::Admin | Role::Operator(_)),
            Self::Metrics => matches!(role, Role::Admin | Role::Metrics),
            Self::Registrar => match role {
                Role::Admin => true,
                Role::Operator(scope) => scope.select.is_none(),
                _ => false,
            },
            Self::Device => *role == Role::Admin || own(),
            Self::DeviceOrOperator => matches!(role, Role::Admin | Role::Operator(_)) || own(),
            // No device enrols without a token, on an open hub either.
            Self::Join if caller.id().is_none() => return Err(super::caller::unauthenticated()),
            Self::Join => matches!(role, Role::Join(_)),
        };
        if allowed { Ok(()) } else { Err(forbidden(caller)) }
    }
}

/// The same for what is there and what is not.
fn forbidden(caller: &Caller) -> Problem {
    let role = caller.role_name().as_str();
    let detail = match caller.role() {
        Role::Device(_) => {
            "a device's token allows its own stream, polls, reports and facts alone".to_owned()
        }
        Role::Metrics => "a token of role metrics allows /metrics alone".to_owned(),
        Role::Join(_) => "a join token allows enrolment alone: POST /v1/enroll".to_owned(),
        _ => format!("a token of role {role} does not allow this; see bellwire access"),
    };
    Problem::new(Code::Forbidden, detail)
}
