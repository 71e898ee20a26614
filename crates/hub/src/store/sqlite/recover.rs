//! What a start changes on disk: the process that wrote it has ended, and with it every stream.

use std::collections::BTreeMap;

use bellwire_core::record::{ChunkRange, JobRecord};
use bellwire_core::{Now, Recovered, SeqSource};
use bellwire_proto::Seq;
use bellwire_proto::limits::RUN_CLOCK_AFTER_RESTART;
use rusqlite::{Connection, Result, TransactionBehavior};

use super::rollouts;
use super::rows::{self, command_columns, instant_ms, ms, seq};

/// Contract, section 2, "Restart of the hub": what may have been sent is queued again, uncounted;
/// run clocks are prolonged to a least time; times to live continue.
pub(super) fn recover(connection: &mut Connection, now: Now) -> Result<Recovered> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // What was found for a command that was not stored any more.
    transaction.execute("DELETE FROM targets WHERE seq NOT IN (SELECT seq FROM commands)", [])?;
    // Counters go with the rows: of the queues, and of commands to many.
    transaction.execute(
        "INSERT INTO queues
             SELECT device, count(*) FROM deliveries INDEXED BY deliveries_active
             WHERE state BETWEEN 1 AND 4 AND state = 1 GROUP BY device
         ON CONFLICT (device) DO UPDATE SET queued = queued + excluded.queued",
        [],
    )?;
    for (state, change) in [(0, "+"), (1, "-")] {
        transaction.execute(
            &format!(
                "INSERT INTO counts
                     SELECT d.seq, ?1, {change}count(*)
                     FROM deliveries d INDEXED BY deliveries_active
                     CROSS JOIN commands c ON c.seq = d.seq
                     WHERE d.state BETWEEN 1 AND 4 AND d.state = 1 AND c.total > 1 GROUP BY d.seq
                 ON CONFLICT (seq, state) DO UPDATE
                     SET deliveries = deliveries + excluded.deliveries"
            ),
            [state],
        )?;
    }
    transaction.execute("DELETE FROM counts WHERE state = 1 AND deliveries = 0", [])?;
    transaction.execute(
        "UPDATE deliveries INDEXED BY deliveries_active
         SET state = 0, version = version + 1, updated_at = ?1, updated = ?2, retry_at = NULL,
             due_at = expires
         WHERE state BETWEEN 1 AND 4 AND state = 1",
        [ms(now.wall), instant_ms(now.instant)],
    )?;
    transaction.execute(
        "UPDATE deliveries INDEXED BY deliveries_active
         SET run_until = ?1, due_at = ?1
         WHERE state BETWEEN 1 AND 4 AND state IN (2, 3) AND run_until < ?1",
        [instant_ms(now.instant.after(RUN_CLOCK_AFTER_RESTART))],
    )?;
    let recovered = Recovered {
        seqs: SeqSource::after(last_seq(&transaction)?),
        next_due: transaction.query_row(
            "SELECT min(due_at) FROM deliveries WHERE due_at IS NOT NULL",
            [],
            |row| rows::maybe_instant(row, 0),
        )?,
        next_scheduled: transaction.query_row(
            "SELECT min(scheduled_at) FROM deliveries WHERE scheduled_at IS NOT NULL",
            [],
            |row| rows::maybe_time(row, 0),
        )?,
        jobs: jobs(&transaction)?,
        admin_tokens: super::tokens::admins(&transaction)?,
        schedules: super::schedules::all(&transaction)?,
    };
    transaction.commit()?;
    Ok(recovered)
}

/// Commands to many whose expansion or cancellation is unfinished.
fn jobs(connection: &Connection) -> Result<Vec<JobRecord>> {
    let mut jobs: BTreeMap<Seq, JobRecord> = BTreeMap::new();
    let mut statement = connection.prepare(concat!(
        "SELECT ",
        command_columns!(),
        ", x.force FROM commands c LEFT JOIN cancels x ON x.seq = c.seq
         WHERE c.seq IN (SELECT seq FROM cancels UNION SELECT seq FROM targets
                         UNION SELECT seq FROM rollouts WHERE state < 2)"
    ))?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        let command = rows::command(row)?;
        let seq = command.head.seq;
        let rollout = match rollouts::rollout(connection, seq)? {
            None => None,
            Some(rollout) => {
                let counts = rollouts::counts(connection, seq, &rollout)?;
                Some((rollout, counts))
            }
        };
        let job = JobRecord {
            head: command.head,
            online_only: command.online_only,
            rollout,
            chunks: Vec::new(),
            cancel: row.get(rows::COMMAND_COLUMNS)?,
        };
        jobs.insert(job.head.seq, job);
    }
    let mut statement = connection
        .prepare("SELECT seq, first, last, count, canary FROM targets ORDER BY seq, first")?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        let (first, last) = (rows::device_id(row, 1)?, rows::device_id(row, 2)?);
        if let Some(job) = jobs.get_mut(&seq(row, 0)?) {
            let (targets, canary) = (rows::uint(row, 3)?, rows::chunk_marks(row, 4)?.0);
            job.chunks.push(ChunkRange { first, last, targets, canary });
        }
    }
    Ok(jobs.into_values().collect())
}

/// The greatest number ever given out. What is purged leaves it in `meta`.
fn last_seq(connection: &Connection) -> Result<Seq> {
    connection.query_row(
        "SELECT max(value, (SELECT ifnull(max(seq), 0) FROM commands),
                           (SELECT ifnull(max(seq), 0) FROM deliveries))
         FROM meta WHERE key = 'last_seq'",
        [],
        |row| seq(row, 0),
    )
}
