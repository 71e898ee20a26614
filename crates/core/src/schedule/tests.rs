//! The last time that is due, however many have passed.

use bellwire_proto::{Json, Overlap, SchedulePlan, ScheduleTarget};

use super::*;
use crate::calendar::every;

const CALENDAR: Calendar = Calendar(every);

fn entry(every_s: u64, decided_ms: u64) -> ScheduleEntry {
    let plan = SchedulePlan {
        name: "n".to_owned(),
        cron: every_s.to_string(),
        timezone: "UTC".to_owned(),
        action: "a".parse().unwrap(),
        data: Json::null(),
        target: ScheduleTarget::All(true),
        ttl_s: None,
        run_timeout_s: None,
        rollout: None,
        window: None,
        overlap: Overlap::Skip,
        missed: Missed::None,
    };
    let id = ScheduleId::from_parts(1, [1; 10]);
    let record = ScheduleRecord::new(id, plan, None, Timestamp::from_unix_ms(decided_ms));
    ScheduleEntry::new(record)
}

#[test]
fn the_last_time_that_is_due_is_found_whatever_has_passed() {
    for every_s in [1, 60, 3600, 86_400] {
        let every_ms = every_s * 1000;
        for passed_ms in [0, 1, 999, 60_000, 3_600_001, 86_400_000, 10 * 365 * 86_400_000] {
            let decided_ms = 1_700_000_000_000 + 7;
            let now_ms = decided_ms + passed_ms;
            let expected = now_ms / every_ms * every_ms;
            let expected = (expected > decided_ms).then(|| Timestamp::from_unix_ms(expected));
            let found =
                last_due(&entry(every_s, decided_ms), CALENDAR, Timestamp::from_unix_ms(now_ms));
            assert_eq!(found, expected, "every {every_s} s after {passed_ms} ms");
        }
    }
}

#[test]
fn a_zone_whose_rules_have_changed_is_due_by_the_new_ones() {
    // A time that had come by the old rules, and not by the new, once kept the hub busy.
    let record = entry(60, 0).record;
    let id = record.id;
    let mut schedules = Schedules::recovered(vec![record], CALENDAR);
    assert_eq!(schedules.deadlines().0, Some(Timestamp::from_unix_ms(60_000)));
    let hourly = Calendar(|_, zone, after| every("3600", zone, after));
    let now = Now { instant: Instant::from_ms(1), wall: Timestamp::from_unix_ms(61_000) };
    let decided = schedules.decide(hourly, now).unwrap();
    assert!(decided.record.is_none() && decided.run.is_none());
    assert_eq!(schedules.deadlines().0, Some(Timestamp::from_unix_ms(3_600_000)));
    assert!(schedules.decide(hourly, now).is_none());
    assert_eq!(schedules.record(id).map(|record| record.run), Some(None));
}

#[test]
fn the_search_through_ten_years_of_minutes_takes_a_few_looks() {
    use std::sync::atomic::{AtomicU32, Ordering};
    static LOOKS: AtomicU32 = AtomicU32::new(0);
    let counted = Calendar(|cron, zone, after| {
        LOOKS.fetch_add(1, Ordering::Relaxed);
        every(cron, zone, after)
    });
    let now = Timestamp::from_unix_ms(10 * 365 * 86_400_000);
    assert!(last_due(&entry(60, 0), counted, now).is_some());
    assert!(LOOKS.load(Ordering::Relaxed) < 64, "{LOOKS:?}");
}
