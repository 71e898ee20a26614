//! The functions of PAC files about the time: `weekdayRange`, `dateRange`, `timeRange`.
//!
//! As Netscape defined them ("Navigator Proxy Auto-Config File Format", 1996), with ranges that include both ends, and that
//! continue in the next week, month, year or day where their end is before their beginning. Arguments that are no such range
//! are never now.

/// A moment in one time zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) year: i32,
    /// 0 is January.
    pub(super) month: i32,
    pub(super) day: i32,
    /// 0 is Sunday.
    pub(super) weekday: i32,
    pub(super) hour: i32,
    pub(super) minute: i32,
    pub(super) second: i32,
}

/// One moment, in the two time zones of a PAC file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) local: Moment,
    pub(super) gmt: Moment,
}

const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];
const MONTHS: [&str; 12] =
    ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];

/// A part of a date, as one argument names it.
#[derive(Debug, Clone, Copy)]
enum DatePart {
    Day(i32),
    Month(i32),
    Year(i32),
}

/// `weekdayRange(wd1 [, wd2] [, "GMT"])`.
pub(super) fn weekday_range(now: &Now, arguments: &[&str]) -> bool {
    let (now, arguments) = zone(now, arguments);
    let weekday = |name: &str| position(&WEEKDAYS, name);
    match arguments {
        [day] => weekday(day) == Some(now.weekday),
        [first, last] => match (weekday(first), weekday(last)) {
            (Some(first), Some(last)) => within(now.weekday, first, last),
            _ => false,
        },
        _ => false,
    }
}

/// `dateRange` with a day, a month, a year or a combination in this order, or two of the same kind, and `"GMT"`.
pub(super) fn date_range(now: &Now, arguments: &[&str]) -> bool {
    use DatePart::{Day, Month, Year};
    let (now, arguments) = zone(now, arguments);
    let Some(parts) = arguments.iter().map(|part| date_part(part)).collect::<Option<Vec<_>>>()
    else {
        return false;
    };
    let Moment { year, month, day, .. } = *now;
    match *parts.as_slice() {
        [Day(d)] => day == d,
        [Month(m)] => month == m,
        [Year(y)] => year == y,
        [Day(d), Month(m)] => (month, day) == (m, d),
        [Month(m), Year(y)] => (year, month) == (y, m),
        [Day(d), Month(m), Year(y)] => (year, month, day) == (y, m, d),
        [Day(d1), Day(d2)] => within(day, d1, d2),
        [Month(m1), Month(m2)] => within(month, m1, m2),
        [Year(y1), Year(y2)] => (y1..=y2).contains(&year),
        [Day(d1), Month(m1), Day(d2), Month(m2)] => within((month, day), (m1, d1), (m2, d2)),
        [Month(m1), Year(y1), Month(m2), Year(y2)] => {
            ((y1, m1)..=(y2, m2)).contains(&(year, month))
        }
        [Day(d1), Month(m1), Year(y1), Day(d2), Month(m2), Year(y2)] => {
            ((y1, m1, d1)..=(y2, m2, d2)).contains(&(year, month, day))
        }
        _ => false,
    }
}

/// `timeRange(hour)`, with two hours, two of hour and minute, or two of hour, minute and second; and `"GMT"`. A range ends
/// with the second that its end names: 17 is 17:00:00.
pub(super) fn time_range(now: &Now, arguments: &[&str]) -> bool {
    let (now, arguments) = zone(now, arguments);
    let Some(parts) = arguments.iter().map(|part| part.parse().ok()).collect::<Option<Vec<i32>>>()
    else {
        return false;
    };
    let clock = (now.hour, now.minute, now.second);
    let is_clock = |(hour, minute, second): (i32, i32, i32)| {
        (0..=24).contains(&hour) && (0..60).contains(&minute) && (0..60).contains(&second)
    };
    let (first, last) = match *parts.as_slice() {
        [hour] => return now.hour == hour,
        [h1, h2] => ((h1, 0, 0), (h2, 0, 0)),
        [h1, m1, h2, m2] => ((h1, m1, 0), (h2, m2, 0)),
        [h1, m1, s1, h2, m2, s2] => ((h1, m1, s1), (h2, m2, s2)),
        _ => return false,
    };
    is_clock(first) && is_clock(last) && within(clock, first, last)
}

