//! The disk dies at every write and sync of a history, by a kill and by a power cut, and the
//! ordinary store is opened on what is left: what was reported as committed is there, entirely; of
//! the rest each transaction is there or not, in order.
#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a panic in a test is its failure message"
)]

mod store_kit;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bellwire_core::record::{
    BatchMark, Change, DeliveryRecord, IdempotencyKey, IdempotencyRecord, RolloutRecord, Seen,
    TargetChunk, Txn, TxnId,
};
use bellwire_core::{Instant, Now};
use bellwire_hub::Clock;
use bellwire_hub::store::fault::{Death, FaultyDisk};
use bellwire_hub::store::{Options, SqliteStore, Store, StoreError};
use bellwire_proto::{DeliveryState, Labels, RolloutState, Seq};
use store_kit::model::Model;
use store_kit::*;

/// When the history plays: a month after its oldest commands, so that retention takes those.
const TODAY_MS: u64 = 31 * 86_400_000;
const HISTORY_RETENTION: Duration = Duration::from_secs(30 * 86_400);

/// What happens, in order.
#[derive(Clone)]
enum Step {
    /// Submitted at once, so that they may share a commit.
    Burst(Vec<Vec<Change>>),
    /// The store is closed and opened again: recovery, and a purge soon after.
    Restart,
}

fn now() -> Now {
    now_at(TODAY_MS)
}

fn send(seq: u64, name: &str) -> Vec<Change> {
    vec![put_command(seq), put(delivery(seq, name))]
}

fn become_(seq: u64, name: &str, state: DeliveryState, ms: u64) -> Vec<Change> {
    vec![put(delivery_in(seq, name, state, ms))]
}

fn big(seq: u64, name: &str) -> Vec<Change> {
    let mut command = command(seq);
    command.data = json(&format!("\"{}\"", "x".repeat(20_000)));
    vec![Change::PutCommand(Box::new(command)), put(delivery(seq, name))]
}

fn key(key: &str, seq: u64, expires: Instant) -> Change {
    Change::PutIdempotency(Box::new(IdempotencyRecord {
        key: IdempotencyKey { caller: "ops".into(), key: key.into() },
        fingerprint: [7; 32],
        command: id(seq),
        device: Some(device("a")),
        expires,
    }))
}

fn targets(names: &[&str]) -> TargetChunk {
    TargetChunk {
        devices: names.iter().map(|name| device(name)).collect(),
        canary: false,
        registered: true,
    }
}

/// The rollout once this batch of one target has begun.
fn batch(number: u64) -> RolloutRecord {
    RolloutRecord { batch: number, size: 1, begun: number, ..rollout(2) }
}

/// The rollout once an operator has aborted it.
fn aborted() -> RolloutRecord {
    let (state, reason) = (RolloutState::Aborted, Some("an operator aborted it".to_owned()));
    RolloutRecord { state, reason, ended: Some(instant(TODAY_MS)), ..batch(1) }
}

fn in_batch(number: u64, row: DeliveryRecord) -> DeliveryRecord {
    DeliveryRecord { batch: Some(BatchMark { number, began_at: at(TODAY_MS) }), ..row }
}

