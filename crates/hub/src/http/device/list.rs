//! `GET /v1/devices`: which devices, in which order, page by page. Contract, section 6.
//!
//! The store knows labels, facts, queues and past contacts; the core alone knows who is online. So a page comes from one of
//! two sources, or from one after the other: from the store, leaving out who is online or is not; or from the names of those
//! that are online, leaving out whom the store says do not fit. Rows are read for what is on the page alone, and what is
//! looked at for a page is bounded: one with fewer items than requested, or none, may be followed by another.

use axum::response::Response;
use bellwire_core::Presence;
use bellwire_proto::device::{DeviceOrder, SortKey};
use bellwire_proto::limits::{DEVICES_SEARCHED_MAX, LIST_ROWS_MAX, PAGE_BYTES_MAX, UNSEEN_S};
use bellwire_proto::{Device, DeviceId, DeviceStatus, Page, Problem, Selector, Timestamp};

use super::super::page;
use super::super::request::Request;
use crate::driver::Driver;
use crate::store::{Cursor, DeviceFilter, DevicePosition};

/// Names of a part that is looked at together.
const PART: usize = 1000;
/// Devices that are online and are gone through, whatever a selector would find.
const FEW_ONLINE: usize = PART;
/// Rows that are read together.
const ROWS: usize = 100;

/// `GET /v1/devices`.
pub(in crate::http) async fn list(request: Request) -> Result<Response, Problem> {
    let mut query = request.query()?;
    let select: Selector = query.value("select")?.unwrap_or_default();
    let online = query.switch("online")?;
    let unseen = query.seconds("unseen", UNSEEN_S)?;
    let status: Option<DeviceStatus> = query.value("status")?;
    let order: DeviceOrder = query.value("sort")?.unwrap_or_default();
    let prefix = query.text("prefix").unwrap_or_default();
    // What can be a name can begin one; a dot or two begin one as well.
    if !matches!(prefix.as_str(), "" | "." | "..") {
        let _begins_a_name: DeviceId = prefix.parse().map_err(|_| {
            Problem::bad_request("parameter prefix is the beginning of a device's name")
        })?;
    }
    let page = super::super::page_request(&mut query)?;
    query.finish()?;

    let open = |cursor| {
        request.driver.store().open_cursor(cursor).and_then(|cursor| cursor.position(order.by))
    };
    let after = page.after.map(open).transpose();
    let after = after.map_err(|bad| Problem::bad_request(format!("parameter after: {bad}")))?;
    let now = request.driver.now();
    let before = |unseen: bellwire_proto::Seconds| {
        Timestamp::from_unix_ms(now.unix_ms().saturating_sub(unseen.get().saturating_mul(1000)))
    };
    let search = Search {
        driver: &request.driver,
        filter: DeviceFilter {
            select,
            prefix,
            unseen_before: unseen.map(before),
            pending: status.map(|status| status == DeviceStatus::Pending),
            order,
            visible: request.caller.visible(),
        },
        online,
        conflict: match status {
            Some(DeviceStatus::Conflict) => Some(true),
            Some(DeviceStatus::Active) => Some(false),
            _ => None,
        },
        limit: page.limit as usize,
        rows_max: LIST_ROWS_MAX,
        searched_max: DEVICES_SEARCHED_MAX,
    };
    let (devices, positions) = search.page(after).await?;
    page::page(devices, |last| {
        let position = positions.into_iter().find(|position| position.device == last.id);
        let here = DevicePosition { device: last.id.clone(), value: 0 };
        Cursor::after_position(order.by, position.unwrap_or(here))
    })
}

struct Search<'a> {
    driver: &'a Driver,
    filter: DeviceFilter,
    online: Option<bool>,
    conflict: Option<bool>,
    limit: usize,
    /// Rows of the store that may be looked at.
    rows_max: u32,
    /// Devices whose presence may be looked at.
    searched_max: usize,
}

/// Where devices come from.
#[derive(Clone, Copy, PartialEq)]
enum From {
    Online,
    Store,
}

/// What was found for a page, and what remains of its bounds.
struct SearchProgress {
    positions: Vec<DevicePosition>,
    /// How far the search has come, when there may be more.
    next: Option<DevicePosition>,
    rows: u32,
    searched: usize,
}

