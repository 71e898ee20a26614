//! What the hub is told of each command, and how long: no report holds up another.

use std::time::Duration;

use bellwire_proto::stream::CommandEvent;
use bellwire_proto::{CommandId, ReportState, State};

use super::entry::{Entry, Stage};
use super::outcome::interrupted_report;
use super::rev::Revs;
use super::{Engine, Output, ReportAnswer, WritePurpose};
use crate::agent::journal::Record;

/// Results under way at once that are told for the first time (or as many as the hub lets commands be under way),
/// and as many that are told again. Whatever else is told has a place of its own. So what a network swallows holds
/// up nothing that it might let through.
const RESULTS_MAX: usize = 8;
/// Reports of one command under way at once: however often the hub asks, the next one waits.
const PER_COMMAND_MAX: usize = 2;
/// The first and the longest pause after a report that came to nothing.
const RETRY_MS: u64 = 1000;
const RETRY_MS_MAX: u64 = 60_000;
/// How often a pause, or the time for a result, doubles at most.
const DOUBLINGS_MAX: u32 = 6;
/// The pause after one that the hub refuses for what it is, and for how long it is tried.
const REJECTED_RETRY_MS: u64 = 5 * 60_000;
/// Between two signs that a command is still under way, at most; else a third of its run clock.
const KEEPALIVE_MS_MAX: u64 = 10_000;
/// The shortest time that a report may take: below it, a slow network would let none through at all.
const POST_MS_MIN: u64 = 1000;
/// The longest: a result of 256 KiB needs so much at 1 KiB/s.
pub(crate) const POST_MS_MAX: u64 = 5 * 60_000;
/// How long progress may wait, so that a handler that tells much does not post much.
pub(super) const PROGRESS_MS: u64 = 1000;
/// A report under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReportInFlight {
    id: CommandId,
    rev: u64,
    slot: ReportSlot,
}

/// Which places a report takes one of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReportSlot {
    /// Its own.
    Own,
    FirstResult,
    LaterResult,
}

impl Engine {
    /// Sends what is due: of results the one first that has waited longest.
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

    /// An agent that is told to stop offers to run nothing more: the hub keeps what it has not been answered for.
    fn can_post(&self, entry: &Entry) -> bool {
        self.stopping.is_none() || entry.stage != Stage::Offering
    }

    fn has_slot(&self, entry: &Entry) -> bool {
        let slot = entry.slot();
        let most = match slot {
            ReportSlot::Own => usize::MAX,
            ReportSlot::FirstResult => RESULTS_MAX.max(self.max_in_flight),
            ReportSlot::LaterResult => RESULTS_MAX,
        };
        let posts = || self.posts.values();
        posts().filter(|post| post.id == entry.id).count() < PER_COMMAND_MAX
            && posts().filter(|post| post.slot == slot).count() < most
    }

    /// How long one report may take. What a network swallows is told once more before the hub's run clock
    /// is over, a third of which may have passed before it: within another third. For an offer, with which
    /// that clock begins, two. A result that is long, and the network slow, gets more with each try.
    pub(crate) fn post_limit(&self, id: CommandId) -> Duration {
        let limit_ms = self.entries.get(&id).map_or(POST_MS_MIN, |entry| match entry.stage {
            Stage::Offering => (2 * entry.keepalive_ms()).min(KEEPALIVE_MS_MAX),
            Stage::ReportingResult => {
                entry.keepalive_ms() << entry.post.failures.min(DOUBLINGS_MAX)
            }
            _ => entry.keepalive_ms(),
        });
        Duration::from_millis(limit_ms.clamp(POST_MS_MIN, POST_MS_MAX))
    }

    /// When a report of an entry is due, unless it has to wait for others first.
    pub(super) fn post_wake_time(&self, entry: &Entry) -> Option<u64> {
        let can = self.revs.is_on_disk && self.can_post(entry);
        let has_slot = can && entry.post.ticket.is_none() && self.has_slot(entry);
        entry.post.due_ms.filter(|_| has_slot)
    }

    /// The hub is there again: what came to nothing is tried at once.
    pub(super) fn retry_reports(&mut self, now_ms: u64) {
        for (_, id) in &self.live {
            let Some(entry) = self.entries.get_mut(id) else { continue };
            if entry.post.failures > 0 && !entry.post.is_rejected {
                entry.post.failures = 0;
                entry.post.due_ms = Some(now_ms);
                // What is under way has much time by then, and may hang with the connection before.
                entry.post.ticket = None;
            }
        }
    }

    /// The hub asks again: tells what is known, with a new `rev`.
    pub(super) fn report_again(&mut self, now_ms: u64, id: CommandId, attempt: Option<u32>) {
        if let Some(entry) = self.history.reopen(id).filter(|_| !self.entries.contains_key(&id)) {
            self.live.insert((entry.seq, id));
            self.entries.insert(id, entry);
        }
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.attempt = entry.attempt.max(attempt);
        if entry.next_report().is_some() {
            // What is under way may never arrive.
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
            // The event that says so may have been lost with its stream.
            ReportAnswer::Delivery { state: State::Cancelling, .. } => {
                entry.is_waiting() || entry.is_running()
            }
            // Somebody ended it by force, and no event will say so any more. What the hub has ended
            // for the want of a sign goes on: its result is still taken.
            ReportAnswer::Delivery { state: State::Cancelled, .. }
            | ReportAnswer::Conflict { state: Some(State::Cancelled) } => entry.is_running(),
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
            // Whatever was answered: its result is told in any case.
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
            ReportAnswer::Delivery { state: State::Accepted | State::Running, .. } => {
                if let Some(entry) = self.entries.get_mut(&id) {
                    entry.stage = Stage::Ready;
                }
                self.schedule_keepalive(now_ms, id);
            }
            ReportAnswer::Failed { retry_after } => self.retry(now_ms, id, retry_after),
            // The hub did not count the report, or did not get it.
            ReportAnswer::Delivery { state: State::Queued | State::Sent, .. }
            | ReportAnswer::TooLarge => {
                self.retry(now_ms, id, None);
            }
            // It has ended there: it never runs here.
            ReportAnswer::Delivery { .. }
            | ReportAnswer::Conflict { .. }
            | ReportAnswer::Gone
            | ReportAnswer::PermanentRejection => {
                tracing::info!(%id, ?answer, "the hub has ended a command before it was started");
                self.end(id, None);
            }
        }
    }

