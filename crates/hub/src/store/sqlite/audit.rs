//! The audit log: how it is written, read, and bounded in time and bytes. Contract, section 6, "Audit".
//!
//! What is committed together is one row, a block (`audit/block.rs`): an insert at the end of one table, however many entries
//! it has. So there is no index to be found by: a list is a walk from the newest entry backwards, a page at a time.

use std::time::Duration;

use bellwire_core::record::AuditRecord;
use bellwire_proto::limits::LIST_ROWS_MAX;
use bellwire_proto::{AuditEntry, Page, Timestamp};
use rusqlite::{Connection, OptionalExtension, Result, Row, Statement, params};

use super::lists::{Look, Paging};
use super::rows::{self, int, ms};
use crate::store::{AuditFilter, Cursor, Visible};
use block::{Block, Entries};

mod block;

/// About what a row costs beside its block: its numbers, its header, its part of the tree.
const ROW_BYTES: usize = 32;
/// Rows that one step of the retention looks at.
const STEP_ROWS: i64 = 512;
/// How far before `since` a walk goes on looking: as far as the wall clock may have been set back in between.
const CLOCK_STEPS: Duration = Duration::from_secs(86_400);

const PUT: &str = "
    INSERT INTO audit (id, at, bytes, refusal, count, entries, block) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
    ON CONFLICT (refusal) WHERE refusal IS NOT NULL DO UPDATE SET count = excluded.count";

/// Adds entries. It belongs to the writer: its numbers are right as long as what it wrote is committed.
pub(super) struct AuditWriter<'c> {
    put: Statement<'c>,
    /// Entries of the commit under way that are in no row yet.
    block: Block,
    /// The number of the last entry that is in a row.
    last: i64,
    bytes: i64,
}

impl<'c> AuditWriter<'c> {
    pub(super) fn new(connection: &'c Connection) -> Result<Self> {
        let end = connection
            .query_row(
                "SELECT id + entries - 1, bytes FROM audit ORDER BY id DESC LIMIT 1",
                [],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .optional()?;
        let (last, bytes) = end.unwrap_or_default();
        Ok(Self { put: connection.prepare(PUT)?, block: Block::default(), last, bytes })
    }

    /// Adds an entry, which is in the table after [`AuditWriter::flush`].
    pub(super) fn put(&mut self, record: &AuditRecord) -> Result<()> {
        let alone = record.refusal.is_some();
        if alone || !self.block.push(record) {
            self.flush()?;
            // An empty block takes any entry.
            let _fits = self.block.push(record);
        }
        if alone { self.put_row(record.refusal, Some(record.count)) } else { Ok(()) }
    }

    /// To be called before the commit.
    pub(super) fn flush(&mut self) -> Result<()> {
        if self.block.entries() == 0 { Ok(()) } else { self.put_row(None, None) }
    }

    fn put_row(&mut self, refusal: Option<u64>, count: Option<u64>) -> Result<()> {
        let (entries, block) = (int(self.block.entries()), self.block.bytes());
        self.bytes = self.bytes.saturating_add(int((ROW_BYTES + block.len()) as u64));
        self.put.execute(params![
            self.last + 1,
            ms(self.block.first_at()),
            self.bytes,
            refusal.map(int),
            count.map(int),
            entries,
            block,
        ])?;
        self.last += entries;
        self.block.clear();
        Ok(())
    }
}

const COLUMNS: &str = "id, count, block";

/// The entries of a row, rising.
fn entries(row: &Row<'_>) -> Result<Vec<AuditEntry>> {
    let count = rows::maybe_uint(row, 1)?;
    let block = row.get_ref(2)?.as_blob()?;
    let damaged = |error| rows::damaged(2, error);
    let entries = Entries::of(block, rows::uint(row, 0)?).map_err(damaged)?;
    let counted = |entry: AuditEntry| AuditEntry { count: count.unwrap_or(entry.count), ..entry };
    entries.map(|entry| entry.map(counted).map_err(damaged)).collect()
}

/// Entries, newest first.
pub(super) fn page(
    connection: &Connection,
    filter: &AuditFilter,
    limit: u32,
    after: Option<u64>,
) -> Result<Page<AuditEntry>> {
    let mut statement = connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM audit WHERE id < ?1 ORDER BY id DESC"))?;
    let mut rows = statement.query([after.map_or(i64::MAX, int)])?;
    let mut page = Paging::new(limit, LIST_ROWS_MAX, &Visible::all());
    let earliest = filter.since.map(|since| since.before(CLOCK_STEPS));
    'rows: while let Some(row) = rows.next()? {
        let newer_than = |entry: &AuditEntry| after.is_some_and(|after| entry.id >= after);
        for entry in entries(row)?.into_iter().rev().skip_while(newer_than) {
            if earliest.is_some_and(|earliest| entry.at < earliest) {
                break 'rows;
            }
            match page.look(entry.id, filter.matches(&entry)) {
                Look::Take => page.push(size_of::<AuditEntry>(), entry),
                Look::Pass => {}
                Look::Stop => break 'rows,
            }
        }
    }
    Ok(page.finish(Cursor::after_audit))
}

