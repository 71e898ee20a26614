//! The rules of time, one by one: what setting a clock does to commands and results over restarts and reboots.

use super::fixture::{FAILED, Fixture, HUB_MS, code};
use super::world::List;
use super::*;

const DAY_MS: u64 = 86_400_000;
const MIB: u64 = 1 << 20;

/// After a restart the day began again, so a device that is started each morning never dropped the result.
#[test]
fn a_rejected_result_is_dropped_after_a_day_whatever_restarts() {
    let mut fixture = Fixture::connected();
    let id = fixture.running(1, "fail");
    fixture.succeeded(id);
    let mut hub_ms = HUB_MS;
    for (life, reported) in [(1, true), (2, true), (3, false)] {
        fixture.hello(hub_ms, 1);
        assert!(!fixture.posts.is_empty(), "life {life}");
        fixture.answer(id, ReportState::Succeeded, ReportAnswer::PermanentRejection);
        fixture.sleep(300_000);
        assert_eq!(!fixture.posts.is_empty(), reported, "life {life}");
        hub_ms += 12 * 3_600_000;
        fixture = Fixture::after(fixture.disk, &format!("boot-{}", life + 1), 5);
    }
    assert!(fixture.posts.is_empty(), "it is given up for good");
}

/// A hub that had started in 1970 and was then set dropped a result that it had rejected a minute before.
#[test]
fn a_step_of_the_hubs_clock_drops_no_rejected_result() {
    let mut fixture = Fixture::connected();
    let id = fixture.running(1, "fail");
    fixture.succeeded(id);
    fixture.answer(id, ReportState::Succeeded, ReportAnswer::PermanentRejection);
    fixture.hello(HUB_MS + 2 * 86_400_000, 1);
    fixture.sleep(300_000);
    fixture.answer(id, ReportState::Succeeded, ReportAnswer::PermanentRejection);
    fixture.sleep(300_000);
    fixture.confirmed(id, ReportState::Succeeded, DeliveryState::Succeeded);
}

/// A hub that had started in 1970 was set while the agent restarted: a result that it had rejected a minute before
/// was dropped at once.
#[test]
fn a_step_of_the_hubs_clock_over_a_restart_drops_no_rejected_result() {
    let mut fixture = Fixture::connected();
    let id = fixture.running(1, "fail");
    fixture.succeeded(id);
    fixture.answer(id, ReportState::Succeeded, ReportAnswer::PermanentRejection);
    let mut fixture = Fixture::after(fixture.disk, "boot-1", fixture.now_ms + 60_000);
    fixture.hello(HUB_MS + 2 * 86_400_000, 1);
    fixture.answer(id, ReportState::Succeeded, ReportAnswer::PermanentRejection);
    fixture.sleep(300_000);
    fixture.confirmed(id, ReportState::Succeeded, DeliveryState::Succeeded);
}

/// After a reboot two clocks must agree on the time off: a hub that was set meanwhile, or a device whose clock
/// starts in 1970, drops nothing.
#[test]
fn a_step_of_one_clock_over_a_reboot_drops_no_rejected_result() {
    let (hour_ms, days_ms) = (3_600_000, 3 * 86_400_000);
    for (hub_ms, device_ms) in [
        (HUB_MS + days_ms, HUB_MS + hour_ms),
        (HUB_MS + hour_ms, HUB_MS + days_ms),
        (HUB_MS + days_ms, 1000),
        (HUB_MS + days_ms, HUB_MS - days_ms),
        (HUB_MS - days_ms, HUB_MS + days_ms),
    ] {
        let mut fixture = Fixture::connected();
        let id = fixture.running(1, "fail");
        fixture.succeeded(id);
        fixture.answer(id, ReportState::Succeeded, ReportAnswer::PermanentRejection);
        let mut fixture = Fixture::after(fixture.disk, "boot-2", 1000);
        fixture.hello_with_clocks((hub_ms, device_ms), 1);
        fixture.answer(id, ReportState::Succeeded, ReportAnswer::PermanentRejection);
        // It is dropped in the end all the same, since the time up always counts.
        let mut tries = 1;
        while fixture.engine.counts().0 > 0 {
            fixture.sleep(300_000);
            fixture.answer(id, ReportState::Succeeded, ReportAnswer::PermanentRejection);
            tries += 1;
        }
        assert!((270..=289).contains(&tries), "{tries} tries at {hub_ms} and {device_ms}");
    }
}

