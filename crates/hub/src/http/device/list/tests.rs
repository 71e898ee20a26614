use std::sync::Arc;

use bellwire_proto::Labels;

use super::*;
use crate::clock::Clock;
use crate::config::Config;
use crate::store::{Options, SqliteStore};

#[tokio::test]
async fn a_search_that_finds_nothing_looks_at_so_many_devices_and_no_more() {
    // It counted what fitted the selector, and so went through the whole table when nothing did.
    let dir = tempfile::tempdir().unwrap();
    let (store, recovered) = SqliteStore::open(dir.path(), Options::default()).unwrap();
    let store = Arc::new(store);
    let config = Arc::new(Config { shards: 1, ..Config::default() });
    let driver = Driver::start(config, Clock::start(), store.clone(), recovered).unwrap();
    store.start(driver.store_events()).unwrap();
    for name in ["a", "b", "c", "d", "e"] {
        let site = if name == "e" { "oslo" } else { "lyon" };
        let labels = Labels::from([("site".into(), site.into())]);
        driver.put_device(name.parse().unwrap(), labels).await.unwrap();
    }
    let page = |select: &str, rows_max, after: Option<DevicePlace>| {
        let filter = DeviceFilter { select: select.parse().unwrap(), ..DeviceFilter::default() };
        let driver = driver.clone();
        async move {
            let search = Search {
                driver: &driver,
                filter,
                online: Some(false),
                conflict: None,
                limit: 10,
                rows_max,
                searched_max: 3,
            };
            let (page, _) = search.page(after).await.unwrap();
            let names: Vec<_> = page.items.iter().map(|d| d.id.to_string()).collect();
            let next = page.next.map(|next| next.parse::<Cursor>().unwrap());
            (names.join(" "), next.map(|next| next.place(SortKey::Id).unwrap()))
        }
    };
    // Rows that do not fit.
    let (names, next) = page("site!=lyon", 3, None).await;
    assert_eq!(names, "");
    assert!(next.is_some(), "two devices were not looked at");
    assert_eq!(page("site!=lyon", 3, next).await, ("e".to_owned(), None));
    // Rows that fit, and are online or are not.
    let (names, next) = page("", 100, None).await;
    assert_eq!(names, "a b c");
    assert_eq!(page("", 100, next).await, ("d e".to_owned(), None));
}
