//! How a store is opened, recovers, keeps history for a while, and closes.

mod store_kit;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bellwire_core::record::{
    Change, Committed, IdempotencyKey, IdempotencyRecord, Load, Loaded, Txn, TxnId,
};
use bellwire_hub::store::{CommandFilter, OpenError, Options, PageRequest};
use bellwire_hub::store::{SqliteStore, Store, StoreError, StoreEvents};
use bellwire_proto::{DeliveryState, Seq};
use store_kit::model::Model;
use store_kit::*;

const DAY_MS: u64 = 86_400_000;

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
    short.run_until = Some(at(29_999));
    let mut long = delivery_in(3, "a", DeliveryState::Accepted, 3);
    long.run_until = Some(at(30_001));
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
    waits.updated_at = at(0);
    short.run_until = Some(at(30_000));
    assert_eq!(kit.live("a"), [waits, short, long, stops]);
    assert_eq!(kit.recovered.last_seq, Seq::new(4));
    assert_eq!(kit.recovered.next_due, Some(at(30_000)));
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
    assert_eq!(restored.recovered.last_seq, Seq::new(1));
}

/// A store that keeps history for two days, three days after the tests' beginning.
fn later() -> Options {
    options().clock(|| at(3 * DAY_MS)).history_kept(Duration::from_millis(2 * DAY_MS))
}

#[test]
fn history_is_purged_in_pieces_and_nothing_live_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let kit = Kit::open(dir.path());
    let mut model = Model::default();
    let key = |key: &str, expires_at| {
        Change::PutIdempotency(Box::new(IdempotencyRecord {
            key: IdempotencyKey { caller: String::new(), key: key.into() },
            fingerprint: [0; 32],
            command: id(1),
            device: device("a"),
            expires_at,
        }))
    };
    let mut changes = vec![key("old", at(DAY_MS)), key("new", at(4 * DAY_MS))];
    for seq in 1..=500 {
        changes.push(put_command(seq));
        changes.push(put(match seq % 50 {
            0 => delivery(seq, "a"),
            1 => delivery_in(seq, "a", DeliveryState::Cancelling, 1),
            2 => delivery_in(seq, "a", DeliveryState::Expired, 2 * DAY_MS),
            _ => delivery_in(seq, "a", DeliveryState::Succeeded, 1),
        }));
    }
    // One of two deliveries of this command is live, and keeps both.
    changes.push(put(delivery(3, "b")));
    changes.iter().for_each(|change| model.apply(change));
    kit.commit(changes);
    kit.close();

    let universe = model.clone();
    model.recover(at(3 * DAY_MS));
    model.purge(at(DAY_MS), at(3 * DAY_MS));
    assert_eq!(model.commands.len(), 31, "the model has purged too");
    let kit = Kit::open_with(dir.path(), later());
    // Each commit takes a step of at least 64 commands with it.
    for _ in 0..10 {
        kit.commit(vec![]);
    }
    assert_eq!(kit.view(&universe), model.view());
}

#[test]
fn a_number_is_never_given_out_again_even_when_all_history_was_purged() {
    let dir = tempfile::tempdir().unwrap();
    let kit = Kit::open(dir.path());
    kit.commit(vec![put_command(7), put(delivery_in(7, "a", DeliveryState::Succeeded, 1))]);
    kit.close();
    let kit = Kit::open_with(dir.path(), later());
    kit.commit(vec![]);
    let first = PageRequest { limit: 10, after: None };
    assert!(read(kit.store.commands(CommandFilter::default(), first)).items.is_empty());
    kit.close();
    assert_eq!(Kit::open(dir.path()).recovered.last_seq, Seq::new(7));
}

#[test]
fn what_gathers_is_reported_in_order_and_each_once() {
    let dir = tempfile::tempdir().unwrap();
    let kit = Kit::open(dir.path());
    let submit = |seq| kit.submit(vec![put_command(seq), put(delivery(seq, "a"))]);
    let submitted: Vec<TxnId> = (1..=2000).map(submit).collect();
    assert!(kit.told.wait_committed(submitted[1999]));
    assert_eq!(kit.told.committed(), submitted);
}

#[test]
fn closing_stores_what_was_submitted_and_takes_nothing_more() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = SqliteStore::open(dir.path(), options()).unwrap();
    let txn = |n| Txn::new(TxnId(n), vec![put_command(n), put(delivery(n, "a"))]);
    store.submit(txn(1));
    let told = Arc::new(Told::default());
    store.start(Arc::clone(&told) as _).unwrap();
    (2..=500).for_each(|n| store.submit(txn(n)));
    store.close();
    assert_eq!(told.committed().len(), 500);
    store.submit(txn(501));
    assert!(matches!(try_read(store.command(id(1))), Err(StoreError::Closed)));
    assert!(store.health().is_ok(), "closed is not failed");
    drop(store);
    assert!(
        !dir.path().join("bellwire.db-wal").exists(),
        "one file is left, and needs no recovery"
    );
    assert_eq!(Kit::open(dir.path()).live("a").len(), 500);
}

/// Panics, on the store's own thread, when a transaction or the answer to a load is reported.
struct Panicking(Arc<Told>);

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
        let told = Arc::new(Told::default());
        store.start(Arc::new(Panicking(Arc::clone(&told)))).unwrap();
        match thread {
            "store-write" => store.submit(Txn::new(TxnId(1), vec![])),
            _ => store.load(Load::Device(device("a"))),
        }
        let error = told.wait_failed();
        assert!(error.to_string().contains(thread), "{error}");
        assert!(matches!(store.health(), Err(StoreError::Failed(_))));
        store.submit(Txn::new(TxnId(2), vec![put_device("a")]));
        assert!(matches!(try_read(store.command(id(1))), Err(StoreError::Closed)));
        store.close();
        assert_eq!(told.failed().len(), 1, "reported once");
        drop(store);
        assert!(Kit::open(dir.path()).live("a").is_empty(), "nothing was written afterwards");
    }
}
