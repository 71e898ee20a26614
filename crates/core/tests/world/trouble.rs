//! What a world is like, and what goes wrong in it: crashes, a failing disk, drains, and how it is
//! left alone in the end.

use std::time::Duration;

use bellwire_core::{Config, Hub};

use super::judge::Verdict;
use super::random::Random;
use super::{Event, START, World, Wrong};

/// How long the world is left alone with its devices: longer than any wait that it has asked for,
/// except the times to live.
const CALM: Duration = Duration::from_secs(30 * 60);
/// How long it is left alone without devices: longer than any time to live and run clock.
const ALONE: Duration = Duration::from_secs(3 * 3600);

/// What a run is like; drawn from the seed.
#[derive(Debug)]
pub(super) struct Climate {
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
    pub(super) calm_first: bool,
}

impl Climate {
    pub(super) fn drawn(r: &mut Random) -> Self {
        // Some worlds are busy, in others long silences tell what nobody has looked after.
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
            calm_first: r.percent(60),
        }
    }

    pub(super) fn config(&self) -> Config {
        Config {
            lease: self.lease,
            max_in_flight: self.max_in_flight,
            queue_max: 20,
            ..Config::default()
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Trouble {
    Crash,
    StoreFails,
    Drain,
    Start,
    /// No more trouble; devices go on.
    Calm,
    /// Everybody goes.
    Alone,
}

impl World {
    pub(super) fn trouble(&mut self, trouble: Trouble) -> Verdict {
        match trouble {
            Trouble::Crash if self.up && (self.ailing || !self.alone) => self.stop()?,
            Trouble::StoreFails if self.up && !self.alone => {
                self.hub.handle_store_failed(self.now);
                self.store.abandon();
                self.ailing = true;
                self.after_ms(100, 5000, Event::Trouble(Trouble::Crash));
            }
            Trouble::Drain if self.up && !self.alone => {
                self.hub.handle_drain(self.now);
                self.ailing = true;
                self.after_ms(100, 9000, Event::Trouble(Trouble::Crash));
            }
            Trouble::Crash | Trouble::StoreFails | Trouble::Drain => {}
            Trouble::Start => {
                (self.up, self.ailing) = (true, false);
                let recovered = self.store.restart(self.now);
                let seed = self.random.next();
                self.hub = Hub::new(self.climate.config(), recovered, seed);
                self.hub.observe_all(true);
                (0..self.devices.len()).for_each(|index| self.begin_listening(index));
            }
            Trouble::Calm => {
                self.calm = true;
                self.at(self.now.after(CALM), Event::Trouble(Trouble::Alone));
            }
            Trouble::Alone => {
                (self.calm, self.alone) = (true, true);
                if self.climate.calm_first {
                    self.all_but_the_patient_have_ended()?;
                }
                self.everybody_goes();
                self.at(self.now.after(ALONE), Event::Person(usize::MAX));
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
        if self.wrong == Some(Wrong::StoreForgetsAttempts) {
            for row in self.store.disk.deliveries.values_mut() {
                row.attempt = 0;
            }
        }
        self.after_ms(10, 3000, Event::Trouble(Trouble::Start));
        Ok(())
    }

    /// Devices have listened and answered for a long time without any trouble: what could be done
    /// is done.
    fn all_but_the_patient_have_ended(&self) -> Verdict {
        let calm_since = START.after(self.climate.active);
        let waiting = self.store.disk.deliveries.values().find(|row| {
            let begun = row.head.created_at.max(row.head.not_before.unwrap_or_default());
            !row.state.is_terminal() && begun < calm_since.after(Duration::from_secs(120))
        });
        match waiting {
            Some(row) => Err(format!("its device listens and answers, yet it waits: {row:?}")),
            None => Ok(()),
        }
    }
}
