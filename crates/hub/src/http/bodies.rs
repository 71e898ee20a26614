//! Parses request bodies: a command's data, the envelope of `POST /v1/commands`, batches of
//! reports, confirmations. Pure functions, so that they can be fuzzed.
//!
//! Bodies that are objects of the contract itself (a report, labels, facts) are parsed in
//! `bellwire-proto`, and so is what an envelope has in common with a schedule; `body.rs` bounds the
//! number of bytes.

use bellwire_core::{Target, TargetQuery};
use bellwire_proto::limits::REPORT_BATCH_ITEMS_MAX;
use bellwire_proto::{
    Action, Code, CommandId, CommandPlan, CommandTarget, DeliveryState, DeviceId, Json, Members,
    Problem, Report, RolloutPlan, Seconds, Timestamp, Window,
};
use serde_json::value::RawValue;

/// The data of a command from the body of `POST /v1/send`: JSON if that is the media type, any
/// other text as a JSON string, `null` if the body is empty. Contract, section 3.
///
/// `media_type` is the result of [`media_type`](super::params::media_type).
///
/// # Errors
/// `unsupported_media_type` when it is not UTF-8, `bad_request` when it should be JSON and is not.
///
/// ```
/// use bellwire_hub::http::bodies::data;
/// assert_eq!(data("application/json", b"{\"n\": 1.50}")?.as_str(), "{\"n\": 1.50}");
/// assert_eq!(data("application/problem+json", b"{}")?.as_str(), "\"{}\"");
/// assert_eq!(data("application/json", b"")?.as_str(), "null");
/// # Ok::<(), bellwire_proto::Problem>(())
/// ```
pub fn data(media_type: &str, body: &[u8]) -> Result<Json, Problem> {
    let text = std::str::from_utf8(body).map_err(|_| {
        Problem::new(
            Code::UnsupportedMediaType,
            "the body is not UTF-8; wrap bytes in text, as base64 does",
        )
    })?;
    match media_type {
        _ if text.is_empty() => Ok(Json::null()),
        "application/json" => {
            Json::parse(text).map_err(|e| Problem::bad_request(format!("the body is {e}")))
        }
        _ => Ok(Json::text(text)),
    }
}

/// The body of `POST /v1/commands`. Contract, section 3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The action.
    pub action: Action,
    /// The data; `null` when absent.
    pub data: Json,
    /// The target.
    pub target: Target,
    /// The selector of the target, as it was written.
    pub select: Option<String>,
    /// The time to live; zero is "only if the device is online".
    pub ttl: Option<Seconds>,
    /// The run clock.
    pub run_timeout: Option<Seconds>,
    /// The time before which it is not sent.
    pub not_before: Option<Timestamp>,
    /// While what is open it is sent.
    pub window: Option<Window>,
    /// How it is rolled out.
    pub rollout: Option<RolloutPlan>,
}

/// Reads the body of `POST /v1/commands/{command}/retry`: the states to retry, by default those of failures. It may be
/// empty.
///
/// # Errors
/// `bad_request` and `unknown_field` as for every object of the API.
pub fn retry(body: &[u8]) -> Result<Vec<DeliveryState>, Problem> {
    use DeliveryState as S;
    let mut members = Members::parse(if body.is_empty() { b"{}" } else { body })?;
    let states: Option<Vec<DeliveryState>> = members.take("states")?;
    members.finish()?;
    let states = states.unwrap_or(vec![S::Failed, S::Rejected, S::TimedOut, S::Expired, S::Dead]);
    if states.is_empty() || states.iter().any(|state| !state.is_terminal()) {
        let detail = "member \"states\" has states in which a delivery has ended";
        return Err(Problem::bad_request(detail));
    }
    Ok(states)
}

impl Envelope {
    /// Reads the envelope.
    ///
    /// # Errors
    /// `bad_request` and `unknown_field` as for every object of the API, also for a target other
    /// than one device; `payload_too_large` when `data` exceeds `data_bytes_max`.
    pub fn parse(body: &[u8], data_bytes_max: usize) -> Result<Self, Problem> {
        let mut members = Members::parse(body)?;
        let plan = CommandPlan::take(&mut members, data_bytes_max)?;
        let not_before = members.take("not_before")?;
        members.finish()?;
        let (target, select) = target_of(plan.target);
        Ok(Self {
            action: plan.action,
            data: plan.data,
            target,
            select,
            ttl: plan.ttl,
            run_timeout: plan.run_timeout,
            not_before,
            window: plan.window,
            rollout: plan.rollout.map(|(_, rollout)| rollout),
        })
    }
}

/// One report of a batch, parsed by itself.
#[derive(Debug)]
pub struct BatchItem {
    /// The command as the item names it, if it names one.
    pub command: Option<String>,
    /// The report, or why it is refused.
    pub report: Result<(CommandId, Report), Problem>,
}

