//! What the core looks up. Each function answers one kind of [`Load`].

use bellwire_core::record::{
    DeliveryRecord, Load, Loaded, LoadedCommand, LoadedDevice, PageMax, QueuePage, TargetChunk,
};
use bellwire_core::{Instant, Now};
use bellwire_proto::{CommandId, DeliveryState, DeviceId, Json, Seq};
use rusqlite::{CachedStatement, Connection, OptionalExtension, Result, params};

use super::found;
use super::rollouts;
use super::rows::{
    self, DELIVERY_COLUMNS, command_columns, delivery_columns, instant_ms, int, state_number,
};

/// Answers a load, as of the transaction that is open.
pub(super) fn answer(connection: &Connection, load: &Load) -> Result<Loaded> {
    Ok(match load {
        Load::Device(device, page_max) => {
            Loaded::Device(Box::new(self::device(connection, device, *page_max)?))
        }
        Load::Queue(device, after, page_max) => {
            Loaded::Queue(device.clone(), queue(connection, device, *after, *page_max)?)
        }
        Load::Deliveries(device, seqs) => {
            Loaded::Deliveries(device.clone(), deliveries(connection, device, seqs)?)
        }
        Load::Live(device, rows_max) => {
            Loaded::Live(device.clone(), live(connection, device, *rows_max)?)
        }
        Load::Data(device, seq) => Loaded::Data(device.clone(), *seq, data(connection, *seq)?),
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
        Load::Command(id) => Loaded::Command(*id, command(connection, *id)?.map(Box::new)),
        Load::Targets(seq, first) => {
            let mut statement = connection.prepare_cached(
                "SELECT devices, canary FROM targets WHERE seq = ?1 AND first = ?2",
            )?;
            let chunk = statement
                .query_row(params![int(seq.get()), first.as_str()], |row| {
                    let (canary, registered) = rows::chunk_marks(row, 1)?;
                    Ok(TargetChunk { devices: rows::devices(row, 0)?, canary, registered })
                })
                .optional()?;
            Loaded::Targets(*seq, first.clone(), chunk.zip(data(connection, *seq)?))
        }
        Load::Found { request, query, after, rows_max } => {
            let page = found::found(connection, query, after.as_ref(), *rows_max)?;
            Loaded::Found(*request, page)
        }
        Load::LiveOf(seq, after, devices_max) => {
            let mut statement = connection.prepare_cached(
                "SELECT device FROM deliveries WHERE seq = ?1 AND device > ?2 AND state < 5
                 ORDER BY device LIMIT ?3",
            )?;
            let after = after.as_ref().map_or("", DeviceId::as_str);
            let params = params![int(seq.get()), after, limit(*devices_max)];
            let devices = statement.query_map(params, |row| rows::device_id(row, 0))?;
            Loaded::LiveOf(*seq, devices.collect::<Result<_>>()?)
        }
        Load::Unknown(request, devices) => {
            let mut unknown = None;
            for device in devices {
                if !known(connection, device)? {
                    unknown = Some(device.clone());
                    break;
                }
            }
            Loaded::Unknown(*request, unknown)
        }
        Load::Idempotency(key) => {
            let mut statement = connection.prepare_cached(
                "SELECT fingerprint, command, device, expires FROM idempotency
                 WHERE caller = ?1 AND key = ?2",
            )?;
            let row = statement
                .query_row(params![key.caller, key.key], |row| rows::idempotency(row, key.clone()))
                .optional()?;
            Loaded::Idempotency(key.clone(), row.map(Box::new))
        }
        Load::Token(id) => {
            Loaded::Token(*id, super::tokens::record(connection, *id)?.map(Box::new))
        }
        Load::Due(now, rows_max) => due(connection, *now, *rows_max)?,
        Load::Delivered { device, after, now, page_max } => {
            let from = Delivered { device, after: *after, now: *now };
            Loaded::Delivered(device.clone(), from.read(connection, *page_max)?)
        }
    })
}

fn limit(max: usize) -> i64 {
    i64::try_from(max).unwrap_or(i64::MAX)
}

fn known(connection: &Connection, device: &DeviceId) -> Result<bool> {
    connection.prepare_cached("SELECT 1 FROM devices WHERE device = ?1")?.exists([device.as_str()])
}

