//! The bytes of tokens, enrolments and devices, as the contract has them.

use bellwire_proto::{CreatedToken, Device, Enrolled, Token};

const ADMIN: &str = r#"{"id":"aaaaaaaaaaaaaaaa","role":"admin","device":null,"select":null,"actions":null,"labels":null,"uses_left":null,"expires_at":null,"note":null,"created_at":"2026-01-01T00:00:00.000Z","created_by":null,"last_used_at":null}"#;

const OPERATOR: &str = r#"{"id":"aaaaaaaaaaaaaaab","role":"operator","device":null,"select":"site=lyon,!spare","actions":["ping","reboot"],"labels":null,"uses_left":null,"expires_at":"2026-02-01T00:00:00.000Z","note":"night shift","created_at":"2026-01-01T00:00:00.000Z","created_by":"aaaaaaaaaaaaaaaa","last_used_at":"2026-01-01T00:05:00.000Z"}"#;

const DEVICE_TOKEN: &str = r#"{"id":"aaaaaaaaaaaaaaac","role":"device","device":"kiosk-7","select":null,"actions":null,"labels":null,"uses_left":null,"expires_at":null,"note":null,"created_at":"2026-01-01T00:00:00.000Z","created_by":null,"last_used_at":null}"#;

const JOIN: &str = r#"{"id":"aaaaaaaaaaaaaaad","role":"join","device":null,"select":null,"actions":null,"labels":{"site":"lyon"},"uses_left":10,"expires_at":null,"note":null,"created_at":"2026-01-01T00:00:00.000Z","created_by":null,"last_used_at":null,"replace":false,"approve":true}"#;

/// The caller of an open hub, who has no token.
const NOBODY: &str = r#"{"id":null,"role":"admin","device":null,"select":null,"actions":null,"labels":null,"uses_left":null,"expires_at":null,"note":null,"created_at":null,"created_by":null,"last_used_at":null}"#;

#[test]
fn a_token_has_all_its_members_in_their_order_and_no_secret() {
    for text in [ADMIN, OPERATOR, DEVICE_TOKEN, JOIN, NOBODY] {
        let token: Token = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&token).unwrap(), text);
    }
}

#[test]
fn a_token_that_was_just_made_has_its_text_last_and_never_in_debug() {
    let secret = "5a".repeat(32);
    let token = format!("bw_aaaaaaaaaaaaaaaa_{secret}");
    let text = ADMIN.replace('}', &format!(r#","token":"{token}"}}"#));
    let created: CreatedToken = serde_json::from_str(&text).unwrap();
    assert_eq!(serde_json::to_string(&created).unwrap(), text);
    assert!(!format!("{created:?}").contains(&secret));
}

#[test]
fn an_enrolment_is_answered_with_three_members() {
    let text = format!(
        r#"{{"device":"kiosk-7","token":"bw_aaaaaaaaaaaaaaaa_{}","pending":true}}"#,
        "00".repeat(32)
    );
    let enrolled: Enrolled = serde_json::from_str(&text).unwrap();
    assert_eq!(serde_json::to_string(&enrolled).unwrap(), text);
}

#[test]
fn a_device_has_a_status_and_one_of_an_older_hub_is_active() {
    let text = r#"{"id":"kiosk-7","labels":{},"facts":{},"online":false,"connected_at":null,"last_seen_at":null,"address":null,"agent":null,"transport":null,"queued":0,"created_at":"2026-01-01T00:00:00.000Z","status":"active"}"#;
    let device: Device = serde_json::from_str(text).unwrap();
    assert_eq!(serde_json::to_string(&device).unwrap(), text);
    let older = text.replace(r#","status":"active""#, "");
    assert_eq!(serde_json::from_str::<Device>(&older).unwrap(), device);
    for status in ["pending", "conflict"] {
        let text = text.replace("active", status);
        let device: Device = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&device).unwrap(), text);
    }
}