/// Reads the body of `POST /v1/devices/{device}/status`.
///
/// # Errors
/// `bad_request` when it is not a JSON array in UTF-8, `payload_too_large` beyond 1,000 items. A
/// fault of one item is returned with that item.
pub fn batch(body: &[u8]) -> Result<Vec<BatchItem>, Problem> {
    let text =
        std::str::from_utf8(body).map_err(|_| Problem::bad_request("the body is not UTF-8"))?;
    let items: Vec<&RawValue> = serde_json::from_str(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let detail =
            format!("the body is not a JSON array of reports: line {line}, column {column}");
        Problem::bad_request(detail)
    })?;
    if items.len() > REPORT_BATCH_ITEMS_MAX {
        return Err(Problem::new(
            Code::PayloadTooLarge,
            format!("a batch has at most {REPORT_BATCH_ITEMS_MAX} reports"),
        ));
    }
    Ok(items.into_iter().map(|item| batch_item(item.get())).collect())
}

fn batch_item(item: &str) -> BatchItem {
    let report = Report::parse_item(item.as_bytes());
    let command = match &report {
        Ok((command, _)) => Some(command.to_string()),
        Err(_) => Members::parse(item.as_bytes())
            .and_then(|mut members| members.take("command"))
            .unwrap_or_default(),
    };
    BatchItem { command, report }
}

/// Reads the body of `POST /v1/devices/{device}/confirm`: the session.
///
/// # Errors
/// `bad_request` and `unknown_field` as for every object of the API.
pub fn confirmation(body: &[u8]) -> Result<String, Problem> {
    let mut members = Members::parse(body)?;
    let session = members.require("session")?;
    members.finish()?;
    Ok(session)
}

