//! Reports of devices: about one delivery, or a batch. Contract, section 5.

use std::future::Future;
use std::pin::pin;

use axum::body::Body;
use axum::response::Response;
use bellwire_proto::limits::{
    REPORT_BATCH_ANSWER_BYTES_MAX, REPORT_BATCH_BYTES_MAX, REPORT_BYTES_MAX,
};
use bellwire_proto::{CommandId, Delivery, DeviceId, Problem, Report};
use futures_util::{Stream, StreamExt, stream};
use http::StatusCode;
use serde::Serialize;

use super::bodies::{self, BatchItem};
use super::request::Request;
use super::{device, problem};
use crate::driver::Driver;
use crate::internal;

/// Reports of a batch that are under way at once. Each may be answered with a delivery of 200 KB, which is in memory
/// until it is written.
const REPORTS_AT_ONCE: usize = 64;

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
    // All of it is reported before the answer begins: a device that does not read on loses nothing.
    let mut results = pin!(in_order(reports));
    let mut answer = BatchAnswer::new(REPORT_BATCH_ANSWER_BYTES_MAX);
    while let Some(result) = results.next().await {
        answer.push(result)?;
    }
    let json = answer.finish();
    Ok(problem::json_body(json.len() as u64, Body::from(json)))
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
    /// `None` when it did not fit into the answer.
    Delivery(Option<Box<Delivery>>),
    Problem(Problem),
}

async fn report_item(driver: Driver, device: DeviceId, item: BatchItem) -> ItemResult {
    let answered = match item.report {
        Ok((command, report)) => driver.report(device, command, report).await,
        Err(refusal) => Err(refusal),
    };
    let (status, answer) = match answered {
        Ok(delivery) => (StatusCode::OK.as_u16(), ItemAnswer::Delivery(Some(Box::new(delivery)))),
        Err(refusal) => (refusal.code.status(), ItemAnswer::Problem(refusal)),
    };
    ItemResult { command: item.command, status, answer }
}

/// The answer to a batch, while it is written.
struct BatchAnswer {
    json: Vec<u8>,
    bytes_max: usize,
    /// A delivery did not fit: from then on none is written, nor tried.
    full: bool,
}

impl BatchAnswer {
    fn new(bytes_max: usize) -> Self {
        Self { json: vec![b'['], bytes_max, full: false }
    }

    /// Adds the result of the next item, without its delivery once one did not fit.
    fn push(&mut self, mut result: ItemResult) -> Result<(), Problem> {
        let mut json = None;
        if !self.full {
            let whole = written(&result)?;
            self.full = self.json.len() + whole.len() > self.bytes_max;
            json = Some(whole).filter(|_| !self.full);
        }
        let mut json = match json {
            Some(json) => json,
            None => {
                match &mut result.answer {
                    ItemAnswer::Delivery(delivery) => *delivery = None,
                    ItemAnswer::Problem(problem) => problem.delivery = None,
                }
                written(&result)?
            }
        };
        if self.json.len() > 1 {
            self.json.push(b',');
        }
        self.json.append(&mut json);
        Ok(())
    }

    fn finish(mut self) -> Vec<u8> {
        self.json.push(b']');
        self.json
    }
}

fn written(result: &ItemResult) -> Result<Vec<u8>, Problem> {
    serde_json::to_vec(result).map_err(internal::failed)
}

/// Runs so many at once, so that one commit can contain them, and begins them in order: a report
/// reaches the core when it is first polled, and two of one delivery must not be reordered.
fn in_order<F: Future>(futures: impl IntoIterator<Item = F>) -> impl Stream<Item = F::Output> {
    stream::iter(futures).buffered(REPORTS_AT_ONCE)
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
        let answers: Vec<_> = in_order(futures).collect().await;
        let expected: Vec<_> = (0..100).collect();
        assert_eq!(answers, expected);
        assert_eq!(*begun.lock().unwrap(), expected);
    }
}
