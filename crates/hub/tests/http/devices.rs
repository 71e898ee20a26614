//! Devices, and what happens on the hub. Contract, section 6.

use serde_json::{Value, json};

use crate::support::{Hub, text};

#[test]
fn a_device_is_registered_labelled_and_removed() {
    let hub = Hub::start();
    let created = hub.put("/v1/devices/d", r#"{"labels":{"site":"lyon"}}"#);
    assert_eq!(created.status, 201, "{created:?}");
    let device = created.json();
    assert_eq!(device["labels"], json!({"site": "lyon"}));
    assert_eq!((&device["online"], &device["transport"]), (&json!(false), &Value::Null));
    assert_eq!(device.as_object().unwrap().len(), 12, "{device}");
    let replaced = hub.put("/v1/devices/d", r#"{"labels":{"os":"deb12"}}"#);
    assert_eq!((replaced.status, &replaced.json()["labels"]), (200, &json!({"os": "deb12"})));
    assert_eq!(hub.get("/v1/devices/d").json(), replaced.json());
    for (body, code) in [
        (r#"{"labels":{"a b":"c"}}"#, "bad_request"),
        (r#"{"labels":[]}"#, "bad_request"),
        (r#"{"label":{}}"#, "unknown_field"),
        ("nonsense", "bad_request"),
    ] {
        assert_eq!(hub.put("/v1/devices/d", body).code(), code, "{body}");
    }
    let sent = hub.command("d", "a");
    let mut stream = hub.stream("/v1/devices/d/stream");
    stream.expect("hello");
    stream.expect("command");
    let removed = hub.delete("/v1/devices/d");
    assert_eq!((removed.status, removed.body.len()), (204, 0));
    assert_eq!(stream.expect("bye")["reason"], "revoked");
    assert_eq!(stream.block(), None);
    assert_eq!(hub.get("/v1/devices/d").code(), "unknown_device");
    assert_eq!(hub.delete("/v1/devices/d").code(), "unknown_device");
    assert_eq!(hub.report(&sent, r#"{"state":"succeeded"}"#).status, 404);
    let history = hub.get(&format!("/v1/commands/{}", text(&sent["command"]))).json();
    assert_eq!(history["counts"], json!({"cancelled": 1}));
}

#[test]
fn a_page_of_devices_ends_early_where_its_items_would_be_longer_than_4_mib() {
    let hub = Hub::start();
    let facts = format!(r#"{{"text":"{}"}}"#, "x".repeat(16_000));
    for n in 100..380 {
        let device = format!("/v1/devices/d{n}");
        assert_eq!(hub.put(&device, r#"{"labels":{}}"#).status, 201);
        assert_eq!(hub.put(&format!("{device}/facts"), &facts).status, 200);
    }
    for filter in ["", "&online=false"] {
        let (mut listed, mut after) = (Vec::new(), String::new());
        loop {
            let page = hub.get(&format!("/v1/devices?limit=1000{filter}{after}"));
            assert!(page.body.len() <= 4 * 1024 * 1024 + 1024, "{} bytes", page.body.len());
            let page = page.json();
            let items = page["items"].as_array().unwrap().iter();
            listed.extend(items.map(|device| text(&device["id"]).to_owned()));
            let Some(next) = page["next"].as_str() else { break };
            after = format!("&after={next}");
        }
        let all: Vec<String> = (100..380).map(|n| format!("d{n}")).collect();
        assert_eq!(listed, all, "{filter}");
    }
}

#[test]
fn devices_are_listed_by_name_label_and_presence() {
    let hub = Hub::start();
    for (name, site) in [("c", "lyon"), ("a", "lyon"), ("b", "oslo"), ("e", "lyon"), ("d", "oslo")]
    {
        hub.put(&format!("/v1/devices/{name}"), &format!(r#"{{"labels":{{"site":"{site}"}}}}"#));
    }
    let mut streams: Vec<_> =
        ["b", "c", "e"].map(|d| hub.stream(&format!("/v1/devices/{d}/stream"))).into();
    streams.iter_mut().for_each(|stream| drop(stream.expect("hello")));
    let names = |query: &str| {
        let (mut names, mut after) = (String::new(), String::new());
        loop {
            let page = hub.get(&format!("/v1/devices?{query}{after}")).json();
            for item in page["items"].as_array().unwrap() {
                names.push_str(text(&item["id"]));
            }
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => return names,
            }
        }
    };
    assert_eq!(names(""), "abcde");
    assert_eq!(names("limit=2"), "abcde");
    assert_eq!(names("select=site%3Dlyon"), "ace");
    assert_eq!(names("select=site+in+(lyon,oslo),!spare&limit=1"), "abcde");
    for limit in 1..=4 {
        assert_eq!(names(&format!("online=true&limit={limit}")), "bce");
        assert_eq!(names(&format!("online=false&limit={limit}")), "ad");
    }
    assert_eq!(names("online=true&select=site%3Dlyon"), "ce");
    assert_eq!(hub.get("/v1/devices?select=site%20lyon").code(), "bad_request");
}

#[test]
fn a_device_that_listens_is_shown_where_it_is() {
    let hub = Hub::start();
    let mut stream = hub.stream_with("/v1/devices/d/stream", "User-Agent: kiosk/7\r\n");
    stream.expect("hello");
    let device = hub.get("/v1/devices/d").json();
    assert_eq!(device["online"], true);
    assert_eq!(device["transport"], "stream");
    assert_eq!(device["address"], "127.0.0.1");
    assert_eq!(device["agent"], "kiosk/7");
    assert!(device["connected_at"].is_string() && device["last_seen_at"].is_string(), "{device}");
}

#[test]
fn observers_are_notified_of_devices_and_deliveries() {
    let hub = Hub::start();
    let mut events = hub.stream("/v1/events");
    let hello = events.expect("hub");
    assert_eq!(hello["state"], "ready");
    assert!(text(&hello["hub"]).starts_with("bellwire/"));
    let sent = hub.command("d", "a");
    let created = events.expect("device");
    assert_eq!((&created["id"], &created["change"]), (&json!("d"), &json!("created")));
    assert_eq!(events.expect("delivery"), sent);
    let mut stream = hub.stream("/v1/devices/d/stream");
    stream.expect("hello");
    let online = events.expect("device");
    assert_eq!((&online["change"], &online["online"]), (&json!("online"), &json!(true)));
    assert_eq!(events.expect("delivery")["state"], "sent");
    drop(stream);
    let mut changes = Vec::new();
    while !changes.contains(&json!("offline")) {
        let event = events.event();
        if event.field("event") == Some("device") {
            changes.push(event.data()["change"].clone());
        }
    }
    hub.driver.drain();
    loop {
        let event = events.event();
        if event.field("event") == Some("hub") {
            assert_eq!(event.data()["state"], "draining");
            break;
        }
    }
}
