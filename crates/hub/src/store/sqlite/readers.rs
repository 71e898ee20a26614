//! The threads that read: one for the core's loads and for tokens, some for the other reads of the API.
//!
//! They are separate so that a long list never holds back a send. Each has a connection of its own
//! that cannot write. A reader that meets a damaged disk reports that to the writer, which then
//! stops too; the reader continues with what can still be read.

use std::sync::Arc;

use bellwire_core::record::{Load, Loaded};
use bellwire_proto::TokenId;
use rusqlite::{Connection, ErrorCode};
use tokio::sync::oneshot;

use super::{Shared, loads, tokens};
use crate::store::{StoreError, StoreEvents, StoredToken};

/// A read of the API, to be run on the connection of a reader.
pub(super) type Job = Box<dyn FnOnce(&Shared, &Connection) + Send>;

/// A read of a few rows, for which every request of a device waits.
pub(super) enum PointRead {
    /// One that the core has decided on.
    Load(Load),
    /// The token of a request, of which nothing else is known yet.
    Token(TokenId, oneshot::Sender<Result<Option<StoredToken>, StoreError>>),
}

/// Answers the core's loads, and the reads of tokens, until the store is closed. What gathered meanwhile is answered
/// together, as of one moment.
pub(super) fn run_loads(shared: &Shared, connection: &Connection, events: &dyn StoreEvents) {
    let mut reads: Vec<PointRead> = Vec::new();
    while shared.loads.take_all(&mut reads, None) {
        let reads = reads.drain(..);
        let loaded = at_one_moment(connection, || {
            reads
                .filter_map(|read| match read {
                    PointRead::Load(load) => Some(match loads::answer(connection, &load) {
                        Ok(loaded) => loaded,
                        Err(error) => {
                            unreadable(shared, error);
                            Loaded::Failed(load)
                        }
                    }),
                    PointRead::Token(id, answer) => {
                        let read = tokens::stored(connection, id);
                        let _gone = answer.send(read.map_err(|error| unreadable(shared, error)));
                        None
                    }
                })
                .collect::<Vec<_>>()
        });
        if !loaded.is_empty() {
            events.loaded(loaded);
        }
    }
}

/// Runs the API's reads until the store is closed.
pub(super) fn run_jobs(shared: &Shared, connection: &Connection) {
    while let Some(job) = shared.jobs.take() {
        job(shared, connection);
    }
}

/// Runs reads that see the same state of the disk.
pub(super) fn at_one_moment<T>(connection: &Connection, reads: impl FnOnce() -> T) -> T {
    // If BEGIN fails, so does the first read, which then returns the error.
    let begun = execute(connection, "BEGIN");
    let answer = reads();
    if begun.is_ok() {
        let _ended = execute(connection, "COMMIT");
    }
    answer
}

fn execute(connection: &Connection, statement: &str) -> rusqlite::Result<usize> {
    connection.prepare_cached(statement)?.execute([])
}

/// Makes the answer to a read from its error, and has the writer stop if the disk is to blame.
pub(super) fn unreadable(shared: &Shared, error: rusqlite::Error) -> StoreError {
    let of_the_disk = matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::SystemIoFailure | ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
    );
    let source = Arc::new(error);
    if of_the_disk {
        shared.suspect(StoreError::Failed(source.clone()));
    }
    StoreError::Unreadable(source)
}
