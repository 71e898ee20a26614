//! When and how often each command is reported. No report blocks another.

use std::time::Duration;

use bellwire_proto::limits::{
    AGENT_KEEPALIVE, AGENT_REJECTED_RETRY, AGENT_REPORT_RETRY_MAX, AGENT_REPORT_TIMEOUT_MAX,
    AGENT_REPORTS_PER_COMMAND_MAX, AGENT_RESULTS_IN_FLIGHT_MAX,
};
use bellwire_proto::stream::CommandEvent;
use bellwire_proto::{CommandId, DeliveryState, ReportState};

use super::entry::{Entry, Stage};
use super::outcome::interrupted_report;
use super::rev::Revs;
use super::{Engine, Output, ReportAnswer, WritePurpose, ms};
use crate::agent::journal::Record;

/// The first pause after a failed report.
const RETRY_MS: u64 = 1000;
/// How often a pause, or the time allowed for a result, doubles at most.
const DOUBLINGS_MAX: u32 = 6;
/// The least time allowed for a report: with less, a slow network would let none through.
const POST_MS_MIN: u64 = 1000;
/// A report that is not answered yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReportInFlight {
    id: CommandId,
    rev: u64,
    slot: ReportSlot,
}

/// The kind of slot that a report occupies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReportSlot {
    /// Always free.
    Own,
    FirstResult,
    LaterResult,
}

impl Engine {
    /// Sends the reports that are due; of the results, the one that has waited longest goes first.
    pub(super) fn post_due(&mut self, now_ms: u64) {
        let due = |e: &&Entry| {
            self.can_post(e)
                && e.post.ticket.is_none()
                && e.post.due_ms.is_some_and(|at| at <= now_ms)
        };
        let sent_ms =
            |e: &Entry| if e.stage == Stage::ReportingResult { e.post.sent_ms } else { 0 };
        let mut due: Vec<(u64, CommandId)> =
            self.live().filter(due).map(|entry| (sent_ms(entry), entry.id)).collect();
        due.sort_by_key(|(sent_ms, _)| *sent_ms);
        for (_, id) in due {
            if self.revs.is_used_up() {
                self.renew_revs(0);
            }
            if !self.revs.is_on_disk {
                return;
            }
            let can = self.entries.get(&id).is_some_and(|entry| self.has_slot(entry));
            let ticket = self.ticket();
            let Some(entry) = self.entries.get_mut(&id).filter(|_| can) else { continue };
            entry.post.due_ms = None;
            let Some(mut report) = entry.next_report() else { continue };
            let rev = self.revs.draw();
            report.rev = Some(rev);
            (entry.post.ticket, entry.post.sent_ms) = (Some(ticket), now_ms);
            let slot = entry.slot();
            self.posts.insert(ticket, ReportInFlight { id, rev, slot });
            self.out.push_back(Output::Post { ticket, command: id, report });
        }
    }

    /// A stopping agent offers to run nothing more: the hub keeps queued what was not answered.
    fn can_post(&self, entry: &Entry) -> bool {
        self.stopping.is_none() || entry.stage != Stage::Offering
    }

    fn has_slot(&self, entry: &Entry) -> bool {
        let slot = entry.slot();
        let most = match slot {
            ReportSlot::Own => usize::MAX,
            ReportSlot::FirstResult => AGENT_RESULTS_IN_FLIGHT_MAX.max(self.max_in_flight),
            ReportSlot::LaterResult => AGENT_RESULTS_IN_FLIGHT_MAX,
        };
        let posts = || self.posts.values();
        posts().filter(|post| post.id == entry.id).count() < AGENT_REPORTS_PER_COMMAND_MAX
            && posts().filter(|post| post.slot == slot).count() < most
    }

