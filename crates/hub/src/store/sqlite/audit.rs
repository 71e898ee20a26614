//! The audit log: how it is written, read, and bounded in time and bytes. Contract, section 6.
//!
//! A row costs an insert at the end of one table. So it has no index to be found by: a list is a walk from its newest row
//! backwards, a page of rows at a time.

use std::time::Duration;

use bellwire_core::record::AuditRecord;
use bellwire_proto::limits::LIST_ROWS_MAX;
use bellwire_proto::{Action, Actor, AuditEntry, AuditObject, Code, Page, RoleName, Timestamp};
use rusqlite::{Connection, OptionalExtension, Result, Row, Statement, params};

use super::lists::{Look, Paging};
use super::rows::{self, int, ms};
use crate::store::{AuditFilter, Cursor, Visible};

/// About what a row costs beside its texts: its numbers, its header, its part of the tree.
const ROW_BYTES: usize = 48;
/// Rows that one step of the retention looks at.
const STEP_ROWS: i64 = 512;
/// How far before `since` a walk goes on looking: as far as the wall clock may have been set back in between.
const CLOCK_STEPS: Duration = Duration::from_secs(86_400);

const PUT: &str = "
    INSERT INTO audit VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)
    ON CONFLICT (refusal) WHERE refusal IS NOT NULL DO UPDATE SET count = excluded.count";

macro_rules! columns {
    () => {
        "id, at, actor, role, address, verb, device, command, action, token, status, code, count"
    };
}

/// Adds rows. It belongs to the writer: its numbers are right as long as what it wrote is committed.
pub(super) struct AuditWriter<'c> {
    put: Statement<'c>,
    last: i64,
    bytes: i64,
}

impl<'c> AuditWriter<'c> {
    pub(super) fn new(connection: &'c Connection) -> Result<Self> {
        let end = connection
            .query_row("SELECT id, bytes FROM audit ORDER BY id DESC LIMIT 1", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()?;
        let (last, bytes) = end.unwrap_or_default();
        Ok(Self { put: connection.prepare(PUT)?, last, bytes })
    }

    pub(super) fn put(&mut self, record: &AuditRecord) -> Result<usize> {
        let AuditRecord { actor, object, .. } = record;
        self.last += 1;
        self.bytes = self.bytes.saturating_add(i64::try_from(bytes(record)).unwrap_or(i64::MAX));
        self.put.execute(params![
            self.last,
            ms(record.at),
            self.bytes,
            actor.token,
            actor.role.map(role_number),
            record.address,
            record.verb,
            object.device.as_ref().map(|device| device.as_str()),
            object.command.map(|command| command.to_bytes()),
            object.action.as_ref().map(|action| action.as_str()),
            object.token.as_ref().map(|token| token.as_str()),
            record.status,
            record.code.map(Code::as_str),
            int(record.count),
            record.refusal.map(int),
        ])
    }
}

/// About what a row takes on disk.
fn bytes(record: &AuditRecord) -> usize {
    let AuditRecord { actor, address, verb, object, .. } = record;
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    ROW_BYTES
        + verb.len()
        + text(&actor.token)
        + text(address)
        + object.device.as_ref().map_or(0, |device| device.as_str().len())
        + object.action.as_ref().map_or(0, |action| action.as_str().len())
}

fn role_number(role: RoleName) -> i64 {
    RoleName::ALL.iter().position(|known| *known == role).map_or(-1, |at| at as i64)
}

fn role(row: &Row<'_>, at: usize) -> Result<Option<RoleName>> {
    let number = rows::maybe_uint(row, at)?;
    Ok(number.and_then(|n| RoleName::ALL.get(usize::try_from(n).ok()?).copied()))
}

fn entry(row: &Row<'_>) -> Result<AuditEntry> {
    let command: Option<[u8; 16]> = row.get(7)?;
    let code: Option<String> = row.get(11)?;
    Ok(AuditEntry {
        id: rows::uint(row, 0)?,
        at: rows::time(row, 1)?,
        actor: Actor { token: row.get(2)?, role: role(row, 3)? },
        address: row.get(4)?,
        verb: row.get(5)?,
        object: AuditObject {
            device: rows::maybe_text(row, 6)?,
            command: command.map(bellwire_proto::CommandId::from_bytes),
            action: rows::maybe_text::<Action>(row, 8)?,
            token: rows::maybe_text(row, 9)?,
        },
        status: row.get(10)?,
        code: code.and_then(|code| Code::ALL.iter().copied().find(|known| known.as_str() == code)),
        count: rows::uint(row, 12)?,
    })
}

/// Entries, newest first.
pub(super) fn page(
    connection: &Connection,
    filter: &AuditFilter,
    limit: u32,
    after: Option<u64>,
) -> Result<Page<AuditEntry>> {
    let mut statement = connection.prepare_cached(concat!(
        "SELECT ",
        columns!(),
        " FROM audit WHERE id < ?1 ORDER BY id DESC"
    ))?;
    let mut rows = statement.query([after.map_or(i64::MAX, int)])?;
    let mut page = Paging::new(limit, LIST_ROWS_MAX, &Visible::all());
    let earliest = filter.since.map(|since| since.before(CLOCK_STEPS));
    while let Some(row) = rows.next()? {
        let entry = entry(row)?;
        if earliest.is_some_and(|earliest| entry.at < earliest) {
            break;
        }
        match page.look(entry.id, filter.matches(&entry)) {
            Look::Take => page.push(size_of::<AuditEntry>(), entry),
            Look::Pass => {}
            Look::Stop => break,
        }
    }
    Ok(page.finish(Cursor::after_audit))
}

/// Entries after one, oldest first, and the number of the last that was looked at.
pub(super) fn following(
    connection: &Connection,
    filter: &AuditFilter,
    after: u64,
    limit: u32,
) -> Result<(Vec<AuditEntry>, u64)> {
    let mut statement = connection.prepare_cached(concat!(
        "SELECT ",
        columns!(),
        " FROM audit WHERE id > ?1 ORDER BY id LIMIT ?2"
    ))?;
    let mut rows = statement.query(params![int(after), limit])?;
    let (mut entries, mut last) = (Vec::new(), after);
    while let Some(row) = rows.next()? {
        let entry = entry(row)?;
        last = entry.id;
        if filter.matches(&entry) {
            entries.push(entry);
        }
    }
    Ok((entries, last))
}

/// The number of the newest entry; 0 when there was none ever.
pub(super) fn last(connection: &Connection) -> Result<u64> {
    let mut statement = connection.prepare_cached("SELECT ifnull(max(id), 0) FROM audit")?;
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
