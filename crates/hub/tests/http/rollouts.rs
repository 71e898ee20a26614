//! Rollouts over the wire: batches, pause, resume, abort, retry. Contract, section 3. When a batch begins is decided in the
//! core, whose simulated world judges it over crashes.

use serde_json::{Value, json};

use crate::support::{Hub, text};

fn register(hub: &Hub, count: usize) {
    for n in 0..count {
        let role = if n == 3 { "canary" } else { "plain" };
        let labels = json!({"labels": {"role": role}}).to_string();
        assert_eq!(hub.put(&format!("/v1/devices/d{n}"), &labels).status, 201);
    }
}

fn roll_out(hub: &Hub, rollout: Value) -> String {
    let body = json!({"action": "ping", "target": {"all": true}, "rollout": rollout}).to_string();
    let answer = hub.post("/v1/commands", &body);
    assert_eq!(answer.status, 202, "{answer:?}");
    text(&answer.json()["id"]).to_owned()
}

fn command(hub: &Hub, id: &str) -> Value {
    hub.get(&format!("/v1/commands/{id}")).json()
}

/// The devices that have begun.
fn begun(hub: &Hub, id: &str) -> Vec<String> {
    let page = hub.get(&format!("/v1/commands/{id}/deliveries")).json();
    let items = page["items"].as_array().unwrap().iter();
    items.map(|delivery| text(&delivery["device"]).to_owned()).collect()
}

fn report(hub: &Hub, id: &str, device: &str, state: &str) {
    let path = format!("/v1/devices/{device}/commands/{id}/status");
    assert_eq!(hub.post(&path, &json!({"state": state}).to_string()).status, 200);
}

#[test]
fn batches_follow_each_other_canaries_first() {
    let hub = Hub::start();
    register(&hub, 5);
    let id = roll_out(&hub, json!({"batch": 2, "canary": "role=canary"}));
    hub.until(|| begun(&hub, &id) == ["d3"]);
    let shown = command(&hub, &id);
    assert_eq!(
        shown["rollout"],
        json!({"state": "running", "batch": 1, "batches": 3, "reason": null})
    );
    assert_eq!(shown["counts"], json!({"queued": 5}), "what has not begun is queued");
    report(&hub, &id, "d3", "succeeded");
    hub.until(|| begun(&hub, &id) == ["d0", "d1", "d3"]);
    report(&hub, &id, "d0", "succeeded");
    assert_eq!(command(&hub, &id)["rollout"]["batch"], 2, "one of two is not all");
    report(&hub, &id, "d1", "failed");
    hub.until(|| begun(&hub, &id).len() == 5);
    report(&hub, &id, "d2", "succeeded");
    report(&hub, &id, "d4", "succeeded");
    hub.until(|| command(&hub, &id)["rollout"]["state"] == "done");
    let shown = command(&hub, &id);
    assert_eq!(
        (&shown["done"], &shown["counts"]),
        (&json!(true), &json!({"succeeded": 4, "failed": 1}))
    );
    // It has ended.
    assert_eq!(hub.post(&format!("/v1/commands/{id}/pause"), "").code(), "conflict");

    // What failed is tried again.
    let retry = hub.post(&format!("/v1/commands/{id}/retry"), "");
    assert_eq!(retry.status, 202, "{retry:?}");
    let retried = retry.json();
    assert_eq!((&retried["total"], &retried["parent"]), (&json!(1), &json!(id)));
    assert_eq!(begun(&hub, text(&retried["id"])), ["d1"]);
    let states = json!({"states": ["expired"]}).to_string();
    assert_eq!(hub.post(&format!("/v1/commands/{id}/retry"), &states).code(), "conflict");
}

#[test]
fn a_rollout_is_paused_resumed_and_aborted() {
    let hub = Hub::start();
    register(&hub, 4);
    let id = roll_out(&hub, json!({"batch": "25%"}));
    let change = |verb: &str| hub.post(&format!("/v1/commands/{id}/{verb}"), "");
    hub.until(|| begun(&hub, &id) == ["d0"]);
    for _ in 0..2 {
        let paused = change("pause");
        assert_eq!((paused.status, &paused.json()["rollout"]["state"]), (200, &json!("paused")));
    }
    report(&hub, &id, "d0", "succeeded");
    assert_eq!(command(&hub, &id)["rollout"]["batch"], 1);
    assert_eq!(change("resume").json()["rollout"]["state"], "running");
    hub.until(|| begun(&hub, &id) == ["d0", "d1"]);
    for _ in 0..2 {
        assert_eq!(change("abort").json()["rollout"]["state"], "aborted");
    }
    assert_eq!(change("resume").code(), "conflict");
    hub.until(|| command(&hub, &id)["counts"]["cancelled"] == 2);
    let page = hub.get(&format!("/v1/commands/{id}/deliveries?state=cancelled")).json();
    assert_eq!(page["items"][0]["error"]["code"], "aborted");
    // What had begun is not touched.
    report(&hub, &id, "d1", "succeeded");
    assert_eq!(command(&hub, &id)["done"], true);
    let plain = text(&hub.command("d0", "ping")["command"]).to_owned();
    assert_eq!(hub.post(&format!("/v1/commands/{plain}/pause"), "").code(), "conflict");
}

#[test]
fn too_many_failures_abort_a_rollout_and_cancel_what_is_under_way() {
    let hub = Hub::start();
    register(&hub, 6);
    let id =
        roll_out(&hub, json!({"batch": 3, "abort": {"percent": 50, "min": 2, "cancel": true}}));
    hub.until(|| begun(&hub, &id).len() == 3);
    report(&hub, &id, "d0", "failed");
    assert_eq!(command(&hub, &id)["rollout"]["state"], "running", "one is less than min");
    report(&hub, &id, "d1", "succeeded");
    hub.until(|| command(&hub, &id)["done"] == true);
    let shown = command(&hub, &id);
    assert_eq!(shown["rollout"]["state"], "aborted");
    assert_eq!(shown["rollout"]["reason"], "1 of 2 ended in a state that aborts it");
    assert_eq!(shown["counts"], json!({"failed": 1, "succeeded": 1, "cancelled": 4}));
}

#[test]
fn a_canary_that_is_none_of_the_targets_is_a_mistake() {
    let hub = Hub::start();
    register(&hub, 2);
    let body = json!({"action": "ping", "target": {"devices": ["d0", "new"]},
        "rollout": {"batch": 1, "canary": "role=canary"}});
    let answer = hub.post("/v1/commands", &body.to_string());
    assert_eq!(answer.code(), "bad_request");
    assert!(text(&answer.json()["detail"]).contains("canary"), "{answer:?}");
    assert_eq!(hub.get("/v1/commands").json()["items"], json!([]));
}

#[test]
fn cancelling_a_command_ends_its_rollout() {
    let hub = Hub::start();
    register(&hub, 4);
    let id = roll_out(&hub, json!({"batch": 1}));
    hub.until(|| begun(&hub, &id).len() == 1);
    let answer = hub.delete(&format!("/v1/commands/{id}"));
    assert!(matches!(answer.status, 200 | 202), "{answer:?}");
    hub.until(|| command(&hub, &id)["counts"] == json!({"cancelled": 4}));
    assert_eq!(command(&hub, &id)["rollout"]["state"], "aborted");
}
