//! What the store reports: a transaction is on disk, a lookup is answered, nothing can be stored any more.

use std::collections::BTreeSet;

use bellwire_proto::stream::ByeReason;

use super::Hub;
use crate::context::store_unavailable;
use crate::ids::{RequestId, SessionId};
use crate::io::Output;
use crate::record::{Committed, Loaded};
use crate::time::Now;
use crate::txn::bye;

impl Hub {
    /// A transaction is on disk: what it withheld is released.
    pub fn handle_committed(&mut self, committed: Committed, now: Now) {
        if self.failed {
            return;
        }
        self.txns.commit(committed.0);
        while let Some(pending) = self.txns.release(&mut self.ctx) {
            if let Some(key) = &pending.key {
                self.keys.committed(key);
            }
            for device in pending.devices.iter() {
                self.device_committed(device, now);
            }
            pending.revoked.into_iter().for_each(|revoked| self.end_revoked(revoked, now));
            if let Some(token) = pending.token {
                self.forget_token_if_idle(token);
            }
        }
        self.finish_call(now);
    }

    /// The answer to a [`Output::Load`].
    pub fn handle_loaded(&mut self, loaded: Loaded, now: Now) {
        if self.failed {
            return;
        }
        match loaded {
            Loaded::Device(loaded) => self.device_loaded(*loaded, now),
            Loaded::Queue(device, page) => {
                self.with_device(&device, now, |device, _| device.queue_loaded(Some(page), now));
            }
            Loaded::Deliveries(device, rows) => {
                self.with_device(&device, now, |device, txn| device.due_loaded(Some(rows), txn));
            }
            Loaded::Live(device, rows) => {
                self.with_device(&device, now, |device, txn| device.live_loaded(Some(rows), txn));
            }
            Loaded::Data(device, seq, data) => {
                self.with_device(&device, now, |device, _| device.data_loaded(seq, data, now));
            }
            Loaded::Delivery(device, command, found) => {
                let found = found.map(|record| *record);
                self.with_device(&device, now, |d, txn| d.looked_up(command, found, txn));
            }
            Loaded::Command(command, found) => self.command_loaded(command, found, now),
            Loaded::Targets(command, first, found) => {
                self.targets_loaded(command, first, found, now);
            }
            Loaded::Found(request, page) => self.targets_found(request, page, now),
            Loaded::LiveOf(command, devices) => self.live_of_loaded(command, devices, now),
            Loaded::Unknown(request, unknown) => self.unknown_loaded(request, unknown, now),
            Loaded::Idempotency(key, found) => self.key_loaded(&key, found, now),
            Loaded::Token(token, found) => self.token_loaded(token, found, now),
            Loaded::Due { rows, next, next_scheduled } => {
                self.due_loaded(rows, next, next_scheduled, now);
            }
            Loaded::Delivered(device, page) => {
                self.with_device(&device, now, |device, txn| device.replay(page, txn));
            }
            Loaded::Failed(load) => self.load_failed(load, now),
        }
        self.finish_call(now);
    }

    /// The store will commit nothing more: what waits for it, and every later request, is refused
    /// with `store_unavailable`.
    pub fn handle_store_failed(&mut self, now: Now) {
        self.failed = true;
        self.abandon_devices(now);
        let mut refused: BTreeSet<RequestId> =
            self.ctx.waiting.drain().map(|(request, _)| request).collect();
        for output in self.txns.abandon() {
            match output {
                Output::Reply(request, _) => drop(refused.insert(request)),
                // These streams are forgotten already; nothing else would end them.
                Output::Close { .. } => self.ctx.outputs.push_back(output),
                _ => {}
            }
        }
        refused.extend(self.keys.abandon());
        refused.extend(self.cancels.drain().flat_map(|(_, waiting)| waiting).map(|(r, _)| r));
        refused.extend(self.unchecked.drain().map(|(request, _)| request));
        refused.extend(self.ctx.commands.abandon());
        refused.extend(self.ctx.grants.abandon());
        self.ctx.schedules.abandon();
        refused.into_iter().for_each(|request| self.ctx.refuse(request, store_unavailable()));
        self.timers.clear();
        let sessions: BTreeSet<SessionId> = self.ctx.sessions.drain().map(|(id, _)| id).collect();
        for session in sessions {
            let bye = bye(ByeReason::Rotate, self.ctx.random.next_unit());
            self.ctx.outputs.push_back(Output::Close { session, bye });
        }
    }
}
