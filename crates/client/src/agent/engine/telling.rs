//! What the hub is told of each command, and how long: no report holds up another.

use std::time::Duration;

use bellwire_proto::{CommandId, ErrorInfo, ReportState, State};

use super::entry::{Entry, Stage};
use super::life::rejected;
use super::{Answer, Engine, Output, Purpose};
use crate::agent::journal::Record;

/// Reports under way at once.
const POSTS_MAX: usize = 8;
/// The first and the longest pause after a report that came to nothing.
const RETRY_MS: u64 = 1000;
const RETRY_MS_MAX: u64 = 60_000;
/// The pause after one that the hub refuses for what it is, and for how long it is tried.
const UNFIT_RETRY_MS: u64 = 5 * 60_000;
const UNFIT_FOR_MS: u64 = 86_400_000;
/// Between two signs that a command is still under way, at most; else a third of its run clock.
const SIGN_MS_MAX: u64 = 10_000;
/// How long progress may wait, so that a handler that tells much does not post much.
pub(super) const PROGRESS_MS: u64 = 1000;
/// Reports of one start of the agent before the next start number is taken: both together stay
/// below the contract's 2^53.
const REVS_OF_A_START: u64 = 1 << 25;

/// Where each `rev` comes from: the number of the start, which is on disk before it is used, and a
/// count. So none is used twice, though none is written down.
#[derive(Debug, Default)]
pub(super) struct Revs {
    start: u64,
    next: u64,
    /// Nothing can be told until then.
    pub(super) is_on_disk: bool,
    pub(super) retry_ms: Option<u64>,
}

impl Revs {
    pub(super) fn start(&self) -> u64 {
        self.start
    }

    /// A start that the journal tells of.
    pub(super) fn restore(&mut self, start: u64) {
        self.start = self.start.max(start);
    }

    fn draw(&mut self) -> u64 {
        self.next += 1;
        self.start * REVS_OF_A_START + self.next
    }
}

impl Engine {
    /// Takes a new start number, which is above `seen` where the hub has shown a greater `rev` than
    /// ours: then this journal is younger than what the hub knows.
    pub(super) fn renew_revs(&mut self, seen: u64) {
        self.revs.start = (self.revs.start + 1).max(seen / REVS_OF_A_START + 1);
        self.revs.next = 0;
        self.write_start_number();
    }

    pub(super) fn write_start_number(&mut self) {
        self.revs.is_on_disk = false;
        self.revs.retry_ms = None;
        let start = self.revs.start;
        self.write(Purpose::Begin, vec![Record::Begun { start }]);
    }

    /// Sends what is due.
    pub(super) fn post_due(&mut self, now_ms: u64) {
        let due =
            |e: &&Entry| e.post.ticket.is_none() && e.post.due_ms.is_some_and(|at| at <= now_ms);
        let due: Vec<CommandId> = self.live().filter(due).map(|entry| entry.id).collect();
        for id in due {
            if self.revs.next + 1 >= REVS_OF_A_START {
                self.renew_revs(0);
            }
            if !self.revs.is_on_disk || self.posts.len() >= POSTS_MAX {
                return;
            }
            let ticket = self.ticket();
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            entry.post.due_ms = None;
            let Some(mut report) = entry.told() else { continue };
            let rev = self.revs.draw();
            report.rev = Some(rev);
            entry.post.ticket = Some(ticket);
            self.posts.insert(ticket, (id, rev));
            self.out.push_back(Output::Post { ticket, command: id, report });
        }
    }

    /// How long one report may take. A sign that a command is under way must not hold up the next
    /// one: a network that swallows one may let another through. Results and offers have no next one
    /// to wait for.
    pub(crate) fn post_limit(&self, id: CommandId) -> Duration {
        let signs = |e: &&Entry| matches!(e.stage, Stage::Ready | Stage::Running);
        let signed = self.entries.get(&id).filter(signs).and_then(Entry::event);
        let third_ms =
            signed.map_or(u64::MAX, |event| event.run_timeout_s.saturating_mul(1000) / 3);
        // Below a second, a slow network would let no sign through at all.
        Duration::from_millis(third_ms.clamp(1000, SIGN_MS_MAX))
    }

    /// When a report of an entry is due, unless it has to wait for others first.
    pub(super) fn post_wakes(&self, entry: &Entry) -> Option<u64> {
        let can = self.revs.is_on_disk && self.posts.len() < POSTS_MAX;
        entry.post.due_ms.filter(|_| can && entry.post.ticket.is_none())
    }

    /// The hub is there again: what came to nothing is tried at once.
    pub(super) fn tell_at_once(&mut self, now_ms: u64) {
        for (_, id) in &self.live {
            let Some(entry) = self.entries.get_mut(id) else { continue };
            if entry.post.failures > 0 && entry.post.unfit_since_ms.is_none() {
                entry.post.failures = 0;
                entry.post.due_ms = Some(now_ms);
            }
        }
    }

    /// The hub asks again: tells what is known, with a new `rev`.
    pub(super) fn tell_again(&mut self, now_ms: u64, id: CommandId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        match entry.stage {
            Stage::Done => {
                // One that the hub had ended before it could start, and now sends again.
                entry.report.get_or_insert_with(|| Box::new(rejected(ErrorInfo::of("stale"))));
                entry.stage = Stage::Telling;
                entry.post.due_ms = Some(now_ms);
                self.live.insert((entry.seq, id));
            }
            Stage::Offering | Stage::Ready | Stage::Again | Stage::Running | Stage::Telling => {
                entry.post.ticket = None;
                entry.post.due_ms = Some(now_ms);
            }
            _ => {}
        }
    }

