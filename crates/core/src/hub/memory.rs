//! How a device comes into memory, is acted upon, and leaves it again.
//!
//! Whatever concerns a device waits until it is loaded; then it is done, and everything that follows
//! from it; the changes become one transaction. A device that neither listens nor waits for anything
//! is forgotten: it is in the store. So memory grows with live streams, not with the fleet.

use std::collections::BTreeMap;
use std::time::Duration;

use bellwire_proto::{DeviceId, Seq, Timestamp};

use super::{DUE_ROWS_MAX, Hub};
use crate::context::store_unavailable;
use crate::device::{DeliveryOp, Device, Op, PAGE_MAX};
use crate::ids::SessionId;
use crate::io::Output;
use crate::record::{Load, LoadedDevice};
use crate::time::{Instant, LOAD_RETRY, Now};
use crate::txn::{CallOutcome, TxnBuilder};

/// How long to leave the store alone when it still shows what is being dealt with.
const DUE_RETRY: Duration = Duration::from_millis(200);
/// The same when there is more to be dealt with.
const DUE_NEXT_PAGE: Duration = Duration::from_millis(50);

impl Hub {
    /// A whole call that concerns a device.
    pub(super) fn call_device(&mut self, device: DeviceId, op: Op, now: Now) {
        self.at_device(device, op, now);
        self.finish_call(now);
    }

    /// Does something at a device, which is loaded first if need be.
    pub(super) fn at_device(&mut self, id: DeviceId, op: Op, now: Now) {
        let device = self.in_memory(&id);
        if device.is_ready() {
            self.with_device(&id, now, |device, txn| op.apply(device, txn));
        } else {
            device.wait(op);
        }
    }

    /// The device, which is being loaded if it was not in memory.
    pub(super) fn in_memory(&mut self, id: &DeviceId) -> &mut Device {
        let Self { devices, ctx, .. } = self;
        devices.entry(id.clone()).or_insert_with(|| {
            ctx.outputs.push_back(Output::Load(Load::Device(id.clone(), PAGE_MAX)));
            Box::new(Device::loading(id.clone()))
        })
    }

    pub(super) fn device_loaded(&mut self, loaded: LoadedDevice, now: Now) {
        let id = loaded.device.clone();
        let Some(device) = self.devices.get_mut(&id).filter(|device| device.is_loading()) else {
            return;
        };
        device.loaded(loaded, self.ctx.config.lease);
        self.device_is_ready(&id, now);
    }

    /// What waited for a device to be ready follows. Nothing else is done to it before: a device
    /// for which nothing is to be done would be forgotten, and loaded again for ever.
    fn device_is_ready(&mut self, id: &DeviceId, now: Now) {
        let Some(device) = self.devices.get_mut(id) else { return };
        let steps = device.steps().to_vec();
        self.do_waiting(id, now);
        steps.into_iter().for_each(|step| self.step_device_ready(step, now));
        // Whatever it was loaded for may have been given up meanwhile.
        self.forget_if_idle(id, now);
    }

    /// Does what has waited for a device, if it is ready. Each may let it go, or wait again.
    pub(super) fn do_waiting(&mut self, id: &DeviceId, now: Now) {
        let device = self.devices.get_mut(id).filter(|device| device.is_ready());
        let waiting = device.map(|device| device.take_waiting());
        for op in waiting.unwrap_or_default() {
            self.at_device(id.clone(), op, now);
        }
    }

    pub(super) fn load_failed(&mut self, load: Load, now: Now) {
        let retry_at = now.instant.after(LOAD_RETRY);
        match load {
            Load::Device(id, _) => self.device_not_loaded(&id, now),
            Load::Delivery(id, command) => self.with_device(&id, now, |device, txn| {
                for op in device.end_lookup(command) {
                    op.refuse(store_unavailable(), txn.ctx);
                }
            }),
            Load::Queue(id, ..) => {
                self.with_device(&id, now, |device, _| device.queue_loaded(None, now));
            }
            Load::Data(id, seq) => {
                self.with_device(&id, now, |device, _| device.data_loaded(seq, None, now));
            }
            Load::Deliveries(id, _) => {
                self.with_device(&id, now, |device, txn| device.due_loaded(None, txn));
            }
            Load::Live(id, _) => {
                self.with_device(&id, now, |device, txn| device.live_loaded(None, txn));
            }
            Load::Delivered { device, .. } => {
                self.with_device(&device, now, |device, txn| device.replay_failed(txn));
            }
            Load::Command(command) => {
                for (request, _) in self.cancels.remove(&command).unwrap_or_default() {
                    self.ctx.refuse(request, store_unavailable());
                }
            }
            Load::Targets(command, first) => {
                self.ctx.commands.chunk_failed(command, &first, retry_at);
            }
            Load::Found { request, .. } => {
                self.targets_not_found(request, store_unavailable(), now)
            }
            Load::LiveOf(command, ..) => self.ctx.commands.cancel_page_failed(command, retry_at),
            Load::Unknown(request, _) => self.check_failed(request),
            Load::Idempotency(key) => self.key_not_loaded(&key),
            Load::Token(token) => self.token_not_loaded(token),
            Load::Due(..) => {
                self.due_loading = false;
                self.ctx.due.add_deadline(Some(retry_at));
            }
        }
    }

