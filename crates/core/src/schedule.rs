//! Schedules: which times are due, and which of them are run. Contract, section 3, "Schedules".
//!
//! All schedules of a hub are in memory; there are few. A schedule decides its times one after the other: its row says up
//! to which time that is done (`decided_at`, which never falls), so that neither a crash nor a clock
//! that is set back decides one twice. A time that is to be run is in the row, as `run`, before anything is done about
//! it, and leaves it in the transaction that stores its command; so a run that was decided is made once.
//!
//! What a run goes through is in `hub/schedules.rs`. No store here, and no calendar: that is handed in.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bellwire_proto::limits::{SCHEDULE_LATE, SCHEDULE_RETRY_EVERY, SCHEDULES_MAX};
use bellwire_proto::{Code, CommandId, Missed, Problem, ScheduleId, Skipped, Timestamp, TokenId};

use crate::config::Calendar;
use crate::ids::RequestId;
use crate::io::ScheduleOp;
use crate::record::ScheduleRecord;
use crate::time::{Instant, Now};

/// The two highest bits of a request of the hub's own: a driver counts its requests, and never comes here.
const OWN_REQUESTS: u64 = 0b10 << 62;

/// All schedules of a hub.
#[derive(Debug, Default)]
pub(crate) struct Schedules {
    entries: BTreeMap<ScheduleId, ScheduleEntry>,
    /// The next time of each that is not paused and has no run under way.
    due: BTreeSet<(Timestamp, ScheduleId)>,
    /// Runs that wait for another try.
    retries: BTreeSet<(Instant, ScheduleId)>,
    /// Runs under way, by the request that the hub makes for each: one at most of a schedule.
    runs: BTreeMap<RequestId, ScheduleId>,
    last_request: u64,
}

#[derive(Debug)]
struct ScheduleEntry {
    record: ScheduleRecord,
    /// The next time, while it is in `due`.
    next: Option<Timestamp>,
    /// A run of it is in `runs`: its command is being stored. The row may already be without the run, so that this alone keeps
    /// the next time from being decided before the command is on disk.
    under_way: bool,
    /// When the run is tried again, while it is in `retries`.
    retry_at: Option<Instant>,
    /// Why its last try failed.
    failure: Option<Code>,
}

impl ScheduleEntry {
    fn new(record: ScheduleRecord) -> Self {
        Self { record, next: None, under_way: false, retry_at: None, failure: None }
    }

    /// The run is left out, since it could not be stored.
    fn give_up(&mut self) {
        let at = self.record.run.take();
        if let Some((at, code)) = at.zip(self.failure.take()) {
            self.record.skipped = Some(Skipped { at, reason: code.as_str().to_owned() });
        }
    }
}

/// What a schedule has decided.
#[derive(Debug)]
pub(crate) struct ScheduleDecision {
    /// Its row, if that has changed.
    pub(crate) record: Option<ScheduleRecord>,
    /// The request of a run that begins.
    pub(crate) run: Option<RequestId>,
}

impl Schedules {
    /// Those that a hub found when it started. Runs that were decided go on.
    pub(crate) fn recovered(records: Vec<ScheduleRecord>, calendar: Calendar) -> Self {
        let mut schedules = Self::default();
        for record in records {
            let id = record.id;
            let runs = record.run.is_some();
            let entry = ScheduleEntry::new(record);
            schedules.entries.insert(id, entry);
            if runs {
                schedules.retry(id, Instant::default());
            }
            schedules.plan(id, calendar);
        }
        schedules
    }

    pub(crate) fn record(&self, id: ScheduleId) -> Option<&ScheduleRecord> {
        self.entries.get(&id).map(|entry| &entry.record)
    }

    /// Runs under way, in entries.
    pub(crate) fn len(&self) -> usize {
        self.runs.len() + self.retries.len()
    }

    /// When [`Schedules::decide`] is to be called, by the clock of the times and by that of the tries.
    pub(crate) fn deadlines(&self) -> (Option<Timestamp>, Option<Instant>) {
        (self.due.first().map(|(at, _)| *at), self.retries.first().map(|(at, _)| *at))
    }

