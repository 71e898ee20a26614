//! Commands to the devices that a selector matches, or to all. Contract, section 3.

use serde_json::{Value, json};

use crate::support::{Answer, Hub, text};

/// More than are stored with the command.
const MANY: usize = 300;

/// Registers devices, of which every other one is in lyon.
fn register(hub: &Hub, count: usize) {
    let mut connection = hub.connect();
    for n in 0..count {
        let site = if n % 2 == 0 { "lyon" } else { "nice" };
        let line = format!("PUT /v1/devices/d{n:03}");
        connection.request(&line, "", json!({"labels": {"site": site}}).to_string().as_bytes());
        assert_eq!(connection.answer_to(&line).status, 201);
    }
}

fn send(hub: &Hub, target: Value) -> Answer {
    hub.post("/v1/commands", &json!({"action": "ping", "target": target}).to_string())
}

fn count(hub: &Hub, id: &str, state: &str) -> u64 {
    hub.get(&format!("/v1/commands/{id}")).json()["counts"][state].as_u64().unwrap_or_default()
}

#[test]
fn a_selector_and_all_name_the_devices_that_match_when_the_command_is_stored() {
    let hub = Hub::start();
    register(&hub, MANY);
    for (target, select, total) in [
        (json!({"select": "site=lyon"}), json!("site=lyon"), MANY / 2),
        (json!({"select": "site notin (lyon),!x"}), json!("site notin (lyon),!x"), MANY / 2),
        (json!({"all": true}), Value::Null, MANY),
    ] {
        let answer = send(&hub, target.clone());
        assert_eq!(answer.status, 202, "{answer:?}");
        let command = answer.json();
        assert_eq!(command["total"], total, "{target}");
        assert_eq!(command["select"], select, "as it was written");
        let id = text(&command["id"]).to_owned();
        // It comes too late.
        hub.put("/v1/devices/later", r#"{"labels":{"site":"lyon"}}"#);
        hub.until(|| count(&hub, &id, "queued") == total as u64);
        assert_eq!(hub.delete("/v1/devices/later").status, 204);
        let shown = hub.get(&format!("/v1/commands/{id}")).json();
        assert_eq!((&shown["total"], &shown["select"]), (&json!(total), &select));
    }
}

#[test]
fn facts_select_too() {
    let hub = Hub::start();
    register(&hub, 2);
    assert_eq!(hub.put("/v1/devices/d001/facts", r#"{"os":"deb12"}"#).status, 200);
    let command = send(&hub, json!({"select": "facts.os=deb12"})).json();
    let page = hub.get(&format!("/v1/commands/{}/deliveries", text(&command["id"]))).json();
    assert_eq!((&command["total"], &page["items"][0]["device"]), (&json!(1), &json!("d001")));
}

#[test]
fn a_selector_that_matches_none_is_a_command_that_is_done() {
    let hub = Hub::start();
    let answer = send(&hub, json!({"select": "site=mars"}));
    assert_eq!(answer.status, 202);
    let command = answer.json();
    assert_eq!((&command["total"], &command["done"]), (&json!(0), &json!(true)));
    let path = format!("/v1/commands/{}", text(&command["id"]));
    assert_eq!(hub.get(&path).json(), command);
    assert_eq!(hub.delete(&path).code(), "illegal_transition");
    let mut events = hub.stream(&format!("{path}/events"));
    events.expect("done");
}

#[test]
fn what_a_scope_leaves_out_is_no_target() {
    let hub = Hub::start();
    register(&hub, 4);
    let admin = hub.token(&json!({"role": "admin"}));
    let lyon = hub.token_by(&admin, &json!({"role": "operator", "select": "site=lyon"}));
    let body = |target: Value| json!({"action": "ping", "target": target}).to_string();
    let sent = |target: Value| hub.with_token(&lyon, "POST /v1/commands", &body(target));
    let command = sent(json!({"all": true})).json();
    assert_eq!(command["total"], 2, "{command}");
    let line = format!("GET /v1/commands/{}/deliveries", text(&command["id"]));
    let page = hub.with_token(&admin, &line, "").json();
    let devices: Vec<&str> =
        page["items"].as_array().unwrap().iter().map(|d| text(&d["device"])).collect();
    assert_eq!(devices, ["d000", "d002"]);
    // It has sent to none, and is shown that, although a command to none is nobody's to see.
    let none = sent(json!({"select": "site=nice"}));
    assert_eq!((none.status, &none.json()["total"]), (202, &json!(0)));
    let preview =
        hub.with_token(&lyon, "POST /v1/commands?dry_run=1", &body(json!({"all": true}))).json();
    assert_eq!((&preview["total"], &preview["devices"]), (&json!(2), &json!(["d000", "d002"])));
}

#[test]
fn one_key_covers_a_command_to_all() {
    let hub = Hub::start();
    register(&hub, MANY);
    let body = json!({"action": "ping", "target": {"all": true}}).to_string();
    let send = || {
        let key = "Idempotency-Key: k\r\n";
        hub.request("POST /v1/commands", key, body.as_bytes()).json()["id"].clone()
    };
    let first = send();
    // Who comes later changes neither the command nor what the key stands for.
    hub.put("/v1/devices/later", "{}");
    assert_eq!(send(), first);
    hub.until(|| count(&hub, text(&first), "queued") == MANY as u64);
    assert_eq!(hub.get("/v1/commands").json()["items"].as_array().unwrap().len(), 1);
}

#[test]
fn a_dry_run_counts_and_stores_nothing() {
    let hub = Hub::with(|config| config.queue_max = 1);
    register(&hub, MANY);
    hub.command("d000", "fills");
    let _online = hub.stream("/v1/devices/d002/stream");
    let body = |target: Value| json!({"action": "ping", "target": target}).to_string();
    let preview = hub.post("/v1/commands?dry_run=1", &body(json!({"select": "site=lyon"}))).json();
    assert_eq!(preview["total"], MANY / 2);
    assert_eq!((&preview["online"], &preview["queue_full"]), (&json!(1), &json!(1)));
    let first: Vec<String> = (0..100).map(|n| format!("d{:03}", n * 2)).collect();
    assert_eq!(preview["devices"], json!(first));
    let named = hub.post("/v1/commands?dry_run=1", &body(json!({"devices": ["d000", "x"]}))).json();
    assert_eq!(named, json!({"total": 2, "online": 0, "queue_full": 1, "devices": ["d000", "x"]}));
    assert_eq!(hub.get("/v1/commands").json()["items"].as_array().unwrap().len(), 1);
}

#[test]
fn a_target_that_is_unclear_is_refused_with_what_to_write() {
    let hub = Hub::start();
    for (target, part) in [
        (json!({"select": ""}), r#"{"all":true}"#),
        (json!({"all": false}), "exactly one of"),
        (json!({"all": true, "device": "d"}), "exactly one of"),
        (json!({"select": "a=b=c"}), "select"),
    ] {
        let answer = send(&hub, target.clone());
        assert_eq!((answer.status, answer.code().as_str()), (400, "bad_request"), "{target}");
        assert!(text(&answer.json()["detail"]).contains(part), "{target}: {answer:?}");
    }
}

#[test]
fn deliveries_come_all_at_once_as_json_lines_or_csv() {
    let hub = Hub::start();
    register(&hub, MANY);
    let command = send(&hub, json!({"all": true})).json();
    let id = text(&command["id"]).to_owned();
    hub.until(|| count(&hub, &id, "queued") == MANY as u64);
    let report = json!({"state": "failed", "exit_code": 2, "stdout": "a \"b\",\nc"}).to_string();
    assert_eq!(hub.post(&format!("/v1/devices/d007/commands/{id}/status"), &report).status, 200);
    let line = |state: &str| format!("GET /v1/commands/{id}/deliveries{state}");

    let lines = hub.request(&line(""), "Accept: application/jsonl\r\n", b"");
    assert_eq!(lines.head.header("content-type"), Some("application/jsonl"));
    let body = String::from_utf8(lines.body).unwrap();
    let listed: Vec<Value> = body.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(listed.len(), MANY);
    assert!(listed.iter().enumerate().all(|(n, d)| d["device"] == format!("d{n:03}")));

    let csv = hub.request(&line("?state=failed"), "Accept: text/csv, */*;q=0.1\r\n", b"");
    assert_eq!(csv.head.header("content-type"), Some("text/csv; charset=utf-8"));
    let csv = String::from_utf8(csv.body).unwrap();
    let (head, rows) = csv.split_once("\r\n").unwrap();
    assert!(head.starts_with("device,state,attempt,exit_code,"), "{head}");
    assert!(rows.starts_with("d007,failed,0,2,,,false,"), "{rows}");
    assert!(rows.ends_with(",\"a \"\"b\"\",\nc\",\r\n"), "{rows}");

    for (accept, expected) in [
        ("text/csv;q=0", "application/json"),
        ("text/csv;q=0.5, application/json", "application/json"),
        ("application/json;q=0.1, text/csv", "text/csv; charset=utf-8"),
        ("application/jsonl, text/csv", "application/jsonl"),
    ] {
        let answer = hub.request(&line(""), &format!("Accept: {accept}\r\n"), b"");
        assert_eq!(answer.head.header("content-type"), Some(expected), "{accept}");
    }
    let paged = hub.request(&line("?limit=1"), "Accept: text/csv\r\n", b"");
    assert_eq!(paged.code(), "bad_request");
    let ghost = "GET /v1/commands/01900000-0000-7000-8000-000000000000/deliveries";
    assert_eq!(hub.request(ghost, "Accept: text/csv\r\n", b"").code(), "unknown_command");
    // Whoever asks for nothing in particular gets a page.
    let page = hub.request(&line(""), "Accept: */*\r\n", b"").json();
    assert_eq!(page["items"].as_array().unwrap().len(), 100);
}
