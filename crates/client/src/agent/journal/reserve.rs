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
    pub(crate) kept_bytes: u64,
}

#[cfg(test)]
impl Reserve {
    /// Needed, and then kept.
    pub(crate) fn of(bytes: u64) -> Self {
        Self { needed_bytes: bytes, kept_bytes: bytes }
    }
}

/// Takes the disk's room up to `bytes` of the file, without making the file longer.
pub(super) fn take(file: &File, bytes: u64) -> Result<(), AppendError> {
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

/// Gives back what is taken behind the end, when none of it is to be kept any more. Only room: that
/// it fails is no harm to what was written.
pub(super) fn give_back(file: &File, end: u64, kept_bytes: u64) -> io::Result<()> {
    // There is no way to cut in the middle of it: all would go, and somebody else might take it.
    if kept_bytes == 0 && file.metadata()?.blocks() * 512 > end + SLACK_BYTES {
        file.set_len(end)?;
    }
    Ok(())
}
