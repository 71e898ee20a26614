//! The one that writes: a thread that commits whatever gathered while the last fsync ran.
//!
//! All that is taken at once becomes one transaction of SQLite, and is reported in one call after
//! its COMMIT returned, which with `synchronous=FULL` is after the fsync of the log. After the
//! first error nothing is committed or reported any more: a COMMIT that failed may or may not be on
//! disk, and only a restart can tell.

use bellwire_core::record::{Change, Committed, Txn};
use rusqlite::{Connection, Result, Statement, params};

use super::Shared;
use super::checkpoint::Checkpoint;
use super::purge::Purge;
use super::rows::{self, ms};
use crate::store::{StoreError, StoreEvents};

const PUT_COMMAND: &str = "
    INSERT INTO commands VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
    ON CONFLICT (seq) DO UPDATE SET
        id = ?2, action = ?3, created_at = ?4, expires_at = ?5, run_timeout_ms = ?6,
        not_before = ?7, created_by = ?8, total = ?9, data = ?10";

const PUT_DELIVERY: &str = "
    INSERT INTO deliveries VALUES
        (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20,
         ?21)
    ON CONFLICT (seq, device) DO UPDATE SET
        state = ?3, attempt = ?4, sends = ?5, counted = ?6, rev = ?7, version = ?8,
        updated_at = ?9, flags = ?10, retry_at = ?11, run_until = ?12, cancelling_since = ?13,
        due_at = ?14, progress = ?15, exit_code = ?16, error_code = ?17, error_message = ?18,
        result = ?19, stdout = ?20, stderr = ?21";

const PUT_DEVICE: &str = "
    INSERT OR REPLACE INTO devices
        (device, labels, facts, created_at, seen_at, seen_address, seen_agent)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";

const PUT_IDEMPOTENCY: &str = "
    INSERT OR REPLACE INTO idempotency (caller, key, fingerprint, command, device, expires_at)
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
    let mut statements = Statements::prepare(connection)?;
    let mut purge = Purge::new(connection, shared)?;
    let mut checkpoint = Checkpoint::new(connection, shared)?;
    let mut group: Vec<Txn> = Vec::new();
    while shared.txns.take_all(&mut group, Some(purge.wait())) {
        if let Some(error) = shared.suspicion() {
            return Err(error);
        }
        if group.is_empty() && !purge.is_due() {
            continue;
        }
        statements.commit(&group, &mut purge)?;
        let committed: Vec<Committed> = group.drain(..).map(Txn::committed).collect();
        if !committed.is_empty() {
            events.committed(committed);
        }
        checkpoint.step(shared)?;
    }
    Ok(())
}

/// Leaves one file behind that needs no recovery. What fails here costs the next start some time.
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
    put_delivery: Statement<'c>,
    put_device: Statement<'c>,
    put_labels: Statement<'c>,
    put_facts: Statement<'c>,
    put_seen: Statement<'c>,
    delete_device: Statement<'c>,
    put_idempotency: Statement<'c>,
}

impl<'c> Statements<'c> {
    fn prepare(connection: &'c Connection) -> Result<Self> {
        Ok(Self {
            begin: connection.prepare("BEGIN IMMEDIATE")?,
            commit: connection.prepare("COMMIT")?,
            rollback: connection.prepare("ROLLBACK")?,
            put_command: connection.prepare(PUT_COMMAND)?,
            put_delivery: connection.prepare(PUT_DELIVERY)?,
            put_device: connection.prepare(PUT_DEVICE)?,
            put_labels: connection.prepare("UPDATE devices SET labels = ?2 WHERE device = ?1")?,
            put_facts: connection.prepare("UPDATE devices SET facts = ?2 WHERE device = ?1")?,
            put_seen: connection.prepare(
                "UPDATE devices SET seen_at = ?2, seen_address = ?3, seen_agent = ?4
                 WHERE device = ?1",
            )?,
            delete_device: connection.prepare("DELETE FROM devices WHERE device = ?1")?,
            put_idempotency: connection.prepare(PUT_IDEMPOTENCY)?,
        })
    }

    /// Puts all of `group` on disk, or nothing of it, and some purging with it.
    fn commit(&mut self, group: &[Txn], purge: &mut Purge<'_>) -> Result<()> {
        self.begin.execute([])?;
        let applied = group
            .iter()
            .flat_map(Txn::changes)
            .try_for_each(|change| self.apply(change))
            .and_then(|()| purge.step(group.len()))
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
            Change::PutCommand(command) => rows::put_command(&mut self.put_command, command),
            Change::PutDelivery(delivery) => rows::put_delivery(&mut self.put_delivery, delivery),
            Change::PutDevice(device) => {
                let seen = device.seen.as_ref();
                self.put_device.execute(params![
                    device.id.as_str(),
                    rows::labels_text(&device.labels)?,
                    device.facts.as_str(),
                    ms(device.created_at),
                    seen.map(|s| ms(s.at)),
                    seen.and_then(|s| s.address.as_deref()),
                    seen.and_then(|s| s.agent.as_deref()),
                ])
            }
            Change::PutLabels(device, labels) => {
                self.put_labels.execute(params![device.as_str(), rows::labels_text(labels)?])
            }
            Change::PutFacts(device, facts) => {
                self.put_facts.execute(params![device.as_str(), facts.as_str()])
            }
            Change::PutSeen(device, seen) => self.put_seen.execute(params![
                device.as_str(),
                ms(seen.at),
                seen.address,
                seen.agent
            ]),
            Change::DeleteDevice(device) => self.delete_device.execute(params![device.as_str()]),
            Change::PutIdempotency(record) => self.put_idempotency.execute(params![
                record.key.caller,
                record.key.key,
                record.fingerprint,
                record.command.to_bytes(),
                record.device.as_str(),
                ms(record.expires_at),
            ]),
        }
        .map(drop)
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Failed(std::sync::Arc::new(error))
    }
}
