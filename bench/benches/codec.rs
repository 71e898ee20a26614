//! The decoder beside its peers and beside the floor, in one run.
//!
//! ```text
//! cargo bench -p bellwire-bench --bench codec              # all, some minutes
//! cargo bench -p bellwire-bench --bench codec -- quick     # fewer rounds, no quadratic crate on D
//! cargo bench -p bellwire-bench --bench codec -- A D       # these workloads alone
//! ```
//!
//! Every contender decodes the same chunks (`Bytes`, made beforehand) with a fresh decoder, and what
//! it found is counted and compared: a decoder that loses an event stops the run. Rounds are
//! interleaved, so that a disturbance hits all alike; a figure is the median of a contender's rounds
//! in CPU time of the one thread that works. Contenders that decode only whole streams get one that
//! is always ready. `memchr` is the floor: the search for line ends and nothing else.
//!
//! There is no harness here on purpose: peers are compared round by round, not one after the other.

use bellwire_sse::{Decoder, Item, OwnedItem};
use bytes::Bytes;
use eventsource_client::{Client, ClientBuilder, ReconnectOptions, SSE};
use eventsource_stream::Eventsource;
use futures_util::{FutureExt, Stream, StreamExt, stream};
use launchdarkly_sdk_transport::{ByteStream, HttpTransport, ResponseFuture};
use std::{convert::Infallible, hint::black_box, num::NonZeroUsize, time::Duration};

const MIB: usize = 1 << 20;

fn main() {
    let quick = std::env::args().any(|argument| argument == "quick");
    let rounds = if quick { 7 } else { 21 };
    let only: Vec<String> = std::env::args().skip(1).filter(|name| name.len() == 1).collect();
    let makers: [fn() -> Workload; 4] = [small, json, small_each, || one_line(10 * MIB)];
    for make in makers {
        let workload = make();
        if only.is_empty() || only.iter().any(|letter| workload.name.starts_with(letter)) {
            // One short event per round: more of them, for as steady a median.
            let factor = if workload.found.events == 1 { 5 } else { 1 };
            compare(&workload, rounds * factor, quick);
        }
    }
    linear(rounds);
}

// ---------------------------------------------------------------------------------------------
// Workloads

struct Workload {
    name: &'static str,
    chunks: Vec<Bytes>,
    len_bytes: usize,
    /// What every contender must find.
    found: Found,
}

/// What a contender found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Found {
    events: usize,
    data_bytes: usize,
}

impl Found {
    fn add(&mut self, data: &str) {
        self.events += 1;
        self.data_bytes += data.len();
    }
}

impl Workload {
    fn new(name: &'static str, stream: &[u8], chunk_bytes: usize, found: Found) -> Self {
        let chunks = stream.chunks(chunk_bytes).map(Bytes::copy_from_slice).collect();
        Self { name, chunks, len_bytes: stream.len(), found }
    }
}

/// Events of 58 bytes with id, name and data.
fn small_events() -> (Vec<u8>, Found) {
    let event =
        |n: usize| format!("id: {n:010}\nevent: tick\ndata: {{\"n\":{n:010},\"ok\":1}}\n\n");
    let events = 32 * MIB / event(0).len();
    assert_eq!(event(0).len(), 58, "the workload is defined by this size");
    let stream: String = (0..events).map(event).collect();
    let data_bytes = events * "{\"n\":0123456789,\"ok\":1}".len();
    (stream.into_bytes(), Found { events, data_bytes })
}

fn small() -> Workload {
    let (stream, found) = small_events();
    Workload::new("A: events of 58 bytes, 4 KiB chunks", &stream, 4096, found)
}

fn small_each() -> Workload {
    let (stream, found) = small_events();
    Workload::new("C: events of 58 bytes, one to a chunk", &stream, 58, found)
}

/// JSON of 1 KiB in one data line.
fn json() -> Workload {
    let body = "0123456789 abcdefghij ".repeat(46);
    let event = |n: usize| format!("data: {{\"n\":{n:06},\"s\":\"{}\"}}\n\n", &body[..997]);
    assert_eq!(event(0).len(), 1024, "the workload is defined by this size");
    let events = 32 * MIB / 1024;
    let stream: String = (0..events).map(event).collect();
    let found = Found { events, data_bytes: events * (1024 - "data: \n\n".len()) };
    Workload::new("B: JSON events of 1 KiB, 4 KiB chunks", stream.as_bytes(), 4096, found)
}

