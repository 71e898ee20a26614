//! Local times, by the rules of the time zone that the system has.

use bellwire_proto::Timestamp;

use super::{LocalTime, Side};

/// The time of the day on a clock of this machine.
pub(super) fn local(hour: i8, minute: i8, now: Timestamp, side: Side) -> Result<Timestamp, String> {
    in_zone(&jiff::tz::TimeZone::system(), hour, minute, now, side)
}

/// The time on a calendar and a clock of this machine.
pub(super) fn full(time: LocalTime) -> Result<Timestamp, String> {
    full_in_zone(jiff::tz::TimeZone::system(), time)
}

/// A time that the change of a clock skips is the same time after the change; one that comes twice is the first.
fn full_in_zone(zone: jiff::tz::TimeZone, time: LocalTime) -> Result<Timestamp, String> {
    let LocalTime { year, month, day, hour, minute, second } = time;
    let found = jiff::civil::DateTime::new(year, month, day, hour, minute, second, 0)
        .and_then(|time| time.to_zoned(zone))
        .map_err(|e| format!("there is no such time: {e}"))?;
    let ms = u64::try_from(found.timestamp().as_millisecond());
    ms.map(Timestamp::from_unix_ms).map_err(|_| "there is no time before 1970 here".to_owned())
}

fn in_zone(
    zone: &jiff::tz::TimeZone,
    hour: i8,
    minute: i8,
    now: Timestamp,
    side: Side,
) -> Result<Timestamp, String> {
    let find = || -> Result<Timestamp, jiff::Error> {
        let ms = i64::try_from(now.unix_ms()).unwrap_or(i64::MAX);
        let now = jiff::Timestamp::from_millisecond(ms)?;
        let today = now.to_zoned(zone.clone()).date();
        // A time that the change of a clock skips is the same time after the change; one that comes twice is the first.
        let on = |date: jiff::civil::Date| {
            date.at(hour, minute, 0, 0).to_zoned(zone.clone()).map(|zoned| zoned.timestamp())
        };
        let found = match side {
            Side::Next if on(today)? < now => on(today.tomorrow()?)?,
            Side::Last if on(today)? > now => on(today.yesterday()?)?,
            _ => on(today)?,
        };
        Ok(Timestamp::from_unix_ms(u64::try_from(found.as_millisecond()).unwrap_or_default()))
    };
    find().map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::when::Moment;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_time_without_a_zone_is_local() {
        let find = |text: &str| match text.parse() {
            Ok(Moment::Local(time)) => {
                full_in_zone(jiff::tz::TimeZone::fixed(jiff::tz::offset(2)), time)
            }
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(find("2026-01-31T12:00:05"), Ok(at("2026-01-31T10:00:05Z")));
        assert_eq!(find("2026-01-01 00:30"), Ok(at("2025-12-31T22:30:00Z")));
        assert!(find("2026-02-30T12:00").unwrap_err().contains("there is no such time"));
    }

    #[test]
    fn a_time_of_the_day_is_local_and_the_next_or_the_last() {
        let zone = jiff::tz::TimeZone::fixed(jiff::tz::offset(2));
        let find = |hour, side| in_zone(&zone, hour, 30, at("2026-01-31T22:15:00Z"), side);
        // There it is a quarter past midnight on the first of February.
        assert_eq!(find(1, Side::Next), Ok(at("2026-01-31T23:30:00Z")));
        assert_eq!(find(0, Side::Next), Ok(at("2026-01-31T22:30:00Z")));
        assert_eq!(find(23, Side::Next), Ok(at("2026-02-01T21:30:00Z")));
        assert_eq!(find(23, Side::Last), Ok(at("2026-01-31T21:30:00Z")));
        assert_eq!(find(0, Side::Last), Ok(at("2026-01-30T22:30:00Z")));
    }
}
