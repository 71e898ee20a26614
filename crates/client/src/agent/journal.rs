//! The agent's memory: what must be known after a power cut, in one append-only file.
//!
//! `journal` in the state folder. Each append is one line of checked records ([`line`]) and is on
//! disk when [`Journal::append`] returns. `lock` beside it keeps a second agent out. What the
//! records mean is `engine.rs`'s to say; here they are only kept.
//!
//! What is assumed of the disk: what `fsync` was answered for stays, and what was not may be there in
//! part, in whole or not at all. So only the last line can be torn, and it is cut off; a bad line with
//! a good one behind it is damage, and is refused rather than guessed at: a start record that is lost
//! would run a command twice.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use bellwire_proto::DeviceId;
use rustix::fs::{FallocateFlags, FlockOperation};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

mod line;
mod record;

pub(crate) use record::{BootId, Done, REPORT_BYTES_MAX, Received, Record, fit};

/// The format that is written here, and the newest that can be read.
const FORMAT: u32 = 1;
const JOURNAL: &str = "journal";
const LOCK: &str = "lock";
/// A compaction under way; worth nothing until it is renamed.
const DRAFT: &str = "journal.new";
/// Where a repair keeps what it took away.
const DAMAGED: &str = "journal.damaged";

/// The first line.
#[derive(Serialize, Deserialize)]
struct Header {
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
    /// Held until the journal is dropped.
    _lock: File,
}

/// Why a journal cannot be opened. Each message names the way out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The folder or a file in it cannot be used.
    #[error("{}: {source}", .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another agent runs on the same folder.
    #[error("another agent runs with the state folder {}: stop it, or set another state_dir", .folder.display())]
    Locked {
        /// The state folder.
        folder: PathBuf,
    },
    /// A later version wrote it.
    #[error(
        "{} has format {format}, and this version reads up to {FORMAT}: install the newer version again, or move the file away and lose what it knows", .path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u32,
    },
    /// It belongs to a device of another name.
    #[error(
        "{} is the journal of {found}, and this agent is {expected}: set device = \"{found}\", or another state_dir for {expected}", .path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        found: DeviceId,
        /// Who asks.
        expected: DeviceId,
    },
    /// A line in its middle is not what was written.
    #[error(
        "{} is damaged at byte {at}: `bellwire agent journal show` tells what can be read, `bellwire agent journal repair` drops the rest of the damaged lines and keeps a copy", .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the first bad line begins.
        at: u64,
    },
}

/// Why records could not be kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppendError {
    /// There is no room. Nothing was written.
    #[error("the disk is full")]
    Full,
    /// The disk failed, and what it holds is not known any more: the journal must be opened anew.
    #[error("the journal cannot be written: {0}")]
    Failed(#[from] io::Error),
}

impl Journal {
    /// Opens the journal of `device` in `folder`, or begins one, and tells every record in the order
    /// of writing. A torn end is cut off.
    pub(crate) fn open(
        folder: &Path,
        device: &DeviceId,
        mut told: impl FnMut(Record),
    ) -> Result<Self, JournalError> {
        let lock = lock(folder)?;
        let path = folder.join(JOURNAL);
        let io = |source| JournalError::Io { path: path.clone(), source };
        if !path.try_exists().map_err(io)? {
            let (file, bytes) = draft(folder, device, std::iter::empty(), 0).map_err(io)?;
            sync_folder(folder).map_err(io)?;
            tracing::info!(path = %path.display(), "a new journal");
            return Ok(Self {
                folder: folder.into(),
                device: device.clone(),
                file,
                bytes,
                _lock: lock,
            });
        }
        let mut file = OpenOptions::new().read(true).write(true).open(&path).map_err(io)?;
        let read = read(&path, &file, device, |_, record| told(record))?;
        if let Some(at) = read.damaged_at {
            return Err(JournalError::Damaged { path, at });
        }
        let length = file.metadata().map_err(io)?.len();
        if length > read.good_bytes {
            tracing::warn!(
                torn_bytes = length - read.good_bytes,
                "the journal's torn end is cut off"
            );
            file.set_len(read.good_bytes).and_then(|()| file.sync_all()).map_err(io)?;
        }
        file.seek(SeekFrom::End(0)).map_err(io)?;
        let bytes = read.good_bytes;
        Ok(Self { folder: folder.into(), device: device.clone(), file, bytes, _lock: lock })
    }

