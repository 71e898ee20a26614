//! `GET /metrics`: who may read it, that its text is what Prometheus reads, and that the page on operations lists it.
//! Contract, section 9.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::json;

use crate::support::{Answer, Hub};

/// A page by the grammar of Prometheus' text format 0.0.4, or of OpenMetrics 1.0; whatever either does not allow fails.
#[derive(Debug, Default)]
struct Page {
    /// The type of each family.
    families: BTreeMap<String, String>,
    /// Each sample with its labels.
    samples: BTreeMap<(String, BTreeMap<String, String>), f64>,
}

impl Page {
    fn parse(text: &str, open_metrics: bool) -> Self {
        let mut page = Self::default();
        let text = if open_metrics {
            text.strip_suffix("# EOF\n").expect("OpenMetrics ends in # EOF")
        } else {
            text
        };
        assert!(
            text.ends_with('\n') && !text.contains("\n\n"),
            "each line ends, and none is empty"
        );
        let (mut current, mut helped) = (None::<(String, String)>, BTreeSet::new());
        for line in text.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                let words: Vec<&str> = comment.splitn(3, ' ').collect();
                let [kind, name, rest] = words[..] else { panic!("{line:?} is cut off") };
                assert_name(name, ":");
                match kind {
                    "HELP" => assert!(helped.insert(name.to_owned()), "{name} is helped twice"),
                    "TYPE" => {
                        let known = ["counter", "gauge", "histogram"].contains(&rest);
                        assert!(known, "{line:?} has another type than both formats have");
                        let new = page.families.insert(name.to_owned(), rest.to_owned());
                        assert!(new.is_none() && helped.contains(name), "{line:?}");
                        current = Some((name.to_owned(), rest.to_owned()));
                    }
                    "UNIT" => {
                        assert!(open_metrics && name.ends_with(&format!("_{rest}")), "{line:?}")
                    }
                    _ => panic!("{line:?} is no comment of the format"),
                }
                continue;
            }
            let (name, labels, value) = sample(line);
            let (family, kind) = current.as_ref().expect("a sample follows its TYPE");
            let suffixes: &[&str] = match kind.as_str() {
                "counter" if open_metrics => &["_total"],
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            let own = suffixes.iter().any(|suffix| name == format!("{family}{suffix}"));
            assert!(own, "{line:?} is no sample of the {kind} {family}");
            assert!(kind != "counter" || name.ends_with("_total"), "{line:?}");
            let again = page.samples.insert((name, labels), value);
            assert!(again.is_none(), "{line:?} is there twice");
        }
        page
    }

    fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let labels = labels.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        let sample = (name.to_owned(), labels.collect());
        *self.samples.get(&sample).unwrap_or_else(|| panic!("no {sample:?} in {self:#?}"))
    }
}

fn assert_name(name: &str, more: &str) {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || more.contains(c);
    let begins = name.starts_with(|c: char| !c.is_ascii_digit());
    assert!(begins && name.chars().all(legal), "{name:?} is no name");
}

/// `name{label="value",…} number`.
fn sample(line: &str) -> (String, BTreeMap<String, String>, f64) {
    let (head, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?} has no value"));
    let value = match value {
        "+Inf" => f64::INFINITY,
        number => number.parse().unwrap_or_else(|_| panic!("{line:?} has no number")),
    };
    let (name, mut rest) = match head.split_once('{') {
        None => (head, ""),
        Some((name, labels)) => (name, labels.strip_suffix('}').expect("labels are closed")),
    };
    assert_name(name, ":");
    let mut labels = BTreeMap::new();
    while !rest.is_empty() {
        let (label, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("{line:?}"));
        assert_name(label, "");
        let mut text = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next().unwrap_or_else(|| panic!("{line:?} has an open quote")) {
                (at, '"') => break at,
                (_, '\\') => match chars.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, c @ ('\\' | '"'))) => text.push(c),
                    other => panic!("{line:?} has the escape {other:?}"),
                },
                (_, c) => text.push(c),
            }
        };
        // The formats write the numbers of buckets differently.
        let number = text.parse::<f64>().ok().filter(|end| label == "le" && end.is_finite());
        let text = number.map_or(text, |end| end.to_string());
        assert!(labels.insert(label.to_owned(), text).is_none(), "{line:?} has {label} twice");
        rest = &after[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
    (name.to_owned(), labels, value)
}

