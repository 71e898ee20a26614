//! Devices: looking at them, registering, labelling, removing, and what they tell of themselves.
//! Contract, sections 5 and 6.

use axum::response::Response;
use bellwire_proto::device::{parse_facts, parse_labels_body};
use bellwire_proto::limits::{FACTS_BYTES_MAX, SMALL_BODY_BYTES_MAX};
use bellwire_proto::{Code, Device, DeviceId, Page, Problem};
use http::StatusCode;

use super::problem;
use super::request::Request;
use crate::store::{Cursor, DeviceFilter, PageRequest};

/// Pages that one request reads from the store in search of devices that are online, or not. A list may
/// go on after a page with fewer items than asked for.
const PAGES_SEARCHED_MAX: usize = 20;

/// `GET /v1/devices`: by name.
pub(super) async fn list(request: Request) -> Result<Response, Problem> {
    let mut query = request.query()?;
    let select = query.value("select")?.unwrap_or_default();
    let online = query.switch("online")?;
    let page = super::page(&mut query)?;
    query.finish()?;

    let devices = match online {
        None => part(&request, DeviceFilter { select }, page).await?,
        Some(online) => search(&request, DeviceFilter { select }, page, online).await?,
    };
    Ok(problem::json(StatusCode::OK, &devices))
}

/// `GET /v1/devices/{device}`.
pub(super) async fn show(request: Request) -> Result<Response, Problem> {
    let device: DeviceId = request.name("device")?;
    request.no_query()?;
    shown(&request, device, StatusCode::OK).await
}

/// `PUT /v1/devices/{device}`: registers it, or replaces its labels.
pub(super) async fn put(mut request: Request) -> Result<Response, Problem> {
    let device: DeviceId = request.name("device")?;
    request.no_query()?;
    let body = request.body(SMALL_BODY_BYTES_MAX).await?;
    let labels = parse_labels_body(&body)?;

    let created = request.driver.put_device(device.clone(), labels).await?;
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    shown(&request, device, status).await
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
    shown(&request, device, StatusCode::OK).await
}

/// There is no such device.
pub(super) fn unknown() -> Problem {
    Problem::new(Code::UnknownDevice, "no device has this name")
}

async fn shown(
    request: &Request,
    device: DeviceId,
    status: StatusCode,
) -> Result<Response, Problem> {
    let device = request.driver.device(device).await?.ok_or_else(unknown)?;
    Ok(problem::json(status, &device))
}

/// A page as the store gives it.
async fn part(
    request: &Request,
    filter: DeviceFilter,
    page: PageRequest,
) -> Result<Page<Device>, Problem> {
    let stored = request.driver.store().devices(filter, page).await;
    let stored = stored.map_err(problem::of_store)?;
    let devices = stored.items.into_iter().map(|device| request.driver.show(device));
    Ok(Page { items: devices.collect(), next: stored.next })
}

/// A page of those that are online, or of those that are not: only the hub's memory knows.
async fn search(
    request: &Request,
    filter: DeviceFilter,
    mut page: PageRequest,
    online: bool,
) -> Result<Page<Device>, Problem> {
    let mut found = Page { items: Vec::new(), next: None };
    for _ in 0..PAGES_SEARCHED_MAX {
        let part = part(request, filter.clone(), page.clone()).await?;
        let before = found.items.len();
        found.items.extend(part.items.into_iter().filter(|device| device.online == online));
        found.next = part.next;
        // Never more are asked for than there is room for, so nothing that was found is left over.
        page.limit = page.limit.saturating_sub((found.items.len() - before) as u32);
        match &found.next {
            Some(next) if page.limit > 0 => page.after = Some(next.parse::<Cursor>()?),
            _ => break,
        }
    }
    Ok(found)
}
