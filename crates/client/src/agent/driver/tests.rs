//! Promise: whatever answers instead of the hub, the agent does not flood it, does not hang on it, and reconnects.
//! The answers are written here and come through a [`Transport`], mostly in virtual time.

use std::collections::VecDeque;
use std::sync::Mutex;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::header::{AUTHORIZATION, RETRY_AFTER};

use super::*;
use crate::transport::{ByteStream, Request, Response, ResponseFuture, Transport};

mod batches;
mod hints;

const COMMAND: &str = "01930000-0000-7000-8000-000000000001";
const STREAM: &str = "text/event-stream";
const PAGE: &str = "text/html";
const SECOND: Duration = Duration::from_secs(1);

/// A stub of the hub: it answers each request as its test says, and records it.
struct StubHub {
    start: Instant,
    asked: Mutex<Vec<SeenRequest>>,
    answer: Box<dyn Fn(&SeenRequest) -> Response + Send + Sync>,
    /// Whether something else answers in place of the hub: polls, pings and confirmations, too.
    is_foreign: bool,
}

#[derive(Debug, Clone)]
struct SeenRequest {
    /// Its number among the requests of its kind.
    nth: usize,
    at: Duration,
    /// `stream`, `poll`, `ping`, `confirm`, `facts` or `report`.
    kind: &'static str,
    nonce: String,
    /// How long a poll is to be held.
    wait: Duration,
    token: String,
    body: Bytes,
}

impl SeenRequest {
    /// The state in a report.
    fn state(&self) -> String {
        let report: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        report["state"].as_str().unwrap().to_owned()
    }
}

impl StubHub {
    fn new(answer: impl Fn(&SeenRequest) -> Response + Send + Sync + 'static) -> Arc<Self> {
        let (start, asked) = (Instant::now(), Mutex::default());
        Arc::new(Self { start, asked, answer: Box::new(answer), is_foreign: false })
    }

    /// One whose test answers to everything.
    fn foreign(answer: impl Fn(&SeenRequest) -> Response + Send + Sync + 'static) -> Arc<Self> {
        let (start, asked) = (Instant::now(), Mutex::default());
        Arc::new(Self { start, asked, answer: Box::new(answer), is_foreign: true })
    }

    fn asked(&self, kind: &str) -> Vec<SeenRequest> {
        self.asked.lock().unwrap().iter().filter(|asked| asked.kind == kind).cloned().collect()
    }
}

impl Transport for StubHub {
    fn send(&self, request: Request) -> ResponseFuture {
        let path = request.uri().path();
        let kind = match path.rsplit('/').next() {
            Some("stream") => "stream",
            Some("facts") => "facts",
            Some("commands") => "poll",
            Some("ping") => "ping",
            Some("confirm") => "confirm",
            _ => "report",
        };
        let parameter = |name: &str| {
            let mut pairs = request.uri().query().unwrap_or_default().split('&');
            pairs.find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
        };
        let nonce = parameter("nonce");
        let wait_s = parameter("wait").map(|wait| wait.trim_end_matches('s').parse().unwrap());
        let token = request.headers().get(AUTHORIZATION).map(|value| value.to_str().unwrap());
        let asked = SeenRequest {
            nth: self.asked(kind).len(),
            at: self.start.elapsed(),
            kind,
            nonce: nonce.unwrap_or_default().to_owned(),
            wait: SECOND * wait_s.unwrap_or_default(),
            token: token.unwrap_or_default().to_owned(),
            body: request.body().clone(),
        };
        // A flood is not answered any more, so that the test ends and counts it.
        if asked.nth > 1000 {
            return Box::pin(std::future::pending());
        }
        self.asked.lock().unwrap().push(asked.clone());
        let answer = match kind {
            "poll" if !self.is_foreign => no_commands(&asked),
            "ping" if !self.is_foreign => {
                let pong = format!(
                    "{{\"hub\":\"bellwire/0.1.0\",\"nonce\":\"{}\",\"time_ms\":1000}}",
                    asked.nonce
                );
                answer(200, "application/json", ends([pong]))
            }
            "confirm" if !self.is_foreign => answer(204, PAGE, ends([])),
            _ => (self.answer)(&asked),
        };
        Box::pin(async move { Ok(answer) })
    }
}

