//! Reads of those who see a part of the fleet. Contract, section 6, "Tokens": what is outside of it is not there.
//!
//! Which part that is follows from the labels as they are now, so each delivery costs a look at its device's row: a
//! command to very many takes its time for them. One who sees everything reads counters.

use bellwire_core::record::CommandRecord;
use bellwire_proto::{Command, Counts, DeliveryState, DeviceId, Labels, Seq};
use rusqlite::{Connection, OptionalExtension, Result, params};

use super::super::rollouts;
use super::super::rows::{self, int};
use crate::store::Visible;

/// Whether a device is there for the reader. One that was removed is not: it has no labels any more.
pub(in crate::store::sqlite) fn sees(
    connection: &Connection,
    visible: &Visible,
    device: &DeviceId,
) -> Result<bool> {
    if visible.is_all() {
        return Ok(true);
    }
    let mut statement =
        connection.prepare_cached("SELECT labels FROM devices WHERE device = ?1")?;
    let labels: Option<String> =
        statement.query_row([device.as_str()], |row| row.get(0)).optional()?;
    let Some(labels) = labels else { return Ok(false) };
    let labels: Labels = serde_json::from_str(&labels).map_err(|e| rows::damaged(0, e))?;
    Ok(visible.sees(&labels))
}

/// Whether a command has a delivery, or will have one, that the reader sees.
pub(super) fn any(connection: &Connection, seq: Seq, visible: &Visible) -> Result<bool> {
    let mut statement =
        connection.prepare_cached("SELECT device FROM deliveries WHERE seq = ?1")?;
    let mut found = statement.query([int(seq.get())])?;
    while let Some(row) = found.next()? {
        if sees(connection, visible, &rows::device_id(row, 0)?)? {
            return Ok(true);
        }
    }
    Ok(waiting(connection, seq, visible)? > 0)
}

/// The command with the deliveries that the reader sees; `None` when there are none. What its sender wrote of others, and numbers
/// that count them, are for the sender.
pub(super) fn shown(
    connection: &Connection,
    record: CommandRecord,
    visible: &Visible,
) -> Result<Option<Command>> {
    let head = record.head;
    let mut statement =
        connection.prepare_cached("SELECT device, state FROM deliveries WHERE seq = ?1")?;
    let mut found = statement.query([int(head.seq.get())])?;
    let mut counts = Counts::new();
    while let Some(row) = found.next()? {
        if sees(connection, visible, &rows::device_id(row, 0)?)? {
            *counts.entry(rows::state(row, 1)?).or_default() += 1;
        }
    }
    let waiting = waiting(connection, head.seq, visible)?;
    let total = counts.values().sum::<u64>() + waiting;
    let is_own = visible.is_own(record.created_by.as_deref());
    let rollout = rollouts::rollout(connection, head.seq)?;
    let rollout = rollout.map(|rollout| {
        let whole = is_own || total >= head.total;
        if whole { rollout.to_rollout() } else { rollout.to_rollout_of_part() }
    });
    if rollout.is_some() && waiting > 0 {
        *counts.entry(DeliveryState::Queued).or_default() += waiting;
    }
    let terminal: u64 =
        counts.iter().filter(|(state, _)| state.is_terminal()).map(|(_, count)| count).sum();
    Ok((total > 0).then_some(Command {
        id: head.id,
        seq: head.seq,
        action: head.action,
        data: record.data,
        created_at: head.created_at,
        created_by: record.created_by,
        expires_at: head.expires_at,
        total,
        done: terminal >= total,
        counts,
        not_before: head.not_before,
        window: head.window.as_deref().cloned(),
        select: record.select.filter(|_| is_own),
        rollout,
        parent: record.parent,
    }))
}

/// Targets that have no delivery yet.
fn waiting(connection: &Connection, seq: Seq, visible: &Visible) -> Result<u64> {
    let mut statement = connection.prepare_cached("SELECT devices FROM targets WHERE seq = ?1")?;
    let mut found = statement.query([int(seq.get())])?;
    let mut delivered =
        connection.prepare_cached("SELECT 1 FROM deliveries WHERE seq = ?1 AND device = ?2")?;
    let mut count = 0;
    while let Some(row) = found.next()? {
        for device in rows::devices(row, 0)? {
            // A chunk is being worked off: some of it may have their delivery already.
            let waits = !delivered.exists(params![int(seq.get()), device.as_str()])?;
            count += u64::from(waits && sees(connection, visible, &device)?);
        }
    }
    Ok(count)
}
