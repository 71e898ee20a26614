//! How a send comes in: by its idempotency key, if it has one, and then to one device or several.

use bellwire_proto::{Code, Problem};

use super::Hub;
use crate::context::{KeyDecision, store_unavailable};
use crate::device::{DeliveryOp, Op};
use crate::idempotency::{KeyStep, StoredSend};
use crate::io::{Answer, NewSend, Output, Target};
use crate::record::{IdempotencyKey, IdempotencyRecord, Load};
use crate::time::Now;

impl Hub {
    /// A send comes in: at once, or after its key has been looked up.
    pub(super) fn send_by_key(&mut self, send: NewSend, now: Now) {
        let Some((key, _)) = send.1.idempotency.clone() else {
            return self.send_now(send, now);
        };
        match self.keys.begin(&key, send) {
            KeyStep::LookUp => self.ctx.outputs.push_back(Output::Load(Load::Idempotency(key))),
            step => self.key_step(step, now),
        }
    }

    pub(super) fn key_loaded(
        &mut self,
        key: &IdempotencyKey,
        found: Option<Box<IdempotencyRecord>>,
        now: Now,
    ) {
        let step = self.keys.loaded(key, found, now.instant);
        self.key_step(step, now);
    }

    pub(super) fn key_not_loaded(&mut self, key: &IdempotencyKey) {
        for request in self.keys.not_loaded(key) {
            self.ctx.refuse(request, store_unavailable());
        }
    }

    pub(super) fn key_decided(&mut self, decision: KeyDecision, now: Now) {
        let step = self.keys.decided(decision);
        self.key_step(step, now);
    }

    fn key_step(&mut self, step: KeyStep, now: Now) {
        match step {
            KeyStep::Wait | KeyStep::LookUp => {}
            KeyStep::Send(send) => self.send_now(send, now),
            KeyStep::Again(sends, made) => {
                sends.into_iter().for_each(|send| self.send_again(send, &made, now));
            }
        }
    }

    /// A send whose key, if it has one, was not used before.
    fn send_now(&mut self, (request, send, random): NewSend, now: Now) {
        if let Some(problem) = &send.refused {
            return self.refuse_send(request, &send, (**problem).clone());
        }
        match &send.target {
            Target::Device(device) if send.rollout.is_some() => {
                let devices = vec![device.clone()];
                self.send_to_devices((request, send, random), devices, now);
            }
            Target::Device(device) => {
                self.at_device(device.clone(), Op::Send { request, send, random }, now);
            }
            Target::Devices(devices) => {
                let devices = devices.clone();
                self.send_to_devices((request, send, random), devices, now);
            }
            Target::Found(query) => {
                let query = query.clone();
                self.find_targets((request, send, random), query);
            }
        }
    }

    /// Answers a send whose key was used before: for the command that was made then, if it is the
    /// same request.
    fn send_again(&mut self, (request, send, _): NewSend, made: &StoredSend, now: Now) {
        // It changes nothing.
        self.ctx.audits.take(request);
        if send.idempotency.is_none_or(|(_, fingerprint)| fingerprint != made.fingerprint) {
            let detail = "this Idempotency-Key was used for another request; take a new key";
            return self.ctx.refuse(request, Problem::new(Code::IdempotencyMismatch, detail));
        }
        match &made.device {
            Some(device) => {
                let op = DeliveryOp::Rejoin { request, wait: send.wait };
                let op = Op::Delivery { command: made.command, op };
                self.at_device(device.clone(), op, now);
            }
            // It may be on its way to the disk, which the answer must wait for.
            None => {
                let reply = Output::Reply(request, Answer::Command(made.command));
                self.txns.output_after_all(reply, &mut self.ctx);
            }
        }
    }
}
