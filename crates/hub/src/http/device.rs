//! Devices: reading them, registering, labelling, removing, and the facts that they report.
//! Contract, sections 5 and 6.

use axum::response::Response;
use bellwire_proto::device::{parse_facts, parse_labels_body};
use bellwire_proto::limits::{FACTS_BYTES_MAX, SMALL_BODY_BYTES_MAX};
use bellwire_proto::{Code, DeviceId, Problem};
use http::StatusCode;

use super::problem;
use super::request::Request;
use crate::driver::Driver;

mod list;

pub(super) use list::list;

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
