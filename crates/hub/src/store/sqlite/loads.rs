//! What the core looks up. Each function answers one kind of [`Load`].

use std::collections::HashSet;

use bellwire_core::record::{DeliveryRecord, Load, Loaded};
use bellwire_proto::{DeliveryState, DeviceId, Json, Seq, Timestamp};
use rusqlite::{CachedStatement, Connection, OptionalExtension, Result, params};

use super::rows::{self, DELIVERY_COLUMNS, delivery_columns, int, ms, state_number};

/// Answers a load, as of the transaction that is open.
pub(super) fn answer(connection: &Connection, load: &Load) -> Result<Loaded> {
    Ok(match load {
        Load::Device(device) => Loaded::Device {
            device: device.clone(),
            known: known(connection, device)?,
            live: live(connection, device)?,
        },
        Load::Data(device, seqs) => Loaded::Data(device.clone(), data(connection, seqs)?),
        Load::Delivery(device, id) => {
            let mut statement = connection.prepare_cached(concat!(
                "SELECT ",
                delivery_columns!(),
                " FROM commands c JOIN deliveries d ON d.seq = c.seq AND d.device = ?2
                 WHERE c.id = ?1"
            ))?;
            let row = statement
                .query_row(params![id.to_bytes(), device.as_str()], rows::delivery)
                .optional()?;
            Loaded::Delivery(device.clone(), *id, row.map(Box::new))
        }
        Load::Targets(id) => {
            let mut statement = connection.prepare_cached(
                "SELECT d.device FROM commands c JOIN deliveries d ON d.seq = c.seq
                 WHERE c.id = ?1 ORDER BY d.device",
            )?;
            let devices = statement.query_map([id.to_bytes()], |row| rows::device_id(row, 0))?;
            Loaded::Targets(*id, devices.collect::<Result<_>>()?)
        }
        Load::Idempotency(key) => {
            let mut statement = connection.prepare_cached(
                "SELECT fingerprint, command, device, expires_at FROM idempotency
                 WHERE caller = ?1 AND key = ?2",
            )?;
            let row = statement
                .query_row(params![key.caller, key.key], |row| rows::idempotency(row, key.clone()))
                .optional()?;
            Loaded::Idempotency(key.clone(), row.map(Box::new))
        }
        Load::Due(by, devices_max) => due(connection, *by, *devices_max)?,
        Load::Delivered { device, after, now, rows_max, bytes_max } => {
            let from = Delivered { device, after: *after, now: *now };
            let rows = from.read(connection, *rows_max, *bytes_max)?;
            Loaded::Delivered(device.clone(), rows)
        }
    })
}

fn known(connection: &Connection, device: &DeviceId) -> Result<bool> {
    connection.prepare_cached("SELECT 1 FROM devices WHERE device = ?1")?.exists([device.as_str()])
}

fn live(connection: &Connection, device: &DeviceId) -> Result<Vec<DeliveryRecord>> {
    let mut statement = connection.prepare_cached(concat!(
        "SELECT ",
        delivery_columns!(),
        " FROM deliveries d INDEXED BY deliveries_live CROSS JOIN commands c ON c.seq = d.seq
         WHERE d.device = ?1 AND d.state < 5 ORDER BY d.seq"
    ))?;
    let rows = statement.query_map([device.as_str()], rows::delivery)?;
    rows.collect()
}

fn data(connection: &Connection, seqs: &[Seq]) -> Result<Vec<(Seq, Json)>> {
    let mut statement = connection.prepare_cached("SELECT data FROM commands WHERE seq = ?1")?;
    let mut found = Vec::with_capacity(seqs.len());
    for seq in seqs {
        let data = statement.query_row([int(seq.get())], |row| rows::json(row, 0)).optional()?;
        found.extend(data.map(|data| (*seq, data)));
    }
    Ok(found)
}

/// The devices that are due, earliest first, and the earliest time of all others. Rows of a device
/// that is already on the list are passed over; a device has few that are live.
fn due(connection: &Connection, by: Timestamp, devices_max: usize) -> Result<Loaded> {
    let mut statement = connection.prepare_cached(
        "SELECT due_at, device FROM deliveries INDEXED BY deliveries_due
         WHERE due_at IS NOT NULL ORDER BY due_at, device",
    )?;
    let mut rows = statement.query([])?;
    let mut listed: HashSet<DeviceId> = HashSet::new();
    let mut devices = Vec::new();
    while let Some(row) = rows.next()? {
        let due_at = rows::time(row, 0)?;
        let device = rows::device_id(row, 1)?;
        if listed.contains(&device) {
            continue;
        }
        if due_at > by || devices.len() >= devices_max {
            return Ok(Loaded::Due(devices, Some(due_at)));
        }
        listed.insert(device.clone());
        devices.push(device);
    }
    Ok(Loaded::Due(devices, None))
}

/// A replay: what was delivered to a device after a command.
struct Delivered<'a> {
    device: &'a DeviceId,
    after: Seq,
    now: Timestamp,
}

/// What every replay selects and how it is ordered; between them, where it begins.
macro_rules! delivered {
    ($from:literal) => {
        concat!(
            "SELECT ",
            delivery_columns!(),
            ", c.data
             FROM deliveries d INDEXED BY deliveries_ended CROSS JOIN commands c ON c.seq = d.seq
             WHERE d.device = ?1 AND d.state >= 5 AND d.state = ?2 AND c.expires_at > ?3 AND ",
            $from,
            " ORDER BY d.updated_at, d.seq"
        )
    };
}

impl Delivered<'_> {
    fn read(
        &self,
        connection: &Connection,
        rows_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<(DeliveryRecord, Json)>> {
        let delivered = state_number(DeliveryState::Delivered);
        let after = int(self.after.get());
        let when: Option<i64> = connection
            .prepare_cached(
                "SELECT updated_at FROM deliveries WHERE seq = ?1 AND device = ?2 AND state = ?3",
            )?
            .query_row(params![after, self.device.as_str(), delivered], |row| row.get(0))
            .optional()?;
        let (device, now) = (self.device.as_str(), ms(self.now));
        match when {
            Some(when) => {
                let sql = delivered!("(d.updated_at, d.seq) > (?4, ?5)");
                let statement = connection.prepare_cached(sql)?;
                let params = params![device, delivered, now, when, after];
                collect(statement, params, rows_max, bytes_max)
            }
            None => {
                let statement = connection.prepare_cached(delivered!("d.seq > ?4"))?;
                let params = params![device, delivered, now, after];
                collect(statement, params, rows_max, bytes_max)
            }
        }
    }
}

fn collect(
    mut statement: CachedStatement<'_>,
    params: &[&dyn rusqlite::ToSql],
    rows_max: usize,
    bytes_max: usize,
) -> Result<Vec<(DeliveryRecord, Json)>> {
    let mut rows = statement.query(params)?;
    let mut found = Vec::new();
    let mut bytes = 0;
    while found.len() < rows_max && bytes < bytes_max {
        let Some(row) = rows.next()? else { break };
        let data = rows::json(row, DELIVERY_COLUMNS)?;
        bytes += data.as_str().len();
        found.push((rows::delivery(row)?, data));
    }
    Ok(found)
}
