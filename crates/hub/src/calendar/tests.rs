//! The calendar beside a plain one, which walks through every minute of a zone and looks at its clock.

use std::collections::BTreeSet;

use jiff::ToSpan as _;
use proptest::prelude::*;

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// The times after `from`, at most so many.
fn times(expression: &str, zone: &str, from: &str, count: usize) -> Vec<String> {
    let calendar = Calendar::parse(expression, zone).unwrap();
    let next = |after: &Timestamp| calendar.next(*after);
    std::iter::successors(Some(at(from)), next)
        .skip(1)
        .take(count)
        .map(|at| at.to_string().replace(":00.000Z", "Z"))
        .collect()
}

#[test]
fn a_local_time_that_is_skipped_occurs_at_the_first_instant_after_the_gap_and_once() {
    for (expression, zone, from, expected) in [
        // 02:00 to 03:00 are skipped; 02:30 and 03:00 are one run.
        (
            "30 2 * * *",
            "Europe/Paris",
            "2026-03-28T12:00:00Z",
            ["2026-03-29T01:00Z", "2026-03-30T00:30Z"],
        ),
        (
            "*/30 2,3 * * *",
            "Europe/Paris",
            "2026-03-28T12:00:00Z",
            ["2026-03-29T01:00Z", "2026-03-29T01:30Z"],
        ),
        // Half an hour: 02:00 to 02:30.
        (
            "15 2 * * *",
            "Australia/Lord_Howe",
            "2026-10-02T20:00:00Z",
            ["2026-10-03T15:30Z", "2026-10-04T15:15Z"],
        ),
        // The 30th of December 2011 never was.
        (
            "0 9 * * *",
            "Pacific/Apia",
            "2011-12-29T12:00:00Z",
            ["2011-12-29T19:00Z", "2011-12-30T10:00Z"],
        ),
        (
            "0 9 30 12 *",
            "Pacific/Apia",
            "2011-01-01T00:00:00Z",
            ["2011-12-30T10:00Z", "2012-12-29T19:00Z"],
        ),
        // There was no midnight: clocks went from 00:00 to 01:00.
        (
            "@daily",
            "America/Sao_Paulo",
            "2018-11-03T12:00:00Z",
            ["2018-11-04T03:00Z", "2018-11-05T02:00Z"],
        ),
        (
            "@daily",
            "Asia/Beirut",
            "2026-03-28T12:00:00Z",
            ["2026-03-28T22:00Z", "2026-03-29T21:00Z"],
        ),
    ] {
        assert_eq!(times(expression, zone, from, 2), expected, "{expression} {zone}");
    }
}

#[test]
fn a_local_time_that_comes_twice_occurs_the_first_time() {
    for (expression, zone, from, expected) in [
        (
            "30 2 * * *",
            "Europe/Paris",
            "2026-10-24T12:00:00Z",
            ["2026-10-25T00:30Z", "2026-10-26T01:30Z"],
        ),
        (
            "*/30 * * * *",
            "Europe/Paris",
            "2026-10-25T00:15:00Z",
            ["2026-10-25T00:30Z", "2026-10-25T02:00Z"],
        ),
        // From within the repeated hour, nothing of it comes again.
        (
            "*/30 * * * *",
            "Europe/Paris",
            "2026-10-25T01:01:00Z",
            ["2026-10-25T02:00Z", "2026-10-25T02:30Z"],
        ),
        (
            "45 1 * * *",
            "Australia/Lord_Howe",
            "2026-04-04T00:00:00Z",
            ["2026-04-04T14:45Z", "2026-04-05T15:15Z"],
        ),
        // A midnight that came twice.
        (
            "15 0 * * *",
            "America/Havana",
            "2026-10-31T12:00:00Z",
            ["2026-11-01T04:15Z", "2026-11-02T05:15Z"],
        ),
    ] {
        assert_eq!(times(expression, zone, from, 2), expected, "{expression} {zone}");
    }
}

#[test]
fn two_restricted_days_are_either_unless_one_begins_with_a_star() {
    let either = times("0 0 13 * FRI", "UTC", "2026-11-01T00:00:00Z", 3);
    assert_eq!(either, ["2026-11-06T00:00Z", "2026-11-13T00:00Z", "2026-11-20T00:00Z"]);
    let both = times("0 0 */2 * FRI", "UTC", "2026-11-01T00:00:00Z", 3);
    assert_eq!(both, ["2026-11-13T00:00Z", "2026-11-27T00:00Z", "2026-12-11T00:00Z"]);
    let last = times("0 0 L * *", "UTC", "2026-11-01T00:00:00Z", 3);
    assert_eq!(last, ["2026-11-30T00:00Z", "2026-12-31T00:00Z", "2027-01-31T00:00Z"]);
}

#[test]
fn what_stands_for_an_expression_is_as_that() {
    for (name, expression) in NICKNAMES {
        let from = "2026-11-29T11:23:00Z";
        assert_eq!(times(name, "UTC", from, 3), times(expression, "UTC", from, 3), "{name}");
    }
}

