//! Tokens, scopes and enrolment over the wire. Contract, section 6, "Tokens".

use bellwire_hub::store::Cursor;
use serde_json::{Value, json};

use crate::support::{Answer, Hub, Stream, text};

/// A token that was made.
pub(crate) struct Made {
    pub(crate) id: String,
    pub(crate) secret: String,
}

impl Made {
    pub(crate) fn header(&self) -> String {
        format!("Authorization: Bearer {}\r\n", self.secret)
    }
}

impl Hub {
    /// One request with a token: a line as `POST /v1/send/d/a`, and a body.
    pub(crate) fn with_token(&self, token: &Made, line: &str, body: &str) -> Answer {
        self.request(line, &token.header(), body.as_bytes())
    }

    /// Makes a token as nobody, on an open hub.
    pub(crate) fn token(&self, body: &Value) -> Made {
        made(&self.post("/v1/tokens", &body.to_string()))
    }

    pub(crate) fn token_by(&self, by: &Made, body: &Value) -> Made {
        made(&self.with_token(by, "POST /v1/tokens", &body.to_string()))
    }

    pub(crate) fn stream_of(&self, token: &Made, path: &str) -> Stream {
        self.stream_with(path, &token.header())
    }
}

fn made(answer: &Answer) -> Made {
    assert_eq!(answer.status, 201, "{answer:?}");
    let made = answer.json();
    Made { id: text(&made["id"]).to_owned(), secret: text(&made["token"]).to_owned() }
}

pub(crate) fn admin(hub: &Hub) -> Made {
    hub.token(&json!({"role": "admin"}))
}

fn names(answer: &Answer, member: &str) -> Vec<String> {
    let page = answer.json();
    let items = page["items"].as_array().unwrap();
    items.iter().map(|item| text(&item[member]).to_owned()).collect()
}

#[test]
fn a_token_that_does_not_work_is_refused_the_same_way_whatever_the_reason() {
    let hub = Hub::start();
    let admin = admin(&hub);
    let revoked = hub.token_by(&admin, &json!({"role": "metrics"}));
    let line = format!("DELETE /v1/tokens/{}", revoked.id);
    assert_eq!(hub.with_token(&admin, &line, "").status, 204);
    let used_up = hub.token_by(&admin, &json!({"role": "join", "uses": 1}));
    assert_eq!(hub.with_token(&used_up, "POST /v1/enroll", "").status, 201);
    let other_secret = format!("{}{}", &admin.secret[..20], revoked.secret[20..].to_owned());
    let zeros = format!("bw_aaaaaaaaaaaaaaaa_{}", "0".repeat(64));
    let refused = [
        String::new(),
        "Authorization: Bearer x\r\n".to_owned(),
        "Authorization: Digest x\r\n".to_owned(),
        format!("Authorization: Bearer {zeros}\r\n"),
        format!("Authorization: Bearer {other_secret}\r\n"),
        revoked.header(),
        used_up.header(),
        format!("{0}{0}", admin.header()),
    ]
    .map(|headers| hub.request("GET /v1/tokens/self", &headers, b""));
    for answer in &refused {
        assert_eq!(answer.code(), "unauthenticated");
        assert_eq!(answer.head.header("www-authenticate"), Some("Bearer"));
        assert_eq!(answer.body, refused[0].body);
    }
    // In the query it is a parameter that is not known.
    assert_eq!(hub.get(&format!("/v1/devices?token={}", admin.secret)).status, 401);
}

#[test]
fn a_token_is_also_the_password_of_any_user() {
    let hub = Hub::start();
    let admin = admin(&hub);
    let pair = base64_of(&format!("anyone:{}", admin.secret));
    let answer =
        hub.request("GET /v1/tokens/self", &format!("Authorization: Basic {pair}\r\n"), b"");
    assert_eq!(answer.json()["id"], admin.id);
}

