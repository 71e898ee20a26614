//! Enrolment: a device gets its identity with a join token. Contract, section 6, "Enrolment".

use serde::{Deserialize, Serialize};

use crate::device::check_facts;
use crate::id::DeviceId;
use crate::json::Json;
use crate::members::Members;
use crate::problem::Problem;
use crate::role::SecretText;

/// The body of `POST /v1/enroll`.
///
/// ```
/// use bellwire_proto::Enroll;
/// let enroll = Enroll::parse(br#"{"device":"kiosk-7","facts":{"os":"deb12"}}"#)?;
/// assert_eq!(enroll.device.unwrap().as_str(), "kiosk-7");
/// assert!(Enroll::parse(b"")?.device.is_none(), "the hub makes a name");
/// # Ok::<(), bellwire_proto::Problem>(())
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Enroll {
    /// The name that it wants; `None`: the hub makes one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
    /// What it reports of itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub facts: Option<Json>,
}

/// The answer: the device's own token, shown once.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Enrolled {
    /// Its name.
    pub device: DeviceId,
    /// Its token.
    pub token: SecretText,
    /// Whether an operator must approve it first.
    pub pending: bool,
}

impl Enroll {
    /// Reads the body; an empty one enrols without a name.
    ///
    /// # Errors
    /// `bad_request`, `unknown_field`, `payload_too_large` for facts past their limits.
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        let mut members = Members::parse(if body.is_empty() { b"{}" } else { body })?;
        // Size before anything else in a body (contract, section 1).
        let facts = members.take_json("facts")?.filter(|facts| !facts.is_null());
        if let Some(facts) = &facts {
            check_facts(facts)?;
        }
        let device = members.take("device")?;
        members.finish()?;
        Ok(Self { device, facts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Code;

    #[test]
    fn an_enrolment_that_is_not_of_the_contract_is_refused_with_its_code() {
        let big = format!(r#"{{"device":"a b","facts":{{"a":"{}"}}}}"#, "x".repeat(16 * 1024));
        for (body, code) in [
            ("[]", Code::BadRequest),
            (r#"{"device":"a/b"}"#, Code::BadRequest),
            (r#"{"device":7}"#, Code::BadRequest),
            (r#"{"facts":[]}"#, Code::BadRequest),
            (r#"{"name":"a"}"#, Code::UnknownField),
            (big.as_str(), Code::PayloadTooLarge),
        ] {
            let short: String = body.chars().take(60).collect();
            assert_eq!(Enroll::parse(body.as_bytes()).unwrap_err().code, code, "{short}");
        }
        assert_eq!(Enroll::parse(br#"{"device":null,"facts":null}"#).unwrap(), Enroll::default());
    }
}
