//! A maintenance window: when a command may be sent to a device. Contract, section 3, "Maintenance windows".
//!
//! What an expression and a zone mean is not known here: the hub reads them.

use serde::{Deserialize, Serialize};

use crate::limits::WINDOW_MINUTES;
use crate::members::Members;
use crate::problem::Problem;

/// Open for so long from each time of a cron expression on.
///
/// ```
/// use bellwire_proto::{Members, Window};
/// let body = br#"{"window":{"cron":"0 2 * * *","minutes":120,"timezone":"Europe/Paris"}}"#;
/// let window = Window::take(&mut Members::parse(body)?)?.unwrap();
/// assert_eq!((window.cron.as_str(), window.minutes), ("0 2 * * *", 120));
/// # Ok::<(), bellwire_proto::Problem>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// The expression: when it opens.
    pub cron: String,
    /// How long it is open each time, in minutes that pass.
    pub minutes: u64,
    /// The zone in whose local time it opens.
    pub timezone: String,
}

impl Window {
    /// Takes the member `window`; `None` when it is absent. What the expression and the zone mean is the hub's to check.
    ///
    /// # Errors
    /// `bad_request`, `unknown_field`.
    pub fn take(members: &mut Members<'_>) -> Result<Option<Self>, Problem> {
        let Some(mut window) = members.take_members("window")? else { return Ok(None) };
        let minutes: u64 = window.require("minutes")?;
        if !WINDOW_MINUTES.contains(minutes) {
            return Err(Problem::bad_request(format!(
                "member \"window\": its \"minutes\" are from {} to {}",
                WINDOW_MINUTES.min, WINDOW_MINUTES.max
            )));
        }
        let cron = window.require("cron")?;
        let timezone = window.take("timezone")?.unwrap_or_else(|| "UTC".to_owned());
        window.finish()?;
        Ok(Some(Self { cron, minutes, timezone }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Code;

    #[test]
    fn a_window_has_an_expression_and_minutes_and_else_is_refused_with_its_code() {
        let take = |window: &str| {
            let body = format!("{{\"window\":{window}}}");
            Window::take(&mut Members::parse(body.as_bytes())?)
        };
        assert_eq!(take("null").unwrap(), None);
        let window = take(r#"{"cron":"@daily","minutes":1}"#).unwrap().unwrap();
        assert_eq!(window.timezone, "UTC");
        for (window, code) in [
            ("\"@daily\"", Code::BadRequest),
            (r#"{"cron":"@daily"}"#, Code::BadRequest),
            (r#"{"minutes":1}"#, Code::BadRequest),
            (r#"{"cron":"@daily","minutes":0}"#, Code::BadRequest),
            (r#"{"cron":"@daily","minutes":1441}"#, Code::BadRequest),
            (r#"{"cron":"@daily","minutes":1.5}"#, Code::BadRequest),
            (r#"{"cron":"@daily","minutes":1,"hours":1}"#, Code::UnknownField),
        ] {
            assert_eq!(take(window).unwrap_err().code, code, "{window}");
        }
    }
}
