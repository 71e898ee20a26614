//! `bellwire agent run`: the agent as a service, with its signals and its notifications to systemd.

use bellwire_client::agent::Agent;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::init;
use super::read_config;
use crate::args::AgentConfigArg;
use crate::exit;
use crate::service_manager::ServiceManager;

pub(crate) async fn run(args: &AgentConfigArg) -> anyhow::Result<u8> {
    if init::is_process_1() {
        return init::run().await;
    }
    let config = read_config(&args.config)?;
    let found = config.readiness_here();
    for warning in &found.warnings {
        tracing::warn!("{warning}");
    }
    // The rest works, and may be what this is repaired by.
    for error in &found.errors {
        tracing::error!("{error}");
    }
    if !found.faults.is_empty() {
        let faults: String = found.faults.iter().map(|fault| format!("\n  {fault}")).collect();
        anyhow::bail!("the agent cannot run with {}:{faults}", args.config.display());
    }
    let [first, second, third] = stop_signals()?;
    let agent = Agent::builder().config(&config)?.build()?;
    let manager = ServiceManager::from_environment();
    let shutdown = async {
        // The agent polls this once its journal is open and its lock is held.
        manager.send("READY=1");
        tracing::info!(device = %config.device, "ready");
        first.await.ok();
        manager.send("STOPPING=1");
    };
    tokio::select! {
        ended = agent.run_until(shutdown, async { drop(second.await) }) => ended?,
        never = manager.keep_alive() => match never {},
        // Running handlers are killed with the agent; the next one continues from the journal.
        Ok(()) = third => tracing::warn!("third request to stop: exiting at once"),
    }
    Ok(exit::OK)
}

/// The first TERM or INT, the second and the third.
fn stop_signals() -> std::io::Result<[oneshot::Receiver<()>; 3]> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (first_sender, first) = oneshot::channel();
    let (second_sender, second) = oneshot::channel();
    let (third_sender, third) = oneshot::channel();
    tokio::spawn(async move {
        for sender in [first_sender, second_sender, third_sender] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            sender.send(()).ok();
        }
    });
    Ok([first, second, third])
}
