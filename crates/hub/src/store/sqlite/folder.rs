//! The data folder: private to the hub, and to one hub at a time.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::OpenError;

/// The file that the hub of a folder has locked.
pub(super) const LOCK: &str = "lock";
pub(super) const DATABASE: &str = "bellwire.db";
/// What SQLite appends to the name of a database for that of its log.
const LOG_SUFFIX: &str = "-wal";
/// What an agent has in its state folder, beside a lock of the same name.
const JOURNAL_OF_AGENT: &str = "journal";
/// Every file that a hub has in its folder, the lock first.
pub(super) const FILES: [&str; 4] = [LOCK, DATABASE, "bellwire.db-wal", "bellwire.db-shm"];
/// How often the lock is tried, and the pause between two tries.
const LOCK_TRIES: u32 = 5;
const LOCK_AGAIN_AFTER: Duration = Duration::from_millis(20);
/// The sticky bit: of a folder that several accounts share, as `/tmp` is.
const STICKY: u32 = 0o1000;

/// The log of a database.
pub(super) fn log_of(database: &Path) -> PathBuf {
    let mut log = database.as_os_str().to_owned();
    log.push(LOG_SUFFIX);
    log.into()
}

/// Makes the folder and takes the lock on it.
pub(super) fn lock(data_dir: &Path) -> Result<File, OpenError> {
    refuse_of_agent(data_dir)?;
    let is_new = !data_dir.exists();
    create(data_dir).map_err(|e| OpenError::folder(data_dir, e))?;
    let path = data_dir.join(LOCK);
    let mut file = create_private(&path)?;
    let mut tries = 1;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            // A check of the settings may look whether the folder is in use.
            Err(TryLockError::WouldBlock) if tries < LOCK_TRIES => {
                tries += 1;
                std::thread::sleep(LOCK_AGAIN_AFTER);
            }
            Err(TryLockError::WouldBlock) => {
                return Err(in_use(data_dir));
            }
            Err(TryLockError::Error(e)) => return Err(OpenError::folder(&path, e)),
        }
    }
    make_private(data_dir);
    if is_new {
        let shown = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.into());
        tracing::info!("made the data folder {}", shown.display());
    }
    // For the message of another program that wants the folder. That program is refused without it, too.
    let written = file.set_len(0).and_then(|()| writeln!(file, "hub {}", std::process::id()));
    written.inspect_err(|e| tracing::debug!("the lock does not name its process: {e}")).ok();
    Ok(file)
}

/// Refuses the state folder of an agent: it has a journal, and no hub has had its data there.
pub(super) fn refuse_of_agent(data_dir: &Path) -> Result<(), OpenError> {
    let has = |name| data_dir.join(name).exists();
    if has(JOURNAL_OF_AGENT) && !has(DATABASE) {
        return Err(OpenError::OfAgent { dir: data_dir.into() });
    }
    Ok(())
}

/// Why a folder whose lock is taken cannot be used: the program that took it wrote its name and process into the file.
pub(super) fn in_use(data_dir: &Path) -> OpenError {
    let dir = data_dir.into();
    let mut text = String::new();
    let lock = File::open(data_dir.join(LOCK));
    // A longer text is none of ours.
    lock.and_then(|lock| lock.take(40).read_to_string(&mut text)).ok();
    match text.trim_end().split_once(' ') {
        Some(("agent", _)) => OpenError::OfAgent { dir },
        Some(("hub", process)) => OpenError::InUse { dir, process: process.parse().ok() },
        _ => OpenError::InUse { dir, process: None },
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

/// Takes the rights of others from the folder and its files, and reports that: a copy, as `VACUUM INTO` or `cp` makes it,
/// has the modes of the copying account's umask. To be called before SQLite has opened the database.
fn make_private(data_dir: &Path) {
    if holds_only_data(data_dir) {
        restrict(data_dir, 0o700);
    } else if others_may(data_dir).is_some() {
        tracing::warn!(
            "other accounts may enter the data folder {}, which holds more than the data of a hub: its mode is left as it \
             is; give the hub a folder of its own",
            data_dir.display()
        );
    }
    for file in FILES {
        restrict(&data_dir.join(file), 0o600);
    }
}

/// Whether the folder is the hub's alone, so that no other program needs its mode.
fn holds_only_data(data_dir: &Path) -> bool {
    let shared = fs::metadata(data_dir).map_or(0, |dir| dir.mode()) & STICKY != 0;
    let Ok(mut entries) = fs::read_dir(data_dir) else { return false };
    !shared
        && entries.all(|entry| {
            entry.is_ok_and(|entry| entry.file_name().to_str().is_some_and(|n| FILES.contains(&n)))
        })
}

/// The owner and the mode of a file or folder on which other accounts have rights.
fn others_may(path: &Path) -> Option<(u32, u32)> {
    let found = fs::metadata(path).ok()?;
    let mode = found.mode() & 0o7777;
    (mode & 0o077 != 0).then_some((found.uid(), mode))
}

fn restrict(path: &Path, private: u32) {
    let Some((owner, mode)) = others_may(path) else { return };
    let shown = path.display();
    if owner != rustix::process::geteuid().as_raw() {
        tracing::warn!(
            "other accounts may use {shown} (mode {mode:04o}), and it belongs to account {owner}: make it this hub's own \
             (chown), with mode {private:04o}"
        );
        return;
    }
    match fs::set_permissions(path, Permissions::from_mode(private)) {
        Ok(()) => tracing::warn!(
            "other accounts could use {shown} (mode {mode:04o}): its mode is now {private:04o}"
        ),
        Err(e) => tracing::warn!(
            "other accounts may use {shown} (mode {mode:04o}), which cannot be changed: {e}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    fn open_to_all(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    /// The modes of a restored backup were left as they were: other accounts could read every command.
    #[test]
    fn what_others_may_read_is_made_private_and_nothing_else_is_changed() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("hub");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("bellwire.db"), "").unwrap();
        open_to_all(&dir, 0o755);
        open_to_all(&dir.join("bellwire.db"), 0o644);
        drop(lock(&dir).unwrap());
        assert_eq!((mode(&dir), mode(&dir.join("bellwire.db"))), (0o700, 0o600));

        // A folder with more in it, or one that is shared, may be another program's too.
        for (dir_mode, other) in [(0o755, true), (0o1777, false)] {
            open_to_all(&dir, dir_mode);
            open_to_all(&dir.join("bellwire.db"), 0o640);
            if other {
                fs::write(dir.join("index.html"), "").unwrap();
            } else {
                fs::remove_file(dir.join("index.html")).unwrap();
            }
            drop(lock(&dir).unwrap());
            assert_eq!((mode(&dir), mode(&dir.join("bellwire.db"))), (dir_mode, 0o600));
        }
    }
}
