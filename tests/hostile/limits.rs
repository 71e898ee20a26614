//! Promise: who sends slowly, too much, or from too many connections costs the hub little, and others nothing.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bellwire_hub::http::routes;
use bellwire_testkit::{Http, wait_until};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use serde::de::IgnoredAny;
use serde_json::json;

use crate::support::{Closed, Hub, PATIENCE, rest_of, statuses};

/// Connections of one attacker. With as many open files at both ends, each end is a process of its own: the hub is one, and
/// this test another, each of which may open 20,000 where tests run with that limit.
const MANY: usize = 10_000;
/// Held by a test that opens [`MANY`]: a process may have so many files once, and often not twice.
static OPENS_MANY: Mutex<()> = Mutex::new(());

/// What the hub may hold in memory of its own for each connection that sends half a head, in bytes. hyper's buffer for a head
/// and the task of a connection are some 12 KiB without optimization.
const HALF_OPEN_BYTES_MAX: u64 = 24 * 1024;

/// A connection from another address of this machine.
fn connect_from(source: Ipv4Addr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddrV4::new(source, 0))?;
    connect(&socket, &to)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// So many connections, or as many as this process may have beside what the other tests need.
fn may_open(wanted: usize) -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let most = usize::try_from(most).unwrap_or(usize::MAX).saturating_sub(2_000);
    if most < wanted {
        eprintln!(
            "{most} connections in place of {wanted}: a process may open no more files here (ulimit -Hn)"
        );
    }
    wanted.min(most)
}

/// What a process holds in memory of its own, in bytes.
fn anonymous_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn open_files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Sends a byte, waits a moment, and so on, until the server has closed; returns what it answered.
fn trickle(addr: SocketAddr, first: &str, byte: &str) -> String {
    let mut socket = TcpStream::connect(addr).unwrap();
    socket.write_all(first.as_bytes()).unwrap();
    // The time between two bytes: short beside the hub's limit, so that no limit on silence helps.
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut answer = Vec::new();
    let mut bytes = [0; 1024];
    // A hundred times the limit.
    for _ in 0..1000 {
        match socket.read(&mut bytes) {
            Ok(0) => break,
            Ok(n) => answer.extend_from_slice(&bytes[..n]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if socket.write_all(byte.as_bytes()).is_err() {
                    break;
                }
            }
            Err(_) => break,
        }
    }
    String::from_utf8(answer).unwrap()
}

#[test]
fn a_head_that_comes_byte_by_byte_is_cut_off_after_its_time() {
    let hub = Hub::open("header_timeout = 1\n");
    let answer = trickle(hub.addr, "GET /v1/ping HTTP/1.1\r\nHost: localhost\r\nX: ", "y");
    assert_eq!(statuses(&answer), [408], "{answer}");
    let answer = trickle(hub.addr, "GET /v1/ping HTTP/1.1\r\nHost: localhost\r\n", "X: y\r\n");
    assert_eq!(statuses(&answer), [408], "{answer}");
    // The second request of a connection as the first.
    let first = "GET /v1/ping HTTP/1.1\r\nHost: localhost\r\n\r\nGET /v1/ping HTTP/1.1\r\nX: ";
    assert_eq!(statuses(&trickle(hub.addr, first, "y")), [200, 408]);
}

#[test]
fn a_body_that_comes_byte_by_byte_is_cut_off_after_its_time_on_every_route() {
    let closed = Closed::with("body_timeout = 1\n");
    closed.register("d", &json!({}));
    let device = closed.token(&json!({"role": "device", "device": "d"}));
    let mut slow = Vec::new();
    for (method, path) in routes() {
        if !["POST", "PUT", "PATCH"].contains(&method.as_str()) || path == "/v1/enroll" {
            continue;
        }
        let of_device = ["stream", "confirm", "facts", "status"].iter().any(|p| path.ends_with(p));
        let token = if of_device { device.clone() } else { closed.admin.clone() };
        let target = path
            .replace("{device}", "d")
            .replace("{action}", "a")
            .replace("{command}", "01900000-0000-7000-8000-000000000000")
            .replace(['{', '}'], "");
        let addr = closed.hub.addr;
        // All at once: each takes its second.
        slow.push(std::thread::spawn(move || {
            let head = format!(
                "{method} {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\
                 Content-Length: 60000\r\n\r\n"
            );
            (path, trickle(addr, &head, "1"))
        }));
    }
    let mut cut_off = 0;
    for (path, answer) in slow.into_iter().map(|slow| slow.join().unwrap()) {
        let statuses = statuses(&answer);
        // A route that has no use for a body, or knows enough without it, does not wait for it.
        assert_eq!(statuses.len(), 1, "{path}: {answer}");
        cut_off += usize::from(statuses[0] == 408);
    }
    assert!(cut_off > 6, "{cut_off} routes waited for their bodies, and no longer than they may");
    let sends = closed.admin("GET /v1/commands", "");
    assert_eq!(sends["items"], json!([]), "half a body was taken for one");
}

