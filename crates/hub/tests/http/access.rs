//! Who may do what to whom, against a model of ten lines: random tokens, labels and calls, on every route of the table.

use std::collections::BTreeMap;

use bellwire_hub::http::routes;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use crate::support::{Hub, text};
use crate::tokens::Made;

const GHOST: &str = "01900000-0000-7000-8000-000000000000";

/// Who calls.
#[derive(Debug, Clone)]
enum Who {
    Nobody,
    Revoked,
    Admin,
    Metrics,
    Join,
    Device(&'static str),
    Operator(Option<&'static str>, Option<&'static str>),
}

/// A call of a route, with what stands in its path.
#[derive(Debug, Clone)]
struct Call {
    method: String,
    path: &'static str,
    device: &'static str,
    action: &'static str,
    /// The devices of the command in the path.
    command: &'static [&'static str],
}

#[derive(Debug, PartialEq)]
enum Answer {
    Unauthenticated,
    Forbidden,
    NotThere,
    Through,
}

/// The model. `site` gives a device's label; a device without one is not registered.
fn model(who: &Who, call: &Call, site: &BTreeMap<&str, &str>) -> Answer {
    use Answer::{Forbidden, NotThere, Through, Unauthenticated};
    let of_device = call.path.starts_with("/v1/devices/{device}");
    let shown = call.method == "GET" && call.path == "/v1/devices/{device}";
    let manages = of_device
        && !shown
        && ["/v1/devices/{device}", "/v1/devices/{device}/approve"].contains(&call.path);
    let is_open = ["/v1/ping", "/healthz", "/readyz"].contains(&call.path);
    let tokens = call.path == "/v1/tokens" || call.path == "/v1/tokens/{token}";
    let for_admins = tokens || call.path == "/v1/audit";
    match who {
        _ if is_open => Through,
        Who::Nobody | Who::Revoked => Unauthenticated,
        _ if call.path == "/v1/tokens/self" => Through,
        Who::Admin | Who::Metrics if call.path == "/metrics" => Through,
        _ if call.path == "/metrics" => Forbidden,
        Who::Join if call.path == "/v1/enroll" => Through,
        Who::Device(own) if of_device && !manages && call.device == *own => Through,
        Who::Metrics | Who::Join | Who::Device(_) => Forbidden,
        _ if call.path == "/v1/enroll" => Forbidden,
        Who::Admin => Through,
        Who::Operator(..) if for_admins || (of_device && !shown && !manages) => Forbidden,
        Who::Operator(Some(_), _) if manages => Forbidden,
        Who::Operator(scope, actions) => {
            let sees = |d: &str| site.get(d).is_some_and(|s| scope.is_none_or(|scope| scope == *s));
            let sends = call.path.starts_with("/v1/send/");
            let of_command = call.path.contains("{command}");
            let stops = of_command
                && ["/pause", "/resume", "/abort"].iter().any(|end| call.path.ends_with(end));
            let retries = call.path.ends_with("/retry");
            let cancels = stops || call.method == "DELETE" && call.path.contains("{command}");
            let action = if cancels || retries { "ping" } else { call.action };
            let allowed = actions.is_none_or(|only| only == action);
            let any = call.command.iter().any(|d| sees(d));
            match () {
                () if sends && !allowed => Forbidden,
                () if (sends || shown) && !sees(call.device) => NotThere,
                () if call.path.contains("{command}") && !any => NotThere,
                () if cancels && !allowed => Forbidden,
                () if retries && !allowed => Forbidden,
                () => Through,
            }
        }
    }
}

fn a_caller() -> impl Strategy<Value = Who> {
    let scope = select(vec![None, Some("lyon"), Some("rome"), Some("oslo")]);
    let action = select(vec![None, Some("ping"), Some("reboot")]);
    prop_oneof![
        1 => Just(Who::Nobody),
        1 => Just(Who::Revoked),
        2 => Just(Who::Admin),
        1 => Just(Who::Metrics),
        1 => Just(Who::Join),
        3 => select(vec!["a", "b"]).prop_map(Who::Device),
        8 => (scope, action).prop_map(|(scope, action)| Who::Operator(scope, action)),
    ]
}

type Aim = (Index, &'static str, &'static str, Index);

fn an_aim() -> impl Strategy<Value = Aim> {
    (
        any::<Index>(),
        select(vec!["a", "b", "ghost"]),
        select(vec!["ping", "reboot"]),
        any::<Index>(),
    )
}

const COMMANDS: [&[&str]; 4] = [&["a"], &["b"], &["a", "b"], &[]];

/// The calls of every route of the table, one after the other, each aimed at random.
fn calls(aims: &[Aim]) -> Vec<Call> {
    let table = routes();
    let call = |(method, path): &(String, &'static str), aim: &Aim| Call {
        method: method.clone(),
        path,
        device: aim.1,
        action: aim.2,
        command: COMMANDS[aim.3.index(COMMANDS.len())],
    };
    table.iter().zip(aims.iter().cycle()).map(|(route, aim)| call(route, aim)).collect()
}

