//! Whether a hub could open its store in a folder: everything that shows without a change to the disk.
//!
//! `folder` and `schema` make and open what is looked at here. The database is read as bytes: SQLite would make files
//! beside it even for a reader.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};
use rustix::fs::{Access, AtFlags, CWD};

use super::OpenError;
use super::folder::{self, FILES, LOCK};
use super::schema::{self, Marks};

/// The file systems in which the kernel shows itself: they seem to be writable for root, and no file can be made there.
/// The numbers are those of statfs(2).
const OF_THE_KERNEL: [u32; 3] = [0x9fa0, 0x6265_6572, 0x6367_7270];

/// Whether a hub could open its store in this folder now, as this account.
///
/// # Errors
/// What would stop it: the folder cannot be made, or not be written; another hub has it in use; the database in it is
/// not of Bellwire, or of a newer program.
pub fn check(data_dir: &Path) -> Result<(), OpenError> {
    for path in data_dir.ancestors() {
        // The parent of a relative name with one part is the working folder.
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let fault = |error: io::Error| Err(OpenError::folder(path, error));
        match fs::metadata(path) {
            Ok(found) if !found.is_dir() => return fault(ErrorKind::NotADirectory.into()),
            Ok(_) => {
                may_write(path).or_else(fault)?;
                return if path == data_dir { check_content(data_dir) } else { Ok(()) };
            }
            Err(_) if fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink()) => {
                return fault(io::Error::other("it is a link to something that is not there"));
            }
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            Err(e) => return fault(e),
        }
    }
    Ok(())
}

/// Whether there is an `admin` token in this folder, whose hub is then closed. The folder is not changed, and a hub may be
/// running with it.
///
/// # Errors
/// When the database cannot be read.
pub fn has_admin_token(data_dir: &Path) -> Result<bool, OpenError> {
    let path = data_dir.join("bellwire.db");
    let log = data_dir.join("bellwire.db-wal");
    let bytes = |path: &Path| fs::metadata(path).map_or(0, |found| found.len());
    if bytes(&path) == 0 {
        return Ok(false);
    }
    let sqlite = |source| OpenError::sqlite(&path, source);
    // Without a log nothing but the file counts, and SQLite needs no files beside it to read it.
    let option = if bytes(&log) == 0 { "immutable=1" } else { "mode=ro" };
    let name = percent_encoding::utf8_percent_encode(
        path.to_str().unwrap_or_default(),
        percent_encoding::NON_ALPHANUMERIC,
    );
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let database = Connection::open_with_flags(format!("file:{name}?{option}"), flags);
    let database = database.map_err(sqlite)?;
    let version: i64 =
        database.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(sqlite)?;
    if version < FIRST_WITH_TOKENS {
        return Ok(false);
    }
    Ok(super::tokens::admins(&database).map_err(sqlite)? > 0)
}

/// The schema version that has tokens.
const FIRST_WITH_TOKENS: i64 = 3;

/// Whether this account may make files in the folder.
fn may_write(folder: &Path) -> io::Result<()> {
    let wanted = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    // A sandbox may not know the call for effective rights (faccessat2), and the other ignores ambient capabilities.
    rustix::fs::accessat(CWD, folder, wanted, AtFlags::EACCESS)
        .or_else(|_| rustix::fs::access(folder, wanted))?;
    let kind = u32::try_from(rustix::fs::statfs(folder)?.f_type).unwrap_or_default();
    if OF_THE_KERNEL.contains(&kind) {
        return Err(io::Error::other(
            "it is a file system of the kernel, which holds no files of others",
        ));
    }
    Ok(())
}

fn check_content(data_dir: &Path) -> Result<(), OpenError> {
    folder::refuse_of_agent(data_dir)?;
    for name in FILES {
        let path = data_dir.join(name);
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            Err(e) => return Err(OpenError::folder(&path, e)),
        };
        // Shared, and for a moment: a hub that starts meanwhile tries again. It is the first of the files, because closing
        // the others would release the locks of a hub in this process (SQLite's "How To Corrupt", section 2.2).
        if name == LOCK && matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)) {
            return Err(folder::in_use(data_dir));
        }
    }
    check_database(&data_dir.join(folder::DATABASE))
}

fn check_database(path: &Path) -> Result<(), OpenError> {
    let failed = |e| OpenError::folder(path, e);
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed(e)),
    };
    let mut page = Vec::new();
    (&mut file).take(FIRST_PAGE_BYTES).read_to_end(&mut page).map_err(failed)?;
    if page.is_empty() {
        return Ok(());
    }
    if !page.starts_with(b"SQLite format 3\0") {
        return Err(OpenError::Foreign { path: path.into() });
    }
    if let Some(newer) =
        File::open(folder::log_of(path)).ok().and_then(|log| first_page_of_log(&log))
    {
        page = newer;
    }
    match marks(&page) {
        Some(marks) => schema::judge(path, &marks),
        // Shorter than a page can be: SQLite says what is wrong with it.
        None => Ok(()),
    }
}