    /// The store could not look up a device: what waits for it is refused, save for steps that are
    /// promised.
    fn device_not_loaded(&mut self, id: &DeviceId, now: Now) {
        let Some(device) = self.devices.get_mut(id) else { return };
        let (ops, steps) = (device.take_waiting(), device.steps().to_vec());
        ops.into_iter().for_each(|op| op.refuse(store_unavailable(), &mut self.ctx, now));
        steps.into_iter().for_each(|step| self.step_failed(step, now));
        if self.devices.get(id).is_some_and(|device| device.steps().is_empty()) {
            self.devices.remove(id);
        } else {
            let steps = self.devices.get(id).map(|device| device.steps().to_vec());
            let reload_at = now.instant.after(LOAD_RETRY);
            self.ctx.commands.reload(id.clone(), &steps.unwrap_or_default(), reload_at);
        }
    }

    /// What is due of deliveries that are in the store alone, and when to look again.
    pub(super) fn due_loaded(
        &mut self,
        rows: Vec<(DeviceId, Seq)>,
        next: Option<Instant>,
        next_scheduled: Option<Timestamp>,
        now: Now,
    ) {
        self.due_loading = false;
        let more = rows.len() >= DUE_ROWS_MAX;
        let retry_at = now.instant.after(if more { DUE_NEXT_PAGE } else { DUE_RETRY });
        self.ctx.due.add_deadline(next.map(|at| at.max(retry_at)));
        match next_scheduled {
            Some(at) if at <= now.wall => self.ctx.due.add_deadline(Some(retry_at)),
            next => self.ctx.due.add_scheduled(next),
        }
        let mut by_device: BTreeMap<DeviceId, Vec<Seq>> = BTreeMap::new();
        for (device, seq) in rows {
            by_device.entry(device).or_default().push(seq);
        }
        for (device, seqs) in by_device {
            self.at_device(device, Op::Due { seqs }, now);
        }
    }

    pub(super) fn with_session(
        &mut self,
        session: SessionId,
        now: Now,
        act: impl FnOnce(&mut Device, &mut TxnBuilder<'_>),
    ) {
        if let Some(id) = self.ctx.sessions.get(&session).map(|open| open.device.clone()) {
            self.with_device(&id, now, act);
            self.finish_call(now);
        }
    }

    /// Acts on a device that is in memory. What was decided becomes one transaction.
    pub(super) fn with_device(
        &mut self,
        id: &DeviceId,
        now: Now,
        act: impl FnOnce(&mut Device, &mut TxnBuilder<'_>),
    ) {
        let Some(device) = self.devices.get_mut(id).filter(|device| !device.is_loading()) else {
            return;
        };
        let removing = device.is_removing();
        let mut txn = TxnBuilder::new(now, &self.txns, &mut self.ctx);
        device.call(&mut txn, self.txns.committed(), act);
        let removed = removing && device.is_ready();
        let outcome = txn.finish(&mut self.txns);
        self.end_call(outcome, now);
        if removed {
            self.device_is_ready(id, now);
        }
    }

    /// Sets the timers of the devices that a call touched, and forgets those that are idle.
    pub(super) fn end_call(&mut self, outcome: CallOutcome, now: Now) {
        self.ctx.key_decisions.extend(outcome.decisions);
        for id in outcome.devices.iter() {
            self.set_timer(id, now);
            self.forget_if_idle(id, now);
        }
    }

    /// A transaction with a row of the device is on disk.
    pub(super) fn device_committed(&mut self, id: &DeviceId, now: Now) {
        let Some(device) = self.devices.get_mut(id) else { return };
        if device.is_removing() {
            return self.with_device(id, now, |_, _| {});
        }
        device.settle(self.txns.committed(), &mut self.ctx);
        self.forget_if_idle(id, now);
    }

    fn set_timer(&mut self, id: &DeviceId, now: Now) {
        let Some(device) = self.devices.get_mut(id) else {
            return;
        };
        // The wall clock may be set before the timer runs out.
        self.ctx.due.add_scheduled(device.deliveries.next_scheduled());
        let deadline = device.next_deadline(now);
        if device.wake_at == deadline {
            return;
        }
        if let Some(at) = device.wake_at {
            self.timers.remove(&(at, id.clone()));
        }
        device.wake_at = deadline;
        if let Some(at) = deadline {
            self.timers.insert((at, id.clone()));
        }
    }

    pub(super) fn forget_if_idle(&mut self, id: &DeviceId, now: Now) {
        let Some(device) = self.devices.get(id) else {
            return;
        };
        if !device.is_idle(self.txns.committed(), now) {
            return;
        }
        device.deliveries.add_due(&mut self.ctx.due);
        if let Some(at) = device.wake_at {
            self.timers.remove(&(at, id.clone()));
        }
        self.devices.remove(id);
    }

    /// Refuses everything that waits at devices, and forgets them: the store has failed.
    pub(super) fn abandon_devices(&mut self, now: Now) {
        // In the order of names, so that a seed decides the whole run.
        let mut devices: Vec<_> = self.devices.drain().collect();
        self.ctx.online.clear();
        devices.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        for (_, device) in devices {
            let (ops, lookups, removal) = device.abandon();
            ops.into_iter().for_each(|op| op.refuse(store_unavailable(), &mut self.ctx, now));
            let refuse = |op: DeliveryOp| op.refuse(store_unavailable(), &mut self.ctx);
            lookups.into_iter().for_each(refuse);
            if let Some(request) = removal {
                self.ctx.refuse(request, store_unavailable());
            }
        }
        self.ctx.key_decisions.clear();
        self.ctx.grant_decisions.clear();
    }
}
