//! Moving the log into the database, without holding up the writer.
//!
//! SQLite's own way checkpoints within the commit that made the log long, before it is reported.
//! Here the bulk is moved by a thread beside, while commits go on; the writer moves the little that
//! came meanwhile, after it has reported, so that the log is empty for a moment and can start anew.

use rusqlite::{Connection, Result, Statement};

use super::{Shared, readers};

/// The writer's side.
pub(super) struct Checkpoint<'c> {
    /// Pages in the log from which a checkpoint is worthwhile.
    pages: i64,
    measure: Statement<'c>,
    passive: Statement<'c>,
}

/// How long the log is, and how much of it is in the database already.
struct Log {
    pages: i64,
    moved: i64,
}

impl<'c> Checkpoint<'c> {
    pub(super) fn new(connection: &'c Connection, shared: &Shared) -> Result<Self> {
        Ok(Self {
            pages: i64::from(shared.file.checkpoint_pages),
            measure: connection.prepare("PRAGMA wal_checkpoint(NOOP)")?,
            passive: connection.prepare(PASSIVE)?,
        })
    }

    /// To be called between commits.
    pub(super) fn step(&mut self, shared: &Shared) -> Result<()> {
        let log = log(&mut self.measure)?;
        if log.pages < self.pages {
            return Ok(());
        }
        // A slow reader can hold the other thread back. In a log of eight times this length the writer moves
        // what it can itself, although commits wait meanwhile.
        let short = log.pages - log.moved <= self.pages / 4;
        let too_long = log.pages > 8 * self.pages;
        if short || too_long {
            log_after(&mut self.passive)?;
        } else {
            shared.checkpoints.wake();
        }
        Ok(())
    }
}

/// Moves the bulk whenever the writer asks, until the store is closed.
pub(super) fn run(shared: &Shared, connection: &Connection) {
    let mut nothing: Vec<()> = Vec::new();
    while shared.checkpoints.take_all(&mut nothing, None) {
        let moved = connection.prepare_cached(PASSIVE).and_then(|mut s| log_after(&mut s));
        if let Err(error) = moved {
            readers::unreadable(shared, error);
        }
    }
}

const PASSIVE: &str = "PRAGMA wal_checkpoint(PASSIVE)";

fn log_after(checkpoint: &mut Statement<'_>) -> Result<()> {
    log(checkpoint).map(drop)
}

fn log(checkpoint: &mut Statement<'_>) -> Result<Log> {
    checkpoint.query_row([], |row| Ok(Log { pages: row.get(1)?, moved: row.get(2)? }))
}