#[test]
fn completed_commands_are_forgotten_after_8_days_and_not_before() {
    let retain_ms = Bounds::AGENT.retain_ms;
    let mut fixture = Fixture::connected();
    let old = fixture.running(1, "fail");
    fixture.succeeded(old);
    fixture.confirmed(old, ReportState::Succeeded, DeliveryState::Succeeded);
    fixture.sleep(60_000);
    let young = fixture.cancel(2);
    fixture.confirmed(young, ReportState::Cancelled, DeliveryState::Cancelled);
    let unconfirmed = fixture.cancel(3);
    fixture.sleep(retain_ms - 59_000);
    // At the latest a day after the last look, which was at the first hello.
    fixture.sleep(DAY_MS);
    fixture.bytes = 2 * MIB;
    fixture.answer(unconfirmed, ReportState::Cancelled, FAILED);
    fixture.command(4, "unlisted");
    assert_eq!(fixture.compactions, 1);
    let retained = Fixture::after(fixture.disk, "boot-1", fixture.now_ms).engine;
    let remembered = |id| retained.entries.contains_key(&id) || retained.history.contains(id);
    assert_eq!((remembered(old), remembered(young), remembered(unconfirmed)), (false, false, true));
    let mut fixture = Fixture::connected();
    let young = fixture.cancel(2);
    fixture.confirmed(young, ReportState::Cancelled, DeliveryState::Cancelled);
    fixture.sleep(retain_ms);
    assert!(fixture.engine.history.contains(young), "it is not older than that yet");
}

/// A device that is started each morning compacted before it knew the time, and never forgot.
#[test]
fn a_device_that_is_started_each_day_forgets_old_commands() {
    let mut fixture = Fixture::connected();
    let old = fixture.running(1, "fail");
    fixture.succeeded(old);
    fixture.confirmed(old, ReportState::Succeeded, DeliveryState::Succeeded);
    for day in 1..=12 {
        let boot = format!("morning-{day}");
        fixture = Fixture::with(List::default(), fixture.disk, &boot, 1000, 40 * MIB);
        fixture.hello(HUB_MS + day * DAY_MS, 1);
        assert_eq!(fixture.engine.history.contains(old), day <= 8, "on day {day}");
    }
}

/// A hub's clock was set forward by nine days while the agent restarted, and the agent forgot the commands of that day.
#[test]
fn a_step_of_the_hubs_clock_over_a_restart_forgets_nothing_early_and_retains_nothing_for_ever() {
    for step_ms in [9 * DAY_MS as i64, -1500 * DAY_MS as i64] {
        let mut fixture = Fixture::connected();
        let id = fixture.running(1, "fail");
        fixture.succeeded(id);
        fixture.confirmed(id, ReportState::Succeeded, DeliveryState::Succeeded);
        let mut fixture = Fixture::after(fixture.disk, "boot-1", fixture.now_ms + 60_000);
        fixture.hello(HUB_MS.saturating_add_signed(step_ms), 1);
        assert!(fixture.engine.history.contains(id), "a minute later, after {step_ms} ms");
        fixture.sleep(9 * DAY_MS);
        fixture.sleep(DAY_MS);
        assert!(!fixture.engine.history.contains(id), "ten days later, after {step_ms} ms");
    }
}

