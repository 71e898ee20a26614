//! What a start finds on disk and makes of it: the hub that was is gone, and with it every stream.

use bellwire_core::Recovered;
use bellwire_proto::limits::RUN_CLOCK_AFTER_RESTART;
use bellwire_proto::{Seq, Timestamp};
use rusqlite::{Connection, Result, TransactionBehavior};

use super::rows::{maybe_time, ms, seq};

/// Contract, section 2, "Restart of the hub": what may have been sent is queued again, uncounted;
/// run clocks have some time left at least; the ttl goes on.
pub(super) fn recover(connection: &mut Connection, now: Timestamp) -> Result<Recovered> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute(
        "UPDATE deliveries INDEXED BY deliveries_live
         SET state = 0, version = version + 1, updated_at = ?1, retry_at = NULL
         WHERE state < 5 AND state = 1",
        [ms(now)],
    )?;
    transaction.execute(
        "UPDATE deliveries INDEXED BY deliveries_live
         SET run_until = ?1, due_at = ?1
         WHERE state < 5 AND state IN (2, 3) AND run_until < ?1",
        [ms(now.after(RUN_CLOCK_AFTER_RESTART))],
    )?;
    let recovered = Recovered {
        last_seq: last_seq(&transaction)?,
        next_due: transaction.query_row(
            "SELECT min(due_at) FROM deliveries WHERE due_at IS NOT NULL",
            [],
            |row| maybe_time(row, 0),
        )?,
    };
    transaction.commit()?;
    Ok(recovered)
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
