//! The journal's hands: one thing at a time on a blocking thread, what waits meanwhile in one append.

use std::collections::VecDeque;

use tokio::task::JoinHandle;

use crate::agent::engine::Snapshot;
use crate::agent::fault::Point;
use crate::agent::journal::{AppendError, Journal, Record};

/// What came of it.
pub(super) enum Written {
    /// These are on disk.
    Appended { tickets: Vec<u64>, points: Vec<Point>, bytes: u64 },
    /// There was no room for this one.
    Full { ticket: u64 },
    /// The journal was rewritten, if its new length is given.
    Compacted { bytes: Option<u64> },
    /// The disk failed.
    Failed { reason: String },
}

/// Something to be done.
enum Work {
    Append { ticket: u64, records: Vec<Record>, reserve_bytes: u64 },
    Compact { snapshot: Snapshot, reserve_bytes: u64 },
}

/// The journal and what is to be done to it.
pub(super) struct Disk {
    /// Here while nothing is done to it.
    journal: Option<Journal>,
    bytes: u64,
    waiting: VecDeque<Work>,
    busy: Option<JoinHandle<(Journal, Vec<Written>)>>,
    done: VecDeque<Written>,
}

impl Disk {
    pub(super) fn new(journal: Journal) -> Self {
        Self {
            bytes: journal.bytes(),
            journal: Some(journal),
            waiting: VecDeque::new(),
            busy: None,
            done: VecDeque::new(),
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.busy.is_none() && self.done.is_empty()
    }

    pub(super) fn write(&mut self, ticket: u64, records: Vec<Record>, reserve_bytes: u64) {
        self.waiting.push_back(Work::Append { ticket, records, reserve_bytes });
    }

    pub(super) fn compact(&mut self, snapshot: Snapshot, reserve_bytes: u64) {
        self.waiting.push_back(Work::Compact { snapshot, reserve_bytes });
    }

    /// Begins with what waits, if nothing is under way.
    pub(super) fn start(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        if let Some(journal) = self.journal.take() {
            let work = std::mem::take(&mut self.waiting);
            self.busy = Some(tokio::task::spawn_blocking(move || perform(journal, work)));
        }
    }

    /// The next thing that came of it. To drop it loses nothing.
    pub(super) async fn next(&mut self) -> Written {
        loop {
            if let Some(written) = self.done.pop_front() {
                return written;
            }
            let Some(busy) = &mut self.busy else { return std::future::pending().await };
            let result = busy.await;
            self.busy = None;
            match result {
                Ok((journal, done)) => {
                    self.bytes = journal.bytes();
                    self.journal = Some(journal);
                    self.done.extend(done);
                }
                Err(error) => return Written::Failed { reason: error.to_string() },
            }
        }
    }
}

/// Does it all, in order.
fn perform(mut journal: Journal, mut work: VecDeque<Work>) -> (Journal, Vec<Written>) {
    let mut done = Vec::new();
    while let Some(next) = work.pop_front() {
        let written = match next {
            Work::Compact { snapshot, reserve_bytes } => {
                compact(&mut journal, &snapshot, reserve_bytes)
            }
            Work::Append { ticket, records, reserve_bytes } => {
                let mut batch = vec![(ticket, records, reserve_bytes)];
                let is_append = |work: &mut Work| matches!(work, Work::Append { .. });
                while let Some(Work::Append { ticket, records, reserve_bytes }) =
                    work.pop_front_if(is_append)
                {
                    batch.push((ticket, records, reserve_bytes));
                }
                append(&mut journal, batch, &mut done)
            }
        };
        let failed = matches!(written, Written::Failed { .. });
        done.push(written);
        if failed {
            break;
        }
    }
    (journal, done)
}

fn compact(journal: &mut Journal, snapshot: &Snapshot, reserve_bytes: u64) -> Written {
    match journal.compact(snapshot.lines(), reserve_bytes) {
        Ok(()) => Written::Compacted { bytes: Some(journal.bytes()) },
        Err(error @ AppendError::Full) => {
            tracing::warn!(%error, "the journal was not compacted");
            Written::Compacted { bytes: None }
        }
        Err(AppendError::Failed(error)) => Written::Failed { reason: error.to_string() },
    }
}

/// Appends a batch in one go; without room for all of it, one after the other.
fn append(
    journal: &mut Journal,
    mut batch: Vec<(u64, Vec<Record>, u64)>,
    done: &mut Vec<Written>,
) -> Written {
    // What one of them asks for must be there after all of them.
    let reserve_bytes = batch.iter().map(|(_, _, bytes)| *bytes).max().unwrap_or_default();
    let tickets: Vec<u64> = batch.iter().map(|(ticket, _, _)| *ticket).collect();
    let records: Vec<Record> = batch.iter().flat_map(|(_, records, _)| records.clone()).collect();
    match journal.append(&records, reserve_bytes) {
        Ok(()) => {
            let points = records.iter().filter_map(point).collect();
            Written::Appended { tickets, points, bytes: journal.bytes() }
        }
        Err(AppendError::Failed(error)) => Written::Failed { reason: error.to_string() },
        Err(AppendError::Full) => {
            let last = batch.pop();
            for alone in batch {
                let written = append(journal, vec![alone], done);
                done.push(written);
            }
            match last {
                Some(last) if tickets.len() > 1 => append(journal, vec![last], done),
                _ => Written::Full { ticket: tickets.first().copied().unwrap_or_default() },
            }
        }
    }
}

/// At which point of a command's life a record is on disk.
fn point(record: &Record) -> Option<Point> {
    match record {
        Record::Received(_) => Some(Point::Journaled),
        Record::Started { .. } => Some(Point::Started),
        Record::Ended { .. } => Some(Point::Recorded),
        Record::Acked { .. } => Some(Point::Acked),
        Record::Begun { .. }
        | Record::Cancelled { .. }
        | Record::Unfit { .. }
        | Record::Done { .. } => None,
    }
}
