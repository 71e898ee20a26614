//! What is done for schedules: operators make and change them, and a run goes through its checks to its command. Which
//! times are run is decided in `schedule.rs`.
//!
//! A run is a send of the hub's own, under a request that no driver knows: what it is answered comes back in
//! [`Hub::run_answered`]. Its steps: the row with the decision; the token on whose behalf it acts; the end of the last
//! command, where that matters; the command, stored in one transaction with the row.

use std::sync::Arc;

use bellwire_proto::{
    Actor, AuditObject, Code, Overlap, Problem, Role, RoleName, ScheduleId, ScheduleTarget,
    Seconds, Selector, Timestamp, TokenId,
};

use super::{CommandOp, Hub};
use crate::grant::GrantOp;
use crate::ids::RequestId;
use crate::io::{Answer, Output, ScheduleOp, Send, Target};
use crate::record::{
    AuditRecord, Change, IdempotencyKey, ScheduleRecord, TargetQuery, TokenRecord,
};
use crate::schedule::ScheduleDecision;
use crate::time::Now;
use crate::txn::TxnBuilder;

/// What a run may do: a role, and for an operator the devices.
#[derive(Debug)]
pub(super) struct OnBehalf {
    role: RoleName,
    scope: Option<Selector>,
}

impl OnBehalf {
    const ADMIN: Self = Self { role: RoleName::Admin, scope: None };
}

impl Hub {
    /// Makes, changes, pauses or deletes a schedule. Replies [`Answer::Done`].
    pub fn handle_schedule(&mut self, request: RequestId, op: ScheduleOp, now: Now) {
        if self.refused(request) {
            return;
        }
        if self.ctx.draining {
            return self.ctx.refuse(request, Problem::draining());
        }
        let deletes = match &op {
            ScheduleOp::Delete(id) => Some(*id),
            _ => None,
        };
        match self.ctx.schedules.change(op, self.ctx.config.calendar, now.wall) {
            Err(problem) => self.ctx.refuse(request, problem),
            Ok(None) if deletes.is_none() => {
                let reply = Output::Reply(request, Answer::Done);
                self.txns.output_after_all(reply, &mut self.ctx);
            }
            Ok(record) => {
                let mut txn = TxnBuilder::new(now, &self.txns, &mut self.ctx);
                if let Some(record) = record {
                    txn.change(Change::PutSchedule(Box::new(record)));
                }
                if let Some(id) = deletes {
                    txn.change(Change::DeleteSchedule(id));
                }
                txn.reply(request, Answer::Done);
                let outcome = txn.finish(&mut self.txns);
                self.end_call(outcome, now);
            }
        }
        self.finish_call(now);
    }

    /// Decides what is due of one schedule; false when nothing is.
    pub(super) fn go_on_with_schedules(&mut self, now: Now) -> bool {
        if self.ctx.draining {
            return false;
        }
        let calendar = self.ctx.config.calendar;
        let Some(ScheduleDecision { record, run }) = self.ctx.schedules.decide(calendar, now)
        else {
            return false;
        };
        self.put_schedule(record, now);
        if let Some(request) = run {
            self.run(request, now);
        }
        true
    }

    /// A run begins: on whose behalf?
    fn run(&mut self, request: RequestId, now: Now) {
        let Some((record, _)) = self.ctx.schedules.of_run(request) else {
            return self.end_run(request);
        };
        match record.created_by {
            Some(token) => self.at_token(token, GrantOp::Run { request }, now),
            None if self.ctx.grants.is_open() => self.run_within(request, OnBehalf::ADMIN, now),
            None => self.end_suspended(request, now),
        }
    }

    /// The token of a run has been looked up.
    pub(super) fn run_for_token(
        &mut self,
        request: RequestId,
        found: Option<Box<TokenRecord>>,
        now: Now,
    ) {
        let Some((record, _)) = self.ctx.schedules.of_run(request) else {
            return self.end_run(request);
        };
        let time = self.ctx.grants.passes(now);
        let works = found.filter(|token| !token.is_expired(time));
        match works.map(|token| token.role) {
            Some(Role::Admin) => self.run_within(request, OnBehalf::ADMIN, now),
            Some(Role::Operator(scope)) if scope.allows(&record.plan.action) => {
                let within = OnBehalf { role: RoleName::Operator, scope: scope.select };
                self.run_within(request, within, now);
            }
            Some(Role::Operator(_)) => self.skip_run(request, Code::Forbidden.as_str(), now),
            _ => self.end_suspended(request, now),
        }
    }