    /// How long a report may take. If the network loses one, the next must arrive before the hub's run clock ends,
    /// a third of which may have passed before the first was sent: so it gets another third. An offer, which starts
    /// that clock, gets two. A long result on a slow network gets more time with each try.
    pub(crate) fn post_limit(&self, id: CommandId) -> Duration {
        let limit_ms = self.entries.get(&id).map_or(POST_MS_MIN, |entry| match entry.stage {
            Stage::Offering => (2 * entry.keepalive_ms()).min(ms(AGENT_KEEPALIVE)),
            Stage::ReportingResult => {
                entry.keepalive_ms() << entry.post.failures.min(DOUBLINGS_MAX)
            }
            _ => entry.keepalive_ms(),
        });
        Duration::from_millis(limit_ms.clamp(POST_MS_MIN, ms(AGENT_REPORT_TIMEOUT_MAX)))
    }

    /// When a report is due, unless it waits for a slot.
    pub(super) fn post_wake_time(&self, entry: &Entry) -> Option<u64> {
        let can = self.revs.is_on_disk && self.can_post(entry);
        let has_slot = can && entry.post.ticket.is_none() && self.has_slot(entry);
        entry.post.due_ms.filter(|_| has_slot)
    }

    /// The hub is connected again: failed reports are sent at once.
    pub(super) fn retry_reports(&mut self, now_ms: u64) {
        for (_, id) in &self.live {
            let Some(entry) = self.entries.get_mut(id) else { continue };
            if entry.post.failures > 0 && !entry.post.is_rejected {
                entry.post.failures = 0;
                entry.post.due_ms = Some(now_ms);
                // A report in flight may have minutes left, and may hang in the old connection.
                entry.post.ticket = None;
            }
        }
    }

    /// The hub lacks the last report: it is repeated with a new `rev`.
    pub(super) fn report_again(&mut self, now_ms: u64, id: CommandId, attempt: Option<u32>) {
        if let Some(entry) = self.history.reopen(id).filter(|_| !self.entries.contains_key(&id)) {
            self.live.insert((entry.seq, id));
            self.entries.insert(id, entry);
        }
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.attempt = entry.attempt.max(attempt);
        if entry.next_report().is_some() {
            // The report in flight may never arrive.
            entry.post.ticket = None;
            entry.post.due_ms = Some(now_ms);
        }
    }

    pub(super) fn on_answer(&mut self, now_ms: u64, ticket: u64, answer: ReportAnswer) {
        let Some(ReportInFlight { id, rev, .. }) = self.posts.remove(&ticket) else { return };
        if let ReportAnswer::Delivery { rev: seen, .. } = answer {
            self.exceed_rev(seen);
        }
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let is_latest = entry.post.ticket == Some(ticket);
        if is_latest {
            entry.post.ticket = None;
        }
        let (stage, seq) = (entry.stage, entry.seq);
        let is_cancelled = match answer {
            // The cancel event may have been lost with its stream.
            ReportAnswer::Delivery { state: DeliveryState::Cancelling, .. } => {
                entry.is_waiting() || entry.is_running()
            }
            // A forced cancel: no event for it will arrive any more. A run that the hub has only timed out continues,
            // since its result is still accepted (contract, section 2).
            ReportAnswer::Delivery { state: DeliveryState::Cancelled, .. }
            | ReportAnswer::Conflict { state: Some(DeliveryState::Cancelled) } => {
                entry.is_running()
            }
            _ => false,
        };
        if is_cancelled {
            self.schedule_keepalive(now_ms, id);
            return self.cancel(now_ms, id, seq);
        }
        if !is_latest {
            return;
        }
        match stage {
            Stage::Offering | Stage::Ready => self.answered_offer(now_ms, id, answer),
            Stage::ConfirmingRerun | Stage::ReadyToRerun => self.answered_rerun(now_ms, id, answer),
            // Whatever the answer: its result is reported in any case.
            Stage::Running | Stage::KillingOrphans => self.schedule_keepalive(now_ms, id),
            Stage::ReportingResult => self.answered_result(now_ms, id, rev, answer),
            Stage::StoringResult if entry.disk_retry_ms.is_some() => {
                self.schedule_keepalive(now_ms, id)
            }
            Stage::StoringCommand | Stage::Starting | Stage::Interrupted | Stage::StoringResult => {
            }
        }
    }

