//! The file: how connections to it are opened, its tables, and how an older one becomes today's.
//!
//! `docs/store.md` explains the tables; a change here is a change there.

use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::OpenError;

/// Marks the file as ours (`PRAGMA application_id`): "bwir" in ASCII.
pub(super) const APPLICATION_ID: i32 = 0x6277_6972;

/// Each makes version n+1 of version n, in the transaction that also writes the new version
/// (`PRAGMA user_version`). One that was released is never changed; another is added behind it.
const MIGRATIONS: [&str; 8] = [V1, V2, V3, V4, V5, V6, V7, V8];

/// The version that this program reads and writes.
pub(super) const VERSION: i64 = MIGRATIONS.len() as i64;

const V1: &str = include_str!("migrations/v1.sql");
const V2: &str = include_str!("migrations/v2.sql");
const V3: &str = include_str!("migrations/v3.sql");
const V4: &str = include_str!("migrations/v4.sql");
const V5: &str = include_str!("migrations/v5.sql");
const V6: &str = include_str!("migrations/v6.sql");
const V7: &str = include_str!("migrations/v7.sql");
const V8: &str = include_str!("migrations/v8.sql");

/// Where the file is, and through which of SQLite's file systems it is reached.
#[derive(Debug, Clone)]
pub(super) struct StoreFile {
    pub(super) path: PathBuf,
    pub(super) vfs: Option<String>,
    /// Pages in the log before it is checkpointed: [`CHECKPOINT_PAGES`].
    pub(super) checkpoint_pages: u32,
}

impl StoreFile {
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
             PRAGMA journal_size_limit = {WAL_RETAINED_BYTES};
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
/// Bytes of the log's file that are retained for reuse when it starts anew.
const WAL_RETAINED_BYTES: u32 = 64 * 1024 * 1024;
/// KiB of pages that the writer caches: the ends of the tables, and the inner pages of the indexes.
/// More costs more than it saves: when a tree was balanced, SQLite walks through the whole cache at
/// COMMIT (its page cache takes the temporary number of a page that was moved for one past the end
/// of the file). At 32 MiB that was a fifth of this thread's CPU; what is missing comes from the
/// kernel's cache.
const WRITER_CACHE_KIB: u32 = 4 * 1024;
/// KiB of pages that each reader caches.
const READER_CACHE_KIB: u32 = 8 * 1024;

/// What a file shows of who wrote it.
pub(super) struct Marks {
    pub(super) version: i64,
    pub(super) application: i64,
    pub(super) no_tables: bool,
}

/// Whether this program can use the file.
pub(super) fn judge(path: &Path, marks: &Marks) -> Result<(), OpenError> {
    let &Marks { version, application, no_tables } = marks;
    let empty = no_tables && version == 0;
    if !empty && application != i64::from(APPLICATION_ID) {
        return Err(OpenError::Foreign { path: path.into() });
    }
    if version > VERSION {
        return Err(OpenError::Newer { path: path.into(), found: version, known: VERSION });
    }
    Ok(())
}

/// Brings the file to [`VERSION`], creating the tables in an empty one.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), OpenError> {
    let sqlite = |source| OpenError::sqlite(path, source);
    let number = |c: &Connection, pragma: &str| c.pragma_query_value(None, pragma, |r| r.get(0));
    let version: i64 = number(connection, "user_version").map_err(sqlite)?;
    let application: i64 = number(connection, "application_id").map_err(sqlite)?;
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(sqlite)?;

    judge(path, &Marks { version, application, no_tables: tables == 0 })?;
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
