//! A driver whose core or shard panics on purpose, and the rows that are held for observers: what needs
//! the inside of the driver. The rest is tested from outside, in `tests/driver/`.

use crate::store::Visible;
use std::future::Future;
use std::time::Duration;

use axum::body::Body;
use bellwire_core::Recovered;
use bellwire_core::{Peer, Poll, Send};
use bellwire_proto::{DeviceId, Json, Labels, Seconds};
use futures_core::future::BoxFuture;
use futures_util::FutureExt;
use http_body_util::BodyExt;
use serde_json::Value;
use tempfile::TempDir;
use tower::ServiceExt;

use super::*;
use crate::plane::StreamBody;
use crate::store::{Options, SqliteStore};

/// Longer than anything here takes on a busy machine.
const WITHIN: Duration = Duration::from_secs(20);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let came = tokio::time::timeout(WITHIN, future).await;
    came.unwrap_or_else(|_| panic!("{what}: nothing within {WITHIN:?}"))
}

/// A driver over a store of its own, and the store's folder.
pub(crate) fn started() -> (Driver, TempDir) {
    let (driver, _, dir) = started_with_store();
    (driver, dir)
}

/// The same with the store.
pub(crate) fn started_with_store() -> (Driver, Arc<SqliteStore>, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let (store, recovered): (_, Recovered) =
        SqliteStore::open(dir.path(), Options::default()).unwrap();
    let store = Arc::new(store);
    let config = Config { shards: 1, ..Config::default() };
    let driver = Driver::start(Arc::new(config), Clock::start(), store.clone(), recovered).unwrap();
    store.start(driver.store_events()).unwrap();
    (driver, store, dir)
}

