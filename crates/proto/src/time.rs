//! Timestamps and durations, as the contract writes them. There is no clock here.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A point in time: milliseconds since the Unix epoch; on the wire RFC 3339 in UTC with
/// milliseconds (contract, section 1).
///
/// ```
/// use bellwire_proto::Timestamp;
/// let t = Timestamp::from_unix_ms(1_700_000_000_007);
/// assert_eq!(t.to_string(), "2023-11-14T22:13:20.007Z");
/// assert_eq!("2023-11-14T22:13:20.007Z".parse(), Ok(t));
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(u64);

/// The last timestamp that RFC 3339 can write in every time zone: two days before the year 10000.
const MAX_UNIX_MS: u64 = 253_402_207_200_000;

/// Text that is not an RFC 3339 time between 1970 and 9999; its sender's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a time is written as in 2026-01-31T12:00:00.000Z")]
pub struct InvalidTimestamp;

/// A whole number of seconds, written in queries, headers, flags and settings as `90`, `90s`,
/// `15m`, `24h` or `7d`, or with several units, the greatest first: `1h30m` (contract, section 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Seconds(u64);

/// Text that is not a duration; its sender's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a duration is a whole number of seconds, or one with units: 90, 90s, 15m, 24h, 7d, 1h30m")]
pub struct InvalidSeconds;

impl Timestamp {
    /// The time `ms` milliseconds after the epoch; beyond the year 9999, the last timestamp of that
    /// year.
    pub const fn from_unix_ms(ms: u64) -> Self {
        Self(if ms < MAX_UNIX_MS { ms } else { MAX_UNIX_MS })
    }

    /// Milliseconds since the epoch.
    pub const fn unix_ms(self) -> u64 {
        self.0
    }

    /// This much later.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        let ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Self::from_unix_ms(self.0.saturating_add(ms))
    }

    /// This much earlier, and not before the epoch.
    #[must_use]
    pub fn before(self, span: Duration) -> Self {
        let ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(ms))
    }

    /// From `earlier` to this, or zero when it is not earlier.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = i64::try_from(self.0).unwrap_or(i64::MAX);
        let time = jiff::Timestamp::from_millisecond(ms).map_err(|_| fmt::Error)?;
        write!(f, "{time:.3}")
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;

    fn from_str(text: &str) -> Result<Self, InvalidTimestamp> {
        let time: jiff::Timestamp = text.parse().map_err(|_| InvalidTimestamp)?;
        let ms = u64::try_from(time.as_millisecond()).map_err(|_| InvalidTimestamp)?;
        Ok(Self::from_unix_ms(ms))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Seconds {
    /// `n` seconds.
    pub const fn new(n: u64) -> Self {
        Self(n)
    }

    /// As a number of seconds.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// As a `Duration`.
    pub const fn duration(self) -> Duration {
        Duration::from_secs(self.0)
    }

    /// As people write it: `30d`, `1h30m`, `0s`. It parses as the same; on the wire a duration is a number of seconds.
    ///
    /// ```
    /// use bellwire_proto::Seconds;
    ///
    /// assert_eq!(Seconds::new(2_592_000).compact(), "30d");
    /// assert_eq!(Seconds::new(5_405).compact(), "1h30m5s");
    /// ```
    pub fn compact(self) -> String {
        let mut rest = self.0;
        let mut text = String::new();
        for (unit, seconds) in UNITS {
            if rest >= seconds {
                text.push_str(&format!("{}{unit}", rest / seconds));
                rest %= seconds;
            }
        }
        if text.is_empty() { String::from("0s") } else { text }
    }
}

/// The units of a duration in seconds, in the order in which they may follow one another.
const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3600), ('m', 60), ('s', 1)];

impl FromStr for Seconds {
    type Err = InvalidSeconds;

    fn from_str(text: &str) -> Result<Self, InvalidSeconds> {
        if let Some(seconds) = number(text) {
            return Ok(Self(seconds));
        }
        let (mut total, mut rest) = (0u64, text);
        // Each unit once at most, the greatest first: what is left of the iterator may still follow.
        let mut units = UNITS.iter();
        while let Some(end) = rest.find(|c: char| !c.is_ascii_digit()) {
            let (digits, from_unit) = rest.split_at(end);
            let (unit, seconds) =
                units.find(|(unit, _)| from_unit.starts_with(*unit)).ok_or(InvalidSeconds)?;
            rest = from_unit.strip_prefix(*unit).unwrap_or_default();
            total = number(digits)
                .and_then(|n| n.checked_mul(*seconds))
                .and_then(|n| total.checked_add(n))
                .ok_or(InvalidSeconds)?;
        }
        if rest.is_empty() && !text.is_empty() { Ok(Self(total)) } else { Err(InvalidSeconds) }
    }
}

/// A number of digits alone: no sign.
fn number(digits: &str) -> Option<u64> {
    digits.parse().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()))
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s", self.0)
    }
}

/// A setting may be a bare number of seconds or text with a unit.
impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Number(u64),
            Text(String),
        }
        match Either::deserialize(deserializer) {
            Ok(Either::Number(n)) => Ok(Self(n)),
            Ok(Either::Text(text)) => text.parse().map_err(serde::de::Error::custom),
            Err(_) => Err(serde::de::Error::custom(InvalidSeconds)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_for_people_parses_as_the_same() {
        let written = [0, 1, 59, 60, 90, 3600, 5400, 86_400, 90_061, u64::MAX];
        for seconds in written.map(Seconds::new) {
            assert_eq!(seconds.compact().parse(), Ok(seconds), "{}", seconds.compact());
        }
        assert_eq!(Seconds::new(90_061).compact(), "1d1h1m1s");
    }

    #[test]
    fn a_duration_is_whole_seconds_or_numbers_with_units_the_greatest_first() {
        for (text, seconds) in [
            ("0", 0),
            ("90", 90),
            ("90s", 90),
            ("15m", 900),
            ("24h", 86_400),
            ("7d", 604_800),
            ("1h30m", 5400),
            ("1d12h", 129_600),
            ("1d0h1m1s", 86_461),
        ] {
            assert_eq!(text.parse(), Ok(Seconds(seconds)), "{text}");
        }
        for bad in [
            "",
            "s",
            "1.5s",
            "-1",
            "+1",
            "1 s",
            "1ss",
            "1h30",
            "30m1h",
            "1h1h",
            "1h 30m",
            "h30m",
            "1h-30m",
            "9999999999999999999s9999999999999999999s",
            "18446744073709551615s1",
            "213503982334601d7h30m15s1s",
            "213503982334601d9h",
            "1w",
            "30S",
            "99999999999999999999",
            "9999999999999999999d",
        ] {
            assert_eq!(bad.parse::<Seconds>(), Err(InvalidSeconds), "{bad}");
        }
    }

    #[test]
    fn a_time_always_shows_its_milliseconds() {
        assert_eq!(Timestamp::from_unix_ms(0).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Timestamp::from_unix_ms(u64::MAX).unix_ms(), MAX_UNIX_MS);
        assert!(Timestamp::from_unix_ms(u64::MAX).to_string().starts_with("9999-12-30"));
    }
}
