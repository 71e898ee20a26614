//! The writer: a thread that commits whatever gathered while the last fsync ran.
//!
//! All that is taken at once becomes one transaction of SQLite, and is reported in one call after
//! its COMMIT returned, which with `synchronous=FULL` is after the fsync of the log. After the
//! first error nothing is committed or reported any more: a COMMIT that failed may or may not be on
//! disk, and only a restart can find out.

use std::time::Instant;

use bellwire_core::record::{Change, Committed, DeliveryRecord, TargetChunk, Txn};
use bellwire_proto::{DeviceId, Seq};
use rusqlite::{Connection, OptionalExtension, Result, Statement, params};

use super::Shared;
use super::anchor::{self, AnchorWriter};
use super::attributes::Attributes;
use super::audit::AuditWriter;
use super::checkpoint::Checkpoint;
use super::purge::Purge;
use super::rollouts;
use super::rows::{self, instant_ms, int, ms};
use super::schedules;
use super::tokens;
use super::usage::Usage;
use crate::store::{StoreError, StoreEvents};

const PUT_COMMAND: &str = "
    INSERT INTO commands VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)
    ON CONFLICT (seq) DO NOTHING";

/// An upsert would compute the entries of every index twice, so these are two statements.
const INSERT_DELIVERY: &str = "
    INSERT INTO deliveries VALUES
        (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20,
         ?21, ?22, ?23, ?24, ?25, ?26)
    ON CONFLICT (seq, device) DO NOTHING";

const UPDATE_DELIVERY: &str = "
    UPDATE deliveries SET
        state = ?3, attempt = ?4, sends = ?5, counted = ?6, rev = ?7, version = ?8,
        updated_at = ?9, updated = ?10, expires = ?11, flags = ?12, scheduled_at = ?13,
        retry_at = ?14, run_until = ?15, cancelling_since = ?16, due_at = ?17, progress = ?18,
        exit_code = ?19, error_code = ?20, error_message = ?21, result = ?22, stdout = ?23,
        stderr = ?24, batch = ?25, began_at = ?26
    WHERE seq = ?1 AND device = ?2";

const PUT_DEVICE: &str = "
    INSERT OR REPLACE INTO devices
        (device, labels, facts, created_at, seen_at, seen_address, seen_agent, pending)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";

const PUT_IDEMPOTENCY: &str = "
    INSERT OR REPLACE INTO idempotency (caller, key, fingerprint, command, device, expires)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6)";

/// Runs until the store is closed or the disk fails.
pub(super) fn run(shared: &Shared, connection: Connection, events: &dyn StoreEvents) {
    if let Err(error) = write(shared, &connection, events) {
        shared.fail(&error, events);
    } else {
        tidy(&connection);
    }
}

fn write(
    shared: &Shared,
    connection: &Connection,
    events: &dyn StoreEvents,
) -> Result<(), StoreError> {
    let mut statements = Statements::prepare(connection, &shared.usage)?;
    let mut purge = Purge::new(connection, shared)?;
    let mut anchor = AnchorWriter::new(connection, shared.clock.clone())?;
    let mut checkpoint = Checkpoint::new(connection, shared)?;
    let mut space = shared.space_watch(connection)?;
    space.step(&shared.space)?;
    let mut group: Vec<Txn> = Vec::new();
    while shared.txns.take_all(&mut group, Some(purge.wait().min(anchor::LOOK_EVERY))) {
        if let Some(error) = shared.suspicion() {
            return Err(error);
        }
        if group.is_empty() && !purge.is_due() && !anchor.is_due() {
            shared.in_use.check()?;
            space.step(&shared.space)?;
            continue;
        }
        // Before it: what is refused is not in the lists either.
        shared.in_use.check()?;
        let begun = Instant::now();
        statements.commit(&group, &mut purge, &mut anchor)?;
        shared.commits.took(begun.elapsed());
        // And after it: what was committed to a file that no path leads to any more is lost with this process.
        shared.in_use.check()?;
        let committed: Vec<Committed> = group.drain(..).map(Txn::committed).collect();
        if !committed.is_empty() {
            events.committed(committed);
        }
        checkpoint.step(shared)?;
        space.step(&shared.space)?;
    }
    Ok(())
}

