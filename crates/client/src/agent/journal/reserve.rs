//! The disk space reserved behind the journal's end: allocated before it is needed, released afterwards.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::AppendError;

/// A larger allocation up to this much is accepted: whole blocks, and what a file system rounds up to.
const SLACK_BYTES: u64 = 128 << 10;

/// The space behind the journal's end that an append must leave for later appends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Reserve {
    /// Without this much nothing is written.
    pub(crate) needed_bytes: u64,
    /// This much is reserved from then on, for the results of commands in progress.
    pub(crate) reserved_bytes: u64,
}

#[cfg(test)]
impl Reserve {
    /// Needed, and then reserved.
    pub(crate) fn of(bytes: u64) -> Self {
        Self { needed_bytes: bytes, reserved_bytes: bytes }
    }
}

/// Allocates the disk space up to `end` of the file and `needed_bytes` behind it, without extending the file.
pub(super) fn take(file: &File, end: u64, needed_bytes: u64) -> Result<(), AppendError> {
    let until = end + needed_bytes;
    // The free space is checked first: some file systems (ext4) allocate what there is before they fail, and other
    // programs would lack it.
    if needed_bytes > 0 && capacity(file)?.is_some_and(|bytes| bytes < until) {
        return Err(AppendError::Full);
    }
    match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, until.max(1)) {
        Err(Errno::NOSPC | Errno::DQUOT) => Err(AppendError::Full),
        // A file system that cannot allocate has at least reported its free space.
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The greatest possible length of a file: its allocation and the free space. `None` if the file system does not
/// report it. (One with compression or delayed allocation reports less than there is.)
fn capacity(file: &File) -> io::Result<Option<u64>> {
    let disk = rustix::fs::fstatvfs(file)?;
    let free_bytes = disk.f_bavail.saturating_mul(disk.f_frsize);
    let allocated_bytes = allocated_bytes_of(file)?.max(file.metadata()?.len());
    Ok((disk.f_blocks > 0).then_some(allocated_bytes.saturating_add(free_bytes)))
}

pub(super) fn allocated_bytes_of(file: &File) -> io::Result<u64> {
    // `st_blocks` counts 512 bytes, whatever the file system's block size (stat(2)).
    Ok(file.metadata()?.blocks().saturating_mul(512))
}

/// Releases the allocation behind the end, if nothing is reserved any more. If it fails, no data is affected.
pub(super) fn give_back(file: &File, end: u64, reserved_bytes: u64) -> io::Result<()> {
    // It cannot be released in part: all of it would be released, and another program might take it.
    if reserved_bytes == 0 && allocated_bytes_of(file)? > end + SLACK_BYTES {
        file.set_len(end)?;
    }
    Ok(())
}