/// The moment in the zone that the last argument requests, and the others.
fn zone<'a, 'b>(now: &'a Now, arguments: &'b [&'b str]) -> (&'a Moment, &'b [&'b str]) {
    match arguments {
        [rest @ .., last] if last.eq_ignore_ascii_case("GMT") => (&now.gmt, rest),
        all => (&now.local, all),
    }
}

/// Whether it is in the range, which may continue beyond the greatest value at the least one.
fn within<T: PartialOrd>(now: T, first: T, last: T) -> bool {
    if first <= last { first <= now && now <= last } else { first <= now || now <= last }
}

fn date_part(text: &str) -> Option<DatePart> {
    if let Some(month) = position(&MONTHS, text) {
        return Some(DatePart::Month(month));
    }
    match text.parse().ok()? {
        day @ 1..=31 => Some(DatePart::Day(day)),
        year @ 32.. => Some(DatePart::Year(year)),
        _ => None,
    }
}

fn position(names: &[&str], name: &str) -> Option<i32> {
    let position = names.iter().position(|known| known.eq_ignore_ascii_case(name))?;
    i32::try_from(position).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Wednesday, 2026-03-18, 23:30:15 in New York, which is Thursday, 03:30:15 GMT.
    const NOW: Now = Now {
        local: Moment {
            year: 2026,
            month: 2,
            day: 18,
            weekday: 3,
            hour: 23,
            minute: 30,
            second: 15,
        },
        gmt: Moment { year: 2026, month: 2, day: 19, weekday: 4, hour: 3, minute: 30, second: 15 },
    };

    fn check(function: fn(&Now, &[&str]) -> bool, rows: &[(&str, bool)]) {
        for (arguments, expected) in rows {
            let list: Vec<&str> = arguments.split(' ').filter(|part| !part.is_empty()).collect();
            assert_eq!(function(&NOW, &list), *expected, "with ({arguments})");
        }
    }

    #[test]
    fn weekday_range_is_as_defined() {
        check(
            weekday_range,
            &[
                ("WED", true),
                ("wed", true),
                ("THU", false),
                ("THU GMT", true),
                ("MON FRI", true),
                ("MON WED", true),
                ("WED MON", true),
                ("THU TUE", false),
                ("THU TUE GMT", true),
                ("SAT WED", true),
                ("SAT SUN", false),
                ("", false),
                ("GMT", false),
                ("MON NEVER", false),
                ("MON TUE WED", false),
            ],
        );
    }

    #[test]
    fn date_range_is_as_defined() {
        check(
            date_range,
            &[
                ("18", true),
                ("19", false),
                ("19 GMT", true),
                ("1 18", true),
                ("18 20 GMT", true),
                ("25 18", true),
                ("25 17", false),
                ("MAR", true),
                ("APR", false),
                ("JAN MAR", true),
                ("NOV MAR", true),
                ("NOV FEB", false),
                ("2026", true),
                ("1995", false),
                ("1995 2026", true),
                ("2026 1995", false),
                ("18 MAR", true),
                ("MAR 2026", true),
                ("18 MAR 2026", true),
                ("18 MAR 2025", false),
                ("1 JUN 15 AUG", false),
                ("1 MAR 18 MAR", true),
                ("24 DEC 18 MAR", true),
                ("OCT 1995 MAR 2026", true),
                ("OCT 1995 FEB 2026", false),
                ("1 JUN 1995 18 MAR 2026", true),
                ("1 JUN 1995 17 MAR 2026", false),
                ("19 MAR 2026 31 DEC 2026 GMT", true),
                ("", false),
                ("MAR 18", false),
                ("0", false),
                ("-5", false),
                ("18 MAR 2026 19", false),
                ("99999999999", false),
            ],
        );
    }

    #[test]
    fn time_range_is_as_defined() {
        check(
            time_range,
            &[
                ("23", true),
                ("12", false),
                ("3 GMT", true),
                ("22 24", true),
                ("8 23", false),
                ("23 8", true),
                ("8 17", false),
                ("3 4 GMT", true),
                ("8 30 17 0", false),
                ("23 30 23 31", true),
                ("23 31 23 29", false),
                ("22 0 4 0", true),
                ("23 30 15 23 30 15", true),
                ("23 30 16 23 59 59", false),
                ("0 0 0 0 0 30", false),
                ("", false),
                ("8 30 17", false),
                ("25 26", false),
                ("x y", false),
            ],
        );
    }
}
