//! The devices that a command names by a selector, or all: a page at a time, for the core and for a dry run.

use bellwire_core::TargetQuery;
use bellwire_proto::{DeviceId, Json, Labels, Selector, facts};
use rusqlite::{Connection, Result, Row, params};

use super::rows::{self, int};
use crate::store::FoundPage;

/// The devices after `?1`, `?2` at most, with the lengths of their queues.
const DEVICES: &str = "
    SELECT d.device, d.labels, d.facts, ifnull(q.queued, 0)
    FROM devices d LEFT JOIN queues q ON q.device = d.device
    WHERE d.device > ?1 ORDER BY d.device LIMIT ?2";

/// Looks at `rows_max` devices.
pub(super) fn found(
    connection: &Connection,
    query: &TargetQuery,
    after: Option<&DeviceId>,
    rows_max: usize,
) -> Result<FoundPage> {
    let mut statement = connection.prepare_cached(DEVICES)?;
    let after = after.map_or("", DeviceId::as_str);
    let mut rows = statement.query(params![after, int(rows_max as u64)])?;
    let mut page = FoundPage::default();
    let mut looked_at = 0;
    while let Some(row) = rows.next()? {
        looked_at += 1;
        let full = looked_at >= rows_max;
        let selected = selects(query, row)?;
        if selected || full {
            let device = rows::device_id(row, 0)?;
            page.last = full.then(|| device.clone());
            if selected {
                page.devices.push((device, rows::uint(row, 3)?));
            }
        }
    }
    Ok(page)
}

fn selects(query: &TargetQuery, row: &Row<'_>) -> Result<bool> {
    let mut selectors = query.select.iter().chain(&query.scope).peekable();
    if selectors.peek().is_none() {
        return Ok(true);
    }
    let labels: Labels =
        serde_json::from_str(row.get_ref(1)?.as_str()?).map_err(|e| rows::damaged(1, e))?;
    // Most selectors are of labels alone, and facts are long.
    let sees_facts = query.select.iter().any(Selector::sees_facts);
    let facts = if sees_facts { rows::json(row, 2)? } else { Json::null() };
    let facts = facts::selectable(&facts);
    Ok(selectors.all(|select| select.selects(&labels, &facts)))
}
