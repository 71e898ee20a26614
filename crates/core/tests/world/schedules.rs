//! Operators who make, change, pause and delete schedules; and the calendar of the world, which has no zones: a schedule is
//! due every so many seconds of the wall clock, until the world grows calm.

use std::time::Duration;

use bellwire_core::record::ScheduleRecord;
use bellwire_core::{Calendar, ScheduleOp};
use bellwire_proto::{
    Json, Missed, Overlap, Role, ScheduleId, SchedulePlan, ScheduleTarget, Timestamp, TokenId,
    Window,
};

use super::judge::Requested;
use super::{Input, Owner, WALL_START_MS, World};

/// The `timezone` of what is due again and again whatever the world does: windows.
const FOR_EVER: &str = "18446744073709551615";

/// Due at every multiple of `cron` seconds, from the start of the world up to the time `timezone`; both are numbers.
pub(crate) fn calendar() -> Calendar {
    Calendar(|cron, timezone, after| {
        let (every_ms, end_ms) = (cron.parse::<u64>().ok()? * 1000, timezone.parse::<u64>().ok()?);
        let next_ms = (after.unix_ms().max(WALL_START_MS) / every_ms + 1) * every_ms;
        (next_ms <= end_ms).then(|| Timestamp::from_unix_ms(next_ms))
    })
}

/// The same, with windows that are late.
pub(crate) fn late_windows() -> Calendar {
    Calendar(|cron, timezone, after| {
        if timezone != FOR_EVER {
            return (calendar().0)(cron, timezone, after);
        }
        let late = Duration::from_secs(30);
        (calendar().0)(cron, timezone, after.before(late)).map(|at| at.after(late))
    })
}

impl World {
    pub(super) fn acts_on_schedules(&mut self, index: usize) {
        let known: Vec<ScheduleId> = self.store.disk.schedules.keys().copied().collect();
        if known.is_empty() || (known.len() < 4 && self.random.percent(40)) {
            return self.makes_schedule(index);
        }
        let id = known[self.random.index(known.len())];
        let op = match self.random.from(0, 9) {
            0..3 => ScheduleOp::Pause { id, paused: true },
            3..7 => ScheduleOp::Pause { id, paused: false },
            7 | 8 => {
                let plan = Box::new(self.schedule_plan());
                let version = self.store.disk.schedules[&id].version;
                ScheduleOp::Change { id, plan, paused: self.random.percent(20), version }
            }
            _ => ScheduleOp::Delete(id),
        };
        self.asks_of_schedule(index, op);
    }

    fn makes_schedule(&mut self, index: usize) {
        let operators =
            self.holders.iter().filter(|h| matches!(h.role(), Role::Operator(_) | Role::Admin));
        let operators: Vec<TokenId> = operators.map(|holder| holder.token).collect();
        let token = (!operators.is_empty() && self.random.percent(60))
            .then(|| operators[self.random.index(operators.len())]);
        let id = ScheduleId::from_parts(self.clock().wall.unix_ms(), self.random.bytes());
        let plan = self.schedule_plan();
        let record = ScheduleRecord::new(id, plan, token, self.clock().wall);
        self.asks_of_schedule(index, ScheduleOp::Create(Box::new(record)));
    }

    fn asks_of_schedule(&mut self, index: usize, op: ScheduleOp) {
        let requested = Requested::Schedule(op.clone());
        self.request(Owner::Client(index), requested, |request| Input::Schedule(request, op));
    }

    /// For some, a window that is open for a minute and closed for the rest of its period; and so on for ever.
    pub(super) fn any_window(&mut self) -> Option<Window> {
        self.random.percent(15).then(|| Window {
            cron: self.random.pick(&["50", "90", "180", "600"]).to_owned(),
            minutes: 1,
            timezone: FOR_EVER.to_owned(),
        })
    }

    fn schedule_plan(&mut self) -> SchedulePlan {
        let active_s = self.profile.active.as_secs();
        let every_s = active_s / self.random.pick(&[3, 10, 40]) + 1;
        let end_ms = WALL_START_MS + self.profile.active.as_millis() as u64;
        let target = match self.random.from(0, 3) {
            0 => ScheduleTarget::Device(self.any_device()),
            1 => ScheduleTarget::Devices(vec![self.any_device()]),
            2 => ScheduleTarget::Select("number".to_owned()),
            _ => ScheduleTarget::All(true),
        };
        let window = self.any_window();
        let rollout = self.random.percent(10).then(|| Json::parse(r#"{"batch":1}"#).unwrap());
        SchedulePlan {
            // Few names for all.
            name: format!("schedule-{}", self.random.from(0, 5)),
            cron: every_s.to_string(),
            timezone: end_ms.to_string(),
            action: "run".parse().unwrap(),
            data: Json::null(),
            target,
            ttl_s: self.random.pick(&[None, Some(0), Some(5), Some(600)]),
            run_timeout_s: self.random.pick(&[None, Some(5)]),
            rollout,
            window,
            overlap: self.random.pick(&[Overlap::Skip, Overlap::Queue]),
            missed: self.random.pick(&[Missed::None, Missed::Once]),
        }
    }
}
