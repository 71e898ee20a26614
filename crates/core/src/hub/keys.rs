//! Idempotency keys that are in use just now: the same request twice is one command.
//!
//! A key is looked up in the store first. Sends with the same key that come in meanwhile wait for what
//! becomes of the first: if it made a command they are answered for that one, if it was refused
//! the next of them is first. Contract, section 3.

use std::collections::VecDeque;

use bellwire_proto::{Code, CommandId, DeviceId, Problem, Seconds, Timestamp};

use super::Hub;
use crate::io::{RequestId, Send};
use crate::op::Op;
use crate::record::{IdempotencyKey, IdempotencyRecord};

/// A send that waits for what becomes of its key.
pub(super) type SendWaiting = (RequestId, Box<Send>, [u8; 10]);

/// A key, the device of its first send, and the command that was made of it with the digest of the
/// request; `None` when it was refused.
pub(crate) type Decided = (IdempotencyKey, DeviceId, Option<([u8; 32], CommandId)>);

/// A key that is not simply in the store.
#[derive(Debug)]
pub(super) enum KeyInUse {
    /// It is being looked up, or its first send decided on; the others wait.
    Undecided(VecDeque<SendWaiting>),
    /// Its command is made and on its way to disk.
    Made { fingerprint: [u8; 32], command: CommandId, device: DeviceId },
}

impl Hub {
    pub(super) fn key_loaded(
        &mut self,
        key: &IdempotencyKey,
        found: Option<Box<IdempotencyRecord>>,
        now: Timestamp,
    ) {
        let Some(KeyInUse::Undecided(waiting)) = self.keys.get_mut(key) else {
            return;
        };
        let Some(found) = found.filter(|record| record.expires_at > now) else {
            // The first decides; the others stay until it has.
            if let Some(first) = waiting.pop_front() {
                self.send_now(first, now);
            }
            return;
        };
        let waiting = std::mem::take(waiting);
        self.keys.remove(key);
        for (request, send, _) in waiting {
            let same = send.idempotency.is_some_and(|(_, print)| print == found.fingerprint);
            let made = same.then(|| (found.command, found.device.clone()));
            self.send_again(request, send.wait, made, now);
        }
    }

    /// First sends with a key have been decided on: the others follow, or the next is first.
    pub(super) fn settle_keys(&mut self, now: Timestamp) {
        // What is done here may decide on further keys. They are added to the queue, and it is
        // worked off by the outermost call: a loop instead of a recursion as deep as the queue.
        if self.decided.len() > 1 {
            return;
        }
        while let Some((key, device, made)) = self.decided.front().cloned() {
            self.key_decided(key, &device, made, now);
            self.decided.pop_front();
        }
    }

    fn key_decided(
        &mut self,
        key: IdempotencyKey,
        device: &DeviceId,
        made: Option<([u8; 32], CommandId)>,
        now: Timestamp,
    ) {
        let Some(KeyInUse::Undecided(mut waiting)) = self.keys.remove(&key) else {
            return;
        };
        if let Some((fingerprint, command)) = made {
            let device = device.clone();
            self.keys.insert(key, KeyInUse::Made { fingerprint, command, device: device.clone() });
            for (request, send, _) in waiting {
                let same = send.idempotency.is_some_and(|(_, print)| print == fingerprint);
                self.send_again(request, send.wait, same.then(|| (command, device.clone())), now);
            }
        } else if let Some(next) = waiting.pop_front() {
            self.keys.insert(key, KeyInUse::Undecided(waiting));
            self.send_now(next, now);
        }
    }

    pub(super) fn send_now(&mut self, (request, send, random): SendWaiting, now: Timestamp) {
        self.at_device(send.device.clone(), Op::Send { request, send, random }, now);
    }

    /// Answers a send whose key was used before: for the command that was made of it, if it is the
    /// same request.
    pub(super) fn send_again(
        &mut self,
        request: RequestId,
        wait: Seconds,
        made: Option<(CommandId, DeviceId)>,
        now: Timestamp,
    ) {
        match made {
            Some((command, device)) => {
                self.at_device(device, Op::Rejoin { request, command, wait }, now);
            }
            None => {
                self.desk.waiting.remove(&request);
                let detail = "this Idempotency-Key was used for another request; take a new key";
                self.desk.refuse(request, Problem::new(Code::IdempotencyMismatch, detail));
            }
        }
    }
}
