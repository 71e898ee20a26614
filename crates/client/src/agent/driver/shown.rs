//! What the running agent shows of itself.

use bellwire_proto::limits::{AGENT_JOURNAL_BYTES_MAX, AGENT_STATUS_COMMANDS_MAX};
use tokio::time::Instant;

use super::Driver;
use crate::agent::forward;
use crate::agent::status::{ConnectionStatus, JournalStatus, Status};
use crate::api::Listener;

impl Driver {
    pub(super) fn status(&self) -> Status {
        let (under_way, commands) = self.engine.counts();
        let mut latest = self.engine.latest(AGENT_STATUS_COMMANDS_MAX);
        latest.iter_mut().for_each(|command| command.waits = forward::waits(command.id));
        // None while a try is under way.
        let retry_in = self.retry_at.and_then(|at| at.checked_duration_since(Instant::now()));
        let retry_in_s = retry_in.filter(|pause| !pause.is_zero()).map(|pause| {
            let whole_s = pause.as_secs();
            if pause.subsec_nanos() > 0 { whole_s + 1 } else { whole_s }
        });
        let way = self.listener.as_ref().and_then(Listener::way);
        let base = self.agent.transport.base();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            device: self.agent.device.clone(),
            up_s: self.started_at.elapsed().as_secs(),
            connection: ConnectionStatus {
                hub: base
                    .as_ref()
                    .map_or_else(|| self.connection.hub.clone(), |base| base.hub.clone()),
                proxy: base.as_ref().map(|base| base.proxy.clone()),
                hub_why: base.and_then(|base| base.why),
                since_s: self.connection_since.elapsed().as_secs(),
                carrier: way.as_ref().and_then(|way| way.carrier),
                carrier_since_s: way.as_ref().map(|way| way.since.elapsed().as_secs()),
                carrier_why: way.as_ref().and_then(|way| way.why.clone()),
                silent_s: way
                    .as_ref()
                    .and_then(|way| way.silent_for)
                    .map(|silent| silent.as_secs()),
                stream_rests_s: way
                    .and_then(|way| way.suspended_for)
                    .map(|suspended| suspended.as_secs()),
                retry_in_s,
                ..self.connection.clone()
            },
            journal: JournalStatus {
                dir: self.agent.state_dir.clone(),
                bytes: self.disk.bytes(),
                bytes_max: AGENT_JOURNAL_BYTES_MAX,
                commands,
                under_way,
            },
            commands: latest,
        }
    }
}