/// A device clock that was set an hour after the boot showed how long the machine had been off, and the commands
/// that had arrived in that hour became older by as much.
#[test]
fn a_clock_that_is_set_late_after_a_reboot_ages_no_command_that_came_since() {
    for comes_first in [false, true] {
        let mut fixture = Fixture::connected();
        let old = fixture.cancel(1);
        fixture.confirmed(old, ReportState::Cancelled, DeliveryState::Cancelled);
        let mut fixture = Fixture::after(fixture.disk, "boot-2", 1000);
        let (hub_ms, month_ms) = (HUB_MS + 30 * DAY_MS, 30 * DAY_MS);
        fixture.hello_with_clocks((hub_ms, 1000), 1);
        let young = comes_first.then(|| fixture.cancel(2));
        if let Some(young) = young {
            fixture.confirmed(young, ReportState::Cancelled, DeliveryState::Cancelled);
        }
        fixture.engine.handle_device_clock(fixture.now_ms, HUB_MS + month_ms);
        fixture.sleep(1000);
        let retained = |id| fixture.engine.history.contains(id);
        assert!(young.is_none_or(retained), "it arrived a second ago");
        assert_eq!(retained(old), comes_first, "it is late rather than early");
    }
}

/// The first stamp of a boot found a full disk. After a restart the agent took the time of that boot for time off,
/// and forgot a command that had arrived a minute before.
#[test]
fn a_stamp_that_found_no_space_is_written_with_the_next_command() {
    let mut fixture = Fixture::connected();
    let old = fixture.cancel(1);
    fixture.confirmed(old, ReportState::Cancelled, DeliveryState::Cancelled);
    let mut fixture = Fixture::after(fixture.disk, "boot-2", 1000);
    fixture.disk_full = true;
    let later_ms = HUB_MS + 30 * DAY_MS;
    fixture.hello_with_clocks((later_ms, 1000), 1);
    fixture.disk_full = false;
    let young = fixture.cancel(2);
    fixture.confirmed(young, ReportState::Cancelled, DeliveryState::Cancelled);
    let mut fixture = Fixture::after(fixture.disk, "boot-2", 61_000);
    fixture.hello(later_ms + 60_000, 1);
    assert!(fixture.engine.history.contains(young));
}

#[test]
fn after_a_reboot_the_hubs_clock_is_waited_for() {
    let mut fixture = Fixture::connected();
    let id = fixture.command(1, "fail");
    // A clock that started again says nothing about the time before.
    let mut fixture = Fixture::after(fixture.disk, "boot-2", 5);
    fixture.confirmed(id, ReportState::Accepted, DeliveryState::Accepted);
    fixture.sleep(3_000_000);
    assert!(fixture.started.is_empty(), "the hub's clock is not known yet");
    fixture.posts.clear();
    let mut late = Fixture::after(fixture.disk.clone(), "boot-3", 5);
    fixture.hello(HUB_MS + 3_599_999, 1);
    assert_eq!(fixture.started, [id]);
    late.hello(HUB_MS + 3_600_000, 1);
    late.answer(id, ReportState::Accepted, FAILED);
    let report = late.confirmed(id, ReportState::Rejected, DeliveryState::Rejected);
    assert_eq!(code(&report), Some("stale"));
}

/// A hub that was set back by a day while the machine booted let a command of an hour run a day later.
#[test]
fn a_hub_that_is_set_back_over_a_reboot_prolongs_no_command_by_more_than_the_time_off() {
    let mut fixture = Fixture::connected();
    let id = fixture.command(1, "fail");
    let mut fixture = Fixture::after(fixture.disk, "boot-2", 5);
    fixture.confirmed(id, ReportState::Accepted, DeliveryState::Queued);
    fixture.sleep(3_700_000);
    fixture.hello(HUB_MS - 86_400_000, 1);
    let report = fixture.confirmed(id, ReportState::Rejected, DeliveryState::Rejected);
    assert_eq!((code(&report), fixture.started.len()), (Some("stale"), 0));
}
