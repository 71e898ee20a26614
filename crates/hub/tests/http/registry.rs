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
