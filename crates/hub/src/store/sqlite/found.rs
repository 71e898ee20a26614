//! The devices that a command names by a selector, or all: a page at a time, for the core and for a dry run. Registered
//! devices are found by the indexes of `select.rs`; those that are named, or were targets of another command, are first
//! listed and then looked at one by one. One that is not registered meets no selector, and no scope has it.

use std::ops::ControlFlow;

use bellwire_core::TargetQuery;
use bellwire_core::record::TargetPage;
use bellwire_proto::{CommandId, DeliveryState, DeviceId, Selector};
use rusqlite::{Connection, Error, Result, params};

use super::rows::{self, int};
use super::select;
use crate::store::{DeviceFilter, DevicePosition, Visible};

/// Those that the command `?1` was for, and whether it is there in one of the states of the JSON list `?2`. The test is a
/// column, since the number of rows that are looked at has a bound.
const ENDED: &str = "
    SELECT e.device, e.state IN (SELECT value FROM json_each(?2)) FROM deliveries e
    WHERE e.seq = (SELECT seq FROM commands WHERE id = ?1) AND e.device > ?3
    ORDER BY e.device LIMIT ?4";

/// Looks at `rows_max` devices.
pub(super) fn found(
    connection: &Connection,
    query: &TargetQuery,
    after: Option<&DeviceId>,
    rows_max: usize,
) -> Result<TargetPage> {
    let mut page = match (&query.named, &query.ended) {
        (Some(named), _) => listed(named, after, rows_max),
        (None, Some((parent, states))) => ended(connection, *parent, states, after, rows_max)?,
        (None, None) => return registered(connection, query, after, rows_max),
    };
    if query.select.is_some() || query.scope.is_some() {
        page.devices = select::fitting(connection, &filter(query), page.devices)?;
    }
    choose_canaries(connection, query, &mut page)?;
    Ok(page)
}

/// What a device must be to be found.
fn filter(query: &TargetQuery) -> DeviceFilter {
    DeviceFilter { visible: Visible::by(query.scope.clone()), ..by(query.select.as_ref()) }
}

fn by(select: Option<&Selector>) -> DeviceFilter {
    DeviceFilter { select: select.cloned().unwrap_or_default(), ..DeviceFilter::default() }
}

fn choose_canaries(
    connection: &Connection,
    query: &TargetQuery,
    page: &mut TargetPage,
) -> Result<()> {
    if query.canary.is_some() {
        let canary = by(query.canary.as_ref());
        page.canaries = select::fitting(connection, &canary, page.devices.clone())?;
    }
    Ok(())
}

/// Of these names, rising, those after the given one.
fn listed(named: &[DeviceId], after: Option<&DeviceId>, rows_max: usize) -> TargetPage {
    let begin = after.map_or(0, |after| named.partition_point(|name| name <= after));
    let devices: Vec<DeviceId> = named.iter().skip(begin).take(rows_max).cloned().collect();
    let last = devices.last().filter(|_| devices.len() >= rows_max).cloned();
    TargetPage { devices, last, ..TargetPage::default() }
}

fn ended(
    connection: &Connection,
    parent: CommandId,
    states: &[DeliveryState],
    after: Option<&DeviceId>,
    rows_max: usize,
) -> Result<TargetPage> {
    let states: Vec<i64> = states.iter().map(|state| rows::state_number(*state)).collect();
    let states =
        serde_json::to_string(&states).map_err(|e| Error::ToSqlConversionFailure(Box::new(e)))?;
    let after = after.map_or("", DeviceId::as_str);
    let mut statement = connection.prepare_cached(ENDED)?;
    let params = params![parent.to_bytes(), states, after, int(rows_max as u64)];
    let mut found = statement.query(params)?;
    let mut page = TargetPage::default();
    let mut looked_at = 0;
    while let Some(row) = found.next()? {
        looked_at += 1;
        let device = rows::device_id(row, 0)?;
        if looked_at >= rows_max {
            page.last = Some(device.clone());
        }
        if row.get(1)? {
            page.devices.push(device);
        }
    }
    Ok(page)
}

fn registered(
    connection: &Connection,
    query: &TargetQuery,
    after: Option<&DeviceId>,
    rows_max: usize,
) -> Result<TargetPage> {
    let mut page = TargetPage::default();
    let after = after.map(|device| DevicePosition { device: device.clone(), value: 0 });
    let mut looked_at = 0;
    select::each(connection, &filter(query), after.as_ref(), &mut |position, fits| {
        looked_at += 1;
        let is_last = looked_at >= rows_max;
        page.last = is_last.then(|| position.device.clone());
        if fits {
            page.devices.push(position.device);
        }
        Ok(if is_last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    choose_canaries(connection, query, &mut page)?;
    Ok(page)
}
