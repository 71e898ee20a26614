//! How rows are written and read: states and times as numbers, names and JSON as text.
//!
//! What is read was checked when it was written. A row that does not parse all the same is damage,
//! and an error of the read; nothing here panics because of it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bellwire_core::Instant;
use bellwire_core::record::{
    BatchMark, CommandHead, CommandRecord, DeliveryRecord, DeviceRecord, IdempotencyKey,
    IdempotencyRecord, Seen, TargetChunk,
};
use bellwire_proto::{
    CommandId, DeliveryState, DeviceId, ErrorInfo, Json, Labels, Outcome, Progress, Seq, Timestamp,
    TokenId, Window,
};
use rusqlite::types::Type;
use rusqlite::{Error, Result, Row, Statement, params};

/// A delivery and its command's head, in the order in which [`delivery`] reads them. The tables are
/// `c` and `d`.
macro_rules! delivery_columns {
    () => {
        "c.seq, c.id, c.action, c.created_at, c.expires_at, c.run_timeout_ms, c.not_before, \
         c.created, c.total, d.device, d.state, d.attempt, d.sends, d.counted, d.rev, d.version, \
         d.updated_at, d.updated, d.expires, d.flags, d.scheduled_at, d.retry_at, d.run_until, \
         d.cancelling_since, d.progress, d.exit_code, d.error_code, d.error_message, d.result, \
         d.stdout, d.stderr, d.batch, d.began_at, c.window"
    };
}
/// How many columns that is: what is selected after them has this index.
pub(super) const DELIVERY_COLUMNS: usize = 34;

/// Where [`delivery_columns`] has the device.
pub(super) const DEVICE: usize = 9;
/// Where [`delivery_columns`] has the state.
pub(super) const STATE: usize = 10;

/// A command in the order in which [`command`] reads it. The table is `c`.
macro_rules! command_columns {
    () => {
        "c.seq, c.id, c.action, c.created_at, c.expires_at, c.run_timeout_ms, c.not_before, \
         c.created, c.total, c.online_only, c.created_by, c.data, c.selector, c.parent, c.window"
    };
}

/// How many columns that is: what is selected after them has this index.
pub(super) const COMMAND_COLUMNS: usize = 15;

/// A device in the order in which [`device`] reads it.
macro_rules! device_columns {
    () => {
        "device, labels, facts, created_at, seen_at, seen_address, seen_agent, pending"
    };
}

pub(super) use {command_columns, delivery_columns, device_columns};

/// Whether output was cut, in `flags`.
const TRUNCATED: i64 = 1;
/// Whether the end was reported late, in `flags`.
const LATE: i64 = 2;
/// Whether the hub alone decided on `cancelled`, in `flags`.
const FORCED: i64 = 4;
/// Whether it waits for its window, in `flags`.
pub(super) const AWAITS_WINDOW: i64 = 8;

/// The number of a state on disk. Never to be changed; live states are those below 5, as the
/// partial indexes say.
pub(super) const fn state_number(state: DeliveryState) -> i64 {
    match state {
        DeliveryState::Queued => 0,
        DeliveryState::Sent => 1,
        DeliveryState::Accepted => 2,
        DeliveryState::Running => 3,
        DeliveryState::Cancelling => 4,
        DeliveryState::Succeeded => 5,
        DeliveryState::Failed => 6,
        DeliveryState::Rejected => 7,
        DeliveryState::TimedOut => 8,
        DeliveryState::Expired => 9,
        DeliveryState::Dead => 10,
        DeliveryState::Cancelled => 11,
        DeliveryState::Delivered => 12,
    }
}

