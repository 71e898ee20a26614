use std::future::Future;
use std::time::Duration;

use axum::body::Body;
use bellwire_core::Recovered;
use bellwire_core::{Peer, Poll};
use bellwire_proto::{DeviceId, Json, Seconds};
use http_body_util::BodyExt;
use serde_json::Value;
use tempfile::TempDir;
use tower::ServiceExt;

use super::*;
use crate::store::{Options, SqliteStore};

/// Longer than anything here takes on a machine that is busy with other things.
const WITHIN: Duration = Duration::from_secs(20);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let came = tokio::time::timeout(WITHIN, future).await;
    came.unwrap_or_else(|_| panic!("{what}: nothing within {WITHIN:?}"))
}

/// A driver over a store of its own, and the folder that it is in.
fn started() -> (Driver, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let (store, recovered): (_, Recovered) =
        SqliteStore::open(dir.path(), Options::default()).unwrap();
    let store = Arc::new(store);
    let config = Config { shards: 1, ..Config::default() };
    let driver = Driver::start(Arc::new(config), Clock::start(), store.clone(), recovered).unwrap();
    store.start(driver.store_events()).unwrap();
    (driver, dir)
}

async fn until(what: &str, so: impl Fn() -> bool) {
    soon(what, async {
        while !so() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// The status of a GET, and the code of its problem or the state that it reports.
async fn get(driver: &Driver, path: &str) -> (u16, String) {
    let request = http::Request::get(path).body(Body::empty()).unwrap();
    let response = crate::http::router(driver.clone()).oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let media_type = response.headers()[http::header::CONTENT_TYPE].to_str().unwrap().to_owned();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap();
    let member = if status == 200 { "status" } else { "code" };
    assert_eq!(media_type.ends_with("problem+json"), status != 200, "{media_type}");
    (status, body[member].as_str().unwrap().to_owned())
}

fn ping(device: &str) -> Send {
    Send::new(device.parse().unwrap(), "ping".parse().unwrap(), Json::null())
}

#[tokio::test]
async fn a_hub_whose_core_panicked_is_not_healthy_and_leaves_nobody_waiting() {
    // /readyz said ready and /healthz ok of a hub that refused everything, and no supervisor
    // restarted it.
    let (driver, _dir) = started();
    assert_eq!(get(&driver, "/readyz").await, (200, "ready".into()));
    let poll = Poll { wait: Seconds::new(60), last_event_id: None, peer: Peer::default() };
    let poll = driver.poll("kiosk".parse().unwrap(), poll);
    let (waits, ()) = tokio::join!(soon("the answer to a poll", poll), async {
        let kiosk: DeviceId = "kiosk".parse().unwrap();
        until("the poll", || driver.presences([&kiosk]).unwrap()[0].online()).await;
        assert_eq!(driver.runtime.with_core(|_, _| panic!("on purpose")), None::<()>);
    });
    assert_eq!(waits.unwrap_err().code, Code::Internal);

    assert_eq!(get(&driver, "/healthz").await, (500, "internal".into()));
    assert_eq!(get(&driver, "/readyz").await, (503, "store_unavailable".into()));
    let refused = soon("a send", driver.send(ping("kiosk"))).await.unwrap_err();
    assert_eq!(refused.code, Code::Internal);
    assert_eq!(get(&driver, "/v1/devices").await, (500, "internal".into()), "not all offline");
    driver.drain();
}

#[tokio::test]
async fn a_hub_with_a_dead_shard_is_not_healthy_and_opens_no_stream() {
    // The streams of the shard were gone, new ones hung, and /readyz said ready.
    let (driver, _dir) = started();
    driver.plane().panic();
    until("the shard's end", || !driver.plane().is_alive()).await;
    assert_eq!(get(&driver, "/healthz").await, (500, "internal".into()));
    assert_eq!(get(&driver, "/readyz").await, (503, "store_unavailable".into()));
    let stream = driver.observe(StreamOptions::default());
    assert_eq!(stream.unwrap_err().code, Code::Internal);
}

#[tokio::test]
async fn a_hub_that_was_closed_has_not_failed() {
    let (driver, _dir) = started();
    driver.drain();
    driver.plane().shutdown(0);
    assert_eq!(get(&driver, "/healthz").await, (200, "ok".into()));
    assert_eq!(get(&driver, "/readyz").await, (503, "draining".into()));
}
