//! Schedules over the wire. Contract, section 3. Which times are run is decided in the core, whose simulated world judges it
//! over crashes; here a hub is stopped, and finds on its next start that a time has passed.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Answer, Hub, text};

/// A schedule of nothing but defaults, due once a year.
fn yearly(name: &str) -> Value {
    json!({"name": name, "cron": "@yearly", "action": "ping", "target": {"device": "d"}})
}

fn make(hub: &Hub, plan: &Value) -> Value {
    let answer = hub.post("/v1/schedules", &plan.to_string());
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()
}

fn patch(hub: &Hub, path: &str, body: Value) -> Answer {
    hub.request(&format!("PATCH {path}"), "", body.to_string().as_bytes())
}

#[test]
fn a_schedule_is_made_shown_listed_and_deleted() {
    let hub = Hub::start();
    let answer = hub.post("/v1/schedules", &yearly("a").to_string());
    let made = answer.json();
    let path = format!("/v1/schedules/{}", text(&made["id"]));
    assert_eq!((answer.status, answer.head.header("location")), (201, Some(path.as_str())));
    let next_at = text(&made["next_at"]);
    assert!(next_at.ends_with("-01-01T00:00:00.000Z"), "{made}");
    assert_eq!(made["upcoming"].as_array().unwrap().len(), 3, "{made}");
    assert_eq!(made["upcoming"][0], made["next_at"]);
    for (member, value) in [
        ("timezone", json!("UTC")),
        ("data", Value::Null),
        ("target", json!({"device": "d"})),
        ("ttl_s", Value::Null),
        ("overlap", json!("skip")),
        ("missed", json!("none")),
        ("paused", json!(false)),
        ("reason", Value::Null),
        ("last_at", Value::Null),
        ("last_command", Value::Null),
        ("skipped", Value::Null),
        ("created_by", Value::Null),
    ] {
        assert_eq!(made.get(member), Some(&value), "{member}");
    }
    assert_eq!(hub.get(&path).json(), made);
    assert_eq!(hub.get("/v1/schedules/a").json(), made, "by its name");
    let other = make(&hub, &yearly("b"));
    let page = hub.get("/v1/schedules?limit=1").json();
    assert_eq!(page["items"], json!([made]));
    let next = hub.get(&format!("/v1/schedules?after={}", text(&page["next"]))).json();
    assert_eq!(next, json!({"items": [other], "next": null}));

    assert_eq!(hub.delete("/v1/schedules/a").status, 204);
    assert_eq!(hub.get(&path).code(), "not_found");
    assert_eq!(hub.delete(&path).code(), "not_found");
    assert_eq!(hub.get("/v1/schedules").json()["items"], json!([other]));
}

#[test]
fn a_schedule_that_could_not_run_is_refused_and_says_why() {
    let hub = Hub::start();
    make(&hub, &yearly("taken"));
    let with = |member: &str, value: Value| {
        let mut plan = yearly("x");
        plan[member] = value;
        hub.post("/v1/schedules", &plan.to_string())
    };
    for (member, value, code, says) in [
        ("cron", json!("* * * *"), "bad_request", "five fields"),
        ("cron", json!("0 0 30 2 *"), "bad_request", "never"),
        ("timezone", json!("Mars/Olympus"), "bad_request", "Europe/Paris"),
        ("name", json!("taken"), "conflict", "name"),
        ("target", json!({"all": false}), "bad_request", "exactly one"),
        ("zone", json!("UTC"), "unknown_field", "zone"),
        ("data", json!("x".repeat(70_000)), "payload_too_large", ""),
    ] {
        let answer = with(member, value);
        assert_eq!(answer.code(), code, "{member}: {answer:?}");
        assert!(text(&answer.json()["detail"]).contains(says), "{member}: {answer:?}");
    }
    assert_eq!(hub.get("/v1/schedules").json()["items"].as_array().unwrap().len(), 1);
}

#[test]
fn a_schedule_is_paused_resumed_and_changed_by_a_merge_patch() {
    let hub = Hub::start();
    make(&hub, &yearly("a"));
    make(&hub, &yearly("b"));
    for _ in 0..2 {
        let paused = hub.post("/v1/schedules/a/pause", "").json();
        assert_eq!((&paused["paused"], &paused["upcoming"]), (&json!(true), &json!([])));
        assert_eq!(paused["next_at"], Value::Null);
    }
    for _ in 0..2 {
        let resumed = hub.post("/v1/schedules/a/resume", "").json();
        assert_eq!(resumed["paused"], false);
        assert!(resumed["next_at"].is_string(), "{resumed}");
    }
    let body = json!({"cron": "30 2 * * *", "timezone": "Europe/Paris", "data": {"n": 1},
        "target": {"device": null, "select": "site=lyon"}, "paused": true});
    let changed = patch(&hub, "/v1/schedules/a", body);
    assert_eq!(changed.status, 200, "{changed:?}");
    let changed = changed.json();
    assert_eq!(changed["target"], json!({"select": "site=lyon"}));
    assert_eq!((&changed["timezone"], &changed["paused"]), (&json!("Europe/Paris"), &json!(true)));
    let next = patch(&hub, "/v1/schedules/a", json!({"data": {"m": 2}, "paused": false})).json();
    assert_eq!((&next["data"], &next["name"]), (&json!({"n": 1, "m": 2}), &json!("a")));
    for (body, code) in [
        (json!({"tll_s": null}), "unknown_field"),
        (json!({"cron": null}), "bad_request"),
        (json!({"name": "b"}), "conflict"),
        (json!([1]), "bad_request"),
    ] {
        assert_eq!(patch(&hub, "/v1/schedules/a", body.clone()).code(), code, "{body}");
    }
    assert_eq!(hub.get("/v1/schedules/a").json(), next, "what is refused changes nothing");
}

