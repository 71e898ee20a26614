//! Why a journal cannot be opened or written. Each message names the file, what is wrong, and what to do next,
//! for a reader whose machine is out of service.

use std::io;
use std::path::PathBuf;

use bellwire_proto::DeviceId;

use super::FORMAT;

/// Why a journal cannot be opened. Each message names the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The operating system refuses the directory or a file in it. The message says what to do for each cause.
    #[error("{} cannot be used: {source}; {}", .path.display(), remedy(.source))]
    Io {
        /// The directory or file.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The state directory belongs to another user, or others may write to it: they could change what this device runs. The
    /// message says what to do.
    #[error("the state folder {} {problem}", .dir.display())]
    NotOurs {
        /// The state directory.
        dir: PathBuf,
        /// What is wrong with it, and the remedy.
        problem: String,
    },
    /// There is no journal to inspect. The caller named another directory, or no agent has run yet.
    #[error("there is no journal in {}: no agent has run with this state_dir yet", .dir.display())]
    Missing {
        /// The state directory.
        dir: PathBuf,
    },
    /// Another agent runs on the same directory: stop it, or use another directory.
    #[error("another agent{} runs with the state folder {}: stop it, or set another state_dir", of_process(*.process), .dir.display())]
    Locked {
        /// The state directory.
        dir: PathBuf,
        /// The process of that agent, if it could write it down.
        process: Option<u32>,
    },
    /// A later version wrote this format: install that version again.
    #[error(
        "{} has format {format}, and this version reads up to {FORMAT}: install the newer version again, or move the file away and lose its content", .path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u32,
    },
    /// A later version wrote a record of this format that is unknown here: install that version again, or drop the
    /// record by a repair.
    #[error(
        "{} has a record at byte {at} that this version does not know: install the newer version again, or drop the record with `bellwire agent journal repair`, which keeps a copy of the file", .path.display()
    )]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The byte at which the line begins.
        at: u64,
    },
    /// The configuration names another device than the journal: correct one of the two settings.
    #[error(
        "{} is the journal of {found}, and this agent is {expected}: set device = \"{found}\", or another state_dir for {expected}", .path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The journal's device.
        found: DeviceId,
        /// The configured device.
        expected: DeviceId,
    },
    /// The disk lost or damaged the first line: repair the journal.
    #[error(
        "{} has lost its first line (it is empty or damaged): `bellwire agent journal show` shows what can be read, `bellwire agent journal repair` writes that line again for {device}, preserves what can be read, and a copy of the file", .path.display()
    )]
    Headless {
        /// The file.
        path: PathBuf,
        /// The configured device.
        device: DeviceId,
    },
    /// The disk damaged a line that was written before others: repair the journal.
    #[error(
        "{} is damaged at byte {at}: `bellwire agent journal show` shows what can be read, `bellwire agent journal repair` drops the damaged lines, keeps all others, and a copy of the file", .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The byte at which the first bad line begins.
        at: u64,
    },
}

/// For the middle of a sentence.
fn of_process(process: Option<u32>) -> String {
    process.map(|process| format!(" (process {process})")).unwrap_or_default()
}

/// What to do about it.
fn remedy(error: &io::Error) -> &'static str {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::PermissionDenied => {
            "run this as the agent's own user, and let that user own what is in its state_dir"
        }
        Kind::ReadOnlyFilesystem => "set state_dir to a folder that can be written",
        Kind::StorageFull | Kind::QuotaExceeded => "free space on its disk and try again",
        Kind::NotADirectory | Kind::IsADirectory | Kind::AlreadyExists => {
            "move that file away, or set another state_dir"
        }
        _ => "see what the kernel says of its disk, or set another state_dir",
    }
}

/// Why records were not appended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppendError {
    /// There is no space. Nothing was written; try again later.
    #[error("the disk is full")]
    Full,
    /// The disk failed, and its content is unknown: the journal must be opened again.
    #[error("the journal cannot be written: {0}")]
    Failed(#[from] io::Error),
}

impl AppendError {
    /// Classifies the error of a write or of a new file. (A sync or a cut that reports a full disk is a failure:
    /// data that was written before may be lost.)
    pub(super) fn of_write(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Failed(error),
        }
    }

    /// As an error of the operating system.
    pub(super) fn into_io(self) -> io::Error {
        match self {
            Self::Full => io::ErrorKind::StorageFull.into(),
            Self::Failed(error) => error,
        }
    }
}
