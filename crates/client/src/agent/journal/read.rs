//! Reads a journal line by line, classifies each line, and decides on the whole file.
//!
//! The decision follows from the assumptions in `journal.rs`: only the last append can be on disk in part. So a
//! single bad line at the very end is torn, and every other bad line is damage.

use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use bellwire_proto::DeviceId;
use serde::Deserialize;
use serde_json::value::RawValue;

use bellwire_proto::limits::AGENT_JOURNAL_LINE_BYTES_MAX;

use super::{FORMAT, Head, JournalError, Record, line};

/// A range of bytes in the file, usually a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct JournalSpan {
    /// The offset of its first byte in the file.
    pub(crate) at: u64,
    /// Its length, with the line's end.
    pub(crate) bytes: u64,
}

/// What a range contains.
#[derive(Debug, PartialEq)]
pub(crate) enum JournalPart<'a> {
    /// The records of one append.
    Records(Vec<Record>),
    /// The same, with some that this version does not know.
    Unknown { json: &'a str, known: Vec<Record> },
    /// Something else than what was written.
    Damaged,
    /// An append that the power cut interrupted, or that is being written now.
    Torn,
}

/// The state of the whole file.
#[derive(Debug)]
pub(super) struct ScanResult {
    /// Up to the end of the last line that is not torn.
    pub(super) good_bytes: u64,
    /// Why no agent may run on it.
    pub(super) fault: Option<JournalError>,
}

/// Passes on everything in `file` but the first line, in order. One line is in memory at a time.
///
/// # Errors
/// If the file cannot be read, or has a newer format or another device: then nothing is passed on.
pub(super) fn read(
    path: &Path,
    file: impl Read,
    device: &DeviceId,
    on_part: impl FnMut(JournalSpan, JournalPart<'_>),
) -> Result<ScanResult, JournalError> {
    let io = |source| JournalError::Io { path: path.into(), source };
    let mut reader = BufReader::with_capacity(64 << 10, file);
    let mut line = Vec::new();
    let mut bytes = next_line(&mut reader, &mut line).map_err(io)?;
    let mut scanner = Scanner { on_part, at: 0, bad: None, unknown_at: None, damaged_at: None };
    let has_head = check_head(path, &line, device)?;
    if has_head {
        scanner.at = bytes;
    } else if bytes > 0 {
        scanner.line(bytes, &line);
        // The first line came with the file's name, in one step: it is never torn.
        scanner.bad_is_damage();
    }
    while bytes > 0 {
        bytes = next_line(&mut reader, &mut line).map_err(io)?;
        if bytes > 0 {
            scanner.line(bytes, &line);
        }
    }
    let good_bytes = scanner.finish();
    let path = path.to_path_buf();
    // Unknown records come first: an update preserves them, a repair drops them.
    let fault = match (scanner.unknown_at, scanner.damaged_at) {
        (Some(at), _) => Some(JournalError::Unknown { path, at }),
        _ if !has_head => Some(JournalError::Headless { path, device: device.clone() }),
        (None, Some(at)) => Some(JournalError::Damaged { path, at }),
        (None, None) => None,
    };
    Ok(ScanResult { good_bytes, fault })
}

/// The state of reading a file from its beginning.
struct Scanner<F> {
    on_part: F,
    /// How much was read.
    at: u64,
    /// The last line if it is bad and nothing follows it, and whether a bad one precedes it.
    bad: Option<(JournalSpan, bool)>,
    unknown_at: Option<u64>,
    damaged_at: Option<u64>,
}

impl<F: FnMut(JournalSpan, JournalPart<'_>)> Scanner<F> {
    fn line(&mut self, bytes: u64, line: &[u8]) {
        if let Some(json) = line::decode(line) {
            return self.good(bytes, json);
        }
        // A line that lost its line feed contains the next one.
        let good_end = line::good_end(line).and_then(|at| line.split_at_checked(at));
        let bad_bytes = good_end.map_or(bytes, |(bad, _)| bad.len() as u64);
        let follows_bad = self.bad_is_damage();
        self.bad = Some((self.next(bad_bytes), follows_bad));
        if let Some(json) = good_end.and_then(|(_, good)| line::decode(good)) {
            self.good(bytes - bad_bytes, json);
        }
    }

    fn good(&mut self, bytes: u64, json: &str) {
        self.bad_is_damage();
        let span = self.next(bytes);
        if let Ok(records) = serde_json::from_str(json) {
            return (self.on_part)(span, JournalPart::Records(records));
        }
        let records: Vec<&RawValue> = serde_json::from_str(json).unwrap_or_default();
        let known = |raw: &RawValue| serde_json::from_str(raw.get()).ok();
        let known = records.into_iter().filter_map(known).collect();
        self.unknown_at = self.unknown_at.or(Some(span.at));
        (self.on_part)(span, JournalPart::Unknown { json, known });
    }

    /// The end of the file: a single bad line is torn here. Returns where the good part ends.
    fn finish(&mut self) -> u64 {
        match self.bad {
            Some((span, false)) => {
                (self.on_part)(span, JournalPart::Torn);
                span.at
            }
            _ => {
                self.bad_is_damage();
                self.at
            }
        }
    }

    /// Returns whether there was one.
    fn bad_is_damage(&mut self) -> bool {
        let Some((span, _)) = self.bad.take() else { return false };
        self.damaged_at = self.damaged_at.or(Some(span.at));
        (self.on_part)(span, JournalPart::Damaged);
        true
    }

    fn next(&mut self, bytes: u64) -> JournalSpan {
        let at = self.at;
        self.at += bytes;
        JournalSpan { at, bytes }
    }
}

/// Whether the first line has this format and device.
fn check_head(path: &Path, line: &[u8], device: &DeviceId) -> Result<bool, JournalError> {
    #[derive(Deserialize)]
    struct Format {
        bellwire_journal: u32,
    }
    let json = line::decode(line).unwrap_or_default();
    let format = serde_json::from_str(json).map(|Format { bellwire_journal }| bellwire_journal);
    match format {
        Ok(format) if format > FORMAT => Err(JournalError::Newer { path: path.into(), format }),
        Ok(_) => match serde_json::from_str(json).map(|head: Head| head.device) {
            Ok(found) if found != *device => {
                Err(JournalError::Foreign { path: path.into(), found, expected: device.clone() })
            }
            found => Ok(found.is_ok()),
        },
        Err(_) => Ok(false),
    }
}

/// Reads up to the next line feed and returns the length, 0 at the end of the file. A line that is longer than
/// any that is written is returned without its end, and so is a bad one.
fn next_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<u64> {
    line.clear();
    let bytes = reader.by_ref().take(AGENT_JOURNAL_LINE_BYTES_MAX).read_until(b'\n', line)? as u64;
    if bytes < AGENT_JOURNAL_LINE_BYTES_MAX || line.ends_with(b"\n") {
        return Ok(bytes);
    }
    Ok(bytes + reader.skip_until(b'\n')? as u64)
}