/// A number as SQLite stores it, in 63 bits. The times, lengths and counts of the contract are far
/// below 2^63. A sequence number that a client has made up may be greater: it becomes the greatest
/// possible one, which is behind every row.
pub(super) fn int(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// A time as it is stored: milliseconds since the epoch.
pub(super) fn ms(time: Timestamp) -> i64 {
    int(time.unix_ms())
}

/// A point of the monotonic clock as it is stored: milliseconds since its origin.
pub(super) fn instant_ms(instant: Instant) -> i64 {
    int(instant.ms())
}

/// Writes a command. The statement is `writer::PUT_COMMAND`.
pub(super) fn put_command(statement: &mut Statement<'_>, command: &CommandRecord) -> Result<usize> {
    let head = &command.head;
    statement.execute(params![
        int(head.seq.get()),
        head.id.to_bytes(),
        head.action.as_str(),
        ms(head.created_at),
        ms(head.expires_at),
        span(head.run_timeout),
        head.not_before.map(ms),
        instant_ms(head.created),
        int(head.total),
        command.online_only,
        command.created_by,
        command.data.as_str(),
        command.select,
        command.parent.map(|parent| parent.to_bytes()),
        window_text(head.window.as_deref())?,
    ])
}

/// Writes a delivery, and gives the number of rows written. The statement has the parameters of
/// `writer::INSERT_DELIVERY`.
pub(super) fn put_delivery(statement: &mut Statement<'_>, row: &DeliveryRecord) -> Result<usize> {
    let flag = |set: bool, bit: i64| if set { bit } else { 0 };
    let outcome = &row.outcome;
    let Outcome { progress, exit_code, result, stdout, stderr, truncated: _, error } = outcome;
    statement.execute(params![
        int(row.head.seq.get()),
        row.device.as_str(),
        state_number(row.state),
        row.attempt,
        row.sends,
        row.counted,
        row.rev.map(int),
        int(row.version),
        ms(row.updated_at),
        instant_ms(row.updated),
        instant_ms(row.expires),
        flag(outcome.is_truncated(), TRUNCATED)
            | flag(row.late, LATE)
            | flag(row.forced, FORCED)
            | flag(row.awaits_window, AWAITS_WINDOW),
        row.scheduled_at.map(ms),
        row.retry_at.map(instant_ms),
        row.run_until.map(instant_ms),
        row.cancelling_since.map(instant_ms),
        row.due_at().map(instant_ms),
        progress.map(Progress::get),
        exit_code,
        error.as_ref().map(|e| e.code.as_str()),
        error.as_ref().and_then(|e| e.message.as_deref()),
        result.as_ref().map(Json::as_str),
        stdout,
        stderr,
        row.batch.map(|batch| int(batch.number)),
        row.batch.map(|batch| ms(batch.began_at)),
    ])
}

/// Reads a command: [`command_columns`].
pub(super) fn command(row: &Row<'_>) -> Result<CommandRecord> {
    Ok(CommandRecord {
        head: head(row, 14)?,
        online_only: row.get(9)?,
        created_by: row.get(10)?,
        data: json(row, 11)?,
        select: row.get(12)?,
        parent: maybe_id(row, 13)?,
    })
}

/// Reads a delivery: [`delivery_columns`].
pub(super) fn delivery(row: &Row<'_>) -> Result<DeliveryRecord> {
    let flags: i64 = row.get(19)?;
    let error = match row.get(26)? {
        None => None,
        Some(code) => Some(ErrorInfo { code, message: row.get(27)? }),
    };
    Ok(DeliveryRecord {
        head: head(row, 33)?,
        device: text(row, DEVICE)?,
        batch: match (maybe_uint(row, 31)?, maybe_time(row, 32)?) {
            (Some(number), Some(began_at)) => Some(BatchMark { number, began_at }),
            _ => None,
        },
        state: state(row, STATE)?,
        attempt: row.get(11)?,
        sends: row.get(12)?,
        counted: row.get(13)?,
        rev: maybe_uint(row, 14)?,
        version: uint(row, 15)?,
        updated_at: time(row, 16)?,
        updated: instant(row, 17)?,
        expires: instant(row, 18)?,
        outcome: Outcome {
            progress: progress(row, 24)?,
            exit_code: row.get(25)?,
            result: maybe_json(row, 28)?,
            stdout: row.get(29)?,
            stderr: row.get(30)?,
            truncated: (flags & TRUNCATED != 0).then_some(true),
            error,
        },
        late: flags & LATE != 0,
        forced: flags & FORCED != 0,
        scheduled_at: maybe_time(row, 20)?,
        awaits_window: flags & AWAITS_WINDOW != 0,
        retry_at: maybe_instant(row, 21)?,
        run_until: maybe_instant(row, 22)?,
        cancelling_since: maybe_instant(row, 23)?,
    })
}

/// Reads a device: [`device_columns`].
pub(super) fn device(row: &Row<'_>) -> Result<DeviceRecord> {
    let labels: String = row.get(1)?;
    let seen = match maybe_time(row, 4)? {
        None => None,
        Some(at) => Some(Seen { at, address: row.get(5)?, agent: row.get(6)? }),
    };
    Ok(DeviceRecord {
        id: text(row, 0)?,
        labels: serde_json::from_str(&labels).map_err(|e| damaged(1, e))?,
        facts: json(row, 2)?,
        created_at: time(row, 3)?,
        seen,
        pending: row.get(7)?,
    })
}

/// Labels as they are stored: a JSON object.
pub(super) fn labels_text(labels: &Labels) -> Result<String> {
    serde_json::to_string(labels).map_err(|e| Error::ToSqlConversionFailure(e.into()))
}

/// Reads what a key was used for: `fingerprint, command, device, expires`.
pub(super) fn idempotency(row: &Row<'_>, key: IdempotencyKey) -> Result<IdempotencyRecord> {
    Ok(IdempotencyRecord {
        key,
        fingerprint: row.get(0)?,
        command: id(row, 1)?,
        device: maybe_text(row, 2)?,
        expires: instant(row, 3)?,
    })
}

/// The first nine of both a command and a delivery: what [`command_columns`] begins with. Its window is where `window` says.
fn head(row: &Row<'_>, window: usize) -> Result<CommandHead> {
    Ok(CommandHead {
        seq: seq(row, 0)?,
        id: id(row, 1)?,
        action: text(row, 2)?,
        created_at: time(row, 3)?,
        expires_at: time(row, 4)?,
        run_timeout: Duration::from_millis(uint(row, 5)?),
        not_before: maybe_time(row, 6)?,
        created: instant(row, 7)?,
        total: uint(row, 8)?,
        window: maybe_window(row, window)?,
    })
}

/// A window as it is stored: a JSON object.
pub(super) fn window_text(window: Option<&Window>) -> Result<Option<String>> {
    let text = window.map(serde_json::to_string).transpose();
    text.map_err(|e| Error::ToSqlConversionFailure(e.into()))
}

pub(super) fn maybe_window(row: &Row<'_>, at: usize) -> Result<Option<Arc<Window>>> {
    let text = row.get_ref(at)?.as_str_or_null()?;
    let window = text.map(|text| serde_json::from_str::<Window>(text).map_err(|e| damaged(at, e)));
    Ok(window.transpose()?.map(Arc::new))
}

/// A span as it is stored: milliseconds.
fn span(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

/// The column `canary` of a chunk of targets: 1 for canaries, and 2 more if all were registered when the command was stored.
pub(super) fn chunk_marks_number(chunk: &TargetChunk) -> i64 {
    i64::from(chunk.canary) | (i64::from(chunk.registered) << 1)
}

/// Whether they are canaries, and whether all were registered.
pub(super) fn chunk_marks(row: &Row<'_>, at: usize) -> Result<(bool, bool)> {
    let marks: i64 = row.get(at)?;
    Ok((marks & 1 != 0, marks & 2 != 0))
}

pub(super) fn uint(row: &Row<'_>, at: usize) -> Result<u64> {
    let number: i64 = row.get(at)?;
    u64::try_from(number).map_err(|_| Error::IntegralValueOutOfRange(at, number))
}

pub(super) fn maybe_uint(row: &Row<'_>, at: usize) -> Result<Option<u64>> {
    let number: Option<i64> = row.get(at)?;
    let unsigned =
        number.map(|n| u64::try_from(n).map_err(|_| Error::IntegralValueOutOfRange(at, n)));
    unsigned.transpose()
}

pub(super) fn seq(row: &Row<'_>, at: usize) -> Result<Seq> {
    uint(row, at).map(Seq::new)
}

pub(super) fn device_id(row: &Row<'_>, at: usize) -> Result<DeviceId> {
    text(row, at)
}

pub(super) fn token_id(row: &Row<'_>, at: usize) -> Result<TokenId> {
    text(row, at)
}

pub(super) fn state(row: &Row<'_>, at: usize) -> Result<DeliveryState> {
    let number: i64 = row.get(at)?;
    DeliveryState::ALL
        .into_iter()
        .find(|state| state_number(*state) == number)
        .ok_or(Error::IntegralValueOutOfRange(at, number))
}

pub(super) fn time(row: &Row<'_>, at: usize) -> Result<Timestamp> {
    uint(row, at).map(Timestamp::from_unix_ms)
}

pub(super) fn instant(row: &Row<'_>, at: usize) -> Result<Instant> {
    uint(row, at).map(Instant::from_ms)
}

pub(super) fn maybe_instant(row: &Row<'_>, at: usize) -> Result<Option<Instant>> {
    Ok(maybe_uint(row, at)?.map(Instant::from_ms))
}

pub(super) fn maybe_time(row: &Row<'_>, at: usize) -> Result<Option<Timestamp>> {
    Ok(maybe_uint(row, at)?.map(Timestamp::from_unix_ms))
}

pub(super) fn json(row: &Row<'_>, at: usize) -> Result<Json> {
    Json::from_checked(row.get(at)?).map_err(|e| damaged(at, e))
}

fn maybe_json(row: &Row<'_>, at: usize) -> Result<Option<Json>> {
    let text: Option<String> = row.get(at)?;
    text.map(Json::from_checked).transpose().map_err(|e| damaged(at, e))
}

pub(super) fn id(row: &Row<'_>, at: usize) -> Result<CommandId> {
    row.get(at).map(CommandId::from_bytes)
}

fn maybe_id(row: &Row<'_>, at: usize) -> Result<Option<CommandId>> {
    let bytes: Option<[u8; 16]> = row.get(at)?;
    Ok(bytes.map(CommandId::from_bytes))
}

fn progress(row: &Row<'_>, at: usize) -> Result<Option<Progress>> {
    let percent: Option<f64> = row.get(at)?;
    percent.map(Progress::try_from).transpose().map_err(|e| damaged(at, e))
}

fn text<T: FromStr>(row: &Row<'_>, at: usize) -> Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let text = row.get_ref(at)?.as_str()?;
    text.parse().map_err(|e| damaged(at, e))
}

pub(super) fn maybe_text<T: FromStr>(row: &Row<'_>, at: usize) -> Result<Option<T>>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let text = row.get_ref(at)?.as_str_or_null()?;
    text.map(|text| text.parse().map_err(|e| damaged(at, e))).transpose()
}

/// Reads the names of a chunk: one to a line.
pub(super) fn devices(row: &Row<'_>, at: usize) -> Result<Vec<DeviceId>> {
    let names = row.get_ref(at)?.as_str()?.lines();
    names.map(|name| name.parse().map_err(|e| damaged(at, e))).collect()
}

pub(super) fn damaged<E>(at: usize, why: E) -> Error
where
    E: std::error::Error + Send + Sync + 'static + fmt::Display,
{
    Error::FromSqlConversionFailure(at, Type::Text, Box::new(why))
}
