//! The hub from its start to its end: what refuses to start, what is served beside the API, the drain, and
//! a store whose thread has panicked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bellwire_core::record::{Committed, Loaded};
use bellwire_hub::Clock;
use bellwire_hub::app::{self, Bound, Hub, Running, StartError};
use bellwire_hub::driver::{Driver, Readiness};
use bellwire_hub::store::{OpenError, Options, SqliteStore, Store, StoreError, StoreEvents};
use bellwire_proto::{Code, NewToken, Role};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{config, ping, soon};

/// One request on a connection of its own; the whole answer.
async fn fetch(addr: SocketAddr, request: &str) -> String {
    let mut connection = TcpStream::connect(addr).await.unwrap();
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon(request, connection.read_to_string(&mut answer)).await.unwrap();
    answer
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
}

fn post(path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n\
         {body}"
    )
}

async fn running(folder: &tempfile::TempDir, drain: Duration) -> (Running, SocketAddr) {
    let mut config = config(folder);
    config.drain = drain;
    let server = Bound::bind(config).await.unwrap().serve();
    let addr = server.listeners()[0].address;
    (server, addr)
}

#[tokio::test]
async fn a_hub_without_credentials_listens_on_loopback_unless_open_is_set() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(&folder);
    config.listen = vec!["127.0.0.1:0".parse().unwrap(), "0.0.0.0:0".parse().unwrap()];
    let refused = Bound::bind(config.clone()).await.unwrap_err();
    assert!(matches!(refused, StartError::Exposed { .. }) && refused.is_usage(), "{refused}");
    assert!(!config.data_dir.exists(), "nothing was begun");

    config.open = true;
    let bound = Bound::bind(config).await.unwrap();
    assert!(bound.listeners().iter().all(|listener| listener.address.port() != 0));
    bound.serve().shutdown().await;
}

#[tokio::test]
async fn the_classic_format_stays_on_loopback_unless_open_is_set_because_it_knows_no_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(&folder);
    let hub = Hub::open(config.clone()).await.unwrap();
    let admin = NewToken { role: Role::Admin, expires_in_s: None, note: None };
    hub.driver().make_token(admin, None).await.unwrap();
    hub.close().await;
    config.listen = vec!["0.0.0.0:0".parse().unwrap()];
    assert_eq!(app::faults(&config).len(), 0);
    config.classic = true;
    let refused = Bound::bind(config.clone()).await.unwrap_err();
    assert!(matches!(refused, StartError::ClassicExposed { .. }), "{refused}");
    assert!(refused.is_usage());
    config.open = true;
    assert_eq!(app::faults(&config).len(), 0);
}

#[tokio::test]
async fn a_data_folder_serves_one_hub_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let first = Hub::open(config(&folder)).await.unwrap();
    let refused = Hub::open(config(&folder)).await.unwrap_err();
    assert!(matches!(refused, StartError::Store(OpenError::InUse { .. })), "{refused}");
    assert!(!refused.is_usage());
    first.close().await;
    Hub::open(config(&folder)).await.unwrap().close().await;
}

#[tokio::test]
async fn an_address_that_is_taken_stops_the_hub_before_it_opens_anything() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(&folder);
    config.listen = vec![taken.local_addr().unwrap().into()];
    let refused = Bound::bind(config.clone()).await.unwrap_err();
    assert!(matches!(refused, StartError::Bind(_)), "{refused}");
    assert!(!config.data_dir.exists(), "nothing was begun");
}

#[tokio::test]
async fn routes_of_others_stand_beside_the_hubs() {
    let folder = tempfile::tempdir().unwrap();
    let mine = axum::Router::new().route("/mine", axum::routing::get(async || "my own page"));
    let server = Bound::bind(config(&folder)).await.unwrap().serve_with(mine);
    let addr = server.listeners()[0].address;
    assert!(fetch(addr, &get("/mine")).await.ends_with("my own page"));
    assert!(fetch(addr, &get("/healthz")).await.starts_with("HTTP/1.1 200 "));
    let nowhere = fetch(addr, &get("/elsewhere")).await;
    assert!(nowhere.starts_with("HTTP/1.1 404 ") && nowhere.contains("not_found"), "{nowhere}");
    server.shutdown().await;
}

#[tokio::test]
async fn the_classic_format_is_served_behind_the_api_if_that_is_set() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(&folder);
    config.classic = true;
    let server = Bound::bind(config).await.unwrap().serve();
    let addr = server.listeners()[0].address;
    let not_connected = fetch(addr, &post("/ping/token", "x")).await;
    assert!(not_connected.starts_with("HTTP/1.1 404 "), "{not_connected}");
    assert!(not_connected.ends_with("Target is not connected</body></html>\n"), "{not_connected}");
    let api = fetch(addr, &get("/v1/nowhere")).await;
    assert!(api.contains("\"code\":\"not_found\""), "/v1 wins: {api}");
    server.shutdown().await;
}

