//! Which labels there are, and how many devices have them.
//!
//! One who sees everything reads counters. For one who sees a part, labels are counted device by device, of so many at most.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bellwire_proto::device::{LabelCounts, LabelValue};
use bellwire_proto::limits::{LABEL_VALUES_MAX, LABELS_COUNTED_DEVICES_MAX};
use bellwire_proto::{Labels, Page};
use rusqlite::{Connection, OptionalExtension, Result, params};

use super::{rows, select};
use crate::store::{Cursor, DeviceFilter, Visible};

/// Keys after this one, with their most frequent values.
pub(super) fn page(
    connection: &Connection,
    limit: u32,
    after: Option<&str>,
    visible: Visible,
) -> Result<Page<LabelCounts>> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut items = if visible.is_all() {
        counted(connection, limit, after)?
    } else {
        let mut keys = of_part(connection, visible)?;
        keys.retain(|key, _| after.is_none_or(|after| key.as_str() > after));
        keys.into_iter().take(limit + 1).map(|(key, values)| of_key(key, values)).collect()
    };
    let more = items.len() > limit;
    items.truncate(limit);
    let last = items.last().filter(|_| more);
    let next = last.map(|last| Cursor::after_key(last.key.clone()).to_string());
    Ok(Page { items, next })
}

/// By the counters; one more than `limit`, if there is.
fn counted(connection: &Connection, limit: usize, after: Option<&str>) -> Result<Vec<LabelCounts>> {
    let mut keys = connection.prepare_cached(
        "SELECT key, devices FROM label_keys WHERE key > ?1 ORDER BY key LIMIT ?2",
    )?;
    let mut values = connection.prepare_cached(
        "SELECT value, devices FROM label_counts INDEXED BY label_counts_frequent
         WHERE key = ?1 ORDER BY devices DESC, value LIMIT ?2",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
    let mut found = keys.query(params![after.unwrap_or_default(), limit])?;
    let mut items = Vec::new();
    while let Some(row) = found.next()? {
        let key: String = row.get(0)?;
        let values = values.query_map(params![key, LABEL_VALUES_MAX], |row| {
            Ok(LabelValue { value: row.get(0)?, devices: rows::uint(row, 1)? })
        })?;
        let values = values.collect::<Result<_>>()?;
        items.push(LabelCounts { devices: rows::uint(row, 1)?, values, key });
    }
    Ok(items)
}

type Values = BTreeMap<String, u64>;

/// Of the first devices that the reader sees.
fn of_part(connection: &Connection, visible: Visible) -> Result<BTreeMap<String, Values>> {
    let filter = DeviceFilter { visible, ..DeviceFilter::default() };
    let mut labels = connection.prepare_cached("SELECT labels FROM devices WHERE device = ?1")?;
    let mut keys: BTreeMap<String, Values> = BTreeMap::new();
    let mut looked_at = 0;
    select::each(connection, &filter, None, &mut |position, fits| {
        looked_at += 1;
        let read = |row: &rusqlite::Row<'_>| row.get::<_, String>(0);
        if fits && let Some(text) = labels.query_row([position.device.as_str()], read).optional()? {
            let labels: Labels = serde_json::from_str(&text).map_err(|e| rows::damaged(0, e))?;
            for (key, value) in labels {
                *keys.entry(key).or_default().entry(value).or_default() += 1;
            }
        }
        let more = looked_at < LABELS_COUNTED_DEVICES_MAX;
        Ok(if more { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    Ok(keys)
}

fn of_key(key: String, values: Values) -> LabelCounts {
    let devices = values.values().sum();
    let values = values.into_iter().map(|(value, devices)| LabelValue { value, devices });
    let mut values: Vec<_> = values.collect();
    // They are by value, and stay so among equals.
    values.sort_by_key(|value| std::cmp::Reverse(value.devices));
    values.truncate(usize::try_from(LABEL_VALUES_MAX).unwrap_or(usize::MAX));
    LabelCounts { key, devices, values }
}
