//! A complete journal that is written beside the current one and replaces it in one step.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use bellwire_proto::DeviceId;

use super::{AppendError, FORMAT, Head, JOURNAL, Record, line, reserve};

/// Its name until then. After a crash the file under this name is worthless.
pub(super) const DRAFT: &str = "journal.new";

/// See the head of this file. Dropped before [`Draft::finish`], it leaves nothing.
pub(super) struct Draft {
    dir: PathBuf,
    writer: BufWriter<File>,
    bytes: u64,
    is_in_place: bool,
}

impl Draft {
    pub(super) fn begin(dir: &Path, device: &DeviceId) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.create(true).truncate(true).read(true).write(true).mode(0o600);
        let writer = BufWriter::new(options.open(dir.join(DRAFT))?);
        let mut draft = Self { dir: dir.into(), writer, bytes: 0, is_in_place: false };
        let head = Head { bellwire_journal: FORMAT, device: device.clone() };
        draft.line(&line::encode(&head)?)?;
        Ok(draft)
    }

    /// Appends a line.
    pub(super) fn push(&mut self, records: &[Record]) -> io::Result<()> {
        self.line(&line::encode(&records)?)
    }

    /// Its length so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Replaces the current journal, if the reservation fits behind this one. Until the rename the current one is
    /// unchanged, whatever the error. The caller makes the new name durable ([`super::sync_dir`]).
    pub(super) fn finish(mut self, reserve_bytes: u64) -> Result<File, AppendError> {
        self.writer.flush().map_err(AppendError::of_write)?;
        let file = self.writer.get_ref().try_clone()?;
        reserve::take(&file, self.bytes, reserve_bytes)?;
        file.sync_all().map_err(AppendError::of_write)?;
        std::fs::rename(self.dir.join(DRAFT), self.dir.join(JOURNAL))
            .map_err(AppendError::of_write)?;
        // The old file has been replaced, whatever is returned.
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
            std::fs::remove_file(self.dir.join(DRAFT)).ok();
        }
    }
}
