//! How a store is opened, and why it may not be.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bellwire_proto::limits::{AUDIT_BYTES, AUDIT_KEEP_S, HISTORY_S};

use super::folder;
use super::schema::{CHECKPOINT_PAGES, StoreFile};
use crate::clock::Clock;

/// How a store is to be opened.
#[derive(Clone)]
pub struct Options {
    pub(super) history_retention: Duration,
    pub(super) audit_keep: Duration,
    pub(super) audit_bytes_max: u64,
    pub(super) bytes_max: u64,
    pub(super) free_min: u64,
    pub(super) counts_senders: bool,
    /// Given clocks, or `None`: those of the machine, which go on from the last run.
    pub(super) clock: Option<Clock>,
    vfs: Option<String>,
    checkpoint_pages: u32,
}

impl Default for Options {
    /// History for the default of the setting, the machine's clocks and the system's files.
    fn default() -> Self {
        Self {
            history_retention: Duration::from_secs(HISTORY_S.default),
            audit_keep: Duration::from_secs(AUDIT_KEEP_S.default),
            audit_bytes_max: AUDIT_BYTES.default,
            bytes_max: 0,
            free_min: 0,
            counts_senders: false,
            clock: None,
            vfs: None,
            checkpoint_pages: CHECKPOINT_PAGES,
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { history_retention, vfs, .. } = self;
        f.debug_struct("Options")
            .field("history_retention", history_retention)
            .field("vfs", vfs)
            .finish_non_exhaustive()
    }
}

impl Options {
    /// Retains what has ended for this long, and at least for the minimum of the setting `history`.
    #[must_use]
    pub fn history_retention(self, history_retention: Duration) -> Self {
        let least = Duration::from_secs(HISTORY_S.min);
        Self { history_retention: history_retention.max(least), ..self }
    }

    /// Retains the audit log for this long, and of it this many bytes at most, whichever is less.
    #[must_use]
    pub fn audit_retention(self, audit_keep: Duration, audit_bytes_max: u64) -> Self {
        Self { audit_keep, audit_bytes_max, ..self }
    }

    /// Has no space for another command once it holds so many bytes, or fewer are free on its disk; 0 is no limit.
    #[must_use]
    pub fn space(self, bytes_max: u64, free_min: u64) -> Self {
        Self { bytes_max, free_min, ..self }
    }

    /// Counts what the commands of each sender take, for [`Store::bytes_of_sender`]; the start then looks at every command.
    ///
    /// [`Store::bytes_of_sender`]: crate::store::Store::bytes_of_sender
    #[must_use]
    pub fn count_senders(self, counts_senders: bool) -> Self {
        Self { counts_senders, ..self }
    }

    /// Runs on these clocks instead of the machine's.
    #[must_use]
    pub fn clock(self, clock: Clock) -> Self {
        Self { clock: Some(clock), ..self }
    }

    /// Where the database of a folder is.
    pub(super) fn file(&self, data_dir: &Path) -> StoreFile {
        StoreFile {
            path: data_dir.join(folder::DATABASE),
            vfs: self.vfs.clone(),
            checkpoint_pages: self.checkpoint_pages,
        }
    }

    /// Reaches the file through one of SQLite's file systems, by its name, and checkpoints so often
    /// that a short history has some of it.
    #[cfg(feature = "fault")]
    pub(in crate::store) fn vfs(self, vfs: String, checkpoint_pages: u32) -> Self {
        Self { vfs: Some(vfs), checkpoint_pages, ..self }
    }
}

/// Why a store does not open. Each message says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The folder or a file in it cannot be made or opened.
    #[error("cannot use {}: {source}; {}", path.display(), remedy(source))]
    Folder {
        /// The folder or the file.
        path: PathBuf,
        /// What the system says of it.
        source: io::Error,
    },
    /// Another hub uses the folder.
    #[error(
        "the data folder {} is in use by another hub{}: stop that one, or give this one a folder of \
         its own",
        dir.display(),
        of_process(*.process)
    )]
    InUse {
        /// The folder.
        dir: PathBuf,
        /// The process of that hub, if it could write it down.
        process: Option<u32>,
    },
    /// It is the state folder of an agent. Each has a file `lock` in its folder, so that only one of them would start.
    #[error(
        "the data folder {} is the state folder of an agent: give the hub a folder of its own (--data-dir, as in \
         /var/lib/bellwire-hub)",
        dir.display()
    )]
    OfAgent {
        /// The folder.
        dir: PathBuf,
    },
    /// Written by a newer program.
    #[error(
        "{} has schema version {found}, and this program knows none above {known}: start the \
         newer program again, or restore a backup from before the upgrade",
        path.display()
    )]
    Newer {
        /// The database in the data folder.
        path: PathBuf,
        /// The version in the file.
        found: i64,
        /// The latest version that this program knows.
        known: i64,
    },
    /// Not written by Bellwire.
    #[error("{} is not a database of Bellwire: move it away or choose another folder", path.display())]
    Foreign {
        /// The database in the data folder.
        path: PathBuf,
    },
    /// SQLite refuses: the disk, or a damaged file.
    #[error("cannot open {}: {source}", path.display())]
    Sqlite {
        /// The database in the data folder.
        path: PathBuf,
        /// What SQLite says of it.
        source: rusqlite::Error,
    },
}

impl OpenError {
    pub(super) fn folder(path: &Path, source: io::Error) -> Self {
        let path = path.into();
        Self::Folder { path, source }
    }

    pub(super) fn sqlite(path: &Path, source: rusqlite::Error) -> Self {
        let path = path.into();
        Self::Sqlite { path, source }
    }
}

/// For the middle of a sentence.
fn of_process(process: Option<u32>) -> String {
    process.map(|process| format!(" (process {process})")).unwrap_or_default()
}

/// What to do about a folder or a file in it.
fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::PermissionDenied => {
            "let the hub's account own it (chown), or set data_dir to a folder of that account's"
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "free space on its disk",
        ErrorKind::NotADirectory | ErrorKind::IsADirectory | ErrorKind::AlreadyExists => {
            "move it away, or set data_dir to another folder"
        }
        _ => "set data_dir to a folder in which the hub can make files",
    }
}
