//! The calendar of the core's tests, of these and of those beside its code: when local times occur is the hub crate's.

use bellwire_proto::Timestamp;

/// Due at each multiple of so many seconds of the wall clock: the expression is their number, and there are no zones.
pub(crate) fn every(seconds: &str, _zone: &str, after: Timestamp) -> Option<Timestamp> {
    let every_ms = seconds.parse::<u64>().ok()? * 1000;
    Some(Timestamp::from_unix_ms((after.unix_ms() / every_ms + 1) * every_ms))
}
