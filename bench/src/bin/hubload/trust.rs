//! What trust costs: a hub where each appliance and each sender has a token, beside the same hub without; and TLS, beside a
//! server that does nothing but rustls's part.
//!
//! ```text
//! cargo build --release && cargo run --release -p bellwire-bench --bin hubload -- --trust
//! ```
//!
//! Each round runs all of them, in varying order; a figure is the median of the rounds, a ratio the median of the ratios
//! in each round. In both hubs every device is registered before the first connects, so that the tokens are the difference.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};

use super::client::{Client, content_length};
use super::figures::{Figures, median};
use super::server::{Kind, Server};
use super::{Args, load, per, timed, tls};

/// Connections over which devices and tokens are made.
const SETTING_UP: usize = 16;
/// Connections over TLS that are held, at most: the client's half costs as much memory as the server's.
const TLS_STREAMS_MAX: usize = 4_000;

/// The figures of one server that speaks TLS.
#[derive(Default)]
struct Tls {
    handshakes_per_s: f64,
    handshake_cpu_us: f64,
    stream_bytes: f64,
}

#[derive(Default)]
struct Rounds {
    open: Vec<Figures>,
    closed: Vec<Figures>,
    hub: Vec<Tls>,
    floor: Vec<Tls>,
}

pub(crate) fn measure(args: &Args, bellwire: &Path) -> anyhow::Result<()> {
    let mut rounds = Rounds::default();
    for round in 0..args.rounds {
        // By turns, so that neither is always the first.
        let mut order = [false, true];
        order.rotate_left(round % 2);
        for closed in order {
            let name = if closed { "with tokens" } else { "open" };
            eprintln!("round {} of {}: {name}", round + 1, args.rounds);
            let figures = with_or_without_tokens(args, bellwire, closed)?;
            if closed { &mut rounds.closed } else { &mut rounds.open }.push(figures);
        }
        for floor in order {
            let name = if floor { "nothing but TLS" } else { "over TLS" };
            eprintln!("round {} of {}: {name}", round + 1, args.rounds);
            let figures = over_tls(args, bellwire, floor)?;
            if floor { &mut rounds.floor } else { &mut rounds.hub }.push(figures);
        }
    }
    print(&rounds);
    Ok(())
}

fn start(args: &Args, kind: Kind, bellwire: &Path) -> anyhow::Result<Server> {
    let parent = args.folder.clone().unwrap_or_else(std::env::temp_dir);
    Server::start(kind, bellwire, &parent, &[])
}

