//! Tokens of another issuer over the wire. Contract, section 6, "Tokens of another issuer".

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bellwire_hub::config::JwtConfig;
use serde_json::{Value, json};

use crate::support::Hub;
use crate::tokens::{Made, base64_of};

const SECRET: &[u8] = b"a secret of thirty-two bytes !!!";

/// A closed hub that reads JWTs which are signed with [`SECRET`], and its admin.
fn closed() -> (Hub, Made, tempfile::TempDir) {
    let (hub, folder) = open();
    let admin = hub.token(&json!({"role": "admin"}));
    (hub, admin, folder)
}

/// An open hub that reads them.
fn open() -> (Hub, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys.json");
    let key = json!({"keys": [{"kty": "oct", "kid": "a", "k": URL_SAFE_NO_PAD.encode(SECRET)}]});
    std::fs::write(&keys, key.to_string()).unwrap();
    let hub = Hub::with(|config| {
        let mut jwt = JwtConfig::default();
        jwt.keys = keys;
        (jwt.issuer, jwt.audience) = ("https://id.example".into(), "bellwire".into());
        config.jwt = Some(jwt);
    });
    (hub, folder)
}

/// A JWT for so many seconds, and what is added to its claims.
fn jwt(expires_in_s: i64, more: Value) -> Made {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    let mut claims = json!({"iss": "https://id.example", "aud": "bellwire", "sub": "ada", "exp": now + expires_in_s});
    claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let encode = |text: String| URL_SAFE_NO_PAD.encode(text);
    let message =
        format!("{}.{}", encode(json!({"alg": "HS256"}).to_string()), encode(claims.to_string()));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET);
    let signature = URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, message.as_bytes()));
    Made { id: "jwt:ada".into(), secret: format!("{message}.{signature}") }
}