fn answer(status: u16, content_type: &str, body: ByteStream) -> Response {
    http::Response::builder()
        .status(status)
        .header("content-type", content_type)
        .body(body)
        .unwrap()
}

/// A body that ends after these chunks.
fn ends<const N: usize>(chunks: [String; N]) -> ByteStream {
    Box::pin(futures_util::stream::iter(chunks.map(|chunk| Ok(Bytes::from(chunk)))))
}

/// A body that stays open after this text.
fn stays(text: String) -> ByteStream {
    Box::pin(ends([text]).chain(futures_util::stream::pending()))
}

/// The answer to a poll, once it was held.
fn no_commands(asked: &SeenRequest) -> Response {
    let body = format!("{{\"hello\":{},\"commands\":[],\"cancels\":[]}}", hello_data(asked));
    let wait = asked.wait;
    let held = futures_util::stream::once(async move {
        sleep(wait).await;
        Ok(Bytes::from(body))
    });
    answer(200, "application/json", Box::pin(held))
}

fn hello(asked: &SeenRequest) -> String {
    format!("event: hello\ndata: {}\n\n", hello_data(asked))
}

fn hello_data(asked: &SeenRequest) -> String {
    format!(
        "{{\"hub\":\"bellwire/0.1.0\",\"device\":\"kiosk\",\"session\":\"s\",\
         \"nonce\":\"{}\",\"heartbeat_s\":15,\"max_in_flight\":1,\"time_ms\":1000,\"up_ms\":0}}",
        asked.nonce
    )
}

fn ping(run_timeout_s: u64) -> String {
    format!(
        "event: command\nid: 9\ndata: {{\"id\":\"{COMMAND}\",\"seq\":9,\"action\":\"ping\",\
         \"data\":null,\"attempt\":1,\"created_at\":\"2026-11-22T20:00:00.000Z\",\
         \"expires_at\":\"2026-11-22T21:00:00.000Z\",\"ttl_s\":3600,\"run_timeout_s\":{run_timeout_s}}}\n\n"
    )
}

/// The hub's answer to a report: the delivery as reported.
fn delivery(asked: &SeenRequest) -> Response {
    let report: serde_json::Value = serde_json::from_slice(&asked.body).unwrap();
    let (state, rev) = (asked.state(), &report["rev"]);
    let body = format!(
        "{{\"command\":\"{COMMAND}\",\"seq\":9,\"device\":\"kiosk\",\"action\":\"ping\",\
         \"state\":\"{state}\",\"attempt\":1,\"rev\":{rev},\
         \"created_at\":\"2026-11-22T20:00:00.000Z\",\"updated_at\":\"2026-11-22T20:00:00.000Z\",\
         \"expires_at\":\"2026-11-22T21:00:00.000Z\",\"progress\":null,\"exit_code\":null,\
         \"result\":null,\"stdout\":null,\"stderr\":null,\"truncated\":false,\"error\":null,\
         \"late\":false}}"
    );
    answer(200, "application/json", ends([body]))
}

fn device() -> Response {
    let body = "{\"id\":\"kiosk\",\"labels\":{},\"facts\":{},\"online\":true,\"connected_at\":null,\
                \"last_seen_at\":null,\"address\":null,\"agent\":null,\"transport\":null,\
                \"queued\":0,\"created_at\":\"2026-11-22T20:00:00.000Z\"}";
    answer(200, "application/json", ends([body.to_owned()]))
}

fn agent(hub: &Arc<StubHub>, dir: &tempfile::TempDir) -> crate::agent::AgentBuilder {
    Agent::builder()
        .hub("http://kiosk:s3cret@hub.test")
        .device("kiosk")
        .state_dir(dir.path().join("state"))
        .transport(hub.clone())
        .on("ping", async |_: crate::agent::Command| "pong")
}

