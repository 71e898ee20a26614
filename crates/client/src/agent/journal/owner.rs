//! Whether a state directory is the agent's: a user who may write to it can make the agent run a command again, or never.

use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD};
use rustix::io::Errno;

use super::{JOURNAL, JournalError, LOCK};

/// Mode bit: others may write.
const WRITE_BY_OTHERS: u32 = 0o002;

/// What a hub has in its data folder, beside a lock of the same name.
const DATABASE_OF_HUB: &str = "bellwire.db";

/// Refuses an existing directory of another user than this process's and root, one that everybody may write to, and the
/// data folder of a hub.
pub(super) fn check(dir: &Path) -> Result<(), JournalError> {
    let path = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let found =
        std::fs::metadata(path).map_err(|source| JournalError::Io { path: dir.into(), source })?;
    let own = rustix::process::geteuid().as_raw();
    let problem = if found.uid() != own && found.uid() != 0 {
        format!(
            "belongs to user {}, and this agent is user {own}: set state_dir to a folder of its own, or chown {own} {}",
            found.uid(),
            dir.display()
        )
    } else if found.mode() & WRITE_BY_OTHERS != 0 {
        format!(
            "can be written by everybody: chmod o-w {}, or set another state_dir",
            dir.display()
        )
    } else if path.join(DATABASE_OF_HUB).exists() && !path.join(JOURNAL).exists() {
        OF_HUB.to_owned()
    } else {
        return Ok(());
    };
    Err(JournalError::NotOurs { dir: dir.into(), problem })
}

/// The rest of a sentence about a folder.
const OF_HUB: &str = "is the data folder of a hub: set state_dir to a folder of the agent's own";

/// Why a folder whose lock is taken cannot be used: the program that took it wrote its name and process into the file.
pub(super) fn locked(dir: &Path) -> JournalError {
    let mut text = String::new();
    let lock = std::fs::File::open(dir.join(LOCK));
    // A longer text is none of ours.
    lock.and_then(|lock| lock.take(40).read_to_string(&mut text)).ok();
    let dir = dir.into();
    match text.trim_end().split_once(' ') {
        Some(("hub", _)) => JournalError::NotOurs { dir, problem: OF_HUB.to_owned() },
        Some(("agent", process)) => JournalError::Locked { dir, process: process.parse().ok() },
        _ => JournalError::Locked { dir, process: None },
    }
}

/// The same before an agent has run: what would stop it, as far as that shows without a change to the disk.
pub(crate) fn check_before(dir: &Path) -> Result<(), JournalError> {
    for folder in dir.ancestors() {
        match std::fs::metadata(folder) {
            Ok(found) if !found.is_dir() => {
                let source = io::ErrorKind::NotADirectory.into();
                return Err(JournalError::Io { path: folder.into(), source });
            }
            Ok(_) if folder == dir => {
                check(dir)?;
                may_write(dir)?;
                return [LOCK, JOURNAL].into_iter().try_for_each(|name| may_write(&dir.join(name)));
            }
            // The rest of the path will be made in it.
            Ok(_) => return may_write(folder),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(JournalError::Io { path: folder.into(), source }),
        }
    }
    Ok(())
}

/// The file systems in which the kernel shows itself: they seem to be writable for root, and no file can be made there.
/// The numbers are those of statfs(2).
const OF_THE_KERNEL: [u32; 3] = [0x9fa0, 0x6265_6572, 0x6367_7270];

/// Whether this process may write to a file, or make files in a folder. One that does not exist can be made.
fn may_write(path: &Path) -> Result<(), JournalError> {
    let failed = |source| Err(JournalError::Io { path: path.into(), source });
    let wanted = match path.is_dir() {
        true => Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK,
        false => Access::READ_OK | Access::WRITE_OK,
    };
    // A sandbox may not know the call for effective rights (faccessat2), and the other ignores ambient capabilities.
    let allowed = rustix::fs::accessat(CWD, path, wanted, AtFlags::EACCESS)
        .or_else(|_| rustix::fs::access(path, wanted));
    match allowed {
        Ok(()) => {}
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return failed(errno.into()),
    }
    let kind = rustix::fs::statfs(path).map(|found| u32::try_from(found.f_type));
    match kind {
        Ok(Ok(kind)) if OF_THE_KERNEL.contains(&kind) => failed(io::Error::other(
            "it is in a file system of the kernel, which holds no files of others",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, chown};

    use super::*;

    /// Without a home the journal was in `/tmp/bellwire`, even in one that another user had made with mode 0777.
    #[test]
    fn a_folder_that_others_may_write_to_or_own_is_refused_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("state");
        assert!(check_before(&dir).is_ok(), "it will be created");
        std::fs::create_dir(&dir).unwrap();
        let set = |mode| std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(mode));
        for mode in [0o777, 0o1777, 0o702] {
            set(mode).unwrap();
            let error = check_before(&dir).unwrap_err().to_string();
            assert!(error.contains("chmod o-w"), "{mode:o}: {error}");
        }
        set(0o711).unwrap();
        assert!(check_before(&dir).is_ok());
        // Only root can give a folder away.
        if chown(&dir, Some(4711), None).is_ok() {
            let error = check_before(&dir).unwrap_err().to_string();
            assert!(error.contains("belongs to user 4711"), "{error}");
        }
    }
}
