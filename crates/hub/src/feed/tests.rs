use std::time::Duration;

use bellwire_proto::{DeliveryState, Json, Outcome, Seq, Timestamp};
use http_body_util::BodyExt;
use tokio::time::timeout;

use super::*;
use crate::plane::{PlaneConfig, StreamEvents, StreamOptions};
use crate::store::{Options, SqliteStore};

struct Ignore;

impl StreamEvents for Ignore {
    fn on_events(&self, _: &mut Vec<StreamEvent>) {}
}

fn event(stdout: Option<String>) -> FeedEvent {
    let delivery = Delivery {
        command: CommandId::from_parts(1, [0; 10]),
        seq: Seq::new(1),
        device: "kiosk".parse().unwrap(),
        action: "ping".parse().unwrap(),
        state: DeliveryState::Running,
        attempt: 1,
        rev: 0,
        created_at: Timestamp::default(),
        updated_at: Timestamp::default(),
        expires_at: Timestamp::default(),
        outcome: Outcome { result: Some(Json::null()), stdout, ..Outcome::default() },
        late: false,
    };
    let event = HubEvent::Delivery { delivery: Box::new(delivery), version: 1 };
    FeedEvent { event, removed: None }
}

/// How many of so many events an observer got before it was cut off; `None` if it got all. On one thread the feed's task does not run while the queue is filled.
async fn cut_off_after(events: usize, stdout_bytes: usize) -> Option<usize> {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = SqliteStore::open(folder.path(), Options::default()).unwrap();
    let config = PlaneConfig { shards: 1, ..PlaneConfig::default() };
    let plane = Plane::start(config, Arc::new(Ignore)).unwrap();
    let feed = Feed::start(Arc::new(store), plane.clone());
    let stream = plane.reserve(StreamOptions::default());
    feed.observe(stream).unwrap();
    for _ in 0..events {
        feed.report(event(Some("x".repeat(stdout_bytes))));
    }
    let mut body = plane.respond_with_body(stream);
    let mut text = String::new();
    let reading = async {
        while let Some(frame) = body.frame().await {
            text.push_str(std::str::from_utf8(&frame.unwrap().into_data().unwrap()).unwrap());
            if text.matches("event: delivery\n").count() == events {
                return None;
            }
        }
        Some(text.matches("event: delivery\n").count())
    };
    timeout(Duration::from_secs(20), reading).await.expect("neither all events nor the end")
}

#[tokio::test]
async fn an_observer_whose_events_all_fit_gets_them_all() {
    assert_eq!(cut_off_after(500, 0).await, None);
}

#[tokio::test]
async fn observers_are_cut_off_when_more_events_wait_than_may() {
    assert_eq!(cut_off_after(QUEUE_EVENTS_MAX + 1, 0).await, Some(1));
}

#[tokio::test]
async fn observers_are_cut_off_when_the_events_that_wait_hold_more_than_they_may() {
    let each = 64 * 1024;
    assert_eq!(cut_off_after(QUEUE_BYTES_MAX / each + 1, each).await, Some(1));
}

#[tokio::test]
async fn watchers_are_bounded_and_one_that_disconnects_frees_its_slot() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = SqliteStore::open(folder.path(), Options::default()).unwrap();
    let config = PlaneConfig { shards: 1, ..PlaneConfig::default() };
    let plane = Plane::start(config, Arc::new(Ignore)).unwrap();
    let feed = Feed::start(Arc::new(store), plane.clone());
    let command = CommandId::from_parts(1, [0; 10]);
    let reserve = || plane.reserve(StreamOptions::default());
    let first = reserve();
    feed.observe(first).unwrap();
    let _mailboxes: Vec<_> =
        (1..WATCHERS_MAX).map(|_| feed.watch(reserve(), command).unwrap()).collect();
    assert_eq!(feed.observe(reserve()).unwrap_err().code, Code::RateLimited);

    let reason = CloseReason::PeerClosed;
    let mut closed = vec![StreamEvent::Closed { stream: first, reason }];
    assert!(feed.take_own(&mut closed), "there are fewer observers");
    assert!(closed.is_empty() && !feed.is_observed());
    feed.observe(reserve()).unwrap();
}
