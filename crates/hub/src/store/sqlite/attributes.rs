//! Labels and facts in rows of their own, for selectors: written with every change of a device's labels and facts.
//!
//! The rows are a function of the two JSON objects in `devices`. Only what differs is written, so a device that reports the
//! same facts at every start costs a look. What reads the rows is in `select.rs`.

use std::collections::BTreeMap;

use bellwire_proto::facts::{FactValues, selectable};
use bellwire_proto::{DeviceId, Json, Labels};
use rusqlite::{Connection, OptionalExtension, Result, Statement, params};

use super::rows;

/// The value of a fact that no selector can name: no selector has a space in a value.
const UNNAMED: &str = " ";

pub(super) struct Attributes<'c> {
    old: Statement<'c>,
    labels: Table<'c>,
    facts: Table<'c>,
    values: Counter<'c>,
    keys: Counter<'c>,
}

/// How many devices have a value, or a key.
struct Counter<'c> {
    add: Statement<'c>,
    delete_none: Statement<'c>,
}

struct Table<'c> {
    put: Statement<'c>,
    delete: Statement<'c>,
}

impl<'c> Attributes<'c> {
    pub(super) fn prepare(connection: &'c Connection) -> Result<Self> {
        Ok(Self {
            old: connection.prepare("SELECT labels, facts FROM devices WHERE device = ?1")?,
            labels: Table {
                put: connection.prepare("INSERT OR REPLACE INTO labels VALUES (?1, ?2, ?3)")?,
                delete: connection.prepare("DELETE FROM labels WHERE key = ?1 AND device = ?2")?,
            },
            facts: Table {
                put: connection.prepare("INSERT OR REPLACE INTO facts VALUES (?1, ?2, ?3)")?,
                delete: connection.prepare("DELETE FROM facts WHERE key = ?1 AND device = ?2")?,
            },
            values: Counter {
                add: connection.prepare(
                    "INSERT INTO label_counts VALUES (?1, ?2, ?3)
                     ON CONFLICT (key, value) DO UPDATE SET devices = devices + ?3",
                )?,
                delete_none: connection.prepare(
                    "DELETE FROM label_counts WHERE key = ?1 AND value = ?2 AND devices <= 0",
                )?,
            },
            keys: Counter {
                add: connection.prepare(
                    "INSERT INTO label_keys VALUES (?1, ?2)
                     ON CONFLICT (key) DO UPDATE SET devices = devices + ?2",
                )?,
                delete_none: connection
                    .prepare("DELETE FROM label_keys WHERE key = ?1 AND devices <= 0")?,
            },
        })
    }

    /// To be called before the row of a device is written. A device that is not there has, and gets, none, unless it is about
    /// to be made: `is_new`. `None` leaves the one or the other as it is.
    pub(super) fn change(
        &mut self,
        device: &DeviceId,
        is_new: bool,
        labels: Option<&Labels>,
        facts: Option<&Json>,
    ) -> Result<()> {
        let old: Option<(String, String)> = self
            .old
            .query_row([device.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        if old.is_none() && !is_new {
            return Ok(());
        }
        let (old_labels, old_facts) = old.unzip();
        if let Some(labels) = labels {
            let old = old_labels.map_or(Ok(Labels::new()), |text| {
                serde_json::from_str(&text).map_err(|e| rows::damaged(0, e))
            })?;
            self.change_labels(device, &old, labels)?;
        }
        if let Some(facts) = facts.filter(|facts| old_facts.as_deref() != Some(facts.as_str())) {
            let old = old_facts.map_or(Ok(FactValues::new()), |text| {
                Json::from_checked(text)
                    .map(|old| selectable(&old))
                    .map_err(|e| rows::damaged(1, e))
            })?;
            self.facts.change(device, &stored(old), &stored(selectable(facts)))?;
        }
        Ok(())
    }

    /// To be called before the row of a device is deleted.
    pub(super) fn delete(&mut self, device: &DeviceId) -> Result<()> {
        let nothing = Json::from_checked("{}".to_owned()).unwrap_or_default();
        self.change(device, false, Some(&Labels::new()), Some(&nothing))
    }

    fn change_labels(&mut self, device: &DeviceId, old: &Labels, new: &Labels) -> Result<()> {
        self.labels.change(device, old, new)?;
        for (key, value) in differing(old, new) {
            self.values.add.execute(params![key, value, -1])?;
            self.values.delete_none.execute([key, value])?;
            if !new.contains_key(key) {
                self.keys.add.execute(params![key, -1])?;
                self.keys.delete_none.execute([key])?;
            }
        }
        for (key, value) in differing(new, old) {
            self.values.add.execute(params![key, value, 1])?;
            if !old.contains_key(key) {
                self.keys.add.execute(params![key, 1])?;
            }
        }
        Ok(())
    }
}

impl Table<'_> {
    fn change(
        &mut self,
        device: &DeviceId,
        old: &BTreeMap<String, String>,
        new: &BTreeMap<String, String>,
    ) -> Result<()> {
        for (key, _) in differing(old, new).filter(|(key, _)| !new.contains_key(*key)) {
            self.delete.execute([key, device.as_str()])?;
        }
        for (key, value) in differing(new, old) {
            self.put.execute([key, device.as_str(), value])?;
        }
        Ok(())
    }
}

/// The entries of one that are not, or not with this value, in the other.
fn differing<'a>(
    of: &'a BTreeMap<String, String>,
    other: &'a BTreeMap<String, String>,
) -> impl Iterator<Item = (&'a str, &'a str)> {
    let differs = |(key, value): &(&String, &String)| other.get(*key) != Some(*value);
    of.iter().filter(differs).map(|(key, value)| (key.as_str(), value.as_str()))
}

fn stored(facts: FactValues) -> BTreeMap<String, String> {
    let value = |value: Option<String>| value.unwrap_or_else(|| UNNAMED.to_owned());
    facts.into_iter().map(|(name, fact)| (name, value(fact))).collect()
}
