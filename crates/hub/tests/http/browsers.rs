//! Requests that a web page makes a browser send: over every route, by what browsers really send. Contract, section 6, "Browsers".

use axum::Router;
use bellwire_hub::http;

use crate::support::{Answer, Connection, Head, Hub};

const ID: &str = "01900000-0000-7000-8000-000000000000";
const FOREIGN: &str = "Origin: https://evil.example\r\n";
const LISTED: &str = "Origin: https://ops.example.com\r\n";

/// Every method of every route, and whether it has an effect.
fn every_route() -> Vec<(String, bool)> {
    let routes = [
        ("POST /v1/send/d/a", true),
        ("GET /v1/commands", false),
        ("POST /v1/commands", true),
        ("GET /v1/commands/ID", false),
        ("DELETE /v1/commands/ID", true),
        ("GET /v1/commands/ID/deliveries", false),
        ("GET /v1/commands/ID/events", false),
        ("GET /v1/devices", false),
        ("GET /v1/devices/d", false),
        ("PUT /v1/devices/d", true),
        ("DELETE /v1/devices/d", true),
        ("PUT /v1/devices/d/facts", true),
        ("GET /v1/devices/d/stream", true),
        ("HEAD /v1/devices/d/stream", true),
        ("POST /v1/devices/d/confirm", true),
        ("GET /v1/devices/d/commands?wait=0", true),
        ("HEAD /v1/devices/d/commands", true),
        ("POST /v1/devices/d/commands/ID/status", true),
        ("POST /v1/devices/d/status", true),
        ("GET /v1/events", false),
        ("GET /v1/ping", false),
        ("GET /healthz", false),
        ("GET /readyz", false),
    ];
    routes.map(|(line, acts)| (line.replace("ID", ID), acts)).into()
}

/// The head of the answer, of a stream too.
fn head(hub: &Hub, line: &str, host: &str, headers: &str) -> Head {
    let mut connection = hub.connect();
    connection
        .send(format!("{line} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n{headers}\r\n"));
    connection.head()
}

fn refused(hub: &Hub, line: &str, headers: &str) -> Answer {
    let answer = hub.request(line, headers, b"");
    assert_eq!(answer.status, 403, "{line} {headers}: {answer:?}");
    if !line.starts_with("HEAD ") {
        assert_eq!(answer.code(), "forbidden", "{line}");
    }
    answer
}

