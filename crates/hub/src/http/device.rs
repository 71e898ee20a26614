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
    let page = super::page_request(&mut query)?;
    query.finish()?;

    let devices = match online {
        None => part(&request.driver, DeviceFilter { select }, page).await?,
        Some(online) => search(&request.driver, DeviceFilter { select }, page, online).await?,
    };
    page::page(devices, |last| Cursor::after_device(last.id.clone()))
}

/// `GET /v1/devices/{device}`.
pub(super) async fn show(request: Request) -> Result<Response, Problem> {
    let device: DeviceId = request.name("device")?;
    request.no_query()?;
    shown(&request.driver, device, StatusCode::OK).await
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

/// A page of those that are online, or of those that are not: only the core knows.
async fn search(
    driver: &Driver,
    filter: DeviceFilter,
    page: PageRequest,
    online: bool,
) -> Result<Page<Device>, Problem> {
    let items_max = page.limit as usize;
    let mut found: Page<Device> = Page { items: Vec::new(), next: None };
    let (mut searched, mut bytes) = (0, 0);
    let mut after = page.after;
    while searched < DEVICES_SEARCHED_MAX {
        let limit = PAGE_ITEMS.max as u32;
        let part = part(driver, filter.clone(), PageRequest { limit, after }).await?;
        searched += part.items.len();
        for device in part.items {
            if device.online != online {
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
