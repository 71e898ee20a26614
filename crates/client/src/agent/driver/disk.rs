//! The journal's hands: one thing at a time on a blocking thread, what waits meanwhile in one append.

use std::collections::VecDeque;

use tokio::task::JoinHandle;

use crate::agent::engine::Snapshot;
use crate::agent::fault::Point;
use crate::agent::journal::{AppendError, Journal, Record, Reserve};

/// What came of it.
pub(super) enum DiskOutcome {
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
enum DiskTask {
    Append(Append),
    Compact { snapshot: Snapshot, reserve_bytes: u64 },
}

struct Append {
    ticket: u64,
    records: Vec<Record>,
    reserve: Reserve,
}

/// The journal and what is to be done to it.
pub(super) struct Disk {
    /// Here while nothing is done to it.
    journal: Option<Journal>,
    bytes: u64,
    waiting: VecDeque<DiskTask>,
    busy: Option<JoinHandle<(Journal, Vec<DiskOutcome>)>>,
    done: VecDeque<DiskOutcome>,
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

    pub(super) fn write(&mut self, ticket: u64, records: Vec<Record>, reserve: Reserve) {
        self.waiting.push_back(DiskTask::Append(Append { ticket, records, reserve }));
    }

    /// Replaces the journal by what is in it; its lines are made where they are written.
    pub(super) fn compact(&mut self, snapshot: Snapshot, reserve_bytes: u64) {
        self.waiting.push_back(DiskTask::Compact { snapshot, reserve_bytes });
    }

    /// Begins with what waits, if nothing is under way.
    pub(super) fn start(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        if let Some(journal) = self.journal.take() {
            let tasks = std::mem::take(&mut self.waiting);
            self.busy = Some(tokio::task::spawn_blocking(move || run_tasks(journal, tasks)));
        }
    }

    /// The next thing that came of it. To drop it loses nothing.
    pub(super) async fn next(&mut self) -> DiskOutcome {
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
                Err(error) => return DiskOutcome::Failed { reason: error.to_string() },
            }
        }
    }
}

/// Does it all, in order, and nothing more once the disk has failed.
fn run_tasks(mut journal: Journal, mut tasks: VecDeque<DiskTask>) -> (Journal, Vec<DiskOutcome>) {
    let mut done = Vec::new();
    while let Some(next) = tasks.pop_front() {
        match next {
            DiskTask::Compact { snapshot, reserve_bytes } => {
                done.push(compact(&mut journal, &snapshot, reserve_bytes));
            }
            DiskTask::Append(first) => {
                let mut batch = vec![first];
                while let Some(DiskTask::Append(next)) =
                    tasks.pop_front_if(|tasks| matches!(tasks, DiskTask::Append(_)))
                {
                    batch.push(next);
                }
                append(&mut journal, &batch, &mut done);
            }
        }
        if matches!(done.last(), Some(DiskOutcome::Failed { .. })) {
            break;
        }
    }
    (journal, done)
}

fn compact(journal: &mut Journal, snapshot: &Snapshot, reserve_bytes: u64) -> DiskOutcome {
    match journal.compact(snapshot.lines(), reserve_bytes) {
        Ok(done) => DiskOutcome::Compacted { bytes: done.then(|| journal.bytes()) },
        Err(error) => DiskOutcome::Failed { reason: error.to_string() },
    }
}

/// Appends a batch in one go; without room for all of it, one after the other, in the same order.
fn append(journal: &mut Journal, batch: &[Append], done: &mut Vec<DiskOutcome>) {
    let records: Vec<&Record> = batch.iter().flat_map(|append| &append.records).collect();
    let reserve = Reserve {
        needed_bytes: batch.iter().map(|append| append.reserve.needed_bytes).max().unwrap_or(0),
        reserved_bytes: batch.last().map_or(0, |append| append.reserve.reserved_bytes),
    };
    match (journal.append(&records, reserve), batch) {
        (Ok(()), _) => done.push(DiskOutcome::Appended {
            tickets: batch.iter().map(|append| append.ticket).collect(),
            points: records.into_iter().filter_map(point).collect(),
            bytes: journal.bytes(),
        }),
        (Err(AppendError::Failed(error)), _) => {
            done.push(DiskOutcome::Failed { reason: error.to_string() });
        }
        (Err(AppendError::Full), [alone]) => done.push(DiskOutcome::Full { ticket: alone.ticket }),
        (Err(AppendError::Full), _) => {
            for alone in batch.chunks(1) {
                append(journal, alone, done);
                if matches!(done.last(), Some(DiskOutcome::Failed { .. })) {
                    return;
                }
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
        | Record::PermanentRejection { .. }
        | Record::Done { .. } => None,
    }
}

#[cfg(test)]
mod tests;