#[test]
fn an_expression_that_is_not_of_the_contract_is_refused_by_its_field() {
    for (expression, says) in [
        ("", "five fields"),
        ("* * * *", "five fields"),
        ("* * * * * *", "five fields"),
        ("@reboot", "@daily"),
        ("60 * * * *", "minute"),
        ("MON * * * *", "minute"),
        ("*/0 * * * *", "minute"),
        ("5-1 * * * *", "minute"),
        ("1,,2 * * * *", "minute"),
        ("* 24 * * *", "hour"),
        ("* */ * * *", "hour"),
        ("* * 0 * *", "day of the month"),
        ("* * 15W * *", "day of the month"),
        ("* * * 13 *", "month"),
        ("* * * MON *", "month"),
        ("* * * JANFEB *", "month"),
        ("* * * * 8", "day of the week"),
        ("* * * * FRI#2", "day of the week"),
        ("* * * * +1", "day of the week"),
        ("* * * * é", "day of the week"),
    ] {
        let refused = Calendar::parse(expression, "UTC").unwrap_err();
        assert!(refused.detail.contains(says), "{expression:?}: {}", refused.detail);
    }
    let long = format!("{} * * * *", ["1"; 100].join(","));
    assert!(Calendar::parse(&long, "UTC").unwrap_err().detail.contains("128"));
}

#[test]
fn a_zone_is_one_of_the_database() {
    for zone in
        ["UTC", "Europe/Paris", "europe/paris", "Etc/GMT-14", "America/Argentina/Buenos_Aires"]
    {
        assert!(Calendar::parse("@daily", zone).is_ok(), "{zone}");
    }
    for zone in [
        "",
        "localtime",
        "Etc/Unknown",
        "CET-1CEST",
        "Mars/Olympus",
        "../etc/passwd",
        "/etc/localtime",
        "+02:00",
    ] {
        assert!(Calendar::parse("@daily", zone).is_err(), "{zone}");
    }
}

/// As a window opened for the 100,000 deliveries of a command, its expression was read 100,000 times.
#[test]
fn an_expression_is_read_once_for_all_deliveries_that_wait_for_it() {
    let mut recent = Recent::default();
    let first = recent.get("0 2 * * *").unwrap();
    for n in 0..100_000 {
        let again = recent.get("0 2 * * *").unwrap();
        assert!(Arc::ptr_eq(&first, &again), "read anew at {n}");
    }
}

#[test]
fn expressions_that_were_read_are_remembered_the_latest_and_no_more_than_the_bound() {
    let mut recent = Recent::default();
    let expression = |n: usize| format!("{n} 2 * * *");
    let in_use = recent.get("@daily").unwrap();
    for n in 0..60 {
        recent.get(&expression(n)).unwrap();
        assert!(Arc::ptr_eq(&in_use, &recent.get("@daily").unwrap()), "what is in use stays");
        assert!(recent.get("60 * * * *").is_none() && recent.get(&"*".repeat(200)).is_none());
        assert_eq!(recent.0.len(), (n + 2).min(RECENT_MAX));
    }
    let held: Vec<&str> = recent.0.iter().map(|(text, _)| &**text).collect();
    let latest: Vec<String> = (45..60).rev().map(expression).collect();
    assert_eq!(held[0], "@daily");
    assert_eq!(held[1..], latest);
}

#[test]
fn what_never_occurs_ends_the_search() {
    assert_eq!(next("0 0 30 2 *", "Europe/Paris", at("2026-01-01T00:00:00Z")), None);
    assert_eq!(next("* * * * *", "UTC", Timestamp::from_unix_ms(u64::MAX)), None);
    assert_eq!(times("0 0 29 2 *", "UTC", "2096-03-01T00:00:00Z", 1), ["2104-02-29T00:00Z"]);
}

/// Odd changes of zones, each as a time shortly before it.
const CHANGES: [(&str, &str); 16] = [
    ("Europe/Paris", "2026-03-28T00:00:00Z"),
    ("Europe/Paris", "2026-10-24T00:00:00Z"),
    ("Europe/Dublin", "2026-10-24T00:00:00Z"),
    ("Australia/Lord_Howe", "2026-10-02T20:00:00Z"),
    ("Australia/Lord_Howe", "2026-04-03T20:00:00Z"),
    ("Pacific/Apia", "2011-12-29T00:00:00Z"),
    ("Pacific/Apia", "2012-03-31T00:00:00Z"),
    ("Pacific/Kwajalein", "1993-08-20T00:00:00Z"),
    ("America/Sao_Paulo", "2018-11-03T00:00:00Z"),
    ("America/Sao_Paulo", "2018-02-17T00:00:00Z"),
    ("America/Havana", "2026-10-31T00:00:00Z"),
    ("Asia/Beirut", "2026-03-28T00:00:00Z"),
    ("Africa/Casablanca", "2026-02-14T00:00:00Z"),
    ("Asia/Kathmandu", "1985-12-31T00:00:00Z"),
    ("Asia/Pyongyang", "2018-05-04T00:00:00Z"),
    ("America/Caracas", "2007-12-09T00:00:00Z"),
];

