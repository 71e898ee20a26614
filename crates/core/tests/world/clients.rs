//! People and their programs: they send, wait, lose patience, cancel, send again with the same key; and
//! operators who register and remove devices.

use std::sync::Arc;
use std::time::Duration;

use bellwire_core::record::IdempotencyKey;
use bellwire_core::{Answer, RequestId, RolloutOp, Send, Target};
use bellwire_proto::{
    AbortRule, BatchSize, CommandId, DeliveryState, DeviceId, Json, Labels, RolloutPlan,
    RolloutState, Seconds, Seq,
};

use super::judge::Requested;
use super::{Event, Input, Owner, World};

/// The one who resumes rollouts in the end; no client has this number.
pub(super) const KEEPER: usize = usize::MAX - 1;

#[derive(Default)]
pub(crate) struct Client {
    /// Commands that the hub has answered it with.
    commands: Vec<CommandId>,
    /// Requests that it made with a key, to be made again.
    keyed: Vec<Send>,
}

impl World {
    pub(super) fn client_acts(&mut self, index: usize) {
        if index == KEEPER {
            return self.resumes_all();
        }
        if self.calm || index >= self.clients.len() {
            return;
        }
        self.after_ms(50, self.profile.pace_ms_max, Event::Client(index));
        if !self.up {
            return;
        }
        match self.random.from(0, 99) {
            0..54 => self.sends(index),
            54..60 => self.acts_on_schedules(index),
            60..68 => self.sends_again(index),
            68..83 => self.cancels(index),
            83..88 => self.changes_rollout(index),
            88..92 => self.removes(index),
            92..96 => self.acts_on_tokens(index),
            _ => self.registers(index),
        }
    }

    pub(super) fn client_answered(&mut self, index: usize, _request: RequestId, answer: Answer) {
        match answer {
            Answer::Delivery(delivery) => self.clients[index].commands.push(delivery.command),
            Answer::Command(command) => self.clients[index].commands.push(command),
            _ => {}
        }
    }

    pub(super) fn any_device(&mut self) -> DeviceId {
        let index = self.random.index(self.devices.len());
        self.devices[index].id.clone()
    }

    /// Some of the devices, and maybe some that never listen: now and then more than one step of
    /// an expansion takes.
    fn several_devices(&mut self) -> Target {
        let mut devices: Vec<DeviceId> = self.devices.iter().map(|d| d.id.clone()).collect();
        devices.retain(|_| self.random.percent(80));
        let phantoms = self.random.pick(&[0, 1, 4, 4, 12, 12, 150, 300]);
        let names = (0..phantoms).map(|n| format!("device-{}-{n}", n % 5).parse().unwrap());
        devices.extend(names);
        Target::of(devices).unwrap_or_else(|| Target::Device(self.any_device()))
    }

