//! What must hold of the request parsers whatever they are given. The fuzz targets `http_query` and
//! `proto_bodies` include this file, so that it says the same there and here.

use bellwire_hub::calendar::Calendar;
use bellwire_hub::http::bodies::{self, Envelope};
use bellwire_hub::http::params::{self, Query};
use bellwire_proto::device::{parse_facts, parse_labels_body};
use bellwire_proto::limits::{DATA_BYTES_MAX, PAGE_ITEMS, TTL_S, WAIT_S};
use bellwire_proto::merge_patch::merge;
use bellwire_proto::{Action, CommandId, DeviceId, Json, Report, SchedulePlan};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Path segments, queries and headers: bounds hold, and what was parsed is parsed again when it is
/// written out.
pub(crate) fn params(input: &[u8]) {
    headers(input);
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(segment) = params::decode_segment(text) {
        let again = params::decode_segment(&encoded(&segment));
        assert_eq!(again.ok().as_deref(), Some(segment.as_str()));
    }
    for name in [
        text.parse::<DeviceId>().ok().map(|name| name.to_string()),
        text.parse::<Action>().ok().map(|name| name.to_string()),
        text.parse::<CommandId>().ok().map(|name| name.to_string()),
    ] {
        assert!(name.is_none_or(|name| name == text), "a name is what it was read from");
    }
    let Ok(mut query) = Query::parse(text) else { return };
    let pairs = query.clone().into_sorted();
    let written: Vec<_> =
        pairs.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
    let again = Query::parse(&written.join("&")).map(Query::into_sorted);
    assert_eq!(again.ok().as_ref(), Some(&pairs));
    assert!(pairs.iter().all(|(name, _)| !name.starts_with('_')), "{pairs:?}");
    if let Ok(Some(ttl)) = query.seconds("ttl", TTL_S) {
        assert!(TTL_S.contains(ttl.get()));
    }
    if let Ok(Some(limit)) = query.number("limit", PAGE_ITEMS) {
        assert!(PAGE_ITEMS.contains(limit));
    }
    let _ = query.switch("force");
    let left = query.clone().into_sorted().is_empty();
    assert_eq!(
        query.finish().is_ok(),
        left,
        "finish succeeds exactly when every parameter was taken"
    );
}

fn headers(input: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(input) else { return };
    let with = |name| HeaderMap::from_iter([(HeaderName::from_static(name), value.clone())]);
    let wait = value.to_str().ok().and_then(|value| params::prefer_wait([value], WAIT_S.max));
    assert!(wait.is_none_or(|wait| wait.get() <= WAIT_S.max));
    if let Ok(Some(key)) = params::idempotency_key(&with("idempotency-key")) {
        assert_eq!(key.as_bytes(), input);
    }
    let last = params::last_event_id(&with("last-event-id"), &mut Query::default());
    assert!(last.is_ok(), "a header that is no number is ignored");
    let media_type = params::media_type(&with("content-type"));
    assert!(!media_type.contains(';') && media_type.trim() == media_type);
    let _ = params::is_plain(&with("content-encoding"));
}

/// Bodies: what was understood stands on one line, is JSON for others too, and is understood again
/// when it is written out; a batch judges an item as it would be judged alone.
pub(crate) fn bodies(input: &[u8]) {
    let _ = parse_labels_body(input);
    let _ = bodies::confirmation(input);
    let _ = bodies::batch(input);
    if let Ok(facts) = parse_facts(input) {
        passed_on(&facts);
    }
    for media_type in ["application/json", "text/plain"] {
        if let Ok(data) = bodies::data(media_type, input) {
            passed_on(&data);
        }
    }
    if let Ok(envelope) = Envelope::parse(input, DATA_BYTES_MAX) {
        passed_on(&envelope.data);
    }
    if let Ok((plan, _)) = SchedulePlan::parse(input, DATA_BYTES_MAX) {
        passed_on(&plan.data);
        let written = serde_json::to_vec(&plan).expect("a plan is JSON");
        assert_eq!(SchedulePlan::parse(&written, DATA_BYTES_MAX).ok(), Some((plan.clone(), false)));
        let _ = Calendar::parse(&plan.cron, &plan.timezone);
    }
    if let Ok(text) = std::str::from_utf8(input)
        && Json::parse(text).is_ok()
    {
        let merged = merge("{}", text).expect("what is JSON can be merged");
        assert!(Json::parse(&merged).is_ok(), "{merged}");
    }
    if let Ok(report) = Report::parse(input) {
        let written = serde_json::to_vec(&report).expect("a report is JSON");
        assert_eq!(Report::parse(&written).ok(), Some(report));
    }
    let item = Report::parse_item(input);
    let alone = [&b"["[..], input, b"]"].concat();
    match bodies::batch(&alone).as_deref() {
        Ok([only]) => assert_eq!(only.report.is_ok(), item.is_ok()),
        // The item had commas of its own, or was none.
        _ => assert!(item.is_err(), "an item alone is an item of a batch"),
    }
}

fn passed_on(json: &Json) {
    assert!(!json.as_str().contains(['\n', '\r']), "{json:?}");
    assert_eq!(Json::parse(json.as_str()).as_ref(), Ok(json));
    assert!(json.read::<serde::de::IgnoredAny>().is_ok(), "{json:?}");
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}