#[test]
fn a_head_or_target_beyond_its_bound_is_refused_and_costs_no_more_than_the_bound() {
    let hub = Hub::open("");
    let big = "x".repeat(4 << 20);
    let many = "X: y\r\n".repeat(100_000);
    for (head, status) in [
        (format!("GET /v1/ping?nonce={big} HTTP/1.1\r\nHost: localhost\r\n\r\n"), 431),
        (format!("GET /v1/ping?_={} HTTP/1.1\r\nHost: localhost\r\n\r\n", &big[..17 * 1024]), 414),
        (format!("GET /v1/ping HTTP/1.1\r\nHost: localhost\r\nX: {big}\r\n\r\n"), 431),
        (format!("GET /v1/ping HTTP/1.1\r\nHost: localhost\r\n{big}: y\r\n\r\n"), 431),
        (format!("GET /v1/ping HTTP/1.1\r\nHost: localhost\r\n{many}\r\n"), 431),
        (format!("{big} /v1/ping HTTP/1.1\r\nHost: localhost\r\n\r\n"), 431),
        (format!("GET /v1/ping HTTP/1.1\r\nHost: {big}\r\n\r\n"), 431),
        (big.clone(), 431),
    ] {
        let before = anonymous_bytes(hub.program.id());
        let answer = hub.send(format!("{head}GET /v1/ping HTTP/1.1\r\nConnection: close\r\n\r\n"));
        let statuses = statuses(&answer);
        // One that is reset while it still sends may not get to read the answer.
        let begin = String::from_utf8_lossy(&head.as_bytes()[..40]).into_owned();
        let fits = statuses.is_empty() || statuses[0] == status || statuses == [400];
        assert!(fits, "{begin}…: {answer}");
        let grown = anonymous_bytes(hub.program.id()).saturating_sub(before);
        assert!(grown < 2 << 20, "{begin}… of {} bytes cost {grown}", head.len());
    }
    assert!(hub.lives());
}

/// Half a head each, and nothing more: all may wait for their time, and no other client waits with them.
#[test]
fn ten_thousand_half_open_connections_hold_up_no_request_and_little_memory() {
    let _alone = OPENS_MANY.lock().unwrap_or_else(PoisonError::into_inner);
    // Longer than the test takes, so that all of them are open at once.
    let hub = Hub::open("header_timeout = 300\n");
    let pid = hub.program.id();
    let many = may_open(MANY);
    // Before the first connection, whose end the hub may see at any time.
    let files_before = open_files(pid);
    assert!(hub.lives());
    let before = anonymous_bytes(pid);
    let mut half_open = Vec::with_capacity(many);
    for n in 0..many {
        let mut socket = TcpStream::connect(hub.addr).unwrap_or_else(|e| panic!("{e} after {n}"));
        socket.write_all(b"GET /v1/ping HTTP/1.1\r\nHost: loc").unwrap();
        half_open.push(socket);
    }
    wait_until("all connections to be accepted", || {
        let accepted = open_files(pid) - files_before;
        if accepted >= many { Ok(()) } else { Err(format!("{accepted} are")) }
    });
    // An appliance and its operator beside them.
    let mut stream = hub.http().stream("/v1/devices/door/stream").unwrap();
    stream.expect("hello");
    let sent = hub.http().post_json("/v1/send/door/ring", "{}").unwrap();
    assert_eq!(sent.status, 202);
    assert_eq!(stream.expect("command")["id"], sent.json()["command"]);
    let each = anonymous_bytes(pid).saturating_sub(before) / many as u64;
    assert!(each < HALF_OPEN_BYTES_MAX, "{each} bytes for a connection that sent half a head");
    // One of them that goes on is answered; the others are gone when their clients are.
    let mut last = half_open.pop().unwrap();
    last.write_all(b"alhost\r\nConnection: close\r\n\r\n").unwrap();
    assert_eq!(statuses(&rest_of(&mut last)), [200]);
    drop(half_open);
    wait_until("the hub to close its ends", || {
        let open = open_files(pid) - files_before;
        if open < 10 { Ok(()) } else { Err(format!("{open} are open")) }
    });
}