    fn answered_offer(&mut self, now_ms: u64, id: CommandId, answer: ReportAnswer) {
        match answer {
            ReportAnswer::Delivery {
                state: DeliveryState::Accepted | DeliveryState::Running,
                ..
            } => {
                if let Some(entry) = self.entries.get_mut(&id) {
                    entry.stage = Stage::Ready;
                }
                self.schedule_keepalive(now_ms, id);
            }
            ReportAnswer::Failed { retry_after } => self.retry(now_ms, id, retry_after),
            // The hub ignored the report, or never received it.
            ReportAnswer::Delivery {
                state: DeliveryState::Queued | DeliveryState::Sent, ..
            }
            | ReportAnswer::TooLarge => {
                self.retry(now_ms, id, None);
            }
            // The hub has ended it: it never runs here.
            ReportAnswer::Delivery { .. }
            | ReportAnswer::Conflict { .. }
            | ReportAnswer::Gone
            | ReportAnswer::PermanentRejection => {
                tracing::info!(%id, ?answer, "the hub has ended a command before it was started");
                self.end(id, None);
            }
        }
    }

    /// A rerun starts unless the hub has ended the command. Without an answer it starts too: the hub may be away,
    /// and `rerun` says that another run does no harm.
    fn answered_rerun(&mut self, now_ms: u64, id: CommandId, answer: ReportAnswer) {
        let has_ended = match answer {
            ReportAnswer::Delivery { state, .. } => state.is_terminal(),
            ReportAnswer::Conflict { .. }
            | ReportAnswer::Gone
            | ReportAnswer::PermanentRejection => true,
            ReportAnswer::TooLarge | ReportAnswer::Failed { .. } => false,
        };
        if has_ended {
            tracing::info!(%id, ?answer, "the hub has ended a command before it could run again");
            return self.end(id, Some(interrupted_report(None)));
        }
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.stage = Stage::ReadyToRerun;
        }
        self.schedule_keepalive(now_ms, id);
    }

    fn answered_result(&mut self, now_ms: u64, id: CommandId, rev: u64, answer: ReportAnswer) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let reported = entry.report.as_deref().map(|report| report.state);
        match answer {
            ReportAnswer::Delivery { state, .. }
                if reported.is_some_and(|reported| confirms(state, reported)) =>
            {
                self.close(id);
            }
            ReportAnswer::Conflict { .. } | ReportAnswer::Gone => self.close(id),
            ReportAnswer::Delivery { rev: seen, .. } if seen < rev || Revs::can_pass(seen) => {
                self.retry(now_ms, id, None);
            }
            ReportAnswer::TooLarge if entry.reduce_further() => {
                entry.post.due_ms = Some(now_ms);
            }
            ReportAnswer::TooLarge
            | ReportAnswer::PermanentRejection
            | ReportAnswer::Delivery { .. } => {
                self.on_permanent_rejection(now_ms, id, answer);
            }
            ReportAnswer::Failed { retry_after } => self.retry(now_ms, id, retry_after),
        }
    }

    /// A permanent rejection: the result is reported again for a day, over restarts too.
    fn on_permanent_rejection(&mut self, now_ms: u64, id: CommandId, answer: ReportAnswer) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let mut note = None;
        if entry.rejected_since_ms.is_none()
            && let Some(since_ms) = self.time.settle_with_hub(now_ms)
        {
            entry.rejected_since_ms = Some(since_ms);
            let is_stored = !entry.unstored && !entry.acked;
            note = is_stored.then_some(Record::PermanentRejection { command: id, since_ms });
        }
        let times_ms = self.time.at(now_ms).zip(entry.rejected_since_ms);
        if times_ms.is_some_and(|(now, since)| now.saturating_sub(since) >= self.bounds.rejected_ms)
        {
            tracing::error!(%id, "the hub has rejected a result for a day: it is dropped");
            return self.close(id);
        }
        entry.post.is_rejected = true;
        tracing::warn!(%id, ?answer, "the hub rejects a result; next try in 5 minutes");
        entry.post.failures += 1;
        entry.post.due_ms = Some(now_ms + ms(AGENT_REJECTED_RETRY));
        if let Some(note) = note {
            self.write(WritePurpose::Note, vec![note]);
        }
    }

    /// Tries again after a pause that doubles, or after a longer one that the hub requests. While the hub's run clock
    /// may run, a failed report is repeated as often as a keepalive all the same.
    fn retry(&mut self, now_ms: u64, id: CommandId, retry_after: Option<Duration>) {
        let random = self.draw_random();
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let longest_ms =
            (RETRY_MS << entry.post.failures.min(DOUBLINGS_MAX)).min(ms(AGENT_REPORT_RETRY_MAX));
        let drawn_ms = longest_ms / 2 + random % (longest_ms / 2 + 1);
        let pause_ms = retry_after.map_or(drawn_ms, |requested| {
            let requested_ms = u64::try_from(requested.as_millis()).unwrap_or(u64::MAX);
            requested_ms.min(ms(AGENT_REJECTED_RETRY)).max(drawn_ms).max(RETRY_MS)
        });
        let is_urgent = match entry.stage {
            Stage::Ready => true,
            Stage::Offering => retry_after.is_none(),
            _ => retry_after.is_none() && entry.run_clock_may_run(now_ms),
        };
        // One lost report is repeated at once; if more fail, there is a pause.
        let soonest_ms = if entry.post.failures == 0 { now_ms } else { now_ms + RETRY_MS };
        let keepalive_due_ms =
            if is_urgent { entry.keepalive_due_ms(now_ms).max(soonest_ms) } else { u64::MAX };
        entry.post.failures = entry.post.failures.saturating_add(1);
        entry.post.due_ms = Some((now_ms + pause_ms).min(keepalive_due_ms));
    }

    /// Schedules the next keepalive report.
    pub(super) fn schedule_keepalive(&mut self, now_ms: u64, id: CommandId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.post.failures = 0;
        let due_ms = entry.keepalive_due_ms(now_ms);
        // Progress may be due sooner.
        entry.post.due_ms = Some(entry.post.due_ms.map_or(due_ms, |at| at.min(due_ms)));
    }

    /// Xorshift64: it spreads the load of many devices, and nothing else depends on it.
    fn draw_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

