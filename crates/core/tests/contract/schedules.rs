//! Section 3, "Schedules": each time is run once, by a command on behalf of whoever made the schedule. When local times
//! occur is the hub crate's calendar; here a schedule is due every so many seconds.

use std::time::Duration;

use bellwire_core::record::{AuditRecord, CommandRecord, Load, ScheduleRecord, TokenRecord};
use bellwire_core::{Answer, Config, ScheduleOp};
use bellwire_proto::ReportState as R;
use bellwire_proto::limits::SCHEDULES_MAX;
use bellwire_proto::{
    Code, CommandId, DeliveryState, Missed, Overlap, Role, RoleName, ScheduleId, SchedulePlan,
    ScheduleTarget, Scope, Timestamp, TokenId,
};

use crate::harness::{Harness, config_with_calendar};

/// A hub whose clock shows a whole hour, so that schedules of every minute are due in a minute.
fn harness() -> Harness {
    let mut harness = Harness::with(config_with_calendar());
    harness.pass_to_hour();
    harness
}

fn plan(name: &str) -> SchedulePlan {
    let body = format!(
        r#"{{"name":"{name}","cron":"60","action":"run","target":{{"device":"kiosk"}},"data":{{"n":1.50}}}}"#
    );
    SchedulePlan::parse(body.as_bytes(), 64).unwrap().0
}

fn token(n: u8) -> TokenId {
    TokenId::from_random([n; 10])
}

impl Harness {
    fn schedule(&mut self, op: ScheduleOp) -> Result<(), Code> {
        let request = self.request();
        self.hub.handle_schedule(request, op, self.now);
        self.settle();
        match self.answer(request) {
            Answer::Done => Ok(()),
            Answer::Problem(problem) => Err(problem.code),
            other => panic!("{other:?}"),
        }
    }

    fn make(&mut self, with: impl FnOnce(&mut SchedulePlan)) -> ScheduleId {
        self.make_as(None, with)
    }

    fn make_as(
        &mut self,
        token: Option<TokenId>,
        with: impl FnOnce(&mut SchedulePlan),
    ) -> ScheduleId {
        let id = ScheduleId::from_parts(1, [self.request().0 as u8; 10]);
        let mut plan = plan("unnamed");
        plan.name = format!("s{}", self.request().0);
        with(&mut plan);
        let record = ScheduleRecord::new(id, plan, token, Timestamp::default());
        self.schedule(ScheduleOp::Create(Box::new(record))).unwrap();
        id
    }

    fn row_of(&self, id: ScheduleId) -> &ScheduleRecord {
        &self.store.disk.schedules[&id]
    }

    fn all(&self) -> Vec<&CommandRecord> {
        self.store.disk.commands.values().collect()
    }

    fn last(&self, id: ScheduleId) -> CommandId {
        self.row_of(id).last.unwrap().1
    }

    /// Why the last time was left out, and how many seconds ago that was.
    fn skipped(&self, id: ScheduleId) -> (&str, u64) {
        let skipped = self.row_of(id).skipped.as_ref().unwrap();
        (&skipped.reason, self.now.wall.since(skipped.at).as_secs())
    }

    fn make_token(&mut self, n: u8, role: Role, expires_in_s: Option<u64>) {
        let expires_at = expires_in_s.map(|s| self.now.wall.after(Duration::from_secs(s)));
        let record = TokenRecord {
            id: token(n),
            digest: [n; 32],
            role,
            expires_at,
            note: None,
            created_at: self.now.wall,
            created_by: None,
            last_used_at: None,
        };
        let request = self.request();
        self.hub.handle_create_token(request, record, self.now);
        self.settle();
        assert!(matches!(self.answer(request), Answer::Done));
    }

    fn revoke_token(&mut self, n: u8) {
        let request = self.request();
        self.hub.handle_revoke_token(request, token(n), self.now);
        self.settle();
        assert!(matches!(self.answer(request), Answer::Done));
    }
}

