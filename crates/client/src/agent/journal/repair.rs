//! Inspects and repairs a journal, on a person's request.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};

use bellwire_proto::DeviceId;

use super::draft::Draft;
use super::read::{JournalPart, JournalSpan, read};
use super::{JOURNAL, JournalError, lock, sync_dir};

/// The copy that a repair makes of the file; further copies have a number appended.
const COPY: &str = "journal.damaged";

/// What a repair did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Repaired {
    /// The number of records in the journal now.
    pub records_retained: usize,
    /// The number of lines that were dropped, in whole or in part.
    pub lines_dropped: usize,
    /// The copy of the original file; `None` if there was nothing to repair, and nothing was changed.
    pub copy: Option<PathBuf>,
}

/// Passes on everything in a journal, and changes nothing.
///
/// # Errors
/// Those of [`Journal::open`](super::Journal::open), after everything was passed on.
pub(crate) fn show(
    dir: &Path,
    device: &DeviceId,
    on_part: impl FnMut(JournalSpan, JournalPart<'_>),
) -> Result<(), JournalError> {
    let (path, file) = open_existing(dir)?;
    read(&path, &file, device, on_part)?.fault.map_or(Ok(()), Err)
}

/// The same for bytes that are no file: what a damaged disk may hold.
pub(crate) fn show_bytes(
    bytes: &[u8],
    device: &DeviceId,
    on_part: impl FnMut(JournalSpan, JournalPart<'_>),
) -> Result<(), JournalError> {
    read(Path::new(JOURNAL), bytes, device, on_part)?.fault.map_or(Ok(()), Err)
}

/// Writes the journal again with all good records, and preserves a copy of the original. A command whose start
/// record was dropped may run again: that is a person's decision.
pub(crate) fn repair(dir: &Path, device: &DeviceId) -> Result<Repaired, JournalError> {
    open_existing(dir)?;
    let _lock = lock(dir)?;
    let (path, file) = open_existing(dir)?;
    let io = |source| JournalError::Io { path: path.clone(), source };
    let (mut records_retained, mut lines_dropped) = (0, 0);
    let before = read(&path, &file, device, |_, part| match part {
        JournalPart::Records(records) => records_retained += records.len(),
        JournalPart::Unknown { known, .. } => {
            records_retained += known.len();
            lines_dropped += 1;
        }
        JournalPart::Damaged | JournalPart::Torn => lines_dropped += 1,
    })?;
    if before.fault.is_none() {
        return Ok(Repaired { records_retained, lines_dropped: 0, copy: None });
    }
    let copy = copy(dir, &path).map_err(io)?;
    // Without the repaired journal the copy would only take the space that was missing.
    rewrite(dir, &path, device).inspect_err(|_| drop(std::fs::remove_file(&copy)))?;
    Ok(Repaired { records_retained, lines_dropped, copy: Some(copy) })
}

/// Replaces the journal by one with its good records.
fn rewrite(dir: &Path, path: &Path, device: &DeviceId) -> Result<(), JournalError> {
    let io = |source| JournalError::Io { path: path.into(), source };
    let file = File::open(path).map_err(io)?;
    let mut draft = Draft::begin(dir, device).map_err(io)?;
    let mut pushed = Ok(());
    read(path, &file, device, |_, part| {
        let (JournalPart::Records(known) | JournalPart::Unknown { known, .. }) = part else {
            return;
        };
        if pushed.is_ok() && !known.is_empty() {
            pushed = draft.push(&known);
        }
    })?;
    pushed.map_err(io)?;
    let repaired = draft.finish(0).map_err(|error| io(error.into_io()))?;
    chown_like(&repaired, &file).map_err(io)?;
    sync_dir(dir).map_err(io)
}

/// Gives a file the owner of another: an agent that is not root must be able to use a journal that root repaired.
fn chown_like(file: &File, as_of: &File) -> io::Result<()> {
    let (own, of) = (file.metadata()?, as_of.metadata()?);
    if (own.uid(), own.gid()) == (of.uid(), of.gid()) {
        return Ok(());
    }
    fchown(file, Some(of.uid()), Some(of.gid()))
}

fn open_existing(dir: &Path) -> Result<(PathBuf, File), JournalError> {
    let path = dir.join(JOURNAL);
    match File::open(&path) {
        Ok(file) => Ok((path, file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(JournalError::Missing { dir: dir.into() })
        }
        Err(source) => Err(JournalError::Io { path, source }),
    }
}

/// Copies the journal to an unused name, and returns when the copy is on disk.
fn copy(dir: &Path, journal: &Path) -> io::Result<PathBuf> {
    let mut options = OpenOptions::new();
    options.create_new(true).write(true).mode(0o600);
    for n in 1_u64.. {
        let name = if n == 1 { COPY.to_owned() } else { format!("{COPY}-{n}") };
        let path = dir.join(name);
        match options.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(error),
            Ok(mut copy) => {
                let mut from = File::open(journal)?;
                let copied = io::copy(&mut from, &mut copy)
                    .and_then(|_| chown_like(&copy, &from))
                    .and_then(|()| copy.sync_all())
                    .and_then(|()| sync_dir(dir));
                // An incomplete copy would only take the space that is missing.
                return match copied {
                    Ok(()) => Ok(path),
                    Err(error) => {
                        std::fs::remove_file(&path).ok();
                        Err(error)
                    }
                };
            }
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}
