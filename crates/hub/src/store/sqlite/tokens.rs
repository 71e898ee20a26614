//! How tokens are written and read. Contract, section 6, "Tokens".

use bellwire_core::record::TokenRecord;
use bellwire_proto::limits::LIST_ROWS_MAX;
use bellwire_proto::{Action, Join, Page, Role, Scope, TokenId};
use rusqlite::{Connection, Error, OptionalExtension, Result, Row, Statement, params};

use super::lists::{Look, Paging};
use super::rows::{self, int, ms};
use crate::store::{Cursor, StoredToken, Visible};

/// Whether a name that is taken may be taken over, in `flags`.
const REPLACE: i64 = 1;
/// Whether an operator must approve each device, in `flags`.
const APPROVE: i64 = 2;

pub(super) const PUT_TOKEN: &str = "INSERT OR REPLACE INTO tokens
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)";

/// A token in the order in which [`token`] reads it.
macro_rules! token_columns {
    () => {
        "t.id, t.digest, t.role, t.device, t.selector, t.actions, t.labels, t.uses_left, t.flags, t.expires_at, \
         t.note, t.created_at, t.created_by, t.last_used_at"
    };
}
/// How many columns that is.
const TOKEN_COLUMNS: usize = 14;

/// Writes a token. The statement is [`PUT_TOKEN`].
pub(super) fn put_token(statement: &mut Statement<'_>, token: &TokenRecord) -> Result<usize> {
    let (mut selector, mut actions, mut labels, mut uses_left, mut flags) =
        (None, None, None, None, 0);
    let role: i64 = match &token.role {
        Role::Admin => 0,
        Role::Operator(scope) => {
            selector = scope.select.as_ref().map(ToString::to_string);
            actions = scope.actions.as_deref().map(names);
            1
        }
        Role::Device(_) => 2,
        Role::Join(join) => {
            labels = Some(rows::labels_text(&join.labels)?);
            uses_left = join.uses_left.map(int);
            flags = i64::from(join.replace) * REPLACE + i64::from(join.approve) * APPROVE;
            3
        }
        Role::Metrics => 4,
    };
    statement.execute(params![
        token.id.as_str(),
        token.digest,
        role,
        token.role.device().map(|device| device.as_str()),
        selector,
        actions,
        labels,
        uses_left,
        flags,
        token.expires_at.map(ms),
        token.note,
        ms(token.created_at),
        token.created_by,
        token.last_used_at.map(ms),
    ])
}

/// Names, one to a line.
fn names(actions: &[Action]) -> String {
    actions.iter().map(Action::as_str).collect::<Vec<_>>().join("\n")
}

fn token(row: &Row<'_>) -> Result<TokenRecord> {
    let number: i64 = row.get(2)?;
    let flags: i64 = row.get(8)?;
    let role = match number {
        0 => Role::Admin,
        1 => {
            let actions: Option<String> = row.get(5)?;
            let actions = actions.map(|names| {
                names.lines().map(|name| name.parse().map_err(|e| rows::damaged(5, e))).collect()
            });
            let scope = Scope { select: rows::maybe_text(row, 4)?, actions: actions.transpose()? };
            Role::Operator(Box::new(scope))
        }
        2 => Role::Device(rows::device_id(row, 3)?),
        3 => {
            let labels: String = row.get(6)?;
            Role::Join(Box::new(Join {
                labels: serde_json::from_str(&labels).map_err(|e| rows::damaged(6, e))?,
                uses_left: rows::maybe_uint(row, 7)?,
                replace: flags & REPLACE != 0,
                approve: flags & APPROVE != 0,
            }))
        }
        4 => Role::Metrics,
        other => return Err(Error::IntegralValueOutOfRange(2, other)),
    };
    Ok(TokenRecord {
        id: rows::token_id(row, 0)?,
        digest: row.get(1)?,
        role,
        expires_at: rows::maybe_time(row, 9)?,
        note: row.get(10)?,
        created_at: rows::time(row, 11)?,
        created_by: row.get(12)?,
        last_used_at: rows::maybe_time(row, 13)?,
    })
}

/// A token as it is.
pub(super) fn record(connection: &Connection, id: TokenId) -> Result<Option<TokenRecord>> {
    let mut statement = connection.prepare_cached(concat!(
        "SELECT ",
        token_columns!(),
        " FROM tokens t WHERE t.id = ?1"
    ))?;
    statement.query_row([id.as_str()], token).optional()
}

/// A token, and whether its device must be approved first.
pub(super) fn stored(connection: &Connection, id: TokenId) -> Result<Option<StoredToken>> {
    let mut statement = connection.prepare_cached(concat!(
        "SELECT ",
        token_columns!(),
        ", ifnull(d.pending, 0) FROM tokens t LEFT JOIN devices d ON d.device = t.device
         WHERE t.id = ?1"
    ))?;
    let read =
        |row: &Row<'_>| Ok(StoredToken { record: token(row)?, pending: row.get(TOKEN_COLUMNS)? });
    statement.query_row([id.as_str()], read).optional()
}

/// Tokens by id.
pub(super) fn page(
    connection: &Connection,
    limit: u32,
    after: Option<TokenId>,
) -> Result<Page<TokenRecord>> {
    let mut statement = connection.prepare_cached(concat!(
        "SELECT ",
        token_columns!(),
        " FROM tokens t WHERE t.id > ?1 ORDER BY t.id"
    ))?;
    let after = after.as_ref().map_or("", TokenId::as_str);
    let mut rows = statement.query([after])?;
    let mut page = Paging::new(limit, LIST_ROWS_MAX, &Visible::all());
    while let Some(row) = rows.next()? {
        let record = token(row)?;
        match page.look(record.id, true) {
            // The longest have a selector and actions of 10 KB.
            Look::Take => page.push(size_of::<TokenRecord>(), record),
            Look::Pass => {}
            Look::Stop => break,
        }
    }
    Ok(page.finish(Cursor::after_token))
}

/// How many `admin` tokens there are, expired or not.
pub(super) fn admins(connection: &Connection) -> Result<u64> {
    connection.query_row("SELECT count(*) FROM tokens WHERE role = 0", [], |row| rows::uint(row, 0))
}
