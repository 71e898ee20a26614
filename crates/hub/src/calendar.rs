//! When a schedule is due: a cron expression in a time zone, as a pure function. Contract, section 3, "Schedules".
//!
//! The expression is matched against local times alone, by a library; what becomes of a local time that clocks skip or
//! repeat is decided here. Local times rise, and so do the instants that `Calendar::instant` gives them: that is why
//! each occurs once. The rules of a zone are read from the machine, or else from the table that was built in.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

use bellwire_proto::limits::{CRON_CHARS_MAX, ZONE_CHARS_MAX};
use bellwire_proto::{Problem, Timestamp};
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};

/// Expressions that a thread holds as they were read: those of a few commands and schedules that are due together.
const RECENT_MAX: usize = 16;

/// Local times that one search may pass because they have occurred already: those of a day that is repeated whole.
const REPEATED_MAX: usize = 24 * 60;

/// The names for an expression, and what they stand for.
const NICKNAMES: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];

const MONTHS: &[&str] =
    &["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS: &[&str] = &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

/// A field of an expression: what it is, its values in words, and their names.
struct Field {
    what: &'static str,
    values: &'static str,
    names: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field { what: "minute, the first field,", values: "0 to 59", names: &[] },
    Field { what: "hour, the second field,", values: "0 to 23", names: &[] },
    Field { what: "day of the month, the third field,", values: "1 to 31, or L", names: &["L"] },
    Field { what: "month, the fourth field,", values: "1 to 12, or JAN to DEC", names: MONTHS },
    Field {
        what: "day of the week, the fifth field,",
        values: "0 to 7, or SUN to SAT",
        names: WEEKDAYS,
    },
];

/// An expression in a zone.
#[derive(Debug, Clone)]
pub struct Calendar {
    cron: Arc<Cron>,
    zone: TimeZone,
}

impl Calendar {
    /// Reads an expression and the name of a zone.
    ///
    /// # Errors
    /// `bad_request`, with what is wrong and how it is written.
    ///
    /// ```
    /// use bellwire_hub::calendar::Calendar;
    /// let calendar = Calendar::parse("30 2 * * *", "Europe/Paris")?;
    /// // 02:30 did not exist on that day, on which clocks went forward at 02:00.
    /// let next = calendar.next("2026-03-28T12:00:00Z".parse().unwrap());
    /// assert_eq!(next, "2026-03-29T01:00:00Z".parse().ok());
    /// # Ok::<(), bellwire_proto::Problem>(())
    /// ```
    pub fn parse(expression: &str, zone: &str) -> Result<Self, Problem> {
        Ok(Self { cron: Arc::new(cron(expression)?), zone: time_zone(zone)? })
    }

    /// The first time after the given one; `None` if there is none.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let after = jiff::Timestamp::from_millisecond(i64::try_from(after.unix_ms()).ok()?).ok()?;
        // What is local then has occurred, and so has every local time before it.
        let mut local = self.zone.to_datetime(after);
        for _ in 0..=REPEATED_MAX {
            local = self.cron.find_next_occurrence(&local, false).ok()?;
            let at = self.instant(local)?;
            if at > after {
                return u64::try_from(at.as_millisecond()).ok().map(Timestamp::from_unix_ms);
            }
        }
        None
    }

    /// When a local time occurs: the first time if it comes twice, the first instant after the gap if it is skipped.
    fn instant(&self, local: DateTime) -> Option<jiff::Timestamp> {
        match self.zone.to_ambiguous_timestamp(local).offset() {
            AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(local).ok(),
            AmbiguousOffset::Fold { before, .. } => before.to_timestamp(local).ok(),
            AmbiguousOffset::Gap { after, .. } => {
                // With the offset that holds after the gap, it is before it.
                let before_gap = after.to_timestamp(local).ok()?;
                self.zone.following(before_gap).next().map(|change| change.timestamp())
            }
        }
    }
}

/// The same by the texts, for the core. What cannot be read is never due; it was read when it was stored.
///
/// As a window opens, this is asked once for each delivery that waits, so an expression is not read each time.
pub(crate) fn next(expression: &str, zone: &str, after: Timestamp) -> Option<Timestamp> {
    thread_local! {
        static RECENT: RefCell<Recent> = RefCell::default();
    }
    let cron = RECENT.with_borrow_mut(|recent| recent.get(expression))?;
    Calendar { cron, zone: time_zone(zone).ok()? }.next(after)
}

