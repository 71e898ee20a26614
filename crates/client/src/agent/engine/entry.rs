//! One command that is not completed, and the journal records that describe it.

use bellwire_proto::stream::CommandEvent;
use bellwire_proto::{Action, CommandId, Outcome, Progress, Report, ReportState, Seq};

use crate::agent::journal::{BootId, ReceivedCommand, Record};
use crate::agent::run::ReportReduction;
use crate::agent::status::CommandStatus;

/// Where a command is in its life cycle at the device. Completed commands are in `history.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its record is being written.
    StoringCommand,
    /// Stored; `accepted` is reported until the hub answers.
    Offering,
    /// The hub has answered; it waits to be scheduled.
    Ready,
    /// Its start record is being written.
    Starting,
    /// Its handler runs.
    Running,
    /// The agent crashed during its run; the orphan processes of that run are being killed.
    KillingOrphans,
    /// It may run again; `running` is reported first, since the hub may have ended it meanwhile.
    ConfirmingRerun,
    /// It waits to be scheduled again.
    ReadyToRerun,
    /// The shutdown interrupted its run; the next start of the agent decides by `on_restart`.
    Interrupted,
    /// It has ended, and its result is being written.
    StoringResult,
    /// The result is reported until the hub confirms it.
    ReportingResult,
}

/// A command, with all that its next step depends on.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) id: CommandId,
    pub(super) seq: Seq,
    pub(super) stage: Stage,
    /// `None` if only a cancel arrived.
    pub(super) received: Option<Box<ReceivedCommand>>,
    /// `None` if it was cancelled before it arrived, or completed long ago.
    pub(super) action: Option<Action>,
    /// The agent's time when it arrived.
    pub(super) first_seen_ms: u64,
    /// The latest `attempt` that arrived since the agent started.
    pub(super) attempt: Option<u32>,
    pub(super) cancelled: bool,
    /// How often it was started.
    pub(super) runs: u32,
    /// The boot in which it was started last.
    pub(super) run_boot: Option<BootId>,
    pub(super) progress: Option<Progress>,
    /// Its result once it has ended; `None` then if the hub had ended it before it was started.
    pub(super) report: Option<Box<Report>>,
    pub(super) ended: bool,
    /// It was completed before, and is reported once more.
    pub(super) acked: bool,
    /// There was no space for its record: it is reported, and then forgotten.
    pub(super) unstored: bool,
    /// The disk was full: when the write of its start or result is tried again.
    pub(super) disk_retry_ms: Option<u64>,
    /// There was no space for its start, and that was logged.
    pub(super) is_start_postponed: bool,
    /// The agent's time when the hub first rejected the result permanently.
    pub(super) rejected_since_ms: Option<u64>,
    pub(super) post: PostState,
}

/// The state of reporting one command.
#[derive(Debug, Clone, Default)]
pub(super) struct PostState {
    /// The report whose answer counts.
    pub(super) ticket: Option<u64>,
    /// When the last report was sent.
    pub(super) sent_ms: u64,
    /// When the next report is due.
    pub(super) due_ms: Option<u64>,
    /// Failed reports since the last one that was answered.
    pub(super) failures: u32,
    /// Since when its result is reported.
    pub(super) since_ms: u64,
    /// The last answer rejected the result permanently.
    pub(super) is_rejected: bool,
    /// What is left out of the result, which was too large.
    pub(super) reduction: ReportReduction,
}

impl Entry {
    pub(super) fn new(id: CommandId, seq: Seq, first_seen_ms: u64, stage: Stage) -> Self {
        Self {
            id,
            seq,
            stage,
            received: None,
            action: None,
            first_seen_ms,
            attempt: None,
            cancelled: false,
            runs: 0,
            run_boot: None,
            progress: None,
            report: None,
            ended: false,
            acked: false,
            unstored: false,
            disk_retry_ms: None,
            is_start_postponed: false,
            rejected_since_ms: None,
            post: PostState::default(),
        }
    }

    /// A command that arrived.
    pub(super) fn of(received: Box<ReceivedCommand>) -> Self {
        let CommandEvent { id, seq, attempt, .. } = received.event;
        Self {
            attempt: Some(attempt),
            action: Some(received.event.action.clone()),
            first_seen_ms: received.first_seen_ms,
            received: Some(received),
            ..Self::new(id, seq, 0, Stage::StoringCommand)
        }
    }

    pub(super) fn event(&self) -> Option<&CommandEvent> {
        self.received.as_deref().map(|received| &received.event)
    }

