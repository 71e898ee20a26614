//! Maintenance windows over the wire. Contract, section 3. When a delivery is sent is decided in the core, whose simulated
//! world judges it over crashes; here is what is shown, stored and refused.

use bellwire_proto::Timestamp;
use serde_json::{Value, json};

use crate::support::{Hub, text};

/// Opens half a day from now, for half an hour.
fn closed() -> Value {
    let hour = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let hour = (hour.as_secs() / 3600 + 12) % 24;
    json!({"cron": format!("15 {hour} * * *"), "minutes": 30})
}

fn envelope(window: &Value, ttl_s: u64) -> Value {
    json!({"action": "ping", "target": {"device": "d"}, "ttl_s": ttl_s, "window": window})
}

#[test]
fn a_command_shows_its_window_and_waits_for_it_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let hub_on = || {
        let data_dir = folder.path().join("hub");
        Hub::with(|config| config.data_dir = data_dir)
    };
    let hub = hub_on();
    let mut window = closed();
    let answer = hub.post("/v1/commands", &envelope(&window, 86_400).to_string());
    assert_eq!(answer.status, 202, "{answer:?}");
    let made = answer.json();
    window["timezone"] = json!("UTC");
    assert_eq!(made["window"], window);
    let path = format!("/v1/commands/{}", text(&made["id"]));
    drop(hub);

    let hub = hub_on();
    assert_eq!(hub.get(&path).json(), made);
    let poll = hub.get("/v1/devices/d/commands?wait=0").json();
    assert_eq!(poll["commands"], json!([]), "it is closed");
    let waits = hub.get(&format!("{path}/waits")).json();
    let wait = &waits["items"][0];
    assert_eq!(wait["reason"], "window", "{waits}");
    let until: Timestamp = text(&wait["until"]).parse().unwrap();
    assert_eq!(until.unix_ms() % 3_600_000, 15 * 60_000, "{waits}");

    // Another is sent all the same, and one whose window is open.
    let other = hub.post("/v1/send/d/other", "").json();
    let poll = hub.get("/v1/devices/d/commands?wait=0").json();
    assert_eq!(poll["commands"][0]["id"], other["command"], "{poll}");
    let always = json!({"cron": "* * * * *", "minutes": 1, "timezone": "Europe/Paris"});
    let open = hub.post("/v1/commands", &envelope(&always, 60).to_string()).json();
    hub.post(
        &format!("/v1/devices/d/commands/{}/status", text(&other["command"])),
        r#"{"state":"succeeded"}"#,
    );
    let poll = hub.get("/v1/devices/d/commands?wait=0").json();
    assert_eq!(poll["commands"][0]["id"], open["id"], "{poll}");
}

#[test]
fn a_window_that_cannot_be_met_is_refused_and_nothing_is_stored() {
    let hub = Hub::start();
    let with = |member: &str, value: Value| {
        let mut window = closed();
        window[member] = value;
        envelope(&window, 86_400)
    };
    for (body, says) in [
        (envelope(&closed(), 3600), "ttl_s of "),
        (envelope(&closed(), 0), "ttl_s of 0"),
        (with("cron", json!("0 0 30 2 *")), "never"),
        (with("cron", json!("* * * *")), "five fields"),
        (with("timezone", json!("Mars/Olympus")), "Europe/Paris"),
        (with("minutes", json!(0)), "minutes"),
    ] {
        for path in ["/v1/commands", "/v1/commands?dry_run=1"] {
            let answer = hub.post(path, &body.to_string());
            assert_eq!(answer.code(), "bad_request", "{body}: {answer:?}");
            assert!(text(&answer.json()["detail"]).contains(says), "{body}: {answer:?}");
        }
    }
    assert_eq!(hub.get("/v1/commands").json()["items"], json!([]));
}

#[test]
fn a_schedule_has_a_window_and_its_next_time_must_reach_it() {
    let hub = Hub::start();
    let mut plan = json!({"name": "a", "cron": "0 12 * * *", "action": "ping", "target": {"all": true}, "ttl_s": 43_200,
        "window": {"cron": "0 2 * * *", "minutes": 120, "timezone": "UTC"}});
    let refused = hub.post("/v1/schedules", &plan.to_string());
    assert!(text(&refused.json()["detail"]).contains("50401"), "{refused:?}");
    plan["ttl_s"] = json!(86_400);
    let made = hub.post("/v1/schedules", &plan.to_string()).json();
    assert_eq!(made["window"], plan["window"]);
    let patch = |body: Value| hub.request("PATCH /v1/schedules/a", "", body.to_string().as_bytes());
    let changed = patch(json!({"window": {"minutes": 60}})).json();
    assert_eq!(changed["window"], json!({"cron": "0 2 * * *", "minutes": 60, "timezone": "UTC"}));
    assert_eq!(patch(json!({"window": null})).json()["window"], Value::Null);
}