/// Every kind of change and every state, rows that overflow a page, three restarts and a purge.
fn history() -> Vec<Step> {
    use Step::{Burst, Restart};
    let seen = Seen { at: at(5), address: Some("::1".into()), agent: None };
    let labels = Labels::from([("site".into(), "lyon".into())]);
    let mut ended = delivery_in(2, "b", DeliveryState::Failed, 20);
    ended.outcome.stdout = Some("y".repeat(9_000));
    let mut with_key = send(3, "a");
    with_key.extend([key("old", 3, instant(3)), key("new", 3, instant(TODAY_MS + 1))]);
    vec![
        Burst(vec![vec![put_device("a")]]),
        Burst(vec![vec![put_device("b"), Change::PutLabels(device("b"), labels)], send(1, "a")]),
        Burst(vec![become_(1, "a", DeliveryState::Sent, 10), big(2, "b"), with_key]),
        Burst(vec![become_(1, "a", DeliveryState::Accepted, 11)]),
        Burst(vec![
            become_(1, "a", DeliveryState::Running, 12),
            become_(2, "b", DeliveryState::Sent, 13),
        ]),
        Burst(vec![become_(1, "a", DeliveryState::Succeeded, 14), vec![put(ended)]]),
        Burst(vec![become_(3, "a", DeliveryState::Running, 15), send(4, "a"), send(5, "b")]),
        Burst(vec![
            become_(4, "a", DeliveryState::Sent, 15),
            become_(5, "b", DeliveryState::Delivered, 16),
        ]),
        Restart,
        Burst(vec![become_(4, "a", DeliveryState::Cancelling, TODAY_MS), send(6, "b")]),
        Burst(vec![
            vec![Change::PutSeen(device("a"), seen), Change::PutFacts(device("a"), json("[1]"))],
            become_(6, "b", DeliveryState::Dead, TODAY_MS),
            become_(3, "a", DeliveryState::TimedOut, TODAY_MS),
        ]),
        Burst(vec![big(7, "c"), become_(7, "c", DeliveryState::Rejected, TODAY_MS)]),
        Burst(vec![vec![Change::DeleteDevice(device("a"))], send(8, "a")]),
        Burst(vec![
            become_(4, "a", DeliveryState::Cancelled, TODAY_MS),
            send(9, "b"),
            send(10, "b"),
        ]),
        Burst(vec![become_(9, "b", DeliveryState::Expired, TODAY_MS)]),
        Restart,
        Burst(vec![
            vec![
                put_command_to_many(12, 3),
                Change::PutTargets(Seq::new(12), targets(&["a", "b"])),
                Change::PutTargets(Seq::new(12), targets(&["c"])),
            ],
            vec![
                put(of_many(3, delivery(12, "a"))),
                put(of_many(3, delivery_in(12, "b", DeliveryState::Sent, TODAY_MS))),
                put_queued("a", 1),
                Change::DeleteTargets(Seq::new(12), device("a")),
            ],
            vec![Change::PutCancel(Seq::new(12), false)],
        ]),
        Burst(vec![become_(8, "a", DeliveryState::Sent, TODAY_MS)]),
        // Targets are found for two commands; one is rolled out, and the other there will never be.
        Burst(vec![
            vec![
                Change::PutTargets(Seq::new(13), targets(&["a", "b"])),
                Change::PutTargets(Seq::new(14), targets(&["c"])),
            ],
            vec![
                put_command_to_many(15, 2),
                Change::AdoptTargets(Seq::new(13), Seq::new(15)),
                put_rollout(15, rollout(2)),
            ],
            vec![Change::DropTargets(Seq::new(14))],
            vec![put_rollout(15, batch(1))],
            vec![
                put(in_batch(1, of_many(2, delivery(15, "a")))),
                Change::DeleteTargets(Seq::new(15), device("a")),
                Change::PutTargets(Seq::new(15), targets(&["b"])),
            ],
        ]),
        Restart,
        Burst(vec![
            vec![put(in_batch(
                1,
                of_many(2, delivery_in(15, "a", DeliveryState::Failed, TODAY_MS)),
            ))],
            vec![put_rollout(15, RolloutRecord { state: RolloutState::Paused, ..batch(1) })],
            vec![put_rollout(15, aborted())],
        ]),
        Burst(vec![become_(10, "b", DeliveryState::Sent, TODAY_MS), big(11, "a")]),
    ]
}

/// One life on a disk that dies.
struct Life {
    /// The rows after each event so far, the first being none.
    states: Vec<Model>,
    /// The least of them that must have survived.
    survives: usize,
    next_txn: u64,
}

impl Life {
    fn after(&mut self, event: impl FnOnce(&mut Model)) {
        let mut state = self.states.last().cloned().unwrap_or_default();
        event(&mut state);
        self.states.push(state);
    }

    /// Lives until the disk dies (`false`) or the history is over (`true`).
    fn live(&mut self, dir: &Path, options: &Options) -> bool {
        let mut steps = history().into_iter().peekable();
        while steps.peek().is_some() {
            let Ok((store, _)) = SqliteStore::open(dir, options.clone()) else { return false };
            let reports = Arc::new(StoreReports::default());
            if store.start(Arc::clone(&reports) as _).is_err() {
                return false;
            }
            self.after(|model| drop(model.recover(now())));
            self.after(|model| {
                model.purge(instant(TODAY_MS).before(HISTORY_RETENTION), instant(TODAY_MS))
            });
            for step in steps.by_ref() {
                let Step::Burst(txns) = step else { break };
                let before = self.states.len() - 1;
                for changes in txns {
                    let txn = Txn::new(TxnId(self.next_txn), changes);
                    self.next_txn += 1;
                    self.after(|model| model.apply_all(&txn));
                    store.submit(txn);
                }
                if !reports.wait_committed(TxnId(self.next_txn - 1)) {
                    let first = self.next_txn - (self.states.len() - 1 - before) as u64;
                    let kept = reports.committed().iter().filter(|txn| txn.0 >= first).count();
                    if kept > 0 {
                        self.survives = before + kept;
                    }
                    assert_eq!(reports.failed().len(), 1, "a failure is reported once");
                    assert!(store.health().is_err());
                    return false;
                }
                self.survives = self.states.len() - 1;
            }
            store.close();
        }
        true
    }
}