/// Any page that the user of the hub's machine opened could send: `fetch` with `text/plain` needs no preflight.
#[test]
fn a_page_of_another_origin_may_read_and_nothing_else() {
    let hub = Hub::start();
    for (line, acts) in every_route() {
        for headers in [FOREIGN, "Origin: null\r\n", "Sec-Fetch-Site: cross-site\r\n"] {
            if acts {
                refused(&hub, &line, headers);
            } else {
                let head = head(&hub, &line, "localhost", headers);
                assert_ne!(head.status, 403, "{line}: {head:?}");
                assert_eq!(head.header("access-control-allow-origin"), None, "{line}: {head:?}");
            }
        }
    }
    assert_eq!(hub.get("/v1/devices").text(), r#"{"items":[],"next":null}"#, "nothing was done");
    let setting = refused(&hub, "POST /v1/send/d/a", FOREIGN).text().to_owned();
    assert!(
        setting.contains("cors_origins") && setting.contains("https://evil.example"),
        "{setting}"
    );
}

/// `<img src="http://127.0.0.1:8888/v1/devices/door/stream">` took the stream of the appliance.
#[test]
fn an_image_of_another_site_takes_no_stream_and_no_command() {
    let hub = Hub::start();
    let mut stream = hub.stream("/v1/devices/door/stream");
    stream.expect("hello");
    let image =
        "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: image\r\n";
    refused(&hub, "GET /v1/devices/door/stream", image);
    refused(&hub, "GET /v1/devices/door/commands", image);
    // Whatever else it bears.
    refused(&hub, "GET /v1/devices/door/stream", &format!("{image}Origin: http://localhost\r\n"));
    refused(&hub, "GET /v1/devices/door/stream", &format!("{image}Authorization: Bearer x\r\n"));
    let sent = hub.command("door", "open");
    assert_eq!(stream.expect("command")["id"], sent["command"], "the stream is still the device's");
}

#[test]
fn the_hubs_own_pages_and_what_is_no_browser_do_everything() {
    let hub = Hub::start();
    for headers in [
        "",
        "Origin: http://localhost\r\nSec-Fetch-Site: same-origin\r\n",
        "Sec-Fetch-Site: none\r\n",
    ] {
        for (line, _) in every_route() {
            let head = head(&hub, &line, "localhost", headers);
            assert_ne!(head.status, 403, "{line} {headers}: {head:?}");
        }
    }
}

/// A name of the attacker's that resolves to 127.0.0.1 made a page of the attacker's the hub's own.
#[test]
fn a_name_that_is_not_the_hubs_is_refused_on_every_route() {
    let hub = Hub::with(|config| config.allowed_hosts = vec!["hub.example.com".to_owned()]);
    for (line, _) in every_route() {
        let rebound = "Origin: http://evil.example:8888\r\nSec-Fetch-Site: same-origin\r\n";
        for headers in ["", rebound] {
            let head = head(&hub, &line, "evil.example:8888", headers);
            assert_eq!(head.status, 403, "{line}: {head:?}");
        }
        for host in ["localhost:8888", "127.0.0.1", "[::1]:8888", "192.0.2.7", "hub.example.com:1"]
        {
            let head = head(&hub, &line, host, "");
            assert_ne!(head.status, 403, "{line} at {host}: {head:?}");
        }
    }
    assert_eq!(head(&hub, "OPTIONS /v1/devices", "evil.example", "").status, 403);
    let mut connection = hub.connect();
    connection.send("GET http://evil.example/v1/ping HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let answer = connection.answer_to("GET");
    assert_eq!(answer.code(), "forbidden");
    assert!(answer.text().contains("allowed_hosts"), "{answer:?}");
}

#[test]
fn the_check_of_the_page_comes_after_route_and_method_and_before_names() {
    let hub = Hub::start();
    for (line, status) in [
        ("POST /v1/nothing/%2F?x=1", 404),
        ("PATCH /v1/send/%2F/a?x=1", 405),
        ("POST /v1/send/%2F/a?x=1", 403),
    ] {
        assert_eq!(hub.request(line, FOREIGN, b"{").status, status, "{line}");
    }
}

#[test]
fn a_page_of_a_listed_origin_may_do_everything_and_read_the_answer() {
    let hub = Hub::with(|config| {
        config.cors_origins = vec!["https://ops.example.com".parse().unwrap()];
    });
    let sent = hub.request("POST /v1/send/d/a", LISTED, b"");
    let unknown = hub.request(&format!("GET /v1/commands/{ID}"), LISTED, b"");
    let method = hub.request("PATCH /v1/devices", LISTED, b"");
    assert_eq!((sent.status, unknown.status, method.status), (202, 404, 405));
    // A stream whose connection is taken over has its head from elsewhere.
    let mut stream = hub.stream_with("/v1/devices/d/stream", LISTED);
    stream.expect("hello");
    for head in [&sent.head, &unknown.head, &method.head, &stream.head] {
        let allowed = head.header("access-control-allow-origin");
        assert_eq!(allowed, Some("https://ops.example.com"), "{head:?}");
        assert_eq!(head.header("vary"), Some("Origin"), "{head:?}");
        let lines = head.lines.iter().filter(|line| line.to_lowercase().starts_with("vary"));
        assert_eq!(lines.count(), 1, "{head:?}");
    }
    assert!(sent.head.header("access-control-expose-headers").unwrap().contains("Location"));

    let other = hub.request("GET /v1/devices", FOREIGN, b"");
    assert_eq!((other.status, other.head.header("access-control-allow-origin")), (200, None));
    assert_eq!(other.head.header("vary"), Some("Origin"), "a cache must not mix the two");
    refused(&hub, "POST /v1/send/d/a", FOREIGN);
}

#[test]
fn a_preflight_of_a_listed_origin_is_answered_204_with_what_is_allowed() {
    let hub = Hub::with(|config| {
        config.cors_origins = vec!["https://ops.example.com".parse().unwrap()];
    });
    let asks = "Access-Control-Request-Method: DELETE\r\nSec-Fetch-Site: cross-site\r\n";
    for path in ["/v1/devices/d", "/v1/devices/d/stream"] {
        let answer = hub.request(&format!("OPTIONS {path}"), &format!("{LISTED}{asks}"), b"");
        assert_eq!(answer.status, 204, "{answer:?}");
        let of = |name| answer.head.header(name).unwrap_or_default().to_owned();
        assert_eq!(of("access-control-allow-origin"), "https://ops.example.com");
        assert_eq!(of("access-control-allow-methods"), of("allow"));
        for field in ["Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID"] {
            assert!(of("access-control-allow-headers").contains(field), "{answer:?}");
        }
        assert_eq!(of("access-control-max-age"), "600");
    }
    for headers in [format!("{FOREIGN}{asks}"), FOREIGN.to_owned(), String::new()] {
        let answer = hub.request("OPTIONS /v1/devices/d", &headers, b"");
        assert_eq!(answer.status, 204, "{answer:?}");
        assert!(!answer.head.lines.iter().any(|l| l.starts_with("access-control-")), "{answer:?}");
    }
}

#[test]
fn a_mounted_hub_has_the_same_rule_and_tells_locations_as_its_client_sees_them() {
    let hub = Hub::with(|config| {
        config.cors_origins = vec!["https://ops.example.com".parse().unwrap()];
    });
    let nested = Router::new().nest("/bw", http::router(hub.driver.clone()));
    let deeper = Router::new().nest("/x", nested);
    let addr = hub.serve_by_axum(deeper);
    let ask = |line: &str, host: &str, headers: &str| {
        let mut connection = Connection::to(addr);
        connection
            .send(format!("{line} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n{headers}\r\n"));
        connection.answer_to(line)
    };
    assert_eq!(ask("POST /x/bw/v1/send/d/a", "localhost", FOREIGN).code(), "forbidden");
    assert_eq!(ask("GET /x/bw/v1/devices", "evil.example", "").code(), "forbidden");
    let image = "Sec-Fetch-Site: cross-site\r\n";
    assert_eq!(ask("GET /x/bw/v1/devices/d/stream", "localhost", image).code(), "forbidden");
    // Whether another program's server speaks TLS is not known to the hub.
    let own = "Origin: https://localhost\r\n";
    assert_eq!(ask("PUT /x/bw/v1/devices/d", "localhost", own).status, 201);
    let sent = ask("POST /x/bw/v1/send/d/a", "localhost", LISTED);
    let location = sent.head.header("location").unwrap();
    let id = sent.json()["command"].as_str().unwrap().to_owned();
    assert_eq!(location, format!("/x/bw/v1/commands/{id}"));
    assert_eq!(ask(&format!("GET {location}"), "localhost", "").status, 200);

    let mut connection = Connection::to(addr);
    connection
        .send(format!("GET /x/bw/v1/devices/d/stream HTTP/1.1\r\nHost: localhost\r\n{LISTED}\r\n"));
    let head = connection.head();
    let allowed = head.header("access-control-allow-origin");
    assert_eq!((head.status, allowed), (200, Some("https://ops.example.com")));
    assert_eq!(head.lines.iter().filter(|l| l.starts_with("access-control-allow-o")).count(), 1);
}