    // --- Times ---

    /// Sets when a schedule is due next.
    fn plan(&mut self, id: ScheduleId, calendar: Calendar) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if let Some(at) = entry.next.take() {
            self.due.remove(&(at, id));
        }
        let record = &entry.record;
        // A run that is being stored comes before the next time. One that failed is tried again only until then.
        let runs = entry.under_way || (record.run.is_some() && entry.failure.is_none());
        if record.paused || runs {
            return;
        }
        entry.next = calendar.next(&record.plan, record.decided_at);
        self.due.extend(entry.next.map(|at| (at, id)));
    }

    /// Decides what is due, of one schedule; `None` when nothing is.
    pub(crate) fn decide(&mut self, calendar: Calendar, now: Now) -> Option<ScheduleDecision> {
        if let Some((_, id)) = self.due.first().filter(|(at, _)| *at <= now.wall).copied() {
            return Some(self.decide_times(id, calendar, now));
        }
        let (_, id) = self.retries.first().filter(|(at, _)| *at <= now.instant).copied()?;
        Some(ScheduleDecision { record: None, run: self.begin(id, calendar) })
    }

    fn decide_times(&mut self, id: ScheduleId, calendar: Calendar, now: Now) -> ScheduleDecision {
        let due = self.entries.get(&id).and_then(|entry| {
            let at = last_due(entry, calendar, now.wall)?;
            Some((at, last_left_out(entry, calendar, at, now.wall)))
        });
        let (Some((at, left_out)), Some(entry)) = (due, self.entries.get_mut(&id)) else {
            // The rules of its zone have changed: it is due another time.
            self.plan(id, calendar);
            return ScheduleDecision { record: None, run: None };
        };
        // The next time has come: the run before it is given up.
        entry.give_up();
        let record = &mut entry.record;
        record.decided_at = at;
        if let Some(at) = left_out {
            record.skipped = Some(Skipped { at, reason: "missed".to_owned() });
        }
        record.run = Some(at).filter(|at| left_out != Some(*at));
        let (record, runs) = (Some(record.clone()), record.run.is_some());
        self.end_retry(id);
        self.plan(id, calendar);
        ScheduleDecision { record, run: if runs { self.begin(id, calendar) } else { None } }
    }

    // --- Runs ---

    /// Gives a run that was decided its request.
    fn begin(&mut self, id: ScheduleId, calendar: Calendar) -> Option<RequestId> {
        self.end_retry(id);
        let entry = self.entries.get_mut(&id)?;
        (entry.failure, entry.under_way) = (None, true);
        self.last_request += 1;
        let request = RequestId(OWN_REQUESTS | self.last_request);
        self.runs.insert(request, id);
        self.plan(id, calendar);
        Some(request)
    }

    /// Nothing else would end the tries of a paused schedule: it has no next time. A run that was not tried yet, or whose
    /// try is under way, goes on.
    fn end_tries_if_paused(&mut self, id: ScheduleId) {
        let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.record.paused) else {
            return;
        };
        if entry.failure.is_some() && !entry.under_way {
            entry.give_up();
            self.end_retry(id);
        }
    }

    fn retry(&mut self, id: ScheduleId, at: Instant) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.retry_at = Some(at);
            self.retries.insert((at, id));
        }
    }

    fn end_retry(&mut self, id: ScheduleId) {
        let entry = self.entries.get_mut(&id);
        if let Some(at) = entry.and_then(|entry| entry.retry_at.take()) {
            self.retries.remove(&(at, id));
        }
    }

    /// Whether a request is the hub's own.
    pub(crate) fn owns(request: RequestId) -> bool {
        request.0 >> 62 == OWN_REQUESTS >> 62
    }

    /// The schedule of a run under way, and the time that is run.
    pub(crate) fn of_run(&self, request: RequestId) -> Option<(&ScheduleRecord, Timestamp)> {
        let record = self.record(*self.runs.get(&request)?)?;
        Some((record, record.run?))
    }

    /// The command of a run is being stored, or was found stored: the row that goes with it.
    pub(crate) fn stored(
        &mut self,
        id: ScheduleId,
        at: Timestamp,
        command: CommandId,
    ) -> Option<ScheduleRecord> {
        let record = &mut self.entries.get_mut(&id)?.record;
        record.run = record.run.filter(|run| *run != at);
        record.last = Some((at, command));
        Some(record.clone())
    }

    /// A run has ended, whatever it came to.
    pub(crate) fn end(&mut self, request: RequestId, calendar: Calendar) {
        if let Some(id) = self.end_under_way(request) {
            self.plan(id, calendar);
        }
    }

    fn end_under_way(&mut self, request: RequestId) -> Option<ScheduleId> {
        let id = self.runs.remove(&request)?;
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.under_way = false;
        }
        Some(id)
    }

    /// The time of a run is left out: the row.
    pub(crate) fn skip(
        &mut self,
        request: RequestId,
        reason: &str,
        calendar: Calendar,
    ) -> Option<ScheduleRecord> {
        let id = self.end_under_way(request)?;
        let record = &mut self.entries.get_mut(&id)?.record;
        let skipped = record.run.take().map(|at| Skipped { at, reason: reason.to_owned() });
        let row = skipped.map(|skipped| {
            record.skipped = Some(skipped);
            record.clone()
        });
        self.plan(id, calendar);
        row
    }

    /// A run could not be stored now, and is tried again; or left out, if the schedule was paused meanwhile: the row.
    pub(crate) fn try_again(
        &mut self,
        request: RequestId,
        code: Code,
        calendar: Calendar,
        now: Instant,
    ) -> Option<ScheduleRecord> {
        let paused = self.of_run(request).is_some_and(|(record, _)| record.paused);
        if paused {
            return self.skip(request, code.as_str(), calendar);
        }
        let id = self.end_under_way(request)?;
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.failure = Some(code);
        }
        self.retry(id, now.after(SCHEDULE_RETRY_EVERY));
        self.plan(id, calendar);
        None
    }

    /// Nothing is decided any more.
    pub(crate) fn abandon(&mut self) {
        *self = Self::default();
    }

    // --- What operators do ---

    /// Makes, changes, pauses or deletes one. Returns the row, `None` when it is deleted or stays as it is.
    ///
    /// # Errors
    /// `not_found`, `conflict`, `rate_limited`.
    pub(crate) fn change(
        &mut self,
        op: ScheduleOp,
        calendar: Calendar,
        now: Timestamp,
    ) -> Result<Option<ScheduleRecord>, Problem> {
        let id = op.id();
        match op {
            ScheduleOp::Create(record) => {
                if self.entries.len() >= SCHEDULES_MAX {
                    let detail =
                        format!("a hub has at most {SCHEDULES_MAX} schedules; delete some");
                    return Err(Problem::new(Code::RateLimited, detail));
                }
                self.check_name(&record.plan.name, id)?;
                let record =
                    ScheduleRecord { created_at: now, decided_at: now, version: 1, ..*record };
                let entry = ScheduleEntry::new(record);
                self.entries.insert(id, entry);
            }
            ScheduleOp::Change { plan, paused, version, .. } => {
                self.check_name(&plan.name, id)?;
                let record = self.record_mut(id)?;
                if record.version != version {
                    let detail =
                        "the schedule was changed meanwhile; read it again, and change that";
                    return Err(Problem::new(Code::Conflict, detail));
                }
                set_paused(record, paused, now)?;
                let old = &record.plan;
                if (&plan.cron, &plan.timezone) != (&old.cron, &old.timezone) {
                    record.decided_at = record.decided_at.max(now);
                }
                record.plan = *plan;
                record.version += 1;
            }
            ScheduleOp::Pause { paused, .. } => {
                let record = self.record_mut(id)?;
                if !set_paused(record, paused, now)? {
                    return Ok(None);
                }
                record.version += 1;
            }
            ScheduleOp::Delete(_) => {
                self.record_mut(id)?;
                self.end_retry(id);
                if let Some(at) = self.entries.remove(&id).and_then(|entry| entry.next) {
                    self.due.remove(&(at, id));
                }
                return Ok(None);
            }
        }
        self.end_tries_if_paused(id);
        self.plan(id, calendar);
        Ok(self.record(id).cloned())
    }

    /// Those of a token, or those without one, act no more: their rows. What has begun of a run goes on.
    pub(crate) fn suspend_all_of(
        &mut self,
        token: Option<TokenId>,
        calendar: Calendar,
    ) -> Vec<ScheduleRecord> {
        let of = |entry: &&ScheduleEntry| {
            entry.record.created_by == token && entry.record.reason.is_none()
        };
        let ids: Vec<ScheduleId> = self.entries.values().filter(of).map(|e| e.record.id).collect();
        ids.into_iter().filter_map(|id| self.suspend(id, calendar)).collect()
    }

    /// One that may act no more: its row. A run that has its request is the caller's to end.
    pub(crate) fn suspend(&mut self, id: ScheduleId, calendar: Calendar) -> Option<ScheduleRecord> {
        let record = &mut self.entries.get_mut(&id)?.record;
        record.paused = true;
        record.reason = Some(match record.created_by {
            Some(token) => format!("the token {token}, for which it acts, was revoked or has expired"),
            None => "it was made on the open hub, without a token; the hub has tokens now, so nobody may act for it".to_owned(),
        });
        record.version += 1;
        let record = record.clone();
        self.plan(id, calendar);
        Some(record)
    }

    fn record_mut(&mut self, id: ScheduleId) -> Result<&mut ScheduleRecord, Problem> {
        self.entries.get_mut(&id).map(|entry| &mut entry.record).ok_or_else(|| {
            let detail = "no schedule has this id or name; see them with bellwire schedule list";
            Problem::new(Code::NotFound, detail)
        })
    }

    fn check_name(&self, name: &str, id: ScheduleId) -> Result<(), Problem> {
        let taken = |entry: &ScheduleEntry| entry.record.plan.name == name && entry.record.id != id;
        if !self.entries.values().any(taken) {
            return Ok(());
        }
        let detail = "a schedule of this name exists; take another name, or change that one";
        Err(Problem::new(Code::Conflict, detail))
    }
}