#[test]
fn a_schedule_is_its_tokens_own_and_ends_with_it() {
    let hub = Hub::start();
    make(&hub, &yearly("open"));
    let admin = hub.token(&json!({"role": "admin"}));
    let call = |token: &crate::tokens::Made, line: &str, body: &Value| {
        hub.with_token(token, line, &body.to_string())
    };
    let closed = call(&admin, "GET /v1/schedules/open", &Value::Null).json();
    assert_eq!(closed["paused"], true, "nobody made it, and the hub is closed: {closed}");
    assert!(text(&closed["reason"]).contains("without a token"), "{closed}");

    let scope = json!({"role": "operator", "select": "site=lyon", "actions": ["ping"]});
    let [operator, other] = [(); 2].map(|()| hub.token_by(&admin, &scope));
    let plan = |name: &str, action: &str, target: Value| json!({"name": name, "cron": "@yearly", "action": action, "target": target});
    call(&admin, "PUT /v1/devices/rome", &json!({"labels": {"site": "rome"}}));
    for (plan, code) in [
        (plan("x", "reboot", json!({"all": true})), "forbidden"),
        (plan("x", "ping", json!({"device": "rome"})), "unknown_device"),
    ] {
        assert_eq!(call(&operator, "POST /v1/schedules", &plan).code(), code, "{plan}");
    }
    let made = call(&operator, "POST /v1/schedules", &plan("mine", "ping", json!({"all": true})));
    assert_eq!((made.status, &made.json()["created_by"]), (201, &json!(operator.id)));
    for line in
        ["GET /v1/schedules/mine", "DELETE /v1/schedules/mine", "POST /v1/schedules/mine/pause"]
    {
        assert_eq!(call(&other, line, &Value::Null).code(), "not_found", "{line}");
    }
    let names = |token| {
        let page = call(token, "GET /v1/schedules", &Value::Null).json();
        let items = page["items"].as_array().unwrap().iter();
        items.map(|item| text(&item["name"]).to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&admin), ["open", "mine"]);
    assert_eq!(names(&operator), ["mine"]);
    assert!(names(&other).is_empty());

    call(&admin, &format!("DELETE /v1/tokens/{}", operator.id), &Value::Null);
    let ended = call(&admin, "GET /v1/schedules/mine", &Value::Null).json();
    assert_eq!(ended["paused"], true, "{ended}");
    assert!(text(&ended["reason"]).contains("revoked"), "{ended}");
    let resumed = call(&admin, "POST /v1/schedules/mine/resume", &Value::Null);
    assert_eq!(resumed.code(), "conflict", "{resumed:?}");
}

/// A hub on this folder.
fn hub_on(folder: &Path) -> Hub {
    let data_dir = folder.join("hub");
    Hub::with(|config| config.data_dir = data_dir)
}

#[test]
fn what_was_missed_while_the_hub_was_stopped_is_run_once_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub_on(folder.path());
    for (name, missed) in [("once", "once"), ("none", "none")] {
        let mut plan = yearly(name);
        plan["missed"] = json!(missed);
        plan["target"] = json!({"devices": ["d", "e"]});
        make(&hub, &plan);
    }
    drop(hub);
    // Three years pass.
    let store = rusqlite::Connection::open(folder.path().join("hub").join("bellwire.db")).unwrap();
    let past = "UPDATE schedules SET decided_at = decided_at - 3 * 366 * 86400000";
    assert_eq!(store.execute(past, []).unwrap(), 2);
    drop(store);

    let hub = hub_on(folder.path());
    let show = |name: &str| hub.get(&format!("/v1/schedules/{name}")).json();
    hub.until(|| show("once")["last_at"].is_string() && show("none")["skipped"].is_object());
    let run = show("once");
    let command = hub.get(&format!("/v1/commands/{}", text(&run["last_command"]))).json();
    assert_eq!((&command["action"], &command["total"]), (&json!("ping"), &json!(2)));
    let log = hub.get("/v1/audit?verb=send").json();
    let entry = &log["items"][0];
    let object = json!({"device": null, "command": run["last_command"], "action": "ping", "token": null,
        "schedule": run["id"]});
    assert_eq!((&entry["object"], &entry["address"]), (&object, &Value::Null), "{log}");
    assert_eq!((entry["count"].as_u64(), log["items"].as_array().unwrap().len()), (Some(1), 1));
    let year = |time: &Value| text(time).get(..4).unwrap().parse::<u32>().unwrap();
    assert_eq!(year(&run["last_at"]) + 1, year(&run["next_at"]), "the last of three: {run}");
    let skipped = show("none");
    assert_eq!(skipped["skipped"], json!({"at": run["last_at"], "reason": "missed"}));
    assert_eq!((&skipped["last_at"], &skipped["next_at"]), (&Value::Null, &run["next_at"]));
    drop(hub);

    // And not again with the next start.
    let hub = hub_on(folder.path());
    assert_eq!(hub.get("/v1/schedules/once").json(), run);
    assert_eq!(hub.get("/v1/commands").json()["items"].as_array().unwrap().len(), 1);
}
