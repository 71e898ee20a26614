//! Points in time as people name them on the command line: RFC 3339, a time of the day, or so long from now.

use std::str::FromStr;
use std::time::Duration;

use bellwire_proto::{Seconds, Timestamp};

/// A point in time, relative to the hub's clock until that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// At this time.
    At(Timestamp),
    /// So long before or after now, as the direction of the question has it.
    Span(Duration),
    /// When a clock in the local time zone shows this.
    Clock {
        /// From 0 to 23.
        hour: i8,
        /// From 0 to 59.
        minute: i8,
    },
    /// When a calendar and a clock in the local time zone show this.
    Local(LocalTime),
}

/// A date and a time without a zone. Whether there is such a date is decided where the zone is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalTime {
    year: i16,
    month: i8,
    day: i8,
    hour: i8,
    minute: i8,
    second: i8,
}

const FORMS: &str =
    "a time is 22:30 or 2026-01-31T12:00 (local), 10m or +10m, or 2026-01-31T12:00:00Z";

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((hour, minute)) = clock(text) {
            return Ok(Self::Clock { hour, minute });
        }
        if let Ok(at) = text.parse() {
            return Ok(Self::At(at));
        }
        if let Some(local) = LocalTime::parse(text) {
            return Ok(Self::Local(local));
        }
        let span: Result<Seconds, _> = text.strip_prefix('+').unwrap_or(text).parse();
        span.map(|span| Self::Span(span.duration())).map_err(|_| FORMS.to_owned())
    }
}

impl Moment {
    /// The first such time from `now` on.
    ///
    /// # Errors
    /// Why there is none.
    pub fn next(self, now: Timestamp) -> Result<Timestamp, String> {
        match self {
            Self::At(at) if at < now => Err(format!("{at} is past; at the hub it is {now}")),
            Self::At(at) => Ok(at),
            Self::Local(time) => Self::At(full(time)?).next(now),
            Self::Span(span) => Ok(now.after(span)),
            Self::Clock { hour, minute } => local(hour, minute, now, Side::Next),
        }
    }

    /// The last such time up to `now`; one that is named in full may be later.
    ///
    /// # Errors
    /// Why there is none.
    pub fn last(self, now: Timestamp) -> Result<Timestamp, String> {
        match self {
            Self::At(at) => Ok(at),
            Self::Local(time) => full(time),
            Self::Span(span) => Ok(Timestamp::from_unix_ms(
                now.unix_ms().saturating_sub(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)),
            )),
            Self::Clock { hour, minute } => local(hour, minute, now, Side::Last),
        }
    }
}

impl LocalTime {
    /// `YYYY-MM-DDTHH:MM` and perhaps `:SS`; a blank may stand for the `T`, as `date` and logs have it.
    fn parse(text: &str) -> Option<Self> {
        let (date, time) = text.split_once(['T', 't', ' '])?;
        let (year, day) = date.split_once('-')?;
        let (month, day) = day.split_once('-')?;
        let (minutes, second) = match time.get(5..) {
            Some(rest) if !rest.is_empty() => (time.get(..5)?, rest.strip_prefix(':')?),
            _ => (time, "00"),
        };
        let (hour, minute) = clock(minutes)?;
        let is_year = year.len() == 4 && year.bytes().all(|b| b.is_ascii_digit());
        let year = year.parse().ok().filter(|_| is_year)?;
        let (month, day) = (two_digits(month, 13)?, two_digits(day, 32)?);
        Some(Self { year, month, day, hour, minute, second: two_digits(second, 60)? })
    }
}

/// `HH:MM`.
fn clock(text: &str) -> Option<(i8, i8)> {
    let (hour, minute) = text.split_once(':')?;
    Some((two_digits(hour, 24)?, two_digits(minute, 60)?))
}

fn two_digits(digits: &str, below: i8) -> Option<i8> {
    let fits = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|n| fits && *n < below)
}

enum Side {
    Next,
    Last,
}

#[cfg(feature = "hub")]
fn local(hour: i8, minute: i8, now: Timestamp, side: Side) -> Result<Timestamp, String> {
    in_zone(&jiff::tz::TimeZone::system(), hour, minute, now, side)
}

#[cfg(feature = "hub")]
fn full(time: LocalTime) -> Result<Timestamp, String> {
    full_in_zone(jiff::tz::TimeZone::system(), time)
}

/// The rules of time zones are too large for the small program.
#[cfg(not(feature = "hub"))]
const NO_ZONES: &str = "this small program knows no time zones: write 2026-01-31T12:00:00Z, or 10m";

#[cfg(not(feature = "hub"))]
fn local(_: i8, _: i8, _: Timestamp, _: Side) -> Result<Timestamp, String> {
    Err(NO_ZONES.to_owned())
}

#[cfg(not(feature = "hub"))]
fn full(_: LocalTime) -> Result<Timestamp, String> {
    Err(NO_ZONES.to_owned())
}

/// A time that the change of a clock skips is the same time after the change; one that comes twice is the first.
#[cfg(feature = "hub")]
fn full_in_zone(zone: jiff::tz::TimeZone, time: LocalTime) -> Result<Timestamp, String> {
    let LocalTime { year, month, day, hour, minute, second } = time;
    let found = jiff::civil::DateTime::new(year, month, day, hour, minute, second, 0)
        .and_then(|time| time.to_zoned(zone))
        .map_err(|e| format!("there is no such time: {e}"))?;
    let ms = u64::try_from(found.timestamp().as_millisecond());
    ms.map(Timestamp::from_unix_ms).map_err(|_| "there is no time before 1970 here".to_owned())
}

#[cfg(feature = "hub")]
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

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_time_is_named_as_people_do() {
        let span = |seconds| Ok(Moment::Span(Duration::from_secs(seconds)));
        assert_eq!("+10m".parse(), span(600));
        assert_eq!("90".parse(), span(90));
        assert_eq!("09:05".parse(), Ok(Moment::Clock { hour: 9, minute: 5 }));
        let full = "2026-01-31T12:00:00+01:00".parse();
        assert_eq!(full, Ok(Moment::At(at("2026-01-31T11:00:00Z"))));
        for full in ["2026-01-31T12:00", "2026-01-31 12:00:00", "2026-02-31t23:59:59"] {
            assert!(matches!(full.parse(), Ok(Moment::Local(_))), "{full}");
        }
        for bad in [
            "",
            "24:00",
            "9:05",
            "09:60",
            "++10m",
            "-10m",
            "tomorrow",
            "09:05:10",
            "2026-01-31",
            "2026-01-31T12",
            "2026-13-01T12:00",
            "26-01-31T12:00",
            "2026-01-31T12:00:",
            "2026-01-31T12:00:60",
        ] {
            assert_eq!(bad.parse::<Moment>(), Err(FORMS.to_owned()), "{bad}");
        }
    }

    #[test]
    fn a_span_is_before_or_after_and_what_is_past_cannot_come() {
        let now = at("2026-01-31T12:00:00Z");
        let hour = Moment::Span(Duration::from_secs(3600));
        assert_eq!(hour.next(now), Ok(at("2026-01-31T13:00:00Z")));
        assert_eq!(hour.last(now), Ok(at("2026-01-31T11:00:00Z")));
        assert!(Moment::At(at("2026-01-31T11:59:59Z")).next(now).unwrap_err().contains("is past"));
    }

    #[cfg(feature = "hub")]
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

    #[cfg(feature = "hub")]
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
