//! The reads of the API: commands, deliveries and devices, one or in pages.
//!
//! A page looks at [`LIST_ROWS_MAX`] rows at most, and takes no item more once its items hold
//! [`PAGE_BYTES_MAX`] bytes. A filter that fits few rows gives a page that is short, or empty, with a
//! cursor to continue from.

use std::ops::ControlFlow;
use std::time::Duration;

use bellwire_core::record::CommandRecord;
use bellwire_proto::limits::{LIST_ROWS_MAX, PACED_BYTES, PAGE_BYTES_MAX};
use bellwire_proto::{
    Command, CommandId, CommandIdPrefix, Counts, Delivery, DeliveryState, DeviceId, Page, Seq,
};
use rusqlite::{Connection, OptionalExtension, Result, params};

use super::rollouts;
use super::rows::{self, command_columns, delivery_columns, device_columns, int};
use super::seal::Seal;
use super::select;
use crate::store::{
    Cursor, DeviceFilter, DevicePage, DevicePosition, Snapshot, StoredDevice, Visible,
};

mod commands;
pub(super) mod scoped;

pub(super) use commands::commands;

/// Deliveries on a page of a snapshot.
const SNAPSHOT_ROWS_MAX: usize = 1000;

pub(super) fn command(
    connection: &Connection,
    id: CommandId,
    visible: &Visible,
) -> Result<Option<Command>> {
    let mut statement = connection.prepare_cached(concat!(
        "SELECT ",
        command_columns!(),
        " FROM commands c WHERE c.id = ?1"
    ))?;
    let record = statement.query_row([id.to_bytes()], rows::command).optional()?;
    let Some(record) = record else { return Ok(None) };
    shown(connection, record, visible)
}

pub(super) fn run_timeout(connection: &Connection, id: CommandId) -> Result<Option<Duration>> {
    connection
        .prepare_cached("SELECT run_timeout_ms FROM commands WHERE id = ?1")?
        .query_row([id.to_bytes()], |row| rows::uint(row, 0).map(Duration::from_millis))
        .optional()
}

/// The number of a command that is there for the reader.
pub(super) fn visible_seq(
    connection: &Connection,
    id: CommandId,
    visible: &Visible,
) -> Result<Option<Seq>> {
    let seq: Option<Seq> = connection
        .prepare_cached("SELECT seq FROM commands WHERE id = ?1")?
        .query_row([id.to_bytes()], |row| rows::seq(row, 0))
        .optional()?;
    let Some(seq) = seq else { return Ok(None) };
    Ok((visible.is_all() || scoped::any(connection, seq, visible)?).then_some(seq))
}

pub(super) fn snapshot(
    connection: &Connection,
    id: CommandId,
    after: Option<&DeviceId>,
    visible: &Visible,
) -> Result<Option<Snapshot>> {
    // The part of a command is counted for the first page alone: that costs a look at each delivery.
    let counted = if after.is_none() { visible } else { &Visible::all() };
    let Some(command) = command(connection, id, counted)? else {
        return Ok(None);
    };
    let mut statement = connection.prepare_cached(concat!(
        "SELECT ",
        delivery_columns!(),
        " FROM commands c CROSS JOIN deliveries d ON d.seq = c.seq
         WHERE c.seq = ?1 AND d.device > ?2 ORDER BY d.device"
    ))?;
    let after = after.map_or("", DeviceId::as_str);
    let mut rows = statement.query(params![int(command.seq.get()), after])?;
    let mut snapshot = Snapshot { command, deliveries: Vec::new(), more: false };
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        if bytes >= PACED_BYTES || snapshot.deliveries.len() >= SNAPSHOT_ROWS_MAX {
            snapshot.more = true;
            break;
        }
        if !scoped::sees(connection, visible, &rows::device_id(row, rows::DEVICE)?)? {
            continue;
        }
        let record = rows::delivery(row)?;
        let delivery = record.to_delivery();
        bytes += delivery.outcome.text_bytes();
        snapshot.deliveries.push((delivery, record.version));
    }
    Ok(Some(snapshot))
}

