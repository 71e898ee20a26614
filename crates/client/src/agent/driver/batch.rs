//! Results that are due at once as one request, so that a backlog costs few. Each counts by its own status.

use std::time::Duration;

use bellwire_proto::limits::{AGENT_BATCH_BYTES_MAX, AGENT_BATCH_ITEMS_MAX, AGENT_BATCH_MIN};
use bellwire_proto::{CommandId, DeviceId, Report};
use http::StatusCode;

use super::report::{PANICKED, Post, PostOutcome, Posted, send};
use super::{Driver, catch_panic};
use crate::agent::engine::ReportAnswer;
use crate::api::{BatchAnswer, Controller, Error};

impl Driver {
    /// Sends what is due at once: the results among it as batches, unless they are few. Other reports have less time.
    pub(super) fn send_reports(&mut self, due: Vec<Post>) {
        let (results, others): (Vec<_>, Vec<_>) =
            due.into_iter().partition(|post| post.report.state.is_terminal());
        others.into_iter().for_each(|post| self.post(post));
        if results.len() < AGENT_BATCH_MIN || self.batches_refused {
            return results.into_iter().for_each(|post| self.post(post));
        }
        let (mut batch, mut batch_bytes) = (Vec::new(), 0);
        for post in results {
            let bytes = serde_json::to_vec(&post.report).map_or(0, |json| json.len());
            let is_full =
                batch.len() >= AGENT_BATCH_ITEMS_MAX || batch_bytes + bytes > AGENT_BATCH_BYTES_MAX;
            if is_full && !batch.is_empty() {
                self.post_batch(std::mem::take(&mut batch));
                batch_bytes = 0;
            }
            batch_bytes += bytes;
            batch.push(post);
        }
        self.post_batch(batch);
    }

    fn post_batch(&mut self, mut batch: Vec<Post>) {
        if batch.len() < 2 {
            return batch.drain(..).for_each(|post| self.post(post));
        }
        let (hub, device) = (self.hub.clone(), self.agent.device.clone());
        let panicked =
            Posted { outcomes: all_failed(&batch, None, PANICKED), batch_refused: false };
        let sending = async move { send_batch(&hub, &device, batch).await };
        self.posts.spawn(catch_panic(sending, panicked));
    }
}

async fn send_batch(hub: &Controller, device: &DeviceId, batch: Vec<Post>) -> Posted {
    let reports: Vec<(CommandId, Report)> =
        batch.iter().map(|post| (post.command, post.report.clone())).collect();
    // The least: the next try must not be late for any of them.
    let limit = batch.iter().map(|post| post.limit).min().unwrap_or_default();
    let answer = tokio::time::timeout(limit, hub.report_batch(device, &reports)).await;
    let outcomes = match answer {
        Err(_) => all_failed(&batch, None, &format!("no answer within {} ms", limit.as_millis())),
        Ok(Ok(answers)) => {
            batch.iter().zip(answers).map(|(post, answer)| outcome(device, post, answer)).collect()
        }
        Ok(Err(error)) if is_of_the_batch(&error) => {
            return Posted { outcomes: one_by_one(hub, device, batch).await, batch_refused: true };
        }
        Ok(Err(error)) => all_failed(&batch, retry_after(&error), &error.to_string()),
    };
    Posted { outcomes, batch_refused: false }
}

/// Stops at the first report that is not answered: the network is at fault, and the others would wait for it in vain.
async fn one_by_one(hub: &Controller, device: &DeviceId, batch: Vec<Post>) -> Vec<PostOutcome> {
    let mut outcomes = Vec::new();
    for post in &batch {
        let outcome = send(hub, device, post).await;
        let is_failed = matches!(outcome.answer, ReportAnswer::Failed { .. });
        outcomes.push(outcome);
        if is_failed {
            break;
        }
    }
    let unsent = batch.get(outcomes.len()..).unwrap_or_default();
    outcomes.extend(all_failed(unsent, None, "the report before it was not answered"));
    outcomes
}

fn outcome(device: &DeviceId, post: &Post, answer: BatchAnswer) -> PostOutcome {
    if answer.command != post.command {
        let other = "the answer to a batch shows another command than the reported one";
        return PostOutcome::failed(post.ticket, post.report.state, None, other.to_owned());
    }
    let refused = |problem| Error::Refused { problem: Box::new(problem), retry_after: None };
    PostOutcome::of(device, post, &answer.outcome.map_err(refused))
}

fn all_failed(batch: &[Post], retry_after: Option<Duration>, failure: &str) -> Vec<PostOutcome> {
    let failed = |post: &Post| {
        PostOutcome::failed(post.ticket, post.report.state, retry_after, failure.to_owned())
    };
    batch.iter().map(failed).collect()
}

/// Whether single reports may pass where the batch was refused: it is too long or its form is the reason, the route is unknown
/// to what answers, or one report in it is at fault.
fn is_of_the_batch(error: &Error) -> bool {
    let status = match error {
        Error::Refused { problem, .. } => problem.code.status(),
        Error::Foreign { status, .. } => status.map_or(0, |status: StatusCode| status.as_u16()),
        _ => 0,
    };
    matches!(status, 400 | 404 | 405 | 411 | 413 | 414 | 415 | 501)
}

fn retry_after(error: &Error) -> Option<Duration> {
    match error {
        Error::Refused { retry_after, .. } | Error::Foreign { retry_after, .. } => *retry_after,
        _ => None,
    }
}