    /// Waits to be scheduled, or for a step before that.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(
            self.stage,
            Stage::StoringCommand
                | Stage::Offering
                | Stage::Ready
                | Stage::KillingOrphans
                | Stage::ConfirmingRerun
                | Stage::ReadyToRerun
        )
    }

    /// Can be started as soon as it is scheduled.
    pub(super) fn is_ready(&self) -> bool {
        matches!(self.stage, Stage::Ready | Stage::ReadyToRerun) && self.disk_retry_ms.is_none()
    }

    /// Its time to live may end before it is started.
    pub(super) fn can_expire(&self) -> bool {
        matches!(
            self.stage,
            Stage::Offering | Stage::Ready | Stage::ConfirmingRerun | Stage::ReadyToRerun
        )
    }

    /// Occupies a slot for running commands: so do orphan processes until they are dead.
    pub(super) fn is_running(&self) -> bool {
        matches!(self.stage, Stage::Starting | Stage::Running | Stage::KillingOrphans)
    }

    /// Its result may still have to be written.
    pub(super) fn needs_reservation(&self) -> bool {
        !self.ended || self.stage == Stage::StoringResult
    }

    /// From now on its result is reported.
    pub(super) fn begin_reporting(&mut self, now_ms: u64) {
        self.stage = Stage::ReportingResult;
        self.post = PostState { since_ms: now_ms, due_ms: Some(now_ms), ..PostState::default() };
    }

    /// What to report now, without `rev`. `None` if there is nothing to report.
    pub(super) fn next_report(&self) -> Option<Report> {
        let mut report = match self.stage {
            Stage::Offering | Stage::Ready => Report::of(ReportState::Accepted),
            // For the hub, a command that was running when the agent crashed still runs until its result is reported.
            Stage::KillingOrphans | Stage::ConfirmingRerun | Stage::ReadyToRerun => {
                Report::of(ReportState::Running)
            }
            Stage::Running => {
                let progress = self.progress;
                Report::new(ReportState::Running, Outcome { progress, ..Outcome::default() })
            }
            Stage::ReportingResult => self.report.as_deref()?.clone(),
            // A result is not reported before it is on disk, and the disk is full.
            Stage::StoringResult if self.disk_retry_ms.is_some() => {
                Report::of(ReportState::Running)
            }
            Stage::StoringCommand | Stage::Starting | Stage::Interrupted | Stage::StoringResult => {
                return None;
            }
        };
        self.post.reduction.apply(&mut report);
        report.attempt = self.attempt;
        Some(report)
    }

    /// Leaves more out of the result, which was too large; returns whether that makes it shorter.
    pub(super) fn reduce_further(&mut self) -> bool {
        let bytes = |entry: &Self| entry.next_report().map(|report| report.outcome.text_bytes());
        let before = bytes(self);
        while let Some(next) = self.post.reduction.next() {
            self.post.reduction = next;
            if bytes(self) < before {
                return true;
            }
        }
        false
    }

    pub(super) fn status(&self) -> CommandStatus {
        let error = self.report.as_ref().and_then(|report| report.outcome.error.as_ref());
        let state = match (&self.report, self.stage) {
            (Some(report), _) => report.state.as_str(),
            (None, _) if self.ended => "dropped",
            (None, Stage::Starting | Stage::Running) => "running",
            (None, _) => "waiting",
        };
        CommandStatus {
            id: self.id,
            seq: self.seq,
            action: self.action.clone(),
            state: state.to_owned(),
            code: error.map(|error| error.code.clone()),
            reported: self.acked,
            runs: Some(self.runs),
            waits: None,
        }
    }

    /// The records that describe what is on disk, or being written.
    pub(super) fn records(&self) -> Vec<Record> {
        let command = self.id;
        let received = self.received.clone().map(Record::Received);
        // Without the command itself, the record of the cancel has its order and time.
        let cancelled = (self.cancelled || self.received.is_none()).then_some(Record::Cancelled {
            command,
            seq: self.seq,
            first_seen_ms: self.first_seen_ms,
        });
        let boot = self.run_boot.clone();
        let started = boot.map(|boot| Record::Started { command, run: self.runs, boot });
        let ended = self.ended.then(|| Record::Ended { command, report: self.report.clone() });
        let rejection =
            self.rejected_since_ms.map(|since_ms| Record::PermanentRejection { command, since_ms });
        [received, cancelled, started, ended, rejection].into_iter().flatten().collect()
    }
}
