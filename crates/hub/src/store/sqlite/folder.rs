//! The data folder: private to the hub, and to one hub at a time.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use super::OpenError;

/// Makes the folder and takes the lock on it.
pub(super) fn lock(data_dir: &Path) -> Result<File, OpenError> {
    create(data_dir).map_err(|e| OpenError::folder(data_dir, e))?;
    let path = data_dir.join("lock");
    let file = create_private(&path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { dir: data_dir.into() }),
        Err(TryLockError::Error(e)) => Err(OpenError::folder(&path, e)),
    }
}

/// Makes a folder, with those that it is in, and makes their names as durable as what is promised to
/// be in it. (SQLite does the same for its files.)
fn create(data_dir: &Path) -> io::Result<()> {
    let new: Vec<&Path> = data_dir.ancestors().take_while(|dir| !dir.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(data_dir)?;
    for parent in new.into_iter().filter_map(Path::parent) {
        // The parent of a relative name with one part is the working folder.
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// Opens a file that only its owner can read, if it is new. What SQLite puts beside the database
/// has the database's mode.
pub(super) fn create_private(path: &Path) -> Result<File, OpenError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600);
    options.open(path).map_err(|e| OpenError::folder(path, e))
}
