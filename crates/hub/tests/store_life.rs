//! How a store is opened, recovers and closes.

mod store_kit;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bellwire_core::SeqSource;
use bellwire_core::record::{
    Change, Committed, IdempotencyKey, Load, Loaded, PageMax, ScheduleRecord, Txn, TxnId,
};
use bellwire_hub::store::{OpenError, Options};
use bellwire_hub::store::{SqliteStore, Store, StoreError, StoreEvents};
use bellwire_proto::{DeliveryState, ScheduleId, SchedulePlan, Seq, Timestamp};
use store_kit::*;

fn refused(dir: &Path) -> OpenError {
    SqliteStore::open(dir, options()).expect_err("it must not open")
}

#[test]
fn a_second_hub_on_a_folder_is_refused_until_the_first_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let kit = Kit::open(dir.path());
    let error = refused(dir.path());
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    let named = error.to_string().contains(&dir.path().display().to_string());
    assert!(named, "the message names the folder: {error}");
    kit.commit(vec![put_device("a")]);
    drop(kit);
    Kit::open(dir.path()).close();
}

#[test]
fn a_file_of_a_newer_program_is_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    Kit::open(dir.path()).close();
    let file = rusqlite::Connection::open(dir.path().join("bellwire.db")).unwrap();
    file.pragma_update(None, "user_version", 99).unwrap();
    drop(file);
    let error = refused(dir.path());
    assert!(matches!(error, OpenError::Newer { found: 99, .. }), "{error}");
    assert!(error.to_string().contains("start the newer program"), "{error}");
}

#[test]
fn a_file_of_another_program_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bellwire.db");
    let file = rusqlite::Connection::open(&path).unwrap();
    file.execute_batch("CREATE TABLE recipes (name TEXT)").unwrap();
    drop(file);
    assert!(matches!(refused(dir.path()), OpenError::Foreign { .. }));

    let text = "no database at all ".repeat(100);
    fs::write(&path, &text).unwrap();
    assert!(matches!(refused(dir.path()), OpenError::Sqlite { .. }));
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn no_other_user_can_read_the_folder_or_a_file_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("deep/data");
    let kit = Kit::open(&data);
    kit.commit(vec![put_device("a")]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    let files: Vec<_> = fs::read_dir(&data).unwrap().map(|e| e.unwrap().path()).collect();
    assert!(files.len() >= 4, "database, log, index of the log, lock: {files:?}");
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

#[test]
fn a_restart_queues_again_what_was_sent_and_leaves_run_clocks_half_a_minute() {
    let dir = tempfile::tempdir().unwrap();
    let kit = Kit::open(dir.path());
    let mut waits = delivery_in(1, "a", DeliveryState::Sent, 1);
    waits.attempt = 3;
    waits.counted = 2;
    let mut short = delivery_in(2, "a", DeliveryState::Running, 2);
    short.run_until = Some(instant(29_999));
    let mut long = delivery_in(3, "a", DeliveryState::Accepted, 3);
    long.run_until = Some(instant(30_001));
    let stops = delivery_in(4, "a", DeliveryState::Cancelling, 4);
    let rows = [waits, short, long, stops];
    for row in &rows {
        kit.commit(vec![put_command(row.head.seq.get()), put(row.clone())]);
    }
    kit.close();

    let kit = Kit::open(dir.path());
    let [mut waits, mut short, long, stops] = rows;
    waits.state = DeliveryState::Queued;
    waits.version += 1;
    (waits.updated_at, waits.updated) = (at(0), instant(0));
    short.run_until = Some(instant(30_000));
    assert_eq!(kit.live("a"), [waits, short, long, stops]);
    assert_eq!(kit.recovered.seqs, SeqSource::after(Seq::new(4)));
    assert_eq!(kit.recovered.next_due, Some(instant(30_000)));
}

#[test]
fn a_new_folder_has_given_out_no_number_and_waits_for_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let kit = Kit::open(dir.path());
    assert_eq!(kit.recovered, bellwire_core::Recovered::default());
}