fn device(connection: &Connection, id: &DeviceId, page_max: PageMax) -> Result<LoadedDevice> {
    let (known, queued) = connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM devices WHERE device = ?1),
                    ifnull((SELECT queued FROM queues WHERE device = ?1), 0)",
        )?
        .query_row([id.as_str()], |row| Ok((row.get(0)?, rows::uint(row, 1)?)))?;
    let mut statement = connection.prepare_cached(concat!(
        "SELECT ",
        delivery_columns!(),
        " FROM deliveries d INDEXED BY deliveries_active CROSS JOIN commands c ON c.seq = d.seq
         WHERE d.device = ?1 AND d.state BETWEEN 1 AND 4 ORDER BY d.seq"
    ))?;
    let active = statement.query_map([id.as_str()], rows::delivery)?;
    Ok(LoadedDevice {
        device: id.clone(),
        known,
        queued,
        active: active.collect::<Result<_>>()?,
        // Without a count there is nothing to look for.
        queue: match queued {
            0 => QueuePage::default(),
            _ => queue(connection, id, Seq::ZERO, page_max)?,
        },
    })
}

fn queue(
    connection: &Connection,
    device: &DeviceId,
    after: Seq,
    page_max: PageMax,
) -> Result<QueuePage> {
    let mut statement = connection.prepare_cached(concat!(
        "SELECT ",
        delivery_columns!(),
        ", c.data
         FROM deliveries d INDEXED BY deliveries_ready CROSS JOIN commands c ON c.seq = d.seq
         WHERE d.device = ?1 AND d.state = 0 AND d.scheduled_at IS NULL AND d.seq > ?2
         ORDER BY d.seq"
    ))?;
    let mut rows = statement.query(params![device.as_str(), int(after.get())])?;
    let mut page = QueuePage::default();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        if page.rows.len() >= page_max.rows || bytes >= page_max.bytes {
            page.more = true;
            break;
        }
        let data = rows::json(row, DELIVERY_COLUMNS)?;
        bytes += data.as_str().len();
        page.rows.push((rows::delivery(row)?, data));
    }
    Ok(page)
}

fn deliveries(
    connection: &Connection,
    device: &DeviceId,
    seqs: &[Seq],
) -> Result<Vec<DeliveryRecord>> {
    let mut statement = connection.prepare_cached(concat!(
        "SELECT ",
        delivery_columns!(),
        " FROM deliveries d CROSS JOIN commands c ON c.seq = d.seq
         WHERE d.seq = ?1 AND d.device = ?2"
    ))?;
    let mut found = Vec::with_capacity(seqs.len());
    for seq in seqs {
        let params = params![int(seq.get()), device.as_str()];
        found.extend(statement.query_row(params, rows::delivery).optional()?);
    }
    Ok(found)
}

/// Any live deliveries of a device. What is scheduled is found by a walk over all that is: a device
/// is removed seldom.
fn live(
    connection: &Connection,
    device: &DeviceId,
    rows_max: usize,
) -> Result<Vec<DeliveryRecord>> {
    let mut statement = connection.prepare_cached(concat!(
        "SELECT ",
        delivery_columns!(),
        " FROM (
             SELECT seq FROM deliveries INDEXED BY deliveries_active
             WHERE device = ?1 AND state BETWEEN 1 AND 4
             UNION ALL
             SELECT seq FROM deliveries INDEXED BY deliveries_ready
             WHERE device = ?1 AND state = 0 AND scheduled_at IS NULL
             UNION ALL
             SELECT seq FROM deliveries INDEXED BY deliveries_scheduled
             WHERE scheduled_at IS NOT NULL AND device = ?1
             LIMIT ?2
         ) l CROSS JOIN deliveries d ON d.seq = l.seq AND d.device = ?1
         CROSS JOIN commands c ON c.seq = l.seq"
    ))?;
    let rows = statement.query_map(params![device.as_str(), limit(rows_max)], rows::delivery)?;
    rows.collect()
}

fn data(connection: &Connection, seq: Seq) -> Result<Option<Json>> {
    let mut statement = connection.prepare_cached("SELECT data FROM commands WHERE seq = ?1")?;
    statement.query_row([int(seq.get())], |row| rows::json(row, 0)).optional()
}

