//! Reports of devices: about one delivery, or a batch. Contract, section 5.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use axum::response::Response;
use bellwire_proto::limits::{REPORT_BATCH_BYTES_MAX, REPORT_BYTES_MAX};
use bellwire_proto::{CommandId, Delivery, DeviceId, Problem, Report};
use http::StatusCode;
use serde::Serialize;

use super::bodies::{self, BatchItem};
use super::request::Request;
use super::{device, problem};
use crate::driver::Driver;

/// `POST /v1/devices/{device}/commands/{command}/status`.
pub(super) async fn one(mut request: Request) -> Result<Response, Problem> {
    let device: DeviceId = request.name("device")?;
    let command: CommandId = request.name("command")?;
    request.no_query()?;
    let body = request.body(REPORT_BYTES_MAX).await?;
    let report = Report::parse(&body)?;

    let delivery = request.driver.report(device, command, report).await?;
    Ok(problem::json(StatusCode::OK, &delivery))
}

/// `POST /v1/devices/{device}/status`: each item by itself, in their order.
pub(super) async fn batch(mut request: Request) -> Result<Response, Problem> {
    let device: DeviceId = request.name("device")?;
    request.no_query()?;
    let body = request.body(REPORT_BATCH_BYTES_MAX).await?;
    let items = bodies::batch(&body)?;

    request.driver.device(device.clone()).await?.ok_or_else(device::unknown)?;
    let reports =
        items.into_iter().map(|item| report_item(request.driver.clone(), device.clone(), item));
    let results = in_order(reports.collect()).await;
    Ok(problem::json(StatusCode::OK, &results))
}

/// The result of one item of a batch.
#[derive(Serialize)]
struct ItemResult {
    command: Option<String>,
    status: u16,
    #[serde(flatten)]
    answer: ItemAnswer,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum ItemAnswer {
    Delivery(Box<Delivery>),
    Problem(Problem),
}

async fn report_item(driver: Driver, device: DeviceId, item: BatchItem) -> ItemResult {
    let answered = match item.report {
        Ok((command, report)) => driver.report(device, command, report).await,
        Err(refusal) => Err(refusal),
    };
    let (status, answer) = match answered {
        Ok(delivery) => (StatusCode::OK.as_u16(), ItemAnswer::Delivery(Box::new(delivery))),
        Err(refusal) => (refusal.code.status(), ItemAnswer::Problem(refusal)),
    };
    ItemResult { command: item.command, status, answer }
}

/// Runs all at once, so that one commit can contain them, and yet begins them in order: a report
/// reaches the core when it is first polled, and two of one delivery must not be reordered.
async fn in_order<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    enum Slot<F, T> {
        Running(Pin<Box<F>>),
        Ended(T),
    }
    let mut slots: Vec<_> = futures.into_iter().map(|f| Slot::Running(Box::pin(f))).collect();
    poll_fn(|context| {
        let mut running = 0;
        for slot in &mut slots {
            if let Slot::Running(future) = slot {
                match future.as_mut().poll(context) {
                    Poll::Ready(value) => *slot = Slot::Ended(value),
                    Poll::Pending => running += 1,
                }
            }
        }
        if running > 0 { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    let ended = slots.into_iter().filter_map(|slot| match slot {
        Slot::Ended(value) => Some(value),
        Slot::Running(_) => None,
    });
    ended.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[tokio::test]
    async fn reports_begin_in_their_order_and_are_answered_in_it() {
        let begun = Mutex::new(Vec::new());
        let futures = (0..100).map(|n| {
            let begun = &begun;
            async move {
                begun.lock().unwrap().push(n);
                // The first ones end last.
                for _ in n..100 {
                    tokio::task::yield_now().await;
                }
                n
            }
        });
        let answers = in_order(futures.collect()).await;
        let expected: Vec<_> = (0..100).collect();
        assert_eq!(answers, expected);
        assert_eq!(*begun.lock().unwrap(), expected);
    }
}
