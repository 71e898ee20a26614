//! The cost of holding streams and of durable sends: the real `bellwire serve` beside a floor, in
//! one run.
//!
//! ```text
//! cargo build --release && cargo run --release -p bellwire-bench --bin hubload
//! ```
//!
//! Each round starts a fresh hub and a fresh floor (`floor.rs`: the least work that the same answers
//! need), one after the other and in varying order, and runs the same load on both: opens streams in
//! two halves, sends with one request in flight, then with many. A figure is the median of the
//! rounds, a ratio the median of the ratios in each round. `docs/performance.md` explains the
//! figures.
//!
//! Servers are processes of their own (`server.rs`), so that their memory and CPU can be measured;
//! the client is this one thread (`client.rs`). Every wait has a bound, and a message that is lost,
//! duplicated or sent to the wrong stream stops the run.

mod client;
mod connection;
mod figures;
mod floor;
mod many;
mod queue;
mod server;
mod tls;
mod trust;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Parser;

use client::Client;
use figures::{Figures, Latency, Report};
use server::{Kind, Server};

/// Measures a hub beside a floor.
#[derive(Debug, Parser)]
struct Args {
    /// Streams, each of a device of its own.
    #[arg(short = 'n', long, default_value_t = 10_000)]
    streams: usize,
    /// Rounds; the figures are medians.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of sending, for each number of requests in flight.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Requests in flight, each on a connection of its own, answered and received before the next.
    #[arg(long, default_value_t = 64)]
    window: usize,
    /// Bytes of JSON in each command, from 32.
    #[arg(long, default_value_t = 100)]
    size: usize,
    /// The program under test; by default the one that was built beside this one.
    #[arg(long)]
    bellwire: Option<PathBuf>,
    /// Where the servers get their temporary folders: the disk that is measured.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// The hub alone, without the floor, for profiling.
    #[arg(long)]
    hub_only: bool,
    /// Measures instead what a queue of so many commands costs, beside one of ten.
    #[arg(long, value_name = "COMMANDS")]
    queue: Option<usize>,
    /// Measures instead what a command to so many devices costs, and what another sender notices of it.
    #[arg(long, value_name = "DEVICES", conflicts_with = "json")]
    many: Option<usize>,
    /// Measures instead what tokens and TLS cost: a closed hub beside an open one, and TLS beside nothing but rustls.
    #[arg(long, conflicts_with = "json")]
    trust: bool,
    /// Prints one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// What the floor is started with; not for people.
    #[arg(long, hide = true)]
    serve_floor: Option<PathBuf>,
    /// What the floor of TLS is started with; not for people.
    #[arg(long, hide = true)]
    serve_tls_floor: Option<PathBuf>,
    /// That it holds its connections.
    #[arg(long, hide = true)]
    hold: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match (&args.serve_floor, &args.serve_tls_floor) {
        (Some(folder), _) => floor::run(folder),
        (None, Some(folder)) => tls::run_floor(folder, args.hold),
        (None, None) => measure(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hubload: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(args: &Args) -> anyhow::Result<()> {
    ensure!(
        args.streams >= 2,
        "two streams at least: memory is measured at half of them and at all"
    );
    ensure!(args.rounds >= 1 && args.window >= 1, "one round and one request in flight at least");
    ensure!(args.size >= client::SIZE_MIN, "a command has {} bytes at least", client::SIZE_MIN);
    let files = server::raise_file_limit()?;
    let needed = args.streams + args.window + 200;
    ensure!(
        u64::try_from(needed)? <= files,
        "{} streams need {needed} open files, and a process may have {files}",
        args.streams,
    );
    let bellwire = match &args.bellwire {
        Some(path) => path.clone(),
        None => server::beside_this("bellwire")?,
    };
    if let Some(queued) = args.queue {
        return measure_queue(args, &bellwire, queued);
    }
    if let Some(devices) = args.many {
        return measure_many(args, &bellwire, devices);
    }
    if args.trust {
        return trust::measure(args, &bellwire);
    }
    let mut report = Report::new(args.streams, args.window, args.size, args.seconds);
    for round in 0..args.rounds {
        let mut kinds = vec![Kind::Hub];
        if !args.hub_only {
            kinds.insert(round % 2, Kind::Floor);
        }
        for kind in kinds {
            eprintln!("round {} of {}: {kind}", round + 1, args.rounds);
            let parent = args.folder.clone().unwrap_or_else(std::env::temp_dir);
            let server = Server::start(kind, &bellwire, &parent, &[])?;
            let figures = one_round(args, &server).with_context(|| server.log_tail(kind))?;
            report.add(kind, figures);
        }
    }
    if args.json {
        report.print_json()
    } else {
        report.print_table()
    }
    Ok(())
}

/// What a long queue costs, in the median of the rounds.
fn measure_queue(args: &Args, bellwire: &Path, queued: usize) -> anyhow::Result<()> {
    ensure!(queued >= 100, "a long queue has 100 commands at least");
    let (mut send_ratios, mut report_ratios, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..args.rounds {
        eprintln!("round {} of {}", round + 1, args.rounds);
        let parent = args.folder.clone().unwrap_or_else(std::env::temp_dir);
        let queue_max = queued.max(queue::EXCHANGES + queue::SHORT).to_string();
        let settings = [("BELLWIRE_QUEUE_MAX", queue_max.as_str())];
        let server = Server::start(Kind::Hub, bellwire, &parent, &settings)?;
        let measured =
            queue::measure(server.address(), queued).with_context(|| server.log_tail(Kind::Hub))?;
        let [sends, reports] = measured.ratios();
        send_ratios.push(sends);
        report_ratios.push(reports);
        rates.push(measured);
    }
    for (name, rate, ratios) in [
        ("sends/s", rates.iter().map(|r| r.sends).collect::<Vec<_>>(), &mut send_ratios),
        ("reports/s", rates.iter().map(|r| r.reports).collect(), &mut report_ratios),
    ] {
        let figure = |figures: Option<f64>| figures.unwrap_or(f64::NAN);
        let long = figure(figures::median(rate.iter().map(|[long, _]| *long)));
        let short = figure(figures::median(rate.iter().map(|[_, short]| *short)));
        let ratio = figure(figures::median(ratios.drain(..)));
        println!(
            "{name:<10} {long:>9.0} with {queued} queued, {short:>9.0} with few: ratio {ratio:.2}"
        );
    }
    Ok(())
}

/// What a command to many costs, in the median of the rounds.
fn measure_many(args: &Args, bellwire: &Path, devices: usize) -> anyhow::Result<()> {
    ensure!(devices >= 1000, "many are 1000 devices at least");
    let mut rounds = Vec::new();
    for round in 0..args.rounds {
        eprintln!("round {} of {}", round + 1, args.rounds);
        let parent = args.folder.clone().unwrap_or_else(std::env::temp_dir);
        let server = Server::start(Kind::Hub, bellwire, &parent, &[])?;
        let figures =
            many::measure(&server, devices).with_context(|| server.log_tail(Kind::Hub))?;
        rounds.push(figures);
    }
    println!(
        "target   devices  answered s  at all s  other p50, p99 ms before  meanwhile     ratio       MB"
    );
    for n in 0..rounds.first().map_or(0, Vec::len) {
        let of = |figure: fn(&many::Figures) -> f64| {
            let figures = rounds.iter().filter_map(|figures| figures.get(n));
            figures::median(figures.map(figure)).unwrap_or(f64::NAN)
        };
        let Some(first) = rounds.first().and_then(|figures| figures.get(n)) else { continue };
        println!(
            "{:<8} {:>7}  {:>10.2}  {:>8.1}  {:>12.2}, {:>9.2}  {:>6.2}, {:>5.2}  {:>4.1}, {:>4.1}  {:>5.0}",
            first.target,
            first.total,
            of(|f| f.answered_s),
            of(|f| f.expanded_s),
            of(|f| f.before.p50_ms),
            of(|f| f.before.p99_ms),
            of(|f| f.meanwhile.p50_ms),
            of(|f| f.meanwhile.p99_ms),
            of(|f| f.meanwhile.p50_ms / f.before.p50_ms),
            of(|f| f.meanwhile.p99_ms / f.before.p99_ms),
            of(|f| f.anon_bytes / 1e6),
        );
    }
    Ok(())
}

/// Everything that is done to one server.
fn one_round(args: &Args, server: &Server) -> anyhow::Result<Figures> {
    load(args, server, Client::new(server.address(), args.streams, args.size)?)
}

/// The same with a client that may have tokens.
fn load(args: &Args, server: &Server, mut client: Client) -> anyhow::Result<Figures> {
    let settle = || std::thread::sleep(Duration::from_secs(1));
    let others = server::OtherLoad::begin(server)?;
    settle();

    let anon_before = server.anon_bytes()?;
    let (half, half_took, half_cpu) = timed(server, || client.open(args.streams / 2))?;
    settle();
    let anon_half = server.anon_bytes()?;
    let (rest, rest_took, rest_cpu) =
        timed(server, || client.open(args.streams - args.streams / 2))?;
    settle();
    let anon_all = server.anon_bytes()?;

    let duration = Duration::from_secs(args.seconds);
    let alone = client.send(1, duration)?;
    let (gathered, took, cpu) = timed(server, || client.send(args.window, duration))?;
    let opened = (half + rest) as f64;
    let sent = gathered.answers.len() as f64;
    Ok(Figures {
        stream_bytes: per(anon_all - anon_before, args.streams),
        stream_bytes_second_half: per(anon_all - anon_half, args.streams - args.streams / 2),
        connects_per_s: opened / (half_took + rest_took),
        connect_cpu_us: (half_cpu + rest_cpu) * 1e6 / opened,
        sends_per_s: sent / took,
        send_cpu_us: cpu * 1e6 / sent,
        answer_alone: Latency::of(alone.answers),
        receipt_alone: Latency::of(alone.receipts),
        answer: Latency::of(gathered.answers),
        receipt: Latency::of(gathered.receipts),
        other_cores: others.cores(server)?,
    })
}

/// What it gives, how long it took, and what CPU the server used, in seconds.
fn timed<T>(
    server: &Server,
    act: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<(T, f64, f64)> {
    let (start, cpu) = (Instant::now(), server.cpu_s()?);
    let given = act()?;
    Ok((given, start.elapsed().as_secs_f64(), server.cpu_s()? - cpu))
}

fn per(bytes: f64, streams: usize) -> f64 {
    bytes / streams as f64
}
