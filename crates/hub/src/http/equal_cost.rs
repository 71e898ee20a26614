//! What is outside of an operator's selector takes the same way as what does not exist: so many reads of the store, and the
//! lock of the core as often. Counted and not timed, on every route of the table; that the answers are the same bytes is
//! tested from outside (`tests/hostile/scope.rs`).

use std::sync::Arc;

use axum::body::Body;
use bellwire_proto::Labels;
use http::{Request, header};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::driver::Driver;
use crate::driver::tests::started_with_store;
use crate::store::SqliteStore;

/// How often each call is made: what the hub does by itself meanwhile can only add to a count.
const TRIES: usize = 5;

struct CountingHub {
    driver: Driver,
    store: Arc<SqliteStore>,
    _dir: tempfile::TempDir,
}

impl CountingHub {
    fn start() -> Self {
        let (driver, store, _dir) = started_with_store();
        Self { driver, store, _dir }
    }

    async fn call(&self, token: &str, method: &str, path: &str, body: &str) -> (u16, Value) {
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        if !token.is_empty() {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.header(header::CONTENT_TYPE, "application/json");
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let answer = super::router(self.driver.clone()).oneshot(request).await.unwrap();
        let status = answer.status().as_u16();
        // A stream does not end.
        let streams =
            answer.headers().get("content-type").is_some_and(|t| t == "text/event-stream");
        if streams {
            return (status, Value::Null);
        }
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    /// The status of a call, and how many reads and locks it takes.
    async fn work(&self, token: &str, method: &str, path: &str, body: &str) -> (u16, u64, u64) {
        let mut least = (0, u64::MAX, u64::MAX);
        for _ in 0..TRIES {
            let before = (self.store.reads(), self.driver.locked());
            let (status, _) = self.call(token, method, path, body).await;
            let (reads, locks) = (self.store.reads() - before.0, self.driver.locked() - before.1);
            least = (status, reads.min(least.1), locks.min(least.2));
        }
        least
    }
}

/// Bodies that each route gets, as far as it takes one.
const BODIES: [&str; 4] = [
    "",
    "{}",
    r#"{"action":"ping","target":{"device":"DEVICE"}}"#,
    r#"{"action":"ping","target":{"devices":["lyon-1","DEVICE"]}}"#,
];

#[tokio::test]
async fn what_is_outside_of_a_selector_costs_the_same_reads_and_locks_as_what_is_not_there() {
    let hub = CountingHub::start();
    for (device, site) in [("lyon-1", "lyon"), ("rome-1", "rome")] {
        let labels = Labels::from([("site".into(), site.into())]);
        hub.driver.put_device(device.parse().unwrap(), labels).await.unwrap();
    }
    let (_, sent) = hub.call("", "POST", "/v1/send/rome-1/ping", "").await;
    let outside = sent["command"].as_str().unwrap().to_owned();
    let body = json!({"role": "operator", "select": "site=lyon"}).to_string();
    let (_, made) = hub.call("", "POST", "/v1/tokens", &body).await;
    let token = made["token"].as_str().unwrap().to_owned();

    let (absent, mut compared) = ("01900000-0000-7000-8000-000000000000", 0);
    for (method, path) in super::routes() {
        if !path.contains("{device}") && !path.contains("{command}") && method == "GET" {
            continue;
        }
        let path = path.replace("{action}", "ping").replace("{token}", "aaaaaaaaaaaaaaaa");
        for body in BODIES {
            let fill = |text: &str, device: &str, command: &str| {
                text.replace("{device}", device)
                    .replace("DEVICE", device)
                    .replace("{command}", command)
            };
            let of = async |device: &str, command: &str| {
                let (path, body) = (fill(&path, device, command), fill(body, device, command));
                hub.work(&token, &method, &path, &body).await
            };
            let (hidden, missing) = (of("rome-1", &outside).await, of("rome-9", absent).await);
            assert_eq!(
                hidden, missing,
                "{method} {path} {body}: status, reads and locks of what is outside, and of what is not there"
            );
            compared += usize::from(hidden.0 == 404);
        }
    }
    assert!(compared > 10, "{compared} refusals were compared");
}

/// Or the counters of the other test would prove nothing.
#[tokio::test]
async fn a_device_that_is_seen_costs_more_than_one_that_is_not() {
    let hub = CountingHub::start();
    hub.driver.put_device("lyon-1".parse().unwrap(), Labels::new()).await.unwrap();
    let seen = hub.work("", "GET", "/v1/devices/lyon-1", "").await;
    let missing = hub.work("", "GET", "/v1/devices/rome-9", "").await;
    assert_eq!((seen.0, missing.0), (200, 404));
    assert!(seen.2 > missing.2, "the counters count: {seen:?} and {missing:?}");
}
