//! The judge's rules about tokens: what was answered as made stays until it is revoked, what was answered as revoked
//! never works again, and no more devices enrol with a join token than it allows, over any crash.

use std::collections::{BTreeMap, BTreeSet};

use bellwire_core::Answer;
use bellwire_core::record::{Change, TokenRecord, Txn};
use bellwire_proto::{DeviceId, Role, TokenId};

use super::super::holders::is_answer_about_tokens;
use super::super::store::Disk;
use super::{Requested, Verdict};

#[derive(Default)]
pub(super) struct Tokens {
    /// Every token that was ever on disk, as it was made.
    made: BTreeMap<TokenId, TokenRecord>,
    /// Those whose revocation, or that of all of their device, was on disk.
    deleted: BTreeSet<TokenId>,
    /// Those whose revocation was answered.
    revoked: BTreeSet<TokenId>,
    /// Those that were answered as made.
    answered: BTreeSet<TokenId>,
    /// How many devices have enrolled with each join token.
    enrolled: BTreeMap<TokenId, u64>,
}

impl Tokens {
    /// Whether a token was answered as revoked before this.
    pub(super) fn is_revoked(&self, token: TokenId) -> bool {
        self.revoked.contains(&token)
    }

    /// A transaction will be on disk next.
    pub(super) fn commit(&mut self, txn: &Txn, disk: &Disk) -> Verdict {
        let mut tokens = disk.tokens.clone();
        let mut joins: BTreeSet<TokenId> = BTreeSet::new();
        for change in txn.changes() {
            match change {
                Change::PutToken(record) => {
                    if self.deleted.contains(&record.id) {
                        return Err(format!("{} was revoked, and is back", record.id));
                    }
                    if let Some(join) = record.created_by.as_ref().and_then(|by| by.parse().ok()) {
                        joins.insert(join);
                        *self.enrolled.entry(join).or_default() += 1;
                    }
                    self.made.insert(record.id, (**record).clone());
                    tokens.insert(record.id, (**record).clone());
                }
                Change::PutUses(join, _) => drop(joins.insert(*join)),
                Change::DeleteToken(token) => {
                    self.deleted.insert(*token);
                    tokens.remove(token);
                }
                Change::DeleteTokensOf(device) => {
                    let of = |record: &&TokenRecord| record.role.device() == Some(device);
                    self.deleted.extend(tokens.values().filter(of).map(|record| record.id));
                    tokens.retain(|_, record| record.role.device() != Some(device));
                }
                _ => {}
            }
        }
        joins.into_iter().try_for_each(|join| self.uses_are_right(join, txn))
    }

    /// An enrolment takes one use in its own transaction, and there are enough.
    fn uses_are_right(&self, join: TokenId, txn: &Txn) -> Verdict {
        let Some(made) = self.made.get(&join) else {
            return Err(format!("a device enrolled with {join}, which never was"));
        };
        let Role::Join(role) = &made.role else {
            return Err(format!("a device enrolled with {join}, which is {:?}", made.role));
        };
        if self.deleted.contains(&join) {
            return Err(format!("a device enrolled with {join}, which is revoked on disk"));
        }
        let Some(uses) = role.uses_left else { return Ok(()) };
        let enrolled = self.enrolled.get(&join).copied().unwrap_or_default();
        let left = txn.changes().iter().find_map(|change| match change {
            Change::PutUses(of, left) if *of == join => Some(*left),
            _ => None,
        });
        match left {
            Some(left) if enrolled + left == uses => Ok(()),
            _ => Err(format!("{enrolled} of {uses} have enrolled with {join}, {left:?} are left")),
        }
    }

    /// `None` when the request is about something else.
    pub(super) fn reply(&mut self, requested: &Requested, answer: &Answer) -> Option<Verdict> {
        if !is_answer_about_tokens(requested, answer) {
            return None;
        }
        Some(match requested {
            Requested::MakeToken(record) => self.is_made(record.id),
            Requested::Enroll { join, after_revocation: true, .. } => {
                Err(format!("a device enrolled with {join}, which was revoked before"))
            }
            Requested::Enroll { token, .. } => self.is_made(*token),
            Requested::Revoke(token) => {
                self.revoked.insert(*token);
                match self.deleted.contains(token) {
                    true => Ok(()),
                    false => Err(format!("{token} is answered as revoked, not so on disk")),
                }
            }
            _ => Ok(()),
        })
    }

    fn is_made(&mut self, token: TokenId) -> Verdict {
        self.answered.insert(token);
        match self.made.contains_key(&token) {
            true => Ok(()),
            false => Err(format!("{token} is answered as made, and is not on disk")),
        }
    }

    pub(super) fn rest(&self, disk: &Disk) -> Verdict {
        for token in &self.answered {
            if !self.deleted.contains(token) && !disk.tokens.contains_key(token) {
                return Err(format!("{token} was answered as made, and is gone"));
            }
        }
        if let Some(token) = self.revoked.iter().find(|token| disk.tokens.contains_key(token)) {
            return Err(format!("{token} was answered as revoked, and works"));
        }
        let known = |device: &DeviceId| disk.devices.contains_key(device);
        let orphan = disk.tokens.values().find(|t| t.role.device().is_some_and(|d| !known(d)));
        orphan.map_or(Ok(()), |token| Err(format!("a token of a device that is gone: {token:?}")))
    }
}