/// One event with one data line.
fn one_line(len_bytes: usize) -> Workload {
    let stream = format!("data: {}\n\n", "x".repeat(len_bytes));
    let found = Found { events: 1, data_bytes: len_bytes };
    Workload::new("D: one event of 10 MiB, 16 KiB chunks", stream.as_bytes(), 16 << 10, found)
}

// ---------------------------------------------------------------------------------------------
// Contenders

struct Contender {
    name: &'static str,
    kind: Kind,
    run: fn(&Workload) -> Found,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Floor,
    Ours,
    Peer,
}

const BORROWED: Contender =
    Contender { name: "bellwire-sse, borrowed", kind: Kind::Ours, run: borrowed };

static CONTENDERS: [Contender; 7] = [
    Contender { name: "memchr2 scan", kind: Kind::Floor, run: scan },
    BORROWED,
    Contender { name: "bellwire-sse, owned", kind: Kind::Ours, run: owned },
    Contender { name: "sse-core", kind: Kind::Peer, run: sse_core },
    Contender { name: "sse-stream", kind: Kind::Peer, run: sse_stream },
    Contender { name: "eventsource-client", kind: Kind::Peer, run: eventsource_client },
    Contender { name: "eventsource-stream", kind: Kind::Peer, run: eventsource_stream },
];

/// The floor finds line ends, not events: it vouches for nothing but its time.
fn scan(workload: &Workload) -> Found {
    let line_ends: usize =
        workload.chunks.iter().map(|chunk| memchr::memchr2_iter(b'\n', b'\r', chunk).count()).sum();
    black_box(line_ends);
    workload.found
}

fn borrowed(workload: &Workload) -> Found {
    let mut decoder = Decoder::new();
    let mut found = Found::default();
    for chunk in &workload.chunks {
        let mut chunk = &chunk[..];
        while let Some(item) = decoder.decode(&mut chunk).expect("within the limit") {
            let Item::Event(event) = black_box(item) else {
                continue;
            };
            found.add(event.data());
        }
    }
    found
}

fn owned(workload: &Workload) -> Found {
    let mut decoder = Decoder::new();
    let mut found = Found::default();
    for chunk in &workload.chunks {
        let mut chunk = &chunk[..];
        while let Some(item) = decoder.decode_owned(&mut chunk).expect("within the limit") {
            let OwnedItem::Event(event) = black_box(item) else {
                continue;
            };
            found.add(event.data());
        }
    }
    found
}

fn sse_core(workload: &Workload) -> Found {
    // Its default limit of 512 KiB would refuse D.
    let limit_bytes = NonZeroUsize::new(64 * MIB).expect("not zero");
    let mut decoder = sse_core::SseDecoder::with_limit(limit_bytes);
    let mut found = Found::default();
    for chunk in &workload.chunks {
        let mut chunk = &chunk[..];
        while let Some(item) = decoder.next(&mut chunk) {
            if let sse_core::SseEvent::Message(event) = black_box(item.expect("within the limit")) {
                found.add(&event.data);
            }
        }
    }
    found
}

fn sse_stream(workload: &Workload) -> Found {
    let events = sse_stream::SseByteStream::new(always_ready(workload));
    drain(workload, events, |found, event| {
        found.add(&event.expect("valid").data.unwrap_or_default());
    })
}

fn eventsource_stream(workload: &Workload) -> Found {
    drain(workload, always_ready(workload).eventsource(), |found, event| {
        found.add(&event.expect("valid").data);
    })
}

/// The whole client, since its parser is not for sale alone; the transport only hands chunks on.
fn eventsource_client(workload: &Workload) -> Found {
    let client = ClientBuilder::for_url("http://localhost/")
        .expect("a URL")
        .reconnect(ReconnectOptions::reconnect(false).retry_initial(false).build())
        .build_with_transport(Replay(workload.chunks.clone()));
    drain(workload, client.stream(), |found, event| {
        if let SSE::Event(event) = event.expect("valid") {
            found.add(&event.data);
        }
    })
}

/// A transport for [`eventsource_client`]: one answer, of the workload's chunks.
#[derive(Clone)]
struct Replay(Vec<Bytes>);

impl HttpTransport for Replay {
    fn request(&self, _: http::Request<Option<Bytes>>) -> ResponseFuture {
        let body: ByteStream = Box::pin(stream::iter(self.0.clone()).map(Ok));
        let answer = http::Response::builder().header("content-type", "text/event-stream");
        Box::pin(async move { Ok(answer.body(body).expect("a valid answer")) })
    }
}

fn always_ready(workload: &Workload) -> impl Stream<Item = Result<Bytes, Infallible>> + Unpin {
    stream::iter(workload.chunks.clone()).map(Ok)
}

