//! The promises of maintenance windows: what waits for one waits for its next opening, as it was when that was decided, and
//! is sent while it is open.

use bellwire_core::Now;
use bellwire_core::record::{DeliveryRecord, RolloutRecord};
use bellwire_proto::{DeliveryState, Timestamp, Window};

use super::super::schedules::calendar;
use super::Verdict;

/// By a walk through all openings, one after the other, and not by the core's arithmetic.
fn openings(window: &Window, until: Timestamp) -> Vec<Timestamp> {
    let length_ms = window.minutes * 60_000;
    let next = |after: Timestamp| (calendar().0)(&window.cron, &window.timezone, after);
    let from = Timestamp::from_unix_ms(until.unix_ms().saturating_sub(length_ms));
    let mut openings: Vec<Timestamp> = Vec::new();
    let mut after = from;
    while let Some(at) = next(after) {
        openings.push(at);
        if at > until {
            break;
        }
        after = at;
    }
    openings
}

pub(super) fn is_open(window: &Window, at: Timestamp) -> bool {
    openings(window, at).iter().any(|opened| *opened <= at)
}

/// A row that waits for a window, written at this time.
pub(super) fn may_wait(
    row: &DeliveryRecord,
    old: Option<&DeliveryRecord>,
    at: Option<Now>,
) -> Verdict {
    let fails = |what: &str| Err(format!("window: {what}: {old:?} became {row:?} at {at:?}"));
    let (Some(opening), true) = (row.scheduled_at, row.awaits_window) else {
        return match row.awaits_window {
            true => fails("it waits for no time"),
            false => Ok(()),
        };
    };
    let (Some(window), Some(at)) = (&row.head.window, at) else { return fails("it has none") };
    if row.state != DeliveryState::Queued {
        return fails("what is not queued waits");
    }
    if old.is_some_and(|old| old.awaits_window && old.scheduled_at == Some(opening)) {
        return Ok(());
    }
    if is_open(window, at.wall) {
        return fails("it is open");
    }
    match openings(window, at.wall).last() == Some(&opening) {
        true => Ok(()),
        false => fails("that is not when it opens next"),
    }
}

/// A batch that begins now.
pub(super) fn batch_may_begin(
    new: &RolloutRecord,
    old: Option<&RolloutRecord>,
    at: Option<Now>,
) -> Verdict {
    let begins = new.batch > old.map_or(0, |old| old.batch);
    let (Some(window), true, Some(at)) = (&new.window, begins, at) else { return Ok(()) };
    match is_open(window, at.wall) {
        true => Ok(()),
        false => Err(format!("window: a batch begins at {at:?}, outside of it: {new:?}")),
    }
}
