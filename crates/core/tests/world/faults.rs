//! What a world is like, and what goes wrong in it: crashes, a failing disk, drains, a wall clock
//! that is set, and how it is left alone in the end.

use std::time::Duration;

use bellwire_core::{Config, Hub};
use bellwire_proto::Timestamp;

use super::clients::KEEPER;
use super::judge::Verdict;
use super::random::Random;
use super::schedules::{calendar, late_windows};
use super::{Event, InjectedBug, START, World};

/// How long devices go on without faults: longer than any wait that was requested, except the times to
/// live.
const CALM: Duration = Duration::from_secs(30 * 60);
/// How long the hub then runs without devices: longer than any time to live, any run clock, and any
/// step of the wall clock, after which something scheduled may be days away.
const ALONE: Duration = Duration::from_secs(10 * 86_400);

/// What a run is like; drawn from the seed.
#[derive(Debug)]
pub(super) struct FaultProfile {
    pub(super) active: Duration,
    pub(super) pace_ms_max: u64,
    pub(super) max_in_flight: usize,
    pub(super) lease: Duration,
    /// Chances in percent.
    pub(super) request_lost: u64,
    pub(super) request_doubled: u64,
    pub(super) link_cut: u64,
    pub(super) load_fails: u64,
    pub(super) latency_ms_max: u64,
    pub(super) commit_ms_max: u64,
    pub(super) crashes: u64,
    /// How often the wall clock is set.
    pub(super) clock_steps: u64,
    /// Chance in percent that a command is for several devices.
    pub(super) to_many: u64,
    pub(super) calm_first: bool,
    /// Whether an `admin` token may close the hub.
    pub(super) closes: bool,
    pub(super) stream_max: Option<Duration>,
}

impl FaultProfile {
    pub(super) fn drawn(r: &mut Random) -> Self {
        // Some worlds are busy, in others long silences show which timer was forgotten.
        let leisure = r.pick(&[1, 1, 2, 15]);
        Self {
            active: Duration::from_secs(r.from(20, 60) * leisure),
            pace_ms_max: 4000 * leisure,
            max_in_flight: r.pick(&[1, 1, 1, 2, 3]),
            lease: Duration::from_secs(r.pick(&[30, 30, 5, 90])),
            request_lost: r.pick(&[0, 2, 10]),
            request_doubled: r.pick(&[0, 5, 20]),
            link_cut: r.pick(&[0, 30, 80]),
            load_fails: r.pick(&[0, 0, 2, 10]),
            latency_ms_max: r.pick(&[5, 200, 3000]),
            commit_ms_max: r.pick(&[1, 20, 1500]),
            crashes: r.pick(&[0, 0, 1, 3]),
            clock_steps: r.pick(&[0, 0, 1, 4]),
            to_many: r.pick(&[0, 10, 40]),
            calm_first: r.percent(60),
            closes: r.percent(20),
            stream_max: r.pick(&[None, None, Some(10), Some(120)]).map(Duration::from_secs),
        }
    }