async fn until(what: &str, so: impl Fn() -> bool) {
    soon(what, async {
        while !so() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// The status of a GET, and its body.
async fn fetch(driver: &Driver, path: &str) -> (u16, Value) {
    let request = http::Request::get(path).body(Body::empty()).unwrap();
    let response = crate::http::router(driver.clone()).oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let media_type = response.headers()[http::header::CONTENT_TYPE].to_str().unwrap().to_owned();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(media_type.ends_with("problem+json"), status != 200, "{media_type}");
    (status, body)
}

/// The status of a GET, and the code of its problem or the state that it reports.
async fn get(driver: &Driver, path: &str) -> (u16, String) {
    let (status, body) = fetch(driver, path).await;
    let member = if status == 200 { "status" } else { "code" };
    (status, body[member].as_str().unwrap().to_owned())
}

fn ping(device: &str) -> Send {
    Send::new(device.parse().unwrap(), "ping".parse().unwrap(), Json::null())
}

#[tokio::test]
async fn a_hub_whose_core_panicked_is_not_healthy_and_leaves_no_request_waiting() {
    // /readyz answered ready and /healthz ok for a hub that refused everything, so no supervisor
    // restarted it.
    let (driver, _dir) = started();
    assert_eq!(get(&driver, "/readyz").await, (200, "ready".into()));
    let poll =
        Poll { wait: Seconds::new(60), last_event_id: None, peer: Peer::default(), token: None };
    let poll = driver.poll("kiosk".parse().unwrap(), poll);
    let (waits, ()) = tokio::join!(soon("the answer to a poll", poll), async {
        let kiosk: DeviceId = "kiosk".parse().unwrap();
        until("the poll", || driver.presences([&kiosk]).unwrap()[0].online()).await;
        assert_eq!(driver.runtime.with_core(|_, _| panic!("on purpose")), None::<()>);
    });
    assert_eq!(waits.unwrap_err().code, Code::Internal);

    assert_eq!(get(&driver, "/healthz").await, (500, "internal".into()));
    // The code alone sent operators to a disk that was sound.
    assert_eq!(get(&driver, "/readyz").await, (503, "store_unavailable".into()));
    let detail = fetch(&driver, "/readyz").await.1["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("not its disk"), "{detail}");
    let refused = soon("a send", driver.send(ping("kiosk"))).await.unwrap_err();
    assert_eq!(refused.code, Code::Internal);
    assert_eq!(get(&driver, "/v1/devices").await, (500, "internal".into()), "not all offline");
    driver.drain();
}

#[tokio::test]
async fn a_drain_does_not_wait_for_a_core_that_panicked_meanwhile() {
    // Its barrier stayed with the core, and the drain waited for ever.
    let (driver, _dir) = started();
    let (passed, passes) = std::sync::mpsc::sync_channel(1);
    driver.runtime.with_core(|core, _| {
        core.barriers.push_back(passed);
        panic!("on purpose");
    });
    assert_eq!(passes.try_recv(), Err(std::sync::mpsc::TryRecvError::Disconnected));
}

#[tokio::test]
async fn a_hub_with_a_dead_shard_is_not_healthy_and_opens_no_stream() {
    // The streams of the shard were lost, new ones hung, and /readyz answered ready.
    let (driver, _dir) = started();
    driver.plane().panic();
    until("the shard's end", || !driver.plane().is_alive()).await;
    assert_eq!(get(&driver, "/healthz").await, (500, "internal".into()));
    assert_eq!(get(&driver, "/readyz").await, (503, "store_unavailable".into()));
    let stream = driver.observe(StreamOptions::default(), Visible::all(), None);
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

fn observe(driver: &Driver) -> StreamBody {
    let reserved = driver.observe(StreamOptions::default(), Visible::all(), None).unwrap();
    let stream = reserved.stream();
    reserved.attached();
    driver.plane().respond_with_body(stream)
}

#[tokio::test]
async fn removals_are_reported_whatever_became_of_earlier_observers() {
    // Rows that were held for observers who disconnected meanwhile were never released, and after
    // 1,000 of them no removal was reported any more.
    let (driver, _dir) = started();
    for batch in 0..12 {
        let observer = observe(&driver);
        let mut removals: Vec<BoxFuture<'_, _>> = Vec::new();
        for n in 0..100 {
            let device: DeviceId = format!("kiosk-{batch}-{n}").parse().unwrap();
            driver.put_device(device.clone(), Labels::new()).await.unwrap();
            let mut removal: BoxFuture<'_, _> = Box::pin(driver.delete_device(device));
            // The removal has begun when the observer leaves.
            let waker = std::task::Waker::noop();
            assert!(removal.as_mut().poll(&mut std::task::Context::from_waker(waker)).is_pending());
            removals.push(removal);
        }
        drop(observer);
        until("the observer's end", || !driver.runtime.feed.is_observed()).await;
        for removal in removals {
            soon("a removal", removal).await.unwrap();
        }
    }

    let held = driver.runtime.with_core(|core, _| core.removing.len());
    assert_eq!(held, Some(0), "each row is dropped with the reply");
    let mut observer = observe(&driver);
    let device: DeviceId = "last".parse().unwrap();
    driver.put_device(device.clone(), Labels::new()).await.unwrap();
    driver.delete_device(device).await.unwrap();
    let mut text = String::new();
    let removed = |line: &str| line.contains("\"id\":\"last\"") && line.contains("\"removed\"");
    while !text.lines().any(removed) {
        let frame = soon("the removal's event", observer.frame()).await.unwrap().unwrap();
        text.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
    }
}

/// What the stream has until it ends.
async fn rest(stream: StreamBody) -> String {
    let rest = soon("the end", stream.collect()).await.unwrap().to_bytes();
    String::from_utf8(rest.to_vec()).unwrap()
}

#[tokio::test]
async fn a_hub_whose_feed_panicked_is_not_healthy_and_ends_its_streams_with_a_bye() {
    // Observers and watchers hung for ever, and /readyz answered ready.
    let (driver, _dir) = started();
    let observer = observe(&driver);
    let sent = driver.send(ping("kiosk")).await.unwrap();
    let watcher =
        driver.watch(sent.command, StreamOptions::default(), Visible::all(), None).await.unwrap();
    let stream = watcher.stream();
    watcher.attached();
    let watcher = driver.plane().respond_with_body(stream);

    driver.runtime.feed.panic_at_the_next_event();
    driver.send(ping("kiosk")).await.unwrap();
    for stream in [observer, watcher] {
        let rest = rest(stream).await;
        assert!(rest.contains("event: bye\ndata: {\"reason\":\"overloaded\""), "{rest}");
    }
    assert_eq!(get(&driver, "/healthz").await, (500, "internal".into()));
    assert_eq!(get(&driver, "/readyz").await, (503, "store_unavailable".into()));
    let refused = driver.observe(StreamOptions::default(), Visible::all(), None).unwrap_err();
    assert_eq!(refused.code, Code::Internal);
    let refused = driver
        .watch(sent.command, StreamOptions::default(), Visible::all(), None)
        .await
        .unwrap_err();
    assert_eq!(refused.code, Code::Internal);
}

#[tokio::test]
async fn a_hub_whose_timer_panicked_is_not_healthy() {
    let (driver, _dir) = started();
    driver.runtime.panic_in_the_timer();
    until("the timer's end", || driver.readiness() == Readiness::Failed).await;
    assert_eq!(get(&driver, "/healthz").await, (500, "internal".into()));
}

/// The tasks that follow the files of TLS and the keys of an issuer, and those that accept connections, could end with a
/// panic beside a hub that said it was well.
#[tokio::test]
async fn a_hub_of_which_any_task_panicked_is_not_healthy() {
    let (driver, _dir) = started();
    driver.spawn(async { panic!("on purpose") });
    until("the task's end", || driver.readiness() == Readiness::Failed).await;
    assert_eq!(get(&driver, "/healthz").await, (500, "internal".into()));
}

/// A merge read the labels, the device was deleted, and the merge registered it again.
#[tokio::test]
async fn a_device_is_neither_deleted_nor_put_while_its_labels_are_being_changed() {
    let (driver, _dir) = started();
    let device: DeviceId = "kiosk".parse().unwrap();
    driver.put_device(device.clone(), Labels::new()).await.unwrap();
    let held = driver.hold_labels(&device).await;
    let mut deleted: BoxFuture<'_, _> = Box::pin(driver.delete_device(device.clone()));
    assert!(deleted.as_mut().now_or_never().is_none());
    let lyon = Labels::from([("site".into(), "lyon".into())]);
    let mut put: BoxFuture<'_, _> = Box::pin(driver.put_device(device.clone(), lyon));
    assert!(put.as_mut().now_or_never().is_none());
    for _ in 0..100 {
        // Each call takes the lock that a change which waits must not hold; what it committed is seen by the next.
        driver.put_facts(device.clone(), Json::null()).await.unwrap();
        let found = driver.store().device(device.clone()).await.unwrap();
        assert_eq!(found.expect("it was deleted").record.labels, Labels::new());
    }
    drop(held);
    soon("the removal", deleted).await.unwrap();
    assert!(soon("the change behind it", put).await.unwrap(), "it was registered anew");
}

/// The client that goes away took the lock with it, while its enrolment was still to be stored.
#[tokio::test]
async fn an_enrolment_waits_for_a_change_of_labels_and_goes_on_without_its_client() {
    let (driver, _dir) = started();
    let device: DeviceId = "kiosk".parse().unwrap();
    let new = |text: &str| bellwire_proto::NewToken::parse(text.as_bytes()).unwrap();
    let join = driver.make_token(new(r#"{"role":"join"}"#), None).await.unwrap();
    let credential = driver.new_credential().unwrap();
    let enrolment = bellwire_core::Enrolment {
        join: join.token.0.id(),
        device: device.clone(),
        facts: None,
        token: credential.id(),
        digest: crate::auth::secret_digest(&credential),
    };
    let known = async || driver.store().device(device.clone()).await.unwrap().is_some();
    let held = driver.hold_labels(&device).await;
    let mut enrols: BoxFuture<'_, _> = Box::pin(driver.enroll(enrolment));
    assert!(enrols.as_mut().now_or_never().is_none());
    for _ in 0..100 {
        assert!(!known().await, "it did not wait");
    }
    drop(enrols);
    drop(held);
    soon("the enrolment", async { while !known().await {} }).await;
}

/// The deliveries that it had come to were cancelled, and the others went on.
#[tokio::test]
async fn a_cancel_of_a_part_is_carried_out_without_its_client() {
    let (driver, _dir) = started();
    let devices: Vec<DeviceId> = (0..200).map(|n| format!("d{n}").parse().unwrap()).collect();
    let lyon = || Labels::from([("site".into(), "lyon".into())]);
    let puts = devices.iter().map(|device| driver.put_device(device.clone(), lyon()));
    assert!(futures_util::future::join_all(puts).await.into_iter().all(|put| put.is_ok()));
    let mut send = ping("d0");
    send.target = bellwire_core::Target::Devices(devices);
    let command = driver.send_to_many(send, Visible::all()).await.unwrap().id;
    let visible = Visible::by(Some("site=lyon".parse().unwrap()));
    let cancels: BoxFuture<'_, _> = Box::pin(driver.cancel_visible(command, false, visible));
    assert!(cancels.now_or_never().is_none());
    soon("the end of the command", async {
        while !driver.command(command, Visible::all()).await.unwrap().done {}
    })
    .await;
}