/// Runs an agent for this long.
async fn run_for(span: Duration, builder: crate::agent::AgentBuilder) {
    let run = builder.build().unwrap().run(std::future::pending());
    let ended = tokio::time::timeout(span, run).await;
    assert!(ended.is_err(), "an agent reconnects for ever: {ended:?}");
}

/// `retry: 0`, a `bye` with a pause of 0 and `Retry-After: 0` each caused thousands of connections in half a minute.
#[tokio::test(start_paused = true)]
async fn nothing_that_a_server_asks_for_makes_the_agent_hammer_it() {
    type Case = (&'static str, fn(&SeenRequest) -> Response);
    let cases: [Case; 8] = [
        ("an end at once", |_| answer(200, STREAM, ends([]))),
        ("retry: 0", |asked| answer(200, STREAM, ends(["retry: 0\n".to_owned(), hello(asked)]))),
        ("bye with a pause of 0", |asked| {
            let bye = "event: bye\ndata: {\"reason\":\"rotate\",\"reconnect_s\":0}\n\n";
            answer(200, STREAM, ends([hello(asked), bye.to_owned()]))
        }),
        ("bye of a later version", |asked| {
            let bye = "event: bye\ndata: {\"reason\":\"sunset\",\"reconnect_s\":0}\n\n";
            answer(200, STREAM, ends([hello(asked), bye.to_owned()]))
        }),
        ("503 with Retry-After: 0", |_| {
            let mut refusal = answer(503, PAGE, ends([]));
            refusal.headers_mut().insert(RETRY_AFTER, http::HeaderValue::from_static("0"));
            refusal
        }),
        ("401 with Retry-After: 0", |_| {
            let mut refusal = answer(401, PAGE, ends([]));
            refusal.headers_mut().insert(RETRY_AFTER, http::HeaderValue::from_static("0"));
            refusal
        }),
        ("a page", |_| answer(200, PAGE, ends([]))),
        ("a redirect elsewhere", |_| {
            let mut away = answer(302, PAGE, ends([]));
            let portal = http::HeaderValue::from_static("http://portal.test/");
            away.headers_mut().insert(http::header::LOCATION, portal);
            away
        }),
    ];
    for (what, case) in cases {
        let dir = tempfile::tempdir().unwrap();
        let hub = StubHub::foreign(case);
        run_for(600 * SECOND, agent(&hub, &dir)).await;
        // The backoff is 30 s on average at its cap: 20 polls, and some before it gets there. A stream is tried beside every
        // second of them.
        let [polls, streams, pings] = ["poll", "stream", "ping"].map(|kind| hub.asked(kind).len());
        assert!((4..100).contains(&polls), "{what}: {polls} polls in 10 minutes");
        assert!(streams + pings < 100, "{what}: {streams} streams, {pings} pings in 10 minutes");
    }
}

/// A stream of comments alone held the agent for ever.
#[tokio::test(start_paused = true)]
async fn streams_without_a_hello_are_closed_and_suspended_while_polls_carry() {
    let hub = StubHub::new(|_| {
        let ticks = futures_util::stream::unfold((), async |()| {
            sleep(SECOND).await;
            Some((Ok(Bytes::from_static(b": still here\n\n")), ()))
        });
        answer(200, STREAM, Box::pin(ticks))
    });
    let dir = tempfile::tempdir().unwrap();
    run_for(200 * SECOND, agent(&hub, &dir)).await;
    let (streams, polls) = (hub.asked("stream"), hub.asked("poll"));
    assert_eq!(streams.len(), 2, "a plain one, and one with comments: {streams:?}");
    let apart = streams[1].at - streams[0].at;
    assert!((3 * SECOND..=4 * SECOND).contains(&apart), "3 s after the head: {apart:?}");
    assert!((8..=10).contains(&polls.len()), "one poll per hold of 25 s: {polls:?}");
}

/// The file was read when a connection was lost, so that a new token waited for one more connection.
#[tokio::test(start_paused = true)]
async fn the_next_request_bears_the_token_as_it_is_then() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("credential");
    std::fs::write(&path, "bw_one").unwrap();
    let hub = StubHub::foreign(|asked| match asked.token.as_str() {
        "Bearer bw_two" if asked.kind == "stream" => answer(200, STREAM, stays(hello(asked))),
        "Bearer bw_two" if asked.kind == "poll" => no_commands(asked),
        _ => answer(401, PAGE, ends([])),
    });
    let (file, replaced_at) = (path.clone(), hub.start + 5 * SECOND);
    let replace = async move {
        sleep_until(replaced_at).await;
        std::fs::write(file, "bw_two").unwrap();
    };
    let builder = agent(&hub, &dir).credential_file(&path);
    tokio::join!(run_for(200 * SECOND, builder), replace);
    let tokens: Vec<String> = hub.asked("poll").into_iter().map(|asked| asked.token).collect();
    assert!(tokens.starts_with(&["Bearer bw_one".into(), "Bearer bw_two".into()]), "{tokens:?}");
    assert!(hub.asked("facts").iter().all(|asked| asked.token == "Bearer bw_two"));
}