/// Pauses or resumes it; false when that is how it is.
fn set_paused(record: &mut ScheduleRecord, paused: bool, now: Timestamp) -> Result<bool, Problem> {
    if record.paused == paused {
        return Ok(false);
    }
    if let Some(reason) = record.reason.as_ref().filter(|_| !paused) {
        let detail =
            format!("{reason}: delete the schedule, and create it anew with a token of your own");
        return Err(Problem::new(Code::Conflict, detail));
    }
    record.paused = paused;
    if !paused {
        record.decided_at = record.decided_at.max(now);
    }
    Ok(true)
}

/// The last time that is due, of those that are not decided. Times may be many after a long stop, so they are not walked
/// through: that a time is due after `from` is true up to the last one but one, and false from there on.
fn last_due(entry: &ScheduleEntry, calendar: Calendar, now: Timestamp) -> Option<Timestamp> {
    let ScheduleRecord { plan, decided_at, .. } = &entry.record;
    let due_after = |from| calendar.next(plan, from).filter(|at| *at <= now);
    let first = due_after(*decided_at)?;
    let Some(second) = due_after(first) else { return Some(first) };
    let (mut last, mut none_after) = (second, now.unix_ms());
    while none_after.saturating_sub(last.unix_ms()) > 1 {
        let middle = last.unix_ms().midpoint(none_after);
        match due_after(Timestamp::from_unix_ms(middle)) {
            Some(at) => last = at,
            None => none_after = middle,
        }
    }
    Some(last)
}

/// The last of the times up to `at` that is left out because the hub came to it too late; `at` is the last that is due.
/// A later one that is run stands for it only where the plan says so.
fn last_left_out(
    entry: &ScheduleEntry,
    calendar: Calendar,
    at: Timestamp,
    now: Timestamp,
) -> Option<Timestamp> {
    if entry.record.plan.missed != Missed::None {
        return None;
    }
    if now.since(at) > SCHEDULE_LATE {
        return Some(at);
    }
    last_due(entry, calendar, at.before(Duration::from_millis(1)))
}

#[cfg(test)]
mod tests;