/// The fleet of one NAT is served by the defaults, and one address more than that is not.
#[test]
fn ten_thousand_streams_of_one_address_are_a_fleet_and_beyond_its_part_it_gets_no_more() {
    let _alone = OPENS_MANY.lock().unwrap_or_else(PoisonError::into_inner);
    let hub = Hub::open("limit_loopback = true\n");
    let pid = hub.program.id();
    let many = may_open(MANY);
    assert!(hub.lives());
    let before = anonymous_bytes(pid);
    let mut streams = Vec::with_capacity(many);
    while streams.len() < many {
        // A hundred at a time, as a fleet that spreads its reconnects: on a busy machine 10,000 at once wait for longer than
        // a request may.
        let first = streams.len();
        for n in first..many.min(first + 100) {
            let mut socket = connect_from(Ipv4Addr::new(127, 0, 0, 7), hub.addr).unwrap();
            let request = format!(
                "GET /v1/devices/d{n}/stream?heartbeat=10m&ack=none HTTP/1.1\r\nHost: localhost\r\n\r\n"
            );
            socket.write_all(request.as_bytes()).unwrap();
            streams.push(socket);
        }
        for (n, socket) in streams.iter_mut().enumerate().skip(first) {
            let mut begin = [0; 12];
            socket.read_exact(&mut begin).unwrap_or_else(|e| panic!("{e} at stream {n}"));
            assert_eq!(&begin, b"HTTP/1.1 200", "stream {n}");
        }
    }
    // Without optimization; docs/performance.md has the figures of a release.
    let each = anonymous_bytes(pid).saturating_sub(before) / many as u64;
    assert!(each < 16 * 1024, "{each} bytes for an idle stream");
    assert_eq!(hub.http().post_json("/v1/send/d1/ring", "{}").unwrap().status, 202);
}

#[test]
fn an_address_beyond_its_part_of_connections_is_closed_at_once_and_others_are_not() {
    const PART: usize = 100;
    let hub = Hub::open(&format!("limit_loopback = true\nconnections_per_address = {PART}\n"));
    let greedy = Ipv4Addr::new(127, 0, 0, 7);
    let mut streams = Vec::new();
    for n in 0..MANY / 10 {
        let Ok(mut socket) = connect_from(greedy, hub.addr) else { continue };
        let request = format!("GET /v1/devices/d{n}/stream HTTP/1.1\r\nHost: localhost\r\n\r\n");
        // One that was closed already is none of those that are counted.
        if socket.write_all(request.as_bytes()).is_ok() && socket.read_exact(&mut [0; 12]).is_ok() {
            streams.push(socket);
        }
    }
    assert_eq!(streams.len(), PART);
    let mut other = connect_from(Ipv4Addr::new(127, 0, 0, 8), hub.addr).unwrap();
    let request = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    other.write_all(request).unwrap();
    assert_eq!(statuses(&rest_of(&mut other)), [200], "another address");
    // A place that becomes free is its own again.
    drop(streams.pop());
    wait_until("the address to be served again", || {
        let mut socket = connect_from(greedy, hub.addr).map_err(|e| e.to_string())?;
        let request = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        socket.write_all(request).map_err(|e| e.to_string())?;
        let mut answer = [0; 12];
        socket.read_exact(&mut answer).map_err(|e| e.to_string())
    });
}

