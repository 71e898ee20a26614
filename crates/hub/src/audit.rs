//! The audit log, outside of the core: what the entries are called, how refusals are counted, and how those who follow the
//! log are woken. Contract, section 6, "Audit".
//!
//! An entry of something that was done is written by the core with the change itself. A refusal is written when it
//! happens; those that are equal to it for the next minute (the same caller, address and code) only raise its count, which
//! is written at the end of that minute, before the log is read, and when the hub drains. So a flood of refusals is one row
//! a minute for each address, of [`AUDIT_REFUSALS_MAX`] addresses; beyond them, one for each code.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bellwire_core::Instant;
use bellwire_core::record::AuditRecord;
use bellwire_proto::Code;
use bellwire_proto::limits::{AUDIT_FOLLOWERS_MAX, AUDIT_REFUSAL_WINDOW, AUDIT_REFUSALS_MAX};
use tokio::sync::{Notify, watch};

/// What is done, as the log names it.
pub(crate) mod verb {
    pub(crate) const SEND: &str = "send";
    pub(crate) const CANCEL: &str = "cancel";
    pub(crate) const RETRY: &str = "retry";
    pub(crate) const PAUSE: &str = "pause";
    pub(crate) const RESUME: &str = "resume";
    pub(crate) const ABORT: &str = "abort";
    pub(crate) const DEVICE_PUT: &str = "device.put";
    pub(crate) const DEVICE_DELETE: &str = "device.delete";
    pub(crate) const DEVICE_ENROLL: &str = "device.enroll";
    pub(crate) const DEVICE_APPROVE: &str = "device.approve";
    pub(crate) const SCHEDULE_CREATE: &str = "schedule.create";
    pub(crate) const SCHEDULE_CHANGE: &str = "schedule.change";
    pub(crate) const SCHEDULE_PAUSE: &str = "schedule.pause";
    pub(crate) const SCHEDULE_RESUME: &str = "schedule.resume";
    pub(crate) const SCHEDULE_DELETE: &str = "schedule.delete";
    pub(crate) const TOKEN_CREATE: &str = "token.create";
    pub(crate) const TOKEN_REVOKE: &str = "token.revoke";
    /// A device listens, by a stream or a poll.
    pub(crate) const LISTEN: &str = "listen";
    /// A device reports, confirms, or sends facts.
    pub(crate) const REPORT: &str = "report";
    /// Anything that has no effect.
    pub(crate) const READ: &str = "read";
    /// Anything else.
    pub(crate) const CHANGE: &str = "change";
}

/// The refusals that are being counted, and the streams that follow the log.
#[derive(Debug)]
pub(crate) struct Audit {
    refusals: Mutex<Refusals>,
    /// Wakes the task that writes counts when there is something to count.
    counting: Arc<Notify>,
    /// Rises when there may be something for a stream that follows the log.
    changes: watch::Sender<u64>,
    followers: AtomicUsize,
}

#[derive(Debug)]
struct Refusals {
    open: HashMap<Key, RefusalCount>,
    next_number: u64,
}

/// What makes refusals equal; without a caller and an address, those for which there is no space.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    token: Option<String>,
    address: Option<IpAddr>,
    code: Option<Code>,
}

#[derive(Debug)]
struct RefusalCount {
    record: AuditRecord,
    until: Instant,
    /// The count that is on disk or on its way there.
    written: u64,
}