fn command(connection: &Connection, id: CommandId) -> Result<Option<LoadedCommand>> {
    let mut statement = connection.prepare_cached(concat!(
        "SELECT ",
        command_columns!(),
        " FROM commands c WHERE c.id = ?1"
    ))?;
    let Some(record) = statement.query_row([id.to_bytes()], rows::command).optional()? else {
        return Ok(None);
    };
    let seq = int(record.head.seq.get());
    let mut statement = connection.prepare_cached(concat!(
        "SELECT ",
        delivery_columns!(),
        " FROM commands c CROSS JOIN deliveries d ON d.seq = c.seq
         WHERE c.seq = ?1 ORDER BY d.device LIMIT 1"
    ))?;
    let first = statement.query_row([seq], rows::delivery).optional()?;
    let terminal = if record.head.is_to_many() {
        connection
            .prepare_cached(
                "SELECT ifnull(sum(deliveries), 0) FROM counts WHERE seq = ?1 AND state >= 5",
            )?
            .query_row([seq], |row| rows::uint(row, 0))?
    } else {
        u64::from(first.as_ref().is_some_and(|row| row.state.is_terminal()))
    };
    let online_only = record.online_only;
    let first = first.map(Box::new);
    let rollout = rollouts::rollout(connection, record.head.seq)?.map(Box::new);
    Ok(Some(LoadedCommand { head: record.head, online_only, first, terminal, rollout }))
}

/// The deliveries that are due, earliest first, and when the earliest of all others is.
fn due(connection: &Connection, now: Now, rows_max: usize) -> Result<Loaded> {
    let mut found = Vec::new();
    let mut statement = connection.prepare_cached(
        "SELECT due_at, device, seq FROM deliveries INDEXED BY deliveries_due
         WHERE due_at IS NOT NULL ORDER BY due_at, device",
    )?;
    let mut rows = statement.query([])?;
    let mut next = None;
    while let Some(row) = rows.next()? {
        let at = rows::instant(row, 0)?;
        if at > now.instant || found.len() >= rows_max {
            next = Some(at);
            break;
        }
        found.push((rows::device_id(row, 1)?, rows::seq(row, 2)?));
    }
    let mut statement = connection.prepare_cached(
        "SELECT scheduled_at, device, seq FROM deliveries INDEXED BY deliveries_scheduled
         WHERE scheduled_at IS NOT NULL ORDER BY scheduled_at, device",
    )?;
    let mut rows = statement.query([])?;
    let mut next_scheduled = None;
    while let Some(row) = rows.next()? {
        let at = rows::time(row, 0)?;
        if at > now.wall || found.len() >= rows_max {
            next_scheduled = Some(at);
            break;
        }
        found.push((rows::device_id(row, 1)?, rows::seq(row, 2)?));
    }
    Ok(Loaded::Due { rows: found, next, next_scheduled })
}

/// A replay: what was delivered to a device after a command.
struct Delivered<'a> {
    device: &'a DeviceId,
    after: Seq,
    now: Instant,
}

/// What every replay selects and how it is ordered; between them, where it begins.
macro_rules! delivered {
    ($from:literal) => {
        concat!(
            "SELECT ",
            delivery_columns!(),
            ", c.data
             FROM deliveries d INDEXED BY deliveries_ended CROSS JOIN commands c ON c.seq = d.seq
             WHERE d.device = ?1 AND d.state >= 5 AND d.state = ?2 AND d.expires > ?3 AND ",
            $from,
            " ORDER BY d.updated, d.seq"
        )
    };
}

impl Delivered<'_> {
    fn read(
        &self,
        connection: &Connection,
        page_max: PageMax,
    ) -> Result<Vec<(DeliveryRecord, Json)>> {
        let delivered = state_number(DeliveryState::Delivered);
        let after = int(self.after.get());
        let when: Option<i64> = connection
            .prepare_cached(
                "SELECT updated FROM deliveries WHERE seq = ?1 AND device = ?2 AND state = ?3",
            )?
            .query_row(params![after, self.device.as_str(), delivered], |row| row.get(0))
            .optional()?;
        let (device, now) = (self.device.as_str(), instant_ms(self.now));
        match when {
            Some(when) => {
                let sql = delivered!("(d.updated, d.seq) > (?4, ?5)");
                let statement = connection.prepare_cached(sql)?;
                collect(statement, params![device, delivered, now, when, after], page_max)
            }
            None => {
                let statement = connection.prepare_cached(delivered!("d.seq > ?4"))?;
                collect(statement, params![device, delivered, now, after], page_max)
            }
        }
    }
}

fn collect(
    mut statement: CachedStatement<'_>,
    params: &[&dyn rusqlite::ToSql],
    page_max: PageMax,
) -> Result<Vec<(DeliveryRecord, Json)>> {
    let mut rows = statement.query(params)?;
    let mut found = Vec::new();
    let mut bytes = 0;
    while found.len() < page_max.rows && bytes < page_max.bytes {
        let Some(row) = rows.next()? else { break };
        let data = rows::json(row, DELIVERY_COLUMNS)?;
        bytes += data.as_str().len();
        found.push((rows::delivery(row)?, data));
    }
    Ok(found)
}
