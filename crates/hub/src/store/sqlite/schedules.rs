//! The rows of schedules.

use bellwire_core::record::ScheduleRecord;
use bellwire_proto::limits::LIST_ROWS_MAX;
use bellwire_proto::{CommandId, Page, ScheduleId, Skipped, TokenId};
use rusqlite::{Connection, Error, OptionalExtension, Result, Row, Statement, params};

use super::lists::{Look, Paging};
use super::rows::{self, int, ms};
use crate::store::{Cursor, Visible};

pub(super) const PUT_SCHEDULE: &str = "INSERT OR REPLACE INTO schedules
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";

/// A schedule in the order in which [`read`] reads it.
macro_rules! select_schedules {
    ($rest:literal) => {
        concat!(
            "SELECT id, plan, paused, reason, created_at, created_by, decided_at, run_at, last_at, last_command, \
             skipped_at, skipped_reason, version FROM schedules ",
            $rest
        )
    };
}

/// Writes a schedule. The statement is [`PUT_SCHEDULE`].
pub(super) fn put_schedule(statement: &mut Statement<'_>, row: &ScheduleRecord) -> Result<usize> {
    let plan =
        serde_json::to_string(&row.plan).map_err(|e| Error::ToSqlConversionFailure(Box::new(e)))?;
    statement.execute(params![
        row.id.to_bytes(),
        plan,
        row.paused,
        row.reason,
        ms(row.created_at),
        row.created_by.as_ref().map(TokenId::as_str),
        ms(row.decided_at),
        row.run.map(ms),
        row.last.map(|(at, _)| ms(at)),
        row.last.map(|(_, command)| command.to_bytes()),
        row.skipped.as_ref().map(|skipped| ms(skipped.at)),
        row.skipped.as_ref().map(|skipped| &skipped.reason),
        int(row.version),
    ])
}

fn read(row: &Row<'_>) -> Result<ScheduleRecord> {
    let last_command: Option<[u8; 16]> = row.get(9)?;
    let reason: Option<String> = row.get(11)?;
    Ok(ScheduleRecord {
        id: ScheduleId::from_bytes(row.get(0)?),
        plan: serde_json::from_str(row.get_ref(1)?.as_str()?).map_err(|e| rows::damaged(1, e))?,
        paused: row.get(2)?,
        reason: row.get(3)?,
        created_at: rows::time(row, 4)?,
        created_by: rows::maybe_text(row, 5)?,
        decided_at: rows::time(row, 6)?,
        run: rows::maybe_time(row, 7)?,
        last: rows::maybe_time(row, 8)?.zip(last_command.map(CommandId::from_bytes)),
        skipped: rows::maybe_time(row, 10)?.zip(reason).map(|(at, reason)| Skipped { at, reason }),
        version: rows::uint(row, 12)?,
    })
}

/// All of them, for a start.
pub(super) fn all(connection: &Connection) -> Result<Vec<ScheduleRecord>> {
    let mut statement = connection.prepare(select_schedules!("ORDER BY id"))?;
    statement.query_map([], read)?.collect()
}

/// One, by its id.
pub(super) fn by_id(connection: &Connection, id: ScheduleId) -> Result<Option<ScheduleRecord>> {
    let mut statement = connection.prepare_cached(select_schedules!("WHERE id = ?1"))?;
    statement.query_row([id.to_bytes()], read).optional()
}

/// One, by its name: a look at each, of few.
pub(super) fn by_name(connection: &Connection, name: &str) -> Result<Option<ScheduleRecord>> {
    let mut statement =
        connection.prepare_cached(select_schedules!("WHERE json_extract(plan, '$.name') = ?1"))?;
    statement.query_row([name], read).optional()
}

/// Schedules by id: of one token, or all.
pub(super) fn page(
    connection: &Connection,
    of: Option<TokenId>,
    limit: u32,
    after: Option<ScheduleId>,
) -> Result<Page<ScheduleRecord>> {
    let mut statement = connection.prepare_cached(select_schedules!(
        "WHERE id > ?1 AND (?2 IS NULL OR created_by = ?2) ORDER BY id"
    ))?;
    let after = after.map_or([0; 16], ScheduleId::to_bytes);
    let mut found = statement.query(params![after, of.as_ref().map(TokenId::as_str)])?;
    let mut page = Paging::new(limit, LIST_ROWS_MAX, &Visible::all());
    while let Some(row) = found.next()? {
        let record = read(row)?;
        match page.look(record.id, true) {
            Look::Take => page.push(row.get_ref(1)?.as_str()?.len(), record),
            Look::Pass => {}
            Look::Stop => break,
        }
    }
    Ok(page.finish(Cursor::after_schedule))
}
