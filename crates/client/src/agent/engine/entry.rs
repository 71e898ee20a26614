//! What the agent knows of one command that is not over, and how the journal's records say it.

use bellwire_proto::stream::CommandEvent;
use bellwire_proto::{Action, CommandId, Progress, Report, ReportState, Seq};

use crate::agent::journal::{BootId, Received, Record};
use crate::agent::run::thin;
use crate::agent::status::CommandStatus;

/// Where a command is in its life at the device. One that has come to its end is no
/// [`Entry`] any more: see `past.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its record is on the way to the disk.
    StoringCommand,
    /// On disk; the hub is told `accepted` until it answers.
    Offering,
    /// The hub has answered; waits for its turn.
    Ready,
    /// Its start record is on the way to the disk.
    Starting,
    /// Its handler runs.
    Running,
    /// A life before this one left it running: what is left of its handler is being killed.
    KillingOrphans,
    /// It may run again; the hub is told `running` first, since it may have ended it meanwhile.
    ConfirmingRerun,
    /// It is to run again.
    ReadyToRerun,
    /// It was interrupted by the end of this process, and the next one is to say what follows.
    Interrupted,
    /// It is over, and the record of that is on the way to the disk.
    StoringResult,
    /// The hub is told how it ended until it shows that it knows.
    ReportingResult,
}

/// What the agent knows of a command.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) id: CommandId,
    pub(super) seq: Seq,
    pub(super) stage: Stage,
    /// There is none when only a cancel came.
    pub(super) received: Option<Box<Received>>,
    /// Not known of one that was cancelled before it came, or of long ago.
    pub(super) action: Option<Action>,
    /// The agent's time when it first heard of it.
    pub(super) first_seen_ms: u64,
    /// The latest sending that came, in this life of the agent.
    pub(super) attempt: Option<u32>,
    pub(super) cancelled: bool,
    /// How often it was started.
    pub(super) runs: u32,
    /// In which run of the kernel it was started last.
    pub(super) run_boot: Option<BootId>,
    pub(super) progress: Option<Progress>,
    /// How it ended, once it has; `None` then when the hub had ended it before it was started.
    pub(super) report: Option<Box<Report>>,
    pub(super) ended: bool,
    /// It was over before, and is told once more.
    pub(super) acked: bool,
    /// There was no room for it: told, and forgotten.
    pub(super) unstored: bool,
    /// The disk was full: when what was to be written, its start or its end, is tried again.
    pub(super) disk_retry_ms: Option<u64>,
    /// Its start found no room, and that was said.
    pub(super) is_start_postponed: bool,
    /// The agent's time when the hub first rejected the result permanently.
    pub(super) rejected_since_ms: Option<u64>,
    pub(super) post: PostState,
}

/// How the telling of a command goes.
#[derive(Debug, Clone, Default)]
pub(super) struct PostState {
    /// The report under way that counts.
    pub(super) ticket: Option<u64>,
    /// When the last one left.
    pub(super) sent_ms: u64,
    /// When the next one is due.
    pub(super) due_ms: Option<u64>,
    /// How many came to nothing since one was answered.
    pub(super) failures: u32,
    /// Since when it is told how it ended.
    pub(super) since_ms: u64,
    /// The last answer rejected the result permanently.
    pub(super) is_rejected: bool,
    /// The hub found it too large: its output is left out.
    pub(super) thin: bool,
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

    /// An entry of a command that came.
    pub(super) fn of(received: Box<Received>) -> Self {
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

    /// Waits for its turn, or for what comes before.
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

    /// Nothing but its turn keeps it from running.
    pub(super) fn is_ready(&self) -> bool {
        matches!(self.stage, Stage::Ready | Stage::ReadyToRerun) && self.disk_retry_ms.is_none()
    }

    /// Waits for what may come too late for it.
    pub(super) fn can_expire(&self) -> bool {
        matches!(
            self.stage,
            Stage::Offering | Stage::Ready | Stage::ConfirmingRerun | Stage::ReadyToRerun
        )
    }

    /// Takes one of the places that there are for running: also what is left of a run, until it is
    /// dead.
    pub(super) fn is_running(&self) -> bool {
        matches!(self.stage, Stage::Starting | Stage::Running | Stage::KillingOrphans)
    }

    /// Its result may still have to go to the disk.
    pub(super) fn needs_reservation(&self) -> bool {
        !self.ended || self.stage == Stage::StoringResult
    }

    /// From now on the hub is told how it ended.
    pub(super) fn begin_reporting(&mut self, now_ms: u64) {
        self.stage = Stage::ReportingResult;
        self.post = PostState { since_ms: now_ms, due_ms: Some(now_ms), ..PostState::default() };
    }

    /// What is told of it now, without `rev`. `None` when there is nothing to tell.
    pub(super) fn next_report(&self) -> Option<Report> {
        let mut report = match self.stage {
            Stage::Offering | Stage::Ready => Report::of(ReportState::Accepted),
            // To the hub, what was left running and what is to run again runs.
            Stage::KillingOrphans | Stage::ConfirmingRerun | Stage::ReadyToRerun => {
                Report::of(ReportState::Running)
            }
            Stage::Running => {
                Report { progress: self.progress, ..Report::of(ReportState::Running) }
            }
            Stage::ReportingResult => self.report.as_deref()?.clone(),
            // How it ended is not told before it is on disk, and that is full.
            Stage::StoringResult if self.disk_retry_ms.is_some() => {
                Report::of(ReportState::Running)
            }
            Stage::StoringCommand | Stage::Starting | Stage::Interrupted | Stage::StoringResult => {
                return None;
            }
        };
        if self.post.thin {
            thin(&mut report);
        }
        report.attempt = self.attempt;
        Some(report)
    }

    pub(super) fn status(&self) -> CommandStatus {
        let error = self.report.as_ref().and_then(|report| report.error.as_ref());
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
        }
    }

    /// The records that say what is on disk, or on the way there.
    pub(super) fn records(&self) -> Vec<Record> {
        let command = self.id;
        let received = self.received.clone().map(Record::Received);
        // Without the command, a record of the cancel is what tells its place and time.
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
