//! An appliance in Rust: two actions, each command of which runs once, whatever crashes.
//!
//! `cargo run -p bellwire-client --example agent -- http://127.0.0.1:8888 kiosk-7 /tmp/kiosk-7`, and
//! then `bellwire send kiosk-7 count '{"to": 5}' --wait 30s`.

use std::time::Duration;

use bellwire_client::agent::{Agent, AgentError, Command};
use bellwire_client::api::Error;
use tokio::signal::unix::{SignalKind, signal};

#[derive(serde::Deserialize)]
struct Count {
    to: u32,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The agent logs by `tracing`: without a subscriber nothing is printed.
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut args = std::env::args().skip(1);
    let (Some(hub), Some(device), Some(folder)) = (args.next(), args.next(), args.next()) else {
        return Err("usage: agent HUB DEVICE STATE_FOLDER".into());
    };
    let agent = Agent::builder()
        .hub(hub)
        .device(device)
        .state_dir(folder)
        .on("ping", async |_: Command| "pong")
        .on_params("count", count)
        .build()?;
    agent.run(stop_requested()).await.map_err(explain)
}

/// Counts, reports progress, and stops when it is cancelled.
async fn count(command: Command, params: Count) -> Result<u32, Error> {
    for n in 1..=params.to {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            () = command.cancelled() => return Ok(n),
        }
        command.progress(100.0 * f64::from(n) / f64::from(params.to));
    }
    Ok(params.to)
}

/// TERM, by which services are stopped, or INT, which is Ctrl-C: running closures then get 30 s.
async fn stop_requested() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

fn explain(error: AgentError) -> Box<dyn std::error::Error> {
    match &error {
        AgentError::Journal(_) => format!("the agent cannot start: {error}").into(),
        _ => error.into(),
    }
}
