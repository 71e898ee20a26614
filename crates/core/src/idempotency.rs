//! Idempotency keys that are in use just now: the same request twice is one command.
//!
//! A key is looked up in the store first. Requests with the same key that come in meanwhile wait
//! for the outcome of the first: if it made a command they are answered for that one, if it was
//! refused the next of them is first. Contract, section 3. What is done with a send is in
//! `hub/sends.rs`.

use std::collections::{HashMap, VecDeque};

use bellwire_proto::{CommandId, DeviceId};

use crate::context::KeyDecision;
use crate::ids::RequestId;
use crate::io::NewSend;
use crate::record::{IdempotencyKey, IdempotencyRecord};
use crate::time::Instant;

/// The command that an earlier request with the same key made.
#[derive(Debug, Clone)]
pub(crate) struct StoredSend {
    pub(crate) fingerprint: [u8; 32],
    pub(crate) command: CommandId,
    /// The device of a command to one.
    pub(crate) device: Option<DeviceId>,
}

/// Keys that are being looked up, or whose command is not on disk yet.
#[derive(Debug, Default)]
pub(crate) struct IdempotencyKeys(HashMap<IdempotencyKey, KeyInUse>);

#[derive(Debug)]
enum KeyInUse {
    /// It is being looked up, or its first send decided on; the others wait.
    Undecided(VecDeque<NewSend>),
    /// Its command was made, and may not be on disk yet.
    Stored(StoredSend),
}

/// What is to be done with sends of one key.
#[derive(Debug)]
pub(crate) enum KeyStep {
    /// Nothing now.
    Wait,
    /// The key is to be looked up.
    LookUp,
    /// This one is the first.
    Send(NewSend),
    /// These are answered for the command that was made.
    Again(Vec<NewSend>, StoredSend),
}

impl IdempotencyKeys {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// A send with a key comes in.
    pub(crate) fn begin(&mut self, key: &IdempotencyKey, send: NewSend) -> KeyStep {
        match self.0.get_mut(key) {
            None => {
                self.0.insert(key.clone(), KeyInUse::Undecided(VecDeque::from([send])));
                KeyStep::LookUp
            }
            Some(KeyInUse::Undecided(waiting)) => {
                waiting.push_back(send);
                KeyStep::Wait
            }
            Some(KeyInUse::Stored(made)) => KeyStep::Again(vec![send], made.clone()),
        }
    }

    /// The store has looked up a key.
    pub(crate) fn loaded(
        &mut self,
        key: &IdempotencyKey,
        found: Option<Box<IdempotencyRecord>>,
        now: Instant,
    ) -> KeyStep {
        let Some(KeyInUse::Undecided(waiting)) = self.0.get_mut(key) else {
            return KeyStep::Wait;
        };
        let Some(found) = found.filter(|record| record.expires > now) else {
            // The first decides; the others stay until it has.
            return waiting.pop_front().map_or(KeyStep::Wait, KeyStep::Send);
        };
        let waiting = std::mem::take(waiting);
        self.0.remove(key);
        let IdempotencyRecord { fingerprint, command, device, .. } = *found;
        KeyStep::Again(waiting.into(), StoredSend { fingerprint, command, device })
    }

    /// The store could not look up a key: the requests that waited for it.
    pub(crate) fn not_loaded(&mut self, key: &IdempotencyKey) -> Vec<RequestId> {
        match self.0.remove(key) {
            Some(KeyInUse::Undecided(waiting)) => {
                waiting.into_iter().map(|(request, ..)| request).collect()
            }
            Some(KeyInUse::Stored(_)) | None => Vec::new(),
        }
    }

    /// The first send with a key has been decided on: the others follow, or the next is first.
    pub(crate) fn decided(&mut self, decision: KeyDecision) -> KeyStep {
        let KeyDecision { key, device, stored } = decision;
        let Some(KeyInUse::Undecided(mut waiting)) = self.0.remove(&key) else {
            return KeyStep::Wait;
        };
        if let Some((fingerprint, command)) = stored {
            let made = StoredSend { fingerprint, command, device };
            self.0.insert(key, KeyInUse::Stored(made.clone()));
            return KeyStep::Again(waiting.into(), made);
        }
        let Some(next) = waiting.pop_front() else { return KeyStep::Wait };
        self.0.insert(key, KeyInUse::Undecided(waiting));
        KeyStep::Send(next)
    }

    /// The key is on disk: from now on it is found there.
    pub(crate) fn committed(&mut self, key: &IdempotencyKey) {
        self.0.remove(key);
    }

    /// Requests that wait for a key, when nothing will be decided any more.
    pub(crate) fn abandon(&mut self) -> Vec<RequestId> {
        let keys: Vec<IdempotencyKey> = self.0.keys().cloned().collect();
        keys.iter().flat_map(|key| self.not_loaded(key)).collect()
    }
}
