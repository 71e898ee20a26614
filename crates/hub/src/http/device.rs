//! Devices: reading them, registering, labelling, removing, and the facts that they report.
//! Contract, sections 5 and 6.

use axum::response::Response;
use bellwire_proto::device::{parse_facts, parse_labels_body};
use bellwire_proto::limits::{
    DEVICES_SEARCHED_MAX, FACTS_BYTES_MAX, PAGE_BYTES_MAX, PAGE_ITEMS, SMALL_BODY_BYTES_MAX,
};
use bellwire_proto::{Code, Device, DeviceId, Page, Problem};
use http::StatusCode;

use super::request::Request;
use super::{page, problem};
use crate::driver::Driver;
use crate::store::{Cursor, DeviceFilter, PageRequest};

/// `GET /v1/devices`: by name.
pub(super) async fn list(request: Request) -> Result<Response, Problem> {
    let mut query = request.query()?;
    let select = query.value("select")?.unwrap_or_default();
    let online = query.switch("online")?;
    let prefix = query.text("prefix").unwrap_or_default();
    // What can be a name can begin one; a dot or two begin one as well.
    if !matches!(prefix.as_str(), "" | "." | "..") {
        let _begins_a_name: DeviceId = prefix.parse().map_err(|_| {
            Problem::bad_request("parameter prefix is the beginning of a device's name")
        })?;
    }
    let page = super::page_request(&mut query)?;
    query.finish()?;

    let filter = DeviceFilter { select, prefix, visible: request.caller.visible() };
    let devices = match online {
        None => part(&request.driver, filter, page).await?,
        Some(online) => search(&request.driver, filter, page, online, DEVICES_SEARCHED_MAX).await?,
    };
    page::page(devices, |last| Cursor::after_device(last.id.clone()))
}

/// `GET /v1/devices/{device}`.
pub(super) async fn show(request: Request) -> Result<Response, Problem> {
    let device: DeviceId = request.name("device")?;
    request.no_query()?;
    let visible = request.caller.visible();
    let found = request.driver.device(device).await?.filter(|device| visible.sees(&device.labels));
    Ok(problem::json(StatusCode::OK, &found.ok_or_else(unknown)?))
}

/// `PUT /v1/devices/{device}`: registers it, or replaces its labels.
pub(super) async fn put(mut request: Request) -> Result<Response, Problem> {
    let device: DeviceId = request.name("device")?;
    request.no_query()?;
    let body = request.body(SMALL_BODY_BYTES_MAX).await?;
    let labels = parse_labels_body(&body)?;

    let created = request.driver.put_device(device.clone(), labels).await?;
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    shown(&request.driver, device, status).await
}

/// `DELETE /v1/devices/{device}`.
pub(super) async fn delete(request: Request) -> Result<Response, Problem> {
    let device: DeviceId = request.name("device")?;
    request.no_query()?;
    request.driver.delete_device(device).await?;
    Ok(problem::empty())
}

/// `PUT /v1/devices/{device}/facts`.
pub(super) async fn put_facts(mut request: Request) -> Result<Response, Problem> {
    let device: DeviceId = request.name("device")?;
    request.no_query()?;
    let body = request.body(FACTS_BYTES_MAX).await?;
    let facts = parse_facts(&body)?;

    request.driver.put_facts(device.clone(), facts).await?;
    shown(&request.driver, device, StatusCode::OK).await
}

/// There is no such device.
pub(super) fn unknown() -> Problem {
    Problem::new(Code::UnknownDevice, "no device has this name")
}

async fn shown(driver: &Driver, device: DeviceId, status: StatusCode) -> Result<Response, Problem> {
    let device = driver.device(device).await?.ok_or_else(unknown)?;
    Ok(problem::json(status, &device))
}

/// A page as the store gives it.
async fn part(
    driver: &Driver,
    filter: DeviceFilter,
    page: PageRequest,
) -> Result<Page<Device>, Problem> {
    let stored = driver.store().devices(filter, page).await?;
    Ok(Page { items: driver.show(stored.items)?, next: stored.next })
}

/// A page of those that are online, or of those that are not: only the core knows. The selector is compared here
/// too, since the store would look at many rows for each device that fits, and [`DEVICES_SEARCHED_MAX`] would not count them.
async fn search(
    driver: &Driver,
    mut filter: DeviceFilter,
    page: PageRequest,
    online: bool,
    searched_max: usize,
) -> Result<Page<Device>, Problem> {
    let select = std::mem::take(&mut filter.select);
    let scoped = !filter.visible.is_all();
    let items_max = page.limit as usize;
    let mut found: Page<Device> = Page { items: Vec::new(), next: None };
    let (mut searched, mut bytes) = (0, 0);
    let mut after = page.after;
    while searched < searched_max {
        let limit = (PAGE_ITEMS.max as usize).min(searched_max - searched) as u32;
        let part = part(driver, filter.clone(), PageRequest { limit, after }).await?;
        // Of a reader's part of the fleet the store looks at no more either, for one page.
        let spent = scoped && part.items.len() < limit as usize && part.next.is_some();
        searched += if spent { searched_max } else { part.items.len() };
        for device in part.items {
            let labels = &device.labels;
            if device.online != online || !select.matches(labels) {
                continue;
            }
            bytes += page::json_bytes(&device)?;
            if found.items.len() == items_max || bytes > PAGE_BYTES_MAX && !found.items.is_empty() {
                let last = found.items.last();
                found.next = last.map(|last| Cursor::after_device(last.id.clone()).to_string());
                return Ok(found);
            }
            found.items.push(device);
        }
        found.next = part.next;
        after = match &found.next {
            Some(next) => next.parse().ok(),
            None => break,
        };
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
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
        let page = |select: &str, after: Option<String>| {
            let filter =
                DeviceFilter { select: select.parse().unwrap(), ..DeviceFilter::default() };
            let after = after.map(|cursor| cursor.parse().unwrap());
            let driver = driver.clone();
            async move {
                let request = PageRequest { limit: 10, after };
                let found = search(&driver, filter, request, false, 3).await.unwrap();
                let names: Vec<_> = found.items.iter().map(|d| d.id.to_string()).collect();
                (names.join(" "), found.next)
            }
        };
        let (names, next) = page("site=oslo", None).await;
        assert_eq!(names, "");
        assert!(next.is_some(), "two devices were not looked at");
        assert_eq!(page("site=oslo", next).await, ("e".to_owned(), None));
    }
}
