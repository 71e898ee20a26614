//! Commands, newest first, all of them or those that fit a filter.
//!
//! Two ways lead to a page, so that each looks at a bounded number of rows. While the indexes have
//! few deliveries that can fit, those are read, sorted and shown. Else the commands are walked through
//! from the newest, and each is asked for one row: its delivery for that device, its only delivery, or
//! its counter.

use bellwire_proto::limits::LIST_ROWS_MAX;
use bellwire_proto::{Action, Command, DeliveryState, DeviceId, Page, Seq};
use rusqlite::{Connection, Result, params};

use super::super::readers::at_one_moment;
use super::super::rows::{self, command_columns, int, state_number};
use super::{Look, Paging, scoped, shown};
use crate::store::{CommandFilter, Cursor};

/// Live deliveries of device `?1`, or of all when that is null; `?2` rows at most.
const ACTIVE: &str = "SELECT seq, state, device FROM deliveries INDEXED BY deliveries_active
    WHERE state BETWEEN 1 AND 4 AND ?1 IS NULL LIMIT ?2";
const ACTIVE_OF_DEVICE: &str =
    "SELECT seq, state, device FROM deliveries INDEXED BY deliveries_active
    WHERE device = ?1 AND state BETWEEN 1 AND 4 LIMIT ?2";
const READY: &str = "SELECT seq, 0, device FROM deliveries INDEXED BY deliveries_ready
    WHERE state = 0 AND scheduled_at IS NULL AND ?1 IS NULL LIMIT ?2";
const READY_OF_DEVICE: &str = "SELECT seq, 0, device FROM deliveries INDEXED BY deliveries_ready
    WHERE device = ?1 AND state = 0 AND scheduled_at IS NULL LIMIT ?2";
/// Of all devices, since the index is by time.
const SCHEDULED: &str = "SELECT seq, 0, device FROM deliveries INDEXED BY deliveries_scheduled
    WHERE scheduled_at IS NOT NULL LIMIT ?2";
const ENDED_OF_DEVICE: &str =
    "SELECT seq, state, device FROM deliveries INDEXED BY deliveries_ended
    WHERE device = ?1 AND state >= 5 LIMIT ?2";

/// The columns of a search through the commands before `?1`; `?2` is a state, `?3` a device, and `?4` the
/// rows at most.
const ALL: &str = "SELECT c.seq, c.action, TRUE FROM commands c
    WHERE c.seq < ?1 AND ?2 IS NULL AND ?3 IS NULL ORDER BY c.seq DESC LIMIT ?4";
const BY_STATE: &str = "SELECT c.seq, c.action, iif(c.total > 1,
        EXISTS (SELECT 1 FROM counts n WHERE n.seq = c.seq AND n.state = ?2 AND n.deliveries > 0),
        EXISTS (SELECT 1 FROM deliveries d WHERE d.seq = c.seq AND d.state = ?2))
    FROM commands c WHERE c.seq < ?1 AND ?3 IS NULL ORDER BY c.seq DESC LIMIT ?4";
const BY_DEVICE: &str = "SELECT c.seq, c.action, EXISTS (
        SELECT 1 FROM deliveries d WHERE d.seq = c.seq AND d.device = ?3 AND (?2 IS NULL OR d.state = ?2))
    FROM commands c WHERE c.seq < ?1 ORDER BY c.seq DESC LIMIT ?4";

pub(in crate::store::sqlite) fn commands(
    connection: &Connection,
    filter: &CommandFilter,
    limit: u32,
    after: Option<Seq>,
) -> Result<Page<Command>> {
    // So that no command is purged between the look at its delivery and the look at itself.
    at_one_moment(connection, || within(connection, filter, limit, after, LIST_ROWS_MAX))
}

/// A page for which so many rows may be looked at.
fn within(
    connection: &Connection,
    filter: &CommandFilter,
    limit: u32,
    after: Option<Seq>,
    rows_max: u32,
) -> Result<Page<Command>> {
    let before = after.map_or(i64::MAX, |seq| int(seq.get()));
    let mut page = Paging::new(limit, rows_max, &filter.visible);
    // A device that the reader does not see has no commands.
    if let Some(device) = &filter.device
        && !scoped::sees(connection, &filter.visible, device)?
    {
        return Ok(page.finish(Cursor::after_seq));
    }
    let mut few = Few { filter, before, seqs: Vec::new(), rows_left: rows_max / 2 };
    let complete = few.find(connection)?;
    page.looked_at = rows_max / 2 - few.rows_left;
    if complete {
        list(connection, filter, few.seqs, &mut page)?;
    } else {
        walk(connection, filter, before, &mut page)?;
    }
    Ok(page.finish(Cursor::after_seq))
}

/// The commands of the few deliveries that fit a filter.
struct Few<'a> {
    filter: &'a CommandFilter,
    before: i64,
    seqs: Vec<i64>,
    /// Rows of the indexes that may still be looked at: half of what the page may, and the other half is
    /// for the commands.
    rows_left: u32,
}