/// Bytes of the first page that are read: its header, and that of the table of tables (SQLite's "Database File Format",
/// sections 1.3 and 1.6).
const FIRST_PAGE_BYTES: u64 = 108;
/// A page that is the only one of its table.
const LEAF_OF_TABLE: u8 = 13;

fn marks(page: &[u8]) -> Option<Marks> {
    // SQLite has both as signed numbers.
    let number = |at| be_u32(page, at).map(|number| i64::from(number.cast_signed()));
    let no_tables = *page.get(100)? == LEAF_OF_TABLE && page.get(103..105)? == [0, 0];
    Some(Marks { version: number(60)?, application: number(68)?, no_tables })
}

fn be_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}

/// The first page as the last transaction in the log has it, if one changed it ("Database File Format", section 4.1).
/// A log that is read again from its beginning has other salts from there on, and those before are not of it.
fn first_page_of_log(log: &File) -> Option<Vec<u8>> {
    const HEADER_BYTES: u64 = 32;
    const FRAME_HEADER_BYTES: u64 = 24;
    let mut header = [0; HEADER_BYTES as usize];
    log.read_exact_at(&mut header, 0).ok()?;
    let page_bytes = u64::from(be_u32(&header, 8)?);
    let (mut written, mut committed) = (None, None);
    let mut at = HEADER_BYTES;
    let mut frame = [0; FRAME_HEADER_BYTES as usize];
    while log.read_exact_at(&mut frame, at).is_ok() && frame.get(8..16) == header.get(16..24) {
        let content = at + FRAME_HEADER_BYTES;
        if be_u32(&frame, 0) == Some(1) {
            written = Some(content);
        }
        // The pages of the database after it: of a commit alone.
        if be_u32(&frame, 4)? != 0 {
            committed = written;
        }
        at = content.checked_add(page_bytes)?;
    }
    let mut page = vec![0; FIRST_PAGE_BYTES as usize];
    log.read_exact_at(&mut page, committed?).ok()?;
    Some(page)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use rusqlite::Connection;

    /// Names, sizes, modes and times of what is in a folder.
    fn listed(folder: &Path) -> Vec<String> {
        let mut entries: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let found = entry.metadata().unwrap();
                let (mode, at) = (found.permissions().mode(), found.modified().unwrap());
                format!("{:?} {} {mode:o} {at:?}", entry.file_name(), found.len())
            })
            .collect();
        entries.sort();
        entries
    }

    #[test]
    fn a_data_folder_that_is_a_file_or_in_one_is_a_fault_and_nothing_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        let before = listed(folder.path());
        assert!(check(folder.path()).is_ok() && check(&folder.path().join("new/hub")).is_ok());
        assert!(check(Path::new("bellwire-data-of-no-one")).is_ok());
        for bad in [file.clone(), file.join("hub"), link, "/proc/bellwire".into()] {
            let refused = check(&bad);
            assert!(matches!(refused, Err(OpenError::Folder { .. })), "{bad:?}: {refused:?}");
        }
        assert_eq!(listed(folder.path()), before);
    }

    /// The log of a hub that died has what the database has not: here the version of a newer program.
    #[test]
    fn the_database_is_judged_with_its_log_and_not_changed() {
        let folder = tempfile::tempdir().unwrap();
        let (live, copy) = (folder.path().join("live"), folder.path().join("copy"));
        fs::create_dir(&live).unwrap();
        fs::create_dir(&copy).unwrap();
        let database = Connection::open(live.join("bellwire.db")).unwrap();
        database
            .execute_batch("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0;")
            .unwrap();
        let copied = || {
            for name in ["bellwire.db", "bellwire.db-wal"] {
                fs::copy(live.join(name), copy.join(name)).unwrap();
            }
            let before = listed(&copy);
            let checked = check(&copy);
            assert_eq!(listed(&copy), before);
            checked
        };
        let app = schema::APPLICATION_ID;
        database
            .execute_batch("PRAGMA user_version = 1; BEGIN; CREATE TABLE t (x); COMMIT")
            .unwrap();
        assert!(matches!(copied(), Err(OpenError::Foreign { .. })));
        database.execute_batch(&format!("PRAGMA application_id = {app}")).unwrap();
        assert!(copied().is_ok(), "{:?}", copied());
        database.execute_batch("PRAGMA user_version = 99").unwrap();
        assert!(matches!(copied(), Err(OpenError::Newer { found: 99, .. })));
        // The log begins anew, and what is behind its new end is not of it.
        database.execute_batch("PRAGMA wal_checkpoint(RESTART); PRAGMA user_version = 1").unwrap();
        assert!(copied().is_ok(), "{:?}", copied());
        drop(database);
        fs::write(copy.join("bellwire.db"), "something else").unwrap();
        assert!(matches!(check(&copy), Err(OpenError::Foreign { .. })));
    }
}
