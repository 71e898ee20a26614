//! The agent's own time, which decides how long commands are retained and rejected results are repeated.
//!
//! It begins as the hub's clock (Unix milliseconds) and is never set after that. While the machine is up it
//! advances with `CLOCK_BOOTTIME`, whether the agent runs or not. Over a reboot it advances by the smaller of two
//! differences, that of the hub's clock and that of the device's, and never goes back. So it may be late (a
//! device whose clock restarts with each boot counts only the time that it is up), and it is early only if both
//! clocks were set forward over the same reboot. `docs/agent.md`, "Time", describes this for operators.

use bellwire_proto::limits::{AGENT_DEVICE_CLOCK_MS_MIN, AGENT_STAMP_EVERY};

use super::ms;
use crate::agent::journal::{BootId, ClockStamp};

/// A clock that differs from the last stamp by more than this was set, and a new stamp is written. Drift is less:
/// 100 ppm are 0.4 s in the hour between two stamps.
const STEP_MS_MIN: u64 = 60_000;
/// When a stamp that the disk had no space for is tried again.
const STAMP_RETRY_MS: u64 = 5 * 60_000;

/// What a clock showed, and `CLOCK_BOOTTIME` at that moment.
type Reading = (u64, u64);

/// See the head of this file. `agent_ms` is `None` until a journal or a hub has set it.
pub(super) struct AgentTime {
    boot: BootId,
    agent_ms: Option<Reading>,
    hub_ms: Option<Reading>,
    device_ms: Option<Reading>,
    /// The latest time in any record of the journal.
    latest_record_ms: u64,
    /// The last stamp, from the journal or for it.
    stamp: Option<ClockStamp>,
    /// A stamp of this boot is on disk. Until then each record with a time is written together with one: without
    /// it, a restart would take the time of this boot for time off.
    is_boot_stamped: bool,
    /// The disk had no space for the last stamp.
    is_refused: bool,
    /// The disk had no space for a stamp: when the next is tried.
    stamp_not_before_ms: u64,
    /// The last stamp of an earlier boot, while the time off is not settled.
    before_boot: Option<ClockStamp>,
    /// A bug that the simulation must notice: the hub's clock is used as the agent's time.
    #[cfg(test)]
    pub(super) trusts_hub: bool,
}

impl AgentTime {
    pub(super) fn new(boot: BootId) -> Self {
        Self {
            boot,
            agent_ms: None,
            hub_ms: None,
            device_ms: None,
            latest_record_ms: 0,
            stamp: None,
            is_boot_stamped: false,
            is_refused: false,
            stamp_not_before_ms: 0,
            before_boot: None,
            #[cfg(test)]
            trusts_hub: false,
        }
    }

    // --- From the journal ---

    /// Applies a stamp of the journal. They come in the order of writing.
    pub(super) fn restore(&mut self, stamp: ClockStamp) {
        self.stamp = Some(stamp);
    }

    /// Applies the time in another record of the journal.
    pub(super) fn restore_record(&mut self, agent_ms: u64) {
        self.latest_record_ms = self.latest_record_ms.max(agent_ms);
    }

    /// The whole journal was restored.
    pub(super) fn begin(&mut self, now_ms: u64) {
        let Some(stamp) = &self.stamp else { return };
        let is_same_boot = stamp.boot == self.boot;
        let passed_ms = if is_same_boot { now_ms.saturating_sub(stamp.boot_ms) } else { 0 };
        let agent_ms = stamp.agent_ms.saturating_add(passed_ms).max(self.latest_record_ms);
        self.agent_ms = Some((agent_ms, now_ms));
        self.before_boot = self.stamp.clone().filter(|_| !is_same_boot);
        self.is_boot_stamped = is_same_boot;
    }

    // --- From the clocks ---

    /// A hello, with the hub's clock and the device's own. Returns whether the agent's time was set.
    pub(super) fn on_hello(&mut self, now_ms: u64, hub_ms: u64, device_ms: u64) -> bool {
        let is_first = self.agent_ms.is_none();
        self.hub_ms = Some((hub_ms, now_ms));
        // The first hub that this journal knows sets the agent's time.
        self.agent_ms.get_or_insert((hub_ms.max(self.latest_record_ms), now_ms));
        #[cfg(test)]
        if self.trusts_hub {
            self.agent_ms = self.hub_ms;
        }
        self.on_device_clock(now_ms, device_ms) || is_first
    }

    /// The device's clock, which may have been set since the hello. Returns whether the agent's time was advanced.
    pub(super) fn on_device_clock(&mut self, now_ms: u64, device_ms: u64) -> bool {
        self.device_ms =
            Some((device_ms, now_ms)).filter(|_| device_ms >= AGENT_DEVICE_CLOCK_MS_MIN);
        let later_ms = self.after_reboot(now_ms).filter(|ms| Some(*ms) > self.at(now_ms));
        if let Some(agent_ms) = later_ms {
            self.agent_ms = Some((agent_ms, now_ms));
        }
        later_ms.is_some()
    }