/// The minutes and hours of an expression.
#[derive(Debug, Clone)]
struct Plain {
    minutes: BTreeSet<i8>,
    hours: BTreeSet<i8>,
}

impl Plain {
    fn expression(&self) -> String {
        let list =
            |set: &BTreeSet<i8>| set.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        format!("{} {} * * *", list(&self.minutes), list(&self.hours))
    }

    fn matches(&self, local: DateTime) -> bool {
        self.minutes.contains(&local.minute()) && self.hours.contains(&local.hour())
    }

    /// Every time from one instant to another: each minute's local time is looked at, and those in between if it jumped.
    fn times(&self, zone: &TimeZone, from: jiff::Timestamp, hours: i64) -> Vec<jiff::Timestamp> {
        let mut seen_to = zone.to_datetime(from);
        let mut found = Vec::new();
        for minute in 1..=hours * 60 {
            let now = from + minute.minutes();
            let local = zone.to_datetime(now);
            let mut due = false;
            // Local times rise; what comes again has been seen.
            while seen_to < local {
                seen_to += 1.minute();
                due |= self.matches(seen_to);
            }
            found.extend(due.then_some(now));
        }
        found
    }
}

fn plain() -> impl Strategy<Value = Plain> {
    let minutes = prop::collection::btree_set(0..60i8, 1..6);
    let hours = prop_oneof![
        Just((0..24i8).collect::<BTreeSet<i8>>()),
        prop::collection::btree_set(0..24i8, 1..6),
        prop::collection::btree_set(0..4i8, 1..3),
    ];
    (minutes, hours).prop_map(|(minutes, hours)| Plain { minutes, hours })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn each_local_time_occurs_once_across_odd_changes(
        plain in plain(),
        change in 0..CHANGES.len(),
        shift_min in 0..2880i64,
    ) {
        let (zone, from) = CHANGES[change];
        let from: jiff::Timestamp = from.parse().unwrap();
        let from = from + shift_min.minutes();
        let zone_rules = TimeZone::get(zone).unwrap();
        let expected = plain.times(&zone_rules, from, 60);
        let calendar = Calendar::parse(&plain.expression(), zone).unwrap();
        let mut now = Timestamp::from_unix_ms(from.as_millisecond() as u64);
        // A start in a repeated hour has seen what comes again, the plain calendar from its start alone.
        let repeated = zone_rules.to_ambiguous_timestamp(zone_rules.to_datetime(from)).is_ambiguous();
        prop_assume!(!repeated);
        for expected in expected {
            let next = calendar.next(now).unwrap();
            prop_assert_eq!(next.to_string(), format!("{expected:.3}"), "{} {}", zone, plain.expression());
            now = next;
        }
    }

    /// However far apart two looks at the clock are, what is due next is after the look.
    #[test]
    fn the_next_time_is_later_and_rises_with_the_clock(
        minute in 0..60u8,
        zone in prop::sample::select(vec!["Europe/Paris", "Pacific/Apia", "Australia/Lord_Howe", "UTC"]),
        ms in 0..4_000_000_000_000u64,
        later_ms in 0..200_000_000u64,
    ) {
        let calendar = Calendar::parse(&format!("{minute} * * * *"), zone).unwrap();
        let (a, b) = (Timestamp::from_unix_ms(ms), Timestamp::from_unix_ms(ms + later_ms));
        let (next_a, next_b) = (calendar.next(a).unwrap(), calendar.next(b).unwrap());
        prop_assert!(next_a > a && next_b > b && next_a <= next_b);
        prop_assert!(next_a.since(a).as_secs() <= 26 * 3600);
    }

    #[test]
    fn the_core_gets_the_same_time_whether_the_expression_was_read_before_or_not(
        asked in prop::collection::vec((0..24_u64, 0..4_usize, 0..4_000_000_000_000_u64), 1..6),
    ) {
        let zones = ["UTC", "Europe/Paris", "Australia/Lord_Howe", "No/Zone"];
        for (hour, zone, after) in asked {
            // The last of them is no expression.
            let (expression, zone) = (format!("30 {} * * *", hour + 1), zones[zone]);
            let after = Timestamp::from_unix_ms(after);
            let read = Calendar::parse(&expression, zone).ok().and_then(|c| c.next(after));
            prop_assert_eq!(next(&expression, zone, after), read, "{} {}", expression, zone);
        }
    }

    #[test]
    fn no_text_panics(expression in "\\PC{0,40}|[-0-9*/,LA-Z@ ]{0,40}", zone in "\\PC{0,20}") {
        let _ = Calendar::parse(&expression, &zone);
        let _ = Calendar::parse(&expression, "UTC").map(|c| c.next(at("2026-01-01T00:00:00Z")));
    }
}
