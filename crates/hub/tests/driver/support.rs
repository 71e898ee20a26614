//! A hub on a temporary folder, and streams that are read as a client would.

use std::future::Future;
use std::time::Duration;

use bellwire_core::{Listen, Send};
use bellwire_hub::app::Hub;
use bellwire_hub::config::Config;
use bellwire_hub::driver::{Driver, Reserved};
use bellwire_hub::plane::{StreamBody, StreamOptions};
use bellwire_hub::store::Visible;
use bellwire_proto::{CommandId, Delivery, Json, Report, ReportState};
use bellwire_sse::{Decoder, OwnedItem};
use http_body_util::BodyExt;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::timeout;

/// Longer than anything here takes on a busy machine.
const WITHIN: Duration = Duration::from_secs(20);

/// Waits for what must happen.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let came = timeout(WITHIN, future).await;
    came.unwrap_or_else(|_| panic!("{what}: nothing within {WITHIN:?}"))
}

pub(crate) fn config(folder: &TempDir) -> Config {
    let mut config = Config::default();
    config.listen = vec!["127.0.0.1:0".parse().unwrap()];
    config.data_dir = folder.path().join("hub");
    config.shards = 1;
    config.drain = Duration::ZERO;
    config
}

/// An open hub without a server, and the folder that it lives in.
pub(crate) async fn hub() -> (Hub, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let hub = Hub::open(config(&folder)).await.unwrap();
    (hub, folder)
}

/// A command for a device, whose sender waits for so many seconds.
pub(crate) fn ping(device: &str, wait_s: u64) -> Send {
    let mut send = Send::new(device.parse().unwrap(), "ping".parse().unwrap(), Json::null());
    send.wait = bellwire_proto::Seconds::new(wait_s);
    send
}

/// A device's report about a delivery.
pub(crate) async fn report(driver: &Driver, delivery: &Delivery, state: ReportState) -> Delivery {
    let report = Report::of(state);
    let reported = driver.report(delivery.device.clone(), delivery.command, report);
    soon("the answer to a report", reported).await.unwrap()
}

/// A stream as its client reads it.
pub(crate) struct Stream {
    body: StreamBody,
    decoder: Decoder,
    bytes: Vec<u8>,
}

/// An event: its name, its id and its data.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) data: Value,
}

impl Stream {
    pub(crate) fn attach(driver: &Driver, reserved: Reserved) -> Self {
        let stream = reserved.stream();
        reserved.attached();
        let body = driver.plane().respond_with_body(stream);
        Self { body, decoder: Decoder::new(), bytes: Vec::new() }
    }

    /// A device that listens.
    pub(crate) async fn listen(driver: &Driver, device: &str) -> Self {
        let device = device.parse().unwrap();
        let reserved = driver.listen(device, Listen::default(), StreamOptions::default());
        Self::attach(driver, soon("a stream", reserved).await.unwrap())
    }

    pub(crate) async fn watch(driver: &Driver, command: CommandId) -> Self {
        let reserved = driver.watch(command, StreamOptions::default(), Visible::all(), None);
        Self::attach(driver, soon("a command's events", reserved).await.unwrap())
    }

    pub(crate) fn observe(driver: &Driver) -> Self {
        Self::attach(
            driver,
            driver.observe(StreamOptions::default(), Visible::all(), None).unwrap(),
        )
    }

    /// The next event; `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            let mut bytes = self.bytes.as_slice();
            let item = self.decoder.decode_owned(&mut bytes).unwrap();
            self.bytes = bytes.to_vec();
            if let Some(OwnedItem::Event(event)) = item {
                let data = serde_json::from_str(event.data()).unwrap();
                return Some(Event { name: event.name().to_owned(), data });
            }
            if item.is_some() {
                continue;
            }
            let frame = soon("a frame", self.body.frame()).await?;
            self.bytes.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
    }

    /// The next event, which must be of this name; its data.
    pub(crate) async fn expect(&mut self, name: &str) -> Value {
        let event = self.next().await;
        let event = event.unwrap_or_else(|| panic!("the stream ended before {name}"));
        assert_eq!(event.name, name, "{event:?}");
        event.data
    }
}

/// The first page of a list.
pub(crate) fn first_page() -> bellwire_hub::store::PageRequest {
    bellwire_hub::store::PageRequest { limit: 100, after: None }
}
