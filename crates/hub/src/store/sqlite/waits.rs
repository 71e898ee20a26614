//! What the queued deliveries of a command wait for, as far as the disk knows it. Each costs some lookups in the indexes,
//! whatever the length of its device's queue.

use bellwire_proto::limits::{IN_FLIGHT_CEILING, LIST_ROWS_MAX};
use bellwire_proto::{CommandId, DeviceId, Page, Seq};
use rusqlite::{Connection, OptionalExtension, Result, params};

use super::lists::{self, Look, Paging, scoped};
use super::rows::{self, int};
use super::seal::Seal;
use crate::store::{StoredWait, Visible};

/// The deliveries of command `?1` after device `?2`: device, whether it is queued, and what is set against sending it.
const DELIVERIES: &str = "
    SELECT device, state = 0, scheduled_at, retry_at, flags FROM deliveries
    WHERE seq = ?1 AND device > ?2 ORDER BY device";

/// What device `?1` has in flight.
const IN_FLIGHT: &str = "
    SELECT c.id FROM deliveries d INDEXED BY deliveries_active CROSS JOIN commands c ON c.seq = d.seq
    WHERE d.device = ?1 AND d.state BETWEEN 1 AND 4 ORDER BY d.seq LIMIT ?2";

/// The first in the queue of device `?1` before seq `?2`.
const OLDER: &str = "
    SELECT c.id FROM deliveries d INDEXED BY deliveries_ready CROSS JOIN commands c ON c.seq = d.seq
    WHERE d.device = ?1 AND d.state = 0 AND d.scheduled_at IS NULL AND d.seq < ?2 ORDER BY d.seq LIMIT 1";

pub(super) fn waits(
    connection: &Connection,
    id: CommandId,
    limit: u32,
    after: Option<&DeviceId>,
    visible: &Visible,
    seal: &Seal,
) -> Result<Option<Page<StoredWait>>> {
    let Some(seq) = lists::visible_seq(connection, id, visible)? else { return Ok(None) };
    let mut statement = connection.prepare_cached(DELIVERIES)?;
    let mut found = statement.query(params![int(seq.get()), after.map_or("", DeviceId::as_str)])?;
    let mut page = Paging::new(limit, LIST_ROWS_MAX, visible);
    while let Some(row) = found.next()? {
        let device = rows::device_id(row, 0)?;
        let fits = row.get(1)? && scoped::sees(connection, visible, &device)?;
        match page.look(device.clone(), fits) {
            Look::Take => {
                let Some(stored) = lists::device(connection, &device)? else { continue };
                let in_flight = in_flight(connection, &device)?;
                let wait = StoredWait {
                    scheduled_at: rows::maybe_time(row, 2)?,
                    awaits_window: row.get::<_, i64>(4)? & rows::AWAITS_WINDOW != 0,
                    retry_at: rows::maybe_instant(row, 3)?,
                    in_flight: in_flight.len(),
                    first_in_flight: in_flight.first().copied(),
                    older: older(connection, &device, seq)?,
                    device: stored,
                };
                page.push(wait.device.weight(), wait);
            }
            Look::Pass => {}
            Look::Stop => break,
        }
    }
    Ok(Some(page.finish_by_device(seal)))
}

fn in_flight(connection: &Connection, device: &DeviceId) -> Result<Vec<CommandId>> {
    let mut statement = connection.prepare_cached(IN_FLIGHT)?;
    let ids = statement
        .query_map(params![device.as_str(), int(IN_FLIGHT_CEILING as u64)], |row| {
            rows::id(row, 0)
        })?;
    ids.collect()
}

fn older(connection: &Connection, device: &DeviceId, seq: Seq) -> Result<Option<CommandId>> {
    connection
        .prepare_cached(OLDER)?
        .query_row(params![device.as_str(), int(seq.get())], |row| rows::id(row, 0))
        .optional()
}
