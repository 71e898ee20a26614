//! Promise: what an operator's selector does not select is, for that operator, not there: on every route of the table.
//!
//! Each route is called about something outside of the selector and about the same that does not exist. Both answers are the
//! same bytes, save for the name that was asked for. The calls are made of the table, so that a new route is in this by itself.

use bellwire_hub::http::routes;
use serde_json::json;

use crate::support::{Closed, text};

/// Something that can stand in a path or a body, outside of the selector and where nothing is.
#[derive(Clone, Copy)]
struct Names<'a> {
    device: &'a str,
    command: &'a str,
    schedule: &'a str,
    token: &'a str,
}

const ABSENT: Names = Names {
    device: "rome-9",
    command: "01900000-0000-7000-8000-000000000000",
    schedule: "01900000-0000-7000-8000-000000000001",
    token: "aaaaaaaaaaaaaaaa",
};
/// Stands in labels and data of what is outside, and in nothing else.
const MARK: &str = "zanzibar";

impl Names<'_> {
    fn fill(&self, template: &str) -> String {
        let filled = template
            .replace("{device}", self.device)
            .replace("{command}", self.command)
            .replace("{schedule}", self.schedule)
            .replace("{token}", self.token)
            .replace("{action}", "ping")
            .replace("{topic}", "rome/news")
            .replace("{mark}", MARK);
        let unknown = filled.starts_with('/') && filled.contains('{');
        assert!(!unknown, "tests/hostile/scope.rs has to know what stands in {template}");
        filled
    }

    /// What an answer says, with placeholders for the names.
    fn blank(&self, answer: &str) -> String {
        let names = [self.device, self.command, &self.command[..8], self.schedule, self.token];
        names.iter().fold(answer.to_owned(), |answer, name| answer.replace(name, "X"))
    }
}

/// Bodies for every route; those that it does not take are refused alike too.
const BODIES: [&str; 9] = [
    "",
    "{}",
    "[]",
    r#"{"labels":{"site":"lyon"}}"#,
    r#"{"state":"succeeded"}"#,
    r#"[{"command":"{command}","state":"succeeded"}]"#,
    r#"{"action":"ping","target":{"device":"{device}"}}"#,
    r#"{"action":"ping","target":{"devices":["lyon-1","{device}"]}}"#,
    r#"{"name":"n","cron":"0 0 1 1 *","action":"ping","target":{"device":"{device}"}}"#,
];
/// Queries for every route that reads.
const QUERIES: [&str; 9] = [
    "",
    "?device={device}",
    "?prefix={device}",
    "?select=secret%3D{mark}",
    "?select=secret",
    "?online=false",
    "?state=queued",
    "?action=ping",
    "?limit=1",
];

struct Fleet {
    closed: Closed,
    operator: String,
    command: String,
    schedule: String,
}

impl Fleet {
    /// One appliance in Lyon and one in Rome; a command and, where there are such, a schedule for the latter.
    fn start() -> Self {
        let closed = Closed::start();
        closed.register("lyon-1", &json!({"site": "lyon"}));
        closed.register("rome-1", &json!({"site": "rome", "secret": MARK}));
        let operator = closed.token(&json!({"role": "operator", "select": "site=lyon"}));
        let data = json!(MARK).to_string();
        let command = text(&closed.admin("POST /v1/send/rome-1/ping?ttl=7d", &data)["command"]);
        let schedule = json!({"name": MARK, "cron": "0 0 1 1 *", "action": "ping",
            "target": {"device": "rome-1"}});
        let made = closed.ask(&closed.admin, "POST /v1/schedules", &schedule.to_string());
        let schedule = match made.status {
            201 => text(&made.json()["id"]),
            _ => ABSENT.schedule.to_owned(),
        };
        Self { closed, operator, command, schedule }
    }

    fn outside(&self) -> Names<'_> {
        Names {
            device: "rome-1",
            command: &self.command,
            schedule: &self.schedule,
            token: ABSENT.token,
        }
    }

    /// Status, head without its date, and body of a call; of a stream the head alone.
    fn call(&self, names: Names<'_>, method: &str, target: &str, body: &str) -> String {
        let (target, body) = (names.fill(target), names.fill(body));
        let line = format!("{method} {target}");
        let answer = self.closed.answer(&self.operator, &line, &body);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let head: Vec<&str> = head
            .lines()
            .filter(|line| {
                let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
                !["date", "content-length", "location"].contains(&name.as_str())
            })
            .collect();
        let answer = format!("{}\n{body}", head.join("\n"));
        assert!(!answer.contains(MARK), "{line} shows what is outside of the selector: {answer}");
        names.blank(&answer)
    }

    fn compare(&self, method: &str, target: &str, body: &str) {
        let of_outside = self.call(self.outside(), method, target, body);
        let of_absent = self.call(ABSENT, method, target, body);
        assert_eq!(
            of_outside, of_absent,
            "{method} {target} with {body}: what is outside of the selector is answered otherwise than what is not there"
        );
    }
}

#[test]
fn what_an_operator_does_not_select_is_answered_as_what_is_not_there_on_every_route() {
    let fleet = Fleet::start();
    let seen = |fleet: &Fleet| {
        let device = fleet.closed.admin("GET /v1/devices/rome-1", "");
        let command = fleet.closed.admin(&format!("GET /v1/commands/{}", fleet.command), "");
        (device, command)
    };
    let before = seen(&fleet);
    for (method, path) in routes() {
        // What it may send to its own part changes what the lists have: once each.
        if path == "/v1/ping" {
            // It says the time, and nothing else that could differ.
            continue;
        }
        let of_names = path.contains("{device}") || path.contains("{command}");
        match method.as_str() {
            "GET" if of_names => fleet.compare(&method, path, ""),
            "GET" => {
                QUERIES.iter().for_each(|query| {
                    fleet.compare(&method, &format!("{path}{query}"), "");
                });
            }
            _ => BODIES.iter().for_each(|body| fleet.compare(&method, path, body)),
        }
    }
    let (device, command) = seen(&fleet);
    assert_eq!((&before.0["labels"], &before.0["facts"]), (&device["labels"], &device["facts"]));
    assert_eq!(before.1, command, "something was done to a command outside of the selector");
    assert_eq!(device["queued"], 1, "something was sent to a device outside of the selector");
}

