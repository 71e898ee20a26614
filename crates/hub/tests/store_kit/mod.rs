//! What the tests of the store share: rows to put in, and a store that is waited for.
#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "a panic here is a failure message, and each test file uses its part of this"
)]

pub mod model;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bellwire_core::record::{
    AuditRecord, Change, CommandHead, CommandRecord, Committed, DeliveryRecord, DeviceRecord, Load,
    Loaded, RolloutRecord, Txn, TxnId,
};
use bellwire_core::{Instant, Now, Recovered};
use bellwire_hub::Clock;
use bellwire_hub::store::{
    AuditFilter, DeviceFilter, Options, PageRequest, ReadFuture, SqliteStore, Store, StoreError,
    StoreEvents, StoredDevice,
};
use bellwire_proto::{
    AuditObject, CommandId, DeliveryState, DeviceId, Json, Labels, Members, RolloutPlan, Seq,
    Timestamp, Window,
};

/// The time at which the tests play.
pub const NOW_MS: u64 = 1_700_000_000_000;

pub fn at(ms: u64) -> Timestamp {
    Timestamp::from_unix_ms(NOW_MS + ms)
}

/// The same moment on the monotonic clock, which these tests let show what the wall clock shows.
pub fn instant(ms: u64) -> Instant {
    Instant::from_ms(NOW_MS + ms)
}

pub fn now_at(ms: u64) -> Now {
    Now { instant: instant(ms), wall: at(ms) }
}

pub fn device(name: &str) -> DeviceId {
    name.parse().unwrap()
}

pub fn json(text: &str) -> Json {
    Json::parse(text).unwrap()
}

pub fn id(seq: u64) -> CommandId {
    let mut random = [0; 10];
    random[2..].copy_from_slice(&seq.to_be_bytes());
    CommandId::from_parts(NOW_MS + seq, random)
}

/// The command with this number: made at `seq` ms, to be accepted within an hour.
pub fn command(seq: u64) -> CommandRecord {
    CommandRecord {
        head: CommandHead {
            id: id(seq),
            seq: Seq::new(seq),
            action: "ping".parse().unwrap(),
            total: 1,
            created_at: at(seq),
            created: instant(seq),
            expires_at: at(seq + 3_600_000),
            run_timeout: Duration::from_secs(300),
            not_before: None,
            window: seq.is_multiple_of(3).then(window),
        },
        data: json(&format!("{{\"n\":{seq}}}")),
        created_by: None,
        select: None,
        parent: None,
        online_only: false,
    }
}

/// The window of every third command.
pub fn window() -> Arc<Window> {
    Arc::new(Window { cron: "0 2 * * *".into(), minutes: 90, timezone: "Europe/Paris".into() })
}

/// Its delivery to a device, as it is queued.
pub fn delivery(seq: u64, name: &str) -> DeliveryRecord {
    DeliveryRecord::new(command(seq).head, device(name), now_at(seq))
}

/// The same after some changes, at the time `ms`.
pub fn delivery_in(seq: u64, name: &str, state: DeliveryState, ms: u64) -> DeliveryRecord {
    DeliveryRecord {
        state,
        version: 1,
        attempt: 1,
        sends: 1,
        updated_at: at(ms),
        updated: instant(ms),
        run_until: matches!(state, DeliveryState::Accepted | DeliveryState::Running)
            .then(|| instant(ms + 300_000)),
        cancelling_since: (state == DeliveryState::Cancelling).then(|| instant(ms)),
        ..delivery(seq, name)
    }
}

pub fn device_record(name: &str) -> DeviceRecord {
    DeviceRecord {
        id: device(name),
        labels: Labels::new(),
        facts: json("{}"),
        created_at: at(0),
        seen: None,
        pending: false,
    }
}

pub fn put_command(seq: u64) -> Change {
    Change::PutCommand(Box::new(command(seq)))
}

/// The same command for `total` devices.
pub fn put_command_to_many(seq: u64, total: u64) -> Change {
    let mut record = command(seq);
    record.head.total = total;
    Change::PutCommand(Box::new(record))
}

/// A delivery of such a command.
pub fn of_many(total: u64, mut delivery: DeliveryRecord) -> DeliveryRecord {
    delivery.head.total = total;
    delivery
}