    /// How long the file is.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Keeps `records`, in one piece: all of them are on disk when this returns, or none will be
    /// read. `reserve_bytes` of the disk are kept free for what comes later.
    pub(crate) fn append(
        &mut self,
        records: &[Record],
        reserve_bytes: u64,
    ) -> Result<(), AppendError> {
        let line = line::encode(&records).map_err(io::Error::from)?;
        let after = self.bytes + line.len() as u64;
        reserve(&self.file, after + reserve_bytes)?;
        if let Err(error) = self.file.write_all(&line) {
            // What was written of it has no line end, so it must not stay in front of the next.
            self.file.set_len(self.bytes)?;
            self.file.seek(SeekFrom::Start(self.bytes))?;
            return Err(if is_full(&error) { AppendError::Full } else { error.into() });
        }
        self.file.sync_data()?;
        self.bytes = after;
        Ok(())
    }

    /// Replaces everything by these lines. Without room for it the journal stays as it is.
    pub(crate) fn compact(
        &mut self,
        lines: impl Iterator<Item = Vec<Record>>,
        reserve_bytes: u64,
    ) -> Result<(), AppendError> {
        match draft(&self.folder, &self.device, lines, reserve_bytes) {
            Ok((file, bytes)) => {
                (self.file, self.bytes) = (file, bytes);
                Ok(sync_folder(&self.folder)?)
            }
            Err(error) => {
                std::fs::remove_file(self.folder.join(DRAFT)).ok();
                Err(if is_full(&error) { AppendError::Full } else { error.into() })
            }
        }
    }
}

/// Tells every record that can be read, with the place of its line, and gives the place of the first
/// damaged line, if there is one. Changes nothing.
pub(crate) fn show(
    folder: &Path,
    device: &DeviceId,
    told: impl FnMut(u64, Record),
) -> Result<Option<u64>, JournalError> {
    let path = folder.join(JOURNAL);
    let file =
        File::open(&path).map_err(|source| JournalError::Io { path: path.clone(), source })?;
    Ok(read(&path, &file, device, told)?.damaged_at)
}

/// Drops the damaged lines of a journal and keeps a copy of it as it was. Gives how many records were
/// kept. A command whose start record was dropped may run again: that is for a person to decide.
pub(crate) fn repair(folder: &Path, device: &DeviceId) -> Result<usize, JournalError> {
    let _lock = lock(folder)?;
    let path = folder.join(JOURNAL);
    let io = |source| JournalError::Io { path: path.clone(), source };
    let file = File::open(&path).map_err(io)?;
    let mut kept = Vec::new();
    read(&path, &file, device, |_, record| kept.push(record))?;
    std::fs::copy(&path, folder.join(DAMAGED)).map_err(io)?;
    let count = kept.len();
    draft(folder, device, kept.into_iter().map(|record| vec![record]), 0).map_err(io)?;
    sync_folder(folder).map_err(io)?;
    Ok(count)
}

/// What reading found.
struct Read {
    /// Up to the end of the last good line.
    good_bytes: u64,
    /// A bad line with a good one behind it.
    damaged_at: Option<u64>,
}

