//! Retention: what ended long ago is deleted, in small pieces that ride along with commits.
//!
//! A command goes with all its deliveries at once, when the last of them has been over for the time
//! that history is kept; what is live is never touched. Commands are walked through in the order in
//! which they came, so no index is needed for it.

use std::time::{Duration, Instant};

use bellwire_proto::Timestamp;
use rusqlite::{Connection, Result, Statement, params};

use super::Shared;
use super::options::Clock;
use super::rows::ms;

/// Commands looked at in one step at least; as many as a commit has transactions if those are
/// more, so that purging keeps up with whatever rate of sending.
const STEP_COMMANDS_MIN: usize = 64;
/// Time between two walks from the beginning.
const WALK_EVERY: Duration = Duration::from_secs(60);
/// Time between two steps of a walk while nobody writes.
const STEP_EVERY: Duration = Duration::from_millis(50);

pub(super) struct Purge<'c> {
    kept: Duration,
    clock: Clock,
    next_step: Instant,
    /// The last command that this walk has looked at.
    at: i64,
    candidates: Statement<'c>,
    keep_last_seq: Statement<'c>,
    deliveries: Statement<'c>,
    commands: Statement<'c>,
    keys: Statement<'c>,
}

impl<'c> Purge<'c> {
    pub(super) fn new(connection: &'c Connection, shared: &Shared) -> Result<Self> {
        Ok(Self {
            kept: shared.history_kept,
            clock: shared.clock.clone(),
            next_step: Instant::now(),
            at: 0,
            // `old` ends the walk, `over` is whether the command may go.
            candidates: connection.prepare(
                "SELECT c.seq, c.created_at < ?2 AS old, NOT EXISTS (
                     SELECT 1 FROM deliveries d
                     WHERE d.seq = c.seq AND (d.state < 5 OR d.updated_at >= ?2)) AS over
                 FROM commands c WHERE c.seq > ?1 ORDER BY c.seq LIMIT ?3",
            )?,
            keep_last_seq: connection
                .prepare("UPDATE meta SET value = max(value, ?1) WHERE key = 'last_seq'")?,
            deliveries: connection.prepare("DELETE FROM deliveries WHERE seq = ?1")?,
            commands: connection.prepare("DELETE FROM commands WHERE seq = ?1")?,
            keys: connection.prepare(
                "DELETE FROM idempotency WHERE (caller, key) IN (
                     SELECT caller, key FROM idempotency INDEXED BY idempotency_expiry
                     WHERE expires_at < ?1 ORDER BY expires_at LIMIT ?2)",
            )?,
        })
    }

    /// How long the writer may wait for transactions before the next step.
    pub(super) fn wait(&self) -> Duration {
        self.next_step.saturating_duration_since(Instant::now())
    }

    /// Whether there is a step to be done, even with nothing else to commit.
    pub(super) fn is_due(&self) -> bool {
        Instant::now() >= self.next_step
    }

    /// Deletes some, within the transaction that is open, which has `txns` others.
    pub(super) fn step(&mut self, txns: usize) -> Result<()> {
        let walking = self.at > 0;
        if !walking && !self.is_due() {
            return Ok(());
        }
        let limit = i64::try_from(txns.max(STEP_COMMANDS_MIN)).unwrap_or(i64::MAX);
        let now = (self.clock)();
        let keys = self.keys.execute(params![ms(now), limit])?;
        let looked_at = self.step_commands(now, limit)?;
        let more = looked_at == limit || i64::try_from(keys) == Ok(limit);
        if !more {
            self.at = 0;
        }
        self.next_step = Instant::now() + if more { STEP_EVERY } else { WALK_EVERY };
        Ok(())
    }

    fn step_commands(&mut self, now: Timestamp, limit: i64) -> Result<i64> {
        let before_ms = before_ms(now, self.kept);
        let mut looked_at = 0;
        let mut over: Vec<i64> = Vec::new();
        let mut rows = self.candidates.query(params![self.at, before_ms, limit])?;
        while let Some(row) = rows.next()? {
            if !row.get(1)? {
                break;
            }
            looked_at += 1;
            self.at = row.get(0)?;
            if row.get(2)? {
                over.push(self.at);
            }
        }
        drop(rows);
        for seq in &over {
            self.deliveries.execute([seq])?;
            self.commands.execute([seq])?;
        }
        if let Some(last) = over.last() {
            self.keep_last_seq.execute([last])?;
        }
        Ok(looked_at)
    }
}

/// What is older than this may go.
fn before_ms(now: Timestamp, kept: Duration) -> i64 {
    let kept = i64::try_from(kept.as_millis()).unwrap_or(i64::MAX);
    ms(now).saturating_sub(kept)
}
