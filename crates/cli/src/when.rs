//! Points in time as people name them on the command line: RFC 3339, a time of the day, or so long from now.

use std::str::FromStr;
use std::time::Duration;

use bellwire_proto::{Seconds, Timestamp};

/// Local times. The rules of time zones are too large for the small program.
#[cfg_attr(not(feature = "hub"), path = "when/no_zone.rs")]
mod zone;

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
            Self::At(at) if at < now => Err(format!("{at} is in the past; at the hub it is {now}")),
            Self::At(at) => Ok(at),
            Self::Local(time) => Self::At(zone::full(time)?).next(now),
            Self::Span(span) => Ok(now.after(span)),
            Self::Clock { hour, minute } => zone::local(hour, minute, now, Side::Next),
        }
    }

    /// The last such time up to `now`; one that is named in full may be later.
    ///
    /// # Errors
    /// Why there is none.
    pub fn last(self, now: Timestamp) -> Result<Timestamp, String> {
        match self {
            Self::At(at) => Ok(at),
            Self::Local(time) => zone::full(time),
            Self::Span(span) => Ok(Timestamp::from_unix_ms(
                now.unix_ms().saturating_sub(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)),
            )),
            Self::Clock { hour, minute } => zone::local(hour, minute, now, Side::Last),
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

/// On which side of now a time of the day is looked for.
enum Side {
    Next,
    Last,
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
    fn a_span_is_before_or_after_and_a_time_in_the_past_cannot_come() {
        let now = at("2026-01-31T12:00:00Z");
        let hour = Moment::Span(Duration::from_secs(3600));
        assert_eq!(hour.next(now), Ok(at("2026-01-31T13:00:00Z")));
        assert_eq!(hour.last(now), Ok(at("2026-01-31T11:00:00Z")));
        assert!(
            Moment::At(at("2026-01-31T11:59:59Z"))
                .next(now)
                .unwrap_err()
                .contains("is in the past")
        );
    }
}