    pub(super) fn config(&self) -> Config {
        Config {
            lease: self.lease,
            max_in_flight: self.max_in_flight,
            queue_max: 20,
            stream_max: self.stream_max,
            calendar: calendar(),
            ..Config::default()
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    Crash,
    StoreFails,
    Drain,
    /// A person, or NTP, sets the wall clock.
    ClockStep,
    Start,
    /// No more faults; devices go on.
    Calm,
    /// All devices disconnect for good.
    Alone,
}

impl World {
    pub(super) fn fault(&mut self, fault: Fault) -> Verdict {
        match fault {
            Fault::Crash if self.up && (self.ailing || !self.alone) => self.stop()?,
            Fault::StoreFails if self.up && !self.alone => {
                self.hub.handle_store_failed(self.clock());
                self.store.abandon();
                self.ailing = true;
                self.after_ms(100, 5000, Event::Fault(Fault::Crash));
            }
            Fault::Drain if self.up && !self.alone => {
                self.hub.handle_drain(self.clock());
                self.ailing = true;
                self.after_ms(100, 9000, Event::Fault(Fault::Crash));
            }
            Fault::ClockStep if !self.calm => {
                let hours = self.random.pick(&[-72, -8, -1, 1, 8, 72]);
                self.wall_step_ms += hours * 3_600_000 + self.random.from(0, 5000) as i64;
                self.after_ms(0, 1000, Event::ClockNoticed(self.life));
            }
            Fault::Crash | Fault::StoreFails | Fault::Drain | Fault::ClockStep => {}
            Fault::Start => {
                (self.up, self.ailing) = (true, false);
                if self.bug == Some(InjectedBug::StoreForgetsTargets) {
                    self.store.disk.targets.pop_first();
                }
                let mut recovered = self.store.restart(self.clock());
                if self.bug == Some(InjectedBug::StoreForgetsBatches) {
                    for job in &mut recovered.jobs {
                        let total = job.head.total;
                        job.rollout.iter_mut().for_each(|(record, _)| record.begun = total);
                    }
                }
                for schedule in &mut recovered.schedules {
                    match self.bug {
                        Some(InjectedBug::StoreForgetsTimes) => {
                            let ms = schedule.decided_at.unix_ms() - 600_000;
                            schedule.decided_at = Timestamp::from_unix_ms(ms);
                        }
                        Some(InjectedBug::StoreForgetsRuns) => schedule.run = None,
                        _ => {}
                    }
                }
                let seed = self.random.next();
                let mut config = self.profile.config();
                if self.bug == Some(InjectedBug::WindowsAreLate) {
                    config.calendar = late_windows();
                }
                self.hub = Hub::new(config, recovered, seed);
                self.hub.observe_all(true);
                (0..self.devices.len()).for_each(|index| self.begin_listening(index));
            }
            Fault::Calm => {
                self.calm = true;
                self.after_ms(5000, 5000, Event::Client(KEEPER));
                self.at(self.now.after(CALM), Event::Fault(Fault::Alone));
            }
            Fault::Alone => {
                (self.calm, self.alone) = (true, true);
                self.after_ms(5000, 5000, Event::Client(KEEPER));
                if self.profile.calm_first {
                    self.all_but_the_patient_have_ended()?;
                }
                self.all_devices_leave();
                self.at(self.now.after(ALONE), Event::Client(usize::MAX));
            }
        }
        Ok(())
    }

    /// The process ends; of what was on its way to disk, some may have got there.
    fn stop(&mut self) -> Verdict {
        let pending = self.store.pending() as u64;
        let arrived = self.random.from(0, pending);
        let _ = self.commit(arrived as usize)?;
        self.up = false;
        self.life += 1;
        self.commit_planned = false;
        self.judge.restarted();
        self.forget_sessions();
        if self.bug == Some(InjectedBug::StoreForgetsAttempts) {
            for row in self.store.disk.deliveries.values_mut() {
                row.attempt = 0;
            }
        }
        self.after_ms(10, 3000, Event::Fault(Fault::Start));
        Ok(())
    }

    /// Devices have listened and answered for a long time without any fault: what could be done
    /// is done.
    fn all_but_the_patient_have_ended(&self) -> Verdict {
        let calm_since = START.after(self.profile.active);
        // One that waits for the wall clock may wait for days, if that was set back.
        let waiting = self.store.disk.deliveries.values().find(|row| {
            let of_ours = self.devices.iter().any(|device| device.id == row.device);
            let late = row.head.not_before.is_some() || row.batch.is_some();
            let begun = if late { row.updated } else { row.head.created };
            let early = begun < calm_since.after(Duration::from_secs(120));
            of_ours && !row.state.is_terminal() && row.scheduled_at.is_none() && early
        });
        match waiting {
            Some(row) => Err(format!("its device listens and answers, yet it waits: {row:?}")),
            None => Ok(()),
        }
    }
}
