//! The request that a command becomes at a local web service, and the outcome of the response, over real sockets.
#![cfg(feature = "agent")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is the failure message of a test"
)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use bellwire_client::agent::forward::Forward;
use bellwire_client::agent::run::{
    Completion, CompletionState, DataDir, Run as _, RunContext, RunEnd, Stop, StopSender,
    progress_channel, stop_channel,
};
use bellwire_proto::stream::CommandEvent;
use bellwire_proto::{CommandId, Json, Seq, Timestamp};
use support::{Exchange, Server, within};

const LONG: Duration = Duration::from_secs(3600);

fn command(data: &str) -> CommandEvent {
    CommandEvent {
        id: CommandId::from_parts(1_700_000_000_000, [7; 10]),
        seq: Seq::new(1),
        action: "deploy".parse().unwrap(),
        data: Json::parse(data).unwrap(),
        attempt: 2,
        created_at: Timestamp::from_unix_ms(0),
        expires_at: Timestamp::from_unix_ms(0),
        ttl_s: 60,
        run_timeout_s: 60,
    }
}

struct Begun {
    ended: tokio::task::JoinHandle<RunEnd>,
    stop: StopSender,
}

fn begin(url: &str, data: &str, limit: Duration) -> Begun {
    let (stop_sender, stop) = stop_channel();
    let context = RunContext {
        command: command(data),
        device: "kiosk".parse().unwrap(),
        data_dir: Arc::new(DataDir::temporary().unwrap()),
        limit,
        progress: progress_channel().0,
        stop,
    };
    let forward = Forward::new(url, false).unwrap();
    Begun { ended: tokio::spawn(forward.start(context)), stop: stop_sender }
}

impl Begun {
    async fn end(self) -> RunEnd {
        within("the forward to end", self.ended).await.unwrap()
    }

    async fn completion(self) -> Completion {
        match self.end().await {
            RunEnd::Finished(completion) => completion,
            stopped => panic!("it was stopped: {stopped:?}"),
        }
    }
}

fn code(completion: &Completion) -> Option<&str> {
    completion.outcome.error.as_ref().map(|error| error.code.as_str())
}

fn member(completion: &Completion, name: &str) -> String {
    let result: serde_json::Value = completion.outcome.result.as_ref().unwrap().read().unwrap();
    result[name].to_string()
}

/// A service that compressed its answer had it reported as garbage.
#[tokio::test]
async fn a_forward_requests_no_coding_and_decodes_one_that_was_applied_all_the_same() {
    let server = Server::start().await;
    let begun = begin(&server.url("/"), "null", LONG);
    let mut request = server.request().await;
    assert_eq!(request.header("accept-encoding"), Some("identity"));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut gzip, b"[1]").unwrap();
    let body = gzip.finish().unwrap();
    request.send("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n").await;
    request.send(body).await;
    request.end().await;
    let completion = begun.end().await.into_completion();
    let result = completion.outcome.result.unwrap();
    assert!(result.as_str().contains(r#""body":[1]"#), "{}", result.as_str());
}

#[tokio::test]
async fn the_data_is_the_body_and_the_rest_are_headers() {
    let server = Server::start().await;
    for (data, content_type, body) in [
        ("\"plain text\"", Some("text/plain; charset=utf-8"), "plain text"),
        ("{ \"v\": 1.50 }", Some("application/json"), "{\"v\":1.50}"),
        ("null", None, ""),
    ] {
        let begun = begin(&server.url("/deploy?x=1"), data, LONG);
        let request = server.request().await;
        assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", "/deploy?x=1"));
        assert_eq!(String::from_utf8_lossy(&request.body), body);
        assert_eq!(request.header("content-type"), content_type, "{data}");
        // Without the header, services that require it answered an empty POST with 411.
        assert_eq!(request.header("content-length"), Some(&*body.len().to_string()), "{data}");
        assert_eq!(request.header("bellwire-command"), Some(&*command("1").id.to_string()));
        assert_eq!(request.header("bellwire-action"), Some("deploy"));
        assert_eq!(request.header("bellwire-attempt"), Some("2"));
        request.answer("204 No Content", "").await;
        let completion = begun.completion().await;
        assert_eq!((completion.state, code(&completion)), (CompletionState::Succeeded, None));
        assert_eq!(
            (member(&completion, "status"), member(&completion, "body")),
            ("204".into(), "null".into())
        );
    }
}

#[tokio::test]
async fn the_status_decides_and_a_redirect_is_not_followed() {
    let server = Server::start().await;
    for (head, body, state, reported) in [
        ("200 OK", "{\"a\": 1.0}", CompletionState::Succeeded, "{\"a\":1.0}"),
        ("201 Created", "done", CompletionState::Succeeded, "\"done\""),
        ("302 Found\nlocation: /elsewhere", "", CompletionState::Failed, "null"),
        ("404 Not Found", "no", CompletionState::Failed, "\"no\""),
        ("503 Service Unavailable", "[1]", CompletionState::Failed, "[1]"),
    ] {
        let begun = begin(&server.url("/"), "1", LONG);
        server.request().await.answer(head, body).await;
        let completion = begun.completion().await;
        let expected = (state == CompletionState::Failed).then_some("http_status");
        assert_eq!((completion.state, code(&completion)), (state, expected), "{head}");
        assert_eq!(member(&completion, "status"), head[..3], "{head}");
        assert_eq!(member(&completion, "body"), reported, "{head}");
        assert!(member(&completion, "time_ms").parse::<u64>().is_ok());
    }
}

#[tokio::test]
async fn the_beginning_of_a_long_body_is_reported() {
    let server = Server::start().await;
    let begun = begin(&server.url("/"), "1", LONG);
    let body = format!("start {}", "x".repeat(200_000));
    server.request().await.answer("200 OK", &body).await;
    let completion = begun.completion().await;
    assert!(completion.outcome.is_truncated());
    let result = completion.outcome.result.unwrap();
    assert!(result.as_str().len() <= 64 * 1024, "{} bytes", result.as_str().len());
    assert!(result.as_str().starts_with("{\"status\":200,\"body\":\"start xxx"));
}

#[tokio::test]
async fn a_refused_connection_is_tried_again() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}/", socket.local_addr().unwrap());
    let mut begun = begin(&url, "1", LONG);
    // Bound and not listening: the first attempt is refused.
    let early = tokio::time::timeout(Duration::from_millis(200), &mut begun.ended).await;
    assert!(early.is_err(), "it gave up: {early:?}");
    let listener = socket.listen(1).unwrap();
    let (connection, _) = within("the next try", listener.accept()).await.unwrap();
    Exchange::read(connection).await.answer("200 OK", "1").await;
    assert_eq!(begun.completion().await.state, CompletionState::Succeeded);
}