#[test]
fn each_time_is_run_when_it_comes_with_what_was_planned() {
    let mut harness = harness();
    let id = harness.make(|plan| {
        (plan.ttl_s, plan.run_timeout_s, plan.overlap) = (Some(30), Some(9), Overlap::Queue);
    });
    harness.pass(59.9);
    assert!(harness.all().is_empty(), "before its time");
    harness.pass(0.2);
    let [command] = harness.all()[..] else { panic!("{:?}", harness.all()) };
    assert_eq!((command.head.action.as_str(), command.data.as_str()), ("run", r#"{"n":1.50}"#));
    assert_eq!(command.head.ttl(), Duration::from_secs(30));
    assert_eq!(command.head.run_timeout, Duration::from_secs(9));
    let row = harness.row_of(id);
    assert_eq!(row.last, Some((row.decided_at, command.head.id)));
    assert_eq!((row.decided_at.unix_ms() % 60_000, row.run), (0, None));
    harness.pass(180.0);
    assert_eq!(harness.all().len(), 4, "one a minute");
    assert_eq!(harness.hub.footprint().runs, 0);
}

#[test]
fn a_run_while_the_last_has_not_ended_is_left_out_or_queued() {
    let mut harness = harness();
    let skips = harness.make(|plan| plan.ttl_s = Some(3600));
    let queues = harness.make(|plan| plan.overlap = Overlap::Queue);
    harness.pass(60.0);
    let first = harness.last(skips);
    harness.pass(61.0);
    assert_eq!(harness.last(skips), first);
    assert_eq!(harness.skipped(skips), ("overlap", 1));
    assert_eq!(harness.all().len(), 3, "queued all the same");
    assert!(harness.row_of(queues).skipped.is_none());
    let _stream = harness.listen("kiosk");
    harness.report("kiosk", first, R::Succeeded);
    harness.pass(60.0);
    assert_ne!(harness.last(skips), first, "it has ended");
}

#[test]
fn what_is_late_by_a_minute_is_run_and_what_is_later_was_missed() {
    for (late_s, missed, runs, skips) in [
        (59, Missed::None, 1, false),
        (61, Missed::None, 0, true),
        (59, Missed::Once, 1, false),
        (3 * 3600, Missed::Once, 1, false),
        (3 * 3600, Missed::None, 0, true),
    ] {
        let mut harness = harness();
        // Every 7 hours, so that late is late.
        let id = harness.make(|plan| {
            (plan.cron, plan.missed) = ((7 * 3600).to_string(), missed);
        });
        let due = 7 * 3600 - harness.now.wall.unix_ms() / 1000 % (7 * 3600);
        harness.let_pass_unnoticed(Duration::from_secs(due + late_s));
        harness.restart_with(config_with_calendar());
        harness.pass(0.0);
        assert_eq!(harness.all().len(), runs, "{late_s} s late, {missed:?}");
        let skipped = harness.row_of(id).skipped.as_ref();
        assert_eq!(skipped.is_some(), skips, "{late_s} s late, {missed:?}: {skipped:?}");
        assert!(skipped.is_none_or(|skipped| skipped.reason == "missed"));
    }
}

#[test]
fn of_the_times_before_one_that_is_run_the_last_that_was_left_out_is_shown() {
    for (missed, stopped_s, skipped) in [
        // Stopped over the times at 1, 2 and 3 hours.
        (Missed::None, 3 * 3600 + 30, Some("missed")),
        (Missed::None, 3600 + 30, None),
        // It stands for all of them.
        (Missed::Once, 3 * 3600 + 30, None),
    ] {
        let mut harness = harness();
        let id = harness.make(|plan| (plan.cron, plan.missed) = ("3600".to_owned(), missed));
        harness.let_pass_unnoticed(Duration::from_secs(stopped_s));
        harness.restart_with(config_with_calendar());
        harness.pass(0.0);
        assert_eq!(harness.all().len(), 1, "the last is 30 s late");
        let (at, _) = harness.row_of(id).last.unwrap();
        assert_eq!(harness.now.wall.since(at).as_secs(), 30);
        assert_eq!(harness.row_of(id).skipped.is_some(), skipped.is_some(), "{missed:?}");
        if let Some(reason) = skipped {
            assert_eq!(harness.skipped(id), (reason, 3600 + 30));
        }
    }
}

#[test]
fn of_all_that_was_missed_the_last_is_run_once() {
    let mut harness = harness();
    let id = harness.make(|plan| (plan.cron, plan.missed) = ("3600".to_owned(), Missed::Once));
    harness.let_pass_unnoticed(Duration::from_secs(10 * 86_400 + 1800));
    harness.restart_with(config_with_calendar());
    harness.pass(60.0);
    assert_eq!(harness.all().len(), 1);
    let (at, _) = harness.row_of(id).last.unwrap();
    assert_eq!(harness.now.wall.since(at).as_secs(), 1800 + 60);
}

#[test]
fn a_clock_that_is_set_back_runs_nothing_again_and_goes_on_when_it_has_caught_up() {
    let mut harness = harness();
    let id = harness.make(|plan| plan.ttl_s = Some(1));
    harness.pass(300.0);
    assert_eq!(harness.all().len(), 5);
    let decided = harness.row_of(id).decided_at;
    harness.step_wall_clock(-120);
    harness.restart_with(config_with_calendar());
    harness.pass(119.0);
    assert_eq!((harness.all().len(), harness.row_of(id).decided_at), (5, decided));
    harness.pass(62.0);
    assert_eq!(harness.all().len(), 6);
}

#[test]
fn a_run_that_was_decided_is_made_once_whatever_crashes() {
    let mut harness = harness();
    let id = harness.make(|_| {});
    harness.loads_held = true;
    harness.pass(60.0);
    let decided = harness.row_of(id).run.unwrap();
    assert!(harness.all().is_empty(), "decided, and not stored");
    // The hub dies, and comes back long after: it is made all the same.
    harness.let_pass_unnoticed(Duration::from_secs(1800));
    harness.restart_with(config_with_calendar());
    harness.loads_held = false;
    harness.pass(0.0);
    assert_eq!(harness.row_of(id).last.unwrap().0, decided);
    assert_eq!(harness.all().len(), 1);
    assert_eq!(harness.skipped(id), ("overlap", 0), "the last of what came after it");
    // It dies again just before the row of the next run is on disk, with the command.
    harness.cancel(harness.last(id), false).unwrap();
    harness.disk_held = true;
    harness.pass(60.0);
    harness.commit_one();
    assert_eq!((harness.all().len(), harness.row_of(id).run.is_some()), (1, true));
    harness.restart_with(config_with_calendar());
    harness.disk_held = false;
    harness.pass(0.0);
    assert_eq!((harness.all().len(), harness.row_of(id).run), (2, None));
    harness.restart_with(config_with_calendar());
    harness.pass(0.0);
    assert_eq!(harness.all().len(), 2);
}

/// A schedule that was paused and resumed while a run was on its way to the disk took the command of that run for the
/// next one's, and then made another for it.
#[test]
fn a_run_that_is_on_its_way_to_the_disk_is_not_taken_for_the_next() {
    for overlap in [Overlap::Queue, Overlap::Skip] {
        let mut harness = harness();
        let id = harness.make(|plan| plan.overlap = overlap);
        harness.disk_held = true;
        harness.pass(60.0);
        for paused in [true, false] {
            let request = harness.request();
            harness.hub.handle_schedule(request, ScheduleOp::Pause { id, paused }, harness.now);
            harness.settle();
        }
        harness.pass(60.5);
        harness.disk_held = false;
        harness.settle();
        harness.pass(0.0);
        let row = harness.row_of(id).clone();
        let first = harness.store.disk.commands.values().next().unwrap().head.id;
        let (at, last) = row.last.unwrap();
        match overlap {
            Overlap::Queue => {
                assert_eq!((harness.all().len(), last != first), (2, true), "{row:?}");
                assert_eq!(harness.now.wall.since(at).as_millis(), 500);
            }
            Overlap::Skip => {
                assert_eq!((harness.all().len(), last), (1, first), "{row:?}");
                assert_eq!(harness.skipped(id), ("overlap", 0));
            }
        }
        assert_eq!((row.run, harness.hub.footprint().runs), (None, 0));
    }
}

#[test]
fn what_passes_while_it_is_paused_is_neither_run_nor_missed() {
    let mut harness = harness();
    let id = harness.make(|plan| plan.missed = Missed::Once);
    for _ in 0..2 {
        harness.schedule(ScheduleOp::Pause { id, paused: true }).unwrap();
    }
    harness.pass(600.0);
    harness.restart_with(config_with_calendar());
    harness.pass(30.0);
    harness.schedule(ScheduleOp::Pause { id, paused: false }).unwrap();
    harness.pass(29.0);
    assert!(harness.all().is_empty() && harness.row_of(id).skipped.is_none());
    harness.pass(2.0);
    assert_eq!(harness.all().len(), 1);
}

#[test]
fn a_run_that_cannot_be_stored_is_tried_again_until_the_next_time() {
    let mut harness = harness();
    let id = harness.make(|_| {});
    harness.loads_held = true;
    harness.pass(60.0);
    for _ in 0..3 {
        let load = harness.fail_load();
        assert!(matches!(load, Load::Idempotency(_)), "{load:?}");
        harness.settle();
        assert_eq!(harness.loads_waiting(), 0);
        harness.pass(1.1);
        assert_eq!(harness.loads_waiting(), 1, "tried again");
    }
    harness.fail_load();
    // The hub does not come to it before the next time.
    harness.settle();
    harness.let_pass_unnoticed(Duration::from_secs(60));
    harness.loads_held = false;
    harness.pass(0.0);
    assert_eq!(harness.all().len(), 1, "the next time");
    let row = harness.row_of(id);
    let skipped = row.skipped.as_ref().unwrap();
    assert_eq!(skipped.reason, Code::StoreUnavailable.as_str());
    assert_eq!(row.last.unwrap().0.since(skipped.at).as_secs(), 60);
}

/// A paused schedule has no next time that would end the tries: one ran days after it was paused.
#[test]
fn a_pause_ends_the_tries_of_a_run_that_cannot_be_stored() {
    let mut harness = harness();
    let id = harness.make(|_| {});
    harness.hub.handle_store_full(Some("full"));
    harness.pass(62.0);
    let run = harness.row_of(id).run.expect("it is tried again");
    harness.schedule(ScheduleOp::Pause { id, paused: true }).unwrap();
    let expected = (Code::QueueFull.as_str(), 2);
    assert_eq!((harness.row_of(id).run, harness.skipped(id)), (None, expected));
    harness.hub.handle_store_full(None);
    harness.pass(3600.0);
    assert!(harness.all().is_empty() && harness.hub.footprint().runs == 0, "left out at {run}");
    // A change may pause it as well.
    harness.schedule(ScheduleOp::Pause { id, paused: false }).unwrap();
    harness.hub.handle_store_full(Some("full"));
    harness.pass(62.0);
    let ScheduleRecord { plan, version, .. } = harness.row_of(id).clone();
    let plan = Box::new(plan);
    harness.schedule(ScheduleOp::Change { id, plan, paused: true, version }).unwrap();
    assert!(harness.row_of(id).run.is_none(), "{:?}", harness.row_of(id));
    // Resumed, it is run at its next time.
    harness.hub.handle_store_full(None);
    harness.schedule(ScheduleOp::Pause { id, paused: false }).unwrap();
    harness.pass(60.0);
    assert_eq!(harness.all().len(), 1);
}

#[test]
fn a_run_that_is_refused_when_the_schedule_is_paused_already_is_not_tried_again() {
    let mut harness = harness();
    let id = harness.make(|_| {});
    harness.loads_held = true;
    harness.pass(60.0);
    let pause = harness.request();
    let op = ScheduleOp::Pause { id, paused: true };
    harness.hub.handle_schedule(pause, op, harness.now);
    harness.settle();
    assert!(harness.row_of(id).run.is_some(), "a run that has begun goes on");
    harness.fail_load();
    harness.settle();
    harness.loads_held = false;
    harness.pass(3600.0);
    assert!(harness.all().is_empty() && harness.row_of(id).run.is_none());
    assert_eq!(harness.skipped(id), (Code::StoreUnavailable.as_str(), 3600));
    harness.restart_with(config_with_calendar());
    harness.pass(60.0);
    assert!(harness.all().is_empty(), "it is on disk");
}

/// What fills the disk of a hub that nobody looks after is its schedules.
#[test]
fn a_run_waits_while_the_store_has_no_space_and_is_made_when_there_is_some() {
    let mut harness = harness();
    let devices = |plan: &mut SchedulePlan| {
        let names = ["kiosk", "other"].map(|name| name.parse().unwrap());
        plan.target = ScheduleTarget::Devices(names.to_vec());
    };
    let [one, many] = [harness.make(|_| {}), harness.make(devices)];
    harness.hub.handle_store_full(Some("full"));
    harness.pass(90.0);
    assert!(harness.all().is_empty(), "there is no space");
    for id in [one, many] {
        assert!(harness.row_of(id).run.is_some() && harness.row_of(id).skipped.is_none());
    }
    harness.hub.handle_store_full(None);
    harness.pass(1.1);
    assert_eq!(harness.all().len(), 2, "both, a second after there is");
    assert!(harness.row_of(one).run.is_none() && harness.row_of(many).run.is_none());
}

/// As with every other use of a token: what has expired does not come back with the clock.
#[test]
fn a_clock_that_is_set_back_revives_no_token_that_a_schedule_acts_as() {
    let mut harness = harness();
    harness.register("kiosk", &[]);
    harness.make_token(1, Role::Admin, Some(90));
    harness.make_token(2, Role::Admin, None);
    let id = harness.make_as(Some(token(1)), |_| {});
    let other = harness.make_as(Some(token(2)), |_| {});
    // Their first run is decided while both work, and cannot be stored until one has expired.
    harness.hub.handle_store_full(Some("full"));
    harness.pass(89.5);
    harness.step_wall_clock(-20);
    harness.pass(1.0);
    harness.hub.handle_store_full(None);
    harness.pass(1.1);
    assert!(harness.row_of(other).last.is_some() && !harness.row_of(other).paused);
    let row = harness.row_of(id);
    assert!(row.paused && row.reason.is_some() && row.last.is_none(), "it has expired: {row:?}");
}

#[test]
fn a_schedule_acts_as_its_token_and_ends_with_it() {
    let mut harness = harness();
    harness.register("kiosk", &[("site", "lyon")]);
    harness.register("rome", &[("site", "rome")]);
    let scope = |action: &str| {
        let select = Some("site=lyon".parse().unwrap());
        Role::Operator(Box::new(Scope { select, actions: Some(vec![action.parse().unwrap()]) }))
    };
    harness.make_token(1, Role::Admin, None);
    harness.make_token(2, scope("run"), None);
    harness.make_token(3, scope("other"), None);
    harness.make_token(4, Role::Admin, Some(100));
    let all = |plan: &mut SchedulePlan| {
        (plan.target, plan.overlap) = (ScheduleTarget::All(true), Overlap::Queue);
    };
    let devices = |plan: &mut SchedulePlan| {
        let names = ["kiosk", "rome"].map(|name| name.parse().unwrap());
        (plan.target, plan.overlap) = (ScheduleTarget::Devices(names.to_vec()), Overlap::Queue);
    };
    let admin = harness.make_as(Some(token(1)), all);
    let [scoped, named] =
        [harness.make_as(Some(token(2)), all), harness.make_as(Some(token(2)), devices)];
    let other = harness.make_as(Some(token(3)), all);
    let expires = harness.make_as(Some(token(4)), all);
    harness.pass(60.0);
    let total = |harness: &Harness, id| {
        let command = harness.last(id);
        let found = harness.all().into_iter().find(|row| row.head.id == command).cloned();
        found.map(|row| (row.head.total, row.created_by)).unwrap()
    };
    assert_eq!(total(&harness, admin), (2, Some(token(1).to_string())));
    assert_eq!(total(&harness, scoped), (1, Some(token(2).to_string())));
    assert_eq!(total(&harness, named).0, 1, "rome is not there for it");
    assert_eq!(harness.skipped(other).0, "forbidden");
    assert_eq!(total(&harness, expires).0, 2);
    let entry_of = |id| {
        let of = |entry: &&AuditRecord| entry.object.schedule == Some(id);
        let entry = harness.store.disk.audit.iter().find(of).expect("a run is in the audit log");
        (entry.verb, entry.object.command, entry.actor.token.clone(), entry.actor.role)
    };
    for (id, by, role) in [(admin, 1, RoleName::Admin), (scoped, 2, RoleName::Operator)] {
        let command = Some(harness.last(id));
        assert_eq!(entry_of(id), ("send", command, Some(token(by).to_string()), Some(role)));
    }
    let left_out = harness.store.disk.audit.iter().any(|e| e.object.schedule == Some(other));
    assert!(!left_out, "a run that is not made is not in the log");

    harness.revoke_token(2);
    assert!(harness.row_of(scoped).paused, "at once");
    let refused = harness.schedule(ScheduleOp::Pause { id: scoped, paused: false });
    assert_eq!(refused, Err(Code::Conflict));
    harness.pass(60.0);
    let row = harness.row_of(expires);
    assert!(row.paused && row.reason.is_some(), "it has expired: {row:?}");
    assert!(!harness.row_of(admin).paused);
    assert_eq!(harness.all().len(), 5, "three and expires, then admin alone");
}

#[test]
fn a_schedule_of_nobody_ends_when_the_hub_closes() {
    let mut harness = harness();
    let id = harness.make(|_| {});
    harness.make_token(1, Role::Admin, None);
    assert!(harness.row_of(id).paused && harness.row_of(id).reason.is_some());
    harness.restart_with(config_with_calendar());
    harness.pass(60.0);
    assert!(harness.all().is_empty());
}

#[test]
fn a_run_that_is_refused_is_left_out_with_the_code() {
    let mut harness = Harness::with(Config { create_on_sight: false, ..config_with_calendar() });
    let id = harness.make(|_| {});
    harness.pass(61.0);
    assert_eq!(harness.skipped(id).0, "unknown_device");
    harness.register("kiosk", &[]);
    harness.pass(60.0);
    assert_eq!(harness.state(harness.last(id)), DeliveryState::Queued);
}

#[test]
fn names_are_unique_changes_are_of_one_version_and_there_are_so_many_at_most() {
    let mut harness = harness();
    let id = harness.make(|plan| plan.name = "taken".to_owned());
    let create = |n: u64, name: &str| {
        let id = ScheduleId::from_parts(n, [7; 10]);
        let record = ScheduleRecord::new(id, plan(name), None, Timestamp::default());
        ScheduleOp::Create(Box::new(record))
    };
    assert_eq!(harness.schedule(create(2, "taken")), Err(Code::Conflict));
    let version = harness.row_of(id).version;
    let change = |version| {
        let mut plan = plan("renamed");
        plan.cron = "120".to_owned();
        ScheduleOp::Change { id, plan: Box::new(plan), paused: false, version }
    };
    assert_eq!(harness.schedule(change(version - 1)), Err(Code::Conflict));
    assert_eq!(harness.schedule(change(version)), Ok(()));
    harness.pass(61.0);
    assert!(harness.all().is_empty(), "it counts by its new expression");
    harness.pass(60.0);
    assert_eq!(harness.all().len(), 1);
    for n in 1..SCHEDULES_MAX as u64 {
        assert_eq!(harness.schedule(create(10 + n, &format!("n{n}"))), Ok(()), "{n}");
    }
    assert_eq!(harness.schedule(create(5, "one-more")), Err(Code::RateLimited));
    assert_eq!(harness.schedule(ScheduleOp::Delete(id)), Ok(()));
    assert_eq!(harness.schedule(ScheduleOp::Delete(id)), Err(Code::NotFound));
    assert_eq!(harness.schedule(create(5, "one-more")), Ok(()));
    // All are due at once, and all are run, each once.
    harness.pass(61.0);
    assert_eq!(harness.all().len(), 1 + SCHEDULES_MAX);
}

#[test]
fn a_hub_that_drains_decides_nothing() {
    let mut harness = harness();
    let id = harness.make(|_| {});
    harness.drain();
    harness.pass(61.0);
    assert!(harness.all().is_empty() && harness.row_of(id).run.is_none());
    assert_eq!(harness.schedule(ScheduleOp::Delete(id)), Err(Code::Draining));
    harness.restart_with(config_with_calendar());
    harness.pass(0.0);
    assert_eq!(harness.all().len(), 1, "a second late is not missed");
}