fn read(
    path: &Path,
    file: &File,
    device: &DeviceId,
    mut told: impl FnMut(u64, Record),
) -> Result<Read, JournalError> {
    let io = |source| JournalError::Io { path: path.into(), source };
    let damaged = |at| JournalError::Damaged { path: path.into(), at };
    let mut reader = BufReader::with_capacity(64 << 10, file);
    let mut line = Vec::new();
    let mut at = reader.read_until(b'\n', &mut line).map_err(io)? as u64;
    // The first line came with the file's name, in one step: it is never torn.
    check_header(path, line::decode(&line).ok_or_else(|| damaged(0))?, device)?;
    let mut read = Read { good_bytes: at, damaged_at: None };
    let mut bad_at = None;
    loop {
        line.clear();
        let length = reader.read_until(b'\n', &mut line).map_err(io)? as u64;
        if length == 0 {
            return Ok(read);
        }
        let records = line::decode(&line).and_then(|json| serde_json::from_str(json).ok());
        match records {
            None => bad_at = bad_at.or(Some(at)),
            Some(records) => {
                let records: Vec<Record> = records;
                records.into_iter().for_each(|record| told(at, record));
                read.good_bytes = at + length;
                read.damaged_at = read.damaged_at.or(bad_at);
            }
        }
        at += length;
    }
}

fn check_header(path: &Path, json: &str, device: &DeviceId) -> Result<(), JournalError> {
    #[derive(Deserialize)]
    struct Format {
        bellwire_journal: u32,
    }
    let damaged = |_| JournalError::Damaged { path: path.into(), at: 0 };
    let Format { bellwire_journal: format } = serde_json::from_str(json).map_err(damaged)?;
    if format > FORMAT {
        return Err(JournalError::Newer { path: path.into(), format });
    }
    let header: Header = serde_json::from_str(json).map_err(damaged)?;
    if header.device != *device {
        let (found, expected) = (header.device, device.clone());
        return Err(JournalError::Foreign { path: path.into(), found, expected });
    }
    Ok(())
}

/// Takes the folder for this process, and makes it first if need be.
fn lock(folder: &Path) -> Result<File, JournalError> {
    let path = folder.join(LOCK);
    let io = |source| JournalError::Io { path: path.clone(), source };
    std::fs::create_dir_all(folder).map_err(io)?;
    let file =
        OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(io)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(JournalError::Locked { folder: folder.into() }),
        Err(errno) => Err(io(errno.into())),
    }
}

/// Writes a whole journal beside the one in use, and puts it in its place in one step. That the new
/// name lasts is the caller's to see to, with the new file in hand: from here on the old one is gone.
fn draft(
    folder: &Path,
    device: &DeviceId,
    lines: impl Iterator<Item = Vec<Record>>,
    reserve_bytes: u64,
) -> io::Result<(File, u64)> {
    let path = folder.join(DRAFT);
    let mut options = OpenOptions::new();
    options.create(true).truncate(true).read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut writer = BufWriter::new(options.open(&path)?);
    writer
        .write_all(&line::encode(&Header { bellwire_journal: FORMAT, device: device.clone() })?)?;
    for records in lines {
        writer.write_all(&line::encode(&records)?)?;
    }
    let mut file = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
    let bytes = file.stream_position()?;
    reserve(&file, bytes + reserve_bytes).map_err(|error| match error {
        AppendError::Full => io::ErrorKind::StorageFull.into(),
        AppendError::Failed(error) => error,
    })?;
    file.sync_all()?;
    std::fs::rename(&path, folder.join(JOURNAL))?;
    Ok((file, bytes))
}

/// Makes a new name in the folder last.
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Keeps the disk's room up to `bytes` of the file, without making the file longer.
fn reserve(file: &File, bytes: u64) -> Result<(), AppendError> {
    match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, bytes.max(1)) {
        Ok(()) => Ok(()),
        Err(Errno::NOSPC | Errno::DQUOT) => Err(AppendError::Full),
        // A file system that cannot keep room can at least tell what there is.
        Err(_) => {
            let disk = rustix::fs::fstatvfs(file).map_err(io::Error::from)?;
            let length = file.metadata()?.len();
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            if free < bytes.saturating_sub(length) { Err(AppendError::Full) } else { Ok(()) }
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests;