impl Search<'_> {
    async fn page(
        &self,
        after: Option<DevicePosition>,
    ) -> Result<(Page<Device>, Vec<DevicePosition>), Problem> {
        let mut found = SearchProgress {
            positions: Vec::new(),
            next: after,
            rows: self.rows_max,
            searched: self.searched_max,
        };
        // A core that has failed knows no device, which must not look like none online, on an empty page either.
        self.driver.online_count()?;
        let sources = self.sources();
        if sources.is_empty() {
            found.next = None;
        }
        for from in sources {
            // The list is those online and then the others, or the reverse: behind a device of the second source, the first has
            // no more.
            if self.is_exhausted(from, found.next.as_ref()) {
                continue;
            }
            // At the end of one source a bound may have run out. At least one device of the next is looked at, from which the
            // search can go on: without a position it would look like the end of the list.
            found.rows = found.rows.max(1);
            found.searched = found.searched.max(1);
            match from {
                From::Online => self.search_online(&mut found).await?,
                From::Store => self.search_store(&mut found).await?,
            }
            if found.next.is_some() {
                break;
            }
        }
        if found.positions.len() > self.limit {
            found.positions.truncate(self.limit);
            found.next = found.positions.last().cloned();
        }
        // A cursor names a device, which should be one that is there for the reader. Without one the search goes on from the
        // row itself, visible or not, or it would never end.
        if !self.filter.visible.is_all() && found.next.is_some() && !found.positions.is_empty() {
            found.next = found.positions.last().cloned();
        }
        self.read(found).await
    }

    /// Where to look, in the order of the list. By last contact, those that are online are the last.
    fn sources(&self) -> Vec<From> {
        let by_last_seen = self.filter.order.by == SortKey::LastSeen;
        match (self.online(), by_last_seen) {
            // Who is online was seen just now.
            _ if self.online == Some(true) && self.filter.unseen_before.is_some() => Vec::new(),
            (Some(true), true) => vec![From::Online],
            (Some(true), false) if self.filter.order.by == SortKey::Id => vec![From::Online],
            (None, true) if self.filter.order.descending => vec![From::Online, From::Store],
            (None, true) => vec![From::Store, From::Online],
            _ => vec![From::Store],
        }
    }

    /// Whether it is better to go through those that are online than through the rows that a selector finds.
    fn few_online(&self) -> Result<bool, Problem> {
        let selects = self.filter.select != Selector::default() || !self.filter.visible.is_all();
        Ok(!selects || self.driver.online_count()? <= FEW_ONLINE)
    }

    /// Whether those that are online are wanted alone, or not at all.
    fn online(&self) -> Option<bool> {
        // Who is online was seen just now.
        if self.filter.unseen_before.is_some() { Some(false) } else { self.online }
    }

    fn is_exhausted(&self, from: From, after: Option<&DevicePosition>) -> bool {
        let Some(after) = after.filter(|_| self.filter.order.by == SortKey::LastSeen) else {
            return false;
        };
        let among_online = after.value == DevicePosition::ONLINE;
        match from {
            From::Online => self.filter.order.descending && !among_online,
            From::Store => !self.filter.order.descending && among_online,
        }
    }

    /// Those that are online, by name: through their names, or through what the selector finds if there are many.
    async fn search_online(&self, found: &mut SearchProgress) -> Result<(), Problem> {
        let by_last_seen = self.filter.order.by == SortKey::LastSeen;
        let value = if by_last_seen { DevicePosition::ONLINE } else { 0 };
        found.next = found.next.take().filter(|after| after.value == value);
        if !self.few_online()? {
            let order = DeviceOrder { by: SortKey::Id, ..self.filter.order };
            let filter = DeviceFilter { order, ..self.filter.clone() };
            return self.search_rows(&filter, Some(true), Some(value), found).await;
        }
        let mut after = found.next.take().map(|position| position.device);
        let mut part = self.limit + 1;
        while found.positions.len() <= self.limit {
            let limit = part.min(PART).min(found.searched);
            part = part.saturating_mul(2);
            let (prefix, descending) = (&self.filter.prefix, self.filter.order.descending);
            let names = self.driver.online_part(after.as_ref(), prefix, descending, limit)?;
            let Some(last) = names.last().cloned() else {
                if limit == 0 {
                    found.next = after.map(|device| DevicePosition { device, value });
                }
                return Ok(());
            };
            found.searched -= names.len();
            let fit = self.driver.store().devices_fitting(self.filter.clone(), names).await?;
            let presences = self.driver.presences(&fit)?;
            let fit = fit.into_iter().zip(presences).filter(|(_, now)| self.fits(now, Some(true)));
            found.positions.extend(fit.map(|(device, _)| DevicePosition { device, value }));
            after = Some(last);
        }
        Ok(())
    }

    async fn search_store(&self, found: &mut SearchProgress) -> Result<(), Problem> {
        let online = match self.online() {
            None if self.filter.order.by == SortKey::LastSeen => Some(false),
            online => online,
        };
        self.search_rows(&self.filter, online, None, found).await
    }

    /// Through the rows of the store. `value` is what the positions have, where it is not what the store says.
    async fn search_rows(
        &self,
        filter: &DeviceFilter,
        online: Option<bool>,
        value: Option<i64>,
        found: &mut SearchProgress,
    ) -> Result<(), Problem> {
        let by_presence = online.is_some() || self.conflict.is_some();
        let of_store = |position: DevicePosition| DevicePosition { value: 0, ..position };
        let at_value = |position: DevicePosition| match value {
            Some(value) => DevicePosition { value, ..position },
            None => position,
        };
        let mut after = found.next.take();
        let mut part = self.limit + 1 - found.positions.len().min(self.limit);
        loop {
            let limit = if by_presence { part.min(PART).min(found.searched) } else { part };
            // As many as are missing, and more where few of them fit.
            part = part.saturating_mul(2);
            let from = after
                .take()
                .map(|position| if value.is_some() { of_store(position) } else { position });
            let rows =
                self.driver.store().devices(filter.clone(), from, limit as u32, found.rows).await?;
            found.rows = found.rows.saturating_sub(rows.looked_at);
            if by_presence {
                found.searched -= rows.found.len();
                let presences = self.driver.presences(rows.found.iter().map(|p| &p.device))?;
                let fit = rows.found.into_iter().zip(presences);
                let fit = fit.filter(|(_, now)| self.fits(now, online));
                found.positions.extend(fit.map(|(position, _)| at_value(position)));
            } else {
                found.positions.extend(rows.found);
            }
            let bounded = found.rows == 0 || found.searched == 0;
            match rows.next.map(at_value) {
                Some(next) if found.positions.len() <= self.limit && !bounded => after = Some(next),
                next => {
                    found.next = next;
                    return Ok(());
                }
            }
        }
    }

    fn fits(&self, now: &Presence, online: Option<bool>) -> bool {
        online.is_none_or(|online| now.online() == online)
            && self.conflict.is_none_or(|conflict| now.conflict == conflict)
    }

    /// The rows of what was found, as many as fit on a page.
    async fn read(
        &self,
        found: SearchProgress,
    ) -> Result<(Page<Device>, Vec<DevicePosition>), Problem> {
        let mut items: Vec<Device> = Vec::new();
        let mut next = found.next;
        let mut bytes = 0;
        for part in found.positions.chunks(ROWS) {
            if bytes > PAGE_BYTES_MAX {
                break;
            }
            let ids = part.iter().map(|position| position.device.clone()).collect();
            let rows = self.driver.store().devices_named(ids).await?;
            for device in self.driver.show(rows.into_iter().flatten().collect())? {
                // Its labels may have changed meanwhile: what is outside of a scope is not there.
                if self.filter.visible.sees(&device.labels) {
                    bytes += page::json_bytes(&device)?;
                    items.push(device);
                }
            }
            if bytes > PAGE_BYTES_MAX {
                next = part.last().cloned().filter(|last| {
                    next.is_some() || found.positions.last().is_some_and(|end| end != last)
                });
            }
        }
        let next = next.and_then(|position| {
            let shown = items.last().is_some_and(|last| last.id == position.device);
            let cursor = Cursor::after_position(self.filter.order.by, position);
            // Of a device that is not there for the reader, nothing can be read.
            let named = shown || self.filter.visible.is_all();
            if named { Some(cursor) } else { self.driver.store().seal_cursor(&cursor) }
        });
        Ok((Page { items, next: next.map(|cursor| cursor.to_string()) }, found.positions))
    }
}

#[cfg(test)]
mod tests;