#[test]
fn a_backup_taken_while_the_hub_runs_opens_in_a_new_folder() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let kit = Kit::open(dir.path());
    kit.commit(vec![put_command(1), put(delivery(1, "a"))]);
    let beside = rusqlite::Connection::open(dir.path().join("bellwire.db")).unwrap();
    let copy = other.path().join("bellwire.db").display().to_string();
    beside.execute("VACUUM INTO ?1", [copy]).unwrap();
    kit.commit(vec![put_command(2), put(delivery(2, "a"))]);
    let restored = Kit::open(other.path());
    assert_eq!(restored.live("a"), [delivery(1, "a")]);
    assert_eq!(restored.recovered.seqs, SeqSource::after(Seq::new(1)));
}

#[test]
fn what_gathers_is_reported_in_order_and_each_once() {
    let dir = tempfile::tempdir().unwrap();
    let kit = Kit::open(dir.path());
    let submit = |seq| kit.submit(vec![put_command(seq), put(delivery(seq, "a"))]);
    let submitted: Vec<TxnId> = (1..=2000).map(submit).collect();
    assert!(kit.reports.wait_committed(submitted[1999]));
    assert_eq!(kit.reports.committed(), submitted);
}

#[test]
fn closing_stores_what_was_submitted_and_takes_nothing_more() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = SqliteStore::open(dir.path(), options()).unwrap();
    let txn = |n| Txn::new(TxnId(n), vec![put_command(n), put(delivery(n, "a"))]);
    store.submit(txn(1));
    let reports = Arc::new(StoreReports::default());
    store.start(Arc::clone(&reports) as _).unwrap();
    (2..=500).for_each(|n| store.submit(txn(n)));
    store.close();
    assert_eq!(reports.committed().len(), 500);
    store.submit(txn(501));
    assert!(matches!(
        try_read(store.command(id(1), bellwire_hub::store::Visible::all())),
        Err(StoreError::Closed)
    ));
    assert!(store.health().is_ok(), "closed is not failed");
    drop(store);
    assert!(
        !dir.path().join("bellwire.db-wal").exists(),
        "one file is left, and needs no recovery"
    );
    assert_eq!(Kit::open(dir.path()).live("a").len(), 500);
}

/// Panics, on the store's own thread, when a transaction or the answer to a load is reported.
struct Panicking(Arc<StoreReports>);

impl StoreEvents for Panicking {
    fn committed(&self, _: Vec<Committed>) {
        panic!("on purpose");
    }

    fn loaded(&self, _: Vec<Loaded>) {
        panic!("on purpose");
    }

    fn failed(&self, error: StoreError) {
        StoreEvents::failed(&*self.0, error);
    }
}

#[test]
fn a_store_thread_that_panics_fails_the_store_and_is_named_once() {
    // It closed the queues and reported nothing: a request that waited for a commit waited for ever.
    for thread in ["store-write", "store-load"] {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = SqliteStore::open(dir.path(), options()).unwrap();
        let reports = Arc::new(StoreReports::default());
        store.start(Arc::new(Panicking(Arc::clone(&reports)))).unwrap();
        match thread {
            "store-write" => store.submit(Txn::new(TxnId(1), vec![])),
            _ => store.load(Load::Live(device("a"), 1)),
        }
        let error = reports.wait_failed();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains(thread), "{source}");
        assert!(!error.to_string().contains(&source), "the chain says it once: {error}");
        assert!(matches!(store.health(), Err(StoreError::Failed(_))));
        store.submit(Txn::new(TxnId(2), vec![put_device("a")]));
        assert!(matches!(
            try_read(store.command(id(1), bellwire_hub::store::Visible::all())),
            Err(StoreError::Closed)
        ));
        store.close();
        assert_eq!(reports.failed().len(), 1, "reported once");
        drop(store);
        assert!(Kit::open(dir.path()).live("a").is_empty(), "nothing was written afterwards");
    }
}