/// Entries after one, oldest first, and the number of the last that was looked at: of `limit`, or a block more.
pub(super) fn following(
    connection: &Connection,
    filter: &AuditFilter,
    after: u64,
    limit: u32,
) -> Result<(Vec<AuditEntry>, u64)> {
    // The row that it is in may have more.
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM audit
         WHERE id >= ifnull((SELECT max(id) FROM audit WHERE id <= ?1), 0) ORDER BY id"
    ))?;
    let mut rows = statement.query([int(after)])?;
    let (mut found, mut looked_at, mut last) = (Vec::new(), 0, after);
    while looked_at < limit
        && let Some(row) = rows.next()?
    {
        for entry in entries(row)?.into_iter().filter(|entry| entry.id > after) {
            (looked_at, last) = (looked_at + 1, entry.id);
            if filter.matches(&entry) {
                found.push(entry);
            }
        }
    }
    Ok((found, last))
}

/// The number of the newest entry; 0 when there was none ever.
pub(super) fn last(connection: &Connection) -> Result<u64> {
    let mut statement = connection.prepare_cached(
        "SELECT ifnull((SELECT id + entries - 1 FROM audit ORDER BY id DESC LIMIT 1), 0)",
    )?;
    statement.query_row([], |row| rows::uint(row, 0))
}

/// Deletes the oldest rows: what is too old, and what is too much.
pub(super) struct AuditRetention<'c> {
    keep: Duration,
    bytes_max: i64,
    end: Statement<'c>,
    oldest: Statement<'c>,
    delete: Statement<'c>,
}

impl<'c> AuditRetention<'c> {
    pub(super) fn new(connection: &'c Connection, keep: Duration, bytes_max: u64) -> Result<Self> {
        Ok(Self {
            keep,
            bytes_max: int(bytes_max),
            end: connection.prepare("SELECT id, bytes FROM audit ORDER BY id DESC LIMIT 1")?,
            oldest: connection.prepare("SELECT id, at, bytes FROM audit ORDER BY id LIMIT ?1")?,
            delete: connection.prepare("DELETE FROM audit WHERE id <= ?1")?,
        })
    }

    /// One step, within the transaction that is open; whether another is needed.
    pub(super) fn step(&mut self, now: Timestamp) -> Result<bool> {
        let end = self.end.query_row([], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        let Some((newest, total)): Option<(i64, i64)> = end else { return Ok(false) };
        let before_ms = ms(now.before(self.keep));
        let (mut looked_at, mut until) = (0, None);
        let mut rows = self.oldest.query([STEP_ROWS])?;
        while let Some(row) = rows.next()? {
            let (id, at, bytes): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let goes = at < before_ms || total.saturating_sub(bytes) >= self.bytes_max;
            if !goes || id == newest {
                break;
            }
            looked_at += 1;
            until = Some(id);
        }
        drop(rows);
        if let Some(until) = until {
            self.delete.execute([until])?;
        }
        Ok(looked_at == STEP_ROWS)
    }
}