/// On every route that takes a body: nesting ends before the stack does, and a body before the memory.
#[test]
fn json_that_is_too_deep_or_too_long_is_refused_on_every_route_and_the_hub_lives() {
    let closed = Closed::start();
    closed.register("d", &json!({}));
    let deep =
        |open: &str, close: &str, n: usize| format!("{}1{}", open.repeat(n), close.repeat(n));
    let bodies = [
        deep("[", "]", 129),
        deep(r#"{"a":"#, "}", 129),
        deep("[", "]", 30_000),
        "[".repeat(60_000),
        r#"{"a":"#.repeat(10_000),
        format!(r#"{{"data":{}}}"#, deep("[", "]", 200)),
        format!(r#"{{"state":"succeeded","result":{}}}"#, deep("[", "]", 200)),
        format!(r#"[{{"command":"x","result":{}}}]"#, deep("[", "]", 20_000)),
        format!(r#"{{"labels":{}}}"#, deep("[", "]", 200)),
        r#"{"a":1,"#.repeat(10_000),
        format!("{{{}\"z\":1}}", r#""k":1,"#.repeat(10_000)),
        format!("[{}1]", "1e999999999,".repeat(1000)),
        r#"{"state":"succeeded","result":"\ud800"}"#.to_owned(),
        format!("{}1", "-".repeat(1000)),
        format!("[{}]", "9".repeat(60_000)),
    ];
    let mut tried = 0;
    for (method, path) in routes() {
        if !["POST", "PUT", "PATCH"].contains(&method.as_str()) {
            continue;
        }
        tried += 1;
        let target = path
            .replace("{device}", "d")
            .replace("{action}", "a")
            .replace("{command}", "01900000-0000-7000-8000-000000000000")
            .replace(['{', '}'], "");
        for body in &bodies {
            let answer = closed.ask(&closed.admin, &format!("{method} {target}"), body);
            let shown = &body[..body.len().min(40)];
            // Data is judged by its syntax alone: a number may be long, and a member given twice.
            let is_data =
                target == "/v1/send/d/a" && serde_json::from_str::<IgnoredAny>(body).is_ok();
            let unread = path.ends_with("/approve");
            // Of a batch each item is refused by itself.
            let of_batch = answer.status == 200
                && path.ends_with("{device}/status")
                && answer.json().as_array().unwrap().iter().all(|item| item["status"] != 200);
            let fits = (400..500).contains(&answer.status) || is_data || unread || of_batch;
            assert!(fits, "{method} {target} with {shown}… is answered {}", answer.status);
        }
        let head = format!(
            "{method} {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n",
            closed.admin,
            5 << 20
        );
        let most = closed.hub.send(head + &" ".repeat(5 << 20));
        let most = statuses(&most);
        let fits = matches!(most[..], [400 | 403 | 404 | 413]) || path.ends_with("/approve");
        assert!(fits, "{target}: {most:?}");
    }
    assert!(tried > 6, "{tried} routes take a body");
    // At its bound it is passed on as it came.
    let good = deep("[", "]", 128);
    let sent = closed.ask(&closed.admin, "POST /v1/send/d/a", &good);
    assert_eq!(sent.status, 202, "{sent:?}");
    assert!(closed.hub.lives());
}

/// Requests that are written and whose answers are not read, for as long as the hub takes them.
#[test]
fn a_client_that_reads_no_answers_costs_the_hub_a_bounded_backlog() {
    let hub = Hub::open("");
    let pid = hub.program.id();
    let before = anonymous_bytes(pid);
    let mut socket = TcpStream::connect(hub.addr).unwrap();
    socket.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let requests = "GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(1000);
    let mut written = 0;
    // Until the hub takes no more: what it does not read stays with the client.
    while let Ok(n) = socket.write(requests.as_bytes()) {
        written += n;
        assert!(written < 64 << 20, "the hub goes on reading requests whose answers are not read");
    }
    let grown = anonymous_bytes(pid).saturating_sub(before);
    assert!(grown < 4 << 20, "{written} bytes of requests without a reader cost {grown}");
    let other = Http(hub.addr).get("/readyz").unwrap();
    assert_eq!(other.status, 200);
}
