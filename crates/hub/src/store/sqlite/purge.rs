//! Retention: what ended long ago is deleted, in small steps that are part of other commits.
//!
//! A command is deleted with all its deliveries when the last of them has been terminal for the retention
//! time; one to many is deleted piece by piece. What is live is never touched, nor a command of which a target has no
//! delivery yet or whose rollout has not ended. Commands are walked through
//! in the order of their numbers, so no index is needed for it. Of a command to many it is not known when
//! each delivery ended, only that all have: no later than [`DELIVERY_LIFE_MAX`] after the command was stored, its
//! `not_before`, or the end of its rollout, the last of them. It is retained for that much more.

use std::time::{Duration, Instant};

use bellwire_core::Now;
use bellwire_proto::limits::DELIVERY_LIFE_MAX;
use rusqlite::{Connection, Result, Statement, params};

use super::Shared;
use super::audit::AuditRetention;
use super::rows::{self, instant_ms, ms};
use super::usage::Usage;
use crate::clock::Clock;

/// Commands looked at in one step at least; as many as a commit has transactions if those are
/// more, so that purging keeps up with whatever rate of sending.
const STEP_COMMANDS_MIN: usize = 64;
/// Deliveries that one step deletes.
const STEP_DELIVERIES_MAX: i64 = 2000;
/// Time between two walks from the beginning.
const WALK_EVERY: Duration = Duration::from_secs(60);
/// Time between two steps of a walk while there is nothing else to commit.
const STEP_EVERY: Duration = Duration::from_millis(50);

pub(super) struct Purge<'c> {
    retention: Duration,
    clock: Clock,
    next_step: Instant,
    /// The last command that this walk has looked at.
    at: i64,
    candidates: Statement<'c>,
    keep_last_seq: Statement<'c>,
    deliveries: Statement<'c>,
    counts: Statement<'c>,
    rollouts: Statement<'c>,
    commands: Statement<'c>,
    keys: Statement<'c>,
    usage: &'c Usage,
    audit: AuditRetention<'c>,
    /// There is more of the audit log to delete.
    more_audit: bool,
}

impl<'c> Purge<'c> {
    pub(super) fn new(connection: &'c Connection, shared: &'c Shared) -> Result<Self> {
        Ok(Self {
            usage: &shared.usage,
            retention: shared.history_retention,
            clock: shared.clock.clone(),
            audit: AuditRetention::new(connection, shared.audit_keep, shared.audit_bytes_max)?,
            more_audit: false,
            next_step: Instant::now(),
            at: 0,
            // `is_old` ends the walk.
            candidates: connection.prepare(
                "SELECT c.seq, c.created < ?2 AS is_old,
                 NOT EXISTS (SELECT 1 FROM targets t WHERE t.seq = c.seq)
                 AND NOT EXISTS (SELECT 1 FROM rollouts r WHERE r.seq = c.seq AND r.state < 2)
                 AND iif(c.total > 1,
                     c.created < ?4 AND ifnull(c.not_before < ?5, TRUE)
                     AND NOT EXISTS (SELECT 1 FROM rollouts r WHERE r.seq = c.seq AND r.ended >= ?4)
                     AND (SELECT ifnull(sum(deliveries), 0) FROM counts n
                          WHERE n.seq = c.seq AND n.state >= 5) >= c.total,
                     NOT EXISTS (
                         SELECT 1 FROM deliveries d
                         WHERE d.seq = c.seq AND (d.state < 5 OR d.updated >= ?2))) AS may_go
                 FROM commands c WHERE c.seq > ?1 ORDER BY c.seq LIMIT ?3",
            )?,
            keep_last_seq: connection
                .prepare("UPDATE meta SET value = max(value, ?1) WHERE key = 'last_seq'")?,
            deliveries: connection.prepare(
                "DELETE FROM deliveries WHERE (seq, device) IN (
                     SELECT seq, device FROM deliveries WHERE seq = ?1 LIMIT ?2)",
            )?,
            counts: connection.prepare("DELETE FROM counts WHERE seq = ?1")?,
            rollouts: connection.prepare("DELETE FROM rollouts WHERE seq = ?1")?,
            commands: connection.prepare(
                "DELETE FROM commands WHERE seq = ?1 RETURNING created_by, octet_length(data), total",
            )?,
            keys: connection.prepare(
                "DELETE FROM idempotency WHERE (caller, key) IN (
                     SELECT caller, key FROM idempotency INDEXED BY idempotency_expiry
                     WHERE expires < ?1 ORDER BY expires LIMIT ?2)",
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
        let walking = self.at > 0 || self.more_audit;
        if !walking && !self.is_due() {
            return Ok(());
        }
        let limit = i64::try_from(txns.max(STEP_COMMANDS_MIN)).unwrap_or(i64::MAX);
        let clocks = self.clock.now();
        let now = clocks.instant;
        let keys = self.keys.execute(params![instant_ms(now), limit])?;
        let looked_at = self.step_commands(clocks, limit)?;
        self.more_audit = self.audit.step(clocks.wall)?;
        let more = self.more_audit || looked_at == limit || i64::try_from(keys) == Ok(limit);
        if !more {
            self.at = 0;
        }
        self.next_step = Instant::now() + if more { STEP_EVERY } else { WALK_EVERY };
        Ok(())
    }

    /// How many commands were looked at; `limit` too when one has too many deliveries for one step.
    fn step_commands(&mut self, now: Now, limit: i64) -> Result<i64> {
        let before_ms = instant_ms(now.instant.before(self.retention));
        let many = self.retention.saturating_add(DELIVERY_LIFE_MAX);
        let many_before_ms = instant_ms(now.instant.before(many));
        let many_before_at = ms(now.wall.before(many));
        let mut looked_at = 0;
        let mut expired: Vec<i64> = Vec::new();
        let mut rows = self.candidates.query(params![
            self.at,
            before_ms,
            limit,
            many_before_ms,
            many_before_at
        ])?;
        while let Some(row) = rows.next()? {
            if !row.get(1)? {
                break;
            }
            looked_at += 1;
            let seq = row.get(0)?;
            if row.get(2)? {
                expired.push(seq);
            }
            self.at = seq;
        }
        drop(rows);
        let mut budget = STEP_DELIVERIES_MAX;
        for seq in &expired {
            budget -= i64::try_from(self.deliveries.execute([*seq, budget])?).unwrap_or(budget);
            if budget <= 0 {
                // The rest of it, and those behind it, come with the next step.
                self.at = *seq - 1;
                return Ok(limit);
            }
            self.counts.execute([seq])?;
            self.rollouts.execute([seq])?;
            let (usage, mut deleted) = (self.usage, self.commands.query([seq])?);
            while let Some(row) = deleted.next()? {
                let sender: Option<String> = row.get(0)?;
                usage.deleted(sender.as_deref(), rows::uint(row, 1)?, rows::uint(row, 2)?);
            }
            drop(deleted);
            self.keep_last_seq.execute([seq])?;
        }
        Ok(looked_at)
    }
}
