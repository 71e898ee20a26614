//! When a source reconnects, in virtual time: hours pass at once, and each wait is exact.
//!
//! The responses are written in the test and returned by a [`Transport`] of its own, since with a real socket the paused clock
//! would advance while it waits for the kernel.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is the failure message")]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bellwire_client::EventSource;
use bellwire_client::event_source::{Builder, Error, Item, Loss, Retry, SERVER_WAIT_MAX};
use bellwire_client::transport::{
    ByteStream, Request, ResponseFuture, Transport, TransportError, TransportStage,
};
use bellwire_sse::{Jitter, ReadyState};
use bytes::Bytes;
use tokio::time::{Instant, sleep};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// A part of a response's body.
enum Part {
    Bytes(&'static str),
    Pause(Duration),
    Break,
    Silence,
}
use Part::{Break, Bytes as Text, Pause, Silence};

enum Answer {
    Stream(Vec<Part>),
    Status(u16, &'static str),
    Refused,
    Never,
}

/// Returns the responses in order; after the last, the connection is refused.
#[derive(Clone)]
struct Script {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    requested_at: Arc<Mutex<Vec<Duration>>>,
    start: Instant,
}

impl Script {
    fn new(answers: impl IntoIterator<Item = Answer>) -> Self {
        Self {
            answers: Arc::new(Mutex::new(answers.into_iter().collect())),
            requested_at: Arc::default(),
            start: Instant::now(),
        }
    }

    fn source(&self) -> Builder {
        EventSource::builder("http://in-a-test/").transport(self.clone()).jitter(Jitter::None)
    }

