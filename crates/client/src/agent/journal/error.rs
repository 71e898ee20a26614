//! Why a journal cannot be opened or written. Each message names the file, what is wrong and what to
//! do next: who reads it stands before a machine that does not serve.

use std::io;
use std::path::PathBuf;

use bellwire_proto::DeviceId;

use super::FORMAT;

/// Why a journal cannot be opened. Each message names the way out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The folder or a file in it cannot be used.
    #[error("{} cannot be used: {source}; {}", .path.display(), remedy(.source))]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is none to look into.
    #[error("there is no journal in {}: no agent has run with this state_dir yet", .folder.display())]
    Missing {
        /// The state folder.
        folder: PathBuf,
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
    /// A line that is whole, of the same format, and says what this version does not know: a later
    /// one wrote it.
    #[error(
        "{} has a record at byte {at} that this version does not know: install the newer version again, or drop the record with `bellwire agent journal repair`, which keeps a copy of the file", .path.display()
    )]
    Unknown {
        /// The file.
        path: PathBuf,
        /// Where the line begins.
        at: u64,
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
    /// It does not begin as a journal does.
    #[error(
        "{} has lost its first line (it is empty or damaged): `bellwire agent journal show` tells what can be read, `bellwire agent journal repair` writes that line anew for {device}, keeps what can be read, and a copy of the file", .path.display()
    )]
    Headless {
        /// The file.
        path: PathBuf,
        /// Who asks.
        device: DeviceId,
    },
    /// A line in its middle is not what was written.
    #[error(
        "{} is damaged at byte {at}: `bellwire agent journal show` tells what can be read, `bellwire agent journal repair` drops the damaged lines, keeps all others, and a copy of the file", .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the first bad line begins.
        at: u64,
    },
}

/// What helps against it.
fn remedy(error: &io::Error) -> &'static str {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::PermissionDenied => {
            "run this as the agent's own user, and let that user own what is in its state_dir"
        }
        Kind::ReadOnlyFilesystem => "set state_dir to a folder that can be written",
        Kind::StorageFull | Kind::QuotaExceeded => "make room on its disk and try again",
        Kind::NotADirectory | Kind::IsADirectory | Kind::AlreadyExists => {
            "move away what stands there, or set another state_dir"
        }
        _ => "see what the kernel says of its disk, or set another state_dir",
    }
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

impl AppendError {
    /// What a write or a new file was refused for. (Of a sync or a cut it says nothing good that the
    /// disk is full: what was written before is not known to be there then.)
    pub(super) fn of_write(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Failed(error),
        }
    }

    /// In the words of the system.
    pub(super) fn into_io(self) -> io::Error {
        match self {
            Self::Full => io::ErrorKind::StorageFull.into(),
            Self::Failed(error) => error,
        }
    }
}