#[test]
fn a_file_of_the_first_schema_is_brought_up_to_date_with_all_that_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = rusqlite::Connection::open(dir.path().join("bellwire.db")).unwrap();
    file.execute_batch(include_str!("../src/store/sqlite/migrations/v1.sql")).unwrap();
    file.execute_batch("PRAGMA application_id = 0x62776972; PRAGMA user_version = 1").unwrap();
    // One that is queued, one that is scheduled, one that runs, one that has ended.
    let ms = |at: Timestamp| i64::try_from(at.unix_ms()).unwrap();
    let rows = [(1, 0, None), (2, 0, Some(at(60_000))), (3, 3, None), (4, 5, None)];
    for (seq, state, not_before) in rows {
        let (made, expires) = (ms(at(seq)), ms(at(seq + 3_600_000)));
        let not_before = not_before.map(ms);
        let seq_column = i64::try_from(seq).unwrap();
        let (command, data) = (id(seq).to_bytes(), format!("{{\"n\":{seq}}}"));
        file.execute(
            "INSERT INTO commands VALUES (?1, ?2, 'ping', ?3, ?4, 300000, ?5, NULL, 1, ?6)",
            rusqlite::params![seq_column, command, made, expires, not_before, data],
        )
        .unwrap();
        let run_until = (state == 3).then_some(expires);
        let due = (state < 5).then_some(expires);
        file.execute(
            "INSERT INTO deliveries (seq, device, state, attempt, sends, counted, version,
                                     updated_at, flags, run_until, due_at)
             VALUES (?1, 'a', ?2, 0, 0, 0, 0, ?3, 0, ?4, ?5)",
            rusqlite::params![seq_column, state, made, run_until, due],
        )
        .unwrap();
    }
    file.execute(
        "INSERT INTO idempotency VALUES ('', 'k', zeroblob(32), ?1, 'a', ?2)",
        [
            rusqlite::types::Value::Blob(id(1).to_bytes().to_vec()),
            rusqlite::types::Value::Integer(ms(at(1000))),
        ],
    )
    .unwrap();
    drop(file);

    let kit = Kit::open(dir.path());
    let mut scheduled = delivery(2, "a");
    scheduled.head.not_before = Some(at(60_000));
    scheduled.scheduled_at = Some(at(60_000));
    let mut running = delivery(3, "a");
    running.head.window = None;
    running.state = DeliveryState::Running;
    running.run_until = Some(instant(3 + 3_600_000));
    assert_eq!(kit.live("a"), [delivery(1, "a"), scheduled, running]);
    assert_eq!(kit.delivery(4, "a").unwrap().state, DeliveryState::Succeeded);
    assert_eq!(kit.recovered.next_scheduled, Some(at(60_000)));
    assert_eq!(kit.recovered.next_due, Some(instant(1 + 3_600_000)));
    let page_max = PageMax { rows: 9, bytes: 999 };
    let Loaded::Device(loaded) = kit.load(Load::Device(device("a"), page_max)) else { panic!() };
    assert_eq!((loaded.queued, loaded.queue.rows.len(), loaded.active.len()), (2, 1, 1));
    let key = IdempotencyKey { caller: String::new(), key: "k".into() };
    let Loaded::Idempotency(_, Some(found)) = kit.load(Load::Idempotency(key)) else { panic!() };
    assert_eq!((found.device, found.expires), (Some(device("a")), instant(1000)));
}