/// A service that started in the last second of the limit was not tried any more.
#[tokio::test]
async fn a_service_that_starts_shortly_before_the_limit_is_still_tried() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}/", socket.local_addr().unwrap());
    let mut begun = begin(&url, "1", Duration::from_secs(3));
    let early = tokio::time::timeout(Duration::from_millis(2100), &mut begun.ended).await;
    assert!(early.is_err(), "it gave up: {early:?}");
    let listener = socket.listen(1).unwrap();
    let (connection, _) = within("the last tries", listener.accept()).await.unwrap();
    Exchange::read(connection).await.answer("200 OK", "1").await;
    assert_eq!(begun.completion().await.state, CompletionState::Succeeded);
}

#[tokio::test]
async fn refused_until_the_limit_is_forward_failed_and_unanswered_is_timeout() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}/", socket.local_addr().unwrap());
    let started = std::time::Instant::now();
    let limit = Duration::from_millis(1200);
    let completion = begin(&url, "1", limit).completion().await;
    assert!(started.elapsed() >= limit, "a service may still come up: {:?}", started.elapsed());
    assert_eq!(
        (completion.state, code(&completion)),
        (CompletionState::Failed, Some("forward_failed"))
    );

    let server = Server::start().await;
    let begun = begin(&server.url("/"), "1", Duration::from_secs(2));
    let request = server.request().await;
    let completion = begun.completion().await;
    assert_eq!((completion.state, code(&completion)), (CompletionState::Failed, Some("timeout")));
    request.dropped().await;
}

#[tokio::test]
async fn a_service_that_broke_off_is_not_sent_the_request_again() {
    let server = Server::start().await;
    let begun = begin(&server.url("/"), "1", LONG);
    server.request().await.end().await;
    let completion = begun.completion().await;
    assert_eq!(code(&completion), Some("forward_failed"));
    let message = completion.outcome.error.unwrap().message.unwrap();
    assert!(message.contains("whether the service acted on it is not known"), "{message}");
}

#[tokio::test]
async fn a_cancelled_forward_closes_its_connection() {
    let server = Server::start().await;
    for (how, state) in
        [(Stop::Cancel, CompletionState::Cancelled), (Stop::Kill, CompletionState::Failed)]
    {
        let begun = begin(&server.url("/"), "1", LONG);
        let request = server.request().await;
        begun.stop.send(how);
        let RunEnd::Stopped(completion) = begun.end().await else { panic!("it was stopped") };
        assert_eq!(completion.state, state);
        request.dropped().await;
    }
}
