//! Devices by selector: a filter becomes SQL over the rows of `attributes.rs`, read in the order of names.
//!
//! One requirement of the filter, or the beginning of the name, says where to look (the source); the others are looked up for
//! each row that the source gives, and are a column of the answer, so that who reads it counts rows that fit and rows that do
//! not. Requirements without a positive form (`!key`, `!=`, `notin`) are never the source. A source of few rows is read as a
//! whole and sorted; of many, only one that an index has in the order of names is read.

use std::ops::ControlFlow;

use bellwire_proto::DeviceId;
use bellwire_proto::selector::{Key, Op, Requirement};
use rusqlite::types::Value;
use rusqlite::{Connection, Result, params_from_iter};

use super::rows;
use crate::store::DeviceFilter;

/// Rows of a source that are sorted for each page: about a millisecond of work.
const SORTED_MAX: i64 = 2000;

/// Calls `visit` with each device after `after`, by name, that may fit, and with whether it does, until told to stop. How
/// many of them do not fit is not bounded here.
pub(super) fn each(
    connection: &Connection,
    filter: &DeviceFilter,
    after: Option<&DeviceId>,
    mut visit: impl FnMut(DeviceId, bool) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let requirements = requirements(filter);
    let range = Range::of(filter, after);
    let source = Source::of(connection, &requirements, &range)?;
    let mut sql = Sql::new("SELECT x.device, ");
    source.fits(&requirements, &mut sql);
    source.from(&range, &mut sql);
    sql.text(" ORDER BY x.device");
    let mut statement = connection.prepare(&sql.text)?;
    let mut found = statement.query(params_from_iter(sql.values))?;
    while let Some(row) = found.next()? {
        if visit(rows::device_id(row, 0)?, row.get(1)?)?.is_break() {
            break;
        }
    }
    Ok(())
}

/// What a filter requires: its own selector, and what exists for the reader.
fn requirements(filter: &DeviceFilter) -> Vec<&Requirement> {
    let visible = filter.visible.select().map_or(&[][..], |select| select.requirements());
    filter.select.requirements().iter().chain(visible).collect()
}

/// The names that a page can have.
struct Range {
    after: String,
    prefix: String,
}

impl Range {
    fn of(filter: &DeviceFilter, after: Option<&DeviceId>) -> Self {
        let after = after.map_or_else(String::new, |after| after.as_str().to_owned());
        Self { after, prefix: filter.prefix.clone() }
    }

    fn sql(&self, sql: &mut Sql) {
        sql.text(" AND x.device > ").value(&self.after);
        if !self.prefix.is_empty() {
            // A name is of ASCII characters before DEL.
            let end = format!("{}\u{7f}", self.prefix);
            sql.text(" AND x.device >= ").value(&self.prefix).text(" AND x.device < ").value(&end);
        }
    }
}

/// Where the rows come from.
enum Source<'a> {
    /// The devices.
    All,
    /// Those that have the key of this requirement, and one of its values as far as it has such.
    Whole(&'a Requirement),
    /// Those that have the key of this requirement, whatever the value.
    Key(&'a Requirement),
}

impl<'a> Source<'a> {
    /// The one with the fewest rows if those can be sorted; else one that is in the order of names.
    fn of(
        connection: &Connection,
        requirements: &[&'a Requirement],
        range: &Range,
    ) -> Result<Self> {
        let mut best = None;
        let mut fewest = SORTED_MAX + 1;
        for requirement in requirements.iter().copied().filter(|r| is_positive(r)) {
            let mut sql = Sql::new("SELECT count(*) FROM (SELECT 1");
            Self::Whole(requirement).from(range, &mut sql);
            sql.text(&format!(" LIMIT {fewest})"));
            let rows: i64 = connection
                .prepare(&sql.text)?
                .query_row(params_from_iter(sql.values), |row| row.get(0))?;
            if rows < fewest {
                (best, fewest) = (Some(requirement), rows);
            }
        }
        if let Some(few) = best {
            return Ok(Self::Whole(few));
        }
        let with_values = |n: usize| move |r: &&&'a Requirement| matches!(&r.op, Op::In(values) if values.len() == n);
        Ok(match requirements.iter().find(with_values(1)) {
            Some(value) => Self::Whole(value),
            None => match requirements.iter().find(|r| is_positive(r)) {
                Some(key) => Self::Key(key),
                None => Self::All,
            },
        })
    }

    fn from(&self, range: &Range, sql: &mut Sql) {
        match self {
            Self::All => {
                sql.text(" FROM devices x WHERE TRUE");
            }
            Self::Key(requirement) | Self::Whole(requirement) => {
                let (table, key) = table(&requirement.key);
                sql.text(" FROM ").text(table).text(" x WHERE x.key = ").value(key);
                if let (Self::Whole(_), Op::In(values)) = (self, &requirement.op) {
                    sql.text(" AND x.value").values(values);
                }
            }
        }
        range.sql(sql);
    }

    /// Whether a row of the source fits what is required beside.
    fn fits(&self, requirements: &[&Requirement], sql: &mut Sql) {
        sql.text("TRUE");
        for requirement in requirements {
            match self {
                Self::Whole(source) if std::ptr::eq(*source, *requirement) => continue,
                _ => {}
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
    }
}

fn is_positive(requirement: &Requirement) -> bool {
    matches!(requirement.op, Op::In(_) | Op::Exists)
}

fn table(key: &Key) -> (&'static str, &str) {
    match key {
        Key::Label(key) => ("labels", key),
        Key::Fact(name) => ("facts", name),
    }
}

/// A statement, and the values of its parameters in their order. No value is ever part of the text.
struct Sql {
    text: String,
    values: Vec<Value>,
}

impl Sql {
    fn new(text: &str) -> Self {
        Self { text: text.to_owned(), values: Vec::new() }
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    fn value(&mut self, value: &str) -> &mut Self {
        self.values.push(Value::Text(value.to_owned()));
        self.text("?")
    }

    /// Equal to one of these.
    fn values(&mut self, values: &[String]) {
        let [value] = values else {
            self.text(" IN (");
            for (n, value) in values.iter().enumerate() {
                self.text(if n > 0 { "," } else { "" }).value(value);
            }
            self.text(")");
            return;
        };
        self.text(" = ").value(value);
    }
}
