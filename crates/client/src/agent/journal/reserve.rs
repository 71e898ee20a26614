//! The room on the disk behind the journal's end: asked for before it is needed, given back after.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::AppendError;

/// Room beyond what was asked for that is let be: whole blocks, and what a file system rounds up to.
const SLACK_BYTES: u64 = 128 << 10;

/// The room behind the journal's end that an append is to leave, for what comes later.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Reserve {
    /// Without so much nothing is written.
    pub(crate) needed_bytes: u64,
    /// So much is kept from then on, for what is under way.
    pub(crate) reserved_bytes: u64,
}

#[cfg(test)]
impl Reserve {
    /// Needed, and then kept.
    pub(crate) fn of(bytes: u64) -> Self {
        Self { needed_bytes: bytes, reserved_bytes: bytes }
    }
}

/// Takes the disk's room up to `end` of the file and `needed_bytes` behind it, without making the file longer.
pub(super) fn take(file: &File, end: u64, needed_bytes: u64) -> Result<(), AppendError> {
    let until = end + needed_bytes;
    // Asked first: where there is too little, some file systems (ext4) give what there is before they say so,
    // and others would have to do without it.
    if needed_bytes > 0 && capacity(file)?.is_some_and(|bytes| bytes < until) {
        return Err(AppendError::Full);
    }
    match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, until.max(1)) {
        Err(Errno::NOSPC | Errno::DQUOT) => Err(AppendError::Full),
        // A file system that cannot keep room has at least told what there is.
        Ok(()) | Err(_) => Ok(()),
    }
}

/// How long a file could be: what it has taken of the disk, and what is left there. `None` where the file
/// system does not tell. (One that compresses, or shows late what is taken, shows less than is there.)
fn capacity(file: &File) -> io::Result<Option<u64>> {
    let disk = rustix::fs::fstatvfs(file)?;
    let free_bytes = disk.f_bavail.saturating_mul(disk.f_frsize);
    let allocated_bytes = allocated_bytes_of(file)?.max(file.metadata()?.len());
    Ok((disk.f_blocks > 0).then_some(allocated_bytes.saturating_add(free_bytes)))
}

pub(super) fn allocated_bytes_of(file: &File) -> io::Result<u64> {
    // In blocks of this size whatever the file system's own (stat(2)).
    Ok(file.metadata()?.blocks().saturating_mul(512))
}

/// Gives back what is taken behind the end, when none of it is to be kept any more. Only room: that
/// it fails is no harm to what was written.
pub(super) fn give_back(file: &File, end: u64, reserved_bytes: u64) -> io::Result<()> {
    // There is no way to cut in the middle of it: all would go, and somebody else might take it.
    if reserved_bytes == 0 && allocated_bytes_of(file)? > end + SLACK_BYTES {
        file.set_len(end)?;
    }
    Ok(())
}