impl Entry {
    /// The time between two keepalive reports.
    fn keepalive_ms(&self) -> u64 {
        let clock_ms = |event: &CommandEvent| event.run_timeout_s.max(1).saturating_mul(1000);
        self.event()
            .map_or(ms(AGENT_KEEPALIVE), |event| (clock_ms(event) / 3).min(ms(AGENT_KEEPALIVE)))
    }

    /// Whether the hub may still wait for this result.
    fn run_clock_may_run(&self, now_ms: u64) -> bool {
        let reported_for_ms = now_ms.saturating_sub(self.post.since_ms);
        self.event().is_some_and(|event| reported_for_ms < event.run_timeout_s.saturating_mul(1000))
    }

    fn slot(&self) -> ReportSlot {
        match (self.stage, self.post.failures) {
            (Stage::ReportingResult, 0) => ReportSlot::FirstResult,
            (Stage::ReportingResult, _) => ReportSlot::LaterResult,
            _ => ReportSlot::Own,
        }
    }

    /// When the next one is due. It counts from when the last one was sent, since that may have been lost.
    fn keepalive_due_ms(&self, now_ms: u64) -> u64 {
        now_ms.max(self.post.sent_ms.saturating_add(self.keepalive_ms()))
    }
}

/// Whether a delivery confirms that the hub has applied a report.
fn confirms(state: DeliveryState, reported: ReportState) -> bool {
    match reported {
        ReportState::Succeeded => state == DeliveryState::Succeeded,
        ReportState::Failed => state == DeliveryState::Failed,
        ReportState::Rejected => state == DeliveryState::Rejected,
        ReportState::Cancelled => state == DeliveryState::Cancelled,
        ReportState::Accepted | ReportState::Running | ReportState::Nack => false,
    }
}