#[test]
fn a_jwt_is_held_to_its_role_and_its_subject_is_who_did_it() {
    let (hub, admin, _folder) = closed();
    hub.with_token(&admin, "PUT /v1/devices/d", r#"{"labels":{"site":"lyon"}}"#);
    hub.with_token(&admin, "PUT /v1/devices/e", r#"{"labels":{"site":"rome"}}"#);
    let ada = jwt(60, json!({"role": "operator", "select": "site=lyon", "actions": ["ping"]}));
    let sent = hub.with_token(&ada, "POST /v1/send/d/ping", "");
    assert_eq!(sent.status, 202, "{sent:?}");
    let command = sent.json()["command"].as_str().unwrap().to_owned();
    let shown = hub.with_token(&admin, &format!("GET /v1/commands/{command}"), "").json();
    assert_eq!(shown["created_by"], "jwt:ada");
    assert_eq!(hub.with_token(&ada, "POST /v1/send/d/reboot", "").code(), "forbidden");
    assert_eq!(hub.with_token(&ada, "POST /v1/send/e/ping", "").code(), "unknown_device");
    assert_eq!(hub.with_token(&ada, "GET /v1/tokens", "").code(), "forbidden");
    let own = hub.with_token(&ada, "GET /v1/tokens/self", "").json();
    assert_eq!(
        (&own["role"], &own["id"], &own["note"]),
        (&json!("operator"), &Value::Null, &json!("jwt:ada"))
    );
    let log = hub.with_token(&admin, "GET /v1/audit?actor=jwt:ada&verb=send", "").json();
    assert_eq!(log["items"].as_array().unwrap().len(), 3, "{log}");

    let device = jwt(60, json!({"role": "device", "device": "d"}));
    assert_eq!(hub.with_token(&device, "GET /v1/devices/d", "").status, 200);
    assert_eq!(hub.with_token(&device, "GET /v1/devices/e", "").code(), "forbidden");
    // Remembered or not, with another signature it is another token.
    let forged =
        Made { secret: format!("{}AAAA", &ada.secret[..ada.secret.len() - 4]), id: String::new() };
    for token in [&forged, &jwt(-61, json!({"role": "admin"})), &jwt(60, json!({"role": "root"}))] {
        let refused = hub.with_token(token, "GET /v1/devices", "");
        assert_eq!(
            (refused.code(), &refused.body),
            ("unauthenticated".into(), &hub.get("/v1/devices").body)
        );
    }
}

/// By Basic one was taken for a password of a reverse proxy, and its holder, or whoever forged it, was an admin.
#[test]
fn on_an_open_hub_a_jwt_that_is_sent_as_a_password_is_checked_all_the_same() {
    let (hub, _folder) = open();
    hub.put("/v1/devices/d", "{}");
    let with_password = |password: &str| {
        let pair = base64_of(&format!("ada:{password}"));
        let head = format!("Authorization: Basic {pair}\r\n");
        hub.request("GET /v1/tokens/self", &head, b"")
    };
    let ada = jwt(60, json!({"role": "operator", "select": "site=lyon"}));
    let own = with_password(&ada.secret).json();
    assert_eq!((&own["role"], &own["note"]), (&json!("operator"), &json!("jwt:ada")));
    for bad in [jwt(-61, json!({"role": "admin"})).secret, format!("{}x", ada.secret)] {
        assert_eq!(with_password(&bad).code(), "unauthenticated", "{bad}");
    }
    // Dots do not make a JWT.
    for password in ["s3cret", "a.b.c", "correct.horse.battery"] {
        assert_eq!(with_password(password).json()["role"], "admin", "{password}");
    }
    // Where no other issuer is known, it is a password like any other.
    let plain = Hub::start();
    let pair = base64_of(&format!("ada:{}", ada.secret));
    let answer =
        plain.request("GET /v1/tokens/self", &format!("Authorization: Basic {pair}\r\n"), b"");
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[test]
fn no_jwt_makes_a_schedule_whose_runs_could_not_be_held_to_its_scope() {
    let (hub, admin, _folder) = closed();
    let plan = json!({"name": "a", "cron": "@yearly", "action": "ping", "target": {"all": true}})
        .to_string();
    for role in [json!({"role": "admin"}), json!({"role": "operator", "select": "site=lyon"})] {
        let refused = hub.with_token(&jwt(60, role.clone()), "POST /v1/schedules", &plan);
        assert_eq!((refused.status, refused.code()), (403, "forbidden".to_owned()), "{role}");
        let detail = refused.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("bellwire token create"), "{role}: {detail}");
    }
    let all = "GET /v1/schedules";
    assert_eq!(hub.with_token(&admin, all, "").json()["items"], json!([]));

    // Those of others it sees and changes as its role allows: whatever it does, they act as who made them.
    assert_eq!(hub.with_token(&admin, "POST /v1/schedules", &plan).status, 201);
    let scoped = jwt(60, json!({"role": "operator", "select": "site=lyon"}));
    assert_eq!(hub.with_token(&scoped, all, "").json()["items"], json!([]));
    assert_eq!(hub.with_token(&scoped, "DELETE /v1/schedules/a", "").code(), "not_found");
    let whole = jwt(60, json!({"role": "operator"}));
    let paused = hub.with_token(&whole, "POST /v1/schedules/a/pause", "").json();
    assert_eq!((&paused["paused"], &paused["created_by"]), (&json!(true), &json!(admin.id)));
}

#[test]
fn a_stream_ends_when_its_jwt_does() {
    let (hub, admin, _folder) = closed();
    hub.with_token(&admin, "PUT /v1/devices/d", "{}");
    // With the minute of leeway: in two seconds.
    let device = jwt(-58, json!({"role": "device", "device": "d"}));
    let operator = jwt(-58, json!({"role": "operator"}));
    let mut streams = [
        hub.stream_with("/v1/devices/d/stream", &device.header()),
        hub.stream_with("/v1/events", &operator.header()),
    ];
    streams[0].expect("hello");
    streams[1].expect("hub");
    for stream in &mut streams {
        let bye = loop {
            let event = stream.event();
            if event.field("event") == Some("bye") {
                break event.data();
            }
        };
        assert_eq!(bye["reason"], "revoked");
    }
    assert_eq!(hub.with_token(&device, "GET /v1/devices/d", "").status, 401);
}
