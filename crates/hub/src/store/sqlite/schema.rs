//! The file: how connections to it are opened, its tables, and how an older one becomes today's.
//!
//! `docs/store.md` explains the tables; a change here is a change there.

use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::OpenError;

/// Marks the file as ours (`PRAGMA application_id`): "bwir" in ASCII.
const APPLICATION_ID: i32 = 0x6277_6972;

/// Each makes version n+1 of version n, in the transaction that also writes the new version
/// (`PRAGMA user_version`). What was released is never changed, only followed.
const MIGRATIONS: [&str; 1] = [V1];

/// The version that this program reads and writes.
pub(super) const VERSION: i64 = MIGRATIONS.len() as i64;

/// - `commands` grows at its end. The data is last, so that a scan by action does not read it.
/// - `deliveries` too grows at its end: a new one and the change that follows at once meet on the
///   same page, whatever the device.
/// - `deliveries_live` and `deliveries_due` hold what has not ended and stay as small as that.
/// - `deliveries_ended` is the one index that grows with history: a device's past, and the order of
///   delivery for a replay.
/// - States are the numbers of `rows::state_number`; 0 to 4 are live.
const V1: &str = "
CREATE TABLE meta (
    key   TEXT NOT NULL PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO meta VALUES ('last_seq', 0);

CREATE TABLE devices (
    device       TEXT NOT NULL PRIMARY KEY,
    created_at   INTEGER NOT NULL,
    seen_at      INTEGER,
    seen_address TEXT,
    seen_agent   TEXT,
    labels       TEXT NOT NULL,
    facts        TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE commands (
    seq            INTEGER NOT NULL PRIMARY KEY,
    id             BLOB NOT NULL UNIQUE,
    action         TEXT NOT NULL,
    created_at     INTEGER NOT NULL,
    expires_at     INTEGER NOT NULL,
    run_timeout_ms INTEGER NOT NULL,
    not_before     INTEGER,
    created_by     TEXT,
    total          INTEGER NOT NULL,
    data           TEXT NOT NULL
) STRICT;

CREATE TABLE deliveries (
    seq              INTEGER NOT NULL,
    device           TEXT NOT NULL,
    state            INTEGER NOT NULL,
    attempt          INTEGER NOT NULL,
    sends            INTEGER NOT NULL,
    counted          INTEGER NOT NULL,
    rev              INTEGER,
    version          INTEGER NOT NULL,
    updated_at       INTEGER NOT NULL,
    flags            INTEGER NOT NULL,
    retry_at         INTEGER,
    run_until        INTEGER,
    cancelling_since INTEGER,
    due_at           INTEGER,
    progress         REAL,
    exit_code        INTEGER,
    error_code       TEXT,
    error_message    TEXT,
    result           TEXT,
    stdout           TEXT,
    stderr           TEXT,
    PRIMARY KEY (seq, device)
) STRICT, WITHOUT ROWID;
CREATE INDEX deliveries_live  ON deliveries (device, seq, state) WHERE state < 5;
CREATE INDEX deliveries_due   ON deliveries (due_at, device) WHERE due_at IS NOT NULL;
CREATE INDEX deliveries_ended ON deliveries (device, updated_at, seq, state) WHERE state >= 5;

CREATE TABLE idempotency (
    caller      TEXT NOT NULL,
    key         TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    command     BLOB NOT NULL,
    device      TEXT NOT NULL,
    expires_at  INTEGER NOT NULL,
    PRIMARY KEY (caller, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_expiry ON idempotency (expires_at);
";

/// Where the file is, and through which of SQLite's file systems it is reached.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    pub(super) vfs: Option<String>,
    /// Pages in the log before it is checkpointed: [`CHECKPOINT_PAGES`].
    pub(super) checkpoint_pages: u32,
}

impl Place {
    fn connect(&self, flags: OpenFlags) -> rusqlite::Result<Connection> {
        // Each connection belongs to one thread, so SQLite need not lock it.
        let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = match &self.vfs {
            None => Connection::open_with_flags(&self.path, flags),
            Some(vfs) => Connection::open_with_flags_and_vfs(&self.path, flags, vfs.as_str()),
        }?;
        connection.set_prepared_statement_cache_capacity(64);
        // One plan for a statement, whatever is bound to it. Otherwise SQLite compiles a statement
        // anew for each value that is compared with a column of a partial index.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        Ok(connection)
    }

    /// The connection of the writer.
    pub(super) fn writer(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        let connection = self.connect(flags)?;
        // FULL: in WAL mode each commit ends with an fsync of the log, which is what the 2xx rests
        // on. NORMAL would fsync at checkpoints alone.
        connection.execute_batch(&format!(
            "PRAGMA page_size = {PAGE_BYTES};
             PRAGMA journal_mode = WAL;
             PRAGMA synchronous = FULL;
             PRAGMA wal_autocheckpoint = 0;
             PRAGMA journal_size_limit = {WAL_KEPT_BYTES};
             PRAGMA cache_size = -{WRITER_CACHE_KIB};
             PRAGMA temp_store = MEMORY;
             PRAGMA foreign_keys = OFF;"
        ))?;
        Ok(connection)
    }

    /// The connection that checkpoints. It fsyncs as the writer's does.
    pub(super) fn mover(&self) -> rusqlite::Result<Connection> {
        let connection = self.connect(OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        connection.execute_batch(
            "PRAGMA synchronous = FULL;
             PRAGMA wal_autocheckpoint = 0;",
        )?;
        Ok(connection)
    }

    /// A connection that cannot write.
    pub(super) fn reader(&self) -> rusqlite::Result<Connection> {
        let connection = self.connect(OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.execute_batch(&format!(
            "PRAGMA query_only = ON;
             PRAGMA cache_size = -{READER_CACHE_KIB};
             PRAGMA temp_store = MEMORY;"
        ))?;
        Ok(connection)
    }
}

/// Bytes of a page.
const PAGE_BYTES: u32 = 4096;
/// Pages in the log before it is checkpointed: 16 MiB.
pub(super) const CHECKPOINT_PAGES: u32 = 4000;
/// Bytes of the log's file that are kept for reuse when it starts anew.
const WAL_KEPT_BYTES: u32 = 64 * 1024 * 1024;
/// KiB of pages that the writer keeps: the ends of the tables, and the inner pages of the indexes.
const WRITER_CACHE_KIB: u32 = 32 * 1024;
/// KiB of pages that each reader keeps.
const READER_CACHE_KIB: u32 = 8 * 1024;

/// Brings the file to [`VERSION`], creating the tables in an empty one.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), OpenError> {
    let sqlite = |source| OpenError::sqlite(path, source);
    let number = |c: &Connection, pragma: &str| c.pragma_query_value(None, pragma, |r| r.get(0));
    let version: i64 = number(connection, "user_version").map_err(sqlite)?;
    let application: i64 = number(connection, "application_id").map_err(sqlite)?;
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(sqlite)?;

    let empty = tables == 0 && version == 0;
    if !empty && application != i64::from(APPLICATION_ID) {
        return Err(OpenError::Foreign { path: path.into() });
    }
    if version > VERSION {
        return Err(OpenError::Newer { path: path.into(), found: version, known: VERSION });
    }
    let done = usize::try_from(version).unwrap_or_default();
    for (migration, version) in MIGRATIONS.iter().zip(1i64..).skip(done) {
        let mut step = || {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            transaction.execute_batch(migration)?;
            transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
            transaction.pragma_update(None, "user_version", version)?;
            transaction.commit()
        };
        step().map_err(sqlite)?;
    }
    Ok(())
}
