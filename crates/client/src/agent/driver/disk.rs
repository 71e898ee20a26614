//! Writes the journal on a blocking thread, one task at a time. Appends that wait meanwhile are joined into one.

use std::collections::VecDeque;
use std::io;

use tokio::task::JoinHandle;

use crate::agent::engine::JournalSnapshot;
use crate::agent::fault::Point;
use crate::agent::journal::{AppendError, Journal, Record, Reserve};

/// The outcome of a task.
pub(super) enum DiskOutcome {
    /// These writes are on disk.
    Appended { tickets: Vec<u64>, points: Vec<Point>, bytes: u64 },
    /// There was no space for this write.
    Full { ticket: u64 },
    /// A compaction has ended. It succeeded if the new length is given.
    Compacted { bytes: Option<u64> },
    /// The disk failed.
    Failed { error: io::Error },
}

/// A task for the disk.
enum DiskTask {
    Append(Append),
    Compact { snapshot: JournalSnapshot, reserve_bytes: u64 },
}

struct Append {
    ticket: u64,
    records: Vec<Record>,
    reserve: Reserve,
}

/// The journal, and the tasks for it.
pub(super) struct Disk {
    /// `None` while a task is running.
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

    /// Replaces the journal by the snapshot, whose lines are encoded as they are written.
    pub(super) fn compact(&mut self, snapshot: JournalSnapshot, reserve_bytes: u64) {
        self.waiting.push_back(DiskTask::Compact { snapshot, reserve_bytes });
    }

    /// Starts the tasks that wait, if none is running.
    pub(super) fn start(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        if let Some(journal) = self.journal.take() {
            let tasks = std::mem::take(&mut self.waiting);
            self.busy = Some(tokio::task::spawn_blocking(move || run_tasks(journal, tasks)));
        }
    }

    /// The next outcome. Cancel-safe.
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
                Err(error) => return DiskOutcome::Failed { error: io::Error::other(error) },
            }
        }
    }
}

/// Runs all tasks in order, and none after the disk has failed.
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

fn compact(journal: &mut Journal, snapshot: &JournalSnapshot, reserve_bytes: u64) -> DiskOutcome {
    match journal.compact(snapshot.lines(), reserve_bytes) {
        Ok(done) => DiskOutcome::Compacted { bytes: done.then(|| journal.bytes()) },
        Err(error) => DiskOutcome::Failed { error },
    }
}

/// Appends a batch at once. If there is no space for all of it, each append is tried alone, in the same order.
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
            done.push(DiskOutcome::Failed { error });
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

/// The fault point at which a record is on disk.
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
