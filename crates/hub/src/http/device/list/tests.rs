use bellwire_core::Listen;
use bellwire_proto::Labels;

use super::*;
use tempfile::TempDir;

use crate::driver::tests::started;
use crate::plane::StreamOptions;
use crate::store::Visible;

/// A hub with the devices a to e, of which the last is in Oslo.
async fn five() -> (Driver, TempDir) {
    let (driver, dir) = started();
    for name in ["a", "b", "c", "d", "e"] {
        let site = if name == "e" { "oslo" } else { "lyon" };
        let labels = Labels::from([("site".into(), site.into())]);
        driver.put_device(name.parse().unwrap(), labels).await.unwrap();
    }
    (driver, dir)
}

#[tokio::test]
async fn a_search_that_finds_nothing_looks_at_so_many_devices_and_no_more() {
    // It counted what fitted the selector, and so went through the whole table when nothing did.
    let (driver, _dir) = five().await;
    let page = |select: &str, rows_max, after: Option<DevicePosition>| {
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
            (names.join(" "), next.map(|next| next.position(SortKey::Id).unwrap()))
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

/// Its page has nothing, and its cursor names the last device that was looked at, which the reader must not see.
#[tokio::test]
async fn a_page_that_found_nothing_of_a_scope_has_a_cursor_that_shows_no_device() {
    let (driver, _dir) = five().await;
    // No index has those that lack a value: the names are gone through.
    let visible = Visible::by(Some("site!=lyon".parse().unwrap()));
    let search = Search {
        driver: &driver,
        filter: DeviceFilter { visible, ..DeviceFilter::default() },
        online: None,
        conflict: None,
        limit: 10,
        rows_max: 3,
        searched_max: 3,
    };
    let (page, _) = search.page(None).await.unwrap();
    assert!(page.items.is_empty());
    let next: Cursor = page.next.expect("two devices were not looked at").parse().unwrap();
    assert!(next.position(SortKey::Id).is_err(), "it can be read");
    let next = driver.store().open_cursor(next).unwrap().position(SortKey::Id).unwrap();
    let (page, _) = search.page(Some(next)).await.unwrap();
    assert_eq!(page.items.iter().map(|d| d.id.as_str()).collect::<Vec<_>>(), ["e"]);
    assert_eq!(page.next, None);
}

/// By last contact, those that are online come after the rows of the store. A bound that ran out with the last of these ended
/// the list before it came to them.
#[tokio::test]
async fn a_list_whose_bound_ends_with_the_rows_of_the_store_goes_on_with_who_is_online() {
    let (driver, _dir) = five().await;
    let mut streams = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        let device = name.parse().unwrap();
        let stream = driver.listen(device, Listen::default(), StreamOptions::default());
        streams.push(stream.await.unwrap());
    }
    for (rows_max, searched_max) in [(100, 5), (5, 100), (5, 5), (1, 1)] {
        for descending in [false, true] {
            let order = DeviceOrder { by: SortKey::LastSeen, descending };
            let search = Search {
                driver: &driver,
                filter: DeviceFilter { order, ..DeviceFilter::default() },
                online: None,
                conflict: None,
                limit: 10,
                rows_max,
                searched_max,
            };
            let (mut names, mut after) = (Vec::new(), None);
            // A bound, should it never end.
            for _ in 0..20 {
                let (page, _) = search.page(after).await.unwrap();
                names.extend(page.items.iter().map(|device| device.id.to_string()));
                after = page.next.map(|next| {
                    next.parse::<Cursor>().unwrap().position(SortKey::LastSeen).unwrap()
                });
                if after.is_none() {
                    break;
                }
            }
            let bounds = format!("{rows_max} rows, {searched_max} devices, {descending}");
            assert_eq!(after, None, "{bounds}: the list never ended");
            names.sort();
            assert_eq!(names, ["a", "b", "c", "d", "e"], "{bounds}");
        }
    }
}