    pub(super) fn answered(&mut self, now_ms: u64, ticket: u64, answer: Answer) {
        let Some((id, rev)) = self.posts.remove(&ticket) else { return };
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let is_latest = entry.post.ticket == Some(ticket);
        if is_latest {
            entry.post.ticket = None;
        }
        let (stage, seq) = (entry.stage, entry.seq);
        if let Answer::Delivery { state: State::Cancelling, .. } = answer
            && (entry.is_waiting() || entry.is_running())
        {
            // The event that says so may have been lost with its stream.
            self.sign_later(now_ms, id);
            return self.cancel(now_ms, id, seq);
        }
        if !is_latest {
            return;
        }
        match stage {
            Stage::Offering | Stage::Ready => self.answered_offer(now_ms, id, rev, answer),
            // Whatever was answered: that it has ended there does not end it here, and its result
            // is told in any case.
            Stage::Running | Stage::Again => self.sign_later(now_ms, id),
            Stage::Telling => self.answered_result(now_ms, id, rev, answer),
            _ => {}
        }
    }

    fn answered_offer(&mut self, now_ms: u64, id: CommandId, rev: u64, answer: Answer) {
        match answer {
            Answer::Delivery { state: State::Accepted | State::Running, .. } => {
                if let Some(entry) = self.entries.get_mut(&id) {
                    entry.stage = Stage::Ready;
                }
                self.sign_later(now_ms, id);
            }
            // The hub did not count the report.
            Answer::Delivery { state: State::Queued | State::Sent, rev: seen } => {
                self.retry_past(now_ms, id, rev, seen);
            }
            Answer::Failed { retry_after } => self.retry(now_ms, id, retry_after),
            Answer::TooLarge => self.retry(now_ms, id, None),
            // It has ended there: it never runs here.
            Answer::Delivery { .. } | Answer::Conflict | Answer::Gone | Answer::Unfit => {
                tracing::info!(%id, ?answer, "the hub has ended a command before it was started");
                self.end(now_ms, id, None);
            }
        }
    }

    fn answered_result(&mut self, now_ms: u64, id: CommandId, rev: u64, answer: Answer) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let told = entry.report.as_deref().map(|report| report.state);
        match answer {
            Answer::Delivery { state, .. } if told.is_some_and(|told| shows(state, told)) => {
                self.close(id);
            }
            Answer::Conflict | Answer::Gone => self.close(id),
            Answer::Delivery { rev: seen, .. } => self.retry_past(now_ms, id, rev, seen),
            Answer::TooLarge if !entry.post.thin => {
                entry.post.thin = true;
                entry.post.due_ms = Some(now_ms);
            }
            Answer::TooLarge | Answer::Unfit => {
                let since_ms = *entry.post.unfit_since_ms.get_or_insert(now_ms);
                if now_ms >= since_ms + UNFIT_FOR_MS {
                    tracing::error!(%id, "the hub has refused a result for a day: it is given up");
                    return self.close(id);
                }
                tracing::warn!(%id, ?answer, "the hub refuses a result; again in 5 minutes");
                entry.post.failures += 1;
                entry.post.due_ms = Some(now_ms + UNFIT_RETRY_MS);
            }
            Answer::Failed { retry_after } => self.retry(now_ms, id, retry_after),
        }
    }

    /// Tries again after a pause that doubles, or the one that the hub asks for.
    fn retry(&mut self, now_ms: u64, id: CommandId, retry_after: Option<Duration>) {
        let random = self.draw_random();
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let longest_ms = RETRY_MS.checked_shl(entry.post.failures).unwrap_or(RETRY_MS_MAX);
        let longest_ms = longest_ms.min(RETRY_MS_MAX);
        let drawn_ms = longest_ms / 2 + random % (longest_ms / 2 + 1);
        let asked_ms = retry_after.map(|after| after.as_millis().min(u128::from(UNFIT_RETRY_MS)));
        let pause_ms = asked_ms.and_then(|ms| u64::try_from(ms).ok()).unwrap_or(drawn_ms);
        entry.post.failures += 1;
        entry.post.due_ms = Some(now_ms + pause_ms);
    }

    /// Tries again, past the `rev` that the hub has seen.
    fn retry_past(&mut self, now_ms: u64, id: CommandId, rev: u64, seen: u64) {
        if seen >= rev {
            self.renew_revs(seen);
        }
        self.retry(now_ms, id, None);
    }

    /// The next sign that it is under way.
    fn sign_later(&mut self, now_ms: u64, id: CommandId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let Some(event) = entry.event() else { return };
        let third_ms = event.run_timeout_s.saturating_mul(1000) / 3;
        entry.post.failures = 0;
        let due_ms = now_ms + third_ms.min(SIGN_MS_MAX);
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

/// Whether a delivery shows that the hub took a report.
fn shows(state: State, told: ReportState) -> bool {
    match told {
        ReportState::Succeeded => state == State::Succeeded,
        ReportState::Failed => state == State::Failed,
        ReportState::Rejected => state == State::Rejected,
        ReportState::Cancelled => state == State::Cancelled,
        ReportState::Accepted | ReportState::Running | ReportState::Nack => false,
    }
}