    /// The earliest possible time now, by the last stamp before the boot and both clocks.
    fn after_reboot(&self, now_ms: u64) -> Option<u64> {
        let before = self.before_boot.as_ref()?;
        let by_hub_ms = self.hub(now_ms)?.saturating_sub(before.hub_ms);
        let by_device_ms = at(self.device_ms?, now_ms).saturating_sub(before.device_ms?);
        Some(before.agent_ms.saturating_add(by_hub_ms.min(by_device_ms)))
    }

    // --- For the engine ---

    /// The time for a record that is written now. From then on the time off before this boot is settled: a clock
    /// that is set later must not make this record older.
    pub(super) fn settle(&mut self, now_ms: u64) -> Option<u64> {
        self.before_boot = None;
        self.at(now_ms)
    }

    /// As [`AgentTime::settle`], for a record that can wait until a hub is connected.
    pub(super) fn settle_with_hub(&mut self, now_ms: u64) -> Option<u64> {
        let is_open = self.before_boot.is_some() && self.hub_ms.is_none();
        if is_open { None } else { self.settle(now_ms) }
    }

    /// The agent's time.
    pub(super) fn at(&self, now_ms: u64) -> Option<u64> {
        self.agent_ms.map(|reading| at(reading, now_ms))
    }

    /// `CLOCK_BOOTTIME` at a time of the agent. For a past time, any past value.
    pub(super) fn boot_ms_at(&self, agent_ms: u64) -> Option<u64> {
        self.agent_ms.map(|reading| when(reading, agent_ms))
    }

    /// The same for a time of the hub's clock, by its last hello.
    pub(super) fn boot_ms_at_hub(&self, hub_ms: u64) -> Option<u64> {
        self.hub_ms.map(|reading| when(reading, hub_ms))
    }

    fn hub(&self, now_ms: u64) -> Option<u64> {
        self.hub_ms.map(|reading| at(reading, now_ms))
    }

    // --- To the journal ---

    /// The stamp to be written now: the first one of a boot, one an hour, and one when a clock was set.
    pub(super) fn next_stamp(&mut self, now_ms: u64) -> Option<ClockStamp> {
        let next = ClockStamp {
            boot: self.boot.clone(),
            boot_ms: now_ms,
            agent_ms: self.at(now_ms)?,
            hub_ms: self.hub(now_ms)?,
            device_ms: self.device_ms.map(|reading| at(reading, now_ms)),
        };
        let is_due = self.stamp.as_ref().is_none_or(|last| {
            let passed_ms = now_ms.saturating_sub(last.boot_ms);
            let is_set = |before_ms: u64, ms: u64| {
                before_ms.saturating_add(passed_ms).abs_diff(ms) > STEP_MS_MIN
            };
            last.boot != self.boot
                || self.is_refused
                || passed_ms >= ms(AGENT_STAMP_EVERY)
                || is_set(last.agent_ms, next.agent_ms)
                || is_set(last.hub_ms, next.hub_ms)
                || last.device_ms.is_some() != next.device_ms.is_some()
                || last.device_ms.zip(next.device_ms).is_some_and(|(was, is)| is_set(was, is))
        });
        let can = self.stamp_not_before_ms <= now_ms;
        (is_due && can).then(|| {
            self.is_refused = false;
            self.stamp.insert(next).clone()
        })
    }

    /// When the next stamp is due if no clock is set.
    pub(super) fn stamp_due_ms(&self) -> Option<u64> {
        self.hub_ms?;
        let stamp = self.stamp.as_ref().filter(|stamp| stamp.boot == self.boot)?;
        let due_ms = if self.is_refused { 0 } else { stamp.boot_ms + ms(AGENT_STAMP_EVERY) };
        Some(due_ms.max(self.stamp_not_before_ms))
    }

    /// The stamp to be written together with a record, as long as none of this boot is on disk.
    pub(super) fn unconfirmed_stamp(&self) -> Option<ClockStamp> {
        self.stamp.clone().filter(|stamp| !self.is_boot_stamped && stamp.boot == self.boot)
    }

    /// A stamp of this boot is on disk.
    pub(super) fn on_stamp_stored(&mut self) {
        self.is_boot_stamped = true;
    }

    /// The disk had no space for a stamp.
    pub(super) fn on_stamp_refused(&mut self, now_ms: u64) {
        self.is_refused = true;
        self.stamp_not_before_ms = now_ms.saturating_add(STAMP_RETRY_MS);
    }

    /// The last stamp, for a compaction.
    pub(super) fn stamp(&self) -> Option<ClockStamp> {
        self.stamp.clone()
    }
}

/// What a clock shows now, if it was not set.
fn at((shown_ms, at_ms): Reading, now_ms: u64) -> u64 {
    shown_ms.saturating_add(now_ms.saturating_sub(at_ms))
}

/// `CLOCK_BOOTTIME` when the clock shows `ms`; of a past value, that of the reading.
fn when((shown_ms, at_ms): Reading, ms: u64) -> u64 {
    at_ms.saturating_add(ms.saturating_sub(shown_ms))
}
