//! Sends reports, and translates their answers for the engine and for the log. Results that are due at once go as one: `batch`.

use std::time::Duration;

use bellwire_proto::{Code, CommandId, Delivery, DeviceId, Report, ReportState};

use super::{Driver, catch_panic};
use crate::agent::engine::ReportAnswer;
use crate::agent::fault::{self, Point};
use crate::api::{Controller, Error};

/// A report to send.
pub(super) struct Post {
    pub(super) ticket: u64,
    pub(super) command: CommandId,
    pub(super) report: Report,
    /// How long its request may take before it counts as failed.
    pub(super) limit: Duration,
}

/// What one request, or several in a row, have come to.
pub(super) struct Posted {
    pub(super) outcomes: Vec<PostOutcome>,
    /// It was a batch, and was refused as one.
    pub(super) batch_refused: bool,
}

/// A report that was answered, or has failed.
pub(super) struct PostOutcome {
    pub(super) ticket: u64,
    state: ReportState,
    pub(super) answer: ReportAnswer,
    /// The error as a line for the log, if it failed.
    failure: Option<String>,
}

impl PostOutcome {
    pub(super) fn failed(
        ticket: u64,
        state: ReportState,
        retry_after: Option<Duration>,
        failure: String,
    ) -> Self {
        let answer = ReportAnswer::Failed { retry_after };
        Self { ticket, state, answer, failure: Some(failure) }
    }

    /// What an answer of the hub, or of something else, means for this report.
    pub(super) fn of(device: &DeviceId, post: &Post, result: &Result<Delivery, Error>) -> Self {
        let state = post.report.state;
        let answer = classify(device, post.command, state, result);
        let is_failed = matches!(answer, ReportAnswer::Failed { .. });
        Self { ticket: post.ticket, state, answer, failure: is_failed.then(|| explain(result)) }
    }
}

/// Sends one report.
pub(super) async fn send(hub: &Controller, device: &DeviceId, post: &Post) -> PostOutcome {
    let answer = hub.report(device, post.command, &post.report);
    match tokio::time::timeout(post.limit, answer).await {
        Ok(result) => PostOutcome::of(device, post, &result),
        Err(_) => {
            let failure = format!("no answer within {} ms", post.limit.as_millis());
            PostOutcome::failed(post.ticket, post.report.state, None, failure)
        }
    }
}

impl Driver {
    pub(super) fn post(&mut self, post: Post) {
        let (hub, device) = (self.hub.clone(), self.agent.device.clone());
        let panicked =
            PostOutcome::failed(post.ticket, post.report.state, None, PANICKED.to_owned());
        let one = |outcome| Posted { outcomes: vec![outcome], batch_refused: false };
        let sending = async move { one(send(&hub, &device, &post).await) };
        self.posts.spawn(catch_panic(sending, one(panicked)));
    }

    pub(super) fn on_reports_answered(&mut self, now_ms: u64, posted: Posted) {
        if posted.batch_refused && !std::mem::replace(&mut self.batches_refused, true) {
            tracing::info!(
                "something on the way to the hub refuses batches: reports go one by one"
            );
        }
        for outcome in posted.outcomes {
            self.on_report_answered(now_ms, outcome);
        }
    }

    fn on_report_answered(&mut self, now_ms: u64, outcome: PostOutcome) {
        let PostOutcome { ticket, state, answer, failure } = outcome;
        match failure {
            Some(failure) if !std::mem::replace(&mut self.posts_fail, true) => {
                tracing::warn!("reports fail, and are tried again: {failure}");
            }
            Some(failure) => tracing::debug!("a report failed: {failure}"),
            None if std::mem::take(&mut self.posts_fail) => tracing::info!("reports succeed again"),
            None => {}
        }
        let offered = state == ReportState::Accepted;
        if offered {
            fault::at(Point::AcceptSent);
        } else if state.is_terminal() {
            fault::at(Point::ResultSent);
        }
        self.engine.handle_answer(now_ms, ticket, answer);
        if offered {
            fault::at(Point::Accepted);
        }
    }
}

/// Why a report failed whose task is gone.
pub(super) const PANICKED: &str = "the agent's own code panicked";

