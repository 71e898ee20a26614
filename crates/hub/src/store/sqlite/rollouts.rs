//! The rows of rollouts, and what has become of their deliveries.

use bellwire_core::record::{RolloutCounts, RolloutRecord};
use bellwire_proto::{RolloutState, Seq};
use rusqlite::{Connection, Error, OptionalExtension, Result, Row, Statement, params};

use super::rows::{self, instant_ms, int, ms, state_number};

pub(super) const PUT_ROLLOUT: &str = "
    INSERT OR REPLACE INTO rollouts
        (seq, state, batch, batches, canaries, size, begun, began, began_at, not_before, ended, reason, plan, window)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)";

const ROLLOUT: &str = "
    SELECT state, batch, batches, canaries, size, begun, began, began_at, not_before, ended, reason, plan, window
    FROM rollouts WHERE seq = ?1";

/// The number of a state on disk. Never to be changed; those that have not ended are below 2.
const fn number(state: RolloutState) -> i64 {
    match state {
        RolloutState::Running => 0,
        RolloutState::Paused => 1,
        RolloutState::Aborted => 2,
        RolloutState::Done => 3,
    }
}

pub(super) fn put_rollout(
    statement: &mut Statement<'_>,
    seq: Seq,
    rollout: &RolloutRecord,
) -> Result<usize> {
    let plan = serde_json::to_string(&rollout.plan)
        .map_err(|e| Error::ToSqlConversionFailure(Box::new(e)))?;
    statement.execute(params![
        int(seq.get()),
        number(rollout.state),
        int(rollout.batch),
        int(rollout.batches),
        int(rollout.canaries),
        int(rollout.size),
        int(rollout.begun),
        instant_ms(rollout.began),
        ms(rollout.began_at),
        rollout.not_before.map(ms),
        rollout.ended.map(instant_ms),
        rollout.reason,
        plan,
        rows::window_text(rollout.window.as_deref())?,
    ])
}

/// The rollout of a command.
pub(super) fn rollout(connection: &Connection, seq: Seq) -> Result<Option<RolloutRecord>> {
    connection.prepare_cached(ROLLOUT)?.query_row([int(seq.get())], read).optional()
}

fn read(row: &Row<'_>) -> Result<RolloutRecord> {
    let state: i64 = row.get(0)?;
    let states =
        [RolloutState::Running, RolloutState::Paused, RolloutState::Aborted, RolloutState::Done];
    let found = states.into_iter().find(|known| number(*known) == state);
    Ok(RolloutRecord {
        state: found.ok_or(Error::IntegralValueOutOfRange(0, state))?,
        batch: rows::uint(row, 1)?,
        batches: rows::uint(row, 2)?,
        canaries: rows::uint(row, 3)?,
        size: rows::uint(row, 4)?,
        begun: rows::uint(row, 5)?,
        began: rows::instant(row, 6)?,
        began_at: rows::time(row, 7)?,
        not_before: rows::maybe_time(row, 8)?,
        ended: rows::maybe_instant(row, 9)?,
        reason: row.get(10)?,
        window: rows::maybe_window(row, 12)?,
        plan: serde_json::from_str(row.get_ref(11)?.as_str()?).map_err(|e| rows::damaged(11, e))?,
    })
}

/// What has become of its deliveries: a look at each, for a start.
pub(super) fn counts(
    connection: &Connection,
    seq: Seq,
    rollout: &RolloutRecord,
) -> Result<RolloutCounts> {
    let mut statement = connection.prepare_cached(
        "SELECT state, batch IS ?2, count(*) FROM deliveries
         WHERE seq = ?1 AND state >= 5 GROUP BY 1, 2",
    )?;
    let mut found = statement.query(params![int(seq.get()), int(rollout.batch)])?;
    let failures = rollout.plan.abort.as_ref().map(|rule| rule.states.as_slice());
    let failures: Vec<i64> =
        failures.unwrap_or_default().iter().map(|state| state_number(*state)).collect();
    let mut counts = RolloutCounts::default();
    while let Some(row) = found.next()? {
        let (state, in_batch, count): (i64, bool, u64) =
            (row.get(0)?, row.get(1)?, rows::uint(row, 2)?);
        counts.ended += count;
        counts.ended_in_batch += if in_batch { count } else { 0 };
        counts.failed += if failures.contains(&state) { count } else { 0 };
    }
    Ok(counts)
}
