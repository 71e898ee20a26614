//! `eventsource-server`: the classic wire format alone, without a hub.
//!
//! What is served is `bellwire_hub::http::classic`'s; here are flags, a socket and signals.

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]
#![allow(unreachable_pub, reason = "a program has no public interface")]

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use bellwire::argv;
use bellwire::classic::{address::origin, log, logger::LISTENER};
use bellwire_hub::config::TlsFiles;
use bellwire_hub::http::browsers::Browsers;
use bellwire_hub::http::classic::{Classic, ClassicConfig, Json, Text, WithIds};
use bellwire_hub::listen::{Endpoint, ListenConfig, Listener, ListenerRules};
use bellwire_hub::tls::{self, Protocols};
use bellwire_proto::limits::CLASSIC_SHUTDOWN_GRACE;
use clap::{ArgAction, Parser};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{error, info, warn};

const EXAMPLE: &str = "\
Example:
  eventsource-server -P 8888 --action reboot
      then, elsewhere:  curl -N http://127.0.0.1:8888/poll/kiosk-7
      and:              curl -d now http://127.0.0.1:8888/reboot/kiosk-7

Exit codes: 0 ended by SIGTERM or SIGINT; 1 cannot serve; 2 usage.";

/// Serves tokens: one listener each (GET /poll/TOKEN), and its senders (POST /ACTION/TOKEN).
#[derive(Parser)]
#[command(name = "eventsource-server", version, disable_version_flag = true, after_help = EXAMPLE)]
struct Args {
    /// Host to bind on.
    #[arg(short = 'H', long, default_value = "0.0.0.0")]
    host: String,
    /// Port to bind on; 0 lets the system choose, and the log has the number.
    #[arg(short = 'P', long, default_value_t = 8888)]
    port: u16,
    /// Private key (PEM); with --certfile, HTTPS is spoken.
    #[arg(short = 'K', long, value_name = "FILE", requires = "certfile")]
    keyfile: Option<PathBuf>,
    /// Certificate chain (PEM), the server's own first.
    #[arg(short = 'C', long, value_name = "FILE", requires = "keyfile")]
    certfile: Option<PathBuf>,
    /// Log every request and every end of a stream.
    #[arg(short, long)]
    debug: bool,
    /// Data is JSON: it is checked, and passed on as Python prints it.
    #[arg(short, long)]
    json: bool,
    /// Milliseconds between keepalive comments; 0 for none.
    #[arg(short, long, value_name = "MS", default_value_t = 0)]
    keepalive: u32,
    /// Number the events, replay after Last-Event-ID, and know the action retry.
    #[arg(short, long)]
    id: bool,
    /// An action beside ping, close and, with -i, retry. Can be given again.
    #[arg(long = "action", value_name = "NAME")]
    actions: Vec<String>,
    /// A name of this server by which browsers may reach it, beside localhost and IP addresses. Can be given again.
    #[arg(long = "allowed-host", value_name = "NAME")]
    allowed_hosts: Vec<String>,
    /// Print the version.
    #[arg(long, action = ArgAction::Version)]
    version: Option<bool>,
}

fn main() -> ExitCode {
    let args: Args = match argv::parse() {
        Ok(args) => args,
        Err(code) => return code,
    };
    log::init(args.debug);
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(target: LISTENER, "{error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(args: Args) -> anyhow::Result<()> {
    // Before anyone can know that the server is there, and stop it.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    // Held as long as the server runs: its receivers would log a warning without it.
    let certificate = match (args.certfile, args.keyfile) {
        (Some(cert), Some(key)) => {
            Some(watch::Sender::new(tls::load(&TlsFiles { cert, key }, Protocols::Http1)?))
        }
        _ => None,
    };
    let endpoint = Endpoint {
        address: address(&args.host, args.port)?,
        tls: certificate.as_ref().map(watch::Sender::subscribe),
        rules: ListenerRules::default(),
    };
    let listener =
        Listener::bind_endpoints([endpoint], ListenConfig::default()).context("cannot listen")?;
    let classic = Arc::new(Classic::start(ClassicConfig {
        format: match (args.json, args.id) {
            (false, false) => Arc::new(Text),
            (true, false) => Arc::new(Json),
            (false, true) => Arc::new(WithIds(Text)),
            (true, true) => Arc::new(WithIds(Json)),
        },
        keepalive_ms: args.keepalive,
        actions: args.actions,
        shards: 0,
    })?);
    let pages = Browsers::own_pages(args.allowed_hosts);
    let server = listener.serve(Classic::clone(&classic).for_browsers(pages).router());
    for bound in server.listeners() {
        let address = bound.address;
        let url = origin(bound.scheme.name(), &address.ip().to_string(), address.port());
        info!(target: LISTENER, "listening on {url}");
        if !address.ip().is_loopback() {
            warn!(
                target: LISTENER,
                "no authentication: every client that reaches this address may listen and send; -H 127.0.0.1 admits this machine alone"
            );
        }
    }

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let grace_ms = CLASSIC_SHUTDOWN_GRACE.as_millis() as u64;
    // Streams first: a request in flight may wait for one.
    tokio::task::spawn_blocking(move || classic.shutdown(grace_ms)).await?;
    server.shutdown(CLASSIC_SHUTDOWN_GRACE).await;
    Ok(())
}

/// The address of a host, IPv4 before IPv6 as the original has it.
fn address(host: &str, port: u16) -> anyhow::Result<SocketAddr> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let found = (host, port).to_socket_addrs().with_context(|| format!("no such host: {host}"))?;
    found.min_by_key(SocketAddr::is_ipv6).with_context(|| format!("{host} has no address"))
}
