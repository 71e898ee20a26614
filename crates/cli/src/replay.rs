//! `bellwire replay`: runs a handler again for a saved command. Nothing is reported to a hub.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bellwire_client::agent::forward::Forward;
use bellwire_client::agent::run::{
    Completion, CompletionState, DataDir, Run, RunContext, RunEnd, Stop, progress_channel,
    stop_channel,
};
use bellwire_proto::stream::CommandEvent;
use bellwire_proto::{Delivery, DeliveryState, DeviceId, ErrorInfo, Outcome, Timestamp};
use tokio::signal::unix::{SignalKind, signal};

use crate::agent::read_config;
use crate::args::Replay;
use crate::exit::{self, Usage};
use crate::listen::program;
use crate::out::{self, Form};
use crate::saved::{self, Saved};

pub(crate) async fn run(args: Replay, form: Form) -> anyhow::Result<u8> {
    let saved = saved::read(&args.file).map_err(|e| Usage(format!("{e:#}")))?;
    let Saved { device, command } = saved;
    let started = now();
    let (state, outcome) = match handler(&args, &command)? {
        Ok((handler, limit)) => {
            let completion = give(handler.as_ref(), &device, &command, limit).await?;
            (state_of(completion.state), completion.outcome)
        }
        Err(error) => {
            (DeliveryState::Rejected, Outcome { error: Some(error), ..Outcome::default() })
        }
    };
    let delivery = delivery(device, command, state, outcome);
    match form {
        Form::Json => out::json(&delivery)?,
        // How long it took here, not how old it is.
        Form::Text => out::delivery(&Delivery { created_at: started, ..delivery })?,
    }
    Ok(exit::for_state(state))
}

/// What it is given to and for how long, or why the list does not allow it.
#[expect(clippy::type_complexity, reason = "used once")]
fn handler(
    args: &Replay,
    command: &CommandEvent,
) -> anyhow::Result<Result<(Arc<dyn Run>, Duration), ErrorInfo>> {
    let as_sent = Duration::from_secs(command.run_timeout_s);
    if let Some(url) = &args.to {
        // A URL on the command line is used as given.
        let forward = Forward::new(url, true).map_err(|e| Usage(e.to_string()))?;
        return Ok(Ok((Arc::new(forward), as_sent)));
    }
    if let Some(program) = program(&args.exec)? {
        return Ok(Ok((Arc::new(program), as_sent)));
    }
    let policy = read_config(&args.config.config)?.policy();
    let judged = policy.judge(&command.action, &command.data);
    Ok(judged.map(|rules| (Arc::clone(&rules.run), rules.limit(command))))
}

/// Lets it run; an interrupt is a cancel.
async fn give(
    handler: &dyn Run,
    device: &DeviceId,
    command: &CommandEvent,
    limit: Duration,
) -> anyhow::Result<Completion> {
    let (stop_sender, stop) = stop_channel();
    let context = RunContext {
        command: command.clone(),
        device: device.clone(),
        // Of its own: an agent beside this one may run the same command.
        data_dir: Arc::new(DataDir::temporary()?),
        limit,
        progress: progress_channel().0,
        stop,
    };
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut running = handler.start(context);
    let ended: RunEnd = tokio::select! {
        ended = &mut running => ended,
        _ = interrupt.recv() => { stop_sender.send(Stop::Cancel); running.await }
        _ = terminate.recv() => { stop_sender.send(Stop::Cancel); running.await }
    };
    Ok(ended.into_completion())
}

fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_ms(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}

fn state_of(end: CompletionState) -> DeliveryState {
    match end {
        CompletionState::Succeeded => DeliveryState::Succeeded,
        CompletionState::Failed => DeliveryState::Failed,
        CompletionState::Cancelled => DeliveryState::Cancelled,
    }
}

/// The outcome in the form of the hub's delivery object.
fn delivery(
    device: DeviceId,
    command: CommandEvent,
    state: DeliveryState,
    outcome: Outcome,
) -> Delivery {
    Delivery {
        command: command.id,
        seq: command.seq,
        device,
        action: command.action,
        state,
        attempt: command.attempt,
        rev: 0,
        created_at: command.created_at,
        updated_at: now(),
        expires_at: command.expires_at,
        outcome,
        late: false,
    }
}
