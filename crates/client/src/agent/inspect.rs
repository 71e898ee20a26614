//! What `bellwire agent journal` does: inspects and repairs a journal, without an agent.
//!
//! The public interface of `journal`. It starts no handler, and reports nothing to a hub.

use std::path::Path;

use bellwire_proto::DeviceId;

use super::JournalError;
use super::journal::{self, JournalPart, JournalSpan};

pub use super::journal::Repaired;

/// An item of a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum JournalItem {
    /// A record, as its JSON.
    Record(String),
    /// A whole line of a later version, as its JSON. This version does not know all of it.
    Unknown {
        /// The byte at which it begins.
        at: u64,
        /// Its content.
        json: String,
    },
    /// The disk damaged what was written here.
    Damaged {
        /// The byte at which it begins.
        at: u64,
        /// Its length.
        bytes: u64,
    },
    /// The end of the file, where a power cut interrupted a write, or where the agent is writing now. The next start
    /// cuts it off.
    Torn {
        /// The byte at which it begins.
        at: u64,
        /// Its length.
        bytes: u64,
    },
}

/// Passes on every item of the journal, in order. It changes nothing, and may be called while an agent runs.
///
/// # Errors
/// Those for which an agent would refuse the journal, after every readable item was passed on. If there is no
/// journal, or it has another device or a newer format, nothing is passed on.
pub fn show(
    dir: &Path,
    device: &DeviceId,
    mut on_item: impl FnMut(JournalItem),
) -> Result<(), JournalError> {
    journal::show(dir, device, |span, part| pass_on(span, part, &mut on_item))
}

/// For the fuzz target: what [`show`] passes on of a journal with these bytes.
///
/// # Errors
/// As of [`show`].
#[doc(hidden)]
pub fn show_bytes(
    bytes: &[u8],
    device: &DeviceId,
    mut on_item: impl FnMut(JournalItem),
) -> Result<(), JournalError> {
    journal::show_bytes(bytes, device, |span, part| pass_on(span, part, &mut on_item))
}

/// For the fuzz target, which would never guess a checksum: a whole line with this JSON, if it is JSON on one line.
#[doc(hidden)]
pub fn line_of(json: &str) -> Option<Vec<u8>> {
    journal::line_of(json).filter(|line| line.iter().filter(|byte| **byte == b'\n').count() == 1)
}

fn pass_on(
    JournalSpan { at, bytes }: JournalSpan,
    part: JournalPart<'_>,
    on_item: &mut impl FnMut(JournalItem),
) {
    match part {
        JournalPart::Records(records) => records.iter().for_each(|record| {
            on_item(JournalItem::Record(serde_json::to_string(record).unwrap_or_default()))
        }),
        JournalPart::Unknown { json, .. } => {
            on_item(JournalItem::Unknown { at, json: json.to_owned() })
        }
        JournalPart::Damaged => on_item(JournalItem::Damaged { at, bytes }),
        JournalPart::Torn => on_item(JournalItem::Torn { at, bytes }),
    }
}

/// Writes the journal again with all readable records, and preserves a copy of the original file. A journal that an
/// agent would accept is unchanged. A command whose start record was lost may run again: inspect the journal first.
///
/// # Errors
/// If there is no journal, it has another device or a newer format, there is no space for the copy, or an agent runs
/// on the directory.
pub fn repair(dir: &Path, device: &DeviceId) -> Result<Repaired, JournalError> {
    journal::repair(dir, device)
}
