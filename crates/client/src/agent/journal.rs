//! The agent's journal: what must survive a power cut, in one append-only file.
//!
//! It is `journal` in the state directory. Each append is one line of checksummed records ([`mod@line`]) and is
//! on disk when [`Journal::append`] returns. `lock` beside it excludes a second agent. What the records mean is
//! decided in `engine.rs`; here they are only stored.
//!
//! Assumptions about the disk: data that `fsync` has confirmed is durable; data that it has not confirmed may be
//! there in whole, in part or not at all, as blocks in any order with zeros between. An append is one line, and
//! the next one begins after it is on disk. So a single bad line at the very end is torn, was never confirmed,
//! and is cut off. Everything else that differs from what was written is damage ([`read`]) and is refused rather
//! than guessed at: a lost start record would run a command twice. A whole line with a correct checksum is never
//! torn, whether this version knows its records or not. (A last line that was on disk and decays there looks like
//! a torn one. Nothing can distinguish the two.)

use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bellwire_proto::DeviceId;
use bellwire_proto::limits::AGENT_JOURNAL_LINE_BYTES_MAX;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

mod draft;
mod error;
mod line;
mod owner;
mod read;
mod record;
mod repair;
mod reserve;

pub use error::JournalError;
pub use repair::Repaired;

use draft::{DRAFT, Draft};
pub(crate) use error::AppendError;
pub(crate) use owner::check_before;
pub(crate) use read::{JournalPart, JournalSpan};
pub(crate) use record::{BootId, ClockStamp, Done, ReceivedCommand, Record, fit};
pub(crate) use repair::{repair, show, show_bytes};
pub(crate) use reserve::Reserve;

/// The format that is written, and the newest that can be read.
const FORMAT: u32 = 1;
const JOURNAL: &str = "journal";
const LOCK: &str = "lock";
/// All files in it are private to the agent. A handler that runs as another user can reach the file with its
/// command's data, and cannot list the directory.
const DIR_MODE: u32 = 0o711;
/// How often, and after which pause, a lock that is held is requested again.
const LOCK_TRIES: u32 = 5;
const LOCK_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// The first line.
#[derive(Serialize, Deserialize)]
struct Head {
    bellwire_journal: u32,
    device: DeviceId,
}

/// A journal that is open and locked.
#[derive(Debug)]
pub(crate) struct Journal {
    dir: PathBuf,
    device: DeviceId,
    file: File,
    bytes: u64,
    /// The space that is reserved behind the end.
    reserve_bytes: u64,
    /// Held until the journal is dropped.
    _lock: File,
}

impl Journal {
    /// Opens the journal of `device` in `dir`, or creates one, and passes on every record in the order of
    /// writing. A torn end is cut off.
    pub(crate) fn open(
        dir: &Path,
        device: &DeviceId,
        mut on_record: impl FnMut(Record),
    ) -> Result<Self, JournalError> {
        let lock = lock(dir)?;
        let path = dir.join(JOURNAL);
        let io = |source| JournalError::Io { path: path.clone(), source };
        // An unfinished compaction of before a crash only takes space.
        std::fs::remove_file(dir.join(DRAFT)).ok();
        if !path.try_exists().map_err(io)? {
            let draft = Draft::begin(dir, device).map_err(io)?;
            draft.finish(0).map_err(|error| io(error.into_io()))?;
            sync_dir(dir).map_err(io)?;
            tracing::info!(path = %path.display(), "journal created");
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
            // The cut releases the reservation, and handlers in progress may depend on it.
            let allocated_bytes =
                reserve::allocated_bytes_of(&file).map_err(io)?.saturating_sub(bytes);
            file.set_len(bytes).map_err(io)?;
            reserve::take(&file, bytes, allocated_bytes).ok();
            file.sync_all().map_err(io)?;
            file.seek(SeekFrom::End(0)).map_err(io)?;
        }
        let (dir, device) = (dir.into(), device.clone());
        Ok(Self { dir, device, file, bytes, reserve_bytes: 0, _lock: lock })
    }

