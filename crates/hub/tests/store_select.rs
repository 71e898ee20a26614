//! Devices by selector: the rows that selectors look up, and that a page looks at few of them.
#![allow(clippy::unwrap_used, reason = "a panic in a test is its failure message")]

mod store_kit;

use std::path::Path;

use bellwire_core::TargetQuery;
use bellwire_core::record::{Change, DeviceRecord};
use bellwire_hub::store::{DeviceFilter, Store, Visible};
use bellwire_proto::device::{DeviceOrder, SortKey};
use bellwire_proto::{DeliveryState, DeviceId, Labels};
use rusqlite::Connection;
use store_kit::*;

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn a_device(name: &str, with: &[(&str, &str)], facts: &str) -> DeviceRecord {
    DeviceRecord { labels: labels(with), facts: json(facts), ..device_record(name) }
}

/// All rows of the tables that are a function of `devices`.
fn derived(dir: &Path) -> Vec<String> {
    let file = Connection::open(dir.join("bellwire.db")).unwrap();
    let mut rows = Vec::new();
    for table in ["labels", "facts", "label_counts", "label_keys"] {
        let sql = format!("SELECT * FROM {table} ORDER BY 1, 2");
        let mut statement = file.prepare(&sql).unwrap();
        let mut found = statement.query([]).unwrap();
        while let Some(row) = found.next().unwrap() {
            let columns = (0..row.as_ref().column_count()).map(|n| match row.get_ref(n).unwrap() {
                rusqlite::types::ValueRef::Text(text) => String::from_utf8(text.to_vec()).unwrap(),
                other => format!("{other:?}"),
            });
            rows.push(format!("{table}: {}", columns.collect::<Vec<_>>().join(" | ")));
        }
    }
    rows
}