#[tokio::test(start_paused = true)]
async fn a_missing_credential_is_looked_for_again_and_not_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("credential");
    let hub = StubHub::foreign(|_| answer(401, PAGE, ends([])));
    let builder = agent(&hub, &dir).credential_file(&path);
    run_for(400 * SECOND, builder).await;
    let asked = hub.asked("poll");
    assert!((5..=7).contains(&asked.len()), "one a minute or a little more: {asked:?}");
}

/// A captive portal: its page for every request, and then nothing.
#[tokio::test]
async fn a_result_that_a_portal_has_answered_is_sent_to_the_hub_later() {
    let met = Mutex::new(std::collections::HashSet::new());
    let hub = StubHub::new(move |asked| match asked.kind {
        "stream" => answer(200, STREAM, stays(hello(asked) + &ping(300))),
        // The first report of each state gets the page.
        "report" if met.lock().unwrap().insert(asked.state()) => {
            answer(200, PAGE, ends(["<html>Welcome</html>".to_owned()]))
        }
        "report" => delivery(asked),
        _ => device(),
    });
    let dir = tempfile::tempdir().unwrap();
    let reports = until_reported(&hub, agent(&hub, &dir)).await;
    assert_eq!(states(&reports), ["accepted", "accepted", "succeeded", "succeeded"]);
}

/// A panic in a post kept its slot for ever, and its command unreported.
#[tokio::test]
async fn a_report_whose_task_panics_is_sent_again() {
    let hub = StubHub::new(|asked| match (asked.kind, asked.nth) {
        ("stream", _) => answer(200, STREAM, stays(hello(asked) + &ping(300))),
        ("report", 0) => panic!("this is the test's own"),
        ("report", _) => delivery(asked),
        _ => device(),
    });
    let dir = tempfile::tempdir().unwrap();
    let reports = until_reported(&hub, agent(&hub, &dir)).await;
    assert_eq!(states(&reports), ["accepted", "accepted", "succeeded"]);
}

/// Runs an agent until its hub has received a result, and returns all reports.
async fn until_reported(
    hub: &Arc<StubHub>,
    builder: crate::agent::AgentBuilder,
) -> Vec<SeenRequest> {
    let mut driver = Driver::start(builder.build().unwrap()).unwrap();
    let reports = async {
        while !driver.engine.latest(1).iter().any(|command| command.reported) {
            driver.act();
            let event = driver.next().await;
            driver.handle(event).unwrap();
        }
    };
    tokio::time::timeout(60 * SECOND, reports)
        .await
        .expect("the result is reported within a minute");
    hub.asked("report")
}

/// The reported states. Whether one report says `running` depends on timing.
fn states(reports: &[SeenRequest]) -> Vec<String> {
    reports.iter().map(SeenRequest::state).filter(|state| state != "running").collect()
}

