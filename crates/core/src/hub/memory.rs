//! How a device comes into memory, is acted on, and leaves it again.
//!
//! Whatever concerns a device waits until it is loaded; then it is done, and everything that follows
//! from it; what was decided becomes one transaction. A device that neither listens nor waits for
//! anything is forgotten: it is in the store. So memory grows with live streams, not with the fleet.

use std::collections::VecDeque;

use bellwire_proto::{CommandId, DeviceId, Timestamp};

use super::keys::KeyInUse;
use super::{Hub, earliest, store_unavailable};
use crate::device::Device;
use crate::io::{Output, SessionId};
use crate::op::Op;
use crate::record::{DeliveryRecord, Load, Txn, TxnId};
use crate::work::{LOAD_AGAIN, Withheld, Work};

impl Hub {
    /// A request that concerns a device.
    pub(super) fn request_at(&mut self, device: DeviceId, op: Op, now: Timestamp) {
        if !op.request().is_some_and(|request| self.refused(request)) {
            self.at_device(device, op, now);
        }
    }

    /// Does something at a device, which is loaded first if need be.
    pub(super) fn at_device(&mut self, id: DeviceId, op: Op, now: Timestamp) {
        match self.devices.get_mut(&id) {
            None => {
                self.desk.outputs.push_back(Output::Load(Load::Device(id.clone())));
                self.devices.insert(id.clone(), Box::new(Device::loading(id, op)));
            }
            Some(device) => match &mut device.loading {
                Some(waiting) => waiting.push(op),
                None => self.with_device(&id, now, |device, work| device.apply(op, work)),
            },
        }
    }

    pub(super) fn device_loaded(
        &mut self,
        id: &DeviceId,
        known: bool,
        live: Vec<DeliveryRecord>,
        now: Timestamp,
    ) {
        let Some(device) = self.devices.get_mut(id) else {
            return;
        };
        if device.loading.is_none() {
            return;
        }
        // Nothing else is done before the first of them: a device for which nothing is to be done
        // would be forgotten, and loaded again for ever. Each may let it go for the next.
        for op in device.loaded(known, live, self.desk.config.lease) {
            self.at_device(id.clone(), op, now);
        }
    }

    pub(super) fn load_failed(&mut self, load: Load, now: Timestamp) {
        let ops: Vec<Op> = match load {
            Load::Device(id) => {
                self.devices.remove(&id).and_then(|d| d.loading).unwrap_or_default()
            }
            Load::Delivery(id, command) => {
                let device = self.devices.get_mut(&id);
                let lookups = device.map(|d| std::mem::take(&mut d.lookups)).unwrap_or_default();
                let (failed, others) = lookups.into_iter().partition(|(c, _)| *c == command);
                if let Some(device) = self.devices.get_mut(&id) {
                    device.lookups = others;
                }
                self.forget_if_idle(&id, now);
                let failed: Vec<(CommandId, Vec<Op>)> = failed;
                failed.into_iter().flat_map(|(_, ops)| ops).collect()
            }
            Load::Data(id, _) => {
                return self.with_device(&id, now, |device, _| device.data_loaded(Vec::new(), now));
            }
            Load::Delivered { device, .. } => {
                return self.with_device(&device, now, |device, work| device.replay_failed(work));
            }
            Load::Targets(command) => {
                for (request, _) in self.cancels.remove(&command).unwrap_or_default() {
                    self.desk.refuse(request, store_unavailable());
                }
                return;
            }
            Load::Idempotency(key) => {
                if let Some(KeyInUse::Undecided(waiting)) = self.keys.remove(&key) {
                    for (request, ..) in waiting {
                        self.desk.waiting.remove(&request);
                        self.desk.refuse(request, store_unavailable());
                    }
                }
                return;
            }
            Load::Due(..) => {
                self.due_loading = false;
                self.next_due = earliest(self.next_due, Some(now.after(LOAD_AGAIN)));
                return;
            }
        };
        for op in ops {
            if let Op::Listen { session, .. } = &op {
                self.desk.sessions.remove(session);
            }
            if let Some(request) = op.request() {
                self.desk.waiting.remove(&request);
                self.desk.refuse(request, store_unavailable());
            }
            match op {
                Op::Send { send, .. } => {
                    let Some((key, _)) = send.idempotency else { continue };
                    self.decided.push_back((key, send.device, None));
                    self.settle_keys(now);
                }
                // What is due is due still.
                Op::Tick => self.next_due = earliest(self.next_due, Some(now.after(LOAD_AGAIN))),
                _ => {}
            }
        }
    }

    pub(super) fn with_session(
        &mut self,
        session: SessionId,
        now: Timestamp,
        act: impl FnOnce(&mut Device, &mut Work<'_>),
    ) {
        if let Some(id) = self.desk.sessions.get(&session).cloned() {
            self.with_device(&id, now, act);
        }
    }

    /// Acts on a device that is in memory, and then on everything that follows from it: time,
    /// cancellations, whose turn it is, polls, presence. What was decided becomes one transaction.
    pub(super) fn with_device(
        &mut self,
        id: &DeviceId,
        now: Timestamp,
        act: impl FnOnce(&mut Device, &mut Work<'_>),
    ) {
        let Some(device) = self.devices.get_mut(id).filter(|d| d.loading.is_none()) else {
            return;
        };
        let mut work = Work {
            now,
            desk: &mut self.desk,
            changes: Vec::new(),
            outputs: Vec::new(),
            decided: Vec::new(),
        };
        device.tick(&mut work);
        act(device, &mut work);
        device.tell_cancels(&mut work);
        device.pump(&mut work);
        device.settle_poll(&mut work);
        device.update_presence(&mut work);
        device.flush_rows(&mut work);
        device.forget_ended(self.committed);
        let Work { changes, outputs, decided, .. } = work;
        let key = decided.iter().find(|(_, _, made)| made.is_some()).map(|(key, ..)| key.clone());
        if !changes.is_empty() {
            self.desk.last_txn = TxnId(self.desk.last_txn.0 + 1);
            device.txn = self.desk.last_txn;
            self.desk.outputs.push_back(Output::Persist(Txn::new(device.txn, changes)));
            let (txn, device) = (device.txn, id.clone());
            self.withheld.push_back(Withheld { txn, device, outputs, key });
        } else if let Some(withheld) = pending(&mut self.withheld, device.txn) {
            // What is told rests on rows that are still on their way.
            withheld.outputs.extend(outputs);
        } else {
            self.desk.outputs.extend(outputs);
        }
        self.set_timer(id, now);
        self.forget_if_idle(id, now);
        for decision in decided {
            self.decided.push_back(decision);
            self.settle_keys(now);
        }
    }

    fn set_timer(&mut self, id: &DeviceId, now: Timestamp) {
        let Some(device) = self.devices.get_mut(id) else {
            return;
        };
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

    pub(super) fn forget_if_idle(&mut self, id: &DeviceId, now: Timestamp) {
        let Some(device) = self.devices.get(id) else {
            return;
        };
        if !device.idle(self.committed, now) {
            return;
        }
        self.next_due = earliest(self.next_due, device.due_at());
        if let Some(at) = device.wake_at {
            self.timers.remove(&(at, id.clone()));
        }
        self.devices.remove(id);
    }
}

/// The transaction `txn` while it is under way. Numbers rise by one, so its place is known.
fn pending(withheld: &mut VecDeque<Withheld>, txn: TxnId) -> Option<&mut Withheld> {
    let first = withheld.front()?.txn;
    let at = usize::try_from(txn.0.checked_sub(first.0)?).ok()?;
    withheld.get_mut(at)
}