/// The expressions that were read last, the latest first; at most [`RECENT_MAX`].
///
/// Zones are not in it: jiff holds those that are in use, and reads them again when their rules have changed.
#[derive(Default)]
struct Recent(VecDeque<(Box<str>, Arc<Cron>)>);

impl Recent {
    /// The expression, read if it is not here; `None` when it cannot be read, and then it is not remembered.
    fn get(&mut self, expression: &str) -> Option<Arc<Cron>> {
        let known = self.0.iter().position(|(text, _)| **text == *expression);
        let entry = match known.and_then(|at| self.0.remove(at)) {
            Some(entry) => entry,
            None => (expression.into(), Arc::new(cron(expression).ok()?)),
        };
        let found = Arc::clone(&entry.1);
        self.0.truncate(RECENT_MAX - 1);
        self.0.push_front(entry);
        Some(found)
    }
}

fn time_zone(name: &str) -> Result<TimeZone, Problem> {
    let unknown = || {
        Problem::bad_request(
            "member \"timezone\" is the name of a zone of the IANA database, as Europe/Paris or UTC",
        )
    };
    // These are files of the database and no zones: the first is whatever this machine is set to.
    let no_zone = ["localtime", "posixrules", "factory", "etc/unknown"];
    if name.is_empty()
        || name.len() > ZONE_CHARS_MAX
        || no_zone.iter().any(|n| name.eq_ignore_ascii_case(n))
    {
        return Err(unknown());
    }
    TimeZone::get(name).map_err(|_| unknown())
}

fn cron(expression: &str) -> Result<Cron, Problem> {
    if expression.len() > CRON_CHARS_MAX {
        let detail = format!("member \"cron\" is at most {CRON_CHARS_MAX} characters");
        return Err(Problem::bad_request(detail));
    }
    let expression = expression.trim();
    let expression = match expression.strip_prefix('@') {
        None => expression,
        Some(_) => {
            let stands_for =
                NICKNAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(expression));
            stands_for.map(|(_, text)| *text).ok_or_else(|| {
                let names: Vec<&str> = NICKNAMES.iter().map(|(name, _)| *name).collect();
                let detail =
                    format!("member \"cron\": what begins with @ is one of {}", names.join(" "));
                Problem::bad_request(detail)
            })?
        }
    };
    let fields: Vec<&str> = expression.split_ascii_whitespace().collect();
    let Ok(fields) = <[&str; 5]>::try_from(fields) else {
        return Err(Problem::bad_request(
            "member \"cron\" has five fields: minute hour day month weekday, as in \"30 3 * * MON-FRI\"",
        ));
    };
    for (at, (text, field)) in fields.iter().zip(&FIELDS).enumerate() {
        let mut alone = ["*"; 5];
        if let Some(slot) = alone.get_mut(at) {
            *slot = text;
        }
        if !has_shape(text, field.names) || parse(&alone).is_none() {
            return Err(Problem::bad_request(format!(
                "member \"cron\": the {} has values from {}, as 5, 1-5, */2, 1-5/2 or several with commas",
                field.what, field.values
            )));
        }
    }
    parse(&fields).ok_or_else(|| Problem::bad_request("member \"cron\" is not a cron expression"))
}

fn parse(fields: &[&str; 5]) -> Option<Cron> {
    let [_, _, day, _, weekday] = fields;
    // As Vixie's cron has it, and so every Linux: either of two restricted days, unless one begins with a star.
    let both = day.starts_with('*') || weekday.starts_with('*');
    let parser = CronParser::builder()
        .seconds(Seconds::Disallowed)
        .year(Year::Disallowed)
        .dom_and_dow(both)
        .build();
    parser.parse(&fields.join(" ")).ok()
}

/// Whether a field is of the contract. The library takes more, and a name in any field.
fn has_shape(text: &str, names: &[&str]) -> bool {
    let is_value = |text: &str| {
        let is_number = matches!(text.len(), 1..=2) && text.bytes().all(|b| b.is_ascii_digit());
        is_number || names.iter().any(|name| name.eq_ignore_ascii_case(text))
    };
    let is_range =
        |text: &str| text.split_once('-').is_some_and(|(a, b)| is_value(a) && is_value(b));
    text.split(',').all(|item| match item.split_once('/') {
        Some((range, step)) => {
            let step: Option<u8> = step.parse().ok();
            (range == "*" || is_range(range)) && step.is_some_and(|step| step > 0)
        }
        None => item == "*" || is_value(item) || is_range(item),
    })
}

#[cfg(test)]
mod tests;