fn scraped(hub: &Hub, headers: &str) -> Answer {
    let answer = hub.request("GET /metrics", headers, b"");
    assert_eq!(answer.status, 200, "{answer:?}");
    answer
}

fn page(hub: &Hub, headers: &str) -> Page {
    Page::parse(scraped(hub, headers).text(), false)
}

const OPEN_METRICS: &str =
    "Accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2\r\n";

#[test]
fn a_page_of_metrics_is_what_prometheus_reads_in_either_format() {
    let hub = Hub::start();
    hub.command("d", "ping");
    let plain = scraped(&hub, "");
    let media_type = |answer: &Answer| answer.head.header("content-type").map(str::to_owned);
    assert_eq!(media_type(&plain).as_deref(), Some("text/plain; version=0.0.4; charset=utf-8"));
    let open = scraped(&hub, OPEN_METRICS);
    assert_eq!(
        media_type(&open).as_deref(),
        Some("application/openmetrics-text; version=1.0.0; charset=utf-8")
    );
    let (plain, open) = (Page::parse(plain.text(), false), Page::parse(open.text(), true));
    let samples = |page: &Page| page.samples.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(samples(&plain), samples(&open), "both say the same");
    assert_eq!(open.value("bellwire_sends_total", &[]), 1.0);
    // A histogram counts up to its last bucket, which is all of it.
    let bucket =
        |end: &str| open.value("bellwire_store_commit_duration_seconds_bucket", &[("le", end)]);
    let all = open.value("bellwire_store_commit_duration_seconds_count", &[]);
    assert!(bucket("0.0005") <= bucket("5") && bucket("5") <= all, "{open:#?}");
    assert!(bucket("+Inf") == all && all >= 1.0, "{open:#?}");
}

#[test]
fn the_page_on_operations_lists_exactly_the_metrics_that_there_are() {
    let hub = Hub::start();
    let page = page(&hub, "");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operations.md");
    let text = std::fs::read_to_string(file).unwrap();
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `bellwire_")?.split(" | ");
        let name = cells.next()?.trim_end_matches('`');
        let (name, labels) = name.split_once('{').unwrap_or((name, ""));
        let labels: Vec<_> = labels.split([',', '}']).filter(|label| !label.is_empty()).collect();
        Some((format!("bellwire_{name}"), (cells.next()?.to_owned(), labels.join(","))))
    };
    let listed: BTreeMap<_, _> = text.lines().filter_map(row).collect();
    let labels = |family: &str| {
        let of = |name: &str| {
            name.strip_prefix(family).is_some_and(|rest| ["", "_bucket"].contains(&rest))
        };
        let mut samples = page.samples.keys().filter(|(name, _)| of(name));
        let labels = samples.next().map(|(_, labels)| labels.keys().cloned().collect::<Vec<_>>());
        labels.unwrap_or_default().join(",").replace("le", "")
    };
    // A hub without TLS has no certificate to show.
    let served: BTreeMap<_, _> = page
        .families
        .iter()
        .map(|(name, kind)| match name.as_str() {
            "bellwire_tls_certificate_expiry_seconds" => {
                (name.clone(), (kind.clone(), "certificate".to_owned()))
            }
            _ => (name.clone(), (kind.clone(), labels(name))),
        })
        .collect();
    assert_eq!(listed, served);
}

