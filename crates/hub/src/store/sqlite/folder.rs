//! The data folder: private to the hub, and to one hub at a time.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use super::OpenError;

/// Makes the folder and takes the lock on it.
pub(super) fn lock(data_dir: &Path) -> Result<File, OpenError> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    let created = builder.create(data_dir);
    created.map_err(|e| OpenError::folder(data_dir, e))?;
    let path = data_dir.join("lock");
    let file = create_private(&path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { dir: data_dir.into() }),
        Err(TryLockError::Error(e)) => Err(OpenError::folder(&path, e)),
    }
}

/// Opens a file that only its owner can read, if it is new. What SQLite puts beside the database
/// has the database's mode.
pub(super) fn create_private(path: &Path) -> Result<File, OpenError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600);
    options.open(path).map_err(|e| OpenError::folder(path, e))
}