fn options() -> Options {
    Options::default().clock(Clock::given(now)).history_retention(HISTORY_RETENTION)
}

/// A folder in memory where there is one: what is durable is decided by the faulty disk, and an
/// fsync of the real one would only take time.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Lives on a disk that dies at operation `n`, and looks at what is left. `false`: it outlived the
/// history.
fn dies_at(n: u64, death: Death, seed: u64) -> bool {
    let case = format!("death {death:?} at operation {n}, seed {seed}");
    let dir = folder();
    let disk = FaultyDisk::new(n, death, seed.wrapping_mul(1_000_003) + n);
    let mut life = Life { states: vec![Model::default()], survives: 0, next_txn: 1 };
    let whole = life.live(
        dir.path(),
        &disk.options().clock(Clock::given(now)).history_retention(HISTORY_RETENTION),
    );
    let died = disk.is_dead();
    assert!(whole || died, "{case}: the store failed on a disk that works");
    disk.bury().unwrap();

    let mut universe = Model::default();
    for step in history() {
        if let Step::Burst(txns) = step {
            txns.iter().flatten().for_each(|change| universe.apply(change));
        }
    }
    // No purge runs beside the comparison, but for keys past their time.
    let kit = Kit::open_with(dir.path(), options().history_retention(Duration::MAX));
    let direct = rusqlite::Connection::open(dir.path().join("bellwire.db")).unwrap();
    let sound: String = direct.query_row("PRAGMA integrity_check", [], |r| r.get(0)).unwrap();
    assert_eq!(sound, "ok", "{case}");
    drop(direct);
    let view = kit.view(&universe);
    let possible = &mut life.states[life.survives..];
    let recovered: Vec<_> = possible.iter_mut().map(|model| model.recover(now())).collect();
    let found = possible.iter().zip(&recovered).position(|(model, recovered)| {
        let mut expected = model.view();
        if expected.keys != view.keys {
            // Keys past their time may be gone already.
            expected.keys.retain(|key| key.expires >= now().instant);
        }
        expected == view && kit.recovered == *recovered
    });
    if found.is_none() {
        panic!(
            "{case}: {} events must have survived and at most {} can have; what is there is none of \
             these states: {view:#?}",
            life.survives,
            life.states.len() - 1
        );
    }
    kit.commit(send(99, "a"));
    assert_eq!(kit.live("a").last().map(|d| d.head.seq), Some(Seq::new(99)), "{case}");
    died
}

fn dies_everywhere(death: Death, seeds: u64) {
    for seed in 0..seeds {
        let mut n = 1;
        while dies_at(n, death, seed) {
            n += 1;
        }
        assert!(n > 150, "the history makes only {n} writes and syncs: too few to prove anything");
    }
}

#[test]
fn a_process_killed_at_any_write_or_sync_loses_nothing_that_was_reported() {
    dies_everywhere(Death::Kill, 1);
}

#[test]
fn a_power_cut_at_any_write_or_sync_loses_nothing_that_was_reported() {
    dies_everywhere(Death::PowerCut, 2);
}

#[test]
fn a_full_disk_ends_the_writing_and_not_the_reading() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::new(u64::MAX, Death::Full, 0);
    drop(Kit::open_with(dir.path(), disk.options()));
    // Some operations of a start, then some of commits.
    let disk = FaultyDisk::new(30, Death::Full, 0);
    let kit = Kit::open_with(dir.path(), disk.options());
    let mut kept = 0;
    for seq in 1.. {
        let txn = kit.submit(send(seq, "a"));
        if !kit.reports.wait_committed(txn) {
            break;
        }
        kept = seq;
    }
    assert!(kept > 0, "the disk was full too early to show anything");
    let StoreError::Failed(source) = kit.reports.wait_failed() else { panic!("another failure") };
    let source = source.downcast_ref::<rusqlite::Error>();
    let code = source.and_then(rusqlite::Error::sqlite_error_code);
    assert_eq!(code, Some(rusqlite::ErrorCode::DiskFull), "the error says what the disk said");
    assert!(matches!(kit.store.health(), Err(StoreError::Failed(_))));
    let live = kit.live("a");
    assert_eq!(live.len() as u64, kept, "what is on disk can still be read, and nothing else");

    kit.submit(send(999, "a"));
    let reports = Arc::clone(&kit.reports);
    kit.close();
    assert_eq!(reports.failed().len(), 1, "a failure is reported once");
    assert_eq!(reports.committed().len() as u64, kept, "after it, nothing is reported as on disk");

    let kit = Kit::open(dir.path());
    assert!(
        kit.live("a").len() as u64 >= kept,
        "with room again, a restart finds all that was reported"
    );
    kit.commit(send(1000, "a"));
}
