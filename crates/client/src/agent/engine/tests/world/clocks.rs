//! The clocks of the world, which are set at any time and by any amount. The agent must forget no command early,
//! drop no rejected result early, and retain nothing for ever.

use std::collections::BTreeMap;

use bellwire_proto::CommandId;

use super::super::hub::EPOCH_MS;
use super::*;

const STEPS_MS: [i64; 4] = [90_000, 3_600_000, 3 * 86_400_000, 400 * 86_400_000];
/// How late the agent's time may be: what was not stamped before a reboot is missing. All reboots are before the
/// calm.
const LATE_MS_MAX: u64 = CALM_MS;

/// How the device's clock behaves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum DeviceClock {
    /// It continues while the machine is off.
    #[default]
    Battery,
    /// It starts in 1970 with each boot, until it is set.
    Unset,
    /// It continues with each boot where it stopped, until it is set.
    Saved,
}

/// The clocks, and what the agent has done by them.
#[derive(Default)]
pub(in super::super) struct Clocks {
    device: DeviceClock,
    steps_device: bool,
    /// How far the device's clock is from the right time; `None` while it is not set.
    device_error_ms: Option<i64>,
    /// The same before the boot that has reset it.
    last_error_ms: i64,
    /// By how much the clocks were set forward and back in all.
    hub_forward_ms: u64,
    pub(in super::super) hub_backward_ms: u64,
    device_forward_ms: u64,
    /// When each command first arrived, as far as the agent can know.
    first_arrivals: BTreeMap<CommandId, u64>,
    /// When the agent first recorded that a result is rejected permanently.
    rejected_since: BTreeMap<CommandId, u64>,
    /// The current event is an answer that rejects a result.
    is_rejection: bool,
    /// The completed commands that the agent retains since it started.
    retained: BTreeSet<CommandId>,
    pub(in super::super) forgotten: usize,
    pub(in super::super) dropped: usize,
}

impl Clocks {
    pub(super) fn new_life(&mut self) {
        self.retained.clear();
    }

    /// How early the agent's time may be: by as much as both clocks were set forward.
    fn early_ms_max(&self) -> u64 {
        self.hub_forward_ms.min(self.device_forward_ms)
    }
}

impl World {
    pub(super) fn plan_clocks(&mut self) {
        self.clocks.device_error_ms = Some(0);
        self.clocks.device =
            self.random.pick(&[DeviceClock::Battery, DeviceClock::Unset, DeviceClock::Saved]);
        let (hub, device) =
            self.random.pick(&[(false, false), (true, false), (false, true), (true, true)]);
        self.clocks.steps_device = device;
        for _ in 0..if hub { self.random.from(1, 3) } else { 0 } {
            self.some_time(Event::HubClockIsSet);
        }
        for _ in 0..if device { self.random.from(1, 3) } else { 0 } {
            self.some_time(Event::DeviceClockIsSet);
        }
    }

    /// A clock that is right is set wrong; one that is wrong mostly right.
    fn step_ms(&mut self, error_ms: i64) -> i64 {
        let by_ms = self.random.pick(&STEPS_MS);
        let by_ms = if self.random.percent(50) { by_ms } else { -by_ms };
        if error_ms != 0 && self.random.percent(60) { -error_ms } else { by_ms }
    }

    pub(super) fn set_hub_clock(&mut self) {
        let by_ms = self.step_ms(self.hub.clock_error_ms);
        self.hub.clock_error_ms += by_ms;
        let clocks = &mut self.clocks;
        clocks.hub_forward_ms += by_ms.max(0).unsigned_abs();
        clocks.hub_backward_ms += by_ms.min(0).unsigned_abs();
    }

    pub(super) fn set_device_clock(&mut self) {
        let error_ms = self.clocks.device_error_ms;
        let by_ms = match error_ms {
            Some(error_ms) if self.clocks.steps_device => self.step_ms(error_ms),
            // From the network's time, which is right.
            _ => -error_ms.unwrap_or(self.clocks.last_error_ms),
        };
        self.clocks.device_forward_ms += by_ms.max(0).unsigned_abs();
        self.clocks.device_error_ms = Some(error_ms.unwrap_or(self.clocks.last_error_ms) + by_ms);
    }

