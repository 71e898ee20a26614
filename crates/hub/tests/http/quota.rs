//! How much one address and one token may ask for. Contract, section 6, "Limits"; docs/config.md, "Limits".

use bellwire_hub::config::Quotas;
use bellwire_proto::limits::DELIVERY_STORED_BYTES;
use serde_json::json;

use crate::support::{Hub, text};
use crate::tokens::Made;

/// A hub that limits this machine as any other.
fn limited(set: impl FnOnce(&mut Quotas)) -> Hub {
    Hub::with(|config| {
        config.quotas.limit_loopback = true;
        set(&mut config.quotas);
    })
}

#[test]
fn too_many_requests_of_an_address_are_429_with_retry_after_and_so_are_those_of_a_token() {
    let hub = limited(|quotas| quotas.requests_per_address = 1);
    let answers: Vec<_> = (0..40).map(|_| hub.get("/v1/ping")).collect();
    let refused = answers.iter().find(|answer| answer.status != 200).expect("a refusal");
    assert_eq!(refused.code(), "rate_limited");
    assert!(refused.head.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);

    let hub = limited(|quotas| quotas.requests_per_device = 1);
    let admin = hub.token(&json!({"role": "admin"}));
    let [one, two] = ["one", "two"]
        .map(|device| hub.token_by(&admin, &json!({"role": "device", "device": device})));
    let poll = |token: &Made, device: &str| {
        hub.with_token(token, &format!("GET /v1/devices/{device}/commands?wait=0"), "").status
    };
    assert!((0..40).any(|_| poll(&one, "one") == 429));
    assert_eq!(poll(&two, "two"), 200, "another device behind the same address");
    assert_eq!(hub.with_token(&admin, "GET /v1/devices", "").status, 200);
    let log = hub.with_token(&admin, "GET /v1/audit?verb=listen", "").json();
    assert_eq!(log["items"][0]["code"], "rate_limited", "and it is in the audit log: {log}");
}

#[test]
fn failed_credentials_slow_their_address_down_and_never_one_that_works() {
    let hub = limited(|_| {});
    let admin = hub.token(&json!({"role": "admin"}));
    let wrong = format!("{}{}", &admin.secret[..20], "0".repeat(64));
    let unknown = format!("bw_aaaaaaaaaaaaaaaa_{}", "0".repeat(64));
    let mut last = 0;
    for n in 0..40 {
        // Whatever the reason is: a known id with a wrong secret, an unknown one, and what is no token.
        let text = [&wrong, &unknown, "x"][n % 3];
        let answer =
            hub.request("GET /v1/devices", &format!("Authorization: Bearer {text}\r\n"), b"");
        if n < 30 {
            assert_eq!(answer.status, 401, "attempt {n}");
        } else {
            assert_eq!(answer.status, 429, "attempt {n}");
            let wait: u64 = answer.head.header("retry-after").unwrap().parse().unwrap();
            assert!(wait > last || wait == 300, "{wait} after {last}");
            last = wait;
        }
    }
    assert_eq!(
        hub.with_token(&admin, "GET /v1/devices", "").status,
        200,
        "an appliance behind the same NAT"
    );
    assert_eq!(hub.get("/v1/devices").status, 401, "no credential is no guess");
}

#[test]
fn one_connection_more_than_an_address_may_have_is_closed_and_a_closed_one_makes_room() {
    let hub = limited(|quotas| quotas.connections_per_address = 3);
    let mut streams: Vec<_> =
        (0..3).map(|n| hub.stream(&format!("/v1/devices/d{n}/stream"))).collect();
    streams.iter_mut().for_each(|stream| drop(stream.expect("hello")));
    let mut refused = hub.connect();
    let _sent = refused.try_request("GET /v1/ping");
    assert!(refused.is_closed(), "nothing comes, and the connection ends");
    drop(streams);
    hub.until(|| {
        let mut connection = hub.connect();
        connection.try_request("GET /v1/ping") && !connection.is_closed()
    });
}