#[test]
fn a_browser_that_shows_the_answer_may_ask_its_user_and_nobody_else_is_offered_basic() {
    let hub = Hub::start();
    let admin = admin(&hub);
    let offered = |line: &str, headers: &str| {
        let answer = hub.request(line, headers, b"");
        assert_eq!(answer.code(), "unauthenticated");
        let lines = answer.head.lines.iter();
        let of = lines.filter_map(|line| {
            line.to_ascii_lowercase().strip_prefix("www-authenticate: ").map(str::to_owned)
        });
        of.map(|value| value.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let (get, both, one) = ("GET /v1/devices", ["bearer", "basic"], ["bearer"]);
    let html = "Accept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8\r\n";
    assert_eq!(offered(get, "Sec-Fetch-Mode: navigate\r\n"), both);
    assert_eq!(offered(get, html), both, "an old browser");
    assert_eq!(offered(get, &format!("Sec-Fetch-Mode: cors\r\n{html}")), one, "a page's script");
    assert_eq!(offered(get, "Accept: */*\r\n"), one, "curl");
    assert_eq!(
        offered("POST /v1/send/d/ping", html),
        one,
        "a form would be sent again by a reload"
    );
    // With what the user was asked for, everything that takes a token takes this one.
    let pair = base64_of(&format!(":{}", admin.secret));
    let basic = format!("Authorization: Basic {pair}\r\n");
    for line in ["GET /v1/devices", "GET /v1/tokens", "PUT /v1/devices/d", "POST /v1/send/d/ping"] {
        let body: &[u8] = if line.starts_with("PUT") { b"{}" } else { b"" };
        let status = hub.request(line, &basic, body).status;
        assert!(matches!(status, 200..=202), "{line}: {status}");
    }
    hub.stream_with("/v1/devices/d/stream", &basic).expect("hello");
}

pub(crate) fn base64_of(text: &str) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let byte = |at: usize| u32::from(*chunk.get(at).unwrap_or(&0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let index = (bits >> (18 - 6 * at)) as usize & 63;
            out.push(if at > chunk.len() { '=' } else { char::from(ALPHABET[index]) });
        }
    }
    out
}

#[test]
fn on_an_open_hub_a_credential_that_is_sent_is_checked_all_the_same() {
    let hub = Hub::start();
    hub.put("/v1/devices/d", "{}");
    let device = hub.token(&json!({"role": "device", "device": "e"}));
    assert_eq!(hub.get("/v1/devices/d").status, 200);
    assert_eq!(hub.with_token(&device, "GET /v1/devices/d", "").code(), "forbidden");
    assert_eq!(hub.with_token(&device, "GET /v1/devices/e", "").status, 200, "it is registered");
    let bad = hub.request("GET /v1/devices/d", "Authorization: Bearer bw_x\r\n", b"");
    assert_eq!(bad.code(), "unauthenticated");
    let with_password = |password: &str| {
        let pair = base64_of(&format!("kiosk:{password}"));
        hub.request("GET /v1/devices/d", &format!("Authorization: Basic {pair}\r\n"), b"").status
    };
    assert_eq!(with_password(&device.secret), 403, "a token is one as a password too");
    assert_eq!(
        with_password("s3cret"),
        200,
        "what a reverse proxy before the hub asked for, and passes on"
    );
    assert_eq!(hub.get("/v1/tokens/self").json()["id"], Value::Null);
    assert_eq!(hub.get("/v1/tokens/self").json()["role"], "admin");
    assert_eq!(hub.post("/v1/enroll", "{}").code(), "unauthenticated");
}

#[test]
fn a_closed_hub_takes_no_password_that_is_no_token() {
    let hub = Hub::start();
    admin(&hub);
    let pair = base64_of("kiosk:s3cret");
    let answer = hub.request("GET /v1/devices", &format!("Authorization: Basic {pair}\r\n"), b"");
    assert_eq!(answer.code(), "unauthenticated");
}

#[test]
fn a_secret_is_shown_once_and_what_is_told_of_a_token_is_not_secret() {
    let hub = Hub::start();
    let admin = admin(&hub);
    let body = json!({"role": "operator", "select": "site=lyon", "actions": ["ping"], "note": "n"});
    let answer = hub.with_token(&admin, "POST /v1/tokens", &body.to_string());
    let shown = answer.json();
    let location = format!("/v1/tokens/{}", text(&shown["id"]));
    assert_eq!(answer.head.header("location"), Some(location.as_str()));
    assert_eq!((&shown["created_by"], &shown["note"]), (&json!(admin.id), &json!("n")));
    let operator = made(&answer);
    let own = hub.with_token(&operator, "GET /v1/tokens/self", "").json();
    assert_eq!(own["select"], "site=lyon");
    let list = hub.with_token(&admin, "GET /v1/tokens", "");
    assert_eq!(list.json()["items"].as_array().unwrap().len(), 2);
    let secret = operator.secret.rsplit('_').next().unwrap();
    assert!(!list.text().contains(secret) && !list.text().contains("\"token\""));
    let one = hub.with_token(&admin, "GET /v1/tokens?limit=1", "").json();
    let next = text(&one["next"]);
    let two = hub.with_token(&admin, &format!("GET /v1/tokens?limit=1&after={next}"), "").json();
    assert_eq!((two["items"].as_array().unwrap().len(), &two["next"]), (1, &Value::Null));
    assert_eq!(hub.with_token(&operator, "GET /v1/tokens", "").code(), "forbidden");
    // What has yet to be written of their uses is, before they are shown.
    let list = hub.with_token(&admin, "GET /v1/tokens", "").json();
    let mut tokens = list["items"].as_array().unwrap().iter();
    assert!(tokens.all(|token| !token["last_used_at"].is_null()), "{list}");
}

#[test]
fn a_device_token_serves_its_own_device_and_is_forbidden_on_others_whether_they_exist_or_not() {
    let hub = Hub::start();
    let admin = admin(&hub);
    let own = hub.token_by(&admin, &json!({"role": "device", "device": "d"}));
    hub.token_by(&admin, &json!({"role": "device", "device": "other"}));
    let refused = ["other", "nobody", "%2F", ""].map(|device| {
        hub.with_token(&own, &format!("GET /v1/devices/{device}/commands?wait=0"), "")
    });
    for answer in &refused {
        assert_eq!((answer.code().as_str(), &answer.body), ("forbidden", &refused[0].body));
    }
    assert_eq!(hub.with_token(&own, "PUT /v1/devices/d/facts", "{}").status, 200);
    assert_eq!(hub.with_token(&own, "GET /v1/devices/d/commands?wait=0", "").status, 200);
    let sent = hub.with_token(&admin, "POST /v1/send/d/ping", "").json();
    let line = format!("POST /v1/devices/d/commands/{}/status", text(&sent["command"]));
    assert_eq!(hub.with_token(&own, &line, r#"{"state":"succeeded"}"#).status, 200);
    for line in ["GET /v1/devices", "POST /v1/send/d/ping", "DELETE /v1/devices/d"] {
        assert_eq!(hub.with_token(&own, line, "").code(), "forbidden", "{line}");
    }
}

/// A closed hub with a device in Lyon and one in Rome, an admin, and an operator for Lyon who may ping.
pub(crate) fn two_sites() -> (Hub, Made, Made) {
    let hub = Hub::start();
    for (device, site) in [("lyon-1", "lyon"), ("rome-1", "rome")] {
        let labels = json!({"labels": {"site": site}}).to_string();
        assert_eq!(hub.put(&format!("/v1/devices/{device}"), &labels).status, 201);
    }
    let admin = admin(&hub);
    let scope = json!({"role": "operator", "select": "site=lyon", "actions": ["ping"]});
    let operator = hub.token_by(&admin, &scope);
    (hub, admin, operator)
}

#[test]
fn what_is_outside_of_a_selector_is_not_there() {
    let (hub, admin, operator) = two_sites();
    let both = json!({"action": "ping", "target": {"devices": ["lyon-1", "rome-1"]}}).to_string();
    let both = hub.with_token(&admin, "POST /v1/commands", &both).json();
    let rome = hub.with_token(&admin, "POST /v1/send/rome-1/ping", "").json();
    let (both, rome) = (text(&both["id"]), text(&rome["command"]));
    let get = |path: &str| hub.with_token(&operator, &format!("GET {path}"), "");
    hub.until(|| get(&format!("/v1/commands/{both}")).json()["counts"]["queued"] == 1);

    assert_eq!(names(&get("/v1/devices"), "id"), ["lyon-1"]);
    assert_eq!(names(&get("/v1/devices?online=false"), "id"), ["lyon-1"]);
    assert_eq!(names(&get("/v1/commands"), "id"), [both]);
    assert!(names(&get("/v1/commands?device=rome-1"), "id").is_empty());
    assert_eq!(names(&get(&format!("/v1/commands?id={}", &both[..8])), "id"), [both]);
    assert_eq!(get(&format!("/v1/commands/{both}")).json()["total"], 1);
    assert_eq!(names(&get(&format!("/v1/commands/{both}/deliveries")), "device"), ["lyon-1"]);
    assert_eq!(names(&get(&format!("/v1/commands/{both}/waits")), "device"), ["lyon-1"]);
    for part in ["", "/deliveries", "/waits", "/events"] {
        let hidden = get(&format!("/v1/commands/{rome}{part}"));
        let absent = get(&format!("/v1/commands/01900000-0000-7000-8000-000000000000{part}"));
        assert_eq!((hidden.code().as_str(), &hidden.body), ("unknown_command", &absent.body));
    }
    let [hidden, absent] = ["rome-1", "nobody"].map(|d| get(&format!("/v1/devices/{d}")));
    assert_eq!((hidden.code().as_str(), &hidden.body), ("unknown_device", &absent.body));
    for device in ["rome-1", "nobody"] {
        let send = hub.with_token(&operator, &format!("POST /v1/send/{device}/ping"), "");
        let refused = send.json()["detail"].to_string().replace(device, "X");
        assert!(refused.contains("no device is named X"), "{refused}");
        let many = json!({"action": "ping", "target": {"devices": ["lyon-1", device]}}).to_string();
        let many = hub.with_token(&operator, "POST /v1/commands", &many);
        assert_eq!(many.code(), "unknown_device");
        assert_eq!(many.json()["detail"], send.json()["detail"]);
    }
    let sent = hub.with_token(&operator, "POST /v1/send/lyon-1/ping", "");
    let id = sent.json()["command"].clone();
    let command = get(&format!("/v1/commands/{}", text(&id))).json();
    assert_eq!(command["created_by"], operator.id);
    for line in
        ["POST /v1/send/lyon-1/reboot", "PUT /v1/devices/lyon-1", "DELETE /v1/devices/rome-1"]
    {
        assert_eq!(hub.with_token(&operator, line, "").code(), "forbidden", "{line}");
    }
    let cancel = |id: &str| hub.with_token(&operator, &format!("DELETE /v1/commands/{id}"), "");
    assert_eq!(cancel(rome).code(), "unknown_command");
    let cancelled = cancel(both);
    let shown = (&cancelled.json()["total"], &cancelled.json()["counts"]);
    assert_eq!((cancelled.status, shown), (200, (&json!(1), &json!({"cancelled": 1}))));
    let whole = hub.with_token(&admin, &format!("GET /v1/commands/{both}"), "").json();
    assert_eq!(whole["counts"], json!({"queued": 1, "cancelled": 1}), "the others go on");
    assert_eq!(cancel(both).code(), "illegal_transition", "what it sees has ended");
    let log = hub.with_token(&admin, "GET /v1/audit?verb=cancel", "").json();
    let logged: Vec<_> = log["items"].as_array().unwrap().iter().map(|e| &e["status"]).collect();
    assert_eq!(logged, [409, 202, 404]);
    assert_eq!(cancel(text(&id)).status, 200);
}

/// Its batches are of all devices, so nobody stops a part of it.
#[test]
fn a_rollout_is_stopped_by_who_sees_all_of_its_devices() {
    let (hub, admin, operator) = two_sites();
    let body = json!({"action": "ping", "target": {"all": true}, "rollout": {"batch": 1}});
    let sent = hub.with_token(&admin, "POST /v1/commands", &body.to_string()).json();
    let path = format!("/v1/commands/{}", text(&sent["id"]));
    let lines = ["pause", "resume", "abort"].map(|verb| format!("POST {path}/{verb}"));
    for line in lines.iter().chain([&format!("DELETE {path}")]) {
        assert_eq!(hub.with_token(&operator, line, "").code(), "forbidden", "{line}");
        assert_eq!(hub.with_token(&admin, line, "").status / 100, 2, "{line}");
        assert_eq!(hub.with_token(&operator, &format!("GET {path}"), "").status, 200);
    }
}

#[test]
fn an_operator_hears_of_what_it_sees_and_a_label_change_ends_that() {
    let (hub, admin, operator) = two_sites();
    let (mut events, mut all) =
        (hub.stream_of(&operator, "/v1/events"), hub.stream_of(&admin, "/v1/events"));
    events.expect("hub");
    all.expect("hub");
    hub.with_token(&admin, "POST /v1/send/rome-1/ping", "");
    let sent = hub.with_token(&admin, "POST /v1/send/lyon-1/ping", "").json();
    let seen = events.expect("delivery");
    assert_eq!((&seen["device"], &seen["command"]), (&json!("lyon-1"), &sent["command"]));
    let path = format!("/v1/commands/{}/events", text(&sent["command"]));
    let mut watched = hub.stream_of(&operator, &path);
    assert_eq!(watched.expect("delivery")["device"], "lyon-1");

    let rome = json!({"labels": {"site": "rome"}}).to_string();
    assert_eq!(hub.with_token(&admin, "PUT /v1/devices/lyon-1", &rome).status, 200);
    assert_eq!(watched.expect("bye")["reason"], "revoked");
    assert_eq!(hub.with_token(&operator, &format!("GET {path}"), "").code(), "unknown_command");
    let hidden = hub.with_token(&admin, "POST /v1/send/lyon-1/ping", "").json();
    // The labels of an event's device are those of the moment in which it is sent on.
    while all.event().data()["command"] != hidden["command"] {}
    let lyon = json!({"labels": {"site": "lyon"}}).to_string();
    hub.with_token(&admin, "PUT /v1/devices/lyon-1", &lyon);
    let next = events.expect("device");
    assert_eq!((&next["change"], &next["labels"]["site"]), (&json!("changed"), &json!("lyon")));
}

/// One who saw all devices had numbered them for all watchers, and one who saw a part had no slot for the later ones:
/// it got nothing, and no end.
#[test]
fn an_operator_watches_its_part_of_a_command_that_an_admin_watches_too() {
    let (hub, admin, operator) = two_sites();
    let rome = json!({"labels": {"site": "rome"}}).to_string();
    assert_eq!(hub.with_token(&admin, "PUT /v1/devices/a-rome", &rome).status, 201);
    let body = json!({"action": "ping", "target": {"devices": ["a-rome", "lyon-1"]}}).to_string();
    let sent = hub.with_token(&admin, "POST /v1/commands", &body).json();
    let path = format!("/v1/commands/{}", text(&sent["id"]));
    hub.until(|| {
        let command = hub.with_token(&admin, &format!("GET {path}"), "").json();
        command["counts"]["queued"] == 2
    });
    let mut whole = hub.stream_of(&admin, &format!("{path}/events"));
    let names = [0, 1].map(|_| whole.expect("delivery")["device"].clone());
    assert_eq!(names, ["a-rome", "lyon-1"]);
    let mut part = hub.stream_of(&operator, &format!("{path}/events"));
    assert_eq!(part.expect("delivery")["device"], "lyon-1");
    hub.with_token(&admin, &format!("DELETE {path}?force=true"), "");
    let last = part.expect("delivery");
    assert_eq!((&last["device"], &last["state"]), (&json!("lyon-1"), &json!("cancelled")));
    assert_eq!(part.expect("done")["total"], 1);
}

/// A cursor is no secret: it named the last row that was looked at, whoever's that was.
#[test]
fn a_cursor_names_nothing_that_is_outside_of_a_selector() {
    let (hub, admin, operator) = two_sites();
    let lyon = json!({"labels": {"site": "lyon"}}).to_string();
    assert_eq!(hub.with_token(&admin, "PUT /v1/devices/zone-1", &lyon).status, 201);
    let body = json!({"action": "ping", "target": {"devices": ["lyon-1", "rome-1", "zone-1"]}})
        .to_string();
    let sent = hub.with_token(&admin, "POST /v1/commands", &body).json();
    let command = format!("/v1/commands/{}", text(&sent["id"]));
    let get = |path: &str| hub.with_token(&operator, &format!("GET {path}"), "");
    hub.until(|| get(&command).json()["counts"]["queued"] == 2);
    for (path, name) in [
        ("/v1/devices?".to_owned(), "id"),
        ("/v1/devices?online=false&".to_owned(), "id"),
        (format!("{command}/deliveries?"), "device"),
        (format!("{command}/waits?"), "device"),
    ] {
        let first = get(&format!("{path}limit=1"));
        assert_eq!(names(&first, name), ["lyon-1"], "{path}");
        let next = text(&first.json()["next"]).to_owned();
        let cursor: Cursor = next.parse().unwrap();
        assert_eq!(cursor.device().unwrap().as_str(), "lyon-1", "{path}");
        let rest = get(&format!("{path}limit=1&after={next}"));
        assert_eq!(
            (names(&rest, name), &rest.json()["next"]),
            (vec!["zone-1".into()], &Value::Null)
        );
    }
}

#[test]
fn an_idempotency_key_is_of_one_token() {
    let (hub, admin, operator) = two_sites();
    let send = |token: &Made| {
        let headers = format!("{}Idempotency-Key: k\r\n", token.header());
        hub.request("POST /v1/send/lyon-1/ping", &headers, b"").json()["command"].clone()
    };
    let (first, other) = (send(&admin), send(&operator));
    assert_ne!(first, other);
    assert_eq!((send(&admin), send(&operator)), (first, other));
}

#[test]
fn a_device_enrols_with_a_join_token_and_gets_its_labels_and_its_own_token() {
    let hub = Hub::start();
    let admin = admin(&hub);
    let join = json!({"role": "join", "uses": 2, "labels": {"site": "lyon"}});
    let join = hub.token_by(&admin, &join);
    let body = r#"{"device":"kiosk-7","facts":{"os":"deb12"}}"#;
    let enrolled = hub.with_token(&join, "POST /v1/enroll", body);
    assert_eq!((enrolled.status, &enrolled.json()["pending"]), (201, &json!(false)));
    let own = Made { id: String::new(), secret: text(&enrolled.json()["token"]).to_owned() };
    let device = hub.with_token(&own, "GET /v1/devices/kiosk-7", "").json();
    assert_eq!(device["labels"], json!({"site": "lyon"}));
    assert_eq!((&device["facts"]["os"], &device["status"]), (&json!("deb12"), &json!("active")));
    assert_eq!(hub.with_token(&join, "POST /v1/enroll", body).code(), "conflict");
    assert_eq!(hub.with_token(&join, "GET /v1/devices", "").code(), "forbidden");
    // Without a name the hub makes one; then the token is used up.
    let named = hub.with_token(&join, "POST /v1/enroll", "").json();
    assert!(text(&named["device"]).starts_with("device-"), "{named}");
    assert_eq!(hub.with_token(&join, "POST /v1/enroll", "").code(), "unauthenticated");
    assert_eq!(hub.with_token(&admin, "POST /v1/enroll", "").code(), "forbidden");
}

#[test]
fn a_device_that_must_be_approved_may_do_nothing_until_then() {
    let hub = Hub::start();
    let admin = admin(&hub);
    let join = hub.token_by(&admin, &json!({"role": "join", "approve": true, "replace": true}));
    let enroll = |name: &str| {
        let enrolled =
            hub.with_token(&join, "POST /v1/enroll", &json!({"device": name}).to_string());
        assert_eq!((enrolled.status, &enrolled.json()["pending"]), (202, &json!(true)));
        Made { id: String::new(), secret: text(&enrolled.json()["token"]).to_owned() }
    };
    let (good, bad) = (enroll("good"), enroll("bad"));
    for line in ["GET /v1/devices/good", "GET /v1/devices/good/stream", "GET /v1/tokens/self"] {
        assert_eq!(hub.with_token(&good, line, "").code(), "pending", "{line}");
    }
    let approve =
        |name: &str| hub.with_token(&admin, &format!("POST /v1/devices/{name}/approve"), "");
    let shown = hub.with_token(&admin, "GET /v1/devices/good", "").json();
    assert_eq!(shown["status"], "pending");
    assert_eq!(approve("good").json()["status"], "active");
    assert_eq!(hub.with_token(&good, "GET /v1/devices/good", "").status, 200);
    assert_eq!(hub.with_token(&admin, "DELETE /v1/devices/bad", "").status, 204);
    assert_eq!(hub.with_token(&bad, "GET /v1/devices/bad", "").code(), "unauthenticated");
    assert_eq!(approve("bad").code(), "unknown_device");
    // A second enrolment takes the name over, and waits for approval again.
    let mut stream = hub.stream_of(&good, "/v1/devices/good/stream");
    stream.expect("hello");
    enroll("good");
    assert_eq!(stream.expect("bye")["reason"], "revoked");
    assert_eq!(hub.with_token(&good, "GET /v1/devices/good", "").code(), "unauthenticated");
}

#[test]
fn two_agents_with_one_identity_are_shown_as_a_conflict() {
    let hub = Hub::start();
    let mut events = hub.stream("/v1/events");
    events.expect("hub");
    let mut streams = Vec::new();
    for _ in 0..7 {
        let mut stream = hub.stream("/v1/devices/d/stream");
        stream.expect("hello");
        streams.push(stream);
    }
    hub.until(|| hub.get("/v1/devices/d").json()["status"] == "conflict");
    let mut seen = events.expect("device");
    while seen["change"] != "changed" {
        seen = events.expect("device");
    }
    assert_eq!(seen["status"], "conflict");
}