#[test]
fn labels_and_facts_have_rows_that_change_with_them_and_end_with_the_device() {
    let dir = tempfile::tempdir().unwrap();
    let kit = Kit::open(dir.path());
    let put = |d: DeviceRecord| Change::PutDevice(Box::new(d));
    kit.commit(vec![put(a_device(
        "a",
        &[("site", "lyon"), ("os", "deb12")],
        r#"{"os":"linux","n":1}"#,
    ))]);
    kit.commit(vec![put(a_device("b", &[("site", "lyon")], r#"{"os":"Hello, you"}"#))]);
    let stored = [
        "labels: os | a | deb12",
        "labels: site | a | lyon",
        "labels: site | b | lyon",
        "facts: n | a | 1",
        "facts: os | a | linux",
        "facts: os | b |  ",
        "label_counts: os | deb12 | Integer(1)",
        "label_counts: site | lyon | Integer(2)",
        "label_keys: os | Integer(1)",
        "label_keys: site | Integer(2)",
    ];
    assert_eq!(derived(dir.path()), stored);
    // Of one that is not there nothing is stored.
    kit.commit(vec![
        Change::PutLabels(device("nobody"), labels(&[("site", "rome")])),
        Change::PutFacts(device("nobody"), json(r#"{"os":"bsd"}"#)),
    ]);
    assert_eq!(derived(dir.path()), stored);
    kit.commit(vec![
        Change::PutLabels(device("a"), labels(&[("site", "rome")])),
        Change::PutFacts(device("a"), json(r#"{"n":2}"#)),
        Change::DeleteDevice(device("b")),
    ]);
    let changed = [
        "labels: site | a | rome",
        "facts: n | a | 2",
        "label_counts: site | rome | Integer(1)",
        "label_keys: site | Integer(1)",
    ];
    assert_eq!(derived(dir.path()), changed);
    // Made again, as by a transaction that is applied twice, it has what it has now.
    kit.commit(vec![put(a_device("a", &[("os", "deb11")], "{}"))]);
    assert_eq!(
        derived(dir.path()),
        [
            "labels: os | a | deb11",
            "label_counts: os | deb11 | Integer(1)",
            "label_keys: os | Integer(1)"
        ]
    );
}

#[test]
fn an_older_file_gets_the_rows_that_the_writer_would_have_written() {
    let devices = [
        a_device(
            "a",
            &[("site", "lyon"), ("example.com/tier", "")],
            r#"{"os":"linux","ram":1.50,"cpus":4}"#,
        ),
        a_device(
            "b",
            &[("site", "lyon")],
            r#"{"os":"Hello, you","on":true,"off":false,"none":null,"e":""}"#,
        ),
        a_device(
            "c",
            &[],
            r#"{"a b":1,"x":[1],"y":{"z":2},"a.b/c":-1,"long":"0123456789012345678901234567890123456789012345678901234567890123","-":"-a","z":"a-","é":1,"big":12345678901234567890.10}"#,
        ),
    ];
    let new = tempfile::tempdir().unwrap();
    let kit = Kit::open(new.path());
    kit.commit(devices.iter().map(|d| Change::PutDevice(Box::new(d.clone()))).collect());
    kit.close();

    let old = tempfile::tempdir().unwrap();
    let file = Connection::open(old.path().join("bellwire.db")).unwrap();
    for migration in [
        include_str!("../src/store/sqlite/migrations/v1.sql"),
        include_str!("../src/store/sqlite/migrations/v2.sql"),
        include_str!("../src/store/sqlite/migrations/v3.sql"),
    ] {
        file.execute_batch(migration).unwrap();
    }
    file.execute_batch("PRAGMA application_id = 0x62776972; PRAGMA user_version = 3").unwrap();
    for d in &devices {
        let labels = serde_json::to_string(&d.labels).unwrap();
        let sql = "INSERT INTO devices (device, created_at, labels, facts) VALUES (?1, 0, ?2, ?3)";
        file.execute(sql, [d.id.as_str(), &labels, d.facts.as_str()]).unwrap();
    }
    drop(file);
    Kit::open(old.path()).close();
    assert_eq!(derived(old.path()), derived(new.path()));
    assert!(derived(old.path()).contains(&"facts: ram | a | 1.50".to_owned()));
}

#[test]
fn what_few_devices_of_many_match_is_on_one_page_wherever_they_are() {
    // More than a page may look at, so a walk over them would end before the last.
    const DEVICES: usize = 25_000;
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let kit = Kit::open(dir.path());
    let all = (0..DEVICES).map(|n| {
        let rare = n % 10_000 == 9_999;
        let mut with = vec![("site", if n % 2 == 0 { "lyon" } else { "oslo" })];
        with.extend(rare.then_some(("rare", if n < 10_000 { "x" } else { "y" })));
        let facts = if rare { r#"{"os":"bsd"}"# } else { r#"{"os":"linux"}"# };
        Change::PutDevice(Box::new(a_device(&format!("d-{n:06}"), &with, facts)))
    });
    kit.commit(all.collect());
    for select in [
        "rare",
        "rare in (x,y)",
        "site=oslo,rare",
        "rare,site in (oslo,lyon),!none",
        "facts.os=bsd",
        "facts.os in (bsd,beos),site=oslo",
        "facts.os,facts.os=bsd",
    ] {
        for visible in ["", "site=oslo", select] {
            let visible = (!visible.is_empty()).then(|| visible.parse().unwrap());
            let filter = DeviceFilter {
                select: select.parse().unwrap(),
                visible: Visible::by(visible),
                ..DeviceFilter::default()
            };
            let part = read(kit.store.devices(filter.clone(), None, 100, 20_000));
            let names: Vec<_> = part.found.iter().map(|place| place.device.as_str()).collect();
            assert_eq!((names, part.next), (vec!["d-009999", "d-019999"], None), "{select}");
            // A command that names them so looks at no more.
            let query = TargetQuery {
                select: Some(filter.select.clone()),
                scope: filter.visible.select().cloned(),
                ..TargetQuery::default()
            };
            let page = read(kit.store.found(query, None, 100));
            let names: Vec<_> = page.devices.iter().map(DeviceId::as_str).collect();
            assert_eq!((names, page.last), (vec!["d-009999", "d-019999"], None), "{select}");
            for by in [SortKey::LastSeen, SortKey::Queued] {
                let order = DeviceOrder { by, descending: true };
                let filter = DeviceFilter { order, ..filter.clone() };
                let part = read(kit.store.devices(filter, None, 100, 20_000));
                let names: Vec<_> = part.found.iter().map(|place| place.device.as_str()).collect();
                assert_eq!((names, part.next), (vec!["d-019999", "d-009999"], None), "{select}");
            }
        }
    }
}

/// A retry of what failed at three of a million looked at all of them in one lookup, and every other lookup waited.
#[test]
fn a_retry_looks_at_so_many_deliveries_at_once_and_says_how_far_it_has_come() {
    let dir = tempfile::tempdir().unwrap();
    let kit = Kit::open(dir.path());
    let name = |n: u64| format!("d-{n}");
    let mut changes = vec![put_command_to_many(1, 9)];
    changes.extend((1..=9).map(|n| {
        let state = if n % 4 == 0 { DeliveryState::Failed } else { DeliveryState::Succeeded };
        put(of_many(9, delivery_in(1, &name(n), state, 1)))
    }));
    kit.commit(changes);
    let ended = Some((id(1), vec![DeliveryState::Failed, DeliveryState::Dead]));
    let query = TargetQuery { ended, ..TargetQuery::default() };
    let mut pages = Vec::new();
    let mut after = None;
    loop {
        let page = read(kit.store.found(query.clone(), after, 3));
        let names: Vec<_> = page.devices.iter().map(ToString::to_string).collect();
        pages.push((names.join(" "), page.last.as_ref().map(ToString::to_string)));
        after = page.last;
        if after.is_none() {
            break;
        }
    }
    let expected = [("", Some("d-3")), ("d-4", Some("d-6")), ("d-8", Some("d-9")), ("", None)];
    assert_eq!(pages, expected.map(|(names, last)| (names.into(), last.map(Into::into))));
}

/// A removed device counted as one without labels, so one who may not see `env=prod` sent to it again.
#[test]
fn a_device_that_was_removed_is_there_for_no_scope_and_meets_no_selector() {
    let dir = tempfile::tempdir().unwrap();
    let kit = Kit::open(dir.path());
    let put_device = |name, env| Change::PutDevice(Box::new(a_device(name, &[("env", env)], "{}")));
    let mut changes = vec![put_device("a", "prod"), put_device("b", "test")];
    changes.extend([put_device("c", "test"), put_command_to_many(1, 3)]);
    let failed = |name| put(of_many(3, delivery_in(1, name, DeliveryState::Failed, 1)));
    changes.extend(["a", "b", "c"].map(failed));
    changes.extend(["a", "b"].map(|name| Change::DeleteDevice(device(name))));
    kit.commit(changes);
    let all = || vec!["a", "b", "c"];
    let ended = Some((id(1), vec![DeliveryState::Failed]));
    let retry = TargetQuery { ended, ..TargetQuery::default() };
    let named = Some(all().into_iter().map(device).collect());
    for query in [retry, TargetQuery { named, ..TargetQuery::default() }] {
        let not_prod = || Some("env!=prod".parse().unwrap());
        for (scope, select, canary, found, canaries) in [
            (None, None, None, all(), vec![]),
            (not_prod(), None, None, vec!["c"], vec![]),
            (None, not_prod(), None, vec!["c"], vec![]),
            (None, None, not_prod(), all(), vec!["c"]),
        ] {
            let query = TargetQuery { scope, select, canary, ..query.clone() };
            let page = read(kit.store.found(query.clone(), None, 10));
            let names = |devices: &[DeviceId]| -> Vec<String> {
                devices.iter().map(ToString::to_string).collect()
            };
            assert_eq!(names(&page.devices), found, "{query:?}");
            assert_eq!(names(&page.canaries), canaries, "{query:?}");
        }
    }
}
