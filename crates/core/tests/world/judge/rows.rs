//! The judge's rules about a delivery's row: how one version of it may follow another, and which rows of
//! a transaction are sendings. `judge.rs` judges their order and number.

use std::sync::Arc;
use std::time::Duration;

use bellwire_core::Instant;
use bellwire_core::record::{Change, DeliveryRecord, Txn};
use bellwire_proto::limits::{COUNTED_ATTEMPTS_MAX, SENDS_MAX};
use bellwire_proto::{DeliveryState, DeviceId, Seq, Timestamp, Window};

use super::super::store::Disk;
use super::Verdict;

/// How long after it is due a delivery may end: the hub may be down just then.
const SLACK: Duration = Duration::from_secs(30);

/// A delivery that a transaction has sent to its device.
pub(crate) struct Sending {
    pub(super) device: DeviceId,
    pub(super) seq: Seq,
    /// The sender's `not_before`, while it has not come.
    pub(super) not_before: Option<Timestamp>,
    /// The end of the wait after an earlier failure.
    pub(super) retry_at: Option<Instant>,
    /// From this time on it must not be sent.
    pub(super) expires: Instant,
    /// To be sent only while this is open.
    pub(super) window: Option<Arc<Window>>,
}

/// The deliveries that a transaction sends. `disk` is the state before it.
pub(crate) fn sendings(txn: &Txn, disk: &Disk) -> Vec<Sending> {
    let rows = txn.changes().iter().filter_map(|change| match change {
        Change::PutDelivery(row) => Some(&**row),
        _ => None,
    });
    let sending = |row: &DeliveryRecord| {
        let old = disk.delivery(&row.device, row.head.seq);
        // A failure in this very transaction may have set a shorter wait.
        let retry_at = old.filter(|old| old.counted == row.counted).and_then(|old| old.retry_at);
        // The wall clock may have been set back after it had become ready.
        let ready = old.is_some_and(|old| old.scheduled_at.is_none());
        let not_before = row.head.not_before.filter(|_| !ready);
        let (device, seq, expires) = (row.device.clone(), row.head.seq, row.expires);
        let window = row.head.window.clone();
        let sending = Sending { device, seq, not_before, retry_at, expires, window };
        (row.sends > old.map_or(0, |old| old.sends)).then_some(sending)
    };
    rows.filter_map(sending).collect()
}

/// Whether a row may replace the one before.
pub(super) fn row_may_follow(old: Option<&DeliveryRecord>, new: &DeliveryRecord) -> Verdict {
    let verdict = |fine: bool, what: &str| match fine {
        true => Ok(()),
        false => Err(format!("{what}: {old:?} became {new:?}")),
    };
    verdict(new.counted <= COUNTED_ATTEMPTS_MAX, "more attempts than may fail")?;
    verdict(new.sends <= SENDS_MAX, "more sendings than there may be")?;
    let Some(old) = old else {
        return Ok(());
    };
    let moved = new.expires != old.expires && (old.scheduled_at.is_none() || old.awaits_window);
    verdict(!moved, "its time to live changed")?;
    verdict(new.head == old.head && new.device == old.device, "another delivery")?;
    verdict(new.version > old.version, "the version did not rise")?;
    verdict(new.updated >= old.updated, "the time went back")?;
    verdict(new.rev >= old.rev, "rev fell")?;
    verdict(new.attempt >= old.attempt && new.sends >= old.sends, "attempts fell")?;
    verdict(new.counted >= old.counted, "counted attempts fell")?;
    if let Some(due_at) = old.due_at()
        && new.state.is_terminal()
    {
        let by = due_at.max(old.updated).after(SLACK);
        verdict(new.updated <= by, "it ended long after it was due")?;
        let early = new.state == DeliveryState::Expired && new.updated < new.expires;
        verdict(!early, "it expired before its time")?;
    }
    let sent = new.late && matches!(new.state, DeliveryState::Succeeded | DeliveryState::Failed);
    verdict(!old.state.is_terminal() || sent, "what had ended changed")
}
