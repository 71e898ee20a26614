//! Which command runs next: in the order of the hub, none overtaken, none after its time to live.

use bellwire_proto::{CommandId, ErrorInfo, Report, ReportState, codes};

use super::entry::{Entry, Stage};
use super::outcome::{interrupted_report, rejected};
use super::{DISK_RETRY_MS, Engine, Output, WritePurpose};
use crate::agent::journal::Record;
use crate::agent::policy::limit;
use crate::agent::run::{Stop, error};

/// Whether the time to live allows a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TimeToLive {
    Remaining,
    Expired,
    /// The device has booted since the command arrived, and the hub's clock is not known yet.
    Unknown,
}

impl Engine {
    /// Ends the commands whose time to live has elapsed before they were started.
    pub(super) fn expire_due(&mut self, now_ms: u64) {
        let expired =
            |e: &&Entry| e.can_expire() && self.time_to_live(e, now_ms) == TimeToLive::Expired;
        let expired: Vec<(CommandId, Stage)> =
            self.live().filter(expired).map(|entry| (entry.id, entry.stage)).collect();
        for (id, stage) in expired {
            let report = match stage {
                // For the hub it has run.
                Stage::ConfirmingRerun | Stage::ReadyToRerun => interrupted_report(None),
                _ => rejected(error(
                    codes::STALE,
                    "its time to live had elapsed before it could start",
                )),
            };
            self.end(id, Some(report));
        }
    }

    /// Starts the commands that may start.
    pub(super) fn start_due(&mut self, now_ms: u64) {
        if self.stopping.is_some() {
            return;
        }
        loop {
            let Some(first) = self.live().find(|entry| entry.is_waiting()) else { return };
            let (id, stage) = (first.id, first.stage);
            let ready =
                first.is_ready() && self.time_to_live(first, now_ms) == TimeToLive::Remaining;
            let Some(event) = first.event().filter(|_| ready) else { return };
            let (action, data) = (event.action.clone(), event.data.clone());
            // The list may have changed since the command was accepted; the current one counts.
            let settings = match (
                self.admission.admit(&action, &data),
                self.admission.run_settings(&action),
            ) {
                (Ok(()), Some(settings)) => settings,
                (verdict, _) => {
                    let gone = || ErrorInfo::of(codes::UNKNOWN_ACTION);
                    let report = match stage {
                        Stage::ReadyToRerun => interrupted_report(None),
                        _ => rejected(verdict.err().unwrap_or_else(gone)),
                    };
                    self.end(id, Some(report));
                    continue;
                }
            };
            let running = self.live().filter(|entry| entry.is_running());
            let (all, same) = running.fold((0, 0), |(all, same), entry| {
                (all + 1, same + usize::from(entry.action.as_ref() == Some(&action)))
            });
            if all >= self.max_in_flight || same >= settings.concurrency.max(1) {
                return;
            }
            self.start(now_ms, id);
        }
    }

    fn start(&mut self, now_ms: u64, id: CommandId) {
        let boot = self.boot.clone();
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.stage = Stage::Starting;
        entry.runs += 1;
        entry.run_boot = Some(boot.clone());
        entry.post.due_ms = None;
        let record = Record::Started { command: id, run: entry.runs, boot };
        if self.no_start_record {
            return self.on_start_stored(now_ms, id);
        }
        self.write(WritePurpose::Start(id), vec![record]);
    }

    /// The start is on disk.
    pub(super) fn on_start_stored(&mut self, now_ms: u64, id: CommandId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if entry.cancelled {
            return self.end(id, Some(Report::of(ReportState::Cancelled)));
        }
        let Some(mut event) = entry.event().cloned() else { return };
        if self.stopping.is_some_and(|stopping| stopping.killed) {
            // It would be killed at once.
            return self.interrupted(id, Report::of(ReportState::Failed));
        }
        event.attempt = event.attempt.max(entry.attempt.unwrap_or_default());
        entry.stage = Stage::Running;
        entry.post.ticket = None;
        entry.post.due_ms = Some(now_ms);
        let timeout =
            self.admission.run_settings(&event.action).and_then(|settings| settings.timeout);
        let limit = limit(timeout, &event);
        self.out.push_back(Output::Start { event, limit });
        if self.stopping.is_some() {
            self.out.push_back(Output::Stop { command: id, stop: Stop::Shutdown });
        }
    }

    /// The start could not be written, so nothing was started.
    pub(super) fn postpone_start(&mut self, now_ms: u64, id: CommandId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if !std::mem::replace(&mut entry.is_start_postponed, true) {
            tracing::warn!(%id, "the disk has no space for a result: the start waits until there is some");
        }
        entry.runs = entry.runs.saturating_sub(1);
        entry.stage = if entry.runs == 0 { Stage::Ready } else { Stage::ReadyToRerun };
        if entry.runs == 0 {
            entry.run_boot = None;
        }
        entry.disk_retry_ms = Some(now_ms + DISK_RETRY_MS);
        entry.post.due_ms = Some(now_ms);
        if entry.cancelled {
            self.end(id, Some(Report::of(ReportState::Cancelled)));
        }
    }

    fn time_to_live(&self, entry: &Entry, now_ms: u64) -> TimeToLive {
        let expiries = self.expiries_ms(entry);
        if expiries.into_iter().flatten().any(|expiry_ms| expiry_ms <= now_ms) {
            TimeToLive::Expired
        } else if let [Some(_), _] = expiries {
            TimeToLive::Remaining
        } else {
            TimeToLive::Unknown
        }
    }

    /// When its time to live ends, as `CLOCK_BOOTTIME`. After a reboot by the hub's clock, once that is known, and
    /// at the latest by the agent's own time, which is never early.
    fn expiries_ms(&self, entry: &Entry) -> [Option<u64>; 2] {
        let Some(received) = &entry.received else { return [None; 2] };
        if received.boot == self.boot {
            return [Some(received.due_boot_ms), None];
        }
        let ttl_ms = received.event.ttl_s.saturating_mul(1000);
        let ends_ms = received.first_seen_ms.saturating_add(ttl_ms);
        let is_known = received.first_seen_ms > 0;
        [
            self.time.boot_ms_at_hub(received.event.expires_at.unix_ms()),
            self.time.boot_ms_at(ends_ms).filter(|_| is_known),
        ]
    }

    /// When something becomes due for a command without an event.
    pub(super) fn wake_times(&self, entry: &Entry) -> [Option<u64>; 3] {
        let expiry_ms =
            self.expiries_ms(entry).into_iter().flatten().min().filter(|_| entry.can_expire());
        [expiry_ms, entry.disk_retry_ms, self.post_wake_time(entry)]
    }
}
