//! What ends with a token: streams, polls, and requests that take their time. Contract, section 6, "Tokens".

use serde_json::{Value, json};

use crate::support::{Hub, Stream};
use crate::tokens::{admin, two_sites};

/// The data of the last event of a stream, whatever comes before it: a slow machine reports to an observer what happened
/// before it came.
fn last(stream: &mut Stream) -> Value {
    loop {
        let event = stream.event();
        if event.field("event") == Some("bye") {
            return event.data();
        }
    }
}

#[test]
fn the_first_admin_token_closes_the_hub_at_once() {
    let hub = Hub::start();
    let (mut device, mut events) = (hub.stream("/v1/devices/d/stream"), hub.stream("/v1/events"));
    device.expect("hello");
    events.expect("hub");
    let admin = admin(&hub);
    assert_eq!(device.expect("bye")["reason"], "revoked");
    assert_eq!(last(&mut events)["reason"], "revoked");
    for path in ["/v1/devices", "/v1/events", "/v1/tokens", "/v1/devices/d/stream"] {
        assert_eq!(hub.get(path).status, 401, "{path}");
    }
    assert_eq!(hub.with_token(&admin, "GET /v1/devices", "").status, 200);
    for path in ["/v1/ping", "/healthz", "/readyz"] {
        assert_eq!(hub.get(path).status, 200, "{path}");
    }
    let stranger = hub.with_token(&admin, "POST /v1/send/stranger/ping", "");
    assert_eq!(stranger.code(), "unknown_device", "a closed hub creates nobody on sight");
}

#[test]
fn revoking_a_token_ends_its_streams_and_no_others() {
    let hub = Hub::start();
    let admin = admin(&hub);
    let device = json!({"role": "device", "device": "d"});
    let (one, two) = (hub.token_by(&admin, &device), hub.token_by(&admin, &device));
    let operator = hub.token_by(&admin, &json!({"role": "operator"}));
    let mut stream = hub.stream_of(&one, "/v1/devices/d/stream");
    let (mut events, mut admins) =
        (hub.stream_of(&operator, "/v1/events"), hub.stream_of(&admin, "/v1/events"));
    stream.expect("hello");
    events.expect("hub");
    admins.expect("hub");
    for token in [&operator, &one] {
        let line = format!("DELETE /v1/tokens/{}", token.id);
        assert_eq!(hub.with_token(&admin, &line, "").status, 204);
        assert_eq!(hub.with_token(token, "GET /v1/tokens/self", "").status, 401);
        assert_eq!(hub.with_token(&admin, &line, "").code(), "not_found");
    }
    assert_eq!(stream.expect("bye")["reason"], "revoked");
    assert_eq!(last(&mut events)["reason"], "revoked");
    let mut again = hub.stream_of(&two, "/v1/devices/d/stream");
    again.expect("hello");
    while admins.expect("device")["change"] != "online" {}
    let line = format!("DELETE /v1/tokens/{}", admin.id);
    assert_eq!(hub.with_token(&admin, &line, "").code(), "conflict", "the last admin token stays");
    assert_eq!(hub.with_token(&admin, "DELETE /v1/tokens/x", "").code(), "bad_request");
}

#[test]
fn a_poll_ends_when_its_token_expires() {
    let hub = Hub::start();
    let admin = admin(&hub);
    let token = json!({"role": "device", "device": "d", "expires_in_s": 1});
    let token = hub.token_by(&admin, &token);
    // The test's own patience is shorter than the 60 s that it may wait.
    let answer = hub.with_token(&token, "GET /v1/devices/d/commands?wait=60s", "");
    assert!(answer.status == 401 || answer.json()["commands"] == json!([]), "{answer:?}");
    assert_eq!(hub.with_token(&token, "GET /v1/devices/d/commands?wait=0", "").status, 401);
}

/// The head was let in, and whoever held back its body could act for as long as a body may take.
#[test]
fn a_request_whose_body_comes_after_the_end_of_its_token_does_nothing() {
    let (hub, admin, operator) = two_sites();
    let head = |extra: &str| {
        format!(
            "POST /v1/send/lyon-1/ping HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\
             Expect: 100-continue\r\n{extra}\r\n"
        )
    };
    let mut slow = hub.connect();
    slow.send(head(&operator.header()));
    // It is asked for once the credential was looked at.
    assert_eq!(slow.answer_to("POST").status, 100);
    let line = format!("DELETE /v1/tokens/{}", operator.id);
    assert_eq!(hub.with_token(&admin, &line, "").status, 204);
    slow.send("{}");
    assert_eq!(slow.answer_to("POST").code(), "unauthenticated");

    let open = Hub::start();
    let mut slow = open.connect();
    slow.send(head(""));
    assert_eq!(slow.answer_to("POST").status, 100);
    let admin_of_open = open.token(&json!({"role": "admin"}));
    slow.send("{}");
    assert_eq!(slow.answer_to("POST").code(), "unauthenticated");
    for (hub, admin) in [(&hub, &admin), (&open, &admin_of_open)] {
        let commands = hub.with_token(admin, "GET /v1/commands", "").json();
        assert_eq!(commands["items"], json!([]));
    }
}

/// It waited for up to five minutes, and was then answered with what became of a device that it does not see any more.
#[test]
fn a_sender_that_waits_is_refused_when_its_token_is_revoked_or_the_device_leaves_its_scope() {
    let (hub, admin, operator) = two_sites();
    let begin = || {
        let before = hub.with_token(&admin, "GET /v1/commands", "").json();
        let mut waiting = hub.connect();
        waiting.request("POST /v1/send/lyon-1/ping?wait=5m", &operator.header(), b"");
        hub.until(|| {
            let now = hub.with_token(&admin, "GET /v1/commands", "").json();
            now["items"] != before["items"]
        });
        waiting
    };
    let (mut waiting, rome) = (begin(), json!({"labels": {"site": "rome"}}).to_string());
    assert_eq!(hub.with_token(&admin, "PUT /v1/devices/rome-1", "{}").status, 200);
    assert_eq!(hub.with_token(&admin, "PUT /v1/devices/lyon-1", &rome).status, 200);
    assert_eq!(waiting.answer_to("POST").code(), "unknown_device");

    let lyon = json!({"labels": {"site": "lyon"}}).to_string();
    assert_eq!(hub.with_token(&admin, "PUT /v1/devices/lyon-1", &lyon).status, 200);
    let mut waiting = begin();
    let line = format!("DELETE /v1/tokens/{}", operator.id);
    assert_eq!(hub.with_token(&admin, &line, "").status, 204);
    assert_eq!(waiting.answer_to("POST").code(), "unauthenticated");
}