#[test]
fn a_command_to_all_is_to_what_the_operator_selects_and_counts_nothing_else() {
    let fleet = Fleet::start();
    for (target, total) in [
        (json!({"all": true}), 1),
        (json!({"select": "site in (lyon,rome)"}), 1),
        (json!({"select": "site=rome"}), 0),
        (json!({"select": format!("secret={MARK}")}), 0),
        (json!({"select": "!secret"}), 1),
    ] {
        let body = json!({"action": "ping", "target": target}).to_string();
        let sent = fleet.closed.ask(&fleet.operator, "POST /v1/commands", &body);
        let sent = sent.json();
        assert_eq!(sent["total"], total, "{target}: {sent}");
        let path = format!("GET /v1/commands/{}/deliveries", text(&sent["id"]));
        let deliveries = fleet.closed.admin(&path, "");
        let count = deliveries["items"].as_array().unwrap().len();
        assert_eq!(count, total, "{target} went to others: {deliveries}");
    }
}

/// An admin's selector, and how many of others had failed, were shown to every operator who saw one of its devices.
#[test]
fn of_an_admins_command_that_is_seen_in_part_nothing_else_is_shown() {
    let fleet = Fleet::start();
    let closed = &fleet.closed;
    let envelope = |target: serde_json::Value| {
        let rollout = json!({"batch": 1, "canary": "site=rome", "abort": {"percent": 1, "min": 1}});
        json!({"action": "ping", "target": target, "rollout": rollout}).to_string()
    };
    let target = json!({"select": format!("site in (lyon,rome),secret notin (not-{MARK})")});
    let command = text(&closed.admin("POST /v1/commands", &envelope(target))["id"]);
    let mut events = closed.stream(&fleet.operator, &format!("/v1/commands/{command}/events"));
    let of_rome = closed.token(&json!({"role": "device", "device": "rome-1"}));
    let report = format!("POST /v1/devices/rome-1/commands/{command}/status");
    let whole = format!("GET /v1/commands/{command}");
    // It begins a moment after it was stored.
    bellwire_testkit::wait_until("the canary fails", || {
        let answer = closed.ask(&of_rome, &report, r#"{"state":"failed"}"#);
        if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
    });
    let seen_by_admin = closed.admin(&whole, "");
    assert_eq!(seen_by_admin["rollout"]["reason"], "1 of 1 ended in a state that aborts it");
    assert_eq!(seen_by_admin["rollout"]["batches"], 2);
    assert!(seen_by_admin["select"].as_str().unwrap().contains(MARK), "{seen_by_admin}");

    let done = loop {
        let (name, data, _) = events.event().unwrap().expect("done");
        if name == "done" {
            break serde_json::from_str(&data).unwrap();
        }
    };
    let list = closed.ask(&fleet.operator, "GET /v1/commands", "").json();
    let listed = list["items"].as_array().unwrap().iter().find(|item| item["id"] == command);
    let shown = [closed.ask(&fleet.operator, &whole, "").json(), listed.unwrap().clone(), done];
    let part = json!({"state": "aborted", "batch": 0, "batches": 0, "reason": "too many ended in a state that aborts it"});
    for shown in shown {
        assert_eq!((&shown["total"], &shown["rollout"]), (&json!(1), &part), "{shown}");
        assert_eq!(shown["select"], serde_json::Value::Null, "{shown}");
        assert!(!shown.to_string().contains(MARK), "{shown}");
    }

    // What it wrote itself it is shown.
    let own = json!({"action": "ping", "target": {"select": "site in (lyon,rome)"},
        "rollout": {"batch": 1}})
    .to_string();
    let own = closed.ask(&fleet.operator, "POST /v1/commands", &own).json();
    let own = closed.ask(&fleet.operator, &format!("GET /v1/commands/{}", text(&own["id"])), "");
    let own = own.json();
    assert_eq!(own["select"], "site in (lyon,rome)", "{own}");
    assert_eq!(own["rollout"]["batches"], 1, "{own}");
}

#[test]
fn an_operators_stream_of_events_says_nothing_of_what_is_outside() {
    let fleet = Fleet::start();
    let mut events = fleet.closed.stream(&fleet.operator, "/v1/events");
    events.expect("hub");
    let of_rome = fleet.closed.token(&json!({"role": "device", "device": "rome-1"}));
    // A stream, facts, labels, a command and a removal, of a device outside.
    drop(fleet.closed.stream(&of_rome, "/v1/devices/rome-1/stream"));
    fleet.closed.ask(&of_rome, "PUT /v1/devices/rome-1/facts", r#"{"a":1}"#);
    fleet.closed.register("rome-1", &json!({"site": "rome", "moved": "yes"}));
    fleet.closed.admin("POST /v1/send/rome-1/ping", "");
    fleet.closed.admin("DELETE /v1/devices/rome-1", "");
    let sent = fleet.closed.admin("POST /v1/send/lyon-1/ping", "");
    loop {
        let (name, data, _) = events.event().unwrap().expect("the event of lyon-1");
        assert!(!data.contains("rome-1") && !data.contains(MARK), "{name}: {data}");
        if data.contains(&text(&sent["command"])) {
            break;
        }
    }
}