/// Polls a stream of events until it has given all that there are. It is always ready, so that no
/// runtime is in the way.
fn drain<S: Stream>(
    workload: &Workload,
    events: S,
    mut note: impl FnMut(&mut Found, S::Item),
) -> Found {
    let mut events = std::pin::pin!(events);
    let mut found = Found::default();
    while found.events < workload.found.events {
        let event = events.next().now_or_never().expect("always ready").expect("not ended yet");
        note(&mut found, black_box(event));
    }
    found
}

// ---------------------------------------------------------------------------------------------
// Measuring

/// A contender and the median of its rounds; none if it was omitted.
type Row = (&'static Contender, Option<Duration>);

fn compare(workload: &Workload, rounds: usize, quick: bool) {
    let mut times: Vec<(usize, &Contender, Vec<Duration>)> =
        CONTENDERS.iter().enumerate().map(|(position, c)| (position, c, Vec::new())).collect();
    for round in 0..rounds {
        for (_, contender, times) in &mut times {
            let hopeless = times.first().is_some_and(|first| *first > Duration::from_secs(1))
                || (quick && workload.found.events == 1 && contender.name == "eventsource-stream");
            if !hopeless {
                times.push(measure(contender, workload));
            }
        }
        // Each inherits the heap of the contender before it, which therefore varies.
        times.rotate_left(1);
        if round % 2 == 1 {
            times.reverse();
        }
    }
    times.sort_by_key(|(position, ..)| *position);
    let rows: Vec<Row> = times.into_iter().map(|(_, c, times)| (c, median(times))).collect();
    print_table(workload, &rows);
}

fn print_table(workload: &Workload, rows: &[Row]) {
    let best = |kind: Kind| {
        let of_kind = rows.iter().filter(|(contender, _)| contender.kind == kind);
        of_kind.filter_map(|(_, time)| *time).min().unwrap_or_default().as_secs_f64()
    };
    let (floor, best_peer) = (best(Kind::Floor), best(Kind::Peer));
    println!("\n{}", workload.name);
    println!(
        "{:24} {:>10} {:>10} {:>10} {:>10} {:>12}",
        "", "ms", "MB/s", "ns/event", "of floor", "x best peer"
    );
    for (contender, time) in rows {
        let Some(time) = time else {
            println!("{:24} {:>10}", contender.name, "omitted");
            continue;
        };
        let seconds = time.as_secs_f64();
        println!(
            "{:24} {:>10.2} {:>10.0} {:>10.1} {:>10.2} {:>12.2}",
            contender.name,
            seconds * 1e3,
            workload.len_bytes as f64 / 1e6 / seconds,
            seconds * 1e9 / workload.found.events as f64,
            floor / seconds,
            best_peer / seconds,
        );
    }
}

/// The time per byte must not grow with the line, save where that of a plain copy into a growing
/// buffer does: beyond the caches, and where the kernel must find pages first.
fn linear(rounds: usize) {
    println!("\nLinear in the line: one event, 16 KiB chunks, ns/byte");
    println!("{:>10} {:>12} {:>12}", "KiB", "borrowed", "plain copy");
    for len_bytes in [64 << 10, 512 << 10, 2 * MIB, 8 * MIB, 24 * MIB] {
        let workload = one_line(len_bytes);
        let ns_per_byte = |contender: &Contender| {
            let times = (0..rounds).map(|_| measure(contender, &workload)).collect();
            median(times).unwrap_or_default().as_secs_f64() * 1e9 / workload.len_bytes as f64
        };
        let (borrowed, copied) = (ns_per_byte(&BORROWED), ns_per_byte(&COPY));
        println!("{:>10} {borrowed:>12.3} {copied:>12.3}", len_bytes >> 10);
    }
}

/// Not a decoder: what it costs to bring a line that came in chunks together.
const COPY: Contender = Contender { name: "plain copy", kind: Kind::Floor, run: copy };

fn copy(workload: &Workload) -> Found {
    let mut line = Vec::new();
    for chunk in &workload.chunks {
        line.extend_from_slice(black_box(chunk));
    }
    black_box(line);
    workload.found
}

fn measure(contender: &Contender, workload: &Workload) -> Duration {
    let before = cpu_time();
    let found = black_box((contender.run)(workload));
    let time = cpu_time() - before;
    assert_eq!(found, workload.found, "{} on {}", contender.name, workload.name);
    time
}

fn cpu_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(now).expect("CPU time is not negative")
}

fn median(mut times: Vec<Duration>) -> Option<Duration> {
    times.sort_unstable();
    times.get(times.len() / 2).copied()
}