    fn sends(&mut self, index: usize) {
        let target = if self.random.percent(self.profile.to_many) {
            if self.random.percent(25) {
                Target::Found(Box::default())
            } else {
                self.several_devices()
            }
        } else {
            Target::Device(self.any_device())
        };
        let data = Json::text(&format!("command {}", self.number()));
        let mut send = Send::to(target, "run".parse().unwrap(), data);
        send.ttl = self
            .random
            .pick(&[None, None, Some(0), Some(1), Some(5), Some(40), Some(600)])
            .map(Seconds::new);
        send.run_timeout = self.random.pick(&[None, Some(1), Some(5), Some(60)]).map(Seconds::new);
        send.wait = Seconds::new(self.random.pick(&[0, 0, 1, 20, 300]));
        if self.random.percent(10) {
            let ms = self.random.from(1, 60_000);
            send.not_before = Some(self.clock().wall.after(Duration::from_millis(ms)));
        }
        send.window = self.any_window().map(Arc::new);
        if self.random.percent(self.profile.to_many / 3) {
            send.rollout = Some(Box::new(self.rollout_plan()));
            send.reject_when_full = true;
        }
        if self.random.percent(25) {
            // Few keys for all, so that they are used twice for different requests too.
            let name = format!("key {}", self.random.from(0, 12));
            let key = IdempotencyKey { caller: String::new(), key: name };
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&self.random.next().to_le_bytes());
            send.idempotency = Some((key, digest));
            self.clients[index].keyed.push(send.clone());
        }
        let copies = if send.idempotency.is_some() { self.random.from(1, 3) } else { 1 };
        for _ in 0..copies {
            self.ask_to_send(index, send.clone());
        }
    }

    fn sends_again(&mut self, index: usize) {
        let keyed = self.clients[index].keyed.len();
        if keyed > 0 {
            let again = self.random.index(keyed);
            let send = self.clients[index].keyed[again].clone();
            self.ask_to_send(index, send);
        }
    }

    fn ask_to_send(&mut self, index: usize, send: Send) {
        let waits_s = send.wait.get();
        let key = send.idempotency.clone().map(|(key, digest)| (key.key, digest));
        let random = self.random.bytes();
        let requested = match send.target {
            Target::Found(_) => {
                let known = self.store.disk.devices.keys().cloned().collect();
                Requested::SendToAll(key, known, self.clock().instant)
            }
            _ => Requested::Send(key, send.target.clone()),
        };
        let request = self.request(Owner::Client(index), requested, |request| {
            Input::Send(request, Box::new(send), random)
        });
        if waits_s > 0 && self.random.percent(20) {
            let most = waits_s * 1000;
            self.after_ms(1, most, Event::Hub(self.life, Input::Abandoned(request)));
        }
    }

    fn cancels(&mut self, index: usize) {
        let known = self.clients[index].commands.len();
        if known == 0 {
            return;
        }
        // One of the latest four: older ones have mostly ended.
        let back = self.random.index(known.min(4));
        let command = self.clients[index].commands[known - 1 - back];
        let force = self.random.percent(25);
        self.request(Owner::Client(index), Requested::Cancel(command), |request| {
            Input::Cancel(request, command, force)
        });
    }

    fn changes_rollout(&mut self, index: usize) {
        let rollouts: Vec<Seq> = self.store.disk.rollouts.keys().copied().collect();
        if rollouts.is_empty() {
            return;
        }
        let seq = rollouts[self.random.index(rollouts.len())];
        let ops = [RolloutOp::Pause, RolloutOp::Pause, RolloutOp::Resume, RolloutOp::Abort];
        let op = self.random.pick(&ops);
        self.asks_rollout(index, seq, op);
    }

    fn asks_rollout(&mut self, index: usize, seq: Seq, op: RolloutOp) {
        let Some(command) = self.store.disk.commands.get(&seq).map(|c| c.head.id) else { return };
        self.request(Owner::Client(index), Requested::Rollout(command, op), |request| {
            Input::Rollout(request, command, op)
        });
    }

    /// No operator acts any more: what is paused is resumed until every rollout has ended.
    fn resumes_all(&mut self) {
        let live = self.store.disk.rollouts.iter().filter(|(_, r)| !r.state.is_ended());
        let live: Vec<(Seq, RolloutState)> = live.map(|(seq, r)| (*seq, r.state)).collect();
        for (seq, state) in &live {
            if *state == RolloutState::Paused && self.up {
                self.asks_rollout(0, *seq, RolloutOp::Resume);
            }
        }
        if !live.is_empty() {
            self.after_ms(60_000, 60_000, Event::Client(KEEPER));
        }
    }

    fn rollout_plan(&mut self) -> RolloutPlan {
        let sizes = [
            BatchSize::Devices(1),
            BatchSize::Devices(2),
            BatchSize::Devices(100),
            BatchSize::Percent(10),
            BatchSize::Percent(50),
        ];
        let abort = self.random.percent(50).then(|| AbortRule {
            states: vec![DeliveryState::Failed, DeliveryState::Expired, DeliveryState::Dead],
            percent: self.random.pick(&[1, 20, 50, 100]),
            min: self.random.pick(&[1, 2, 10]),
            cancel: self.random.percent(50),
        });
        RolloutPlan {
            batch: self.random.pick(&sizes),
            canary: self.random.percent(10).then(|| "number".to_owned()),
            done_percent: self.random.pick(&[100, 100, 50, 1]),
            interval_s: self.random.pick(&[None, None, Some(0), Some(1), Some(30)]),
            pause_s: self.random.pick(&[0, 0, 1, 20]),
            abort,
        }
    }

    fn registers(&mut self, index: usize) {
        let (device, number) = (self.any_device(), self.number());
        if self.random.percent(50) {
            let labels = Labels::from([("number".to_owned(), number.to_string())]);
            let requested = Requested::Put(device.clone(), format!("{labels:?}"));
            self.request(Owner::Client(index), requested, |request| {
                Input::PutDevice(request, device, labels)
            });
        } else {
            let facts = Json::parse(&format!("{{\"number\":{number}}}")).unwrap();
            let requested = Requested::Put(device.clone(), facts.as_str().to_owned());
            self.request(Owner::Client(index), requested, |request| {
                Input::PutFacts(request, device, facts)
            });
        }
    }

    fn removes(&mut self, index: usize) {
        if self.random.percent(80) {
            return;
        }
        let device = self.any_device();
        self.request(Owner::Client(index), Requested::Delete(device.clone()), |request| {
            Input::Delete(request, device)
        });
    }
}
