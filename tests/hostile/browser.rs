//! Promise: a page that a user of the hub's machine opens makes its browser do nothing to the hub, and reads nothing of it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bellwire_hub::http::routes;
use serde_json::json;

use crate::support::{Closed, Hub, exchange, statuses};

/// What is set in a request by browsers, for a page of another site.
const FOREIGN: [&str; 6] = [
    "Origin: https://evil.example\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n",
    // One from before 2023, and a page in a sandbox or of a file.
    "Origin: https://evil.example\r\n",
    "Origin: null\r\n",
    // Another program of this machine, and another port.
    "Origin: http://localhost:3000\r\nSec-Fetch-Site: same-site\r\n",
    "Origin: http://127.0.0.1:1\r\n",
    // Two of them, the first the hub's own.
    "Origin: http://localhost\r\nOrigin: https://evil.example\r\n",
];

/// What a page may send without asking first (the Fetch standard, "CORS-safelisted request-header").
const FORMS: [&str; 3] =
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=b"];

/// Every route, with what stands in its path.
fn every_route() -> Vec<(String, String)> {
    let fill = |(method, path): (String, &str)| {
        let path = path
            .replace("{device}", "door")
            .replace("{action}", "open")
            .replace("{command}", "01900000-0000-7000-8000-000000000000")
            .replace(['{', '}'], "");
        (method, path)
    };
    routes().into_iter().map(fill).collect()
}

/// A GET reads, save where it listens as a device (the contract, section 6, "Browsers").
fn acts(method: &str, path: &str) -> bool {
    let listens = path.ends_with("/stream") || path == "/v1/devices/door/commands";
    method != "GET" || listens
}

/// The head of an answer, of a stream too: HEAD has what GET has.
fn head(hub: &Hub, method: &str, path: &str, host: &str, fields: &str, body: &str) -> String {
    let method = if method == "GET" { "HEAD" } else { method };
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\nConnection: close\r\n{fields}\r\n{body}"
    );
    let answer = exchange(hub.addr, request);
    answer.split("\r\n\r\n").next().unwrap_or_default().to_ascii_lowercase()
}

#[test]
fn a_page_of_another_site_acts_on_no_route_of_a_loopback_hub_and_reads_none() {
    let hub = Hub::open("");
    for (method, path) in every_route() {
        for fields in FOREIGN {
            for form in FORMS {
                let fields = format!("{fields}Content-Type: {form}\r\n");
                let body = if method == "GET" { "" } else { "{}" };
                let head = head(&hub, &method, &path, "localhost", &fields, body);
                if acts(&method, &path) {
                    assert!(head.starts_with("http/1.1 403"), "{method} {path} {fields}: {head}");
                }
                assert!(!head.contains("access-control-"), "{method} {path} {fields}: {head}");
            }
        }
    }
    for list in ["/v1/devices", "/v1/commands", "/v1/tokens"] {
        assert_eq!(hub.http().get(list).unwrap().json()["items"], json!([]), "{list}");
    }
}

/// A name of the attacker's that resolves to 127.0.0.1 makes a page of the attacker's the hub's own origin.
#[test]
fn a_name_that_is_rebound_to_this_machine_is_403_on_every_route() {
    let hub = Hub::open("allowed_hosts = ['hub.example.com']\n");
    let rebound = "Origin: http://evil.example:8888\r\nSec-Fetch-Site: same-origin\r\n";
    for (method, path) in every_route() {
        for fields in ["", rebound] {
            let head = head(&hub, &method, &path, "evil.example:8888", fields, "");
            assert!(head.starts_with("http/1.1 403"), "{method} {path} {fields}: {head}");
        }
    }
    for host in [
        "127.0.0.1.evil.example",
        "127.0.0.1.nip.io",
        "localhost.evil.example",
        "localhost.evil.example:80",
        "evil-localhost",
        "hub.example.com.evil.example",
        "evil.hub.example.com",
        "hub.example.co",
        "hub.example.com@evil.example",
        "localhost@evil.example",
        "evil.example#localhost",
        "evil.example/localhost",
        "",
        "*",
    ] {
        let head = head(&hub, "GET", "/v1/devices", host, "", "");
        let refused = head.starts_with("http/1.1 403") || head.starts_with("http/1.1 400");
        assert!(refused, "{host:?}: {head}");
    }
    for host in [
        "localhost",
        "LOCALHOST:1",
        "127.0.0.1",
        "[::1]:2",
        "hub.example.com",
        "Hub.Example.Com:443",
    ] {
        let head = head(&hub, "GET", "/v1/devices", host, "", "");
        assert!(head.starts_with("http/1.1 200"), "{host:?}: {head}");
    }
}

#[test]
fn cors_is_by_list_only_and_exact() {
    let hub = Hub::open("cors_origins = ['https://ops.example.com']\n");
    let asks = "Access-Control-Request-Method: DELETE\r\nAccess-Control-Request-Headers: authorization\r\n";
    for origin in [
        "https://ops.example.com.evil.example",
        "https://evil-ops.example.com",
        "https://x.ops.example.com",
        "http://ops.example.com",
        "https://ops.example.com:8443",
        "https://ops.example.com/",
        "https://ops.example.com@evil.example",
        "https://OPS.example.com.",
        "https://example.com",
        "ops.example.com",
        "null",
        "*",
        "",
    ] {
        for method in ["GET", "OPTIONS", "PUT"] {
            let fields = format!("Origin: {origin}\r\n{asks}");
            let head = head(&hub, method, "/v1/devices/door", "localhost", &fields, "");
            assert!(!head.contains("access-control-"), "{method} {origin:?}: {head}");
        }
    }
    let listed = format!("Origin: https://ops.example.com\r\n{asks}");
    for (method, path) in every_route() {
        let head = head(&hub, &method, &path, "localhost", &listed, "");
        let allowed = head.lines().filter(|line| line.starts_with("access-control-allow-origin:"));
        let allowed: Vec<&str> = allowed.collect();
        assert_eq!(
            allowed,
            ["access-control-allow-origin: https://ops.example.com"],
            "{method} {path}: {head}"
        );
        assert!(head.contains("vary: origin"), "{method} {path}: {head}");
        // A browser must not add what it has remembered for the hub: a page brings its token.
        assert!(!head.contains("access-control-allow-credentials"), "{method} {path}: {head}");
    }
}

/// A browser sends what it remembers of a user who opened the hub by Basic; the page cannot use that.
#[test]
fn a_page_cannot_use_the_token_that_a_browser_remembers() {
    let closed = Closed::start();
    closed.register("door", &json!({}));
    let remembered =
        format!("Authorization: Basic {}\r\n", STANDARD.encode(format!("me:{}", closed.admin)));
    for (method, path) in every_route() {
        for fields in FOREIGN {
            let fields = format!("{remembered}{fields}");
            let head = head(&closed.hub, &method, &path, "localhost", &fields, "");
            if acts(&method, &path) {
                assert!(head.starts_with("http/1.1 403"), "{method} {path} {fields}: {head}");
            }
            assert!(!head.contains("access-control-"), "{method} {path} {fields}: {head}");
        }
    }
    let shown = closed.admin("GET /v1/devices/door", "");
    assert_eq!(shown["id"], "door", "it was not removed");
    // Of the hub's own page it is what it is.
    let own = format!("{remembered}Origin: http://localhost\r\nSec-Fetch-Site: same-origin\r\n");
    let answer =
        head(&closed.hub, "PUT", "/v1/devices/door", "localhost", &own, r#"{"labels":{}}"#);
    assert_eq!(statuses(&answer.to_ascii_uppercase()), [200], "{answer}");
}
