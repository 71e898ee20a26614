//! What the agent knows of one command, and how the journal's records say it.

use bellwire_proto::stream::CommandEvent;
use bellwire_proto::{Action, CommandId, Progress, Report, ReportState, Seq};

use crate::agent::journal::{BootId, Received, Record};
use crate::agent::run::thin;
use crate::agent::status::CommandStatus;

/// Where a command is in its life at the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its record is on the way to the disk.
    Taking,
    /// On disk; the hub is told `accepted` until it answers.
    Offering,
    /// The hub has answered; waits for its turn.
    Ready,
    /// Its start record is on the way to the disk.
    Starting,
    /// Its handler runs.
    Running,
    /// A life before this one left it running: what is left of its handler is being killed.
    Sweeping,
    /// It is to run again.
    Again,
    /// It was interrupted by the end of this process, and the next one is to say what follows.
    Left,
    /// It is over, and the record of that is on the way to the disk.
    Recording,
    /// The hub is told how it ended until it shows that it knows.
    Telling,
    /// Nothing is to be done any more.
    Done,
}

/// What the agent knows of a command.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) id: CommandId,
    pub(super) seq: Seq,
    pub(super) stage: Stage,
    /// Kept until it has ended; there is none when only a cancel came.
    pub(super) received: Option<Box<Received>>,
    /// Not known of one that was cancelled before it came, or of long ago.
    pub(super) action: Option<Action>,
    /// The hub's clock when it was first heard of.
    pub(super) hub_ms: u64,
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
    pub(super) acked: bool,
    /// Not to be started before: the disk was full.
    pub(super) not_before_ms: u64,
    pub(super) post: Posting,
}

/// How the telling of a command goes.
#[derive(Debug, Clone, Default)]
pub(super) struct Posting {
    /// The report under way that counts.
    pub(super) ticket: Option<u64>,
    /// When the next one is due.
    pub(super) due_ms: Option<u64>,
    /// How many came to nothing since one was answered.
    pub(super) failures: u32,
    /// Since when the hub refuses the result for what it is.
    pub(super) unfit_since_ms: Option<u64>,
    /// The hub found it too large: its output is left out.
    pub(super) thin: bool,
}

impl Entry {
    pub(super) fn new(id: CommandId, seq: Seq, hub_ms: u64, stage: Stage) -> Self {
        Self {
            id,
            seq,
            stage,
            received: None,
            action: None,
            hub_ms,
            attempt: None,
            cancelled: false,
            runs: 0,
            run_boot: None,
            progress: None,
            report: None,
            ended: false,
            acked: false,
            not_before_ms: 0,
            post: Posting::default(),
        }
    }

    /// An entry of a command that came.
    pub(super) fn of(received: Box<Received>) -> Self {
        let CommandEvent { id, seq, attempt, ref action, .. } = received.event;
        Self {
            attempt: Some(attempt),
            action: Some(action.clone()),
            ..Self::new(id, seq, received.hub_ms, Stage::Taking)
        }
        .with(received)
    }

    fn with(self, received: Box<Received>) -> Self {
        Self { received: Some(received), ..self }
    }

    pub(super) fn event(&self) -> Option<&CommandEvent> {
        self.received.as_deref().map(|received| &received.event)
    }

    /// Waits for its turn, or for what comes before.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.stage, Stage::Taking | Stage::Offering | Stage::Ready | Stage::Again)
    }

    /// Takes one of the places that there are for running.
    pub(super) fn is_running(&self) -> bool {
        matches!(self.stage, Stage::Starting | Stage::Running)
    }

    /// Its result may still have to go to the disk.
    pub(super) fn needs_room(&self) -> bool {
        !self.ended
    }

    /// What is told of it now, without `rev`. `None` when there is nothing to tell.
    pub(super) fn told(&self) -> Option<Report> {
        let mut report = match self.stage {
            Stage::Offering | Stage::Ready => Report::of(ReportState::Accepted),
            // To the hub, what is to run again runs.
            Stage::Again => Report::of(ReportState::Running),
            Stage::Running => {
                Report { progress: self.progress, ..Report::of(ReportState::Running) }
            }
            Stage::Telling => self.report.as_deref()?.clone(),
            _ => return None,
        };
        if self.post.thin {
            thin(&mut report);
        }
        report.attempt = self.attempt;
        Some(report)
    }

    /// Drops what is not needed once the hub has the result: to tell it again, the state is enough,
    /// since what the hub was told before stays.
    pub(super) fn shrink(&mut self) {
        self.received = None;
        self.progress = None;
        self.post = Posting::default();
        if let Some(report) = &mut self.report {
            report.result = None;
            (report.stdout, report.stderr, report.truncated) = (None, None, None);
        }
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
            told: self.acked,
            runs: self.runs,
        }
    }

    /// The records that say what is on disk, or on the way there.
    pub(super) fn records(&self) -> impl Iterator<Item = Record> {
        let command = self.id;
        let received = self.received.clone().map(Record::Received);
        // Without the command, a record of the cancel is what tells its place and time.
        let cancelled = (self.cancelled || self.received.is_none()).then_some(Record::Cancelled {
            command,
            seq: self.seq,
            hub_ms: self.hub_ms,
        });
        let boot = self.run_boot.clone();
        let started = boot.map(|boot| Record::Started { command, run: self.runs, boot });
        let ended = self.ended.then(|| Record::Ended { command, report: self.report.clone() });
        let acked = self.acked.then_some(Record::Acked { command });
        [received, cancelled, started, ended, acked].into_iter().flatten()
    }
}
