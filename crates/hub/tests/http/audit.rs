//! The audit log over the wire. Contract, section 6, "Audit".

use serde_json::{Value, json};

use crate::support::{Answer, Hub, text};
use crate::tokens::Made;

fn admin(hub: &Hub) -> Made {
    hub.token(&json!({"role": "admin"}))
}

fn entries(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["items"].as_array().unwrap().clone()
}

impl Hub {
    fn audit(&self, by: &Made, query: &str) -> Vec<Value> {
        entries(&self.with_token(by, &format!("GET /v1/audit?{query}"), ""))
    }

    /// The entries as lines `verb status count`, oldest first.
    fn logged(&self, by: &Made, query: &str) -> Vec<String> {
        let line = |e: &Value| format!("{} {} {}", text(&e["verb"]), e["status"], e["count"]);
        self.audit(by, query).iter().rev().map(line).collect()
    }
}

#[test]
fn what_is_done_is_told_with_who_whom_where_and_how_it_ended() {
    let hub = Hub::start();
    let admin = admin(&hub);
    hub.with_token(&admin, "PUT /v1/devices/kiosk", "{}");
    let sent = hub.with_token(&admin, "POST /v1/send/kiosk/ping", "").json();
    let command = text(&sent["command"]).to_owned();
    hub.with_token(&admin, &format!("DELETE /v1/commands/{command}"), "");
    let many = json!({"action": "ping", "target": {"devices": ["kiosk", "kiosk"]}});
    hub.with_token(&admin, "POST /v1/commands", &many.to_string());
    let device = hub.token_by(&admin, &json!({"role": "device", "device": "kiosk"}));
    hub.with_token(&admin, &format!("DELETE /v1/tokens/{}", device.id), "");
    let join = hub.token_by(&admin, &json!({"role": "join", "approve": true}));
    hub.with_token(&join, "POST /v1/enroll", r#"{"device":"new"}"#);
    hub.with_token(&admin, "POST /v1/devices/new/approve", "");
    hub.with_token(&admin, "DELETE /v1/devices/kiosk", "");
    assert_eq!(
        hub.logged(&admin, ""),
        [
            "token.create 201 1",
            "device.put 201 1",
            "send 202 1",
            "cancel 202 1",
            "send 202 1",
            "token.create 201 1",
            "token.revoke 204 1",
            "token.create 201 1",
            "device.enroll 202 1",
            "device.approve 200 1",
            "device.delete 204 1",
        ]
    );
    let all = hub.audit(&admin, "");
    let send = all.iter().rev().find(|e| e["verb"] == "send").unwrap();
    assert_eq!(send["actor"], json!({"token": admin.id, "role": "admin"}));
    assert_eq!(send["address"], "127.0.0.1");
    let object = json!({"device": "kiosk", "command": command, "action": "ping", "token": null,
        "schedule": null});
    assert_eq!(send["object"], object);
    assert_eq!(
        all.last().unwrap()["actor"],
        json!({"token": null, "role": "admin"}),
        "an open hub"
    );
    let enrolled = all.iter().find(|e| e["verb"] == "device.enroll").unwrap();
    assert_eq!(enrolled["actor"], json!({"token": join.id, "role": "join"}));
    assert_eq!(enrolled["object"]["device"], "new");
    let whole = hub.with_token(&admin, "GET /v1/audit", "").body;
    let whole = String::from_utf8(whole).unwrap();
    for made in [&admin, &device, &join] {
        assert!(!whole.contains(&made.secret[20..]), "a secret is in the log");
    }
    // The device and its token are gone, and their history is not.
    assert!(hub.logged(&admin, "device=kiosk").contains(&"send 202 1".to_owned()));
}

#[test]
fn what_is_done_to_a_schedule_is_in_the_audit_log() {
    let hub = Hub::start();
    let admin = admin(&hub);
    let plan = |name: &str, cron: &str| json!({"name": name, "cron": cron, "action": "ping", "target": {"device": "d"}});
    let made = hub.with_token(&admin, "POST /v1/schedules", &plan("a", "@yearly").to_string());
    let id = text(&made.json()["id"]).to_owned();
    for line in ["POST /v1/schedules", "PATCH /v1/schedules/a"] {
        let body = plan("a", "@monthly").to_string();
        hub.with_token(&admin, line, &body);
    }
    for line in ["a/pause", "a/pause", "a/resume"] {
        hub.with_token(&admin, &format!("POST /v1/schedules/{line}"), "");
    }
    hub.with_token(&admin, "DELETE /v1/schedules/a", "");
    assert_eq!(
        hub.logged(&admin, ""),
        [
            "token.create 201 1",
            "schedule.create 201 1",
            "schedule.create 409 1",
            "schedule.change 200 1",
            "schedule.pause 200 1",
            "schedule.resume 200 1",
            "schedule.delete 204 1",
        ],
        "the second pause changed nothing"
    );
    let all = hub.audit(&admin, "");
    let done =
        |entry: &&Value| text(&entry["verb"]).starts_with("schedule.") && entry["code"].is_null();
    for entry in all.iter().filter(done) {
        assert_eq!(entry["object"]["schedule"], id, "{entry}");
        assert_eq!(entry["actor"], json!({"token": admin.id, "role": "admin"}), "{entry}");
    }
}

#[test]
fn refused_calls_are_told_with_their_number_and_not_their_flood() {
    let hub = Hub::start();
    let admin = admin(&hub);
    let metrics = hub.token_by(&admin, &json!({"role": "metrics"}));
    for _ in 0..20 {
        assert_eq!(hub.get("/v1/devices").status, 401);
        assert_eq!(hub.with_token(&metrics, "DELETE /v1/devices/d", "").status, 403);
    }
    let refused: Vec<Value> =
        hub.audit(&admin, "").into_iter().filter(|e| !e["code"].is_null()).collect();
    let row = |code: &str| refused.iter().find(|e| e["code"] == code).unwrap();
    assert_eq!(refused.len(), 2, "{refused:?}");
    assert_eq!(row("unauthenticated")["count"], 20);
    assert_eq!(row("unauthenticated")["actor"], json!({"token": null, "role": null}));
    assert_eq!(row("forbidden")["count"], 20);
    assert_eq!(row("forbidden")["actor"]["token"], metrics.id);
    assert_eq!(
        (&row("forbidden")["verb"], &row("forbidden")["object"]["device"]),
        (&json!("device.delete"), &json!("d"))
    );
    assert_eq!(hub.get("/v1/devices").status, 401);
    let again = hub.audit(&admin, "");
    assert_eq!(again.iter().find(|e| e["code"] == "unauthenticated").unwrap()["count"], 21);
    // An operator's mistakes are logged too; what reads or reports is not.
    assert_eq!(hub.with_token(&admin, "POST /v1/send/nobody/ping", "").status, 404);
    assert_eq!(hub.with_token(&admin, "GET /v1/devices/nobody", "").status, 404);
    assert_eq!(hub.logged(&admin, "device=nobody"), ["send 404 1"]);
}

#[test]
fn the_log_is_filtered_and_paged_and_for_admins_alone() {
    let hub = Hub::start();
    let admin = admin(&hub);
    let operator = hub.token_by(&admin, &json!({"role": "operator"}));
    for n in 0..5 {
        hub.with_token(&admin, &format!("PUT /v1/devices/d{n}"), "{}");
    }
    assert_eq!(hub.with_token(&operator, "PUT /v1/devices/d1", "{}").status, 200);
    assert_eq!(hub.with_token(&operator, "GET /v1/audit", "").code(), "forbidden");
    assert_eq!(hub.get("/v1/audit").code(), "unauthenticated");
    assert_eq!(hub.logged(&admin, "device=d1"), ["device.put 201 1", "device.put 200 1"]);
    assert_eq!(
        hub.logged(&admin, &format!("actor={}", operator.id)),
        ["device.put 200 1", "read 403 1"]
    );
    assert_eq!(hub.logged(&admin, "verb=token.create").len(), 2);
    assert_eq!(hub.logged(&admin, "since=1h").len(), 10);
    assert_eq!(hub.logged(&admin, "since=2999-01-01T00:00:00Z"), [""; 0]);
    for bad in ["since=soon", "device=a%2Fb", "limit=0", "after=x", "colour=red"] {
        let answer = hub.with_token(&admin, &format!("GET /v1/audit?{bad}"), "");
        assert_eq!(answer.status, 400, "{bad}");
    }
    let (mut ids, mut after) = (Vec::new(), String::new());
    loop {
        let page = hub.with_token(&admin, &format!("GET /v1/audit?limit=3{after}"), "").json();
        ids.extend(page["items"].as_array().unwrap().iter().map(|e| e["id"].as_u64().unwrap()));
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(ids.len(), 10);
    assert!(ids.windows(2).all(|two| two[0] > two[1]), "newest first: {ids:?}");
}

#[test]
fn the_log_is_followed_and_resumed_and_the_stream_ends_with_its_token() {
    let hub = Hub::start();
    let admin = admin(&hub);
    let second = hub.token_by(&admin, &json!({"role": "admin"}));
    let accept = "Accept: text/event-stream\r\n";
    let mut all = hub.stream_with("/v1/audit", &format!("{accept}{}", second.header()));
    let mut some = hub.stream_with("/v1/audit?verb=send", &format!("{accept}{}", second.header()));
    hub.with_token(&admin, "PUT /v1/devices/d", "{}");
    hub.with_token(&admin, "POST /v1/send/d/ping", "");
    let first = all.event();
    assert_eq!(
        (first.field("event"), &first.data()["verb"]),
        (Some("audit"), &json!("device.put"))
    );
    let id = first.field("id").unwrap().to_owned();
    assert_eq!(first.data()["id"].to_string(), id);
    assert_eq!(all.expect("audit")["verb"], "send");
    assert_eq!(some.expect("audit")["verb"], "send");
    let resumed = format!("{accept}Last-Event-ID: {id}\r\n{}", second.header());
    let mut resumed = hub.stream_with("/v1/audit", &resumed);
    assert_eq!(resumed.expect("audit")["verb"], "send", "what came after that id, at once");
    hub.with_token(&admin, &format!("DELETE /v1/tokens/{}", second.id), "");
    assert_eq!(some.expect("bye")["reason"], "revoked");
    assert_eq!(some.block(), None);
    let mut last = hub.stream_with("/v1/audit", &format!("{accept}{}", admin.header()));
    hub.driver.drain();
    assert_eq!(last.expect("bye")["reason"], "draining");
}

#[test]
fn a_merge_of_labels_is_logged_as_a_change_of_the_device_and_one_whose_condition_fails_as_refused()
{
    let hub = Hub::start();
    let admin = admin(&hub);
    hub.with_token(&admin, "PUT /v1/devices/d", "{}");
    let patch = r#"{"labels":{"site":"lyon"}}"#;
    assert_eq!(hub.with_token(&admin, "PATCH /v1/devices/d", patch).status, 200);
    let headers = format!("If-Match: \"other\"\r\n{}", admin.header());
    assert_eq!(hub.request("PATCH /v1/devices/d", &headers, patch.as_bytes()).status, 412);
    assert_eq!(hub.with_token(&admin, "PATCH /v1/devices/ghost", patch).status, 404);
    assert_eq!(
        hub.logged(&admin, "verb=device.put"),
        ["device.put 201 1", "device.put 200 1", "device.put 412 1", "device.put 404 1"]
    );
    let refused = hub.audit(&admin, "device=d").remove(0);
    assert_eq!(
        (&refused["code"], &refused["actor"]["token"]),
        (&json!("conflict"), &json!(admin.id))
    );
}

#[test]
fn a_command_to_many_is_one_entry_and_so_is_what_is_done_to_its_rollout() {
    let hub = Hub::start();
    let admin = admin(&hub);
    let other = hub.token_by(&admin, &json!({"role": "operator", "select": "site=mars"}));
    for n in 0..130 {
        hub.with_token(&admin, &format!("PUT /v1/devices/d{n:03}"), "{}");
    }
    let post = |path: &str, body: &str| hub.with_token(&admin, &format!("POST {path}"), body);
    let to_all = json!({"action": "ping", "target": {"all": true}});
    assert_eq!(post("/v1/commands?dry_run=1", &to_all.to_string()).json()["total"], 130);
    let plain = post("/v1/commands", &to_all.to_string()).json();
    let rollout =
        json!({"action": "ping", "target": {"all": true}, "rollout": {"batch": 1}}).to_string();
    let rolled_out = text(&post("/v1/commands", &rollout).json()["id"]).to_owned();
    let path = format!("/v1/commands/{rolled_out}");
    // An abort cancels what has not begun, which this one of them is to have.
    hub.until(|| {
        let begun = hub.with_token(&admin, &format!("GET {path}/deliveries"), "").json();
        begun["items"].as_array().is_some_and(|begun| begun.len() == 1)
    });
    for verb in ["pause", "pause", "resume", "abort", "resume"] {
        post(&format!("{path}/{verb}"), "");
    }
    assert_eq!(hub.with_token(&other, &format!("POST {path}/pause"), "").status, 404);
    hub.until(|| {
        hub.with_token(&admin, &format!("GET {path}"), "").json()["counts"]["cancelled"] == 129
    });
    let retry = post(&format!("{path}/retry"), r#"{"states":["cancelled"]}"#).json();
    let done: Vec<String> = hub.logged(&admin, "limit=200").split_off(132);
    assert_eq!(
        done,
        [
            "send 202 1",
            "send 202 1",
            "pause 200 1",
            "resume 200 1",
            "abort 200 1",
            "resume 409 1",
            "pause 404 1",
            "retry 202 1",
        ],
        "a dry run, and what changes nothing, have none"
    );
    let entries = hub.audit(&admin, "");
    let command = |n: usize| entries[n]["object"]["command"].clone();
    assert_eq!(command(0), retry["id"], "the new one");
    assert_eq!(command(3), rolled_out);
    assert_eq!((command(7), &entries[7]["object"]["device"]), (plain["id"].clone(), &Value::Null));
}

#[test]
fn a_repeated_request_with_its_key_is_told_once() {
    let hub = Hub::start();
    let admin = admin(&hub);
    hub.with_token(&admin, "PUT /v1/devices/d", "{}");
    let headers = format!("Idempotency-Key: k\r\n{}", admin.header());
    for _ in 0..3 {
        assert!(hub.request("POST /v1/send/d/ping", &headers, b"").status < 300);
    }
    assert_eq!(hub.logged(&admin, "verb=send"), ["send 202 1"]);
}
