//! The agent's memory: what must be known after a power cut, in one append-only file.
//!
//! `journal` in the state folder. Each append is one line of checked records ([`line`]) and is on
//! disk when [`Journal::append`] returns. `lock` beside it keeps a second agent out. What the
//! records mean is `engine.rs`'s to say; here they are only kept.
//!
//! What is assumed of the disk: what `fsync` was answered for stays as it is, and what it was not
//! answered for may be there in part, in whole or not at all, in blocks of any order, with zeros
//! between. An append is one line, and the next begins when it is on disk. So one bad line at the very
//! end is torn, was never answered for, and is cut off. Everything else that is not as it was written
//! is damage ([`read`]), and is refused rather than guessed at: a start record that is lost would run a
//! command twice. A whole line of a right checksum is never torn, whether its words are known or not.
//! (A last line that was on disk and rots there looks like a torn one. Nobody can tell them apart.)

use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bellwire_proto::DeviceId;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

mod draft;
mod error;
mod line;
mod read;
mod record;
mod repair;
mod reserve;

pub use error::JournalError;
pub use repair::Repaired;

use draft::{DRAFT, Draft};
pub(crate) use error::AppendError;
pub(crate) use read::{JournalPart, JournalSpan};
pub(crate) use record::{BootId, ClockStamp, Done, Received, Record, STORED_REPORT_BYTES_MAX, fit};
pub(crate) use repair::{repair, show};
pub(crate) use reserve::Reserve;

/// The format that is written here, and the newest that can be read.
const FORMAT: u32 = 1;
const JOURNAL: &str = "journal";
const LOCK: &str = "lock";
/// All files in it are the agent's alone. Who runs a handler as another user passes through, to the
/// file with that command's data, and cannot look around.
const DIR_MODE: u32 = 0o711;
/// How often, and after which time, a lock that is held is asked for again.
const LOCK_TRIES: u32 = 5;
const LOCK_AGAIN_AFTER: Duration = Duration::from_millis(50);
/// The longest line that is written, and read back: so much memory a damaged file can take. A command
/// with its data and its result has some 2 MiB.
const LINE_BYTES_MAX: u64 = 16 << 20;

/// The first line.
#[derive(Serialize, Deserialize)]
struct Head {
    bellwire_journal: u32,
    device: DeviceId,
}

/// A journal that is open and locked.
#[derive(Debug)]
pub(crate) struct Journal {
    folder: PathBuf,
    device: DeviceId,
    file: File,
    bytes: u64,
    /// The room that is kept behind the end.
    reserve_bytes: u64,
    /// Held until the journal is dropped.
    _lock: File,
}

impl Journal {
    /// Opens the journal of `device` in `folder`, or begins one, and tells every record in the order
    /// of writing. A torn end is cut off.
    pub(crate) fn open(
        folder: &Path,
        device: &DeviceId,
        mut on_record: impl FnMut(Record),
    ) -> Result<Self, JournalError> {
        let lock = lock(folder)?;
        let path = folder.join(JOURNAL);
        let io = |source| JournalError::Io { path: path.clone(), source };
        // What a compaction left when the power failed only takes room.
        std::fs::remove_file(folder.join(DRAFT)).ok();
        if !path.try_exists().map_err(io)? {
            let draft = Draft::begin(folder, device).map_err(io)?;
            draft.finish(0).map_err(|error| io(error.into_io()))?;
            sync_folder(folder).map_err(io)?;
            tracing::info!(path = %path.display(), "a new journal");
        }
        let mut file = OpenOptions::new().read(true).write(true).open(&path).map_err(io)?;
        let scan = read::read(&path, &file, device, |_, part| {
            if let JournalPart::Records(records) = part {
                records.into_iter().for_each(&mut on_record);
            }
        })?;
        if let Some(fault) = scan.fault {
            return Err(fault);
        }
        let bytes = scan.good_bytes;
        let torn_bytes = file.seek(SeekFrom::End(0)).map_err(io)? - bytes;
        if torn_bytes > 0 {
            tracing::warn!(torn_bytes, "the journal's torn end is cut off");
            // The cut takes the room behind the end with it, which others may have waited for.
            let allocated_bytes =
                reserve::allocated_bytes_of(&file).map_err(io)?.saturating_sub(bytes);
            file.set_len(bytes).map_err(io)?;
            reserve::take(&file, bytes, allocated_bytes).ok();
            file.sync_all().map_err(io)?;
            file.seek(SeekFrom::End(0)).map_err(io)?;
        }
        let (folder, device) = (folder.into(), device.clone());
        Ok(Self { folder, device, file, bytes, reserve_bytes: 0, _lock: lock })
    }