    /// One that is to run again does so unless the hub has ended it. Without an answer it runs too:
    /// the hub may be away, and to run it once more does no harm.
    fn answered_rerun(&mut self, now_ms: u64, id: CommandId, answer: ReportAnswer) {
        let is_over = match answer {
            ReportAnswer::Delivery { state, .. } => state.is_terminal(),
            ReportAnswer::Conflict { .. }
            | ReportAnswer::Gone
            | ReportAnswer::PermanentRejection => true,
            ReportAnswer::TooLarge | ReportAnswer::Failed { .. } => false,
        };
        if is_over {
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
            ReportAnswer::TooLarge if !entry.post.thin => {
                entry.post.thin = true;
                entry.post.due_ms = Some(now_ms);
            }
            ReportAnswer::TooLarge
            | ReportAnswer::PermanentRejection
            | ReportAnswer::Delivery { .. } => {
                self.refused_result(now_ms, id, answer);
            }
            ReportAnswer::Failed { retry_after } => self.retry(now_ms, id, retry_after),
        }
    }

    /// The hub refuses a result for what it is: told again for a day, restarts or not.
    fn refused_result(&mut self, now_ms: u64, id: CommandId, answer: ReportAnswer) {
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
            tracing::error!(%id, "the hub has refused a result for a day: it is given up");
            return self.close(id);
        }
        entry.post.is_rejected = true;
        tracing::warn!(%id, ?answer, "the hub refuses a result; again in 5 minutes");
        entry.post.failures += 1;
        entry.post.due_ms = Some(now_ms + REJECTED_RETRY_MS);
        if let Some(note) = note {
            self.write(WritePurpose::Note, vec![note]);
        }
    }

    /// Tries again after a pause that doubles, or a longer one that the hub asks for. As long as the hub's run
    /// clock may be running, what came to nothing is told as often as a sign all the same.
    fn retry(&mut self, now_ms: u64, id: CommandId, retry_after: Option<Duration>) {
        let random = self.draw_random();
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let longest_ms = (RETRY_MS << entry.post.failures.min(DOUBLINGS_MAX)).min(RETRY_MS_MAX);
        let drawn_ms = longest_ms / 2 + random % (longest_ms / 2 + 1);
        let pause_ms = retry_after.map_or(drawn_ms, |requested| {
            let requested_ms = u64::try_from(requested.as_millis()).unwrap_or(u64::MAX);
            requested_ms.min(REJECTED_RETRY_MS).max(drawn_ms).max(RETRY_MS)
        });
        let is_urgent = match entry.stage {
            Stage::Ready => true,
            Stage::Offering => retry_after.is_none(),
            _ => retry_after.is_none() && entry.run_clock_may_run(now_ms),
        };
        // What is swallowed once is told again at once, and what comes to nothing again and again is not.
        let soonest_ms = if entry.post.failures == 0 { now_ms } else { now_ms + RETRY_MS };
        let keepalive_due_ms =
            if is_urgent { entry.keepalive_due_ms(now_ms).max(soonest_ms) } else { u64::MAX };
        entry.post.failures = entry.post.failures.saturating_add(1);
        entry.post.due_ms = Some((now_ms + pause_ms).min(keepalive_due_ms));
    }

    /// The next sign that it is under way.
    pub(super) fn schedule_keepalive(&mut self, now_ms: u64, id: CommandId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.post.failures = 0;
        let due_ms = entry.keepalive_due_ms(now_ms);
        // Progress may be due sooner.
        entry.post.due_ms = Some(entry.post.due_ms.map_or(due_ms, |at| at.min(due_ms)));
    }

    /// Xorshift64: spreads what many devices do at once, and nothing else depends on it.
    fn draw_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

impl Entry {
    /// How long after one sign that it is under way the next is due.
    fn keepalive_ms(&self) -> u64 {
        let clock_ms = |event: &CommandEvent| event.run_timeout_s.max(1).saturating_mul(1000);
        self.event().map_or(KEEPALIVE_MS_MAX, |event| (clock_ms(event) / 3).min(KEEPALIVE_MS_MAX))
    }

    /// Whether the hub, to which it runs, may not have given it up yet.
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

    /// When the next one is due: counted from when the last one left, since its answer may be long in
    /// coming, or lost.
    fn keepalive_due_ms(&self, now_ms: u64) -> u64 {
        now_ms.max(self.post.sent_ms.saturating_add(self.keepalive_ms()))
    }
}

/// Whether a delivery shows that the hub took a report.
fn confirms(state: State, reported: ReportState) -> bool {
    match reported {
        ReportState::Succeeded => state == State::Succeeded,
        ReportState::Failed => state == State::Failed,
        ReportState::Rejected => state == State::Rejected,
        ReportState::Cancelled => state == State::Cancelled,
        ReportState::Accepted | ReportState::Running | ReportState::Nack => false,
    }
}