    /// The length of the file.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends `records` as one unit: all of them are on disk when this returns, or none will be read. The
    /// reservation behind them is for later appends.
    pub(crate) fn append(
        &mut self,
        records: &[&Record],
        reserve: Reserve,
    ) -> Result<(), AppendError> {
        let line = line::encode(&records).map_err(io::Error::from)?;
        // A line that is too long to be read again is not written.
        if line.len() as u64 > AGENT_JOURNAL_LINE_BYTES_MAX {
            return Err(AppendError::Full);
        }
        let after = self.bytes + line.len() as u64;
        reserve::take(&self.file, after, reserve.needed_bytes)?;
        if let Err(error) = self.file.write_all(&line) {
            // The part that was written has no line end, so it must not remain before the next line.
            self.file.set_len(self.bytes)?;
            self.file.seek(SeekFrom::Start(self.bytes))?;
            // The cut has released the reservation as well.
            reserve::take(&self.file, self.bytes, self.reserve_bytes).ok();
            return Err(AppendError::of_write(error));
        }
        self.file.sync_data()?;
        // A reservation that was lost, as when a torn end was cut off, is requested again.
        if reserve.reserved_bytes > self.reserve_bytes.max(reserve.needed_bytes) {
            reserve::take(&self.file, after, reserve.reserved_bytes).ok();
        }
        (self.bytes, self.reserve_bytes) = (after, reserve.reserved_bytes);
        if let Err(error) = reserve::give_back(&self.file, after, reserve.reserved_bytes) {
            tracing::debug!(%error, "the space behind the journal was not released");
        }
        Ok(())
    }

    /// Replaces all records by `batches`, one line each, and returns whether it did. A journal that would not become
    /// shorter is unchanged, and so is one whose replacement cannot be written.
    pub(crate) fn compact(
        &mut self,
        batches: impl Iterator<Item = Vec<Record>>,
        reserve_bytes: u64,
    ) -> io::Result<bool> {
        match self.redraft(batches, reserve_bytes) {
            Ok(Some((file, bytes))) => {
                // The old file has been replaced.
                (self.file, self.bytes, self.reserve_bytes) = (file, bytes, reserve_bytes);
                sync_dir(&self.dir)?;
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(error) => {
                tracing::warn!(%error, "the journal was not compacted and is unchanged");
                Ok(false)
            }
        }
    }

    fn redraft(
        &self,
        batches: impl Iterator<Item = Vec<Record>>,
        reserve_bytes: u64,
    ) -> Result<Option<(File, u64)>, AppendError> {
        let mut draft = Draft::begin(&self.dir, &self.device)?;
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
        self.file = File::open(self.dir.join(JOURNAL)).unwrap();
    }
}

/// A whole line of the journal with this JSON in it; `None` if it is no JSON.
pub(crate) fn line_of(json: &str) -> Option<Vec<u8>> {
    line::encode(&serde_json::from_str::<&serde_json::value::RawValue>(json).ok()?).ok()
}

/// Locks the directory for this process; creates it if necessary.
fn lock(dir: &Path) -> Result<File, JournalError> {
    let path = dir.join(LOCK);
    let io = |source| JournalError::Io { path: path.clone(), source };
    create_dir(dir, DIR_MODE).map_err(|source| JournalError::Io { path: dir.into(), source })?;
    owner::check(dir)?;
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600);
    let mut file = options.open(&path).map_err(io)?;
    let mut tries = 1;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                // For the message of another program that opens the folder. That program is refused without it, too.
                let written =
                    file.set_len(0).and_then(|()| writeln!(file, "agent {}", std::process::id()));
                written
                    .inspect_err(|error| {
                        tracing::debug!(%error, "the lock does not name its process");
                    })
                    .ok();
                return Ok(file);
            }
            // An agent that was killed while it started a handler leaves the lock to the child until that executes.
            Err(Errno::WOULDBLOCK) if tries < LOCK_TRIES => {
                tries += 1;
                std::thread::sleep(LOCK_AGAIN_AFTER);
            }
            Err(Errno::WOULDBLOCK) => return Err(owner::locked(dir)),
            Err(errno) => return Err(io(errno.into())),
        }
    }
}

/// Creates a directory, durably, with its parents.
fn create_dir(dir: &Path, mode: u32) -> io::Result<()> {
    if dir.as_os_str().is_empty() || dir.is_dir() {
        return Ok(());
    }
    let above = dir.parent().unwrap_or(Path::new(""));
    create_dir(above, 0o755)?;
    match std::fs::DirBuilder::new().mode(mode).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        made => made.and_then(|()| sync_dir(above)),
    }
}

/// Makes a new name in the directory durable.
fn sync_dir(dir: &Path) -> io::Result<()> {
    let here = dir.as_os_str().is_empty();
    File::open(if here { Path::new(".") } else { dir })?.sync_all()
}

#[cfg(test)]
mod tests;