    /// How long the file is.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Keeps `records`, in one piece: all of them are on disk when this returns, or none will be
    /// read. With room behind them, for what comes later.
    pub(crate) fn append(
        &mut self,
        records: &[&Record],
        reserve: Reserve,
    ) -> Result<(), AppendError> {
        let line = line::encode(&records).map_err(io::Error::from)?;
        // What is too long to be read again is not written.
        if line.len() as u64 > LINE_BYTES_MAX {
            return Err(AppendError::Full);
        }
        let after = self.bytes + line.len() as u64;
        reserve::take(&self.file, after, reserve.needed_bytes)?;
        if let Err(error) = self.file.write_all(&line) {
            // What was written of it has no line end, so it must not stay in front of the next.
            self.file.set_len(self.bytes)?;
            self.file.seek(SeekFrom::Start(self.bytes))?;
            // The cut took the room behind the end as well.
            reserve::take(&self.file, self.bytes, self.reserve_bytes).ok();
            return Err(AppendError::of_write(error));
        }
        self.file.sync_data()?;
        // What is to be kept and is not there any more, as after a torn end was cut off, is asked for again.
        if reserve.reserved_bytes > self.reserve_bytes.max(reserve.needed_bytes) {
            reserve::take(&self.file, after, reserve.reserved_bytes).ok();
        }
        (self.bytes, self.reserve_bytes) = (after, reserve.reserved_bytes);
        if let Err(error) = reserve::give_back(&self.file, after, reserve.reserved_bytes) {
            tracing::debug!(%error, "the room behind the journal is as it was");
        }
        Ok(())
    }

    /// Replaces everything by `batches`, a line each, and gives whether it did: one that would not be
    /// shorter leaves the journal as it is. So does one that cannot be written, for whatever reason.
    pub(crate) fn compact(
        &mut self,
        batches: impl Iterator<Item = Vec<Record>>,
        reserve_bytes: u64,
    ) -> io::Result<bool> {
        match self.redraft(batches, reserve_bytes) {
            Ok(Some((file, bytes))) => {
                // From here on the old one is gone.
                (self.file, self.bytes, self.reserve_bytes) = (file, bytes, reserve_bytes);
                sync_folder(&self.folder)?;
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(error) => {
                tracing::warn!(%error, "the journal was not compacted, and is as it was");
                Ok(false)
            }
        }
    }

    fn redraft(
        &self,
        batches: impl Iterator<Item = Vec<Record>>,
        reserve_bytes: u64,
    ) -> Result<Option<(File, u64)>, AppendError> {
        let mut draft = Draft::begin(&self.folder, &self.device)?;
        for records in batches {
            draft.push(&records)?;
            if draft.bytes() >= self.bytes {
                return Ok(None);
            }
        }
        let bytes = draft.bytes();
        Ok(Some((draft.finish(reserve_bytes)?, bytes)))
    }
}

#[cfg(test)]
impl Journal {
    /// From now on each write fails.
    pub(crate) fn break_disk(&mut self) {
        self.file = File::open(self.folder.join(JOURNAL)).unwrap();
    }
}

/// Takes the folder for this process, and makes it first if need be.
fn lock(folder: &Path) -> Result<File, JournalError> {
    let path = folder.join(LOCK);
    let io = |source| JournalError::Io { path: path.clone(), source };
    create_dir(folder, DIR_MODE)
        .map_err(|source| JournalError::Io { path: folder.into(), source })?;
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600);
    let file = options.open(&path).map_err(io)?;
    let mut tries = 1;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            // An agent that was killed while it started a handler holds it by that until the handler runs.
            Err(Errno::WOULDBLOCK) if tries < LOCK_TRIES => {
                tries += 1;
                std::thread::sleep(LOCK_AGAIN_AFTER);
            }
            Err(Errno::WOULDBLOCK) => return Err(JournalError::Locked { folder: folder.into() }),
            Err(errno) => return Err(io(errno.into())),
        }
    }
}

/// Makes a folder that lasts, with those above it.
fn create_dir(folder: &Path, mode: u32) -> io::Result<()> {
    if folder.as_os_str().is_empty() || folder.is_dir() {
        return Ok(());
    }
    let above = folder.parent().unwrap_or(Path::new(""));
    create_dir(above, 0o755)?;
    match std::fs::DirBuilder::new().mode(mode).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        made => made.and_then(|()| sync_folder(above)),
    }
}

/// Makes a new name in the folder last.
fn sync_folder(folder: &Path) -> io::Result<()> {
    let here = folder.as_os_str().is_empty();
    File::open(if here { Path::new(".") } else { folder })?.sync_all()
}

#[cfg(test)]
mod tests;
