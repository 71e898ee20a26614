//! Looking at commands, watching them, cancelling. Contract, sections 3 and 7.

use serde_json::{Value, json};

use crate::support::{Answer, Hub, text};

fn ids(answer: &Answer, member: &str) -> Vec<String> {
    let page = answer.json();
    let items = page["items"].as_array().unwrap().iter();
    items.map(|item| text(&item[member]).to_owned()).collect()
}

#[test]
fn commands_are_listed_newest_first_and_page_by_page() {
    let hub = Hub::start();
    let sent: Vec<String> =
        (0..5).map(|_| text(&hub.command("d", "a")["command"]).to_owned()).collect();
    let mut listed = Vec::new();
    let mut path = "/v1/commands?limit=2".to_owned();
    loop {
        let page = hub.get(&path);
        listed.extend(ids(&page, "id"));
        let Some(next) = page.json()["next"].as_str().map(str::to_owned) else { break };
        path = format!("/v1/commands?limit=2&after={next}");
    }
    assert_eq!(listed, sent.iter().rev().cloned().collect::<Vec<_>>());
    // A cursor of one list is none of another.
    let next = hub.get("/v1/commands?limit=2").json()["next"].clone();
    assert_eq!(hub.get(&format!("/v1/devices?after={}", text(&next))).code(), "bad_request");
}

#[test]
fn a_page_of_commands_ends_early_where_its_items_would_be_longer_than_4_mib() {
    // A page was bounded in items alone: 1,000 commands of 1 MiB were an answer of 1 GiB.
    const MIB: usize = 1024 * 1024;
    let hub = Hub::with(|config| config.data_bytes_max = MIB);
    // Lengths that fill pages unevenly; one alone is always on some page.
    for kib in [1000, 900, 1000, 1, 1, 800, 1000, 1000, 1000, 1000, 2, 700] {
        let data = "x".repeat(kib * 1024);
        assert_eq!(hub.post("/v1/send/d/a", &data).status, 202);
    }
    let (mut listed, mut pages, mut after) = (Vec::new(), 0, String::new());
    loop {
        let page = hub.get(&format!("/v1/commands?limit=1000{after}"));
        assert!(page.body.len() <= 4 * MIB + 1024, "{} bytes", page.body.len());
        let items = ids(&page, "id");
        assert!(!items.is_empty(), "each page has an item");
        listed.extend(items);
        pages += 1;
        let Some(next) = page.json()["next"].as_str().map(str::to_owned) else { break };
        after = format!("&after={next}");
    }
    assert_eq!(pages, 3, "as few as can be");
    let mut each_once = listed.clone();
    each_once.sort_unstable();
    each_once.dedup();
    assert_eq!((listed.len(), each_once.len()), (12, 12));
}