    /// A run on these devices: may it, while the last has not ended?
    fn run_within(&mut self, request: RequestId, within: OnBehalf, now: Now) {
        let Some((record, _)) = self.ctx.schedules.of_run(request) else {
            return self.end_run(request);
        };
        match record.last.filter(|_| record.plan.overlap == Overlap::Skip) {
            Some((_, command)) => {
                self.at_command(request, command, CommandOp::LookForEnd(within));
            }
            None => self.send_run(request, within, now),
        }
    }

    /// It was looked up whether the command of the last run has ended.
    pub(super) fn run_after_last(
        &mut self,
        request: RequestId,
        within: OnBehalf,
        ended: bool,
        now: Now,
    ) {
        match ended {
            true => self.send_run(request, within, now),
            false => self.skip_run(request, "overlap", now),
        }
    }

    fn send_run(&mut self, request: RequestId, within: OnBehalf, now: Now) {
        let Some((record, at)) = self.ctx.schedules.of_run(request) else {
            return self.end_run(request);
        };
        let send = match send_of(record, at, within.scope) {
            Ok(send) => Box::new(send),
            Err(problem) => return self.skip_run(request, problem.code.as_str(), now),
        };
        let random = random_of(record.id, at);
        let entry = entry_of(record, within.role, now.wall);
        self.ctx.audits.put(request, Box::new(entry));
        self.send_by_key((request, send, random), now);
    }

    /// The send of a run is answered, after its command is on disk; or refused.
    pub(super) fn run_answered(&mut self, request: RequestId, answer: Answer) {
        self.ctx.audits.take(request);
        let Some(now) = self.now.filter(|_| !self.failed) else { return };
        let command = match answer {
            Answer::Command(command) => command,
            Answer::Delivery(delivery) => delivery.command,
            Answer::Problem(problem) => return self.run_refused(request, problem.code, now),
            _ => return self.end_run(request),
        };
        // It was stored with its row; unless its key was known, from a run that the row has forgotten.
        if let Some((record, at)) = self.ctx.schedules.of_run(request) {
            let id = record.id;
            let record = self.ctx.schedules.stored(id, at, command);
            self.put_schedule(record, now);
        }
        self.end_run(request);
        self.finish_call(now);
    }

    fn run_refused(&mut self, request: RequestId, code: Code, now: Now) {
        match code {
            // It is in the row, and goes on with the next start.
            Code::Draining => self.end_run(request),
            // A device whose queue is full refuses no run: it is the store that has no space.
            Code::QueueFull | Code::RateLimited | Code::StoreUnavailable => {
                let calendar = self.ctx.config.calendar;
                let record = self.ctx.schedules.try_again(request, code, calendar, now.instant);
                self.put_schedule(record, now);
            }
            code => self.skip_run(request, code.as_str(), now),
        }
    }

    fn skip_run(&mut self, request: RequestId, reason: &str, now: Now) {
        let record = self.ctx.schedules.skip(request, reason, self.ctx.config.calendar);
        self.put_schedule(record, now);
    }

    /// The token that it acts for is not there any more.
    fn end_suspended(&mut self, request: RequestId, now: Now) {
        let calendar = self.ctx.config.calendar;
        let record = self.ctx.schedules.skip(request, Code::Unauthenticated.as_str(), calendar);
        let suspended = record.and_then(|record| self.ctx.schedules.suspend(record.id, calendar));
        self.put_schedule(suspended, now);
    }

    fn end_run(&mut self, request: RequestId) {
        self.ctx.schedules.end(request, self.ctx.config.calendar);
    }

