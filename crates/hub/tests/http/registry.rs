//! Lists of devices: filters, orders and pages. Contract, section 6.

use bellwire_proto::{Labels, Timestamp};
use serde_json::json;

use crate::support::{Hub, text};

/// The names on all pages, and how many pages there were.
fn names(hub: &Hub, query: &str) -> String {
    let (mut names, mut after) = (String::new(), String::new());
    loop {
        let page = hub.get(&format!("/v1/devices?{query}{after}"));
        assert_eq!(page.status, 200, "{query}: {page:?}");
        let page = page.json();
        for item in page["items"].as_array().unwrap() {
            names.push_str(text(&item["id"]));
        }
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return names,
        }
    }
}

fn register(hub: &Hub, name: &str, labels: &[(&str, &str)], facts: &str) {
    let labels: Labels = labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    let path = format!("/v1/devices/{name}");
    assert_eq!(hub.put(&path, &json!({ "labels": labels }).to_string()).status, 201);
    assert_eq!(hub.put(&format!("{path}/facts"), facts).status, 200);
}

#[test]
fn devices_are_selected_by_labels_and_facts_and_the_error_names_the_place() {
    let hub = Hub::start();
    register(&hub, "a", &[("site", "lyon"), ("os", "deb11")], r#"{"os":"linux","cpus":4}"#);
    register(&hub, "b", &[("site", "lyon"), ("spare", "")], r#"{"os":"linux","cpus":2}"#);
    register(&hub, "c", &[("site", "oslo"), ("os", "deb12")], r#"{"os":"bsd","secure":true}"#);
    register(&hub, "d", &[], r#"{"disks":["sda"]}"#);
    for (select, expected) in [
        ("site%3Dlyon,os+in+(deb11,deb12),!spare", "a"),
        ("facts.os%3Dlinux", "ab"),
        ("facts.os%3Dlinux,facts.cpus!%3D4", "b"),
        ("facts.secure%3Dtrue", "c"),
        ("!facts.os", "d"),
        ("facts.disks", ""),
        ("site+notin+(lyon)", "cd"),
        ("site,!os", "b"),
    ] {
        for limit in [1, 2, 100] {
            for (order, reversed) in
                [("id", false), ("-id", true), ("-queued", true), ("last_seen_at", false)]
            {
                let mut expected: Vec<char> = expected.chars().collect();
                if reversed {
                    expected.reverse();
                }
                let expected: String = expected.into_iter().collect();
                let listed = names(&hub, &format!("select={select}&limit={limit}&sort={order}"));
                assert_eq!(listed, expected, "{select} by {order}, {limit} a page");
            }
        }
    }
    let refused = hub.get("/v1/devices?select=site%3Dlyon,os+is+x").json();
    assert!(text(&refused["detail"]).contains("at character 14"), "{refused}");
}

#[test]
fn devices_are_sorted_by_name_queue_and_last_contact_in_both_directions() {
    let hub = Hub::start();
    for name in ["a", "b", "c", "d", "e"] {
        register(&hub, name, &[("x", "y")], "{}");
    }
    for (name, queued) in [("d", 3), ("b", 2), ("e", 1), ("a", 1)] {
        (0..queued).for_each(|_| drop(hub.command(name, "ping")));
    }
    // Seen one after the other, and still there: b.
    for name in ["c", "e"] {
        let poll = hub.get(&format!("/v1/devices/{name}/commands?wait=0"));
        assert_eq!(poll.status, 200);
    }
    for limit in [1, 2, 5] {
        let sorted = |query: &str| names(&hub, &format!("{query}&limit={limit}"));
        assert_eq!(sorted("sort=id"), "abcde");
        assert_eq!(sorted("sort=-id"), "edcba");
        // What was sent to e by its poll does not wait any more.
        assert_eq!(sorted("sort=queued"), "ceabd");
        assert_eq!(sorted("sort=-queued"), "dbaec");
        assert_eq!(sorted("sort=-queued&select=x"), "dbaec");
        assert_eq!(sorted("sort=-queued&prefix=b"), "b");
        // A poll counts for 40 s: both are online, and sorted by name behind all others.
        assert_eq!(sorted("sort=last_seen_at"), "abdce");
        assert_eq!(sorted("sort=-last_seen_at"), "ecdba");
        assert_eq!(sorted("sort=-last_seen_at&online=true"), "ec");
        assert_eq!(sorted("sort=-last_seen_at&online=false&select=x"), "dba");
        assert_eq!(sorted("sort=-id&online=true"), "ec");
        assert_eq!(sorted("sort=-queued&online=true"), "ec");
        assert_eq!(sorted("online=false"), "abd");
        assert_eq!(sorted("online=true&select=x&prefix=e"), "e");
    }
    for bad in
        ["sort=name", "sort=", "sort=--id", "status=gone", "unseen=0", "unseen=x", "unseen=11y"]
    {
        assert_eq!(hub.get(&format!("/v1/devices?{bad}")).code(), "bad_request", "{bad}");
    }
    // A cursor is of its order.
    let next = hub.get("/v1/devices?limit=1").json()["next"].clone();
    let other = hub.get(&format!("/v1/devices?limit=1&sort=-queued&after={}", text(&next)));
    assert_eq!(other.code(), "bad_request");
}

#[test]
fn a_device_is_unseen_since_its_last_contact_or_since_it_was_made() {
    let hub = Hub::start();
    register(&hub, "a", &[], "{}");
    register(&hub, "b", &[], "{}");
    let made = hub.get("/v1/devices/b").json()["created_at"].clone();
    let made: Timestamp = text(&made).parse().unwrap();
    let mut stream = hub.stream("/v1/devices/b/stream");
    stream.expect("hello");
    assert_eq!(names(&hub, "unseen=7d"), "");
    // The least that can be asked for: a second after both were made, a has not been seen for as long.
    hub.until(|| hub.driver.now() > made.after(std::time::Duration::from_secs(1)));
    assert_eq!(names(&hub, "unseen=1s"), "a");
    assert_eq!(names(&hub, "unseen=1s&online=true"), "");
    assert_eq!(names(&hub, "unseen=1s&sort=-last_seen_at"), "a");
    assert_eq!(names(&hub, "status=pending"), "");
    assert_eq!(names(&hub, "status=active&sort=-id"), "ba");
    assert_eq!(names(&hub, "status=conflict"), "");
}

/// The tag of an answer with a device.
fn tag(answer: &crate::support::Answer) -> String {
    answer.head.header("etag").unwrap_or_else(|| panic!("no ETag: {answer:?}")).to_owned()
}

#[test]
fn labels_are_merged_and_nothing_else_is_touched() {
    let hub = Hub::start();
    let patch = |body: &str| hub.request("PATCH /v1/devices/a", "", body.as_bytes());
    assert_eq!(patch(r#"{"labels":{"site":"lyon"}}"#).code(), "unknown_device");
    register(&hub, "a", &[("site", "oslo"), ("spare", ""), ("os", "deb12")], r#"{"cpus":4}"#);
    let merged = patch(r#"{"labels":{"site":"lyon","spare":null,"none":null}}"#);
    assert_eq!(merged.status, 200, "{merged:?}");
    let device = merged.json();
    assert_eq!(device["labels"], json!({"site": "lyon", "os": "deb12"}));
    assert_eq!(device["facts"], json!({"cpus": 4}));
    assert_eq!(hub.get("/v1/devices/a").json(), device);
    for unchanged in ["{}", r#"{"labels":{}}"#] {
        assert_eq!(patch(unchanged).json()["labels"], device["labels"], "{unchanged}");
    }
    for (body, code) in [
        (r#"{"labels":{"a b":"c"}}"#, "bad_request"),
        (r#"{"labels":{"a b":null}}"#, "bad_request"),
        (r#"{"labels":{"a":1}}"#, "bad_request"),
        (r#"{"labels":null}"#, "bad_request"),
        (r#"{"labels":["a"]}"#, "bad_request"),
        (r#"{"labels":{"a":"1","a":"2"}}"#, "bad_request"),
        (r#"{"facts":{}}"#, "unknown_field"),
        ("", "bad_request"),
    ] {
        assert_eq!(patch(body).code(), code, "{body}");
    }
    assert_eq!(hub.get("/v1/devices/a").json(), device);
    // Merges alone cannot make them longer than one body can.
    let many = |from: usize| {
        let labels: Labels =
            (from..from + 400).map(|n| (format!("key-{n:055}"), format!("{n:063}"))).collect();
        json!({ "labels": labels }).to_string()
    };
    assert_eq!(patch(&many(0)).status, 200);
    assert_eq!(patch(&many(400)).code(), "payload_too_large");
}

#[test]
fn a_change_with_if_match_is_made_only_to_the_labels_that_it_names() {
    let hub = Hub::start();
    let change = |method: &str, name: &str, if_match: &str, body: &str| {
        let headers = format!("If-Match: {if_match}\r\n");
        hub.request(&format!("{method} /v1/devices/{name}"), &headers, body.as_bytes())
    };
    let lyon = r#"{"labels":{"site":"lyon"}}"#;
    let refused = change("PUT", "a", "*", lyon);
    assert_eq!((refused.status, refused.code().as_str()), (412, "conflict"));
    assert_eq!(refused.json()["status"], 412);
    assert_eq!(hub.get("/v1/devices/a").status, 404, "it was registered all the same");

    let first = tag(&hub.put("/v1/devices/a", lyon));
    assert_eq!(first, tag(&hub.get("/v1/devices/a")));
    // It is of the labels: what happens to the device beside does not change it.
    hub.command("a", "ping");
    hub.get("/v1/devices/a/commands?wait=0");
    assert_eq!(first, tag(&hub.put("/v1/devices/a/facts", "{}")));
    for method in ["PUT", "PATCH"] {
        let before = hub.get("/v1/devices/a");
        let body = format!(r#"{{"labels":{{"by":"{method}"}}}}"#);
        let stale = change(method, "a", "\"stale\"", &body);
        assert_eq!((stale.status, stale.code().as_str()), (412, "conflict"), "{method}");
        assert_eq!(hub.get("/v1/devices/a").json()["labels"], before.json()["labels"]);
        let changed = change(method, "a", &format!("\"stale\", {}", tag(&before)), &body);
        assert_eq!(changed.status, 200, "{method}: {changed:?}");
        assert_ne!(tag(&changed), tag(&before));
        assert_eq!(change(method, "a", &tag(&before), &body).status, 412, "{method}: used again");
        assert_eq!(change(method, "a", "*", &body).status, 200, "{method}");
        assert_eq!(change(method, "a", "tag", &body).code(), "bad_request", "{method}");
    }
    assert_eq!(change("PATCH", "ghost", "*", lyon).code(), "unknown_device");
}

#[test]
fn of_merges_at_the_same_time_none_is_lost() {
    let hub = Hub::start();
    hub.put("/v1/devices/a", r#"{"labels":{}}"#);
    const SENDERS: usize = 8;
    const EACH: usize = 10;
    std::thread::scope(|scope| {
        for sender in 0..SENDERS {
            let hub = &hub;
            scope.spawn(move || {
                for n in 0..EACH {
                    let body = format!(r#"{{"labels":{{"by-{sender}-{n}":"x"}}}}"#);
                    let merged = hub.request("PATCH /v1/devices/a", "", body.as_bytes());
                    assert_eq!(merged.status, 200, "{merged:?}");
                }
            });
        }
    });
    let labels = hub.get("/v1/devices/a").json()["labels"].clone();
    assert_eq!(labels.as_object().unwrap().len(), SENDERS * EACH);
}

#[test]
fn labels_are_listed_with_their_values_the_most_frequent_first() {
    let hub = Hub::start();
    assert_eq!(hub.get("/v1/labels").json(), json!({"items": [], "next": null}));
    register(&hub, "a", &[("site", "lyon"), ("os", "deb11")], r#"{"os":"linux"}"#);
    register(&hub, "b", &[("site", "oslo"), ("spare", "")], "{}");
    register(&hub, "c", &[("site", "oslo"), ("os", "deb12")], "{}");
    let value = |value: &str, devices: u64| json!({"value": value, "devices": devices});
    let key = |key: &str, devices: u64, values: &[serde_json::Value]| json!({"key": key, "devices": devices, "values": values});
    let all = [
        key("os", 2, &[value("deb11", 1), value("deb12", 1)]),
        key("site", 3, &[value("oslo", 2), value("lyon", 1)]),
        key("spare", 1, &[value("", 1)]),
    ];
    assert_eq!(hub.get("/v1/labels").json(), json!({"items": all, "next": null}));
    let first = hub.get("/v1/labels?limit=2").json();
    assert_eq!(first["items"], json!(all[..2]));
    let after = text(&first["next"]);
    let second = hub.get(&format!("/v1/labels?limit=2&after={after}")).json();
    assert_eq!(second, json!({"items": all[2..], "next": null}));
    assert_eq!(hub.get(&format!("/v1/devices?after={after}")).code(), "bad_request");
    // What no device has any more is not there.
    hub.request("PATCH /v1/devices/c", "", br#"{"labels":{"os":null,"site":"lyon"}}"#);
    hub.delete("/v1/devices/b");
    let left = [key("os", 1, &[value("deb11", 1)]), key("site", 2, &[value("lyon", 2)])];
    assert_eq!(hub.get("/v1/labels").json()["items"], json!(left));

    // An operator counts what it sees, and labels nothing unless that is everything.
    let admin = hub.token(&json!({"role": "admin"}));
    let deb11 = hub.token_by(&admin, &json!({"role": "operator", "select": "os=deb11"}));
    let seen = hub.with_token(&deb11, "GET /v1/labels", "").json();
    let seen_values = [key("os", 1, &[value("deb11", 1)]), key("site", 1, &[value("lyon", 1)])];
    assert_eq!(seen["items"], json!(seen_values));
    let refused = hub.with_token(&deb11, "PATCH /v1/devices/a", r#"{"labels":{"x":"y"}}"#);
    assert_eq!(refused.status, 403);
    let listed = hub.with_token(&deb11, "GET /v1/devices?sort=-queued", "").json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    let facts = json!({"role": "operator", "select": "facts.os=linux"}).to_string();
    let of_facts = hub.with_token(&admin, "POST /v1/tokens", &facts);
    assert_eq!(of_facts.code(), "bad_request");
}

#[test]
fn of_many_that_are_online_those_that_a_selector_finds_are_listed_as_well() {
    // More than are gone through by name.
    const ONLINE: usize = 1_010;
    let hub = Hub::start();
    for n in 0..ONLINE {
        assert_eq!(hub.get(&format!("/v1/devices/d{n:04}/commands?wait=0")).status, 200);
    }
    for n in [7, 700, 1_009] {
        hub.put(&format!("/v1/devices/d{n:04}"), r#"{"labels":{"rare":"x"}}"#);
    }
    hub.put("/v1/devices/offline", r#"{"labels":{"rare":"x"}}"#);
    let all: String = (0..ONLINE).map(|n| format!("d{n:04}")).collect();
    assert_eq!(names(&hub, "online=true&limit=999"), all);
    for limit in [1, 2, 3, 100] {
        let sorted = |query: &str| names(&hub, &format!("select=rare&limit={limit}&{query}"));
        assert_eq!(sorted("online=true"), "d0007d0700d1009");
        assert_eq!(sorted("online=true&sort=-id"), "d1009d0700d0007");
        assert_eq!(sorted("sort=last_seen_at"), "offlined0007d0700d1009");
        assert_eq!(sorted("sort=-last_seen_at"), "d1009d0700d0007offline");
        assert_eq!(sorted("sort=-last_seen_at&online=true&prefix=d1"), "d1009");
        assert_eq!(sorted("online=false"), "offline");
    }
}