#[test]
fn bodies_that_are_being_received_are_bounded() {
    let hub = limited(|quotas| quotas.body_bytes_per_address = 1000);
    let put = |bytes: usize| hub.put("/v1/devices/d", &format!("{{{}}}", " ".repeat(bytes - 2)));
    assert!(put(900).status < 300);
    let mut slow = hub.connect();
    slow.send("PUT /v1/devices/d HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(slow.head().status, 100, "it is being received from here on");
    slow.send("{");
    assert_eq!(put(300).code(), "rate_limited");
    assert_eq!(put(100).status, 200, "what fits is received");
    slow.send(format!("{}}}", " ".repeat(898)));
    assert_eq!(slow.answer_to("PUT").status, 200, "and what was begun is finished");
    hub.until(|| put(300).status == 200);
}

#[test]
fn a_token_has_so_many_streams_of_events_and_no_more() {
    let hub = limited(|quotas| quotas.watchers_per_token = 2);
    let admin = hub.token(&json!({"role": "admin"}));
    let operator = hub.token_by(&admin, &json!({"role": "operator"}));
    let _two = [0, 1].map(|_| hub.stream_with("/v1/events", &operator.header()));
    assert_eq!(hub.with_token(&operator, "GET /v1/events", "").code(), "rate_limited");
    let _another = hub.stream_with("/v1/events", &admin.header());
}

#[test]
fn a_token_has_so_many_streams_of_devices_and_no_more() {
    let hub = limited(|quotas| quotas.streams_per_token = 2);
    let admin = hub.token(&json!({"role": "admin"}));
    let own = hub.token_by(&admin, &json!({"role": "device", "device": "d"}));
    for device in ["a", "b", "c"] {
        assert_eq!(
            hub.with_token(&admin, &format!("PUT /v1/devices/{device}"), "{\"labels\":{}}").status,
            201
        );
    }
    let path = |device: &str| format!("/v1/devices/{device}/stream");
    let open = |device: &str| hub.stream_with(&path(device), &admin.header());
    let refused = |device: &str| {
        let answer = hub.with_token(&admin, &format!("GET {}", path(device)), "");
        assert_eq!(answer.code(), "rate_limited", "{answer:?}");
        assert!(answer.head.header("retry-after").is_some());
    };
    let (_a, b) = (open("a"), open("b"));
    refused("c");
    let _again = open("a");
    let _of_the_device = hub.stream_with(&path("d"), &own.header());
    refused("c");
    drop(b);
    let listens = |device: &str| {
        let device = hub.with_token(&admin, &format!("GET /v1/devices/{device}"), "").json();
        device["online"] == true
    };
    hub.until(|| !listens("b"));
    let _c = open("c");
    refused("b");
}

#[test]
fn a_store_that_may_hold_no_more_refuses_sends_and_takes_what_devices_report() {
    let hub = limited(|quotas| quotas.store_bytes_max = 2 << 20);
    let first = hub.command("first", "ping");
    let keyed = |key: &str| {
        hub.request("POST /v1/send/keyed/ping", &format!("Idempotency-Key: {key}\r\n"), b"")
    };
    assert_eq!(keyed("k").status, 202);
    let data = format!("\"{}\"", "x".repeat(60_000));
    let sent = std::cell::Cell::new(0);
    let send = || {
        sent.set(sent.get() + 1);
        hub.post(&format!("/v1/send/d{}/ping", sent.get()), &data)
    };
    hub.until(|| send().status == 429);
    assert!(sent.get() > 20, "{} commands of 60 kB are no 2 MiB", sent.get());
    let refused = send();
    assert_eq!(refused.code(), "queue_full", "{refused:?}");
    assert!(refused.head.header("retry-after").is_some());
    let many = json!({"action": "ping", "target": {"devices": ["first", "keyed"]}}).to_string();
    assert_eq!(hub.post("/v1/commands", &many).code(), "queue_full");
    assert_eq!(hub.report(&first, "{\"state\":\"succeeded\"}").status, 200);
    assert_eq!(keyed("k").status, 202, "it was stored before");
    assert_eq!(keyed("l").code(), "queue_full");
}

#[test]
fn a_sender_whose_commands_take_too_much_is_refused_and_no_other_over_a_restart_too() {
    let folder = tempfile::tempdir().unwrap();
    let hub_on = || {
        let data_dir = folder.path().join("hub");
        Hub::with(|config| {
            config.data_dir = data_dir;
            config.quotas.store_bytes_per_token = 3 * (1000 + DELIVERY_STORED_BYTES);
        })
    };
    let hub = hub_on();
    let admin = hub.token(&json!({"role": "admin"}));
    let other = hub.token_by(&admin, &json!({"role": "operator"}));
    for device in ["d", "e"] {
        hub.with_token(&admin, &format!("PUT /v1/devices/{device}"), "{\"labels\":{}}");
    }
    let data = format!("\"{}\"", "x".repeat(998));
    let send = |hub: &Hub, token: &Made, key: u8| {
        let fields =
            format!("Authorization: Bearer {}\r\nIdempotency-Key: {key}\r\n", token.secret);
        hub.request("POST /v1/send/d/ping", &fields, data.as_bytes())
    };
    for key in 0..3 {
        assert_eq!(send(&hub, &admin, key).status, 202, "{key}");
    }
    let refused = send(&hub, &admin, 3);
    assert_eq!((refused.status, refused.code().as_str()), (429, "queue_full"));
    assert!(text(&refused.json()["detail"]).contains("store_bytes_per_token"), "{refused:?}");
    let many = json!({"action": "ping", "target": {"devices": ["d", "e"]}}).to_string();
    assert_eq!(hub.with_token(&admin, "POST /v1/commands", &many).code(), "queue_full");
    let window = json!({"cron": "0 0 30 2 *", "minutes": 1});
    let never = json!({"action": "ping", "target": {"device": "d"}, "window": window}).to_string();
    let never = hub.with_token(&admin, "POST /v1/commands", &never);
    assert_eq!(never.status, 400, "what can never be sent is not to be tried again: {never:?}");
    assert_eq!(send(&hub, &admin, 2).status, 202, "a repeat: it is stored already");
    assert_eq!(send(&hub, &other, 0).status, 202, "another sender");
    drop(hub);

    let hub = hub_on();
    assert_eq!(send(&hub, &admin, 3).code(), "queue_full", "counted anew");
    assert_eq!(send(&hub, &other, 1).status, 202);
}

#[test]
fn a_disk_that_is_almost_full_is_for_what_devices_report() {
    let hub = limited(|quotas| quotas.store_free_min = 1 << 50);
    hub.until(|| hub.post("/v1/send/d/ping", "").status == 429);
    let refused = hub.post("/v1/send/d/ping", "");
    assert_eq!(refused.code(), "queue_full");
    assert!(refused.json()["detail"].as_str().unwrap().contains("store_free_min"), "{refused:?}");
    assert_eq!(hub.put("/v1/devices/d", "{\"labels\":{}}").status / 100, 2);
}