#[test]
fn commands_are_found_by_what_one_delivery_of_them_is() {
    let hub = Hub::start();
    let ping = hub.command("d", "ping");
    let stop = hub.command("e", "stop");
    assert_eq!(hub.report(&stop, r#"{"state":"failed"}"#).status, 200);
    let find = |query: &str| ids(&hub.get(&format!("/v1/commands?{query}")), "id");
    let (ping, stop) = (text(&ping["command"]).to_owned(), text(&stop["command"]).to_owned());
    assert_eq!(find("device=d"), [ping.as_str()]);
    assert_eq!(find("state=failed"), [stop.as_str()]);
    assert_eq!(find("action=stop"), [stop.as_str()]);
    assert_eq!(find("device=e&state=failed&action=stop"), [stop.as_str()]);
    assert!(find("device=d&state=failed").is_empty());
    assert!(find("device=nobody").is_empty());
}

#[test]
fn commands_are_found_by_the_beginning_of_their_id() {
    let hub = Hub::start();
    let sent = ["d", "e"].map(|device| text(&hub.command(device, "a")["command"]).to_owned());
    let find = |query: &str| ids(&hub.get(&format!("/v1/commands?{query}")), "id");
    assert_eq!(find(&format!("id={}", sent[0])), [sent[0].as_str()]);
    let mut all = sent.to_vec();
    all.sort_unstable_by(|a, b| b.cmp(a));
    assert_eq!(find("id=0"), all, "the last ids first");
    assert_eq!(find("id=0&limit=1"), all[..1]);
    assert!(find("id=ffff").is_empty());
    for bad in ["id=", "id=xyz", "id=0&device=d", "id=0&after=x", "id=0&id=1"] {
        assert_eq!(hub.get(&format!("/v1/commands?{bad}")).code(), "bad_request", "{bad}");
    }
    assert_eq!(hub.get("/v1/commands?id=0&x=1").code(), "unknown_field");
}

#[test]
fn devices_are_found_by_the_beginning_of_their_name() {
    let hub = Hub::start();
    for device in ["a", "ab", "abc", "b", "..."] {
        hub.command(device, "x");
    }
    let find = |query: &str| ids(&hub.get(&format!("/v1/devices?{query}")), "id");
    assert_eq!(find("prefix=ab"), ["ab", "abc"]);
    assert_eq!(find("prefix=ab&online=0"), ["ab", "abc"]);
    assert_eq!(find("prefix=ab&limit=1"), ["ab"]);
    assert_eq!(find("prefix=.."), ["..."]);
    assert_eq!(find("prefix=").len(), 5);
    assert!(find("prefix=abcd").is_empty());
    let page = hub.get("/v1/devices?prefix=ab&limit=1").json();
    assert_eq!(find(&format!("prefix=ab&after={}", text(&page["next"]))), ["abc"]);
    assert_eq!(hub.get("/v1/devices?prefix=a%20b").code(), "bad_request");
}

#[test]
fn what_a_queued_delivery_waits_for_is_listed_by_device_and_page_by_page() {
    let hub = Hub::start();
    let to = |devices: &str, more: &str| {
        let body = format!(r#"{{"action":"a","target":{{"devices":[{devices}]}}{more}}}"#);
        text(&hub.post("/v1/commands", &body).json()["id"]).to_owned()
    };
    let now = to(r#""c","a","b""#, "");
    let later = to(r#""a""#, r#","not_before":"2100-01-01T00:00:00Z""#);
    let waits = |id: &str, query: &str| hub.get(&format!("/v1/commands/{id}/waits{query}")).json();
    assert_eq!(
        waits(&later, "")["items"],
        json!([{"device":"a","reason":"scheduled","since":null,"until":"2100-01-01T00:00:00.000Z","behind":null}])
    );
    let first = waits(&now, "?limit=2");
    let devices = |page: &Value| -> Vec<Value> {
        page["items"].as_array().unwrap().iter().map(|wait| wait["device"].clone()).collect()
    };
    assert_eq!(devices(&first), ["a", "b"]);
    let second = waits(&now, &format!("?limit=2&after={}", text(&first["next"])));
    assert_eq!((devices(&second), &second["next"]), (vec!["c".into()], &Value::Null));
    assert_eq!(second["items"][0]["reason"], "offline");

    hub.delete(&format!("/v1/commands/{now}"));
    assert_eq!(waits(&now, "")["items"], json!([]), "what has ended waits for nothing");
    let unknown = "01900000-0000-7000-8000-000000000000";
    assert_eq!(hub.get(&format!("/v1/commands/{unknown}/waits")).code(), "unknown_command");
}

#[test]
fn deliveries_are_looked_at_through_their_command() {
    let hub = Hub::start();
    let sent = hub.command("d", "a");
    let id = text(&sent["command"]);
    let path = format!("/v1/commands/{id}/deliveries");
    assert_eq!(hub.get(&path).json(), json!({"items": [sent], "next": null}));
    assert_eq!(hub.get(&format!("{path}?state=failed")).json()["items"], json!([]));
    assert_eq!(hub.get(&format!("{path}?state=none")).code(), "bad_request");
    let nobody = "/v1/commands/01900000-0000-7000-8000-000000000000";
    for path in [nobody.to_owned(), format!("{nobody}/deliveries"), format!("{nobody}/events")] {
        let answer = hub.get(&path);
        assert_eq!((answer.status, answer.code().as_str()), (404, "unknown_command"), "{path}");
    }
    assert_eq!(hub.delete(nobody).code(), "unknown_command");
}

#[test]
fn the_events_of_a_command_go_to_its_end() {
    let hub = Hub::start();
    let sent = hub.command("d", "a");
    let path = format!("/v1/commands/{}/events", text(&sent["command"]));
    let mut events = hub.stream(&path);
    assert_eq!(events.head.header("content-type"), Some("text/event-stream"));
    assert_eq!(events.expect("delivery"), sent);
    hub.report(&sent, r#"{"state":"running","progress":40}"#);
    let running = events.expect("delivery");
    assert_eq!((&running["state"], &running["progress"]), (&json!("running"), &json!(40)));
    hub.report(&sent, r#"{"state":"succeeded"}"#);
    assert_eq!(events.expect("delivery")["state"], "succeeded");
    let done = events.expect("done");
    assert_eq!((&done["done"], &done["counts"]), (&json!(true), &json!({"succeeded": 1})));
    assert_eq!(events.block(), None);

    // A later observer gets the final state, and the end.
    let mut late = hub.stream(&path);
    assert_eq!(late.expect("delivery")["state"], "succeeded");
    assert_eq!(late.expect("done"), done);
    assert_eq!(late.block(), None);
}

#[test]
fn what_was_never_sent_is_cancelled_at_once() {
    let hub = Hub::start();
    let sent = hub.command("d", "a");
    let path = format!("/v1/commands/{}", text(&sent["command"]));
    let cancelled = hub.delete(&path);
    assert_eq!(cancelled.status, 200, "{cancelled:?}");
    assert_eq!(cancelled.json()["counts"], json!({"cancelled": 1}));
    let again = hub.delete(&path);
    assert_eq!((again.status, again.code().as_str()), (409, "illegal_transition"));
    assert_eq!(again.json()["delivery"]["state"], "cancelled");
    assert_eq!(hub.delete(&format!("{path}?force=maybe")).code(), "bad_request");
    assert_eq!(hub.delete(&format!("{path}?forced=1")).code(), "unknown_field");
}

#[test]
fn a_running_delivery_is_cancelled_at_its_device_and_answers() {
    let hub = Hub::start();
    let mut device = hub.stream("/v1/devices/d/stream");
    device.expect("hello");
    let sent = hub.command("d", "a");
    device.expect("command");
    hub.report(&sent, r#"{"state":"running"}"#);
    let path = format!("/v1/commands/{}", text(&sent["command"]));
    let asked = hub.delete(&path);
    assert_eq!((asked.status, &asked.json()["counts"]), (202, &json!({"cancelling": 1})));
    assert_eq!(device.expect("cancel"), json!({"id": sent["command"], "seq": sent["seq"]}));
    let answered = hub.report(&sent, r#"{"state":"cancelled"}"#);
    assert_eq!((answered.status, &answered.json()["state"]), (200, &json!("cancelled")));
}

#[test]
fn force_ends_it_on_the_side_of_the_hub() {
    let hub = Hub::start();
    let sent = hub.command("d", "a");
    hub.report(&sent, r#"{"state":"running"}"#);
    let path = format!("/v1/commands/{}?force=true", text(&sent["command"]));
    let forced = hub.delete(&path);
    assert_eq!((forced.status, &forced.json()["counts"]), (200, &json!({"cancelled": 1})));
    let late = hub.report(&sent, r#"{"state":"succeeded"}"#);
    assert_eq!((late.status, &late.json()["late"]), (200, &Value::Bool(true)));
}