pub(super) fn deliveries(
    connection: &Connection,
    id: CommandId,
    state: Option<DeliveryState>,
    limit: u32,
    after: Option<&DeviceId>,
    visible: &Visible,
    seal: &Seal,
) -> Result<Option<Page<Delivery>>> {
    let Some(seq) = visible_seq(connection, id, visible)? else { return Ok(None) };
    let mut statement = connection.prepare_cached(concat!(
        "SELECT ",
        delivery_columns!(),
        " FROM commands c CROSS JOIN deliveries d ON d.seq = c.seq
         WHERE c.seq = ?1 AND d.device > ?2 ORDER BY d.device"
    ))?;
    let after = after.map_or("", DeviceId::as_str);
    let mut rows = statement.query(params![int(seq.get()), after])?;
    let mut page = Paging::new(limit, LIST_ROWS_MAX, visible);
    while let Some(row) = rows.next()? {
        let is = rows::state(row, rows::STATE)?;
        let device = rows::device_id(row, rows::DEVICE)?;
        let fits =
            state.is_none_or(|state| state == is) && scoped::sees(connection, visible, &device)?;
        match page.look(device, fits) {
            Look::Take => {
                let delivery = rows::delivery(row)?.to_delivery();
                page.push(delivery.outcome.text_bytes(), delivery);
            }
            Look::Pass => {}
            Look::Stop => break,
        }
    }
    Ok(Some(page.finish_by_device(seal)))
}

pub(super) fn device(connection: &Connection, id: &DeviceId) -> Result<Option<StoredDevice>> {
    let mut statement = connection.prepare_cached(concat!(
        "SELECT ",
        device_columns!(),
        " FROM devices WHERE device = ?1"
    ))?;
    let record = statement.query_row([id.as_str()], rows::device).optional()?;
    let Some(record) = record else {
        return Ok(None);
    };
    let queued = queued(connection, id)?;
    Ok(Some(StoredDevice { record, queued }))
}

pub(super) fn devices(
    connection: &Connection,
    filter: &DeviceFilter,
    after: Option<&DevicePosition>,
    limit: u32,
    rows_max: u32,
) -> Result<DevicePage> {
    let mut page = Paging::new(limit, rows_max, &Visible::all());
    select::each(connection, filter, after, &mut |position, fits| {
        match page.look(position.clone(), fits) {
            Look::Take => page.push(0, position),
            Look::Pass => {}
            Look::Stop => return Ok(ControlFlow::Break(())),
        }
        Ok(ControlFlow::Continue(()))
    })?;
    let next = page.position.filter(|_| page.more);
    Ok(DevicePage { found: page.items, looked_at: page.looked_at, next })
}

/// These devices in their order; `None` for one that is not known.
pub(super) fn devices_named(
    connection: &Connection,
    ids: &[DeviceId],
) -> Result<Vec<Option<StoredDevice>>> {
    ids.iter().map(|id| device(connection, id)).collect()
}

fn queued(connection: &Connection, device: &DeviceId) -> Result<u64> {
    let queued = connection
        .prepare_cached("SELECT queued FROM queues WHERE device = ?1")?
        .query_row([device.as_str()], |row| rows::uint(row, 0))
        .optional()?;
    Ok(queued.unwrap_or_default())
}

/// Commands whose ids begin so. The ids are read in their own order, so that any number of them costs no more than `limit`.
pub(super) fn commands_by_id(
    connection: &Connection,
    prefix: &CommandIdPrefix,
    limit: u32,
    visible: &Visible,
) -> Result<Vec<Command>> {
    let mut statement = connection.prepare_cached(concat!(
        "SELECT ",
        command_columns!(),
        " FROM commands c WHERE c.id BETWEEN ?1 AND ?2 ORDER BY c.id DESC LIMIT ?3"
    ))?;
    // What is passed over for a scope is looked at all the same, each with its deliveries.
    let rows_max = if visible.is_all() { limit } else { LIST_ROWS_MAX };
    let mut looks_left = u64::from(LIST_ROWS_MAX);
    let (first, last) = prefix.bounds();
    let records = statement.query_map(params![first, last, rows_max], rows::command)?;
    let mut commands = Vec::new();
    let mut bytes = 0;
    for record in records {
        let record = record?;
        if bytes >= PAGE_BYTES_MAX || commands.len() >= limit as usize || looks_left == 0 {
            break;
        }
        if !visible.is_all() {
            looks_left = looks_left.saturating_sub(record.head.total);
        }
        let data_bytes = record.data.as_str().len();
        if let Some(command) = shown(connection, record, visible)? {
            bytes += data_bytes;
            commands.push(command);
        }
    }
    Ok(commands)
}