    /// The machine boots.
    pub(super) fn reset_device_clock(&mut self) {
        match self.clocks.device {
            DeviceClock::Battery => return,
            DeviceClock::Unset => {
                let error_ms = self.clocks.device_error_ms.take();
                self.clocks.last_error_ms = error_ms.unwrap_or(self.clocks.last_error_ms);
            }
            DeviceClock::Saved => {
                let off_ms = self.random.from(0, 30_000) as i64;
                let error_ms = self.clocks.device_error_ms.unwrap_or_default();
                self.clocks.device_error_ms = Some(error_ms - off_ms);
            }
        }
        let after_ms = self.random.pick(&[0, 5000, 100_000, END_MS]);
        self.after(after_ms, Event::DeviceClockIsSet);
    }

    pub(super) fn device_ms(&self) -> u64 {
        match self.clocks.device_error_ms {
            Some(error_ms) => (EPOCH_MS + self.now_ms).saturating_add_signed(error_ms),
            None => self.boot_ms(),
        }
    }

    // --- Checks ---

    pub(super) fn note_arrival(&mut self, event: &Event) {
        let current = self.life;
        self.clocks.is_rejection = false;
        let Some(engine) = &self.engine else { return };
        let id = match event {
            Event::CommandArrives(life, command)
                if *life == current && engine.stopping.is_none() =>
            {
                command.id
            }
            Event::CancelArrives(life, cancel) if *life == current => cancel.id,
            Event::Answered(.., ReportAnswer::PermanentRejection) => {
                self.clocks.is_rejection = true;
                return;
            }
            _ => return,
        };
        if !engine.entries.contains_key(&id) && !engine.history.contains(id) {
            self.clocks.first_arrivals.insert(id, self.now_ms);
        }
    }

    /// After each event: a command that is not retained any more must be old enough.
    pub(super) fn note_forgotten(&mut self) {
        let Some(engine) = &self.engine else { return };
        if engine.history.len() == self.clocks.retained.len() {
            return;
        }
        let now: BTreeSet<CommandId> = engine.history.ids().collect();
        let early_ms = self.clocks.early_ms_max();
        for id in self.clocks.retained.difference(&now) {
            self.clocks.forgotten += 1;
            let age_ms = self.now_ms - self.clocks.first_arrivals[id];
            if age_ms.saturating_add(early_ms) < self.bounds.retain_ms {
                let fault = format!("{id} is forgotten after {age_ms} ms");
                self.fault.get_or_insert(fault);
            }
        }
        self.clocks.retained = now;
    }

    pub(super) fn note_rejected(&mut self, id: CommandId) {
        self.clocks.rejected_since.entry(id).or_insert(self.now_ms);
    }

    /// A result that the hub rejects is dropped, and not too early.
    pub(super) fn note_acked(&mut self, id: CommandId) {
        // Another answer settles the command, which is no drop.
        let since_ms = self.clocks.rejected_since.get(&id).filter(|_| self.clocks.is_rejection);
        let Some(since_ms) = since_ms else { return };
        let age_ms = self.now_ms - since_ms;
        self.clocks.dropped += 1;
        if age_ms.saturating_add(self.clocks.early_ms_max()) < self.bounds.rejected_ms {
            let fault = format!("the rejected result of {id} is dropped after {age_ms} ms");
            self.fault.get_or_insert(fault);
        }
    }

    /// At the end nothing much too old is retained.
    pub(in super::super) fn judge_retention(&self) -> Result<(), String> {
        let Some(engine) = &self.engine else { return Ok(()) };
        let margin_ms = LATE_MS_MAX + 2 * self.bounds.forget_every_ms;
        let last_ms = END_MS - margin_ms;
        for id in engine.history.ids() {
            let seen_ms = self.clocks.first_arrivals[&id];
            if seen_ms + self.bounds.retain_ms < last_ms {
                return Err(format!("{id} arrived at {seen_ms} and is still retained"));
            }
        }
        for (id, since_ms) in &self.clocks.rejected_since {
            let is_late = since_ms + self.bounds.rejected_ms + 300_000 < last_ms;
            if is_late && engine.entries.get(id).is_some_and(|entry| !entry.acked) {
                return Err(format!(
                    "the result of {id}, rejected at {since_ms}, is never dropped"
                ));
            }
        }
        Ok(())
    }
}