    fn put_schedule(&mut self, record: Option<ScheduleRecord>, now: Now) {
        let Some(record) = record else { return };
        let mut txn = TxnBuilder::new(now, &self.txns, &mut self.ctx);
        txn.change(Change::PutSchedule(Box::new(record)));
        let outcome = txn.finish(&mut self.txns);
        self.end_call(outcome, now);
    }
}

/// The schedules of a token that is being revoked, or those without a token when the hub closes, act no more.
pub(super) fn suspend_all_of(token: Option<TokenId>, txn: &mut TxnBuilder<'_>) {
    let calendar = txn.ctx.config.calendar;
    for record in txn.ctx.schedules.suspend_all_of(token, calendar) {
        txn.change(Change::PutSchedule(Box::new(record)));
    }
}

/// The command of a run, for those devices that are within the scope at this moment.
///
/// # Errors
/// When the plan is one that this version does not accept any more: what cannot be read would be sent to more devices, or to all
/// at once.
fn send_of(
    record: &ScheduleRecord,
    at: Timestamp,
    scope: Option<Selector>,
) -> Result<Send, Problem> {
    let plan = &record.plan;
    let within =
        |query: TargetQuery| Target::Found(Box::new(TargetQuery { scope: scope.clone(), ..query }));
    let target = match &plan.target {
        ScheduleTarget::Select(text) => {
            let select = text.parse::<Selector>();
            let select = select.map_err(|e| Problem::bad_request(e.to_string()))?;
            within(TargetQuery { select: Some(select), ..TargetQuery::default() })
        }
        ScheduleTarget::All(_) => within(TargetQuery::default()),
        named => {
            let devices = named.devices().to_vec();
            match Target::of(devices.clone()).filter(|_| scope.is_none()) {
                Some(target) => target,
                None => within(TargetQuery { named: Some(devices), ..TargetQuery::default() }),
            }
        }
    };
    let mut send = Send::to(target, plan.action.clone(), plan.data.clone());
    send.ttl = plan.ttl_s.map(Seconds::new);
    send.run_timeout = plan.run_timeout_s.map(Seconds::new);
    send.reject_when_full = true;
    if let ScheduleTarget::Select(select) = &plan.target {
        send.select = Some(select.clone());
    }
    send.rollout = plan.rollout()?.map(Box::new);
    send.window = plan.window.clone().map(Arc::new);
    send.created_by = record.created_by.map(|token| token.to_string());
    send.idempotency = Some(key_of(record.id, at));
    send.run = Some((record.id, at));
    Ok(send)
}

/// What the audit log says of a run: whose doing it was. There is no address: the hub itself sent it.
fn entry_of(record: &ScheduleRecord, role: RoleName, now: Timestamp) -> AuditRecord {
    let action = Some(record.plan.action.clone());
    AuditRecord {
        at: now,
        actor: Arc::new(Actor {
            token: record.created_by.map(|id| id.to_string()),
            role: Some(role),
        }),
        address: None,
        verb: "send",
        object: AuditObject { action, ..AuditObject::schedule(record.id) },
        status: 202,
        code: None,
        count: 1,
        refusal: None,
    }
}

/// The key of a run: one run, one command, even where the row has forgotten it. No caller has the name of a schedule.
fn key_of(id: ScheduleId, at: Timestamp) -> (IdempotencyKey, [u8; 32]) {
    let key = IdempotencyKey { caller: format!("schedule {id}"), key: at.to_string() };
    let mut fingerprint = [0; 32];
    let parts = id.to_bytes().into_iter().chain(at.unix_ms().to_be_bytes());
    fingerprint.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
    (key, fingerprint)
}

/// What the id of a run's command is made of, besides the time when it is stored: the random part of the schedule's id, so
/// that schedules differ, and the time that is run, so that runs do.
fn random_of(id: ScheduleId, at: Timestamp) -> [u8; 10] {
    let mut random = [0; 10];
    random.iter_mut().zip(id.to_bytes().into_iter().skip(6)).for_each(|(to, from)| *to = from);
    let at = at.unix_ms().to_be_bytes();
    random.iter_mut().skip(2).zip(at).for_each(|(to, from)| *to ^= from);
    random
}