/// A stream with a hello, probes and heartbeats.
fn lives(asked: &SeenRequest) -> Response {
    let beats = futures_util::stream::unfold(0_u64, async |at_s| {
        let pause_s = if at_s < 3 { 1 } else { 15 };
        sleep(SECOND * pause_s).await;
        let at_s = at_s + u64::from(pause_s);
        Some((Ok(Bytes::from(format!(": {}\n\n", 1000 + at_s * 1000))), at_s))
    });
    answer(200, STREAM, Box::pin(ends([hello(asked)]).chain(beats)))
}

#[tokio::test(start_paused = true)]
async fn facts_are_sent_on_connect_and_again_when_they_change() {
    let hub = StubHub::new(|asked| match asked.kind {
        "stream" => lives(asked),
        _ => device(),
    });
    let dir = tempfile::tempdir().unwrap();
    let builder = agent(&hub, &dir).fact("site", "lyon");
    let mut driver = Driver::start(builder.build().unwrap()).unwrap();
    let mut sites = VecDeque::from(["lyon", "oslo"]);
    let start = Instant::now();
    while start.elapsed() < 3 * AGENT_FACTS_EVERY {
        driver.act();
        let event = driver.next().await;
        if matches!(event, DriverEvent::FactsDue) {
            let site = sites.pop_back().unwrap_or("oslo");
            driver.agent.facts.insert("site".to_owned(), site.into());
        }
        driver.handle(event).unwrap();
    }
    assert_eq!(hub.asked("stream").len(), 1);
    let reports: Vec<Json> = hub
        .asked("facts")
        .iter()
        .map(|asked| serde_json::from_slice(&asked.body).unwrap())
        .collect();
    let site = |facts: &Json| facts.as_str().contains("\"site\":\"oslo\"");
    assert_eq!(reports.iter().map(site).collect::<Vec<_>>(), [false, true, false], "{reports:?}");
}

/// A task that reported the facts and panicked, or hung, would have been the last one.
#[tokio::test(start_paused = true)]
async fn failed_facts_are_sent_again_and_only_until_they_arrive() {
    let hub = StubHub::new(|asked| match (asked.kind, asked.nth) {
        ("stream", _) => lives(asked),
        (_, 0) => panic!("this is the test's own"),
        (_, 1) => answer(200, "application/json", stays(String::new())),
        _ => device(),
    });
    let dir = tempfile::tempdir().unwrap();
    run_for(6 * AGENT_FACTS_EVERY, agent(&hub, &dir)).await;
    assert_eq!((hub.asked("stream").len(), hub.asked("facts").len()), (1, 3));
}

/// A time in `Retry-After` was ignored. Without a `Date` header it counts by the clock in the hub's hello.
#[tokio::test(start_paused = true)]
async fn a_retry_after_that_is_a_time_counts_by_the_hubs_clock() {
    let hub = StubHub::foreign(|asked| match (asked.kind, asked.nth) {
        ("poll", 1) => {
            let mut refusal = answer(503, PAGE, ends([]));
            let time = http::HeaderValue::from_static("Thu, 01 Jan 1970 00:02:01 GMT");
            refusal.headers_mut().insert(RETRY_AFTER, time);
            refusal
        }
        // Its clock shows the first second of 1970.
        ("poll", _) => no_commands(asked),
        ("stream", _) => answer(200, STREAM, stays(String::new())),
        _ => device(),
    });
    let dir = tempfile::tempdir().unwrap();
    run_for(180 * SECOND, agent(&hub, &dir)).await;
    let asked = hub.asked("poll");
    let due = asked[0].at + 120 * SECOND;
    assert!((due..due + 2 * SECOND).contains(&asked[2].at), "{asked:?}");
}

