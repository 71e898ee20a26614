//! The bytes of the objects that hold an outcome, as the contract and every released program have them. They name no
//! Rust member: however the types are composed, these bytes stay.

use bellwire_proto::{Code, Delivery, Problem, Report};

const DELIVERY_FULL: &str = r#"{"command":"01890000-0000-7000-8000-000000000001","seq":1042,"device":"kiosk-7","action":"ping","state":"failed","attempt":2,"rev":3,"created_at":"2026-01-01T00:00:00.000Z","updated_at":"2026-01-01T00:00:01.000Z","expires_at":"2026-01-01T00:01:00.000Z","progress":33.5,"exit_code":-1,"result":{"b": 1.50,"a":1E+2,"a":null},"stdout":"pong\n","stderr":"","truncated":true,"error":{"code":"exit_status","message":null},"late":true}"#;

const DELIVERY_MINIMAL: &str = r#"{"command":"01890000-0000-7000-8000-000000000001","seq":1,"device":"kiosk-7","action":"ping","state":"queued","attempt":0,"rev":0,"created_at":"2026-01-01T00:00:00.000Z","updated_at":"2026-01-01T00:00:00.000Z","expires_at":"2026-01-01T00:01:00.000Z","progress":null,"exit_code":null,"result":null,"stdout":null,"stderr":null,"truncated":false,"error":null,"late":false}"#;

/// In the order of the contract, section 5: `result` is before `exit_code` here, and after it in a delivery.
const REPORT_FULL: &str = r#"{"state":"failed","rev":3,"attempt":1,"progress":40,"result":[1.0,{"a": -0}],"exit_code":143,"stdout":"a\nb","stderr":"","truncated":false,"error":{"code":"signal","message":"signal 15 ended it"},"retry_after_s":5}"#;

const REPORT_MINIMAL: &str = r#"{"state":"accepted"}"#;

fn delivery(text: &str) -> Delivery {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

#[test]
fn a_delivery_has_all_its_members_in_their_order() {
    for text in [DELIVERY_FULL, DELIVERY_MINIMAL] {
        assert_eq!(serde_json::to_string(&delivery(text)).unwrap(), text);
    }
}

#[test]
fn a_report_has_the_members_that_it_reports_in_their_order() {
    for text in [REPORT_FULL, REPORT_MINIMAL, r#"{"state":"running","result":null}"#] {
        let report = Report::parse(text.as_bytes()).unwrap();
        assert_eq!(serde_json::to_string(&report).unwrap(), text);
    }
}

#[test]
fn a_delivery_in_another_object_has_the_same_bytes() {
    let problem =
        Problem::new(Code::IllegalTransition, "no").with_delivery(delivery(DELIVERY_FULL));
    let text = serde_json::to_string(&problem).unwrap();
    assert!(text.ends_with(&format!(r#","delivery":{DELIVERY_FULL}}}"#)), "{text}");
    let read: Problem = serde_json::from_str(&text).unwrap();
    assert_eq!(read.delivery.as_deref(), Some(&delivery(DELIVERY_FULL)));
}

#[test]
fn a_delivery_is_read_whatever_the_order_of_its_members_and_however_it_is_read() {
    let read = delivery(DELIVERY_FULL);
    // `late` first, a member of a later version, and a name with an escape.
    let shuffled = DELIVERY_FULL.replace(r#","late":true"#, "").replace("stderr", r"std\u0065rr");
    let shuffled = shuffled.replacen('{', r#"{"late":true,"of_a_later_version":[{}],"#, 1);
    assert_eq!(delivery(&shuffled), read);
    assert_eq!(serde_json::from_slice::<Delivery>(DELIVERY_FULL.as_bytes()).unwrap(), read);
    assert_eq!(serde_json::from_reader::<_, Delivery>(DELIVERY_FULL.as_bytes()).unwrap(), read);
}

#[test]
fn a_delivery_that_lacks_a_required_member_or_has_a_bad_one_is_refused() {
    for name in ["command", "state", "rev", "late", "truncated"] {
        let renamed = DELIVERY_MINIMAL.replace(&format!("\"{name}\""), "\"x\"");
        let error = serde_json::from_str::<Delivery>(&renamed).unwrap_err().to_string();
        assert!(error.contains(&format!("missing field `{name}`")), "{error}");
    }
    for (good, bad) in [
        (r#""late":true"#, r#""late":true,"late":true"#),
        (r#""exit_code":-1"#, r#""exit_code":-1,"exit_code":-1"#),
        (r#""truncated":true"#, r#""truncated":null"#),
        (r#""progress":33.5"#, r#""progress":101"#),
        (r#""stdout":"pong\n""#, r#""stdout":7"#),
    ] {
        let text = DELIVERY_FULL.replace(good, bad);
        assert!(serde_json::from_str::<Delivery>(&text).is_err(), "{bad}");
    }
}

#[test]
fn the_members_of_an_outcome_that_are_null_may_be_absent_from_a_delivery() {
    let short = DELIVERY_MINIMAL.replace(
        r#""progress":null,"exit_code":null,"result":null,"stdout":null,"stderr":null,"#,
        "",
    );
    let short = short.replace(r#","error":null"#, "");
    assert_eq!(delivery(&short), delivery(DELIVERY_MINIMAL));
}
