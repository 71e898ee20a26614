//! The devices that a command names by a selector, or all: a page at a time, for the core and for a dry run. Registered
//! devices are found by the indexes of `select.rs`.

use std::ops::ControlFlow;

use bellwire_core::TargetQuery;
use bellwire_core::record::TargetPage;
use bellwire_proto::facts::{self, FactValues};
use bellwire_proto::{DeviceId, Json, Labels, Selector};
use rusqlite::{Connection, Error, Result, Row, Rows, params};

use super::rows::{self, int};
use super::select;
use crate::store::{DeviceFilter, DevicePlace, Visible};

/// Those where the command `?3` is in one of the states of the JSON list `?4`; what was removed meanwhile has no labels.
const ENDED: &str = "
    SELECT e.device, ifnull(d.labels, '{}'), ifnull(d.facts, '{}')
    FROM deliveries e LEFT JOIN devices d ON d.device = e.device
    WHERE e.seq = (SELECT seq FROM commands WHERE id = ?3)
        AND e.device > ?1 AND e.state IN (SELECT value FROM json_each(?4))
    ORDER BY e.device LIMIT ?2";

/// Those of the JSON list `?1`, `?2` at most, registered or not.
const NAMED: &str = "
    SELECT n.value, ifnull(d.labels, '{}'), ifnull(d.facts, '{}')
    FROM json_each(?1) n LEFT JOIN devices d ON d.device = n.value
    ORDER BY n.value LIMIT ?2";

/// Looks at `rows_max` devices.
pub(super) fn found(
    connection: &Connection,
    query: &TargetQuery,
    after: Option<&DeviceId>,
    rows_max: usize,
) -> Result<TargetPage> {
    let mut page = TargetPage::default();
    let (after_name, limit) = (after.map_or("", DeviceId::as_str), int(rows_max as u64));
    match (&query.named, &query.ended) {
        (Some(named), _) => {
            let begin = after.map_or(0, |after| named.partition_point(|name| name <= after));
            let names = named.iter().skip(begin).take(rows_max).map(DeviceId::as_str);
            let names = json_list(&names.collect::<Vec<_>>())?;
            let mut statement = connection.prepare_cached(NAMED)?;
            fill(&mut page, statement.query(params![names, limit])?, query, rows_max)?;
        }
        (None, Some((parent, states))) => {
            let states: Vec<i64> = states.iter().map(|state| rows::state_number(*state)).collect();
            let mut statement = connection.prepare_cached(ENDED)?;
            let params = params![after_name, limit, parent.to_bytes(), json_list(&states)?];
            fill(&mut page, statement.query(params)?, query, rows_max)?;
        }
        (None, None) => registered(&mut page, connection, query, after, rows_max)?,
    }
    Ok(page)
}

fn registered(
    page: &mut TargetPage,
    connection: &Connection,
    query: &TargetQuery,
    after: Option<&DeviceId>,
    rows_max: usize,
) -> Result<()> {
    let of = |select: &Option<Selector>| DeviceFilter {
        select: select.clone().unwrap_or_default(),
        ..DeviceFilter::default()
    };
    let filter = DeviceFilter { visible: Visible::by(query.scope.clone()), ..of(&query.select) };
    let after = after.map(|device| DevicePlace { device: device.clone(), value: 0 });
    let (mut found, mut looked_at) = (Vec::new(), 0);
    select::each(connection, &filter, after.as_ref(), &mut |place, fits| {
        looked_at += 1;
        let is_last = looked_at >= rows_max;
        page.last = is_last.then(|| place.device.clone());
        if fits {
            found.push(place.device);
        }
        Ok(if is_last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    if query.canary.is_some() {
        page.canaries = select::fitting(connection, &of(&query.canary), found.clone())?;
    }
    page.devices = found;
    Ok(())
}

fn json_list<T: serde::Serialize>(list: &[T]) -> Result<String> {
    serde_json::to_string(list).map_err(|e| Error::ToSqlConversionFailure(Box::new(e)))
}

fn fill(
    page: &mut TargetPage,
    mut rows: Rows<'_>,
    query: &TargetQuery,
    rows_max: usize,
) -> Result<()> {
    let mut looked_at = 0;
    while let Some(row) = rows.next()? {
        looked_at += 1;
        let device = rows::device_id(row, 0)?;
        let of_device = Selectable::read(query, row)?;
        if looked_at >= rows_max {
            page.last = Some(device.clone());
        }
        if !query.select.iter().chain(&query.scope).all(|select| of_device.meets(select)) {
            continue;
        }
        if query.canary.as_ref().is_some_and(|canary| of_device.meets(canary)) {
            page.canaries.push(device.clone());
        }
        page.devices.push(device);
    }
    Ok(())
}

/// What selectors see of a device, as far as these do.
struct Selectable {
    labels: Labels,
    facts: FactValues,
}

impl Selectable {
    fn read(query: &TargetQuery, row: &Row<'_>) -> Result<Self> {
        let selectors = || query.select.iter().chain(&query.scope).chain(&query.canary);
        if selectors().next().is_none() {
            return Ok(Self { labels: Labels::new(), facts: FactValues::new() });
        }
        let labels = serde_json::from_str(row.get_ref(1)?.as_str()?);
        let labels = labels.map_err(|e| rows::damaged(1, e))?;
        // Most selectors are of labels alone, and facts are long.
        let facts =
            if selectors().any(Selector::sees_facts) { rows::json(row, 2)? } else { Json::null() };
        Ok(Self { labels, facts: facts::selectable(&facts) })
    }

    fn meets(&self, select: &Selector) -> bool {
        select.selects(&self.labels, &self.facts)
    }
}