/// Classifies an answer. One that is not the hub's counts as a failure, whatever its status, with two exceptions: a
/// middlebox, or the HTTP parser in front of the hub, may refuse a body for its length (413) or a result for its
/// form (400) with a body of its own or none. An offer is always well-formed, and only the hub may end it. The hub
/// knows the path of a report, so a 404 of a path comes from a middlebox.
fn classify(
    device: &DeviceId,
    command: CommandId,
    reported: ReportState,
    answer: &Result<Delivery, Error>,
) -> ReportAnswer {
    match answer {
        Ok(delivery) if delivery.command == command && delivery.device == *device => {
            ReportAnswer::Delivery { state: delivery.state, rev: delivery.rev }
        }
        Ok(_) => ReportAnswer::Failed { retry_after: None },
        Err(Error::Refused { problem, retry_after }) => match problem.code.status() {
            409 => {
                ReportAnswer::Conflict { state: problem.delivery.as_ref().map(|shown| shown.state) }
            }
            410 => ReportAnswer::Gone,
            413 => ReportAnswer::TooLarge,
            404 if problem.code == Code::NotFound && !reported.is_terminal() => {
                ReportAnswer::Failed { retry_after: *retry_after }
            }
            400 | 404 => ReportAnswer::PermanentRejection,
            _ => ReportAnswer::Failed { retry_after: *retry_after },
        },
        Err(Error::Foreign { status, retry_after, .. }) => match status.map(|s| s.as_u16()) {
            Some(413) => ReportAnswer::TooLarge,
            Some(400) if reported.is_terminal() => ReportAnswer::PermanentRejection,
            _ => ReportAnswer::Failed { retry_after: *retry_after },
        },
        Err(Error::Unreachable { .. }) => ReportAnswer::Failed { retry_after: None },
    }
}

/// Why a report failed, for the log.
fn explain(answer: &Result<Delivery, Error>) -> String {
    match answer {
        Ok(_) => {
            "the answer comes from a middlebox and not from the hub: it shows another delivery \
             than the reported one"
                .to_owned()
        }
        Err(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bellwire_proto::{DeliveryState, Problem};
    use http::StatusCode;

    use super::*;

    const COMMAND: &str = "01930000-0000-7000-8000-000000000001";

    fn delivery(device: &str, command: &str) -> Result<Delivery, Error> {
        let text = format!(
            r#"{{"command":"{command}","seq":7,"device":"{device}","action":"ping","state":"running",
            "attempt":1,"rev":9,"created_at":"2026-01-01T00:00:00.000Z","progress":null,
            "updated_at":"2026-01-01T00:00:00.000Z","expires_at":"2026-01-01T00:00:00.000Z",
            "exit_code":null,"result":null,"stdout":null,"stderr":null,"truncated":false,
            "error":null,"late":false}}"#
        );
        Ok(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}")))
    }

    fn refused(code: Code) -> Result<Delivery, Error> {
        let problem = Box::new(Problem::new(code, "no"));
        Err(Error::Refused { problem, retry_after: Some(Duration::from_secs(7)) })
    }

    fn foreign(status: Option<u16>) -> Result<Delivery, Error> {
        Err(Error::Foreign {
            hub: "http://hub".to_owned(),
            reason: "a page".to_owned(),
            status: status.map(|status| StatusCode::from_u16(status).unwrap()),
            location: None,
            retry_after: Some(Duration::from_secs(7)),
        })
    }

    #[test]
    fn an_answer_counts_only_if_it_is_the_hubs_or_a_refusal_for_length_or_form() {
        let (device, command) = ("kiosk".parse().unwrap(), COMMAND.parse().unwrap());
        let later = ReportAnswer::Failed { retry_after: Some(Duration::from_secs(7)) };
        let nothing = ReportAnswer::Failed { retry_after: None };
        let shown = ReportAnswer::Delivery { state: DeliveryState::Running, rev: 9 };
        let other = "01930000-0000-7000-8000-000000000002";
        for (what, answer, meaning) in [
            ("the delivery", delivery("kiosk", COMMAND), shown),
            ("another command's", delivery("kiosk", other), nothing),
            ("another device's", delivery("kiosk-2", COMMAND), nothing),
            ("409", refused(Code::Conflict), ReportAnswer::Conflict { state: None }),
            ("410", refused(Code::Gone), ReportAnswer::Gone),
            ("413", refused(Code::PayloadTooLarge), ReportAnswer::TooLarge),
            ("400", refused(Code::BadRequest), ReportAnswer::PermanentRejection),
            ("404", refused(Code::NotFound), ReportAnswer::PermanentRejection),
            ("401", refused(Code::Unauthenticated), later),
            ("503", refused(Code::StoreUnavailable), later),
            ("a page with 200", foreign(None), later),
            ("a proxy's 413", foreign(Some(413)), ReportAnswer::TooLarge),
            ("a parser's 400", foreign(Some(400)), ReportAnswer::PermanentRejection),
            ("a page with 404", foreign(Some(404)), later),
            ("a page with 409", foreign(Some(409)), later),
            ("a page with 410", foreign(Some(410)), later),
            ("a gateway's 502", foreign(Some(502)), later),
        ] {
            assert_eq!(classify(&device, command, ReportState::Failed, &answer), meaning, "{what}");
        }
        for middlebox in [foreign(Some(400)), refused(Code::NotFound)] {
            for reported in [ReportState::Accepted, ReportState::Running] {
                let meaning = classify(&device, command, reported, &middlebox);
                assert_eq!(meaning, later, "no middlebox may end a command: {middlebox:?}");
            }
        }
        let forgotten = refused(Code::UnknownCommand);
        let meaning = classify(&device, command, ReportState::Accepted, &forgotten);
        assert_eq!(meaning, ReportAnswer::PermanentRejection, "the hub may");
    }
}