fn with_or_without_tokens(args: &Args, bellwire: &Path, closed: bool) -> anyhow::Result<Figures> {
    let server = start(args, Kind::Hub, bellwire)?;
    let register = |n: usize| (format!("PUT /v1/devices/d{n}"), r#"{"labels":{}}"#.to_owned());
    all(server.address(), args.streams, None, register)?;
    let client = Client::new(server.address(), args.streams, args.size)?;
    let client = if closed {
        let admin = |_| ("POST /v1/tokens".to_owned(), r#"{"role":"admin"}"#.to_owned());
        let first = token(all(server.address(), 1, None, admin)?.first())?;
        let of_device = |n: usize| {
            let body = format!(r#"{{"role":"device","device":"d{n}"}}"#);
            ("POST /v1/tokens".to_owned(), body)
        };
        let made = all(server.address(), args.streams, Some(&first), of_device)?;
        let devices = made.iter().map(|answer| token(Some(answer)));
        client.with_tokens(devices.collect::<anyhow::Result<_>>()?, first)
    } else {
        client
    };
    load(args, &server, client).with_context(|| server.log_tail(Kind::Hub))
}

fn over_tls(args: &Args, bellwire: &Path, floor: bool) -> anyhow::Result<Tls> {
    let kind = if floor { Kind::TlsFloor } else { Kind::TlsHub };
    let mut figures = Tls::default();
    {
        let server = start(args, kind, bellwire)?;
        let client = tls::Client::new(server.address(), server.folder())?;
        let (done, took, cpu) =
            timed(&server, || client.handshakes(Duration::from_secs(args.seconds)))?;
        figures.handshakes_per_s = done as f64 / took;
        figures.handshake_cpu_us = cpu * 1e6 / done as f64;
    }
    let server = start(args, if floor { Kind::TlsHolder } else { kind }, bellwire)?;
    let client = tls::Client::new(server.address(), server.folder())?;
    let streams = args.streams.min(TLS_STREAMS_MAX);
    let settle = || std::thread::sleep(Duration::from_secs(1));
    let first = client.hold(0, streams / 2)?;
    settle();
    let half = server.anon_bytes()?;
    let second = client.hold(streams / 2, streams - streams / 2)?;
    settle();
    figures.stream_bytes = per(server.anon_bytes()? - half, streams - streams / 2);
    drop((first, second));
    Ok(figures)
}

/// The token in an answer.
fn token(answer: Option<&String>) -> anyhow::Result<String> {
    let answer: serde_json::Value = serde_json::from_str(answer.context("no answer")?)?;
    let text = answer.get("token").and_then(serde_json::Value::as_str);
    Ok(text.with_context(|| format!("no token in {answer}"))?.to_owned())
}

/// The answers to so many requests, by their numbers.
fn all(
    address: SocketAddr,
    count: usize,
    token: Option<&str>,
    request: impl Fn(usize) -> (String, String) + Sync,
) -> anyhow::Result<Vec<String>> {
    let part = |at: usize| -> anyhow::Result<Vec<(usize, String)>> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        let mut reader = BufReader::new(socket.try_clone()?);
        let mut socket = socket;
        let mut answers = Vec::new();
        for n in (at..count).step_by(SETTING_UP) {
            let (line, body) = request(n);
            let bearer =
                token.map(|t| format!("Authorization: Bearer {t}\r\n")).unwrap_or_default();
            let length = body.len();
            socket.write_all(
                format!(
                    "{line} HTTP/1.1\r\nHost: localhost\r\n{bearer}Content-Type: application/json\r\n\
                     Content-Length: {length}\r\n\r\n{body}"
                )
                .as_bytes(),
            )?;
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                ensure!(reader.read_line(&mut head)? > 0, "the hub closed the connection: {head}");
            }
            let mut bytes = vec![0; content_length(&head).unwrap_or(0)];
            reader.read_exact(&mut bytes)?;
            let answer = String::from_utf8(bytes)?;
            ensure!(head.starts_with("HTTP/1.1 20"), "{line}: {head}{answer}");
            answers.push((n, answer));
        }
        Ok(answers)
    };
    let parts: anyhow::Result<Vec<_>> = std::thread::scope(|scope| {
        let part = &part;
        let threads: Vec<_> = (0..SETTING_UP).map(|at| scope.spawn(move || part(at))).collect();
        let done = threads.into_iter().map(|thread| match thread.join() {
            Ok(answers) => answers,
            Err(_) => anyhow::bail!("a thread panicked"),
        });
        done.collect()
    });
    let mut answers: Vec<_> = parts?.into_iter().flatten().collect();
    answers.sort_by_key(|(n, _)| *n);
    Ok(answers.into_iter().map(|(_, answer)| answer).collect())
}

fn print(rounds: &Rounds) {
    let Rounds { open, closed, hub, floor } = rounds;
    println!("{:<38} {:>12} {:>12} {:>8}", "", "open", "with tokens", "ratio");
    let line = |name: &str, of: fn(&Figures) -> f64| {
        row(
            name,
            &open.iter().map(of).collect::<Vec<_>>(),
            &closed.iter().map(of).collect::<Vec<_>>(),
        );
    };
    line("connects/s", |f| f.connects_per_s);
    line("server CPU per connect, µs", |f| f.connect_cpu_us);
    line("durable sends/s", |f| f.sends_per_s);
    line("server CPU per send, µs", |f| f.send_cpu_us);
    line("user bytes per stream, 0 to N", |f| f.stream_bytes);
    line("user bytes per stream, N/2 to N", |f| f.stream_bytes_second_half);
    println!("\n{:<38} {:>12} {:>12} {:>8}", "over TLS", "rustls", "hub", "ratio");
    let line = |name: &str, of: fn(&Tls) -> f64| {
        row(
            name,
            &floor.iter().map(of).collect::<Vec<_>>(),
            &hub.iter().map(of).collect::<Vec<_>>(),
        );
    };
    line("handshakes/s, one request each", |f| f.handshakes_per_s);
    line("server CPU per handshake, µs", |f| f.handshake_cpu_us);
    line("user bytes per idle stream", |f| f.stream_bytes);
    let others = open.iter().chain(closed).map(|f| f.other_cores);
    println!("\nother processes used {:.1} cores (median)", median(others).unwrap_or(f64::NAN));
}

/// A figure of both, and the median of the ratios in each round.
fn row(name: &str, before: &[f64], after: &[f64]) {
    let middle = |figures: &[f64]| median(figures.iter().copied()).unwrap_or(f64::NAN);
    let ratios = after.iter().zip(before).map(|(after, before)| after / before);
    let ratio = median(ratios).unwrap_or(f64::NAN);
    println!("{name:<38} {:>12.0} {:>12.0} {ratio:>8.2}", middle(before), middle(after));
}