#[test]
fn a_file_whose_audit_log_has_a_row_for_each_entry_begins_a_new_log() {
    let dir = tempfile::tempdir().unwrap();
    let file = rusqlite::Connection::open(dir.path().join("bellwire.db")).unwrap();
    for migration in [
        include_str!("../src/store/sqlite/migrations/v1.sql"),
        include_str!("../src/store/sqlite/migrations/v2.sql"),
        include_str!("../src/store/sqlite/migrations/v3.sql"),
        include_str!("../src/store/sqlite/migrations/v4.sql"),
    ] {
        file.execute_batch(migration).unwrap();
    }
    file.execute_batch("PRAGMA application_id = 0x62776972; PRAGMA user_version = 4").unwrap();
    file.execute_batch(
        "INSERT INTO audit (id, at, bytes, verb, status, count) VALUES (1, 0, 99, 'send', 202, 1)",
    )
    .unwrap();
    drop(file);
    let kit = Kit::open(dir.path());
    kit.commit(vec![put_audit(1), put_audit(2)]);
    assert_eq!(audit_ids(&kit), [2, 1]);
}

#[test]
fn a_file_of_the_schema_before_schedules_takes_them_and_has_what_it_had() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = rusqlite::Connection::open(dir.path().join("bellwire.db")).unwrap();
    let transaction = file.transaction().unwrap();
    for migration in [
        include_str!("../src/store/sqlite/migrations/v1.sql"),
        include_str!("../src/store/sqlite/migrations/v2.sql"),
        include_str!("../src/store/sqlite/migrations/v3.sql"),
        include_str!("../src/store/sqlite/migrations/v4.sql"),
        include_str!("../src/store/sqlite/migrations/v5.sql"),
        include_str!("../src/store/sqlite/migrations/v6.sql"),
        include_str!("../src/store/sqlite/migrations/v7.sql"),
    ] {
        transaction.execute_batch(migration).unwrap();
    }
    // Version 1 of a block, one entry: no parts but the verb and the status.
    let block: [u8; 9] = [1, 0, 5, 4, b's', b'e', b'n', b'd', 7];
    let row = "INSERT INTO audit (id, at, bytes, entries, block) VALUES (1, 5, 9, 1, ?1)";
    transaction.execute(row, [block]).unwrap();
    transaction.commit().unwrap();
    file.execute_batch("PRAGMA application_id = 0x62776972; PRAGMA user_version = 7").unwrap();
    drop(file);

    let kit = Kit::open(dir.path());
    assert!(kit.recovered.schedules.is_empty());
    assert_eq!(audit_ids(&kit), [1]);
    let plan = r#"{"name":"a","cron":"@daily","action":"ping","target":{"all":true}}"#;
    let (plan, _) = SchedulePlan::parse(plan.as_bytes(), 64).unwrap();
    let made = ScheduleRecord::new(ScheduleId::from_parts(1, [1; 10]), plan, None, at(7));
    kit.commit(vec![Change::PutSchedule(Box::new(made.clone()))]);
    kit.close();
    assert_eq!(Kit::open(dir.path()).recovered.schedules, [made]);
}

#[test]
fn the_monotonic_clock_continues_over_a_restart() {
    // It was the wall clock of the start: a hub that came up in 1970 expired nothing for years.
    let dir = tempfile::tempdir().unwrap();
    let run = || {
        let (store, _) = SqliteStore::open(dir.path(), Options::default()).unwrap();
        let reports = Arc::new(StoreReports::default());
        store.start(Arc::clone(&reports) as _).unwrap();
        store.submit(Txn::new(TxnId(1), vec![put_device("a")]));
        assert!(reports.wait_committed(TxnId(1)));
        let now = store.clock().now();
        store.close();
        now
    };
    let first = run();
    let second = run();
    assert!(second.instant >= first.instant, "it went back: {first:?}, {second:?}");
    // The machine's wall clock was days ahead when the hub last ran on this boot.
    let file = rusqlite::Connection::open(dir.path().join("bellwire.db")).unwrap();
    let days = "UPDATE meta SET value = value + 259200000 WHERE key = 'clock_wall_ms'";
    file.execute(days, []).unwrap();
    drop(file);
    let third = run();
    let passed = third.instant.since(second.instant);
    assert!(passed < Duration::from_secs(3600), "the wall clock moved it by {passed:?}");
    assert!(third.instant >= second.instant, "it went back: {second:?}, {third:?}");
}
