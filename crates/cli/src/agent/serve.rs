//! `bellwire agent run`: the agent as a service, with its signals and its word to systemd.

use bellwire_client::agent::Agent;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::init;
use super::notify::Notify;
use super::read_config;
use crate::args::AgentConfigArg;
use crate::exit;

pub(crate) async fn run(args: &AgentConfigArg) -> anyhow::Result<u8> {
    if init::is_process_1() {
        return init::run().await;
    }
    let config = read_config(&args.config)?;
    for warning in config.warnings_here() {
        tracing::warn!("{warning}");
    }
    let [asked, asked_again, asked_once_more] = stop_signals()?;
    let agent = Agent::builder().config(&config)?.build()?;
    let notify = Notify::from_environment();
    let shutdown = async {
        // The agent begins to wait for this when its journal is open and its lock is held.
        notify.tell("READY=1");
        tracing::info!(device = %config.device, "ready");
        asked.await.ok();
        notify.tell("STOPPING=1");
    };
    tokio::select! {
        ended = agent.run_until(shutdown, async { drop(asked_again.await) }) => ended?,
        never = notify.stay_alive() => match never {},
        // What still runs is killed with the agent, and the next one goes on from the journal.
        Ok(()) = asked_once_more => tracing::warn!("told to stop three times: gone"),
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
        for told in [first_sender, second_sender, third_sender] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            told.send(()).ok();
        }
    });
    Ok([first, second, third])
}
