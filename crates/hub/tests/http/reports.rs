//! Reporting: one delivery, a batch, facts. Contract, section 5.

use serde_json::{Value, json};

use crate::support::{Hub, text};

#[test]
fn a_report_moves_its_delivery() {
    let hub = Hub::start();
    let sent = hub.command("d", "a");
    let running = hub.report(&sent, r#"{"state":"running","rev":1,"progress":33.5}"#);
    assert_eq!(running.status, 200, "{running:?}");
    assert_eq!(running.json()["state"], "running");
    assert_eq!((&running.json()["rev"], &running.json()["progress"]), (&json!(1), &json!(33.5)));
    let body = r#"{"state":"failed","rev":2,"exit_code":-1,"stderr":"a\nb","truncated":true,
        "result":{"n":1.50},"error":{"code":"exit_status","message":null}}"#;
    let failed = hub.report(&sent, body);
    assert!(failed.text().contains(r#""result":{"n":1.50},"#), "{}", failed.text());
    let failed = failed.json();
    assert_eq!(failed["exit_code"], -1);
    assert_eq!(failed["stderr"], "a\nb");
    assert_eq!(failed["progress"], 33.5, "an absent member does not change");
    assert_eq!(failed["error"], json!({"code": "exit_status", "message": null}));

    // An older rev changes nothing, and the transition is not even checked.
    let old = hub.report(&sent, r#"{"state":"accepted","rev":2}"#);
    assert_eq!((old.status, old.json()), (200, failed.clone()));
    let illegal = hub.report(&sent, r#"{"state":"accepted","rev":3}"#);
    assert_eq!((illegal.status, illegal.code().as_str()), (409, "illegal_transition"));
    assert_eq!(illegal.json()["delivery"], failed);
}

#[test]
fn a_report_that_is_none_is_refused() {
    let hub = Hub::start();
    let sent = hub.command("d", "a");
    let big = "x".repeat(64 * 1024 + 1);
    for (body, code) in [
        ("", "bad_request"),
        ("{}", "bad_request"),
        ("[]", "bad_request"),
        (r#"{"state":"queued"}"#, "bad_request"),
        (r#"{"state":"running","state":"running"}"#, "bad_request"),
        (r#"{"state":"running","pogress":1}"#, "unknown_field"),
        (&format!(r#"{{"state":"failed","stdout":"{big}"}}"#), "payload_too_large"),
        (&format!(r#"{{"state":"failed"}}{}"#, " ".repeat(1024 * 1024)), "payload_too_large"),
    ] {
        let short: String = body.chars().take(50).collect();
        assert_eq!(hub.report(&sent, body).code(), code, "{short}");
    }
    let path = format!("/v1/devices/e/commands/{}/status", text(&sent["command"]));
    assert_eq!(hub.post(&path, r#"{"state":"running"}"#).code(), "unknown_command");
    assert_eq!(hub.get("/v1/commands").json()["items"][0]["counts"], json!({"queued": 1}));
}

#[test]
fn a_batch_is_answered_item_by_item_in_its_order() {
    let hub = Hub::with(|config| config.max_in_flight = 8);
    let (one, two) = (hub.command("d", "a"), hub.command("d", "b"));
    let elsewhere = hub.command("e", "a");
    let (one, two) = (text(&one["command"]), text(&two["command"]));
    let items = json!([
        {"command": one, "state": "accepted"},
        {"command": two, "state": "nonsense"},
        {"command": one, "state": "running", "progress": 1},
        {"command": elsewhere["command"], "state": "running"},
        {"state": "running"},
        {"command": one, "state": "succeeded"},
        {"command": one, "state": "running"},
        7,
    ]);
    let answer = hub.post("/v1/devices/d/status", &items.to_string());
    assert_eq!(answer.status, 200, "{answer:?}");
    let outcomes = answer.json();
    let answered: Vec<_> = outcomes
        .as_array()
        .unwrap()
        .iter()
        .map(|o| {
            let what = if o["delivery"].is_null() {
                &o["problem"]["code"]
            } else {
                &o["delivery"]["state"]
            };
            assert_eq!(o.as_object().unwrap().len(), 3, "{o}");
            (o["command"].clone(), o["status"].as_u64().unwrap(), text(what).to_owned())
        })
        .collect();
    let (one, two) = (json!(one), json!(two));
    let expected = [
        (one.clone(), 200, "accepted"),
        (two, 400, "bad_request"),
        (one.clone(), 200, "running"),
        (elsewhere["command"].clone(), 404, "unknown_command"),
        (Value::Null, 400, "bad_request"),
        (one.clone(), 200, "succeeded"),
        (one, 409, "illegal_transition"),
        (Value::Null, 400, "bad_request"),
    ];
    assert_eq!(answered, expected.map(|(c, s, w)| (c, s, w.to_owned())));
}

#[test]
fn a_batch_preserves_the_order_of_one_delivery() {
    let hub = Hub::start();
    let sent = hub.command("d", "a");
    let item = |n: usize| json!({"command": sent["command"], "state": "running", "rev": n + 1, "progress": n % 100});
    let items: Vec<Value> = (0..1000).map(item).collect();
    let answer = hub.post("/v1/devices/d/status", &json!(items).to_string()).json();
    for (n, outcome) in answer.as_array().unwrap().iter().enumerate() {
        assert_eq!(outcome["delivery"]["rev"], n + 1, "item {n}: {outcome}");
        assert_eq!(outcome["delivery"]["progress"], n % 100, "item {n}");
    }
}

#[test]
fn a_batch_that_is_none_is_refused() {
    let hub = Hub::start();
    hub.command("d", "a");
    for (body, code) in [("", "bad_request"), ("{}", "bad_request"), ("[1,]", "bad_request")] {
        assert_eq!(hub.post("/v1/devices/d/status", body).code(), code, "{body}");
    }
    let many = format!("[{}]", vec!["0"; 1001].join(","));
    assert_eq!(hub.post("/v1/devices/d/status", &many).code(), "payload_too_large");
    assert_eq!(hub.post("/v1/devices/d/status", "[]").text(), "[]");
    assert_eq!(hub.post("/v1/devices/nobody/status", "[]").code(), "unknown_device");
}

#[test]
fn facts_are_reported_by_a_known_device() {
    let hub = Hub::start();
    let path = "/v1/devices/d/facts";
    assert_eq!(hub.put(path, r#"{"os":"deb12"}"#).code(), "unknown_device");
    hub.put("/v1/devices/d", "{}");
    let answer = hub.put(path, r#"{"os":"deb12","load":1.50}"#);
    assert_eq!(answer.status, 200);
    assert!(answer.text().contains(r#""facts":{"os":"deb12","load":1.50}"#), "{}", answer.text());
    let many: Vec<String> = (0..101).map(|n| format!("\"k{n}\":0")).collect();
    for (body, code) in [
        ("[]", "bad_request"),
        ("", "bad_request"),
        (&format!("{{{}}}", many.join(",")), "payload_too_large"),
        (&format!("{{\"k\":\"{}\"}}", "x".repeat(16 * 1024)), "payload_too_large"),
    ] {
        assert_eq!(hub.put(path, body).code(), code);
    }
}

#[test]
fn the_answer_to_a_batch_is_bounded_and_each_item_still_has_its_status() {
    // A batch of 75 KB about one delivery with a long output was answered with 812 MB.
    let hub = Hub::start();
    let sent = hub.command("d", "a");
    let long = "\u{1}".repeat(64 * 1024);
    let report = json!({"state": "succeeded", "stdout": long, "stderr": long});
    assert_eq!(hub.report(&sent, &report.to_string()).status, 200);
    let good = json!({"command": sent["command"], "state": "succeeded"});
    let bad = json!({"command": sent["command"], "state": "running"});
    let items: Vec<_> = (0..1000).map(|n| if n % 2 == 0 { &good } else { &bad }).collect();

    let answer = hub.post("/v1/devices/d/status", &json!(items).to_string());
    assert_eq!(answer.status, 200);
    let most = 4 * 1024 * 1024 + 1000 * 400;
    assert!(answer.body.len() <= most, "{} bytes", answer.body.len());
    let outcomes = answer.json();
    let outcomes = outcomes.as_array().unwrap();
    assert_eq!(outcomes.len(), 1000);
    assert_eq!(outcomes[0]["delivery"]["state"], "succeeded", "the first ones fit");
    assert_eq!(outcomes[1]["problem"]["delivery"]["state"], "succeeded");
    for pair in outcomes.chunks(2) {
        assert_eq!((&pair[0]["status"], &pair[1]["status"]), (&json!(200), &json!(409)));
        assert_eq!(pair[1]["problem"]["code"], "illegal_transition");
        assert_eq!(pair[0].as_object().unwrap().len(), 3, "every member is there");
    }
    assert_eq!(outcomes[998]["delivery"], Value::Null);
    assert!(outcomes[999]["problem"].get("delivery").is_none());
}
