//! The types at the engine's border: its outputs, the hub's answers, and the list of actions.

use std::time::Duration;

use bellwire_proto::stream::CommandEvent;
use bellwire_proto::{Action, CommandId, DeliveryState, ErrorInfo, Json, Report};

use super::history::JournalSnapshot;
use crate::agent::journal::{Record, Reserve};
use crate::agent::policy::OnRestart;
use crate::agent::run::Stop;

/// How the commands of an action are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RunSettings {
    pub(crate) on_restart: OnRestart,
    /// How many run at once.
    pub(crate) concurrency: usize,
    /// How long one may run; without it, the command's own limit.
    pub(crate) timeout: Option<Duration>,
}

/// The list of actions, as the engine sees it.
pub(crate) trait Admission: Send + Sync {
    /// Why a new command with these data may not run.
    fn admit(&self, action: &Action, data: &Json) -> Result<(), ErrorInfo>;

    /// How to run an action on the list. For commands that were accepted before, this alone is required:
    /// their data need not be valid any more.
    fn run_settings(&self, action: &Action) -> Option<RunSettings>;
}

/// Something to do for the engine.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Output {
    /// Append to the journal, in this order; then [`super::Engine::handle_written`].
    Write { ticket: u64, records: Vec<Record>, reserve: Reserve },
    /// Replace the journal, after all writes that came before; then [`super::Engine::handle_compacted`].
    Compact { snapshot: JournalSnapshot, reserve_bytes: u64 },
    /// Send a report; then [`super::Engine::handle_answer`].
    Post { ticket: u64, command: CommandId, report: Report },
    /// Start the handler; then [`super::Engine::handle_ended`].
    Start { event: CommandEvent, limit: Duration },
    /// Ask a handler to stop, or kill it.
    Stop { command: CommandId, stop: Stop },
    /// Kill the orphan processes of an earlier run; then [`super::Engine::handle_orphans_killed`].
    KillOrphans { command: CommandId },
}

/// The hub's answer to a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReportAnswer {
    /// 2xx, with the delivery as it is now. Contract, section 5.
    Delivery { state: DeliveryState, rev: u64 },
    /// 409: it has ended differently, in this state if the hub names one.
    Conflict { state: Option<DeliveryState> },
    /// 410: the hub has forgotten it.
    Gone,
    /// 413: the report is too large.
    TooLarge,
    /// 400 or 404 from the hub itself: the same report will be rejected again.
    PermanentRejection,
    /// No answer, one from something else than the hub, or a request to wait: try again.
    Failed { retry_after: Option<Duration> },
}
