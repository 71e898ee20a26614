use bellwire_proto::limits::WATCHERS_MAX;
use std::time::Duration;

use bellwire_core::AccessChange;
use bellwire_proto::{Command, Counts, DeliveryState, Json, Outcome, Seq, Timestamp};
use http_body_util::BodyExt;
use tokio::time::timeout;

use super::*;
use crate::plane::{PlaneConfig, StreamEvents, StreamOptions};
use crate::store::{Options, ReadFuture, Snapshot, SqliteStore, StoreError, StoreEvents, Visible};

/// The last event of a stream that has missed something.
const OVERLOADED: &str = "event: bye\ndata: {\"reason\":\"overloaded\"";

struct Ignore;

impl StoreEvents for Ignore {
    fn committed(&self, _: Vec<bellwire_core::record::Committed>) {}
    fn loaded(&self, _: Vec<bellwire_core::record::Loaded>) {}
    fn failed(&self, _: StoreError) {}
}

impl StreamEvents for Ignore {
    fn on_events(&self, _: &mut Vec<StreamEvent>) {}
}

/// A feed over an empty store, and its plane.
fn feed(folder: &std::path::Path) -> (Arc<Feed>, Plane) {
    let (store, _) = SqliteStore::open(folder, Options::default()).unwrap();
    let config = PlaneConfig { shards: 1, ..PlaneConfig::default() };
    let plane = Plane::start(config, Arc::new(Ignore)).unwrap();
    (Feed::start(Arc::new(store), plane.clone(), crate::Clock::start()), plane)
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

/// How many of so many events an observer got before it was cut off, with a `bye`; `None` if it got all. On one thread
/// the feed's task does not run while the queue is filled.
async fn cut_off_after(events: usize, stdout_bytes: usize) -> Option<usize> {
    let folder = tempfile::tempdir().unwrap();
    let (feed, plane) = feed(folder.path());
    let stream = plane.reserve(StreamOptions::default());
    feed.observe(stream, Reader::default()).unwrap();
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
        assert!(text.ends_with("\n\n") && text.contains(OVERLOADED), "{text}");
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
    assert_eq!(cut_off_after(FEED_EVENTS_MAX + 1, 0).await, Some(0));
}

#[tokio::test]
async fn observers_are_cut_off_when_the_events_that_wait_hold_more_than_they_may() {
    let each = 64 * 1024;
    assert_eq!(cut_off_after(FEED_BYTES_MAX / each + 1, each).await, Some(0));
}

#[tokio::test]
async fn watchers_are_bounded_and_one_that_disconnects_frees_its_slot() {
    let folder = tempfile::tempdir().unwrap();
    let (feed, plane) = feed(folder.path());
    let command = CommandId::from_parts(1, [0; 10]);
    let reserve = || plane.reserve(StreamOptions::default());
    let first = reserve();
    feed.observe(first, Reader::default()).unwrap();
    let _mailboxes: Vec<_> = (1..WATCHERS_MAX)
        .map(|_| feed.watch(reserve(), command, Reader::default()).unwrap())
        .collect();
    assert_eq!(feed.observe(reserve(), Reader::default()).unwrap_err().code, Code::RateLimited);

    let reason = CloseReason::PeerClosed;
    let mut closed = vec![StreamEvent::Closed { stream: first, reason }];
    assert!(feed.take_own(&mut closed), "there are fewer observers");
    assert!(closed.is_empty() && !feed.is_observed());
    feed.observe(reserve(), Reader::default()).unwrap();
}

#[tokio::test]
async fn a_full_queue_makes_watchers_of_that_command_read_again_and_ends_none() {
    // All watchers were ended with the observers, also those of commands that had not changed.
    let folder = tempfile::tempdir().unwrap();
    let (feed, plane) = feed(folder.path());
    let watch = |command| {
        feed.watch(plane.reserve(StreamOptions::default()), command, Reader::default()).unwrap()
    };
    let changed = watch(CommandId::from_parts(1, [0; 10]));
    let other = watch(CommandId::from_parts(2, [0; 10]));
    let missed = |mailbox: &Mailbox| mailbox.signals.missed.load(Ordering::Acquire);

    for _ in 0..FEED_EVENTS_MAX {
        feed.report(event(None));
    }
    assert!(!missed(&changed) && !missed(&other), "all of them fit");
    feed.report(event(None));
    assert!(missed(&changed) && !missed(&other));
    changed.signals.misses.notified().await;
    for mailbox in [&changed, &other] {
        assert!(!mailbox.signals.closed.load(Ordering::Acquire), "it is a watcher as before");
    }
}

#[tokio::test]
async fn a_watcher_whose_task_ends_early_gets_a_bye() {
    let folder = tempfile::tempdir().unwrap();
    let (feed, plane) = feed(folder.path());
    let stream = plane.reserve(StreamOptions::default());
    let mailbox = feed.watch(stream, CommandId::from_parts(1, [0; 10]), Reader::default()).unwrap();
    let body = plane.respond_with_body(stream);
    drop(mailbox);
    let text = timeout(Duration::from_secs(20), body.collect()).await.unwrap().unwrap().to_bytes();
    let text = std::str::from_utf8(&text).unwrap();
    assert!(text.starts_with(OVERLOADED), "{text}");
}

/// A watcher of a command with one visible delivery, that of `kiosk`: its snapshot as it was read, if it was there then.
fn snapshot(of_kiosk: bool) -> Snapshot {
    let FeedEvent { event: HubEvent::Delivery { delivery, version }, .. } = event(None) else {
        unreachable!("it is a delivery")
    };
    let command = Command {
        id: delivery.command,
        seq: delivery.seq,
        action: delivery.action.clone(),
        data: Json::null(),
        created_at: delivery.created_at,
        created_by: None,
        expires_at: delivery.expires_at,
        total: 1,
        counts: Counts::new(),
        done: false,
        not_before: None,
        window: None,
        select: None,
        rollout: None,
        parent: None,
    };
    let deliveries = if of_kiosk { vec![(*delivery, version)] } else { Vec::new() };
    Snapshot { command, deliveries, more: false }
}

#[tokio::test]
async fn a_device_that_leaves_a_scope_while_the_snapshot_is_read_is_not_shown() {
    // It was shown as it had been before, and all that happened to it from then on.
    let folder = tempfile::tempdir().unwrap();
    let (feed, plane) = feed(folder.path());
    let stream = plane.reserve(StreamOptions::default());
    let read = snapshot(true);
    let visible = Visible::by(Some("site=lyon".parse().unwrap()));
    let reader = Reader { visible: visible.clone(), token: None };
    let mailbox = feed.watch(stream, read.command.id, reader).unwrap();
    feed.access_changed(&AccessChange::Device("kiosk".parse().unwrap()));
    let progress = feed.progress(read.command.id, 1, &visible).unwrap();
    let body = plane.respond_with_body(stream);
    feed.follow(mailbox, progress, read).await;
    let text = timeout(Duration::from_secs(20), body.collect()).await.unwrap().unwrap().to_bytes();
    let text = std::str::from_utf8(&text).unwrap();
    assert!(text.starts_with("event: bye\ndata: {\"reason\":\"revoked\""), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_scoped_watcher_reads_again_while_deliveries_of_its_part_have_yet_to_come() {
    // A delivery that came into being after the snapshot was never shown, and the stream never ended.
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = SqliteStore::open(folder.path(), Options::default()).unwrap();
    store.start(Arc::new(Ignore)).unwrap();
    let store = Arc::new(Counting { store, reads: AtomicUsize::new(0) });
    let config = PlaneConfig { shards: 1, ..PlaneConfig::default() };
    let plane = Plane::start(config, Arc::new(Ignore)).unwrap();
    let feed = Feed::start(store.clone(), plane.clone(), crate::Clock::start());
    let visible = Visible::by(Some("site=lyon".parse().unwrap()));
    let first = snapshot(false);
    let reader = Reader { visible: visible.clone(), token: None };
    let mailbox = feed.watch(plane.reserve(StreamOptions::default()), first.command.id, reader);
    let progress = feed.progress(first.command.id, 1, &visible).unwrap();
    // The command is not in this store: reading it again ends the stream.
    feed.follow(mailbox.unwrap(), progress, first).await;
}

#[tokio::test]
async fn many_devices_that_come_into_being_are_read_together() {
    // Each was read by itself, by the one task of the feed, whose queue overflowed meanwhile.
    const DEVICES: usize = 1000;
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = SqliteStore::open(folder.path(), Options::default()).unwrap();
    store.start(Arc::new(Ignore)).unwrap();
    let store = Arc::new(Counting { store, reads: AtomicUsize::new(0) });
    let config = PlaneConfig { shards: 1, ..PlaneConfig::default() };
    let plane = Plane::start(config, Arc::new(Ignore)).unwrap();
    let feed = Feed::start(store.clone(), plane.clone(), crate::Clock::start());
    let created = |n| HubEvent::Device {
        device: format!("d{n}").parse().unwrap(),
        change: DeviceChange::Created,
        presence: Presence::default(),
    };
    // Without an observer nothing is read.
    for n in 0..DEVICES {
        feed.report(FeedEvent { event: created(n), removed: None });
    }
    until_sent(&feed).await;
    assert_eq!(store.reads.load(Ordering::Acquire), 0);

    feed.observe(plane.reserve(StreamOptions::default()), Reader::default()).unwrap();
    for n in 0..DEVICES {
        feed.report(FeedEvent { event: created(n), removed: None });
    }
    until_sent(&feed).await;
    let reads = store.reads.load(Ordering::Acquire);
    assert!((1..=DEVICES / BATCH_EVENTS_MAX + 1).contains(&reads), "{reads} reads");
}

/// Waits until nothing is in the queue or on its way from there.
async fn until_sent(feed: &Feed) {
    let sent = async {
        while feed.queued_bytes.load(Ordering::Acquire) > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(20), sent).await.expect("the queue stays");
}

/// A store that counts what is read of devices.
struct Counting {
    store: SqliteStore,
    reads: AtomicUsize,
}

impl Store for Counting {
    fn submit(&self, txn: bellwire_core::record::Txn) {
        self.store.submit(txn);
    }
    fn load(&self, load: bellwire_core::record::Load) {
        self.store.load(load);
    }
    fn command(
        &self,
        id: CommandId,
        visible: Visible,
    ) -> ReadFuture<Option<bellwire_proto::Command>> {
        self.store.command(id, visible)
    }
    fn run_timeout(&self, id: CommandId) -> ReadFuture<Option<std::time::Duration>> {
        self.store.run_timeout(id)
    }
    fn commands(
        &self,
        filter: crate::store::CommandFilter,
        page: crate::store::PageRequest,
    ) -> ReadFuture<bellwire_proto::Page<bellwire_proto::Command>> {
        self.store.commands(filter, page)
    }
    fn commands_by_id(
        &self,
        prefix: bellwire_proto::CommandIdPrefix,
        limit: u32,
        visible: Visible,
    ) -> ReadFuture<Vec<bellwire_proto::Command>> {
        self.store.commands_by_id(prefix, limit, visible)
    }
    fn waits(
        &self,
        id: CommandId,
        page: crate::store::PageRequest,
        visible: Visible,
    ) -> ReadFuture<Option<bellwire_proto::Page<crate::store::StoredWait>>> {
        self.store.waits(id, page, visible)
    }
    fn deliveries(
        &self,
        id: CommandId,
        state: Option<DeliveryState>,
        page: crate::store::PageRequest,
        visible: Visible,
    ) -> ReadFuture<Option<bellwire_proto::Page<Delivery>>> {
        self.store.deliveries(id, state, page, visible)
    }
    fn snapshot(
        &self,
        id: CommandId,
        after: Option<DeviceId>,
        visible: Visible,
    ) -> ReadFuture<Option<crate::store::Snapshot>> {
        self.store.snapshot(id, after, visible)
    }
    fn token(&self, id: bellwire_proto::TokenId) -> ReadFuture<Option<crate::store::StoredToken>> {
        self.store.token(id)
    }
    fn tokens(
        &self,
        page: crate::store::PageRequest,
    ) -> ReadFuture<bellwire_proto::Page<bellwire_core::record::TokenRecord>> {
        self.store.tokens(page)
    }
    fn schedule(
        &self,
        id: bellwire_proto::ScheduleId,
    ) -> ReadFuture<Option<bellwire_core::record::ScheduleRecord>> {
        self.store.schedule(id)
    }
    fn schedule_named(
        &self,
        name: String,
    ) -> ReadFuture<Option<bellwire_core::record::ScheduleRecord>> {
        self.store.schedule_named(name)
    }
    fn schedules(
        &self,
        of: Option<bellwire_proto::TokenId>,
        page: crate::store::PageRequest,
    ) -> ReadFuture<bellwire_proto::Page<bellwire_core::record::ScheduleRecord>> {
        self.store.schedules(of, page)
    }
    fn audit(
        &self,
        filter: crate::store::AuditFilter,
        page: crate::store::PageRequest,
    ) -> ReadFuture<bellwire_proto::Page<bellwire_proto::AuditEntry>> {
        self.store.audit(filter, page)
    }
    fn audit_after(
        &self,
        filter: crate::store::AuditFilter,
        after: Option<u64>,
        limit: u32,
    ) -> ReadFuture<(Vec<bellwire_proto::AuditEntry>, u64)> {
        self.store.audit_after(filter, after, limit)
    }
    fn device(&self, id: DeviceId) -> ReadFuture<Option<StoredDevice>> {
        self.reads.fetch_add(1, Ordering::AcqRel);
        self.store.device(id)
    }
    fn devices_named(&self, ids: Vec<DeviceId>) -> ReadFuture<Vec<Option<StoredDevice>>> {
        self.reads.fetch_add(1, Ordering::AcqRel);
        self.store.devices_named(ids)
    }
    fn devices(
        &self,
        filter: crate::store::DeviceFilter,
        after: Option<crate::store::DevicePosition>,
        limit: u32,
        rows_max: u32,
    ) -> ReadFuture<crate::store::DevicePage> {
        self.store.devices(filter, after, limit, rows_max)
    }
    fn devices_fitting(
        &self,
        filter: crate::store::DeviceFilter,
        devices: Vec<DeviceId>,
    ) -> ReadFuture<Vec<DeviceId>> {
        self.store.devices_fitting(filter, devices)
    }
    fn labels(
        &self,
        page: crate::store::PageRequest,
        visible: Visible,
    ) -> ReadFuture<bellwire_proto::Page<bellwire_proto::device::LabelCounts>> {
        self.store.labels(page, visible)
    }
    fn found(
        &self,
        query: bellwire_core::TargetQuery,
        after: Option<DeviceId>,
        rows_max: usize,
    ) -> ReadFuture<bellwire_core::record::TargetPage> {
        self.store.found(query, after, rows_max)
    }
    fn health(&self) -> Result<(), StoreError> {
        self.store.health()
    }
    fn full(&self) -> Option<&'static str> {
        self.store.full()
    }
    fn seal_cursor(&self, cursor: &crate::store::Cursor) -> Option<crate::store::Cursor> {
        self.store.seal_cursor(cursor)
    }
    fn open_cursor(
        &self,
        cursor: crate::store::Cursor,
    ) -> Result<crate::store::Cursor, crate::store::BadCursor> {
        self.store.open_cursor(cursor)
    }
    fn close(&self) {
        self.store.close();
    }
}
