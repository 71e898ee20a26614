//! Devices: reading them, registering, labelling, removing, and the facts that they report.
//! Contract, sections 5 and 6.

use axum::response::Response;
use bellwire_proto::device::{parse_facts, parse_labels_body};
use bellwire_proto::labels::parse_labels_patch;
use bellwire_proto::limits::{FACTS_BYTES_MAX, SMALL_BODY_BYTES_MAX};
use bellwire_proto::{Code, DeviceId, Labels, Problem};
use http::StatusCode;

use super::request::Request;
use super::{page, problem};
use crate::driver::{Driver, LabelsChange, LabelsChanged};
use crate::store::Cursor;
use etag::IfMatch;

mod etag;
mod list;

pub(super) use etag::shown as answer;
pub(super) use list::list;

/// `GET /v1/devices/{device}`.
pub(super) async fn show(request: Request) -> Result<Response, Problem> {
    let device: DeviceId = request.name("device")?;
    request.no_query()?;
    let visible = request.caller.visible();
    let found = request.driver.store().device(device).await?;
    // Before anything is done that is not done for a device that does not exist.
    let found = found.filter(|device| visible.sees(&device.record.labels)).ok_or_else(unknown)?;
    let shown = request.driver.show(vec![found])?.pop().ok_or_else(unknown)?;
    Ok(etag::shown(StatusCode::OK, &shown))
}

/// `PUT /v1/devices/{device}`: registers it, or replaces its labels.
pub(super) async fn put(mut request: Request) -> Result<Response, Problem> {
    let device: DeviceId = request.name("device")?;
    request.no_query()?;
    let expected = IfMatch::of(&request.head.headers)?;
    let body = request.body(SMALL_BODY_BYTES_MAX).await?;
    let labels = parse_labels_body(&body)?;
    change(&request.driver, device, LabelsChange::Replace(labels), expected).await
}

/// `PATCH /v1/devices/{device}`: merges its labels (RFC 7396).
pub(super) async fn patch(mut request: Request) -> Result<Response, Problem> {
    let device: DeviceId = request.name("device")?;
    request.no_query()?;
    let expected = IfMatch::of(&request.head.headers)?;
    let body = request.body(SMALL_BODY_BYTES_MAX).await?;
    let patch = parse_labels_patch(&body)?;
    change(&request.driver, device, LabelsChange::Merge(patch), expected).await
}

async fn change(
    driver: &Driver,
    device: DeviceId,
    change: LabelsChange,
    expected: IfMatch,
) -> Result<Response, Problem> {
    let as_expected = move |labels: Option<&Labels>| expected.fits(labels);
    match driver.change_labels(device.clone(), change, as_expected).await? {
        LabelsChanged::Unexpected => Ok(etag::unexpected()),
        LabelsChanged::Done { created: true } => shown(driver, device, StatusCode::CREATED).await,
        LabelsChanged::Done { created: false } => shown(driver, device, StatusCode::OK).await,
    }
}

/// `GET /v1/labels`: which there are, and how many devices have them.
pub(super) async fn labels(request: Request) -> Result<Response, Problem> {
    let mut query = request.query()?;
    let page = super::page_request(&mut query)?;
    query.finish()?;
    let labels = request.driver.store().labels(page, request.caller.visible()).await?;
    page::page(labels, |last| Cursor::after_key(last.key.clone()))
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
    Ok(etag::shown(status, &device))
}