    /// When the requests arrived, since the start.
    fn requested_at(&self) -> Vec<Duration> {
        self.requested_at.lock().unwrap().clone()
    }
}

impl Transport for Script {
    fn send(&self, _request: Request) -> ResponseFuture {
        self.requested_at.lock().unwrap().push(self.start.elapsed());
        let answer = self.answers.lock().unwrap().pop_front().unwrap_or(Answer::Refused);
        Box::pin(async move {
            let head = http::Response::builder().header("content-type", "text/event-stream");
            match answer {
                Answer::Stream(parts) => Ok(head.body(body(parts)).unwrap()),
                Answer::Status(status, retry_after) => {
                    let head = head.status(status).header("retry-after", retry_after);
                    Ok(head.body(body(Vec::new())).unwrap())
                }
                Answer::Refused => Err(TransportError::new(TransportStage::Connect, "refused")),
                Answer::Never => std::future::pending().await,
            }
        })
    }
}

fn body(parts: Vec<Part>) -> ByteStream {
    let parts = VecDeque::from(parts);
    Box::pin(futures_util::stream::unfold(parts, async |mut parts| {
        loop {
            let chunk = match parts.pop_front()? {
                Text(text) => Ok(Bytes::from_static(text.as_bytes())),
                Break => Err(TransportError::new(TransportStage::Body, "reset")),
                Pause(pause) => {
                    sleep(pause).await;
                    continue;
                }
                Silence => std::future::pending().await,
            };
            return Some((chunk, parts));
        }
    }))
}

/// Runs the source until it has sent `n` requests; returns the waits that it reported.
async fn waits(source: &mut EventSource, n: usize) -> Vec<Duration> {
    let mut waits = Vec::new();
    while waits.len() < n {
        match source.next_item().await {
            Some(Ok(Item::Lost { retry_in, .. })) => waits.push(retry_in),
            Some(Ok(_)) => {}
            other => panic!("it stopped after {waits:?}: {other:?}"),
        }
    }
    waits
}

#[tokio::test(start_paused = true)]
async fn waits_double_up_to_the_cap_and_are_exact() {
    let script = Script::new([]);
    let mut source = script.source().reconnect_delay_max(SECOND * 10).build().unwrap();
    let reported = waits(&mut source, 6).await;
    assert_eq!(reported, [1, 2, 4, 8, 10, 10].map(Duration::from_secs));
    // The clock of tokio has a resolution of a millisecond, and a sleep never ends early.
    let mut due = Duration::ZERO;
    for (requested_at, wait) in
        script.requested_at().into_iter().zip([&[Duration::ZERO], &reported[..]].concat())
    {
        due += wait;
        assert!(
            requested_at >= due && requested_at <= due + 10 * MS,
            "requested at {requested_at:?}, due at {due:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn with_jitter_a_wait_is_random_up_to_its_ceiling() {
    let mut first_waits = Vec::new();
    for _ in 0..64 {
        let mut source = Script::new([]).source().jitter(Jitter::Full).build().unwrap();
        first_waits.extend(waits(&mut source, 1).await);
    }
    assert!(first_waits.iter().all(|&wait| wait <= SECOND));
    // Each half has a probability of 1/2: all 64 on one side is once in 2^63 runs.
    assert!(first_waits.iter().any(|&wait| wait < SECOND / 2), "{first_waits:?}");
    assert!(first_waits.iter().any(|&wait| wait > SECOND / 2), "{first_waits:?}");
}

/// reqwest-eventsource connected ten times a second where a server accepted and closed at once.
#[tokio::test(start_paused = true)]
async fn a_server_that_accepts_and_closes_at_once_is_backed_off_from() {
    let closing = || Answer::Stream(vec![Text("data: a\n\n")]);
    let script = Script::new([closing(), closing(), closing()]);
    let mut source = script.source().build().unwrap();
    assert_eq!(waits(&mut source, 3).await, [1, 2, 4].map(Duration::from_secs));
}

#[tokio::test(start_paused = true)]
async fn a_healthy_stream_resets_the_backoff() {
    let healthy = Answer::Stream(vec![Pause(SECOND * 11), Break]);
    let script = Script::new([Answer::Refused, Answer::Refused, healthy, Answer::Refused]);
    let mut source = script.source().build().unwrap();
    assert_eq!(waits(&mut source, 4).await, [1, 2, 1, 2].map(Duration::from_secs));
}

#[tokio::test(start_paused = true)]
async fn a_servers_retry_replaces_the_delay_with_data_or_without() {
    let script = Script::new([
        Answer::Stream(vec![Text("retry: 5000\n\n")]),
        Answer::Stream(vec![Pause(SECOND * 11), Text("retry: 70\ndata: a\n\n")]),
        Answer::Stream(vec![Pause(SECOND * 11), Text("retry: 7x\n\n")]),
        Answer::Stream(vec![Pause(SECOND * 11), Text("retry: 0\n\n")]),
    ]);
    let mut source = script.source().build().unwrap();
    assert_eq!(waits(&mut source, 4).await, [5000, 70, 70, 0].map(Duration::from_millis));
}

/// A server that requested no pause, and ended each stream at once, was tried thousands of times in half a minute.
#[tokio::test(start_paused = true)]
async fn a_tiny_pause_is_used_once_and_then_grows() {
    let ending = || Answer::Stream(vec![Text("retry: 0\n\n")]);
    let script = Script::new([ending(), ending(), Answer::Stream(vec![Pause(SECOND * 11), Break])]);
    let mut source = script.source().server_delay_min(SECOND).build().unwrap();
    assert_eq!(waits(&mut source, 4).await, [1, 2, 1, 2].map(Duration::from_secs), "retry: 0");

    let script = Script::new([Answer::Status(503, "0"), Answer::Status(503, "0")]);
    let at_once = Retry::always().delays(Loss::retry_after);
    let source = script.source().retry(at_once).server_delay_min(SECOND);
    let mut source = source.build().unwrap();
    assert_eq!(waits(&mut source, 3).await, [0, 2, 4].map(Duration::from_secs), "Retry-After: 0");
}

#[tokio::test(start_paused = true)]
async fn no_retry_silences_a_client_for_ever() {
    let script = Script::new([Answer::Stream(vec![Text("retry: 18446744073709551616\n\n")])]);
    let mut source = script.source().build().unwrap();
    assert_eq!(waits(&mut source, 1).await, [SERVER_WAIT_MAX]);
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_respected_and_bounded() {
    let script = Script::new([
        Answer::Status(503, "30"),
        Answer::Status(429, "99999999"),
        Answer::Status(503, "soon"),
        Answer::Status(503, "1"),
    ]);
    let mut source = script.source().retry(Retry::resilient()).build().unwrap();
    let expected = [30 * SECOND, SERVER_WAIT_MAX, 4 * SECOND, 8 * SECOND];
    assert_eq!(waits(&mut source, 4).await, expected);
}

#[tokio::test(start_paused = true)]
async fn no_wait_is_shorter_than_the_minimum() {
    let script = Script::new([Answer::Stream(vec![Text("retry: 0\n\n")])]);
    let mut source = script.source().reconnect_delay_min(100 * MS).build().unwrap();
    assert_eq!(waits(&mut source, 1).await, [100 * MS]);
}

#[tokio::test(start_paused = true)]
async fn a_delay_set_by_the_reader_is_used_once() {
    let script = Script::new([]);
    let mut source = script.source().build().unwrap();
    source.set_next_delay(4200 * MS);
    assert_eq!(waits(&mut source, 2).await, [4200 * MS, 2 * SECOND]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_is_dead_and_any_byte_keeps_it_alive() {
    let script = Script::new([Answer::Stream(vec![
        Pause(900 * MS),
        Text(":"),
        Pause(900 * MS),
        Text("still the same comment"),
        Pause(900 * MS),
        Text("\n"),
        Silence,
    ])]);
    let mut source = script.source().read_timeout(SECOND).build().unwrap();
    let lost = loop {
        match source.next_item().await {
            Some(Ok(Item::Open)) => {}
            other => break other,
        }
    };
    let at = script.start.elapsed();
    assert!(
        matches!(
            lost,
            Some(Ok(Item::Lost { loss: Loss::Failed(Error::Silent { after }), .. })) if after == SECOND
        ),
        "{lost:?}"
    );
    assert!(at >= 3700 * MS && at < 3720 * MS, "2.7 s of life and 1 s of silence, not {at:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_is_silent() {
    let script = Script::new([Answer::Never]);
    let mut source = script.source().read_timeout(SECOND).build().unwrap();
    let lost = source.next_item().await;
    assert!(
        matches!(lost, Some(Ok(Item::Lost { loss: Loss::Failed(Error::Silent { .. }), .. }))),
        "{lost:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_does_not_make_a_stream_dead() {
    let script = Script::new([Answer::Stream(vec![
        Text("data: a\n\n"),
        Text("data: b\n\n"),
        Text("data: c\n\n"),
        Silence,
    ])]);
    let mut source = script.source().read_timeout(SECOND).build().unwrap();
    for expected in ["a", "b", "c"] {
        let event = source.next_event().await.unwrap().unwrap();
        assert_eq!(event.data(), expected);
        sleep(SECOND * 60).await;
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_read_timeout_a_stream_may_be_silent_for_a_day() {
    let day = SECOND * 86_400;
    let script = Script::new([Answer::Stream(vec![Pause(day), Text("data: a\n\n"), Silence])]);
    let mut source = script.source().build().unwrap();
    assert_eq!(source.next_event().await.unwrap().unwrap().data(), "a");
    assert_eq!(script.requested_at().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_unfinished_event_is_dropped_with_its_connection() {
    let script = Script::new([
        Answer::Stream(vec![Text("id: 1\ndata: a\n\nid: 2\ndata: never")]),
        Answer::Stream(vec![Text("\n\ndata: b\n\n"), Silence]),
    ]);
    let mut source = script.source().build().unwrap();
    for expected in ["a", "b"] {
        let event = source.next_event().await.unwrap().unwrap();
        assert_eq!((event.data(), event.id()), (expected, "1"));
    }
}

#[tokio::test(start_paused = true)]
async fn the_ready_state_follows_the_connection() {
    let script = Script::new([Answer::Stream(vec![])]);
    let mut source = script.source().build().unwrap();
    assert_eq!(source.ready_state(), ReadyState::Connecting);
    assert!(matches!(source.next_item().await, Some(Ok(Item::Open))));
    assert_eq!(source.ready_state(), ReadyState::Open);
    assert!(matches!(source.next_item().await, Some(Ok(Item::Lost { loss: Loss::Ended, .. }))));
    assert!(matches!(source.ready_state(), ReadyState::Waiting { .. }));
    source.close();
    assert_eq!(source.ready_state(), ReadyState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_stream_counts_as_lost() {
    let script = Script::new([Answer::Stream(vec![Silence]), Answer::Stream(vec![Silence])]);
    let mut source = script.source().retry(Retry::resilient()).build().unwrap();
    assert!(matches!(source.next_item().await, Some(Ok(Item::Open))));
    let item = source.reject("not what it should be");
    assert!(matches!(item, Ok(Item::Lost { retry_in: SECOND, .. })), "{item:?}");
    assert!(matches!(source.next_item().await, Some(Ok(Item::Open))));
    source.close();
    assert!(source.reject("again").is_err(), "closed is for good");
}
