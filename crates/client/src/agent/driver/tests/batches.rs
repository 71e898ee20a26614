//! Promise: results that are due at once cost one request, each counts by its own status, and a proxy that refuses batches
//! costs nothing but that.

use bellwire_proto::Report;

use super::*;
use crate::agent::engine::ReportAnswer;

fn id(n: u64) -> CommandId {
    format!("01930000-0000-7000-8000-{n:012}").parse().unwrap()
}

fn results(count: u64) -> Vec<Post> {
    let result = |n| Post {
        ticket: n,
        command: id(n),
        report: Report::of(ReportState::Succeeded),
        limit: 10 * SECOND,
    };
    (1..=count).map(result).collect()
}

/// The answers to what is sent, by ticket.
async fn answers(driver: &mut Driver) -> Vec<(u64, ReportAnswer)> {
    let mut answers = Vec::new();
    while let Some(posted) = driver.posts.join_next().await {
        let posted = posted.unwrap();
        answers.extend(posted.outcomes.iter().map(|outcome| (outcome.ticket, outcome.answer)));
        driver.on_reports_answered(clock::boot_ms(), posted);
    }
    answers.sort_by_key(|(ticket, _)| *ticket);
    answers
}

fn driver(hub: &Arc<StubHub>, dir: &tempfile::TempDir) -> Driver {
    Driver::start(agent(hub, dir).build().unwrap()).unwrap()
}

fn sent(hub: &StubHub) -> Vec<serde_json::Value> {
    let body = |asked: &SeenRequest| serde_json::from_slice(&asked.body).unwrap();
    hub.asked("report").iter().map(body).collect()
}

#[tokio::test(start_paused = true)]
async fn results_that_are_due_at_once_are_one_request_and_each_counts_by_its_own_status() {
    let hub = StubHub::new(|_| {
        let item = |n, rest: &str| format!("{{\"command\":\"{}\",{rest}}}", id(n));
        let problem = |status: u16, code: &str| {
            format!(
                "\"status\":{status},\"problem\":{{\"type\":\"about:blank\",\"title\":\"x\",\"status\":{status},\
                 \"detail\":\"x\",\"code\":\"{code}\"}}"
            )
        };
        let answers = [
            item(1, &problem(409, "illegal_transition")),
            item(2, &problem(404, "unknown_command")),
            item(3, &problem(503, "store_unavailable")),
            item(9, &problem(409, "conflict")),
        ];
        answer(200, "application/json", ends([format!("[{}]", answers.join(","))]))
    });
    let dir = tempfile::tempdir().unwrap();
    let mut driver = driver(&hub, &dir);
    driver.send_reports(results(4));
    let failed = ReportAnswer::Failed { retry_after: None };
    let expected = [
        (1, ReportAnswer::Conflict { state: None }),
        (2, ReportAnswer::PermanentRejection),
        (3, failed),
        // Of another command.
        (4, failed),
    ];
    assert_eq!(answers(&mut driver).await, expected);
    let sent = sent(&hub);
    assert_eq!((sent.len(), sent[0].as_array().unwrap().len()), (1, 4));
    assert_eq!(sent[0][1]["command"], id(2).to_string());
    driver.send_reports(results(3));
    answers(&mut driver).await;
    assert_eq!(hub.asked("report").len(), 4, "three go one by one");
}

#[tokio::test(start_paused = true)]
async fn where_a_proxy_refuses_a_batch_its_reports_are_sent_one_by_one_and_later_ones_too() {
    let hub = StubHub::new(|asked| match asked.body.starts_with(b"[") {
        true => answer(413, PAGE, ends(["<html>too large".to_owned()])),
        false => answer(502, PAGE, ends(["<html>bad gateway".to_owned()])),
    });
    let dir = tempfile::tempdir().unwrap();
    let mut driver = driver(&hub, &dir);
    driver.send_reports(results(5));
    let failed = ReportAnswer::Failed { retry_after: None };
    let all = answers(&mut driver).await;
    assert_eq!(all, (1..=5).map(|n| (n, failed)).collect::<Vec<_>>());
    assert_eq!(hub.asked("report").len(), 2, "the batch, and one: the network is at fault");
    driver.send_reports(results(5));
    answers(&mut driver).await;
    assert_eq!(hub.asked("report").len(), 7, "no batch any more");
}

#[tokio::test(start_paused = true)]
async fn a_backlog_is_cut_into_batches_of_items_and_bytes() {
    let hub = StubHub::new(|_| answer(503, PAGE, ends([])));
    let dir = tempfile::tempdir().unwrap();
    let mut driver = driver(&hub, &dir);
    driver.send_reports(results(250));
    answers(&mut driver).await;
    let lengths = |sent: &[serde_json::Value]| {
        let mut all: Vec<_> = sent.iter().map(|body| body.as_array().unwrap().len()).collect();
        all.sort_unstable();
        all
    };
    assert_eq!(lengths(&sent(&hub)), [50, 100, 100]);
    let mut long = results(6);
    for post in &mut long {
        post.report.outcome.stdout = Some("x".repeat(300_000));
    }
    driver.send_reports(long);
    answers(&mut driver).await;
    assert_eq!(lengths(&sent(&hub)[3..]), [3, 3]);
}