#[test]
fn tokens_of_admins_and_for_metrics_read_them_and_no_others_do() {
    let hub = Hub::start();
    let admin = hub.token(&json!({"role": "admin"}));
    let metrics = hub.token_by(&admin, &json!({"role": "metrics"}));
    let operator = hub.token_by(&admin, &json!({"role": "operator"}));
    let device = hub.token_by(&admin, &json!({"role": "device", "device": "d"}));
    for token in [&admin, &metrics] {
        assert_eq!(hub.with_token(token, "GET /metrics", "").status, 200);
    }
    for token in [&operator, &device] {
        assert_eq!(hub.with_token(token, "GET /metrics", "").code(), "forbidden");
    }
    assert_eq!(hub.get("/metrics").code(), "unauthenticated");
    assert_eq!(hub.with_token(&metrics, "POST /metrics", "").status, 405);
    assert_eq!(hub.with_token(&metrics, "GET /v1/devices", "").code(), "forbidden");
}

#[test]
fn what_happens_is_counted_and_no_name_and_no_secret_is_shown() {
    let hub = Hub::start();
    let admin = hub.token(&json!({"role": "admin"}));
    let reads = admin.header();
    hub.with_token(&admin, "PUT /v1/devices/unmistakable-name", "{}");
    let online = |page: &Page| page.value("bellwire_devices_online", &[]);
    let plain = [("transport", "plain")];
    let streams = |page: &Page| page.value("bellwire_streams", &plain);
    let before = page(&hub, &reads);
    assert_eq!((online(&before), streams(&before)), (0.0, 0.0));

    let mut stream = hub.stream_of(&admin, "/v1/devices/unmistakable-name/stream");
    stream.expect("hello");
    let sent = hub.with_token(&admin, "POST /v1/send/unmistakable-name/secret-action", "hush");
    assert_eq!(sent.status, 202, "{sent:?}");
    stream.expect("command");
    assert_eq!(hub.get("/v1/devices/unmistakable-name").code(), "unauthenticated");
    assert_eq!(hub.with_token(&admin, "GET /v1/devices/another-name", "").code(), "unknown_device");
    let stale = format!("If-Match: \"stale\"\r\n{reads}");
    assert_eq!(hub.request("PUT /v1/devices/unmistakable-name", &stale, b"{}").status, 412);
    let text = scraped(&hub, &reads);
    let now = Page::parse(text.text(), false);
    assert_eq!((online(&now), streams(&now)), (1.0, 1.0));
    assert!(now.value("bellwire_stream_bytes_total", &[]) > 0.0);
    assert_eq!(now.value("bellwire_sends_total", &[]), 1.0);
    assert_eq!(now.value("bellwire_ready", &[]), 1.0);
    let refused = |reason| now.value("bellwire_requests_refused_total", &[("reason", reason)]);
    assert_eq!((refused("unauthenticated"), refused("unknown_device")), (1.0, 1.0));
    assert_eq!(refused("conflict"), 1.0, "its status is not that of its code");
    let answered = |status| now.value("bellwire_requests_total", &[("status", status)]);
    assert_eq!((answered("4xx"), answered("5xx")), (3.0, 0.0));
    assert!(answered("2xx") >= 4.0 && now.value("bellwire_audit_entries_total", &[]) >= 3.0);
    let (_, secret) = admin.secret.rsplit_once('_').unwrap();
    for hidden in ["unmistakable", "another-name", "secret-action", "hush", secret, &admin.id] {
        assert!(!text.text().contains(hidden), "{hidden} is in {}", text.text());
    }

    drop(stream);
    hub.until(|| {
        let page = page(&hub, &reads);
        online(&page) == 0.0 && streams(&page) == 0.0
    });
}

/// One whose sender waited was counted with the answer, minutes later, and never if the sender left before.
#[test]
fn a_command_is_counted_when_it_is_stored_and_not_when_its_sender_is_answered() {
    let hub = Hub::start();
    let sends = || page(&hub, "").value("bellwire_sends_total", &[]);
    let mut waiting = hub.connect();
    waiting.request("POST /v1/send/d/ping?wait=5m", "", b"");
    hub.until(|| sends() == 1.0);
    drop(waiting);
    let key = "Idempotency-Key: once\r\n";
    let first = hub.request("POST /v1/send/d/ping", key, b"").json();
    assert_eq!(hub.request("POST /v1/send/d/ping", key, b"").json()["command"], first["command"]);
    assert_eq!(sends(), 2.0, "an answer by the key stores nothing");
}