/// The command as the API shows it; `None` when the reader may see none of its deliveries.
fn shown(
    connection: &Connection,
    record: CommandRecord,
    visible: &Visible,
) -> Result<Option<Command>> {
    if !visible.is_all() {
        return scoped::shown(connection, record, visible);
    }
    // One delivery is looked at; of many, the counters.
    let mut statement = connection.prepare_cached(if record.head.is_to_many() {
        "SELECT state, deliveries FROM counts WHERE seq = ?1 AND deliveries > 0"
    } else {
        "SELECT state, 1 FROM deliveries WHERE seq = ?1"
    })?;
    let seq = int(record.head.seq.get());
    let counts =
        statement.query_map([seq], |row| Ok((rows::state(row, 0)?, rows::uint(row, 1)?)))?;
    let mut counts: Counts = counts.collect::<Result<_>>()?;
    let rollout = rollouts::rollout(connection, record.head.seq)?;
    if rollout.is_some() {
        // What has not begun waits in the targets, and is queued as its sender sees it.
        let begun = counts.values().sum::<u64>();
        if record.head.total > begun {
            *counts.entry(DeliveryState::Queued).or_default() += record.head.total - begun;
        }
    }
    let terminal = counts.iter().filter(|(state, _)| state.is_terminal());
    Ok(Some(Command {
        id: record.head.id,
        seq: record.head.seq,
        action: record.head.action,
        data: record.data,
        created_at: record.head.created_at,
        created_by: record.created_by,
        expires_at: record.head.expires_at,
        total: record.head.total,
        done: terminal.map(|(_, count)| count).sum::<u64>() >= record.head.total,
        counts,
        not_before: record.head.not_before,
        window: record.head.window.as_deref().cloned(),
        select: record.select,
        rollout: rollout.map(|rollout| rollout.to_rollout()),
        parent: record.parent,
    }))
}

/// A page that fills up, and how far the search for its items has come.
pub(super) struct Paging<T, P> {
    items: Vec<T>,
    /// About what the items hold. What they are as JSON is longer, and bounded by the HTTP handler.
    bytes: usize,
    limit: usize,
    /// Rows that may be looked at, and those that were.
    rows_max: u32,
    looked_at: u32,
    /// The last row that was looked at.
    position: Option<P>,
    /// The last item, for a reader who sees a part of the fleet: a cursor names a row, which must be none of the others.
    last_item: Option<P>,
    scoped: bool,
    more: bool,
}

/// What to do with a row.
pub(super) enum Look {
    Take,
    Pass,
    Stop,
}

impl<T, P: Clone> Paging<T, P> {
    pub(super) fn new(limit: u32, rows_max: u32, visible: &Visible) -> Self {
        Self {
            items: Vec::new(),
            bytes: 0,
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            rows_max,
            looked_at: 0,
            position: None,
            last_item: None,
            scoped: !visible.is_all(),
            more: false,
        }
    }

    /// Looks at the row at `position`. The search goes on past the last item, so that a page is
    /// followed by another only if that one has something on it, or was not looked for yet.
    pub(super) fn look(&mut self, position: P, fits: bool) -> Look {
        let full = self.items.len() >= self.limit || self.bytes >= PAGE_BYTES_MAX;
        if (fits && full) || self.looked_at >= self.rows_max {
            self.more = true;
            return Look::Stop;
        }
        self.looked_at += 1;
        if fits && self.scoped {
            self.last_item = Some(position.clone());
        }
        self.position = Some(position);
        if fits { Look::Take } else { Look::Pass }
    }

    /// What was looked at besides the row itself counts too.
    pub(super) fn charge(&mut self, rows: u64) {
        self.looked_at = self.looked_at.saturating_add(u32::try_from(rows).unwrap_or(u32::MAX));
    }

    /// Whether nothing more may be looked at.
    pub(super) fn is_spent(&self) -> bool {
        self.looked_at >= self.rows_max
    }

    /// Takes the row that was looked at last.
    pub(super) fn push(&mut self, bytes: usize, item: T) {
        self.bytes += bytes;
        self.items.push(item);
    }

    pub(super) fn finish(self, cursor: impl FnOnce(P) -> Cursor) -> Page<T> {
        // The search for one item goes on from the row itself, visible or not, or it would never end.
        let position = self.last_item.or(self.position);
        let next = position.filter(|_| self.more).map(cursor);
        Page { items: self.items, next: next.map(|cursor| cursor.to_string()) }
    }
}

impl<T> Paging<T, DeviceId> {
    /// The same where a row is named: one that is not there for the reader is sealed.
    pub(super) fn finish_by_device(self, seal: &Seal) -> Page<T> {
        let hidden = self.scoped && self.last_item.is_none();
        let position = self.last_item.or(self.position).filter(|_| self.more);
        let next = match hidden {
            true => position.and_then(|device| seal.seal(&Cursor::after_device(device))),
            false => position.map(Cursor::after_device),
        };
        Page { items: self.items, next: next.map(|cursor| cursor.to_string()) }
    }
}