impl Audit {
    /// `seed` distinguishes the refusals of this start of the hub from those of another.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            // Half of the numbers, which the store holds as signed ones, and none that overflows.
            refusals: Mutex::new(Refusals { open: HashMap::new(), next_number: seed >> 2 }),
            counting: Arc::default(),
            changes: watch::Sender::new(0),
            followers: AtomicUsize::new(0),
        }
    }

    /// A refusal: what is to be written of it now, unless an equal one was within the last minute.
    pub(crate) fn refused(&self, mut record: AuditRecord, now: Instant) -> Option<AuditRecord> {
        let mut refusals = self.refusals();
        let mut key =
            Key { token: record.actor.token.clone(), address: record.address, code: record.code };
        if refusals.open.len() >= AUDIT_REFUSALS_MAX && !refusals.open.contains_key(&key) {
            key = Key { token: None, address: None, code: record.code };
            (record.actor, record.address) = Default::default();
            record.object = Default::default();
        }
        let number = refusals.next_number;
        let counted = match refusals.open.entry(key) {
            Entry::Occupied(mut counted) => {
                counted.get_mut().record.count += 1;
                return None;
            }
            Entry::Vacant(vacant) => vacant,
        };
        record.refusal = Some(number);
        let until = now.after(AUDIT_REFUSAL_WINDOW);
        counted.insert(RefusalCount { record: record.clone(), until, written: record.count });
        refusals.next_number += 1;
        drop(refusals);
        self.counting.notify_one();
        Some(record)
    }

    /// What is to be written of those whose minute has ended, or the counts of `all`, which go on.
    pub(crate) fn take_counted(&self, now: Instant, all: bool) -> Vec<AuditRecord> {
        let mut records = Vec::new();
        self.refusals().open.retain(|_, counted| {
            let ended = counted.until <= now;
            if (ended || all) && counted.record.count > counted.written {
                counted.written = counted.record.count;
                records.push(counted.record.clone());
            }
            !ended
        });
        records
    }

    /// When the first minute ends.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.refusals().open.values().map(|counted| counted.until).min()
    }

    /// Notified when there is something to count.
    pub(crate) fn counting(&self) -> Arc<Notify> {
        self.counting.clone()
    }

    /// Has those who follow the log look at it, and whether they still may.
    pub(crate) fn wake(&self) {
        if self.changes.receiver_count() > 0 {
            self.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
        }
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// One more follows the log; false when there are as many as may be.
    pub(crate) fn begin_following(&self) -> bool {
        let more = |n| (n < AUDIT_FOLLOWERS_MAX).then_some(n + 1);
        self.followers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    pub(crate) fn end_following(&self) {
        self.followers.fetch_sub(1, Ordering::Relaxed);
    }

    fn refusals(&self) -> MutexGuard<'_, Refusals> {
        // Nothing panics while it is held.
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bellwire_proto::{AuditObject, Timestamp};

    fn refusal(address: &str, code: Code) -> AuditRecord {
        AuditRecord {
            at: Timestamp::from_unix_ms(0),
            actor: Default::default(),
            address: Some(address.parse().unwrap()),
            verb: verb::READ,
            object: AuditObject::default(),
            status: code.status(),
            code: Some(code),
            count: 1,
            refusal: None,
        }
    }

    fn at(s: u64) -> Instant {
        Instant::from_ms(s * 1000)
    }

    #[test]
    fn equal_refusals_of_a_minute_are_one_entry_with_their_number() {
        let audit = Audit::new(0);
        let (a, b) =
            (|| refusal("192.0.2.1", Code::Forbidden), refusal("192.0.2.2", Code::Forbidden));
        let first = audit.refused(a(), at(0)).expect("the first is written at once");
        assert!(audit.refused(a(), at(1)).is_none() && audit.refused(a(), at(59)).is_none());
        assert!(audit.refused(b, at(2)).is_some(), "of another address");
        assert!(
            audit.refused(refusal("192.0.2.1", Code::Pending), at(3)).is_some(),
            "of another code"
        );
        assert_eq!(audit.due(), Some(at(60)));
        assert!(audit.take_counted(at(59), false).is_empty(), "they are still counted");
        let now = audit.take_counted(at(59), true);
        assert_eq!(
            now.iter().map(|row| (row.refusal, row.count)).collect::<Vec<_>>(),
            [(first.refusal, 3)]
        );
        assert!(audit.refused(a(), at(59)).is_none());
        assert_eq!(audit.take_counted(at(60), false)[0].count, 4, "their minute has ended");
        let next = audit.refused(a(), at(61)).expect("another minute, another entry");
        assert_ne!(next.refusal, first.refusal);
    }

    #[test]
    fn a_flood_from_many_addresses_is_counted_in_bounded_memory_and_lost_for_none() {
        let audit = Audit::new(0);
        let mut written = 0;
        for n in 0..AUDIT_REFUSALS_MAX + 500 {
            let record = refusal(&format!("10.0.{}.{}", n / 256, n % 256), Code::Unauthenticated);
            written += audit.refused(record, at(0)).map_or(0, |row| row.count);
        }
        assert_eq!(audit.refusals().open.len(), AUDIT_REFUSALS_MAX + 1);
        let rest = audit.take_counted(at(60), false);
        assert_eq!(rest.len(), 1, "{rest:?}");
        assert_eq!((rest[0].address, rest[0].count), (None, 500));
        assert_eq!(written - 1 + rest[0].count, AUDIT_REFUSALS_MAX as u64 + 500);
        assert_eq!(audit.due(), None, "and all of it is forgotten");
    }
}