#[tokio::test]
async fn the_journal_is_stamped_with_the_clocks_when_the_hub_is_connected() {
    let hub = StubHub::new(|asked| match asked.kind {
        "stream" => answer(200, STREAM, stays(hello(asked) + &ping(300))),
        "report" => delivery(asked),
        _ => device(),
    });
    let dir = tempfile::tempdir().unwrap();
    let before_ms = clock::boot_ms();
    until_reported(&hub, agent(&hub, &dir)).await;
    let mut stamps = Vec::new();
    Journal::open(&dir.path().join("state"), &"kiosk".parse().unwrap(), |record| {
        if let Record::Begun { clock: Some(clock), .. } = record {
            stamps.push(clock);
        }
    })
    .unwrap();
    let stamp = stamps.first().expect("a stamp");
    assert_eq!((&stamp.boot, stamp.hub_ms), (&clock::boot_id(), 1000), "the hello's clock");
    assert!((before_ms..=clock::boot_ms()).contains(&stamp.boot_ms), "{stamp:?}");
    assert!(stamp.device_ms.is_some_and(|ms| ms <= clock::device_ms()), "{stamp:?}");
}

/// A lost keepalive delayed the next by 10 s, and the hub timed the command out.
#[tokio::test]
async fn a_lost_keepalive_does_not_delay_the_next() {
    let signed_again = Arc::new(Notify::new());
    let seen = signed_again.clone();
    let hub = StubHub::new(move |asked| match asked.kind {
        "stream" => answer(200, STREAM, stays(hello(asked) + &ping(3))),
        // The head of the answer arrives, and its body never does.
        "report" if asked.nth == 1 => answer(200, "application/json", stays(String::new())),
        "report" => {
            if asked.nth == 2 {
                seen.notify_one();
            }
            delivery(asked)
        }
        _ => device(),
    });
    let dir = tempfile::tempdir().unwrap();
    let builder = agent(&hub, &dir)
        .on("ping", move |_: crate::agent::Command| {
            let signed_again = signed_again.clone();
            async move { signed_again.notified().await }
        })
        .rules("ping", |rules| rules.timeout = Some(60 * SECOND));
    let reports = until_reported(&hub, builder).await;
    let states: Vec<_> = reports.iter().take(3).map(SeenRequest::state).collect();
    assert_eq!(states, ["accepted", "running", "running"]);
    let apart = reports[2].at - reports[1].at;
    assert!(apart < 8 * SECOND, "not the 10 s that any other call may take: {apart:?}");
}

/// The queue of progress could be full when the last value came.
#[tokio::test]
async fn the_last_progress_is_reported_with_the_result() {
    let hub = StubHub::new(|asked| match asked.kind {
        "stream" => answer(200, STREAM, stays(hello(asked) + &ping(300))),
        "report" => delivery(asked),
        _ => device(),
    });
    let dir = tempfile::tempdir().unwrap();
    let builder = agent(&hub, &dir).on("ping", async |command: crate::agent::Command| {
        for n in 0..=1000_u16 {
            command.progress(f64::from(n) / 10.0);
        }
    });
    let reports = until_reported(&hub, builder).await;
    let last: serde_json::Value = serde_json::from_slice(&reports.last().unwrap().body).unwrap();
    assert_eq!((&last["state"], &last["progress"]), (&"succeeded".into(), &100.into()), "{last}");
}

#[tokio::test]
async fn a_closure_that_panics_has_failed_and_the_agent_continues() {
    let hub = StubHub::new(|asked| match asked.kind {
        "stream" => answer(200, STREAM, stays(hello(asked) + &ping(300))),
        "report" => delivery(asked),
        _ => device(),
    });
    let dir = tempfile::tempdir().unwrap();
    let builder = agent(&hub, &dir)
        .on("ping", async |_: crate::agent::Command| -> () { panic!("as the test wants") });
    let reports = until_reported(&hub, builder).await;
    let last: serde_json::Value = serde_json::from_slice(&reports.last().unwrap().body).unwrap();
    assert_eq!((&last["state"], &last["error"]["code"]), (&"failed".into(), &"internal".into()));
}
