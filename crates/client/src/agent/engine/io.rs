//! What the engine is asked for and what it asks for: its outputs, the hub's answers, and the list of actions.

use std::time::Duration;

use bellwire_proto::stream::CommandEvent;
use bellwire_proto::{Action, CommandId, ErrorInfo, Json, Report, State};

use super::history::Snapshot;
use crate::agent::journal::{Record, Reserve};
use crate::agent::policy::OnRestart;
use crate::agent::run::Stop;

/// How the commands of an action are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RunSettings {
    pub(crate) on_restart: OnRestart,
    /// How many run at once.
    pub(crate) concurrency: usize,
    /// How long one may run; without it, as long as the command says.
    pub(crate) timeout: Option<Duration>,
}

/// What may run here at all.
pub(crate) trait Admission: Send + Sync {
    /// Why a new command may not run with these data.
    fn admit(&self, action: &Action, data: &Json) -> Result<(), ErrorInfo>;

    /// The terms of an action, if it is on the list: all that is asked for what was taken already,
    /// even if its data would be refused today.
    fn run_settings(&self, action: &Action) -> Option<RunSettings>;
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Output {
    /// Append to the journal, in this order, and say when it is on disk.
    Write { ticket: u64, records: Vec<Record>, reserve: Reserve },
    /// Replace the journal by this, after all that was to be written before.
    Compact { snapshot: Snapshot, reserve_bytes: u64 },
    /// Tell the hub, and say what it answered.
    Post { ticket: u64, command: CommandId, report: Report },
    /// Run the handler, and say how it ended.
    Start { event: CommandEvent, limit: Duration },
    /// Tell a handler to stop.
    Stop { command: CommandId, stop: Stop },
    /// Kill what a life before this one left of a handler, and say when that is done.
    KillOrphans { command: CommandId },
}

/// What the hub answered to a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReportAnswer {
    /// 2xx, with the delivery of this command as it stands.
    Delivery { state: State, rev: u64 },
    /// 409: it has ended otherwise, in this state if the hub says so.
    Conflict { state: Option<State> },
    /// 410: it is forgotten.
    Gone,
    /// 413.
    TooLarge,
    /// 400 or 404, in the hub's own words.
    PermanentRejection,
    /// No answer, one that is not the hub's, or one that asks for patience.
    Failed { retry_after: Option<Duration> },
}