/// Leaves a single file that needs no recovery. If this fails, the next start takes longer.
fn tidy(connection: &Connection) {
    let _busy: Result<i64> =
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0));
}

/// Every statement of the writer, prepared once.
struct Statements<'c> {
    begin: Statement<'c>,
    commit: Statement<'c>,
    rollback: Statement<'c>,
    put_command: Statement<'c>,
    put_targets: Statement<'c>,
    delete_targets: Statement<'c>,
    adopt_targets: Statement<'c>,
    drop_targets: Statement<'c>,
    put_rollout: Statement<'c>,
    put_cancel: Statement<'c>,
    delete_cancel: Statement<'c>,
    old_state: Statement<'c>,
    count: Statement<'c>,
    insert_delivery: Statement<'c>,
    update_delivery: Statement<'c>,
    put_queued: Statement<'c>,
    delete_queued: Statement<'c>,
    attributes: Attributes<'c>,
    put_device: Statement<'c>,
    put_labels: Statement<'c>,
    put_facts: Statement<'c>,
    put_seen: Statement<'c>,
    delete_device: Statement<'c>,
    put_idempotency: Statement<'c>,
    put_pending: Statement<'c>,
    put_token: Statement<'c>,
    put_uses: Statement<'c>,
    put_last_used: Statement<'c>,
    delete_token: Statement<'c>,
    delete_tokens_of: Statement<'c>,
    put_schedule: Statement<'c>,
    delete_schedule: Statement<'c>,
    audit: AuditWriter<'c>,
    usage: &'c Usage,
}

