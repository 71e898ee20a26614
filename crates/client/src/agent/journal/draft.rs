//! A whole journal that is written beside the one in use, and takes its place in one step.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use bellwire_proto::DeviceId;

use super::{AppendError, FORMAT, Head, JOURNAL, Record, line, reserve};

/// Its name until then; what a power cut leaves under it is worth nothing.
pub(super) const DRAFT: &str = "journal.new";

/// See the head of this file. Dropped, it never was.
pub(super) struct Draft {
    folder: PathBuf,
    writer: BufWriter<File>,
    bytes: u64,
    is_in_place: bool,
}

impl Draft {
    pub(super) fn begin(folder: &Path, device: &DeviceId) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.create(true).truncate(true).read(true).write(true).mode(0o600);
        let writer = BufWriter::new(options.open(folder.join(DRAFT))?);
        let mut draft = Self { folder: folder.into(), writer, bytes: 0, is_in_place: false };
        let head = Head { bellwire_journal: FORMAT, device: device.clone() };
        draft.line(&line::encode(&head)?)?;
        Ok(draft)
    }

    /// One line more.
    pub(super) fn push(&mut self, records: &[Record]) -> io::Result<()> {
        self.line(&line::encode(&records)?)
    }

    /// How long it is so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Puts it in the place of the journal, if it fits with the room that is to be kept behind it. Until
    /// then nothing has happened to the one in use, whatever the error. That the new name lasts is the
    /// caller's to see to ([`super::sync_folder`]).
    pub(super) fn finish(mut self, reserve_bytes: u64) -> Result<File, AppendError> {
        self.writer.flush().map_err(AppendError::of_write)?;
        let file = self.writer.get_ref().try_clone()?;
        reserve::take(&file, self.bytes, reserve_bytes)?;
        file.sync_all().map_err(AppendError::of_write)?;
        std::fs::rename(self.folder.join(DRAFT), self.folder.join(JOURNAL))
            .map_err(AppendError::of_write)?;
        // From here on the old one is gone, whatever is answered.
        self.is_in_place = true;
        Ok(file)
    }

    fn line(&mut self, line: &[u8]) -> io::Result<()> {
        self.bytes += line.len() as u64;
        self.writer.write_all(line)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_in_place {
            std::fs::remove_file(self.folder.join(DRAFT)).ok();
        }
    }
}
