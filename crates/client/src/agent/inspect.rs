//! What `bellwire agent journal` does: looks into a journal and mends it, without an agent.
//!
//! The public face of `journal`. It starts nothing, and tells no hub.

use std::path::Path;

use bellwire_proto::DeviceId;

use super::JournalError;
use super::journal::{self, JournalPart, JournalSpan};

pub use super::journal::Repaired;

/// Something that stands in a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum JournalItem {
    /// A record, as its JSON.
    Record(String),
    /// A whole line that a later version wrote, as its JSON: not all of it is known to this one.
    Unknown {
        /// At which byte it begins.
        at: u64,
        /// What it says.
        json: String,
    },
    /// What stands here is not what was written.
    Damaged {
        /// At which byte it begins.
        at: u64,
        /// How long it is.
        bytes: u64,
    },
    /// The end was being written when the power failed, and the next start cuts it off; or it is being
    /// written now.
    Torn {
        /// At which byte it begins.
        at: u64,
        /// How long it is.
        bytes: u64,
    },
}

/// Tells everything that stands in the journal, in order. Changes nothing, and may look while an
/// agent runs.
///
/// # Errors
/// What an agent would refuse the journal for; what can be read was told before. Nothing is told
/// when there is no journal, or it is another device's or of a newer format.
pub fn show(
    folder: &Path,
    device: &DeviceId,
    mut on_item: impl FnMut(JournalItem),
) -> Result<(), JournalError> {
    journal::show(folder, device, |JournalSpan { at, bytes }, part| match part {
        JournalPart::Records(records) => records.iter().for_each(|record| {
            on_item(JournalItem::Record(serde_json::to_string(record).unwrap_or_default()))
        }),
        JournalPart::Unknown { json, .. } => {
            on_item(JournalItem::Unknown { at, json: json.to_owned() })
        }
        JournalPart::Damaged => on_item(JournalItem::Damaged { at, bytes }),
        JournalPart::Torn => on_item(JournalItem::Torn { at, bytes }),
    })
}

/// Writes the journal anew with everything in it that can be read, and keeps a copy of the file as
/// it was. A journal that an agent would run on is left as it is. A command whose start record was
/// lost may run again: look first.
///
/// # Errors
/// When there is no journal, it is another device's or of a newer format, there is no room for the
/// copy, or an agent runs on the folder.
pub fn repair(folder: &Path, device: &DeviceId) -> Result<Repaired, JournalError> {
    journal::repair(folder, device)
}