/// A closed hub, with its admin.
struct Fleet {
    hub: Hub,
    admin: Made,
}

impl Fleet {
    fn admin(&self, line: &str, body: &Value) -> Value {
        let answer = self.hub.with_token(&self.admin, line, &body.to_string());
        if answer.body.is_empty() { Value::Null } else { answer.json() }
    }

    /// Registers both devices anew, whatever was done to them, and gives one command to each set.
    fn settle(&self, sites: &BTreeMap<&str, &str>) -> Vec<String> {
        for (device, site) in sites {
            self.admin(&format!("PUT /v1/devices/{device}"), &json!({"labels": {"site": site}}));
        }
        self.admin("DELETE /v1/devices/ghost", &json!({}));
        let send = |devices: &&[&str]| {
            if devices.is_empty() {
                return GHOST.to_owned();
            }
            let body = json!({"action": "ping", "target": {"devices": devices}, "ttl_s": 60});
            let sent = self.admin("POST /v1/commands", &body);
            let id = text(&sent["id"]).to_owned();
            let (path, total) = (format!("GET /v1/commands/{id}"), devices.len());
            self.hub.until(|| {
                let counts = self.admin(&path, &json!({}))["counts"].clone();
                let counts: BTreeMap<String, usize> = serde_json::from_value(counts).unwrap();
                counts.values().sum::<usize>() == total
            });
            id
        };
        COMMANDS.iter().map(send).collect()
    }

    fn token(&self, who: &Who) -> Option<Made> {
        let body = match who {
            Who::Nobody => return None,
            Who::Admin => json!({"role": "admin"}),
            Who::Metrics | Who::Revoked => json!({"role": "metrics"}),
            Who::Join => json!({"role": "join"}),
            Who::Device(device) => json!({"role": "device", "device": device}),
            Who::Operator(site, action) => json!({
                "role": "operator",
                "select": site.map(|site| format!("site={site}")),
                "actions": action.map(|action| [action]),
            }),
        };
        let token = self.hub.token_by(&self.admin, &body);
        if matches!(who, Who::Revoked) {
            self.admin(&format!("DELETE /v1/tokens/{}", token.id), &json!({}));
        }
        Some(token)
    }

    /// The status of a call, with a body that is good enough to get past the checks of access.
    fn status(&self, call: &Call, token: Option<&Made>, commands: &[String]) -> u16 {
        let at = COMMANDS.iter().position(|devices| *devices == call.command).unwrap();
        let path = call.path.replace("{device}", call.device).replace("{action}", call.action);
        let path = path.replace("{command}", &commands[at]).replace("{token}", "aaaaaaaaaaaaaaaa");
        let path = path.replace("{schedule}", GHOST);
        let query =
            if path.ends_with("/commands") && path.contains("/devices/") { "?wait=0" } else { "" };
        let body = match (call.method.as_str(), call.path) {
            ("POST", "/v1/tokens") => r#"{"role":"metrics"}"#,
            ("POST", "/v1/devices/{device}/status") => "[]",
            ("PUT", _) | ("POST", "/v1/enroll") => "{}",
            _ => "",
        };
        let headers = token.map(Made::header).unwrap_or_default();
        let mut connection = self.hub.connect();
        connection.request(&format!("{} {path}{query}", call.method), &headers, body.as_bytes());
        connection.head().status
    }
}

#[test]
fn every_route_answers_as_the_model_says() {
    let hub = Hub::start();
    let admin = hub.token(&json!({"role": "admin"}));
    let fleet = Fleet { hub, admin };
    let site = || select(vec!["lyon", "rome"]);
    let cases = (a_caller(), site(), site(), prop::collection::vec(an_aim(), 1..9));
    let mut runner =
        TestRunner::new(Config { cases: 48, failure_persistence: None, ..Config::default() });
    runner
        .run(&cases, |(who, site_a, site_b, aims)| {
            let sites = BTreeMap::from([("a", site_a), ("b", site_b)]);
            let mut commands = fleet.settle(&sites);
            let mut token = fleet.token(&who);
            for call in calls(&aims) {
                let expected = model(&who, &call, &sites);
                let status = fleet.status(&call, token.as_ref(), &commands);
                let fits = match expected {
                    Answer::Unauthenticated => status == 401,
                    Answer::Forbidden => status == 403,
                    Answer::NotThere => status == 404,
                    Answer::Through => status != 401 && status != 403,
                };
                prop_assert!(
                    fits,
                    "{who:?} in {sites:?} is answered {status} to {call:?}, not {expected:?}"
                );
                // What one call changed is no matter of the next.
                if status < 300 && call.method != "GET" {
                    commands = fleet.settle(&sites);
                    token = fleet.token(&who);
                }
            }
            Ok(())
        })
        .unwrap();
}
