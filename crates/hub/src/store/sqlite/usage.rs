//! About how many bytes the commands of each sender take, so that one sender cannot fill the store for the others.
//!
//! In memory: read once when the store is opened, then counted as commands are stored and deleted. It has an entry for each sender
//! of whom there is a command.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bellwire_core::record::CommandRecord;
use bellwire_proto::limits::DELIVERY_STORED_BYTES;
use rusqlite::{Connection, Result};

use super::rows;

/// Bytes by sender; `None` without a limit, and then nothing is counted.
#[derive(Debug, Default)]
pub(super) struct Usage(Option<Mutex<HashMap<Box<str>, u64>>>);

impl Usage {
    /// Looks at the row of every command. SQLite does not read the data for their length.
    pub(super) fn read(connection: &Connection) -> Result<Self> {
        let mut all = connection.prepare(
            "SELECT created_by, sum(octet_length(data) + ?1 * total) FROM commands
             WHERE created_by IS NOT NULL GROUP BY created_by",
        )?;
        let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, rows::uint(row, 1)?));
        let all = all.query_map([rows::int(DELIVERY_STORED_BYTES)], row)?;
        Ok(Self(Some(Mutex::new(all.collect::<Result<_>>()?))))
    }

    /// What the commands of this sender take.
    pub(super) fn of(&self, sender: &str) -> u64 {
        self.all().and_then(|all| all.get(sender).copied()).unwrap_or(0)
    }

    /// A command was stored.
    pub(super) fn stored(&self, command: &CommandRecord) {
        let (Some(mut all), Some(sender)) = (self.all(), command.created_by.as_deref()) else {
            return;
        };
        let bytes = bytes(command.data.as_str().len() as u64, command.head.total);
        match all.get_mut(sender) {
            Some(taken) => *taken = taken.saturating_add(bytes),
            None => drop(all.insert(sender.into(), bytes)),
        }
    }

    /// A command was deleted.
    pub(super) fn deleted(&self, sender: Option<&str>, data_bytes: u64, total: u64) {
        let (Some(mut all), Some(sender)) = (self.all(), sender) else { return };
        let Some(taken) = all.get_mut(sender) else { return };
        *taken = taken.saturating_sub(bytes(data_bytes, total));
        if *taken == 0 {
            all.remove(sender);
        }
    }

    fn all(&self) -> Option<MutexGuard<'_, HashMap<Box<str>, u64>>> {
        self.0.as_ref().map(|all| all.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Its data once, and its deliveries without what devices report of them.
fn bytes(data_bytes: u64, total: u64) -> u64 {
    data_bytes.saturating_add(total.saturating_mul(DELIVERY_STORED_BYTES))
}