impl Few<'_> {
    /// Finds them. False when there may be more, and when no index has them.
    fn find(&mut self, connection: &Connection) -> Result<bool> {
        let of_device = self.filter.device.is_some();
        let state = self.filter.state;
        let ended = state.is_none_or(DeliveryState::is_terminal);
        let queued = state.is_none_or(|state| state == DeliveryState::Queued);
        let active =
            state.is_none_or(|state| !state.is_terminal()) && state != Some(DeliveryState::Queued);
        if ended && !of_device {
            return Ok(false);
        }
        let scans = [
            (active && !of_device, ACTIVE),
            (active && of_device, ACTIVE_OF_DEVICE),
            (queued && !of_device, READY),
            (queued && of_device, READY_OF_DEVICE),
            (queued, SCHEDULED),
            (ended, ENDED_OF_DEVICE),
        ];
        for (_, sql) in scans.into_iter().filter(|(wanted, _)| *wanted) {
            if !self.scan(connection, sql)? {
                return Ok(false);
            }
        }
        self.seqs.sort_unstable_by(|one, other| other.cmp(one));
        self.seqs.dedup();
        Ok(true)
    }

    /// False when the index has more rows than may be looked at.
    fn scan(&mut self, connection: &Connection, sql: &str) -> Result<bool> {
        let device = self.filter.device.as_ref().map(DeviceId::as_str);
        let mut statement = connection.prepare_cached(sql)?;
        let mut rows = statement.query(params![device, self.rows_left])?;
        while let Some(row) = rows.next()? {
            self.rows_left -= 1;
            let seq: i64 = row.get(0)?;
            let state: i64 = row.get(1)?;
            let of = row.get_ref(2)?.as_str()?;
            let fits = seq < self.before
                && self.filter.state.is_none_or(|wanted| state_number(wanted) == state)
                && device.is_none_or(|wanted| wanted == of);
            if fits {
                self.seqs.push(seq);
            }
        }
        // Whether the last one that was allowed is the last one there is, was not looked at.
        Ok(self.rows_left > 0)
    }
}

/// Fills the page from these commands.
fn list(
    connection: &Connection,
    filter: &CommandFilter,
    seqs: Vec<i64>,
    page: &mut Paging<Command, Seq>,
) -> Result<()> {
    let mut action =
        connection.prepare_cached("SELECT seq, action FROM commands WHERE seq = ?1")?;
    for seq in seqs {
        let (seq, fits) = action.query_row([seq], |row| {
            Ok((rows::seq(row, 0)?, is_of(filter, row.get_ref(1)?.as_str()?)))
        })?;
        if look(connection, filter, seq, fits, page)? == Searched::Enough {
            break;
        }
    }
    Ok(())
}

/// Fills the page from all commands, from the newest on.
fn walk(
    connection: &Connection,
    filter: &CommandFilter,
    before: i64,
    page: &mut Paging<Command, Seq>,
) -> Result<()> {
    let sql = match (&filter.device, filter.state) {
        (Some(_), _) => BY_DEVICE,
        (None, Some(_)) => BY_STATE,
        (None, None) => ALL,
    };
    let mut found = connection.prepare_cached(sql)?;
    let mut rows = found.query(params![
        before,
        filter.state.map(state_number),
        filter.device.as_ref().map(DeviceId::as_str),
        // One more than may be looked at, so that the bound is met and not mistaken for the end.
        page.rows_max - page.looked_at + 1,
    ])?;
    while let Some(row) = rows.next()? {
        let seq = rows::seq(row, 0)?;
        let fits = row.get(2)? && is_of(filter, row.get_ref(1)?.as_str()?);
        if look(connection, filter, seq, fits, page)? == Searched::Enough {
            break;
        }
    }
    Ok(())
}

#[derive(PartialEq)]
enum Searched {
    Enough,
    GoesOn,
}

/// Looks at one command, and takes it if it is of the list.
fn look(
    connection: &Connection,
    filter: &CommandFilter,
    seq: Seq,
    fits: bool,
    page: &mut Paging<Command, Seq>,
) -> Result<Searched> {
    let found = match fits && !page.is_spent() {
        true => Some(item(connection, filter, seq)?),
        false => None,
    };
    let (deliveries, item) = found.unwrap_or_default();
    match page.look(seq, item.is_some()) {
        Look::Take => item.into_iter().for_each(|(bytes, command)| page.push(bytes, command)),
        Look::Pass => {}
        Look::Stop => return Ok(Searched::Enough),
    }
    // A scope is compared with the device of each delivery.
    if !filter.visible.is_all() {
        page.charge(deliveries);
    }
    Ok(Searched::GoesOn)
}

fn is_of(filter: &CommandFilter, action: &str) -> bool {
    filter.action.as_ref().map(Action::as_str).is_none_or(|only| only == action)
}

/// The deliveries of a command that fits; and itself with the bytes of its data, if it is there for the reader. Of several
/// devices those that the reader sees decide about its state.
fn item(
    connection: &Connection,
    filter: &CommandFilter,
    seq: Seq,
) -> Result<(u64, Option<(usize, Command)>)> {
    let mut one = connection.prepare_cached(concat!(
        "SELECT ",
        command_columns!(),
        " FROM commands c WHERE c.seq = ?1"
    ))?;
    let record = one.query_row([int(seq.get())], rows::command)?;
    let (bytes, deliveries) = (record.data.as_str().len(), record.head.total);
    let in_state = |command: &Command| {
        let any = filter.visible.is_all() || filter.device.is_some();
        any || filter.state.is_none_or(|state| command.counts.contains_key(&state))
    };
    let command = shown(connection, record, &filter.visible)?.filter(in_state);
    Ok((deliveries, command.map(|command| (bytes, command))))
}

#[cfg(test)]
mod tests;
