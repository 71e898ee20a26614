//! Whether the files of the store are still where they were opened.
//!
//! A process can go on writing to a file that was deleted: every sync succeeds, and nothing is there after the restart.
//! So the writer looks before it reports a commit, and the store's health is asked for it. It looks at the database and
//! its log, each of which holds what was promised; SQLite makes neither anew while a connection is open.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::folder;
use crate::store::StoreError;

/// The files of an open store, each with its device and inode.
#[derive(Debug)]
pub(super) struct FilesInUse {
    files: Vec<(PathBuf, (u64, u64))>,
}

/// The operator's: a file was deleted, moved or replaced under the running hub.
#[derive(Debug, thiserror::Error)]
#[error(
    "{} was deleted, moved or replaced while the hub was running: what is stored now would be lost. Put the data folder \
     back, or restore a backup, and start the hub again",
    path.display()
)]
pub(super) struct Displaced {
    path: PathBuf,
}

impl FilesInUse {
    /// Of a database that is open. What cannot be read now is not watched.
    pub(super) fn of(database: &Path) -> Self {
        let files = [database.to_owned(), folder::log_of(database)];
        let known =
            |path: PathBuf| fs::metadata(&path).map(|file| (path, (file.dev(), file.ino()))).ok();
        Self { files: files.into_iter().filter_map(known).collect() }
    }

    /// # Errors
    /// When one of them is not where it was. A file that cannot be looked at for another reason is left to the writes.
    pub(super) fn check(&self) -> Result<(), Displaced> {
        for (path, opened) in &self.files {
            let displaced = match fs::metadata(path) {
                Ok(file) => (file.dev(), file.ino()) != *opened,
                Err(e) => matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
            };
            if displaced {
                return Err(Displaced { path: path.clone() });
            }
        }
        Ok(())
    }
}

impl From<Displaced> for StoreError {
    fn from(displaced: Displaced) -> Self {
        Self::Failed(Arc::new(displaced))
    }
}