impl<'c> Statements<'c> {
    fn prepare(connection: &'c Connection, usage: &'c Usage) -> Result<Self> {
        Ok(Self {
            usage,
            begin: connection.prepare("BEGIN IMMEDIATE")?,
            commit: connection.prepare("COMMIT")?,
            rollback: connection.prepare("ROLLBACK")?,
            put_command: connection.prepare(PUT_COMMAND)?,
            put_targets: connection
                .prepare("INSERT OR REPLACE INTO targets VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?,
            delete_targets: connection
                .prepare("DELETE FROM targets WHERE seq = ?1 AND first = ?2")?,
            adopt_targets: connection
                .prepare("UPDATE OR REPLACE targets SET seq = ?2 WHERE seq = ?1")?,
            drop_targets: connection.prepare("DELETE FROM targets WHERE seq = ?1")?,
            put_rollout: connection.prepare(rollouts::PUT_ROLLOUT)?,
            put_cancel: connection.prepare("INSERT OR REPLACE INTO cancels VALUES (?1, ?2)")?,
            delete_cancel: connection.prepare("DELETE FROM cancels WHERE seq = ?1")?,
            old_state: connection
                .prepare("SELECT state FROM deliveries WHERE seq = ?1 AND device = ?2")?,
            count: connection.prepare(
                "INSERT INTO counts VALUES (?1, ?2, ?3)
                 ON CONFLICT (seq, state) DO UPDATE SET deliveries = deliveries + ?3",
            )?,
            insert_delivery: connection.prepare(INSERT_DELIVERY)?,
            update_delivery: connection.prepare(UPDATE_DELIVERY)?,
            put_queued: connection.prepare("INSERT OR REPLACE INTO queues VALUES (?1, ?2)")?,
            delete_queued: connection.prepare("DELETE FROM queues WHERE device = ?1")?,
            attributes: Attributes::prepare(connection)?,
            put_device: connection.prepare(PUT_DEVICE)?,
            put_labels: connection.prepare("UPDATE devices SET labels = ?2 WHERE device = ?1")?,
            put_facts: connection.prepare("UPDATE devices SET facts = ?2 WHERE device = ?1")?,
            put_seen: connection.prepare(
                "UPDATE devices SET seen_at = ?2, seen_address = ?3, seen_agent = ?4
                 WHERE device = ?1",
            )?,
            delete_device: connection.prepare("DELETE FROM devices WHERE device = ?1")?,
            put_idempotency: connection.prepare(PUT_IDEMPOTENCY)?,
            put_pending: connection.prepare("UPDATE devices SET pending = ?2 WHERE device = ?1")?,
            put_token: connection.prepare(tokens::PUT_TOKEN)?,
            put_uses: connection.prepare("UPDATE tokens SET uses_left = ?2 WHERE id = ?1")?,
            put_last_used: connection
                .prepare("UPDATE tokens SET last_used_at = ?2 WHERE id = ?1")?,
            delete_token: connection.prepare("DELETE FROM tokens WHERE id = ?1")?,
            delete_tokens_of: connection.prepare("DELETE FROM tokens WHERE device = ?1")?,
            put_schedule: connection.prepare(schedules::PUT_SCHEDULE)?,
            delete_schedule: connection.prepare("DELETE FROM schedules WHERE id = ?1")?,
            audit: AuditWriter::new(connection)?,
        })
    }

    /// Puts all of `group` on disk, or nothing of it, and some purging and a note of the clocks with it.
    fn commit(
        &mut self,
        group: &[Txn],
        purge: &mut Purge<'_>,
        anchor: &mut AnchorWriter<'_>,
    ) -> Result<()> {
        self.begin.execute([])?;
        let applied = group
            .iter()
            .flat_map(Txn::changes)
            .try_for_each(|change| self.apply(change))
            .and_then(|()| self.audit.flush())
            .and_then(|()| purge.step(group.len()))
            .and_then(|()| anchor.step())
            .and_then(|()| self.commit.execute([]));
        match applied {
            Ok(_) => Ok(()),
            Err(error) => {
                // May fail as well, when SQLite has rolled back by itself. The connection is about
                // to be closed, and the log has no commit mark: nothing of it will be seen.
                let _rolled_back = self.rollback.execute([]);
                Err(error)
            }
        }
    }

    fn apply(&mut self, change: &Change) -> Result<()> {
        match change {
            Change::PutCommand(command) => {
                let stored = rows::put_command(&mut self.put_command, command)?;
                if stored > 0 {
                    self.usage.stored(command);
                }
                Ok(stored)
            }
            Change::PutTargets(seq, chunk) => self.put_targets(*seq, chunk),
            Change::DeleteTargets(seq, first) => {
                self.delete_targets.execute(params![int(seq.get()), first.as_str()])
            }
            Change::AdoptTargets(stage, seq) => {
                self.adopt_targets.execute([int(stage.get()), int(seq.get())])
            }
            Change::DropTargets(stage) => self.drop_targets.execute([int(stage.get())]),
            Change::PutRollout(seq, rollout) => {
                rollouts::put_rollout(&mut self.put_rollout, *seq, rollout)
            }
            Change::PutCancel(seq, force) => {
                self.put_cancel.execute(params![int(seq.get()), force])
            }
            Change::DeleteCancel(seq) => self.delete_cancel.execute([int(seq.get())]),
            Change::PutDelivery(delivery) => {
                if delivery.head.is_to_many() {
                    self.count(delivery)?;
                }
                self.put_delivery(delivery)
            }
            Change::PutQueued(device, 0) => self.delete_queued.execute([device.as_str()]),
            Change::PutQueued(device, queued) => {
                self.put_queued.execute(params![device.as_str(), int(*queued)])
            }
            Change::PutDevice(device) => {
                let seen = device.seen.as_ref();
                let (labels, facts) = (Some(&device.labels), Some(&device.facts));
                self.attributes.change(&device.id, true, labels, facts)?;
                self.put_device.execute(params![
                    device.id.as_str(),
                    rows::labels_text(&device.labels)?,
                    device.facts.as_str(),
                    ms(device.created_at),
                    seen.map(|s| ms(s.at)),
                    seen.and_then(|s| s.address.as_deref()),
                    seen.and_then(|s| s.agent.as_deref()),
                    device.pending,
                ])
            }
            Change::PutLabels(device, labels) => {
                self.attributes.change(device, false, Some(labels), None)?;
                self.put_labels.execute(params![device.as_str(), rows::labels_text(labels)?])
            }
            Change::PutFacts(device, facts) => {
                self.attributes.change(device, false, None, Some(facts))?;
                self.put_facts.execute(params![device.as_str(), facts.as_str()])
            }
            Change::PutSeen(device, seen) => self.put_seen.execute(params![
                device.as_str(),
                ms(seen.at),
                seen.address,
                seen.agent
            ]),
            Change::DeleteDevice(device) => {
                self.attributes.delete(device)?;
                self.delete_device.execute(params![device.as_str()])
            }
            Change::PutIdempotency(record) => self.put_idempotency.execute(params![
                record.key.caller,
                record.key.key,
                record.fingerprint,
                record.command.to_bytes(),
                record.device.as_ref().map(DeviceId::as_str),
                instant_ms(record.expires),
            ]),
            Change::PutPending(device, pending) => {
                self.put_pending.execute(params![device.as_str(), pending])
            }
            Change::PutToken(token) => tokens::put_token(&mut self.put_token, token),
            Change::PutUses(token, uses) => {
                self.put_uses.execute(params![token.as_str(), int(*uses)])
            }
            Change::PutLastUsed(token, at) => {
                self.put_last_used.execute(params![token.as_str(), ms(*at)])
            }
            Change::DeleteToken(token) => self.delete_token.execute([token.as_str()]),
            Change::DeleteTokensOf(device) => self.delete_tokens_of.execute([device.as_str()]),
            Change::PutSchedule(row) => schedules::put_schedule(&mut self.put_schedule, row),
            Change::DeleteSchedule(id) => self.delete_schedule.execute([id.to_bytes()]),
            Change::PutAudit(record) => return self.audit.put(record),
        }
        .map(drop)
    }
}

impl Statements<'_> {
    /// Inserts the row, or updates it; first whichever its version makes likely.
    fn put_delivery(&mut self, row: &DeliveryRecord) -> Result<usize> {
        let (insert, update) = (&mut self.insert_delivery, &mut self.update_delivery);
        let likely_first = if row.version <= 1 { [insert, update] } else { [update, insert] };
        for statement in likely_first {
            if rows::put_delivery(statement, row)? > 0 {
                break;
            }
        }
        Ok(1)
    }

    /// Moves a delivery of a command to many from the counter of its old state to that of the new.
    fn count(&mut self, row: &DeliveryRecord) -> Result<()> {
        let (seq, new) = (int(row.head.seq.get()), rows::state_number(row.state));
        let old: Option<i64> = self
            .old_state
            .query_row(params![seq, row.device.as_str()], |row| row.get(0))
            .optional()?;
        if old == Some(new) {
            return Ok(());
        }
        if let Some(old) = old {
            self.count.execute(params![seq, old, -1])?;
        }
        self.count.execute(params![seq, new, 1]).map(drop)
    }

    fn put_targets(&mut self, seq: Seq, chunk: &TargetChunk) -> Result<usize> {
        let (Some(first), Some(last)) = (chunk.devices.first(), chunk.devices.last()) else {
            return Ok(0);
        };
        let names: Vec<&str> = chunk.devices.iter().map(DeviceId::as_str).collect();
        self.put_targets.execute(params![
            int(seq.get()),
            first.as_str(),
            last.as_str(),
            names.join("\n"),
            rows::chunk_marks_number(chunk),
            int(names.len() as u64),
        ])
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Failed(std::sync::Arc::new(error))
    }
}