#[tokio::test]
async fn a_hub_that_stops_sends_byes_answers_what_waits_and_takes_reports_to_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let (server, addr) = running(&folder, Duration::from_secs(2)).await;
    let kiosk = tokio::spawn(async move { fetch(addr, &get("/v1/devices/kiosk/stream")).await });
    let idle = tokio::spawn(async move { fetch(addr, &get("/v1/devices/idle/commands")).await });
    let mut events = TcpStream::connect(addr).await.unwrap();
    events.write_all(get("/v1/events").as_bytes()).await.unwrap();
    let waiting =
        tokio::spawn(async move { fetch(addr, &post("/v1/send/kiosk/ping?wait=300s", "")).await });
    // Until an observer has seen the command on its way and the poll.
    let mut seen = String::new();
    soon("the observer", async {
        let mut bytes = [0; 4096];
        while !seen.contains("\"state\":\"sent\"") || !seen.contains("\"transport\":\"poll\"") {
            let read = events.read(&mut bytes).await.unwrap();
            seen.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
        }
    })
    .await;
    let id = seen.split("\"command\":\"").nth(1).unwrap()[..36].to_owned();

    let hub = server.hub().driver().clone();
    let stopping = tokio::spawn(server.shutdown());
    let bye = soon("the bye", kiosk).await.unwrap();
    assert!(bye.contains("event: bye\ndata: {\"reason\":\"draining\","), "{bye}");
    let unended = soon("the wait", waiting).await.unwrap();
    assert!(unended.starts_with("HTTP/1.1 202 "), "{unended}");
    let nothing = soon("the poll", idle).await.unwrap();
    assert!(nothing.contains("\"commands\":[],\"cancels\":[]}"), "{nothing}");

    for refused in [
        post("/v1/send/kiosk/ping", ""),
        get("/v1/devices/kiosk/stream"),
        get("/v1/devices/kiosk/commands"),
        get("/readyz"),
    ] {
        let answer = fetch(addr, &refused).await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("draining"), "{answer}");
    }
    assert!(fetch(addr, &get("/healthz")).await.starts_with("HTTP/1.1 200 "));
    let path = format!("/v1/devices/kiosk/commands/{id}/status");
    let report = fetch(addr, &post(&path, "{\"state\":\"succeeded\"}")).await;
    assert!(report.contains("\"state\":\"succeeded\""), "{report}");

    soon("the end", stopping).await.unwrap();
    assert!(TcpStream::connect(addr).await.is_err(), "the port is closed");
    assert!(hub.store().health().is_ok());
    drop(hub);

    let hub = Hub::open(config(&folder)).await.unwrap();
    let command = hub
        .driver()
        .store()
        .command(id.parse().unwrap(), bellwire_hub::store::Visible::all())
        .await
        .unwrap()
        .unwrap();
    assert!(command.done, "the report of the last moment is on disk");
    hub.close().await;
}

/// The driver's events, but the store's thread panics before it reports a commit.
struct Panicking(Arc<dyn StoreEvents>);

impl StoreEvents for Panicking {
    fn committed(&self, _: Vec<Committed>) {
        panic!("on purpose");
    }

    fn loaded(&self, loaded: Vec<Loaded>) {
        self.0.loaded(loaded);
    }

    fn failed(&self, error: StoreError) {
        self.0.failed(error);
    }
}

#[tokio::test]
async fn after_a_store_thread_panicked_every_write_is_refused_and_the_hub_is_not_ready() {
    // The queues were closed and nothing was reported: each send waited for ever.
    let folder = tempfile::tempdir().unwrap();
    let (store, recovered) = SqliteStore::open(folder.path(), Options::default()).unwrap();
    let store = Arc::new(store);
    let config = Arc::new(config(&folder));
    let driver = Driver::start(config, Clock::start(), store.clone(), recovered).unwrap();
    store.start(Arc::new(Panicking(driver.store_events()))).unwrap();
    assert_eq!(driver.readiness(), Readiness::Ready);
    for waits_for in ["the commit that panics", "a store that has failed"] {
        let refused = soon(waits_for, driver.send(ping("kiosk", 0))).await.unwrap_err();
        assert_eq!(refused.code, Code::StoreUnavailable, "{waits_for}");
    }
    assert_eq!(driver.readiness(), Readiness::StoreFailed);
    // A restart alone does not repair a disk: for a supervisor the process is alive.
    for (path, status) in [("/readyz", 503), ("/healthz", 200)] {
        let request = http::Request::get(path).body(axum::body::Body::empty()).unwrap();
        let router = bellwire_hub::http::router(driver.clone());
        let answer = tower::ServiceExt::oneshot(router, request).await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{path}");
    }
    store.close();
}
