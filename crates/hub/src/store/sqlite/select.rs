//! Devices by filter and in an order: both become SQL over the rows of `attributes.rs`.
//!
//! One part of the filter says where to look (the source); the others are looked up for each row that the source gives, and are
//! a column of the answer, so that who reads it counts rows that fit and rows that do not. A source of few rows is read as
//! a whole and sorted. If there is none, the rows are walked through in the order that is asked for, by the index that has it.
//! Requirements without a positive form (`!key`, `!=`, `notin`) are never the source.

use std::ops::ControlFlow;

use bellwire_proto::DeviceId;
use bellwire_proto::device::SortKey;
use bellwire_proto::selector::{Op, Requirement};
use rusqlite::{Connection, Result, params_from_iter};

use super::rows;
use crate::store::{DeviceFilter, DevicePosition};
use sql::{Sql, is_positive, table};
use walk::walks;

mod sql;
mod walk;

/// Rows of a source that are sorted for each page: some milliseconds of work.
const SORTED_MAX: i64 = 2000;

/// A row that may fit, and whether it does.
pub(super) type Visit<'v> = &'v mut dyn FnMut(DevicePosition, bool) -> Result<ControlFlow<()>>;

/// Calls `visit` with each device after `after` that may fit, in the order of the filter, and with whether it does, until
/// that ends the walk. How many of them do not fit is not bounded here.
pub(super) fn each(
    connection: &Connection,
    filter: &DeviceFilter,
    after: Option<&DevicePosition>,
    visit: Visit<'_>,
) -> Result<()> {
    let wanted = DeviceQuery::of(filter);
    let statements = match wanted.source(connection, after)? {
        Some(source) if filter.order.by == SortKey::Id => vec![wanted.by_name(&source, after)],
        Some(source) => vec![wanted.sorted(&source, after)],
        None => walks(&wanted, after),
    };
    for Sql { text, values } in statements {
        let mut statement = connection.prepare(&text)?;
        let mut found = statement.query(params_from_iter(values))?;
        while let Some(row) = found.next()? {
            let position = DevicePosition { device: rows::device_id(row, 0)?, value: row.get(1)? };
            if visit(position, row.get(2)?)?.is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Those of these devices that are there and fit, in the order given.
pub(super) fn fitting(
    connection: &Connection,
    filter: &DeviceFilter,
    devices: Vec<DeviceId>,
) -> Result<Vec<DeviceId>> {
    let wanted = DeviceQuery::of(filter);
    let mut sql = Sql::new("SELECT ");
    wanted.fits(None, &mut sql);
    sql.text(" FROM devices x WHERE x.device = ?");
    let mut statement = connection.prepare(&sql.text)?;
    let mut found = Vec::new();
    for device in devices {
        let values = sql.values.iter().cloned().chain([device.as_str().to_owned().into()]);
        let mut rows = statement.query(params_from_iter(values))?;
        if rows.next()?.map(|row| row.get(0)).transpose()? == Some(true) {
            found.push(device);
        }
    }
    Ok(found)
}

/// A filter as the parts of a statement.
struct DeviceQuery<'a> {
    filter: &'a DeviceFilter,
    /// Of its own selector, and of what exists for the reader.
    requirements: Vec<&'a Requirement>,
}

/// What of a filter says where to look. A row of it has a `device`, and is `x` in a statement.
#[derive(Clone, Copy)]
enum Source<'a> {
    /// The beginning of the name; without one, all devices.
    Names,
    /// Those that have the key of this requirement, and one of its values as far as it has such.
    Whole(&'a Requirement),
    /// Those that have the key of this requirement, whatever the value.
    Key(&'a Requirement),
    /// Those that wait for approval.
    Pending,
    /// Those whose last contact was before a time, and those that had none.
    Unseen,
}

impl<'a> DeviceQuery<'a> {
    fn of(filter: &'a DeviceFilter) -> Self {
        let visible = filter.visible.select().map_or(&[][..], |select| select.requirements());
        Self { filter, requirements: filter.select.requirements().iter().chain(visible).collect() }
    }

    /// The source with the fewest rows if those can be sorted; else, for the order of names, one that has it.
    fn source(
        &self,
        connection: &Connection,
        after: Option<&DevicePosition>,
    ) -> Result<Option<Source<'a>>> {
        let filter = self.filter;
        let positive = || self.requirements.iter().copied().filter(|r| is_positive(r));
        let candidates = positive()
            .map(Source::Whole)
            .chain((filter.pending == Some(true)).then_some(Source::Pending))
            .chain(filter.unseen_before.map(|_| Source::Unseen))
            .chain((!filter.prefix.is_empty()).then_some(Source::Names));
        let (mut best, mut fewest) = (None, SORTED_MAX + 1);
        for source in candidates {
            let mut sql = Sql::new("SELECT count(*) FROM (SELECT 1");
            self.from(&source, after, &mut sql);
            sql.text(&format!(" LIMIT {fewest})"));
            let rows: i64 = connection
                .prepare(&sql.text)?
                .query_row(params_from_iter(sql.values), |row| row.get(0))?;
            if rows < fewest {
                (best, fewest) = (Some(source), rows);
            }
        }
        if best.is_some() || filter.order.by != SortKey::Id {
            return Ok(best);
        }
        let one_value = |r: &&Requirement| matches!(&r.op, Op::In(values) if values.len() == 1);
        Ok(Some(match (filter.pending, positive().find(one_value), positive().next()) {
            (Some(true), _, _) => Source::Pending,
            (_, Some(value), _) => Source::Whole(value),
            (_, _, Some(key)) => Source::Key(key),
            _ => Source::Names,
        }))
    }

    /// The rows of a source by name.
    fn by_name(&self, source: &Source<'_>, after: Option<&DevicePosition>) -> Sql {
        let mut sql = Sql::new("SELECT x.device, 0, ");
        self.fits(Some(source), &mut sql);
        self.from(source, after, &mut sql);
        sql.text(" ORDER BY x.device").text(self.direction());
        sql
    }

    /// The few rows of a source, sorted.
    fn sorted(&self, source: &Source<'_>, after: Option<&DevicePosition>) -> Sql {
        let mut sql = Sql::new("SELECT device, value, fits FROM (SELECT x.device AS device, ");
        sql.text(match self.filter.order.by {
            SortKey::Id => "0",
            SortKey::LastSeen => {
                "(SELECT ifnull(d.seen_at, -1) FROM devices d WHERE d.device = x.device)"
            }
            SortKey::Queued => {
                "ifnull((SELECT q.queued FROM queues q WHERE q.device = x.device), 0)"
            }
        });
        sql.text(" AS value, ");
        self.fits(Some(source), &mut sql);
        sql.text(" AS fits");
        self.from(source, None, &mut sql);
        sql.text(")");
        if let Some(after) = after {
            sql.text(" WHERE (value, device)").text(self.beyond());
            sql.text("(").number(after.value).text(",").value(after.device.as_str()).text(")");
        }
        let direction = self.direction();
        sql.text(" ORDER BY value").text(direction).text(", device").text(direction);
        sql
    }

    /// Where the rows come from. `after` bounds them where the order is that of names.
    fn from(&self, source: &Source<'_>, after: Option<&DevicePosition>, sql: &mut Sql) {
        match source {
            Source::Names => {
                sql.text(" FROM devices x WHERE TRUE");
            }
            Source::Pending => {
                sql.text(" FROM devices x INDEXED BY devices_pending WHERE x.pending = 1");
            }
            Source::Unseen => {
                let before = self.filter.unseen_before.map_or(0, rows::ms);
                sql.text(
                    " FROM (SELECT device FROM devices INDEXED BY devices_seen WHERE seen_at < ",
                );
                sql.number(before).text(" UNION ALL SELECT device FROM devices");
                sql.text(" INDEXED BY devices_seen WHERE seen_at IS NULL) x WHERE TRUE");
            }
            Source::Key(requirement) | Source::Whole(requirement) => {
                let (table, key) = table(&requirement.key);
                sql.text(" FROM ").text(table).text(" x");
                if let (Source::Whole(_), Op::In(values)) = (source, &requirement.op) {
                    // To have the names in order without sorting them, SQLite would go through all that have the key.
                    sql.text(" INDEXED BY ").text(table).text("_value WHERE x.key = ").value(key);
                    sql.text(" AND x.value").values(values);
                } else {
                    sql.text(" WHERE x.key = ").value(key);
                }
            }
        }
        if let Some(after) = after.filter(|_| self.filter.order.by == SortKey::Id) {
            sql.text(" AND x.device").text(self.beyond()).value(after.device.as_str());
        }
        self.in_range(sql);
    }

    /// Whether a row of the source fits what is required beside; without a source, everything is looked at.
    fn fits(&self, source: Option<&Source<'_>>, sql: &mut Sql) {
        sql.text("TRUE");
        for requirement in &self.requirements {
            if matches!(source, Some(Source::Whole(is)) if std::ptr::eq(*is, *requirement)) {
                continue;
            }
            let (table, key) = table(&requirement.key);
            let not = if is_positive(requirement) { "" } else { "NOT " };
            sql.text(" AND ").text(not).text("EXISTS (SELECT 1 FROM ").text(table);
            sql.text(" r WHERE r.key = ").value(key).text(" AND r.device = x.device");
            if let Op::In(values) | Op::NotIn(values) = &requirement.op {
                sql.text(" AND r.value").values(values);
            }
            sql.text(")");
        }
        if let Some(before) = self.filter.unseen_before.map(rows::ms) {
            sql.text(" AND (SELECT ifnull(d.seen_at, d.created_at) FROM devices d WHERE d.device = x.device) < ");
            sql.number(before);
        }
        if let Some(pending) = self.filter.pending {
            sql.text(" AND (SELECT d.pending FROM devices d WHERE d.device = x.device) = ");
            sql.number(i64::from(pending));
        }
        // Where the source is not by name, the beginning of the name has not been looked at.
        if source.is_none() {
            self.in_range(sql);
        }
    }

    fn in_range(&self, sql: &mut Sql) {
        let prefix = &self.filter.prefix;
        if !prefix.is_empty() {
            // A name is of ASCII characters before DEL.
            let end = format!("{prefix}\u{7f}");
            sql.text(" AND x.device >= ").value(prefix).text(" AND x.device < ").value(&end);
        }
    }

    fn direction(&self) -> &'static str {
        if self.filter.order.descending { " DESC" } else { "" }
    }

    fn beyond(&self) -> &'static str {
        if self.filter.order.descending { " < " } else { " > " }
    }
}