/// A rollout as it is when its command is stored, at 1 ms, in batches of one.
pub fn rollout(total: u64) -> RolloutRecord {
    let plan = RolloutPlan::take(&mut Members::parse(br#"{"batch":1}"#).unwrap()).unwrap();
    RolloutRecord::new(plan, total, 0, None, now_at(1))
}

pub fn put_rollout(seq: u64, record: RolloutRecord) -> Change {
    Change::PutRollout(Seq::new(seq), Box::new(record))
}

/// An entry of the audit log.
pub fn put_audit(ms: u64) -> Change {
    Change::PutAudit(Box::new(AuditRecord {
        at: at(ms),
        actor: Default::default(),
        address: None,
        verb: "send",
        object: AuditObject::default(),
        status: 202,
        code: None,
        count: 1,
        refusal: None,
    }))
}

/// The numbers of the entries that are there, the newest first.
pub fn audit_ids(kit: &Kit) -> Vec<u64> {
    let all = PageRequest { limit: 1_000_000, after: None };
    read(kit.store.audit(AuditFilter::default(), all)).items.iter().map(|e| e.id).collect()
}

pub fn put_queued(name: &str, queued: u64) -> Change {
    Change::PutQueued(device(name), queued)
}

pub fn put(delivery: DeliveryRecord) -> Change {
    Change::PutDelivery(Box::new(delivery))
}

pub fn put_device(name: &str) -> Change {
    Change::PutDevice(Box::new(device_record(name)))
}

/// What a store reports.
#[derive(Default)]
pub struct StoreReports {
    seen: Mutex<Seen>,
    news: Condvar,
}

#[derive(Default)]
struct Seen {
    committed: Vec<TxnId>,
    loaded: VecDeque<Loaded>,
    failed: Vec<StoreError>,
}

impl StoreEvents for StoreReports {
    fn committed(&self, committed: Vec<Committed>) {
        let ids = committed.iter().map(Committed::id);
        self.seen.lock().unwrap().committed.extend(ids);
        self.news.notify_all();
    }

    fn loaded(&self, loaded: Vec<Loaded>) {
        self.seen.lock().unwrap().loaded.extend(loaded);
        self.news.notify_all();
    }

    fn failed(&self, error: StoreError) {
        self.seen.lock().unwrap().failed.push(error);
        self.news.notify_all();
    }
}

impl StoreReports {
    pub fn committed(&self) -> Vec<TxnId> {
        self.seen.lock().unwrap().committed.clone()
    }

    pub fn failed(&self) -> Vec<StoreError> {
        self.seen.lock().unwrap().failed.clone()
    }

    /// Waits for the store to report what `find` looks for. The bound is far past any honest wait.
    fn wait<T>(&self, what: &str, mut find: impl FnMut(&mut Seen) -> Option<T>) -> T {
        let mut seen = self.seen.lock().unwrap();
        loop {
            if let Some(found) = find(&mut seen) {
                return found;
            }
            let bound = Duration::from_secs(60);
            let (guard, timeout) = self.news.wait_timeout(seen, bound).unwrap();
            assert!(!timeout.timed_out(), "the store never reported {what}");
            seen = guard;
        }
    }

    /// Waits until a transaction is on disk (`true`) or the store has failed.
    pub fn wait_committed(&self, txn: TxnId) -> bool {
        self.wait("what became of a transaction", |seen| {
            if seen.committed.contains(&txn) {
                Some(true)
            } else {
                (!seen.failed.is_empty()).then_some(false)
            }
        })
    }

    pub fn wait_failed(&self) -> StoreError {
        self.wait("its failure", |seen| seen.failed.first().cloned())
    }

    pub fn wait_loaded(&self) -> Loaded {
        self.wait("the answer to a load", |seen| seen.loaded.pop_front())
    }
}

/// A started store, and what it reports.
pub struct Kit {
    pub store: Arc<SqliteStore>,
    pub reports: Arc<StoreReports>,
    pub recovered: Recovered,
    next: AtomicU64,
}

impl Kit {
    /// Opens the store in `dir` at the time [`NOW_MS`].
    pub fn open(dir: &Path) -> Self {
        Self::open_with(dir, options())
    }

    pub fn open_with(dir: &Path, options: Options) -> Self {
        let (store, recovered) = SqliteStore::open(dir, options).unwrap();
        let reports = Arc::new(StoreReports::default());
        store.start(Arc::clone(&reports) as _).unwrap();
        Self { store: Arc::new(store), reports, recovered, next: AtomicU64::new(1) }
    }

    /// Submits a transaction and does not wait.
    pub fn submit(&self, changes: Vec<Change>) -> TxnId {
        let txn = TxnId(self.next.fetch_add(1, Ordering::Relaxed));
        self.store.submit(Txn::new(txn, changes));
        txn
    }

    /// Submits a transaction and waits until it is on disk.
    pub fn commit(&self, changes: Vec<Change>) {
        let txn = self.submit(changes);
        assert!(self.reports.wait_committed(txn), "{:?}", self.reports.failed());
    }

    pub fn load(&self, load: Load) -> Loaded {
        self.store.load(load);
        self.reports.wait_loaded()
    }

    /// The live deliveries of a device, by number.
    pub fn live(&self, name: &str) -> Vec<DeliveryRecord> {
        match self.load(Load::Live(device(name), 10_000)) {
            Loaded::Live(_, mut rows) => {
                rows.sort_by_key(|row| row.head.seq);
                rows
            }
            other => panic!("not live deliveries: {other:?}"),
        }
    }

    pub fn delivery(&self, seq: u64, name: &str) -> Option<DeliveryRecord> {
        match self.load(Load::Delivery(device(name), id(seq))) {
            Loaded::Delivery(_, _, found) => found.map(|boxed| *boxed),
            other => panic!("not a delivery: {other:?}"),
        }
    }

    /// The devices of a filter, in parts of so many.
    pub fn devices(&self, filter: &DeviceFilter, limit: u32) -> Vec<StoredDevice> {
        let (mut devices, mut after) = (Vec::new(), None);
        loop {
            let part = read(self.store.devices(filter.clone(), after.take(), limit, 1_000_000));
            assert!(part.found.len() <= limit as usize);
            let ids = part.found.iter().map(|place| place.device.clone()).collect();
            devices.extend(read(self.store.devices_named(ids)).into_iter().flatten());
            match part.next {
                Some(next) => after = Some(next),
                None => return devices,
            }
        }
    }

    pub fn close(self) {
        self.store.close();
    }
}

/// A store whose clocks stand still at this moment.
pub fn options_at(ms: u64) -> Options {
    Options::default().clock(Clock::given(move || now_at(ms)))
}

pub fn options() -> Options {
    options_at(0)
}

/// Waits for an answer of the store, outside of any runtime.
pub fn read<T>(reading: ReadFuture<T>) -> T {
    try_read(reading).unwrap()
}

pub fn try_read<T>(reading: ReadFuture<T>) -> Result<T, StoreError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(reading)
}
