//! Local times in the small program: it has no rules of time zones, and says what to write instead.

use bellwire_proto::Timestamp;

use super::{LocalTime, Side};

const NO_ZONES: &str = "this small program knows no time zones: write 2026-01-31T12:00:00Z, or 10m";

pub(super) fn local(_: i8, _: i8, _: Timestamp, _: Side) -> Result<Timestamp, String> {
    Err(NO_ZONES.to_owned())
}

pub(super) fn full(_: LocalTime) -> Result<Timestamp, String> {
    Err(NO_ZONES.to_owned())
}