/// The target for the core, and the selector in it as it was written.
fn target_of(target: CommandTarget) -> (Target, Option<String>) {
    let found = |query| Target::Found(Box::new(query));
    match target {
        CommandTarget::Device(device) => (Target::Device(device), None),
        CommandTarget::Devices(devices) => match <[DeviceId; 1]>::try_from(devices) {
            Ok([device]) => (Target::Device(device), None),
            Err(devices) => (Target::Devices(devices), None),
        },
        CommandTarget::Select { text, selector } => {
            let query = TargetQuery { select: Some(selector), ..TargetQuery::default() };
            (found(query), Some(text))
        }
        CommandTarget::All => (found(TargetQuery::default()), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bellwire_proto::SchedulePlan;
    use proptest::prelude::*;

    const ID: &str = "01900000-0000-7000-8000-000000000000";

    #[test]
    fn data_is_json_if_that_is_its_media_type_and_text_otherwise() {
        for (media_type, body, json) in [
            ("application/json", "{\"b\": 1.0,\n\"a\":1e2}", "{\"b\": 1.0,\"a\":1e2}"),
            ("application/json", "", "null"),
            ("", "", "null"),
            ("", "é\n", "\"é\\n\""),
            ("text/json", "1", "\"1\""),
            ("application/ld+json", "1", "\"1\""),
            ("application/x-www-form-urlencoded", "a=b", "\"a=b\""),
        ] {
            let data = data(media_type, body.as_bytes()).unwrap();
            assert_eq!(data.as_str(), json, "{media_type} {body:?}");
        }
        for (media_type, body, code) in [
            ("application/json", &b"{"[..], Code::BadRequest),
            ("application/json", b" ", Code::BadRequest),
            ("application/json", b"\"\\ud800\"", Code::BadRequest),
            ("application/json", b"\xff", Code::UnsupportedMediaType),
            ("text/plain", b"\xff", Code::UnsupportedMediaType),
        ] {
            assert_eq!(data(media_type, body).unwrap_err().code, code, "{body:?}");
        }
    }

    #[test]
    fn an_envelope_preserves_its_members() {
        let body = br#"{"action":"ping","data":{"n":1.50},"target":{"devices":["x","x"]},
            "ttl_s":0,"run_timeout_s":60,"not_before":"2030-01-01T00:00:00Z","rollout":null}"#;
        let envelope = Envelope::parse(body, 64).unwrap();
        assert_eq!(envelope.data.as_str(), r#"{"n":1.50}"#);
        assert_eq!(envelope.target, Target::Device("x".parse().unwrap()), "duplicates count once");
        assert_eq!(envelope.ttl, Some(Seconds::new(0)));
        assert_eq!(envelope.run_timeout, Some(Seconds::new(60)));
        let at = envelope.not_before.map(|at| at.to_string());
        assert_eq!(at.as_deref(), Some("2030-01-01T00:00:00.000Z"));
    }

    #[test]
    fn an_envelope_that_is_not_of_the_contract_is_refused_with_its_code() {
        let with = |rest: &str| format!(r#"{{"action":"a","target":{{"device":"x"}},{rest}}}"#);
        let target = |target: &str| format!(r#"{{"action":"a","target":{target}}}"#);
        for (body, code) in [
            (r#"{"target":{"device":"x"}}"#.to_owned(), Code::BadRequest),
            (r#"{"action":"a"}"#.to_owned(), Code::BadRequest),
            (r#"{"action":"a b","target":{"device":"x"}}"#.to_owned(), Code::BadRequest),
            (target("{}"), Code::BadRequest),
            (target(r#""x""#), Code::BadRequest),
            (target(r#"{"device":""}"#), Code::BadRequest),
            (target(r#"{"devices":[]}"#), Code::BadRequest),
            (target(r#"{"devices":["x",""]}"#), Code::BadRequest),
            (target(r#"{"device":"x","devices":["y"]}"#), Code::BadRequest),
            (target(r#"{"device":"x","all":true}"#), Code::BadRequest),
            (target(r#"{"all":false}"#), Code::BadRequest),
            (target(r#"{"all":true,"select":"a"}"#), Code::BadRequest),
            (target(r#"{"select":"a=b=c"}"#), Code::BadRequest),
            (target(r#"{"select":" "}"#), Code::BadRequest),
            (target(r#"{"device":"x","who":1}"#), Code::UnknownField),
            (with(r#""ttl_s":604801"#), Code::BadRequest),
            (with(r#""ttl_s":1.5"#), Code::BadRequest),
            (with(r#""run_timeout_s":0"#), Code::BadRequest),
            (with(r#""not_before":"tomorrow""#), Code::BadRequest),
            (with(r#""rollout":{}"#), Code::BadRequest),
            (with(r#""rollout":{"batch":1,"what":1}"#), Code::UnknownField),
            (with(r#""ttl":1"#), Code::UnknownField),
            (with(r#""data":"0123456789abcdef""#), Code::PayloadTooLarge),
            // A typo once hid that the data was too long: 400 where the order of checks requires
            // 413.
            (with(r#""ttl":1,"data":"0123456789abcdef""#), Code::PayloadTooLarge),
        ] {
            let refused = Envelope::parse(body.as_bytes(), 16).unwrap_err();
            assert_eq!(refused.code, code, "{body}");
        }
    }

    #[test]
    fn a_fault_of_a_command_is_refused_with_the_same_words_in_a_schedule() {
        for members in [
            r#""target":{"all":true}"#,
            r#""action":"a b","target":{"all":true}"#,
            r#""action":"a""#,
            r#""action":"a","target":7"#,
            r#""action":"a","target":{}"#,
            r#""action":"a","target":{"devices":[]}"#,
            r#""action":"a","target":{"device":"x","devices":["y"]}"#,
            r#""action":"a","target":{"select":"a=b=c"}"#,
            r#""action":"a","target":{"select":" "}"#,
            r#""action":"a","target":{"device":"x","who":1}"#,
            r#""action":"a","target":{"all":true},"ttl_s":604801"#,
            r#""action":"a","target":{"all":true},"run_timeout_s":0"#,
            r#""action":"a","target":{"all":true},"window":{"minutes":1}"#,
            r#""action":"a","target":{"all":true},"rollout":7"#,
            r#""action":"a","target":{"all":true},"rollout":{"batch":1,"what":1}"#,
            r#""action":"a","target":{"all":true},"data":"0123456789abcdef""#,
            r#""action":"a","target":{"all":true},"what":1"#,
        ] {
            let envelope = Envelope::parse(format!("{{{members}}}").as_bytes(), 16);
            let schedule = format!(r#"{{"name":"n","cron":"@daily",{members}}}"#);
            let schedule = SchedulePlan::parse(schedule.as_bytes(), 16);
            let (envelope, schedule) = (envelope.unwrap_err(), schedule.unwrap_err());
            assert_eq!((schedule.code, &schedule.detail), (envelope.code, &envelope.detail));
            assert!(!envelope.detail.contains("the body is"), "{members}: {}", envelope.detail);
        }
    }

    #[test]
    fn each_item_of_a_batch_is_parsed_by_itself() {
        let body = format!(
            r#"[{{"command":"{ID}","state":"running"}},{{"command":"{ID}","state":"gone"}},
                {{"command":"x","state":"running"}},{{"state":"running"}},7]"#
        );
        let items = batch(body.as_bytes()).unwrap();
        let outcomes: Vec<_> =
            items.iter().map(|item| (item.command.as_deref(), item.report.is_ok())).collect();
        assert_eq!(
            outcomes,
            [(Some(ID), true), (Some(ID), false), (Some("x"), false), (None, false), (None, false)]
        );
    }

    #[test]
    fn a_batch_is_an_array_of_a_thousand_at_most() {
        for body in ["", "{}", "[1", "null"] {
            assert_eq!(batch(body.as_bytes()).unwrap_err().code, Code::BadRequest, "{body}");
        }
        let of = |n: usize| format!("[{}]", vec!["0"; n].join(","));
        assert_eq!(batch(of(1000).as_bytes()).unwrap().len(), 1000);
        assert_eq!(batch(of(1001).as_bytes()).unwrap_err().code, Code::PayloadTooLarge);
    }

    proptest! {
        #[test]
        fn no_body_panics(body in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = data("application/json", &body);
            let _ = Envelope::parse(&body, 64);
            let _ = batch(&body);
            let _ = confirmation(&body);
        }

        #[test]
        fn text_survives_as_a_json_string(text in "\\PC+|[\\x00-\\x7f]+") {
            let json = data("text/plain", text.as_bytes()).unwrap();
            prop_assert_eq!(json.read::<String>().unwrap(), text);
        }
    }
}
